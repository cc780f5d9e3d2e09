//! ICMP for IPv4 (RFC 792, RFC 1122 §3.2.2): echo requests are answered in the frame, errors about our segments handed on.

use super::errors::TcpError;
use super::headers;
use super::host::{Host, Input, turn_round};
use super::path::Ecn;
use super::wire::{Datagram, ICMPV4, Link};
use crate::stats::Reason;
use drivers::checksum::{fold, sum};
use ringbuf::Frame;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

impl Host {
    pub(super) fn icmp4(
        &mut self,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
        only_errors: bool,
    ) -> Input {
        let message = &frame[datagram.payload.clone()];
        if message.len() < 8 {
            return Input::Discard(Reason::Malformed);
        }
        if fold(sum(message)) != 0xffff {
            return Input::Discard(Reason::BadChecksum);
        }
        match message[0] {
            ECHO_REQUEST if !only_errors => {
                let mac: [u8; 6] = frame.first_chunk().copied().unwrap_or_default();
                turn_round(frame, mac);
                match echo(frame, link, datagram) {
                    Some(()) => {
                        self.counters.echoes += 1;
                        Input::Answer
                    }
                    None => Input::Discard(Reason::Malformed),
                }
            }
            _ => match TcpError::from_icmp4(message, datagram.local) {
                Some(error) if self.owns_port(error.local_port) => {
                    self.counters.tcp_errors += 1;
                    Input::TcpError(error)
                }
                // Redirects (RFC 1122 §3.2.2.2) would let anybody move our traffic; the others need no answer.
                _ => Input::Discard(Reason::NotOurs),
            },
        }
    }
}

/// Turns an echo request into its reply, without the IP options it came with.
fn echo(frame: &mut Frame<'_>, link: Link, datagram: &Datagram) -> Option<()> {
    let (local, peer) = (datagram.local.to_v4()?, datagram.peer.to_v4()?);
    let (start, message) = (link.bytes + 20, datagram.payload.clone());
    let end = start + message.len();
    frame.copy_within(message.clone(), start);
    frame.truncate(u16::try_from(end).ok()?);
    frame.set_offload(None);
    let length = u16::try_from(20 + message.len()).ok()?;
    let header = headers::ipv4(length, ICMPV4, Ecn::NotCapable, local, peer);
    frame[link.bytes..start].copy_from_slice(&header);
    let message = &mut frame[start..end];
    message[0] = ECHO_REPLY;
    message[2..4].fill(0);
    let checksum = !fold(sum(message));
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
    Some(())
}
