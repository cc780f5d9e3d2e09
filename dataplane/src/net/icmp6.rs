//! ICMPv6 (RFC 4443): echo requests are answered in the frame, errors about our segments handed on; neighbour discovery is
//! in `nd.rs`.

use super::errors::{TcpError, ipv6, seal6};
use super::headers::HOP_LIMIT;
use super::host::{Host, Input, turn_round};
use super::path::Address;
use super::wire::{self, Datagram, Link};
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::Frame;

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const LISTENER_QUERY: u8 = 130;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

impl Host {
    pub(super) fn icmp6(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
        only_errors: bool,
    ) -> Input {
        let message = &frame[datagram.payload.clone()];
        if message.len() < 8 {
            return Input::Discard(Reason::Malformed);
        }
        if !wire::verify(frame, datagram, wire::ICMPV6) {
            return Input::Discard(Reason::BadChecksum);
        }
        let nobody = *datagram.peer.bytes() == [0; 16] || self.interfaces[rank].has(datagram.peer);
        match message[0] {
            SOLICITATION if !only_errors => self.solicited(now, rank, frame, link, datagram),
            ADVERTISEMENT if !only_errors => self.advertised(now, rank, frame, datagram),
            _ if nobody => Input::Discard(Reason::Martian),
            ECHO_REQUEST if !only_errors => self.echo6(rank, frame, link, datagram),
            // RFC 3810 §5.1.14: from a link-local address, one hop.
            LISTENER_QUERY if !only_errors && datagram.hop_limit == 1 => {
                self.report_groups(rank);
                Input::Taken
            }
            _ => match TcpError::from_icmp6(message, datagram.local) {
                Some(error) if self.owns_port(error.local_port) => {
                    self.counters.tcp_errors += 1;
                    Input::TcpError(error)
                }
                // Routers' advertisements and redirects among them: the user says which routes there are.
                _ => Input::Discard(Reason::NotOurs),
            },
        }
    }

    fn echo6(&mut self, rank: usize, frame: &mut Frame<'_>, link: Link, datagram: &Datagram) -> Input {
        let interface = &self.interfaces[rank];
        let mac = interface.mac;
        // RFC 4443 §4.2: an echo to a group is answered too, from an address of the one that answers.
        let local = if interface.has(datagram.local) {
            Some(datagram.local)
        } else {
            interface.source_for(datagram.peer).filter(|_| is_all_nodes(datagram.local))
        };
        let Some(local) = local else { return Input::Discard(Reason::NotOurs) };
        turn_round(frame, mac);
        match reply(frame, link, datagram, local) {
            Some(()) => {
                self.counters.echoes += 1;
                Input::Answer
            }
            None => Input::Discard(Reason::Malformed),
        }
    }
}

fn is_all_nodes(address: Address) -> bool {
    *address.bytes() == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
}

/// Turns an echo request into its reply, without the extension headers it came with.
fn reply(frame: &mut Frame<'_>, link: Link, datagram: &Datagram, local: Address) -> Option<()> {
    let message = datagram.payload.clone();
    let start = link.bytes + 40;
    frame.copy_within(message.clone(), start);
    frame.truncate(u16::try_from(start + message.len()).ok()?);
    frame.set_offload(None);
    frame[link.bytes..start].copy_from_slice(&ipv6(message.len(), HOP_LIMIT, local, datagram.peer));
    frame[start] = ECHO_REPLY;
    seal6(frame, start, local, datagram.peer);
    Some(())
}
