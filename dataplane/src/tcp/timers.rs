//! Who is due when: a hierarchical timing wheel (Varghese and Lauck, 1987), linked through the connections.
//!
//! Six levels of 64 slots; a slot of the lowest is 64 microseconds, one of the highest 19 hours. To link, to unlink and
//! to find the next deadline are O(1). A connection has one place, for the earliest of its deadlines; a deadline that
//! moves later leaves it where it is, and is looked at again when that comes.

use super::seq::{Micros, NEVER, low};

/// Nobody, in a link.
pub(crate) const NOBODY: u32 = u32::MAX;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
const SLOT_BITS_OF_ALL: u32 = 36;
const _: () = assert!(SLOT_BITS as usize * LEVELS == SLOT_BITS_OF_ALL as usize);
/// A unit is 2^6 = 64 microseconds.
const UNIT_BITS: u32 = 6;
/// Who is due later than this (25 days) is looked at then, and linked again: half a turn of the highest level, so that
/// its current slot is never also the one a whole turn ahead.
const REACH: u64 = 1 << (SLOT_BITS_OF_ALL - 1);

/// What a member of the wheel keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    before: u32,
    after: u32,
    /// The unit that it is linked for, in two parts: 48 bits are 570 years.
    unit_low: u32,
    unit_high: u16,
    /// Level and slot, `level * 64 + slot`, or [`NOWHERE`].
    place: u16,
}

const NOWHERE: u16 = u16::MAX;

impl Links {
    pub(crate) const fn new() -> Self {
        Self { before: NOBODY, after: NOBODY, unit_low: 0, unit_high: 0, place: NOWHERE }
    }

    const fn is_linked(&self) -> bool {
        self.place != NOWHERE
    }

    const fn unit(&self) -> u64 {
        (self.unit_high as u64) << 32 | self.unit_low as u64
    }

    /// Until when nothing will happen; `NEVER` if it is in no slot.
    #[inline]
    pub(crate) const fn armed(&self) -> Micros {
        if self.is_linked() { self.unit() << UNIT_BITS } else { NEVER }
    }
}

/// Where the members of a wheel are found.
pub(crate) trait Members {
    fn links(&mut self, index: u32) -> &mut Links;
}

/// The wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: [[u32; SLOTS]; LEVELS],
    /// A bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    /// Units that have passed.
    elapsed: u64,
}

impl Wheel {
    pub(crate) const fn new() -> Self {
        Self { heads: [[NOBODY; SLOTS]; LEVELS], occupied: [0; LEVELS], elapsed: 0 }
    }

    /// Sees to it that `index` comes up at `at` or before. Never is never.
    #[inline]
    pub(crate) fn arm(&mut self, members: &mut impl Members, index: u32, at: Micros) {
        let links = members.links(index);
        if at >= links.armed() || at == NEVER {
            return;
        }
        if links.is_linked() {
            self.unlink(members, index);
        }
        // Rounded up: nothing comes up before its time.
        let unit = at.div_ceil(1 << UNIT_BITS).max(self.elapsed + 1);
        self.link(members, index, unit);
    }

    fn link(&mut self, members: &mut impl Members, index: u32, unit: u64) {
        let unit = unit.max(self.elapsed).min(self.elapsed + REACH);
        let differing = (self.elapsed ^ unit) | (SLOTS as u64 - 1);
        let level = (((63 - differing.leading_zeros()) / SLOT_BITS) as usize).min(LEVELS - 1);
        #[expect(clippy::cast_possible_truncation, reason = "six bits")]
        let slot = (unit >> (SLOT_BITS * level as u32)) as usize & (SLOTS - 1);
        let after = self.heads[level][slot];
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
        #[expect(clippy::cast_possible_truncation, reason = "below 384")]
        let place = (level * SLOTS + slot) as u16;
        let (unit_low, unit_high) = (low(unit), u16::try_from(unit >> 32).unwrap_or(u16::MAX));
        *members.links(index) = Links { before: NOBODY, after, unit_low, unit_high, place };
        if after != NOBODY {
            members.links(after).before = index;
        }
    }

    /// Takes `index` out.
    pub(crate) fn unlink(&mut self, members: &mut impl Members, index: u32) {
        let links = *members.links(index);
        if !links.is_linked() {
            return;
        }
        let (level, slot) = (usize::from(links.place) / SLOTS, usize::from(links.place) % SLOTS);
        if links.before == NOBODY {
            self.heads[level][slot] = links.after;
            if links.after == NOBODY {
                self.occupied[level] &= !(1 << slot);
            }
        } else {
            members.links(links.before).after = links.after;
        }
        if links.after != NOBODY {
            members.links(links.after).before = links.before;
        }
        members.links(index).place = NOWHERE;
    }

    /// The level, the slot and the unit at which something is to be done next.
    #[inline]
    fn next(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find_map(|level| {
            let bits = self.occupied[level];
            if bits == 0 {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most 30")]
            let shift = SLOT_BITS * level as u32;
            #[expect(clippy::cast_possible_truncation, reason = "six bits")]
            let current = (self.elapsed >> shift) as u32 & (SLOTS as u32 - 1);
            let ahead = bits.rotate_right(current).trailing_zeros();
            let slot = (current + ahead) as usize & (SLOTS - 1);
            let lap = self.elapsed >> shift << shift;
            Some((level, slot, lap + (u64::from(ahead) << shift)))
        })
    }

    /// When [`take`](Self::take) has something to do: at the latest when the first deadline is, sometimes before.
    #[inline]
    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.next().map(|(_, _, unit)| unit << UNIT_BITS)
    }

    /// Takes out one whose time has come by `now`.
    pub(crate) fn take(&mut self, members: &mut impl Members, now: Micros) -> Option<u32> {
        let now = now >> UNIT_BITS;
        loop {
            let Some((level, slot, unit)) = self.next().filter(|&(_, _, unit)| unit <= now) else {
                self.elapsed = self.elapsed.max(now);
                return None;
            };
            self.elapsed = self.elapsed.max(unit);
            if level == 0 {
                let index = self.heads[level][slot];
                self.unlink(members, index);
                return Some(index);
            }
            self.cascade(members, level, slot);
        }
    }

    /// A slot of a higher level is reached: everybody in it moves down.
    fn cascade(&mut self, members: &mut impl Members, level: usize, slot: usize) {
        let mut index = std::mem::replace(&mut self.heads[level][slot], NOBODY);
        self.occupied[level] &= !(1 << slot);
        while index != NOBODY {
            let links = *members.links(index);
            self.link(members, index, links.unit());
            index = links.after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Members for Vec<Links> {
        fn links(&mut self, index: u32) -> &mut Links {
            &mut self[index as usize]
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Deadlines near and far; the wheel is asked at odd times and must name each one once, never early, and never
    /// after it was asked with a later time.
    #[test]
    fn everybody_comes_up_once_in_time() {
        let mut seed = 7;
        for round in 0..200 {
            let mut wheel = Wheel::new();
            let mut links = vec![Links::new(); 50];
            let mut due = vec![NEVER; 50];
            let mut now: Micros = random(&mut seed) << (random(&mut seed) % 15);
            assert_eq!(wheel.take(&mut links, now), None);
            for step in 0..400 {
                let index = (random(&mut seed) % 50) as usize;
                match random(&mut seed) % 4 {
                    0 => {
                        let magnitude = 1 << (random(&mut seed) % 38);
                        let at = now + 1 + random(&mut seed) % magnitude;
                        wheel.arm(&mut links, u32::try_from(index).expect("small"), at);
                        due[index] = due[index].min(at);
                    }
                    1 => {
                        wheel.unlink(&mut links, u32::try_from(index).expect("small"));
                        due[index] = NEVER;
                    }
                    2 => now += random(&mut seed) % (1 << (random(&mut seed) % 34)),
                    _ => now = wheel.next_at().map_or(now, |at| at.max(now)),
                }
                while let Some(index) = wheel.take(&mut links, now) {
                    let at = due[index as usize];
                    assert!(at <= now, "round {round} step {step}: {index} at {now}, due {at}");
                    due[index as usize] = NEVER;
                }
                for (index, &at) in due.iter().enumerate() {
                    assert!(
                        at == NEVER || at + 64 > now,
                        "round {round} step {step}: {index} missed: {at} < {now}"
                    );
                    let next = wheel.next_at();
                    assert!(
                        at == NEVER || next.is_some_and(|next| next <= at + 64),
                        "round {round} step {step}: at {now}, {index} is due {at}, next {next:?} {:?}",
                        links[index]
                    );
                }
            }
        }
    }
}
