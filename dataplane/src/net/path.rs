//! Where a peer is: what the headers of a reply need.

use crate::app::PortId;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;

/// An IPv4 or IPv6 address in 16 bytes; IPv4 is mapped as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 16]);

/// What precedes the four bytes of a mapped IPv4 address, as a number.
const MAPPED: u128 = 0xffff;

impl Address {
    /// From the four bytes of an IPv4 header.
    #[inline]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From the sixteen bytes of an IPv6 header. A mapped address in an IPv6 header would be taken for IPv4: such
    /// packets must be refused before (RFC 4942 section 2.2).
    #[inline]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The four bytes, if this is an IPv4 address.
    #[inline]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        let [.., a, b, c, d] = self.0;
        if self.is_v4() { Some([a, b, c, d]) } else { None }
    }

    /// Whether this is an IPv4 address. As a number: comparing twelve bytes is a call of `memcmp`, several a segment.
    #[inline]
    pub const fn is_v4(self) -> bool {
        u128::from_be_bytes(self.0) >> 32 == MAPPED
    }

    /// All sixteen bytes, IPv4 mapped.
    #[inline]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// As the standard library has it.
    pub fn ip(self) -> IpAddr {
        self.to_v4().map_or_else(|| IpAddr::from(self.0), IpAddr::from)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tag control information of an 802.1Q tag. `Option<Vlan>` is two bytes.
///
/// Kept inverted: VID 0xfff is reserved (IEEE 802.1Q table 9-2), so 0xffff is no valid tag and zero is free to mean none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vlan(NonZero<u16>);

impl Vlan {
    /// From priority, DEI and VID as they are on the wire; `None` for 0xffff.
    #[inline]
    pub const fn new(tci: u16) -> Option<Self> {
        match NonZero::new(!tci) {
            Some(inverted) => Some(Self(inverted)),
            None => None,
        }
    }

    /// As on the wire.
    #[inline]
    pub const fn tci(self) -> u16 {
        !self.0.get()
    }

    /// The VLAN's number, 0 to 4095.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.tci() & 0xfff
    }
}

impl fmt::Debug for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vlan({:#06x})", self.tci())
    }
}

/// The two ECN bits of an IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The sender does not take part.
    #[default]
    NotCapable = 0,
    /// ECT(1).
    Capable1 = 1,
    /// ECT(0): what a classic sender sets.
    Capable0 = 2,
    /// Congestion experienced: a router marked the packet instead of dropping it.
    Congested = 3,
}

impl Ecn {
    /// From the low two bits of the traffic class; the rest is ignored.
    #[inline]
    pub const fn from_bits(traffic_class: u8) -> Self {
        match traffic_class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// The two bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// The way to a peer, as seen from here: by which port, between which MAC and IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Our port.
    pub port: PortId,
    /// The 802.1Q tag, if there is one.
    pub vlan: Option<Vlan>,
    /// Our MAC address.
    pub local_mac: [u8; 6],
    /// The MAC address of the peer, or of the router to it.
    pub peer_mac: [u8; 6],
    /// Our address.
    pub local: Address,
    /// The peer's address, of the same family.
    pub peer: Address,
}

const _: () = assert!(size_of::<Path>() <= 48);

impl Path {
    /// Whether the path is over IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.local.is_v4()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_family() {
        let v4 = Address::v4([192, 0, 2, 1]);
        assert!(v4.is_v4());
        assert_eq!(v4.to_v4(), Some([192, 0, 2, 1]));
        assert_eq!(v4.to_string(), "192.0.2.1");
        let v6 = Address::from("2001:db8::1".parse::<Ipv6Addr>().expect("an address"));
        assert!(!v6.is_v4());
        assert_eq!(v6.to_v4(), None);
        assert_eq!(v6.to_string(), "2001:db8::1");
    }

    #[test]
    fn a_tag_is_two_bytes_with_none() {
        assert_eq!(size_of::<Option<Vlan>>(), 2);
        for tci in [0, 1, 0x0fff, 0x6001, 0xfffe] {
            assert_eq!(Vlan::new(tci).map(Vlan::tci), Some(tci));
        }
        assert_eq!(Vlan::new(0xffff), None);
        assert_eq!(Vlan::new(0x6064).map(Vlan::vid), Some(100));
    }

    #[test]
    fn ecn_bits_are_the_low_two() {
        for bits in 0..=255u8 {
            assert_eq!(Ecn::from_bits(bits).bits(), bits & 3);
        }
    }
}
