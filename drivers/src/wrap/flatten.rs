//! Gathering for a queue that cannot, by copying.

use crate::error::Fault;
use crate::queue::{Caps, Gather, Passing, QueueCounters, QueuePair, Tally};
use ringbuf::{BURST, Burst, Front, Packets, Page, Pool, Segmentation};
use std::os::fd::BorrowedFd;

/// A queue pair that sends a head and its pages by copying them into frames.
///
/// Nothing falls back silently: every byte copied is in [`QueueCounters::flattened_bytes`]. A packet becomes one
/// frame, or a chain where the queue inside sends chains. Whether its ring has room shows only when it is offered the
/// copy, so each call against a full ring copies one packet in vain, and counts that too.
#[derive(Debug)]
pub struct Flatten<'p, Q> {
    inner: Q,
    pool: &'p Pool,
    flattened_bytes: u64,
    unsendable: u64,
}

/// What became of the packet in front.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one packet; a box would be allocated in a turn"
)]
enum Flat<'p> {
    Copied(Burst<'p>),
    /// No frame is free.
    Later,
    /// Too long, too many frames, empty, or of bytes that only a device may read.
    Never,
}

impl<'p, Q: QueuePair<'p>> Flatten<'p, Q> {
    /// Wraps a queue pair; copies go into frames of `pool`, which must be the queue's own.
    pub const fn new(inner: Q, pool: &'p Pool) -> Self {
        Self { inner, pool, flattened_bytes: 0, unsendable: 0 }
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

    fn flatten(&mut self, packet: &Front<'_, 'p>) -> Flat<'p> {
        let caps = self.inner.caps();
        if packet.bytes() == 0 || packet.bytes() > caps.packet_bytes as usize {
            return Flat::Never;
        }
        let most = (caps.packet_frames as usize).min(BURST);
        let Some(mut frame) = self.pool.alloc() else { return Flat::Later };
        frame.set_offload(packet.head().offload());
        if packet.bytes() > most * usize::from(frame.tailroom()) {
            return Flat::Never;
        }
        // A file's own pages are not for us to read.
        if packet.pages().any(Page::is_file) {
            return Flat::Never;
        }
        let mut chain = Burst::new();
        let head: &[u8] = packet.head();
        for mut bytes in std::iter::once(head).chain(packet.pages().filter_map(Page::bytes)) {
            while !bytes.is_empty() {
                if frame.tailroom() == 0 {
                    let Some(next) = self.pool.alloc() else { return Flat::Later };
                    frame.set_continues(true);
                    // There is room: the frames were counted above.
                    drop(chain.push(std::mem::replace(&mut frame, next)));
                }
                let (piece, rest) = bytes.split_at(bytes.len().min(frame.tailroom().into()));
                let fits = frame.extend(piece);
                debug_assert!(fits.is_ok(), "cut to the tailroom");
                self.flattened_bytes += piece.len() as u64;
                bytes = rest;
            }
        }
        drop(chain.push(frame));
        Flat::Copied(chain)
    }
}

impl<'p, Q: QueuePair<'p>> Gather<'p> for Flatten<'p, Q> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        let mut taken = 0;
        while self.inner.fault().is_none()
            && let Some(front) = packets.front()
        {
            match self.flatten(&front) {
                Flat::Later => break,
                Flat::Never => self.unsendable += 1,
                Flat::Copied(mut chain) => {
                    // The copy is dropped then: the packet itself stays with the caller.
                    if self.inner.transmit(&mut chain) == 0 {
                        break;
                    }
                }
            }
            drop(packets.pop());
            taken += 1;
        }
        taken
    }
}

impl<'p, Q: QueuePair<'p>> QueuePair<'p> for Flatten<'p, Q> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
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
        self.inner.transmit(burst)
    }

    // Packets of one buffer: there is nothing to make flat.
    fn passes(&self) -> bool {
        self.inner.passes()
    }

    #[inline]
    fn pass(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        self.inner.pass(to, shortest)
    }

    #[inline]
    fn take_over(&mut self, passing: Passing<'_>) -> Option<Tally> {
        self.inner.take_over(passing)
    }

    #[inline]
    fn tend(&mut self) {
        self.inner.tend();
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    fn counters(&self) -> QueueCounters {
        let inner = self.inner.counters();
        QueueCounters {
            flattened_bytes: inner.flattened_bytes + self.flattened_bytes,
            unsendable: inner.unsendable + self.unsendable,
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
