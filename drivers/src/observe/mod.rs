//! What the kernel does for a process, counted from outside: for those who compare ways of doing the same thing.
//!
//! | module | |
//! |---|---|
//! | `perf.rs` | system calls, context switches, page faults, interrupts: `perf_event_open` |
//! | `tracefs.rs` | the numbers of tracepoints, mounted where we alone see it |
//! | `process.rs` | processes and their threads, CPU time, bytes from the disk: `/proc` |
//! | `copies.rs` | bytes that the CPU copies inside the kernel: BPF programs at its copy routines |
//!
//! Each instrument may be refused, by rights or by policy, without the others suffering; a refusal says what would help.

mod copies;
mod perf;
mod process;
mod tracefs;

pub use copies::{CopyLedger, CopySum, Networks};
pub use perf::{Counter, Event};
pub use process::{
    CpuSeconds, CpuTimes, cpu_seconds, cpu_times, disk_bytes, family, kernel_thread, name_of, threads,
};
pub use tracefs::tracepoint;

use rustix::io::Errno;
use std::io;

/// Why something cannot be observed: what, the step, the cause, and what helps.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {step}: {source}{}{cure}", if cure.is_empty() { "" } else { "; " })]
pub struct ObserveError {
    what: String,
    step: &'static str,
    cure: &'static str,
    source: io::Error,
}

impl ObserveError {
    fn new(what: impl Into<String>, step: &'static str, source: io::Error, cure: &'static str) -> Self {
        Self { what: what.into(), step, cure, source }
    }

    /// Whether it is rights that are missing.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::PERM | Errno::ACCESS))
            || self.source.kind() == io::ErrorKind::PermissionDenied
    }
}
