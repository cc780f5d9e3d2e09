//! Received packets in several descriptors, and pages copied out of a wire in memory: the receive ring's rare cases.

use crate::error::Fault;
use crate::queue::Tally;
use crate::rings::{CONTINUES, Descriptor, arrive, room};
use ringbuf::{Batch, Burst, Frame, Loan, Pool, Stray};

/// What became of the packet in several descriptors at the front of a ring.
pub(crate) enum Taken {
    /// It is in the burst, in so many frames.
    Frames(usize),
    /// Its end is not there yet, or the burst must be emptier, or the pool fuller.
    Later,
    /// No burst could hold it; `ended` says whether its end has been dropped too.
    Dropped { ended: bool },
}

/// Packets in several descriptors: all of one, or nothing of it, reaches the burst.
pub(crate) struct Runs<'p> {
    pub(crate) pool: &'p Pool,
    pub(crate) loan: Loan,
    pub(crate) capacity: u32,
    pub(crate) pages: bool,
}

impl<'p> Runs<'p> {
    #[cold]
    pub(crate) fn take(
        &mut self,
        batch: &mut Batch<'_, Descriptor>,
        burst: &mut Burst<'p>,
        tally: &mut Tally,
        note: &mut impl FnMut(&mut Frame<'p>, u32),
    ) -> Result<Taken, Fault> {
        let mut count = 0;
        let (mut frames, mut fresh) = (0, 0);
        loop {
            let Some(descriptor) = batch.peek(count) else {
                // The rest may still come, or wait for an emptier burst; but no packet fills a burst, or a ring.
                let most = self.capacity.min(room(&Burst::new()));
                if count < most {
                    return Ok(Taken::Later);
                }
                return self.skip(batch).map(|ended| Taken::Dropped { ended });
            };
            count += 1;
            frames += self.frames_of(descriptor);
            fresh += if self.is_page(descriptor) { self.frames_of(descriptor) } else { 0 };
            if descriptor.options() & CONTINUES == 0 {
                break;
            }
        }
        if frames > burst.room() && burst.is_empty() {
            return self.skip(batch).map(|ended| Taken::Dropped { ended });
        }
        if frames > burst.room() || fresh > self.pool.free() as usize {
            return Ok(Taken::Later);
        }
        let mut run = Burst::new();
        for descriptor in batch.take(count as usize) {
            if self.is_page(descriptor) {
                self.copy_page(descriptor, &mut run)?;
                continue;
            }
            let mut frame = arrive(self.pool, self.loan, descriptor)?;
            if run.is_empty() {
                note(&mut frame, descriptor.options());
            }
            // There is room: the frames were counted above.
            drop(run.push(frame));
        }
        for frame in (0..run.len()).filter_map(|i| run.peek(i)) {
            tally.add(frame.len(), frame.continues());
        }
        Ok(Taken::Frames(burst.append(&mut run)))
    }

    /// Drops descriptors up to the end of a packet; returns whether the end was among them.
    #[cold]
    pub(crate) fn skip(&mut self, batch: &mut Batch<'_, Descriptor>) -> Result<bool, Fault> {
        for descriptor in batch {
            if self.is_page(descriptor) {
                self.pool.reclaim_page(descriptor.offset)?;
            } else {
                drop(arrive(self.pool, self.loan, descriptor)?);
            }
            if descriptor.options() & CONTINUES == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_page(&self, descriptor: Descriptor) -> bool {
        self.pages && self.pool.is_content(descriptor.offset)
    }

    fn frames_of(&self, descriptor: Descriptor) -> usize {
        let pieces = descriptor.len().div_ceil(u32::from(self.pool.frame_size())) as usize;
        if self.is_page(descriptor) { pieces } else { 1 }
    }

    /// Copies a page into frames and sends it home.
    fn copy_page(&self, descriptor: Descriptor, run: &mut Burst<'p>) -> Result<(), Fault> {
        let unknown = Stray::Unknown { offset: descriptor.offset };
        let start = descriptor.offset - self.pool.arena().content_start() as u64;
        let start = usize::try_from(start).map_err(|_| unknown)?;
        let page = self.pool.page(start, descriptor.len() as usize).ok_or(unknown)?;
        self.pool.reclaim_page(descriptor.offset)?;
        let bytes = page.bytes().ok_or(unknown)?;
        let mut pieces = bytes.chunks(self.pool.frame_size().into()).peekable();
        while let Some(piece) = pieces.next() {
            let mut frame = self.pool.alloc().ok_or(unknown)?;
            frame.restart(0);
            frame.set_continues(pieces.peek().is_some() || descriptor.options() & CONTINUES != 0);
            if frame.extend(piece).is_ok() {
                drop(run.push(frame));
            }
        }
        Ok(())
    }
}
