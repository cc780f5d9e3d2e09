//! Neighbour discovery (RFC 4861): solicitations for our addresses are answered in the frame, advertisements are learnt,
//! and who uses an address of ours is noticed (RFC 4862 §5.4).

use super::errors::{ipv6, seal6};
use super::host::{Host, Input, source_mac, turn_round};
use super::message::{group_mac, solicited_node};
use super::neighbours::{Evidence, Neighbour};
use super::path::Address;
use super::wire::{Datagram, Link};
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::Frame;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, Icmpv6Packet, Icmpv6Repr, Ipv6Address, NdiscNeighborFlags, NdiscRepr};

const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// An advertisement with our MAC address: header, target, option.
const ADVERTISEMENT_BYTES: usize = 8 + 16 + 8;

/// A solicitation or advertisement, its checksum verified.
struct Discovery {
    target: Address,
    flags: u8,
    /// The MAC address in the option asked for.
    mac: Option<[u8; 6]>,
}

/// RFC 4861 §7.1: what makes a message invalid, whoever sent it.
fn parse(message: &[u8], datagram: &Datagram, option: u8) -> Option<Discovery> {
    let target = Address::v6(*message.get(8..)?.first_chunk()?);
    if datagram.hop_limit != 255 || message[1] != 0 || target.bytes()[0] == 0xff || target.is_v4() {
        return None;
    }
    let mut rest = message.get(24..)?;
    let mut mac = None;
    while !rest.is_empty() {
        let length = usize::from(*rest.get(1)?) * 8;
        // §4.6: an option of no length would never end.
        if length == 0 || length > rest.len() {
            return None;
        }
        if rest[0] == option && length == 8 {
            mac = rest[2..].first_chunk().copied();
        }
        rest = &rest[length..];
    }
    Some(Discovery { target, flags: message[4], mac: mac.filter(|mac: &[u8; 6]| mac[0] & 1 == 0) })
}

impl Host {
    pub(super) fn solicited(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
    ) -> Input {
        let Some(asked) = parse(&frame[datagram.payload.clone()], datagram, SOURCE_ADDRESS) else {
            return Input::Discard(Reason::Malformed);
        };
        let interface = &self.interfaces[rank];
        let probe = *datagram.peer.bytes() == [0; 16];
        let group = *datagram.local.bytes() == solicited_node(asked.target);
        // §7.1.1: a probe goes to the group of its target and names nobody.
        if probe && (!group || asked.mac.is_some()) {
            return Input::Discard(Reason::Malformed);
        }
        if interface.has(datagram.peer) {
            self.contested(now, rank, datagram.peer, source_mac(frame));
            return Input::Taken;
        }
        if !interface.has(asked.target) {
            return Input::Discard(Reason::NotOurs);
        }
        let mac = interface.mac;
        if probe {
            // RFC 4862 §5.4.3: somebody wants an address that we have. That it is taken is said below.
            self.contested(now, rank, asked.target, source_mac(frame));
        } else if let Some(mac) = asked.mac {
            let heard = Neighbour { address: datagram.peer, mac };
            self.neighbours.learn(now, rank, heard, Evidence::Heard { replaces: true });
        }
        match answer(frame, link, datagram, &asked, mac) {
            Some(()) => {
                self.counters.resolutions += 1;
                Input::Answer
            }
            None => Input::Discard(Reason::Malformed),
        }
    }

    pub(super) fn advertised(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &Frame<'_>,
        datagram: &Datagram,
    ) -> Input {
        let group = datagram.local.bytes()[0] == 0xff;
        let said = parse(&frame[datagram.payload.clone()], datagram, TARGET_ADDRESS);
        // RFC 4861 §7.1.2: nobody asked on behalf of a group.
        let nobody = *datagram.peer.bytes() == [0; 16];
        let Some(said) = said.filter(|said| !nobody && (!group || said.flags & SOLICITED == 0)) else {
            return Input::Discard(Reason::Malformed);
        };
        if self.interfaces[rank].has(said.target) {
            self.contested(now, rank, said.target, source_mac(frame));
            return Input::Taken;
        }
        // §7.2.5 knows advertisements without an address, on links without any; Ethernet is none, but an answer to a
        // unicast question may leave it out.
        let mac = said.mac.unwrap_or_else(|| source_mac(frame));
        let replaces = said.flags & OVERRIDE != 0;
        let answered = said.flags & SOLICITED != 0;
        let evidence = if answered { Evidence::Answer { replaces } } else { Evidence::Heard { replaces } };
        let neighbour = Neighbour { address: said.target, mac };
        // As with ARP: another worker may have asked.
        if self.neighbours.learn(now, rank, neighbour, evidence) || answered {
            Input::Learnt(neighbour)
        } else {
            Input::Discard(Reason::NotOurs)
        }
    }
}

/// Turns a solicitation into our advertisement (RFC 4861 §7.2.4).
fn answer(
    frame: &mut Frame<'_>,
    link: Link,
    datagram: &Datagram,
    asked: &Discovery,
    mac: [u8; 6],
) -> Option<()> {
    let probe = *datagram.peer.bytes() == [0; 16];
    turn_round(frame, mac);
    let (peer, flags) = if probe {
        // Who has no address yet is told together with everybody.
        frame[..6].copy_from_slice(&group_mac(ALL_NODES));
        (Address::v6(ALL_NODES), NdiscNeighborFlags::OVERRIDE)
    } else {
        (datagram.peer, NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED)
    };
    if let Some(mac) = asked.mac {
        frame[..6].copy_from_slice(&mac);
    }
    let start = link.bytes + 40;
    let length = start + ADVERTISEMENT_BYTES;
    let short = u16::try_from(length).ok()?.saturating_sub(frame.len());
    frame.grow(short).ok()?;
    frame.truncate(u16::try_from(length).ok()?);
    frame.set_offload(None);
    frame[link.bytes..start].copy_from_slice(&ipv6(ADVERTISEMENT_BYTES, 255, asked.target, peer));
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: Ipv6Address::from(*asked.target.bytes()),
        lladdr: Some(EthernetAddress(mac).into()),
    });
    let (from, to) = (Ipv6Address::from(*asked.target.bytes()), Ipv6Address::from(*peer.bytes()));
    let mut packet = Icmpv6Packet::new_unchecked(&mut frame[start..length]);
    repr.emit(&from, &to, &mut packet, &ChecksumCapabilities::ignored());
    seal6(frame, start, asked.target, peer);
    Some(())
}
