//! What can go wrong while a laboratory is built, each with its cure.

use std::fmt;
use std::io;

/// Why a laboratory, or something inside it, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The plan itself makes no sense; nothing was touched.
    #[error("this laboratory cannot be built: {0}")]
    Plan(String),

    /// The process lacks rights; nothing was touched.
    #[error(
        "{what} a laboratory needs {missing}, which this process has not: run it as root \
         (`sudo`, or a container started with --privileged)"
    )]
    Rights {
        /// What was to be done: `building`.
        what: &'static str,
        /// The capabilities that are missing, by name.
        missing: String,
    },

    /// A command that the laboratory is built with is not installed.
    #[error("`{program}` is not installed: install the package {package} (apt-get install {package})")]
    Missing {
        /// The command.
        program: String,
        /// Debian's name of the package that brings it.
        package: &'static str,
    },

    /// A laboratory of this name, or a part of one, stands already.
    #[error(
        "there is a laboratory `{name}` already ({}): take it down first with `ringway lab down`",
        found.join(", ")
    )]
    Stands {
        /// The name of the laboratory.
        name: String,
        /// What of it was found: namespaces and interfaces.
        found: Vec<String>,
    },

    /// There is no such laboratory.
    #[error("there is no laboratory `{name}`: build it first with `ringway lab up`")]
    Absent {
        /// The name of the laboratory.
        name: String,
    },

    /// A command ran and refused.
    #[error("`{command}` failed: {printed}{}", Cure(printed))]
    Command {
        /// The command as a person would type it.
        command: String,
        /// What it printed, or how it ended when it printed nothing.
        printed: String,
    },

    /// A namespace could not be opened, entered or listed.
    #[error("network namespace {namespace}: {step}: {source}{}", Cure(&source.to_string()))]
    Namespace {
        /// The name of the namespace.
        namespace: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// What usually helps, told from what was printed.
struct Cure<'a>(&'a str);

impl fmt::Display for Cure<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (symptom, cure) in CURES {
            if self.0.contains(symptom) {
                return write!(out, " ({cure})");
            }
        }
        Ok(())
    }
}

/// Symptom (as `ip`, `ethtool` or the kernel words it) and cure.
const CURES: [(&str, &str); 7] = [
    (
        "Unknown device type",
        "the kernel has no veth: `modprobe veth`, or install the package linux-modules-extra",
    ),
    (
        "mount",
        "namespaces are kept as mounts: a container needs CAP_SYS_ADMIN for that, start it with --privileged",
    ),
    (
        "Operation not permitted",
        "needs CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root, in a container with --privileged",
    ),
    (
        "Permission denied",
        "needs CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root, in a container with --privileged",
    ),
    ("File exists", "a part of an older laboratory is in the way: `ringway lab down`"),
    ("No such file or directory", "it is not there any more: `ringway lab status` shows what is"),
    ("Numerical result out of range", "the kernel takes fewer queues or a smaller MTU than that"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_command_output_and_cure() {
        let error = LabError::Command {
            command: "ip link add rw-left type veth".into(),
            printed: "Error: Unknown device type.".into(),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("`ip link add rw-left type veth` failed: Error: Unknown device type."),
            "{text}"
        );
        assert!(text.contains("modprobe veth"), "{text}");
    }

    #[test]
    fn what_is_not_known_gets_no_invented_cure() {
        let error = LabError::Command { command: "ip x".into(), printed: "strange".into() };
        assert_eq!(error.to_string(), "`ip x` failed: strange");
    }
}
