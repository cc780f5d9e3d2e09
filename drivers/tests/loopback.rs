//! The in-memory wire: lies, losses, long packets, pages, and no frame lost in any of them.

use drivers::loopback::{Lie, Loopback, LoopbackPlan, Mischief, pair};
use drivers::{Fault, Gather, QueuePair};
use proptest::prelude::*;
use ringbuf::{Arena, ArenaPlan, BURST, Burst, Frame, Packet, Packets, Pool, Stray};

const FRAMES: u32 = 256;

fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 2048, content_bytes: 1 << 17, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("640 KiB"))
}

fn frame<'p>(pool: &'p Pool, bytes: &[u8]) -> Frame<'p> {
    let mut frame = pool.alloc().expect("a free slot");
    frame.extend(bytes).expect("short");
    frame
}

/// A packet whose frames hold 100 bytes of `mark` each.
fn push_packet<'p>(pool: &'p Pool, burst: &mut Burst<'p>, mark: u8, frames: usize) {
    for i in 1..=frames {
        let mut piece = frame(pool, &[mark; 100]);
        piece.set_continues(i < frames);
        burst.push(piece).expect("room");
    }
}

/// The mark of each packet in the burst, each seen to be whole; gives the frames back.
fn marks(burst: &mut Burst<'_>) -> Vec<u8> {
    let mut marks = Vec::new();
    while burst.packet_frames() > 0 {
        let mark = burst.peek(0).expect("a packet")[0];
        for _ in 0..burst.packet_frames() {
            assert!(burst.pop().expect("whole").iter().all(|byte| *byte == mark));
        }
        marks.push(mark);
    }
    assert!(burst.is_empty(), "a packet without its end");
    marks
}

fn send_all<'p>(left: &mut Loopback<'p>, right: &mut Loopback<'p>, burst: &mut Burst<'p>) -> Vec<u8> {
    let mut seen = Vec::new();
    for _ in 0..200 {
        left.transmit(burst);
        let mut arrived = Burst::new();
        right.receive(&mut arrived);
        seen.extend(marks(&mut arrived));
        if burst.is_empty() && left.under_way() == 0 {
            break;
        }
    }
    seen
}

/// Every lie ends in the fault that names it, and once the pair is gone every slot is home.
#[test]
fn each_lie_latches_its_fault() {
    let is_right = |lie: Lie, fault: &Fault| match lie {
        Lie::Outside => matches!(fault, Fault::Stray(Stray::Unknown { .. })),
        Lie::NotLent | Lie::Twice => matches!(fault, Fault::Stray(Stray::NotOnLoan(_))),
        Lie::TooLong => matches!(fault, Fault::Stray(Stray::OutOfBounds { .. })),
    };
    for lie in [Lie::Outside, Lie::NotLent, Lie::Twice, Lie::TooLong] {
        for places in [0, 3] {
            let pool = pool();
            let (mut left, mut right) =
                pair(&pool, &LoopbackPlan { ring: 64, start: u32::MAX - 2 }).expect("loans");
            left.misbehave(Mischief { lie: Some((lie, places)), ..Mischief::default() });
            let mut burst = Burst::new();
            (0..8).for_each(|mark| push_packet(&pool, &mut burst, mark, 1));
            assert_eq!(left.transmit(&mut burst), 8);
            let mut arrived = Burst::new();
            let received = right.receive(&mut arrived);
            let fault = right.fault().expect("a fault").clone();
            assert!(is_right(lie, &fault), "{lie:?}: {fault}");
            // Twice is said only what was said once.
            let before = usize::from(lie == Lie::Twice).max(places as usize);
            assert!(received <= before, "nothing behind the lie is believed");
            assert_eq!(right.receive(&mut arrived), 0, "the queue has stopped");
            assert_eq!(pool.census().total(), FRAMES);
            arrived.clear();
            assert_eq!(pool.census().device, 8 - u32::try_from(received).expect("few"));
            drop((left, right));
            assert_eq!(pool.census().free, FRAMES, "{lie:?}");
        }
    }
}

/// The lie waits for a packet in one frame, and for room: no slot is put on loan without a descriptor.
#[test]
fn a_lie_waits_for_room_and_for_its_packet() {
    let pool = pool();
    let (mut left, mut right) = pair(&pool, &LoopbackPlan { ring: 4, start: 0 }).expect("loans");
    left.misbehave(Mischief { lie: Some((Lie::TooLong, 0)), ..Mischief::default() });
    let mut burst = Burst::new();
    push_packet(&pool, &mut burst, 1, 4);
    push_packet(&pool, &mut burst, 2, 1);
    assert_eq!(left.transmit(&mut burst), 4, "the chain fills the ring");
    assert_eq!((burst.len(), pool.census().device), (1, 4));
    let mut arrived = Burst::new();
    right.receive(&mut arrived);
    assert_eq!(marks(&mut arrived), [1]);
    assert_eq!(left.transmit(&mut burst), 1);
    right.receive(&mut arrived);
    assert!(matches!(right.fault(), Some(Fault::Stray(Stray::OutOfBounds { .. }))));
}

/// A packet that can never be sent does not block those behind it, on a bad wire either.
#[test]
fn unsendable_packets_are_counted_and_gone() {
    for bad in [false, true] {
        let (pool, foreign) = (pool(), pool());
        let (mut left, mut right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
        if bad {
            left.misbehave(Mischief::default());
        }
        let mut burst = Burst::new();
        push_packet(&pool, &mut burst, 1, 19);
        burst.push(pool.alloc().expect("free")).expect("room"); // empty
        push_packet(&pool, &mut burst, 2, 18);
        // A piece of a packet that belongs elsewhere takes the packet with it.
        let mut first = frame(&pool, &[3; 100]);
        first.set_continues(true);
        burst.push(first).expect("room");
        burst.push(frame(&foreign, &[3; 100])).expect("room");
        burst.push(frame(&foreign, &[4; 100])).expect("room");
        push_packet(&pool, &mut burst, 5, 1);
        assert_eq!(send_all(&mut left, &mut right, &mut burst), [2, 5], "bad: {bad}");
        let counters = left.counters();
        assert_eq!((counters.unsendable, counters.transmitted.packets), (4, 2));
        assert_eq!((pool.census().free, foreign.census().free), (FRAMES, FRAMES));
    }
}

/// A short ring says that it carries short packets only; a longer one would wait for ever.
#[test]
fn a_packet_longer_than_the_ring_is_unsendable() {
    let pool = pool();
    let (mut left, mut right) = pair(&pool, &LoopbackPlan { ring: 8, start: 0 }).expect("loans");
    assert_eq!(left.caps().packet_frames, 8);
    let mut burst = Burst::new();
    push_packet(&pool, &mut burst, 1, 9);
    push_packet(&pool, &mut burst, 2, 8);
    assert_eq!(send_all(&mut left, &mut right, &mut burst), [2]);
    assert_eq!(left.counters().unsendable, 1);
}

#[test]
fn a_full_ring_leaves_frames_with_the_caller() {
    let pool = pool();
    let (mut left, mut right) = pair(&pool, &LoopbackPlan { ring: 16, start: u32::MAX - 7 }).expect("loans");
    let mut burst = Burst::new();
    (0..10).for_each(|mark| push_packet(&pool, &mut burst, mark, 3));
    assert_eq!(left.transmit(&mut burst), 15, "five whole packets");
    assert_eq!((burst.len(), left.transmit(&mut burst), left.under_way()), (15, 0, 15));
    assert_eq!(send_all(&mut left, &mut right, &mut burst), (0..10).collect::<Vec<_>>());
    assert_eq!(pool.census().free, FRAMES);
}

/// What is undone in a packet travels with it.
#[test]
fn offloads_travel() {
    let pool = pool();
    let (mut left, mut right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let offload = ringbuf::Offload { checksum_start: 34, checksum_offset: 16, ..ringbuf::Offload::default() };
    for frames in [1, 3] {
        let mut burst = Burst::new();
        push_packet(&pool, &mut burst, 7, frames);
        burst.peek_mut(0).expect("first").set_offload(Some(offload));
        left.transmit(&mut burst);
        right.receive(&mut burst);
        assert_eq!(burst.peek(0).expect("first").offload(), Some(offload));
    }
}

/// A head and its pages arrive as one packet; the pages are counted until the other end has taken them.
#[test]
fn pages_are_gathered_and_come_home() {
    let (pool, foreign) = (pool(), pool());
    let content: Vec<u8> = (0..1u32 << 17).map(|i| u8::try_from(i % 251).expect("small")).collect();
    pool.write_content(0, &content).expect("nobody holds it");
    let (mut left, mut right) = pair(&pool, &LoopbackPlan { ring: 32, start: u32::MAX - 4 }).expect("loans");
    let mut packets = Packets::new();
    for (at, lengths) in [(0, &[10, 100][..]), (8192, &[2048, 1, 2047]), (16384, &[])] {
        let mut packet = Packet::new(frame(&pool, b"head"));
        for (i, len) in lengths.iter().enumerate() {
            packet.push(pool.page(at + 4096 * i, *len).expect("inside")).expect("few");
        }
        packets.push(packet).expect("room");
    }
    let mut mixed = Packet::new(frame(&pool, b"head"));
    mixed.push(pool.page(0, 9).expect("inside")).expect("few");
    mixed.push(foreign.page(0, 9).expect("inside")).expect("few");
    packets.push(mixed).expect("room");
    assert_eq!(left.gather(&mut packets), 4, "three sent, one with a foreign page taken and dropped");
    assert_eq!((left.counters().unsendable, pool.pages_on_loan()), (1, 5));
    assert!(pool.write_content(8192, b"x").is_err(), "content on the wire stays as it is");
    let mut burst = Burst::new();
    right.receive(&mut burst);
    assert_eq!(right.fault(), None);
    let mut whole = Vec::new();
    while burst.packet_frames() > 0 {
        let frames = burst.packet_frames();
        let bytes: Vec<u8> = (0..frames).flat_map(|_| burst.pop().expect("whole").to_vec()).collect();
        whole.push(bytes);
    }
    let at = |start: usize, len: usize| content[start..start + len].to_vec();
    assert_eq!(whole[0], [b"head".to_vec(), at(0, 10), at(4096, 100)].concat());
    assert_eq!(whole[1], [b"head".to_vec(), at(8192, 2048), at(12288, 1), at(16384, 2047)].concat());
    assert_eq!(whole[2], b"head");
    assert_eq!(left.counters().transmitted, right.counters().received);
    assert_eq!(pool.pages_on_loan(), 0);
    assert!(pool.write_content(8192, b"x").is_ok());
    assert_eq!((pool.census().free, foreign.census().free), (FRAMES, FRAMES));
}

proptest! {
    /// Whatever is sent over a wire that loses and reorders, from whatever position: packets stay whole, the lost
    /// ones are counted, the order without reordering is kept, and no slot goes missing.
    #[test]
    fn the_books_balance(
        back in 0u32..40, shift in 5u32..8, seed: u64, lose in 0u16..40000, reorder in 0u16..40000,
        lengths in prop::collection::vec(1usize..19, 1..60),
    ) {
        let pool = pool();
        let (mut left, mut right) = pair(&pool, &LoopbackPlan { ring: 1 << shift, start: u32::MAX - back }).expect("loans");
        left.misbehave(Mischief { seed, lose, reorder, lie: None });
        let mut burst = Burst::new();
        let (mut seen, mut sent) = (Vec::new(), Vec::new());
        for (mark, frames) in (0u8..).zip(lengths) {
            if frames > burst.room() {
                seen.extend(send_all(&mut left, &mut right, &mut burst));
            }
            sent.push(mark);
            push_packet(&pool, &mut burst, mark, frames);
        }
        seen.extend(send_all(&mut left, &mut right, &mut burst));
        let counters = left.counters();
        prop_assert_eq!(counters.transmitted.packets, sent.len() as u64);
        prop_assert_eq!(counters.transmit_dropped + seen.len() as u64, sent.len() as u64);
        prop_assert_eq!(right.counters().received.packets, seen.len() as u64);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        if reorder == 0 {
            prop_assert_eq!(&sorted, &seen);
        }
        sorted.dedup();
        prop_assert_eq!(sorted.len(), seen.len());
        prop_assert_eq!(pool.census().free, FRAMES);
    }
}

/// The same seed, the same faults.
#[test]
fn faults_are_repeatable() {
    let run = |seed| {
        let pool = pool();
        let (mut left, mut right) = pair(&pool, &LoopbackPlan::default()).expect("loans");
        left.misbehave(Mischief { seed, lose: 20000, reorder: 20000, lie: None });
        let mut burst = Burst::new();
        (0..64).for_each(|mark| push_packet(&pool, &mut burst, mark, 1));
        send_all(&mut left, &mut right, &mut burst)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(run(1).len() < BURST && run(1).windows(2).any(|two| two[0] > two[1]), "lost and reordered");
}
