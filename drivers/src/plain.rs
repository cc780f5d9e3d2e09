//! The hot halves of receiving and transmitting: packets of one frame with nothing left undone.
//!
//! What a frame costs here is what a frame costs (`tests/instructions.sh`). So each loop is a leaf function over slices
//! and numbers, compiled for the usual sizes of slots, and whatever is rare is a function of its own: what the loop needs
//! then stays in registers.

use crate::queue::Tally;
use crate::rings::Descriptor;
use ringbuf::{Batch, Burst, Frame, Grant, Loan, Pool};

/// Takes packets of one frame off the front of the batch until something else comes; returns how many.
#[inline]
pub(crate) fn receive_plain<'p>(
    pool: &'p Pool,
    loan: Loan,
    batch: &mut Batch<'_, Descriptor>,
    burst: &mut Burst<'p>,
    tally: &mut Tally,
    note: &mut impl FnMut(&mut Frame<'p>, u32),
) -> usize {
    let (part, behind) = batch.entries();
    let (mut received, mut bytes) = arrive_any(pool, loan, part, burst, note);
    if received as usize == part.len() && !behind.is_empty() {
        let more = arrive_behind(pool, loan, behind, burst, note);
        (received, bytes) = (received + more.0, bytes + more.1);
    }
    batch.advance(received);
    tally.packets += u64::from(received);
    tally.bytes += bytes;
    received as usize
}

/// The other part of a batch that goes over the ring's end.
#[cold]
#[inline(never)]
fn arrive_behind<'p>(
    pool: &'p Pool,
    loan: Loan,
    entries: &[Descriptor],
    burst: &mut Burst<'p>,
    note: &mut impl FnMut(&mut Frame<'p>, u32),
) -> (u32, u64) {
    arrive_any(pool, loan, entries, burst, note)
}

/// [`arrive_plain`] for this pool's size of slots.
#[inline]
pub(crate) fn arrive_any<'p>(
    pool: &'p Pool,
    loan: Loan,
    entries: &[Descriptor],
    burst: &mut Burst<'p>,
    note: &mut impl FnMut(&mut Frame<'p>, u32),
) -> (u32, u64) {
    match pool.frame_size() {
        2048 => arrive_plain::<11>(pool, loan, entries, burst, note),
        4096 => arrive_plain::<12>(pool, loan, entries, burst, note),
        _ => arrive_plain::<0>(pool, loan, entries, burst, note),
    }
}

/// The hot half of receiving; returns how many, and their bytes.
///
/// A function of its own, with nothing but slices and numbers: what the loop needs then stays in registers, which saves
/// more than the call costs. `SHIFT` as for [`Pool::gate`].
#[inline(never)]
fn arrive_plain<'p, const SHIFT: u32>(
    pool: &'p Pool,
    loan: Loan,
    entries: &[Descriptor],
    burst: &mut Burst<'p>,
    note: &mut impl FnMut(&mut Frame<'p>, u32),
) -> (u32, u64) {
    let mut gate = pool.gate::<SHIFT>(loan);
    let taken = burst.fill_from(entries, |entry| {
        // Once: what is judged is what is used, whatever the other side does meanwhile.
        let entry = *entry;
        // What the gate refuses is left in the batch for the careful half; with options the length is longer than any
        // slot.
        let mut frame = gate.arrive(entry.offset, entry.len_and_options())?;
        note(&mut frame, 0);
        Some(frame)
    });
    (taken, gate.bytes())
}

/// What every packet on a ring keeps to.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that the device reads in front of each buffer.
    pub(crate) headroom: u16,
    /// Of the longest packet.
    pub(crate) bytes: u32,
}

/// Puts packets of one frame on the ring until something else comes.
#[inline]
pub(crate) fn transmit_plain<'p>(
    pool: &'p Pool,
    loan: Loan,
    grant: &mut Grant<'_, Descriptor>,
    burst: &mut Burst<'p>,
    tally: &mut Tally,
    limits: Limits,
) {
    let (part, behind) = grant.slots();
    let room = part.len();
    let (mut sent, mut bytes) = depart_any(pool, loan, burst, part, limits);
    if sent as usize == room && !behind.is_empty() {
        let more = depart_behind(pool, loan, burst, behind, limits);
        (sent, bytes) = (sent + more.0, bytes + more.1);
    }
    grant.advance(sent);
    tally.packets += u64::from(sent);
    tally.bytes += bytes;
}

/// The other part of a grant that goes over the ring's end.
#[cold]
#[inline(never)]
fn depart_behind<'p>(
    pool: &'p Pool,
    loan: Loan,
    burst: &mut Burst<'p>,
    places: &mut [Descriptor],
    limits: Limits,
) -> (u32, u64) {
    depart_any(pool, loan, burst, places, limits)
}

/// [`depart_plain`] for this pool's size of slots.
#[inline]
pub(crate) fn depart_any<'p>(
    pool: &'p Pool,
    loan: Loan,
    burst: &mut Burst<'p>,
    places: &mut [Descriptor],
    limits: Limits,
) -> (u32, u64) {
    match (limits.headroom, pool.frame_size()) {
        (0, 2048) => depart_plain::<11, false>(pool, loan, burst, places, limits),
        (0, 4096) => depart_plain::<12, false>(pool, loan, burst, places, limits),
        (0, _) => depart_plain::<0, false>(pool, loan, burst, places, limits),
        _ => depart_plain::<0, true>(pool, loan, burst, places, limits),
    }
}

/// The hot half of transmitting, as [`arrive_plain`].
#[inline(never)]
fn depart_plain<'p, const SHIFT: u32, const HEADROOM: bool>(
    pool: &'p Pool,
    loan: Loan,
    burst: &mut Burst<'p>,
    places: &mut [Descriptor],
    limits: Limits,
) -> (u32, u64) {
    let gate = pool.gate::<SHIFT>(loan);
    let mut bytes = 0;
    // A length of zero wraps to the largest number: one comparison finds both ends.
    let fit = |frame: &Frame<'_>| {
        u32::from(frame.len()).wrapping_sub(1) < limits.bytes
            && (!HEADROOM || frame.head() >= limits.headroom)
    };
    let put = burst.depart_into(&gate, places, fit, |offset, len| {
        bytes += u64::from(len);
        Descriptor::new(offset, len.into(), 0)
    });
    (put, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbuf::{Arena, ArenaPlan, SharedConsumer, SharedProducer, ring_pair};

    /// For each size of slots, over the end of the ring and in bursts that are no multiple of anything: what is lent
    /// out is what was sent, and what comes in again is the same.
    #[test]
    fn frames_pass_in_both_directions() {
        for frame_size in [512, 2048, 4096, 8192] {
            let plan = ArenaPlan { frames: 128, frame_size, content_bytes: 0, huge_pages: false };
            let pool = Pool::new(Arena::new(&plan).expect("small"));
            let loan = pool.open_loan().expect("a loan");
            let (mut out, mut into): (SharedProducer<Descriptor>, SharedConsumer<Descriptor>) =
                ring_pair(u32::MAX - 20, 64);
            let limits = Limits { headroom: 0, bytes: 60 };
            let (mut sent, mut received) = (Tally::default(), Tally::default());
            let mut burst = Burst::new();
            for round in 0..40_u16 {
                let count = 1 + round % 29;
                for len in 1..=count {
                    let mut frame = pool.alloc().expect("free");
                    frame.grow(len).expect("room");
                    frame.fill(round.to_le_bytes()[0]);
                    burst.push(frame).expect("room");
                }
                let mut grant = out.reserve(64);
                transmit_plain(&pool, loan, &mut grant, &mut burst, &mut sent, limits);
                assert_eq!(
                    (grant.commit(), burst.len(), pool.on_loan(loan)),
                    (count.into(), 0, count.into())
                );

                let mut batch = into.peek(64);
                let taken = receive_plain(&pool, loan, &mut batch, &mut burst, &mut received, &mut |_, _| ());
                assert_eq!((taken, batch.commit()), (count.into(), count.into()), "{frame_size}");
                for (frame, len) in burst.drain().zip(1..) {
                    assert_eq!(frame.len(), len);
                    assert!(frame.iter().all(|byte| *byte == round.to_le_bytes()[0]));
                }
            }
            assert_eq!(sent, received);
            assert_eq!(pool.census().free, 128);
        }
    }

    /// What is too long, empty, flagged or another pool's stops the loop and stays where it is, with its ledger entry.
    #[test]
    fn what_is_not_plain_stays_in_front() {
        for frame_size in [512, 2048, 4096] {
            let plan = ArenaPlan { frames: 16, frame_size, content_bytes: 0, huge_pages: false };
            let (pool, other) =
                (Pool::new(Arena::new(&plan).expect("small")), Pool::new(Arena::new(&plan).expect("small")));
            let loan = pool.open_loan().expect("a loan");
            for (odd, headroom) in [(0, 0), (61, 0), (60, 0), (59, 0), (60, 200), (58, 257)] {
                let mut burst = Burst::new();
                let home = if odd == 59 { &other } else { &pool };
                for (pool, len) in [(&pool, 58), (home, odd), (&pool, 60)] {
                    let mut frame = pool.alloc().expect("free");
                    frame.grow(len).expect("room");
                    frame.set_continues(odd == 60 && headroom == 0 && burst.len() == 1);
                    burst.push(frame).expect("room");
                }
                let (mut out, into) = ring_pair::<Descriptor>(0, 8);
                let mut grant = out.reserve(8);
                let mut tally = Tally::default();
                transmit_plain(
                    &pool,
                    loan,
                    &mut grant,
                    &mut burst,
                    &mut tally,
                    Limits { headroom, bytes: 60 },
                );
                let sent = match headroom {
                    0 => 1,
                    200 => 3,
                    _ => 0,
                };
                assert_eq!((u64::from(grant.commit()), tally.packets), (sent, sent), "{odd} {headroom}");
                assert_eq!((burst.len() as u64, u64::from(pool.on_loan(loan))), (3 - sent, sent));
                drop((burst, into));
                pool.recall(loan);
                assert_eq!((pool.census().free, other.census().free), (16, 16));
            }
        }
    }

    /// Numbers that the careful half must name are left in the ring, and change nothing.
    #[test]
    fn what_cannot_be_true_stays_in_the_ring() {
        for frame_size in [512_u32, 2048, 4096] {
            let plan = ArenaPlan { frames: 4, frame_size, content_bytes: 0, huge_pages: false };
            let pool = Pool::new(Arena::new(&plan).expect("small"));
            let (loan, another) = (pool.open_loan().expect("a loan"), pool.open_loan().expect("a loan"));
            let (ours, theirs) = (pool.lend(loan).expect("free"), pool.lend(another).expect("free"));
            let at = pool.offset(ours);
            for (offset, len, options) in [
                (at + 1, frame_size, 0),
                (at, u32::MAX, 0),
                (at, u32::MAX, u32::MAX),
                (at, 60, 1),
                (at + 100, u32::MAX - 98, u32::MAX),
                (u64::from(frame_size) * 4, 60, 0),
                (u64::MAX, 60, 0),
                (u64::MAX - 59, 60, 0),
                (pool.offset(theirs), 60, 0),
            ] {
                let (mut device, mut ring) = ring_pair(0, 8);
                let mut grant = device.reserve(1);
                grant.push(Descriptor::new(offset, len, options)).expect("room");
                grant.commit();
                let (mut batch, mut burst) = (ring.peek(8), Burst::new());
                let mut tally = Tally::default();
                assert_eq!(receive_plain(&pool, loan, &mut batch, &mut burst, &mut tally, &mut |_, _| ()), 0);
                assert_eq!((batch.remaining(), burst.len(), tally), (1, 0, Tally::default()));
                assert_eq!((pool.on_loan(loan), pool.on_loan(another)), (1, 1));
            }
        }
    }
}
