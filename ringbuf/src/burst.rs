//! Up to sixty-four frames handled together.

use crate::frame::Frame;
use crate::pool::Gate;
use core::mem::MaybeUninit;
use std::fmt;

/// Frames in a full burst.
pub const BURST: usize = 64;

/// A queue of at most [`BURST`] frames, in the order in which they came.
///
/// A packet in several frames lies in it as a run: all but its last say [`continues`](Frame::continues).
///
/// ```text
///        head          tail
///   . . . # # # # # # # . . .      # a frame; they lie side by side, so a burst is a slice
/// ```
///
/// Invariant **filled**: `head <= tail <= BURST`, and exactly the places from head to tail hold a frame.
pub struct Burst<'p> {
    frames: [MaybeUninit<Frame<'p>>; BURST],
    /// As short as the positions of a ring, so that what is counted here needs no narrowing there.
    head: u32,
    tail: u32,
}

/// Bytes of a line of the cache, on all that we run on.
const LINE: usize = 64;

impl<'p> Burst<'p> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { frames: [const { MaybeUninit::uninit() }; BURST], head: 0, tail: 0 }
    }

    /// How many frames it holds.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Whether it holds none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// How many more fit.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        (narrow(BURST) - (self.tail - self.head)) as usize
    }

    /// The frames, front first.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Frame<'p>] {
        // SAFETY: *filled*: the places from head to tail lie in the array.
        let first = unsafe { self.frames.as_ptr().add(self.head as usize) };
        // SAFETY: *filled*: they hold frames; a `MaybeUninit` is laid out as its content.
        unsafe { core::slice::from_raw_parts(first.cast(), self.len()) }
    }

    /// Reads of each frame what the headers of its packet fill, before anybody looks at the first: lines that another core or
    /// a device has written come into the cache all at once then, and not each when it is its turn.
    #[inline]
    pub fn warm(&self) {
        let lines = |frame: &Frame<'p>| [0, LINE].map(|at| frame.get(at).copied().unwrap_or(0));
        let read = self.as_slice().iter().flat_map(lines).fold(0, |sum: u8, byte| sum ^ byte);
        core::hint::black_box(read);
    }

    /// The frames, front first, to be changed in place.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Frame<'p>] {
        let len = self.len();
        // SAFETY: as in `as_slice`.
        let first = unsafe { self.frames.as_mut_ptr().add(self.head as usize) };
        // SAFETY: as in `as_slice`, and `&mut self` makes the reference unique.
        unsafe { core::slice::from_raw_parts_mut(first.cast(), len) }
    }

    /// Moves the frames to the start of the array, so that all room is behind them.
    #[inline]
    fn close_up(&mut self) {
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        } else if self.head > 0 {
            let (head, len) = (self.head as usize, self.len());
            let base = self.frames.as_mut_ptr();
            // SAFETY: *filled*: the place lies in the array.
            let first = unsafe { base.add(head) };
            // SAFETY: *filled*: `len` frames begin there, and `copy` allows the ranges to overlap. What stays behind
            // the new tail counts as empty, so each frame has one owner.
            unsafe { core::ptr::copy(first, base, len) };
            (self.head, self.tail) = (0, self.tail - self.head);
        }
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame itself, when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame<'p>) -> Result<(), Frame<'p>> {
        if self.tail as usize == BURST {
            self.close_up();
        }
        match self.frames.get_mut(self.tail as usize) {
            Some(place) => {
                place.write(frame);
                self.tail += 1;
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// Appends what `turn` makes of each of `items`, until it makes nothing of one, or either side is used up; returns
    /// how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what `turn` holds stays in registers")]
    pub fn fill_from<T>(&mut self, items: &[T], mut turn: impl FnMut(&T) -> Option<Frame<'p>>) -> u32 {
        self.close_up();
        let Some(places) = self.frames.get_mut(self.tail as usize..) else { return 0 };
        let filled = narrow(step_by_step(places, items, |place, item| match turn(item) {
            Some(frame) => {
                place.write(frame);
                true
            }
            None => false,
        }));
        // Should `turn` panic, the frames so far are forgotten, not dropped twice.
        self.tail += filled;
        filled
    }

    /// Takes the frame at the front.
    #[inline]
    pub fn pop(&mut self) -> Option<Frame<'p>> {
        if self.is_empty() {
            return None;
        }
        let place = self.head as usize;
        self.head += 1;
        // SAFETY: *filled*: the head's place held a frame, and since the line above it counts as empty, so the frame
        // has one owner.
        Some(unsafe { self.frames[place].assume_init_read() })
    }

    /// Lends frames from the front to a device, and fills `places` with what `describe` makes of each one's first
    /// offset and length; until one is not `fit` or [cannot pass](Gate) or either side is used up. Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `fill_from`")]
    pub fn depart_into<T, const SHIFT: u32>(
        &mut self,
        gate: &Gate<'p, SHIFT>,
        places: &mut [T],
        fit: impl Fn(&Frame<'p>) -> bool,
        mut describe: impl FnMut(u64, u16) -> T,
    ) -> u32 {
        let head = self.head;
        let frames: *const [Frame<'p>] = self.as_slice();
        // Should `fit` or `describe` panic, all frames are forgotten: those that departed are not ours to drop.
        self.head = self.tail;
        // SAFETY: *filled*: they were there when the head was at the first, and nothing was moved or written since.
        let frames = unsafe { &*frames };
        let departed = narrow(step_by_step(places, frames, |place, frame| {
            if !fit(frame) {
                return false;
            }
            let Some(offset) = gate.depart(frame) else { return false };
            *place = describe(offset, frame.len());
            true
        }));
        // Those in front are forgotten: by the ledger they are the device's.
        self.head = head + departed;
        departed
    }

    /// As [`fill_from`](Self::fill_from), with something that changes `beside` each item.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `fill_from`")]
    pub(crate) fn fill_beside<B, T>(
        &mut self,
        beside: &mut [B],
        items: &[T],
        mut turn: impl FnMut(&mut B, &T) -> Option<Frame<'p>>,
    ) -> u32 {
        self.close_up();
        let Some(places) = self.frames.get_mut(self.tail as usize..) else { return 0 };
        let filled = narrow(three_by_three(places, beside, items, |place, beside, item| {
            let Some(frame) = turn(beside, item) else { return false };
            place.write(frame);
            true
        }));
        // As in `fill_from`.
        self.tail += filled;
        filled
    }

    /// Takes frames from the front that `turn` agrees to keep in its own way: they are forgotten here. Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `fill_from`")]
    pub(crate) fn drain_beside<B, T>(
        &mut self,
        beside: &mut [B],
        items: &[T],
        mut turn: impl FnMut(&mut B, &T, &Frame<'p>) -> bool,
    ) -> u32 {
        let head = self.head;
        let frames: *mut [Frame<'p>] = self.as_mut_slice();
        // As in `depart_into`.
        self.head = self.tail;
        // SAFETY: *filled*: they were there when the head was at the first, nothing was moved or written since, and
        // `&mut self` makes the reference unique.
        let frames = unsafe { &mut *frames };
        let gone =
            narrow(three_by_three(frames, beside, items, |frame, beside, item| turn(beside, item, frame)));
        // Those in front are forgotten: `turn` has their slots.
        self.head = head + gone;
        gone
    }

    /// The frame `ahead` places behind the front.
    #[inline]
    #[must_use]
    pub fn peek(&self, ahead: usize) -> Option<&Frame<'p>> {
        self.as_slice().get(ahead)
    }

    /// The same, to be changed in place.
    #[inline]
    #[must_use]
    pub fn peek_mut(&mut self, ahead: usize) -> Option<&mut Frame<'p>> {
        self.as_mut_slice().get_mut(ahead)
    }

    /// Frames of the packet at the front: 0 when there is none, or when its last frame is not here.
    #[inline]
    #[must_use]
    pub fn packet_frames(&self) -> usize {
        let mut frames = 0;
        while let Some(frame) = self.peek(frames) {
            frames += 1;
            if !frame.continues() {
                return frames;
            }
        }
        0
    }

    /// Gives the packet at the front back to its pool, in however many frames; returns how many it had. One whose last
    /// frame is not here goes as far as it is here.
    #[inline]
    pub fn drop_packet(&mut self) -> usize {
        let mut dropped = 0;
        while let Some(frame) = self.pop() {
            dropped += 1;
            if !frame.continues() {
                break;
            }
        }
        dropped
    }

    /// Moves frames from the front of `from` to the back of this one until either end is reached; returns how many.
    #[inline]
    pub fn append(&mut self, from: &mut Self) -> usize {
        let count = self.room().min(from.len());
        if self.tail as usize + count > BURST {
            self.close_up();
        }
        // SAFETY: *filled* of `from`: that many frames begin at its head.
        let source = unsafe { from.frames.as_ptr().add(from.head as usize) };
        // SAFETY: there is room for that many behind the tail.
        let target = unsafe { self.frames.as_mut_ptr().add(self.tail as usize) };
        // SAFETY: both ranges lie in their arrays, which `&mut` keeps apart. They count as empty there and as filled
        // here from the next line on, and nothing in between can panic.
        unsafe { core::ptr::copy_nonoverlapping(source, target, count) };
        from.head += narrow(count);
        self.tail += narrow(count);
        count
    }

    /// Takes the frames one after the other.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Frame<'p>> + '_ {
        core::iter::from_fn(move || self.pop())
    }

    /// Gives all frames back to their pool.
    #[inline]
    pub fn clear(&mut self) {
        while let Some(frame) = self.pop() {
            drop(frame);
        }
    }
}

/// A number of frames.
#[expect(clippy::cast_possible_truncation, reason = "at most `BURST`")]
const fn narrow(count: usize) -> u32 {
    count as u32
}

/// Does `step` with the first of both sides, the second, and so on, until it says no or a side is used up; returns how
/// often it said yes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what `step` holds stays in registers")]
fn step_by_step<A, B>(to: &mut [A], from: &[B], mut step: impl FnMut(&mut A, &B) -> bool) -> usize {
    let count = to.len().min(from.len());
    // By eights, so that the loop's own steps are shared; then one by one.
    let ((eights, rest), (from_eights, from_rest)) =
        (to[..count].as_chunks_mut::<8>(), from[..count].as_chunks::<8>());
    let mut done = 0;
    for (to, from) in eights.iter_mut().zip(from_eights) {
        for (to, from) in to.iter_mut().zip(from) {
            if !step(to, from) {
                return done;
            }
            done += 1;
        }
    }
    for (to, from) in rest.iter_mut().zip(from_rest) {
        if !step(to, from) {
            break;
        }
        done += 1;
    }
    done
}

/// The same with three sides.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what `step` holds stays in registers")]
pub(crate) fn three_by_three<A, B, C>(
    a: &mut [A],
    b: &mut [B],
    c: &[C],
    mut step: impl FnMut(&mut A, &mut B, &C) -> bool,
) -> usize {
    let count = a.len().min(b.len()).min(c.len());
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a[..count].as_chunks_mut::<8>(), b[..count].as_chunks_mut::<8>(), c[..count].as_chunks::<8>());
    let mut done = 0;
    for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
        for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
            if !step(a, b, c) {
                return done;
            }
            done += 1;
        }
    }
    for ((a, b), c) in a_rest.iter_mut().zip(b_rest).zip(c_rest) {
        if !step(a, b, c) {
            break;
        }
        done += 1;
    }
    done
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Burst<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).filter_map(|i| self.peek(i))).finish()
    }
}
