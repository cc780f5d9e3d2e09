//! Mappings of device memory, and what becomes of them when the device is pulled out.
//!
//! Invariants: **map**: `base` is valid for reads and writes of `bytes` bytes until drop; **guard**: a mapping is in the table
//! from just after it was made until just before it goes.
//!
//! A device that is gone takes its mappings along: the next access raises SIGBUS, which would end the process without
//! books and without giving the other devices back. On the bus itself such a read gives all ones, and a write is lost. So
//! the signal is caught, and ordinary memory full of ones takes the place of the mapping: drivers see what they would
//! see of any absent device, and stop with a fault. A signal for any other address goes on to whoever had it before.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

/// A mapping of a piece of a device's file.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    guard: Option<&'static Region>,
}

// SAFETY: an address range; whoever accesses it argues for itself.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes of `file` from `offset` on, for reading and writing.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<Self> {
        watch()?;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe {
            libc::mmap(core::ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the null page"))?;
        let mut mapping = Self { base, bytes, guard: None };
        let free = REGIONS.iter().find(|region| region.claim(base.addr().get(), bytes));
        mapping.guard = Some(free.ok_or_else(|| io::Error::other("more mappings of devices than are kept"))?);
        Ok(mapping)
    }

    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(region) = self.guard {
            region.base.store(0, Ordering::Release);
        }
        // SAFETY: *map*: this is the whole mapping, and whoever accesses it keeps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Where a mapping lies. A base of 0 is nobody's; of 1, being filled in.
#[derive(Debug)]
struct Region {
    base: AtomicUsize,
    bytes: AtomicUsize,
}

/// As many as there are: a port has one or two.
static REGIONS: [Region; 256] =
    [const { Region { base: AtomicUsize::new(0), bytes: AtomicUsize::new(0) } }; 256];

impl Region {
    fn claim(&self, base: usize, bytes: usize) -> bool {
        if self.base.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.base.store(base, Ordering::Release);
        true
    }

    fn has(&self, address: usize) -> Option<(usize, usize)> {
        let base = self.base.load(Ordering::Acquire);
        let bytes = self.bytes.load(Ordering::Relaxed);
        (base > 1 && address.wrapping_sub(base) < bytes).then_some((base, bytes))
    }
}

/// Who had the signal before us.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// Catches the signal from the first mapping on.
fn watch() -> io::Result<()> {
    let installed = BEFORE.get_or_init(|| {
        // SAFETY: a struct of integers and an empty set: all zeros is a value of it.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: both structs are whole; the handler does only what a handler may.
        let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) };
        (done == 0).then_some(before)
    });
    match installed {
        Some(_) => Ok(()),
        None => Err(io::Error::other("SIGBUS cannot be caught")),
    }
}

/// Async-signal-safe: atomics, one system call, and stores to memory that it has just made.
extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a whole struct.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the field is the address.
    let address = unsafe { info.si_addr() }.addr();
    if let Some((base, bytes)) = REGIONS.iter().find_map(|region| region.has(address)) {
        let place = core::ptr::with_exposed_provenance_mut::<libc::c_void>(base);
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: *guard*: the whole of a mapping of ours is replaced, whose device is gone.
        let mapped = unsafe { libc::mmap(place, bytes, access, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            // SAFETY: mapped just now, so many bytes.
            unsafe { core::ptr::write_bytes(mapped.cast::<u8>(), 0xff, bytes) };
            return;
        }
    }
    // Not ours: the instruction is tried again, and the signal finds whoever was here before.
    if let Some(Some(before)) = BEFORE.get() {
        // SAFETY: what was in force before we came.
        unsafe { libc::sigaction(libc::SIGBUS, before, core::ptr::null_mut()) };
    } else {
        // SAFETY: the default ends the process.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::registers::Registers;
    use super::*;
    use std::os::fd::AsFd;

    /// A file that is cut off behind our back is to the processor what a device that was pulled out is.
    #[test]
    fn registers_of_a_device_that_is_gone_are_all_ones() {
        let file = rustix::fs::memfd_create("registers", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, 8192).expect("grows");
        let registers = Registers::mapped(Mapping::new(file.as_fd(), 0, 8192).expect("maps"));
        registers.write(4096, 5u32);
        assert_eq!(registers.read::<u32>(4096), 5);
        rustix::fs::ftruncate(&file, 0).expect("shrinks");
        assert_eq!((registers.read::<u32>(4096), registers.read::<u8>(0)), (u32::MAX, 0xff));
        registers.write(4096, 5u32);
        assert_eq!(registers.read::<u32>(8), u32::MAX);
    }
}
