//! What split and packed rings have in common, for the queue pair that is written over either.

use super::memory::RingMemory;
use crate::error::Fault;
use std::fmt;
use std::sync::Arc;

/// A buffer to be posted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffer {
    /// Where it begins in the arena.
    pub(crate) offset: u64,
    /// Where the device finds that.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) len: u32,
}

/// A buffer that the device has filled, as it says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filled {
    /// Where it begins in the arena: our own word.
    pub(crate) offset: u64,
    /// How many bytes were written: the device's.
    pub(crate) len: u32,
}

/// Whether the device reads or writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads: a packet to be sent.
    Reads,
    /// It writes: an empty buffer.
    Writes,
}

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

/// A ring of descriptors. Nothing that the device writes is believed further than this.
pub(crate) trait Ring: fmt::Debug + Sized {
    /// The name in reports.
    const NAME: &'static str;

    /// Where a ring of `size` descriptors lies that begins at `start`.
    fn parts(start: usize, size: u16) -> Parts;

    /// An empty ring. `size` is a power of two of at most 2¹⁵, and the memory is zero.
    fn new(memory: &Arc<RingMemory>, parts: Parts, size: u16) -> Self;

    /// Descriptors that can be posted.
    fn vacant(&self) -> u16;

    /// Descriptors that the device has.
    fn lent(&self) -> usize;

    /// Posts buffers, each a packet by itself: no more than are vacant.
    fn post(&mut self, buffers: &[Buffer], access: Access);

    /// Posts the buffers of one packet for sending: no more than are vacant.
    fn post_chain(&mut self, buffers: &[Buffer]);

    /// Lets the device see what was posted.
    fn publish(&mut self);

    /// Whether nothing has come back.
    fn is_idle(&self) -> bool;

    /// Takes filled buffers that have come back; returns how many.
    ///
    /// # Errors
    /// What the device said that cannot be true.
    fn take(&mut self, into: &mut [Filled]) -> Result<usize, Fault>;

    /// Takes packets that were sent, and hands the place of each of their buffers to `done`.
    ///
    /// # Errors
    /// What the device said that cannot be true.
    fn reap(&mut self, done: impl FnMut(u64) -> Result<(), Fault>) -> Result<(), Fault>;

    /// Begins anew, with a device that is gone: every buffer comes home. Returns how many packets they were. The memory is
    /// zero again, or about to be.
    fn restart(&mut self, home: impl FnMut(u64)) -> u64;

    /// Whether the device sleeps and wants to be told; after a fence behind [`publish`](Self::publish).
    fn wants_bell(&self) -> bool;

    /// Asks the device for interrupts, or not to send any.
    fn set_interrupts(&self, on: bool);
}
