//! Skipping where a right or a tool is missing: printed, counted, never silent.

use std::fs::OpenOptions;
use std::io::Write;

/// Returns from the calling test when this machine lacks something, after it has said so.
///
/// Capabilities are named without their `CAP_`; commands come after `; tools:`. Skips are printed to standard error and added to
/// the file that `RINGWAY_SKIPS` names, from which `make test` prints how many there were and why.
///
/// ```
/// # fn a_test() {
/// lab::needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ping");
/// // what follows runs only with both rights and both commands
/// # }
/// ```
#[macro_export]
macro_rules! needs {
    ($($capability:ident),+ $(,)?) => {
        $crate::needs!($($capability),+; tools:)
    };
    ($($capability:ident),+; tools: $($tool:literal),* $(,)?) => {
        let missing = $crate::needs::missing(&[$(stringify!($capability)),+], &[$($tool),*]);
        if !missing.is_empty() {
            fn here() {}
            $crate::needs::skip(std::any::type_name_of_val(&here), &missing);
            return;
        }
    };
}

/// Capabilities by their bit in `CapEff` (include/uapi/linux/capability.h): those that anything here asks for.
const CAPABILITIES: [(&str, u32); 8] = [
    ("SETUID", 7),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("SYS_ADMIN", 21),
    ("SYS_RESOURCE", 24),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// Which of these capabilities and commands are missing, in words.
///
/// # Panics
/// On a capability that the list in this module has not: a mistake in the test, not in the machine.
#[must_use]
pub fn missing(capabilities: &[&str], tools: &[&str]) -> Vec<String> {
    let effective = effective_capabilities(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let lacks = |name: &&&str| {
        let (_, bit) =
            CAPABILITIES.iter().find(|(known, _)| known == *name).expect("a capability listed above");
        effective & (1 << bit) == 0
    };
    let capabilities = capabilities.iter().filter(lacks).map(|name| format!("CAP_{name}"));
    capabilities.chain(tools.iter().filter(|tool| !installed(tool)).map(|tool| format!("`{tool}`"))).collect()
}

/// Prints and records that the test that contains `here` is skipped.
pub fn skip(here: &str, missing: &[String]) {
    let test = here.strip_suffix("::here").unwrap_or(here);
    let line = format!("SKIPPED: {test}: needs {}", missing.join(", "));
    eprintln!("{line}");
    let Some(path) = std::env::var_os("RINGWAY_SKIPS") else { return };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        eprintln!("the skip could not be recorded in {}: {error}", path.display());
    }
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where root's commands are: a user's PATH often lacks them, `sudo make test` may too.
    let usual = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(tool).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_line() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(effective_capabilities("nothing of the kind"), 0);
    }

    #[test]
    fn a_missing_tool_is_named_and_a_present_one_is_not() {
        assert_eq!(missing(&[], &["sh", "no-such-tool-at-all"]), ["`no-such-tool-at-all`"]);
    }

    #[test]
    fn a_skip_ends_the_test_and_a_fulfilled_need_does_not() {
        fn story(reached: &mut bool) {
            needs!(NET_ADMIN; tools: "no-such-tool-at-all");
            *reached = true;
        }
        let mut reached = false;
        // The record of this deliberate skip must not be counted as a real one.
        if std::env::var_os("RINGWAY_SKIPS").is_none() {
            story(&mut reached);
            assert!(!reached);
        }
    }
}
