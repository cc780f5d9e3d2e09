//! What a turn of `wire` costs, in instructions: run under callgrind by `tests/instructions.sh`.
//!
//! ```text
//!   ┌──► port 0 ── wire ──► port 1 ──┐
//!   └────────── loopback ◄───────────┘       32 frames go round for ever
//! ```
//!
//! With `split` or `packed`, over virtio rings of that kind, with a device in memory at each end that is not counted.

use dataplane::forward::Wire;
use dataplane::worker::Member;
use dataplane::{PortId, Tick, Worker};
use drivers::loopback::{LoopbackPlan, pair};
use drivers::nic::virtio::fake::{self, FakePlan};
use drivers::{Gather, QueuePair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};

const FRAMES: usize = 32;
const TURNS: usize = 10_000;

fn main() {
    let moved = match std::env::args().nth(1).as_deref() {
        Some("split") => virtio(false),
        Some("packed") => virtio(true),
        _ => loopback(),
    };
    assert_eq!(moved, FRAMES * TURNS, "every frame came round at every turn");
    println!("{moved} frames");
}

fn loopback() -> usize {
    let pool = Pool::new(Arena::new(&ArenaPlan { frames: 256, ..ArenaPlan::default() }).expect("512 KiB"));
    let (left, mut right) = pair(&pool, &LoopbackPlan::default()).expect("two loans");
    let mut burst = Burst::new();
    for _ in 0..FRAMES {
        let mut frame = pool.alloc().expect("plenty");
        frame.extend(&[0; 60]).expect("fits");
        burst.push(frame).expect("room");
    }
    right.transmit(&mut burst);
    let members = vec![Member { port: PortId(0), queue: left }, Member { port: PortId(1), queue: right }];
    let mut worker = Worker::new(&pool, members, Wire);
    // The first turn ticks; the measured ones don't.
    worker.turn(Tick::default());
    measured(&mut worker, TURNS)
}

fn virtio(packed: bool) -> usize {
    let pool = Pool::new(Arena::new(&ArenaPlan { frames: 1024, ..ArenaPlan::default() }).expect("2 MiB"));
    let pair = || fake::pair(&pool, FakePlan { packed, ..FakePlan::default() }).expect("a pair");
    let ((left, mut from), (right, mut to)) = (pair(), pair());
    from.want_bells(false);
    to.want_bells(false);
    let members = vec![Member { port: PortId(0), queue: left }, Member { port: PortId(1), queue: right }];
    let mut worker = Worker::new(&pool, members, Wire);
    worker.turn(Tick::default());
    let mut moved = 0;
    for _ in 0..TURNS {
        for _ in 0..FRAMES {
            assert!(from.deliver([0; 10], &[0; 60]), "the receive ring is full");
        }
        moved += measured(&mut worker, 1);
        while to.take().is_some() {}
    }
    moved
}

/// The only function that callgrind counts.
#[inline(never)]
fn measured<'p, Q: Gather<'p>>(worker: &mut Worker<'p, Q, Wire>, turns: usize) -> usize {
    (0..turns).map(|_| worker.turn(Tick::default())).sum()
}
