//! Processes, their threads and their CPU time, as `/proc` tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// CPU time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuSeconds {
    /// In its own code.
    pub user: f64,
    /// In the kernel: its system calls, and the soft interrupts that ran on top of them.
    pub system: f64,
}

/// Time of one CPU, by what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTimes {
    /// Not idle.
    pub busy: f64,
    /// In soft interrupts: most of the network's work.
    pub softirq: f64,
    /// In interrupts of devices.
    pub irq: f64,
    /// Taken away by a hypervisor.
    pub steal: f64,
}

/// `process` and all processes that descend from it.
#[must_use]
pub fn family(process: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in numbers("/proc".into()) {
        if let Some(parent) = stat(pid).ok().and_then(|stat| stat.field(1)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![process]);
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.into_iter().collect()
}

/// The threads of `process`; none when it is gone.
#[must_use]
pub fn threads(process: u32) -> Vec<u32> {
    numbers(format!("/proc/{process}/task").into())
}

/// The kernel's thread of this name, such as `ksoftirqd/0`; none where a container hides it.
#[must_use]
pub fn kernel_thread(name: &str) -> Option<u32> {
    numbers("/proc".into()).into_iter().find(|pid| name_of(*pid).is_ok_and(|found| found == name))
}

/// What `process` is called.
///
/// # Errors
/// When it is gone.
pub fn name_of(process: u32) -> io::Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{process}/comm"))?.trim_end().to_owned())
}

/// CPU time of `process` so far, in steps of a tick (usually 10 ms).
///
/// # Errors
/// When it is gone.
pub fn cpu_seconds(process: u32) -> io::Result<CpuSeconds> {
    // proc_pid_stat(5): fields 14 and 15, which are 12 and 13 after the name, counted from the state.
    let stat = stat(process)?;
    let seconds = |field| stat.field::<f64>(field).map(|ticks| ticks / TICKS_A_SECOND);
    let both = seconds(11).zip(seconds(12));
    let (user, system) =
        both.ok_or_else(|| io::Error::other(format!("/proc/{process}/stat has no CPU time")))?;
    Ok(CpuSeconds { user, system })
}

/// Bytes that `process` had a disk read so far, its read-ahead included.
///
/// # Errors
/// When it is gone, or is another user's.
pub fn disk_bytes(process: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/io"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{process}/io has no read_bytes")))
}

/// Times of CPU number `cpu` so far.
///
/// # Errors
/// When there is no such CPU.
pub fn cpu_times(cpu: u32) -> io::Result<CpuTimes> {
    let text = std::fs::read_to_string("/proc/stat")?;
    times_of(&text, cpu).ok_or_else(|| io::Error::other(format!("/proc/stat has no cpu{cpu}")))
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn times_of(text: &str, cpu: u32) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(CpuTimes {
        busy: (user + nice + system + irq + softirq) / TICKS_A_SECOND,
        softirq: softirq / TICKS_A_SECOND,
        irq: irq / TICKS_A_SECOND,
        steal: steal / TICKS_A_SECOND,
    })
}

/// `USER_HZ`, in which `/proc` counts whatever the kernel's own tick is (include/asm-generic/param.h).
const TICKS_A_SECOND: f64 = 100.0;

/// The entries of a folder that are numbers.
fn numbers(folder: PathBuf) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `/proc/PID/stat` behind the name, which may contain anything.
struct Stat(String);

impl Stat {
    fn field<T: std::str::FromStr>(&self, index: usize) -> Option<T> {
        self.0.rsplit_once(')')?.1.split_whitespace().nth(index)?.parse().ok()
    }
}

fn stat(process: u32) -> io::Result<Stat> {
    std::fs::read_to_string(format!("/proc/{process}/stat")).map(Stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_their_place_and_cpu_1_is_not_cpu_10() {
        let text =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu10 1 1 1 1 1 1 1 1 0 0\ncpu1 100 200 300 5000 7 40 50 60 0 0\n";
        let times = times_of(text, 1).expect("cpu1");
        assert_eq!(times, CpuTimes { busy: 6.9, softirq: 0.5, irq: 0.4, steal: 0.6 });
        assert_eq!(times_of(text, 2), None);
        assert_eq!(times_of("cpu0 1 2 3\n", 0), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = Stat("7 (a) b) c) S 3 7 7".into());
        assert_eq!((stat.field::<char>(0), stat.field::<u32>(1)), (Some('S'), Some(3)));
    }

    #[test]
    fn a_child_belongs_to_the_family_and_its_time_is_told() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("a child");
        let found = family(std::process::id());
        assert!(found.contains(&child.id()) && found.contains(&std::process::id()), "{found:?}");
        assert_eq!(threads(child.id()), [child.id()]);
        assert!(cpu_seconds(child.id()).is_ok_and(|time| time.user < 5.0));
        child.kill().expect("it runs");
        child.wait().expect("its end");
        assert!(cpu_seconds(child.id()).is_err() && threads(child.id()).is_empty());
    }
}
