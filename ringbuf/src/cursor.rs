//! The two positions of a ring, as free-running counters.

/// The two positions of a ring.
///
/// ```text
///        head          tail
///   . . . # # # # # # # . . .      # filled: written, not yet read
/// ```
///
/// The counters wrap at 2³² and are reduced to slots only at the last moment ([`slot`](Self::slot)), so "full" and
/// "empty" cannot be confused and no slot is wasted.
///
/// Invariant **fill**: `tail - head <= capacity`, in wrapping arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    head: u32,
    tail: u32,
    mask: u32,
}

/// The other side of a ring claims a position that it cannot have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// The position it claims.
    pub claimed: u32,
    /// Where the reader stood.
    pub head: u32,
    /// Where the writer stood.
    pub tail: u32,
}

impl Cursor {
    /// An empty ring of `capacity` slots whose both positions are `start`.
    ///
    /// # Panics
    /// If `capacity` is not a power of two of at most 2³¹: programs choose it, peers don't.
    #[must_use]
    pub const fn at(start: u32, capacity: u32) -> Self {
        assert!(capacity.is_power_of_two(), "the capacity of a ring is a power of two");
        Self { head: start, tail: start, mask: capacity - 1 }
    }

    /// Where the next read happens.
    #[must_use]
    pub const fn head(&self) -> u32 {
        self.head
    }

    /// Where the next write happens.
    #[must_use]
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// How many slots there are.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.mask + 1
    }

    /// Slots written and not yet read.
    #[must_use]
    pub const fn filled(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// Slots that may be written.
    #[must_use]
    pub const fn vacant(&self) -> u32 {
        self.capacity() - self.filled()
    }

    /// Moves the tail on by `count` slots that have been written; by the vacant ones when there are fewer.
    #[inline]
    pub fn fill(&mut self, count: u32) {
        debug_assert!(count <= self.vacant(), "filling {count} of {} vacant slots", self.vacant());
        self.tail = self.tail.wrapping_add(count.min(self.vacant()));
    }

    /// Moves the head on by `count` slots that have been read; by the filled ones when there are fewer.
    #[inline]
    pub fn drain(&mut self, count: u32) {
        debug_assert!(count <= self.filled(), "draining {count} of {} filled slots", self.filled());
        self.head = self.head.wrapping_add(count.min(self.filled()));
    }

    /// Takes up the position that the reader on the other side publishes.
    ///
    /// # Errors
    /// [`Impossible`] when it is not between head and tail; the cursor stays as it was.
    #[inline]
    pub fn follow_head(&mut self, claimed: u32) -> Result<(), Impossible> {
        if claimed.wrapping_sub(self.head) > self.filled() {
            return Err(Impossible { claimed, head: self.head, tail: self.tail });
        }
        self.head = claimed;
        Ok(())
    }

    /// Takes up the position that the writer on the other side publishes.
    ///
    /// # Errors
    /// [`Impossible`] when it went back, or ran further ahead than the ring is long; the cursor stays as it was.
    #[inline]
    pub fn follow_tail(&mut self, claimed: u32) -> Result<(), Impossible> {
        let filled = claimed.wrapping_sub(self.head);
        if filled < self.filled() || filled > self.capacity() {
            return Err(Impossible { claimed, head: self.head, tail: self.tail });
        }
        self.tail = claimed;
        Ok(())
    }

    /// The slot of a position: below the capacity, always.
    #[inline]
    #[must_use]
    pub const fn slot(&self, position: u32) -> usize {
        (position & self.mask) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The wrap is where rings break, so the model starts just before it.
    #[test]
    fn survives_the_wrap() {
        let mut cursor = Cursor::at(u32::MAX - 2, 8);
        cursor.fill(8);
        assert_eq!((cursor.filled(), cursor.vacant()), (8, 0));
        cursor.drain(5);
        assert_eq!((cursor.filled(), cursor.head(), cursor.slot(cursor.head())), (3, 2, 2));
    }

    #[test]
    fn a_lying_reader_is_not_believed() {
        let mut cursor = Cursor::at(u32::MAX - 1, 8);
        cursor.fill(4);
        let before = cursor;
        for claimed in
            [cursor.tail().wrapping_add(1), cursor.head().wrapping_sub(1), cursor.head() ^ 0x8000_0000]
        {
            assert!(cursor.follow_head(claimed).is_err(), "{claimed:#x}");
            assert_eq!(cursor, before);
        }
    }

    #[test]
    fn a_lying_writer_is_not_believed() {
        let mut cursor = Cursor::at(u32::MAX - 1, 8);
        cursor.fill(4);
        let before = cursor;
        for claimed in
            [cursor.head().wrapping_add(9), cursor.tail().wrapping_sub(1), cursor.head() ^ 0x8000_0000]
        {
            assert!(cursor.follow_tail(claimed).is_err(), "{claimed:#x}");
            assert_eq!(cursor, before);
        }
    }

    proptest! {
        /// Against a queue that cannot wrap: the same fill level, and each value comes out of the slot it went into.
        #[test]
        fn agrees_with_a_queue(back in 0u32..20, shift in 0u32..6, steps in prop::collection::vec((any::<bool>(), 0u32..40), 1..200)) {
            let capacity = 1 << shift;
            let mut cursor = Cursor::at(u32::MAX - back, capacity);
            let mut slots = vec![0u32; capacity as usize];
            let mut model = VecDeque::new();
            let mut next = 0;
            for (write, want) in steps {
                if write {
                    let count = want.min(cursor.vacant());
                    for i in 0..count {
                        slots[cursor.slot(cursor.tail().wrapping_add(i))] = next;
                        model.push_back(next);
                        next += 1;
                    }
                    cursor.fill(count);
                } else {
                    let count = want.min(cursor.filled());
                    for i in 0..count {
                        prop_assert_eq!(Some(slots[cursor.slot(cursor.head().wrapping_add(i))]), model.pop_front());
                    }
                    cursor.drain(count);
                }
                prop_assert_eq!(cursor.filled() as usize, model.len());
                prop_assert_eq!(cursor.vacant() + cursor.filled(), capacity);
            }
        }

        /// Whatever a peer claims, the fill invariant holds afterwards.
        #[test]
        fn no_claim_breaks_the_invariant(start: u32, shift in 0u32..12, claims in prop::collection::vec((any::<bool>(), any::<u32>()), 0..50)) {
            let mut cursor = Cursor::at(start, 1 << shift);
            for (head, claimed) in claims {
                let _ = if head { cursor.follow_head(claimed) } else { cursor.follow_tail(claimed) };
                prop_assert!(cursor.filled() <= cursor.capacity());
            }
        }
    }
}
