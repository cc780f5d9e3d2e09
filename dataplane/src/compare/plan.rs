//! What is to be compared: methods, and the cases in which each is measured.

use super::method::{METHODS, Method};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Where the files are when they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// In memory: one file, asked for again and again.
    Warm,
    /// On the disk: many files, each asked for once.
    Cold,
}

impl Cache {
    /// The word of the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// Scatter-gather of the device that sends: without it the kernel copies what it could have referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterGather {
    /// As the device comes.
    On,
    /// Off for all methods of the kernel.
    Off,
    /// On, and `sendfile` once more without.
    Both,
}

/// What the wire and the files are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Bytes of a file.
    pub size: u64,
    /// MTU of the cable.
    pub mtu: u32,
    /// Whether both ends may hand over 64 KiB at once (TSO and GSO).
    pub tso: bool,
    /// Where the files are.
    pub cache: Cache,
}

/// A method as it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The method.
    pub method: &'static Method,
    /// Whether the device gathers.
    pub scatter_gather: bool,
}

impl Entry {
    /// For tables.
    #[must_use]
    pub fn title(&self) -> String {
        let name = self.method.name;
        if self.scatter_gather { name.to_owned() } else { format!("{name}, SG off") }
    }
}

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// The program that serves and asks: `ringway` itself.
    pub program: PathBuf,
    /// The methods, in the order of the table.
    pub methods: Vec<&'static Method>,
    /// Bytes of the files.
    pub sizes: Vec<u64>,
    /// MTUs of the cable.
    pub mtus: Vec<u32>,
    /// TSO and GSO.
    pub tso: Vec<bool>,
    /// Page cache.
    pub cache: Vec<Cache>,
    /// Scatter-gather.
    pub scatter_gather: ScatterGather,
    /// Connections of the client at once.
    pub connections: u32,
    /// Rounds; each measures everything once.
    pub rounds: u32,
    /// How long each is timed.
    pub time: Duration,
    /// Where the files are made; on a disk if the cache is to be cold.
    pub folder: PathBuf,
}

impl ComparePlan {
    /// What `ringway compare` does without arguments.
    ///
    /// # Errors
    /// When the kernel does not say which file this program is: no `/proc`.
    pub fn of_this_program() -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            methods: METHODS.iter().collect(),
            sizes: vec![1 << 10, 64 << 10, 1 << 20],
            mtus: vec![1500],
            tso: vec![true],
            cache: vec![Cache::Warm],
            scatter_gather: ScatterGather::Both,
            connections: 32,
            rounds: 3,
            time: Duration::from_secs(1),
            folder: std::env::temp_dir(),
        })
    }

    /// All cases, those of one wire together.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &mtu in &self.mtus {
            for &tso in &self.tso {
                for &cache in &self.cache {
                    cases.extend(self.sizes.iter().map(|&size| Case { size, mtu, tso, cache }));
                }
            }
        }
        cases
    }

    /// All methods as they take part.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for &method in &self.methods {
            let with = Entry { method, scatter_gather: true };
            let without = Entry { method, scatter_gather: false };
            match self.scatter_gather {
                ScatterGather::On => entries.push(with),
                ScatterGather::Off => entries.push(if method.is_kernel() { without } else { with }),
                ScatterGather::Both if method.name == "sendfile" => entries.extend([with, without]),
                ScatterGather::Both => entries.push(with),
            }
        }
        entries
    }
}

/// `1 KiB`, `1.5 MB`: in powers of two where they are whole.
#[must_use]
pub fn size_words(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(methods: &[&str], scatter_gather: ScatterGather) -> Vec<String> {
        let methods = methods.iter().map(|name| Method::named(name).expect("a method")).collect();
        let plan = ComparePlan { methods, scatter_gather, ..ComparePlan::of_this_program().expect("/proc") };
        plan.entries().iter().map(Entry::title).collect()
    }

    #[test]
    fn sendfile_takes_part_twice_and_the_bypass_never_without_its_own_gathering() {
        let names = ["bypass", "sendfile", "splice"];
        assert_eq!(plan(&names, ScatterGather::On), names);
        assert_eq!(plan(&names, ScatterGather::Both), ["bypass", "sendfile", "sendfile, SG off", "splice"]);
        assert_eq!(plan(&names, ScatterGather::Off), ["bypass", "sendfile, SG off", "splice, SG off"]);
    }

    #[test]
    fn all_cases_are_there_once() {
        let plan = ComparePlan {
            sizes: vec![1, 2],
            mtus: vec![1500, 9000],
            tso: vec![true, false],
            cache: vec![Cache::Warm, Cache::Cold],
            ..ComparePlan::of_this_program().expect("/proc")
        };
        let cases = plan.cases();
        assert_eq!(cases.len(), 16);
        assert!(cases.iter().enumerate().all(|(at, case)| !cases[..at].contains(case)));
    }

    #[test]
    fn sizes_are_words() {
        let words =
            [(1000, "1000 B"), (1024, "1 KiB"), (65536, "64 KiB"), (3 << 20, "3 MiB"), (1 << 30, "1 GiB")];
        for (bytes, text) in words {
            assert_eq!(size_words(bytes), text);
        }
    }
}
