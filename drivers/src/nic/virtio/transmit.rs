//! The transmitting half of a queue pair. Its hot halves are leaf functions over slices and numbers: what their loops need stays in
//! registers.

use super::header::{self, HEADER};
use super::queue::VirtioQueue;
use super::ring::{Access, Buffer, Ring};
use super::transport::{Addresses, Transport};
use crate::checksum;
use crate::queue::QueuePair;
use crate::rings::{self, Front, front};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{Burst, Frame, Shelf};

impl<'p, R: Ring, T: Transport> VirtioQueue<'p, R, T> {
    /// Sends packets of one frame with nothing undone until something else comes.
    #[inline]
    pub(super) fn transmit_plain(&mut self, burst: &mut Burst<'p>) {
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, room) = self.sent.ahead();
            if room == 0 || burst.is_empty() {
                break;
            }
            let (table, second) = self.transmit.table(first, room, Access::Reads);
            // Where headers count buffers they are never zero.
            let limits = (u32::try_from(self.limit).unwrap_or(0), self.receiver.mergeable);
            let shelf = &mut self.sent.shelf;
            let addresses = &self.addresses;
            let (count, bytes) = match (addresses, self.pool.frame_size()) {
                (Addresses::Linear(base), 2048) => {
                    depart::<R, 11>(shelf, burst, first, table, second, limits, |offset| base + offset)
                }
                (Addresses::Linear(base), 4096) => {
                    depart::<R, 12>(shelf, burst, first, table, second, limits, |offset| base + offset)
                }
                _ => {
                    depart::<R, 0>(shelf, burst, first, table, second, limits, |offset| addresses.of(offset))
                }
            };
            self.transmit.posted(first, count);
            self.sent.posted(count);
            self.transmitted.packets += u64::from(count);
            self.transmitted.bytes += bytes;
            self.posted |= count > 0;
            if count < room {
                break;
            }
        }
    }

    /// The careful half: what is out of room or out of the ordinary.
    #[cold]
    pub(super) fn transmit_rest(&mut self, burst: &mut Burst<'p>) {
        while !burst.is_empty() {
            let frames = match front(burst, &self.caps, HEADER) {
                Front::Empty => break,
                Front::Packet(frames) if !self.has_room(frames as usize) => break,
                Front::Packet(frames) if rings::all_of(self.pool, burst, frames) => frames as usize,
                Front::Packet(_) | Front::Unsendable => {
                    burst.drop_packet();
                    self.unsendable += 1;
                    continue;
                }
            };
            if !self.caps.checksum {
                self.checksums += u64::from(checksum::finish(burst));
            }
            let bytes = (0..frames).filter_map(|i| burst.peek(i)).map(|frame| usize::from(frame.len())).sum();
            if !burst.peek_mut(0).is_some_and(|first| self.head(first, bytes)) {
                burst.drop_packet();
                self.unsendable += 1;
                continue;
            }
            let mut count = 0;
            for _ in 0..frames {
                let Some(frame) = burst.pop() else { break };
                self.transmitted.add(frame.len(), frame.continues());
                self.depart(frame, &mut count);
            }
            self.post_chain(count);
        }
    }

    /// Writes the header in front of a packet's first frame; `false` when it cannot say what is to be done.
    pub(super) fn head(&self, first: &mut Frame<'p>, bytes: usize) -> bool {
        let offload = first.offload();
        let header = first.headroom_mut(HEADER).ok();
        let cut = offload.is_none_or(|offload| offload.segment_bytes == 0 || self.cuts(offload.segmentation));
        cut && header.is_some_and(|place| header::write(place, offload, bytes, self.limit).is_ok())
    }

    /// Lends the next frame of a packet, of this pool, to the device; the first takes its header along.
    pub(super) fn depart(&mut self, frame: Frame<'p>, count: &mut usize) {
        let (offset, len) = (frame.offset(), u32::from(frame.len()));
        let header = if *count == 0 { HEADER } else { 0 };
        let (address, len) = (self.addresses.of(offset - u64::from(header)), len + u32::from(header));
        self.scratch[*count] =
            Buffer { id: self.sent.claim_frame(frame), address, len, access: Access::Reads };
        *count += 1;
    }

    /// Posts what was noted of one packet.
    pub(super) fn post_chain(&mut self, count: usize) {
        let buffers = &self.scratch[..count];
        self.sent.link(buffers.iter().map(|buffer| buffer.id));
        self.transmit.post_chain(buffers);
        self.posted = true;
    }
}

/// The hot half of transmitting: a leaf function over slices and numbers; how many packets, and their bytes. `second` is the
/// first descriptor's second word without its length.
#[inline(never)]
pub(super) fn depart<'p, R: Ring, const SHIFT: u32>(
    shelf: &mut Shelf<'p>,
    burst: &mut Burst<'p>,
    first: u16,
    table: &[[AtomicU64; 2]],
    mut second: u64,
    limits: (u32, bool),
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
    let count = shelf.depart::<_, SHIFT, { HEADER as usize }>(burst, first.into(), table, limits, describe);
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
