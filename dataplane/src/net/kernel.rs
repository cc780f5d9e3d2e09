//! `shared` mode: the host as the kernel sees it, since the kernel owns the addresses.

use super::neighbours::Neighbour;
use super::plan::{Hop, HostPlan, InterfacePlan, Prefix, Tags};
use crate::app::PortId;
use drivers::link::{Link, LinkError};
use std::ops::Range;

impl HostPlan {
    /// A plan with the addresses, routes and neighbours that an interface has in the kernel at this moment.
    ///
    /// Routes by routers outside of the interface's networks are left out, but for IPv6 routers' link-local addresses.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn shared(
        port: PortId,
        link: &Link,
        listens: Vec<u16>,
        dials: Range<u16>,
    ) -> Result<Self, LinkError> {
        let usable = link.addresses()?.into_iter().filter(|address| !address.unusable);
        let addresses: Vec<Prefix> =
            usable.map(|own| Prefix { address: own.address, bits: own.bits }).collect();
        let interface = InterfacePlan {
            port,
            mac: link.mac,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            tags: Tags::None,
            addresses,
        };
        let hops = link.routes()?.into_iter().map(|route| Hop {
            network: Prefix { address: route.network, bits: route.bits },
            gateway: route.gateway,
            port,
        });
        let routes =
            hops.filter(|hop| hop.gateway.is_none_or(|gateway| interface.reaches(gateway))).collect();
        let neighbours =
            link.neighbours()?.into_iter().map(|known| (port, known.address, known.mac)).collect();
        Ok(Self {
            interfaces: vec![interface],
            routes,
            neighbours,
            shared: true,
            listens,
            dials,
            announces: false,
        })
    }
}

/// The neighbours that the kernel knows now, for [`Host::learn`](super::Host::learn). Not for a turn: it asks the kernel.
///
/// # Errors
/// When the kernel does not tell.
pub fn kernel_neighbours(link: &Link) -> Result<Vec<Neighbour>, LinkError> {
    let known = link.neighbours()?.into_iter();
    Ok(known.map(|known| Neighbour { address: known.address.into(), mac: known.mac }).collect())
}
