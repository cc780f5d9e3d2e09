//! A reflector: what comes in at a port goes back out of it, addresses exchanged.
//!
//!     cargo run --bin 01-reflect                      over a wire in memory, turn by turn; needs no rights
//!     sudo target/debug/01-reflect af-xdp:eth1 10     over a real port, for ten seconds
#![forbid(unsafe_code)]

use dataplane::forward::MacSwap;
use dataplane::ports::Port;
use dataplane::session::{Each, SessionPlan, session, total};
use dataplane::worker::Member;
use dataplane::{PortId, Tick, Worker};
use drivers::QueuePair;
use drivers::loopback::{LoopbackPlan, pair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::error::Error;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [] => in_memory(),
        [port] => over_a_port(port, 10),
        [port, seconds, ..] => over_a_port(port, seconds.parse()?),
    }
}

/// Everything by hand: an arena, a pool over it, a queue pair, a worker, and its turns.
fn in_memory() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(Arena::new(&ArenaPlan { frames: 64, ..ArenaPlan::default() })?);
    let (mut peer, queue) = pair(&pool, &LoopbackPlan::default()).ok_or("the pool has no loan left")?;
    let mut worker = Worker::new(&pool, vec![Member { port: PortId(0), queue }], MacSwap);

    let mut burst = Burst::new();
    for number in 1..=3 {
        let mut frame = pool.alloc().ok_or("64 frames, and none is free?")?;
        frame.extend(b"\x02to-me\x02from!\x88\xb5hello ").expect("2 KiB hold it");
        frame.extend(&[b'0' + number]).expect("and this");
        burst.push(frame).expect("a burst holds 64");
    }
    peer.transmit(&mut burst);

    worker.turn(Tick::default());

    peer.receive(&mut burst);
    for frame in burst.drain() {
        println!("{}", frame.escape_ascii());
    }
    println!("{}", worker.books());
    Ok(())
}

/// The same app over whatever device the user names, on a thread of its own.
fn over_a_port(spec: &str, seconds: u64) -> Result<(), Box<dyn Error>> {
    let port = Port::open(PortId(0), &spec.parse()?)?;
    let plan = SessionPlan { duration: Some(Duration::from_secs(seconds)), ..SessionPlan::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let ends = session(
        &[port],
        &plan,
        &stop,
        &Each(MacSwap),
        |_opened| true,
        |workers, at| {
            println!("{:>3} s  {}", at.as_secs(), total(workers).books());
            true
        },
    )?;
    ends.iter().for_each(|end| println!("{:?}: {}", end.ended, end.last.books()));
    Ok(())
}
