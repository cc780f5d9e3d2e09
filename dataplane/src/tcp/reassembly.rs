//! Bytes that came and are not the application's yet: unread ones, and those that came out of order.
//!
//! Blocks are of one pool. In a block, unread bytes come first, in order, then gaps and what came out of order:
//!
//! ```text
//!   at          at + unread = RCV.NXT
//!    | unread......|   gap   | range |  gap  | range |
//! ```

use super::segment::Block;
use super::seq::{Seq, length};

/// Ranges of one block that came out of order. More are not kept: each is a loss of its own.
const RANGES: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Where the unread bytes begin.
    at: u32,
    /// How many there are.
    unread: u32,
    ranges: [Block; RANGES],
    /// Those that grew last are last.
    count: u8,
}

const NOTHING: Held =
    Held { at: 0, unread: 0, ranges: [Block { start: Seq(0), end: Seq(0) }; RANGES], count: 0 };

/// The pool of blocks.
pub(crate) struct Buffers {
    bytes: Box<[u8]>,
    held: Vec<Held>,
    free: Vec<u32>,
    most: usize,
    size: u32,
}

impl Buffers {
    pub(crate) fn new(blocks: u32, size: u32) -> Self {
        let most = blocks as usize;
        // Zeroed memory of this size comes from the system untouched: a block costs nothing before it is used.
        let bytes = vec![0; most * size as usize].into_boxed_slice();
        Self { bytes, held: Vec::with_capacity(most), free: Vec::with_capacity(most), most, size }
    }

    /// An empty block.
    pub(crate) fn borrow(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None if self.held.len() == self.most => return None,
            None => {
                self.held.push(NOTHING);
                length(self.held.len() - 1)
            }
        };
        self.held[block as usize] = NOTHING;
        Some(block)
    }

    pub(crate) fn give_back(&mut self, block: u32) {
        self.free.push(block);
    }

    /// Blocks that connections hold.
    pub(crate) fn in_use(&self) -> usize {
        self.held.len() - self.free.len()
    }

    /// Bytes of a block.
    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    /// Unread bytes of a block.
    pub(crate) fn unread_len(&self, block: u32) -> u32 {
        self.held[block as usize].unread
    }

    /// Whether a block holds nothing.
    pub(crate) fn is_empty(&self, block: u32) -> bool {
        let held = &self.held[block as usize];
        held.unread == 0 && held.count == 0
    }

    /// The unread bytes.
    pub(crate) fn unread(&self, block: u32) -> &[u8] {
        let held = &self.held[block as usize];
        let start = block as usize * self.size as usize + held.at as usize;
        &self.bytes[start..start + held.unread as usize]
    }

    /// So many unread bytes were consumed.
    pub(crate) fn consume(&mut self, block: u32, bytes: u32) {
        let held = &mut self.held[block as usize];
        let bytes = bytes.min(held.unread);
        held.at += bytes;
        held.unread -= bytes;
        if held.unread == 0 && held.count == 0 {
            held.at = 0;
        }
    }

    /// Keeps bytes that begin `ahead` after RCV.NXT, which is `next`; zero is in order. Returns by how much RCV.NXT
    /// advances, and whether all was kept.
    pub(crate) fn keep(&mut self, block: u32, next: Seq, ahead: u32, bytes: &[u8]) -> (u32, bool) {
        let unread = self.held[block as usize].unread;
        let room = self.size.saturating_sub(unread).saturating_sub(ahead);
        let taken = length(bytes.len()).min(room);
        if taken == 0 {
            return (0, bytes.is_empty());
        }
        let range = Block { start: next.plus(ahead), end: next.plus(ahead).plus(taken) };
        if ahead > 0 && !self.add_range(block, range) {
            return (0, false);
        }
        self.write(block, unread + ahead, &bytes[..taken as usize]);
        let advance = if ahead == 0 { self.join_front(block, next, taken) } else { 0 };
        (advance, taken as usize == bytes.len())
    }

    fn write(&mut self, block: u32, offset: u32, bytes: &[u8]) {
        let held = &mut self.held[block as usize];
        let start = block as usize * self.size as usize;
        if held.at + offset + length(bytes.len()) > self.size {
            let whole = &mut self.bytes[start..start + self.size as usize];
            whole.copy_within(held.at as usize.., 0);
            held.at = 0;
        }
        let place = start + held.at as usize + offset as usize;
        self.bytes[place..place + bytes.len()].copy_from_slice(bytes);
    }

    /// `taken` in-order bytes were written at the front: they, and the ranges they reach, are unread now.
    fn join_front(&mut self, block: u32, next: Seq, taken: u32) -> u32 {
        let held = &mut self.held[block as usize];
        let mut end = next.plus(taken);
        let mut index = 0;
        while index < usize::from(held.count) {
            let range = held.ranges[index];
            if range.start.after(end) {
                index += 1;
                continue;
            }
            end = end.max(range.end);
            held.remove(index);
            index = 0;
        }
        let advance = end.bytes_since(next);
        held.unread += advance;
        advance
    }

    /// Adds a range to those of the block, joined with what it touches; false if there is no place for it.
    fn add_range(&mut self, block: u32, mut range: Block) -> bool {
        let held = &mut self.held[block as usize];
        let mut index = 0;
        while index < usize::from(held.count) {
            let other = held.ranges[index];
            if other.start.after(range.end) || range.start.after(other.end) {
                index += 1;
                continue;
            }
            range.start = if other.start.before(range.start) { other.start } else { range.start };
            range.end = range.end.max(other.end);
            held.remove(index);
        }
        let count = usize::from(held.count);
        if count == RANGES {
            return false;
        }
        held.ranges[count] = range;
        held.count += 1;
        true
    }

    /// The ranges, the one that grew last first (RFC 2018 section 4), written to `blocks`; how many.
    pub(crate) fn ranges(&self, block: u32, blocks: &mut [Block]) -> usize {
        let held = &self.held[block as usize];
        let count = usize::from(held.count);
        let ranges = &held.ranges[..count];
        // Newer ranges are behind older ones.
        let order = (0..count).rev().map(|back| ranges[back]);
        let mut written = 0;
        for (place, range) in blocks.iter_mut().zip(order) {
            *place = range;
            written += 1;
        }
        written
    }

    /// Whether all of these bytes are kept already.
    pub(crate) fn has(&self, block: u32, range: Block) -> bool {
        let held = &self.held[block as usize];
        let ranges = &held.ranges[..usize::from(held.count)];
        ranges.iter().any(|other| !range.start.before(other.start) && !range.end.after(other.end))
    }
}

impl Held {
    fn remove(&mut self, index: usize) {
        self.ranges.copy_within(index + 1..usize::from(self.count), index);
        self.count -= 1;
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers")
            .field("in_use", &self.in_use())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of a known stream in a random order, across the wrap: what is read is the stream.
    #[test]
    fn pieces_in_any_order_give_the_stream() {
        let mut random = 9u32;
        let mut draw = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for _ in 0..300 {
            let mut buffers = Buffers::new(1, 256);
            let block = buffers.borrow().expect("one");
            let origin = Seq(u32::MAX - 500);
            let stream: Vec<u8> = (0..2000u32).map(|i| (i * 7 % 251).try_into().expect("a byte")).collect();
            let (mut next, mut read) = (0u32, 0usize);
            for _ in 0..100_000 {
                if read == stream.len() {
                    break;
                }
                let ahead = if draw(3) == 0 { 0 } else { draw(200) };
                let start = (next + ahead) as usize;
                let end = (start + 1 + draw(60) as usize).min(stream.len());
                if start < end {
                    let (advance, _) = buffers.keep(block, origin.plus(next), ahead, &stream[start..end]);
                    next += advance;
                }
                let unread = buffers.unread(block);
                assert_eq!(unread, &stream[read..read + unread.len()]);
                assert_eq!(read + unread.len(), next as usize);
                let taken = draw(length(unread.len()) + 1);
                buffers.consume(block, taken);
                read += taken as usize;
            }
            assert_eq!(read, stream.len());
        }
    }

    #[test]
    fn rfc_2018_section_4_the_newest_range_is_named_first() {
        let mut buffers = Buffers::new(1, 1000);
        let block = buffers.borrow().expect("one");
        for ahead in [100, 300, 500] {
            buffers.keep(block, Seq(0), ahead, &[0; 50]);
        }
        buffers.keep(block, Seq(0), 150, &[0; 10]);
        let mut blocks = [Block::default(); 4];
        assert_eq!(buffers.ranges(block, &mut blocks), 3);
        assert_eq!(blocks[0], Block { start: Seq(100), end: Seq(160) });
        assert_eq!(blocks[1], Block { start: Seq(500), end: Seq(550) });
        assert!(buffers.has(block, Block { start: Seq(310), end: Seq(350) }));
        assert!(!buffers.has(block, Block { start: Seq(310), end: Seq(351) }));
    }

    #[test]
    fn blocks_are_bounded() {
        let mut buffers = Buffers::new(2, 16);
        let (a, b) = (buffers.borrow().expect("one"), buffers.borrow().expect("two"));
        assert_ne!(a, b);
        assert_eq!(buffers.borrow(), None);
        assert_eq!(buffers.keep(a, Seq(0), 0, &[1; 20]), (16, false), "what fits is kept");
        assert_eq!(buffers.keep(a, Seq(16), 0, &[1]), (0, false));
        buffers.give_back(a);
        let again = buffers.borrow().expect("given back");
        assert!(buffers.is_empty(again));
    }
}
