//! Rings over memory that somebody else writes too: a kernel, a device, another thread.
//!
//! Each side owns one position and reads the other's. What the other side publishes is checked before it is believed
//! ([`Cursor::follow_head`], [`Cursor::follow_tail`]); an impossible position is kept in
//! [`lie`](SharedProducer::lie) and changes nothing.
//!
//! Invariants of [`RingParts`], which `unsafe fn new` asks its caller for:
//! * **map**: `producer`, `consumer`, `flags` and `slots[..capacity]` are valid for as long as `keeper` lives;
//! * **ends**: this process has at most one producer and one consumer of the ring, and each is `&mut`-unique;
//! * **still**: the other side leaves alone the slots that are not its turn. One that does not can make us read nonsense,
//!   which *plain* and the ledger bear; so what is read from a slot is copied once and judged from the copy;
//! * **plain**: every bit pattern of a slot is a `T`, so a lying peer can write nonsense but not an invalid value.

use crate::cursor::{Cursor, Impossible};
use crate::sync::{AtomicU32, Ordering, SlotCell};
use core::ptr::NonNull;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The flag by which the other side asks for a system call or a doorbell (`XDP_RING_NEED_WAKEUP`, `if_xdp.h`).
const NEED_WAKEUP: u32 = 1;

/// Where a ring lies. See the [module](self) for what must hold.
pub struct RingParts<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<SlotCell<T>>,
    capacity: u32,
    keeper: Arc<dyn Any + Send + Sync>,
}

impl<T> RingParts<T> {
    /// Names the parts of a ring in memory that `keeper` keeps mapped.
    ///
    /// Safe, because nothing is touched yet: the promise is made to [`SharedProducer::new`] or
    /// [`SharedConsumer::new`].
    ///
    /// # Panics
    /// If `capacity` is not a power of two.
    #[cfg(not(loom))]
    #[must_use]
    pub fn new(
        producer: NonNull<u32>,
        consumer: NonNull<u32>,
        flags: NonNull<u32>,
        slots: NonNull<T>,
        capacity: u32,
        keeper: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        assert!(capacity.is_power_of_two(), "the capacity of a ring is a power of two");
        Self {
            producer: producer.cast(),
            consumer: consumer.cast(),
            flags: flags.cast(),
            slots: slots.cast(),
            capacity,
            keeper,
        }
    }
}

impl<T> Clone for RingParts<T> {
    fn clone(&self) -> Self {
        Self { keeper: Arc::clone(&self.keeper), ..*self }
    }
}

impl<T> fmt::Debug for RingParts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingParts").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<T: Copy> RingParts<T> {
    fn word(&self, word: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: invariant *map*, promised to the end's `new`; an atomic may be shared with any writer.
        unsafe { word.as_ref() }
    }

    fn slot(&self, slot: usize) -> &SlotCell<T> {
        debug_assert!(slot < self.capacity as usize, "slot {slot} of {}", self.capacity);
        // SAFETY: `Cursor::slot` is below the capacity, so the pointer stays within *map*.
        let cell = unsafe { self.slots.add(slot) };
        // SAFETY: *map* again; a `SlotCell` is an `UnsafeCell`, so a shared reference claims nothing of its content.
        unsafe { cell.as_ref() }
    }
}

/// The writing end.
#[derive(Debug)]
pub struct SharedProducer<T> {
    parts: RingParts<T>,
    /// `tail` is ours; `head` is the newest position of the reader that we looked at.
    cursor: Cursor,
    lie: Option<Impossible>,
}

/// The reading end.
#[derive(Debug)]
pub struct SharedConsumer<T> {
    parts: RingParts<T>,
    /// `head` is ours; `tail` is the newest position of the writer that we looked at.
    cursor: Cursor,
    lie: Option<Impossible>,
}

// SAFETY: by *ends* nobody else has this end, the words are atomics, and the keeper is `Send`.
unsafe impl<T: Copy + Send> Send for SharedProducer<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + Send> Send for SharedConsumer<T> {}

impl<T: Copy> SharedProducer<T> {
    /// Takes the writing end; the ring's own positions are where it starts.
    ///
    /// # Safety
    /// *map*, *ends* and *plain* of the [module](self) hold.
    #[must_use]
    pub unsafe fn new(parts: RingParts<T>) -> Self {
        let mut cursor = Cursor::at(parts.word(parts.producer).load(Ordering::Relaxed), parts.capacity);
        // A ring that is being taken over may hold entries: start from an empty view, then believe what is possible.
        let reader = parts.word(parts.consumer).load(Ordering::Acquire);
        let filled = cursor.tail().wrapping_sub(reader);
        if filled <= cursor.capacity() {
            cursor = Cursor::at(reader, parts.capacity);
            cursor.fill(filled);
        }
        Self { parts, cursor, lie: None }
    }

    /// Reserves up to `want` vacant slots at the tail. Nothing is published before [`Grant::commit`].
    #[inline]
    pub fn reserve(&mut self, want: u32) -> Grant<'_, T> {
        if self.cursor.vacant() < want {
            // Pairs with the reader's release: what it has read may be overwritten.
            let claimed = self.parts.word(self.parts.consumer).load(Ordering::Acquire);
            if let Err(lie) = self.cursor.follow_head(claimed) {
                self.lie = Some(lie);
            }
        }
        let room = want.min(self.cursor.vacant());
        Grant { ring: self, room, used: 0 }
    }

    /// Slots that the reader has not taken yet, as of now.
    pub fn unread(&mut self) -> u32 {
        let claimed = self.parts.word(self.parts.consumer).load(Ordering::Acquire);
        if let Err(lie) = self.cursor.follow_head(claimed) {
            self.lie = Some(lie);
        }
        self.cursor.filled()
    }

    /// How many slots there are.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Whether the other side sleeps and wants to be told of new entries.
    #[inline]
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.parts.word(self.parts.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// The impossible position that the other side published, if it ever did.
    #[inline]
    #[must_use]
    pub const fn lie(&self) -> Option<Impossible> {
        self.lie
    }
}

impl<T: Copy> SharedConsumer<T> {
    /// Takes the reading end; the ring's own positions are where it starts.
    ///
    /// # Safety
    /// *map*, *ends* and *plain* of the [module](self) hold.
    #[must_use]
    pub unsafe fn new(parts: RingParts<T>) -> Self {
        let cursor = Cursor::at(parts.word(parts.consumer).load(Ordering::Relaxed), parts.capacity);
        Self { parts, cursor, lie: None }
    }

    /// Whether nothing is there to be read: the cheap question for a ring that is mostly empty.
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // Nothing is read on the strength of this, so it orders nothing.
        self.cursor.filled() == 0
            && self.parts.word(self.parts.producer).load(Ordering::Relaxed) == self.cursor.tail()
    }

    /// Looks at up to `want` entries. They stay in the ring until [`Batch::commit`].
    #[inline]
    pub fn peek(&mut self, want: u32) -> Batch<'_, T> {
        if self.cursor.filled() < want {
            // Pairs with the writer's release: the entries below this position have been written.
            let claimed = self.parts.word(self.parts.producer).load(Ordering::Acquire);
            if let Err(lie) = self.cursor.follow_tail(claimed) {
                self.lie = Some(lie);
            }
        }
        let filled = want.min(self.cursor.filled());
        Batch { ring: self, filled, read: 0 }
    }

    /// How many slots there are.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Whether the other side sleeps and wants to be told of room.
    #[inline]
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.parts.word(self.parts.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// The impossible position that the other side published, if it ever did.
    #[inline]
    #[must_use]
    pub const fn lie(&self) -> Option<Impossible> {
        self.lie
    }
}

/// Room reserved at the tail of a ring. Dropping it publishes nothing.
#[must_use = "an uncommitted grant publishes nothing"]
#[derive(Debug)]
pub struct Grant<'r, T: Copy> {
    ring: &'r mut SharedProducer<T>,
    room: u32,
    used: u32,
}

impl<T: Copy> Grant<'_, T> {
    /// Slots still to be written.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.room - self.used
    }

    /// Writes the next slot, or gives the value back when the room is used up.
    ///
    /// # Errors
    /// The value itself.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.used == self.room {
            return Err(value);
        }
        let cursor = &self.ring.cursor;
        let slot = self.ring.parts.slot(cursor.slot(cursor.tail().wrapping_add(self.used)));
        // SAFETY: the slot is vacant (`used < room <= vacant`) and stays so until `commit` moves the tail, so the
        // reader leaves it alone; by *ends* nobody else writes.
        unsafe { slot.write(value) };
        self.used += 1;
        Ok(())
    }

    /// The slots still to be written, in order: those up to the end of the ring's memory, then those from its start.
    /// What was written counts from [`advance`](Self::advance) on.
    #[cfg(not(loom))]
    #[inline]
    pub fn slots(&mut self) -> (&mut [T], &mut [T]) {
        let cursor = &self.ring.cursor;
        let (start, count) =
            (cursor.slot(cursor.tail().wrapping_add(self.used)), (self.room - self.used) as usize);
        let to_end = count.min(cursor.capacity() as usize - start);
        let base = self.ring.parts.slots.cast::<T>();
        // SAFETY: *map*: the slot is below the capacity.
        let first = unsafe { base.add(start) };
        // SAFETY: `start + to_end` is at most the capacity. The slots are vacant and reserved by this grant, so the
        // reader leaves them alone and `&mut self` makes the slice the only way to them; by *plain* they hold a `T`.
        let first = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), to_end) };
        // SAFETY: the same for those from the ring's start; `count` is at most the capacity, so the two do not meet.
        let second = unsafe { core::slice::from_raw_parts_mut(base.as_ptr(), count - to_end) };
        (first, second)
    }

    /// Counts the next `count` slots as written, or all when there are fewer.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.used += count.min(self.room - self.used);
    }

    /// Makes the written slots visible to the other side; returns how many.
    #[inline]
    pub fn commit(self) -> u32 {
        if self.used == 0 {
            // The reader's cache line stays where it is.
            return 0;
        }
        self.ring.cursor.fill(self.used);
        // One writer, so a store suffices. Release pairs with the reader's acquire of this position.
        self.ring.parts.word(self.ring.parts.producer).store(self.ring.cursor.tail(), Ordering::Release);
        self.used
    }
}

/// Entries looked at. Dropping it leaves them in the ring.
#[must_use = "an uncommitted batch takes nothing"]
#[derive(Debug)]
pub struct Batch<'r, T: Copy> {
    ring: &'r mut SharedConsumer<T>,
    filled: u32,
    read: u32,
}

impl<T: Copy> Batch<'_, T> {
    /// Entries not looked at yet.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.filled - self.read
    }

    /// The entry `ahead` places after the next one, without moving on.
    #[inline]
    #[must_use]
    pub fn peek(&self, ahead: u32) -> Option<T> {
        if ahead >= self.filled - self.read {
            return None;
        }
        let cursor = &self.ring.cursor;
        let slot = self.ring.parts.slot(cursor.slot(cursor.head().wrapping_add(self.read + ahead)));
        // SAFETY: the slot is filled (`read + ahead < filled`), and the writer leaves filled slots alone until
        // `commit` moves the head; by *plain* whatever it holds is a `T`.
        Some(unsafe { slot.read() })
    }

    /// The entries not looked at yet, in order: those up to the end of the ring's memory, then those from its start.
    #[cfg(not(loom))]
    #[inline]
    #[must_use]
    pub fn entries(&self) -> (&[T], &[T]) {
        let cursor = &self.ring.cursor;
        let (start, count) =
            (cursor.slot(cursor.head().wrapping_add(self.read)), (self.filled - self.read) as usize);
        let to_end = count.min(cursor.capacity() as usize - start);
        let base = self.ring.parts.slots.cast::<T>();
        // SAFETY: *map*: the slot is below the capacity.
        let first = unsafe { base.add(start) };
        // SAFETY: `start + to_end` is at most the capacity. The slots are filled, so the writer leaves them alone until
        // `commit`, which takes the batch; by *plain* whatever they hold is a `T`.
        let first = unsafe { core::slice::from_raw_parts(first.as_ptr(), to_end) };
        // SAFETY: the same for those from the ring's start; `count` is at most the capacity.
        let second = unsafe { core::slice::from_raw_parts(base.as_ptr(), count - to_end) };
        (first, second)
    }

    /// Moves on by `count` entries that [`peek`](Self::peek) showed, or by all when there are fewer.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.read += count.min(self.filled - self.read);
    }

    /// Gives the entries that were read back to the writer; returns how many.
    #[inline]
    pub fn commit(self) -> u32 {
        if self.read == 0 {
            return 0;
        }
        self.ring.cursor.drain(self.read);
        // Release: our reads of these slots happen before the writer may fill them again.
        self.ring.parts.word(self.ring.parts.consumer).store(self.ring.cursor.head(), Ordering::Release);
        self.read
    }
}

impl<T: Copy> Iterator for Batch<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let entry = self.peek(0)?;
        self.read += 1;
        Some(entry)
    }
}

/// A ring in ordinary memory, and the words that a kernel would keep beside it.
struct HeapRing<T> {
    producer: Padded<AtomicU32>,
    consumer: Padded<AtomicU32>,
    flags: Padded<AtomicU32>,
    slots: Box<[SlotCell<T>]>,
}

/// A word on cache lines of its own: 128 bytes, since x86 fetches lines in pairs.
#[repr(align(128))]
struct Padded<T>(T);

// SAFETY: the slots are touched only through the two ends, which keep apart by *ends*.
unsafe impl<T: Send> Sync for HeapRing<T> {}

/// Both ends of a ring in ordinary memory, for one thread or two: the in-memory driver, and the tests.
///
/// Both positions begin at `start`, so that a test can begin just below the wrap at 2³².
///
/// # Panics
/// If `capacity` is not a power of two.
#[must_use]
pub fn ring_pair<T: Copy + Default + Send + 'static>(
    start: u32,
    capacity: u32,
) -> (SharedProducer<T>, SharedConsumer<T>) {
    assert!(capacity.is_power_of_two(), "the capacity of a ring is a power of two");
    let ring = Arc::new(HeapRing {
        producer: Padded(AtomicU32::new(start)),
        consumer: Padded(AtomicU32::new(start)),
        flags: Padded(AtomicU32::new(0)),
        slots: (0..capacity).map(|_| SlotCell::new(T::default())).collect(),
    });
    let parts = RingParts {
        producer: NonNull::from(&ring.producer.0),
        consumer: NonNull::from(&ring.consumer.0),
        flags: NonNull::from(&ring.flags.0),
        slots: NonNull::from(&*ring.slots).cast(),
        capacity,
        keeper: ring,
    };
    // SAFETY: *map*: the parts lie in `ring`, which the keeper holds; *ends*: this is the only producer;
    // *plain*: both ends are ours, so a slot only ever holds a `T` that was written.
    let producer = unsafe { SharedProducer::new(parts.clone()) };
    // SAFETY: as above, and this is the only consumer.
    let consumer = unsafe { SharedConsumer::new(parts) };
    (producer, consumer)
}
