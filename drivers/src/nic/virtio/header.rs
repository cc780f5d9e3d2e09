//! `struct virtio_net_hdr` with `num_buffers` (§5.1.6), which lies in front of each packet in both directions.
//!
//! ```text
//!   0 flags │ 1 gso_type │ 2 hdr_len │ 4 gso_size │ 6 csum_start │ 8 csum_offset │ 10 num_buffers
//! ```

use crate::packet::vnet;
use ringbuf::Offload;

pub(super) use vnet::Inexpressible;

/// Bytes of it.
pub(super) const HEADER: u16 = 12;

/// The first ten bytes are in the machine's order where they come from and little-endian here (§5.1.6).
#[inline]
fn swapped(mut header: [u8; 10]) -> [u8; 10] {
    if cfg!(target_endian = "big") {
        header[2..].chunks_exact_mut(2).for_each(<[u8]>::reverse);
    }
    header
}

/// Buffers of a received packet that needs nothing done, when that is one: the common case.
#[inline]
pub(super) const fn is_plain(header: &[u8; HEADER as usize], mergeable: bool) -> bool {
    // `VIRTIO_NET_HDR_F_NEEDS_CSUM` and any type of segmentation, in one look; any number of buffers but one.
    let undone = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) & 0xff01;
    undone == 0 && (!mergeable || u16::from_le_bytes([header[10], header[11]]) == 1)
}

/// How many buffers a received packet has.
pub(super) fn buffers(header: &[u8], mergeable: bool) -> u16 {
    if mergeable { u16::from_le_bytes([header[10], header[11]]) } else { 1 }
}

/// What is undone in a received packet that begins with `packet`.
pub(super) fn offload(header: &[u8], packet: &[u8]) -> Result<Option<Offload>, Inexpressible> {
    let first = core::array::from_fn(|i| header[i]);
    vnet::offload(swapped(first), packet, 0)
}

/// Writes the header of a packet of `bytes` bytes, of which at most `limit` fit the link at once.
pub(super) fn write(
    header: &mut [u8],
    offload: Option<Offload>,
    bytes: usize,
    limit: usize,
) -> Result<(), Inexpressible> {
    header[..10].copy_from_slice(&swapped(vnet::header(offload, bytes, limit)?));
    // §5.1.6.2: zero on the way out.
    header[10..12].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_left_undone_survives_both_ways() {
        let offload = Offload { checksum_start: 34, checksum_offset: 16, ..Offload::default() };
        let mut header = [0xff; 12];
        write(&mut header, Some(offload), 100, 1518).expect("fits");
        assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
        assert_eq!(super::offload(&header, &[0; 100]).ok(), Some(Some(offload)));
        assert!(!is_plain(&header, true) && !is_plain(&header, false));
        write(&mut header, None, 100, 1518).expect("fits");
        assert!(is_plain(&header, false) && !is_plain(&header, true));
        header[10] = 1;
        assert!(is_plain(&header, true));
        header[1] = 77;
        assert!(super::offload(&header, &[0; 100]).is_err(), "a kind that nobody knows");
    }
}
