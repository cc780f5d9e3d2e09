//! Which frames of a port are ours, and which the kernel keeps.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Endpoints that one program can tell apart (`MAX_ENDPOINTS` in `bpf/port.bpf.c`).
pub const MAX_ENDPOINTS: usize = 8;

/// Which frames of a port are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Empty: the whole port.
    endpoints: Vec<Endpoint>,
}

impl Filter {
    /// Every frame is ours, and nothing of it is parsed. For a forwarder, which owns its ports.
    #[must_use]
    pub fn whole_port() -> Self {
        Self { endpoints: Vec::new() }
    }

    /// Only TCP to these endpoints is ours (and what else comes for an address of [our own](Endpoint::own)), over IPv4 or IPv6 and under up to two VLAN tags; everything else
    /// still reaches the kernel. For a server, which may share the machine's only interface and address.
    ///
    /// Frames with IPv6 extension headers, and fragments other than the first, are the kernel's. Of a tag
    /// that the device strips before XDP sees the frame nothing is known.
    ///
    /// # Errors
    /// When there is no endpoint, more than [`MAX_ENDPOINTS`], one whose address is not a single host's, or a
    /// [shared](Endpoint::shared) one without a port, which would take SSH away too.
    pub fn flows(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Self, FilterError> {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        if endpoints.is_empty() {
            return Err(FilterError::Empty);
        }
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(FilterError::TooMany(endpoints.len()));
        }
        for endpoint in &endpoints {
            let address = endpoint.address;
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(FilterError::NotAHost(address));
            }
            if endpoint.port == 0 && endpoint.owner == Owner::Kernel {
                return Err(FilterError::EveryPort(address));
            }
        }
        Ok(Self { endpoints })
    }

    /// The endpoints whose flows are ours; empty when the whole port is.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.endpoints.is_empty() {
            return out.write_str("the whole port");
        }
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            write!(out, "{}{endpoint}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// An address and TCP port that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: IpAddr,
    port: u16,
    owner: Owner,
}

/// Who answers for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Kernel,
    Ourselves,
}

impl Endpoint {
    /// A port of an address that the kernel has too. The kernel goes on answering ARP, neighbour
    /// solicitations and pings for it.
    #[must_use]
    pub fn shared(at: SocketAddr) -> Self {
        Self { address: at.ip().to_canonical(), port: at.port(), owner: Owner::Kernel }
    }

    /// A port of an address that the kernel does not have; 0 for none in particular, as a client has. All TCP to the
    /// address is ours whatever its port, ARP, IPv6 neighbour solicitations (to its solicited-node group too) and ICMP as
    /// well, since nobody else would answer them; and so is what says that somebody else has the address.
    #[must_use]
    pub fn own(at: SocketAddr) -> Self {
        Self { address: at.ip().to_canonical(), port: at.port(), owner: Owner::Ourselves }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The TCP port; 0 for every port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the kernel does not have this address.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.owner == Owner::Ourselves
    }

    /// The address as the program compares it: four words in network byte order, IPv4 mapped into IPv6.
    pub(super) fn words(&self) -> [u32; 4] {
        let ipv6: Ipv6Addr = match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let bytes = ipv6.octets();
        std::array::from_fn(|i| u32::from_ne_bytes(std::array::from_fn(|j| bytes[4 * i + j])))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (0, address) => write!(out, "{address} (every TCP port)"),
            (port, address) => write!(out, "{}", SocketAddr::new(address, port)),
        }
    }
}

/// Why a list of endpoints is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There was nothing to take.
    #[error("a filter for flows needs at least one endpoint; to take every frame, take the whole port")]
    Empty,
    /// More endpoints than the program has room for.
    #[error(
        "a filter has room for {MAX_ENDPOINTS} endpoints, and {0} were asked for; use one port of the address for several services"
    )]
    TooMany(usize),
    /// An address that does not name one host on a network.
    #[error("{0} is not the address of one host on a network: give the address that clients connect to")]
    NotAHost(IpAddr),
    /// Every port of an address that the kernel uses too.
    #[error(
        "taking every TCP port of {0}, which the kernel uses too, would cut off SSH: name one port, or use an address of its own"
    )]
    EveryPort(IpAddr),
}
