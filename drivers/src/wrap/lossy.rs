//! A bad wire, from a seed.

use crate::checksum;
use crate::error::Fault;
use crate::queue::{Caps, Gather, QueueCounters, QueuePair, Tally};
use crate::random::Random;
use ringbuf::{BURST, Burst, Frame, Offload, Packets, Pool, Segmentation};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// What received packets suffer; rates are in 1/65536 of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossyPlan {
    /// Where the random numbers begin: the same seed, the same faults.
    pub seed: u64,
    /// Packets lost.
    pub drop: u16,
    /// Packets that come twice.
    pub duplicate: u16,
    /// Packets with one bit turned over.
    pub corrupt: u16,
    /// Packets overtaken by the one behind.
    pub reorder: u16,
    /// Packets held back.
    pub delay: u16,
    /// For how many receive calls.
    pub delay_bursts: u32,
}

/// What has been done, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Lost.
    pub dropped: u64,
    /// Came twice.
    pub duplicated: u64,
    /// Should have come twice, but the pool had no frames for the copy.
    pub not_duplicated: u64,
    /// One bit turned over.
    pub corrupted: u64,
    /// Overtaken by the packet behind.
    pub reordered: u64,
    /// Held back.
    pub delayed: u64,
}

type Chain<'p> = Vec<Frame<'p>>;

/// A queue pair whose receive side loses, doubles, damages, reorders and delays whole packets.
///
/// It holds packets back, so it allocates: for laboratories, not for turns that are measured.
#[derive(Debug)]
pub struct Lossy<'p, Q> {
    inner: Q,
    pool: &'p Pool,
    plan: LossyPlan,
    random: Random,
    faults: Faults,
    received: Tally,
    calls: u64,
    /// Packets to hand over next.
    ready: VecDeque<Chain<'p>>,
    /// Packets to hand over at a later call.
    delayed: VecDeque<(u64, Chain<'p>)>,
    /// A packet that the next one overtakes.
    overtaken: Option<Chain<'p>>,
}

impl<'p, Q: QueuePair<'p>> Lossy<'p, Q> {
    /// Wraps a queue pair; copies of packets that come twice are taken from `pool`.
    pub fn new(inner: Q, pool: &'p Pool, plan: LossyPlan) -> Self {
        Self {
            inner,
            pool,
            plan,
            random: Random::new(plan.seed),
            faults: Faults::default(),
            received: Tally::default(),
            calls: 0,
            ready: VecDeque::new(),
            delayed: VecDeque::new(),
            overtaken: None,
        }
    }

    /// What has been done so far.
    #[must_use]
    pub const fn faults(&self) -> Faults {
        self.faults
    }

    /// Packets held back now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ready.len() + self.delayed.len() + usize::from(self.overtaken.is_some())
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

    /// Takes in a burst from the queue inside.
    fn take_in(&mut self) {
        let mut fresh = Burst::new();
        self.inner.receive(&mut fresh);
        if fresh.is_empty() {
            // Nobody came to overtake.
            self.ready.extend(self.overtaken.take());
        }
        while !fresh.is_empty() {
            let frames = match fresh.packet_frames() {
                0 => fresh.len(),
                frames => frames,
            };
            // A wire damages what has its checksum; one completed behind it would vouch for the damage.
            let whole = |offload: Offload| offload.segmentation == Segmentation::None;
            if self.plan.corrupt > 0 && fresh.peek(0).and_then(|first| first.offload()).is_some_and(whole) {
                checksum::finish(&mut fresh);
            }
            let chain = fresh.drain().take(frames).collect();
            self.suffer(chain);
        }
    }

    fn suffer(&mut self, mut chain: Chain<'p>) {
        if self.random.below(self.plan.drop) {
            self.faults.dropped += 1;
            return;
        }
        if self.random.below(self.plan.corrupt) {
            self.corrupt(&mut chain);
        }
        if self.random.below(self.plan.duplicate) {
            match chain.iter().map(|frame| copy(self.pool, frame)).collect() {
                Some(twin) => {
                    self.faults.duplicated += 1;
                    self.ready.push_back(twin);
                }
                None => self.faults.not_duplicated += 1,
            }
        }
        if self.random.below(self.plan.delay) {
            self.faults.delayed += 1;
            self.delayed.push_back((self.calls + u64::from(self.plan.delay_bursts), chain));
        } else if self.overtaken.is_none() && self.random.below(self.plan.reorder) {
            self.overtaken = Some(chain);
        } else {
            self.ready.push_back(chain);
            if let Some(overtaken) = self.overtaken.take() {
                self.faults.reordered += 1;
                self.ready.push_back(overtaken);
            }
        }
    }

    fn corrupt(&mut self, chain: &mut Chain<'p>) {
        let bits: u64 = chain.iter().map(|frame| u64::from(frame.len()) * 8).sum();
        let Some(mut bit) = self.random.next().checked_rem(bits) else { return };
        for frame in chain {
            let here = u64::from(frame.len()) * 8;
            if bit < here {
                let byte = usize::try_from(bit / 8).unwrap_or(0);
                frame[byte] ^= 1 << (bit % 8);
                self.faults.corrupted += 1;
                return;
            }
            bit -= here;
        }
    }
}

/// A copy of one frame; `None` when the pool is empty.
fn copy<'p>(pool: &'p Pool, frame: &Frame<'p>) -> Option<Frame<'p>> {
    let mut twin = pool.alloc()?;
    twin.restart(frame.head());
    twin.extend(frame).ok()?;
    twin.set_continues(frame.continues());
    twin.set_offload(frame.offload());
    Some(twin)
}

impl<'p, Q: QueuePair<'p>> QueuePair<'p> for Lossy<'p, Q> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.inner.cuts(kind)
    }

    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        self.calls += 1;
        // All wait for the same number of calls, so the oldest is due first.
        while self.delayed.front().is_some_and(|(due, _)| *due <= self.calls) {
            self.ready.extend(self.delayed.pop_front().map(|(_, chain)| chain));
        }
        // What is held back here is missing there: a caller who does not keep up fills the ring, not this queue.
        if self.ready.len() < BURST {
            self.take_in();
        }
        let before = burst.len();
        while self.ready.front().is_some_and(|chain| chain.len() <= burst.room()) {
            for frame in self.ready.pop_front().into_iter().flatten() {
                self.received.add(frame.len(), frame.continues());
                // There is room: the line above looked.
                drop(burst.push(frame));
            }
        }
        burst.len() - before
    }

    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        self.inner.transmit(burst)
    }

    fn tend(&mut self) {
        self.inner.tend();
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    /// `received` is what was handed over; what was dropped on purpose is in `receive_missed`.
    fn counters(&self) -> QueueCounters {
        let inner = self.inner.counters();
        QueueCounters {
            received: self.received,
            receive_missed: inner.receive_missed + self.faults.dropped,
            ..inner
        }
    }

    /// `None` while packets are held back: only polling brings them out.
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        if self.held() > 0 { None } else { self.inner.waker() }
    }

    fn pending(&self) -> u32 {
        self.inner.pending()
    }

    fn exhausted(&self) -> bool {
        self.held() == 0 && self.inner.exhausted()
    }
}

impl<'p, Q: Gather<'p>> Gather<'p> for Lossy<'p, Q> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        self.inner.gather(packets)
    }
}
