//! Frames in: tags, IP headers and checksums, a few dozen instructions for an ordinary TCP segment.
//!
//! Every function takes a frame's bytes and says where things lie; none changes them, and none believes a length.

use super::path::{Address, Ecn, Vlan};
use super::plan::Tags;
use crate::stats::Reason;
use drivers::checksum::{fold, sum};
use std::ops::Range;

pub(super) const ETHERNET: usize = 14;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad; either is taken for either tag.
pub(super) const CUSTOMER_TAG: u16 = 0x8100;
pub(super) const SERVICE_TAG: u16 = 0x88a8;

pub(super) const ICMPV4: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// The link layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Bytes of its header, tags included.
    pub(super) bytes: usize,
    pub(super) ethertype: u16,
    /// The innermost tag.
    pub(super) vlan: Option<Vlan>,
}

/// An IP datagram in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    /// Where its header begins.
    pub(super) start: usize,
    /// What it carries, past options and extension headers; its end is the datagram's.
    pub(super) payload: Range<usize>,
    pub(super) protocol: u8,
    /// The sender.
    pub(super) peer: Address,
    /// The destination.
    pub(super) local: Address,
    pub(super) ecn: Ecn,
    pub(super) hop_limit: u8,
    /// One piece of several.
    pub(super) fragment: bool,
}

#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[inline]
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads the link layer of a frame that should be tagged like this.
#[inline]
pub(super) fn link(bytes: &[u8], tags: Tags) -> Result<Link, Reason> {
    let header: &[u8; ETHERNET] = bytes.first_chunk().ok_or(Reason::Runt)?;
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    if tags == Tags::None && ethertype != CUSTOMER_TAG && ethertype != SERVICE_TAG {
        return Ok(Link { bytes: ETHERNET, ethertype, vlan: None });
    }
    tagged(bytes, ethertype, tags)
}

fn tagged(bytes: &[u8], mut ethertype: u16, tags: Tags) -> Result<Link, Reason> {
    let (mut at, mut vids, mut vlan) = (ETHERNET, [0; 2], None);
    let mut count = 0;
    while count < 2 && (ethertype == CUSTOMER_TAG || ethertype == SERVICE_TAG) {
        let tci = be16(bytes, at).ok_or(Reason::Malformed)?;
        ethertype = be16(bytes, at + 2).ok_or(Reason::Malformed)?;
        vids[count] = tci & 0xfff;
        vlan = Vlan::new(tci);
        (at, count) = (at + 4, count + 1);
    }
    let ours = match tags {
        // IEEE 802.1Q §6.9: VID 0 is a priority without a VLAN.
        Tags::None => count == 1 && vids[0] == 0,
        Tags::One(vid) => count == 1 && vids[0] == vid,
        Tags::Two { service, customer } => count == 2 && vids == [service, customer],
    };
    if ours { Ok(Link { bytes: at, ethertype, vlan }) } else { Err(Reason::NotOurs) }
}

/// Reads the IPv4 header at `start` (RFC 791 §3.1). Options are skipped (RFC 1122 §3.2.1.8 lets a host ignore them).
#[inline]
pub(super) fn ipv4(bytes: &[u8], start: usize) -> Result<Datagram, Reason> {
    let header: &[u8; 20] =
        bytes.get(start..).and_then(|rest| rest.first_chunk()).ok_or(Reason::Malformed)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let end = start + usize::from(u16::from_be_bytes([header[2], header[3]]));
    // RFC 1122 §3.2.1.1: other versions are discarded silently. Bytes behind the end are Ethernet's padding.
    if header[0] >> 4 != 4 || length < 20 || start + length > end || end > bytes.len() {
        return Err(Reason::Malformed);
    }
    // RFC 1122 §3.2.1.2: a host verifies the header's checksum on every datagram.
    let total = if length == 20 { sum(header) } else { sum(&bytes[start..start + length]) };
    if fold(total) != 0xffff {
        return Err(Reason::BadChecksum);
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    Ok(Datagram {
        start,
        payload: start + length..end,
        protocol: header[9],
        peer: Address::v4([a, b, c, d]),
        local: Address::v4([e, f, g, h]),
        ecn: Ecn::from_bits(header[1]),
        hop_limit: header[8],
        fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
    })
}

/// Reads the IPv6 header at `start` (RFC 8200 §3). Extension headers are left to [`extensions`]: `protocol` is the
/// first next header.
#[inline]
pub(super) fn ipv6(bytes: &[u8], start: usize) -> Result<Datagram, Reason> {
    let header: &[u8; 40] =
        bytes.get(start..).and_then(|rest| rest.first_chunk()).ok_or(Reason::Malformed)?;
    let end = start + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > bytes.len() {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| header[at..].first_chunk().map(|bytes| Address::v6(*bytes));
    let (peer, local) = address(8).zip(address(24)).ok_or(Reason::Malformed)?;
    // RFC 4942 §2.2: a mapped address on the wire would pass for an IPv4 one.
    if peer.is_v4() || local.is_v4() {
        return Err(Reason::Martian);
    }
    Ok(Datagram {
        start,
        payload: start + 40..end,
        protocol: header[6],
        peer,
        local,
        ecn: Ecn::from_bits(header[1] >> 4),
        hop_limit: header[7],
        fragment: false,
    })
}

/// Whether a next header is one that [`extensions`] walks past.
#[inline]
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Extension headers that are walked. RFC 8200 §4.1 lets each come once and destination options twice.
const EXTENSIONS: usize = 6;
/// Bytes of them. RFC 8504 §5.3 lets a host limit the chain; 256 is twice the least options that it must take (64
/// bytes each of hop-by-hop and destination).
const EXTENSION_BYTES: usize = 256;
/// Options in one header, padding included (RFC 8504 §5.3 names 8 as a good limit; Linux has the same, and counts no padding).
const OPTIONS: usize = 16;

/// What is wrong with extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// Discard without a word.
    Silent(Reason),
    /// Parameter problem (RFC 4443 §3.4): its code, and the offset of what is wrong from the IPv6 header.
    Problem {
        /// 0: a value; 1: a next header; 2: an option.
        code: u8,
        /// Bytes from the start of the IPv6 header.
        pointer: u32,
        /// Said even if the packet went to a group.
        even_to_groups: bool,
    },
}

/// Walks the extension headers, and moves `datagram` past them.
pub(super) fn extensions(bytes: &[u8], datagram: &mut Datagram) -> Result<(), Objection> {
    const CUT: Objection = Objection::Silent(Reason::Malformed);
    let first = datagram.payload.start;
    for count in 0..EXTENSIONS {
        let at = datagram.payload.start;
        let kind = datagram.protocol;
        if !is_extension(kind) {
            return Ok(());
        }
        let problem = |code, offset: usize| Objection::Problem {
            code,
            pointer: u32::try_from(at + offset - datagram.start).unwrap_or(0),
            even_to_groups: false,
        };
        let header =
            bytes.get(at..datagram.payload.end).and_then(|rest| rest.first_chunk::<8>()).ok_or(CUT)?;
        let length = if kind == FRAGMENT { 8 } else { (usize::from(header[1]) + 1) * 8 };
        let past = at + length;
        if past > datagram.payload.end || past - first > EXTENSION_BYTES {
            return Err(CUT);
        }
        match kind {
            // RFC 8200 §4.3: only straight behind the IPv6 header; elsewhere it is an unknown next header.
            HOP_BY_HOP if count > 0 => return Err(Objection::Silent(Reason::Malformed)),
            HOP_BY_HOP | DESTINATION => options(&bytes[at + 2..past], at + 2 - datagram.start)?,
            // RFC 8200 §4.4: with segments left, a routing type that is not known is a parameter problem (and RFC 5095
            // §3 says the same of type 0); without, it is skipped.
            ROUTING if header[3] != 0 => return Err(problem(0, 2)),
            // RFC 6946: a fragment that is the whole datagram is no fragment.
            FRAGMENT => datagram.fragment |= u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0,
            _ => {}
        }
        datagram.protocol = header[0];
        datagram.payload.start = past;
        if datagram.fragment {
            // What follows in any piece but the first is no header.
            return Ok(());
        }
    }
    if is_extension(datagram.protocol) { Err(CUT) } else { Ok(()) }
}

/// Walks options, `offset` bytes behind the start of the IPv6 header (RFC 8200 §4.2).
fn options(options: &[u8], offset: usize) -> Result<(), Objection> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let mut at = 0;
    for _ in 0..OPTIONS {
        let Some(&kind) = options.get(at) else { return Ok(()) };
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let length = *options.get(at + 1).ok_or(Objection::Silent(Reason::Malformed))?;
        if !matches!(kind, PADN | ROUTER_ALERT) {
            // The two highest bits say what a host does that does not know the option.
            let problem = |even_to_groups| Objection::Problem {
                code: 2,
                pointer: u32::try_from(offset + at).unwrap_or(0),
                even_to_groups,
            };
            match kind >> 6 {
                0 => {}
                1 => return Err(Objection::Silent(Reason::NotOurs)),
                2 => return Err(problem(true)),
                _ => return Err(problem(false)),
            }
        }
        at += 2 + usize::from(length);
    }
    if at >= options.len() { Ok(()) } else { Err(Objection::Silent(Reason::Malformed)) }
}

/// The sum of a pseudo header (RFC 9293 §3.1, RFC 8200 §8.1), not folded.
///
/// A mapped address adds 0xffff for its prefix, which is zero in this arithmetic: both families go one way. The result
/// is never zero, so even its folded form is the same.
#[inline]
pub(super) fn pseudo(local: Address, peer: Address, protocol: u8, length: usize) -> u64 {
    // Below 2^17 bytes; the upper half of an IPv6 length and the lower one are added by the word.
    let length = u32::try_from(length).unwrap_or(0).to_be();
    let length = u64::from(length & 0xffff) + u64::from(length >> 16);
    sum(local.bytes()) + sum(peer.bytes()) + u64::from(u16::from_ne_bytes([0, protocol])) + length
}

/// Whether a transport checksum with a pseudo header fits.
#[inline]
pub(super) fn verify(bytes: &[u8], datagram: &Datagram, protocol: u8) -> bool {
    let payload = bytes.get(datagram.payload.clone()).unwrap_or_default();
    fold(pseudo(datagram.local, datagram.peer, protocol, payload.len()) + sum(payload)) == 0xffff
}

/// Whether no host may send from this address (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3 and §2.7).
/// Addresses of our own, and our networks' broadcast addresses, are for the caller to know.
#[inline]
pub(super) fn never_a_source(address: Address) -> bool {
    match address.to_v4() {
        Some([first, ..]) => first == 0 || first == 127 || first >= 224,
        None => {
            let bytes = address.bytes();
            bytes[0] == 0xff || u128::from_be_bytes(*bytes) <= 1
        }
    }
}
