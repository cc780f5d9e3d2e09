//! The wrappers, around the in-memory wire.

use drivers::loopback::{LoopbackPlan, Mischief, pair};
use drivers::wrap::{Direction, Faults, Flatten, Lossy, LossyPlan, Metered, Tap, TapCounts, TapPlan};
use drivers::{Fault, Gather, QueuePair};
use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use proptest::prelude::*;
use ringbuf::{Arena, ArenaPlan, Burst, Frame, Packet, Packets, Pool};
use std::io::{self, Write};
use std::time::Duration;

const FRAMES: u32 = 512;

fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 2048, content_bytes: 1 << 16, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

fn frame<'p>(pool: &'p Pool, bytes: &[u8]) -> Frame<'p> {
    let mut frame = pool.alloc().expect("a free slot");
    frame.extend(bytes).expect("short");
    frame
}

fn push_packet<'p>(pool: &'p Pool, burst: &mut Burst<'p>, mark: u8, frames: usize) {
    for i in 1..=frames {
        let mut piece = frame(pool, &[mark; 100]);
        piece.set_continues(i < frames);
        burst.push(piece).expect("room");
    }
}

/// Each packet of the burst as its bytes; none may lack its end.
fn packets(burst: &mut Burst<'_>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    while burst.packet_frames() > 0 {
        let frames = burst.packet_frames();
        whole.push((0..frames).flat_map(|_| burst.pop().expect("whole").to_vec()).collect());
    }
    assert!(burst.is_empty(), "a packet without its end");
    whole
}

/// What a capture holds: direction, nanoseconds, length on the wire, bytes.
fn captured(bytes: &[u8]) -> Vec<(Direction, u128, u32, Vec<u8>)> {
    let mut reader = PcapNgReader::new(bytes).expect("a capture");
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a block") {
            let direction = match packet.options[..] {
                [EnhancedPacketOption::Flags(1)] => Direction::Received,
                [EnhancedPacketOption::Flags(2)] => Direction::Transmitted,
                ref other => panic!("{other:?}"),
            };
            let nanoseconds = packet.timestamp.as_nanos();
            packets.push((direction, nanoseconds, packet.original_len, packet.data.to_vec()));
        }
    }
    packets
}

#[test]
fn a_tap_writes_what_passed_and_nothing_else() {
    let pool = pool();
    let (left, mut right) = pair(&pool, &LoopbackPlan { ring: 8, start: u32::MAX - 3 }).expect("loans");
    let mut now = Duration::from_nanos(1_700_000_000_123_456_789);
    let clock = move || {
        now += Duration::from_nanos(1);
        now
    };
    let mut left = Tap::new(left, Vec::new(), TapPlan::default(), clock).expect("a vector");
    let mut burst = Burst::new();
    push_packet(&pool, &mut burst, 1, 3);
    push_packet(&pool, &mut burst, 2, 9); // longer than the ring: taken, dropped, not on the wire
    push_packet(&pool, &mut burst, 3, 1);
    push_packet(&pool, &mut burst, 4, 6); // does not fit any more
    assert_eq!(left.transmit(&mut burst), 13);
    assert_eq!((burst.len(), left.counters().unsendable), (6, 1));
    let mut back = Burst::new();
    right.receive(&mut back);
    right.transmit(&mut back);
    push_packet(&pool, &mut back, 9, 1); // was in the burst before: not received
    assert_eq!(left.receive(&mut back), 4);
    assert_eq!(left.receive(&mut back), 0);
    assert_eq!(left.counts(), TapCounts { received: 2, transmitted: 2, ..TapCounts::default() });
    let at = |i: u128| 1_700_000_000_123_456_789 + i;
    assert_eq!(
        captured(&left.into_parts().1),
        [
            (Direction::Transmitted, at(1), 300, vec![1; 300]),
            (Direction::Transmitted, at(1), 100, vec![3; 100]),
            (Direction::Received, at(2), 300, vec![1; 300]),
            (Direction::Received, at(2), 100, vec![3; 100]),
        ]
    );
}

#[test]
fn a_tap_cuts_and_filters() {
    let pool = pool();
    let (left, _right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let plan = TapPlan {
        snap_len: Some(150),
        filter: Some(Box::new(|direction, bytes| direction == Direction::Transmitted && bytes[0] != 2)),
    };
    let mut left = Tap::new(left, Vec::new(), plan, || Duration::ZERO).expect("a vector");
    let mut burst = Burst::new();
    for mark in 1..=3 {
        push_packet(&pool, &mut burst, mark, 2);
    }
    left.transmit(&mut burst);
    assert_eq!(left.counts(), TapCounts { transmitted: 2, filtered: 1, ..TapCounts::default() });
    let kept: Vec<_> =
        captured(&left.into_parts().1).into_iter().map(|(_, _, len, bytes)| (len, bytes)).collect();
    assert_eq!(kept, [(200, vec![1; 150]), (200, vec![3; 150])]);
}

#[test]
fn a_tap_writes_gathered_packets_whole() {
    let pool = pool();
    let (left, _right) = pair(&pool, &LoopbackPlan { ring: 4, start: 0 }).expect("loans");
    let mut left = Tap::new(left, Vec::new(), TapPlan::default(), || Duration::ZERO).expect("a vector");
    let mut waiting = Packets::new();
    for _ in 0..3 {
        let mut packet = Packet::new(frame(&pool, b"head"));
        packet.push(pool.page(0, 6).expect("inside")).expect("few");
        waiting.push(packet).expect("room");
    }
    assert_eq!((left.gather(&mut waiting), waiting.len()), (2, 1));
    assert_eq!(left.counts().transmitted, 2);
    assert!(captured(&left.into_parts().1).iter().all(|packet| packet.3 == b"head\0\0\0\0\0\0"));
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_stops_the_tap_not_the_traffic() {
    let pool = pool();
    let (left, mut right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    assert!(
        Tap::new(
            pair(&pool, &LoopbackPlan::default()).expect("loans").0,
            Full(10),
            TapPlan::default(),
            || Duration::ZERO
        )
        .is_err()
    );
    let mut left = Tap::new(left, Full(300), TapPlan::default(), || Duration::ZERO).expect("300 bytes");
    let mut burst = Burst::new();
    for mark in 0..10 {
        push_packet(&pool, &mut burst, mark, 1);
    }
    assert_eq!(left.transmit(&mut burst), 10);
    assert_eq!(right.receive(&mut burst), 10);
    let words = left.error().expect("latched").to_owned();
    assert!(words.starts_with("the capture could not be written: "), "{words}");
    assert_eq!((left.counts().transmitted, left.counts().unwritten), (1, 9));
    assert_eq!(left.fault(), None);
}

proptest! {
    /// Whatever goes wrong: packets stay whole, each is accounted for by name, no slot goes missing.
    #[test]
    fn lossy_accounts_for_every_packet(
        seed: u64, drop in 0u16..30000, duplicate in 0u16..30000, corrupt in 0u16..30000,
        reorder in 0u16..30000, delay in 0u16..30000, delay_bursts in 0u32..5,
        lengths in prop::collection::vec(1usize..19, 1..40), room in 19usize..65,
    ) {
        let pool = pool();
        {
            let (mut left, right) = pair(&pool, &LoopbackPlan { ring: 64, start: u32::MAX - 5 }).expect("loans");
            let plan = LossyPlan { seed, drop, duplicate, corrupt, reorder, delay, delay_bursts };
            let mut right = Lossy::new(right, &pool, plan);
            let (mut sent, mut seen) = (0u64, Vec::new());
            let mut lengths = (0u8..).zip(lengths).peekable();
            for _ in 0..400 {
                let mut burst = Burst::new();
                while let Some((mark, frames)) = lengths.next_if(|(_, frames)| *frames <= burst.room()) {
                    // The first two bytes say which it is and how long.
                    push_packet(&pool, &mut burst, mark, frames);
                    sent += 1;
                }
                while !burst.is_empty() {
                    left.transmit(&mut burst);
                    let mut arrived = Burst::new();
                    while arrived.room() > room {
                        arrived.push(pool.alloc().expect("free")).expect("room");
                    }
                    let ballast = arrived.len();
                    right.receive(&mut arrived);
                    (0..ballast).for_each(|_| { arrived.pop(); });
                    seen.extend(packets(&mut arrived));
                }
                let mut arrived = Burst::new();
                right.receive(&mut arrived);
                seen.extend(packets(&mut arrived));
                if lengths.peek().is_none() && right.held() == 0 {
                    break;
                }
            }
            prop_assert_eq!(right.held(), 0);
            let faults = right.faults();
            prop_assert_eq!(seen.len() as u64, sent - faults.dropped + faults.duplicated);
            let damaged = seen.iter().filter(|bytes| bytes.windows(2).any(|two| two[0] != two[1])).count() as u64;
            prop_assert!(damaged <= 2 * faults.corrupted);
            prop_assert!(damaged + faults.dropped + faults.not_duplicated >= faults.corrupted);
            let counters = right.counters();
            prop_assert_eq!(counters.received.packets, seen.len() as u64);
            prop_assert_eq!(counters.received.bytes, seen.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
            prop_assert_eq!(counters.receive_missed, faults.dropped);
            prop_assert_eq!(pool.census().free, FRAMES);
        }
        prop_assert_eq!(pool.census().free, FRAMES);
    }
}

/// One kind of fault at a time, at its highest rate, does what its name says.
#[test]
fn each_fault_is_what_it_says() {
    let run = |plan: LossyPlan| {
        let pool = pool();
        let (mut left, right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
        let mut right = Lossy::new(right, &pool, plan);
        let mut burst = Burst::new();
        (0..6).for_each(|mark| push_packet(&pool, &mut burst, mark, 1));
        left.transmit(&mut burst);
        let calls: Vec<Vec<u8>> = (0..4)
            .map(|_| {
                right.receive(&mut burst);
                packets(&mut burst).iter().map(|bytes| bytes[0]).collect()
            })
            .collect();
        assert_eq!(right.counters().receive_missed, right.faults().dropped);
        assert_eq!(pool.census().free, FRAMES);
        (calls, right.faults())
    };
    const ALWAYS: u16 = u16::MAX;
    let none = Faults::default();
    let plan = LossyPlan::default();
    assert_eq!(run(plan), (vec![vec![0, 1, 2, 3, 4, 5], vec![], vec![], vec![]], none));
    let dropped = run(LossyPlan { drop: ALWAYS, ..plan });
    assert_eq!(dropped, (vec![vec![]; 4], Faults { dropped: 6, ..none }));
    let doubled = run(LossyPlan { duplicate: ALWAYS, ..plan });
    assert_eq!(doubled.0[0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    let swapped = run(LossyPlan { reorder: ALWAYS, ..plan });
    assert_eq!(
        swapped,
        (vec![vec![1, 0, 3, 2, 5, 4], vec![], vec![], vec![]], Faults { reordered: 3, ..none })
    );
    let late = run(LossyPlan { delay: ALWAYS, delay_bursts: 2, ..plan });
    assert_eq!(late, (vec![vec![], vec![], vec![0, 1, 2, 3, 4, 5], vec![]], Faults { delayed: 6, ..none }));
}

/// Exactly one bit, wherever it lies in a chain.
#[test]
fn corrupt_turns_one_bit() {
    let pool = pool();
    let (mut left, right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let mut right = Lossy::new(right, &pool, LossyPlan { corrupt: u16::MAX, ..LossyPlan::default() });
    let mut burst = Burst::new();
    (0..16).for_each(|_| push_packet(&pool, &mut burst, 0, 4));
    left.transmit(&mut burst);
    right.receive(&mut burst);
    for bytes in packets(&mut burst) {
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
    assert_eq!(right.faults().corrupted, 16);
}

/// Without frames for a copy the packet itself still comes.
#[test]
fn duplicates_need_frames() {
    let pool = pool();
    let (mut left, right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let mut right = Lossy::new(right, &pool, LossyPlan { duplicate: u16::MAX, ..LossyPlan::default() });
    let mut burst = Burst::new();
    push_packet(&pool, &mut burst, 1, 3);
    left.transmit(&mut burst);
    let mut all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    all.truncate(FRAMES as usize - 3 - 2);
    right.receive(&mut burst);
    assert_eq!(packets(&mut burst).len(), 1);
    assert_eq!(right.faults(), Faults { not_duplicated: 1, ..Faults::default() });
    assert_eq!(pool.free(), 5);
}

/// Chains where the queue inside has them, and every byte counted; a full ring leaves the packet with the caller.
#[test]
fn flatten_copies_and_counts() {
    let pool = pool();
    let content: Vec<u8> = (0..1u32 << 16).map(|i| u8::try_from(i % 251).expect("small")).collect();
    pool.write_content(0, &content).expect("nobody holds it");
    let (left, mut right) = pair(&pool, &LoopbackPlan { ring: 8, start: u32::MAX - 1 }).expect("loans");
    let mut left = Flatten::new(left, &pool);
    let gather = |pages: &[(usize, usize)]| {
        let mut packet = Packet::new(frame(&pool, b"head"));
        for (start, len) in pages {
            packet.push(pool.page(*start, *len).expect("inside")).expect("few");
        }
        packet
    };
    let mut waiting = Packets::new();
    waiting.push(gather(&[(0, 4096), (8192, 100)])).expect("room"); // 4200 bytes: three frames
    waiting.push(gather(&[(0, 4096); 8])).expect("room"); // longer than eight frames: never
    waiting.push(gather(&[(4096, 1788)])).expect("room"); // 1792 bytes: just one frame
    waiting.push(gather(&[(0, 4096), (4096, 4096), (8192, 100)])).expect("room"); // five frames: no room
    assert_eq!((left.gather(&mut waiting), waiting.len()), (3, 1));
    let counters = left.counters();
    assert_eq!((counters.unsendable, counters.flattened_bytes), (1, 4200 + 1792 + 8296));
    let mut burst = Burst::new();
    right.receive(&mut burst);
    let seen = packets(&mut burst);
    assert_eq!(seen[0], [b"head", &content[..4096], &content[8192..8292]].concat());
    assert_eq!(seen[1], [b"head", &content[4096..5884]].concat());
    assert_eq!(left.gather(&mut waiting), 1);
    right.receive(&mut burst);
    assert_eq!(packets(&mut burst)[0].len(), 8296);
    assert_eq!((pool.census().free, pool.pages_on_loan()), (FRAMES, 0));
    assert!(pool.write_content(0, &content).is_ok(), "no page is held any more");
}

/// An empty pool is like a full ring: later.
#[test]
fn flatten_waits_for_frames() {
    let pool = pool();
    let (left, _right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let mut left = Flatten::new(left, &pool);
    let mut waiting = Packets::new();
    let mut packet = Packet::new(frame(&pool, b"head"));
    packet.push(pool.page(0, 4096).expect("inside")).expect("few");
    waiting.push(packet).expect("room");
    let mut all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    all.truncate(all.len() - 2);
    assert_eq!((left.gather(&mut waiting), waiting.len(), pool.free()), (0, 1, 2));
    all.pop();
    assert_eq!(left.gather(&mut waiting), 1);
}

#[test]
fn metered_counts_bursts() {
    let pool = pool();
    let (left, right) = pair(&pool, &LoopbackPlan { ring: 8, start: 0 }).expect("loans");
    let (mut left, mut right) = (Metered::new(left), Metered::new(right));
    let mut burst = Burst::new();
    (0..12).for_each(|mark| push_packet(&pool, &mut burst, mark, 1));
    left.transmit(&mut burst);
    burst.clear();
    left.transmit(&mut burst);
    right.tend();
    right.receive(&mut burst);
    right.receive(&mut burst);
    assert_eq!((left.meter().transmit[8], left.meter().transmit_short), (1, 1));
    assert_eq!(left.meter().transmit.iter().sum::<u64>(), 1, "a call with nothing to send is no burst");
    let meter = *right.meter();
    assert_eq!((meter.empty_receives(), meter.busy_receives(), meter.receive[8], meter.tends), (1, 1, 1, 1));
    assert!((meter.mean_receive() - 8.0).abs() < f64::EPSILON);
}

/// Faults, capabilities and counters come through all wrappers at once.
#[test]
fn wrappers_pass_on_what_is_inside() {
    let pool = pool();
    let (mut left, right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let right = Lossy::new(right, &pool, LossyPlan::default());
    let right = Tap::new(right, io::sink(), TapPlan::default(), || Duration::ZERO).expect("a sink");
    let mut right = Metered::new(Flatten::new(right, &pool));
    assert_eq!((right.caps().driver, right.caps().device.as_str()), ("loopback", "right"));
    left.misbehave(Mischief { lie: Some((drivers::loopback::Lie::Outside, 1)), ..Mischief::default() });
    let mut burst = Burst::new();
    push_packet(&pool, &mut burst, 1, 1);
    push_packet(&pool, &mut burst, 2, 1);
    left.transmit(&mut burst);
    assert_eq!(right.receive(&mut burst), 1);
    assert!(matches!(right.fault(), Some(Fault::Stray(_))));
    assert_eq!(
        (right.counters().received.packets, right.exhausted(), right.waker().is_none()),
        (1, false, true)
    );
}
