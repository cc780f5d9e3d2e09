//! Counters of the kernel's own events, one for each thread that is watched: `perf_event_open(2)`.
//!
//! A counter of a thread also counts for the threads and processes that this one starts later (`inherit`), but not for those that
//! it has started already: so there is one for each thread that there is. A thread that starts while they are opened is counted by
//! its parent's or by none, and nothing tells which; so they are opened anew until none has. Only events of software are here; they
//! need no hardware, count always, and are never scaled.

use super::{ObserveError, process, tracepoint};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nanoseconds on a CPU.
    TaskClock,
    /// Times that a thread gave up its CPU, or lost it.
    ContextSwitches,
    /// Times that a thread went on at another CPU.
    Migrations,
    /// Page faults that needed no disk.
    MinorFaults,
    /// Page faults that waited for a disk.
    MajorFaults,
    /// Entries into the kernel by a system call.
    SystemCalls,
    /// Interrupts of devices (of one CPU).
    Interrupts,
    /// Times that work was taken up which an interrupt had left for later (of one CPU).
    SoftInterrupts,
}

impl Event {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::TaskClock => "CPU time",
            Self::ContextSwitches => "context switches",
            Self::Migrations => "migrations between CPUs",
            Self::MinorFaults => "minor page faults",
            Self::MajorFaults => "major page faults",
            Self::SystemCalls => "system calls",
            Self::Interrupts => "interrupts",
            Self::SoftInterrupts => "soft interrupts",
        }
    }

    /// `type` and `config` of `struct perf_event_attr` (include/uapi/linux/perf_event.h, `enum perf_sw_ids`).
    fn kind(self) -> Result<(u32, u64), ObserveError> {
        const SOFTWARE: u32 = 1;
        const TRACEPOINT: u32 = 2;
        let point = |group, name| tracepoint(group, name).map(|id| (TRACEPOINT, id));
        match self {
            Self::TaskClock => Ok((SOFTWARE, 1)),
            Self::ContextSwitches => Ok((SOFTWARE, 3)),
            Self::Migrations => Ok((SOFTWARE, 4)),
            Self::MinorFaults => Ok((SOFTWARE, 5)),
            Self::MajorFaults => Ok((SOFTWARE, 6)),
            Self::SystemCalls => point("raw_syscalls", "sys_enter"),
            Self::Interrupts => point("irq", "irq_handler_entry"),
            Self::SoftInterrupts => point("irq", "softirq_entry"),
        }
    }
}

/// The beginning of `struct perf_event_attr`, as long as its second version was (`PERF_ATTR_SIZE_VER1`): the kernel takes what is
/// missing for zero.
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
    breakpoint_length: u64,
}

const _: () = assert!(size_of::<Attributes>() == 72);

/// `inherit`, the second bit of the flags: threads and processes started from then on are counted too.
const INHERIT: u64 = 1 << 1;

/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// How often counters are opened anew because a thread has started meanwhile. A program that starts hundreds of them in a row is done
/// with that after some.
const ATTEMPTS: u32 = 1000;

/// Counts one kind of event from the moment that it is opened.
#[derive(Debug)]
pub struct Counter {
    event: Event,
    parts: Vec<OwnedFd>,
}

impl Counter {
    /// Of these processes: all threads that they have, and all threads and processes that those start.
    ///
    /// # Errors
    /// [`ObserveError`] when the kernel refuses, or all of them are gone.
    pub fn of_processes(event: Event, processes: &[u32]) -> Result<Self, ObserveError> {
        let kind = event.kind()?;
        let failed = |error: io::Error| refused(event, "opening a counter of its threads", error);
        let threads =
            || -> BTreeSet<u32> { processes.iter().flat_map(|process| process::threads(*process)).collect() };
        let (mut parts, mut seen) = (Vec::new(), threads());
        for _ in 0..ATTEMPTS {
            // Opened before those of the last attempt are closed: the last one of an event takes its time to go.
            parts = open_each(kind, &seen).map_err(failed)?;
            let now = threads();
            if now.is_subset(&seen) {
                return if parts.is_empty() {
                    Err(failed(Errno::SRCH.into()))
                } else {
                    Ok(Self { event, parts })
                };
            }
            seen = now;
        }
        drop(parts);
        Err(failed(Errno::AGAIN.into()))
    }

    /// Of one CPU, whatever runs there.
    ///
    /// # Errors
    /// [`ObserveError`] when the kernel refuses.
    pub fn of_cpu(event: Event, cpu: u32) -> Result<Self, ObserveError> {
        let fd = open(event.kind()?, 0, -1, i32::try_from(cpu).unwrap_or(i32::MAX));
        let fd = fd.map_err(|error| refused(event, "opening a counter of a CPU", error))?;
        Ok(Self { event, parts: vec![fd] })
    }

    /// The number so far.
    ///
    /// # Errors
    /// [`ObserveError`] when the kernel does not say.
    pub fn read(&self) -> Result<u64, ObserveError> {
        let mut sum = 0_u64;
        for part in &self.parts {
            let mut bytes = [0; 8];
            let read = rustix::io::read(part, &mut bytes);
            let failed = |error: io::Error| refused(self.event, "reading the counter", error);
            if read.map_err(|error| failed(error.into()))? != bytes.len() {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            sum = sum.wrapping_add(u64::from_ne_bytes(bytes));
        }
        Ok(sum)
    }
}

/// A counter of each of these threads that is still there.
fn open_each(kind: (u32, u64), threads: &BTreeSet<u32>) -> io::Result<Vec<OwnedFd>> {
    let mut parts = Vec::new();
    for thread in threads {
        match open(kind, INHERIT, i32::try_from(*thread).unwrap_or(i32::MAX), -1) {
            Ok(fd) => parts.push(fd),
            // It has ended since.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parts)
}

fn open(kind: (u32, u64), flags: u64, thread: i32, cpu: i32) -> io::Result<OwnedFd> {
    let attributes = Attributes { kind: kind.0, config: kind.1, flags, ..Attributes::default() };
    open_with(attributes, thread, cpu)
}

/// An event at each time that a CPU comes to an instruction of the kernel's, for a program to be attached to: by one of the
/// processor's few registers for that.
pub(super) fn breakpoint(address: u64, cpu: u32) -> io::Result<OwnedFd> {
    // PERF_TYPE_BREAKPOINT, HW_BREAKPOINT_X, whose length is that of a long whatever the instruction's is.
    const BREAKPOINT: u32 = 5;
    const EXECUTE: u32 = 4;
    let attributes = Attributes {
        kind: BREAKPOINT,
        sample_period: 1,
        breakpoint_type: EXECUTE,
        breakpoint_address: address,
        breakpoint_length: size_of::<libc::c_long>() as u64,
        ..Attributes::default()
    };
    open_with(attributes, -1, i32::try_from(cpu).unwrap_or(i32::MAX))
}

fn open_with(mut attributes: Attributes, thread: i32, cpu: i32) -> io::Result<OwnedFd> {
    attributes.size = u32::try_from(size_of::<Attributes>()).expect("72");
    // SAFETY: *whole*: `attributes` says its own size and outlives the call, which keeps no pointer; the rest are numbers.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, thread, cpu, -1, CLOSE_ON_EXEC)
    };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn refused(event: Event, step: &'static str, error: io::Error) -> ObserveError {
    let cure = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "run it as root, or with CAP_PERFMON (Linux 5.8), or set kernel.perf_event_paranoid to -1"
        }
        Some(Errno::SRCH) => "the process is gone",
        Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOENT) => "this kernel is built without such events",
        Some(Errno::AGAIN) => {
            "threads start in it without end, so that none can be told to be counted once: try again"
        }
        Some(Errno::MFILE) => "raise the limit of open files (ulimit -n)",
        _ => "",
    };
    ObserveError::new(event.words(), step, error, cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Nothing is to be tested where perf events are refused, as in most containers: then the refusal must say what helps.
    fn counter(event: Event) -> Option<Counter> {
        match Counter::of_processes(event, &[std::process::id()]) {
            Ok(counter) => Some(counter),
            Err(error) => {
                assert!(error.to_string().starts_with(event.words()), "{error}");
                eprintln!("SKIPPED: {error}");
                None
            }
        }
    }

    /// A thread that another one started before the counter was opened is counted, and one that it starts afterwards too.
    #[test]
    fn threads_before_and_after_the_opening_are_counted() {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let (done, ready) = std::sync::mpsc::channel();
        let before = std::thread::spawn(move || {
            done.send(()).expect("a listener");
            gate.recv().expect("a word");
            spin();
        });
        ready.recv().expect("a thread");
        let Some(counter) = counter(Event::TaskClock) else { return };
        let begin = counter.read().expect("a number");
        go.send(()).expect("a listener");
        before.join().expect("no panic");
        let middle = counter.read().expect("a number");
        std::thread::spawn(spin).join().expect("no panic");
        let end = counter.read().expect("a number");
        for (name, nanoseconds) in [("before", middle - begin), ("after", end - middle)] {
            assert!(nanoseconds >= 2_000_000, "{name}: {nanoseconds}");
        }
    }

    /// Threads of a process that starts them, and what each of them does when all are there and told to go.
    const THREADS: u64 = 64;
    const CALLS: u64 = 10_000;

    /// Where this is set, this program is the process whose threads are counted.
    const COUNTED: &str = "RINGWAY_COUNTED";

    /// Starts threads as fast as it can, and lets them make so many system calls when it reads a word.
    fn start_threads() {
        let gate = std::sync::RwLock::new(());
        let closed = gate.write().expect("unpoisoned");
        std::thread::scope(|scope| {
            print!("b");
            std::io::stdout().flush().expect("a reader");
            for _ in 0..THREADS {
                scope.spawn(|| {
                    drop(gate.read());
                    for _ in 0..CALLS {
                        let _ = rustix::process::getppid();
                    }
                });
            }
            print!("r");
            std::io::stdout().flush().expect("a reader");
            std::io::stdin().read_exact(&mut [0]).expect("a word");
            drop(closed);
        });
    }

    /// A thread that starts while counters are opened is counted once: by its own or by its parent's.
    #[test]
    fn threads_that_start_meanwhile_are_counted_once() {
        if std::env::var_os(COUNTED).is_some() {
            start_threads();
            std::process::exit(0);
        }
        for round in 0..8 {
            let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "observe::perf::tests::threads_that_start_meanwhile_are_counted_once"])
                .args(["--nocapture", "--quiet"])
                .env(COUNTED, "1")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("this test");
            let mut said = child.stdout.take().expect("a pipe");
            let mut hear = |word: u8| {
                let mut heard = [0];
                while heard[0] != word {
                    said.read_exact(&mut heard).expect("a word");
                }
            };
            // The test's own frame says something first; a line's end goes before our words.
            hear(b'\n');
            hear(b'b');
            let counter = Counter::of_processes(Event::SystemCalls, &[child.id()]);
            hear(b'r');
            let begin = counter.as_ref().map(|counter| counter.read().expect("a number"));
            child.stdin.take().expect("a pipe").write_all(b"g").expect("a reader");
            child.wait().expect("its end");
            let (begin, counter) = match (begin, &counter) {
                (Ok(begin), Ok(counter)) => (begin, counter),
                (_, Err(error)) | (Err(error), _) => return eprintln!("SKIPPED: {error}"),
            };
            let calls = counter.read().expect("a number") - begin;
            // What threads do to be woken and to end is far from what one of them does between.
            let range = THREADS * CALLS..(THREADS + 1) * CALLS;
            assert!(range.contains(&calls), "round {round}: {calls} calls, not {}", THREADS * CALLS);
        }
    }

    /// Some milliseconds of work.
    fn spin() {
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_millis(40) {}
    }

    /// 1 MiB in pieces of 64 KiB by `read` and `write` is 32 system calls: a child does just that, and nothing else, while it
    /// is counted.
    #[test]
    fn a_mebibyte_in_pieces_of_64_kib_is_32_system_calls() {
        // `dd` itself: between the word that lets it go and its end it reads and writes 16 pieces each. The shell's own start
        // must not be counted in one run and missed in the other: it is over when the shell sleeps, waiting for the word.
        let copy = |count: &str| {
            let mut child = std::process::Command::new("sh")
                .args([
                    "-c",
                    "echo; read go; exec dd if=/dev/zero of=/dev/null bs=64k status=none count=$0",
                    count,
                ])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a shell");
            child.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("a shell that has begun");
            while !sleeps(child.id()) {
                std::thread::yield_now();
            }
            let counter = Counter::of_processes(Event::SystemCalls, &[child.id()]);
            child.stdin.take().expect("a pipe").write_all(b"\n").expect("a reader");
            child.wait().expect("its end");
            counter.map(|counter| counter.read().expect("a number"))
        };
        match (copy("16"), copy("0")) {
            (Ok(with), Ok(without)) => assert_eq!(with - without, 32),
            (Err(error), _) | (_, Err(error)) => {
                let text = error.to_string();
                assert!(text.contains("system calls") || text.contains("raw_syscalls"), "{text}");
                eprintln!("SKIPPED: {error}");
            }
        }
    }

    /// Whether a process waits for something that a signal would end: `S` behind its name in parentheses (proc_pid_stat(5)).
    fn sleeps(process: u32) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
        text.rsplit(')').next().is_some_and(|fields| fields.trim_start().starts_with('S'))
    }

    #[test]
    fn a_process_that_is_gone_is_named_so() {
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let pid = child.id();
        child.wait().expect("its end");
        let error = Counter::of_processes(Event::TaskClock, &[pid]).expect_err("gone").to_string();
        assert!(error.contains("CPU time") && error.contains("the process is gone"), "{error}");
    }
}
