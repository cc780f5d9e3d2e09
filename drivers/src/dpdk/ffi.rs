//! Every call into the shim. What is here is safe to call; nothing else of the driver has unsafe code.
//!
//! Invariants: **alive**: memory that a device may still know (arenas, mbufs, pools) is freed only while no device is open
//! in the process; **owner**: a herd and its queues are used by the thread that made them, except where a device is set up,
//! started and closed, which the port's lock keeps apart; **lent**: only slots and pages that the ledger says are on loan
//! are offered or sent, so their bytes are nobody else's; **room**: the shim is told of arrays no longer than they are.

use super::mbuf::{Place, Received};
use crate::rings::Descriptor;
use core::ffi::{CStr, c_char};
use core::ptr::NonNull;
use dpdk_sys as sys;
use ringbuf::{Arena, ArenaError, ArenaPlan, Backing, Pool};
use std::ffi::CString;
use std::io;
use std::sync::{Mutex, PoisonError};

pub(super) use sys::{CONTINUES, Facts, Offload, SEGMENT_SHIFT, Statistics, UNCHECKED, UNCUT, can, tx};

const _: () = assert!(size_of::<Descriptor>() == size_of::<sys::Descriptor>());
const _: () = assert!(sys::BURST == ringbuf::BURST);

/// What DPDK's function said: a count, or minus `errno`.
fn heed(said: i32) -> io::Result<()> {
    if said < 0 { Err(io::Error::from_raw_os_error(-said)) } else { Ok(()) }
}

/// Starts DPDK's environment with these arguments. Once a process: the caller sees to that.
pub(super) fn init(arguments: &[String], log: sys::Log) -> io::Result<()> {
    let words: Result<Vec<CString>, _> = arguments.iter().map(|word| CString::new(word.as_str())).collect();
    // DPDK keeps pointers to them, and getopt exchanges them: they are never freed.
    let mut words: Vec<*mut c_char> = words?.into_iter().map(CString::into_raw).collect();
    let count = i32::try_from(words.len()).map_err(io::Error::other)?;
    words.push(core::ptr::null_mut());
    let words = words.leak().as_mut_ptr();
    // SAFETY: so many strings, and a null behind them, that stay; the callback can be called at any time from any thread.
    heed(unsafe { sys::rwd_init(count, words, log) })
}

/// Text that the shim hands over.
pub(super) fn text<'a>(start: *const c_char, bytes: usize) -> std::borrow::Cow<'a, str> {
    if start.is_null() {
        return "".into();
    }
    // SAFETY: the shim's word: so many bytes begin there, for as long as the callback runs.
    String::from_utf8_lossy(unsafe { core::slice::from_raw_parts(start.cast(), bytes) })
}

/// `DPDK 22.11.11`.
pub(super) fn version() -> String {
    // SAFETY: asks for a constant.
    let said = unsafe { sys::rwd_version() };
    // SAFETY: a string of the library's own, ended by a zero.
    unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()
}

/// A short string in an array, up to its zero.
pub(super) fn short(array: &[c_char]) -> String {
    array.iter().map_while(|c| (*c != 0).then_some(char::from(c.to_ne_bytes()[0]))).collect()
}

/// What must outlive every device, and how many of those are open.
#[derive(Debug)]
struct Graveyard {
    open: usize,
    memory: Vec<Memory>,
    herds: Vec<HerdHandle>,
}

static GRAVEYARD: Mutex<Graveyard> = Mutex::new(Graveyard { open: 0, memory: Vec::new(), herds: Vec::new() });

fn graveyard<T>(with: impl FnOnce(&mut Graveyard) -> T) -> T {
    let mut graveyard = GRAVEYARD.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = with(&mut graveyard);
    if graveyard.open == 0 {
        for herd in graveyard.herds.drain(..) {
            // SAFETY: *alive*: no device is open, and whoever owned it has let go of it.
            unsafe { sys::rwd_herd_free(herd.0.as_ptr()) };
        }
        for memory in graveyard.memory.drain(..) {
            // SAFETY: likewise.
            unsafe { sys::rwd_memory_free(memory.0.as_ptr().cast()) };
        }
    }
    answer
}

#[derive(Debug)]
struct Memory(NonNull<u8>);
// SAFETY: an address without access of its own.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Keeps an arena's memory; buries it when dropped.
#[derive(Debug)]
struct ArenaMemory(NonNull<u8>);
// SAFETY: as for `Memory`.
unsafe impl Send for ArenaMemory {}
// SAFETY: as above.
unsafe impl Sync for ArenaMemory {}

impl Drop for ArenaMemory {
    fn drop(&mut self) {
        graveyard(|graveyard| graveyard.memory.push(Memory(self.0)));
    }
}

/// An arena in DPDK's own memory.
pub(super) fn arena(plan: &ArenaPlan, backing: Backing) -> Result<Arena, ArenaError> {
    let lend = |bytes: usize| {
        // SAFETY: the environment was started, or else there is nothing that hands out memory and it says so.
        let start = unsafe { sys::rwd_memory(bytes) };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok((start, Box::new(ArenaMemory(start)) as ringbuf::Keeper))
    };
    // SAFETY: `rte_zmalloc` aligned to pages, whose heap hands it to nobody else; *alive* keeps it beyond the keeper, so
    // that a device never writes to memory of another's.
    unsafe { Arena::within(plan, backing, lend) }
}

/// A device that was probed. Closed when dropped.
#[derive(Debug)]
pub(super) struct Device {
    port: u16,
}

impl Device {
    /// Probes a device, as DPDK's device strings name it.
    pub(super) fn open(device: &str) -> io::Result<(Self, Facts)> {
        let device = CString::new(device)?;
        let mut facts = Facts::default();
        graveyard(|graveyard| graveyard.open += 1);
        // SAFETY: a string with its zero, and a struct to fill.
        let said = heed(unsafe { sys::rwd_device_open(device.as_ptr(), &raw mut facts) });
        match said {
            Ok(()) => Ok((Self { port: facts.port }, facts)),
            Err(error) => {
                graveyard(|graveyard| graveyard.open -= 1);
                Err(error)
            }
        }
    }

    pub(super) fn configure(&self, queues: u16, used: u32, rss: u64, mtu: u16) -> io::Result<()> {
        // SAFETY: numbers only; DPDK checks them.
        heed(unsafe { sys::rwd_device_configure(self.port, queues, used, rss, mtu) })
    }

    /// Tells the interface behind it, where there is one.
    pub(super) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        // SAFETY: numbers only.
        heed(unsafe { sys::rwd_device_mtu(self.port, mtu) })
    }

    /// The nearest ring sizes that it can have.
    pub(super) fn rings(&self, mut rx: u16, mut tx: u16) -> io::Result<(u16, u16)> {
        // SAFETY: two numbers to be changed.
        heed(unsafe { sys::rwd_device_rings(self.port, &raw mut rx, &raw mut tx) })?;
        Ok((rx, tx))
    }

    /// Sets a queue pair up; `copies` for a device that wants mbufs of its own kind.
    pub(super) fn queue(
        &self,
        queue: u16,
        rings: (u16, u16),
        herd: &HerdHandle,
        copies: bool,
    ) -> io::Result<()> {
        // SAFETY: *alive*: the herd stays until this device is closed; *owner*: it is set up by the herd's thread.
        heed(unsafe { sys::rwd_device_queue(self.port, queue, rings.0, rings.1, herd.0.as_ptr(), copies) })
    }

    pub(super) fn start(&self, promiscuous: bool) -> io::Result<()> {
        // SAFETY: *owner*: what other threads' herds give and take now lies under their locks.
        heed(unsafe { sys::rwd_device_start(self.port, promiscuous) })
    }

    pub(super) fn up(&self) -> bool {
        // SAFETY: a number; DPDK checks it.
        unsafe { sys::rwd_device_up(self.port) }
    }

    pub(super) fn removed(&self) -> bool {
        // SAFETY: the number of a device that was opened.
        unsafe { sys::rwd_device_removed(self.port) }
    }

    pub(super) fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::default();
        // SAFETY: a struct to fill.
        heed(unsafe { sys::rwd_device_statistics(self.port, &raw mut statistics) }).ok().map(|()| statistics)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: opened once and closed once; the port's lock has parked every queue.
        unsafe { sys::rwd_device_close(self.port) };
        graveyard(|graveyard| graveyard.open -= 1);
    }
}

/// The names of all devices that the environment has.
pub(super) fn devices() -> Vec<String> {
    let nth = |n: u32| {
        let mut name = [0; 64];
        // SAFETY: a number, and an array of the length that the shim asks for.
        unsafe { sys::rwd_device_name(n, &raw mut name) }.then(|| short(&name))
    };
    (0..).map_while(nth).collect()
}

/// The shim's herd. Buried by its owner.
#[derive(Debug)]
pub(super) struct HerdHandle(NonNull<sys::Herd>);
// SAFETY: *owner* is the type's users' to keep: `Herd` is not `Send`, and the graveyard frees only.
unsafe impl Send for HerdHandle {}

impl HerdHandle {
    /// Makes mbufs for each slot of an arena, and for so many pages.
    pub(super) fn new(pool: &Pool, pages: u32) -> Option<Self> {
        let arena = pool.arena();
        let base = arena.base().as_ptr().cast();
        // SAFETY: the arena's own numbers; *alive* keeps its memory as long as a device knows the herd.
        let herd = unsafe { sys::rwd_herd_new(base, arena.bytes(), arena.frames(), arena.shift(), pages) };
        NonNull::new(herd).map(Self)
    }

    /// An ordinary pool of DPDK's beside it.
    pub(super) fn copies(&self, mbufs: u32, room: u16) -> io::Result<()> {
        // SAFETY: *owner*.
        heed(unsafe { sys::rwd_herd_copies(self.0.as_ptr(), mbufs, room) })
    }

    /// Frames that rest: in no ring of a device's, and lent all the same.
    pub(super) fn resting(&self) -> u32 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_herd_resting(self.0.as_ptr()) }
    }

    /// What DPDK keeps at hand for this thread goes to rest with the others.
    pub(super) fn flush(&self) {
        // SAFETY: *owner*.
        unsafe { sys::rwd_herd_flush(self.0.as_ptr()) }
    }

    /// The mbufs of the slots, in their order.
    pub(super) fn frames(&self) -> NonNull<sys::Mbuf> {
        // SAFETY: *owner*.
        let first = unsafe { sys::rwd_herd_frames(self.0.as_ptr()) };
        // SAFETY: a herd without is not made.
        unsafe { NonNull::new_unchecked(first) }
    }

    /// Lets the buffer of a slot's mbuf begin where the slot does.
    pub(super) fn widen(&self, mbuf: &sys::Mbuf, offset: u64) {
        // SAFETY: *owner*; the mbuf is the herd's, of the slot at that offset, and its fields are cells.
        unsafe { sys::rwd_widen(self.0.as_ptr(), mbuf, offset) };
    }

    /// Takes over what other threads have freed; returns how many frames rest then.
    pub(super) fn gather(&self) -> u32 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_herd_gather(self.0.as_ptr()) }
    }

    /// Lays empty slots down, by their offsets.
    pub(super) fn offer(&self, offsets: &[u64]) {
        // SAFETY: *owner*, *lent* and *room*.
        unsafe { sys::rwd_herd_offer(self.0.as_ptr(), offsets.as_ptr(), count(offsets)) }
    }

    /// The same, where the thread that starts the device finds them.
    pub(super) fn reserve(&self, offsets: &[u64]) {
        // SAFETY: *lent* and *room*; under the herd's lock.
        unsafe { sys::rwd_herd_reserve(self.0.as_ptr(), offsets.as_ptr(), count(offsets)) }
    }

    /// Takes resting slots back.
    pub(super) fn take<'o>(&self, offsets: &'o mut [u64]) -> &'o [u64] {
        // SAFETY: *owner* and *room*.
        let taken = unsafe { sys::rwd_herd_take(self.0.as_ptr(), offsets.as_mut_ptr(), count(offsets)) };
        &offsets[..taken as usize]
    }

    /// Pages that were sent.
    pub(super) fn pages<'o>(&self, offsets: &'o mut [u64]) -> &'o [u64] {
        // SAFETY: *owner* and *room*.
        let sent = unsafe { sys::rwd_herd_pages(self.0.as_ptr(), offsets.as_mut_ptr(), count(offsets)) };
        &offsets[..sent as usize]
    }

    /// Pages that can be sent before others come home.
    pub(super) fn page_room(&self) -> u32 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_herd_page_room(self.0.as_ptr()) }
    }

    /// Lets go of it: it is freed once no device is open.
    pub(super) fn bury(&self) {
        // SAFETY: *owner*: by the thread that made it, once.
        unsafe { sys::rwd_herd_leave(self.0.as_ptr()) };
        graveyard(|graveyard| graveyard.herds.push(Self(self.0)));
    }
}

fn count<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// The shim's queue pair. [`close`](Self::close) frees it.
#[derive(Debug)]
pub(super) struct QueueHandle(NonNull<sys::Queue>);

/// A packet that came in somebody else's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    pub(super) bytes: u32,
    pub(super) options: u32,
}

impl QueueHandle {
    pub(super) fn new(herd: &HerdHandle, device: &Device, queue: u16) -> Option<Self> {
        // SAFETY: *alive* and *owner*.
        NonNull::new(unsafe { sys::rwd_queue_new(herd.0.as_ptr(), device.port, queue) }).map(Self)
    }

    /// Packets that can be had now, at most so many; the device is asked when none is left.
    #[inline]
    pub(super) fn poll(&mut self, room: u32) -> &[Received] {
        let mut first = core::ptr::null();
        // SAFETY: *owner*; a pointer to be set.
        let found = unsafe { sys::rwd_poll(self.0.as_ptr(), room, &raw mut first) };
        // SAFETY: so many mbufs lie there, as pointers that are not null, until the next call.
        unsafe { core::slice::from_raw_parts(first.cast(), found as usize) }
    }

    /// So many of them were taken.
    #[inline]
    pub(super) fn took(&mut self, count: u32) {
        // SAFETY: *owner*; no more than were there.
        unsafe { sys::rwd_took(self.0.as_ptr(), count) };
    }

    /// Fills `out` with whole packets in slots of the herd, of those that were polled; returns how many descriptors.
    pub(super) fn receive(&mut self, out: &mut [Descriptor]) -> usize {
        let (to, room) = (out.as_mut_ptr().cast(), count(out));
        // SAFETY: *owner* and *room*; both types of descriptor are two words of plain numbers.
        let filled = unsafe { sys::rwd_receive(self.0.as_ptr(), to, room) };
        filled as usize
    }

    /// The packet in front, when [`receive`](Self::receive) stopped at one in somebody else's memory.
    pub(super) fn foreign(&self) -> Option<Foreign> {
        let mut options = 0;
        // SAFETY: *owner*.
        let bytes = unsafe { sys::rwd_foreign(self.0.as_ptr(), &raw mut options) };
        (bytes > 0).then_some(Foreign { bytes, options })
    }

    /// Copies bytes out of it. There is one, and it has them: the caller has asked.
    pub(super) fn read_foreign(&self, from: u32, to: &mut [u8]) {
        // SAFETY: *owner* and *room*; the shim reads no further than the packet goes.
        unsafe { sys::rwd_foreign_read(self.0.as_ptr(), from, to.as_mut_ptr(), count(to)) };
    }

    /// Frees it.
    pub(super) fn drop_foreign(&mut self) {
        if self.foreign().is_some() {
            // SAFETY: *owner*; there is one.
            unsafe { sys::rwd_foreign_drop(self.0.as_ptr()) };
        }
    }

    pub(super) fn malformed(&self) -> u64 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_malformed(self.0.as_ptr()) }
    }

    /// Packets that the device said it can never send.
    pub(super) fn refused(&self) -> u64 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_refused(self.0.as_ptr()) }
    }

    /// Hands plain packets of such lengths that came in here to another queue's device, those in front; returns how many, and
    /// their bytes. Both are of one herd, and nothing waits there.
    #[inline]
    pub(super) fn pass(&mut self, to: &mut Self, shortest: u32, longest: u32) -> (u32, u64) {
        debug_assert_eq!(to.waiting(), 0);
        let mut bytes = 0;
        let (from, to) = (self.0.as_ptr(), to.0.as_ptr());
        // SAFETY: *owner*, of either; *lent*: what a device has received is on the herd's loan, and stays there; a number to be
        // set.
        let passed = unsafe { sys::rwd_pass(from, to, shortest, longest, &raw mut bytes) };
        (passed, bytes)
    }

    /// Packets that have come in and were not taken.
    #[inline]
    pub(super) fn left(&self) -> u32 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_left(self.0.as_ptr()) }
    }

    /// Packets that wait for room in the device's ring.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        // SAFETY: *owner*.
        unsafe { sys::rwd_waiting(self.0.as_ptr()) }
    }

    /// Where packets are laid down while none waits; [`flush`](Self::flush) is told how many.
    #[inline]
    pub(super) fn places(&mut self) -> &mut [Place] {
        debug_assert_eq!(self.waiting(), 0);
        // SAFETY: *owner*.
        let first = unsafe { sys::rwd_places(self.0.as_ptr()) };
        // SAFETY: the shim's array of a burst of pointers, of which none is in use.
        unsafe { core::slice::from_raw_parts_mut(first.cast(), sys::BURST) }
    }

    /// Lays one packet down: frames and pages in their order. Likewise, and there is room for its pages.
    pub(super) fn push(&mut self, parts: &[Descriptor], offload: Option<&Offload>) {
        debug_assert!((self.waiting() as usize) < sys::BURST && !parts.is_empty());
        let offload = offload.map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: *owner*, *lent* and *room*; the offload is read before the call ends.
        unsafe { sys::rwd_push(self.0.as_ptr(), parts.as_ptr().cast(), count(parts), offload) };
    }

    /// Hands what waits to the device, and so many more that were laid down at [`places`](Self::places); returns how many
    /// packets still wait.
    #[inline]
    pub(super) fn flush(&mut self, more: u32) -> u32 {
        // SAFETY: *owner*, and *lent*: the places were filled, with frames that are on loan.
        unsafe { sys::rwd_flush(self.0.as_ptr(), more) }
    }

    /// Asks the device to free what it has sent.
    pub(super) fn tidy(&mut self) {
        // SAFETY: *owner*.
        unsafe { sys::rwd_tidy(self.0.as_ptr()) };
    }

    /// Whether the device still has the packet that was handed to it last; its ring has so many descriptors.
    pub(super) fn sends(&self, ring: u16) -> bool {
        // SAFETY: *owner*.
        unsafe { sys::rwd_sends(self.0.as_ptr(), ring) }
    }

    /// Frees it, and what it still held goes back to rest. Once: it is not used after.
    pub(super) fn close(&mut self) {
        // SAFETY: *owner*; called from `Drop` alone.
        unsafe { sys::rwd_queue_free(self.0.as_ptr()) };
    }
}
