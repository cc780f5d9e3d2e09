//! Packets that a host makes by itself: questions, announcements, reports.

use super::host::Interface;
use super::path::Address;
use super::plan::Tags;
use super::wire::{ARP, CUSTOMER_TAG, ICMPV6, IPV6, SERVICE_TAG, pseudo};
use crate::app::PortId;
use drivers::checksum::{fold, sum};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, Ipv4Address, Ipv6Address,
    NdiscNeighborFlags, NdiscRepr,
};

/// The longest of them: a multicast listener report behind two tags.
const MESSAGE_BYTES: usize = 22 + 40 + 8 + 28;
pub(super) const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A packet that the host wants to send: copy it to a fresh frame.
#[derive(Clone, Debug)]
pub struct Message {
    port: PortId,
    len: usize,
    bytes: [u8; MESSAGE_BYTES],
}

impl Message {
    /// By which port it leaves.
    #[must_use]
    pub const fn port(&self) -> PortId {
        self.port
    }

    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new(interface: &Interface, to: [u8; 6], ethertype: u16) -> Self {
        let mut message = Self { port: interface.port, len: 0, bytes: [0; MESSAGE_BYTES] };
        message.extend(&to);
        message.extend(&interface.mac);
        let tags: &[(u16, u16)] = match interface.tags {
            Tags::None => &[],
            Tags::One(vid) => &[(CUSTOMER_TAG, vid)],
            Tags::Two { service, customer } => &[(SERVICE_TAG, service), (CUSTOMER_TAG, customer)],
        };
        for (kind, vid) in tags {
            message.extend(&kind.to_be_bytes());
            message.extend(&vid.to_be_bytes());
        }
        message.extend(&ethertype.to_be_bytes());
        message
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    fn room(&mut self, count: usize) -> &mut [u8] {
        let start = self.len;
        self.len += count;
        &mut self.bytes[start..self.len]
    }

    fn arp(interface: &Interface, to: [u8; 6], sender: [u8; 4], asked: [u8; 4]) -> Self {
        let mut message = Self::new(interface, to, ARP);
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(interface.mac),
            source_protocol_addr: Ipv4Address::from(sender),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: Ipv4Address::from(asked),
        };
        repr.emit(&mut ArpPacket::new_unchecked(message.room(28)));
        message
    }

    fn nd(interface: &Interface, mac: [u8; 6], from: [u8; 16], to: [u8; 16], repr: NdiscRepr<'_>) -> Self {
        let mut message = Self::new(interface, mac, IPV6);
        let repr = Icmpv6Repr::Ndisc(repr);
        let length = repr.buffer_len();
        // RFC 4861 §7.1: 255 hops, so that no router can have passed it on.
        message.ipv6(length, ICMPV6, 255, from, to);
        let (from, to) = (Ipv6Address::from(from), Ipv6Address::from(to));
        let mut packet = Icmpv6Packet::new_unchecked(message.room(length));
        repr.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
        message
    }

    fn ipv6(&mut self, length: usize, next: u8, hops: u8, from: [u8; 16], to: [u8; 16]) {
        self.extend(&[0x60, 0, 0, 0]);
        self.extend(&u16::try_from(length).unwrap_or(0).to_be_bytes());
        self.extend(&[next, hops]);
        self.extend(&from);
        self.extend(&to);
    }

    /// Asks who has `asked`: everybody, or the one at `to`. `from` is our address that it is for.
    pub(super) fn question(
        interface: &Interface,
        from: Address,
        asked: Address,
        to: Option<[u8; 6]>,
    ) -> Self {
        match (from.to_v4(), asked.to_v4()) {
            (Some(from), Some(asked)) => Self::arp(interface, to.unwrap_or(BROADCAST), from, asked),
            _ => {
                let repr = NdiscRepr::NeighborSolicit {
                    target_addr: Ipv6Address::from(*asked.bytes()),
                    lladdr: Some(EthernetAddress(interface.mac).into()),
                };
                let group = solicited_node(asked);
                let address = if to.is_some() { *asked.bytes() } else { group };
                let mac = to.unwrap_or_else(|| group_mac(group));
                Self::nd(interface, mac, *from.bytes(), address, repr)
            }
        }
    }

    /// Asks whether anybody else has `own`: the ARP probe of RFC 5227 §2.1.1, the solicitation of RFC 4862 §5.4.2.
    pub(super) fn probe(interface: &Interface, own: Address) -> Self {
        if let Some(own) = own.to_v4() {
            return Self::arp(interface, BROADCAST, [0; 4], own);
        }
        let repr = NdiscRepr::NeighborSolicit { target_addr: Ipv6Address::from(*own.bytes()), lladdr: None };
        let group = solicited_node(own);
        Self::nd(interface, group_mac(group), [0; 16], group, repr)
    }

    /// Says that `own` is ours: the ARP announcement of RFC 5227 §2.3, the unsolicited advertisement of RFC 4861 §7.2.6.
    pub(super) fn announcement(interface: &Interface, own: Address) -> Self {
        if let Some(own) = own.to_v4() {
            return Self::arp(interface, BROADCAST, own, own);
        }
        let repr = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: Ipv6Address::from(*own.bytes()),
            lladdr: Some(EthernetAddress(interface.mac).into()),
        };
        Self::nd(interface, group_mac(ALL_NODES), *own.bytes(), ALL_NODES, repr)
    }

    /// Tells switches that listen (RFC 4541) which group `own` is solicited by: a version 2 report (RFC 3810 §5.2) with
    /// one record, "exclude nothing". Without it such a switch keeps solicitations from us.
    pub(super) fn report(interface: &Interface, own: Address) -> Self {
        const ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
        // Hop-by-hop: router alert 0 (RFC 2711 §2.1), then two bytes of padding.
        const ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        const CHANGE_TO_EXCLUDE: u8 = 4;
        let mut message = Self::new(interface, group_mac(ROUTERS), IPV6);
        // RFC 3810 §5.2.13: from a link-local address, or the unspecified one where there is none.
        message.ipv6(8 + 28, 0, 1, [0; 16], ROUTERS);
        message.extend(&ALERT);
        let start = message.len;
        message.extend(&[143, 0, 0, 0, 0, 0, 0, 1, CHANGE_TO_EXCLUDE, 0, 0, 0]);
        message.extend(&solicited_node(own));
        let unspecified = Address::v6([0; 16]);
        let pseudo = pseudo(unspecified, Address::v6(ROUTERS), ICMPV6, 28);
        let checksum = !fold(pseudo + sum(&message.bytes[start..message.len]));
        message.bytes[start + 2..start + 4].copy_from_slice(&checksum.to_ne_bytes());
        message
    }
}

/// The group that an address is solicited by (RFC 4291 §2.7.1).
pub(super) fn solicited_node(address: Address) -> [u8; 16] {
    let [.., a, b, c] = *address.bytes();
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}

/// The MAC address of an IPv6 group (RFC 2464 §7).
pub(super) fn group_mac(group: [u8; 16]) -> [u8; 6] {
    let [.., a, b, c, d] = group;
    [0x33, 0x33, a, b, c, d]
}
