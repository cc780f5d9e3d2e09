//! Segmentation for a queue that cannot, by copying.

use crate::error::Fault;
use crate::queue::{Caps, Gather, QueueCounters, QueuePair};
use crate::segment::{Cut, uncut_at};
use ringbuf::{Burst, Packets, Pool, Segmentation};
use std::os::fd::BorrowedFd;

/// A queue pair that cuts large packets into segments before it sends them.
///
/// A packet socket hands over TCP as the kernel has it, up to 64 KiB at once ([`ringbuf::Segmentation`]). Each segment
/// is copied into frames of its own; its checksum is left to the queue inside, like any other. A burst without such a
/// packet passes as it is, and so does a packet with pages. [`Caps::segmentation`] stays as it is: a copy is nothing
/// that an app should choose.
///
/// What is counted: [`QueueCounters::packets_cut`] and the fields after it. A packet stays with the caller while the
/// ring has no room for any of its segments. Once the first is on the ring the rest is sent, or lost by name.
#[derive(Debug)]
pub struct Segment<'p, Q> {
    inner: Q,
    pool: &'p Pool,
    caps: Caps,
    /// Empty between calls.
    out: Burst<'p>,
    counts: Counts,
    /// Whether all are cut here.
    all: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    packets: u64,
    segments: u64,
    bytes: u64,
    no_room: u64,
    no_frame: u64,
    unsendable: u64,
}

impl<'p, Q: QueuePair<'p>> Segment<'p, Q> {
    /// Wraps a queue pair; segments go into frames of `pool`, which must be the queue's own.
    pub fn new(inner: Q, pool: &'p Pool) -> Self {
        let inside = inner.caps();
        let mode = format!("{}, cuts in software", inside.mode);
        let caps = Caps { mode, ..inside.clone() };
        Self { inner, pool, caps, out: Burst::new(), counts: Counts::default(), all: true }
    }

    /// The same, but the kinds that the queue inside [cuts](QueuePair::cuts) itself are left to it.
    pub fn rest(inner: Q, pool: &'p Pool) -> Self {
        let some = inner.caps().segmentation;
        let mut segment = Self { all: false, ..Self::new(inner, pool) };
        if some {
            segment.caps.mode = format!("{}, cuts the rest in software", segment.inner.caps().mode);
        }
        segment
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

    /// Where the first packet is that the queue inside does not cut.
    #[inline]
    fn uncut_at(&self, burst: &Burst<'p>) -> Option<usize> {
        uncut_at(burst, |kind| self.all || !self.inner.cuts(kind))
    }

    /// Sends a burst with a packet to be cut `at` places behind its front.
    #[cold]
    fn transmit_cutting(&mut self, burst: &mut Burst<'p>, at: usize) -> usize {
        let before = burst.len();
        let mut next = Some(at);
        while let Some(at) = next {
            if at > 0 && !self.transmit_front(burst, at) || !self.cut_front(burst) {
                return before - burst.len();
            }
            next = self.uncut_at(burst);
        }
        self.inner.transmit(burst);
        before - burst.len()
    }

    /// Sends the first `count` frames of a burst; says whether all are gone.
    fn transmit_front(&mut self, burst: &mut Burst<'p>, count: usize) -> bool {
        for frame in burst.drain().take(count) {
            // It is empty, and as large as the burst.
            drop(self.out.push(frame));
        }
        self.inner.transmit(&mut self.out);
        if self.out.is_empty() {
            return true;
        }
        // Back in front of the others.
        self.out.append(burst);
        core::mem::swap(&mut self.out, burst);
        false
    }

    /// Cuts and sends the packet at the front; says whether it is gone.
    fn cut_front(&mut self, burst: &mut Burst<'p>) -> bool {
        let Some(mut cut) = Cut::of(burst).filter(|cut| self.fits(cut)) else {
            self.counts.unsendable += 1;
            burst.drop_packet();
            return true;
        };
        let (mut bytes, mut sent) = (0, false);
        while cut.left() > 0 {
            while let Some(written) = cut.write(burst, self.pool, &mut self.out) {
                bytes += written as u64;
            }
            let offered = self.out.len();
            if offered == 0 {
                self.counts.no_frame += cut.left() as u64;
                break;
            }
            self.inner.transmit(&mut self.out);
            if !sent && self.out.len() == offered {
                self.out.clear();
                return false;
            }
            sent = true;
            if !self.out.is_empty() {
                // One more chance, as the worker gives it.
                self.inner.tend();
                self.inner.transmit(&mut self.out);
            }
            if !self.out.is_empty() {
                let waiting = self.out.as_slice().iter().filter(|frame| !frame.continues()).count();
                self.counts.no_room += (waiting + cut.left()) as u64;
                self.out.clear();
                break;
            }
        }
        self.counts.packets += 1;
        self.counts.segments += cut.segments() as u64;
        self.counts.bytes += bytes;
        burst.drop_packet();
        true
    }

    /// Whether the queue inside can send such segments.
    fn fits(&self, cut: &Cut) -> bool {
        let Caps { packet_bytes, packet_frames, .. } = self.caps;
        cut.longest() <= packet_bytes as usize
            && Cut::frames(self.pool, cut.longest()) <= packet_frames as usize
    }
}

impl<'p, Q: QueuePair<'p>> QueuePair<'p> for Segment<'p, Q> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.inner.cuts(kind)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        self.inner.receive(burst)
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        match self.uncut_at(burst) {
            None => self.inner.transmit(burst),
            Some(at) => self.transmit_cutting(burst, at),
        }
    }

    #[inline]
    fn tend(&mut self) {
        self.inner.tend();
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    fn counters(&self) -> QueueCounters {
        let (inner, counts) = (self.inner.counters(), self.counts);
        QueueCounters {
            unsendable: inner.unsendable + counts.unsendable,
            packets_cut: inner.packets_cut + counts.packets,
            segments_cut: inner.segments_cut + counts.segments,
            segment_bytes: inner.segment_bytes + counts.bytes,
            segments_no_room: inner.segments_no_room + counts.no_room,
            segments_no_frame: inner.segments_no_frame + counts.no_frame,
            ..inner
        }
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

impl<'p, Q: Gather<'p>> Gather<'p> for Segment<'p, Q> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        self.inner.gather(packets)
    }
}
