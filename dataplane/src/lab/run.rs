//! The hands of the laboratory: `ip` and `ethtool`, so that a person can see each step and type it again.

use super::{LabError, Namespace};
use rustix::thread::{CapabilitySet, capabilities};
use std::io::ErrorKind;
use std::process::Command;

/// Runs commands one after another and tells a watcher each, as a person would type it, before it runs.
pub(super) struct Hands<'w> {
    watch: &'w mut dyn FnMut(&str),
}

impl<'w> Hands<'w> {
    pub(super) fn new(watch: &'w mut dyn FnMut(&str)) -> Self {
        Self { watch }
    }

    /// `ip ARGS`: for what belongs to no namespace, such as the list of namespaces itself.
    pub(super) fn ip(&mut self, args: &str) -> Result<(), LabError> {
        self.command("ip", args)
    }

    /// `ip ARGS` on the links and addresses of `namespace`.
    pub(super) fn ip_in(&mut self, namespace: &Namespace, args: &str) -> Result<(), LabError> {
        match namespace.name() {
            Some(name) => self.command("ip", &format!("-n {name} {args}")),
            None => {
                (self.watch)(&format!("ip {args}"));
                namespace.run(|| run("ip", args))?
            }
        }
    }

    /// `ethtool ARGS` inside `namespace`, which is always one of ours and so has a name.
    pub(super) fn ethtool_in(&mut self, namespace: &Namespace, args: &str) -> Result<(), LabError> {
        let name = namespace.name().expect("ethtool is only used on the hosts, which are named");
        self.command("ip", &format!("netns exec {name} ethtool {args}"))
    }

    /// Any command inside `namespace`; inside one without a name it runs where a thread there starts it.
    pub(super) fn line_in(&mut self, namespace: &Namespace, line: &str) -> Result<(), LabError> {
        if let Some(name) = namespace.name() {
            return self.command("ip", &format!("netns exec {name} {line}"));
        }
        (self.watch)(line);
        let (program, args) = line.split_once(' ').unwrap_or((line, ""));
        namespace.run(|| run(program, args))?
    }

    /// Sets a network setting of `namespace`, as `sysctl -w KEY=VALUE` does.
    ///
    /// `/proc/sys/net` shows the namespace of the thread that opens it, so no command is needed. A container with a
    /// read-only `/proc/sys` keeps the default; that costs a few stray IPv6 frames and is said, not fatal.
    pub(super) fn set(&mut self, namespace: &Namespace, key: &str, value: &str) -> Result<(), LabError> {
        let inside = namespace.name().map(|name| format!("ip netns exec {name} ")).unwrap_or_default();
        (self.watch)(&format!("{inside}sysctl -w {key}={value}"));
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        if let Err(error) = namespace.run(|| std::fs::write(&path, value))? {
            tracing::warn!(
                "{path} keeps its default ({error}): a few IPv6 frames of the kernel's own may pass"
            );
        }
        Ok(())
    }

    fn command(&mut self, program: &str, args: &str) -> Result<(), LabError> {
        (self.watch)(&format!("{program} {args}"));
        run(program, args)
    }
}

/// Whether `ip ARGS` in `namespace` succeeds; for questions.
pub(super) fn ip_knows(namespace: &Namespace, args: &str) -> Result<bool, LabError> {
    match namespace.run(|| run("ip", args))? {
        Ok(()) => Ok(true),
        Err(LabError::Command { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs `program` with words of `args` and waits for it. Output goes into the error.
fn run(program: &str, args: &str) -> Result<(), LabError> {
    let output =
        Command::new(program).args(args.split_whitespace()).output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(program),
            _ => LabError::Command { command: format!("{program} {args}"), printed: error.to_string() },
        })?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stderr, output.stdout].concat();
    let printed = String::from_utf8_lossy(&printed).trim().replace('\n', "; ");
    // `ip netns exec` reports a program that it cannot find in these words.
    if let Some((_, absent)) = printed.split_once("exec of \"").filter(|_| printed.contains("No such file")) {
        return Err(missing(absent.split('"').next().unwrap_or(absent)));
    }
    let printed = if printed.is_empty() { output.status.to_string() } else { printed };
    Err(LabError::Command { command: format!("{program} {args}"), printed })
}

fn missing(program: &str) -> LabError {
    let package = match program {
        "ip" => "iproute2",
        "ethtool" => "ethtool",
        _ => "of that name",
    };
    LabError::Missing { program: program.to_owned(), package }
}

/// Checks the two rights before anything is touched, so that a refusal leaves nothing half built.
pub(super) fn check_rights(what: &'static str) -> Result<(), LabError> {
    let needed = [("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN), ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN)];
    // Where the question itself is refused (seccomp), the first command tells.
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let missing: Vec<&str> =
        needed.iter().filter(|(_, flag)| !sets.effective.contains(*flag)).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(LabError::Rights { what, missing: missing.join(" and ") }) }
}
