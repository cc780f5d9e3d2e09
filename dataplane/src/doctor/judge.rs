//! From facts to problems: pure functions, one rule after another, each with its cure.

use super::interface::{ETHERNET_HEADER, Interface, LARGEST_SINGLE_BUFFER, Verdict};
use super::machine::{HugePages, Machine};
use super::{Problem, Severity, Severity::*};
use drivers::link::KernelVersion;
use std::path::Path;

/// Locked memory that one worker's arena may need: 16 MiB, and the rings.
const ARENA_BYTES: u64 = 32 << 20;

/// The MTU at which a frame just fits one buffer.
const LARGEST_SINGLE_MTU: u32 = LARGEST_SINGLE_BUFFER - ETHERNET_HEADER;

/// Problems in the order found.
#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    /// One rule. `code` and `about` are names for programs, `message` and `cure` are for people.
    fn add(
        &mut self,
        severity: Severity,
        (code, about): (&'static str, &'static str),
        message: impl Into<String>,
        cure: Option<String>,
    ) {
        self.0.push(Problem { severity, code, about, message: message.into(), cure });
    }
}

/// What is not as it should be with the machine.
#[must_use]
pub fn machine(machine: &Machine) -> Vec<Problem> {
    let mut findings = Findings::default();
    kernel(machine, &mut findings);
    rights(machine, &mut findings);
    memory(machine, &mut findings);
    cpus(machine, &mut findings);
    bpf(machine, &mut findings);
    findings.0
}

fn kernel(machine: &Machine, findings: &mut Findings) {
    let kernel = &machine.kernel;
    let version = kernel.version;
    let newer = || {
        Some(
            "sudo apt install linux-image-amd64    # or your distribution's newest kernel, then reboot"
                .to_owned(),
        )
    };
    if kernel.af_xdp == Some(false) {
        let message = "the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS); only packet: ports work";
        findings.add(Error, ("kernel_without_af_xdp", "kernel"), message, newer());
    }
    if !kernel.shared_umem {
        let message = format!(
            "Linux {version} cannot register one memory with several devices (5.10 can), so nothing is forwarded between \
             AF_XDP ports; packet: ports work"
        );
        findings.add(Error, ("kernel_without_shared_umem", "kernel"), message, newer());
    } else if version < KernelVersion::new(5, 18) {
        let message = format!(
            "Linux {version} refuses XDP programs that know fragments (5.18 takes them), and ours does: AF_XDP ports do not \
             open; packet: ports work"
        );
        findings.add(Error, ("kernel_without_xdp_fragments", "kernel"), message, newer());
    }
    if !kernel.netdev_family {
        let message =
            format!("Linux {version} does not tell what drivers can do (6.3 does): below, much is unknown");
        findings.add(Note, ("kernel_without_netdev_family", "kernel"), message, newer());
    }
    if !kernel.multi_buffer {
        let message = format!(
            "Linux {version} has no multi-buffer AF_XDP (6.6 has): frames end at {LARGEST_SINGLE_BUFFER} bytes, an MTU of \
             {LARGEST_SINGLE_MTU}"
        );
        findings.add(Note, ("kernel_without_multi_buffer", "kernel"), message, newer());
    }
    if !kernel.transmit_metadata {
        let message = format!(
            "Linux {version} has no AF_XDP transmit metadata as Ringway uses it (6.11 has): checksums are computed by us"
        );
        findings.add(Note, ("kernel_without_transmit_metadata", "kernel"), message, newer());
    }
    if !kernel.transmit_budget {
        let message = format!(
            "Linux {version} sends at most 32 frames a system call in copy mode (6.17 lets it be raised): transmitting costs \
             more calls"
        );
        findings.add(Note, ("kernel_without_transmit_budget", "kernel"), message, newer());
    }
}

fn rights(machine: &Machine, findings: &mut Findings) {
    let rights = &machine.rights;
    let needed = [
        (rights.net_admin, "CAP_NET_ADMIN (to attach the XDP program)", "NET_ADMIN"),
        (rights.net_raw, "CAP_NET_RAW (to open the sockets)", "NET_RAW"),
        (rights.bpf || rights.sys_admin, "CAP_BPF (to load the XDP program)", "BPF"),
    ];
    let lacking: Vec<_> = needed.iter().filter(|(has, ..)| !has).collect();
    if !lacking.is_empty() {
        let names: Vec<&str> = lacking.iter().map(|(_, name, _)| *name).collect();
        let message = format!("this process lacks {}; forwarding started like this fails", joined(&names));
        let cure = if rights.root {
            let flags: Vec<String> = lacking.iter().map(|(.., name)| format!("--cap-add {name}")).collect();
            format!(
                "docker run {} ...    # or the same in your container's security context",
                flags.join(" ")
            )
        } else {
            let once = crate::rights::setcap(Path::new("\"$(command -v ringway)\""));
            format!("sudo ringway ...    # or: {once}")
        };
        findings.add(Error, ("rights_missing", "rights"), message, Some(cure));
    }
    if rights.user_namespace {
        let message = "this is a user namespace: its capabilities do not reach BPF and locked memory, which are the machine's; \
                       loading the XDP program fails with EPERM";
        let cure = "run it outside: with podman as root, or docker without --userns-remap".to_owned();
        findings.add(Error, ("user_namespace", "rights"), message, Some(cure));
    }
}

fn memory(machine: &Machine, findings: &mut Findings) {
    if machine.huge_pages.iter().all(|pages| pages.free == 0) {
        let used = machine.huge_pages.iter().any(|pages| pages.total > 0);
        let state = if used { "no huge page is free" } else { "there are no huge pages" };
        let message = format!("{state}: arenas use ordinary pages, which works, and cost more TLB misses");
        let pages =
            machine.huge_pages.iter().find(|pages| pages.size_kib == 2048).map_or(0, |pages| pages.total);
        let cure = format!("sudo sysctl -w vm.nr_hugepages={}", pages + 64);
        findings.add(Note, ("no_huge_pages", "huge_pages"), message, Some(cure));
    }
    for HugePages { size_kib, nodes, .. } in &machine.huge_pages {
        let someone_has = nodes.iter().any(|node| node.free > 0);
        for node in nodes.iter().filter(|node| someone_has && node.free == 0) {
            let message = format!(
                "memory node {} has no free huge page of {}, others have: a worker there would reach across",
                node.node,
                size(*size_kib)
            );
            let cure = format!(
                "echo {} | sudo tee /sys/devices/system/node/node{}/hugepages/hugepages-{size_kib}kB/nr_hugepages",
                node.total + 64,
                node.node
            );
            findings.add(Note, ("no_huge_pages_on_node", "huge_pages"), message, Some(cure));
        }
    }
    if let Some(limit) =
        machine.memlock_bytes.filter(|&limit| limit < ARENA_BYTES && !machine.rights.ipc_lock)
    {
        let message = format!(
            "this process may lock {} of memory and lacks CAP_IPC_LOCK: registering an arena fails with ENOBUFS",
            size(limit >> 10)
        );
        let cure =
            "ulimit -l unlimited    # systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1".to_owned();
        findings.add(Warning, ("memlock_low", "locked_memory"), message, Some(cure));
    }
}

fn cpus(machine: &Machine, findings: &mut Findings) {
    let cpus = &machine.cpus;
    let count = list_length(&cpus.online);
    if count == 1 {
        let message = "there is one CPU: a polling worker and the kernel's own packet work starve each other";
        findings.add(Warning, ("one_cpu", "cpus"), message, None);
    }
    if cpus.isolated.is_empty() && count > 2 {
        let list = format!("1-{}", count - 1);
        let message =
            "no CPU is isolated: the scheduler may put other work beside a worker, seen as jitter and loss";
        let cure = format!(
            "add to the kernel command line: isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}"
        );
        findings.add(Note, ("no_isolated_cpus", "cpus"), message, Some(cure));
    }
    if let Some(quota) = cpus.quota {
        let message = format!(
            "the control group grants {quota:.2} CPUs of time: a worker that polls uses it up and is stopped, which loses frames"
        );
        let cure =
            "docker update --cpus 0 CONTAINER    # systemd: CPUQuota= (empty); Kubernetes: no CPU limit"
                .to_owned();
        findings.add(Warning, ("cpu_quota", "cpus"), message, Some(cure));
    }
}

fn bpf(machine: &Machine, findings: &mut Findings) {
    if machine.bpf.jit == Some(false) {
        let message = "the BPF compiler is off: the XDP program is interpreted for every frame";
        let cure = "sudo sysctl -w net.core.bpf_jit_enable=1".to_owned();
        findings.add(Warning, ("jit_off", "bpf"), message, Some(cure));
    }
    if machine.bpf.unprivileged == Some(true) {
        let message = "anybody on this machine may load BPF programs; Ringway does not need that";
        let cure = "sudo sysctl -w kernel.unprivileged_bpf_disabled=1".to_owned();
        findings.add(Note, ("unprivileged_bpf", "bpf"), message, Some(cure));
    }
}

/// Why an interface is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The user named it: that it is down is in the way.
    ByName,
    /// It is there. Spare ports are often down on purpose.
    AmongAll,
}

/// What is not as it should be with `interface` on `machine`.
#[must_use]
pub fn interface(interface: &Interface, machine: &Machine, asked: Asked) -> Vec<Problem> {
    let mut findings = Findings::default();
    state(interface, asked, &mut findings);
    queues(interface, machine, &mut findings);
    frames(interface, machine.kernel.version, &mut findings);
    offloads(interface, &mut findings);
    occupation(interface, &mut findings);
    place(interface, machine, &mut findings);
    findings.0
}

fn state(interface: &Interface, asked: Asked, findings: &mut Findings) {
    let name = &interface.name;
    let severity = if asked == Asked::ByName { Warning } else { Note };
    if !interface.up {
        let cure = format!("sudo ip link set dev {name} up");
        findings.add(
            severity,
            ("interface_down", "link"),
            "it is down: nothing arrives and nothing leaves",
            Some(cure),
        );
    } else if !interface.carrier {
        let message = "it has no carrier: look at the cable, the switch port, or the other end of the veth";
        let cure = interface.peer.as_ref().map(|peer| format!("sudo ip link set dev {} up", peer.name));
        findings.add(severity, ("no_carrier", "link"), message, cure);
    }
}

fn queues(interface: &Interface, machine: &Machine, findings: &mut Findings) {
    let (name, receive) = (&interface.name, interface.receive_queues);
    if let Some(peer) = interface.peer.as_ref().filter(|peer| peer.transmit_queues > receive) {
        let message = format!(
            "{} sends on {} queues and only {receive} receive here: attaching XDP fails with ENOSPC",
            peer.name, peer.transmit_queues
        );
        let cure = format!("sudo ethtool -L {} tx {receive}", peer.name);
        findings.add(Warning, ("too_few_receive_queues", "queues"), message, Some(cure));
    }
    let Some(limit) = interface.receive_queue_limit else { return };
    // These drivers give XDP transmit queues of its own, out of the same number.
    let (spare, enough) = match interface.driver.as_str() {
        "ena" | "gve" => (receive, limit / 2),
        "virtio_net" => {
            let cpus = list_length(&machine.cpus.online);
            (cpus, limit.saturating_sub(cpus))
        }
        _ => return,
    };
    if receive.saturating_add(spare) > limit {
        let message = format!(
            "{} needs {spare} spare queues for XDP to transmit on, and uses {receive} of {limit} already: native XDP is \
             refused, or its transmit queues are shared under a lock",
            interface.driver
        );
        let cure = (enough > 0).then(|| format!("sudo ethtool -L {name} combined {enough}"));
        findings.add(Warning, ("no_spare_queues", "queues"), message, cure);
    }
}

fn frames(interface: &Interface, kernel: KernelVersion, findings: &mut Findings) {
    if interface.fits_single_buffer {
        return;
    }
    let (name, mtu, frame) = (&interface.name, interface.mtu, interface.largest_frame);
    let cure = Some(format!("sudo ip link set dev {name} mtu {LARGEST_SINGLE_MTU}"));
    if kernel < KernelVersion::new(6, 6) || interface.multi_buffer.copy != Verdict::Yes {
        let why = match interface.multi_buffer.copy {
            _ if kernel < KernelVersion::new(6, 6) => {
                format!("and Linux {kernel} has no multi-buffer AF_XDP (6.6 has)")
            }
            Verdict::No => format!("and {} does not hand fragments to XDP", interface.driver),
            _ => "and whether its driver hands fragments to XDP cannot be asked".to_owned(),
        };
        let message = format!(
            "at MTU {mtu} a frame may have {frame} bytes, more than the {LARGEST_SINGLE_BUFFER} of one buffer, {why}: native \
             XDP refuses this MTU"
        );
        findings.add(Warning, ("mtu_too_large", "mtu"), message, cure);
    } else if interface.zero_copy.verdict == Verdict::Yes && interface.multi_buffer.zero_copy_segments < 2 {
        let message = format!(
            "at MTU {mtu} a frame may have {frame} bytes: several buffers, which {} has in copy mode only",
            interface.driver
        );
        findings.add(Note, ("mtu_prevents_zero_copy", "mtu"), message, cure);
    }
}

fn offloads(interface: &Interface, findings: &mut Findings) {
    let name = &interface.name;
    let off = |what: &str| Some(format!("sudo ethtool -K {name} {what} off"));
    if interface.offload("lro") {
        let message = "LRO merges received frames for good: drivers refuse XDP beside it, or frames grow past their buffer";
        findings.add(Warning, ("lro_on", "offloads"), message, off("lro"));
    }
    if interface.offload("hardware_gro") {
        let message = "hardware GRO merges received frames: drivers refuse XDP beside it, or frames grow past their buffer";
        findings.add(Warning, ("hardware_gro_on", "offloads"), message, off("rx-gro-hw"));
    }
    if interface.offload("gro") && interface.native.verdict == Verdict::No {
        let message = "in skb mode, the only one here, XDP comes after GRO: merged frames of up to 64 KiB are discarded";
        findings.add(Warning, ("gro_in_skb_mode", "offloads"), message, off("gro"));
    }
    if interface.offload("rx_vlan_strip") {
        let message = "the VLAN tag is taken out of received frames before XDP sees them: a tagged frame would be forwarded \
                       without its tag; harmless where no VLANs are";
        let cure = match &interface.peer {
            Some(peer) => {
                Some(format!("sudo ethtool -K {name} rxvlan off; sudo ethtool -K {} txvlan off", peer.name))
            }
            None => off("rxvlan"),
        };
        findings.add(Note, ("vlan_tags_stripped", "offloads"), message, cure);
    }
    if interface.partial_checksums {
        let message = "frames arrive with checksums that the sender left unfinished; Ringway finishes them before they leave";
        findings.add(Note, ("partial_checksums", "offloads"), message, None);
    }
    if let Some(peer) = interface.peer.as_ref().filter(|peer| peer.tso) {
        let message = format!(
            "{} has TSO on: in skb mode its packets arrive up to 64 KiB long and are discarded (in native mode the kernel turns \
             it off by itself)",
            peer.name
        );
        let cure = Some(format!("sudo ethtool -K {} tso off gso off", peer.name));
        findings.add(Note, ("peer_tso_on", "offloads"), message, cure);
    }
}

fn occupation(interface: &Interface, findings: &mut Findings) {
    let name = &interface.name;
    if let Some(program) = &interface.attached {
        let message = format!(
            "XDP program {} is attached already: another one is refused with EBUSY or EEXIST until it goes",
            program.id
        );
        let cure = format!(
            "stop the program that owns it (sudo bpftool link names it), or, where it was attached without a BPF link: sudo ip \
             link set dev {name} {} off",
            if program.mode == "skb" { "xdpgeneric" } else { "xdp" }
        );
        findings.add(Warning, ("program_attached", "program"), message, Some(cure));
    }
    if !interface.held_queues.is_empty() {
        let queues: Vec<String> = interface.held_queues.iter().map(u32::to_string).collect();
        let message = format!(
            "an AF_XDP socket holds queue {} already: binding there fails with EBUSY",
            queues.join(", ")
        );
        let cure = "sudo ss --xdp --processes    # shows who".to_owned();
        findings.add(Warning, ("queues_held", "queues"), message, Some(cure));
    }
    if let Some(master) = &interface.master {
        let message =
            format!("it belongs to {master}, which hears nothing through it while Ringway holds it");
        let cure = Some(format!("sudo ip link set dev {name} nomaster"));
        findings.add(Note, ("has_master", "link"), message, cure);
    }
    if interface.default_route {
        let message = "the default route goes through it: `ringway forward` takes every frame of a port, so this machine, and \
                       the session you type in, would lose its network";
        let cure = Some("ip route    # and forward between other interfaces".to_owned());
        findings.add(Warning, ("carries_default_route", "link"), message, cure);
    }
}

fn place(interface: &Interface, machine: &Machine, findings: &mut Findings) {
    let nodes = &machine.cpus.nodes;
    let near = interface.numa_node.and_then(|node| nodes.iter().find(|near| near.node == node));
    if let Some(near) = near.filter(|_| nodes.len() > 1) {
        let message =
            format!("it is nearest to memory node {}: run its workers on that node's CPUs", near.node);
        findings.add(
            Note,
            ("numa_node", "numa"),
            message,
            Some(format!("ringway forward --cpu {} ...", near.cpus)),
        );
    }
}

/// "a, b and c".
fn joined(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A size in the largest unit that divides it.
pub(super) fn size(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 && kib % (1 << 20) == 0 => format!("{} GiB", kib >> 20),
        kib if kib >= 1 << 10 && kib % (1 << 10) == 0 => format!("{} MiB", kib >> 10),
        kib => format!("{kib} KiB"),
    }
}

/// How many numbers a list such as `0-3,8` has.
pub(super) fn list_length(list: &str) -> u32 {
    let of_part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(of_part).fold(0, u32::saturating_add)
}
