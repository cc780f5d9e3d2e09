//! ARP (RFC 826): requests for our addresses are answered in the frame they came in, answers are learnt, and who uses an
//! address of ours is told of it (RFC 5227 §2.4).

use super::host::{Host, Input, turn_round};
use super::neighbours::{Evidence, Neighbour};
use super::path::Address;
use super::wire::Link;
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::Frame;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

const ARP_BYTES: usize = 28;

/// An ARP packet about IPv4 on Ethernet.
struct Packet {
    operation: ArpOperation,
    sender_mac: [u8; 6],
    sender: Address,
    target: Address,
}

fn parse(bytes: &[u8]) -> Option<Packet> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(bytes).ok()?).ok()?
    else {
        return None;
    };
    Some(Packet {
        operation,
        sender_mac: source_hardware_addr.0,
        sender: source_protocol_addr.into(),
        target: target_protocol_addr.into(),
    })
}

impl Host {
    pub(super) fn arp(&mut self, now: Tick, rank: usize, frame: &mut Frame<'_>, link: Link) -> Input {
        let interface = &self.interfaces[rank];
        let mac = interface.mac;
        let Some(packet) = frame.get(link.bytes..).and_then(parse) else {
            return Input::Discard(Reason::Malformed);
        };
        // RFC 1812 §3.3.2: a group is nobody's MAC address. That the frame itself comes from another is no lie: clusters
        // that share an address do so.
        if packet.sender_mac[0] & 1 == 1 {
            return Input::Discard(Reason::Malformed);
        }
        if packet.sender_mac == mac {
            return Input::Discard(Reason::NotOurs);
        }
        let probe = *packet.sender.bytes() == *Address::v4([0; 4]).bytes();
        if interface.has(packet.sender) {
            self.contested(now, rank, packet.sender, packet.sender_mac);
            return Input::Taken;
        }
        if packet.operation == ArpOperation::Request && interface.has(packet.target) {
            // RFC 826, "Packet Reception": who asks us will be spoken to, if it is known at all.
            if !probe {
                self.hear(now, rank, &packet, false);
            }
            return match answer(frame, link, mac, &packet) {
                Some(()) => {
                    self.counters.resolutions += 1;
                    Input::Answer
                }
                None => Input::Discard(Reason::Malformed),
            };
        }
        let answered = packet.operation == ArpOperation::Reply && frame[..6] == mac;
        // An answer is handed on even if nobody asked on this worker: another one may have.
        if !probe && (self.hear(now, rank, &packet, answered) || answered) {
            return Input::Learnt(Neighbour { address: packet.sender, mac: packet.sender_mac });
        }
        Input::Discard(Reason::NotOurs)
    }

    /// Takes up the sender, if it is a neighbour that anybody here speaks to.
    fn hear(&mut self, now: Tick, rank: usize, packet: &Packet, answered: bool) -> bool {
        let neighbour = Neighbour { address: packet.sender, mac: packet.sender_mac };
        let evidence =
            if answered { Evidence::Answer { replaces: true } } else { Evidence::Heard { replaces: true } };
        self.neighbours.learn(now, rank, neighbour, evidence)
    }
}

/// Turns a request into its answer.
fn answer(frame: &mut Frame<'_>, link: Link, mac: [u8; 6], packet: &Packet) -> Option<()> {
    let (target, sender) = (packet.target.to_v4()?, packet.sender.to_v4()?);
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: target.into(),
        target_hardware_addr: EthernetAddress(packet.sender_mac),
        target_protocol_addr: sender.into(),
    };
    turn_round(frame, mac);
    frame[..6].copy_from_slice(&packet.sender_mac);
    let end = link.bytes + ARP_BYTES;
    reply.emit(&mut ArpPacket::new_unchecked(frame.get_mut(link.bytes..end)?));
    frame.truncate(u16::try_from(end).ok()?);
    frame.set_offload(None);
    Some(())
}
