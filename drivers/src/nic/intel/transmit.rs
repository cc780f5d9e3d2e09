//! The sending half: pieces of packets for the card, and their slots home when it has sent them.

use super::card::{Descriptor, transmit};
use crate::error::Fault;
use crate::nic::memory::Words;
use crate::pci::{Addresses, Doorbell};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{Cursor, Loan, Pool};
use std::collections::VecDeque;

/// The transmit ring. Posted and not yet seen sent: from the cursor's head to its tail.
#[derive(Debug)]
pub(super) struct Transmitter<'p> {
    pool: &'p Pool,
    loan: Loan,
    words: Words<AtomicU64>,
    /// What each descriptor sends: an offset of the arena, or [`NOTHING`].
    posted: Box<[u64]>,
    cursor: Cursor,
    /// Up to where the card knows of them.
    told: u32,
    /// The positions of descriptors that the card reports, oldest first. It reports in order.
    reports: VecDeque<u32>,
    /// The last packet's end, and how many descriptors lie behind the last report.
    end: u32,
    unreported: u32,
    /// The context that the card has.
    context: Option<Descriptor>,
    tail: Doorbell<u32>,
    content_start: u64,
}

/// A context descriptor sends nothing.
const NOTHING: u64 = u64::MAX;

/// A report is asked for after so many descriptors, and at the end of each burst: each is a write by the card, and a cache
/// line taken from us.
const REPORT_EVERY: u32 = 32;

impl<'p> Transmitter<'p> {
    /// `words` are those of the ring, two a descriptor, all zero.
    pub(super) fn new(pool: &'p Pool, loan: Loan, words: Words<AtomicU64>, tail: Doorbell<u32>) -> Self {
        let ring = words.len() / 2;
        Self {
            pool,
            loan,
            words,
            posted: vec![NOTHING; ring].into(),
            cursor: Cursor::at(0, u32::try_from(ring).unwrap_or(1)),
            told: 0,
            reports: VecDeque::with_capacity(ring),
            end: 0,
            unreported: 0,
            context: None,
            tail,
            content_start: pool.arena().content_start() as u64,
        }
    }

    /// Descriptors that may be posted: one stays empty, as on the other ring.
    #[inline]
    pub(super) fn vacant(&self) -> usize {
        self.cursor.vacant().saturating_sub(1) as usize
    }

    /// Descriptors that the card has.
    pub(super) fn lent(&self) -> u32 {
        self.cursor.filled()
    }

    /// How far it has come.
    pub(super) const fn position(&self) -> u32 {
        self.cursor.head()
    }

    /// Packets that the card has, and has not reported.
    pub(super) fn unreported_packets(&self) -> u64 {
        let ends = (0..self.cursor.filled()).filter(|ahead| {
            let place = self.cursor.slot(self.cursor.head().wrapping_add(*ahead));
            let word = u64::from_le(self.words[2 * place + 1].load(Ordering::Relaxed));
            self.posted[place] != NOTHING && word & transmit::EOP != 0
        });
        ends.count() as u64
    }

    /// Posts one descriptor.
    #[inline]
    fn post(&mut self, offset: u64, [address, word]: Descriptor) {
        let place = self.cursor.slot(self.cursor.tail());
        self.posted[place] = offset;
        self.words[2 * place].store(address.to_le(), Ordering::Relaxed);
        self.words[2 * place + 1].store(word.to_le(), Ordering::Relaxed);
        self.cursor.fill(1);
        self.unreported += 1;
    }

    /// Posts a context, unless the card has it already.
    pub(super) fn put_context(&mut self, context: Descriptor) {
        if self.context != Some(context) {
            self.context = Some(context);
            self.post(NOTHING, context);
        }
    }

    /// Posts a piece of a packet, `word` being what its descriptors have in common: `last` says whether it is the last.
    #[inline]
    pub(super) fn put(&mut self, offset: u64, len: u16, addresses: &Addresses, word: u64, last: bool) {
        let word = word | u64::from(len) | if last { transmit::EOP } else { 0 };
        let piece = [addresses.of(offset), word];
        let at = self.cursor.tail();
        self.post(offset, piece);
        if last {
            self.end = at;
            if self.unreported >= REPORT_EVERY {
                self.report();
            }
        }
    }

    /// Asks for a report at the last packet's end.
    fn report(&mut self) {
        let place = self.cursor.slot(self.end);
        let word = u64::from_le(self.words[2 * place + 1].load(Ordering::Relaxed));
        self.words[2 * place + 1].store((word | transmit::REPORT).to_le(), Ordering::Relaxed);
        self.reports.push_back(self.end);
        self.unreported = 0;
    }

    /// Tells the card of all that was posted.
    #[inline]
    pub(super) fn publish(&mut self) {
        let tail = self.cursor.tail();
        if tail == self.told {
            return;
        }
        if self.unreported > 0 {
            self.report();
        }
        self.told = tail;
        self.tail.ring(u32::try_from(self.cursor.slot(tail)).unwrap_or(0));
    }

    /// Brings home what the card reports as sent.
    ///
    /// # Errors
    /// A slot that is not out, which only a defect of ours could bring about: the card names none.
    #[inline]
    pub(super) fn complete(&mut self) -> Result<(), Fault> {
        let mut done = None;
        while let Some(report) = self.reports.front() {
            let word = self.words[2 * self.cursor.slot(*report) + 1].load(Ordering::Acquire);
            if u64::from_le(word) & transmit::DONE == 0 {
                break;
            }
            done = self.reports.pop_front();
        }
        let Some(last) = done else { return Ok(()) };
        let count = last.wrapping_add(1).wrapping_sub(self.cursor.head());
        for _ in 0..count {
            let place = self.cursor.slot(self.cursor.head());
            self.cursor.drain(1);
            let offset = core::mem::replace(&mut self.posted[place], NOTHING);
            if offset == NOTHING {
                continue;
            }
            if offset >= self.content_start {
                self.pool.reclaim_page(offset)?;
            } else {
                let (slot, _) = self.pool.locate(offset)?;
                self.pool.reclaim(slot, self.loan)?;
            }
        }
        Ok(())
    }

    /// Gives up the pages that the card still has; slots are recalled by whoever holds the loan. The card has stopped.
    pub(super) fn forget(&mut self) {
        for place in &mut self.posted {
            let offset = core::mem::replace(place, NOTHING);
            if offset != NOTHING && offset >= self.content_start {
                let _ = self.pool.reclaim_page(offset);
            }
        }
        self.reports.clear();
    }
}
