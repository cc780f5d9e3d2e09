//! What stands in a device's way before it is opened, and what of that may be cleared away.

use super::plan::DpdkPlan;
use crate::error::OpenError;
use crate::link::Link;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Looks; what a process has left that was killed is removed.
pub(super) fn look(plan: &DpdkPlan) -> Result<(), OpenError> {
    if let Some(path) = plan.listens_at() {
        clear_away(plan, Path::new(path))?;
    }
    if let Some(name) = plan.makes_a_tap() {
        not_had(plan, name)?;
    }
    Ok(())
}

/// Removes what a device has left that did not open: a socket at which nobody listens.
pub(super) fn sweep(plan: &DpdkPlan) {
    if let Some(path) = plan.listens_at() {
        // What is not ours to remove is left alone, and was refused before.
        let _ = clear_away(plan, Path::new(path));
    }
}

/// A tap that somebody has: DPDK would join him as a further queue, and the two would share out the frames.
fn not_had(plan: &DpdkPlan, name: &str) -> Result<(), OpenError> {
    // One that was made to stay (`ip tuntap add`) runs only while somebody has it.
    match Link::by_name(name) {
        Ok(link) if link.running => {
            let why = "the device is in use: there is such an interface, and a program has it";
            Err(OpenError::refused(plan.device.as_str(), format!("making the tap {name}"), why)
                .hint("end that program, or name another interface: iface="))
        }
        _ => Ok(()),
    }
}

/// Removes a socket that a process has left which was killed; one at which somebody listens is in use.
fn clear_away(plan: &DpdkPlan, path: &Path) -> Result<(), OpenError> {
    let refuse = |why: &str, cure: &str| {
        let step = format!("making the socket {}", path.display());
        Err(OpenError::refused(plan.device.as_str(), step, why).hint(cure))
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return refuse("its folder is not there", "make the folder, or name another path");
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        return refuse("there is something else at this path", "name a path where nothing is");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{}: removing the socket of a process that is gone", path.display());
            std::fs::remove_file(path).map_err(|error| {
                OpenError::new(
                    plan.device.as_str(),
                    format!("removing the old socket {}", path.display()),
                    error,
                )
            })
        }
        _ => {
            refuse("the device is in use: a process listens there", "end that process, or name another path")
        }
    }
}
