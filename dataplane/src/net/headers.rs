//! Headers out: Ethernet, tags, IP and TCP in one go.

use super::path::{Ecn, Path, Vlan};
use super::wire::{CUSTOMER_TAG, IPV4, IPV6, SERVICE_TAG, TCP, pseudo};
use drivers::checksum::{fold, sum};
use ringbuf::{Frame, NoRoom, Offload, Segmentation};

/// Bytes of the longest headers: Ethernet with two tags, IPv6, TCP with all its options.
pub const HEADER_BYTES: usize = 14 + 8 + 40 + 60;

/// Hops that our packets may make (RFC 1700 and IANA's "ip-parameters": 64).
pub(super) const HOP_LIMIT: u8 = 64;

/// What the headers of one segment say.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// From where to where.
    pub path: &'a Path,
    /// The tag outside of [`Path::vlan`], for an interface with two ([`Host::service_tag`](super::Host::service_tag)).
    pub service: Option<Vlan>,
    /// Our TCP port.
    pub local_port: u16,
    /// The peer's.
    pub peer_port: u16,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The flags' byte of the TCP header: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit.
    pub flags: u8,
    /// The window field, already scaled.
    pub window: u16,
    /// TCP options, padded to a multiple of four bytes; at most forty.
    pub options: &'a [u8],
    /// The ECN bits of the IP header.
    pub ecn: Ecn,
    /// Bytes that follow the headers, in this frame or in pages behind it.
    pub payload_bytes: usize,
    /// Payload bytes of the segments that the device is to cut this packet into; 0 when it is one segment.
    pub segment_bytes: u16,
}

/// Writes headers to an empty frame; returns how many bytes they are. The payload comes behind.
///
/// A segment without payload leaves with its checksum complete. With payload, the checksum's field holds the pseudo
/// header's sum and the frame's [`Offload`] says so: the device does the rest, or `drivers::checksum::finish`.
///
/// IPv4 packets say "don't fragment", so their identification may be zero (RFC 6864 §4.1); path MTU discovery
/// (RFC 1191) needs it. An IPv6 flow label is one number per connection (RFC 6437 §3).
///
/// # Errors
/// [`NoRoom`] when the frame is too small or not empty, the options are not as said above, or the packet would be longer than IP can
/// say (65535 bytes); the frame is then to be thrown away.
#[inline]
pub fn write_headers(frame: &mut Frame<'_>, headers: &Headers<'_>) -> Result<usize, NoRoom> {
    let path = headers.path;
    let options = headers.options;
    if !frame.is_empty()
        || !options.len().is_multiple_of(4)
        || options.len() > 40
        || path.is_v4() != path.peer.is_v4()
    {
        return Err(NoRoom);
    }
    let tags = 4 * (usize::from(path.vlan.is_some()) + usize::from(headers.service.is_some()));
    let (network, ip) = (14 + tags, if path.is_v4() { 20 } else { 40 });
    let (transport, tcp) = (network + ip, 20 + options.len());
    let total = transport + tcp;
    let segment = u16::try_from(tcp + headers.payload_bytes).map_err(|_| NoRoom)?;
    frame.grow(u16::try_from(total).map_err(|_| NoRoom)?)?;
    let bytes = &mut frame[..];
    ethernet(bytes, headers);
    if let (Some(local), Some(peer)) = (path.local.to_v4(), path.peer.to_v4()) {
        let length = segment.checked_add(20).ok_or(NoRoom)?;
        put(bytes, network, &ipv4(length, TCP, headers.ecn, local, peer));
    } else {
        put(bytes, network, &ipv6(segment, flow_label(headers), headers.ecn, path));
    }
    put(bytes, transport, &fixed_part(headers, tcp));
    bytes[transport + 20..].copy_from_slice(options);

    let pseudo = pseudo(path.local, path.peer, TCP, segment.into());
    let whole = headers.payload_bytes == 0;
    let checksum = if whole { !fold(pseudo + sum(&bytes[transport..])) } else { fold(pseudo) };
    put(bytes, transport + 16, &checksum.to_ne_bytes());
    if !whole {
        frame.set_offload(Some(undone(headers, transport, total)));
    }
    Ok(total)
}

#[inline]
fn put<const N: usize>(bytes: &mut [u8], at: usize, field: &[u8; N]) {
    bytes[at..at + N].copy_from_slice(field);
}

#[inline]
fn ethernet(bytes: &mut [u8], headers: &Headers<'_>) {
    let path = headers.path;
    put(bytes, 0, &path.peer_mac);
    put(bytes, 6, &path.local_mac);
    let mut at = 12;
    for (kind, tag) in [(SERVICE_TAG, headers.service), (CUSTOMER_TAG, path.vlan)] {
        if let Some(tag) = tag {
            put(bytes, at, &kind.to_be_bytes());
            put(bytes, at + 2, &tag.tci().to_be_bytes());
            at += 4;
        }
    }
    let ethertype = if path.is_v4() { IPV4 } else { IPV6 };
    put(bytes, at, &ethertype.to_be_bytes());
}

/// An IPv4 header without options, don't fragment, checksum included.
#[inline]
pub(super) fn ipv4(length: u16, protocol: u8, ecn: Ecn, local: [u8; 4], peer: [u8; 4]) -> [u8; 20] {
    let [long, short] = length.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (local, peer);
    let mut header =
        [0x45, ecn.bits(), long, short, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0, a, b, c, d, e, f, g, h];
    let [left, right] = (!fold(sum(&header))).to_ne_bytes();
    (header[10], header[11]) = (left, right);
    header
}

#[inline]
fn ipv6(length: u16, flow: u32, ecn: Ecn, path: &Path) -> [u8; 40] {
    let mut header = [0; 40];
    let first = 6 << 28 | u32::from(ecn.bits()) << 20 | flow;
    put(&mut header, 0, &first.to_be_bytes());
    put(&mut header, 4, &length.to_be_bytes());
    (header[6], header[7]) = (TCP, HOP_LIMIT);
    put(&mut header, 8, path.local.bytes());
    put(&mut header, 24, path.peer.bytes());
    header
}

/// Twenty bits from the ports and the ends of the addresses, never zero.
#[inline]
fn flow_label(headers: &Headers<'_>) -> u32 {
    let end = |address: &[u8; 16]| u32::from_be_bytes([address[12], address[13], address[14], address[15]]);
    let addresses = end(headers.path.local.bytes()).rotate_left(7) ^ end(headers.path.peer.bytes());
    let ports = u32::from(headers.local_port) << 16 | u32::from(headers.peer_port);
    // Fibonacci hashing; the upper bits are the well-mixed ones.
    (((ports ^ addresses).wrapping_mul(0x9e37_79b9)) >> 12).max(1)
}

#[inline]
fn fixed_part(headers: &Headers<'_>, tcp: usize) -> [u8; 20] {
    let mut part = [0; 20];
    put(&mut part, 0, &headers.local_port.to_be_bytes());
    put(&mut part, 2, &headers.peer_port.to_be_bytes());
    put(&mut part, 4, &headers.sequence.to_be_bytes());
    put(&mut part, 8, &headers.acknowledgement.to_be_bytes());
    // At most 60 bytes, by the word, in the upper half.
    part[12] = u8::try_from(tcp << 2).unwrap_or(0xf0);
    part[13] = headers.flags;
    put(&mut part, 14, &headers.window.to_be_bytes());
    part
}

#[inline]
fn undone(headers: &Headers<'_>, transport: usize, total: usize) -> Offload {
    const CWR: u8 = 0x80;
    let place = |at: usize| u16::try_from(at).unwrap_or(0);
    let whole = Offload { checksum_start: place(transport), checksum_offset: 16, ..Offload::default() };
    if headers.segment_bytes == 0 || headers.payload_bytes <= headers.segment_bytes.into() {
        return whole;
    }
    let segmentation = match (headers.path.is_v4(), headers.flags & CWR != 0) {
        (true, false) => Segmentation::Tcp4,
        (true, true) => Segmentation::Tcp4Ecn,
        (false, false) => Segmentation::Tcp6,
        (false, true) => Segmentation::Tcp6Ecn,
    };
    Offload { segment_bytes: headers.segment_bytes, header_bytes: place(total), segmentation, ..whole }
}
