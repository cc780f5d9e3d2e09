//! What is in flight: runs of bytes with the time they were sent, from the oldest unacknowledged byte to the newest.
//!
//! ```text
//!      una                                             nxt
//!       | sent 10.0 | sacked | lost | again 10.4 | sent |
//! ```
//!
//! Bytes sent in one go are one run, so that even a large window is a few of them. Two runs live in the connection; for
//! more, a block is borrowed from a pool until all is acknowledged. When there is no room, neighbours are merged: then
//! less is known, never something wrong (RFC 2018 section 8 lets a sender forget what was sacked).

use super::seq::{Micros, low, narrow};
use super::timers::NOBODY;
use std::ops::Range;

/// Runs in the connection itself.
const HERE: usize = 2;
/// Runs of a block: with runs of 1/32 round trip, a window without loss.
const BLOCK: usize = 40;

const SACKED: u8 = 1;
const LOST: u8 = 2;
const AGAIN: u8 = 4;

#[derive(Clone, Copy, Debug)]
struct Run {
    /// When its last byte was sent last.
    sent: Micros,
    /// The low half of the stream offset after its last byte; it begins where the one before ends.
    end: u32,
    /// How much earlier its first byte was sent, in microseconds, and in the low three bits the flags.
    span_flags: u32,
}

const FLAG_BITS: u32 = 3;
const EMPTY: Run = Run { sent: 0, end: 0, span_flags: 0 };

impl Run {
    #[inline]
    fn new(end: u64, sent: Micros, span: u32, flags: u8) -> Self {
        let most = u32::MAX >> FLAG_BITS;
        Self { sent, end: low(end), span_flags: span.min(most) << FLAG_BITS | u32::from(flags) }
    }

    /// Its end, if it begins at `from`.
    #[inline]
    fn end(&self, from: u64) -> u64 {
        from + u64::from(self.end.wrapping_sub(low(from)))
    }

    #[inline]
    const fn has(&self, flag: u8) -> bool {
        self.span_flags & flag as u32 != 0
    }

    #[inline]
    const fn set(&mut self, flag: u8) {
        self.span_flags |= flag as u32;
    }

    #[inline]
    const fn clear(&mut self, flag: u8) {
        self.span_flags &= !(flag as u32);
    }

    #[inline]
    const fn flags(&self) -> u8 {
        (self.span_flags & ((1 << FLAG_BITS) - 1)) as u8
    }

    #[inline]
    const fn span(&self) -> u32 {
        self.span_flags >> FLAG_BITS
    }

    const fn piece(&self, start: u64, end: u64) -> Piece {
        Piece {
            start,
            end,
            sent: self.sent,
            again: self.has(AGAIN),
            sacked: self.has(SACKED),
            lost: self.has(LOST),
        }
    }
}

/// Blocks of runs, for all connections.
#[derive(Debug)]
pub(crate) struct Blocks {
    blocks: Vec<[Run; BLOCK]>,
    free: Vec<u32>,
    most: usize,
}

impl Blocks {
    pub(crate) fn new(most: u32) -> Self {
        let most = most as usize;
        Self { blocks: Vec::with_capacity(most), free: Vec::with_capacity(most), most }
    }

    fn borrow(&mut self) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            return Some(block);
        }
        if self.blocks.len() == self.most {
            return None;
        }
        self.blocks.push([EMPTY; BLOCK]);
        u32::try_from(self.blocks.len() - 1).ok()
    }

    fn give_back(&mut self, block: u32) {
        self.free.push(block);
    }

    /// Blocks that connections hold.
    pub(crate) fn held(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}

/// Bytes of one run that have just been acknowledged or sacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When it was sent last.
    pub(crate) sent: Micros,
    /// Whether it had been sent more than once.
    pub(crate) again: bool,
    /// Whether it had been sacked before.
    pub(crate) sacked: bool,
    /// Whether it had been taken for lost and not been sent again yet.
    pub(crate) lost: bool,
}

impl Piece {
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        narrow(self.end - self.start)
    }
}

/// What RACK knows of the segment sent most recently among those delivered (RFC 8985 section 5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) sent: Micros,
    pub(crate) end: u64,
}

/// The runs of one connection.
#[derive(Debug)]
pub(crate) struct Board {
    /// The oldest offset that is not acknowledged (SND.UNA).
    pub(crate) una: u64,
    /// The next offset to send (SND.NXT). A FIN takes the offset after the last byte.
    pub(crate) nxt: u64,
    here: [Run; HERE],
    block: u32,
    /// Bytes in runs that are lost, not yet sent again.
    lost: u32,
    /// Bytes in runs that are sacked.
    sacked: u32,
    len: u8,
}

#[inline]
fn place<'a>(here: &'a mut [Run; HERE], block: u32, blocks: &'a mut Blocks) -> &'a mut [Run] {
    if block == NOBODY { here } else { &mut blocks.blocks[block as usize] }
}

impl Board {
    pub(crate) const fn new() -> Self {
        Self { una: 0, nxt: 0, here: [EMPTY; HERE], block: NOBODY, lost: 0, sacked: 0, len: 0 }
    }

    /// Bytes sent and not acknowledged, FIN included.
    #[inline]
    pub(crate) fn outstanding(&self) -> u32 {
        narrow(self.nxt - self.una)
    }

    /// Bytes taken for lost that have not been sent again yet.
    #[inline]
    pub(crate) const fn lost(&self) -> u32 {
        self.lost
    }

    /// Bytes sacked.
    #[inline]
    pub(crate) const fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Bytes that should be in the network (RFC 6675 section 4: pipe).
    #[inline]
    pub(crate) fn pipe(&self) -> u32 {
        self.outstanding().saturating_sub(self.lost).saturating_sub(self.sacked)
    }

    #[inline]
    fn runs<'a>(&'a mut self, blocks: &'a mut Blocks) -> &'a mut [Run] {
        let len = usize::from(self.len);
        &mut place(&mut self.here, self.block, blocks)[..len]
    }

    /// New bytes were sent. What was sent up to `together` microseconds ago joins the run.
    #[inline]
    pub(crate) fn sent(&mut self, blocks: &mut Blocks, now: Micros, bytes: u32, together: u32) {
        self.nxt += u64::from(bytes);
        let nxt = low(self.nxt);
        match self.runs(blocks).last_mut() {
            // Of the same turn, as most are.
            Some(last) if last.sent == now && last.flags() == 0 => last.end = nxt,
            _ => self.sent_later(blocks, now, together),
        }
    }

    /// What was sent up to now does not simply belong to the last run.
    fn sent_later(&mut self, blocks: &mut Blocks, now: Micros, together: u32) {
        let nxt = self.nxt;
        if let Some(last) = self.runs(blocks).last_mut() {
            let span = narrow(now - last.sent).saturating_add(last.span());
            if last.flags() == 0 && span <= together {
                *last = Run::new(nxt, now, span, 0);
                return;
            }
        }
        self.make_room(blocks);
        let len = usize::from(self.len);
        place(&mut self.here, self.block, blocks)[len] = Run::new(nxt, now, 0, 0);
        self.len += 1;
    }

    /// All before `upto` is acknowledged; each piece of it is shown to `delivered`.
    pub(crate) fn acknowledge(&mut self, blocks: &mut Blocks, upto: u64, mut delivered: impl FnMut(&Piece)) {
        let (mut una, mut gone) = (self.una, 0);
        let (mut lost, mut sacked) = (0, 0);
        for run in self.runs(blocks) {
            if una >= upto {
                break;
            }
            let end = run.end(una);
            let piece = run.piece(una, end.min(upto));
            lost += if piece.lost { piece.bytes() } else { 0 };
            sacked += if piece.sacked { piece.bytes() } else { 0 };
            delivered(&piece);
            una = piece.end;
            gone += usize::from(una == end);
        }
        self.una = una;
        self.lost -= lost;
        self.sacked -= sacked;
        self.drop_first(blocks, gone);
    }

    fn drop_first(&mut self, blocks: &mut Blocks, gone: usize) {
        let runs = self.runs(blocks);
        if gone < runs.len() {
            runs.copy_within(gone.., 0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 40")]
        let left = (runs.len() - gone) as u8;
        self.len = left;
        if left == 0 {
            self.release(blocks);
        }
    }

    /// Forgets all runs, and gives the block back.
    pub(crate) fn release(&mut self, blocks: &mut Blocks) {
        (self.len, self.lost, self.sacked) = (0, 0, 0);
        if self.block != NOBODY {
            blocks.give_back(self.block);
            self.block = NOBODY;
        }
    }

    /// The peer has these bytes (RFC 2018). Pieces that it had not named before are shown to `delivered`.
    pub(crate) fn sack(
        &mut self,
        blocks: &mut Blocks,
        start: u64,
        end: u64,
        mut delivered: impl FnMut(&Piece),
    ) {
        let (start, end) = (start.max(self.una), end.min(self.nxt));
        if start >= end || self.knows_sacked(blocks, start, end) {
            return;
        }
        // Without room for the cuts the block is ignored: the peer will name it again.
        if !self.cut(blocks, start) || !self.cut(blocks, end) || !self.cut(blocks, start) {
            return;
        }
        let (mut from, mut lost, mut sacked) = (self.una, 0, 0);
        for run in self.runs(blocks) {
            let upto = run.end(from);
            if from >= start && upto <= end && !run.has(SACKED) {
                let piece = run.piece(from, upto);
                delivered(&piece);
                sacked += piece.bytes();
                lost += if piece.lost { piece.bytes() } else { 0 };
                run.clear(LOST);
                run.set(SACKED);
            }
            from = upto;
        }
        self.lost -= lost;
        self.sacked += sacked;
        self.join_alike(blocks);
    }

    fn knows_sacked(&mut self, blocks: &mut Blocks, start: u64, end: u64) -> bool {
        let mut from = self.una;
        for run in self.runs(blocks) {
            let upto = run.end(from);
            if from <= start && start < upto {
                return run.has(SACKED) && end <= upto;
            }
            from = upto;
        }
        false
    }

    /// Makes `at` a border between runs; false if there is no room for it.
    fn cut(&mut self, blocks: &mut Blocks, at: u64) -> bool {
        if at == self.una || self.runs(blocks).iter().any(|run| run.end == low(at)) {
            return true;
        }
        if !self.has_room(blocks) && !self.join_closest(blocks, Join::Alike) {
            return false;
        }
        self.insert_cut(blocks, at);
        true
    }

    /// Cuts the run around `at`; there is room.
    fn insert_cut(&mut self, blocks: &mut Blocks, at: u64) {
        let len = usize::from(self.len);
        let mut from = self.una;
        let runs = place(&mut self.here, self.block, blocks);
        let position = runs[..len].iter().position(|run| {
            from = run.end(from);
            from > at
        });
        let Some(index) = position else { return };
        runs.copy_within(index..len, index + 1);
        runs[index].end = low(at);
        self.len += 1;
    }

    /// Whether a run more fits, perhaps after a block has been borrowed.
    fn has_room(&mut self, blocks: &mut Blocks) -> bool {
        let len = usize::from(self.len);
        if len < place(&mut self.here, self.block, blocks).len() {
            return true;
        }
        if self.block != NOBODY {
            return false;
        }
        let Some(block) = blocks.borrow() else { return false };
        blocks.blocks[block as usize][..HERE].copy_from_slice(&self.here);
        self.block = block;
        true
    }

    fn make_room(&mut self, blocks: &mut Blocks) {
        if !self.has_room(blocks) && !self.join_closest(blocks, Join::Alike) {
            self.join_closest(blocks, Join::Any);
        }
    }

    /// Joins the two neighbours that were sent closest to each other.
    fn join_closest(&mut self, blocks: &mut Blocks, which: Join) -> bool {
        let runs = self.runs(blocks);
        let closest = (1..runs.len())
            .filter(|&i| which == Join::Any || runs[i - 1].flags() == runs[i].flags())
            .min_by_key(|&i| runs[i - 1].sent.abs_diff(runs[i].sent));
        if let Some(right) = closest {
            self.join(blocks, right);
        }
        closest.is_some()
    }

    /// Joins the run with the one before it. What is known of the whole is what is known of both: sacked if both are,
    /// lost if one is, sent when the later was.
    fn join(&mut self, blocks: &mut Blocks, right: usize) {
        let una = self.una;
        let runs = self.runs(blocks);
        let (a, b) = (runs[right - 1], runs[right]);
        let from = if right >= 2 { runs[right - 2].end } else { low(una) };
        let sent = a.sent.max(b.sent);
        let first = (a.sent - u64::from(a.span())).min(b.sent - u64::from(b.span()));
        let mut flags = (a.flags() | b.flags()) & AGAIN;
        if a.has(SACKED) && b.has(SACKED) {
            flags |= SACKED;
        } else if a.has(LOST) || b.has(LOST) {
            flags |= LOST;
        }
        runs[right - 1] = Run { end: b.end, ..Run::new(0, sent, narrow(sent - first), flags) };
        runs.copy_within(right + 1.., right);
        self.len -= 1;
        let count = |run: &Run, which: u8, bytes: u32| if run.has(which) { bytes } else { 0 };
        let (bytes_a, bytes_b) = (a.end.wrapping_sub(from), b.end.wrapping_sub(a.end));
        let after = |which: u8| if flags & which == 0 { 0 } else { bytes_a + bytes_b };
        let before = |which: u8| count(&a, which, bytes_a) + count(&b, which, bytes_b);
        self.lost = self.lost + after(LOST) - before(LOST);
        self.sacked = self.sacked + after(SACKED) - before(SACKED);
    }

    /// Joins neighbours for which the time they were sent doesn't matter any more: sacked ones, lost ones.
    fn join_alike(&mut self, blocks: &mut Blocks) {
        let mut right = 1;
        while right < usize::from(self.len) {
            let runs = self.runs(blocks);
            let (a, b) = (runs[right - 1].flags(), runs[right].flags());
            if a == b && a & (SACKED | LOST) != 0 || a & b & SACKED != 0 {
                self.join(blocks, right);
            } else {
                right += 1;
            }
        }
    }

    /// Takes for lost what was sent so long before `newest` that it should have been delivered: at least `wait`
    /// microseconds ago (RFC 8985 section 6.2, step 5). Returns when to look again.
    pub(crate) fn detect_lost(
        &mut self,
        blocks: &mut Blocks,
        newest: Newest,
        wait: u32,
        now: Micros,
    ) -> Option<Micros> {
        let (mut from, mut lost, mut again) = (self.una, 0, None);
        for run in self.runs(blocks) {
            let end = run.end(from);
            let start = std::mem::replace(&mut from, end);
            let sent_before = run.sent < newest.sent || run.sent == newest.sent && end < newest.end;
            if run.has(SACKED | LOST) || !sent_before {
                continue;
            }
            let due = run.sent + u64::from(wait);
            if due <= now {
                run.set(LOST);
                lost += narrow(end - start);
            } else {
                again = again.max(Some(due));
            }
        }
        if lost > 0 {
            self.lost += lost;
            self.join_alike(blocks);
        }
        again
    }

    /// Takes for lost the bytes before `upto` that are not sacked: the first segment, when it is known to be gone.
    pub(crate) fn mark_lost(&mut self, blocks: &mut Blocks, upto: u64) {
        let upto = upto.min(self.nxt);
        if upto < self.nxt && !self.cut(blocks, upto) {
            self.make_room(blocks);
            self.insert_cut(blocks, upto);
        }
        let (mut from, mut lost) = (self.una, 0);
        for run in self.runs(blocks) {
            let end = run.end(from);
            if end > upto {
                break;
            }
            if !run.has(SACKED | LOST) {
                run.set(LOST);
                lost += narrow(end - from);
            }
            from = end;
        }
        self.lost += lost;
        self.join_alike(blocks);
    }

    /// Whether the oldest byte was sacked, and yet is not acknowledged: the peer has changed its mind
    /// (RFC 2018 section 8).
    pub(crate) fn reneged(&mut self, blocks: &mut Blocks) -> bool {
        self.runs(blocks).first().is_some_and(|run| run.has(SACKED))
    }

    /// Forgets what was sacked (RFC 2018 section 8).
    pub(crate) fn forget_sacks(&mut self, blocks: &mut Blocks) {
        for run in self.runs(blocks) {
            run.clear(SACKED);
        }
        self.sacked = 0;
    }

    /// Takes back that anything is lost: it was only late.
    pub(crate) fn forget_lost(&mut self, blocks: &mut Blocks) {
        for run in self.runs(blocks) {
            run.clear(LOST);
        }
        self.lost = 0;
    }

    /// The first bytes that are lost, at most so many.
    pub(crate) fn next_lost(&mut self, blocks: &mut Blocks, most: u32) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        let mut from = self.una;
        let (start, end) = self.runs(blocks).iter().find_map(|run| {
            let end = run.end(from);
            let start = std::mem::replace(&mut from, end);
            run.has(LOST).then_some((start, end))
        })?;
        Some((start, end.min(start + u64::from(most.max(1)))))
    }

    /// The bytes of [`next_lost`](Self::next_lost) were sent again.
    pub(crate) fn sent_again(&mut self, blocks: &mut Blocks, bytes: Range<u64>, now: Micros, together: u32) {
        let Some(index) = self.cut_front(blocks, &bytes, now) else { return };
        let runs = self.runs(blocks);
        let run = &mut runs[index];
        let was_lost = run.has(LOST);
        *run = Run { end: run.end, ..Run::new(0, now, 0, AGAIN) };
        self.lost -= if was_lost { narrow(bytes.end - bytes.start) } else { 0 };
        if index > 0 {
            let before = self.runs(blocks)[index - 1];
            let span = narrow(now - before.sent).saturating_add(before.span());
            if before.flags() == AGAIN && span <= together {
                self.join(blocks, index);
            }
        }
    }

    /// Makes the front of a lost run a run of its own, and returns its place. Without room for it the run before takes
    /// it in (then nothing is left to do), or the run behind is taken for lost too; either way the next call is about
    /// later bytes.
    fn cut_front(&mut self, blocks: &mut Blocks, bytes: &Range<u64>, now: Micros) -> Option<usize> {
        let mut from = low(self.una);
        let runs = self.runs(blocks);
        let index = runs.iter().position(|run| std::mem::replace(&mut from, run.end) == low(bytes.start))?;
        if runs[index].end == low(bytes.end) {
            return Some(index);
        }
        if !self.has_room(blocks) {
            if index > 0 {
                self.move_border(blocks, index, bytes, now);
                return None;
            }
            self.join(blocks, 1);
        }
        self.insert_cut(blocks, bytes.end);
        Some(index)
    }

    /// The run before `index` takes in the first bytes of it.
    fn move_border(&mut self, blocks: &mut Blocks, index: usize, bytes: &Range<u64>, now: Micros) {
        let una = low(self.una);
        let runs = self.runs(blocks);
        let from = if index >= 2 { runs[index - 2].end } else { una };
        let before = runs[index - 1];
        let forgotten = if before.has(SACKED) { before.end.wrapping_sub(from) } else { 0 };
        runs[index - 1] = Run::new(bytes.end, now, 0, AGAIN);
        self.sacked -= forgotten;
        self.lost -= narrow(bytes.end - bytes.start);
    }

    /// The last bytes, from `start`, were sent again as a tail loss probe.
    pub(crate) fn tail_sent_again(&mut self, blocks: &mut Blocks, start: u64, now: Micros) {
        // If they cannot be cut out, the whole run counts as sent again: then it measures nothing.
        self.cut(blocks, start);
        if let Some(run) = self.runs(blocks).last_mut() {
            *run = Run { end: run.end, ..Run::new(0, now, 0, run.flags() | AGAIN) };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    /// Runs with the same flags: only times are blurred.
    Alike,
    /// Any two.
    Any,
}
