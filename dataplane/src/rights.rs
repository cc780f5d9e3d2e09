//! What it takes to open a port: the rights, in one list for every message that names them, and the place on an interface
//! that only one program can have.

use drivers::link::Link;
use drivers::{CAPABILITIES, OpenError, PortSpec};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;
use std::io;
use std::path::Path;

/// All of [`CAPABILITIES`], as a container is given them.
pub const CONTAINER: &str = "--cap-add NET_ADMIN --cap-add NET_RAW --cap-add BPF --cap-add IPC_LOCK";

/// The command that gives them to a program, once.
#[must_use]
pub fn setcap(program: &Path) -> String {
    format!("sudo setcap {CAPABILITIES}+ep {}", program.display())
}

/// Any of these, its name, what it is for. `CAP_SYS_ADMIN` contains `CAP_BPF` (`bpf_capable` in include/linux/capability.h).
const NEEDED: [(CapabilitySet, &str, &str); 3] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to attach the XDP program"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "to open the sockets"),
    (CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN), "CAP_BPF", "to load the XDP program"),
];

/// Whether this process may open such a port, before anything is asked of the kernel.
///
/// # Errors
/// [`OpenError`], which names each right that is missing, and how to get them all at once.
pub(crate) fn check(spec: &PortSpec) -> Result<(), OpenError> {
    // Where the question itself is refused (seccomp), and where there is no such interface, the first step tells.
    let Ok(held) = capabilities(None).map(|sets| sets.effective) else { return Ok(()) };
    if Link::by_name(&spec.device).is_err() {
        return Ok(());
    }
    match lacking(spec.driver.as_deref(), held) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => {
            let why =
                io::Error::new(io::ErrorKind::PermissionDenied, format!("this process lacks {lacking}"));
            Err(OpenError::new(&spec.device, "opening the port", why).hint(cure(&spec.device)))
        }
    }
}

/// The rights that a driver wants and this process has not, in words; empty where it has all. Without a driver the packet
/// socket will do, but who has not even the right to that is told of all.
fn lacking(driver: Option<&str>, held: CapabilitySet) -> String {
    let raw = held.contains(CapabilitySet::NET_RAW);
    let wanted = match driver {
        Some("af-xdp") => &NEEDED[..],
        None if !raw => &NEEDED[..],
        Some("packet") => &NEEDED[1..2],
        _ => return String::new(),
    };
    let missing = wanted.iter().filter(|(any_of, ..)| !held.intersects(*any_of));
    missing.map(|(_, name, what)| format!("{name} ({what})")).collect::<Vec<_>>().join(", ")
}

fn cure(device: &str) -> String {
    if rustix::process::geteuid().is_root() {
        return format!(
            "root has not all rights here: start the container with {CONTAINER}, or with --privileged"
        );
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "ringway".into());
    format!(
        "run it as root (sudo), or give the program its rights once: {}\n  --port packet:{device} takes cap_net_raw alone",
        setcap(&program)
    )
}

/// The same error, naming who has the place that was wanted.
pub(crate) fn name_the_holder(error: OpenError) -> OpenError {
    let attached = Link::by_name(&error.device).ok().and_then(|link| link.attached);
    let Some(program) = attached.filter(|_| error.hint.is_none()) else { return error };
    let name = &error.device;
    let hint = match holder(Path::new("/proc"), program.id) {
        Some((pid, command)) if pid == std::process::id() => format!("this very process ({command}) has it"),
        Some((pid, command)) => format!(
            "it is `{command}` (pid {pid}) that has {name}, by a BPF link, which ends with it: kill {pid}\n  \
             (ip link set .. xdp off cannot take that off)"
        ),
        None => format!(
            "no process that this one may look into has it: sudo bpftool link shows whether a link does, pinned or another \
             user's; ip link set dev {name} xdp off takes off only what was attached without one"
        ),
    };
    error.hint(hint)
}

/// Whose descriptor is the BPF link of an XDP program of this number: `proc_pid_fdinfo(5)`.
fn holder(proc: &Path, program: u32) -> Option<(u32, String)> {
    let wanted = format!("prog_id:\t{program}");
    let holds = |folder: &Path| {
        let descriptors = fs::read_dir(folder.join("fdinfo")).into_iter().flatten().flatten();
        descriptors.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default()).any(|text| {
            text.lines().any(|line| line == "link_type:\txdp") && text.lines().any(|line| line == wanted)
        })
    };
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if holds(&entry.path()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_wants_what_it_uses() {
        let (all, none) = (CapabilitySet::all(), CapabilitySet::empty());
        for driver in [Some("af-xdp"), Some("packet"), None, Some("pcap")] {
            assert_eq!(lacking(driver, all), "", "{driver:?}");
        }
        for driver in [Some("af-xdp"), None] {
            let words = lacking(driver, none);
            for name in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"] {
                assert!(words.contains(name), "{driver:?}: {words}");
            }
        }
        assert_eq!(lacking(Some("packet"), none), "CAP_NET_RAW (to open the sockets)");
        assert_eq!(lacking(Some("af-xdp"), all - CapabilitySet::BPF), "", "CAP_SYS_ADMIN contains it");
        assert_eq!(lacking(None, CapabilitySet::NET_RAW), "", "a packet socket will do");
        assert_eq!(lacking(Some("pcap"), none), "");
    }

    #[test]
    fn the_holder_is_found_by_the_number_of_the_program() {
        let proc = std::env::temp_dir().join(format!("ringway-holder-test-{}", std::process::id()));
        let folder = proc.join("42/fdinfo");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(proc.join("42/comm"), "forwarder\n").expect("a file");
        fs::write(folder.join("3"), "pos:\t0\nlink_type:\txdp\nprog_id:\t77\nifindex:\t3\n").expect("a file");
        fs::write(folder.join("4"), "pos:\t0\nprog_type:\t6\nprog_id:\t78\n").expect("a file");
        assert_eq!(holder(&proc, 77), Some((42, "forwarder".to_owned())));
        assert_eq!((holder(&proc, 7), holder(&proc, 78)), (None, None), "a program, but no link");
        fs::remove_dir_all(proc).expect("ours");
    }
}
