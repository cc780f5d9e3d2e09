//! Who holds each slot: one byte a slot, checked whenever a number comes back from a device.

use core::cell::Cell;
use std::fmt;

/// The number of a frame's place in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// The right of one ring of one device to hold slots. A pool hands each out once.
///
/// A queue pair has two: what it lent to be filled must not come back as sent.
/// It is of no use at another pool: there every slot is a stray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    pub(crate) number: u8,
    pub(crate) pool: u32,
}

/// A slot is at home (free, or on a [shelf](crate::shelf)), or this thread's, or another worker's, or out on a loan.
pub(crate) const FREE: u8 = 0;
pub(crate) const THREAD: u8 = 1;
pub(crate) const ELSEWHERE: u8 = 2;
pub(crate) const FIRST_LOAN: u8 = 3;

/// A number from a device that cannot be true. The slot it names, if any, was left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// There is no such place in the arena.
    Unknown {
        /// The offset that the device named.
        offset: u64,
    },
    /// The slot is not out on this loan: free, ours, or another ring's.
    NotOnLoan(Slot),
    /// The bytes claimed do not fit the slot.
    OutOfBounds {
        /// Which slot.
        slot: Slot,
        /// Where the bytes are said to begin.
        head: u32,
        /// How many there are said to be.
        len: u32,
    },
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { offset } => {
                write!(f, "the device named offset {offset:#x}, which is outside the arena")
            }
            Self::NotOnLoan(Slot(slot)) => {
                write!(f, "the device returned slot {slot}, which it did not have")
            }
            Self::OutOfBounds { slot: Slot(slot), head, len } => {
                write!(f, "the device claims {len} bytes at {head} of slot {slot}, more than a slot holds")
            }
        }
    }
}

/// One byte a slot.
///
/// A table of 8192 bytes stays in the first-level cache; what the check costs is in `docs/measuring.md`.
#[derive(Debug)]
pub struct Ledger {
    holders: Box<[Cell<u8>]>,
}

impl Ledger {
    /// All slots free.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { holders: (0..slots).map(|_| Cell::new(FREE)).collect() }
    }

    /// Hands `slot` from one holder to the next.
    ///
    /// # Errors
    /// [`Stray`] when there is no such slot or `from` does not hold it; nothing changes then.
    #[inline]
    pub(crate) fn hand_over(&self, slot: Slot, from: u8, to: u8) -> Result<(), Stray> {
        let Some(holder) = self.holders.get(slot.0 as usize) else {
            return Err(Stray::Unknown { offset: u64::from(slot.0) });
        };
        if holder.get() != from {
            return Err(Stray::NotOnLoan(slot));
        }
        holder.set(to);
        Ok(())
    }

    /// The entries, by slot.
    #[inline]
    pub(crate) fn holders(&self) -> &[Cell<u8>] {
        &self.holders
    }

    /// Hands a slot of this thread on: the frame that is given up for it proves that it is.
    #[inline]
    pub(crate) fn hand_on(&self, slot: Slot, to: u8) {
        if let Some(holder) = self.holders.get(slot.0 as usize) {
            debug_assert_eq!(holder.get(), THREAD, "a frame is its thread's");
            holder.set(to);
        }
    }

    /// Hands a slot on that is known to be `from`'s without a look.
    #[inline]
    pub(crate) fn hand_between(&self, slot: Slot, from: u8, to: u8) {
        if let Some(holder) = self.holders.get(slot.0 as usize) {
            debug_assert_eq!(holder.get(), from, "a slot is where it was left");
            holder.set(to);
        }
    }

    /// How many slots `holder` has.
    pub(crate) fn count(&self, holder: u8) -> u32 {
        self.slots_of(holder).fold(0, |count, _| count + 1)
    }

    /// The slots that `holder` has.
    pub(crate) fn slots_of(&self, holder: u8) -> impl Iterator<Item = Slot> + '_ {
        (0u32..).zip(&self.holders).filter(move |(_, held)| held.get() == holder).map(|(slot, _)| Slot(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_hands_over() {
        let ledger = Ledger::new(4);
        assert_eq!(ledger.hand_over(Slot(2), FREE, FIRST_LOAN), Ok(()));
        assert_eq!(ledger.hand_over(Slot(2), FREE, THREAD), Err(Stray::NotOnLoan(Slot(2))));
        assert_eq!(ledger.hand_over(Slot(4), FREE, THREAD), Err(Stray::Unknown { offset: 4 }));
        assert_eq!((ledger.count(FREE), ledger.count(FIRST_LOAN)), (3, 1));
    }
}
