//! The device's end of a ring, for the [fake](super::fake).

use super::fake::FakePlan;
use super::memory::RingMemory;
use super::packed::{self, AVAIL, PackedWords, Place, USED};
use super::ring::{INDIRECT, Parts};
use super::split::{NEXT, SplitWords, WRITE};
use core::sync::atomic::Ordering;
use std::sync::Arc;

/// The device's end of one ring.
#[derive(Debug)]
pub(super) enum End {
    Split { words: SplitWords, size: u16, seen: u16, done: u16 },
    Packed { words: PackedWords, look: Place, done: Place },
}

/// A packet's descriptors as the device sees them.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) id: u16,
    /// How many descriptors it takes up in a packed ring.
    pub(super) count: u16,
    /// Address, length, whether it may be written.
    pub(super) parts: Vec<(u64, u32, bool)>,
    /// Its one part is a table of them.
    pub(super) table: bool,
}

impl End {
    pub(super) fn new(memory: &Arc<RingMemory>, parts: Parts, plan: &FakePlan) -> Self {
        if plan.packed {
            let words = PackedWords::new(memory, parts, plan.ring);
            Self::Packed { words, look: Place::start(plan.ring), done: Place::start(plan.ring) }
        } else {
            let words = SplitWords::new(memory, parts, plan.ring);
            Self::Split { words, size: plan.ring, seen: 0, done: 0 }
        }
    }

    /// The next chain that the driver posted.
    pub(super) fn next(&mut self) -> Option<Chain> {
        match self {
            Self::Split { words, size, seen, .. } => {
                if u16::from_le(words.available[1].load(Ordering::Acquire)) == *seen {
                    return None;
                }
                let mut chain = Chain::default();
                let mut at = u16::from_le(words.posted[usize::from(*seen % *size)].load(Ordering::Relaxed));
                *seen = seen.wrapping_add(1);
                chain.id = at;
                loop {
                    // It may have scribbled there itself.
                    if at >= *size || chain.count > *size {
                        return None;
                    }
                    let address = u64::from_le(words.table[2 * usize::from(at)].load(Ordering::Relaxed));
                    let second = words.table[2 * usize::from(at) + 1].load(Ordering::Relaxed);
                    // The same fields as a packed ring's, but for the order of the upper two.
                    let (len, flags, next) = packed::fields(second);
                    chain.parts.push((address, len, flags & WRITE != 0));
                    chain.count += 1;
                    chain.table |= flags & INDIRECT != 0;
                    if flags & (NEXT | INDIRECT) != NEXT {
                        return Some(chain);
                    }
                    at = next;
                }
            }
            Self::Packed { words, look, .. } => {
                let mut chain = Chain::default();
                let mut at = *look;
                loop {
                    let second = words.table[2 * usize::from(at.at) + 1].load(Ordering::Acquire);
                    let address = u64::from_le(words.table[2 * usize::from(at.at)].load(Ordering::Relaxed));
                    let (len, id, flags) = packed::fields(second);
                    if flags & (AVAIL | USED) != at.posted() {
                        return None;
                    }
                    if chain.count > 0 && at.at == look.at {
                        return None;
                    }
                    chain.id = id;
                    chain.parts.push((address, len, flags & WRITE != 0));
                    chain.count += 1;
                    chain.table |= flags & INDIRECT != 0;
                    at.advance(1);
                    if flags & (NEXT | INDIRECT) != NEXT {
                        *look = at;
                        return Some(chain);
                    }
                }
            }
        }
    }

    /// Gives a chain back; seen by the driver from [`publish`](Self::publish) on.
    pub(super) fn give(&mut self, id: u32, len: u32, count: u16) {
        self.give_many(id, len, 1, count);
    }

    /// Gives `packets` chains back, of `count` descriptors altogether, by one answer: the last one's (`VIRTIO_F_IN_ORDER`, §6).
    pub(super) fn give_many(&mut self, id: u32, len: u32, packets: u16, count: u16) {
        match self {
            Self::Split { words, size, done, .. } => {
                let entry = u64::from(id) | u64::from(len) << 32;
                words.done[usize::from(*done % *size)].store(entry.to_le(), Ordering::Relaxed);
                *done = done.wrapping_add(packets);
            }
            Self::Packed { words, done, .. } => {
                let low = u16::try_from(id & 0xffff).unwrap_or_default();
                let word = packed::second(len, low, done.done());
                words.table[2 * usize::from(done.at) + 1].store(word, Ordering::Release);
                done.advance(count);
            }
        }
    }

    pub(super) fn publish(&self, ahead: u16) {
        if let Self::Split { words, done, .. } = self {
            words.used[1].store(done.wrapping_add(ahead).to_le(), Ordering::Release);
        }
    }

    /// Whether the driver is to ring.
    pub(super) fn set_bell(&self, wanted: bool) {
        let silent = u16::from(!wanted).to_le();
        match self {
            Self::Split { words, .. } => words.used[0].store(silent, Ordering::Relaxed),
            Self::Packed { words, .. } => words.device[1].store(silent, Ordering::Relaxed),
        }
    }
}
