//! The packed virtqueue (VIRTIO 1.2 §2.8): one ring that both sides write.
//!
//! ```text
//!   our descriptor     address │ length │ id │ AVAIL = lap, USED = !lap     posted
//!   the device's           .   │ length │ id │ AVAIL = lap, USED =  lap     done
//! ```
//!
//! Length, id and flags are one word of 64 bits here, so a descriptor is published, and read, in one access.

use super::memory::{RingMemory, Words};
use super::ring::{Access, Batch, Buffer, Done, INDIRECT, Parts, Ring};
use super::split::{NEXT, WRITE};
use crate::error::Fault;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::Arc;

/// `VIRTQ_DESC_F_AVAIL` (§2.8.1).
pub(super) const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED` (§2.8.1).
pub(super) const USED: u16 = 1 << 15;
/// `RING_EVENT_FLAGS_DISABLE` (§2.8.10).
const DISABLE: u16 = 1;

/// Words of the ring that both sides know.
#[derive(Debug)]
pub(super) struct PackedWords {
    /// Two words a descriptor: the address; then length, id and flags.
    pub(super) table: Words<AtomicU64>,
    /// Event suppression (§2.8.14): place, then flags. Ours.
    pub(super) driver: Words<AtomicU16>,
    /// The device's.
    pub(super) device: Words<AtomicU16>,
}

impl PackedWords {
    pub(super) fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        Self {
            table: memory.words(parts.descriptors, 2 * usize::from(size)),
            driver: memory.words(parts.driver, 2),
            device: memory.words(parts.device, 2),
        }
    }
}

/// A place in the ring, and which lap it is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u16,
    size: u16,
    /// The wrap counter (§2.8.1): true at first.
    pub(super) lap: bool,
}

impl Place {
    pub(super) const fn start(size: u16) -> Self {
        Self { at: 0, size, lap: true }
    }

    #[inline]
    pub(super) const fn advance(&mut self, count: u16) {
        self.at += count;
        if self.at >= self.size {
            self.at -= self.size;
            self.lap = !self.lap;
        }
    }

    /// The flags of a descriptor that is posted here.
    #[inline]
    pub(super) const fn posted(self) -> u16 {
        if self.lap { AVAIL } else { USED }
    }

    /// The flags of a descriptor that is done here.
    #[inline]
    pub(super) const fn done(self) -> u16 {
        if self.lap { AVAIL | USED } else { 0 }
    }
}

/// The second word of a descriptor, as a number.
#[inline]
const fn number(len: u32, id: u16, flags: u16) -> u64 {
    len as u64 | (id as u64) << 32 | (flags as u64) << 48
}

/// The same as it lies in memory.
#[inline]
pub(super) const fn second(len: u32, id: u16, flags: u16) -> u64 {
    number(len, id, flags).to_le()
}

/// Length, id and flags out of it.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word")]
pub(super) const fn fields(word: u64) -> (u32, u16, u16) {
    let word = u64::from_le(word);
    (word as u32, (word >> 32) as u16, (word >> 48) as u16)
}

/// Our end.
#[derive(Debug)]
pub(crate) struct Packed {
    words: PackedWords,
    /// Where the next descriptor is posted.
    next: Place,
    /// Where the next one is looked for that is done.
    look: Place,
}

/// The id and the two flags of an answer.
const KEY: u32 = ((AVAIL | USED) as u32) << 16 | 0xffff;

impl Packed {
    fn write(&mut self, buffer: &Buffer, id: u16, flags: u16) {
        let flags = flags | if buffer.access == Access::Writes { WRITE } else { 0 };
        let place = 2 * usize::from(self.next.at);
        self.words.table[place].store(buffer.address.to_le(), Ordering::Relaxed);
        let word = second(buffer.len, id, flags | self.next.posted());
        // The flags publish it: the address, and what the buffer holds, must be there before.
        self.words.table[place + 1].store(word, Ordering::Release);
        self.next.advance(1);
    }
}

impl Ring for Packed {
    const NAME: &'static str = "packed ring";
    const STEP: u64 = number(0, 1, 0);
    type Answer = [AtomicU64; 2];

    fn parts(start: usize, size: u16) -> Parts {
        let driver = start + 16 * usize::from(size);
        // A cache line for each, since the two sides write them. §2.8.10.1: alignments of 16, 4 and 4.
        Parts { descriptors: start, driver, device: driver + 64, bytes: 16 * usize::from(size) + 128 }
    }

    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        Self {
            words: PackedWords::new(memory, parts, size),
            next: Place::start(size),
            look: Place::start(size),
        }
    }

    /// Nothing: the device writes over what we wrote.
    fn preset(&mut self, _: u32) {}

    #[inline]
    fn table(&self, first: u16, count: u16, access: Access) -> (&[[AtomicU64; 2]], u64) {
        debug_assert_eq!(first, self.next.at, "in order, an id is its place");
        let (first, end) = (usize::from(first), usize::from(first) + usize::from(count));
        let flags = if access == Access::Writes { WRITE } else { 0 };
        let second = number(0, self.next.at, flags | self.next.posted());
        (self.words.table.as_chunks::<2>().0.get(first..end).unwrap_or_default(), second)
    }

    #[inline]
    fn posted(&mut self, _: u16, count: u16) {
        self.next.advance(count);
    }

    fn post_chain(&mut self, buffers: &[Buffer]) {
        let Some((first, rest)) = buffers.split_first() else { return };
        let head = self.next;
        self.next.advance(1);
        for (i, buffer) in rest.iter().enumerate() {
            // All of a list have the same id; that of the last counts (§2.8.6).
            self.write(buffer, first.id, if i + 1 < rest.len() { NEXT } else { 0 });
        }
        // §2.8.6, §2.8.17: the first is published last, since the device takes the whole list with it.
        let after = core::mem::replace(&mut self.next, head);
        self.write(first, first.id, if rest.is_empty() { 0 } else { NEXT });
        self.next = after;
    }

    /// §2.8.7: no id, and of the flags only who writes; the order is that of the table.
    #[inline]
    fn listed(len: u32, _: u16, _: bool) -> u64 {
        second(len, 0, 0)
    }

    #[inline]
    fn post_table(&mut self, id: u16, address: u64, bytes: u32) {
        self.write(&Buffer { id, address, len: bytes, access: Access::Reads }, id, INDIRECT);
    }

    #[inline]
    fn publish(&mut self) {}

    #[inline]
    fn is_idle(&self) -> bool {
        let done = Self::read(self.answer());
        done.key & !0xffff != self.key()
    }

    #[inline]
    fn answers(&mut self, most: u16, lent: u16) -> Result<&[[AtomicU64; 2]], Fault> {
        let first = usize::from(self.look.at);
        let table = self.words.table.as_chunks::<2>().0;
        let end = (first + usize::from(most.min(lent))).min(table.len());
        Ok(table.get(first..end).unwrap_or_default())
    }

    #[inline]
    fn read(answer: &[AtomicU64; 2]) -> Done {
        // Pairs with the device's release of the flags: what it wrote to the buffer is there.
        let word = u64::from_le(answer[1].load(Ordering::Acquire));
        #[expect(clippy::cast_possible_truncation, reason = "each half is cut out of the word")]
        Done { key: (word >> 32) as u32 & KEY, len: word as u32 }
    }

    #[inline]
    fn key(&self) -> u32 {
        u32::from(self.look.done()) << 16
    }

    #[inline]
    fn advance(&mut self, _: u16, descriptors: u16) {
        self.look.advance(descriptors);
    }

    fn next(&mut self, lent: u16) -> Result<Option<(u32, u32)>, Fault> {
        let Done { key, len } = Self::read(self.answer());
        // A device that answers as fast as we look ends somewhere.
        Ok((lent > 0 && key & !0xffff == self.key()).then_some((key & 0xffff, len)))
    }

    #[inline]
    fn batch(&mut self, lent: u16) -> Result<Option<Batch>, Fault> {
        let Done { key, .. } = Self::read(self.answer());
        Ok((lent > 0 && key & !0xffff == self.key()).then_some(Batch::Through(key & 0xffff)))
    }

    fn covers(&self, _: u16) -> bool {
        true
    }

    fn restart(&mut self) {
        self.next = Place::start(self.next.size);
        self.look = self.next;
    }

    #[inline]
    fn wants_bell(&self) -> bool {
        u16::from_le(self.words.device[1].load(Ordering::Relaxed)) & 3 != DISABLE
    }

    fn set_interrupts(&self, on: bool) {
        self.words.driver[1].store(if on { 0 } else { DISABLE.to_le() }, Ordering::Relaxed);
    }
}

impl Packed {
    #[inline]
    fn answer(&self) -> &[AtomicU64; 2] {
        &self.words.table.as_chunks::<2>().0[usize::from(self.look.at)]
    }
}
