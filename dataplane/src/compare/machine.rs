//! Where the figures are true: machine, kernel, wire.

use super::run::Cpus;
use super::site::filesystem;
use serde::Serialize;
use std::path::Path;

/// What the figures depend on, besides what is in each row.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Version of ringway.
    pub ringway: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Whether the CPU says that it is a virtual one.
    pub virtual_machine: bool,
    /// Who runs where.
    pub pinned: Cpus,
    /// Where the files are.
    pub filesystem: String,
    /// The cable.
    pub wire: &'static str,
}

impl Machine {
    pub(super) fn this(pinned: Cpus, folder: &Path) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let memory = rustix::system::sysinfo();
        Self {
            ringway: env!("CARGO_PKG_VERSION"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.totalram * u64::from(memory.mem_unit),
            virtual_machine: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            pinned,
            filesystem: filesystem(folder),
            wire: "veth between two network namespaces; the client's receiving runs on the server's CPU",
        }
    }

    /// One line for each thing.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let kind = if self.virtual_machine { ", virtual" } else { "" };
        let gib = self.memory_bytes >> 30;
        let pinned = if self.pinned.server == self.pinned.client {
            format!("server and client share CPU {}", self.pinned.server)
        } else {
            format!("server on CPU {}, client on CPU {}", self.pinned.server, self.pinned.client)
        };
        vec![
            format!(
                "Ringway {} on Linux {}, {}{kind}, {} CPUs, {gib} GiB",
                self.ringway, self.kernel, self.cpu, self.cpus
            ),
            format!("{pinned}; files on {}", self.filesystem),
            self.wire.to_owned(),
        ]
    }
}
