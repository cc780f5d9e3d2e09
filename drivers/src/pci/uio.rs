//! UIO: registers by sysfs, interrupts by `/dev/uioN`, and physical addresses, for machines without an IOMMU.
//!
//! The card can then reach all of memory, and a wrong address in a descriptor is memory damage of the whole machine: that
//! is what an IOMMU is for. We tell it of huge pages alone: each is one piece of physical memory, which is not swapped, and
//! moves only when its memory is taken offline or a gigantic page is made of it (mm/hugetlb.c, mm/migrate.c). Then the card
//! goes on with the old place: without an IOMMU nobody pins it.
//!
//! When this process is killed, the kernel takes the right to move data from the card as `/dev/uioN` is closed (`release` in
//! drivers/uio/uio_pci_generic.c). **That is too late by a moment**: `do_exit` (kernel/exit.c) lets go of memory
//! (`exit_mm`) before files (`exit_files`), so in between a card that still receives writes into huge pages that are free
//! again, or somebody else's already. A clean end stops the card first.
//!
//! Invariants of [`Dma`], as kept here: **physical**: the addresses are those that `/proc/self/pagemap` shows, of pages that
//! were seen to be whole huge pages in one piece; with the two gaps above.

use super::Bus;
use super::dma::{Addresses, Dma, Memory};
use super::interrupt::Interrupt;
use super::mapping::Mapping;
use super::registers::Registers;
use crate::error::OpenError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// A function with `uio_pci_generic`.
#[derive(Debug)]
pub(super) struct Uio {
    folder: PathBuf,
    config: File,
    /// Kept open: closing it stops the card.
    door: File,
}

impl Uio {
    /// Opens the door.
    pub(super) fn open(name: &str, folder: &Path) -> Result<Self, OpenError> {
        let failed = |step: &str, source| OpenError::new(name, step, source);
        let door = door(folder).map_err(|source| failed("looking for its /dev/uioN", source))?;
        let door = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(&door)
            .map_err(|source| {
                failed(&format!("opening {}", door.display()), source).hint("it wants to be root")
            })?;
        let config = OpenOptions::new().read(true).write(true).open(folder.join("config"));
        let config = config.map_err(|source| failed("opening its configuration space", source))?;
        tracing::warn!(
            "{name} is driven without an IOMMU: the device can read and write all of memory, and a fault of it or of \
             ringway can damage anything; use vfio: where there is an IOMMU"
        );
        Ok(Self { folder: folder.to_owned(), config, door })
    }
}

/// `/dev/uioN` of a function.
fn door(folder: &Path) -> io::Result<PathBuf> {
    let mut entries = std::fs::read_dir(folder.join("uio"))?.flatten();
    let entry = entries.next().ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/dev").join(entry.file_name()))
}

impl Bus for Uio {
    fn read_config(&self, offset: u16, into: &mut [u8]) -> io::Result<()> {
        self.config.read_exact_at(into, offset.into())
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> io::Result<()> {
        self.config.write_all_at(bytes, offset.into())
    }

    fn bar(&self, index: u8) -> io::Result<Registers> {
        let path = self.folder.join(format!("resource{index}"));
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        Ok(Registers::mapped(Mapping::new(file.as_fd(), 0, bytes)?))
    }

    fn reset(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.folder.join("reset"))?;
        io::Write::write_all(&mut file, b"1")
    }

    fn interrupts(&self, count: u16) -> io::Result<Vec<Interrupt>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let file = OwnedFd::from(self.door.try_clone()?);
        let line = Interrupt::line(file, self.config.try_clone()?);
        // It was forbidden when the function was taken: whoever sleeps now would not be woken.
        line.calm()?;
        Ok(vec![line])
    }

    /// The kernel asks nobody: what is pulled out is gone, and its registers are all ones.
    fn is_wanted_back(&self) -> bool {
        false
    }

    fn wants_huge_pages(&self) -> bool {
        true
    }
}

// SAFETY: *physical*: the pages were seen to be in one piece, and huge pages stay where they are but for what the module says;
// dropping the door takes from the card the right to move data, and while we live memory goes behind it.
unsafe impl Dma for Uio {
    unsafe fn map(&self, memory: Memory) -> io::Result<Addresses> {
        let start = memory.base.as_ptr().expose_provenance();
        if !memory.huge || !start.is_multiple_of(HUGE_PAGE) || !memory.bytes.is_multiple_of(HUGE_PAGE) {
            return Err(io::Error::other("without an IOMMU memory must lie in huge pages"));
        }
        let place = memory.base.as_ptr().cast();
        // Present now, not when it is first touched. Older kernels (before 5.14) refuse, and what is absent is seen below.
        // SAFETY: our caller promises the mapping; the advice changes no content.
        unsafe { libc::madvise(place, memory.bytes, libc::MADV_POPULATE_WRITE) };
        // A child must not share it: after a fork a write would give us another page, and leave the card with the child's.
        // SAFETY: as above.
        unsafe { libc::madvise(place, memory.bytes, libc::MADV_DONTFORK) };
        let pagemap = File::open("/proc/self/pagemap")?;
        let pieces = (start..start + memory.bytes).step_by(HUGE_PAGE);
        pieces
            .map(|piece| physical(&pagemap, piece))
            .collect::<io::Result<Box<[u64]>>>()
            .map(Addresses::Pieces)
    }

    /// The card is told of it no more; there is nothing else to be done.
    fn unmap(&self, _addresses: &Addresses, _bytes: usize) {}
}

/// The physical address of a huge page (Documentation/admin-guide/mm/pagemap.rst).
fn physical(pagemap: &File, address: usize) -> io::Result<u64> {
    let mut bytes = [0; HUGE_PAGE / PAGE * 8];
    pagemap.read_exact_at(&mut bytes, (address / PAGE * 8) as u64)?;
    let entries = bytes.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().unwrap_or_default()));
    one_piece(entries).map_err(io::Error::other)
}

/// Where a huge page is, by the entries of its small ones.
fn one_piece(entries: impl Iterator<Item = u64>) -> Result<u64, &'static str> {
    const PRESENT: u64 = 1 << 63;
    const NUMBER: u64 = (1 << 55) - 1;
    let mut first = None;
    for (index, entry) in (0..).zip(entries) {
        if entry & PRESENT == 0 {
            return Err("a page of it is not there");
        }
        let number = entry & NUMBER;
        if number == 0 {
            return Err("the kernel hides physical addresses from whoever lacks CAP_SYS_ADMIN");
        }
        if number != *first.get_or_insert(number) + index {
            return Err("it is not in one piece");
        }
    }
    match first {
        Some(number) if number.is_multiple_of((HUGE_PAGE / PAGE) as u64) => Ok(number * PAGE as u64),
        _ => Err("it is no huge page"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_huge_pages_are_given_to_a_card() {
        const PRESENT: u64 = 1 << 63;
        let page = |first: u64| (0..512).map(move |index| PRESENT | (first + index));
        assert_eq!(one_piece(page(512 * 9)), Ok(512 * 9 * 4096));
        assert!(one_piece(page(512 * 9 + 1)).is_err(), "not aligned");
        let hole = page(512).map(|entry| if entry == PRESENT | 600 { entry & !PRESENT } else { entry });
        assert_eq!(one_piece(hole), Err("a page of it is not there"));
        let torn = page(512).map(|entry| if entry == PRESENT | 600 { PRESENT | 7 } else { entry });
        assert_eq!(one_piece(torn), Err("it is not in one piece"));
        assert!(one_piece((0..512).map(|_| PRESENT)).expect_err("hidden").contains("CAP_SYS_ADMIN"));
    }
}
