//! DPDK's environment (EAL), started once a process, so that nobody has to learn its arguments.
//!
//! * Only the CPU that we are on is named: it starts no threads that poll. It pins the calling thread, which is undone.
//! * No device but those that are named: none of PCI is probed by itself.
//! * No file, no telemetry socket; logs go to `tracing`.
//! * Huge pages when there are enough, else ordinary ones.

use super::ffi;
use super::plan::DpdkPlan;
use crate::error::OpenError;
use ringbuf::Backing;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::c_char;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// MiB that an environment has at least, for arenas, mbufs and what drivers take.
pub(super) const MEMORY_MIB: u32 = 1024;

static STARTED: Mutex<Option<Result<Backing, String>>> = Mutex::new(None);

/// What DPDK complained of since it was last asked for something: first, which is often the cause, and last.
static COMPLAINT: Mutex<(Option<String>, Option<String>)> = Mutex::new((None, None));

/// Starts the environment for a port, or finds it started; says what its memory is.
pub(super) fn start(plan: &DpdkPlan) -> Result<Backing, OpenError> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = started.get_or_insert_with(|| begin(plan));
    outcome.clone().map_err(|words| {
        let hint = if words.contains("memory") {
            let wanted = plan.memory_mib.unwrap_or(MEMORY_MIB);
            format!("{wanted} MiB are not to be had: ask for less, memory=MIB at the first port, and have fewer --frames")
        } else {
            "RINGWAY_LOG=drivers=debug shows all that DPDK says".to_owned()
        };
        OpenError::new(&plan.device, "starting DPDK's environment", io::Error::other(words)).hint(hint)
    })
}

/// What the environment's memory is; `None` before it is started.
pub(super) fn backing() -> Option<Backing> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).clone().and_then(Result::ok)
}

fn begin(plan: &DpdkPlan) -> Result<Backing, String> {
    let allowed = sched_getaffinity(None).map_err(|error| format!("asking for the CPUs: {error}"))?;
    let wanted = plan.memory_mib.unwrap_or(MEMORY_MIB);
    let huge = free_huge_mib() >= u64::from(wanted);
    let arguments = arguments(plan, &allowed, huge, wanted);
    tracing::debug!("DPDK: {}", arguments.join(" "));
    let outcome = ffi::init(&arguments, hear);
    if let Err(error) = sched_setaffinity(None, &allowed) {
        tracing::warn!("giving this thread its CPUs back: {error}");
    }
    forget_runtime_folder();
    outcome.map_err(|error| with_complaint(&error))?;
    tracing::info!(
        "{} runs in {}",
        ffi::version(),
        if huge { "huge pages".to_owned() } else { format!("{wanted} MiB of ordinary pages") }
    );
    Ok(if huge { Backing::HugePages } else { Backing::OrdinaryPages })
}

fn arguments(plan: &DpdkPlan, allowed: &CpuSet, huge: bool, memory_mib: u32) -> Vec<String> {
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap_or(0);
    let mut words = vec!["ringway".to_owned(), "--no-telemetry".to_owned(), format!("--lcores=0@{cpu}")];
    if huge {
        // One file a list of pages: a vhost-user peer is handed them all, and takes eight.
        words.extend(["--in-memory", "--single-file-segments"].map(str::to_owned));
    } else {
        words.extend(["--no-huge", "--no-shconf"].map(str::to_owned));
        words.push(format!("-m{memory_mib}"));
    }
    // Naming one that is not there keeps DPDK from those that are.
    let named = if plan.is_pci() { plan.device.as_str() } else { "ffff:ff:1f.7" };
    words.push(format!("--allow={named}"));
    if !plan.is_pci() {
        words.push("--iova-mode=va".to_owned());
    }
    words.push(format!("--file-prefix=ringway-{}", std::process::id()));
    words
}

/// MiB of huge pages that are free, or that the kernel would make when asked.
fn free_huge_mib() -> u64 {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let mib = |folder: &Path| -> Option<u64> {
        let name = folder.file_name()?.to_str()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(pages("free_hugepages")? * kib / 1024)
    };
    sizes.flatten().filter_map(|entry| mib(&entry.path())).sum()
}

/// DPDK makes a folder for files that it then does not have.
fn forget_runtime_folder() {
    let prefix = format!("ringway-{}", std::process::id());
    let parent = std::env::var_os("RUNTIME_DIRECTORY")
        .or_else(|| (!rustix::process::geteuid().is_root()).then(|| std::env::var_os("XDG_RUNTIME_DIR"))?)
        .unwrap_or_else(|| if rustix::process::geteuid().is_root() { "/var/run" } else { "/tmp" }.into());
    let folder = Path::new(&parent).join("dpdk");
    // Neither goes while somebody has something in it.
    let _ = std::fs::remove_dir(folder.join(prefix));
    let _ = std::fs::remove_dir(folder);
}

/// What DPDK said of its failure, behind what the number says.
pub(super) fn with_complaint(error: &io::Error) -> String {
    let (first, last) = std::mem::take(&mut *COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner));
    let words: Vec<String> = first.into_iter().chain(last).collect();
    // DPDK's own functions say -1 of everything, which is EPERM's number.
    match (words.join("; "), error.raw_os_error()) {
        (words, _) if words.is_empty() => error.to_string(),
        (words, Some(1)) => format!("DPDK says: {words}"),
        (words, _) => format!("{error}; DPDK says: {words}"),
    }
}

/// Whatever DPDK has complained of so far is about something else.
pub(super) fn forget_complaints() {
    *COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner) = (None, None);
}

/// `RTE_LOG_ERR` and `RTE_LOG_WARNING` (`lib/log/rte_log.h`): smaller is worse.
const ERROR: u32 = 4;
const WARNING: u32 = 5;
const INFO: u32 = 7;

extern "C" fn hear(level: u32, text: *const c_char, bytes: usize) {
    let words = ffi::text(text, bytes);
    let words = words.trim();
    if words.is_empty() {
        return;
    }
    match level {
        0..=ERROR => {
            // An error to a driver may be a wish that is tried otherwise next: what we make of it is said by us.
            tracing::debug!("DPDK: {words}");
            let mut complaint = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *complaint {
                (first @ None, _) => *first = Some(words.to_owned()),
                (_, last) => *last = Some(words.to_owned()),
            }
        }
        WARNING..=INFO => tracing::debug!("DPDK: {words}"),
        _ => tracing::trace!("DPDK: {words}"),
    }
}
