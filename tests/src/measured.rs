//! What the benchmarks measure: programs side by side, each as a process, and the CPU time that they take.

use crate::Outcome;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program at work. Dropped while it runs, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Reads what it prints, and has the last line in the end.
    reader: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts it, and waits until a line that it prints contains `ready`, if there is such a word.
    ///
    /// # Errors
    /// When it cannot be started, or ends before it was ready.
    pub fn start(mut command: Command, ready: Option<&str>, stderr: Stdio) -> Outcome<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        while let Some(ready) = ready {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(format!("ended before it was ready: {}", child.wait()?).into());
            }
            if line.contains(ready) {
                break;
            }
        }
        line.clear();
        // Somebody must go on reading, or it stops when the pipe is full.
        let reader = std::thread::spawn(move || {
            let mut last = String::new();
            while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                (last, line) = (line, String::new());
            }
            last
        });
        Ok(Self { child, reader: Some(reader) })
    }

    /// CPU seconds of the process so far, user and system.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Outcome<f64> {
        cpu_seconds(self.child.id())
    }

    /// Ends it as its user would, and kills it if that takes longer than `patience`; the last line that it printed.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn stop(mut self, patience: Duration) -> Outcome<String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > patience {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let last = self.reader.take().and_then(|reader| reader.join().ok());
        Ok(last.unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Busy time and all time of one CPU, in the kernel's ticks.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    /// Not idle.
    pub busy: f64,
    /// All of it.
    pub all: f64,
}

/// Of CPU 0 and CPU 1.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn cpu_times() -> Outcome<Vec<CpuTime>> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let cpus = stat.lines().filter(|line| line.starts_with("cpu0 ") || line.starts_with("cpu1 "));
    Ok(cpus
        .map(|line| {
            let ticks: Vec<f64> =
                line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
            let idle = ticks.get(3).unwrap_or(&0.0) + ticks.get(4).unwrap_or(&0.0);
            let all: f64 = ticks.iter().take(8).sum();
            CpuTime { busy: all - idle, all }
        })
        .collect())
}

/// CPU seconds of a process so far, user and system (proc_pid_stat(5): fields 14 and 15, in hundredths of a second).
///
/// # Errors
/// When it is gone.
pub fn cpu_seconds(pid: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}
