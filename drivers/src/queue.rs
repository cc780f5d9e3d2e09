//! The contract between a driver and whoever calls it.

use crate::error::Fault;
use ringbuf::{Burst, Packets, Segmentation};
use std::os::fd::BorrowedFd;

/// One receive ring and one transmit ring, owned by one thread.
///
/// Nothing here blocks and nothing here fails: a ring that is full or empty moves fewer frames, and a queue that has
/// died moves none and says why in [`fault`](Self::fault). Frames never disappear: what a call did not take is still
/// in the caller's burst.
///
/// # For the author of a driver
/// * A packet in several frames is received and sent whole or not at all; all its frames but the last say
///   [`continues`](ringbuf::Frame::continues).
/// * A packet that the device can never send (too long, too many frames, empty, another pool's) is taken, dropped
///   and counted in [`QueueCounters::unsendable`]: left in front it would block those behind it.
/// * What a packet's first frame notes as undone ([`ringbuf::Offload`]) is seen to on the way out: left to the device
///   where it can ([`Caps::checksum`]), else completed with [`checksum::finish`](crate::checksum::finish). A packet
///   still to be cut into segments is unsendable for a queue without [`Caps::segmentation`].
/// * Every number that comes back from the device goes through [`Pool::arrive`](ringbuf::Pool::arrive) or
///   [`Pool::reclaim`](ringbuf::Pool::reclaim). A stray is a latched fault.
/// * Dropping the queue stops the device first and recalls its loans last.
pub trait QueuePair<'p> {
    /// What this queue can do. Constant for its life.
    fn caps(&self) -> &Caps;

    /// Whether it cuts packets of this kind into segments on the way out: a device may know some kinds and not others. With
    /// [`Caps::segmentation`] it cuts TCP at least.
    fn cuts(&self, kind: Segmentation) -> bool {
        let _ = kind;
        self.caps().segmentation
    }

    /// Appends received frames while `burst` has room; returns how many.
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize;

    /// Takes frames from the front of `burst` while the ring has room; returns how many.
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize;

    /// Whether [`pass`](Self::pass) ever moves anything. Constant for its life.
    fn passes(&self) -> bool {
        false
    }

    /// Lets packets that have come in leave by another queue as they are, when their buffers need not become frames on the way:
    /// packets of one buffer, of `shortest` bytes at least. Returns how many; `None` when there is one in front which cannot
    /// go so: it is there for [`receive`](Self::receive). Nothing is lost, and order is kept.
    fn pass(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        let _ = (to, shortest);
        None
    }

    /// The other half: sends what has come in elsewhere; `None` when it cannot, and nothing has moved then.
    fn take_over(&mut self, passing: Passing<'_>) -> Option<Tally> {
        let _ = passing;
        None
    }

    /// Brings sent buffers home, offers empty ones to the device, rings the bell if it sleeps.
    /// The worker calls it once a turn.
    fn tend(&mut self);

    /// Why the queue has stopped for good, if it has.
    fn fault(&self) -> Option<&Fault> {
        None
    }

    /// What has passed so far. May ask the kernel: for ticks and reports, not for turns.
    fn counters(&self) -> QueueCounters;

    /// What becomes readable when a frame has arrived, for a worker that sleeps; `None` when only polling tells.
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Frames that were transmitted and whose slots are not home yet.
    fn pending(&self) -> u32 {
        0
    }

    /// Whether nothing will ever be received again: a capture file at its end. A wire has no end.
    fn exhausted(&self) -> bool {
        false
    }
}

/// Packets that a device has received and that are no frames yet, on their way to another device of the same kind.
#[derive(Debug)]
pub struct Passing<'a>(pub(crate) Passed<'a>);

/// The same, by the kind.
#[derive(Debug)]
pub(crate) enum Passed<'a> {
    /// DPDK's own buffers.
    #[cfg(feature = "dpdk")]
    Mbufs(crate::dpdk::Arrived<'a>),
    /// Slots of this worker's arena that a ring has by places of ours.
    Slots(ringbuf::Lot<'a>),
}

/// A queue that sends a head frame and the pages behind it as one packet, without a copy.
pub trait Gather<'p>: QueuePair<'p> {
    /// Takes packets from the front of `packets` while the ring has room; returns how many.
    ///
    /// The pages stay counted until the device reports the packet sent.
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize;
}

/// Who moves the bytes between the wire and the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// The device reads and writes the arena itself.
    ZeroCopy,
    /// The kernel copies each frame between its own buffers and the arena.
    KernelCopies,
    /// Another process copies each frame between the arena and memory of its own.
    PeerCopies,
    /// This driver copies each frame between a mapped ring and the arena.
    DriverCopies,
    /// There is no device: the frame itself changes hands.
    InMemory,
}

impl Copying {
    /// The word that reports use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::KernelCopies => "copy",
            Self::PeerCopies => "peer-copy",
            Self::DriverCopies => "ring-copy",
            Self::InMemory => "in-memory",
        }
    }
}

/// What a queue can do, and in which mode it really runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The driver's name on the command line.
    pub driver: &'static str,
    /// The device, as the user named it.
    pub device: String,
    /// Which of the device's queues.
    pub queue: u32,
    /// Who moves the bytes; read back from the device, never assumed.
    pub copying: Copying,
    /// The rest of the mode in words: `native, need-wakeup, multi-buffer`.
    pub mode: String,
    /// Bytes of the longest packet it sends, Ethernet header included.
    pub packet_bytes: u32,
    /// Bytes of the longest single buffer it sends.
    pub buffer_bytes: u32,
    /// Frames of the longest packet it sends; 1 when it cannot chain.
    pub packet_frames: u32,
    /// Whether it completes checksums on the way out ([`ringbuf::Offload`]).
    pub checksum: bool,
    /// Whether it cuts large packets of TCP into segments on the way out; [`QueuePair::cuts`] has the other kinds.
    pub segmentation: bool,
}

impl Caps {
    /// Whether it sends [files' own pages](ringbuf::Page::is_file): the kernel or the device must read them, and see to
    /// their checksum, since we may not.
    #[must_use]
    pub const fn takes_file_pages(&self) -> bool {
        self.checksum && matches!(self.copying, Copying::ZeroCopy | Copying::KernelCopies)
    }

    /// Queue 0 of a device that sends single frames as they are. An author starts from it and adds what the device can.
    #[must_use]
    pub fn basic(driver: &'static str, device: impl Into<String>, copying: Copying, frame_size: u16) -> Self {
        Self {
            driver,
            device: device.into(),
            queue: 0,
            copying,
            mode: "single frames".to_owned(),
            packet_bytes: frame_size.into(),
            buffer_bytes: frame_size.into(),
            packet_frames: 1,
            checksum: false,
            segmentation: false,
        }
    }
}

/// Packets and bytes that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets, however many frames they took.
    pub packets: u64,
    /// Bytes from the Ethernet header on, without the frame check sequence.
    pub bytes: u64,
}

impl Tally {
    /// Counts one frame; a packet is counted at its last.
    #[inline]
    pub fn add(&mut self, bytes: u16, continues: bool) {
        self.packets += u64::from(!continues);
        self.bytes += u64::from(bytes);
    }
}

/// What passed through one queue pair since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Handed to the worker.
    pub received: Tally,
    /// Put on the transmit ring.
    pub transmitted: Tally,
    /// Lost before we could receive them: the ring was full or no empty frame was offered, by the device's own count.
    pub receive_missed: u64,
    /// Received by the device but dropped by the driver: too many pieces, or cut short. And damaged on the wire, or too long,
    /// by the device's own count, where it has one.
    pub receive_malformed: u64,
    /// On the ring, then dropped by the device, by its own count.
    pub transmit_dropped: u64,
    /// Taken from the worker but never sendable: too long, too many frames, empty, another pool's.
    pub unsendable: u64,
    /// System calls made to wake the device.
    pub wakeups: u64,
    /// Wake-ups that found the link down.
    pub link_down: u64,
    /// Checksums completed here because neither end's device would.
    pub checksums_finished: u64,
    /// Bytes copied because the device cannot gather.
    pub flattened_bytes: u64,
    /// Bytes copied on the way in, because the device filled memory of its own.
    pub copied_bytes: u64,
    /// Packets cut into segments here because the device cannot.
    pub packets_cut: u64,
    /// The segments of these.
    pub segments_cut: u64,
    /// Bytes copied into them.
    pub segment_bytes: u64,
    /// Segments lost because the ring was full before the last of their packet.
    pub segments_no_room: u64,
    /// Segments lost because the pool had no frame for them.
    pub segments_no_frame: u64,
}

impl QueueCounters {
    /// How many numbers there are.
    pub const FIELDS: usize = 18;
    /// Their names, stable, in the order of [`to_array`](Self::to_array).
    pub const NAMES: [&'static str; Self::FIELDS] = [
        "received_packets",
        "received_bytes",
        "transmitted_packets",
        "transmitted_bytes",
        "receive_missed",
        "receive_malformed",
        "transmit_dropped",
        "unsendable",
        "wakeups",
        "link_down",
        "checksums_finished",
        "flattened_bytes",
        "copied_bytes",
        "packets_cut",
        "segments_cut",
        "segment_bytes",
        "segments_no_room",
        "segments_no_frame",
    ];

    /// As plain numbers, for a counters page.
    #[must_use]
    pub const fn to_array(&self) -> [u64; Self::FIELDS] {
        [
            self.received.packets,
            self.received.bytes,
            self.transmitted.packets,
            self.transmitted.bytes,
            self.receive_missed,
            self.receive_malformed,
            self.transmit_dropped,
            self.unsendable,
            self.wakeups,
            self.link_down,
            self.checksums_finished,
            self.flattened_bytes,
            self.copied_bytes,
            self.packets_cut,
            self.segments_cut,
            self.segment_bytes,
            self.segments_no_room,
            self.segments_no_frame,
        ]
    }

    /// From plain numbers, in the same order.
    #[must_use]
    pub const fn from_array(numbers: [u64; Self::FIELDS]) -> Self {
        let [a, b, c, d, receive_missed, receive_malformed, transmit_dropped, rest @ ..] = numbers;
        let [unsendable, wakeups, link_down, checksums_finished, flattened_bytes, copied_bytes, rest @ ..] =
            rest;
        let [packets_cut, segments_cut, segment_bytes, segments_no_room, segments_no_frame] = rest;
        Self {
            received: Tally { packets: a, bytes: b },
            transmitted: Tally { packets: c, bytes: d },
            receive_missed,
            receive_malformed,
            transmit_dropped,
            unsendable,
            wakeups,
            link_down,
            checksums_finished,
            flattened_bytes,
            copied_bytes,
            packets_cut,
            segments_cut,
            segment_bytes,
            segments_no_room,
            segments_no_frame,
        }
    }
}

impl<'p, Q: QueuePair<'p> + ?Sized> QueuePair<'p> for Box<Q> {
    fn caps(&self) -> &Caps {
        (**self).caps()
    }
    fn cuts(&self, kind: Segmentation) -> bool {
        (**self).cuts(kind)
    }
    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        (**self).receive(burst)
    }
    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        (**self).transmit(burst)
    }
    fn passes(&self) -> bool {
        (**self).passes()
    }
    #[inline]
    fn pass(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        (**self).pass(to, shortest)
    }
    #[inline]
    fn take_over(&mut self, passing: Passing<'_>) -> Option<Tally> {
        (**self).take_over(passing)
    }
    #[inline]
    fn tend(&mut self) {
        (**self).tend();
    }
    #[inline]
    fn fault(&self) -> Option<&Fault> {
        (**self).fault()
    }
    fn counters(&self) -> QueueCounters {
        (**self).counters()
    }
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        (**self).waker()
    }
    fn pending(&self) -> u32 {
        (**self).pending()
    }
    fn exhausted(&self) -> bool {
        (**self).exhausted()
    }
}

impl<'p, Q: Gather<'p> + ?Sized> Gather<'p> for Box<Q> {
    #[inline]
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        (**self).gather(packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_page() {
        let numbers = core::array::from_fn(|i| i as u64 + 1);
        assert_eq!(QueueCounters::from_array(numbers).to_array(), numbers);
    }
}
