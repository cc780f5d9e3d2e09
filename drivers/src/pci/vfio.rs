//! VFIO: the kernel's door with an IOMMU, which holds the card to what was mapped for it (Documentation/driver-api/vfio.rst).
//!
//! ```text
//!   /dev/vfio/vfio  container: the IOMMU's map        memory ── MAP_DMA ──► addresses for the device
//!   /dev/vfio/N     group: what the IOMMU cannot tell apart
//!   device          regions (configuration space, BARs), interrupts as eventfds, reset
//! ```
//!
//! A container for each function: the arena of a worker is mapped once for each of its ports. The newer door, iommufd, is
//! not used: Debian's kernels lack it, and everything here exists in both.
//!
//! Invariants: **whole**: structs passed to the kernel say their own size and outlive the call; of [`Dma`]: the IOMMU leads
//! the device to what was mapped and nowhere else, and the kernel pins these pages until they are unmapped or the container
//! is closed, which stops the device first.

use super::Bus;
use super::dma::{Addresses, Dma, Memory};
use super::interrupt::Interrupt;
use super::mapping::Mapping;
use super::obstacle::group;
use super::registers::Registers;
use crate::error::OpenError;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

/// `include/uapi/linux/vfio.h`: `_IO(';', 100 + n)`.
mod request {
    const fn number(n: libc::c_ulong) -> libc::c_ulong {
        (0x3b << 8) | (100 + n)
    }
    pub(super) const CHECK_EXTENSION: libc::c_ulong = number(1);
    pub(super) const SET_IOMMU: libc::c_ulong = number(2);
    pub(super) const GROUP_STATUS: libc::c_ulong = number(3);
    pub(super) const SET_CONTAINER: libc::c_ulong = number(4);
    pub(super) const DEVICE: libc::c_ulong = number(6);
    pub(super) const REGION: libc::c_ulong = number(8);
    pub(super) const IRQ: libc::c_ulong = number(9);
    pub(super) const SET_IRQS: libc::c_ulong = number(10);
    pub(super) const RESET: libc::c_ulong = number(11);
    pub(super) const MAP: libc::c_ulong = number(13);
    pub(super) const UNMAP: libc::c_ulong = number(14);
}

/// `VFIO_TYPE1v2_IOMMU`.
const TYPE1V2: libc::c_ulong = 3;
/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG: u32 = 7;
/// `VFIO_PCI_MSIX_IRQ_INDEX`, `VFIO_PCI_MSI_IRQ_INDEX` and `VFIO_PCI_REQ_IRQ_INDEX`.
const MSIX: u32 = 2;
const MSI: u32 = 1;
const WANTED_BACK: u32 = 4;
/// `VFIO_GROUP_FLAGS_VIABLE`.
const VIABLE: u32 = 1;
/// `VFIO_DMA_MAP_FLAG_READ` and `.._WRITE`.
const READ: u32 = 1;
const WRITE: u32 = 2;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const EVENTFDS: u32 = 4 | 32;

/// Addresses for the device begin behind 4 GiB: below lie windows that an IOMMU keeps for interrupts (0xfee00000).
const FIRST: u64 = 1 << 32;

#[repr(C)]
#[derive(Default)]
struct GroupStatus {
    size: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct RegionInfo {
    size: u32,
    flags: u32,
    index: u32,
    capabilities: u32,
    bytes: u64,
    offset: u64,
}

#[repr(C)]
#[derive(Default)]
struct IrqInfo {
    size: u32,
    flags: u32,
    index: u32,
    count: u32,
}

/// `struct vfio_irq_set` with as many descriptors as we ever hand over.
#[repr(C)]
struct IrqSet {
    size: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    events: [i32; VECTORS],
}

const VECTORS: usize = 32;

#[repr(C)]
#[derive(Default)]
struct Map {
    size: u32,
    flags: u32,
    memory: u64,
    address: u64,
    bytes: u64,
}

#[repr(C)]
#[derive(Default)]
struct Unmap {
    size: u32,
    flags: u32,
    address: u64,
    bytes: u64,
}

const _: () = assert!(size_of::<RegionInfo>() == 32 && size_of::<Map>() == 32 && size_of::<Unmap>() == 24);

/// The size of a struct, as the kernel wants it in its first word.
#[expect(clippy::cast_possible_truncation, reason = "structs of a few words")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// A function with `vfio-pci`.
#[derive(Debug)]
pub(super) struct Vfio {
    device: File,
    /// Readable when the kernel wants the function back.
    wanted_back: Option<OwnedFd>,
    /// Where configuration space is in the device's file.
    config: u64,
    /// The next address for the device that is free.
    next: Mutex<u64>,
    /// Kept: the group and the container end with their last descriptor.
    _group: File,
    container: File,
}

impl Vfio {
    /// Opens the door.
    pub(super) fn open(name: &str, folder: &Path) -> Result<Self, OpenError> {
        let failed = |step: &str, source| OpenError::new(name, step, source);
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        let container = open("/dev/vfio/vfio").map_err(|source| failed("opening /dev/vfio/vfio", source))?;
        // SAFETY: a number as the argument.
        let known = unsafe { call(&container, request::CHECK_EXTENSION, TYPE1V2 as *mut libc::c_void) };
        if !known.is_ok_and(|answer| answer == 1) {
            return Err(OpenError::refused(name, "asking VFIO for an IOMMU", "it has no driver for one")
                .hint("modprobe vfio_iommu_type1"));
        }
        let number = group(folder).unwrap_or_default();
        let path = format!("/dev/vfio/{number}");
        let group = open(&path).map_err(|source| {
            let busy = source.raw_os_error() == Some(libc::EBUSY);
            let error = failed(&format!("opening {path}"), source);
            if busy { error.hint("another process has the device: end it, or name another") } else { error }
        })?;
        let mut status = GroupStatus { size: size::<GroupStatus>(), flags: 0 };
        // SAFETY: *whole*.
        unsafe { call(&group, request::GROUP_STATUS, (&raw mut status).cast()) }
            .map_err(|source| failed("asking for the state of its group", source))?;
        if status.flags & VIABLE == 0 {
            let why = "its IOMMU group has devices with drivers of the kernel's";
            return Err(OpenError::refused(name, "taking its IOMMU group", why).hint(format!(
                "ls /sys/kernel/iommu_groups/{number}/devices; unbind the others from their drivers"
            )));
        }
        let mut descriptor = container.as_raw_fd();
        // SAFETY: *whole*: an integer.
        unsafe { call(&group, request::SET_CONTAINER, (&raw mut descriptor).cast()) }
            .map_err(|source| failed("joining group and container", source))?;
        // SAFETY: a number as the argument.
        unsafe { call(&container, request::SET_IOMMU, TYPE1V2 as *mut libc::c_void) }
            .map_err(|source| failed("switching on the IOMMU", source))?;
        let text = CString::new(name).map_err(|error| failed("naming the device", error.into()))?;
        // SAFETY: *whole*: a string with its zero.
        let device = unsafe { call(&group, request::DEVICE, text.as_ptr().cast_mut().cast()) }
            .map_err(|source| failed("opening the device", source))?;
        // SAFETY: a descriptor that the kernel has just made for us.
        let device = File::from(unsafe { OwnedFd::from_raw_fd(device) });
        let config =
            region(&device, CONFIG).map_err(|source| failed("asking for its configuration space", source))?;
        let mut vfio = Self {
            device,
            wanted_back: None,
            config: config.offset,
            next: Mutex::new(FIRST),
            _group: group,
            container,
        };
        // Kernels before 4.2 ask nobody.
        vfio.wanted_back = event().ok().filter(|event| vfio.route(WANTED_BACK, &[event]).is_ok());
        Ok(vfio)
    }

    /// Has interrupts ring these eventfds.
    fn route(&self, index: u32, events: &[&OwnedFd]) -> io::Result<()> {
        let mut set = IrqSet {
            size: size::<IrqSet>(),
            flags: EVENTFDS,
            index,
            start: 0,
            count: u32::try_from(events.len().min(VECTORS)).unwrap_or(0),
            events: [-1; VECTORS],
        };
        for (place, event) in set.events.iter_mut().zip(events) {
            *place = event.as_raw_fd();
        }
        // SAFETY: *whole*: its size covers all descriptors; so many as it counts are looked at.
        unsafe { call(&self.device, request::SET_IRQS, (&raw mut set).cast()) }.map(drop)
    }

    fn vectors(&self, index: u32) -> io::Result<u32> {
        let mut info = IrqInfo { size: size::<IrqInfo>(), index, ..IrqInfo::default() };
        // SAFETY: *whole*.
        unsafe { call(&self.device, request::IRQ, (&raw mut info).cast()) }?;
        Ok(info.count)
    }
}

fn event() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Where a region is in the device's file.
fn region(device: &File, index: u32) -> io::Result<RegionInfo> {
    let mut info = RegionInfo { size: size::<RegionInfo>(), index, ..RegionInfo::default() };
    // SAFETY: *whole*.
    unsafe { call(device, request::REGION, (&raw mut info).cast()) }?;
    Ok(info)
}

/// One request.
///
/// # Safety
/// The argument is what this request takes: a whole struct, or a number.
unsafe fn call(file: &File, request: libc::c_ulong, argument: *mut libc::c_void) -> io::Result<i32> {
    // SAFETY: our caller's promise; the descriptor is open.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

impl Bus for Vfio {
    fn read_config(&self, offset: u16, into: &mut [u8]) -> io::Result<()> {
        self.device.read_exact_at(into, self.config + u64::from(offset))
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> io::Result<()> {
        self.device.write_all_at(bytes, self.config + u64::from(offset))
    }

    fn bar(&self, index: u8) -> io::Result<Registers> {
        if index > 5 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let info = region(&self.device, index.into())?;
        let bytes = usize::try_from(info.bytes).map_err(io::Error::other)?;
        if bytes == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Registers::mapped(Mapping::new(self.device.as_fd(), info.offset, bytes)?))
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: this request takes nothing.
        unsafe { call(&self.device, request::RESET, core::ptr::null_mut()) }.map(drop)
    }

    fn interrupts(&self, count: u16) -> io::Result<Vec<Interrupt>> {
        let vectors = self.vectors(MSIX)?.min(count.into()) as usize;
        if vectors > 0 {
            let events = (0..vectors.min(VECTORS)).map(|_| event()).collect::<io::Result<Vec<_>>>()?;
            self.route(MSIX, &events.iter().collect::<Vec<_>>())?;
            return Ok(events.into_iter().map(Interrupt::event).collect());
        }
        if count == 0 || self.vectors(MSI)? == 0 {
            return Ok(Vec::new());
        }
        // One, whatever is asked for: the functions here tell their causes apart by MSI-X alone.
        let event = event()?;
        self.route(MSI, &[&event])?;
        Ok(vec![Interrupt::only_event(event)])
    }

    fn is_wanted_back(&self) -> bool {
        // Once readable it stays so for us: nothing else is to be done with the function.
        let Some(event) = &self.wanted_back else { return false };
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn wants_huge_pages(&self) -> bool {
        false
    }

    fn withdraw(&self) -> io::Result<()> {
        let next = *self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut unmap =
            Unmap { size: size::<Unmap>(), flags: 0, address: FIRST, bytes: next.saturating_sub(FIRST) };
        // SAFETY: *whole*.
        unsafe { call(&self.container, request::UNMAP, (&raw mut unmap).cast()) }.map(drop)
    }
}

// SAFETY: the kernel's promise, which its IOMMU keeps: the device reaches what was mapped and no more; the pages are pinned; when
// the last descriptor of the device is closed, it is reset and the map goes.
unsafe impl Dma for Vfio {
    unsafe fn map(&self, memory: Memory) -> io::Result<Addresses> {
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let address = *next;
        let start = memory.base.as_ptr().expose_provenance() as u64;
        for (part, flags) in
            [(0..memory.read_only_from, READ | WRITE), (memory.read_only_from..memory.bytes, READ)]
        {
            if part.is_empty() {
                continue;
            }
            let mut map = Map {
                size: size::<Map>(),
                flags,
                memory: start + part.start as u64,
                address: address + part.start as u64,
                bytes: part.len() as u64,
            };
            // SAFETY: *whole*; our caller promises the memory.
            if let Err(error) = unsafe { call(&self.container, request::MAP, (&raw mut map).cast()) } {
                self.unmap(&Addresses::Linear(address), part.start);
                return Err(error);
            }
        }
        // A gap behind each: what runs over finds nothing.
        *next = (address + memory.bytes as u64).next_multiple_of(2 << 20) + (2 << 20);
        Ok(Addresses::Linear(address))
    }

    fn unmap(&self, addresses: &Addresses, bytes: usize) {
        let Addresses::Linear(address) = addresses else { return };
        if bytes == 0 {
            return;
        }
        let mut unmap = Unmap { size: size::<Unmap>(), flags: 0, address: *address, bytes: bytes as u64 };
        // All maps within the range; refused only for what is not mapped.
        // SAFETY: *whole*.
        let _ = unsafe { call(&self.container, request::UNMAP, (&raw mut unmap).cast()) };
    }
}
