//! Counted, read-only slices of content, and packets that carry them.

use crate::arena::CONTENT_UNIT;
use crate::content::LENT;
use crate::frame::Frame;
use crate::ledger::Stray;
use crate::pool::{Pool, Unit};
use std::collections::VecDeque;
use std::fmt;

/// Pages behind one head frame at most: with the head they are the descriptors of one packet (`MAX_SKB_FRAGS + 1`,
/// `include/linux/skbuff.h`).
pub const PACKET_PAGES: usize = 17;

/// A read-only slice of the arena's content that stays as it is while anybody holds it; or of a file's own pages, which
/// only a device may read ([`bytes`](Self::bytes)).
///
/// Invariant **content**: the slice lies in the content or in the files behind it, and the unit that `start` lies in counts
/// this page. A page never reaches beyond the unit it starts in, so that one count per unit is exact.
pub struct Page<'p> {
    pool: &'p Pool,
    start: u32,
    len: u16,
}

/// Content cannot be written: somebody holds a page of it, or it does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentBusy;

impl Pool {
    /// A page of content: `len` bytes from `start`, within one unit of [`CONTENT_UNIT`] bytes; `None` outside of it.
    #[inline]
    pub fn page(&self, start: usize, len: usize) -> Option<Page<'_>> {
        let inside = start.checked_add(len).is_some_and(|end| end <= self.arena().content_bytes());
        if inside { self.count_page(start, len) } else { None }
    }

    /// A page of a file's own, see [`Arena::with_files`](crate::Arena::with_files): as above, but for devices' eyes only.
    #[inline]
    pub fn file_page(&self, start: usize, len: usize) -> Option<Page<'_>> {
        let files = self.arena().files();
        let inside = start >= files.start && start.checked_add(len).is_some_and(|end| end <= files.end);
        if inside { self.count_page(start, len) } else { None }
    }

    #[inline]
    fn count_page(&self, start: usize, len: usize) -> Option<Page<'_>> {
        if len > CONTENT_UNIT || start % CONTENT_UNIT + len > CONTENT_UNIT {
            return None;
        }
        // An empty page at the very end lies in no unit; and a count that is full stays so, which is that of a unit on
        // loan to a thread that fills it.
        let held = &self.units.get(start / CONTENT_UNIT)?.held;
        let (start, len) = (u32::try_from(start).ok()?, u16::try_from(len).ok()?);
        let count = held.get();
        if count >= LENT - 1 {
            return None;
        }
        held.set(count + 1);
        Some(Page { pool: self, start, len })
    }

    /// Lends a page to a device for sending; returns its offset in the arena. It stays counted until the device
    /// says it is done, see [`reclaim_page`](Self::reclaim_page).
    ///
    /// # Errors
    /// The page itself, when it belongs to another pool.
    #[inline]
    pub fn depart_page<'p>(&'p self, page: Page<'p>) -> Result<u64, Page<'p>> {
        if !core::ptr::eq(page.pool, self) {
            return Err(page);
        }
        let page = core::mem::ManuallyDrop::new(page);
        let on_loan = &page.unit().on_loan;
        on_loan.set(on_loan.get() + 1);
        Ok(page.offset())
    }

    /// Takes back a page that a device has sent, by the offset at which it begins.
    ///
    /// # Errors
    /// [`Stray`] when the offset is not content, or no page of that unit is on loan.
    #[inline]
    pub fn reclaim_page(&self, offset: u64) -> Result<(), Stray> {
        let start = offset.checked_sub(self.arena().content_start() as u64);
        let unit = start.and_then(|start| self.units.get(usize::try_from(start).ok()? / CONTENT_UNIT));
        match unit {
            Some(Unit { held, on_loan }) if on_loan.get() > 0 => {
                on_loan.set(on_loan.get() - 1);
                held.set(held.get() - 1);
                Ok(())
            }
            _ => Err(Stray::Unknown { offset }),
        }
    }

    /// Whether an offset in the arena lies behind the frames.
    #[inline]
    #[must_use]
    pub fn is_content(&self, offset: u64) -> bool {
        offset >= self.arena().content_start() as u64
    }

    /// Pages of content that devices have. For reports, not for turns.
    #[must_use]
    pub fn pages_on_loan(&self) -> u64 {
        self.units.iter().map(|unit| u64::from(unit.on_loan.get())).sum()
    }

    /// Gives up all pages that devices have; returns how many. Only when every device is gone for good.
    pub fn recall_pages(&self) -> u64 {
        let recalled = self.pages_on_loan();
        for unit in &self.units {
            unit.held.set(unit.held.get() - unit.on_loan.get());
            unit.on_loan.set(0);
        }
        recalled
    }
}

impl<'p> Page<'p> {
    /// The pool whose content it is.
    #[inline]
    #[must_use]
    pub const fn pool(&self) -> &'p Pool {
        self.pool
    }

    /// Offset of its first byte in the arena: how a device finds it.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.pool.arena().content_start() as u64 + u64::from(self.start)
    }

    /// How many bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is a file's own: the file may change or be cut off while we look, so that only a device, for which the
    /// kernel has pinned the page, may read it.
    #[inline]
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.start as usize >= self.pool.arena().content_bytes()
    }

    /// The bytes; `None` of a file's own page.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        if self.is_file() {
            return None;
        }
        let offset = self.pool.arena().content_start() + self.start as usize;
        // SAFETY: *content*: the offset lies in the arena.
        let start = unsafe { self.pool.arena().base().add(offset) };
        // SAFETY: *content*, and not *files*; while this page is counted the unit is not lent for writing
        // (`lend_content`), and devices only read what they are lent for sending.
        Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), usize::from(self.len)) })
    }

    fn unit(&self) -> &Unit {
        &self.pool.units[self.start as usize / CONTENT_UNIT]
    }
}

impl Clone for Page<'_> {
    fn clone(&self) -> Self {
        // Only forgotten clones bring it there; `Rc` aborts too.
        let held = self.unit().held.get() + 1;
        if held == LENT {
            std::process::abort();
        }
        self.unit().held.set(held);
        Self { ..*self }
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        self.unit().held.set(self.unit().held.get() - 1);
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("start", &self.start).field("len", &self.len).finish()
    }
}

/// A head frame and the pages behind it: what a queue that gathers sends as one packet.
#[derive(Debug)]
pub struct Packet<'p> {
    head: Frame<'p>,
    pages: [Option<Page<'p>>; PACKET_PAGES],
    count: u8,
}

impl<'p> Packet<'p> {
    /// A packet of its head alone.
    #[must_use]
    pub fn new(head: Frame<'p>) -> Self {
        Self { head, pages: [const { None }; PACKET_PAGES], count: 0 }
    }

    /// Puts a page behind what is there.
    ///
    /// # Errors
    /// The page itself, when there are [`PACKET_PAGES`].
    pub fn push(&mut self, page: Page<'p>) -> Result<(), Page<'p>> {
        let Some(place) = self.pages.get_mut(usize::from(self.count)) else { return Err(page) };
        *place = Some(page);
        self.count += 1;
        Ok(())
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Frame<'p> {
        &self.head
    }

    /// The head, to be changed.
    pub const fn head_mut(&mut self) -> &mut Frame<'p> {
        &mut self.head
    }

    /// The pages in order.
    pub fn pages(&self) -> impl Iterator<Item = &Page<'p>> {
        self.pages.iter().flatten()
    }

    /// Buffers: the head and each page.
    #[must_use]
    pub fn buffers(&self) -> usize {
        1 + usize::from(self.count)
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::from(self.head.len()) + self.pages().map(|page| page.len()).sum::<usize>()
    }

    /// Takes it apart.
    pub fn into_parts(self) -> (Frame<'p>, impl Iterator<Item = Page<'p>>) {
        (self.head, self.pages.into_iter().flatten())
    }
}

/// A queue of packets that wait to be gathered: room for one burst, never more.
///
/// Heads and pages lie in two queues, so that a packet without pages costs no more than its frame.
#[derive(Debug)]
pub struct Packets<'p> {
    /// Each head, and how many pages are behind it.
    heads: VecDeque<(Frame<'p>, u8)>,
    /// The pages of all, in order.
    pages: VecDeque<Page<'p>>,
}

/// The packet at the front of [`Packets`], as it lies there.
#[derive(Clone, Debug)]
pub struct Front<'q, 'p> {
    head: &'q Frame<'p>,
    /// The pages in order, in two pieces where the queue's memory ends.
    pages: (&'q [Page<'p>], &'q [Page<'p>]),
}

impl<'q, 'p> Front<'q, 'p> {
    /// The head.
    #[inline]
    #[must_use]
    pub const fn head(&self) -> &'q Frame<'p> {
        self.head
    }

    /// The pages in order.
    #[inline]
    pub fn pages(&self) -> impl Iterator<Item = &'q Page<'p>> + Clone + use<'q, 'p> {
        self.pages.0.iter().chain(self.pages.1)
    }

    /// Buffers: the head and each page.
    #[inline]
    #[must_use]
    pub const fn buffers(&self) -> usize {
        1 + self.pages.0.len() + self.pages.1.len()
    }

    /// Bytes in all.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::from(self.head.len()) + self.pages().map(|page| page.len()).sum::<usize>()
    }
}

impl<'p> Packets<'p> {
    /// An empty one; all its memory is allocated here.
    #[must_use]
    pub fn new() -> Self {
        let pages = VecDeque::with_capacity(crate::BURST * PACKET_PAGES);
        Self { heads: VecDeque::with_capacity(crate::BURST), pages }
    }

    /// Appends a packet.
    ///
    /// # Errors
    /// The packet itself, when [`BURST`](crate::BURST) wait already.
    #[expect(
        clippy::result_large_err,
        reason = "the packet goes back to its owner by move, not by allocation"
    )]
    pub fn push(&mut self, packet: Packet<'p>) -> Result<(), Packet<'p>> {
        if self.heads.len() == crate::BURST {
            return Err(packet);
        }
        self.heads.push_back((packet.head, packet.count));
        self.pages.extend(packet.pages.into_iter().flatten());
        Ok(())
    }

    /// Appends a packet of this head and the pages in `pages`, which is empty then.
    ///
    /// # Errors
    /// The head, and nothing has changed, when [`BURST`](crate::BURST) wait already or there are more than
    /// [`PACKET_PAGES`].
    #[inline]
    pub fn push_parts(&mut self, head: Frame<'p>, pages: &mut Vec<Page<'p>>) -> Result<(), Frame<'p>> {
        let count = match u8::try_from(pages.len()) {
            Ok(count) if pages.len() <= PACKET_PAGES && self.heads.len() < crate::BURST => count,
            _ => return Err(head),
        };
        self.heads.push_back((head, count));
        if count > 0 {
            self.pages.extend(pages.drain(..));
        }
        Ok(())
    }

    /// Takes the packet at the front.
    pub fn pop(&mut self) -> Option<Packet<'p>> {
        let (head, pages) = self.pop_parts()?;
        let mut packet = Packet::new(head);
        for page in pages {
            // As many as were pushed.
            drop(packet.push(page));
        }
        Some(packet)
    }

    /// Takes the packet at the front: its head, and its pages in order.
    #[inline]
    pub fn pop_parts(&mut self) -> Option<(Frame<'p>, impl Iterator<Item = Page<'p>>)> {
        let (head, count) = self.heads.pop_front()?;
        Some((head, self.pages.drain(..usize::from(count))))
    }

    /// The packet at the front.
    #[inline]
    #[must_use]
    pub fn front(&self) -> Option<Front<'_, 'p>> {
        let (head, count) = self.heads.front()?;
        let (first, second) = self.pages.as_slices();
        let here = &first[..first.len().min((*count).into())];
        let second = &second[..usize::from(*count) - here.len()];
        Some(Front { head, pages: (here, second) })
    }

    /// The head of the packet at the front, to be changed, and its pages.
    #[inline]
    #[must_use]
    pub fn front_mut(&mut self) -> Option<(&mut Frame<'p>, impl Iterator<Item = &Page<'p>> + Clone)> {
        let (head, count) = self.heads.front_mut()?;
        Some((head, self.pages.iter().take(usize::from(*count))))
    }

    /// How many wait.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether none waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

impl Default for Packets<'_> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaPlan, BURST};

    /// Packets with none, some and all pages come out as they went in, wherever the queues' memory ends.
    #[test]
    fn packets_keep_their_pages_round_the_queue() {
        let plan = ArenaPlan { frames: 256, frame_size: 2048, content_bytes: 1 << 20, huge_pages: false };
        let pool = Pool::new(Arena::new(&plan).expect("small"));
        let mut packets = Packets::new();
        let mut scratch = Vec::new();
        let (mut pushed, mut popped) = (0, 0);
        // A packet's number tells its pages: how many, and where each begins.
        let pages_of =
            |number: usize| (0..number % (PACKET_PAGES + 1)).map(move |i| (number % 60 + i) * 4096);
        for round in 0..400 {
            while packets.len() < BURST {
                scratch.extend(pages_of(pushed).map(|start| pool.page(start, 9).expect("content")));
                let mut head = pool.alloc().expect("free");
                head.extend(&pushed.to_ne_bytes()).expect("room");
                if pushed % 2 == 0 {
                    packets.push_parts(head, &mut scratch).expect("room");
                } else {
                    let mut packet = Packet::new(head);
                    scratch.drain(..).for_each(|page| packet.push(page).expect("room"));
                    packets.push(packet).expect("room");
                }
                assert!(scratch.is_empty());
                pushed += 1;
            }
            assert!(packets.push_parts(pool.alloc().expect("free"), &mut scratch).is_err(), "it is full");
            for _ in 0..=round % BURST {
                let content = pool.arena().content_start() as u64;
                let want: Vec<u64> = pages_of(popped).map(|start| content + start as u64).collect();
                let front = packets.front().expect("full");
                assert_eq!(**front.head(), popped.to_ne_bytes());
                assert_eq!(front.pages().map(Page::offset).collect::<Vec<_>>(), want);
                assert_eq!((front.buffers(), front.bytes()), (1 + want.len(), 8 + 9 * want.len()));
                let got: Vec<u64> = if popped % 3 == 0 {
                    packets.pop().expect("full").pages().map(Page::offset).collect()
                } else {
                    packets.pop_parts().expect("full").1.map(|page| page.offset()).collect()
                };
                assert_eq!(got, want);
                popped += 1;
            }
        }
        drop(packets);
        assert_eq!(pool.census().free, 256);
    }

    /// More pages than a packet may have are refused, and stay where they are.
    #[test]
    fn too_many_pages_stay_with_the_caller() {
        let plan = ArenaPlan { frames: 8, frame_size: 2048, content_bytes: 1 << 20, huge_pages: false };
        let pool = Pool::new(Arena::new(&plan).expect("small"));
        let mut pages: Vec<Page<'_>> = (0..=PACKET_PAGES).filter_map(|i| pool.page(i * 4096, 1)).collect();
        let mut packets = Packets::new();
        let head = packets.push_parts(pool.alloc().expect("free"), &mut pages);
        assert!(head.is_err() && packets.is_empty());
        assert_eq!(pages.len(), PACKET_PAGES + 1);
    }
}
