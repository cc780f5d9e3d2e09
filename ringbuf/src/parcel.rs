//! A frame on its way to another worker, and the way home of its slot.

use crate::arena::Arena;
use crate::frame::Offload;
use crate::ledger::Slot;
use core::ops::Deref;
use crossbeam_queue::ArrayQueue;
use std::fmt;
use std::sync::Arc;

/// What outlives a pool: the arena, and the queue by which slots come home from other threads.
#[derive(Debug)]
pub(crate) struct Home {
    arena: Arena,
    /// As long as there are slots, so a slot always finds room.
    returns: ArrayQueue<Slot>,
}

impl Home {
    pub(crate) fn new(arena: Arena) -> Self {
        Self { returns: ArrayQueue::new(arena.frames() as usize), arena }
    }

    pub(crate) const fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(crate) fn next_return(&self) -> Option<Slot> {
        self.returns.pop()
    }
}

/// The bytes of a frame, owned by whoever holds the parcel, on any thread.
///
/// Dropping it, anywhere, sends the slot home.
///
/// Invariant **sole**: the ledger at home says *elsewhere* for the slot, so nobody there touches it.
pub struct Parcel {
    home: Arc<Home>,
    slot: Slot,
    head: u16,
    len: u16,
    continues: bool,
    offload: Option<Offload>,
}

impl Parcel {
    pub(crate) const fn new(
        home: Arc<Home>,
        slot: Slot,
        head: u16,
        len: u16,
        continues: bool,
        offload: Option<Offload>,
    ) -> Self {
        Self { home, slot, head, len, continues, offload }
    }

    /// Bytes that were free in front of it in its slot.
    #[must_use]
    pub const fn head(&self) -> u16 {
        self.head
    }

    /// Whether the packet goes on in the next parcel.
    #[must_use]
    pub const fn continues(&self) -> bool {
        self.continues
    }

    /// What was left undone in the packet.
    #[must_use]
    pub const fn offload(&self) -> Option<Offload> {
        self.offload
    }
}

impl Deref for Parcel {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let offset = ((self.slot.0 as usize) << self.home.arena.shift()) + usize::from(self.head);
        // SAFETY: the frame that was parked lay in the arena, which `home` keeps mapped.
        let start = unsafe { self.home.arena.base().add(offset) };
        // SAFETY: as above for the length; by *sole* nobody writes while the parcel lives, and whoever sent it
        // released its writes through the queue that carried the parcel.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), usize::from(self.len)) }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let returned = self.home.returns.push(self.slot);
        debug_assert!(returned.is_ok(), "the way home has room for every slot");
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel").field("slot", &self.slot.0).field("len", &self.len).finish_non_exhaustive()
    }
}
