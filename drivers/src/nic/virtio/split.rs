//! The split virtqueue (VIRTIO 1.2 §2.7).
//!
//! ```text
//!   descriptors   id → address, length, flags, next     written by us        §2.7.5
//!   available     which ids are posted, in order        written by us        §2.7.6
//!   used          which ids are done, how many bytes    written by the device §2.7.8
//! ```

use super::memory::{RingMemory, Words};
use super::ring::{Access, Buffer, Filled, Parts, Ring};
use super::shadow::Shadow;
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
    shadow: Shadow,
    mask: u16,
    /// Where the next id is posted.
    next: u16,
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

    /// The id and the length of a used entry.
    #[inline]
    fn done(&self, position: u32) -> (u32, u32) {
        let word = u64::from_le(self.words.done[self.cursor.slot(position)].load(Ordering::Relaxed));
        (low32(word), low32(word >> 32))
    }

    #[inline]
    fn write(&self, id: u16, buffer: &Buffer, flags: u16, next: u16) {
        let place = 2 * usize::from(id);
        self.words.table[place].store(buffer.address.to_le(), Ordering::Relaxed);
        self.words.table[place + 1].store(second(buffer.len, flags, next), Ordering::Relaxed);
    }

    #[inline]
    fn offer(&mut self, id: u16) {
        self.words.posted[usize::from(self.next & self.mask)].store(id.to_le(), Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
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

    fn parts(start: usize, size: u16) -> Parts {
        let size = usize::from(size);
        // §2.7: alignments of 16, 2 and 4. The used ring's entries, four bytes behind its start, are to lie on eight.
        let driver = start + 16 * size;
        let device = (driver + 6 + 2 * size).next_multiple_of(64) + 60;
        let end = (device + 6 + 8 * size).next_multiple_of(64);
        Parts { descriptors: start, driver, device, bytes: end - start }
    }

    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self {
        Self {
            words: SplitWords::new(memory, parts, size),
            shadow: Shadow::new(size),
            mask: size - 1,
            next: 0,
            cursor: Cursor::at(0, size.into()),
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
        // Looked up once: the compiler cannot know that the stores below leave these alone.
        let (table, posted): (&[AtomicU64], &[AtomicU16]) = (&self.words.table, &self.words.posted);
        let mut at = self.next;
        for buffer in buffers {
            let id = self.shadow.post(buffer.offset, 1);
            let place = 2 * usize::from(id);
            if let Some([address, rest]) = table.get(place..place + 2) {
                address.store(buffer.address.to_le(), Ordering::Relaxed);
                rest.store(second(buffer.len, flags, 0), Ordering::Relaxed);
            }
            posted[usize::from(at & self.mask)].store(id.to_le(), Ordering::Relaxed);
            at = at.wrapping_add(1);
        }
        self.next = at;
    }

    fn post_chain(&mut self, buffers: &[Buffer]) {
        // Backwards, since each names the one behind it.
        let mut behind = None;
        for (i, buffer) in buffers.iter().enumerate().rev() {
            let count = if i == 0 { u16::try_from(buffers.len()).unwrap_or(u16::MAX) } else { 0 };
            let id = self.shadow.post(buffer.offset, count);
            match behind {
                Some(next) => {
                    self.shadow.link(id, next);
                    self.write(id, buffer, NEXT, next);
                }
                None => self.write(id, buffer, 0, 0),
            }
            behind = Some(id);
        }
        if let Some(first) = behind {
            self.offer(first);
        }
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
    fn take(&mut self, into: &mut [Filled]) -> Result<usize, Fault> {
        let filled = self.follow()?;
        let mut taken = 0;
        for (place, position) in into.iter_mut().zip(0..filled) {
            let (id, len) = self.done(self.cursor.head().wrapping_add(position));
            let offset = self.shadow.take(id)?;
            *place = Filled { offset, len };
            taken += 1;
        }
        self.cursor.drain(taken);
        Ok(taken as usize)
    }

    #[inline]
    fn reap(&mut self, mut done: impl FnMut(u64) -> Result<(), Fault>) -> Result<(), Fault> {
        let filled = self.follow()?;
        for position in 0..filled {
            let (id, _) = self.done(self.cursor.head().wrapping_add(position));
            self.shadow.take_all(id, &mut done)?;
        }
        self.cursor.drain(filled);
        Ok(())
    }

    fn restart(&mut self, home: impl FnMut(u64)) -> u64 {
        (self.next, self.cursor) = (0, Cursor::at(0, self.cursor.capacity()));
        self.shadow.clear(home)
    }

    #[inline]
    fn wants_bell(&self) -> bool {
        u16::from_le(self.words.used[0].load(Ordering::Relaxed)) & SILENT == 0
    }

    fn set_interrupts(&self, on: bool) {
        self.words.available[0].store(if on { 0 } else { SILENT.to_le() }, Ordering::Relaxed);
    }
}
