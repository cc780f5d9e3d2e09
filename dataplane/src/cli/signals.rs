//! What ends a command from outside.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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

/// `proc_pid_status(5)`: a mask, whose lowest bit is signal 1.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (signal - 1) != 0
}
