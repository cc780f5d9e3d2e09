//! Up to sixty-four frames handled together.

use crate::frame::Frame;
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
    head: usize,
    tail: usize,
}

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
        self.tail - self.head
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
        BURST - self.len()
    }

    /// The frames, front first.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Frame<'p>] {
        // SAFETY: *filled*: the places from head to tail lie in the array.
        let first = unsafe { self.frames.as_ptr().add(self.head) };
        // SAFETY: *filled*: they hold frames; a `MaybeUninit` is laid out as its content.
        unsafe { core::slice::from_raw_parts(first.cast(), self.len()) }
    }

    /// The frames, front first, to be changed in place.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Frame<'p>] {
        let len = self.len();
        // SAFETY: as in `as_slice`.
        let first = unsafe { self.frames.as_mut_ptr().add(self.head) };
        // SAFETY: as in `as_slice`, and `&mut self` makes the reference unique.
        unsafe { core::slice::from_raw_parts_mut(first.cast(), len) }
    }

    /// Moves the frames to the start of the array, so that all room is behind them.
    #[inline]
    fn close_up(&mut self) {
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        } else if self.head > 0 {
            let len = self.len();
            let base = self.frames.as_mut_ptr();
            // SAFETY: *filled*: the place lies in the array.
            let first = unsafe { base.add(self.head) };
            // SAFETY: *filled*: `len` frames begin there, and `copy` allows the ranges to overlap. What stays behind
            // the new tail counts as empty, so each frame has one owner.
            unsafe { core::ptr::copy(first, base, len) };
            (self.head, self.tail) = (0, len);
        }
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame itself, when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame<'p>) -> Result<(), Frame<'p>> {
        if self.tail == BURST {
            self.close_up();
        }
        match self.frames.get_mut(self.tail) {
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
    pub fn fill_from<T>(&mut self, items: &[T], mut turn: impl FnMut(&T) -> Option<Frame<'p>>) -> usize {
        self.close_up();
        let Some(places) = self.frames.get_mut(self.tail..) else { return 0 };
        let count = places.len().min(items.len());
        // By fours, so that the loop's own steps are shared; then one by one.
        let ((fours, rest), (item_fours, item_rest)) =
            (places[..count].as_chunks_mut::<4>(), items[..count].as_chunks::<4>());
        let mut filled = 0;
        'all: {
            for (places, items) in fours.iter_mut().zip(item_fours) {
                for (place, item) in places.iter_mut().zip(items) {
                    let Some(frame) = turn(item) else { break 'all };
                    place.write(frame);
                    filled += 1;
                }
            }
            for (place, item) in rest.iter_mut().zip(item_rest) {
                let Some(frame) = turn(item) else { break 'all };
                place.write(frame);
                filled += 1;
            }
        }
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
        let place = self.head;
        self.head += 1;
        // SAFETY: *filled*: the head's place held a frame, and since the line above it counts as empty, so the frame
        // has one owner.
        Some(unsafe { self.frames[place].assume_init_read() })
    }

    /// Turns frames from the front into what `places` holds, until `turn` gives one back, which stays in front, or
    /// either side is used up; returns how many.
    #[inline(always)] // as in `fill_from`
    pub fn turn_into<T>(
        &mut self,
        places: &mut [T],
        mut turn: impl FnMut(Frame<'p>) -> Result<T, Frame<'p>>,
    ) -> usize {
        /// Puts the head where it belongs, also should `turn` panic: a frame that was handed over is not ours any more.
        struct Head<'b> {
            home: &'b mut usize,
            taken: usize,
        }
        impl Drop for Head<'_> {
            fn drop(&mut self) {
                *self.home += self.taken;
            }
        }
        let filled = self.head..self.tail;
        let mut head = Head { home: &mut self.head, taken: 0 };
        let Some(frames) = self.frames.get_mut(filled) else { return 0 };
        let count = frames.len().min(places.len());
        let mut step = |frame: &mut MaybeUninit<Frame<'p>>, place: &mut T| {
            head.taken += 1;
            // SAFETY: *filled*: the place holds a frame, and since the line above it counts as empty.
            match turn(unsafe { frame.assume_init_read() }) {
                Ok(value) => {
                    *place = value;
                    true
                }
                Err(given_back) => {
                    frame.write(given_back);
                    head.taken -= 1;
                    false
                }
            }
        };
        // By fours, as in `fill_from`.
        let ((fours, rest), (place_fours, place_rest)) =
            (frames[..count].as_chunks_mut::<4>(), places[..count].as_chunks_mut::<4>());
        for (frames, places) in fours.iter_mut().zip(place_fours) {
            for (frame, place) in frames.iter_mut().zip(places) {
                if !step(frame, place) {
                    return head.taken;
                }
            }
        }
        for (frame, place) in rest.iter_mut().zip(place_rest) {
            if !step(frame, place) {
                break;
            }
        }
        head.taken
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
        if self.tail + count > BURST {
            self.close_up();
        }
        // SAFETY: *filled* of `from`: that many frames begin at its head.
        let source = unsafe { from.frames.as_ptr().add(from.head) };
        // SAFETY: there is room for that many behind the tail.
        let target = unsafe { self.frames.as_mut_ptr().add(self.tail) };
        // SAFETY: both ranges lie in their arrays, which `&mut` keeps apart. They count as empty there and as filled
        // here from the next line on, and nothing in between can panic.
        unsafe { core::ptr::copy_nonoverlapping(source, target, count) };
        from.head += count;
        self.tail += count;
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
