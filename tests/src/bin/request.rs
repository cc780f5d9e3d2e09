//! What a request of 1 KiB costs the file server, without a kernel on the way: nanoseconds of its turns.
//!
//! ```text
//!   Worker [ FileServer ] ◄── loopback ──► Worker [ LoadClient ]       64 connections, one request each at a time
//! ```
//!
//! Both take turns in one thread; only the server's are timed. What a round takes least is what the work takes: all that
//! disturbs it makes it longer. valgrind cannot run it (3.19 knows no openat2).

use dataplane::load::client::{ClientPlan, LoadClient, LoadClients};
use dataplane::load::{LoadPlan, Mode, Questions, Run, Verify};
use dataplane::net::Prefix;
use dataplane::serve::server::{FileServer, ServePlan, Servers};
use dataplane::session::Apps as _;
use dataplane::worker::Member;
use dataplane::{PortId, Tick, Worker};
use drivers::QueuePair as _;
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use lab::Outcome;
use lab::indoors::{plan, pools};
use lab::server::Tree;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 64;
const WARM: u64 = 2_000;
const REQUESTS: u64 = 12_800;
const ROUNDS: usize = 50;
/// How far the clock goes in a turn.
const STEP: Duration = Duration::from_micros(100);

fn main() -> Outcome<()> {
    let (tree, pools) = (Tree::new()?, pools(2)?);
    tree.file("1k.bin", 1024)?;
    let plan = plan(tree.path())?;
    let at = SocketAddr::new(plan.addresses[0].address, plan.listen);
    let servers = Servers::new(ServePlan { connections: 128, ..plan }, 1)?;
    let wire = LoopbackPlan { ring: 512, ..LoopbackPlan::default() };
    let (near, far) = pair(&pools[0], &wire).ok_or("no loans")?;
    let run = Arc::new(Run::new(questions(at)?, 1));
    let clients = LoadClients::new(&run, client())?;
    let server = servers.app(0, &pools[0], &[near.caps()])?;
    let client = clients.app(0, &pools[0], &[far.caps()])?;
    let mut hall = Hall {
        now: Tick(Duration::from_secs(1)),
        server: Worker::new(&pools[0], vec![Member { port: PortId(0), queue: near }], server),
        client: Worker::new(&pools[0], vec![Member { port: PortId(0), queue: far }], client),
    };
    let mut requests = hall.until(&run, WARM)?.0;
    let mut rounds = Vec::new();
    let mut turns = 0;
    for _ in 0..ROUNDS {
        // Both counts are told at a tick of the client's, so their difference is exact.
        let (now, so_many, time) = hall.until(&run, requests + REQUESTS)?;
        rounds.push(time.as_nanos() as f64 / (now - requests) as f64);
        turns += so_many;
        requests = now;
    }
    rounds.sort_by(f64::total_cmp);
    println!(
        "serve, 1 KiB, {CONNECTIONS} connections over loopback: {:.0} ns a request (median {:.0}, most {:.0}) in {ROUNDS} rounds of {REQUESTS}, {:.1} requests a turn",
        rounds[0],
        rounds[ROUNDS / 2],
        rounds[ROUNDS - 1],
        (REQUESTS * ROUNDS as u64) as f64 / f64::from(turns),
    );
    Ok(())
}

struct Hall<'p> {
    now: Tick,
    server: Worker<'p, Loopback<'p>, FileServer<'p>>,
    client: Worker<'p, Loopback<'p>, LoadClient<'p>>,
}

impl<'p> Hall<'p> {
    /// Turns until the client has counted so many responses; how many it has, and how many turns of the server's that took,
    /// and how long.
    fn until(&mut self, run: &Run, requests: u64) -> Outcome<(u64, u32, Duration)> {
        let (mut turns, mut time, begun) = (0, Duration::ZERO, Instant::now());
        loop {
            let told = run.progress();
            if told.requests >= requests {
                return Ok((told.requests, turns, time));
            }
            if told.errors > 0 || run.hopeless().is_some() || begun.elapsed() > Duration::from_secs(120) {
                return Err(format!("{told:?}, {:?}", run.hopeless()).into());
            }
            self.now.0 += STEP;
            turns += 1;
            let asked = self.client.turn(self.now);
            let begin = Instant::now();
            let answered = self.server.turn(self.now);
            time += begin.elapsed();
            if asked + answered == 0 {
                // For the threads that look up and load.
                std::thread::sleep(Duration::from_micros(5));
            }
        }
    }
}

fn questions(server: SocketAddr) -> Outcome<LoadPlan> {
    let questions = Questions::new(&[format!("http://{server}/1k.bin")], &[], &[])?;
    Ok(LoadPlan {
        server,
        requests: questions.requests,
        paths: questions.paths,
        connections: CONNECTIONS,
        pipeline: 1,
        mode: Mode::Closed,
        warmup: Duration::ZERO,
        duration: None,
        limit: None,
        timeout: Duration::from_secs(5),
        verify: Verify::Lengths,
    })
}

fn client() -> ClientPlan {
    ClientPlan {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![Prefix { address: IpAddr::from([10, 0, 0, 1]), bits: 24 }],
        gateway: None,
        receive_window: 64 << 10,
    }
}
