//! The receiving half of a queue pair: headers looked at, packets in several buffers put together.

use super::header::{self, HEADER};
use super::ring::{Access, Buffer, Filled, Ring};
use super::transport::Addresses;
use crate::error::Fault;
use crate::queue::Tally;
use core::ops::Range;
use ringbuf::{BURST, Burst, Frame, Loan, Pool, Stray};

/// The receive ring and what has come out of it.
#[derive(Debug)]
pub(super) struct Receiver<'p, R: Ring> {
    pool: &'p Pool,
    loan: Loan,
    pub(super) ring: R,
    mergeable: bool,
    /// Where in its slot a buffer begins.
    start: u16,
    buffer_bytes: u32,
    /// Vacant descriptors that are worth a refill.
    refill_at: u16,
    filled: Box<[Filled; BURST]>,
    /// Those of `filled` that have been taken off the ring and are not frames yet.
    taken: Range<usize>,
    run: Run<'p>,
    empty: Box<[Buffer; BURST]>,
    pub(super) tally: Tally,
    pub(super) malformed: u64,
}

/// A packet in several buffers (§5.1.6.3.1), as far as it has come.
#[derive(Debug)]
struct Run<'p> {
    frames: Burst<'p>,
    missing: u16,
    /// It is taken to be dropped.
    bad: bool,
}

impl<'p, R: Ring> Receiver<'p, R> {
    pub(super) fn new(pool: &'p Pool, loan: Loan, ring: R, headroom: u16, mergeable: bool) -> Self {
        let start = headroom - HEADER;
        Self {
            pool,
            loan,
            refill_at: (ring.vacant() / 2).min(32),
            ring,
            mergeable,
            start,
            buffer_bytes: u32::from(pool.frame_size() - start),
            filled: Box::new([Filled::default(); BURST]),
            taken: 0..0,
            run: Run { frames: Burst::new(), missing: 0, bad: false },
            empty: Box::new([Buffer::default(); BURST]),
            tally: Tally::default(),
            malformed: 0,
        }
    }

    /// Offers empty slots; whether any.
    #[inline]
    pub(super) fn refill(&mut self, addresses: &Addresses) -> bool {
        let vacant = self.ring.vacant();
        // Not slot by slot, but long before the ring is empty.
        if vacant < self.refill_at {
            return false;
        }
        let mut left = usize::from(vacant);
        let mut any = false;
        while left > 0 {
            let mut count = 0;
            for place in self.empty.iter_mut().take(left) {
                let Some(slot) = self.pool.lend(self.loan) else { break };
                let offset = self.pool.offset(slot) + u64::from(self.start);
                *place = Buffer { offset, address: addresses.of(offset), len: self.buffer_bytes };
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.ring.post(&self.empty[..count], Access::Writes);
            left -= count;
            any = true;
        }
        if any {
            self.ring.publish();
        }
        any
    }

    /// Appends whole packets while `burst` has room.
    ///
    /// # Errors
    /// The first thing the device said that cannot be true.
    #[inline]
    pub(super) fn receive(&mut self, burst: &mut Burst<'p>) -> Result<(), Fault> {
        if self.taken.is_empty() {
            if self.ring.is_idle() && self.run.frames.is_empty() {
                return Ok(());
            }
            let count = self.ring.take(&mut self.filled[..burst.room()])?;
            self.taken = 0..count;
            // All of the burst at once: one by one, each would wait for the core that wrote it.
            for item in &self.filled[..count] {
                self.pool.expect_soon(item.offset);
            }
        }
        if self.run.missing == 0 && self.run.frames.is_empty() {
            let odd = self.receive_plain(burst);
            if odd.is_none() && self.taken.is_empty() {
                return Ok(());
            }
            return self.receive_rest(burst, odd);
        }
        self.receive_rest(burst, None)
    }

    /// Takes packets of one buffer with nothing undone until something else comes; returns that, if it is a frame.
    #[inline]
    fn receive_plain(&mut self, burst: &mut Burst<'p>) -> Option<Frame<'p>> {
        let items = &self.filled[self.taken.clone()];
        let mut odd = None;
        let arrive = match self.pool.frame_size() {
            2048 => arrive_plain::<11>,
            4096 => arrive_plain::<12>,
            _ => arrive_plain::<0>,
        };
        let (count, bytes) = arrive(self.pool, self.loan, items, burst, self.mergeable, &mut odd);
        self.taken.start += count + usize::from(odd.is_some());
        self.tally.packets += count as u64;
        self.tally.bytes += bytes;
        odd
    }

    /// The careful half: packets in several buffers, with something undone, and lies.
    #[cold]
    fn receive_rest(&mut self, burst: &mut Burst<'p>, mut odd: Option<Frame<'p>>) -> Result<(), Fault> {
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
            if burst.room() == 0 && odd.is_none() {
                return Ok(());
            }
            let frame = match odd.take() {
                Some(frame) => frame,
                None if self.taken.is_empty() => return Ok(()),
                None => {
                    let Filled { offset, len } = self.filled[self.taken.start];
                    self.taken.start += 1;
                    if self.run.missing > 0 {
                        self.go_on(offset, len)?;
                        continue;
                    }
                    self.first(offset, len)?
                }
            };
            self.begin(frame);
        }
    }

    /// The first buffer of a packet, without its header.
    fn first(&self, offset: u64, len: u32) -> Result<Frame<'p>, Fault> {
        let Some(packet) = len.checked_sub(HEADER.into()) else {
            let (slot, head) = self.pool.locate(offset)?;
            return Err(Stray::OutOfBounds { slot, head, len }.into());
        };
        Ok(self.pool.arrive_at(offset + u64::from(HEADER), self.loan, packet)?)
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
    fn go_on(&mut self, offset: u64, len: u32) -> Result<(), Fault> {
        let mut frame = self.pool.arrive_at(offset, self.loan, len)?;
        self.run.missing -= 1;
        self.run.bad |= frame.is_empty();
        frame.set_continues(self.run.missing > 0);
        self.keep(frame);
        Ok(())
    }

    fn keep(&mut self, frame: Frame<'p>) {
        self.run.bad |= !self.run.bad && self.run.frames.push(frame).is_err();
        if self.run.bad {
            self.run.frames.clear();
            self.malformed += u64::from(self.run.missing == 0);
        }
    }

    /// Forgets everything; the slots are recalled by whoever holds the loan.
    pub(super) fn restart(&mut self) {
        self.ring.restart(|_| ());
        self.taken = 0..0;
        self.run.frames.clear();
        self.run.missing = 0;
    }
}

/// The hot half of receiving: a leaf function over slices and numbers; how many packets, and their bytes.
#[inline(never)]
fn arrive_plain<'p, const SHIFT: u32>(
    pool: &'p Pool,
    loan: Loan,
    items: &[Filled],
    burst: &mut Burst<'p>,
    mergeable: bool,
    odd: &mut Option<Frame<'p>>,
) -> (usize, u64) {
    let mut gate = pool.gate::<SHIFT>(loan);
    let count = burst.fill_from(items, |item| {
        // Without a packet behind the header it is a case for the careful half, as is what the gate refuses.
        let len = item.len.checked_sub(u32::from(HEADER) + 1)? + 1;
        let mut frame = gate.arrive(item.offset + u64::from(HEADER), len.into())?;
        let header = frame.headroom_mut(HEADER).ok()?;
        if header::is_plain(header, mergeable) {
            return Some(frame);
        }
        *odd = Some(frame);
        None
    });
    let apart = odd.as_ref().map_or(0, |frame| u64::from(frame.len()));
    (count as usize, gate.bytes() - apart)
}
