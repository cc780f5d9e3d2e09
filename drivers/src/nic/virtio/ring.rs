//! What split and packed rings have in common, for the queue pair that is written over either.

use super::memory::RingMemory;
use crate::error::Fault;
use core::sync::atomic::AtomicU64;
use std::fmt;
use std::sync::Arc;

/// A buffer to be posted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// Its descriptor.
    pub(crate) id: u16,
    /// Where the device finds it.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) len: u32,
    /// What the device does with it.
    pub(crate) access: Access,
}

impl Buffer {
    /// None at all.
    pub(crate) const NONE: Self = Self { id: 0, address: 0, len: 0, access: Access::Reads };
}

/// Whether the device reads or writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads: a packet to be sent.
    Reads,
    /// It writes: an empty buffer.
    Writes,
}

/// `VIRTQ_DESC_F_INDIRECT` (§2.7.5, §2.8.7): the buffer is a table of descriptors.
pub(super) const INDIRECT: u16 = 4;

/// Where the three parts of a ring begin in its memory, as a transport tells the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The descriptors.
    pub descriptors: usize,
    /// What the driver writes: the available ring, or the driver's event suppression.
    pub driver: usize,
    /// What the device writes: the used ring, or the device's event suppression.
    pub device: usize,
    /// Bytes of all three, from `descriptors` on.
    pub bytes: usize,
}

/// What the device says of a packet that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its descriptor, and in a packed ring that it is done: [`Ring::key`] and the id are the one of a packet that is.
    pub(crate) key: u32,
    /// Bytes that were written.
    pub(crate) len: u32,
}

/// How far a device has come that answers in order, and may answer for many packets at once (`VIRTIO_F_IN_ORDER`, §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// So many packets are done, from the oldest on.
    Packets(u16),
    /// All are, through the one whose first descriptor this is.
    Through(u32),
}

/// A ring of descriptors: the words that both sides write, and where we are in them. What was posted is in the
/// [shadow](super::shadow).
pub(crate) trait Ring: fmt::Debug + Sized {
    /// The name in reports.
    const NAME: &'static str;
    /// What a descriptor's second word gains from one id to the next; 0 where that word stays as it was when only the
    /// address is another ([`preset`](Self::preset)).
    const STEP: u64;
    /// Where the device says that a packet is done.
    type Answer;

    /// Where a ring of `size` descriptors lies that begins at `start`.
    fn parts(start: usize, size: u16) -> Parts;

    /// An empty ring. `size` is a power of two of at most 2¹⁵, and the memory is zero.
    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self;

    /// Writes what stays as it is in empty buffers of `len` bytes each.
    fn preset(&mut self, len: u32);

    /// The two words of `count` descriptors from `first` on, the next to be posted, in the order of the ids; and what the
    /// first's second word says beside its length, as a number.
    fn table(&self, first: u16, count: u16, access: Access) -> (&[[AtomicU64; 2]], u64);

    /// Descriptors from `first` on have been written to the [table](Self::table).
    fn posted(&mut self, first: u16, count: u16);

    /// Posts the buffers of one packet, anywhere; those that the device writes come last (§2.7.4.2).
    fn post_chain(&mut self, buffers: &[Buffer]);

    /// The second word of a buffer in a table of its own, as a number: `last` is the last of its table.
    fn listed(len: u32, index: u16, last: bool) -> u64;

    /// Posts a packet whose buffers are in a table of so many bytes (§2.7.5.3, §2.8.7).
    fn post_table(&mut self, id: u16, address: u64, bytes: u32);

    /// Lets the device see what was posted.
    fn publish(&mut self);

    /// Whether nothing has come back.
    fn is_idle(&self) -> bool;

    /// Looks how far the device has come: the answers that may be there, from the next on, at most as many as are asked for
    /// and lie side by side. `lent` descriptors are out.
    ///
    /// # Errors
    /// What the device said that cannot be true.
    fn answers(&mut self, most: u16, lent: u16) -> Result<&[Self::Answer], Fault>;

    /// One of them, in one look.
    fn read(answer: &Self::Answer) -> Done;

    /// The key of an answer to id 0 at the place where the next is.
    fn key(&self) -> u32;

    /// Goes on behind so many packets, and descriptors that they had.
    fn advance(&mut self, packets: u16, descriptors: u16);

    /// The next answer, if it is there: the id and the length.
    ///
    /// # Errors
    /// As [`answers`](Self::answers).
    fn next(&mut self, lent: u16) -> Result<Option<(u32, u32)>, Fault>;

    /// What is done since the last look, by a device that answers in order. The descriptors alone say so where it answers for
    /// many at once, not each answer.
    ///
    /// # Errors
    /// As [`answers`](Self::answers).
    fn batch(&mut self, lent: u16) -> Result<Option<Batch>, Fault>;

    /// Whether the device has come so far that an answer may be for so many packets.
    fn covers(&self, packets: u16) -> bool;

    /// Begins anew. The memory is zero again.
    fn restart(&mut self);

    /// Whether the device sleeps and wants to be told; after a fence behind [`publish`](Self::publish).
    fn wants_bell(&self) -> bool;

    /// Asks the device for interrupts, or not to send any.
    fn set_interrupts(&self, on: bool);
}
