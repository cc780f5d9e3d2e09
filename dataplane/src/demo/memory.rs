//! The act that needs no rights: the forwarder's loop over two loopback cables. No NIC, no kernel: frames change hands in memory.
//!
//! ```text
//!   maker ── cable ── [ port 0 │ Worker, Wire │ port 1 ] ── cable ── checker        all on one thread
//! ```

use super::measured::{Losses, Measured, QueueMode, Row, rates};
use super::{DemoError, Step};
use crate::app::PortId;
use crate::forward::Wire;
use crate::lab::traffic::{Content, Hash};
use crate::worker::{Member, Tick, Worker};
use drivers::QueuePair;
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the shortest and the longest frame of an ordinary Ethernet, without the check sequence.
const SIZES: [u16; 2] = [60, 1514];

/// Frames handled together.
const TOGETHER: usize = 32;

pub(super) fn act(
    time: Duration,
    watch: &mut dyn FnMut(&Step),
    stop: &AtomicBool,
) -> Result<Vec<Row>, DemoError> {
    let mut rows = Vec::new();
    for (number, size) in (1..).zip(SIZES) {
        watch(&Step { what: format!("loopback: frames of {size} bytes, in memory"), number, of: 2 });
        // Half the time each: two rows last as long as one of the rows over real interfaces.
        let measured = measure(size, time.div_f64(2.0), stop).map_err(DemoError::Memory)?;
        rows.push(Row {
            driver: "loopback".to_owned(),
            traffic: format!("{size} bytes"),
            error: None,
            measured: Some(measured),
        });
        if stop.load(Ordering::Relaxed) {
            return Err(DemoError::Stopped);
        }
    }
    Ok(rows)
}

/// What has gone by at one place.
#[derive(Default)]
struct Seen {
    frames: u64,
    hash: Hash,
}

impl Seen {
    fn add(&mut self, burst: &Burst<'_>) {
        for frame in (0..burst.len()).filter_map(|i| burst.peek(i)) {
            self.hash.add(frame);
            self.frames += 1;
        }
    }
}

fn measure(size: u16, time: Duration, stop: &AtomicBool) -> Result<Measured, String> {
    let arena = Arena::new(&ArenaPlan { frames: 2048, ..ArenaPlan::default() }).map_err(|e| e.to_string())?;
    let pool = Pool::new(arena);
    let cable = || pair(&pool, &LoopbackPlan::default()).ok_or("the pool has no loans left");
    let ((mut maker, near), (far, mut checker)) = (cable()?, cable()?);
    let members = vec![Member { port: PortId(0), queue: near }, Member { port: PortId(1), queue: far }];
    let mut worker = Worker::new(&pool, members, Wire);

    let (mut made, mut checked, mut working) = (Seen::default(), Seen::default(), Duration::ZERO);
    let (mut content, mut bytes) = (Content::new(0x52_57), vec![0x52; usize::from(size)]);
    let begin = Instant::now();
    // After the time is up, turns go on until the last frame is through; a lost one ends that too.
    let mut grace = 1000;
    while grace > 0 {
        if begin.elapsed() < time && !stop.load(Ordering::Relaxed) {
            make(&pool, &mut maker, &mut content, &mut bytes, &mut made)?;
        } else if made.frames == checked.frames {
            break;
        } else {
            grace -= 1;
        }
        let turn = Instant::now();
        worker.turn(Tick(turn - begin));
        working += turn.elapsed();
        check(&mut checker, &mut checked);
    }
    let books = worker.books();
    let queues = worker.members().iter().map(|member| mode(&member.queue)).collect();
    drop((worker, maker, checker));

    let (packets, bytes) = (books.transmitted, books.transmitted * u64::from(size));
    let (mpps, gbps) = rates(packets, bytes, working);
    let lost = made.frames.saturating_sub(checked.frames);
    let found = Losses { discarded: books.discarded, unsendable: books.unsendable, ..Losses::default() };
    let (sent, arrived) = (made.hash.value(), checked.hash.value());
    Ok(Measured {
        seconds: working.as_secs_f64(),
        packets,
        bytes,
        mpps,
        gbps,
        unit: "frames",
        sent: made.frames,
        arrived: checked.frames,
        lost,
        losses: found.out_of(lost),
        discarded: BTreeMap::new(),
        hash_ok: sent == arrived && made.frames > 0,
        hashes: Some([sent, arrived].map(|hash| format!("{hash:016x}"))),
        balance: books.balance(),
        frames_home: pool.census().free == pool.census().total(),
        books: serde_json::to_value(books).map_err(|e| e.to_string())?,
        queues,
        served: None,
    })
}

/// Makes some frames, each different, and puts them on the cable.
fn make<'p>(
    pool: &'p Pool,
    maker: &mut Loopback<'p>,
    content: &mut Content,
    bytes: &mut [u8],
    made: &mut Seen,
) -> Result<(), String> {
    maker.tend();
    let mut burst = Burst::new();
    while burst.len() < TOGETHER
        && let Some(mut frame) = pool.alloc()
    {
        // The two addresses and the type stay as they are.
        content.fill(&mut bytes[14..30]);
        frame.extend(bytes).map_err(|_| "a frame has no room for its content")?;
        drop(burst.push(frame));
    }
    made.add(&burst);
    maker.transmit(&mut burst);
    // Each turn of the loop empties the cable, so there is always room on it.
    if burst.is_empty() { Ok(()) } else { Err("the cable is full although the forwarder runs".to_owned()) }
}

/// Takes what has come through off the cable.
fn check<'p>(checker: &mut Loopback<'p>, checked: &mut Seen) {
    checker.tend();
    let mut burst = Burst::new();
    while checker.receive(&mut burst) > 0 {
        checked.add(&burst);
        burst.clear();
    }
}

fn mode(queue: &Loopback<'_>) -> QueueMode {
    let caps = queue.caps();
    QueueMode {
        device: caps.device.clone(),
        queue: caps.queue.into(),
        copying: caps.copying.name().to_owned(),
        mode: caps.mode.clone(),
    }
}
