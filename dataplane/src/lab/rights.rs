//! Which right or command the laboratory and the XDP program would need and this process has not, with the cure.

use super::LabError;
use crate::rights::setcap;
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;
use std::path::Path;

/// What is missing for real packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// Capabilities, by name.
    pub rights: Vec<String>,
    /// Commands that are not installed.
    pub commands: Vec<String>,
    /// In words: what is missing and what it would be for.
    pub why: String,
    /// What to do about it, each a line.
    pub cures: Vec<String>,
}

/// Capability, its name, what it is for. CAP_SYS_ADMIN contains CAP_BPF (`bpf_capable` in include/linux/capability.h).
const RIGHTS: [(CapabilitySet, &str, &str); 4] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to make interfaces and attach the XDP program"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "to open AF_XDP and AF_PACKET sockets"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "to make network namespaces, which are the hosts"),
    (
        CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN),
        "CAP_BPF",
        "to load the XDP program (CAP_SYS_ADMIN would do too)",
    ),
];

const COMMANDS: [(&str, &str); 2] = [("ip", "iproute2"), ("ethtool", "ethtool")];

/// What this process lacks for `ringway COMMAND`, judged before anything is touched; `None` when nothing.
#[must_use]
pub fn lacking(program: &Path, command: &str) -> Option<Lacking> {
    // Where the question itself is refused (seccomp), the first step tells.
    let held = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |command: &str| std::env::split_paths(&path).any(|folder| folder.join(command).is_file());
    judged(held, installed, program, command)
}

fn judged(
    held: CapabilitySet,
    installed: impl Fn(&str) -> bool,
    program: &Path,
    command: &str,
) -> Option<Lacking> {
    let rights: Vec<_> = RIGHTS.iter().filter(|(any_of, ..)| !held.intersects(*any_of)).collect();
    let commands: Vec<_> = COMMANDS.iter().filter(|(command, _)| !installed(command)).collect();
    let mut why: Vec<String> = rights.iter().map(|(_, name, what)| format!("{name}, {what}")).collect();
    why.extend(commands.iter().map(|(command, _)| format!("the command `{command}`")));
    if why.is_empty() {
        return None;
    }
    let mut cures = Vec::new();
    if !rights.is_empty() {
        cures.extend(cures_of_rights(program, command));
    }
    if !commands.is_empty() {
        let packages: Vec<&str> = commands.iter().map(|(_, package)| *package).collect();
        let packages = packages.join(" ");
        cures.push(format!("sudo apt-get install {packages}    (or have /usr/sbin in PATH)"));
    }
    Some(Lacking {
        rights: rights.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
        commands: commands.iter().map(|(command, _)| (*command).to_owned()).collect(),
        why: why.join("; "),
        cures,
    })
}

fn cures_of_rights(program: &Path, command: &str) -> [String; 3] {
    [
        format!("sudo {} {command}", program.display()),
        "in a container: start it with --privileged".to_owned(),
        // A file's capabilities are not handed on to the `ip` that builds the laboratory (capabilities(7)).
        format!("to forward (but not for the laboratory) without sudo: {}", setcap(program)),
    ]
}

/// A laboratory that was refused for want of rights, as in a container that has the names of rights but may not mount.
///
/// # Errors
/// The same error, when it is about something else.
pub(crate) fn refused(error: LabError, program: &Path, command: &str) -> Result<Lacking, LabError> {
    let why = error.to_string();
    let rights = matches!(error, LabError::Rights { .. })
        || ["Operation not permitted", "Permission denied", "Read-only file system", "mount"]
            .iter()
            .any(|symptom| why.contains(symptom));
    let commands = match &error {
        LabError::Missing { program, .. } => vec![program.clone()],
        _ => Vec::new(),
    };
    if !rights && commands.is_empty() {
        return Err(error);
    }
    let cures = if rights { cures_of_rights(program, command)[..2].to_vec() } else { Vec::new() };
    Ok(Lacking { rights: Vec::new(), commands, why, cures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lacking_with_all_rights_and_commands() {
        assert_eq!(judged(CapabilitySet::all(), |_| true, Path::new("/ringway"), "demo"), None);
    }

    #[test]
    fn each_right_is_named_with_its_cure() {
        let lacking =
            judged(CapabilitySet::empty(), |_| true, Path::new("/ringway"), "demo").expect("all of them");
        assert_eq!(lacking.rights, ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_BPF"]);
        assert!(lacking.cures.iter().any(|cure| cure == "sudo /ringway demo"), "{lacking:?}");
        assert!(lacking.commands.is_empty());
    }

    #[test]
    fn sys_admin_is_enough_for_bpf_and_a_missing_command_is_named() {
        let held = CapabilitySet::all() - CapabilitySet::BPF;
        let lacking = judged(held, |command| command != "ip", Path::new("/ringway"), "demo").expect("ip");
        assert!(lacking.rights.is_empty());
        assert_eq!(lacking.commands, ["ip"]);
        assert!(lacking.cures[0].contains("iproute2"), "{lacking:?}");
    }

    #[test]
    fn only_refusals_are_taken_for_missing_rights() {
        let command =
            |printed: &str| LabError::Command { command: "ip netns add x".into(), printed: printed.into() };
        assert!(refused(command("mount --make-shared /run/netns failed"), Path::new("/r"), "demo").is_ok());
        assert!(refused(command("Unknown device type"), Path::new("/r"), "demo").is_err());
    }
}
