//! Memory for rings: shared with a device or another process, and so read and written by atomics only.
//!
//! Invariants: **map**: `base` is valid for reads and writes of `bytes` bytes until drop, zeroed at first, and aligned to a
//! page; **words**: nobody in this process makes a reference to it except to atomics, for which every bit pattern is a
//! value and any other writer is allowed.

use core::ops::{Deref, Range};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use ringbuf::Pool;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A mapping for the rings of a queue pair, with the file that another process may map too.
#[derive(Debug)]
pub struct RingMemory {
    base: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: *words*: an address range that is only accessed by atomics.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Maps `bytes` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(bytes: usize) -> io::Result<Arc<Self>> {
        Self::of_pages(bytes, 4096, MemfdFlags::empty())
    }

    /// Maps `bytes` bytes in huge pages of 2 MiB: each is one piece of physical memory, and stays where it is.
    ///
    /// # Errors
    /// What the kernel said: `ENOMEM` when there are none.
    pub fn huge(bytes: usize) -> io::Result<Arc<Self>> {
        Self::of_pages(bytes, 2 << 20, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
    }

    fn of_pages(bytes: usize, page: usize, kind: MemfdFlags) -> io::Result<Arc<Self>> {
        let bytes = bytes.max(1).next_multiple_of(page);
        let kind = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind;
        let file = rustix::fs::memfd_create("ringway-rings", kind)?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        // Whoever it is handed to could else cut it off, and the next touch would be our end (SIGBUS).
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, of a file that only we have.
        let base = unsafe {
            libc::mmap(core::ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the null page"))?;
        Ok(Arc::new(Self { base, bytes, file }))
    }

    /// Where it begins.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Where it begins in this process.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// How long it is.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The file behind it.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// `count` words from `offset` on.
    ///
    /// # Panics
    /// If they do not lie inside, aligned: programs choose the layout, peers don't.
    pub(crate) fn words<T: Word>(self: &Arc<Self>, offset: usize, count: usize) -> Words<T> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.bytes), "words outside the ring memory");
        assert!(offset.is_multiple_of(align_of::<T>()), "words that are not aligned");
        // SAFETY: *map*, and the range was just seen to lie inside.
        let first = unsafe { self.base.add(offset) }.cast();
        Words { first, count, _keeper: Arc::clone(self) }
    }

    /// Makes the words in a range zero again. Only while no device has them.
    pub(crate) fn clear(self: &Arc<Self>, range: Range<usize>) {
        for word in self.words::<AtomicU64>(range.start, range.len() / 8).iter() {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: *map*: the whole mapping, and every `Words` of it, which keep it, is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// An atomic that rings are made of.
pub(crate) trait Word: sealed::Sealed {}
impl Word for AtomicU16 {}
impl Word for AtomicU64 {}

mod sealed {
    pub(crate) trait Sealed {}
    impl Sealed for super::AtomicU16 {}
    impl Sealed for super::AtomicU64 {}
}

/// Some words of a [`RingMemory`].
pub(crate) struct Words<T> {
    first: NonNull<T>,
    count: usize,
    _keeper: Arc<RingMemory>,
}

// SAFETY: *words*: an address range that is only accessed by atomics, and whoever keeps it.
unsafe impl<T: Word> Send for Words<T> {}

impl<T> fmt::Debug for Words<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T: Word> Deref for Words<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: *map*: the keeper keeps it, and `words` saw that it lies inside, aligned; *words*: only the sealed
        // atomics are `T`, so a shared reference excludes no other writer.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

/// An arena as a device in memory sees it: for the [fake](super::virtio::fake), which moves bytes as DMA would.
///
/// It stays within the arena, and is used on the pool's own thread, for buffers that the pool has lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<'p> {
    pool: &'p Pool,
    base: u64,
}

impl<'p> Sight<'p> {
    /// Sees the arena's first byte at the address `base`.
    pub(crate) const fn new(pool: &'p Pool, base: u64) -> Self {
        Self { pool, base }
    }

    fn place(self, address: u64, len: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(address.checked_sub(self.base)?).ok()?;
        if offset.checked_add(len)? > self.pool.arena().bytes() {
            return None;
        }
        // SAFETY: the arena's *map*, and the offset lies inside.
        Some(unsafe { self.pool.arena().base().add(offset) })
    }

    /// Appends what lies at an address to `into`; `false` outside the arena.
    pub(crate) fn read(self, address: u64, len: usize, into: &mut Vec<u8>) -> bool {
        let Some(from) = self.place(address, len) else { return false };
        let start = into.len();
        into.resize(start + len, 0);
        // SAFETY: both ranges are `len` bytes long; the buffer is lent to the device, so that no frame of this thread has a
        // reference to it, and the vector's memory is another's.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), into[start..].as_mut_ptr(), len) };
        true
    }

    /// Writes to an address; `false` outside the arena.
    pub(crate) fn write(self, address: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.place(address, bytes.len()) else { return false };
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_at_first_and_shared() {
        let memory = RingMemory::new(100).expect("a page");
        assert_eq!(memory.bytes(), 4096);
        let (wide, narrow) = (memory.words::<AtomicU64>(8, 2), memory.words::<AtomicU16>(8, 8));
        assert_eq!(wide[0].load(Ordering::Relaxed), 0);
        narrow[1].store(7, Ordering::Relaxed);
        assert_eq!(u64::from_le(wide[0].load(Ordering::Relaxed).to_le()) & 0xffff_0000, 7 << 16);
        memory.clear(0..16);
        assert_eq!(wide[0].load(Ordering::Relaxed), 0);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn words_outside_are_refused() {
        let _ = RingMemory::new(4096).expect("a page").words::<AtomicU64>(4090, 1);
    }
}
