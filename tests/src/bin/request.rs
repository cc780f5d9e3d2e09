//! What a request costs the file server, without a kernel on the way: nanoseconds of its turns, or instructions.
//!
//! ```text
//!   Worker [ FileServer ] ◄── loopback ──► Worker [ LoadClient ]       connections with one request each at a time
//! ```
//!
//! Both take turns in one thread; only the server's are timed. What a round takes least is what the work takes: all that
//! disturbs it makes it longer.
//!
//! With `1k`, `1m`, or `1m-pages` (nothing is copied into frames) it times nothing and says how many requests and segments
//! there were: `tests/instructions.sh` has the server's turns counted under callgrind (a valgrind that knows openat2: 3.20).

use dataplane::load::client::{ClientPlan, LoadClient, LoadClients};
use dataplane::load::{LoadPlan, Mode, Questions, Run, Verify};
use dataplane::net::Prefix;
use dataplane::serve::server::{FileServer, ServePlan, Servers};
use dataplane::session::Apps as _;
use dataplane::worker::Member;
use dataplane::{PortId, Tick, Worker};
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use drivers::{Caps, QueuePair as _};
use lab::Outcome;
use lab::indoors::{plan, pools};
use lab::server::Tree;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUESTS: u64 = 12_800;
const ROUNDS: usize = 50;
/// How far the clock goes in a turn.
const STEP: Duration = Duration::from_micros(100);

/// What is asked for.
struct Case {
    bytes: usize,
    connections: usize,
    warm: u64,
    copy_below: usize,
}

const SMALL: Case = Case { bytes: 1 << 10, connections: 64, warm: 2_000, copy_below: 2048 };
const LARGE: Case = Case { bytes: 1 << 20, connections: 16, warm: 32, copy_below: 2048 };

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => run(&SMALL, timed),
        Some("1k") => run(&SMALL, |hall, run, begun| counted(hall, run, begun, 6_400)),
        Some("1m") => run(&LARGE, |hall, run, begun| counted(hall, run, begun, 64)),
        Some("1m-pages") => {
            run(&Case { copy_below: 0, ..LARGE }, |hall, run, begun| counted(hall, run, begun, 64))
        }
        Some(other) => Err(format!("{other}: give 1k, 1m, 1m-pages or nothing").into()),
    }
}

/// Opens both ends, warms them up, and measures; `begun` is how many responses there were by then.
fn run(case: &Case, measure: impl FnOnce(&mut Hall<'_>, &Run, u64) -> Outcome<()>) -> Outcome<()> {
    let (tree, pools) = (Tree::new()?, pools(2)?);
    tree.file("file.bin", case.bytes)?;
    let plan = ServePlan { connections: 128, copy_below: case.copy_below, ..plan(tree.path())? };
    let at = SocketAddr::new(plan.addresses[0].address, plan.listen);
    let servers = Servers::new(plan, 1)?;
    let wire = LoopbackPlan { ring: 512, ..LoopbackPlan::default() };
    let (near, far) = pair(&pools[0], &wire).ok_or("no loans")?;
    let run = Arc::new(Run::new(questions(at, case.connections)?, 1));
    let clients = LoadClients::new(&run, client())?;
    // Nobody on the way cuts longer segments than the path takes.
    let caps = Caps { segmentation: false, ..near.caps().clone() };
    let server = servers.app(0, &pools[0], &[&caps])?;
    let client = clients.app(0, &pools[0], &[far.caps()])?;
    let mut hall = Hall {
        now: Tick(Duration::from_secs(1)),
        server: Worker::new(&pools[0], vec![Member { port: PortId(0), queue: near }], server),
        client: Worker::new(&pools[0], vec![Member { port: PortId(0), queue: far }], client),
        servers,
        turns: 0,
        counting: false,
    };
    let begun = hall.until(&run, case.warm)?.0;
    measure(&mut hall, &run, begun)
}

fn timed(hall: &mut Hall<'_>, run: &Run, mut requests: u64) -> Outcome<()> {
    let mut rounds = Vec::new();
    let turns = hall.turns;
    for _ in 0..ROUNDS {
        // Both counts are told at a tick of the client's, so their difference is exact.
        let (now, time) = hall.until(run, requests + REQUESTS)?;
        rounds.push(time.as_nanos() as f64 / (now - requests) as f64);
        requests = now;
    }
    rounds.sort_by(f64::total_cmp);
    println!(
        "serve, 1 KiB, {} connections over loopback: {:.0} ns a request (median {:.0}, most {:.0}) in {ROUNDS} rounds of {REQUESTS}, {:.1} requests a turn",
        SMALL.connections,
        rounds[0],
        rounds[ROUNDS / 2],
        rounds[ROUNDS - 1],
        (REQUESTS * ROUNDS as u64) as f64 / (hall.turns - turns) as f64,
    );
    Ok(())
}

/// Callgrind counts what is done inside of [`measured`], from here on.
fn counted(hall: &mut Hall<'_>, run: &Run, begun: u64, requests: u64) -> Outcome<()> {
    hall.counting = true;
    // The server tells its counters at the same ticks as the client, so these differences are exact, too.
    let sent = |hall: &Hall<'_>| hall.servers.figures().get("segments_out");
    let (turns, segments) = (hall.turns, sent(hall));
    let (now, _) = hall.until(run, begun + requests)?;
    let (requests, segments, turns) = (now - begun, sent(hall) - segments, hall.turns - turns);
    println!("{requests} requests\n{segments} segments\n{turns} turns");
    Ok(())
}

struct Hall<'p> {
    now: Tick,
    server: Worker<'p, Loopback<'p>, FileServer<'p>>,
    client: Worker<'p, Loopback<'p>, LoadClient<'p>>,
    servers: Servers,
    /// The server's turns so far.
    turns: u64,
    /// Whether callgrind counts them.
    counting: bool,
}

impl<'p> Hall<'p> {
    /// Turns until the client has counted so many responses; how many it has, and how long the server's turns took.
    fn until(&mut self, run: &Run, requests: u64) -> Outcome<(u64, Duration)> {
        let (mut time, begun) = (Duration::ZERO, Instant::now());
        loop {
            let told = run.progress();
            if told.requests >= requests {
                return Ok((told.requests, time));
            }
            if told.errors > 0 || run.hopeless().is_some() || begun.elapsed() > Duration::from_secs(120) {
                return Err(format!("{told:?}, {:?}", run.hopeless()).into());
            }
            self.now.0 += STEP;
            self.turns += 1;
            let asked = self.client.turn(self.now);
            let begin = Instant::now();
            let answered =
                if self.counting { measured(&mut self.server, self.now) } else { self.server.turn(self.now) };
            time += begin.elapsed();
            if asked + answered == 0 {
                // For the threads that look up and load.
                std::thread::sleep(Duration::from_micros(5));
            }
        }
    }
}

/// The function that callgrind counts.
#[inline(never)]
fn measured<'p>(server: &mut Worker<'p, Loopback<'p>, FileServer<'p>>, now: Tick) -> usize {
    server.turn(now)
}

fn questions(server: SocketAddr, connections: usize) -> Outcome<LoadPlan> {
    let questions = Questions::new(&[format!("http://{server}/file.bin")], &[], &[])?;
    Ok(LoadPlan {
        server,
        requests: questions.requests,
        paths: questions.paths,
        connections,
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
