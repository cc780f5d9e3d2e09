//! What stands in a device's way before it is opened, and what of that may be cleared away.

use super::plan::DpdkPlan;
use crate::error::OpenError;
use crate::link::Link;
use crate::socket_path;
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
    let (device, step) = (plan.device.as_str(), format!("making the socket {}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(OpenError::refused(device, step, "its folder is not there")
            .hint("make the folder, or name another path"));
    }
    socket_path::clear_away(path, device, &step)
}
