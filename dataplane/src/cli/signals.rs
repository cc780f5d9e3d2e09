//! What ends a command from outside.

use drivers::PortSpec;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sets `told` on SIGINT, on SIGTERM, and on the SIGHUP of a terminal that is closed: unless that is ignored, as under
/// `nohup`.
pub(super) fn stop(told: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if signal != SIGHUP || !is_ignored(SIGHUP) {
            flag::register(signal, Arc::clone(told))?;
        }
    }
    Ok(())
}

/// While it lives, a signal ends the process at once: for the time in which the kernel takes memory for us, which can be
/// seconds, and nothing of ours could hear of it. What was opened until then goes with the process.
pub(super) struct AtOnce(Arc<AtomicBool>);

impl AtOnce {
    /// To be called before [`stop`] or whatever else hears of these signals, since it must hear of them first. Not with
    /// ports that we must give back ourselves, or whose socket we must remove: those wait.
    pub(super) fn new<'p>(ports: impl IntoIterator<Item = &'p PortSpec>) -> io::Result<Self> {
        let kept =
            |port: &PortSpec| matches!(port.driver.as_deref(), Some("vfio" | "uio" | "dpdk" | "vhost-user"));
        let opening = Arc::new(AtomicBool::new(!ports.into_iter().any(kept)));
        for signal in [SIGINT, SIGTERM] {
            // As shells report a program that a signal ended.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&opening))?;
        }
        Ok(Self(opening))
    }

    /// It is open: from now on the end is in order.
    pub(super) fn over(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        self.over();
    }
}

/// Says on standard error what takes its time, if so many bytes do.
pub(super) fn announce(bytes: u64) {
    /// As much as takes about a second on a slow machine.
    const LONG: u64 = 512 << 20;
    if bytes >= LONG {
        let mib = bytes >> 20;
        // Nobody may be reading.
        let _ = writeln!(
            io::stderr(),
            "ringway: taking {mib} MiB of memory and locking it, which can take some seconds .."
        );
    }
}

/// `proc_pid_status(5)`: a mask, whose lowest bit is signal 1.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (signal - 1) != 0
}
