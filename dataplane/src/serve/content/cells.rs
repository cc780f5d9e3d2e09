//! Which part of the content holds what.
//!
//! A slab is cut into cells of one size, from one unit (4 KiB) to the whole slab, so that a small file does not take the
//! room of a large one and nothing is ever moved. Slabs are emptied whole, the longest unused first (the clock
//! algorithm); one of which a page is held, or a cell is being filled, is passed over.

use super::EXTENT;
use crate::serve::waiters::List;
use ringbuf::{ContentGrant, Pool, arena::CONTENT_UNIT};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Units of a slab.
const UNITS: usize = EXTENT / CONTENT_UNIT;
const _: () = assert!(UNITS == 32, "one bit of a u32 for each cell of a slab");

/// Sizes of cells: 4 KiB doubled 0 to 5 times.
const CLASSES: usize = UNITS.trailing_zeros() as usize + 1;

/// Slabs looked at for room in one go: a turn must not take long. The hand goes on from there the next time.
const STEPS: usize = 1024;

/// An extent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The entry's number: never 0.
    pub(super) entry: u64,
    pub(super) extent: u32,
}

impl Key {
    const NOBODY: Self = Self { entry: 0, extent: 0 };
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.entry.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(self.extent));
    }
}

/// For keys that are our own numbers, so nobody can choose them to collide: one multiplication.
#[derive(Debug, Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Loading,
    Resident,
}

/// How much somebody needs an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Somebody waits for it.
    Wanted,
    /// Somebody may want it next: nothing that was used lately has to go for that.
    Guess,
}

/// One cell, by the unit that it begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) key: Key,
    pub(super) waiters: List,
    pub(super) state: State,
    /// Extents that whoever came this way has read ahead of him; 0 for who begins here.
    pub(super) window: u8,
}

#[derive(Clone, Copy, Debug)]
struct Slab {
    class: usize,
    /// One bit for each cell that is free.
    free: u32,
    loading: u8,
    used: bool,
}

/// All slabs and what is in them.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Box<[Cell]>,
    slabs: Box<[Slab]>,
    /// Slabs that are cut for no class now.
    spare: Vec<usize>,
    /// For each class, the slab that new cells are taken from.
    open: [Option<usize>; CLASSES],
    places: HashMap<Key, u32, BuildHasherDefault<Mix>>,
    hand: usize,
    /// Extents thrown out to make room.
    pub(super) evicted: u64,
}

impl Cells {
    pub(super) fn new(content_bytes: usize) -> Self {
        let slabs = content_bytes / EXTENT;
        let nobody = Cell { key: Key::NOBODY, waiters: List::EMPTY, state: State::Free, window: 0 };
        let slab = Slab { class: 0, free: 0, loading: 0, used: false };
        Self {
            cells: vec![nobody; slabs * UNITS].into(),
            slabs: vec![slab; slabs].into(),
            spare: (0..slabs).rev().collect(),
            open: [None; CLASSES],
            // Twice the most that can be in it: it never grows, only tidies up in place.
            places: HashMap::with_capacity_and_hasher(2 * slabs * UNITS, BuildHasherDefault::default()),
            hand: 0,
            evicted: 0,
        }
    }

    pub(super) const fn slabs(&self) -> usize {
        self.slabs.len()
    }

    /// The cell of an extent, loading or resident.
    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<u32> {
        self.places.get(&key).copied()
    }

    #[inline]
    pub(super) fn cell(&self, place: u32) -> Option<&Cell> {
        self.cells.get(place as usize)
    }

    #[inline]
    pub(super) fn cell_mut(&mut self, place: u32) -> &mut Cell {
        &mut self.cells[place as usize]
    }

    /// Somebody has had a page of it just now.
    #[inline]
    pub(super) fn touch(&mut self, place: u32) {
        self.slabs[place as usize / UNITS].used = true;
    }

    /// Where a cell begins in the content, in bytes.
    #[inline]
    pub(super) const fn start(place: u32) -> usize {
        place as usize * CONTENT_UNIT
    }

    /// A cell of at least `bytes` (at most [`EXTENT`]) for an extent, lent to be filled; `None` when everything is in use.
    pub(super) fn begin(
        &mut self,
        pool: &Pool,
        key: Key,
        bytes: usize,
        need: Need,
    ) -> Option<(u32, ContentGrant)> {
        let class = bytes.div_ceil(CONTENT_UNIT).next_power_of_two().trailing_zeros() as usize;
        let slab = self.slab_with_room(pool, class, need)?;
        let cell = self.slabs[slab].free.trailing_zeros() as usize;
        let unit = slab * UNITS + (cell << class);
        let start = unit * CONTENT_UNIT;
        let grant = pool.lend_content(start..start + (CONTENT_UNIT << class))?;
        let place = u32::try_from(unit).ok()?;
        self.slabs[slab].free &= !(1 << cell);
        self.slabs[slab].loading += 1;
        self.cells[unit] = Cell { key, waiters: List::EMPTY, state: State::Loading, window: 0 };
        self.places.insert(key, place);
        Some((place, grant))
    }

    /// The cell has been filled.
    pub(super) fn finish(&mut self, place: u32) {
        let slab = &mut self.slabs[place as usize / UNITS];
        slab.loading -= 1;
        // Spared once, or it might go before anybody has had it.
        slab.used = true;
        self.cell_mut(place).state = State::Resident;
    }

    /// The cell could not be filled: nobody's again.
    pub(super) fn abandon(&mut self, place: u32) {
        let key = std::mem::replace(&mut self.cell_mut(place).key, Key::NOBODY);
        self.places.remove(&key);
        self.cell_mut(place).state = State::Free;
        let number = place as usize / UNITS;
        let slab = &mut self.slabs[number];
        slab.loading -= 1;
        slab.free |= 1 << ((place as usize % UNITS) >> slab.class);
        if slab.free == all(slab.class) && self.open[slab.class] != Some(number) {
            slab.free = 0;
            self.spare.push(number);
        }
    }

    fn slab_with_room(&mut self, pool: &Pool, class: usize, need: Need) -> Option<usize> {
        if let Some(slab) = self.open[class]
            && self.slabs[slab].free != 0
        {
            return Some(slab);
        }
        let slab = match self.spare.pop() {
            Some(slab) => slab,
            None => self.empty_one(pool, need)?,
        };
        self.slabs[slab] = Slab { class, free: all(class), loading: 0, used: false };
        self.open[class] = Some(slab);
        Some(slab)
    }

    /// Empties the next slab that the hand finds unused.
    fn empty_one(&mut self, pool: &Pool, need: Need) -> Option<usize> {
        // Twice round, since the first round may only have taken marks away.
        for _ in 0..STEPS.min(2 * self.slabs.len()) {
            self.hand = (self.hand + 1) % self.slabs.len();
            let (hand, slab) = (self.hand, &mut self.slabs[self.hand]);
            let used = slab.used;
            slab.used = used && need == Need::Guess;
            if slab.loading > 0 || used {
                continue;
            }
            if !pool.content_is_free(bytes_of(hand)) {
                continue;
            }
            self.open.iter_mut().filter(|open| **open == Some(hand)).for_each(|open| *open = None);
            for cell in &mut self.cells[hand * UNITS..(hand + 1) * UNITS] {
                if cell.state == State::Resident {
                    self.places.remove(&cell.key);
                    self.evicted += 1;
                }
                (cell.key, cell.state) = (Key::NOBODY, State::Free);
            }
            return Some(hand);
        }
        None
    }
}

/// The bits of all cells of a slab of this class.
const fn all(class: usize) -> u32 {
    u32::MAX >> (UNITS - (UNITS >> class))
}

const fn bytes_of(slab: usize) -> Range<usize> {
    slab * EXTENT..(slab + 1) * EXTENT
}
