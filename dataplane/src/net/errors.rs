//! ICMP errors: those that we send, how often, and those about our connections.
//!
//! A host says that a UDP port or a protocol is closed (RFC 1122 §3.2.2.1 and §4.1.3.1, RFC 4443 §3.1 and §3.4), but never
//! about an error, a fragment, a broadcast or a source that is no single host (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): the
//! callers have discarded those before.

use super::headers::{self, HOP_LIMIT};
use super::host::{Host, Input, turn_round};
use super::path::{Address, Ecn};
use super::wire::{self, Datagram, ICMPV4, ICMPV6, Link, Objection, be16, be32, pseudo};
use crate::stats::Reason;
use crate::worker::Tick;
use drivers::checksum::{fold, sum};
use ringbuf::{Frame, NoRoom};
use std::time::Duration;

/// RFC 1812 §4.3.2.3: as much of the packet as fits into 576 bytes.
const LONGEST4: usize = 576;
/// RFC 4443 §2.4 (c): as much as fits into the least MTU of IPv6.
const LONGEST6: usize = 1280;

/// An ICMP error about a segment that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpError {
    /// Our end of the connection.
    pub local: Address,
    /// Our port.
    pub local_port: u16,
    /// The other end.
    pub peer: Address,
    /// Its port.
    pub peer_port: u16,
    /// Sequence number of the segment: whoever does not know what is in flight can only guess it (RFC 5927 §4.1).
    pub sequence: u32,
    /// What happened to it.
    pub trouble: Trouble,
}

/// What happened to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was too big for a link on the way (RFC 1191, RFC 8201).
    TooBig {
        /// Bytes of the longest IP packet that passes there: at least 68 for IPv4, 1280 for IPv6.
        mtu: u32,
    },
    /// The peer, or a filter before it, wants none of it. RFC 1122 §4.2.3.9 has it end the connection; RFC 5927 §5.2
    /// only one that is not established yet.
    Refused,
    /// It did not get there; that may pass (RFC 1122 §4.2.3.9, "soft").
    Unreachable,
}

impl TcpError {
    /// From an ICMP message, its checksum verified, that was sent to `local`.
    pub(super) fn from_icmp4(message: &[u8], local: Address) -> Option<Self> {
        const UNREACHABLE: u8 = 3;
        const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;
        let quoted = message.get(8..)?;
        let (kind, code) = (message[0], message[1]);
        let trouble = match (kind, code) {
            (UNREACHABLE, 4) => Trouble::TooBig { mtu: mtu4(be16(message, 6)?, be16(quoted, 2)?) },
            // Protocol and port unreachable, and the two of RFC 1812 §5.2.7.1 for "prohibited" that mean a host.
            (UNREACHABLE, 2 | 3 | 10 | 13) => Trouble::Refused,
            (UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => Trouble::Unreachable,
            _ => return None,
        };
        // RFC 792: the header and eight bytes of what it carried. Our own segments have no options and are no fragments,
        // but a router may have put options in.
        let fixed: &[u8; 20] = quoted.first_chunk()?;
        let header = usize::from(fixed[0] & 0xf) * 4;
        let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
        if fixed[0] >> 4 != 4 || header < 20 || fixed[9] != wire::TCP || fragment != 0 {
            return None;
        }
        let address = |at: usize| quoted.get(at..)?.first_chunk().map(|bytes| Address::v4(*bytes));
        Self::quoted(quoted.get(header..)?, address(12)?, address(16)?, trouble).filter(|e| e.local == local)
    }

    /// The same for ICMPv6 (RFC 4443 §3).
    pub(super) fn from_icmp6(message: &[u8], local: Address) -> Option<Self> {
        const UNREACHABLE: u8 = 1;
        const PACKET_TOO_BIG: u8 = 2;
        const TIME_EXCEEDED: u8 = 3;
        const PARAMETER_PROBLEM: u8 = 4;
        let trouble = match (message[0], message[1]) {
            // RFC 8201 §4: less than the least MTU of IPv6 is a lie.
            (PACKET_TOO_BIG, _) => Trouble::TooBig { mtu: be32(message, 4).filter(|mtu| *mtu >= 1280)? },
            // Prohibited, port unreachable; and a next header that the peer does not know.
            (UNREACHABLE, 1 | 4) | (PARAMETER_PROBLEM, 1) => Trouble::Refused,
            (UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => Trouble::Unreachable,
            _ => return None,
        };
        // We send no extension headers: TCP is straight behind the IPv6 header.
        let quoted = message.get(8..)?;
        let fixed: &[u8; 40] = quoted.first_chunk()?;
        if fixed[0] >> 4 != 6 || fixed[6] != wire::TCP {
            return None;
        }
        let address = |at: usize| quoted.get(at..)?.first_chunk().map(|bytes| Address::v6(*bytes));
        Self::quoted(quoted.get(40..)?, address(8)?, address(24)?, trouble).filter(|e| e.local == local)
    }

    fn quoted(tcp: &[u8], local: Address, peer: Address, trouble: Trouble) -> Option<Self> {
        let (local_port, peer_port, sequence) = (be16(tcp, 0)?, be16(tcp, 2)?, be32(tcp, 4)?);
        Some(Self { local, local_port, peer, peer_port, sequence, trouble })
    }
}

/// The MTU that a router names, or for one that names none (before RFC 1191) the next plateau below what was sent.
fn mtu4(named: u16, sent: u16) -> u32 {
    // RFC 1191 §7.1.
    const PLATEAUS: [u16; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    let mtu = match named {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < sent).unwrap_or(68),
        named => named,
    };
    // RFC 791 §3.2: every link takes 68 bytes.
    mtu.max(68).into()
}

/// How many errors may be sent: a thousand a second, fifty at once, as Linux does (`icmp_msgs_per_sec`,
/// `icmp_msgs_burst`). RFC 4443 §2.4 (f) asks for a bucket like this one.
#[derive(Debug)]
pub(super) struct Limiter {
    /// The time at which the bucket will be full again.
    full: Duration,
}

impl Limiter {
    const EVERY: Duration = Duration::from_millis(1);
    const BURST: u32 = 50;

    pub(super) const fn new() -> Self {
        Self { full: Duration::ZERO }
    }

    /// Whether one more may be sent.
    pub(super) fn allows(&mut self, now: Tick) -> bool {
        let full = self.full.max(now.0) + Self::EVERY;
        let allowed = full <= now.0 + Self::EVERY * Self::BURST;
        if allowed {
            self.full = full;
        }
        allowed
    }
}

impl Host {
    /// Answers a datagram over IPv4 that nobody here listens for.
    pub(super) fn refuse4(
        &mut self,
        now: Tick,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
    ) -> Input {
        const PROTOCOL: u8 = 2;
        const PORT: u8 = 3;
        if let Err(reason) = worth_refusing(frame, datagram) {
            return Input::Discard(reason);
        }
        let code = if datagram.protocol == wire::UDP { PORT } else { PROTOCOL };
        if !self.limiter.allows(now) {
            return Input::Discard(Reason::RateLimited);
        }
        match unreachable4(frame, link, datagram, code) {
            Ok(()) => {
                self.counters.errors += 1;
                Input::Answer
            }
            Err(NoRoom) => Input::Discard(Reason::InPieces),
        }
    }

    /// The same over IPv6: port unreachable for UDP, and for another next header a parameter problem.
    pub(super) fn refuse6(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
    ) -> Input {
        // RFC 8200 §4.7: nothing follows, and nothing is owed.
        const NO_NEXT_HEADER: u8 = 59;
        if datagram.protocol == NO_NEXT_HEADER {
            return Input::Discard(Reason::NotOurs);
        }
        if let Err(reason) = worth_refusing(frame, datagram) {
            return Input::Discard(reason);
        }
        if datagram.protocol == wire::UDP {
            return self.error6(now, rank, frame, link, datagram, [1, 4], 0);
        }
        let pointer = u32::try_from(next_header_at(frame, datagram)).unwrap_or(0);
        self.error6(now, rank, frame, link, datagram, [4, 1], pointer)
    }

    /// Says what is wrong with extension headers, or nothing.
    pub(super) fn object(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
        objection: Objection,
    ) -> Input {
        let Objection::Problem { code, pointer, even_to_groups } = objection else {
            let Objection::Silent(reason) = objection else { return Input::Discard(Reason::Malformed) };
            return Input::Discard(reason);
        };
        let group = datagram.local.bytes()[0] == 0xff || frame[0] & 1 == 1;
        let nobody = *datagram.peer.bytes() == [0; 16] || self.interfaces[rank].has(datagram.peer);
        if nobody || group && !even_to_groups || self.is_shared() {
            return Input::Discard(Reason::Malformed);
        }
        self.error6(now, rank, frame, link, datagram, [4, code], pointer)
    }

    #[expect(clippy::too_many_arguments, reason = "what an error is about, and what it says")]
    fn error6(
        &mut self,
        now: Tick,
        rank: usize,
        frame: &mut Frame<'_>,
        link: Link,
        datagram: &Datagram,
        [kind, code]: [u8; 2],
        word: u32,
    ) -> Input {
        let interface = &self.interfaces[rank];
        let (mac, own) = (interface.mac, interface.has(datagram.local));
        let local = if own { Some(datagram.local) } else { interface.source_for(datagram.peer) };
        let Some(local) = local else { return Input::Discard(Reason::Malformed) };
        if !self.limiter.allows(now) {
            return Input::Discard(Reason::RateLimited);
        }
        let [a, b, c, d] = word.to_be_bytes();
        match write6(frame, link, datagram, local, mac, [kind, code, 0, 0, a, b, c, d]) {
            Ok(()) => {
                self.counters.errors += 1;
                Input::Answer
            }
            Err(NoRoom) => Input::Discard(Reason::InPieces),
        }
    }
}

/// Whether a datagram is whole: a UDP one with a bad checksum deserves no answer (RFC 1122 §4.1.3.4).
fn worth_refusing(frame: &Frame<'_>, datagram: &Datagram) -> Result<(), Reason> {
    if datagram.protocol != wire::UDP {
        return Ok(());
    }
    let udp = &frame[datagram.payload.clone()];
    let length = be16(udp, 4).ok_or(Reason::Malformed)?;
    if usize::from(length) < 8 || usize::from(length) > udp.len() {
        return Err(Reason::Malformed);
    }
    let undone = frame.offload().is_some_and(|offload| offload.checksum_offset != 0);
    // RFC 768: zero means that there is none; over IPv6 that is wrong (RFC 8200 §8.1).
    let none = udp[6..8] == [0, 0] && datagram.local.is_v4();
    let udp = Datagram {
        payload: datagram.payload.start..datagram.payload.start + usize::from(length),
        ..datagram.clone()
    };
    if undone || none || wire::verify(frame, &udp, wire::UDP) { Ok(()) } else { Err(Reason::BadChecksum) }
}

/// Where the next header field is that names what `datagram` carries, from the start of the IPv6 header. The walk has
/// been done before without objection, so it ends.
fn next_header_at(frame: &[u8], datagram: &Datagram) -> usize {
    let (mut field, mut at) = (6, datagram.start + 40);
    while at < datagram.payload.start {
        field = at - datagram.start;
        let fragment = 44;
        // The field in front says what this header is; a fragment header has no length.
        let kind = if field == 40 { frame.get(datagram.start + 6) } else { None };
        let length = usize::from(frame.get(at + 1).copied().unwrap_or(0));
        at += if kind == Some(&fragment) { 8 } else { (length + 1) * 8 };
    }
    field
}

/// Makes room for `count` bytes at `at`.
fn open_gap(frame: &mut Frame<'_>, at: usize, count: u16) -> Result<(), NoRoom> {
    let moved = usize::from(count);
    if frame.grow_front(count).is_ok() {
        frame.copy_within(moved..moved + at, 0);
        return Ok(());
    }
    let end = frame.len().into();
    frame.grow(count)?;
    frame.copy_within(at..end, at + moved);
    Ok(())
}

/// Cuts a frame behind the part of its datagram that an error may quote, and opens a gap of `header` bytes before it.
fn quote(
    frame: &mut Frame<'_>,
    link: Link,
    datagram: &Datagram,
    header: u16,
    most: usize,
) -> Result<usize, NoRoom> {
    let length = (datagram.payload.end - datagram.start).min(most - usize::from(header));
    frame.set_offload(None);
    frame.truncate(u16::try_from(datagram.start + length).map_err(|_| NoRoom)?);
    open_gap(frame, link.bytes, header)?;
    Ok(length)
}

fn unreachable4(frame: &mut Frame<'_>, link: Link, datagram: &Datagram, code: u8) -> Result<(), NoRoom> {
    let (Some(local), Some(peer)) = (datagram.local.to_v4(), datagram.peer.to_v4()) else {
        return Err(NoRoom);
    };
    let mac = frame.first_chunk().copied().unwrap_or_default();
    turn_round(frame, mac);
    let length = quote(frame, link, datagram, 28, LONGEST4)?;
    let total = u16::try_from(28 + length).map_err(|_| NoRoom)?;
    let icmp = link.bytes + 20;
    frame[link.bytes..icmp].copy_from_slice(&headers::ipv4(total, ICMPV4, Ecn::NotCapable, local, peer));
    frame[icmp..icmp + 8].copy_from_slice(&[3, code, 0, 0, 0, 0, 0, 0]);
    let checksum = !fold(sum(&frame[icmp..]));
    frame[icmp + 2..icmp + 4].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

fn write6(
    frame: &mut Frame<'_>,
    link: Link,
    datagram: &Datagram,
    local: Address,
    mac: [u8; 6],
    header: [u8; 8],
) -> Result<(), NoRoom> {
    turn_round(frame, mac);
    let length = quote(frame, link, datagram, 48, LONGEST6)? + 8;
    let (ip, icmp) = (link.bytes, link.bytes + 40);
    frame[ip..icmp].copy_from_slice(&ipv6(length, HOP_LIMIT, local, datagram.peer));
    frame[icmp..icmp + 8].copy_from_slice(&header);
    seal6(frame, icmp, local, datagram.peer);
    Ok(())
}

/// An IPv6 header for an ICMPv6 message of `length` bytes.
pub(super) fn ipv6(length: usize, hops: u8, local: Address, peer: Address) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
    (header[6], header[7]) = (ICMPV6, hops);
    header[8..24].copy_from_slice(local.bytes());
    header[24..40].copy_from_slice(peer.bytes());
    header
}

/// Writes the checksum of the ICMPv6 message from `at` to the end of the frame.
pub(super) fn seal6(frame: &mut [u8], at: usize, local: Address, peer: Address) {
    frame[at + 2..at + 4].fill(0);
    let message = &frame[at..];
    let checksum = !fold(pseudo(local, peer, ICMPV6, message.len()) + sum(message));
    frame[at + 2..at + 4].copy_from_slice(&checksum.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_a_millisecond() {
        let mut limiter = Limiter::new();
        let at = |micros| Tick(Duration::from_micros(micros));
        let burst = (0..100).filter(|_| limiter.allows(at(5_000_000))).count();
        assert_eq!(burst, 50);
        let later = (1..=10_000).filter(|n| limiter.allows(at(5_000_000 + n * 100))).count();
        assert_eq!(later, 1000);
        assert_eq!((0..100).filter(|_| limiter.allows(at(60_000_000))).count(), 50, "full again");
    }

    #[test]
    fn a_router_that_names_no_mtu_gets_a_plateau() {
        assert_eq!(mtu4(1400, 1500), 1400);
        assert_eq!(mtu4(0, 1500), 1492);
        assert_eq!(mtu4(0, 1492), 1006);
        assert_eq!(mtu4(0, 40), 68);
        assert_eq!(mtu4(10, 1500), 68);
    }
}
