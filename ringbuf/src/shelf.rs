//! Slots that a device has and never names: it says "the third is done", and which slot that is stands here.
//!
//! ```text
//!   free stack ──stock──►┌───────┐──arrive──► burst        empty buffers out, filled ones in
//!                        │ shelf │
//!   burst ──────depart──►└───────┘──home────► free stack   packets out, their slots home
//!                            │ survey, take_over
//!                            └────────────────► another shelf: packets out as they came in
//! ```
//!
//! A ring whose device answers with places of our own choice needs no ledger: the number of the slot never leaves this
//! memory, so it is as true as when it was written. While a slot is on a shelf its ledger entry says that it is at home,
//! which no device's loan is.
//!
//! `SHIFT` is the logarithm of the slots' size, for a loop that is compiled for this size, or 0 for one that takes any;
//! nothing passes where it is another's.
//!
//! Invariant **place**: a place holds a slot of the pool that is neither on the free stack nor
//! a frame nor on another place, or `EMPTY`; what takes the slot away leaves `EMPTY` behind.

use crate::burst::{BURST, Burst, three_by_three};
use crate::frame::Frame;
use crate::ledger::{FREE, Slot, Stray, THREAD};
use crate::pool::{Numbers, Pool};

/// No pool has so many slots, so a look into the ledger finds it out without a question of its own.
const EMPTY: u32 = u32::MAX;

/// The places of one ring of one device. Dropped, it takes its slots home: the device must be gone by then.
#[derive(Debug)]
pub struct Shelf<'p> {
    pool: &'p Pool,
    places: Box<[u32]>,
}

/// Filled slots that lie side by side on a shelf, and how many bytes each holds. They are on their way to another shelf, and
/// stay where they are if that one does not take them.
#[derive(Debug)]
pub struct Lot<'a> {
    pool: &'a Pool,
    places: &'a mut [u32],
    lens: &'a [u16],
}

impl Lot<'_> {
    /// How many slots.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }
}

impl<'p> Shelf<'p> {
    /// `size` empty places.
    #[must_use]
    pub fn new(pool: &'p Pool, size: usize) -> Self {
        Self { pool, places: vec![EMPTY; size].into() }
    }

    /// Puts free slots on empty places, from `first` on, one for each of `items`, until a side is used up; `describe` sees
    /// the offset where each slot begins. Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what `describe` holds stays in registers")]
    pub fn stock<T>(&mut self, first: usize, items: &[T], mut describe: impl FnMut(&T, u64)) -> usize {
        let Some(places) = self.places.get_mut(first..) else { return 0 };
        let count = items.len().min(places.len());
        let slots = self.pool.take_free(count);
        let shift = self.pool.shift();
        let places = &mut places[..slots.len()];
        debug_assert!(places.iter().all(|place| *place == EMPTY), "a place for one slot");
        // By itself, this loop goes by vectors.
        places.iter_mut().zip(slots).for_each(|(place, slot)| *place = slot.get());
        both(places, items, |slot, item| describe(item, u64::from(*slot) << shift));
        places.len()
    }

    /// Takes filled slots off the places from `first` on, while `judge` says of the item beside each how many bytes it
    /// holds from `start` on, and `plain` approves of the `N` bytes in front of the packet. Frames of those packets, without
    /// the `N` bytes, go to the burst. Stops in front of what is empty, too long or not approved of: that place is as it
    /// was. Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `stock`")]
    pub fn arrive<T, const SHIFT: u32, const N: usize>(
        &mut self,
        burst: &mut Burst<'p>,
        first: usize,
        items: &[T],
        start: u16,
        mut judge: impl FnMut(&T) -> Option<u32>,
        plain: impl Fn(&[u8; N]) -> bool,
    ) -> u32 {
        let pool = self.pool;
        let Some(Numbers { holders, shift, base }) = pool.numbers::<SHIFT>() else { return 0 };
        let front = u64::from(start) + N as u64;
        // One comparison below finds both ends: a length of just the header wraps to the largest number.
        let Some(most) = u32::from(pool.frame_size()).checked_sub(u32::from(start) + short::<N>()) else {
            return 0;
        };
        let Some(places) = self.places.get_mut(first..) else { return 0 };
        burst.fill_beside(places, items, |place, item| {
            let bytes = judge(item)?.wrapping_sub(short::<N>());
            if bytes.wrapping_sub(1) >= most {
                return None;
            }
            let holder = holders.get(*place as usize)?;
            let offset = (u64::from(*place) << shift) + front;
            // SAFETY: *place*: the slot is one of the arena's, and the bytes from `start` on lie in it, as was seen above.
            let before = unsafe { base.add(address(offset - N as u64)) }.cast::<[u8; N]>();
            // SAFETY: *place*: the slot is ours alone.
            if !plain(unsafe { before.as_ref() }) {
                return None;
            }
            debug_assert_eq!(holder.get(), FREE, "a slot on a shelf is nobody else's");
            holder.set(THREAD);
            *place = EMPTY;
            Some(Frame::at(pool, offset, bytes.into()))
        })
    }

    /// Puts the frames at the front of the burst on empty places, from `first` on, while each is a packet by itself, of this
    /// pool, with nothing undone, at least one byte and at most `limit`, and `N` bytes of room in front. Those become zero, and are written to if they are not or `always`;
    /// `describe` sees the offset where they begin and how many they are with the packet. Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `stock`")]
    pub fn depart<T, const SHIFT: u32, const N: usize>(
        &mut self,
        burst: &mut Burst<'p>,
        first: usize,
        items: &[T],
        (limit, always): (u32, bool),
        mut describe: impl FnMut(&T, u64, u32),
    ) -> u32 {
        let pool = self.pool;
        let Some(Numbers { holders, shift, base }) = pool.numbers::<SHIFT>() else { return 0 };
        let within = (1_u64 << shift) - 1;
        let Some(places) = self.places.get_mut(first..) else { return 0 };
        burst.drain_beside(places, items, |place, item, frame| {
            let len = u32::from(frame.len());
            if len.wrapping_sub(1) >= limit || !core::ptr::eq(frame.pool(), pool) {
                return false;
            }
            // A flag on top makes it lie behind every slot.
            let offset = frame.tag();
            let Ok(slot) = usize::try_from(offset >> shift) else { return false };
            let Some(holder) = holders.get(slot) else { return false };
            if offset & within < N as u64 {
                return false;
            }
            let offset = offset - N as u64;
            // SAFETY: *bounds* of the frame: its slot is one of the arena's, and the `N` bytes in front lie in it as well.
            let before = unsafe { base.add(address(offset)) }.cast::<[u8; N]>();
            // Only if they are not, unless they never are: a line that nobody writes stays in both caches.
            // SAFETY: *bounds*: the slot is ours alone.
            if always || !is_zero(&unsafe { before.read() }) {
                // SAFETY: *bounds*: as above.
                unsafe { before.write([0; N]) };
            }
            debug_assert_eq!((holder.get(), *place), (THREAD, EMPTY), "a frame is its thread's");
            holder.set(FREE);
            #[expect(clippy::cast_possible_truncation, reason = "a slot's number, as the ledger knows")]
            let slot = slot as u32;
            *place = slot;
            describe(item, offset, len + short::<N>());
            true
        })
    }

    /// Looks at filled slots on the places from `first` on, while `judge` says of the item beside each how many bytes it holds
    /// from `start` on, and these are `N` that `plain` approves of, and a packet of `shortest` bytes at least. The `N` bytes
    /// become zero. The slots stay there; `lens` is for what `judge` said.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `stock`")]
    pub fn survey<'a, T, const SHIFT: u32, const N: usize>(
        &'a mut self,
        first: usize,
        items: &[T],
        (start, shortest): (u16, u16),
        lens: &'a mut [u16; BURST],
        mut judge: impl FnMut(&T) -> Option<u32>,
        plain: impl Fn(&[u8; N]) -> bool,
    ) -> Lot<'a> {
        let pool = self.pool;
        let places = self.places.get_mut(first..).unwrap_or_default();
        let beside = items.len().min(places.len());
        let places = &mut places[..beside];
        // Most often none is empty, which is seen by vectors.
        let full = if places.contains(&EMPTY) {
            places.iter().take_while(|place| **place != EMPTY).count()
        } else {
            places.len()
        };
        let places = &mut places[..full];
        let least = u32::from(shortest.max(1)) + short::<N>();
        let most = u32::from(pool.frame_size()).checked_sub(u32::from(start) + least);
        let mut count = 0;
        if let (Some(Numbers { shift, base, .. }), Some(most)) = (pool.numbers::<SHIFT>(), most) {
            count = three_by_three(&mut lens[..], places, items, |len, place, item| {
                let Some(bytes) = judge(item) else { return false };
                // One comparison finds both ends.
                if bytes.wrapping_sub(least) > most {
                    return false;
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "at most a slot's 2^15 bytes, as was seen"
                )]
                let short = bytes as u16;
                *len = short;
                let offset = (u64::from(*place) << shift) + u64::from(start);
                // SAFETY: *place*: not empty, so the slot is one of the arena's, and the bytes from `start` on lie in it, as was
                // seen above.
                let before = unsafe { base.add(address(offset)) }.cast::<[u8; N]>();
                // SAFETY: *place*: the slot is ours alone.
                let front = unsafe { before.read() };
                if !is_zero(&front) {
                    if !plain(&front) {
                        return false;
                    }
                    // SAFETY: *place*: as above.
                    unsafe { before.write([0; N]) };
                }
                true
            });
        }
        Lot { pool, places: &mut places[..count], lens: &lens[..count] }
    }

    /// Takes filled slots over from another shelf of this pool to empty places from `first` on, while none holds more than
    /// `limit`; `describe` sees the offset where each slot begins, and its bytes. What it has taken is gone from the lot.
    /// Returns how many.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `stock`")]
    pub fn take_over<T>(
        &mut self,
        first: usize,
        lot: &mut Lot<'_>,
        items: &[T],
        limit: u32,
        mut describe: impl FnMut(&T, u64, u32),
    ) -> usize {
        let Some(places) = self.places.get_mut(first..) else { return 0 };
        if !core::ptr::eq(self.pool, lot.pool) {
            return 0;
        }
        let count = lot.len().min(places.len()).min(items.len());
        // As in `survey`.
        let limit = u16::try_from(limit).unwrap_or(u16::MAX);
        let count = if lot.lens[..count].iter().fold(0, |most, len| most.max(*len)) > limit {
            lot.lens.iter().take_while(|len| **len <= limit).count().min(count)
        } else {
            count
        };
        let (from, from_rest) = core::mem::take(&mut lot.places).split_at_mut(count);
        let (lens, lens_rest) = lot.lens.split_at(count);
        (lot.places, lot.lens) = (from_rest, lens_rest);
        let (places, shift) = (&mut places[..count], self.pool.shift());
        debug_assert!(places.iter().all(|place| *place == EMPTY), "a place for one slot");
        places.copy_from_slice(from);
        from.fill(EMPTY);
        let (eights, rest) = places.as_chunks::<8>();
        let (lens_eights, lens_rest) = lens.as_chunks::<8>();
        let (items_eights, items_rest) = items[..count].as_chunks::<8>();
        for ((slots, lens), items) in eights.iter().zip(lens_eights).zip(items_eights) {
            for ((slot, len), item) in slots.iter().zip(lens).zip(items) {
                describe(item, u64::from(*slot) << shift, (*len).into());
            }
        }
        for ((slot, len), item) in rest.iter().zip(lens_rest).zip(items_rest) {
            describe(item, u64::from(*slot) << shift, (*len).into());
        }
        count
    }

    /// Takes the slots of `count` places home, from `first` on, whoever has filled or read them; returns how many there
    /// were in front of an empty place.
    #[inline]
    pub fn home(&mut self, first: usize, count: usize) -> usize {
        let end = first.saturating_add(count).min(self.places.len());
        let Some(places) = self.places.get_mut(first..end) else { return 0 };
        let full = if places.contains(&EMPTY) {
            places.iter().take_while(|place| **place != EMPTY).count()
        } else {
            places.len()
        };
        let (full, _) = places.split_at_mut(full);
        self.pool.give_free(full);
        full.fill(EMPTY);
        full.len()
    }

    /// Whether there is a slot.
    #[inline]
    #[must_use]
    pub fn has(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|slot| *slot != EMPTY)
    }

    /// Takes one filled slot as a frame of `len` bytes from `head` on; `None` when there is none.
    ///
    /// # Errors
    /// [`Stray`] when the slot does not hold so many bytes; it stays then.
    pub fn take(&mut self, place: usize, head: u16, len: u32) -> Option<Result<Frame<'p>, Stray>> {
        let at = self.places.get_mut(place).filter(|slot| **slot != EMPTY)?;
        let slot = Slot(*at);
        if u64::from(head) + u64::from(len) > u64::from(self.pool.frame_size())
            || head >= self.pool.frame_size()
        {
            return Some(Err(Stray::OutOfBounds { slot, head: head.into(), len }));
        }
        *at = EMPTY;
        self.pool.ledger.hand_between(slot, FREE, THREAD);
        Some(Ok(Frame::at(self.pool, self.pool.offset(slot) + u64::from(head), len.into())))
    }

    /// Puts one frame on an empty place.
    ///
    /// # Errors
    /// The frame, when it is another pool's or the place is not empty.
    pub fn put(&mut self, place: usize, frame: Frame<'p>) -> Result<(), Frame<'p>> {
        let Some(at) = self.places.get_mut(place).filter(|slot| **slot == EMPTY) else { return Err(frame) };
        if !core::ptr::eq(frame.pool(), self.pool) {
            return Err(frame);
        }
        let slot = frame.into_slot();
        self.pool.ledger.hand_between(slot, THREAD, FREE);
        *at = slot.0;
        Ok(())
    }
}

/// Whether there is nothing in it: by words, not by bytes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as in `stock`")]
fn is_zero<const N: usize>(front: &[u8; N]) -> bool {
    let (eights, rest) = front.as_chunks::<8>();
    let (fours, rest) = rest.as_chunks::<4>();
    let eights = eights.iter().fold(0, |all, eight| all | u64::from_ne_bytes(*eight));
    let fours = fours.iter().fold(0, |all, four| all | u32::from_ne_bytes(*four));
    eights | u64::from(fours) | rest.iter().fold(0, |all, byte| all | u64::from(*byte)) == 0
}

/// Does `step` with the first of both sides, the second, and so on, until the first side is used up.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as in `stock`")]
fn both<A, B>(a: &[A], b: &[B], mut step: impl FnMut(&A, &B)) {
    // By eights, so that the loop's own steps are shared.
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b[..a.len()].as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        a.iter().zip(b).for_each(|(a, b)| step(a, b));
    }
    a_rest.iter().zip(b_rest).for_each(|(a, b)| step(a, b));
}

/// Bytes of what lies in front of a packet.
#[expect(clippy::cast_possible_truncation, reason = "a header of some bytes")]
const fn short<const N: usize>() -> u32 {
    N as u32
}

/// An offset in the arena.
#[expect(clippy::cast_possible_truncation, reason = "what lies in the arena has an address, so it fits")]
const fn address(offset: u64) -> usize {
    offset as usize
}

impl Drop for Shelf<'_> {
    fn drop(&mut self) {
        for place in 0..self.places.len() {
            self.home(place, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaPlan};

    fn pool(frame_size: u32) -> Pool {
        let plan = ArenaPlan { frames: 64, frame_size, content_bytes: 0, huge_pages: false };
        Pool::new(Arena::new(&plan).expect("small"))
    }

    /// Round and round: what departs is what was sent, what arrives is what lies there, and every slot comes home.
    #[test]
    fn slots_go_round() {
        for frame_size in [512, 2048, 4096] {
            let pool = pool(frame_size);
            {
                let (mut out, mut into) = (Shelf::new(&pool, 32), Shelf::new(&pool, 32));
                let mut burst = Burst::new();
                for round in 0..20_u16 {
                    let first = usize::from(round % 20);
                    let mut begins = Vec::new();
                    assert_eq!(into.stock(first, &[(); 12], |(), offset| begins.push(offset)), 12);
                    assert_eq!(pool.census().device, 12);
                    let lens: Vec<u32> = (1..=12).collect();
                    let taken = into.arrive::<_, 0, 12>(
                        &mut burst,
                        first,
                        &lens,
                        100,
                        |len| Some(len + 12),
                        |_: &[u8; 12]| true,
                    );
                    assert_eq!((taken, burst.len(), pool.census().device), (12, 12, 0));
                    for ((frame, begin), len) in burst.as_slice().iter().zip(&begins).zip(1..) {
                        assert_eq!((frame.offset(), frame.len()), (begin + 112, len));
                    }
                    let mut said = Vec::new();
                    let sent = out.depart::<_, 0, 12>(
                        &mut burst,
                        first,
                        &[(); 12],
                        (60, round % 2 == 0),
                        |(), at, len| said.push((at, len)),
                    );
                    assert_eq!((sent, burst.len(), pool.census().device), (12, 0, 12));
                    for ((said, begin), len) in said.iter().zip(&begins).zip(1..) {
                        assert_eq!(*said, (begin + 100, len + 12));
                    }
                    assert_eq!(out.home(first, 20), 12);
                    assert_eq!((out.home(first, 12), pool.census().free), (0, 64), "each place answers once");
                }
                assert_eq!(into.stock(0, &[(); 40], |(), _| ()), 32, "as many as there are places");
                assert_eq!(out.stock(3, &[(); 29], |(), _| ()), 29);
            }
            assert_eq!(pool.census().free, 64, "a shelf that goes takes its slots home");
        }
    }

    /// From one shelf to another: what is short, long, has a header or is not there stops the lot, and stays.
    #[test]
    fn slots_go_from_shelf_to_shelf() {
        let (pool, other) = (pool(512), pool(512));
        {
            let (mut from, mut to) = (Shelf::new(&pool, 16), Shelf::new(&pool, 16));
            let mut begins = Vec::new();
            from.stock(0, &[(); 8], |(), offset| begins.push(offset));
            let mut lens = [0; BURST];
            for (said, want) in [
                ([72, 72, 71], 2),
                ([412, 413, 72], 1),
                ([0, 72, 72], 0),
                ([72, u32::MAX, 72], 1),
                ([72, 72, 72], 3),
            ] {
                let lot = from.survey::<_, 0, 12>(0, &said, (100, 60), &mut lens, |len| Some(*len), |_| true);
                assert_eq!((lot.len(), lot.is_empty()), (want, want == 0), "{said:?}");
            }
            let mut stranger = Shelf::new(&other, 16);
            let mut lot = from.survey::<_, 0, 12>(
                0,
                &[72, 80, 90, 72],
                (100, 60),
                &mut lens,
                |len| Some(*len),
                |_| true,
            );
            assert_eq!(stranger.take_over(0, &mut lot, &[(); 8], 500, |(), _, _| ()), 0, "of another pool");
            let mut said = Vec::new();
            assert_eq!(to.take_over(3, &mut lot, &[(); 1], 80, |(), at, len| said.push((at, len))), 1);
            assert_eq!(to.take_over(4, &mut lot, &[(); 8], 80, |(), at, len| said.push((at, len))), 1);
            assert_eq!((lot.len(), said), (2, vec![(begins[0], 72), (begins[1], 80)]));
            assert!(!from.has(0) && !from.has(1) && from.has(2) && to.has(3) && to.has(4) && !to.has(5));
            // An empty place, and a packet with something in front.
            let lot = from.survey::<_, 0, 12>(1, &[72], (100, 60), &mut lens, |len| Some(*len), |_| true);
            assert!(lot.is_empty());
            let mut frame = from.take(2, 100, 72).expect("there").expect("fits");
            frame[11] = 1;
            assert!(from.put(2, frame).is_ok());
            for (approved, want) in [(false, 0), (true, 1), (false, 1)] {
                let plain = |front: &[u8; 12]| approved && front[11] == 1;
                let lot = from.survey::<_, 0, 12>(2, &[72], (100, 60), &mut lens, |len| Some(*len), plain);
                assert_eq!(lot.len(), want, "it is zero once it was approved of");
            }
            assert_eq!((pool.census().device, to.home(3, 2), pool.census().device), (8, 2, 6));
        }
        assert_eq!((pool.census().free, other.census().free), (64, 64));
    }

    /// What is empty, too long, too short or not approved of stops the loop and stays where it is.
    #[test]
    fn what_cannot_be_stays_on_its_place() {
        let pool = pool(512);
        let mut shelf = Shelf::new(&pool, 8);
        shelf.stock(0, &[(); 4], |(), _| ());
        let mut burst = Burst::new();
        for (first, len, approved, want) in [
            (0, 12, true, 0),
            (0, 0, true, 0),
            (0, 413, true, 0),
            (0, u32::MAX, true, 0),
            (0, 60, false, 0),
            (4, 60, true, 0),
            (9, 60, true, 0),
            (0, 412, true, 1),
            (0, 60, true, 0),
            (1, 13, true, 1),
        ] {
            let taken = shelf.arrive::<_, 0, 12>(
                &mut burst,
                first,
                &[len],
                100,
                |len| Some(*len),
                |_: &[u8; 12]| approved,
            );
            assert_eq!(taken, want, "{first} {len} {approved}");
        }
        assert_eq!(burst.drain().map(|frame| frame.len()).collect::<Vec<_>>(), [400, 1]);
        assert!(shelf.take(0, 0, 1).is_none() && shelf.take(8, 0, 1).is_none());
        assert!(matches!(shelf.take(2, 100, 413), Some(Err(Stray::OutOfBounds { .. }))));
        assert!(matches!(shelf.take(2, 512, 0), Some(Err(Stray::OutOfBounds { .. }))));
        let frame = shelf.take(2, 100, 412).expect("there").expect("fits");
        assert!(!shelf.has(2) && shelf.has(3));
        let frame = shelf.put(3, frame).expect_err("not empty");
        assert!(shelf.put(2, frame).is_ok());
        assert_eq!((shelf.home(2, 2), pool.census().free), (2, 64));
    }

    /// A frame of another pool, empty, flagged, too long or without room in front stays with the caller.
    #[test]
    fn what_is_not_plain_stays_in_front() {
        let (other, pool) = (pool(512), pool(512));
        let mut shelf = Shelf::new(&pool, 8);
        for odd in 0..5 {
            let mut burst = Burst::new();
            for i in 0..3 {
                let mut frame = if i == 1 && odd == 0 { &other } else { &pool }.alloc().expect("free");
                frame.extend(&[1; 40]).expect("fits");
                match odd {
                    1 if i == 1 => frame.set_continues(true),
                    2 if i == 1 => frame.extend(&[1; 21]).expect("fits"),
                    3 if i == 1 => frame.restart(11),
                    4 if i == 1 => frame.restart(100),
                    _ => {}
                }
                if odd == 3 && i == 1 {
                    frame.extend(&[1; 40]).expect("fits");
                }
                burst.push(frame).expect("room");
            }
            assert_eq!(
                shelf.depart::<_, 0, 12>(&mut burst, 0, &[(); 8], (60, false), |(), _, _| ()),
                1,
                "{odd}"
            );
            assert_eq!((burst.len(), shelf.home(0, 8)), (2, 1));
        }
        assert_eq!((pool.census().free, other.census().free), (64, 64));
    }
}
