//! The numbers by which tracepoints are named to `perf_event_open`: files of tracefs.
//!
//! Where nobody has mounted it, it is mounted without a place in any tree (`fsmount`, Linux 5.2): only this process sees it, and
//! it is gone when the descriptor is closed.

use super::ObserveError;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where it usually is.
const USUAL: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The number of the tracepoint `group:name`.
///
/// # Errors
/// [`ObserveError`] when this kernel has no such tracepoint, or it may not be asked.
pub fn tracepoint(group: &str, name: &str) -> Result<u64, ObserveError> {
    let path = format!("events/{group}/{name}/id");
    let failed = |step, error: io::Error, cure| {
        ObserveError::new(format!("the tracepoint {group}:{name}"), step, error, cure)
    };
    let mut refused = None;
    for place in USUAL {
        match std::fs::read_to_string(Path::new(place).join(&path)) {
            Ok(text) => return number(&text).map_err(|error| failed("reading its number", error, "")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused = Some(error),
        }
    }
    let mounted = match mount() {
        Ok(mounted) => mounted,
        Err(error) => {
            let cure = match error {
                Errno::PERM | Errno::ACCESS => {
                    "run it as root, or have root `mount -t tracefs none /sys/kernel/tracing`"
                }
                Errno::NODEV => "this kernel is built without tracing",
                Errno::NOSYS => "have root `mount -t tracefs none /sys/kernel/tracing`",
                _ => "",
            };
            return Err(failed("mounting tracefs", refused.unwrap_or_else(|| error.into()), cure));
        }
    };
    let text = openat(&mounted, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|fd| {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).map(|_| text)
        });
    text.and_then(|text| number(&text))
        .map_err(|error| failed("reading its number", error, "this kernel may not have it"))
}

fn mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_that_does_not_exist_is_named() {
        let error = tracepoint("raw_syscalls", "no_such_point").expect_err("no such point").to_string();
        assert!(error.contains("raw_syscalls:no_such_point"), "{error}");
    }

    /// Two tracepoints have two numbers; nothing is mounted afterwards that was not before.
    #[test]
    fn numbers_are_told_and_no_mount_stays() {
        let mounts = || std::fs::read_to_string("/proc/self/mounts").expect("/proc");
        let before = mounts();
        let (enter, exit) = (tracepoint("raw_syscalls", "sys_enter"), tracepoint("raw_syscalls", "sys_exit"));
        assert_eq!(mounts(), before);
        match (enter, exit) {
            (Ok(enter), Ok(exit)) => assert!(enter > 0 && exit > 0 && enter != exit),
            (Err(error), _) | (_, Err(error)) => eprintln!("SKIPPED: {error}"),
        }
    }
}
