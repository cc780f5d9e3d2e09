//! Facts about the machine, from `/proc` and `/sys`. The root is an argument so that tests read recorded trees.

use super::Problem;
use super::card::Pci;
use drivers::link::KernelVersion;
use drivers::pci::{Doors, Root};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::Path};

/// The machine, as this process may use it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// What this process may do.
    pub rights: Rights,
    /// Huge pages, one entry a size, smallest first.
    pub huge_pages: Vec<HugePages>,
    /// Bytes that this process may lock; `None` is no limit.
    pub memlock_bytes: Option<u64>,
    /// Processors.
    pub cpus: Cpus,
    /// BPF.
    pub bpf: Bpf,
    /// The kernel's doors to PCI cards.
    pub pci: Pci,
    /// What could not be read, and why. Facts that come from there are `null` or empty.
    pub unreadable: Vec<Unreadable>,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

/// The kernel and what came with its release.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// Its first two numbers.
    #[serde(serialize_with = "as_text")]
    pub version: KernelVersion,
    /// Whether an AF_XDP socket can be made: `None` when this process may not try.
    pub af_xdp: Option<bool>,
    /// One UMEM for several devices (5.10).
    pub shared_umem: bool,
    /// The `netdev` family, which tells XDP features (6.3).
    pub netdev_family: bool,
    /// AF_XDP frames in several buffers (6.6).
    pub multi_buffer: bool,
    /// AF_XDP transmit metadata, with its UMEM flag (6.11).
    pub transmit_metadata: bool,
    /// `XDP_MAX_TX_SKB_BUDGET`: more than 32 frames a send in copy mode (6.17).
    pub transmit_budget: bool,
}

/// What this process may do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rights {
    /// Whether it runs as root, at least in its own user namespace.
    pub root: bool,
    /// Whether that is a user namespace other than the machine's own: capabilities then hold only inside it.
    pub user_namespace: bool,
    /// Set links up, attach XDP programs.
    pub net_admin: bool,
    /// Open AF_XDP and AF_PACKET sockets.
    pub net_raw: bool,
    /// Load BPF programs and make maps.
    pub bpf: bool,
    /// All that BPF may, and much more.
    pub sys_admin: bool,
    /// Lock memory without counting it.
    pub ipc_lock: bool,
    /// Raise limits.
    pub sys_resource: bool,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// KiB a page.
    pub size_kib: u64,
    /// Pages that there are.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
    /// The same, by memory node.
    pub nodes: Vec<NodePages>,
}

/// Huge pages of one size on one memory node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePages {
    /// The node's number.
    pub node: u32,
    /// Pages that there are.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
}

/// Processors, as lists such as `0-3,8`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cpus {
    /// Those that run.
    pub online: String,
    /// Those that this process may run on.
    pub allowed: String,
    /// Those that the scheduler leaves alone.
    pub isolated: String,
    /// The share of time that the control group grants, in CPUs: `None` is no limit.
    pub quota: Option<f64>,
    /// The processors of each memory node, by its number.
    pub nodes: Vec<NodeCpus>,
}

/// The processors of one memory node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCpus {
    /// The node's number.
    pub node: u32,
    /// Its processors, as a list.
    pub cpus: String,
}

/// BPF.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bpf {
    /// Whether programs are compiled to machine code; `None` when it cannot be read.
    pub jit: Option<bool>,
    /// Whether the kernel carries its own type information.
    pub btf: bool,
    /// Whether anybody may load programs; `None` when it cannot be read.
    pub unprivileged: Option<bool>,
}

/// A source that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its path.
    pub what: String,
    /// The system's reason.
    pub why: String,
}

impl Machine {
    /// Reads all of it from the tree at `root`, which is `/` but in tests; limits and the kernel's name are asked of the
    /// kernel itself. `bus` is the same tree, for what is known of PCI.
    #[must_use]
    pub fn read(root: &Path, bus: &Root) -> Self {
        let mut tree = Tree { root, unreadable: Vec::new() };
        Self {
            kernel: Kernel::read(),
            rights: Rights::read(&mut tree),
            huge_pages: huge_pages(&tree),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            cpus: Cpus::read(&mut tree),
            bpf: Bpf::read(&mut tree),
            pci: Pci::of(Doors::of(bus)),
            unreadable: tree.unreadable,
            problems: Vec::new(),
        }
    }
}

impl Kernel {
    fn read() -> Self {
        Self::of(KernelVersion::release(), KernelVersion::running(), af_xdp())
    }

    /// What the kernel of this `version` brings.
    #[must_use]
    pub fn of(release: String, version: KernelVersion, af_xdp: Option<bool>) -> Self {
        let since = |major, minor| version >= KernelVersion::new(major, minor);
        Self {
            release,
            version,
            af_xdp,
            shared_umem: since(5, 10),
            netdev_family: since(6, 3),
            multi_buffer: since(6, 6),
            transmit_metadata: since(6, 11),
            transmit_budget: since(6, 17),
        }
    }
}

/// Tries one AF_XDP socket. A kernel without it knows no such family; without CAP_NET_RAW one cannot tell.
fn af_xdp() -> Option<bool> {
    const AF_XDP: AddressFamily = AddressFamily::from_raw(44);
    match socket_with(AF_XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => Some(true),
        Err(rustix::io::Errno::AFNOSUPPORT) => Some(false),
        Err(_) => None,
    }
}

impl Rights {
    fn read(tree: &mut Tree<'_>) -> Self {
        let status = tree.text("proc/thread-self/status").unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or("")
                .trim()
                .to_owned()
        };
        let effective = u64::from_str_radix(&field("CapEff"), 16).unwrap_or(0);
        // Numbers of include/uapi/linux/capability.h.
        let has = |number: u32| effective & (1 << number) != 0;
        let map = tree.text("proc/self/uid_map").unwrap_or_default();
        let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
        Self {
            root: field("Uid").split_whitespace().nth(1) == Some("0"),
            user_namespace: !map.is_empty() && !whole,
            net_admin: has(12),
            net_raw: has(13),
            ipc_lock: has(14),
            sys_admin: has(21),
            sys_resource: has(24),
            bpf: has(39),
        }
    }
}

impl Cpus {
    fn read(tree: &mut Tree<'_>) -> Self {
        let status = tree.text("proc/thread-self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("");
        let nodes = tree.numbered("sys/devices/system/node", "node");
        let cpus_of = |node: u32| tree.quiet(&format!("sys/devices/system/node/node{node}/cpulist"));
        let nodes = nodes
            .into_iter()
            .map(|node| NodeCpus { node, cpus: cpus_of(node).unwrap_or_default() })
            .collect();
        Self {
            online: tree.text("sys/devices/system/cpu/online").unwrap_or_default(),
            allowed: allowed.trim().to_owned(),
            isolated: tree.text("sys/devices/system/cpu/isolated").unwrap_or_default(),
            quota: quota(tree),
            nodes,
        }
    }
}

/// The quota of this process' control group (version 2): `cpu.max` is "max 100000" or "150000 100000".
fn quota(tree: &Tree<'_>) -> Option<f64> {
    let groups = tree.quiet("proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let text = tree
        .quiet(&format!("sys/fs/cgroup{path}/cpu.max"))
        .or_else(|| tree.quiet("sys/fs/cgroup/cpu.max"))?;
    let (granted, period) = text.split_once(' ')?;
    Some(granted.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

impl Bpf {
    fn read(tree: &mut Tree<'_>) -> Self {
        // Shown only in the machine's own network namespace: without it is the ordinary case in a container.
        let jit = match tree.exists("proc/sys/net/core/bpf_jit_enable") {
            true => tree.text("proc/sys/net/core/bpf_jit_enable").map(|text| text != "0"),
            false => None,
        };
        let disabled = tree.text("proc/sys/kernel/unprivileged_bpf_disabled");
        Self {
            jit,
            btf: tree.exists("sys/kernel/btf/vmlinux"),
            unprivileged: disabled.map(|text| text == "0"),
        }
    }
}

fn huge_pages(tree: &Tree<'_>) -> Vec<HugePages> {
    let nodes = tree.numbered("sys/devices/system/node", "node");
    let count = |folder: &str, size: u64, what: &str| {
        let text = tree.quiet(&format!("{folder}/hugepages/hugepages-{size}kB/{what}_hugepages"));
        text.and_then(|text| text.parse::<u64>().ok())
    };
    let of_size = |size: u64| {
        let total = count("sys/kernel/mm", size, "nr")?;
        let on_node = |node: u32| {
            let folder = format!("sys/devices/system/node/node{node}");
            Some(NodePages { node, total: count(&folder, size, "nr")?, free: count(&folder, size, "free")? })
        };
        Some(HugePages {
            size_kib: size,
            total,
            free: count("sys/kernel/mm", size, "free")?,
            nodes: nodes.iter().filter_map(|&node| on_node(node)).collect(),
        })
    };
    [2048, 1_048_576].into_iter().filter_map(of_size).collect()
}

/// The interfaces that carry a default route (IPv4, of the calling thread's namespace).
#[must_use]
pub fn default_routes(root: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(root.join("proc/thread-self/net/route")).unwrap_or_default();
    let default = |line: &str| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        let mask = fields.nth(5)?;
        (destination == "00000000" && mask == "00000000").then(|| name.to_owned())
    };
    text.lines().skip(1).filter_map(default).collect()
}

/// Files below a root, and which of them could not be read.
struct Tree<'a> {
    root: &'a Path,
    unreadable: Vec<Unreadable>,
}

impl Tree<'_> {
    /// The trimmed text of a file that should be there.
    fn text(&mut self, path: &str) -> Option<String> {
        match fs::read_to_string(self.root.join(path)) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                let what = format!("/{path}");
                if !self.unreadable.iter().any(|known| known.what == what) {
                    self.unreadable.push(Unreadable { what, why: error.to_string() });
                }
                None
            }
        }
    }

    /// The trimmed text of a file that need not be there.
    fn quiet(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(path)).ok()?.trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The numbers of the entries called `prefix` and a number, in order.
    fn numbered(&self, path: &str, prefix: &str) -> Vec<u32> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let number = |name: String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> =
            entries.filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned())).collect();
        numbers.sort_unstable();
        numbers
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_text<S: serde::Serializer>(version: &KernelVersion, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(version)
}
