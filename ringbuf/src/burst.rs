//! Up to sixty-four frames handled together.

use crate::cursor::Cursor;
use crate::frame::Frame;
use core::mem::MaybeUninit;
use std::fmt;

/// Frames in a full burst.
pub const BURST: usize = CAPACITY as usize;
const CAPACITY: u32 = 64;

/// A queue of at most [`BURST`] frames, in the order in which they came.
///
/// A packet in several frames lies in it as a run: all but its last say [`continues`](Frame::continues).
///
/// Invariant **filled**: exactly the slots between the cursor's head and tail hold a frame.
pub struct Burst<'p> {
    frames: [MaybeUninit<Frame<'p>>; BURST],
    cursor: Cursor,
}

impl<'p> Burst<'p> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { frames: [const { MaybeUninit::uninit() }; BURST], cursor: Cursor::at(0, CAPACITY) }
    }

    /// How many frames it holds.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.cursor.filled() as usize
    }

    /// Whether it holds none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cursor.filled() == 0
    }

    /// How many more fit.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        self.cursor.vacant() as usize
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame itself, when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame<'p>) -> Result<(), Frame<'p>> {
        if self.cursor.vacant() == 0 {
            return Err(frame);
        }
        let slot = self.cursor.slot(self.cursor.tail());
        self.frames[slot % BURST].write(frame);
        self.cursor.fill(1);
        Ok(())
    }

    /// Takes the frame at the front.
    #[inline]
    pub fn pop(&mut self) -> Option<Frame<'p>> {
        if self.cursor.filled() == 0 {
            return None;
        }
        let slot = self.cursor.slot(self.cursor.head());
        self.cursor.drain(1);
        // SAFETY: *filled*: the head's slot held a frame, and since the line above it counts as empty, so the frame
        // has one owner.
        Some(unsafe { self.frames[slot % BURST].assume_init_read() })
    }

    /// The frame `ahead` places behind the front.
    #[inline]
    #[must_use]
    pub fn peek(&self, ahead: usize) -> Option<&Frame<'p>> {
        if ahead >= self.len() {
            return None;
        }
        let slot = self.position(ahead);
        // SAFETY: *filled*: the position is below the tail.
        Some(unsafe { self.frames[slot].assume_init_ref() })
    }

    /// The same, to be changed in place.
    #[inline]
    #[must_use]
    pub fn peek_mut(&mut self, ahead: usize) -> Option<&mut Frame<'p>> {
        if ahead >= self.len() {
            return None;
        }
        let slot = self.position(ahead);
        // SAFETY: *filled*: the position is below the tail, and `&mut self` makes the reference unique.
        Some(unsafe { self.frames[slot].assume_init_mut() })
    }

    /// The slot of the frame `ahead` places behind the front; only for `ahead < len`.
    #[inline]
    const fn position(&self, ahead: usize) -> usize {
        (self.cursor.slot(self.cursor.head()) + ahead) % BURST
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
        let count = self.cursor.vacant().min(from.cursor.filled());
        for _ in 0..count {
            let source = from.cursor.slot(from.cursor.head()) % BURST;
            let target = self.cursor.slot(self.cursor.tail()) % BURST;
            from.cursor.drain(1);
            // A move in two halves: the source slot counts as empty before the target counts as filled.
            self.frames[target] = core::mem::replace(&mut from.frames[source], MaybeUninit::uninit());
            self.cursor.fill(1);
        }
        count as usize
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
