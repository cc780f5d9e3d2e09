//! What the user says of this host.

use super::path::Address;
use crate::app::PortId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// An address and how many of its leading bits name the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address; for a network, any address in it.
    pub address: IpAddr,
    /// Bits of the network: up to 32 for IPv4, 128 for IPv6.
    pub bits: u8,
}

impl Prefix {
    /// Whether `other` lies in this network. Addresses of another family never do.
    #[must_use]
    pub fn contains(&self, other: Address) -> bool {
        let own = Address::from(self.address);
        let bits = u32::from(self.bits) + if own.is_v4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        let differ = u128::from_be_bytes(*own.bytes()) ^ u128::from_be_bytes(*other.bytes());
        own.is_v4() == other.is_v4() && differ & mask == 0
    }

    /// The directed broadcast address of an IPv4 network; none for /31 (RFC 3021) and /32.
    #[must_use]
    pub fn broadcast(&self) -> Option<Address> {
        let IpAddr::V4(address) = self.address else { return None };
        let host = u32::MAX.checked_shr(self.bits.into()).filter(|host| *host > 1)?;
        Some(Address::v4((address.to_bits() | host).to_be_bytes()))
    }
}

/// The VLAN tags of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tags {
    /// None. A tag with VID 0, which only holds a priority (IEEE 802.1Q §6.9), is taken and sent back.
    #[default]
    None,
    /// One tag (802.1Q) with this VID.
    One(u16),
    /// A service tag around a customer tag (802.1ad), by their VIDs.
    Two {
        /// The outer VID.
        service: u16,
        /// The inner VID.
        customer: u16,
    },
}

/// One port and its place in the network.
#[derive(Clone, Debug)]
pub struct InterfacePlan {
    /// The port.
    pub port: PortId,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// The VLAN it lives in.
    pub tags: Tags,
    /// Its addresses, with the networks that are reached without a router.
    pub addresses: Vec<Prefix>,
}

/// A network that is reached by a router, or straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where to.
    pub network: Prefix,
    /// The router; `None` when the network is on the link itself.
    pub gateway: Option<IpAddr>,
    /// By which port.
    pub port: PortId,
}

impl Hop {
    /// The way to everywhere, by a router.
    #[must_use]
    pub const fn default_by(gateway: IpAddr, port: PortId) -> Self {
        let everywhere = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { network: Prefix { address: everywhere, bits: 0 }, gateway: Some(gateway), port }
    }
}

/// What the user says of this host.
#[derive(Clone, Debug, Default)]
pub struct HostPlan {
    /// Its interfaces, one per port.
    pub interfaces: Vec<InterfacePlan>,
    /// Routes beyond the networks of its own addresses; a default route has zero bits.
    pub routes: Vec<Hop>,
    /// Neighbours that are known beforehand and never asked for: in `shared` mode those of the kernel.
    pub neighbours: Vec<(PortId, IpAddr, [u8; 6])>,
    /// The kernel owns the addresses: ARP, ND and ICMP are its business, and TCP is ours only at `listens` and `dials`.
    pub shared: bool,
    /// In `shared` mode: TCP ports that are listened on.
    pub listens: Vec<u16>,
    /// In `shared` mode: TCP ports that we dial from.
    pub dials: Range<u16>,
    /// Whether this host probes for its addresses and announces them: on one worker of several, that which receives
    /// what is no IP (usually queue 0).
    pub announces: bool,
}

/// A plan that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A port that is named twice.
    #[error("port {0} is given to two interfaces; give each interface a port of its own")]
    PortTwice(u8),
    /// An address that no host can have.
    #[error(
        "{0} cannot be a host's address: give one that is neither multicast, broadcast, loopback nor unspecified"
    )]
    NotAHost(IpAddr),
    /// More bits than the family has.
    #[error("{0}/{1} has too many bits: at most 32 for IPv4 and 128 for IPv6")]
    TooManyBits(IpAddr, u8),
    /// A VID that IEEE 802.1Q reserves.
    #[error("{0} is no VLAN: they go from 1 to 4094")]
    NoSuchVlan(u16),
    /// A MAC address that no interface can have.
    #[error("{0:02x?} cannot be an interface's MAC address: it is multicast or zero")]
    NotAMac([u8; 6]),
    /// A gateway that is not in a network of its port.
    #[error("the gateway {0} is in no network of its port; give an address whose prefix covers it")]
    GatewayBeyond(IpAddr),
    /// A port that no interface has.
    #[error("port {0} has no interface")]
    NoSuchPort(u8),
}

impl HostPlan {
    /// Looks at the plan before a host is made of it.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        for (rank, interface) in self.interfaces.iter().enumerate() {
            if self.interfaces[..rank].iter().any(|other| other.port == interface.port) {
                return Err(PlanError::PortTwice(interface.port.0));
            }
            interface.check()?;
        }
        for hop in &self.routes {
            check_bits(&hop.network)?;
            let interface = self.interfaces.iter().find(|interface| interface.port == hop.port);
            let interface = interface.ok_or(PlanError::NoSuchPort(hop.port.0))?;
            let Some(gateway) = hop.gateway else { continue };
            if !interface.reaches(gateway) {
                return Err(PlanError::GatewayBeyond(gateway));
            }
        }
        Ok(())
    }
}

impl InterfacePlan {
    fn check(&self) -> Result<(), PlanError> {
        if self.mac[0] & 1 == 1 || self.mac == [0; 6] {
            return Err(PlanError::NotAMac(self.mac));
        }
        let vids = match self.tags {
            Tags::None => vec![],
            Tags::One(vid) => vec![vid],
            Tags::Two { service, customer } => vec![service, customer],
        };
        if let Some(vid) = vids.into_iter().find(|vid| !(1..4095).contains(vid)) {
            return Err(PlanError::NoSuchVlan(vid));
        }
        for own in &self.addresses {
            check_bits(own)?;
            let limited = own.address == IpAddr::from([255; 4]);
            let broadcast = limited || own.broadcast() == Some(Address::from(own.address));
            let address = own.address;
            if address.is_multicast() || address.is_loopback() || address.is_unspecified() || broadcast {
                return Err(PlanError::NotAHost(address));
            }
        }
        Ok(())
    }

    /// Whether a router is on the link.
    pub(super) fn reaches(&self, gateway: IpAddr) -> bool {
        let address = Address::from(gateway);
        link_local(gateway) || self.addresses.iter().any(|own| own.contains(address))
    }
}

fn check_bits(prefix: &Prefix) -> Result<(), PlanError> {
    let most = if prefix.address.is_ipv4() { 32 } else { 128 };
    if prefix.bits > most { Err(PlanError::TooManyBits(prefix.address, prefix.bits)) } else { Ok(()) }
}

/// Every IPv6 router has a link-local address (RFC 4861 §6.1.2), which is on every link.
fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
