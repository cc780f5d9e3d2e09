//! The seam between memory and a device: what a device may reach, and at which address it finds it.
//!
//! Two parties keep the promise that makes a NIC safe to drive, and the trait [`Dma`] states their duties apart. Everything
//! above this file is safe code: it maps memory through [`Function`](super::Function), which holds on to it.
//!
//! Invariants: **mapped**: memory that a device can reach outlives the mapping; **quiet**: a mapping goes only when its
//! device no longer moves data, or cannot; what is on loan to the device is recalled only behind that.

use super::Function;
use crate::error::OpenError;
use crate::nic::RingMemory;
use core::marker::PhantomData;
use core::ptr::NonNull;
use ringbuf::{Backing, Pool};
use std::io;
use std::sync::Arc;

/// Where a device finds a piece of our memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// In one piece, from here on.
    Linear(u64),
    /// In pieces of 2 MiB, each at an address of its own: physical memory.
    Pieces(Box<[u64]>),
}

impl Addresses {
    /// The address of an offset.
    #[inline]
    pub(crate) fn of(&self, offset: u64) -> u64 {
        const SHIFT: u32 = 21;
        match self {
            Self::Linear(base) => base + offset,
            // An offset of the arena has its piece; no buffer crosses into another, since slots are powers of two.
            Self::Pieces(pieces) => usize::try_from(offset >> SHIFT)
                .ok()
                .and_then(|piece| pieces.get(piece))
                .map_or(0, |piece| piece + (offset & ((1 << SHIFT) - 1))),
        }
    }
}

/// A piece of memory that is to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Where it begins: at the start of a page.
    pub base: NonNull<u8>,
    /// How many bytes: whole pages.
    pub bytes: usize,
    /// From here on, in bytes from the base and in whole pages, the device may only read: files' own pages, which the kernel
    /// pins for writing on few file systems.
    pub read_only_from: usize,
    /// Whether it lies in huge pages of 2 MiB, which neither move nor are swapped.
    pub huge: bool,
}

/// How a bus lets a device reach memory.
///
/// # Safety
/// Whoever implements it promises: the addresses that [`map`](Self::map) answers lead the device to exactly the bytes of that
/// memory, to no others, until [`unmap`](Self::unmap) or until the bus is dropped; and once the bus is dropped, or told
/// to stop its device, the device moves no data. Memory that the kernel might move is refused.
pub unsafe trait Dma {
    /// Lets the device reach memory.
    ///
    /// # Errors
    /// What the kernel says, or why this memory cannot be reached.
    ///
    /// # Safety
    /// Whoever calls it promises: the memory is mapped in this process, in whole pages, and stays so until it was
    /// unmapped here, or the device can no longer move data; and the device is told only of places in it that
    /// nobody in this process reads or writes by reference meanwhile.
    unsafe fn map(&self, memory: Memory) -> io::Result<Addresses>;

    /// Takes it from the device's reach. What was not mapped is not looked at.
    fn unmap(&self, addresses: &Addresses, bytes: usize);
}

/// Memory of a driver's own that its device reaches: descriptor rings. Both stay until this goes.
#[derive(Debug)]
pub struct DmaRings {
    memory: Arc<RingMemory>,
    addresses: Addresses,
    function: Arc<Function>,
}

impl DmaRings {
    pub(super) fn new(function: &Arc<Function>, bytes: usize) -> io::Result<Self> {
        let huge = function.bus().wants_huge_pages();
        let memory = if huge { RingMemory::huge(bytes)? } else { RingMemory::new(bytes)? };
        let base = memory.base();
        let bytes = memory.bytes();
        let place = Memory { base, bytes, read_only_from: bytes, huge };
        // SAFETY: *mapped*: the memory is kept here until it was unmapped; it is read and written by atomics alone.
        let addresses = unsafe { function.bus().map(place)? };
        function.bus().show_rings(&memory, &addresses);
        Ok(Self { memory, addresses, function: Arc::clone(function) })
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    /// Where the device finds each offset of it.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where the device finds an offset of it.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.addresses.of(offset as u64)
    }
}

impl Drop for DmaRings {
    fn drop(&mut self) {
        // *quiet*: whoever set up the rings has stopped the device, or it is gone.
        self.function.bus().unmap(&self.addresses, self.memory.bytes());
    }
}

/// A worker's arena within a device's reach. The pool outlives it.
#[derive(Debug)]
pub struct DmaArena<'p> {
    addresses: Addresses,
    bytes: usize,
    function: Arc<Function>,
    _arena: PhantomData<&'p Pool>,
}

impl<'p> DmaArena<'p> {
    pub(super) fn new(function: &Arc<Function>, pool: &'p Pool) -> Result<Self, OpenError> {
        let arena = pool.arena();
        let huge = arena.backing() == Backing::HugePages;
        let refused = |source| OpenError::new(function.name(), "giving the device its memory", source);
        if function.bus().wants_huge_pages() && !huge {
            let pages = arena.bytes().div_ceil(2 << 20) + 1;
            let why = "without an IOMMU a device needs huge pages, and there are too few free ones";
            return Err(refused(io::Error::other(why)).hint(format!(
                "reserve them: sysctl vm.nr_hugepages={pages} or more (grep HugePages /proc/meminfo shows how many are free)"
            )));
        }
        let bytes = arena.bytes().next_multiple_of(4096);
        // Whole pages: content is counted in them, and files' pages are pages.
        let files = arena.files();
        let read_only_from = if files.is_empty() { bytes } else { arena.content_start() + files.start };
        let place = Memory { base: arena.base(), bytes, read_only_from, huge };
        // SAFETY: *mapped*: the pool, and so its arena, is borrowed until this is dropped, which unmaps; the device is told
        // only of slots and pages that the pool has lent to it.
        let mapped = unsafe { function.bus().map(place) };
        let addresses = mapped.map_err(|source| {
            let short = source.raw_os_error() == Some(libc::ENOMEM);
            let error = refused(source);
            if short { error.hint("its pages must be locked: ulimit -l unlimited") } else { error }
        })?;
        Ok(Self { addresses, bytes, function: Arc::clone(function), _arena: PhantomData })
    }

    /// Where the device finds each offset of the arena.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

impl Drop for DmaArena<'_> {
    fn drop(&mut self) {
        self.function.bus().unmap(&self.addresses, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_their_offset() {
        let pieces = Addresses::Pieces(Box::new([0x4000_0000, 0x1_0020_0000]));
        assert_eq!(pieces.of(5), 0x4000_0005);
        assert_eq!(pieces.of((2 << 20) + 4096), 0x1_0020_1000);
        assert_eq!(Addresses::Linear(1 << 32).of(7), (1 << 32) + 7);
    }
}
