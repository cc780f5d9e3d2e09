//! Tables of descriptors: all buffers of a packet behind one descriptor of the ring (VIRTIO 1.2 §2.7.5.3, §2.8.7).
//!
//! ```text
//!   ring          … │ 7: table │ …
//!   tables        … │ 7: head, page, page, page … │ …        one for each descriptor
//! ```
//!
//! A packet with fifteen pages then takes up one descriptor where a list of them takes sixteen, and a fifth to a quarter fewer
//! instructions (`docs/decisions/0018-tables-of-descriptors.md`).

use super::memory::Words;
use super::ring::Ring;
use super::transport::{Addresses, Layout};
use core::sync::atomic::{AtomicU64, Ordering};

/// Buffers of a table: a head, and 64 KiB of content that begins anywhere in its first page. Longer packets are lists.
pub(super) const LONGEST: usize = 32;
/// From so many on: for fewer, the device would fetch a table where it has them in the ring already.
pub(super) const SHORTEST: usize = 3;
/// Bytes of a table. They are a power of two, so that none lies in two huge pages.
pub(super) const BYTES: usize = 16 * LONGEST;

/// The tables of a transmit ring.
#[derive(Debug)]
pub(super) struct Tables {
    words: Words<AtomicU64>,
    /// Where in their memory they begin.
    start: usize,
    addresses: Addresses,
}

impl Tables {
    pub(super) fn new(layout: &Layout, ring: u16) -> Self {
        let words = layout.memory.words(layout.tables, usize::from(ring) * 2 * LONGEST);
        Self { words, start: layout.tables, addresses: layout.addresses.clone() }
    }

    /// The table of a descriptor, to be filled from its front; and where the device finds it.
    #[inline]
    pub(super) fn of(&self, id: u16) -> (&[[AtomicU64; 2]], u64) {
        let first = usize::from(id) * LONGEST;
        let table = self.words.as_chunks::<2>().0.get(first..first + LONGEST).unwrap_or_default();
        (table, self.addresses.of((self.start + usize::from(id) * BYTES) as u64))
    }
}

/// Writes one buffer of a table; the ring's own release lets the device see it.
#[inline]
pub(super) fn put<R: Ring>(place: &[AtomicU64; 2], address: u64, len: u32, index: u16, last: bool) {
    place[0].store(address.to_le(), Ordering::Relaxed);
    place[1].store(R::listed(len, index, last), Ordering::Relaxed);
}
