//! Packets that go from one device to another as they came in: their slots move from shelf to shelf, and become no frames.
//!
//! Only such go this way as need no header: of one buffer each, with nothing undone. Where buffers are mergeable each header
//! counts them, so there nothing does.

use super::header::{self, HEADER};
use super::queue::VirtioQueue;
use super::receive::Receiver;
use super::ring::{Access, Ring};
use super::transport::{Addresses, Transport};
use crate::error::Fault;
use crate::queue::{Passed, Passing, QueuePair, Tally};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{BURST, Lot, Shelf};

impl<R: Ring> Receiver<'_, R> {
    /// Whether packets may come that can pass.
    pub(super) const fn passes(&self) -> bool {
        !self.mergeable
    }

    /// Lets what has come in leave by another queue; `None` when the one in front cannot.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    #[inline]
    pub(super) fn pass<'p>(
        &mut self,
        to: &mut dyn QueuePair<'p>,
        shortest: u16,
    ) -> Result<Option<usize>, Fault> {
        if self.mergeable || !self.is_between() {
            return Ok(None);
        }
        if self.ring.is_idle() {
            return Ok(Some(0));
        }
        let mut passed = 0;
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, lent) = self.shadow.behind();
            let most = u16::try_from(BURST - passed).unwrap_or(0).min(lent);
            let key = self.ring.key() + u32::from(first);
            let answers = self.ring.answers(most, lent)?;
            let shelf = &mut self.shadow.shelf;
            let survey = match self.frame_size {
                2048 => survey::<R, 11>,
                4096 => survey::<R, 12>,
                _ => survey::<R, 0>,
            };
            let lot = survey(shelf, first, answers, key, (self.start, shortest), &mut self.lens);
            let found = lot.len();
            if found == 0 {
                break;
            }
            let Some(tally) = to.take_over(Passing(Passed::Slots(lot))) else { break };
            let count = u16::try_from(tally.packets).unwrap_or(0);
            self.ring.advance(count, count);
            self.shadow.answered(count);
            self.tally.packets += tally.packets;
            self.tally.bytes += tally.bytes;
            passed += usize::from(count);
            if usize::from(count) < found || count < lent || passed == BURST {
                break;
            }
        }
        Ok((passed > 0).then_some(passed))
    }
}

impl<'p, R: Ring, T: Transport> VirtioQueue<'p, R, T> {
    /// Posts what has come in elsewhere, while there is room.
    #[inline]
    pub(super) fn take_slots(&mut self, mut lot: Lot<'_>) -> Tally {
        let mut tally = Tally::default();
        // What is done makes room, where there is too little.
        self.has_room(lot.len());
        let limit = u32::try_from(self.limit).unwrap_or(0) + u32::from(HEADER);
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, room) = self.sent.ahead();
            if room == 0 || lot.is_empty() {
                break;
            }
            let (table, second) = self.transmit.table(first, room, Access::Reads);
            let start = u64::from(self.receiver.start);
            let shelf = &mut self.sent.shelf;
            let (count, bytes) = match &self.addresses {
                Addresses::Linear(base) => {
                    let base = base + start;
                    take_over::<R>(shelf, first, &mut lot, table, second, limit, |offset| base + offset)
                }
                pieces @ Addresses::Pieces(_) => {
                    take_over::<R>(shelf, first, &mut lot, table, second, limit, |offset| {
                        pieces.of(offset + start)
                    })
                }
            };
            self.transmit.posted(first, count);
            self.sent.posted(count);
            tally.packets += u64::from(count);
            tally.bytes += bytes;
        }
        if tally.packets > 0 {
            self.posted = true;
            self.transmitted.packets += tally.packets;
            self.transmitted.bytes += tally.bytes;
            self.transmit.publish();
        }
        tally
    }
}

/// The hot half of looking: a leaf function over slices and numbers.
#[inline(never)]
fn survey<'a, R: Ring, const SHIFT: u32>(
    shelf: &'a mut Shelf<'_>,
    first: u16,
    answers: &[R::Answer],
    mut key: u32,
    bounds: (u16, u16),
    lens: &'a mut [u16; BURST],
) -> Lot<'a> {
    let judge = |answer: &R::Answer| {
        let done = R::read(answer);
        if done.key != key {
            return None;
        }
        key += 1;
        Some(done.len)
    };
    shelf.survey::<_, SHIFT, { HEADER as usize }>(first.into(), answers, bounds, lens, judge, |front| {
        header::is_plain(front, false)
    })
}

/// The hot half of posting: how many packets, and their bytes. `second` is the first descriptor's second word without its
/// length.
#[inline(never)]
fn take_over<R: Ring>(
    shelf: &mut Shelf<'_>,
    first: u16,
    lot: &mut Lot<'_>,
    table: &[[AtomicU64; 2]],
    mut second: u64,
    limit: u32,
    address: impl Fn(u64) -> u64,
) -> (u16, u64) {
    let mut bytes = 0;
    let count = shelf.take_over(first.into(), lot, table, limit, |[place, rest], offset, len| {
        place.store(address(offset).to_le(), Ordering::Relaxed);
        // In a packed ring this publishes it: the address must be there before.
        rest.store((second + u64::from(len)).to_le(), Ordering::Release);
        second += R::STEP;
        bytes += u64::from(len);
    });
    (u16::try_from(count).unwrap_or(u16::MAX), bytes - u64::from(HEADER) * count as u64)
}
