//! The receiving half: empty slots for the card, filled ones as frames.

use super::card::{Buffer, Card, Filled};
use crate::error::Fault;
use crate::nic::memory::Words;
use crate::pci::Addresses;
use crate::pci::Doorbell;
use crate::queue::Tally;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{Burst, Cursor, Frame, Loan, Pool, Stray};

/// The receive ring. Posted and not yet seen filled: from the cursor's head to its tail.
#[derive(Debug)]
pub(super) struct Receiver<'p, C> {
    pool: &'p Pool,
    loan: Loan,
    words: Words<AtomicU64>,
    /// The offset of each posted buffer: the card's own word on where it is, is not asked for.
    posted: Box<[u64]>,
    cursor: Cursor,
    tail: Doorbell<u32>,
    buffer: Buffer,
    /// Where in its slot a buffer begins.
    start: u16,
    /// The packet that has begun, and not ended.
    run: Burst<'p>,
    /// It is taken to be dropped.
    bad: bool,
    pub(super) tally: Tally,
    pub(super) malformed: u64,
    _card: PhantomData<C>,
}

impl<'p, C: Card> Receiver<'p, C> {
    /// `words` are those of the ring, two a descriptor, all zero.
    pub(super) fn new(
        pool: &'p Pool,
        loan: Loan,
        words: Words<AtomicU64>,
        tail: Doorbell<u32>,
        buffer: Buffer,
        start: u16,
    ) -> Self {
        let ring = words.len() / 2;
        Self {
            pool,
            loan,
            words,
            posted: vec![0; ring].into(),
            cursor: Cursor::at(0, u32::try_from(ring).unwrap_or(1)),
            tail,
            buffer,
            start,
            run: Burst::new(),
            bad: false,
            tally: Tally::default(),
            malformed: 0,
            _card: PhantomData,
        }
    }

    /// Whether the card has said of nothing that it is filled.
    pub(super) fn is_idle(&self) -> bool {
        self.cursor.filled() == 0
            || C::filled(self.word(self.cursor.head()).load(Ordering::Relaxed)).is_none()
    }

    /// How far it has come.
    pub(super) const fn position(&self) -> u32 {
        self.cursor.head()
    }

    /// The place of the ring where the next filled buffer is looked for.
    pub(super) fn slot(&self) -> u32 {
        u32::try_from(self.cursor.slot(self.cursor.head())).unwrap_or(0)
    }

    #[inline]
    fn word(&self, position: u32) -> &AtomicU64 {
        &self.words[2 * self.cursor.slot(position) + 1]
    }

    /// Offers empty slots, several at a time: each ring of the bell crosses the bus.
    #[inline]
    pub(super) fn refill(&mut self, addresses: &Addresses) {
        // One descriptor stays empty: head and tail alike mean that the card has none (82574 §7.1.8).
        let vacant = self.cursor.vacant().saturating_sub(1);
        if vacant < (self.cursor.capacity() / 4).min(32) {
            return;
        }
        let before = self.cursor.tail();
        for _ in 0..vacant {
            let Some(slot) = self.pool.lend(self.loan) else { break };
            let offset = self.pool.offset(slot) + u64::from(self.start);
            let place = self.cursor.slot(self.cursor.tail());
            self.posted[place] = offset;
            self.words[2 * place].store(addresses.of(offset).to_le(), Ordering::Relaxed);
            self.words[2 * place + 1].store(0, Ordering::Relaxed);
            self.cursor.fill(1);
        }
        if self.cursor.tail() != before {
            self.tail.ring(u32::try_from(self.cursor.slot(self.cursor.tail())).unwrap_or(0));
        }
    }

    /// Appends whole packets while `burst` has room.
    ///
    /// # Errors
    /// The first thing that the card said that cannot be true.
    #[inline]
    pub(super) fn receive(&mut self, burst: &mut Burst<'p>) -> Result<(), Fault> {
        let mut gate = self.pool.gate::<12>(self.loan);
        let most = u64::from(self.buffer.bytes());
        while burst.room() > 0 && self.cursor.filled() > 0 {
            let place = self.cursor.slot(self.cursor.head());
            // Pairs with the card's own order: it writes the buffer first, and says so then.
            let word = u64::from_le(self.words[2 * place + 1].load(Ordering::Acquire));
            let Some(filled) = C::filled(word) else { break };
            let len = u64::from(filled.len);
            if !filled.ends || filled.damaged || len == 0 || len > most || !self.run.is_empty() || self.bad {
                if !self.receive_rest(filled, place, burst)? {
                    break;
                }
                continue;
            }
            self.cursor.drain(1);
            let frame = match gate.arrive(self.posted[place], len) {
                Some(frame) => frame,
                None => self.pool.arrive_at(self.posted[place], self.loan, filled.len.into())?,
            };
            self.tally.add(filled.len, false);
            let _ = burst.push(frame);
        }
        Ok(())
    }

    /// The careful half: packets in several buffers, damaged ones, and lies. Whether to go on.
    #[cold]
    fn receive_rest(&mut self, filled: Filled, place: usize, burst: &mut Burst<'p>) -> Result<bool, Fault> {
        // A packet goes into the burst whole: its end waits on the ring until there is room.
        if filled.ends && !self.bad && !filled.damaged && self.run.len() + 1 > burst.room() {
            return Ok(false);
        }
        self.cursor.drain(1);
        let offset = self.posted[place];
        let (slot, head) = self.pool.locate(offset)?;
        if filled.len > self.buffer.bytes() {
            // It has written behind the buffer that it was given, or says so.
            return Err(Stray::OutOfBounds { slot, head, len: filled.len.into() }.into());
        }
        let mut frame = self.pool.arrive(slot, self.loan, head, filled.len.into())?;
        frame.set_continues(!filled.ends);
        self.keep(frame, filled);
        if filled.ends {
            if core::mem::take(&mut self.bad) {
                self.run.clear();
                self.malformed += 1;
            }
            for frame in self.run.as_slice() {
                self.tally.add(frame.len(), frame.continues());
            }
            burst.append(&mut self.run);
        }
        Ok(true)
    }

    fn keep(&mut self, frame: Frame<'p>, filled: Filled) {
        self.bad |= filled.damaged || filled.len == 0;
        self.bad |= !self.bad && self.run.push(frame).is_err();
        if self.bad {
            self.run.clear();
        }
    }

    /// Forgets the packet that has begun. The card has stopped.
    pub(super) fn forget(&mut self) {
        self.run.clear();
    }
}
