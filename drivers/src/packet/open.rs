//! What a user can ask of a packet port, and the steps that open one of its sockets.

use super::ring::{self, ReceiveRing, SLOT, TransmitRing};
use crate::error::OpenError;
use crate::spec::{PortSpec, SpecError};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, netdevice, socket_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One socket of a packet port, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketPlan {
    /// The interface's name.
    pub interface: String,
    /// Which of the port's sockets: 0 up to `queues`.
    pub queue: u32,
    /// How many sockets share the traffic by the hash of its flow (`PACKET_FANOUT`); 1 for no sharing.
    pub queues: u32,
    /// The number of their group, which no other program in this namespace may use; for `queues > 1`.
    pub fanout_group: u16,
    /// Whether frames to all addresses are received, not only to the interface's own.
    pub promiscuous: bool,
    /// Slots of each ring: a power of two from 64 to 16384. A slot takes 2 KiB.
    pub ring: u32,
}

impl PacketPlan {
    /// One socket that receives everything, with the default rings.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queue: 0,
            queues: 1,
            fanout_group: 0,
            promiscuous: true,
            ring: 1024,
        }
    }

    /// Reads `packet:eth0,queues=2,ring=1024,promiscuous=off,group=7`; every option may be left out.
    ///
    /// The plan is that of queue 0; those of the others differ in `queue` alone.
    ///
    /// # Errors
    /// [`SpecError`] naming the option and what it may be.
    pub fn from_spec(spec: &PortSpec) -> Result<Self, SpecError> {
        spec.only(&["queues", "ring", "promiscuous", "group"])?;
        let mut plan = Self { fanout_group: likely_unused(&spec.device), ..Self::new(&spec.device) };
        if let Some(queues) = spec.option("queues", "how many sockets, 1 to 256")? {
            plan.queues = queues;
        }
        if let Some(ring) = spec.option("ring", "a power of two from 64 to 16384")? {
            plan.ring = ring;
        }
        if let Some(group) = spec.option("group", "a number up to 65535")? {
            plan.fanout_group = group;
        }
        match spec.option::<String>("promiscuous", "on or off")?.as_deref() {
            None | Some("on") => {}
            Some("off") => plan.promiscuous = false,
            Some(other) => return Err(SpecError(format!("{spec}: promiscuous={other} is not on or off"))),
        }
        plan.check().map_err(|(option, rule)| SpecError(format!("{spec}: {option} is not {rule}")))?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), (String, &'static str)> {
        if !(1..=256).contains(&self.queues) {
            return Err((format!("queues={}", self.queues), "1 to 256"));
        }
        if self.queue >= self.queues {
            return Err((format!("queue {} of {}", self.queue, self.queues), "below the number of queues"));
        }
        if !self.ring.is_power_of_two() || !(64..=16384).contains(&self.ring) {
            return Err((format!("ring={}", self.ring), "a power of two from 64 to 16384"));
        }
        Ok(())
    }
}

/// A group number from the process and the interface (FNV-1a), so that two programs, or two ports, rarely meet.
fn likely_unused(interface: &str) -> u16 {
    let seed = std::process::id().to_ne_bytes();
    let hash = seed
        .iter()
        .chain(interface.as_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    u16::try_from((hash >> 16) ^ (hash & 0xffff)).unwrap_or_default()
}

/// An open socket with its rings, and the one beside it.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Receives, and sends what fits a slot.
    pub(super) ring: OwnedFd,
    /// Sends what does not: on a socket with a transmit ring every `sendmsg` means the ring
    /// (`packet_sendmsg`, `net/packet/af_packet.c`).
    pub(super) large: OwnedFd,
    pub(super) inbound: ReceiveRing,
    pub(super) outbound: TransmitRing,
    /// The interface's number.
    pub(super) index: u32,
    pub(super) link: Link,
}

/// What an interface is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Whether it was set up by the administrator.
    pub(super) up: bool,
    /// Bytes of the longest packet behind the Ethernet header.
    pub(super) mtu: u32,
}

/// Bytes that may wait in the kernel on the way in and out. The default (208 KiB) holds three packets of 64 KiB.
const BUFFER: usize = 4 << 20;
/// The rings' memory is made of blocks of contiguous pages.
const BLOCK: u32 = 32 * 1024;
const ETH_P_ALL: u16 = 3;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

/// Opens all of it. Nothing is received before the last step but one, the bind.
pub(super) fn open(plan: &PacketPlan) -> Result<Sockets, OpenError> {
    let device = plan.interface.as_str();
    plan.check().map_err(|(option, rule)| {
        OpenError::refused(device, "planning the packet socket", format!("{option} is not {rule}"))
    })?;
    let ring = socket(device)?;
    let large = socket(device)?;
    let index = netdevice::name_to_index(&ring, device).map_err(|errno| {
        OpenError::new(device, "looking the interface up", errno.into()).hint(format!(
            "There is no interface \"{device}\" in this network namespace; `ip -brief link` lists those that there are."
        ))
    })?;
    let link = check_link(ring.as_fd(), device)?;
    let bound =
        i32::try_from(index).map_err(|_| OpenError::refused(device, "binding", "its number is too large"))?;
    prepare(ring.as_fd(), plan)?;
    let (inbound, outbound) = ring::map_rings(ring.as_fd(), plan.ring)
        .map_err(|error| OpenError::new(device, "mapping the packet socket's rings", error))?;
    option(large.as_fd(), device, libc::PACKET_VNET_HDR, &[1], "asking for unfinished packets as they are")?;
    for (fd, protocol) in [(&large, 0), (&ring, ETH_P_ALL)] {
        ring::bind(fd.as_fd(), protocol, bound).map_err(|error| {
            OpenError::new(device, "binding the packet socket", error)
                .hint("The interface was deleted or renamed while it was being opened.")
        })?;
    }
    share(ring.as_fd(), plan, index)?;
    Ok(Sockets { ring, large, inbound, outbound, index, link })
}

fn socket(device: &str) -> Result<OwnedFd, OpenError> {
    // Protocol 0: nothing arrives before the rings stand.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let none: Option<Protocol> = None;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, none).map_err(|errno| {
        let error = OpenError::new(device, "opening a packet socket", errno.into());
        match errno {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => error.hint(
                "AF_PACKET needs the capability CAP_NET_RAW in the interface's network namespace: run as root, or \
                 give it to the program (`ringway doctor` says how).",
            ),
            rustix::io::Errno::AFNOSUPPORT => {
                error.hint("This kernel has no packet sockets: `modprobe af_packet`.")
            }
            _ => error,
        }
    })?;
    // Beyond the system's limit only with CAP_NET_ADMIN; as much as the limit allows will do.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, BUFFER));
    Ok(socket)
}

/// Refuses an interface that is down or carries no Ethernet frames.
fn check_link(fd: BorrowedFd<'_>, device: &str) -> Result<Link, OpenError> {
    let failed = |error| OpenError::new(device, "asking for the interface's state", error);
    let [low, high, ..] = ring::ask_interface(fd, libc::SIOCGIFHWADDR, device).map_err(failed)?;
    let kind = u16::from_ne_bytes([low, high]);
    if kind != ARPHRD_ETHER && kind != ARPHRD_LOOPBACK {
        let why = format!("it carries no Ethernet frames (hardware type {kind})");
        return Err(OpenError::refused(device, "opening a packet port", why).hint(
            "Tunnels and tun devices without an Ethernet header cannot be a port; a tap, veth or NIC can.",
        ));
    }
    let link = link(fd, device).map_err(failed)?;
    if !link.up {
        let error = io::Error::from_raw_os_error(libc::ENETDOWN);
        return Err(OpenError::new(device, "opening a packet port", error)
            .hint(format!("The interface is down: `ip link set dev {device} up`.")));
    }
    Ok(link)
}

/// Whether the interface is up, and its MTU.
pub(super) fn link(fd: BorrowedFd<'_>, device: &str) -> io::Result<Link> {
    let [low, high, ..] = ring::ask_interface(fd, libc::SIOCGIFFLAGS, device)?;
    let [a, b, c, d, ..] = ring::ask_interface(fd, libc::SIOCGIFMTU, device)?;
    let flags = i32::from(u16::from_ne_bytes([low, high]));
    Ok(Link { up: flags & libc::IFF_UP != 0, mtu: u32::from_ne_bytes([a, b, c, d]) })
}

fn option(fd: BorrowedFd<'_>, device: &str, option: i32, words: &[u32], step: &str) -> Result<(), OpenError> {
    ring::set_option(fd, option, words).map_err(|error| {
        let memory = error.raw_os_error() == Some(libc::ENOMEM);
        let old = error.raw_os_error() == Some(libc::ENOPROTOOPT);
        let error = OpenError::new(device, step, error);
        match (memory, old) {
            (true, _) => {
                error.hint("The kernel found no memory for the rings: ask for less with `ring=256`.")
            }
            (_, true) => error.hint("This kernel is too old: PACKET_IGNORE_OUTGOING came with Linux 4.20."),
            _ => error,
        }
    })
}

/// Everything that must be set before the bind; most of it before the rings.
fn prepare(fd: BorrowedFd<'_>, plan: &PacketPlan) -> Result<(), OpenError> {
    let device = plan.interface.as_str();
    let slot = u32::try_from(SLOT).expect("2 KiB");
    let per_block = BLOCK / slot;
    // `struct tpacket_req`: bytes of a block, blocks, bytes of a slot, slots.
    let request = [BLOCK, plan.ring / per_block, slot, plan.ring];
    for (name, words, step) in [
        (libc::PACKET_VERSION, &[1][..], "choosing TPACKET_V2"),
        (libc::PACKET_VNET_HDR, &[1], "asking for unfinished packets as they are"),
        (libc::PACKET_LOSS, &[1], "asking that a refused packet does not stop the ring"),
        (libc::PACKET_COPY_THRESH, &[1], "asking for packets longer than a slot"),
        (libc::PACKET_IGNORE_OUTGOING, &[1], "leaving out what this machine sends"),
        (libc::PACKET_RX_RING, &request, "making the receive ring"),
        (libc::PACKET_TX_RING, &request, "making the transmit ring"),
    ] {
        option(fd, device, name, words, step)?;
    }
    Ok(())
}

/// Joins the group of sockets that share the traffic, and lifts the address filter, which the kernel puts back when the
/// socket is closed.
fn share(fd: BorrowedFd<'_>, plan: &PacketPlan, index: u32) -> Result<(), OpenError> {
    let device = plan.interface.as_str();
    if plan.queues > 1 {
        // Without the flag the group would see what this machine sends, whatever its sockets say. No
        // PACKET_FANOUT_FLAG_DEFRAG: it would put fragments together, and a wire does not.
        let kind = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        let words = [u32::from(plan.fanout_group) | kind << 16];
        ring::set_option(fd, libc::PACKET_FANOUT, &words).map_err(|error| {
            let step = format!("joining the fanout group {}", plan.fanout_group);
            OpenError::new(device, step, error).hint(
                "Another program, or another port, uses a group of this number in this network namespace, or the \
                 group is full: choose another with `group=N`.",
            )
        })?;
    }
    if plan.promiscuous {
        // `struct packet_mreq`: interface, kind and length of the address, address.
        let kind = u16::try_from(libc::PACKET_MR_PROMISC).expect("1").to_ne_bytes();
        let words = [index, u32::from_ne_bytes([kind[0], kind[1], 0, 0]), 0, 0];
        option(fd, device, libc::PACKET_ADD_MEMBERSHIP, &words, "receiving frames to all addresses")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<PacketPlan, SpecError> {
        PacketPlan::from_spec(&text.parse().expect("well formed"))
    }

    #[test]
    fn options_are_read() {
        let read = plan("packet:eth0,queues=2,ring=256,promiscuous=off,group=7").expect("good");
        let same = PacketPlan {
            queues: 2,
            ring: 256,
            promiscuous: false,
            fanout_group: 7,
            ..PacketPlan::new("eth0")
        };
        assert_eq!(read, same);
        assert_eq!(plan("eth0").expect("good").fanout_group, plan("eth0").expect("good").fanout_group);
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, words) in [
            ("packet:eth0,queues=0", "queues=0 is not 1 to 256"),
            ("packet:eth0,ring=100", "ring=100 is not a power of two"),
            ("packet:eth0,ring=32768", "ring=32768 is not a power of two"),
            ("packet:eth0,promiscuous=yes", "promiscuous=yes is not on or off"),
            ("packet:eth0,group=70000", "group=70000 is not a number up to 65535"),
            ("packet:eth0,mode=copy", "unknown option \"mode\""),
        ] {
            let error = plan(text).expect_err("bad").0;
            assert!(error.contains(words), "{error}");
        }
    }
}
