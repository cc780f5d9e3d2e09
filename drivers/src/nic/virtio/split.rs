//! The split virtqueue (VIRTIO 1.2 §2.7).
//!
//! ```text
//!   descriptors   id → address, length, flags, next     written by us        §2.7.5
//!   available     which ids are posted, in order        written by us        §2.7.6
//!   used          which ids are done, how many bytes    written by the device §2.7.8
//! ```

use super::memory::{RingMemory, Words};
use super::ring::{Access, Batch, Buffer, Done, INDIRECT, Parts, Ring};
use crate::error::Fault;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use ringbuf::Cursor;
use std::sync::Arc;

/// `VIRTQ_DESC_F_NEXT` (§2.7.5): the packet goes on in the descriptor that `next` names.
pub(super) const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE` (§2.7.5): the device writes.
pub(super) const WRITE: u16 = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.6) and `VIRTQ_USED_F_NO_NOTIFY` (§2.7.8).
const SILENT: u16 = 1;

/// Words of the ring that both sides know.
#[derive(Debug)]
pub(super) struct SplitWords {
    /// Two words a descriptor: the address; then length, flags and next.
    pub(super) table: Words<AtomicU64>,
    /// Flags and index.
    pub(super) available: Words<AtomicU16>,
    pub(super) posted: Words<AtomicU16>,
    /// Flags and index.
    pub(super) used: Words<AtomicU16>,
    /// An id and a length in each.
    pub(super) done: Words<AtomicU64>,
}

impl SplitWords {
    pub(super) fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        let size = usize::from(size);
        Self {
            table: memory.words(parts.descriptors, 2 * size),
            available: memory.words(parts.driver, 2),
            posted: memory.words(parts.driver + 4, size),
            used: memory.words(parts.device, 2),
            done: memory.words(parts.device + 4, size),
        }
    }
}

/// The second word of a descriptor.
#[inline]
const fn second(len: u32, flags: u16, next: u16) -> u64 {
    (len as u64 | (flags as u64) << 32 | (next as u64) << 48).to_le()
}

/// Our end.
#[derive(Debug)]
pub(crate) struct Split {
    words: SplitWords,
    mask: u16,
    /// Where the next id is posted.
    next: u16,
    /// Each place of the available ring holds its own number, so far: ids in that order need not be written.
    straight: bool,
    /// The used ring, whose 16-bit index is widened so that it wraps where others do.
    cursor: Cursor,
}

impl Split {
    /// How far the device has come.
    #[inline]
    fn follow(&mut self) -> Result<u32, Fault> {
        // Pairs with the device's release of the index: the entries below it have been written.
        let index = u16::from_le(self.words.used[1].load(Ordering::Acquire));
        let tail = self.cursor.tail();
        let ahead = index.wrapping_sub(low(tail));
        self.cursor.follow_tail(tail.wrapping_add(ahead.into()))?;
        Ok(self.cursor.filled())
    }

    fn offer(&mut self, id: u16) {
        let place = self.next & self.mask;
        self.straight &= place == id;
        self.words.posted[usize::from(place)].store(id.to_le(), Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Each place of the available ring gets its own number.
    fn straighten(&self) {
        for (id, place) in (0..).zip(self.words.posted.iter()) {
            place.store(u16::to_le(id), Ordering::Relaxed);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn low(value: u32) -> u16 {
    value as u16
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn low32(value: u64) -> u32 {
    value as u32
}

impl Ring for Split {
    const NAME: &'static str = "split ring";
    const STEP: u64 = 0;
    type Answer = AtomicU64;

    fn parts(start: usize, size: u16) -> Parts {
        let size = usize::from(size);
        // §2.7: alignments of 16, 2 and 4. The used ring's entries, four bytes behind its start, are to lie on eight.
        let driver = start + 16 * size;
        let device = (driver + 6 + 2 * size).next_multiple_of(64) + 60;
        let end = (device + 6 + 8 * size).next_multiple_of(64);
        Parts { descriptors: start, driver, device, bytes: end - start }
    }

    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        let ring = Self {
            words: SplitWords::new(memory, parts, size),
            mask: size - 1,
            next: 0,
            straight: true,
            cursor: Cursor::at(0, size.into()),
        };
        ring.straighten();
        ring
    }

    fn preset(&mut self, len: u32) {
        for descriptor in self.words.table.as_chunks::<2>().0 {
            descriptor[1].store(second(len, WRITE, 0), Ordering::Relaxed);
        }
    }

    #[inline]
    fn table(&self, first: u16, count: u16, access: Access) -> (&[[AtomicU64; 2]], u64) {
        let (first, end) = (usize::from(first), usize::from(first) + usize::from(count));
        let flags = if access == Access::Writes { WRITE } else { 0 };
        (self.words.table.as_chunks::<2>().0.get(first..end).unwrap_or_default(), u64::from(flags) << 32)
    }

    #[inline]
    fn posted(&mut self, first: u16, count: u16) {
        if self.straight && self.next & self.mask == first {
            self.next = self.next.wrapping_add(count);
        } else {
            (first..first + count).for_each(|id| self.offer(id));
        }
    }

    fn post_chain(&mut self, buffers: &[Buffer]) {
        for (i, buffer) in buffers.iter().enumerate() {
            let (more, next) = buffers.get(i + 1).map_or((0, 0), |behind| (NEXT, behind.id));
            let flags = if buffer.access == Access::Writes { WRITE } else { 0 };
            let place = 2 * usize::from(buffer.id);
            self.words.table[place].store(buffer.address.to_le(), Ordering::Relaxed);
            let second = second(buffer.len, flags | more, next);
            self.words.table[place + 1].store(second, Ordering::Relaxed);
        }
        if let Some(first) = buffers.first() {
            self.offer(first.id);
        }
    }

    #[inline]
    fn listed(len: u32, index: u16, last: bool) -> u64 {
        if last { second(len, 0, 0) } else { second(len, NEXT, index + 1) }
    }

    #[inline]
    fn post_table(&mut self, id: u16, address: u64, bytes: u32) {
        let place = 2 * usize::from(id);
        self.words.table[place].store(address.to_le(), Ordering::Relaxed);
        self.words.table[place + 1].store(second(bytes, INDIRECT, 0), Ordering::Relaxed);
        self.offer(id);
    }

    #[inline]
    fn publish(&mut self) {
        // §2.7.13: the descriptors and ids must be there before the index says so.
        self.words.available[1].store(self.next.to_le(), Ordering::Release);
    }

    #[inline]
    fn is_idle(&self) -> bool {
        self.cursor.filled() == 0
            && u16::from_le(self.words.used[1].load(Ordering::Relaxed)) == low(self.cursor.tail())
    }

    #[inline]
    fn answers(&mut self, most: u16, _: u16) -> Result<&[AtomicU64], Fault> {
        let filled = self.follow()?.min(most.into()) as usize;
        let first = self.cursor.slot(self.cursor.head());
        let end = (first + filled).min(self.words.done.len());
        Ok(self.words.done.get(first..end).unwrap_or_default())
    }

    #[inline]
    fn read(answer: &AtomicU64) -> Done {
        let word = u64::from_le(answer.load(Ordering::Relaxed));
        Done { key: low32(word), len: low32(word >> 32) }
    }

    #[inline]
    fn key(&self) -> u32 {
        0
    }

    #[inline]
    fn advance(&mut self, packets: u16, _: u16) {
        self.cursor.drain(packets.into());
    }

    fn next(&mut self, _: u16) -> Result<Option<(u32, u32)>, Fault> {
        let filled = self.follow()?;
        let Done { key, len } = Self::read(&self.words.done[self.cursor.slot(self.cursor.head())]);
        Ok((filled > 0).then_some((key, len)))
    }

    #[inline]
    fn batch(&mut self, _: u16) -> Result<Option<Batch>, Fault> {
        let filled = self.follow()?;
        Ok((filled > 0).then(|| Batch::Packets(low(filled))))
    }

    fn covers(&self, packets: u16) -> bool {
        u32::from(packets) <= self.cursor.filled()
    }

    fn restart(&mut self) {
        (self.next, self.straight, self.cursor) = (0, true, Cursor::at(0, self.cursor.capacity()));
        self.straighten();
    }

    #[inline]
    fn wants_bell(&self) -> bool {
        u16::from_le(self.words.used[0].load(Ordering::Relaxed)) & SILENT == 0
    }

    fn set_interrupts(&self, on: bool) {
        self.words.available[0].store(if on { 0 } else { SILENT.to_le() }, Ordering::Relaxed);
    }
}
