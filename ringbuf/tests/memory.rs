//! Pool, ledger, frames, parcels, pages and bursts against models.
//!
//! Under valgrind, with fewer cases and rounds (about a second each), and likewise `rings` and the tests of `drivers`:
//!
//! ```text
//! cargo test -p ringway-ringbuf --test memory --no-run    # names the executable
//! PROPTEST_CASES=8 valgrind --error-exitcode=1 EXECUTABLE
//! ```
#![cfg(not(loom))]

use proptest::prelude::*;
use ringbuf::{
    Arena, ArenaPlan, BURST, Burst, Census, Frame, HEADROOM, Loan, Offload, Parcel, Pool, Slot, Stray,
};
use std::collections::VecDeque;

const FRAMES: u32 = 24;
const SIZE: u16 = 512;

fn pool() -> Pool {
    let plan =
        ArenaPlan { frames: FRAMES, frame_size: SIZE.into(), content_bytes: 3 * 4096, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc,
    Drop(usize),
    Lend(usize),
    /// The device brings back what it has.
    Arrive {
        pick: usize,
        loan: usize,
        head: u32,
        len: u32,
    },
    Depart {
        pick: usize,
        loan: usize,
    },
    Reclaim {
        pick: usize,
        loan: usize,
    },
    /// The device names any slot at all.
    Nonsense {
        slot: u32,
        loan: usize,
        reclaim: bool,
    },
    Park(usize),
    DropParcel(usize),
    Collect,
    Recall(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0usize..64;
    prop_oneof![
        4 => Just(Step::Alloc),
        2 => pick.clone().prop_map(Step::Drop),
        4 => (0usize..2).prop_map(Step::Lend),
        4 => (pick.clone(), 0usize..2, 0u32..600, 0u32..600)
            .prop_map(|(pick, loan, head, len)| Step::Arrive { pick, loan, head, len }),
        1 => (pick.clone(), 0usize..2, any::<u32>(), any::<u32>())
            .prop_map(|(pick, loan, head, len)| Step::Arrive { pick, loan, head, len }),
        4 => (pick.clone(), 0usize..2).prop_map(|(pick, loan)| Step::Depart { pick, loan }),
        4 => (pick.clone(), 0usize..2).prop_map(|(pick, loan)| Step::Reclaim { pick, loan }),
        2 => (0..FRAMES + 4, 0usize..2, any::<bool>())
            .prop_map(|(slot, loan, reclaim)| Step::Nonsense { slot, loan, reclaim }),
        1 => (any::<u32>(), 0usize..2, any::<bool>())
            .prop_map(|(slot, loan, reclaim)| Step::Nonsense { slot, loan, reclaim }),
        3 => pick.clone().prop_map(Step::Park),
        2 => pick.prop_map(Step::DropParcel),
        1 => Just(Step::Collect),
        1 => (0usize..2).prop_map(Step::Recall),
    ]
}

/// Who has which slots, as plain lists.
struct Model<'p> {
    pool: &'p Pool,
    loans: [Loan; 2],
    /// Each frame is filled with its slot's number.
    frames: Vec<Frame<'p>>,
    parcels: Vec<(Slot, Parcel)>,
    /// Parcels dropped, not yet collected.
    homeward: u32,
    lent: [Vec<Slot>; 2],
}

fn mark(frame: &mut Frame<'_>) {
    let mark = frame.slot().0.to_le_bytes()[0];
    frame.fill(mark);
}

fn is_marked(bytes: &[u8], slot: Slot) -> bool {
    bytes.iter().all(|byte| u32::from(*byte) == slot.0)
}

impl<'p> Model<'p> {
    fn take<T>(list: &mut Vec<T>, pick: usize) -> Option<T> {
        (!list.is_empty()).then(|| list.swap_remove(pick % list.len()))
    }

    fn census(&self) -> Census {
        let count = |list: usize| u32::try_from(list).expect("few");
        let thread = count(self.frames.len());
        let elsewhere = count(self.parcels.len()) + self.homeward;
        let device = count(self.lent[0].len() + self.lent[1].len());
        Census { free: FRAMES - thread - elsewhere - device, thread, elsewhere, device }
    }

    fn run(&mut self, step: Step) {
        let free = self.census().free;
        match step {
            Step::Alloc => {
                let frame = self.pool.alloc();
                assert_eq!(frame.is_some(), free > 0);
                self.frames.extend(frame.map(|mut frame| {
                    assert_eq!(
                        (frame.len(), frame.head(), frame.continues(), frame.offload()),
                        (0, HEADROOM, false, None)
                    );
                    frame.grow(100).expect("256 bytes of tailroom");
                    mark(&mut frame);
                    frame
                }));
            }
            Step::Drop(pick) => drop(Self::take(&mut self.frames, pick)),
            Step::Lend(loan) => {
                let slot = self.pool.lend(self.loans[loan]);
                assert_eq!(slot.is_some(), free > 0);
                self.lent[loan].extend(slot);
            }
            Step::Arrive { pick, loan, head, len } => self.arrive(pick, loan, head, len),
            Step::Depart { pick, loan } => {
                if let Some(frame) = Self::take(&mut self.frames, pick) {
                    let slot = frame.slot();
                    assert!(is_marked(&frame, slot), "somebody else wrote into a frame of ours");
                    assert_eq!(self.pool.depart(frame, self.loans[loan]).expect("our pool"), slot);
                    self.lent[loan].push(slot);
                }
            }
            Step::Reclaim { pick, loan } => {
                if let Some(slot) = Self::take(&mut self.lent[loan], pick) {
                    assert_eq!(self.pool.reclaim(slot, self.loans[1 - loan]), Err(Stray::NotOnLoan(slot)));
                    assert_eq!(self.pool.reclaim(slot, self.loans[loan]), Ok(()));
                    assert_eq!(self.pool.reclaim(slot, self.loans[loan]), Err(Stray::NotOnLoan(slot)));
                }
            }
            Step::Nonsense { slot, loan, reclaim } => self.nonsense(Slot(slot), loan, reclaim),
            Step::Park(pick) => {
                if let Some(frame) = Self::take(&mut self.frames, pick) {
                    self.parcels.push((frame.slot(), self.pool.park(frame).expect("our pool")));
                }
            }
            Step::DropParcel(pick) => {
                if let Some((slot, parcel)) = Self::take(&mut self.parcels, pick) {
                    assert!(is_marked(&parcel, slot));
                    drop(parcel);
                    self.homeward += 1;
                }
            }
            Step::Collect => assert_eq!(self.pool.collect(), std::mem::take(&mut self.homeward)),
            Step::Recall(loan) => {
                let expected = u32::try_from(std::mem::take(&mut self.lent[loan]).len());
                assert_eq!(Ok(self.pool.on_loan(self.loans[loan])), expected);
                assert_eq!(Ok(self.pool.recall(self.loans[loan])), expected);
            }
        }
        assert_eq!((self.pool.census(), self.pool.free()), (self.census(), self.census().free));
        assert_eq!(self.pool.census().total(), FRAMES);
    }

    fn arrive(&mut self, pick: usize, loan: usize, head: u32, len: u32) {
        let Some(slot) = Self::take(&mut self.lent[loan], pick) else { return };
        match self.pool.arrive(slot, self.loans[loan], head, len) {
            Ok(mut frame) => {
                assert!(u64::from(head) + u64::from(len) <= u64::from(SIZE));
                assert_eq!(
                    (frame.slot(), u32::from(frame.head()), u32::from(frame.len())),
                    (slot, head, len)
                );
                assert_eq!(self.pool.locate(frame.offset()), Ok((slot, head)));
                mark(&mut frame);
                self.frames.push(frame);
            }
            Err(stray) => {
                assert_eq!(stray, Stray::OutOfBounds { slot, head, len });
                assert!(u64::from(head) + u64::from(len) > u64::from(SIZE) || head == SIZE.into());
                self.lent[loan].push(slot);
            }
        }
    }

    fn nonsense(&mut self, slot: Slot, loan: usize, reclaim: bool) {
        let at = self.lent[loan].iter().position(|lent| *lent == slot);
        let outcome = if reclaim {
            self.pool.reclaim(slot, self.loans[loan])
        } else {
            self.pool.arrive(slot, self.loans[loan], 0, 8).map(drop)
        };
        match at {
            Some(at) => {
                assert_eq!(outcome, Ok(()));
                self.lent[loan].swap_remove(at);
            }
            None if slot.0 < FRAMES => assert_eq!(outcome, Err(Stray::NotOnLoan(slot))),
            None => assert!(matches!(outcome, Err(Stray::Unknown { .. }))),
        }
    }
}

proptest! {
    /// Whatever happens, in whatever order: the census is the model's, its sum stands, and no stray is taken in.
    #[test]
    fn slots_never_multiply_or_vanish(steps in prop::collection::vec(step(), 1..300)) {
        let pool = pool();
        let loans = [pool.open_loan().expect("first"), pool.open_loan().expect("second")];
        let mut model = Model { pool: &pool, loans, frames: vec![], parcels: vec![], homeward: 0, lent: [vec![], vec![]] };
        steps.into_iter().for_each(|step| model.run(step));
        model.frames.clear();
        model.parcels.clear();
        pool.collect();
        loans.iter().for_each(|loan| { pool.recall(*loan); });
        prop_assert_eq!(pool.free(), FRAMES);
    }

    /// A frame's bytes against a vector, cut and lengthened at both ends.
    #[test]
    fn a_frame_is_a_slice_of_its_slot(steps in prop::collection::vec((0u8..6, 0u16..300), 1..60)) {
        let pool = pool();
        let mut frame = pool.alloc().expect("free");
        let (mut model, mut head) = (Vec::new(), usize::from(HEADROOM));
        for (what, count) in steps {
            let bytes = vec![count.to_le_bytes()[0]; count.into()];
            let (front, room) = (head, usize::from(SIZE) - head - model.len());
            match what {
                0 => {
                    prop_assert_eq!(frame.extend(&bytes).is_ok(), bytes.len() <= room);
                    if bytes.len() <= room { model.extend(bytes); }
                }
                1 => {
                    prop_assert_eq!(frame.grow_front(count).is_ok(), bytes.len() <= front);
                    if bytes.len() <= front {
                        frame[..bytes.len()].copy_from_slice(&bytes);
                        head -= bytes.len();
                        model.splice(..0, bytes);
                    }
                }
                2 => { frame.truncate(count); model.truncate(count.into()); }
                3 => {
                    frame.trim_front(count);
                    let cut = model.len().min(count.into());
                    model.drain(..cut);
                    head = (head + cut).min(usize::from(SIZE) - 1);
                }
                4 => {
                    let room = frame.headroom_mut(count).map(|room| { room.fill(0xee); room.len() });
                    prop_assert_eq!(room.ok(), (bytes.len() <= front).then_some(bytes.len()));
                }
                _ => { frame.restart(count); model.clear(); head = usize::from(count.min(SIZE - 1)); }
            }
            prop_assert_eq!(&frame[..], &model[..]);
            prop_assert_eq!((usize::from(frame.head()), usize::from(frame.tailroom())), (head, usize::from(SIZE) - head - model.len()));
        }
    }

    /// A burst against a queue: pushed, popped, appended to from another, dropped half full.
    #[test]
    fn a_burst_is_a_queue(steps in prop::collection::vec((0u8..5, 0usize..80), 1..100)) {
        let plan = ArenaPlan { frames: 4 * 64, frame_size: 256, content_bytes: 0, huge_pages: false };
        let pool = Pool::new(Arena::new(&plan).expect("small"));
        let (mut bursts, mut models) = ([Burst::new(), Burst::new()], [VecDeque::new(), VecDeque::new()]);
        for (what, count) in steps {
            let [one, other] = &mut bursts;
            match what {
                0 => for _ in 0..count {
                    let Some(mut frame) = pool.alloc() else { break };
                    let (slot, continues) = (frame.slot(), count % 3 == 0);
                    frame.set_continues(continues);
                    let fits = models[0].len() < BURST;
                    prop_assert_eq!(one.push(frame).is_ok(), fits);
                    if fits { models[0].push_back((slot, continues)); }
                },
                1 => for _ in 0..count {
                    prop_assert_eq!(one.pop().map(|frame| (frame.slot(), frame.continues())), models[0].pop_front());
                },
                2 => {
                    let moved = one.len().min(other.room());
                    prop_assert_eq!(other.append(one), moved);
                    let moved: Vec<_> = models[0].drain(..moved).collect();
                    models[1].extend(moved);
                }
                3 => { bursts.swap(0, 1); models.swap(0, 1); }
                _ => { other.clear(); models[1].clear(); }
            }
            for (burst, model) in bursts.iter_mut().zip(&models) {
                prop_assert_eq!((burst.len(), burst.room(), burst.is_empty()), (model.len(), BURST - model.len(), model.is_empty()));
                for (i, expected) in model.iter().enumerate() {
                    let seen = burst.peek(i).map(|frame| (frame.slot(), frame.continues()));
                    prop_assert_eq!(seen.as_ref(), Some(expected));
                    prop_assert_eq!(burst.peek_mut(i).map(|frame| frame.slot()), Some(expected.0));
                }
                prop_assert!(burst.peek(model.len()).is_none() && burst.peek_mut(model.len()).is_none());
                let packet = model.iter().position(|(_, continues)| !continues).map_or(0, |last| last + 1);
                prop_assert_eq!(burst.packet_frames(), packet);
            }
            let out = u32::try_from(models[0].len() + models[1].len()).expect("few");
            prop_assert_eq!(pool.census().thread, out);
        }
        drop(bursts);
        prop_assert_eq!(pool.free(), 256);
    }

    /// Pages hold their content; what nobody holds can be written, and nothing else.
    #[test]
    fn content_stays_while_it_is_held(steps in prop::collection::vec((0u8..5, 0usize..13000, 0usize..5000), 1..80)) {
        let pool = pool();
        let mut model = vec![0u8; 3 * 4096];
        let mut pages = Vec::new();
        let mut lent = Vec::new();
        for (what, start, len) in steps {
            match what {
                0 => {
                    let inside = start + len <= model.len() && start % 4096 + len <= 4096;
                    let page = pool.page(start, len);
                    prop_assert_eq!(page.is_some(), inside);
                    pages.extend(page.map(|page| (start, page)));
                }
                1 if !pages.is_empty() => {
                    let (at, page) = pages.swap_remove(start % pages.len());
                    if len % 2 == 0 { pages.push((at, page.clone())); }
                    let offset = pool.depart_page(page).expect("our pool");
                    prop_assert!(pool.is_content(offset) && pool.locate(offset).is_err());
                    lent.push((at, offset));
                }
                2 if !lent.is_empty() => {
                    let (_, offset) = lent.swap_remove(start % lent.len());
                    prop_assert_eq!(pool.reclaim_page(offset), Ok(()));
                }
                3 => {
                    let bytes = vec![start.to_le_bytes()[0]; len];
                    let unit = |at: usize| at / 4096;
                    let touched = |at: usize| len > 0 && (unit(start)..=unit(start + len - 1)).contains(&unit(at));
                    let held = pages.iter().map(|(at, _)| *at).chain(lent.iter().map(|(at, _)| *at)).any(touched);
                    // Nothing to write is refused or not as the unit goes: it changes nothing.
                    let wrote = pool.write_content(start, &bytes).is_ok();
                    if len > 0 { prop_assert_eq!(wrote, start + len <= model.len() && !held); }
                    if wrote { model[start..start + len].copy_from_slice(&bytes); }
                }
                _ => {
                    let nowhere = pool.reclaim_page(start as u64 % (u64::from(FRAMES) * u64::from(SIZE)));
                    let unknown = matches!(nowhere, Err(Stray::Unknown { .. }));
                    prop_assert!(unknown);
                    prop_assert!(pool.reclaim_page(u64::MAX - start as u64).is_err());
                    if !pages.is_empty() { drop(pages.swap_remove(start % pages.len())); }
                }
            }
            for (at, page) in &pages {
                prop_assert_eq!(page.bytes().expect("content"), &model[*at..at + page.len()]);
            }
            prop_assert_eq!(pool.pages_on_loan(), lent.len() as u64);
        }
        pages.clear();
        prop_assert_eq!(pool.recall_pages(), lent.len() as u64);
        prop_assert!(pool.write_content(0, &model).is_ok());
    }
}

/// Frames of another pool are given back, whatever they are asked for.
#[test]
fn foreign_frames_come_back() {
    let (one, other) = (pool(), pool());
    let loan = one.open_loan().expect("a loan");
    let frame = one.depart(other.alloc().expect("free"), loan).expect_err("foreign");
    let frame = one.park(frame).expect_err("foreign");
    assert_eq!((other.census().thread, one.census().free), (1, FRAMES));
    drop(frame);
    assert!(one.depart_page(other.page(0, 1).expect("inside")).is_err());
}

/// Two hundred and fifty-two loans, each once.
#[test]
fn loans_run_out() {
    let pool = pool();
    assert_eq!(std::iter::from_fn(|| pool.open_loan()).count(), 252);
}

/// What is undone in a packet goes with its frame and its parcel, not with the slot.
#[test]
fn offloads_belong_to_frames() {
    let pool = pool();
    let offload = Offload { checksum_start: 34, checksum_offset: 16, ..Offload::default() };
    let mut frame = pool.alloc().expect("free");
    frame.set_offload(Some(offload));
    frame.set_continues(true);
    let slot = frame.slot();
    let parcel = pool.park(frame).expect("our pool");
    assert_eq!((parcel.offload(), parcel.continues()), (Some(offload), true));
    drop(parcel);
    pool.collect();
    let again = pool.alloc().expect("free");
    assert_eq!((again.slot(), again.offload(), again.continues()), (slot, None, false));
}

/// Parcels to another thread and their slots back, while both sides work; and a pool may go before its parcels.
#[test]
fn parcels_cross_threads() {
    let rounds = if std::env::var_os("PROPTEST_CASES").is_some() { 500u32 } else { 20_000 };
    let (to_other, parcels) = std::sync::mpsc::sync_channel::<Parcel>(8);
    let other = std::thread::spawn(move || {
        let mut kept = VecDeque::new();
        let mut sum = 0u64;
        for parcel in parcels {
            sum += u64::from(u32::from_le_bytes(parcel[..4].try_into().expect("four bytes")));
            kept.push_back(parcel);
            if kept.len() > 5 {
                kept.pop_front();
            }
        }
        // The pool is gone by now; the arena is not.
        (sum, kept)
    });
    let pool = pool();
    for round in 0..rounds {
        let mut frame = loop {
            pool.collect();
            match pool.alloc() {
                Some(frame) => break frame,
                None => std::thread::yield_now(),
            }
        };
        frame.extend(&round.to_le_bytes()).expect("short");
        to_other.send(pool.park(frame).expect("our pool")).expect("listening");
        assert_eq!(pool.census().total(), FRAMES);
    }
    drop(pool);
    drop(to_other);
    let (sum, kept) = other.join().expect("no panic");
    assert_eq!(sum, (0..u64::from(rounds)).sum());
    assert_eq!(&kept[4][..], (rounds - 1).to_le_bytes());
}

/// The front packet goes as a whole, and only that; one without its end goes as far as it is here.
#[test]
fn a_packet_is_dropped_whole() {
    let plan = ArenaPlan { frames: 8, frame_size: 256, content_bytes: 0, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("one page"));
    let mut burst = Burst::new();
    for continues in [true, true, false, false, true] {
        let mut frame = pool.alloc().expect("eight");
        frame.set_continues(continues);
        burst.push(frame).expect("room");
    }
    let dropped: Vec<usize> = core::iter::repeat_with(|| burst.drop_packet()).take(4).collect();
    assert_eq!((dropped, pool.free()), (vec![3, 1, 1, 0], 8));
}
