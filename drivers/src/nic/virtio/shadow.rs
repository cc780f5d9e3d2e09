//! What we posted, remembered where the device cannot write.
//!
//! A device says only "descriptor 7 is done". What that descriptor was stands here and nowhere else, and answers once.
//! Devices answer in the order of posting as a rule, so ids are given out round and round, and the next answer is known
//! before it comes: a burst is then one run of places. The first answer out of order ends that for good: ids come from a
//! list of free ones from then on, and are looked up one by one.

use super::ring::Batch;
use crate::error::Fault;
use ringbuf::{Frame, Pool, Shelf};

/// Pages of a packet whose head has a descriptor, at most.
const LISTED: usize = super::table::LONGEST - 1;

/// What is known of a descriptor beside its slot.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its page of content begins in the arena; [`NOWHERE`] when it has none.
    page: u64,
    /// The entry of the next buffer of the packet, or the next free one.
    next: u16,
    /// Buffers of the packet, in the entry of its first: 0 in the others.
    count: u16,
    /// Pages of the packet that are in its list.
    listed: u16,
}

/// No arena is as large.
const NOWHERE: u64 = u64::MAX;

/// An entry of a packet by itself: so are all that nobody has written to.
const PLAIN: Entry = Entry { page: NOWHERE, next: 0, count: 1, listed: 0 };

/// A table of all descriptors of one ring.
#[derive(Debug)]
pub(crate) struct Shadow<'p> {
    pool: &'p Pool,
    pub(super) shelf: Shelf<'p>,
    entries: Box<[Entry]>,
    /// Where the pages begin of a packet whose buffers are in a [table](super::table). Empty where there are none.
    lists: Box<[[u64; LISTED]]>,
    mask: u16,
    /// The device answers in the order of posting, so far.
    ordered: bool,
    /// Where the next id is, round and round; out of order, only their difference counts.
    next: u16,
    /// The oldest that is out.
    oldest: u16,
    /// Packets that are out and have several buffers, or a page.
    chains: u16,
    /// The first free one, out of order.
    free: u16,
}

impl<'p> Shadow<'p> {
    pub(crate) fn new(pool: &'p Pool, size: u16) -> Self {
        debug_assert!(size.is_power_of_two());
        Self {
            pool,
            shelf: Shelf::new(pool, size.into()),
            entries: vec![PLAIN; size.into()].into(),
            lists: Box::default(),
            mask: size - 1,
            ordered: true,
            next: 0,
            oldest: 0,
            chains: 0,
            free: 0,
        }
    }

    /// The same, for packets whose buffers are in tables.
    pub(crate) fn with_lists(pool: &'p Pool, size: u16) -> Self {
        let mut shadow = Self::new(pool, size);
        shadow.lists = vec![[NOWHERE; LISTED]; size.into()].into();
        shadow
    }

    /// Descriptors that the device has.
    #[inline]
    pub(crate) const fn lent(&self) -> u16 {
        self.next.wrapping_sub(self.oldest)
    }

    /// Descriptors that can be posted.
    #[inline]
    pub(crate) const fn vacant(&self) -> u16 {
        self.mask + 1 - self.lent()
    }

    /// Whether ids are given out round and round.
    #[inline]
    pub(crate) const fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Where a run of ids to be posted begins, and how long it may be: 0 out of order.
    #[inline]
    pub(crate) fn ahead(&self) -> (u16, u16) {
        let first = self.next & self.mask;
        (first, if self.ordered { self.vacant().min(self.mask + 1 - first) } else { 0 })
    }

    /// Where the run of ids begins that are answered next, and how long it may be: 0 when more must be known of them.
    #[inline]
    pub(crate) fn behind(&self) -> (u16, u16) {
        let first = self.oldest & self.mask;
        let plain = self.ordered && self.chains == 0;
        (first, if plain { self.lent().min(self.mask + 1 - first) } else { 0 })
    }

    /// The oldest descriptor that is out, in order.
    #[inline]
    pub(crate) const fn oldest(&self) -> u16 {
        self.oldest & self.mask
    }

    /// How many descriptors are done once this one is, of a device that answers in order.
    ///
    /// # Errors
    /// [`Fault::Completion`] when the device did not have it.
    #[inline]
    pub(crate) fn through(&self, id: u32) -> Result<u16, Fault> {
        let ahead = id.wrapping_sub(self.oldest.into()) & u32::from(self.mask);
        match u16::try_from(ahead) {
            Ok(ahead) if id <= self.mask.into() && ahead < self.lent() => Ok(ahead + 1),
            _ => Err(Fault::Completion { id }),
        }
    }

    /// Takes home what a device is done with that answers in order; returns how many packets and descriptors it was.
    ///
    /// # Errors
    /// [`Fault::Completion`] when the device did not have it all.
    #[inline]
    pub(crate) fn finish_batch(&mut self, batch: Batch) -> Result<(u16, u16), Fault> {
        if self.chains > 0 {
            return self.finish_chains(batch);
        }
        let count = match batch {
            Batch::Packets(count) if count <= self.lent() => count,
            Batch::Packets(_) => return Err(Fault::Completion { id: (self.next & self.mask).into() }),
            Batch::Through(id) => self.through(id)?,
        };
        let first = self.oldest();
        let straight = count.min(self.mask + 1 - first);
        self.shelf.home(first.into(), straight.into());
        if straight < count {
            self.shelf.home(0, (count - straight).into());
        }
        self.answered(count);
        Ok((count, count))
    }

    /// The same with packets of several buffers among them.
    #[cold]
    fn finish_chains(&mut self, batch: Batch) -> Result<(u16, u16), Fault> {
        let (mut packets, mut descriptors) = (0, 0);
        let all = match batch {
            Batch::Packets(_) => self.lent(),
            Batch::Through(id) => self.through(id)?,
        };
        loop {
            let at = self.oldest();
            if descriptors >= all {
                // It names a descriptor in the middle of a packet, or more packets than there are.
                return Err(Fault::Completion { id: at.into() });
            }
            descriptors += self.finish(at.into())?;
            packets += 1;
            if batch == Batch::Packets(packets) || batch == Batch::Through(at.into()) {
                return Ok((packets, descriptors));
            }
        }
    }

    /// A run has been put on the shelf and posted.
    #[inline]
    pub(crate) const fn posted(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
    }

    /// A run has been answered and taken off the shelf.
    #[inline]
    pub(crate) const fn answered(&mut self, count: u16) {
        self.oldest = self.oldest.wrapping_add(count);
    }

    /// An id of one more descriptor; the caller has asked [`vacant`](Self::vacant), and posts it.
    fn claim(&mut self) -> u16 {
        debug_assert!(self.vacant() > 0, "posting to a full ring");
        let id = if self.ordered { self.next & self.mask } else { self.free };
        let entry = &mut self.entries[usize::from(id)];
        self.free = entry.next;
        *entry = PLAIN;
        self.posted(1);
        id
    }

    /// An id for an empty slot, and where that begins in the arena; `None` without a free slot.
    pub(crate) fn claim_empty(&mut self) -> Option<(u16, u64)> {
        if self.pool.free() == 0 {
            return None;
        }
        let id = self.claim();
        let mut begin = 0;
        self.shelf.stock(id.into(), &[()], |(), offset| begin = offset);
        Some((id, begin))
    }

    /// An id for a frame of this pool.
    pub(crate) fn claim_frame(&mut self, frame: Frame<'p>) -> u16 {
        let id = self.claim();
        let put = self.shelf.put(id.into(), frame);
        debug_assert!(put.is_ok(), "a frame of this pool, on a place that was free");
        id
    }

    /// An id for a page of content that the device has.
    pub(crate) fn claim_page(&mut self, offset: u64) -> u16 {
        let id = self.claim();
        self.entries[usize::from(id)].page = offset;
        id
    }

    /// Where the pages of a packet of a single descriptor are noted, which the device has; then [`listed`](Self::listed).
    #[inline]
    pub(crate) fn list(&mut self, id: u16) -> &mut [u64] {
        self.lists.get_mut(usize::from(id)).map_or(&mut [], |list| &mut list[..])
    }

    /// So many were noted.
    #[inline]
    pub(crate) fn listed(&mut self, id: u16, count: u16) {
        self.entries[usize::from(id)].listed = count;
        self.chains += u16::from(count > 0);
    }

    /// Makes one packet of descriptors that were claimed one after the other.
    pub(crate) fn link(&mut self, ids: impl ExactSizeIterator<Item = u16> + Clone) {
        let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
        for ((place, id), next) in ids.clone().enumerate().zip(ids.clone().skip(1).chain([0])) {
            let entry = &mut self.entries[usize::from(id)];
            entry.next = next;
            entry.count = if place == 0 { count } else { 0 };
        }
        self.chains += u16::from(count > 1);
    }

    /// Whether the device has a packet that begins with this descriptor: its number in the table.
    fn packet(&self, id: u32) -> Result<usize, Fault> {
        let at = id as usize;
        let out = self
            .entries
            .get(at)
            .is_some_and(|entry| entry.count > 0 && (self.shelf.has(at) || entry.page != NOWHERE));
        if out { Ok(at) } else { Err(Fault::Completion { id }) }
    }

    /// Takes a filled buffer as a frame of `len` bytes from `head` on.
    ///
    /// # Errors
    /// [`Fault::Completion`] when the device did not have it, or [`Fault::Stray`] when it does not hold so much.
    pub(crate) fn take(&mut self, id: u32, head: u16, len: u32) -> Result<Frame<'p>, Fault> {
        let at = self.packet(id)?;
        let frame = self.shelf.take(at, head, len).ok_or(Fault::Completion { id })??;
        self.release(at);
        Ok(frame)
    }

    /// Takes a whole packet home that was sent; returns its buffers.
    ///
    /// # Errors
    /// [`Fault::Completion`] when the device did not have it.
    pub(crate) fn finish(&mut self, id: u32) -> Result<u16, Fault> {
        let mut at = self.packet(id)?;
        let Entry { count, listed, .. } = self.entries[at];
        self.chains -= u16::from(count > 1 || listed > 0);
        if listed > 0 {
            self.bring_list_home(at);
        }
        for _ in 0..count {
            let next = self.entries[at].next;
            self.bring_home(at);
            self.release(at);
            at = next.into();
        }
        Ok(count)
    }

    fn bring_home(&mut self, at: usize) {
        let page = core::mem::replace(&mut self.entries[at].page, NOWHERE);
        if page == NOWHERE {
            self.shelf.home(at, 1);
        } else {
            // An entry answers once, so the page was out.
            let _ = self.pool.reclaim_page(page);
        }
    }

    /// Takes home the pages of a packet whose buffers were in a table.
    fn bring_list_home(&mut self, at: usize) {
        let listed = core::mem::take(&mut self.entries[at].listed);
        for page in self.lists.get(at).into_iter().flatten().take(listed.into()) {
            // As above.
            let _ = self.pool.reclaim_page(*page);
        }
    }

    /// An id may be given out again.
    fn release(&mut self, at: usize) {
        if self.ordered && at != usize::from(self.oldest & self.mask) {
            self.disorder();
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an index of the table, which has at most 2^15 entries"
        )]
        let id = at as u16;
        self.entries[at] = Entry { next: self.free, ..PLAIN };
        self.free = id;
        self.oldest = self.oldest.wrapping_add(1);
    }

    /// From now on ids come from a list.
    #[cold]
    fn disorder(&mut self) {
        self.ordered = false;
        for place in (0..self.vacant()).rev() {
            let id = self.next.wrapping_add(place) & self.mask;
            self.entries[usize::from(id)].next = self.free;
            self.free = id;
        }
    }

    /// How many packets the device has.
    pub(crate) fn packets(&self) -> u64 {
        let out = |at: &usize| self.shelf.has(*at) || self.entries[*at].page != NOWHERE;
        (0..self.entries.len()).filter(out).filter(|at| self.entries[*at].count > 0).count() as u64
    }

    /// Takes everything back, from a device that is gone for good, and begins anew; returns how many packets it was.
    pub(crate) fn clear(&mut self) -> u64 {
        let packets = self.packets();
        for at in 0..self.entries.len() {
            if self.shelf.has(at) || self.entries[at].page != NOWHERE {
                self.bring_home(at);
                self.bring_list_home(at);
            }
            self.entries[at] = PLAIN;
        }
        (self.ordered, self.next, self.oldest, self.chains, self.free) = (true, 0, 0, 0, 0);
        packets
    }
}

impl Drop for Shadow<'_> {
    /// The shelf brings its slots home by itself; pages come home here.
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbuf::{Arena, ArenaPlan};

    /// In order, out of order, and in chains: each descriptor answers once.
    #[test]
    fn each_descriptor_answers_once() {
        let plan = ArenaPlan { frames: 16, frame_size: 2048, content_bytes: 1 << 16, huge_pages: false };
        let pool = Pool::new(Arena::new(&plan).expect("small"));
        let mut shadow = Shadow::new(&pool, 8);
        let (one, _) = shadow.claim_empty().expect("free");
        let frame = pool.alloc().expect("free");
        let page = pool.depart_page(pool.page(4096, 100).expect("content")).expect("ours");
        let (head, tail) = (shadow.claim_frame(frame), shadow.claim_page(page));
        shadow.link([head, tail].into_iter());
        assert_eq!((shadow.vacant(), shadow.lent(), pool.census().device), (5, 3, 2));
        assert_eq!(shadow.behind().1, 0, "there is a chain among them");
        assert_eq!(shadow.finish(one.into()), Ok(1));
        for id in [u32::from(one), tail.into(), 7, 8, u32::MAX] {
            assert_eq!(shadow.finish(id), Err(Fault::Completion { id }));
            assert!(shadow.take(id, 0, 1).is_err());
        }
        assert_eq!((shadow.finish(head.into()), pool.pages_on_loan()), (Ok(2), 0));
        assert!(shadow.finish(head.into()).is_err());
        assert_eq!((shadow.vacant(), shadow.ahead(), shadow.behind()), (8, (3, 5), (3, 0)));
        // All of the table, answered backwards: no run any more, and every id is given out again.
        for _ in 0..3 {
            let ids: Vec<u16> = (0..8).map(|_| shadow.claim_empty().expect("free").0).collect();
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            assert_eq!((sorted, shadow.vacant()), ((0..8).collect(), 0));
            for id in ids.iter().rev() {
                assert_eq!(shadow.take((*id).into(), 100, 60).expect("out").len(), 60);
                assert!(shadow.take((*id).into(), 100, 60).is_err());
            }
            assert_eq!((shadow.ahead().1, shadow.lent()), (0, 0));
        }
        assert!(shadow.claim_empty().is_some());
        assert_eq!((shadow.clear(), shadow.ahead()), (1, (0, 8)));
        assert_eq!(pool.census().free, 16);
    }
}
