//! The hot halves of transmitting, as leaf functions over slices and numbers: what their loops need stays in registers.

use super::header::HEADER;
use super::ring::Ring;
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{Burst, Shelf};

/// The hot half of transmitting: a leaf function over slices and numbers; how many packets, and their bytes. `second` is the
/// first descriptor's second word without its length.
#[inline(never)]
pub(super) fn depart<'p, R: Ring, const SHIFT: u32>(
    shelf: &mut Shelf<'p>,
    burst: &mut Burst<'p>,
    first: u16,
    table: &[[AtomicU64; 2]],
    mut second: u64,
    limit: u32,
    address: impl Fn(u64) -> u64,
) -> (u16, u64) {
    let mut bytes = 0;
    // A header of zeroes: nothing undone, and no number of buffers (§5.1.6.2).
    let describe = |[place, rest]: &[AtomicU64; 2], offset, len| {
        place.store(address(offset).to_le(), Ordering::Relaxed);
        // In a packed ring this publishes it: address, header and packet must be there before.
        rest.store((second + u64::from(len)).to_le(), Ordering::Release);
        second += R::STEP;
        bytes += u64::from(len);
    };
    let count = shelf.depart::<_, SHIFT, { HEADER as usize }>(burst, first.into(), table, limit, describe);
    (u16::try_from(count).unwrap_or(u16::MAX), bytes - u64::from(HEADER) * u64::from(count))
}

/// How many of the answers come in the order of posting, the first of which has this key.
#[inline(never)]
pub(super) fn in_order<R: Ring>(answers: &[R::Answer], key: u32) -> u16 {
    let (eights, rest) = answers.as_chunks::<8>();
    let mut next = key;
    // By eights, without a branch for each; the eight with the odd one, and what is left, one by one.
    for eight in eights {
        let odd = eight.iter().zip(next..).fold(0, |odd, (answer, key)| odd | (R::read(answer).key ^ key));
        if odd != 0 {
            break;
        }
        next += 8;
    }
    for answer in answers.get((next - key) as usize..).unwrap_or(rest) {
        if R::read(answer).key != next {
            break;
        }
        next += 1;
    }
    u16::try_from(next - key).unwrap_or(u16::MAX)
}
