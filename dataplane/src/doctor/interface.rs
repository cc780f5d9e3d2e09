//! Facts about one interface, in the words of the report.

use super::Problem;
use drivers::link::{AttachMode, KernelVersion, Link, ZeroCopy};
use serde::Serialize;
use std::collections::BTreeSet;

/// The longest frame that fits one buffer: a page less the headroom (256 bytes) and the tail that the kernel keeps for its
/// own (`struct skb_shared_info`, 320 bytes). Longer ones need an `xdp.frags` program and multi-buffer sockets.
pub const LARGEST_SINGLE_BUFFER: u32 = 3520;

/// Bytes of an Ethernet header, which the MTU does not count.
pub const ETHERNET_HEADER: u32 = 14;

/// An interface.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each with its own name in the JSON")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Its driver, or its kind; empty when nothing says.
    pub driver: String,
    /// Its Ethernet address, `02:00:00:00:00:0a`.
    pub mac: String,
    /// Bytes of payload a frame may carry.
    pub mtu: u32,
    /// Bytes of the largest frame, Ethernet header included.
    pub largest_frame: u32,
    /// Whether that fits one AF_XDP buffer.
    pub fits_single_buffer: bool,
    /// Whether it is set up.
    pub up: bool,
    /// Whether there is a carrier.
    pub carrier: bool,
    /// Whether it takes frames for any address.
    pub promiscuous: bool,
    /// Receive queues in use.
    pub receive_queues: u32,
    /// Transmit queues in use.
    pub transmit_queues: u32,
    /// Receive queues that the driver could use, where it says.
    pub receive_queue_limit: Option<u32>,
    /// Receive queues that an AF_XDP socket holds now (told since Linux 6.14).
    pub held_queues: Vec<u32>,
    /// The memory node it is nearest to.
    pub numa_node: Option<u32>,
    /// The bridge, bond or team that it belongs to.
    pub master: Option<String>,
    /// The other end of a veth, when it is in this network namespace.
    pub peer: Option<Peer>,
    /// Whether the IPv4 default route goes through it.
    pub default_route: bool,
    /// XDP in the driver.
    pub native: Answer,
    /// XDP in the kernel's generic path, called skb mode.
    pub generic: Answer,
    /// AF_XDP without a copy.
    pub zero_copy: Answer,
    /// Frames in several buffers.
    pub multi_buffer: MultiBuffer,
    /// Whether transmit checksums can be left to the kernel or the device.
    pub transmit_checksum: TransmitChecksum,
    /// What XDP programs can learn of a received frame: `timestamp`, `hash`, `vlan_tag`.
    pub receive_metadata: Vec<&'static str>,
    /// The offloads that are on; `null` when the kernel does not say.
    pub offloads: Option<Vec<&'static str>>,
    /// Whether frames may arrive with checksums still to be finished.
    pub partial_checksums: bool,
    /// The XDP program on it.
    pub attached: Option<Attached>,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

/// Yes, no, or nobody knows, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The answer.
    pub verdict: Verdict,
    /// Why, when it is not yes.
    pub reason: Option<String>,
}

/// Yes, no, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// Neither is known.
    Unknown,
}

/// Frames in several buffers, by mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MultiBuffer {
    /// In copy mode: the kernel has it, and the driver hands fragments to XDP.
    pub copy: Verdict,
    /// Buffers that one zero-copy frame may span; 0 and 1 are none.
    pub zero_copy_segments: u32,
}

/// Checksums left to others on transmit (AF_XDP transmit metadata), by mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TransmitChecksum {
    /// By the kernel in copy mode.
    pub copy: bool,
    /// By the device with zero-copy.
    pub zero_copy: Verdict,
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its transmit queues in use.
    pub transmit_queues: u32,
    /// Whether it sends packets larger than the MTU, to be segmented by a NIC that is not there.
    pub tso: bool,
}

/// An XDP program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The kernel's number for it.
    pub id: u32,
    /// `native`, `skb`, `hardware` or `several`.
    pub mode: &'static str,
}

impl Interface {
    /// The report's view of `link`, one of those `here`, under `kernel`. Problems are judged later.
    #[must_use]
    pub fn of(link: &Link, here: &[Link], kernel: KernelVersion, routes: &BTreeSet<String>) -> Self {
        let by_index = |index: u32| here.iter().find(|other| other.index == index);
        let largest_frame = link.mtu.saturating_add(ETHERNET_HEADER);
        let peer = link.peer.filter(|_| link.driver == "veth").and_then(by_index);
        let offloads = &link.offloads;
        Self {
            name: link.name.clone(),
            index: link.index,
            driver: link.driver.clone(),
            mac: link.mac.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: link.mtu,
            largest_frame,
            fits_single_buffer: largest_frame <= LARGEST_SINGLE_BUFFER,
            up: link.up,
            carrier: link.running,
            promiscuous: link.promiscuous,
            receive_queues: link.receive_queues,
            transmit_queues: link.transmit_queues,
            receive_queue_limit: link.receive_queue_limit,
            held_queues: link.held_queues.clone(),
            numa_node: link.numa_node,
            master: link.master.and_then(by_index).map(|master| master.name.clone()),
            peer: peer.map(|peer| Peer {
                name: peer.name.clone(),
                transmit_queues: peer.transmit_queues,
                tso: peer.offloads.tso,
            }),
            default_route: routes.contains(&link.name),
            native: native(link),
            generic: generic(kernel),
            zero_copy: zero_copy(link.zero_copy_on(kernel)),
            multi_buffer: MultiBuffer {
                copy: if kernel < KernelVersion::new(6, 6) {
                    Verdict::No
                } else {
                    told(link.xdp.known, link.xdp.receive_fragments)
                },
                zero_copy_segments: link.xdp.zero_copy_segments,
            },
            transmit_checksum: TransmitChecksum {
                copy: kernel >= KernelVersion::new(6, 11),
                zero_copy: told(link.xdp.known, link.xdp.transmit_checksum),
            },
            receive_metadata: named([
                (link.xdp.receive_timestamp, "timestamp"),
                (link.xdp.receive_hash, "hash"),
                (link.xdp.receive_vlan_tag, "vlan_tag"),
            ]),
            offloads: offloads.known.then(|| {
                named([
                    (offloads.receive_checksum, "rx_checksum"),
                    (offloads.transmit_checksum, "tx_checksum"),
                    (offloads.scatter_gather, "scatter_gather"),
                    (offloads.tso, "tso"),
                    (offloads.gso, "gso"),
                    (offloads.gro, "gro"),
                    (offloads.hardware_gro, "hardware_gro"),
                    (offloads.lro, "lro"),
                    (offloads.vlan_strip, "rx_vlan_strip"),
                    (offloads.vlan_insert, "tx_vlan_insert"),
                ])
            }),
            partial_checksums: link.partial_checksums(),
            attached: link.attached.map(|program| Attached {
                id: program.id,
                mode: match program.mode {
                    AttachMode::Native => "native",
                    AttachMode::Skb => "skb",
                    AttachMode::Hardware => "hardware",
                    AttachMode::Several => "several",
                },
            }),
            problems: Vec::new(),
        }
    }

    /// Whether the offload of that name is known to be on.
    #[must_use]
    pub fn offload(&self, name: &str) -> bool {
        self.offloads.as_ref().is_some_and(|on| on.contains(&name))
    }
}

impl Answer {
    const YES: Self = Self { verdict: Verdict::Yes, reason: None };

    fn because(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: Some(reason.into()) }
    }
}

fn told(known: bool, can: bool) -> Verdict {
    match (known, can) {
        (false, _) => Verdict::Unknown,
        (true, true) => Verdict::Yes,
        (true, false) => Verdict::No,
    }
}

fn native(link: &Link) -> Answer {
    let xdp = &link.xdp;
    let driver = if link.driver.is_empty() { "its driver" } else { &link.driver };
    match (told(xdp.known, xdp.basic), xdp.redirect) {
        (Verdict::Yes, true) => Answer::YES,
        (Verdict::Yes, false) => Answer::because(
            Verdict::No,
            format!("{driver} runs XDP, but without the redirect that AF_XDP needs"),
        ),
        (Verdict::No, _) => Answer::because(Verdict::No, format!("{driver} has no XDP of its own")),
        (Verdict::Unknown, _) => Answer::because(
            Verdict::Unknown,
            "this kernel cannot be asked (before Linux 6.3); ringway tries it first",
        ),
    }
}

/// Any device has generic XDP, and redirects from it to AF_XDP sockets, since the two exist.
fn generic(kernel: KernelVersion) -> Answer {
    if kernel >= KernelVersion::new(4, 18) {
        Answer::YES
    } else {
        Answer::because(Verdict::No, format!("AF_XDP came with Linux 4.18; this is {kernel}"))
    }
}

fn zero_copy(verdict: ZeroCopy) -> Answer {
    match verdict {
        ZeroCopy::Yes => Answer::YES,
        ZeroCopy::No(reason) => Answer::because(Verdict::No, reason),
        ZeroCopy::Unknown(reason) => Answer::because(Verdict::Unknown, reason),
    }
}

fn named<const N: usize>(facts: [(bool, &'static str); N]) -> Vec<&'static str> {
    facts.into_iter().filter(|&(is, _)| is).map(|(_, name)| name).collect()
}
