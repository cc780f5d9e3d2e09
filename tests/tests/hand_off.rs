//! Two workers on two threads, a port each: every packet is handed over, by copy, through a bounded link.
//!
//! ```text
//!   near ──► [ port 0   worker 0 ] ══ links ══ [ worker 1   port 1 ] ──► far
//! ```
#![forbid(unsafe_code)]

use dataplane::forward::Wire;
use dataplane::hand_off::{Ends, HandOff, LINK_FRAMES, connect};
use dataplane::run::run;
use dataplane::worker::{Member, TICK_EVERY};
use dataplane::{Idle, PortId, Reason, Snapshot, Tick, Worker};
use drivers::QueuePair;
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use lab::traffic::Content;
use ringbuf::{Arena, ArenaPlan, Burst, Census, Offload, Pool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FRAME: u16 = 2048;

fn pool(frames: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size: FRAME.into(), huge_pages: false, ..ArenaPlan::default() };
    Pool::new(Arena::new(&plan).expect("memory"))
}

fn two() -> [Ends; 2] {
    let ends = connect(&[vec![PortId(0)], vec![PortId(1)]], FRAME).expect("eventfd");
    let ends: Vec<Ends> = ends.into_iter().map(|ends| ends.expect("linked")).collect();
    ends.try_into().expect("two")
}

/// A worker with one queue, and the far end of its wire.
fn bench<'p>(pool: &'p Pool, port: u8, ends: Ends) -> (Loopback<'p>, Worker<'p, Loopback<'p>, Wire>) {
    let (outside, queue) = pair(pool, &LoopbackPlan::default()).expect("loans");
    let worker = Worker::new(pool, vec![Member { port: PortId(port), queue }], Wire);
    (outside, worker.with_hand_off(HandOff::new(pool, ends)))
}

/// Lengths of the frames of packet `number`: one to three, the first with a note every fifth time.
fn pieces(number: u64) -> Vec<u16> {
    let length = |i: u64| 60 + u16::try_from((number * 37 + i * 501) % 1700).expect("short");
    (0..1 + number % 3).map(length).collect()
}

fn note(number: u64) -> Option<Offload> {
    let place = Offload { checksum_start: 14, checksum_offset: 2, ..Offload::default() };
    number.is_multiple_of(5).then_some(place)
}

fn send<'p>(pool: &'p Pool, end: &mut Loopback<'p>, number: u64) -> bool {
    let mut packet = Burst::new();
    let lengths = pieces(number);
    for (i, length) in lengths.iter().enumerate() {
        let Some(mut frame) = pool.alloc() else { return false };
        let mut bytes = vec![0; usize::from(*length)];
        Content::new(number * 4 + i as u64).fill(&mut bytes);
        frame.extend(&bytes).expect("room");
        frame.set_continues(i + 1 < lengths.len());
        if i == 0 {
            frame.set_offload(note(number));
        }
        packet.push(frame).expect("room");
    }
    end.transmit(&mut packet) > 0
}

/// Checks what arrived: the packets from `next` on, in order, whole.
fn check(end: &mut Loopback<'_>, next: &mut u64) {
    let mut burst = Burst::new();
    while end.receive(&mut burst) > 0 {
        while burst.packet_frames() > 0 {
            assert_eq!(burst.peek(0).expect("first").offload(), note(*next));
            for (i, length) in pieces(*next).into_iter().enumerate() {
                let frame = burst.pop().expect("as many frames");
                let mut bytes = vec![0; usize::from(length)];
                Content::new(*next * 4 + i as u64).fill(&mut bytes);
                assert!(frame[..] == bytes[..], "packet {next}, frame {i}");
            }
            *next += 1;
        }
        assert!(burst.is_empty(), "no half packet");
        end.tend();
    }
}

/// Sends `count` packets into its port and takes what comes out of it, until it has as many from the other side.
fn one_side(port: u8, ends: Ends, count: u64, stop: &AtomicBool) -> (Snapshot, Census) {
    let pool = pool(4096);
    let last = {
        let (mut outside, mut worker) = bench(&pool, port, ends);
        let (mut sent, mut came, mut now) = (0, 0, Tick::default());
        let end = Instant::now() + Duration::from_secs(60);
        while sent < count || came < count {
            // Not more than a link holds, whatever the other thread does: nothing may be lost here.
            if sent < count && sent < came + 200 && send(&pool, &mut outside, sent) {
                sent += 1;
            }
            now.0 += TICK_EVERY / 8;
            worker.turn(now);
            outside.tend();
            check(&mut outside, &mut came);
            assert!(Instant::now() < end, "worker {port}: sent {sent}, came {came}: {}", worker.books());
            if stop.load(Ordering::Relaxed) && came == count {
                break;
            }
        }
        run(&mut worker, Idle::Yield, Some(Duration::ZERO), stop);
        check(&mut outside, &mut came);
        worker.board().snapshot()
    };
    pool.collect();
    (last, pool.census())
}

/// Both ways at once, chains and notes too: in order, whole, and the books of each and of both balance.
#[test]
fn two_workers_hand_over_both_ways() {
    const PACKETS: u64 = 20_000;
    let stop = AtomicBool::new(false);
    let [left, right] = two();
    let ends = std::thread::scope(|scope| {
        let other = scope.spawn(|| one_side(1, right, PACKETS, &stop));
        [one_side(0, left, PACKETS, &stop), other.join().expect("no panic")]
    });
    let mut sum = Snapshot::default();
    for (last, census) in ends {
        assert!(last.books().balance(), "{}", last.books());
        assert_eq!(last.handed.over, PACKETS);
        assert_eq!(census.free, census.total(), "{census:?}");
        sum.add(last);
    }
    let (books, bytes): (_, u64) = (sum.books(), (0..PACKETS).flat_map(pieces).map(u64::from).sum());
    assert!(books.balance(), "{books}");
    assert_eq!((books.received, books.transmitted), (2 * PACKETS, 2 * PACKETS), "{books}");
    assert_eq!(
        (books.handed_over, books.taken_over, books.discarded),
        (2 * PACKETS, 2 * PACKETS, 0),
        "{books}"
    );
    assert_eq!(sum.handed.taken_bytes, 2 * bytes);
}

/// Sends packets of one frame through a worker.
fn push<'p>(
    pool: &'p Pool,
    outside: &mut Loopback<'p>,
    worker: &mut Worker<'p, Loopback<'p>, Wire>,
    count: u64,
) {
    for sent in 0..count {
        while !send(pool, outside, 3 * sent) {
            outside.tend();
        }
        worker.turn(Tick::default());
        outside.tend();
    }
}

/// Nobody takes anything over: what the link holds is on its way, the rest discarded by name; when the other worker is
/// gone its way is closed, and every slot comes home.
#[test]
fn a_full_link_is_named_and_a_closed_one_too() {
    let [left, right] = two();
    let (pool, other_pool) = (pool(4096), pool(64));
    let (mut outside, mut worker) = bench(&pool, 0, left);
    let other = bench(&other_pool, 1, right);
    push(&pool, &mut outside, &mut worker, u64::from(LINK_FRAMES) + 100);
    let books = worker.books();
    assert!(books.balance(), "{books}");
    let discards = |worker: &Worker<'_, Loopback<'_>, Wire>, reason: Reason| {
        worker.publish();
        worker.board().snapshot().discards[reason as usize]
    };
    assert_eq!((books.handed_over, books.discarded), (u64::from(LINK_FRAMES), 100), "{books}");
    assert_eq!(discards(&worker, Reason::HandOffFull), 100);
    assert_eq!(pool.census().elsewhere, LINK_FRAMES);

    drop(other);
    push(&pool, &mut outside, &mut worker, 10);
    assert_eq!(discards(&worker, Reason::PortGone), 10);
    assert!(worker.books().balance());
    assert_eq!(pool.census().elsewhere, 0, "collected in the turn");
    drop((worker, outside));
    assert_eq!(pool.census().free, 4096);
}

/// What is taken over needs frames: without any it waits in the link, and comes once there are some.
#[test]
fn what_finds_no_frame_waits() {
    let [left, right] = two();
    let (pool, small) = (pool(256), pool(8));
    let (mut outside, mut worker) = bench(&pool, 0, left);
    let (mut far, mut other) = bench(&small, 1, right);
    for number in 0..50 {
        assert!(send(&pool, &mut outside, number * 3));
    }
    let mut now = Tick::default();
    worker.turn(now);
    let (mut arrived, mut burst) = (0, Burst::new());
    for _ in 0..50 {
        now.0 += TICK_EVERY / 2;
        other.turn(now);
        let books = other.books();
        assert!(books.balance() && books.discarded == 0, "{books}");
        arrived += far.receive(&mut burst);
        burst.clear();
        far.tend();
    }
    assert_eq!(arrived, 50);
}

/// Slots of two sizes are refused at once: a packet of one might not fit the other.
#[test]
fn workers_of_one_arena_size_only() {
    let [left, _right] = two();
    let plan = ArenaPlan { frames: 16, frame_size: 4096, huge_pages: false, ..ArenaPlan::default() };
    let pool = Pool::new(Arena::new(&plan).expect("memory"));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(HandOff::new(&pool, left))));
    assert!(refused.is_err(), "a packet might not fit");
}
