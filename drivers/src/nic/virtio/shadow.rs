//! What we posted, remembered where the device cannot write.
//!
//! A device says only "descriptor 7 is done". What that descriptor was is looked up here and nowhere else, and an entry
//! answers once.

use crate::error::Fault;

/// One posted descriptor.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its buffer begins in the arena; [`NOBODY`] while the device does not have it.
    offset: u64,
    /// The entry of the next buffer of the packet, or the next free one.
    next: u16,
    /// Buffers of the packet, in the entry of its first.
    count: u16,
}

/// No arena is as large, so the pool refuses it without a question of its own.
const NOBODY: u64 = u64::MAX;

/// A table of all descriptors of one ring.
#[derive(Debug)]
pub(crate) struct Shadow {
    entries: Box<[Entry]>,
    free: u16,
    vacant: u16,
}

impl Shadow {
    pub(crate) fn new(size: u16) -> Self {
        let entries = (0..size).map(|i| Entry { offset: NOBODY, next: i + 1, count: 0 });
        Self { entries: entries.collect(), free: 0, vacant: size }
    }

    /// Descriptors that can be posted.
    #[inline]
    pub(crate) const fn vacant(&self) -> u16 {
        self.vacant
    }

    /// Descriptors that the device has.
    #[inline]
    pub(crate) fn lent(&self) -> usize {
        self.entries.len() - usize::from(self.vacant)
    }

    /// Notes a buffer as posted, the first of `count`; the caller has asked [`vacant`](Self::vacant).
    #[inline]
    pub(crate) fn post(&mut self, offset: u64, count: u16) -> u16 {
        debug_assert!(self.vacant > 0, "posting to a full ring");
        let id = self.free;
        // Free entries are linked below the size while there are any; the one after the last is never looked at.
        if let Some(entry) = self.entries.get_mut(usize::from(id)) {
            self.free = entry.next;
            entry.offset = offset;
            entry.count = count;
            self.vacant -= 1;
        }
        id
    }

    /// Links a buffer to the one behind it.
    pub(crate) fn link(&mut self, id: u16, next: u16) {
        self.entries[usize::from(id)].next = next;
    }

    /// Takes back a packet of one buffer: where that begins.
    ///
    /// # Errors
    /// [`Fault::Completion`] when there is no such descriptor or the device did not have it.
    #[inline]
    pub(crate) fn take(&mut self, id: u32) -> Result<u64, Fault> {
        match self.entries.get_mut(id as usize) {
            Some(entry) if entry.count == 1 => {
                let offset = entry.offset;
                self.give_back(id as usize);
                Ok(offset)
            }
            _ => Err(Fault::Completion { id }),
        }
    }

    /// Takes back a whole packet; `done` sees where each of its buffers begins. Returns how many they were.
    ///
    /// # Errors
    /// As [`take`](Self::take), and what `done` says.
    #[inline]
    pub(crate) fn take_all(
        &mut self,
        id: u32,
        mut done: impl FnMut(u64) -> Result<(), Fault>,
    ) -> Result<u16, Fault> {
        let count = self.entries.get(id as usize).map_or(0, |entry| entry.count);
        if count == 1 {
            let offset = self.take(id)?;
            return done(offset).map(|()| 1);
        }
        if count == 0 {
            return Err(Fault::Completion { id });
        }
        let mut at = id as usize;
        for _ in 0..count {
            let Entry { offset, next, .. } = self.entries[at];
            self.give_back(at);
            done(offset)?;
            at = next.into();
        }
        Ok(count)
    }

    /// Takes back everything, from a device that is gone for good; `home` sees where each buffer begins. Returns how many
    /// packets they were.
    pub(crate) fn clear(&mut self, mut home: impl FnMut(u64)) -> u64 {
        let mut packets = 0;
        for at in 0..self.entries.len() {
            let Entry { offset, count, .. } = self.entries[at];
            if offset != NOBODY {
                packets += u64::from(count > 0);
                home(offset);
                self.give_back(at);
            }
        }
        packets
    }

    #[inline]
    fn give_back(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.offset = NOBODY;
        entry.count = 0;
        entry.next = self.free;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an index of the table, which has at most 2^15 entries"
        )]
        let at = at as u16;
        self.free = at;
        self.vacant += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_descriptor_answers_once() {
        let mut shadow = Shadow::new(4);
        let one = shadow.post(100, 1);
        let (head, tail) = (shadow.post(200, 2), shadow.post(300, 0));
        shadow.link(head, tail);
        assert_eq!((shadow.vacant(), shadow.lent()), (1, 3));
        assert_eq!(shadow.take(one.into()), Ok(100));
        for id in [u32::from(one), tail.into(), head.into(), 4, u32::MAX] {
            assert_eq!(shadow.take(id), Err(Fault::Completion { id }));
        }
        let mut seen = Vec::new();
        let mut done = |offset| {
            seen.push(offset);
            Ok(())
        };
        assert_eq!(shadow.take_all(tail.into(), &mut done), Err(Fault::Completion { id: tail.into() }));
        assert_eq!(shadow.take_all(head.into(), &mut done), Ok(2));
        assert!(shadow.take_all(head.into(), &mut done).is_err());
        assert_eq!((seen, shadow.vacant()), (vec![200, 300], 4));
    }
}
