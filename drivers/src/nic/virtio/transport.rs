//! The seam between the rings and what carries them: a bus, or a socket and another process.

use super::memory::RingMemory;
use super::packed::Packed;
use super::ring::{Parts, Ring};
use super::split::Split;
use super::table;
use crate::error::Fault;
pub use crate::pci::Addresses;
use crate::queue::Copying;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Which ring of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Empty buffers for the device to fill.
    Receive,
    /// Packets to be sent.
    Transmit,
}

/// What became of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has the rings, and works.
    Up,
    /// It is gone, and touches nothing any more. The queue begins anew, and then says so ([`Transport::settled`]).
    Gone,
    /// Its link is up now, or down: what is to be sent waits.
    Link {
        /// Up.
        up: bool,
    },
}

/// How the rings of one queue pair reach their device.
pub trait Transport: fmt::Debug {
    /// Tells the device that there is something new in a ring.
    ///
    /// # Errors
    /// A [`Fault`] ends the queue.
    fn ring(&self, direction: Direction) -> Result<(), Fault>;

    /// News of the other side since the last call.
    ///
    /// # Errors
    /// A [`Fault`] ends the queue.
    fn change(&mut self) -> Result<Option<Change>, Fault>;

    /// The queue has begun anew after [`Change::Gone`]: its memory is zero, and nothing is out on loan.
    fn settled(&mut self);

    /// What becomes readable with an interrupt.
    fn waker(&self) -> Option<BorrowedFd<'_>>;

    /// What is readable already: something has come before the device heard that it is to be told of.
    fn awake(&self) -> Option<BorrowedFd<'_>>;

    /// Makes the waker unreadable again.
    fn calm(&mut self);

    /// Stops the device: when it returns, the device touches neither rings nor buffers.
    fn close(&mut self);
}

/// What a queue pair is to be.
#[derive(Clone, Debug)]
pub struct VirtioPlan {
    /// The driver's name on the command line.
    pub driver: &'static str,
    /// The device, as the user named it.
    pub device: String,
    /// Which of its queue pairs.
    pub queue: u32,
    /// Descriptors of each ring: a power of two, at most 32768.
    pub ring: u16,
    /// The [features](super::feature) that both sides have agreed on.
    pub features: u64,
    /// Bytes of the longest packet behind its Ethernet header.
    pub mtu: u32,
    /// Who moves the bytes.
    pub copying: Copying,
}

/// The memory of both rings of a pair, and where they lie in it.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The memory, which the device must reach.
    pub memory: Arc<RingMemory>,
    /// The receive ring.
    pub receive: Parts,
    /// The transmit ring.
    pub transmit: Parts,
    /// Where its tables (`table.rs`) begin.
    pub tables: usize,
    /// Where the device finds the memory.
    pub addresses: Addresses,
}

impl Layout {
    /// Memory for the rings of so many queue pairs, and where each has its own.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn several(pairs: u32, ring: u16, packed: bool) -> std::io::Result<Vec<Self>> {
        let bytes = Self::bytes(ring, packed);
        let memory = RingMemory::new(bytes * pairs as usize)?;
        // The other side of shared memory is told of our own addresses.
        let addresses = Addresses::Linear(memory.address());
        let pair = |pair| Self::of_pair(&memory, bytes * pair, ring, packed, addresses.clone());
        Ok((0..pairs as usize).map(pair).collect())
    }

    /// Bytes of the rings of one pair, and of its tables.
    pub(crate) fn bytes(ring: u16, packed: bool) -> usize {
        2 * Self::half(ring, packed) + (table::BYTES * usize::from(ring)).next_multiple_of(4096)
    }

    /// Bytes of one ring, in whole pages.
    fn half(ring: u16, packed: bool) -> usize {
        Self::parts(packed)(0, ring).bytes.next_multiple_of(4096)
    }

    /// The rings of one pair, from `start` on.
    pub(crate) fn of_pair(
        memory: &Arc<RingMemory>,
        start: usize,
        ring: u16,
        packed: bool,
        addresses: Addresses,
    ) -> Self {
        let (parts, half) = (Self::parts(packed), Self::half(ring, packed));
        let (receive, transmit) = (parts(start, ring), parts(start + half, ring));
        Self { memory: Arc::clone(memory), receive, transmit, tables: start + 2 * half, addresses }
    }

    const fn parts(packed: bool) -> fn(usize, u16) -> Parts {
        if packed { Packed::parts } else { Split::parts }
    }

    /// Makes both rings zero again.
    pub(super) fn clear(&self) {
        self.memory.clear(self.receive.descriptors..self.transmit.descriptors + self.transmit.bytes);
    }
}
