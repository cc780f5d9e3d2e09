//! What a turn of `wire` costs, in instructions: run under callgrind by `tests/instructions.sh`.
//!
//! ```text
//!   ┌──► port 0 ── wire ──► port 1 ──┐
//!   └────────── loopback ◄───────────┘       32 frames go round for ever
//! ```

use dataplane::forward::Wire;
use dataplane::worker::Member;
use dataplane::{PortId, Tick, Worker};
use drivers::QueuePair;
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};

const FRAMES: usize = 32;
const TURNS: usize = 10_000;

fn main() {
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
    let moved = measured(&mut worker);
    assert_eq!(moved, FRAMES * TURNS, "every frame came round at every turn");
    println!("{moved} frames");
}

/// The only function that callgrind counts.
#[inline(never)]
fn measured<'p>(worker: &mut Worker<'p, Loopback<'p>, Wire>) -> usize {
    (0..TURNS).map(|_| worker.turn(Tick::default())).sum()
}
