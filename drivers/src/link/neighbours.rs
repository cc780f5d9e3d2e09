//! What the kernel knows of an interface's place in the network: its addresses, neighbours and routes
//! (`include/uapi/linux/{if_addr,neighbour,rtnetlink}.h`).
//!
//! For a program that shares the interface with the kernel: it dials from the kernel's address, by the kernel's routes,
//! to MAC addresses that the kernel has asked for. Reading needs no privilege; [`Link::resolve`] needs `CAP_NET_ADMIN`.

use super::netlink::{Attributes, Conversation, Scope, attribute};
use super::{Link, LinkError};
use std::io;
use std::net::IpAddr;

const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

/// `struct ndmsg`: family, three bytes of padding, index, state, flags, type.
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
/// Incomplete and failed: states without an address to send to.
const NUD_UNKNOWN: u16 = 0x01 | 0x20;
const NUD_NOARP: u16 = 0x40;

/// `struct rtmsg`: family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags.
const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RT_TABLE_MAIN: u32 = 254;
const RTN_UNICAST: u8 = 1;
/// `struct rtnexthop`: length, flags, weight, index.
const RTNEXTHOP: usize = 8;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The address itself.
    pub address: IpAddr,
    /// Bits of it that name the network on the link.
    pub bits: u8,
    /// Whether the kernel does not use it: duplicate address detection still runs, or failed.
    pub unusable: bool,
}

/// A neighbour whose MAC address the kernel knows, however long ago it was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// A route of the main table that leaves by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRoute {
    /// The network that it leads to.
    pub network: IpAddr,
    /// Bits of the network; 0 for a default route.
    pub bits: u8,
    /// The router; `None` for a network on the link.
    pub gateway: Option<IpAddr>,
    /// The address that the kernel sends from, when the route says so.
    pub source: Option<IpAddr>,
    /// Among routes to the same network the one with the smallest is taken.
    pub metric: u32,
}

impl Link {
    /// Its addresses, as they are now.
    ///
    /// # Errors
    /// The kernel's refusal of the question.
    pub fn addresses(&self) -> Result<Vec<LinkAddress>, LinkError> {
        let answers = self.dump("reading the addresses", RTM_GETADDR, IFADDRMSG)?;
        Ok(answers.iter().filter_map(|answer| address(answer, self.index)).collect())
    }

    /// The neighbours on it that the kernel knows, as they are now.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    pub fn neighbours(&self) -> Result<Vec<LinkNeighbour>, LinkError> {
        let answers = self.dump("reading the neighbours", RTM_GETNEIGH, NDMSG)?;
        Ok(answers.iter().filter_map(|answer| neighbour(answer, self.index)).collect())
    }

    /// The routes by it, as they are now; the kernel's own order among equals is by metric.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    pub fn routes(&self) -> Result<Vec<LinkRoute>, LinkError> {
        let answers = self.dump("reading the routes", RTM_GETROUTE, RTMSG)?;
        let mut routes: Vec<LinkRoute> =
            answers.iter().filter_map(|answer| route(answer, self.index)).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.bits), route.metric));
        Ok(routes)
    }

    /// Has the kernel ask for a neighbour, as if it had a packet for it. The answer is among
    /// [`neighbours`](Self::neighbours) a moment later, if there is one.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, and when the interface is gone.
    pub fn resolve(&self, address: IpAddr) -> Result<(), LinkError> {
        let refused = |source| self.refused("asking for a neighbour", source);
        let (family, bytes) = match address {
            IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
        };
        let mut body = vec![u8::try_from(family).unwrap_or(0), 0, 0, 0];
        body.extend(self.index.to_ne_bytes());
        body.extend([0, 0, NTF_USE, 0]);
        body.extend(attribute(NDA_DST, &bytes).map_err(refused)?);
        let asked = Conversation::route().and_then(|route| route.ask(RTM_NEWNEIGH, Scope::Create, body));
        asked.map(drop).map_err(refused)
    }

    fn dump(&self, step: &'static str, kind: u16, header: usize) -> Result<Vec<Vec<u8>>, LinkError> {
        // Both families at once: the unspecified one, 0.
        let answers = Conversation::route().and_then(|route| route.ask(kind, Scope::Dump, vec![0; header]));
        answers.map_err(|source| self.refused(step, source))
    }

    fn refused(&self, step: &'static str, source: io::Error) -> LinkError {
        LinkError::Refused { name: self.name.clone(), step, source }
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn word(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?))
}

fn address(message: &[u8], index: u32) -> Option<LinkAddress> {
    let attributes = Attributes::after(IFADDRMSG, message)?;
    if word(message, 4)? != index {
        return None;
    }
    // Between two points IFA_ADDRESS is the other end; IFA_LOCAL then is ours.
    let own = attributes.bytes(IFA_LOCAL).or_else(|| attributes.bytes(IFA_ADDRESS))?;
    let flags = attributes.u32(IFA_FLAGS).unwrap_or_else(|| message[2].into());
    let unusable = flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE) != 0;
    Some(LinkAddress { address: ip(own)?, bits: message[1], unusable })
}

fn neighbour(message: &[u8], index: u32) -> Option<LinkNeighbour> {
    let attributes = Attributes::after(NDMSG, message)?;
    let state = u16::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    // The kernel also lists groups, which it computes and need not ask for (`NUD_NOARP`).
    if word(message, 4)? != index || state == 0 || state & (NUD_UNKNOWN | NUD_NOARP) != 0 {
        return None;
    }
    let mac = attributes.bytes(NDA_LLADDR)?.try_into().ok()?;
    Some(LinkNeighbour { address: ip(attributes.bytes(NDA_DST)?)?, mac })
}

fn route(message: &[u8], index: u32) -> Option<LinkRoute> {
    let attributes = Attributes::after(RTMSG, message)?;
    let (family, bits, table, kind) =
        (*message.first()?, *message.get(1)?, *message.get(4)?, *message.get(7)?);
    if kind != RTN_UNICAST || attributes.u32(RTA_TABLE).unwrap_or_else(|| table.into()) != RT_TABLE_MAIN {
        return None;
    }
    let any = match i32::from(family) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let gateway = if attributes.u32(RTA_OIF) == Some(index) {
        gateway(&attributes)
    } else {
        // Of several ways the first that leaves by this interface.
        hop_by(attributes.bytes(RTA_MULTIPATH)?, index)?
    };
    let network = attributes.bytes(RTA_DST).map_or(Some(any), ip)?;
    let source = attributes.bytes(RTA_PREFSRC).and_then(ip);
    Some(LinkRoute { network, bits, gateway, source, metric: attributes.u32(RTA_PRIORITY).unwrap_or(0) })
}

/// The router, also one of the other family (RFC 5549): `struct rtvia` is a family and an address.
fn gateway(attributes: &Attributes) -> Option<IpAddr> {
    let via = || attributes.bytes(RTA_VIA).and_then(|via| via.get(2..));
    attributes.bytes(RTA_GATEWAY).or_else(via).and_then(ip)
}

/// The router of the next hop by this interface; `None` without one.
#[expect(clippy::option_option, reason = "no such hop, and a hop without a router")]
fn hop_by(mut hops: &[u8], index: u32) -> Option<Option<IpAddr>> {
    while let Some(header) = hops.first_chunk::<RTNEXTHOP>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let hop = hops.get(..length).filter(|hop| hop.len() >= RTNEXTHOP)?;
        if word(hop, 4) == Some(index) {
            return Some(Attributes::after(RTNEXTHOP, hop).as_ref().and_then(gateway));
        }
        hops = hops.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let encoded = attributes.iter().flat_map(|(kind, value)| attribute(*kind, value).expect("short"));
        header.iter().copied().chain(encoded).collect()
    }

    const FOUR: [u8; 4] = [192, 0, 2, 7];
    const SIX: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

    fn at(index: u32) -> [u8; 4] {
        index.to_ne_bytes()
    }

    #[test]
    fn addresses_are_ours_and_usable() {
        let header = [&[2, 24, 0x80, 0][..], &at(3)].concat();
        let point = message(&header, &[(IFA_ADDRESS, &[192, 0, 2, 8]), (IFA_LOCAL, &FOUR)]);
        let expected = LinkAddress { address: FOUR.into(), bits: 24, unusable: false };
        assert_eq!(address(&point, 3), Some(expected));
        assert_eq!(address(&point, 4), None, "another interface's");
        let flags = (IFA_F_TENTATIVE | 0x80).to_ne_bytes();
        let tentative =
            message(&[&[10, 64, 0, 0][..], &at(3)].concat(), &[(IFA_ADDRESS, &SIX), (IFA_FLAGS, &flags)]);
        let expected = LinkAddress { address: SIX.into(), bits: 64, unusable: true };
        assert_eq!(address(&tentative, 3), Some(expected));
    }

    #[test]
    fn only_neighbours_with_an_address_count() {
        let mac = [2, 0, 0, 0, 0, 7];
        let told = |state: u16, attributes: &[(u16, &[u8])]| {
            let header = [&[2, 0, 0, 0][..], &at(3), &state.to_ne_bytes(), &[0, 1]].concat();
            neighbour(&message(&header, attributes), 3)
        };
        let both: &[(u16, &[u8])] = &[(NDA_DST, &FOUR), (NDA_LLADDR, &mac)];
        for state in [0x02, 0x04, 0x08, 0x10, 0x80] {
            assert_eq!(told(state, both), Some(LinkNeighbour { address: FOUR.into(), mac }), "{state:#x}");
        }
        for state in [0, 0x01, 0x20, 0x40] {
            assert_eq!(told(state, both), None, "{state:#x}");
        }
        assert_eq!(told(2, &both[..1]), None);
        assert_eq!(told(2, &[(NDA_DST, &FOUR), (NDA_LLADDR, &mac[..4])]), None);
    }

    #[test]
    fn routes_are_of_the_main_table_and_by_this_interface() {
        let header = |table: u8, kind: u8| [2, 16, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
        let gate = [192, 0, 2, 1];
        let attributes: &[(u16, &[u8])] =
            &[(RTA_DST, &[10, 1, 0, 0]), (RTA_OIF, &at(3)), (RTA_GATEWAY, &gate), (RTA_PRIORITY, &at(100))];
        let expected = LinkRoute {
            network: [10, 1, 0, 0].into(),
            bits: 16,
            gateway: Some(gate.into()),
            source: None,
            metric: 100,
        };
        assert_eq!(route(&message(&header(254, 1), attributes), 3), Some(expected));
        assert_eq!(route(&message(&header(254, 1), attributes), 4), None, "another interface's");
        assert_eq!(route(&message(&header(255, 1), attributes), 3), None, "the local table's");
        assert_eq!(route(&message(&header(254, 6), attributes), 3), None, "a blackhole");

        let hop = |index: u32, gate: &[u8]| {
            let inner = attribute(RTA_GATEWAY, gate).expect("short");
            let length = u16::try_from(RTNEXTHOP + inner.len()).expect("short").to_ne_bytes();
            [&length[..], &[0, 0], &at(index), &inner].concat()
        };
        let hops = [hop(4, &[192, 0, 2, 9]), hop(3, &gate)].concat();
        let several: &[(u16, &[u8])] = &[(RTA_MULTIPATH, &hops)];
        let default = message(&[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0], several);
        let found = route(&default, 3).expect("a route");
        assert_eq!((found.network, found.bits, found.gateway), ([0; 4].into(), 0, Some(gate.into())));
        assert_eq!(route(&default, 5), None);
    }

    #[test]
    fn garbage_is_nothing() {
        for length in 0..40 {
            for byte in [0, 1, 2, 0xff] {
                let bytes = vec![byte; length];
                let index = u32::from_ne_bytes([byte; 4]);
                assert_eq!(
                    (address(&bytes, index), neighbour(&bytes, index), route(&bytes, index)),
                    (None, None, None)
                );
                assert!(hop_by(&bytes, index).is_none_or(|hop| hop.is_none()));
            }
        }
    }
}
