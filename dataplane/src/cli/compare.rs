//! `ringway compare`.

use super::progress::{Progress, seconds};
use super::{Format, Outcome, print, signals};
use clap::{Args, ValueEnum};
use dataplane::compare::method::{METHODS, Method};
use dataplane::compare::plan::{Cache, ComparePlan, ScatterGather};
use dataplane::compare::{self, PageFile};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Measure every way to send a file side by side: the bypass, each engine of the kernel's, nginx.
///
/// Builds a private laboratory for each run, with one server on one CPU and the same client on another, and prints what
/// each method costs: throughput, latency, CPU time, system calls, switches, page faults, copies a byte. Each figure says how it is
/// known. A method that this machine has not got is a line that says why.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Methods, separated by commas; without it all.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = method)]
    methods: Vec<&'static Method>,
    /// Sizes of the files, as 1k,64k,1m.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = size, default_value = "1k,64k,1m")]
    sizes: Vec<u64>,
    /// MTUs of the cable.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(576..=65535), default_value = "1500")]
    mtu: Vec<u32>,
    /// Whether the kernel may hand 64 KiB at once to the cable (TSO and GSO).
    #[arg(long, value_enum, default_value_t = Switch::On)]
    tso: Switch,
    /// Where the files are: in the page cache, or on the disk.
    #[arg(long, value_enum, default_value_t = CacheWord::Warm)]
    cache: CacheWord,
    /// Scatter-gather of the device, without which the kernel copies; `both` measures sendfile with and without.
    #[arg(long, value_enum, default_value_t = Switch::Both)]
    sg: Switch,
    /// Connections of the client at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Rounds; each measures everything once.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each method is timed in a round, in seconds, 0.1 to 60.
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    seconds: Duration,
    /// Where the files are made (and removed afterwards); on a disk, if the cache is to be cold.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the report with plots to this file: one page, nothing loaded from elsewhere.
    #[arg(long, value_name = "F.html")]
    report: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CacheWord {
    /// One file, asked for again and again.
    Warm,
    /// Many files, each taken out of the page cache and asked for once.
    Cold,
    Both,
}

fn method(text: &str) -> Result<&'static Method, String> {
    Method::named(text).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
        format!("there is no such method; there are {}", names.join(", "))
    })
}

fn size(text: &str) -> Result<u64, String> {
    const LARGEST: u64 = 1 << 30;
    let bytes = bytes(text)?;
    if bytes <= LARGEST { Ok(bytes) } else { Err("it must be 1 byte to 1g".to_owned()) }
}

/// `1024`, `64k`, `1m`, `1g`, in powers of two.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.trim_end_matches("ib").char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        _ => (lower.as_str(), 1),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size; write 1024, 64k or 1m".to_owned())?;
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "it must be 1 byte at least, and fewer than 2^64".to_owned())
}

/// As shells report a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Exit code 0 when each run of each method that this machine has went well, 130 when a signal ended it early, else 1.
pub(crate) fn run(args: &CompareArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    signals::stop(&stop)?;
    let plan = plan(args)?;
    let page =
        args.report.as_deref().map(|path| PageFile::create(path).map(|page| (page, path))).transpose()?;
    let progress = Progress::new("{spinner} {bar:20} {pos}/{len}  {msg}  {eta} left");
    let report = compare::run(&plan, &mut |step| progress.step(step.done, step.of, &step.what), &stop);
    progress.end();
    let report = report?;
    let text = match args.format {
        Format::Json => serde_json::to_string(&report)? + "\n",
        Format::Text => report.to_text(),
    };
    print::report(&text)?;
    if let Some((page, path)) = page {
        page.save(&report.to_html())?;
        // Nobody may be reading.
        let _ = writeln!(std::io::stderr(), "the report is in {}", path.display());
    }
    Ok(match (report.interrupted, report.ok) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

fn plan(args: &CompareArgs) -> std::io::Result<ComparePlan> {
    let default = ComparePlan::of_this_program()?;
    let methods = if args.methods.is_empty() { default.methods.clone() } else { once(&args.methods) };
    Ok(ComparePlan {
        methods,
        sizes: once(&args.sizes),
        mtus: once(&args.mtu),
        tso: match args.tso {
            Switch::On => vec![true],
            Switch::Off => vec![false],
            Switch::Both => vec![true, false],
        },
        cache: match args.cache {
            CacheWord::Warm => vec![Cache::Warm],
            CacheWord::Cold => vec![Cache::Cold],
            CacheWord::Both => vec![Cache::Warm, Cache::Cold],
        },
        scatter_gather: match args.sg {
            Switch::On => ScatterGather::On,
            Switch::Off => ScatterGather::Off,
            Switch::Both => ScatterGather::Both,
        },
        connections: args.connections,
        rounds: args.rounds,
        time: args.seconds,
        folder: args.dir.clone().unwrap_or(default.folder),
        ..default
    })
}

/// What is named twice is meant once.
fn once<T: PartialEq + Copy>(list: &[T]) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in list {
        if !kept.contains(item) {
            kept.push(*item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        for (text, bytes) in [("1", 1), ("1024", 1024), ("64k", 65536), ("1MiB", 1 << 20), ("1g", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "0", "2g", "1.5m", "99999999999999999999", "18446744073709551615k", "1x"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_method_is_told_the_known_ones() {
        let error = method("sendfiel").expect_err("unknown");
        assert!(error.contains("sendfile") && error.contains("bypass-packet"), "{error}");
        assert_eq!(once(&[1, 2, 1]), [1, 2]);
    }
}
