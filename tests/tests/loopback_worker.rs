//! A worker between two in-memory wires that lose, reorder and lie: the books balance whatever happens.
//!
//! ```text
//!   near ──► [ port 0   worker   port 1 ] ──► far         every ring begins just below 2^32
//! ```
#![forbid(unsafe_code)]

use dataplane::forward::{MacSwap, Wire};
use dataplane::worker::{Member, TICK_EVERY};
use dataplane::{App, PortId, Reason, Tick, Worker};
use drivers::loopback::{Lie, Loopback, LoopbackPlan, Mischief, pair};
use drivers::wrap::{Lossy, LossyPlan, Segment};
use drivers::{Fault, QueuePair};
use lab::traffic::Content;
use ringbuf::{Arena, ArenaPlan, Burst, Offload, Pool, Segmentation, Stray};

const FRAMES: u32 = 1024;

/// A worker between two wires, and their far ends.
struct Bench<'p, A> {
    pool: &'p Pool,
    near: Loopback<'p>,
    far: Loopback<'p>,
    worker: Worker<'p, Loopback<'p>, A>,
    now: Tick,
    next: u64,
}

fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 2048, ..ArenaPlan::default() };
    Pool::new(Arena::new(&plan).expect("memory"))
}

impl<'p, A: App<'p>> Bench<'p, A> {
    fn new(pool: &'p Pool, app: A, ring: u32) -> Self {
        let plan = LoopbackPlan { ring, start: u32::MAX - 70 };
        let (near, left) = pair(pool, &plan).expect("loans");
        let (far, right) = pair(pool, &plan).expect("loans");
        let members = vec![Member { port: PortId(0), queue: left }, Member { port: PortId(1), queue: right }];
        let worker = Worker::new(pool, members, app);
        Self { pool, near, far, worker, now: Tick::default(), next: 0 }
    }

    /// Puts a packet of these pieces on the near wire; false when its ring is full.
    fn send(&mut self, pieces: &[u16]) -> bool {
        let mut packet = Burst::new();
        for (i, len) in pieces.iter().enumerate() {
            let mut frame = self.pool.alloc().expect("a frame");
            let mut bytes = vec![0; usize::from(*len)];
            Content::new(self.next * 64 + i as u64).fill(&mut bytes);
            frame.extend(&bytes).expect("room");
            frame.set_continues(i + 1 < pieces.len());
            packet.push(frame).expect("room");
        }
        let sent = self.near.transmit(&mut packet) > 0;
        self.next += u64::from(sent);
        sent
    }

    fn turn(&mut self) -> usize {
        self.now.0 += TICK_EVERY / 4;
        self.worker.turn(self.now)
    }

    /// What has arrived at the end, packet by packet, each as its pieces.
    fn arrived(&mut self, end: fn(&mut Self) -> &mut Loopback<'p>) -> Vec<Vec<Vec<u8>>> {
        let (mut burst, mut packets, mut packet) = (Burst::new(), Vec::new(), Vec::new());
        while end(self).receive(&mut burst) > 0 {
            while let Some(frame) = burst.pop() {
                packet.push(frame.to_vec());
                if !frame.continues() {
                    packets.push(std::mem::take(&mut packet));
                }
            }
        }
        packets
    }

    /// The sums, and after the wires are closed every frame at home.
    fn close(self) -> dataplane::Snapshot {
        let books = self.worker.books();
        assert!(books.balance(), "{books}");
        let last = self.worker.board().snapshot();
        let Self { pool, near, far, worker, .. } = self;
        assert_eq!(pool.census().total(), FRAMES, "{:?}", pool.census());
        drop((near, far, worker));
        let census = pool.census();
        assert_eq!((census.free, census.total()), (FRAMES, FRAMES), "{census:?}");
        last
    }
}

fn expected(number: u64, pieces: &[u16]) -> Vec<Vec<u8>> {
    let piece = |(i, len): (usize, &u16)| {
        let mut bytes = vec![0; usize::from(*len)];
        Content::new(number * 64 + i as u64).fill(&mut bytes);
        bytes
    };
    pieces.iter().enumerate().map(piece).collect()
}

/// Short, long and chained packets pass in order while every ring goes round from just below 2^32.
#[test]
fn chains_and_singles_pass_in_order_while_rings_wrap() {
    let pool = pool();
    let mut bench = Bench::new(&pool, Wire, 64);
    let shapes: [&[u16]; 5] = [&[14], &[60], &[1500], &[1792, 1], &[1792; 18]];
    let mut seen = 0;
    for number in 0..1000 {
        assert!(bench.send(shapes[number % 5]));
        bench.turn();
        for packet in bench.arrived(|bench| &mut bench.far) {
            assert_eq!(packet, expected(seen, shapes[usize::try_from(seen % 5).expect("below five")]));
            seen += 1;
        }
    }
    assert_eq!(seen, 1000);
    assert_eq!(bench.close().books().transmitted, 1000);
}

/// Whole bursts at a time, both ways at once, come back with their addresses exchanged.
#[test]
fn a_reflector_answers_at_both_ends() {
    let pool = pool();
    let mut bench = Bench::new(&pool, MacSwap, 64);
    let mut seen = 0;
    for _ in 0..50 {
        while bench.send(&[100]) {}
        bench.turn();
        for packet in bench.arrived(|bench| &mut bench.near) {
            let sent = expected(seen, &[100]).remove(0);
            assert_eq!((&packet[0][..6], &packet[0][6..12]), (&sent[6..12], &sent[..6]));
            assert_eq!(packet[0][12..], sent[12..]);
            seen += 1;
        }
    }
    assert_eq!(seen, 50 * 64);
    bench.close();
}

/// What is shorter than an Ethernet header is discarded as a runt, alone and in the midst of others.
#[test]
fn runts_are_discarded_by_name() {
    fn story<A: for<'p> App<'p>>(app: A, end: for<'a, 'p> fn(&'a mut Bench<'p, A>) -> &'a mut Loopback<'p>) {
        let pool = pool();
        let mut bench = Bench::new(&pool, app, 256);
        for number in 0..60 {
            let pieces: &[u16] = match number % 4 {
                0 => &[13],
                1 => &[64],
                2 => &[1],
                _ => &[1792, 5],
            };
            assert!(bench.send(pieces));
        }
        bench.turn();
        bench.turn();
        assert_eq!(bench.arrived(end).len(), 30);
        let last = bench.close();
        assert_eq!(last.discarded().collect::<Vec<_>>(), [(Reason::Runt, 30)]);
    }
    story(Wire, |bench| &mut bench.far);
    story(MacSwap, |bench| &mut bench.near);
}

/// A way out that nobody empties: what does not fit is counted, and the way is open again once there is room.
#[test]
fn a_full_transmit_ring_is_counted() {
    let pool = pool();
    let mut bench = Bench::new(&pool, Wire, 64);
    for _ in 0..4 {
        for _ in 0..50 {
            assert!(bench.send(&[60]));
        }
        bench.turn();
    }
    assert_eq!(bench.arrived(|bench| &mut bench.far).len(), 64);
    assert!(bench.send(&[60]));
    bench.turn();
    assert_eq!(bench.arrived(|bench| &mut bench.far).len(), 1);
    let last = bench.close();
    assert_eq!(last.discarded().collect::<Vec<_>>(), [(Reason::TransmitRingFull, 200 - 64)]);
}

/// A wire that loses and reorders, in front of the worker and behind it: each packet is counted once, whatever its seed.
#[test]
fn losses_and_swaps_keep_the_books() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seed.map_or(1..40, |seed| seed..seed + 1) {
        let pool = pool();
        let mut bench = Bench::new(&pool, Wire, 128);
        let wrong = Mischief { seed, lose: 6000, reorder: 12000, lie: None };
        bench.near.misbehave(wrong);
        bench.worker.members_mut()[1].queue.misbehave(Mischief { seed: seed + 1, ..wrong });
        let (mut sent, mut seen) = (0, 0);
        for number in 0..400 {
            let pieces: &[u16] = if number % 7 == 0 { &[1792, 1792, 100] } else { &[300] };
            sent += u64::from(bench.send(pieces));
            bench.turn();
            seen += bench.arrived(|bench| &mut bench.far).len() as u64;
        }
        for _ in 0..3 {
            bench.turn();
            seen += bench.arrived(|bench| &mut bench.far).len() as u64;
        }
        let lost_before = bench.near.counters().transmit_dropped;
        let last = bench.close();
        let books = last.books();
        let lost_behind = last.queues[1].counters.transmit_dropped;
        assert_eq!(books.received, sent - lost_before, "SEED={seed}");
        assert_eq!(seen, books.transmitted - lost_behind, "SEED={seed}");
        assert!(lost_before > 0 && lost_behind > 0, "SEED={seed}");
    }
}

/// A wrapper that loses, doubles, damages, reorders and delays in front of the worker: what it hands over is in the books,
/// what it holds back comes home.
#[test]
fn a_bad_wire_in_front_keeps_the_books() {
    for seed in 1..20 {
        let pool = pool();
        let ring = LoopbackPlan { ring: 128, start: u32::MAX - 70 };
        let (mut near, left) = pair(&pool, &ring).expect("loans");
        let (mut far, right) = pair(&pool, &ring).expect("loans");
        let (drop, duplicate, corrupt, reorder, delay) = (3000, 4000, 5000, 6000, 7000);
        let plan = LossyPlan { seed, drop, duplicate, corrupt, reorder, delay, delay_bursts: 3 };
        let member = |port, queue| Member { port: PortId(port), queue: Lossy::new(queue, &pool, plan) };
        let mut worker = Worker::new(&pool, vec![member(0, left), member(1, right)], Wire);
        let (mut sent, mut seen, mut burst) = (0, 0, Burst::new());
        for turn in 0..500 {
            if turn < 490 {
                for continues in [false, true, true, false] {
                    let mut frame = pool.alloc().expect("a frame");
                    frame.extend(&[7; 200]).expect("room");
                    frame.set_continues(continues);
                    burst.push(frame).expect("room");
                    sent += u64::from(!continues);
                }
                assert_eq!(near.transmit(&mut burst), 4);
            }
            worker.turn(Tick(TICK_EVERY * turn / 4));
            while far.receive(&mut burst) > 0 {
                while let Some(frame) = burst.pop() {
                    seen += u64::from(!frame.continues());
                }
            }
        }
        let faults = worker.members()[0].queue.faults();
        let (held, books) = (worker.members()[0].queue.held() as u64, worker.books());
        assert!(books.balance() && faults.dropped > 0 && faults.duplicated > 0, "seed {seed}: {books}");
        assert_eq!(
            books.received,
            sent - faults.dropped + faults.duplicated - held,
            "seed {seed}: {faults:?}"
        );
        assert_eq!((books.transmitted, books.discarded), (seen, 0), "seed {seed}");
        std::mem::drop((near, far, worker));
        assert_eq!(pool.census().free, FRAMES, "seed {seed}");
    }
}

/// Each lie that a device can tell is found at once, named, and costs nobody a frame; the other port lives on.
#[test]
fn lies_are_named_and_cost_no_frame() {
    for lie in [Lie::Outside, Lie::NotLent, Lie::Twice, Lie::TooLong] {
        for place in [0, 1, 17] {
            let pool = pool();
            let mut bench = Bench::new(&pool, Wire, 128);
            bench.send(&[60]);
            bench.near.misbehave(Mischief { seed: 1, lie: Some((lie, place)), ..Mischief::default() });
            for _ in 0..30 {
                bench.send(&[60]);
            }
            for _ in 0..4 {
                bench.turn();
            }
            let (port, fault) = bench.worker.fault().expect("a fault");
            assert_eq!(port, PortId(0), "{lie:?} at {place}");
            let right = matches!(
                (lie, fault),
                (Lie::Outside, Fault::Stray(Stray::Unknown { .. }))
                    | (Lie::NotLent | Lie::Twice, Fault::Stray(Stray::NotOnLoan(_)))
                    | (Lie::TooLong, Fault::Stray(Stray::OutOfBounds { .. }))
            );
            assert!(right, "{lie:?} at {place}: {fault:?}");
            assert!(fault.to_string().len() > 20, "{fault}");
            // What came before the lie was forwarded; what comes by the other port goes nowhere, and by name.
            let before = bench.arrived(|bench| &mut bench.far).len();
            assert!(before >= place as usize, "{before} packets before {lie:?} at {place}");
            let mut burst = Burst::new();
            let mut frame = pool.alloc().expect("a frame");
            frame.extend(&[7; 60]).expect("room");
            burst.push(frame).expect("room");
            assert_eq!(bench.far.transmit(&mut burst), 1);
            bench.turn();
            let last = bench.close();
            assert_eq!(last.discarded().collect::<Vec<_>>(), [(Reason::PortGone, 1)], "{lie:?} at {place}");
        }
    }
}

/// A UDP packet of 20 datagrams of 100 bytes, still to be cut.
fn uncut<'p>(pool: &'p Pool) -> Burst<'p> {
    let mut frame = pool.alloc().expect("a frame");
    let mut headers = [0; 42];
    headers[12..24].copy_from_slice(&[0x08, 0x00, 0x45, 0, 0x07, 0xec, 0, 0, 0, 0, 64, 17]);
    frame.extend(&headers).expect("room");
    frame.grow(1700).expect("room");
    // 20 + 8 + 1700 bytes by the IP header.
    frame[16..18].copy_from_slice(&1728u16.to_be_bytes());
    frame.set_offload(Some(Offload {
        checksum_start: 34,
        checksum_offset: 6,
        segment_bytes: 85,
        header_bytes: 42,
        segmentation: Segmentation::Udp,
    }));
    let mut burst = Burst::new();
    burst.push(frame).expect("room");
    burst
}

/// Packets cut on the way out, through a ring that takes some of the segments only: the books name each.
#[test]
fn segments_are_in_the_books() {
    let pool = pool();
    let plan = LoopbackPlan { ring: 32, start: u32::MAX - 70 };
    let (mut near, left) = pair(&pool, &plan).expect("loans");
    let (mut far, right) = pair(&pool, &plan).expect("loans");
    let member = |port, queue| Member { port: PortId(port), queue: Segment::new(queue, &pool) };
    let mut worker = Worker::new(&pool, vec![member(0, left), member(1, right)], Wire);
    assert_eq!(near.transmit(&mut uncut(&pool)), 1);
    worker.turn(Tick::default());
    let books = worker.books();
    assert_eq!((books.received, books.cut, books.transmitted), (1, 19, 20), "{books}");
    assert!(books.balance(), "{books}");
    // Room for 12 of the next 20, and for none of the third packet.
    assert_eq!(near.transmit(&mut uncut(&pool)) + near.transmit(&mut uncut(&pool)), 2);
    worker.turn(Tick::default());
    let books = worker.books();
    assert_eq!((books.received, books.cut, books.transmitted, books.discarded), (3, 38, 32, 9), "{books}");
    assert!(books.balance(), "{books}");
    let last = worker.board().snapshot();
    assert_eq!(last.discarded().collect::<Vec<_>>(), [(Reason::TransmitRingFull, 9)]);
    let mut burst = Burst::new();
    assert_eq!(far.receive(&mut burst), 32);
    assert!(burst.as_slice().iter().all(|frame| frame.len() == 42 + 85));
    drop((burst, near, far, worker));
    assert_eq!(pool.census().free, FRAMES);
}
