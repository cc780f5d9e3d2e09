//! `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`), which crosses a packet socket in front of each packet
//! in the machine's byte order, and the [`Offload`] that it says the same as.

use super::ring::VNET;
use ringbuf::{Offload, Segmentation};

const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;
const ECN: u8 = 0x80;

/// The kernel says something that an [`Offload`] cannot, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inexpressible;

/// What is undone in a received packet that begins with `packet`, of which `tag_bytes` were put back by us.
pub(crate) fn offload(
    header: [u8; VNET],
    packet: &[u8],
    tag_bytes: u16,
) -> Result<Option<Offload>, Inexpressible> {
    let [flags, kind, rest @ ..] = header;
    if flags & NEEDS_CHECKSUM == 0 && kind == 0 {
        return Ok(None);
    }
    let word = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
    let moved = |offset: u16| offset.checked_add(tag_bytes).ok_or(Inexpressible);
    let mut offload = Offload { segmentation: segmentation(kind)?, ..Offload::default() };
    if flags & NEEDS_CHECKSUM != 0 {
        offload.checksum_start = moved(word(4))?;
        offload.checksum_offset = word(6);
    }
    if offload.segmentation != Segmentation::None {
        offload.segment_bytes = word(2);
        // The kernel fills in how much of the packet happened to be contiguous; the packet itself knows better.
        offload.header_bytes = match headers(&offload, packet) {
            Some(bytes) => bytes,
            None => moved(word(0))?,
        };
    }
    Ok(Some(offload))
}

const fn segmentation(kind: u8) -> Result<Segmentation, Inexpressible> {
    const TCP4_ECN: u8 = TCP4 | ECN;
    const TCP6_ECN: u8 = TCP6 | ECN;
    Ok(match kind {
        0 => Segmentation::None,
        TCP4 => Segmentation::Tcp4,
        TCP4_ECN => Segmentation::Tcp4Ecn,
        TCP6 => Segmentation::Tcp6,
        TCP6_ECN => Segmentation::Tcp6Ecn,
        UDP => Segmentation::Udp,
        _ => return Err(Inexpressible),
    })
}

/// Bytes of all headers, when the checksum tells where the transport header begins.
fn headers(offload: &Offload, packet: &[u8]) -> Option<u16> {
    if offload.checksum_offset == 0 {
        return None;
    }
    let transport = match offload.segmentation {
        Segmentation::Udp => 8,
        // RFC 9293 §3.1: the data offset, in words.
        _ => u16::from(packet.get(usize::from(offload.checksum_start) + 12)? >> 4) * 4,
    };
    offload.checksum_start.checked_add(transport)
}

/// The header for a packet of `bytes` bytes, of which at most `limit` fit the link at once.
///
/// What the kernel would refuse is refused here: in a ring with `PACKET_LOSS` it would vanish without a count.
#[inline]
pub(crate) fn header(
    offload: Option<Offload>,
    bytes: usize,
    limit: usize,
) -> Result<[u8; VNET], Inexpressible> {
    match offload {
        None if bytes <= limit => Ok([0; VNET]),
        None => Err(Inexpressible),
        Some(offload) => undone_header(&offload, bytes, limit),
    }
}

fn undone_header(offload: &Offload, bytes: usize, limit: usize) -> Result<[u8; VNET], Inexpressible> {
    // `__virtio_net_hdr_to_skb` (`include/linux/virtio_net.h`) wants an IP header in front of the checksum's range.
    const EARLIEST: u16 = 14 + 20;
    let mut header = [0; VNET];
    let mut put = |at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
    let (start, place) = (offload.checksum_start, offload.checksum_offset);
    if place != 0 {
        if start < EARLIEST || usize::from(start) + usize::from(place) + 2 > bytes {
            return Err(Inexpressible);
        }
        put(6, start);
        put(8, place);
    }
    let kind = match offload.segmentation {
        Segmentation::None => 0,
        Segmentation::Tcp4 => TCP4,
        Segmentation::Tcp4Ecn => TCP4 | ECN,
        Segmentation::Tcp6 => TCP6,
        Segmentation::Tcp6Ecn => TCP6 | ECN,
        Segmentation::Udp => UDP,
    };
    let at_once = if kind == 0 {
        bytes
    } else {
        put(2, offload.header_bytes);
        put(4, offload.segment_bytes);
        if offload.segment_bytes == 0 || usize::from(offload.header_bytes) > bytes {
            return Err(Inexpressible);
        }
        bytes.min(usize::from(offload.header_bytes) + usize::from(offload.segment_bytes))
    };
    if at_once > limit {
        return Err(Inexpressible);
    }
    header[0] = if place != 0 { NEEDS_CHECKSUM } else { 0 };
    header[1] = kind;
    Ok(header)
}

/// The same, asking the kernel to copy the whole packet out of the ring at once.
///
/// Otherwise it lends the ring's page to the packet, and a virtual device (veth, bridge, any tap) then has to copy it to a
/// page of its own (`skb_orphan_frags`, `net/core/skbuff.c`).
#[inline]
pub(crate) fn contiguous(mut header: [u8; VNET], bytes: usize) -> [u8; VNET] {
    header[2..4].copy_from_slice(&u16::try_from(bytes).unwrap_or_default().to_ne_bytes());
    header
}

/// Whether the kernel is asked to cut the packet.
pub(crate) const fn is_segmented(header: [u8; VNET]) -> bool {
    header[1] != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_kernel_says_goes_out_as_it_came() {
        let mut packet = [0u8; 200];
        packet[34 + 12] = 8 << 4;
        for (kind, segment) in [(0, 0u16), (TCP4, 1448), (TCP6 | ECN, 1428), (UDP, 1000)] {
            let mut came = [0; VNET];
            (came[0], came[1]) = (NEEDS_CHECKSUM, kind);
            came[4..6].copy_from_slice(&segment.to_ne_bytes());
            came[6..8].copy_from_slice(&34u16.to_ne_bytes());
            came[8..10].copy_from_slice(&16u16.to_ne_bytes());
            let offload = offload(came, &packet, 0).expect("known").expect("undone");
            let headers = if kind == UDP { 42u16 } else { 66 };
            let mut went = header(Some(offload), 60_000, 65_549).expect("fits");
            if kind != 0 {
                assert_eq!(u16::from_ne_bytes([went[2], went[3]]), headers);
                went[2..4].fill(0);
            }
            assert_eq!(went, came);
        }
    }

    #[test]
    fn a_tag_put_back_moves_the_checksum() {
        let mut came = [0; VNET];
        came[0] = NEEDS_CHECKSUM;
        came[6..8].copy_from_slice(&34u16.to_ne_bytes());
        came[8..10].copy_from_slice(&6u16.to_ne_bytes());
        let offload = offload(came, &[], 4).expect("known").expect("undone");
        assert_eq!((offload.checksum_start, offload.checksum_offset), (38, 6));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_here() {
        let good = Offload { checksum_start: 34, checksum_offset: 16, ..Offload::default() };
        let cut = Offload { segmentation: Segmentation::Tcp4, segment_bytes: 1460, header_bytes: 54, ..good };
        assert!(header(Some(good), 60, 1514).is_ok());
        assert!(header(Some(cut), 9000, 1514).is_ok());
        assert!(header(None, 1515, 1514).is_err());
        assert!(header(Some(good), 1515, 1514).is_err());
        assert!(header(Some(good), 51, 1514).is_err());
        assert!(header(Some(Offload { checksum_start: 14, ..good }), 60, 1514).is_err());
        assert!(header(Some(Offload { segment_bytes: 1461, ..cut }), 9000, 1514).is_err());
        assert!(header(Some(Offload { segment_bytes: 0, ..cut }), 9000, 1514).is_err());
        assert!(header(Some(cut), 53, 1514).is_err());
    }

    proptest! {
        /// Whatever the kernel says: no panic, and what can be said again is said the same way.
        #[test]
        fn garbage_is_survived(came: [u8; VNET], packet in prop::collection::vec(any::<u8>(), 0..120), tag in prop::sample::select(vec![0u16, 4])) {
            if let Ok(Some(offload)) = offload(came, &packet, tag)
                && let Ok(went) = header(Some(offload), packet.len(), 1518)
            {
                prop_assert_eq!(went[1], came[1]);
            }
        }
    }
}
