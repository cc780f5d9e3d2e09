//! The receiving half of a queue pair: headers looked at, packets in several buffers put together.

use super::feature;
use super::header::{self, HEADER};
use super::ring::{Access, Buffer, Ring};
use super::shadow::Shadow;
use super::transport::{Addresses, VirtioPlan};
use crate::error::Fault;
use crate::queue::Tally;
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::{BURST, Burst, Frame, Pool, Shelf};

/// The receive ring and what has come out of it.
#[derive(Debug)]
pub(super) struct Receiver<'p, R: Ring> {
    pub(super) ring: R,
    pub(super) shadow: Shadow<'p>,
    pub(super) mergeable: bool,
    /// The device fills buffers in the order of posting, and may say so of the last of several alone.
    in_order: bool,
    pub(super) frame_size: u16,
    /// Where in its slot a buffer begins, with its header.
    pub(super) start: u16,
    buffer_bytes: u32,
    /// Vacant descriptors that are worth a refill.
    refill_at: u16,
    run: Run<'p>,
    /// Buffers that one answer was for and that are to be taken yet, and the bytes of the last: the others are full.
    batch: (u16, u32),
    /// Bytes of packets on their way to another queue.
    pub(super) lens: [u16; BURST],
    pub(super) tally: Tally,
    pub(super) malformed: u64,
}

/// When to look at a ring: the seldomer the longer nothing came, since each look takes a line away from the device that is about
/// to write it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Turns to go by without a look.
    left: u8,
    /// How many they were to be at the last look, and one more than twice that at the next.
    next: u8,
}

impl Patience {
    /// Some hundred nanoseconds on a core with nothing else to do.
    const LONGEST: u8 = 7;

    /// Whether this turn goes by without one.
    #[inline]
    pub(super) const fn waits(&mut self) -> bool {
        let waits = self.left > 0;
        self.left -= waits as u8;
        waits
    }

    /// What a look has found.
    #[inline]
    pub(super) fn saw(&mut self, packets: usize) {
        if packets > 0 {
            self.next = 0;
        } else {
            self.left = self.next;
            self.next = (2 * self.next + 1).min(Self::LONGEST);
        }
    }
}

/// A packet in several buffers (§5.1.6.4), as far as it has come.
#[derive(Debug)]
struct Run<'p> {
    frames: Burst<'p>,
    missing: u16,
    /// It is taken to be dropped.
    bad: bool,
}

impl<'p, R: Ring> Receiver<'p, R> {
    pub(super) fn new(pool: &'p Pool, plan: &VirtioPlan, ring: R, start: u16) -> Self {
        let size = plan.ring;
        let mut receiver = Self {
            ring,
            shadow: Shadow::new(pool, size),
            mergeable: plan.features & feature::MERGEABLE != 0,
            in_order: plan.features & feature::IN_ORDER != 0,
            frame_size: pool.frame_size(),
            start,
            buffer_bytes: u32::from(pool.frame_size() - start),
            refill_at: (size / 4).clamp(1, 32),
            run: Run { frames: Burst::new(), missing: 0, bad: false },
            batch: (0, 0),
            lens: [0; BURST],
            tally: Tally::default(),
            malformed: 0,
        };
        receiver.ring.preset(receiver.buffer_bytes);
        receiver
    }

    /// Offers empty slots; whether any.
    #[inline]
    pub(super) fn refill(&mut self, addresses: &Addresses) -> bool {
        let vacant = self.shadow.vacant();
        // Not slot by slot, but long before the ring is empty.
        if vacant < self.refill_at {
            return false;
        }
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, room) = self.shadow.ahead();
            if room == 0 {
                break;
            }
            let (table, second) = self.ring.table(first, room, Access::Writes);
            let second = second + u64::from(self.buffer_bytes);
            let shelf = &mut self.shadow.shelf;
            let start = u64::from(self.start);
            let count = match addresses {
                Addresses::Linear(base) => {
                    let base = base + start;
                    stock::<R>(shelf, first, table, second, |offset| base + offset)
                }
                Addresses::Pieces(_) => {
                    stock::<R>(shelf, first, table, second, |offset| addresses.of(offset + start))
                }
            };
            self.ring.posted(first, count);
            self.shadow.posted(count);
        }
        if !self.shadow.is_ordered() {
            self.refill_singly(addresses);
        }
        self.ring.publish();
        self.shadow.vacant() < vacant
    }

    /// For a device that fills buffers in an order of its own.
    #[cold]
    fn refill_singly(&mut self, addresses: &Addresses) {
        while self.shadow.vacant() > 0 {
            let Some((id, begin)) = self.shadow.claim_empty() else { break };
            let address = addresses.of(begin + u64::from(self.start));
            self.ring.post_chain(&[Buffer { id, address, len: self.buffer_bytes, access: Access::Writes }]);
        }
    }

    /// Appends whole packets while `burst` has room.
    ///
    /// # Errors
    /// The first thing the device said that cannot be true.
    #[inline]
    pub(super) fn receive(&mut self, burst: &mut Burst<'p>) -> Result<(), Fault> {
        if self.is_between() {
            if self.ring.is_idle() {
                return Ok(());
            }
            if self.receive_plain(burst)? {
                return Ok(());
            }
        }
        self.receive_rest(burst)
    }

    /// Whether no packet, and no answer, is taken in part.
    #[inline]
    pub(super) const fn is_between(&self) -> bool {
        self.run.missing == 0 && self.run.frames.is_empty() && self.batch.0 == 0
    }

    /// Takes packets of one buffer with nothing undone; whether nothing else has come.
    #[inline]
    fn receive_plain(&mut self, burst: &mut Burst<'p>) -> Result<bool, Fault> {
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, lent) = self.shadow.behind();
            let most = u16::try_from(burst.room()).unwrap_or(0).min(lent);
            let key = self.ring.key() + u32::from(first);
            let answers = self.ring.answers(most, lent)?;
            let came = answers.len();
            let arrive = match (self.frame_size, self.mergeable) {
                (2048, true) => arrive::<R, 11, true>,
                (4096, true) => arrive::<R, 12, true>,
                (_, true) => arrive::<R, 0, true>,
                (_, false) => arrive::<R, 0, false>,
            };
            let shelf = &mut self.shadow.shelf;
            let (count, bytes) = arrive(shelf, burst, first, answers, key, self.start);
            self.ring.advance(count, count);
            self.shadow.answered(count);
            self.tally.packets += u64::from(count);
            self.tally.bytes += bytes;
            if usize::from(count) < came || came == 0 {
                return Ok(burst.room() == 0 || self.ring.is_idle());
            }
            // Not at the end of the table: this was all of it.
            if count < lent || burst.room() == 0 {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// The careful half: packets in several buffers, with something undone, and lies.
    #[cold]
    fn receive_rest(&mut self, burst: &mut Burst<'p>) -> Result<(), Fault> {
        loop {
            if self.run.missing == 0 && !self.run.frames.is_empty() {
                if self.run.frames.len() > burst.room() {
                    return Ok(());
                }
                for frame in self.run.frames.as_slice() {
                    self.tally.add(frame.len(), frame.continues());
                }
                burst.append(&mut self.run.frames);
            }
            if burst.room() == 0 {
                return Ok(());
            }
            let Some((id, len)) = self.next()? else { return Ok(()) };
            let header = if self.run.missing == 0 { HEADER } else { 0 };
            let packet = len.checked_sub(header.into()).ok_or(Fault::Short { len, header })?;
            let frame = self.shadow.take(id, self.start + header, packet)?;
            self.ring.advance(1, 1);
            if header > 0 { self.begin(frame) } else { self.go_on(frame) }
        }
    }

    /// The next buffer that is filled, and the bytes in it.
    fn next(&mut self) -> Result<Option<(u32, u32)>, Fault> {
        if self.batch.0 == 0 {
            let Some((id, len)) = self.ring.next(self.shadow.lent())? else { return Ok(None) };
            if !self.in_order {
                return Ok(Some((id, len)));
            }
            let count = self.shadow.through(id)?;
            if !self.ring.covers(count) {
                return Err(Fault::Completion { id });
            }
            self.batch = (count, len);
        }
        self.batch.0 -= 1;
        let len = if self.batch.0 == 0 { self.batch.1 } else { self.buffer_bytes };
        Ok(Some((self.shadow.oldest().into(), len)))
    }

    /// A packet begins.
    fn begin(&mut self, mut frame: Frame<'p>) {
        let mut copy = [0; HEADER as usize];
        if let Ok(header) = frame.headroom_mut(HEADER) {
            // Once: what is judged is what is used.
            copy.copy_from_slice(header);
        }
        let buffers = header::buffers(&copy, self.mergeable);
        let offload = header::offload(&copy, &frame);
        let whole = usize::from(buffers) <= BURST && buffers > 0 && !frame.is_empty();
        self.run.bad = offload.is_err() || !whole;
        self.run.missing = buffers.saturating_sub(1);
        frame.set_offload(offload.unwrap_or_default());
        frame.set_continues(self.run.missing > 0);
        self.keep(frame);
    }

    /// A packet goes on.
    fn go_on(&mut self, mut frame: Frame<'p>) {
        self.run.missing -= 1;
        self.run.bad |= frame.is_empty();
        frame.set_continues(self.run.missing > 0);
        self.keep(frame);
    }

    fn keep(&mut self, frame: Frame<'p>) {
        self.run.bad |= !self.run.bad && self.run.frames.push(frame).is_err();
        if self.run.bad {
            self.run.frames.clear();
            self.malformed += u64::from(self.run.missing == 0);
        }
    }

    /// Begins anew, in memory that is zero again; every slot comes home.
    pub(super) fn restart(&mut self) {
        self.shadow.clear();
        self.ring.restart();
        self.ring.preset(self.buffer_bytes);
        self.run.frames.clear();
        self.run.missing = 0;
        self.batch = (0, 0);
    }
}

/// The hot half of refilling: a leaf function over slices and numbers. `second` is the first descriptor's second word.
#[inline(never)]
fn stock<R: Ring>(
    shelf: &mut Shelf<'_>,
    first: u16,
    table: &[[AtomicU64; 2]],
    mut second: u64,
    address: impl Fn(u64) -> u64,
) -> u16 {
    let count = shelf.stock(first.into(), table, |[place, rest], offset| {
        place.store(address(offset).to_le(), Ordering::Relaxed);
        if R::STEP > 0 {
            // In a packed ring this publishes it: the address must be there before.
            rest.store(second.to_le(), Ordering::Release);
            second += R::STEP;
        }
    });
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// The hot half of receiving: how many packets, and their bytes. `key` is that of the answer that comes first, in order.
#[inline(never)]
fn arrive<'p, R: Ring, const SHIFT: u32, const MERGEABLE: bool>(
    shelf: &mut Shelf<'p>,
    burst: &mut Burst<'p>,
    first: u16,
    answers: &[R::Answer],
    mut key: u32,
    start: u16,
) -> (u16, u64) {
    let (before, mut bytes) = (burst.len(), 0);
    let judge = |answer: &R::Answer| {
        let done = R::read(answer);
        if done.key != key {
            return None;
        }
        key += 1;
        bytes += u64::from(done.len);
        Some(done.len)
    };
    let plain = |front: &[u8; HEADER as usize]| header::is_plain(front, MERGEABLE);
    let count = shelf.arrive::<_, SHIFT, _>(burst, first.into(), answers, start, judge, plain);
    let bytes = if count as usize == answers.len() {
        bytes - u64::from(HEADER) * u64::from(count)
    } else {
        // The last one was looked at and left.
        burst.as_slice()[before..].iter().map(|frame| u64::from(frame.len())).sum()
    };
    (u16::try_from(count).unwrap_or(u16::MAX), bytes)
}
