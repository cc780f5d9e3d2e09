//! What a turn of `wire` costs, in instructions: run under callgrind by `tests/instructions.sh`.
//!
//! ```text
//!   ┌──► port 0 ── wire ──► port 1 ──┐
//!   └────────── loopback ◄───────────┘       32 frames go round for ever
//! ```
//!
//! With `split` or `packed`, over virtio rings of that kind, with a device in memory at each end that is not counted: packets pass
//! without becoming frames. With `split-frames` and so on they become some, as for any other app; with `split-mergeable` the device
//! counts buffers in each header and answers in no order. With `split-lists` or `packed-tables` and the like, packets of a head and fifteen pages are sent over them as lists of descriptors or by
//! tables, and buffers counted.

use dataplane::forward::Wire;
use dataplane::worker::Member;
use dataplane::{App, Outbox, PortId, Tick, Worker};
use drivers::loopback::{LoopbackPlan, pair};
use drivers::nic::virtio::fake::{self, FakePlan};
use drivers::nic::virtio::feature;
use drivers::{Gather, QueuePair};
use ringbuf::{Arena, ArenaPlan, Burst, Offload, Packet, Packets, Pool, Segmentation};

const FRAMES: usize = 32;
const TURNS: usize = 10_000;

fn main() {
    let moved = match std::env::args().nth(1).as_deref() {
        Some("split") => virtio(false, feature::IN_ORDER, Wire),
        Some("packed") => virtio(true, feature::IN_ORDER, Wire),
        Some("split-frames") => virtio(false, feature::IN_ORDER, Frames),
        Some("packed-frames") => virtio(true, feature::IN_ORDER, Frames),
        Some("split-mergeable") => virtio(false, feature::MERGEABLE, Wire),
        Some("packed-mergeable") => virtio(true, feature::MERGEABLE, Wire),
        Some("split-lists") => pages(false, false),
        Some("packed-lists") => pages(true, false),
        Some("split-tables") => pages(false, true),
        Some("packed-tables") => pages(true, true),
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

/// `wire` for an app's eyes: no packet passes without becoming a frame.
struct Frames;

impl<'p> App<'p> for Frames {
    #[inline]
    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        Wire.handle(now, from, burst, out);
    }
}

/// `extra` is what the device can beside the least.
fn virtio(packed: bool, extra: u64, app: impl for<'p> App<'p>) -> usize {
    let features = feature::VERSION_1 | extra;
    let pool = Pool::new(Arena::new(&ArenaPlan { frames: 1024, ..ArenaPlan::default() }).expect("2 MiB"));
    let pair = || fake::pair(&pool, FakePlan { packed, features, ..FakePlan::default() }).expect("a pair");
    let ((left, mut from), (right, mut to)) = (pair(), pair());
    from.want_bells(false);
    to.want_bells(false);
    to.answer_at_once(32);
    let members = vec![Member { port: PortId(0), queue: left }, Member { port: PortId(1), queue: right }];
    let mut worker = Worker::new(&pool, members, app);
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

/// Two packets of sixteen buffers at every turn.
fn pages(packed: bool, tables: bool) -> usize {
    const PAGES: usize = FRAMES / 2 - 1;
    let plan = ArenaPlan { frames: 1024, content_bytes: 1 << 20, ..ArenaPlan::default() };
    let pool = Pool::new(Arena::new(&plan).expect("3 MiB"));
    let usual = FakePlan::default();
    let cuts = feature::CHECKSUM | feature::TSO4 | feature::TSO6;
    let tables = if tables { feature::INDIRECT } else { 0 };
    let plan = FakePlan { packed, features: usual.features | cuts | tables, ..usual };
    let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
    device.want_bells(false);
    queue.tend();
    let offload = Offload {
        checksum_start: 34,
        checksum_offset: 16,
        segment_bytes: 1448,
        header_bytes: 66,
        segmentation: Segmentation::Tcp4,
    };
    let mut moved = 0;
    for _ in 0..TURNS {
        let mut packets = Packets::new();
        for _ in 0..2 {
            let mut head = pool.alloc().expect("plenty");
            head.extend(&[0; 66]).expect("fits");
            head.set_offload(Some(offload));
            let mut packet = Packet::new(head);
            for page in 0..PAGES {
                packet.push(pool.page(4096 * page, 4096).expect("content")).expect("room");
            }
            packets.push(packet).expect("room");
        }
        moved += measured_gather(&mut queue, &mut packets) * (1 + PAGES);
        while device.take().is_some() {}
    }
    moved
}

/// The other one.
#[inline(never)]
fn measured_gather<'p>(queue: &mut impl Gather<'p>, packets: &mut Packets<'p>) -> usize {
    let sent = queue.gather(packets);
    queue.tend();
    sent
}

/// One of the two functions that callgrind counts.
#[inline(never)]
fn measured<'p, Q: Gather<'p>, A: App<'p>>(worker: &mut Worker<'p, Q, A>, turns: usize) -> usize {
    (0..turns).map(|_| worker.turn(Tick::default())).sum()
}
