//! The forwarders under measurement, and where their work is done.

use dataplane::lab::Lab;
use lab::Outcome;
use lab::measured::Running;
use serde::Serialize;
use std::process::{Command, Stdio};

/// The name of DPDK's forwarder in the table.
pub(crate) const TESTPMD: &str = "testpmd io, net_af_xdp";

/// Who does the kernel's part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrangement {
    /// As a veth comes: receiving is done on the sender's CPU.
    A,
    /// Threaded NAPI on the forwarder's own CPU.
    B,
}

impl Arrangement {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// A forwarder and how it is started.
#[derive(Clone)]
pub(crate) struct Forwarder {
    name: String,
    /// Words in front of its own command: another scheduling policy, a profiler.
    prefix: Vec<String>,
    program: Program,
}

#[derive(Clone)]
enum Program {
    /// Arguments of `forward`, and options of each port.
    Ringway(Vec<String>, String),
    Testpmd,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Forwarder {
    fn ringway(name: &str, prefix: &str, options: &str, arguments: &str) -> Self {
        let program = Program::Ringway(words(arguments), options.to_owned());
        Self { name: name.to_owned(), prefix: words(prefix), program }
    }

    /// Those to be compared in an arrangement, testpmd first.
    pub(crate) fn all(arrangement: Arrangement) -> Vec<Self> {
        let testpmd = Self { name: TESTPMD.to_owned(), prefix: Vec::new(), program: Program::Testpmd };
        let mut all = vec![testpmd];
        match arrangement {
            Arrangement::A => {
                all.push(Self::ringway("ringway, spin", "", "", "--idle spin"));
                all.push(Self::ringway("ringway, adaptive", "", "", ""));
                all.push(Self::ringway("ringway, spin, ring=512", "", ",ring=512", "--idle spin"));
            }
            Arrangement::B => {
                all.push(Self::ringway("ringway, adaptive", "", "", ""));
                let wait = |prefix, name: &str| Self::ringway(name, prefix, ",ring=512", "--idle wait");
                all.push(wait("", "ringway, wait, ring=512"));
                all.push(wait("chrt -f 1", "ringway, wait, ring=512, chrt -f 1"));
            }
        }
        all
    }

    /// One more, to try an idea: `words in front; options of each port; arguments`.
    pub(crate) fn tried(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut part = || parts.next().unwrap_or_default();
        let (prefix, options, arguments) = (part(), part(), part());
        Self::ringway(&format!("ringway: {text}"), prefix, options, arguments)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it in the middle of the laboratory, on CPU 0, and waits until it forwards.
    pub(crate) fn start(&self, lab: &Lab) -> Outcome<Running> {
        // A session of its own: else the scheduler shares one portion between it and the generator (autogroup).
        let mut command = lab.middle().command("taskset");
        command.args(["-c", "0", "setsid", "--wait"]);
        command.args(&self.prefix);
        let ready = match &self.program {
            Program::Ringway(arguments, options) => {
                let ringway = std::env::current_exe()?.with_file_name("ringway");
                command.arg(ringway).arg("forward");
                for port in ["rw-left", "rw-right"] {
                    command.arg("--port").arg(format!("af-xdp:{port}{options}"));
                }
                command.args(["--format", "json"]).args(arguments);
                "\"event\":\"ready\""
            }
            Program::Testpmd => {
                // It speaks to a pipe in large pieces otherwise, and its readiness would not be heard.
                command.args(["stdbuf", "-oL", "dpdk-testpmd"]);
                command.args(["--no-huge", "--no-shconf", "-m", "512", "--no-pci", "--lcores", "0@0,1@0"]);
                command.args(["--vdev", "net_af_xdp0,iface=rw-left", "--vdev", "net_af_xdp1,iface=rw-right"]);
                command.args([
                    "--",
                    "--forward-mode=io",
                    "--nb-cores=1",
                    "--auto-start",
                    "--total-num-mbufs=16384",
                ]);
                "packets/burst="
            }
        };
        let (path, stderr) = tempfile()?;
        Running::start(command, Some(ready), stderr.into())
            .map_err(|error| format!("{error}; see {path}").into())
    }
}

/// Where the forwarders' standard error goes.
pub(crate) fn log() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("ringway-bench-{}.log", std::process::id()))
}

fn tempfile() -> Outcome<(String, std::fs::File)> {
    let path = log();
    Ok((path.display().to_string(), std::fs::OpenOptions::new().create(true).append(true).open(&path)?))
}

/// Moves the work of receiving at the forwarder's ports into kernel threads, and those to CPU 0.
pub(crate) fn share_cpu_0(lab: &Lab) -> Outcome<()> {
    for port in ["rw-left", "rw-right"] {
        let dir = format!("/sys/class/net/{port}");
        let script = format!("echo 1 > {dir}/threaded");
        let status = lab.middle().command("sh").args(["-c", &script]).status()?;
        if !status.success() {
            return Err(format!("threaded NAPI could not be switched on at {port}").into());
        }
    }
    let mut found = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.starts_with("napi/rw-left") || name.starts_with("napi/rw-right") {
            let pid = path.file_name().unwrap_or_default().to_owned();
            let status =
                Command::new("taskset").args(["-pc", "0"]).arg(pid).stdout(Stdio::null()).status()?;
            found += usize::from(status.success());
        }
    }
    if found < 2 { Err("the NAPI threads were not found".into()) } else { Ok(()) }
}
