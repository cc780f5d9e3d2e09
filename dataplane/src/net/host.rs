//! What a frame is, and who sees to it.

use super::claim::{Claim, Conflict};
use super::errors::{Limiter, TcpError};
use super::message::Message;
use super::neighbours::{Found, Neighbour, Neighbours};
use super::path::{Address, Ecn, Path, Vlan};
use super::plan::{Hop, HostPlan, InterfacePlan, PlanError, Prefix, Tags};
use super::wire::{self, Datagram, Link};
use crate::app::PortId;
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{Frame, Offload};
use std::net::IpAddr;
use std::ops::Range;

/// What a frame was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A TCP segment for us, its checksum verified (or left undone by a peer on this machine, which damages nothing).
    Tcp {
        /// The way back.
        path: Path,
        /// Where in the frame the TCP header begins and the segment ends.
        segment: Range<usize>,
        /// The ECN bits it came with.
        ecn: Ecn,
    },
    /// The frame has become the answer: send it back by the port it came in by.
    Answer,
    /// An ICMP error about one of our segments. The frame is done with: deliver it.
    TcpError(TcpError),
    /// A neighbour that answered or moved; on another worker somebody may wait for it too ([`Host::learn`]). The frame is
    /// done with.
    Learnt(Neighbour),
    /// The host has what it brought, and nobody else need know. The frame is done with.
    Taken,
    /// Nothing for us.
    Discard(Reason),
}

/// The way to a peer that is to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This way.
    Path(Path),
    /// A neighbour is being asked for: try again in a few milliseconds.
    Asked,
    /// The neighbour on the way did not answer; for three seconds it is not asked again.
    Silent,
    /// No network of ours has it, and no route leads there.
    NoRoute,
}

/// What a host did besides TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// ARP requests and neighbour solicitations that were answered.
    pub resolutions: u64,
    /// Echo requests that were answered.
    pub echoes: u64,
    /// ICMP errors that were sent.
    pub errors: u64,
    /// ICMP errors about our segments that were handed on.
    pub tcp_errors: u64,
    /// Times that somebody else used an address of ours.
    pub conflicts: u64,
}

/// One port and its place in the network.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) port: PortId,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    pub(super) tags: Tags,
    pub(super) addresses: Vec<Own>,
}

/// An address of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) address: Address,
    prefix: Prefix,
    broadcast: Option<Address>,
}

impl Interface {
    fn new(plan: &InterfacePlan) -> Self {
        let own = |prefix: &Prefix| Own {
            address: prefix.address.into(),
            prefix: *prefix,
            broadcast: prefix.broadcast(),
        };
        Self {
            port: plan.port,
            mac: plan.mac,
            mtu: plan.mtu,
            tags: plan.tags,
            addresses: plan.addresses.iter().map(own).collect(),
        }
    }

    #[inline]
    pub(super) fn has(&self, address: Address) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    fn covers(&self, address: Address) -> bool {
        self.addresses.iter().any(|own| own.prefix.contains(address))
    }

    /// Whether a packet from `peer` is a lie: no host sends from there, or only we do.
    #[inline]
    fn is_martian(&self, peer: Address) -> bool {
        wire::never_a_source(peer)
            || self.addresses.iter().any(|own| own.address == peer || own.broadcast == Some(peer))
    }

    /// Our address to speak to `peer` from: one in its network, else one of its kind (RFC 6724, as far as a server needs).
    pub(super) fn source_for(&self, peer: Address) -> Option<Address> {
        let local = |address: Address| address.bytes().starts_with(&[0xfe, 0x80]);
        let same = |own: &&Own| own.address.is_v4() == peer.is_v4();
        let near = self.addresses.iter().find(|own| own.prefix.contains(peer));
        let alike = || self.addresses.iter().filter(same).find(|own| local(own.address) == local(peer));
        let any = || self.addresses.iter().find(same);
        near.or_else(alike).or_else(any).map(|own| own.address)
    }
}

/// One host's network layer, on one worker.
#[derive(Debug)]
pub struct Host {
    pub(super) interfaces: Vec<Interface>,
    claims: Vec<(usize, Address, Claim)>,
    /// The longest prefix first.
    routes: Vec<(usize, Hop)>,
    pub(super) neighbours: Neighbours,
    pub(super) limiter: Limiter,
    shared: bool,
    listens: Vec<u16>,
    dials: Range<u16>,
    pub(super) counters: HostCounters,
    pub(super) conflict: Option<Conflict>,
}

impl Host {
    /// A host after this plan. All its memory is taken here.
    ///
    /// # Errors
    /// [`PlanError`] when the plan contradicts itself or a standard.
    pub fn new(plan: &HostPlan) -> Result<Self, PlanError> {
        plan.check()?;
        let interfaces: Vec<Interface> = plan.interfaces.iter().map(Interface::new).collect();
        let rank = |port: PortId| interfaces.iter().position(|interface| interface.port == port);
        let mut routes: Vec<(usize, Hop)> =
            plan.routes.iter().filter_map(|hop| Some((rank(hop.port)?, *hop))).collect();
        routes.sort_by_key(|(_, hop)| std::cmp::Reverse(hop.network.bits));
        let mut neighbours = Neighbours::new();
        for (port, address, mac) in &plan.neighbours {
            let rank = rank(*port).ok_or(PlanError::NoSuchPort(port.0))?;
            neighbours.insert(rank, (*address).into(), *mac);
        }
        let announces = plan.announces && !plan.shared;
        let claims = interfaces.iter().enumerate().flat_map(|(rank, interface)| {
            interface.addresses.iter().map(move |own| (rank, own.address, Claim::new(announces)))
        });
        Ok(Self {
            claims: claims.collect(),
            interfaces,
            routes,
            neighbours,
            limiter: Limiter::new(),
            shared: plan.shared,
            listens: plan.listens.clone(),
            dials: plan.dials.clone(),
            counters: HostCounters::default(),
            conflict: None,
        })
    }

    /// Looks at a frame that came in by `from`, and answers in it what a host must answer.
    #[inline]
    pub fn input(&mut self, now: Tick, from: PortId, frame: &mut Frame<'_>) -> Input {
        if frame.continues() {
            return Input::Discard(Reason::InPieces);
        }
        let Some(rank) = self.interfaces.iter().position(|interface| interface.port == from) else {
            return Input::Discard(Reason::NotOurs);
        };
        let interface = &self.interfaces[rank];
        match interface.read(frame) {
            Ok((link, Some(datagram))) if datagram.protocol == wire::TCP && !datagram.fragment => {
                self.tcp(rank, frame, frame.offload(), link, datagram)
            }
            Ok((link, datagram)) => self.other(now, rank, frame, link, datagram),
            Err(reason) => Input::Discard(reason),
        }
    }

    /// The same for a packet that came in several frames and was put together in `bytes`, with what is undone in it.
    /// Only TCP comes through; for all else such a packet is too long.
    #[must_use]
    pub fn input_copied(&self, from: PortId, bytes: &[u8], undone: Option<Offload>) -> Input {
        let Some(rank) = self.interfaces.iter().position(|interface| interface.port == from) else {
            return Input::Discard(Reason::NotOurs);
        };
        match self.interfaces[rank].read(bytes) {
            Ok((link, Some(datagram))) if datagram.protocol == wire::TCP && !datagram.fragment => {
                self.tcp(rank, bytes, undone, link, datagram)
            }
            Ok(_) => Input::Discard(Reason::InPieces),
            Err(reason) => Input::Discard(reason),
        }
    }

    #[inline]
    fn tcp(
        &self,
        rank: usize,
        frame: &[u8],
        undone: Option<Offload>,
        link: Link,
        datagram: Datagram,
    ) -> Input {
        let interface = &self.interfaces[rank];
        let Datagram { local, peer, .. } = datagram;
        // RFC 1122 §3.3.6 and §4.2.3.10: a group is no end of a connection, neither by its MAC nor by its IP address.
        if frame[0] & 1 == 1 || !interface.has(local) {
            return Input::Discard(Reason::NotOurs);
        }
        if interface.is_martian(peer) {
            return Input::Discard(Reason::Martian);
        }
        if datagram.payload.len() < 20 {
            return Input::Discard(Reason::Malformed);
        }
        if self.shared && !self.is_our_port(wire::be16(frame, datagram.payload.start + 2)) {
            return Input::Discard(Reason::NotOurs);
        }
        let undone = undone.is_some_and(|offload| offload.checksum_offset != 0);
        if !undone && !wire::verify(frame, &datagram, wire::TCP) {
            return Input::Discard(Reason::BadChecksum);
        }
        let path = interface.path(link.vlan, local, peer, source_mac(frame));
        Input::Tcp { path, segment: datagram.payload, ecn: datagram.ecn }
    }

    fn is_our_port(&self, port: Option<u16>) -> bool {
        port.is_some_and(|port| self.listens.contains(&port) || self.dials.contains(&port))
    }

    /// Whether the kernel owns our addresses.
    pub(super) const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether ICMP about TCP from this port is ours to hear.
    pub(super) fn owns_port(&self, port: u16) -> bool {
        !self.shared || self.is_our_port(Some(port))
    }

    /// All that is not TCP.
    #[cold]
    fn other(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: Option<Datagram>,
    ) -> Input {
        // A frame with our own source address came round in a loop.
        if source_mac(frame) == self.interfaces[rank].mac {
            return Input::Discard(Reason::NotOurs);
        }
        match (link.ethertype, datagram) {
            (wire::ARP, _) if !self.shared => self.arp(now, rank, frame, link),
            (wire::IPV4, Some(datagram)) => self.ipv4(now, rank, frame, link, &datagram),
            (wire::IPV6, Some(datagram)) => self.ipv6(now, rank, frame, link, datagram),
            _ => Input::Discard(Reason::NotOurs),
        }
    }

    fn ipv4(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
    ) -> Input {
        let interface = &self.interfaces[rank];
        // Echoes to broadcast addresses stay unanswered (RFC 1122 §3.2.2.6 lets us), and so does all else there.
        if frame[0] & 1 == 1 || !interface.has(datagram.local) {
            return Input::Discard(Reason::NotOurs);
        }
        if self.shared && !matches!(datagram.protocol, wire::ICMPV4 | wire::TCP) {
            return Input::Discard(Reason::NotOurs);
        }
        if datagram.fragment {
            return Input::Discard(Reason::Fragment);
        }
        if interface.is_martian(datagram.peer) {
            return Input::Discard(Reason::Martian);
        }
        if datagram.protocol == wire::ICMPV4 {
            self.icmp4(frame, link, datagram, self.shared)
        } else {
            self.refuse4(now, frame, link, datagram)
        }
    }

    fn ipv6(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        mut datagram: Datagram,
    ) -> Input {
        let interface = &self.interfaces[rank];
        let group = datagram.local.bytes()[0] == 0xff;
        if !group && (frame[0] & 1 == 1 || !interface.has(datagram.local)) {
            return Input::Discard(Reason::NotOurs);
        }
        // RFC 4862 §5.4: who probes for its address has none to send from yet, and who took ours speaks from it. Both are for
        // neighbour discovery to notice.
        let odd = *datagram.peer.bytes() == [0; 16] || interface.has(datagram.peer);
        if !odd && interface.is_martian(datagram.peer) {
            return Input::Discard(Reason::Martian);
        }
        if let Err(objection) = wire::extensions(frame, &mut datagram) {
            return self.object(now, rank, frame, link, &datagram, objection);
        }
        if datagram.fragment {
            return Input::Discard(Reason::Fragment);
        }
        match datagram.protocol {
            wire::ICMPV6 => self.icmp6(now, rank, frame, link, &datagram, self.shared),
            _ if group => Input::Discard(Reason::NotOurs),
            _ if odd => Input::Discard(Reason::Martian),
            // TCP behind extension headers: no host sends it, but every host must take it.
            wire::TCP => self.tcp(rank, frame, frame.offload(), link, datagram),
            _ if self.shared => Input::Discard(Reason::NotOurs),
            _ => self.refuse6(now, rank, frame, link, &datagram),
        }
    }

    /// The way to `peer`, which is asked for if it must be.
    pub fn route(&mut self, now: Tick, peer: IpAddr) -> Route {
        let peer = Address::from(peer);
        let Some((rank, next)) = self.next_hop(peer) else { return Route::NoRoute };
        let interface = &self.interfaces[rank];
        let Some(local) = interface.source_for(peer) else { return Route::NoRoute };
        match self.neighbours.find(now, rank, next) {
            Found::Mac(mac) => {
                let vlan = match interface.tags {
                    Tags::None => None,
                    Tags::One(vid) | Tags::Two { customer: vid, .. } => Vlan::new(vid),
                };
                Route::Path(interface.path(vlan, local, peer, mac))
            }
            Found::Asked => Route::Asked,
            Found::Failed => Route::Silent,
        }
    }

    /// The interface to `peer`, and the neighbour on the way.
    fn next_hop(&self, peer: Address) -> Option<(usize, Address)> {
        if wire::never_a_source(peer) {
            return None;
        }
        // A network on the link is never less specific than a route through it, but may be more so.
        let link = self.interfaces.iter().position(|interface| interface.covers(peer));
        let hop = self.routes.iter().find(|(_, hop)| hop.network.contains(peer));
        let on_link = link.map(|rank| (rank, peer));
        let routed = hop.map(|(rank, hop)| (*rank, hop.gateway.map_or(peer, Address::from)));
        let bits = |rank: usize| {
            let covering = self.interfaces[rank].addresses.iter().filter(|own| own.prefix.contains(peer));
            covering.map(|own| own.prefix.bits).max()
        };
        match (on_link, hop) {
            (Some((rank, _)), Some((_, hop))) if bits(rank) < Some(hop.network.bits) => routed,
            (Some(found), _) => Some(found),
            (None, _) => routed,
        }
    }

    /// The outer tag of a path by an interface with two, its priority that of the inner one.
    #[inline]
    #[must_use]
    pub fn service_tag(&self, path: &Path) -> Option<Vlan> {
        let interface = self.interfaces.iter().find(|interface| interface.port == path.port)?;
        let Tags::Two { service, .. } = interface.tags else { return None };
        Vlan::new(service | path.vlan.map_or(0, |tag| tag.tci() & 0xf000))
    }

    /// Bytes of the longest IP packet on the way, before path MTU discovery has found less.
    #[must_use]
    pub fn mtu(&self, port: PortId) -> Option<u16> {
        self.interfaces.iter().find(|interface| interface.port == port).map(|interface| interface.mtu)
    }

    /// The next packet that the host itself has to send. Ask until there is none, every few milliseconds.
    pub fn poll(&mut self, now: Tick) -> Option<Message> {
        for (rank, own, claim) in &mut self.claims {
            if let Some(message) = claim.due(now, &self.interfaces[*rank], *own) {
                return Some(message);
            }
        }
        while let Some(question) = self.neighbours.due(now) {
            let interface = &self.interfaces[question.interface];
            // In shared mode the kernel asks.
            if let Some(own) = interface.source_for(question.address).filter(|_| !self.shared) {
                return Some(Message::question(interface, own, question.address, question.to));
            }
        }
        None
    }

    /// When [`poll`](Self::poll) will have something next, for a worker that sleeps until then.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        let claims = self.claims.iter().filter_map(|(_, _, claim)| claim.deadline());
        claims.chain(self.neighbours.deadline()).min()
    }

    /// Takes up a neighbour that another worker learnt, or that the kernel knows: for good when `known_beforehand`.
    pub fn learn(&mut self, now: Tick, port: PortId, neighbour: Neighbour, known_beforehand: bool) {
        let Some(rank) = self.interfaces.iter().position(|interface| interface.port == port) else { return };
        if known_beforehand {
            self.neighbours.insert(rank, neighbour.address, neighbour.mac);
        } else {
            let evidence = super::neighbours::Evidence::Answer { replaces: true };
            self.neighbours.learn(now, rank, neighbour, evidence);
        }
    }

    /// What was done besides TCP.
    #[must_use]
    pub const fn counters(&self) -> HostCounters {
        self.counters
    }

    /// The last conflict about an address of ours that nobody has been told of yet.
    pub const fn take_conflict(&mut self) -> Option<Conflict> {
        self.conflict.take()
    }

    /// Somebody else uses an address of ours.
    pub(super) fn contested(&mut self, now: Tick, rank: usize, address: Address, mac: [u8; 6]) {
        self.counters.conflicts += 1;
        self.conflict = Some(Conflict { port: self.interfaces[rank].port, address, mac });
        let claims = self.claims.iter_mut();
        for (_, _, claim) in claims.filter(|(at, own, _)| (*at, *own) == (rank, address)) {
            claim.defend(now);
        }
    }

    /// A router wants to know which groups we listen to.
    pub(super) fn report_groups(&mut self, rank: usize) {
        for (_, _, claim) in self.claims.iter_mut().filter(|(at, own, _)| *at == rank && !own.is_v4()) {
            claim.report();
        }
    }
}

impl Interface {
    /// The layers of a frame, as far as they can be for us.
    #[inline]
    fn read(&self, frame: &[u8]) -> Result<(Link, Option<Datagram>), Reason> {
        let link = wire::link(frame, self.tags)?;
        if frame[..6] != self.mac && frame[0] & 1 == 0 {
            return Err(Reason::NotOurs);
        }
        // IEEE 802.3 §3.2.3: a group sends nothing.
        if frame[6] & 1 == 1 {
            return Err(Reason::Malformed);
        }
        let datagram = match link.ethertype {
            wire::IPV4 => Some(wire::ipv4(frame, link.bytes)?),
            wire::IPV6 => Some(wire::ipv6(frame, link.bytes)?),
            _ => None,
        };
        Ok((link, datagram))
    }

    #[inline]
    fn path(&self, vlan: Option<Vlan>, local: Address, peer: Address, peer_mac: [u8; 6]) -> Path {
        Path { port: self.port, vlan, local_mac: self.mac, peer_mac, local, peer }
    }
}

/// Who sent a frame. Its length has been looked at.
#[inline]
pub(super) fn source_mac(frame: &[u8]) -> [u8; 6] {
    frame.get(6..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

/// Sends a frame back to where it came from, from `mac`.
pub(super) fn turn_round(frame: &mut [u8], mac: [u8; 6]) {
    let peer = source_mac(frame);
    frame[..6].copy_from_slice(&peer);
    frame[6..12].copy_from_slice(&mac);
}
