//! An app that sends of its own accord, packets with pages among it: nothing is lost when a ring is full, and the worker
//! wakes when the app wants to.
#![forbid(unsafe_code)]

use dataplane::run::{Ended, Idle, run};
use dataplane::worker::Member;
use dataplane::{App, Outbox, PortId, Reason, Tick, Worker};
use drivers::loopback::{Lie, Loopback, LoopbackPlan, Mischief, pair};
use drivers::wrap::Flatten;
use drivers::{Caps, Copying, QueueCounters, QueuePair};
use ringbuf::{Arena, ArenaPlan, BURST, Burst, Packet, Pool};
use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const FRAMES: u32 = 512;
const PORT: PortId = PortId(0);

/// A pool whose content is 0, 1, 2, .. 250, 0, ..
fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 2048, content_bytes: 8192, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("memory"));
    pool.write_content(0, &content(0..8192)).expect("nobody holds it");
    pool
}

fn content(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

/// Sends packets of a numbered head and two pages, as many as there is room for, up to `goal`.
struct Server<'p> {
    pool: &'p Pool,
    goal: u16,
    sent: u16,
}

impl<'p> Server<'p> {
    fn packet(&self, out: &mut Outbox<'p>) -> Option<Packet<'p>> {
        let mut head = out.allocate()?;
        head.extend(&[0; 12]).expect("room");
        head.extend(&self.sent.to_be_bytes()).expect("room");
        let mut packet = Packet::new(head);
        for start in [usize::from(self.sent), 4096] {
            packet.push(self.pool.page(start, 100).expect("inside")).expect("two fit");
        }
        Some(packet)
    }
}

impl<'p> App<'p> for Server<'p> {
    fn handle(&mut self, _now: Tick, _from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        out.discard_all(burst, Reason::Filtered);
    }

    fn poll(&mut self, _now: Tick, out: &mut Outbox<'p>) -> bool {
        let before = self.sent;
        while self.sent < self.goal && out.room(PORT) > 0 {
            let Some(packet) = self.packet(out) else { break };
            out.send_gathered(PORT, packet).expect("there is room");
            self.sent += 1;
        }
        self.sent > before
    }
}

type Serving<'p> = Worker<'p, Loopback<'p>, Server<'p>>;

fn serving<'p>(pool: &'p Pool, ring: u32, goal: u16) -> (Loopback<'p>, Serving<'p>) {
    let (far, queue) = pair(pool, &LoopbackPlan { ring, start: u32::MAX - 70 }).expect("loans");
    let server = Server { pool, goal, sent: 0 };
    (far, Worker::new(pool, vec![Member { port: PORT, queue }], server))
}

/// The packets that have arrived, whole.
fn arrived(far: &mut Loopback<'_>) -> Vec<Vec<u8>> {
    let (mut burst, mut packets, mut packet) = (Burst::new(), Vec::new(), Vec::new());
    while far.receive(&mut burst) > 0 {
        while let Some(frame) = burst.pop() {
            packet.extend_from_slice(&frame);
            if !frame.continues() {
                packets.push(std::mem::take(&mut packet));
            }
        }
    }
    packets
}

/// A ring for five packets, a peer that looks at it every third turn, and two hundred packets: all arrive, in order.
#[test]
fn packets_wait_for_room_and_none_is_lost() {
    let pool = pool();
    let (mut far, mut worker) = serving(&pool, 16, 200);
    let (mut packets, mut most) = (Vec::new(), 0);
    for turn in 0..200 {
        worker.turn(Tick::default());
        let books = worker.books();
        assert!(books.balance() && books.held == worker.waiting() as u64, "{books}");
        most = most.max(worker.waiting());
        if turn % 3 == 0 {
            packets.extend(arrived(&mut far));
        }
    }
    assert_eq!((packets.len(), worker.waiting()), (200, 0));
    assert_eq!(most, BURST, "the ring was full, and the lane too");
    for (number, packet) in packets.iter().enumerate() {
        assert_eq!(packet[12..14], u16::try_from(number).expect("200").to_be_bytes());
        assert_eq!(packet[14..114], content(number..number + 100));
        assert_eq!(packet[114..], content(4096..4196));
    }
    let books = worker.books();
    assert_eq!((books.allocated, books.transmitted, books.discarded), (200, 200, 0));
    drop((worker, far));
    assert_eq!((pool.census().free, pool.pages_on_loan()), (FRAMES, 0));
}

/// A turn in which the app sent is not an idle one; one in which it had nothing to send is.
#[test]
fn a_turn_that_only_sends_is_busy() {
    let pool = pool();
    let (mut far, mut worker) = serving(&pool, 64, 3);
    assert_eq!(worker.turn(Tick::default()), 1);
    assert_eq!(arrived(&mut far).len(), 3);
    assert_eq!(worker.turn(Tick::default()), 0);
}

/// Packets that wait for a port that dies are discarded by name, and their pages let go.
#[test]
fn a_dead_port_keeps_no_packet() {
    let pool = pool();
    let (mut far, mut worker) = serving(&pool, 16, 20);
    worker.turn(Tick::default());
    assert_eq!(worker.waiting(), 15);
    far.misbehave(Mischief { lie: Some((Lie::Outside, 0)), ..Mischief::default() });
    let mut burst = Burst::new();
    let mut frame = pool.alloc().expect("a frame");
    frame.extend(&[0; 60]).expect("room");
    burst.push(frame).expect("room");
    far.transmit(&mut burst);
    worker.turn(Tick::default());
    assert!(worker.fault().is_some());
    assert_eq!(worker.waiting(), 0);
    worker.publish();
    let last = worker.board().snapshot();
    assert!(last.books().balance(), "{}", last.books());
    assert_eq!(last.discarded().collect::<Vec<_>>(), [(Reason::PortGone, 15)]);
    assert_eq!(arrived(&mut far).len(), 5);
    drop((worker, far));
    assert_eq!((pool.census().free, pool.pages_on_loan()), (FRAMES, 0));
}

/// Tries a port without a queue, and more packets than a lane holds.
struct Pushy<'p>(Server<'p>);

impl<'p> App<'p> for Pushy<'p> {
    fn handle(&mut self, _now: Tick, _from: PortId, _burst: &mut Burst<'p>, _out: &mut Outbox<'p>) {}

    fn poll(&mut self, _now: Tick, out: &mut Outbox<'p>) -> bool {
        assert_eq!((out.room(PortId(1)), out.room(PortId(9))), (0, 0));
        for nowhere in [PortId(1), PortId(9)] {
            let packet = self.0.packet(out).expect("a frame");
            let refused = out.send_gathered(nowhere, packet).expect_err("no queue there");
            out.discard(refused.into_parts().0, Reason::NoQueue);
        }
        for room in (0..BURST).rev() {
            let packet = self.0.packet(out).expect("a frame");
            assert!(out.send_gathered(PORT, packet).is_ok());
            assert_eq!(out.room(PORT), room);
        }
        let packet = self.0.packet(out).expect("a frame");
        let refused = out.send_gathered(PORT, packet).expect_err("the lane is full");
        assert_eq!((refused.buffers(), refused.bytes()), (3, 214));
        out.discard(refused.into_parts().0, Reason::TransmitRingFull);
        true
    }
}

#[test]
fn without_room_the_packet_comes_back() {
    let pool = pool();
    let (mut far, queue) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let app = Pushy(Server { pool: &pool, goal: 0, sent: 0 });
    let mut worker = Worker::new(&pool, vec![Member { port: PORT, queue }], app);
    worker.turn(Tick::default());
    let books = worker.books();
    assert!(books.balance(), "{books}");
    assert_eq!((books.transmitted, books.discarded), (BURST as u64, 3));
    assert_eq!(arrived(&mut far).len(), BURST);
    drop((worker, far));
    assert_eq!((pool.census().free, pool.pages_on_loan()), (FRAMES, 0));
}

/// A port by which nothing ever comes, and that a worker can sleep on.
struct Silent {
    caps: Caps,
    waker: PipeReader,
    _open: PipeWriter,
}

impl<'p> QueuePair<'p> for Silent {
    fn caps(&self) -> &Caps {
        &self.caps
    }
    fn receive(&mut self, _burst: &mut Burst<'p>) -> usize {
        0
    }
    fn transmit(&mut self, _burst: &mut Burst<'p>) -> usize {
        0
    }
    fn tend(&mut self) {}
    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(self.waker.as_fd())
    }
}

/// Has something due every so often, and counts its turns.
struct Timer {
    every: Option<Duration>,
    next: Duration,
    fired: u32,
    turns: u32,
}

impl<'p> App<'p> for Timer {
    fn handle(&mut self, _now: Tick, _from: PortId, _burst: &mut Burst<'p>, _out: &mut Outbox<'p>) {}

    fn poll(&mut self, now: Tick, _out: &mut Outbox<'p>) -> bool {
        self.turns += 1;
        if self.every.is_some() && now >= Tick(self.next) {
            self.next = now.0 + self.every.unwrap_or_default();
            self.fired += 1;
        }
        false
    }

    fn deadline(&self) -> Option<Tick> {
        self.every.map(|_| Tick(self.next))
    }
}

fn idle_for(every: Option<Duration>) -> Timer {
    let pool = pool();
    let (waker, open) = pipe().expect("a pipe");
    let caps = Caps::basic("silent", "nowhere", Copying::InMemory, 2048);
    let queue = Flatten::new(Silent { caps, waker, _open: open }, &pool);
    let app = Timer { every, next: Duration::ZERO, fired: 0, turns: 0 };
    let mut worker = Worker::new(&pool, vec![Member { port: PORT, queue }], app);
    let limit = Some(Duration::from_millis(400));
    let ended = run(&mut worker, Idle::Adaptive, limit, &AtomicBool::new(false));
    assert_eq!(ended, Ended::TimeUp);
    let Timer { every, next, fired, turns } = *worker.app();
    Timer { every, next, fired, turns }
}

/// A worker asleep wakes for its app, and sleeps when the app has nothing due.
#[test]
fn a_sleeper_wakes_for_what_is_due() {
    let timer = idle_for(Some(Duration::from_millis(8)));
    // Fifty at best, fewer on a busy machine; a worker that sleeps its 100 ms would come to five.
    assert!((8..=50).contains(&timer.fired), "{} times in 400 ms", timer.fired);
    let none = idle_for(None);
    assert!(none.turns < 100, "{} turns with nothing due", none.turns);
}
