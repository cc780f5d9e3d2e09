//! How full the bursts are.

use crate::error::Fault;
use crate::queue::{Caps, Gather, QueueCounters, QueuePair};
use ringbuf::{BURST, Burst, Packets, Segmentation};
use std::os::fd::BorrowedFd;

/// A queue pair that counts its calls by what they moved: no clock, no allocation.
#[derive(Clone, Debug)]
pub struct Metered<Q> {
    inner: Q,
    meter: Meter,
}

/// Calls by what they moved, since the queue was wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// `receive` calls by how many frames they appended.
    pub receive: [u64; BURST + 1],
    /// `transmit` calls with something to send, by how many frames they took.
    pub transmit: [u64; BURST + 1],
    /// `transmit` calls that left frames with the caller: the ring was full.
    pub transmit_short: u64,
    /// `gather` calls with something to send, by how many packets they took.
    pub gather: [u64; BURST + 1],
    /// `tend` calls: turns of the worker.
    pub tends: u64,
}

impl Default for Meter {
    fn default() -> Self {
        let none = [0; BURST + 1];
        Self { receive: none, transmit: none, transmit_short: 0, gather: none, tends: 0 }
    }
}

impl Meter {
    /// `receive` calls that found nothing.
    #[must_use]
    pub const fn empty_receives(&self) -> u64 {
        self.receive[0]
    }

    /// `receive` calls that found something.
    #[must_use]
    pub fn busy_receives(&self) -> u64 {
        self.receive[1..].iter().sum()
    }

    /// Frames in a received burst on average, over the calls that found something; 0 when none did.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean of burst sizes needs no more than 53 bits")]
    pub fn mean_receive(&self) -> f64 {
        let frames: u64 = (0u64..).zip(&self.receive).map(|(size, calls)| size * calls).sum();
        match self.busy_receives() {
            0 => 0.0,
            calls => frames as f64 / calls as f64,
        }
    }
}

impl<Q> Metered<Q> {
    /// Wraps a queue pair, all counts zero.
    pub fn new(inner: Q) -> Self {
        Self { inner, meter: Meter::default() }
    }

    /// The counts so far.
    #[must_use]
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The queue pair inside.
    #[must_use]
    pub const fn inner(&self) -> &Q {
        &self.inner
    }

    /// The same, to be changed.
    pub const fn inner_mut(&mut self) -> &mut Q {
        &mut self.inner
    }
}

impl<'p, Q: QueuePair<'p>> QueuePair<'p> for Metered<Q> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.inner.cuts(kind)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let received = self.inner.receive(burst);
        self.meter.receive[received.min(BURST)] += 1;
        received
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if burst.is_empty() {
            return self.inner.transmit(burst);
        }
        let taken = self.inner.transmit(burst);
        self.meter.transmit[taken.min(BURST)] += 1;
        self.meter.transmit_short += u64::from(!burst.is_empty());
        taken
    }

    #[inline]
    fn tend(&mut self) {
        self.meter.tends += 1;
        self.inner.tend();
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    fn counters(&self) -> QueueCounters {
        self.inner.counters()
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        self.inner.waker()
    }

    fn pending(&self) -> u32 {
        self.inner.pending()
    }

    fn exhausted(&self) -> bool {
        self.inner.exhausted()
    }
}

impl<'p, Q: Gather<'p>> Gather<'p> for Metered<Q> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if packets.is_empty() {
            return self.inner.gather(packets);
        }
        let taken = self.inner.gather(packets);
        self.meter.gather[taken.min(BURST)] += 1;
        taken
    }
}
