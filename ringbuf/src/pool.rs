//! The slots of one worker: who may have one, and the check when one comes back.

use crate::arena::{Arena, Backing, CONTENT_UNIT};
use crate::frame::{Frame, Offload};
use crate::ledger::{ELSEWHERE, FIRST_LOAN, FREE, Ledger, Loan, Slot, Stray, THREAD};
use crate::parcel::{Home, Parcel};
use core::cell::Cell;
use core::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes in front of a fresh frame's data: room for a tunnel header, and what AF_XDP keeps before a received frame
/// (`XDP_PACKET_HEADROOM`, `include/uapi/linux/bpf.h`).
pub const HEADROOM: u16 = 256;

/// Where all slots are. The sum never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In the pool.
    pub free: u32,
    /// In frames of this thread.
    pub thread: u32,
    /// Handed to another worker.
    pub elsewhere: u32,
    /// Out on loan to devices.
    pub device: u32,
}

impl Census {
    /// All slots.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.free + self.thread + self.elsewhere + self.device
    }
}

/// The free stack and the ledger of one arena; owned by one thread.
///
/// ```compile_fail
/// fn is_sync<T: Sync>() {}
/// is_sync::<ringbuf::Pool>();
/// ```
#[derive(Debug)]
pub struct Pool {
    home: Arc<Home>,
    /// No other pool of this process has it.
    id: u32,
    base: NonNull<u8>,
    shift: u32,
    /// The bits of an offset within its slot.
    mask: u64,
    /// At most 2^15: an arena has no larger frames.
    frame_size: u16,
    free: Box<[Cell<u32>]>,
    free_count: Cell<u32>,
    pub(crate) ledger: Ledger,
    offloads: Box<[Cell<Offload>]>,
    loans: Cell<u8>,
    pub(crate) units: Box<[Unit]>,
}

/// How often a unit of content is held.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// By pages of this thread and by devices; or lent to be filled (`LENT`).
    pub(crate) held: Cell<u32>,
    /// By devices alone.
    pub(crate) on_loan: Cell<u32>,
}

impl Pool {
    /// Takes an arena into use: all slots free.
    #[must_use]
    pub fn new(arena: Arena) -> Self {
        /// Numbers the pools of this process. Four thousand million of them are not made.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let frames = arena.frames();
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            base: arena.base(),
            shift: arena.shift(),
            mask: u64::from(arena.frame_size()) - 1,
            frame_size: arena_frame_size(&arena),
            // The lowest slots on top: a short run touches little memory.
            free: (0..frames).rev().map(Cell::new).collect(),
            free_count: Cell::new(frames),
            ledger: Ledger::new(frames),
            offloads: (0..frames).map(|_| Cell::new(Offload::default())).collect(),
            loans: Cell::new(FIRST_LOAN),
            units: (0..arena.files().end / CONTENT_UNIT).map(|_| Unit::default()).collect(),
            home: Arc::new(Home::new(arena)),
        }
    }

    /// The arena: what a driver registers with its device.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        self.home.arena()
    }

    pub(crate) const fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// What the memory is.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.arena().backing()
    }

    /// Bytes of one slot.
    #[inline]
    #[must_use]
    pub const fn frame_size(&self) -> u16 {
        self.frame_size
    }

    /// A fresh, empty frame with [`HEADROOM`] in front, or `None` when all slots are out.
    #[inline]
    pub fn alloc(&self) -> Option<Frame<'_>> {
        let slot = self.pop(THREAD)?;
        Some(Frame::at(self, self.offset(slot) + u64::from(HEADROOM.min(self.frame_size / 2)), 0))
    }

    /// The right for one more ring of a device to hold slots; `None` after 252 of them.
    pub fn open_loan(&self) -> Option<Loan> {
        let number = self.loans.get();
        self.loans.set(number.checked_add(1)?);
        Some(Loan { number, pool: self.id })
    }

    /// Lends an empty slot for a device to fill, or `None` when all slots are out.
    #[inline]
    pub fn lend(&self, loan: Loan) -> Option<Slot> {
        if loan.pool != self.id {
            return None;
        }
        self.pop(loan.number)
    }

    /// Takes in a slot that a device has filled.
    ///
    /// The device is believed about nothing: the slot must exist, be out on this very loan, and hold the bytes claimed.
    ///
    /// # Errors
    /// [`Stray`]; the slot is left alone then, since lending it again could share one buffer between two owners.
    #[inline]
    pub fn arrive(&self, slot: Slot, loan: Loan, head: u32, len: u32) -> Result<Frame<'_>, Stray> {
        // Added up wide: two large numbers must not meet again at a small one.
        let end = u64::from(head) + u64::from(len);
        if end > u64::from(self.frame_size) || head >= u32::from(self.frame_size) {
            return Err(Stray::OutOfBounds { slot, head, len });
        }
        self.check(slot, loan)?;
        self.ledger.hand_over(slot, loan.number, THREAD)?;
        Ok(Frame::at(self, self.offset(slot) + u64::from(head), u64::from(len)))
    }

    /// Takes in a slot that a device has filled, by the offset of its first byte.
    ///
    /// # Errors
    /// As [`arrive`](Self::arrive).
    #[inline]
    pub fn arrive_at(&self, offset: u64, loan: Loan, len: u32) -> Result<Frame<'_>, Stray> {
        let (slot, head) = self.locate(offset)?;
        self.arrive(slot, loan, head, len)
    }

    /// Where a burst of frames passes between this thread and one ring of a device.
    ///
    /// `SHIFT` is the logarithm of the slots' size, for a loop that is compiled for this size, or 0 for one that takes
    /// any. Nothing passes where it is another's.
    #[inline]
    #[must_use]
    pub fn gate<const SHIFT: u32>(&self, loan: Loan) -> Gate<'_, SHIFT> {
        // Nor through another pool's loan.
        let fits = loan.pool == self.id && (SHIFT == 0 || SHIFT == self.shift);
        let holders = if fits { self.ledger.holders() } else { &[] };
        Gate { pool: self, holders, any_shift: self.shift, loan: loan.number, bytes: 0 }
    }

    /// Lends a frame to a device for sending; the device says when it is done, see [`reclaim`](Self::reclaim).
    ///
    /// # Errors
    /// The frame itself, when it belongs to another pool: a device can send only what was registered with it.
    #[inline]
    pub fn depart<'p>(&'p self, frame: Frame<'p>, loan: Loan) -> Result<Slot, Frame<'p>> {
        if !core::ptr::eq(frame.pool(), self) || loan.pool != self.id {
            return Err(frame);
        }
        let slot = frame.into_slot();
        self.ledger.hand_on(slot, loan.number);
        Ok(slot)
    }

    /// Takes back a slot whose frame a device has sent.
    ///
    /// # Errors
    /// [`Stray`] when the slot is not out on this loan; it is left alone then.
    #[inline]
    pub fn reclaim(&self, slot: Slot, loan: Loan) -> Result<(), Stray> {
        self.check(slot, loan)?;
        self.ledger.hand_over(slot, loan.number, FREE)?;
        self.push(slot);
        Ok(())
    }

    /// Takes back every slot still out on `loan`; returns how many.
    ///
    /// Only for a device that is gone for good: its socket closed, its rings unmapped, its DMA stopped.
    pub fn recall(&self, loan: Loan) -> u32 {
        let mut recalled = 0;
        for slot in self.ledger.slots_of(loan.number) {
            // The ledger itself just named the slot as lent.
            if self.reclaim(slot, loan).is_ok() {
                recalled += 1;
            }
        }
        recalled
    }

    /// How many slots are out on `loan`. Walks the ledger: for reports, not for turns.
    #[must_use]
    pub fn on_loan(&self, loan: Loan) -> u32 {
        if loan.pool == self.id { self.ledger.count(loan.number) } else { 0 }
    }

    /// Where all slots are. Walks the ledger: for reports, not for turns.
    #[must_use]
    pub fn census(&self) -> Census {
        let (thread, elsewhere) = (self.ledger.count(THREAD), self.ledger.count(ELSEWHERE));
        // By the ledger, what is on a shelf is at home too.
        let free = self.free();
        Census { free, thread, elsewhere, device: self.arena().frames() - free - thread - elsewhere }
    }

    /// Slots to be had at once.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free_count.get()
    }

    /// The offset of a slot in the arena, in bytes: how devices name it.
    #[inline]
    #[must_use]
    pub const fn offset(&self, slot: Slot) -> u64 {
        (slot.0 as u64) << self.shift
    }

    /// Asks for the cache lines around an offset, for what a device on another core has written there: its header ends a
    /// line, and its packet begins the next. A hint that reads nothing; without one on this machine it does nothing.
    #[inline]
    pub fn expect_soon(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let Ok(offset) = usize::try_from(offset) else { return };
            // Wherever that is: an address that is only asked for need not be one.
            let at = self.base.as_ptr().wrapping_add(offset);
            // SAFETY: a prefetch never faults and changes no memory.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// The slot that an offset lies in, and how far in; [`Stray::Unknown`] if it is not a frame's.
    ///
    /// # Errors
    /// [`Stray::Unknown`].
    #[inline]
    pub fn locate(&self, offset: u64) -> Result<(Slot, u32), Stray> {
        let slot = offset >> self.shift;
        if slot >= self.free.len() as u64 {
            return Err(Stray::Unknown { offset });
        }
        Ok((Slot(low32(slot)), low32(offset & self.mask)))
    }

    /// Wraps a frame for the journey to another worker. Its slot comes home when the parcel is dropped there, and
    /// is free again after the next [`collect`](Self::collect).
    ///
    /// # Errors
    /// The frame itself, when it belongs to another pool.
    pub fn park<'p>(&'p self, frame: Frame<'p>) -> Result<Parcel, Frame<'p>> {
        if !core::ptr::eq(frame.pool(), self) {
            return Err(frame);
        }
        let (head, len, continues, offload) = (frame.head(), frame.len(), frame.continues(), frame.offload());
        let slot = frame.into_slot();
        self.ledger.hand_on(slot, ELSEWHERE);
        Ok(Parcel::new(Arc::clone(&self.home), slot, head, len, continues, offload))
    }

    /// Takes in the slots that came home from other workers; returns how many.
    #[inline]
    pub fn collect(&self) -> u32 {
        let mut collected = 0;
        while let Some(slot) = self.home.next_return() {
            let handed = self.ledger.hand_over(slot, ELSEWHERE, FREE);
            debug_assert!(handed.is_ok(), "only parcels come home: {handed:?}");
            self.push(slot);
            collected += 1;
        }
        collected
    }

    /// A loan is worth something only where it was opened.
    #[inline]
    const fn check(&self, slot: Slot, loan: Loan) -> Result<(), Stray> {
        if loan.pool == self.id { Ok(()) } else { Err(Stray::NotOnLoan(slot)) }
    }

    #[inline]
    fn pop(&self, holder: u8) -> Option<Slot> {
        let count = self.free_count.get().checked_sub(1)?;
        let slot = Slot(self.free.get(count as usize)?.get());
        self.free_count.set(count);
        let handed = self.ledger.hand_over(slot, FREE, holder);
        debug_assert!(handed.is_ok(), "the free stack holds free slots: {handed:?}");
        Some(slot)
    }

    #[inline]
    fn push(&self, slot: Slot) {
        let count = self.free_count.get();
        // Never out of bounds: each slot is on the stack at most once, which the ledger saw to.
        if let Some(top) = self.free.get(count as usize) {
            top.set(slot.0);
            self.free_count.set(count + 1);
        }
    }

    /// The numbers of up to `count` free slots, which are the caller's from now on; the ledger is not told.
    #[inline]
    pub(crate) fn take_free(&self, count: usize) -> &[Cell<u32>] {
        let free = self.free_count.get() as usize;
        let left = free - count.min(free);
        self.free_count.set(low32(left as u64));
        self.free.get(left..free).unwrap_or_default()
    }

    /// Takes slots home that [`take_free`](Self::take_free) gave away, or that were frames and are at home by the ledger.
    #[inline]
    pub(crate) fn give_free(&self, slots: &[u32]) {
        let count = self.free_count.get() as usize;
        // Never out of bounds, as in `push`.
        if let Some(top) = self.free.get(count..count + slots.len()) {
            for (top, slot) in top.iter().zip(slots) {
                top.set(*slot);
            }
            self.free_count.set(low32((count + slots.len()) as u64));
        }
    }

    #[inline]
    pub(crate) const fn shift(&self) -> u32 {
        self.shift
    }

    /// What a [shelf](crate::shelf)'s loops know of the pool; `None` where `SHIFT` is another pool's.
    #[inline]
    pub(crate) fn numbers<const SHIFT: u32>(&self) -> Option<Numbers<'_>> {
        let shift = if SHIFT == 0 { self.shift } else { SHIFT };
        let numbers = Numbers { holders: self.ledger.holders(), shift, base: self.base };
        (shift == self.shift).then_some(numbers)
    }

    /// A frame's last act.
    #[inline]
    pub(crate) fn put_back(&self, slot: Slot) {
        self.ledger.hand_on(slot, FREE);
        self.push(slot);
    }

    /// The byte at an offset in one of the slots.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "what lies in the arena has an address, so it fits")]
    pub(crate) fn byte_at(&self, offset: u64) -> NonNull<u8> {
        debug_assert!(((offset >> self.shift) as usize) < self.free.len());
        // SAFETY: frames lie in slots (*bounds*), slots are below the arena's number of frames, and so this stays in
        // the mapping (*layout*).
        unsafe { self.base.add(offset as usize) }
    }

    /// The slot that an offset in one of the slots lies in.
    #[inline]
    pub(crate) const fn slot_at(&self, offset: u64) -> Slot {
        Slot(low32(offset >> self.shift))
    }

    /// How far in.
    #[inline]
    pub(crate) const fn head_at(&self, offset: u64) -> u16 {
        low16(low32(offset & self.mask))
    }

    pub(crate) fn offload_of(&self, slot: Slot) -> &Cell<Offload> {
        &self.offloads[slot.0 as usize]
    }
}

/// The pool's numbers and the ledger at hand, for a loop over a burst: a copy, since the compiler cannot know that the
/// loop's own writes leave the pool's fields alone, and would load each anew for each frame.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'p, const SHIFT: u32> {
    pool: &'p Pool,
    holders: &'p [Cell<u8>],
    any_shift: u32,
    loan: u8,
    bytes: u64,
}

impl<'p, const SHIFT: u32> Gate<'p, SHIFT> {
    /// A number in the code where the loop is for one size of slots: one register more for the rest.
    #[inline(always)]
    const fn shift(&self) -> u32 {
        if SHIFT == 0 { self.any_shift } else { SHIFT }
    }

    /// The bits of an offset that name the slot, and all above.
    #[inline(always)]
    const fn above(&self) -> u64 {
        u64::MAX << self.shift()
    }

    /// Bytes that arrived.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As [`Pool::arrive_at`], for the common case: `None` for all that it refuses, and for a frame that ends with its
    /// slot. Nothing has changed then; ask there.
    #[inline]
    #[must_use]
    pub fn arrive(&mut self, offset: u64, len: u64) -> Option<Frame<'p>> {
        // With all bits above set, the sum runs over just when the bytes reach the slot's end, however many they are.
        (offset | self.above()).checked_add(len)?;
        // Where a usize is shorter than the offset, what does not fit is no slot either.
        let holder = self.holders.get(usize::try_from(offset >> self.shift()).ok()?)?;
        if holder.get() != self.loan {
            return None;
        }
        holder.set(THREAD);
        // Here, not where it is called: the length is not needed any more once it is part of the frame, so its register
        // is free one instruction earlier.
        self.bytes += len;
        Some(Frame::at(self.pool, offset, len))
    }

    /// As [`Pool::depart`], for a frame that [is plain](Frame::is_plain) and that the caller forgets; the offset of its
    /// first byte, or `None` when it belongs to another pool or is not plain: nothing has changed then.
    #[inline]
    pub(crate) fn depart(&self, frame: &Frame<'p>) -> Option<u64> {
        if !core::ptr::eq(frame.pool(), self.pool) {
            return None;
        }
        // A plain frame's tag is its offset. With a flag on top it lies behind every slot, and has no entry.
        let offset = frame.tag();
        let holder = self.holders.get(usize::try_from(offset >> self.shift()).ok()?)?;
        debug_assert_eq!(holder.get(), THREAD, "a frame is its thread's");
        holder.set(self.loan);
        Some(offset)
    }
}

/// A copy of the pool's numbers, for the same reason.
pub(crate) struct Numbers<'p> {
    pub(crate) holders: &'p [Cell<u8>],
    pub(crate) shift: u32,
    pub(crate) base: NonNull<u8>,
}

fn arena_frame_size(arena: &Arena) -> u16 {
    low16(arena.frame_size())
}

/// Numbers that the line above each use has shown to fit.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the frame size, which is at most 2^15")]
const fn low16(value: u32) -> u16 {
    value as u16
}

/// Likewise.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the number of frames, which is at most 2^24")]
const fn low32(value: u64) -> u32 {
    value as u32
}
