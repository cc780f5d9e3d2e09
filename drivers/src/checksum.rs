//! The internet checksum (RFC 1071), and finishing what a virtual peer left undone.
//!
//! A veth, tap or virtio peer may hand over TCP and UDP packets whose checksum field holds only the sum of the pseudo
//! header, since it expects "hardware" to do the rest (`CHECKSUM_PARTIAL`, `include/linux/skbuff.h`). XDP cannot see
//! that mark. A forwarder that passes such a packet on as it is breaks TCP while ping works; so it is recognised by
//! that very sum, and completed by the next device or by [`finish`].

use ringbuf::{Burst, Frame, Offload, Page};

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;

/// Tunnels within tunnels that are looked into.
const TUNNELS: u32 = 2;

/// The sum of 16-bit words, not yet folded, of bytes at an even offset. An odd last byte counts as if a zero followed.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    // RFC 1071 §2: wider words give the same sum once folded, in any byte order. Two sums with carries of their own,
    // since one would wait for its carry: 16 bytes a cycle.
    let (pairs, rest) = bytes.as_chunks::<16>();
    let (mut even, mut odd) = (0u128, 0u128);
    for pair in pairs {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *pair;
        even += u128::from(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        odd += u128::from(u64::from_ne_bytes([i, j, k, l, m, n, o, p]));
    }
    let total = even + odd;
    let (low, high) = halves(total);
    (low >> 32) + (low & 0xffff_ffff) + high + tail(rest)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
const fn halves(total: u128) -> (u64, u64) {
    (total as u64, (total >> 64) as u64)
}

/// The sum of fewer than sixteen bytes.
#[inline]
fn tail(mut rest: &[u8]) -> u64 {
    let mut total = 0;
    if let Some((word, more)) = rest.split_first_chunk::<8>() {
        let word = u64::from_ne_bytes(*word);
        total += (word >> 32) + (word & 0xffff_ffff);
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<4>() {
        total += u64::from(u32::from_ne_bytes(*word));
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<2>() {
        total += u64::from(u16::from_ne_bytes(*word));
        rest = more;
    }
    total + rest.first().map_or(0, |last| u64::from(u16::from_ne_bytes([*last, 0])))
}

/// Folds a sum into sixteen bits, in the machine's byte order, uncomplemented.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "folded below 2^16 by then")]
pub const fn fold(total: u64) -> u16 {
    // At most 2^33, 2^18, 2^16 + 2, 2^16 - 1.
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// What is undone in an Ethernet packet, recognised from its first frame; `None` when nothing is, or when it is no
/// TCP or UDP over IPv4 or IPv6, alone or in a tunnel.
///
/// One packet in 65536 that is complete looks undone: completing it again gives the same checksum. The exceptions are
/// a damaged one, whose damage is then sealed, and one with bytes other than zero behind its end; so ask only where a peer may leave checksums undone.
///
/// Not recognised: IP fragments (a peer completes those itself), SCTP, and UDP tunnels at ports of one's own choice.
#[inline]
#[must_use]
pub fn undone(packet: &[u8]) -> Option<Offload> {
    let (start, checksum_offset) = ethernet(packet, 0, TUNNELS)?;
    Some(Offload {
        checksum_start: u16::try_from(start).ok()?,
        checksum_offset: u16::try_from(checksum_offset).ok()?,
        ..Offload::default()
    })
}

/// Where an undone checksum's data starts, and where in that data the checksum is.
type Place = (usize, usize);

#[inline]
fn ethernet(packet: &[u8], start: usize, tunnels: u32) -> Option<Place> {
    let mut at = start + 14;
    let mut kind = be16(packet, start + 12)?;
    while VLAN.contains(&kind) && at <= start + 18 {
        kind = be16(packet, at + 2)?;
        at += 4;
    }
    network(packet, kind, at, tunnels)
}

#[inline]
fn network(packet: &[u8], kind: u16, at: usize, tunnels: u32) -> Option<Place> {
    let (protocol, (addresses, length), header) = match kind {
        IPV4 => ipv4(packet.get(at..)?)?,
        IPV6 => ipv6(packet.get(at..)?)?,
        _ => return None,
    };
    let start = at + header;
    let checksum_offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return inside(packet, protocol, start, tunnels),
    };
    let field = packet.get(start + checksum_offset..start + checksum_offset + 2)?;
    let field = u16::from_ne_bytes([field[0], field[1]]);
    let pseudo = addresses + u64::from(u16::from_ne_bytes([0, protocol])) + u64::from(length.to_be());
    if field == fold(pseudo) {
        return Some((start, checksum_offset));
    }
    if protocol == UDP { inside(packet, protocol, start, tunnels) } else { None }
}

/// Looks into a tunnel. A peer leaves the checksum of the segment *inside* undone too, and completes that of the UDP
/// outside by what it will be (`Documentation/networking/checksum-offloads.rst`, "LCO").
fn inside(packet: &[u8], protocol: u8, at: usize, tunnels: u32) -> Option<Place> {
    const ETHERNET: u16 = 0x6558;
    let tunnels = tunnels.checked_sub(1)?;
    let payload = |kind: u16, at: usize| match kind {
        ETHERNET => ethernet(packet, at, tunnels),
        kind => network(packet, kind, at, tunnels),
    };
    match protocol {
        IPV4_IN_IP => payload(IPV4, at),
        IPV6_IN_IP => payload(IPV6, at),
        GRE => {
            // RFC 2784 and 2890: each of checksum, key and sequence number takes four bytes if its bit is set.
            let flags = be16(packet, at)?;
            let words = (flags & 0xb000).count_ones() as usize;
            if flags & 7 == 0 { payload(be16(packet, at + 2)?, at + 4 + 4 * words) } else { None }
        }
        UDP => match be16(packet, at + 2)? {
            // RFC 7348, and the port that Linux had before that.
            4789 | 8472 => payload(ETHERNET, at + 16),
            // Geneve, RFC 8926 §3.4.
            6081 => {
                let options = usize::from(packet.get(at + 8)? & 0x3f) * 4;
                payload(be16(packet, at + 10)?, at + 16 + options)
            }
            _ => None,
        },
        _ => None,
    }
}

#[inline]
fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// Where the headers of a TCP or UDP packet are, outside of tunnels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    /// Where the IP header begins.
    pub(crate) network: usize,
    /// Where the TCP or UDP header begins.
    pub(crate) transport: usize,
    /// 6 or 17.
    pub(crate) protocol: u8,
    /// Bytes from the transport header on, by the IP header's word.
    pub(crate) length: u16,
    addresses: u64,
}

impl Headers {
    /// The pseudo header's sum for so many bytes from the transport header on.
    pub(crate) fn pseudo(&self, length: u16) -> u64 {
        self.addresses + u64::from(u16::from_ne_bytes([0, self.protocol])) + u64::from(length.to_be())
    }
}

/// The headers of a TCP or UDP packet over IPv4 or IPv6, no fragment; `None` for any other.
pub(crate) fn headers(packet: &[u8]) -> Option<Headers> {
    let (mut kind, mut network) = (be16(packet, 12)?, 14);
    while VLAN.contains(&kind) && network <= 18 {
        kind = be16(packet, network + 2)?;
        network += 4;
    }
    let (protocol, (addresses, length), header) = match kind {
        IPV4 => ipv4(packet.get(network..)?)?,
        IPV6 => ipv6(packet.get(network..)?)?,
        _ => return None,
    };
    // All of the fixed part is there.
    let fixed = if protocol == TCP { 20 } else { 8 };
    let transport = network + header;
    let whole = matches!(protocol, TCP | UDP) && packet.len() >= transport + fixed;
    whole.then_some(Headers { network, transport, protocol, length, addresses })
}

type Transport = (u8, (u64, u16), usize);

/// Protocol, (sum of the addresses, length of the payload) and where the payload begins (RFC 791 §3.1).
#[inline]
fn ipv4(header: &[u8]) -> Option<Transport> {
    let fixed: &[u8; 20] = header.first_chunk()?;
    let length = usize::from(fixed[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff;
    if fixed[0] >> 4 != 4 || length < 20 || fragment != 0 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let payload = u16::try_from(total.checked_sub(length)?).ok()?;
    Some((fixed[9], (sum(&fixed[12..20]), payload), length))
}

/// The same for IPv6 (RFC 8200 §3), past the extension headers that end hosts put before TCP.
#[inline]
fn ipv6(header: &[u8]) -> Option<Transport> {
    const SKIPPED: [u8; 3] = [0, 43, 60];
    let fixed: &[u8; 40] = header.first_chunk()?;
    let mut payload = u16::from_be_bytes([fixed[4], fixed[5]]);
    let (mut next, mut at) = (fixed[6], 40);
    // RFC 8200 §4.1: each of them at most once, destination options twice.
    for _ in 0..4 {
        if !SKIPPED.contains(&next) {
            break;
        }
        let extension = header.get(at..at + 2)?;
        let length = (usize::from(extension[1]) + 1) * 8;
        next = extension[0];
        at += length;
        payload = payload.checked_sub(u16::try_from(length).ok()?)?;
    }
    Some((next, (sum(&fixed[8..40]), payload), at))
}

/// Completes the checksum of the packet at the front of `burst`, however many frames it has, and takes the note away.
///
/// Returns whether there was one to complete. A note that points outside the first frame is taken away and changes
/// nothing.
pub fn finish(burst: &mut Burst<'_>) -> bool {
    let Some(offload) = burst.peek(0).and_then(|first| first.offload()) else { return false };
    let frames = (0..burst.packet_frames()).filter_map(|i| burst.peek(i));
    let checksum = complete(frames.map(|frame| &**frame), offload.checksum_start.into());
    burst.peek_mut(0).is_some_and(|first| store(first, offload, checksum))
}

/// The same for a head frame and the pages behind it; not if one is a file's own, which only a device may read.
pub fn finish_packet<'q, 'p: 'q>(
    head: &mut Frame<'p>,
    pages: impl Iterator<Item = &'q Page<'p>> + Clone,
) -> bool {
    let Some(offload) = head.offload() else { return false };
    if pages.clone().any(Page::is_file) {
        return false;
    }
    // The pages may be borrowed for longer than the head is here.
    let content = pages.filter_map(|page| -> Option<&[u8]> { page.bytes() });
    let parts = core::iter::once::<&[u8]>(head).chain(content);
    let checksum = complete(parts, offload.checksum_start.into());
    store(head, offload, checksum)
}

/// The checksum over everything from `start`, the pseudo header's sum already in its field; in the machine's order.
fn complete<'b>(parts: impl Iterator<Item = &'b [u8]>, start: usize) -> u16 {
    let (mut total, mut odd, mut skip) = (0, false, start);
    for part in parts {
        let bytes = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        // RFC 1071 §2(B): bytes at an odd offset count swapped.
        let sum = fold(sum(bytes));
        total += u64::from(if odd { sum.swap_bytes() } else { sum });
        odd ^= bytes.len() % 2 == 1;
    }
    match !fold(total) {
        // RFC 768: zero means "none" in UDP; all ones is the same number. In TCP either form is right.
        0 => 0xffff,
        other => other,
    }
}

fn store(head: &mut Frame<'_>, offload: Offload, checksum: u16) -> bool {
    head.set_offload(None);
    let place = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset);
    match head.get_mut(place..place + 2) {
        Some(field) if offload.checksum_offset != 0 => {
            field.copy_from_slice(&checksum.to_ne_bytes());
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringbuf::{Arena, ArenaPlan, Pool};

    /// The example of RFC 1071 §3.
    #[test]
    fn sums_as_the_rfc_does() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        /// Of any length, and beyond what one word can carry, it is the sum of sixteen-bit words.
        #[test]
        fn sums_as_words_of_sixteen_bits_do(bytes in prop::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..400)) {
            let word = |pair: &[u8]| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            let expected: u64 = bytes.chunks(2).map(word).sum();
            prop_assert_eq!(fold(sum(&bytes)), fold(expected));
        }

        #[test]
        fn folds_as_a_loop_does(total in any::<u64>()) {
            let mut expected = total;
            while expected > 0xffff {
                expected = (expected & 0xffff) + (expected >> 16);
            }
            prop_assert_eq!(u64::from(fold(total)), expected);
        }
    }

    #[test]
    fn the_largest_sums_fit() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(sum(&[0xff; 65536])), 0xffff);
        assert_eq!(fold(0), 0);
    }

    /// A TCP packet over IPv4 as a veth peer hands it over: the field holds the pseudo header's sum.
    fn partial_tcp(payload: &[u8], tags: usize) -> Vec<u8> {
        let mut packet = vec![2u8; 12];
        for _ in 0..tags {
            packet.extend([0x81, 0x00, 0x00, 0x07]);
        }
        packet.extend([0x08, 0x00]);
        let length = u16::try_from(20 + payload.len()).expect("short");
        let ip = packet.len();
        packet.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet[ip + 2..ip + 4].copy_from_slice(&(length + 20).to_be_bytes());
        let pseudo = fold(
            sum(&packet[ip + 12..ip + 20]) + u64::from(u16::from(TCP).to_be()) + u64::from(length.to_be()),
        );
        packet.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0]);
        packet.extend(pseudo.to_ne_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    /// Verified as a receiver does: header, payload and pseudo header sum up to all ones.
    fn is_right(packet: &[u8], tags: usize) -> bool {
        let ip = 14 + 4 * tags;
        let transport = &packet[ip + 20..];
        let length = u16::try_from(transport.len()).expect("short");
        let pseudo =
            sum(&packet[ip + 12..ip + 20]) + u64::from(u16::from(TCP).to_be()) + u64::from(length.to_be());
        fold(pseudo + sum(transport)) == 0xffff
    }

    proptest! {
        /// Cut into frames anywhere behind the headers, at odd places too, the checksum comes out right.
        #[test]
        fn finishes_chains(payload in prop::collection::vec(any::<u8>(), 0..3000), cuts in prop::collection::vec(60usize..3000, 0..4), tags in 0usize..3) {
            let pool = Pool::new(Arena::new(&ArenaPlan { frames: 8, frame_size: 4096, content_bytes: 0, huge_pages: false }).expect("small"));
            let packet = partial_tcp(&payload, tags);
            prop_assert_eq!(undone(&packet).map(|o| usize::from(o.checksum_start)), Some(34 + 4 * tags));
            let mut burst = Burst::new();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut > 62 && *cut < packet.len()).collect();
            cuts.sort_unstable();
            cuts.dedup();
            cuts.push(packet.len());
            let mut from = 0;
            for cut in &cuts {
                let mut frame = pool.alloc().expect("eight");
                frame.extend(&packet[from..*cut]).expect("fits");
                frame.set_continues(*cut != packet.len());
                if from == 0 {
                    frame.set_offload(undone(&packet));
                }
                from = *cut;
                burst.push(frame).expect("room");
            }
            prop_assert!(finish(&mut burst));
            let whole: Vec<u8> = burst.drain().flat_map(|frame| frame.to_vec()).collect();
            prop_assert!(is_right(&whole, tags));
            prop_assert!(undone(&whole).is_none() || is_right(&whole, tags));
        }

        /// Garbage is looked at without a panic, and a note about it stays inside.
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(offload) = undone(&bytes) {
                prop_assert!(usize::from(offload.checksum_start + offload.checksum_offset) + 2 <= bytes.len());
            }
        }
    }

    /// `inner`, from its network header on or whole, behind an IPv4 header and `between`.
    fn tunnelled(protocol: u8, between: &[u8], inner: &[u8]) -> Vec<u8> {
        let mut packet = vec![2u8; 12];
        packet.extend([0x08, 0x00]);
        let length = u16::try_from(20 + between.len() + inner.len()).expect("short").to_be_bytes();
        packet.extend([0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend([10, 1, 0, 1, 10, 1, 0, 2]);
        packet.extend(between);
        packet.extend(inner);
        packet
    }

    /// The segment inside is what is undone, whatever is around it; and tunnels without end are not followed.
    #[test]
    fn tunnels_are_looked_into() {
        let inner = partial_tcp(b"abc", 0);
        let udp = |port: u16| {
            let port = port.to_be_bytes();
            [0xc0, 0, port[0], port[1], 0, 0, 0, 0]
        };
        let vxlan = [&udp(4789)[..], &[8, 0, 0, 0, 0, 0, 7, 0]].concat();
        let geneve = [&udp(6081)[..], &[1, 0, 0x65, 0x58, 0, 0, 7, 0, 9, 9, 9, 9]].concat();
        let keyed = [0x20, 0, 0x08, 0x00, 0, 0, 0, 7];
        for (protocol, between, inner) in [
            (UDP, &vxlan[..], &inner[..]),
            (UDP, &geneve, &inner),
            (GRE, &keyed, &inner[14..]),
            (GRE, &[0, 0, 0x65, 0x58], &inner),
            (IPV4_IN_IP, &[], &inner[14..]),
        ] {
            let packet = tunnelled(protocol, between, inner);
            let start = packet.len() - 23;
            let place = undone(&packet).map(|o| (usize::from(o.checksum_start), o.checksum_offset));
            assert_eq!(place, Some((start, 16)), "{protocol} {between:?}");
            for short in 0..packet.len() - 23 {
                assert_eq!(undone(&packet[..short]), None, "{protocol} cut to {short}");
            }
        }
        let elsewhere = [&udp(4790)[..], &[8, 0, 0, 0, 0, 0, 7, 0]].concat();
        assert_eq!(undone(&tunnelled(UDP, &elsewhere, &inner)), None);
        let mut deep = tunnelled(IPV4_IN_IP, &[], &inner[14..]);
        assert!(undone(&deep).is_some());
        for _ in 0..2 {
            deep = tunnelled(IPV4_IN_IP, &[], &deep[14..]);
        }
        assert_eq!(undone(&deep), None);
    }

    #[test]
    fn complete_packets_and_fragments_are_left_alone() {
        let mut packet = partial_tcp(b"abc", 0);
        assert!(undone(&packet).is_some());
        packet[20] |= 0x20; // more fragments
        assert_eq!(undone(&packet), None);
        packet[20] &= !0x20;
        packet[50] ^= 1; // another checksum
        assert_eq!(undone(&packet), None);
    }
}
