//! The packed virtqueue (VIRTIO 1.2 §2.8): one ring that both sides write.
//!
//! ```text
//!   our descriptor     address │ length │ id │ AVAIL = lap, USED = !lap     posted
//!   the device's           .   │ length │ id │ AVAIL = lap, USED =  lap     done
//! ```
//!
//! Length, id and flags are one word of 64 bits here, so a descriptor is published, and read, in one access.

use super::memory::{RingMemory, Words};
use super::ring::{Access, Buffer, Filled, Parts, Ring};
use super::shadow::Shadow;
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

/// The second word of a descriptor.
#[inline]
pub(super) const fn second(len: u32, id: u16, flags: u16) -> u64 {
    (len as u64 | (id as u64) << 32 | (flags as u64) << 48).to_le()
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
    shadow: Shadow,
    /// Where the next descriptor is posted.
    next: Place,
    /// Where the next one is looked for that is done.
    look: Place,
}

impl Packed {
    /// The id and the length of the next packet that is done.
    #[inline]
    fn done(&self) -> Option<(u32, u32)> {
        let word = &self.words.table[2 * usize::from(self.look.at) + 1];
        // Pairs with the device's release of the flags: what it wrote to the buffer is there.
        let (len, id, flags) = fields(word.load(Ordering::Acquire));
        (flags & (AVAIL | USED) == self.look.done()).then_some((id.into(), len))
    }

    #[inline]
    fn write(&mut self, buffer: &Buffer, id: u16, flags: u16) {
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

    fn parts(start: usize, size: u16) -> Parts {
        let driver = start + 16 * usize::from(size);
        // A cache line for each, since the two sides write them. §2.8: alignments of 16, 4 and 4.
        Parts { descriptors: start, driver, device: driver + 64, bytes: 16 * usize::from(size) + 128 }
    }

    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        Self {
            words: PackedWords::new(memory, parts, size),
            shadow: Shadow::new(size),
            next: Place::start(size),
            look: Place::start(size),
        }
    }

    #[inline]
    fn vacant(&self) -> u16 {
        self.shadow.vacant()
    }

    fn lent(&self) -> usize {
        self.shadow.lent()
    }

    #[inline]
    fn post(&mut self, buffers: &[Buffer], access: Access) {
        let flags = if access == Access::Writes { WRITE } else { 0 };
        for buffer in buffers {
            let id = self.shadow.post(buffer.offset, 1);
            self.write(buffer, id, flags);
        }
    }

    fn post_chain(&mut self, buffers: &[Buffer]) {
        let Some((first, rest)) = buffers.split_first() else { return };
        let count = u16::try_from(buffers.len()).unwrap_or(u16::MAX);
        // §2.8.6: all descriptors of a list have the same id; each of its entries here has one of its own.
        let id = self.shadow.post(first.offset, count);
        let head = self.next;
        self.next.advance(1);
        let mut before = id;
        for (i, buffer) in rest.iter().enumerate() {
            let entry = self.shadow.post(buffer.offset, 0);
            self.shadow.link(before, entry);
            before = entry;
            self.write(buffer, id, if i + 1 < rest.len() { NEXT } else { 0 });
        }
        // §2.8.6.2: the first is published last, since the device takes the whole list with it.
        let after = core::mem::replace(&mut self.next, head);
        self.write(first, id, if rest.is_empty() { 0 } else { NEXT });
        self.next = after;
    }

    #[inline]
    fn publish(&mut self) {}

    #[inline]
    fn is_idle(&self) -> bool {
        self.done().is_none()
    }

    #[inline]
    fn take(&mut self, into: &mut [Filled]) -> Result<usize, Fault> {
        let mut taken = 0;
        for place in into {
            let Some((id, len)) = self.done() else { break };
            let offset = self.shadow.take(id)?;
            *place = Filled { offset, len };
            self.look.advance(1);
            taken += 1;
        }
        Ok(taken)
    }

    #[inline]
    fn reap(&mut self, mut done: impl FnMut(u64) -> Result<(), Fault>) -> Result<(), Fault> {
        // A device that answers as fast as we look ends somewhere.
        for _ in 0..self.shadow.lent() {
            let Some((id, _)) = self.done() else { break };
            let count = self.shadow.take_all(id, &mut done)?;
            // §2.8.6.1: the device skips as many as the list has.
            self.look.advance(count);
        }
        Ok(())
    }

    fn restart(&mut self, home: impl FnMut(u64)) -> u64 {
        self.next = Place::start(self.next.size);
        self.look = self.next;
        self.shadow.clear(home)
    }

    #[inline]
    fn wants_bell(&self) -> bool {
        u16::from_le(self.words.device[1].load(Ordering::Relaxed)) & 3 != DISABLE
    }

    fn set_interrupts(&self, on: bool) {
        self.words.driver[1].store(if on { 0 } else { DISABLE.to_le() }, Ordering::Relaxed);
    }
}
