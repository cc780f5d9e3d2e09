//! What crosses, what can't, and the books.

use crate::world::*;
use drivers::QueuePair;
use drivers::packet::{PacketPlan, PacketQueue};
use ringbuf::{BURST, Burst, Offload};
use std::time::Instant;

#[test]
fn every_length_crosses_both_ways() {
    in_namespace("every_length_crosses_both_ways", || {
        veth(1500);
        let pool = pool(512, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut sent_bytes = 0;
        for start in (60..=1514).step_by(BURST) {
            let sent: Vec<_> =
                (start..(start + BURST).min(1515)).map(|n| packet(n, n.to_le_bytes()[0])).collect();
            sent_bytes += sent.iter().map(Vec::len).sum::<usize>() as u64;
            let mut out = Burst::new();
            sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
            assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
            for part in sent.chunks(BURST / 3) {
                part.iter().for_each(|packet| put(&pool, &mut out, packet, 700));
                assert_same(part, &carry(&mut right, &mut left, &mut out, part.len()));
            }
        }
        let (there, here) = (left.counters(), right.counters());
        assert_eq!((there.transmitted.packets, there.transmitted.bytes), (1455, sent_bytes));
        assert_eq!(here.received, there.transmitted);
        assert_eq!(
            here.receive_missed + here.receive_malformed + there.unsendable + there.transmit_dropped,
            0
        );
        drop((left, right));
        assert_all_home(&pool);
        assert!(ip("-d link show left").contains("promiscuity 0"));
    });
}

/// Chains, in arenas of several frame sizes, of packets that fit a ring slot and that do not, keep their order.
#[test]
fn long_and_short_packets_keep_their_order() {
    in_namespace("long_and_short_packets_keep_their_order", || {
        veth(65535);
        for frame_size in [2048, 4096, 16384] {
            let pool = pool(256, frame_size);
            let (mut left, mut right) = pair(&pool);
            let lengths = [60, 9014, 61, 1971, 1972, 1973, 62, 2006, 2007, 30_000, 63, 64];
            let sent: Vec<_> = lengths.iter().zip(1..).map(|(n, seed)| packet(*n, seed)).collect();
            let mut out = Burst::new();
            sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
            assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
            let sent = [packet(65_549, 9)];
            put(&pool, &mut out, &sent[0], 1792);
            assert_same(&sent, &carry(&mut right, &mut left, &mut out, 1));
            assert_eq!(left.counters().receive_malformed + right.counters().receive_malformed, 0);
            drop((left, right, out));
            assert_all_home(&pool);
        }
    });
}

/// The kernel takes a tag off each received frame; it is put back, whatever its protocol.
#[test]
fn tags_survive() {
    in_namespace("tags_survive", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let tagged = |tags: &[u8], bytes, seed| {
            let mut packet = packet(bytes, seed);
            packet.splice(12..12, tags.iter().copied());
            packet
        };
        let sent = [
            tagged(&[0x81, 0x00, 0x60, 0x07], 60, 1),
            tagged(&[0x88, 0xa8, 0x0f, 0xff], 60, 2),
            tagged(&[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x00], 1000, 3),
            tagged(&[0x81, 0x00, 0x00, 0x01], 1514, 4),
            packet(60, 5),
        ];
        let mut out = Burst::new();
        sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
        assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
    });
}

/// Runts, packets too long for the link, and notes that point outside are named, and block nobody.
#[test]
fn what_cannot_be_sent_is_counted() {
    in_namespace("what_cannot_be_sent_is_counted", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(1515, 1), 1792);
        put(&pool, &mut out, &[7; 13], 1792);
        put(&pool, &mut out, &packet(100, 2), 1792);
        let wild = Offload { checksum_start: 90, checksum_offset: 16, ..Offload::default() };
        out.peek_mut(2).expect("third").set_offload(Some(wild));
        put(&pool, &mut out, &packet(3000, 3), 1000);
        put(&pool, &mut out, &packet(60, 4), 1792);
        assert_same(&[packet(60, 4)], &carry(&mut left, &mut right, &mut out, 1));
        assert_eq!((left.counters().unsendable, left.counters().transmitted.packets), (4, 1));
    });
}

/// A packet that the peer's end never accepts is given up, and those behind it pass.
#[test]
fn a_packet_that_the_device_always_drops_does_not_jam_the_ring() {
    in_namespace("a_packet_that_the_device_always_drops_does_not_jam_the_ring", || {
        veth(9000);
        ip("link set right mtu 1000");
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(1500, 1), 1792);
        put(&pool, &mut out, &packet(60, 2), 1792);
        put(&pool, &mut out, &packet(5000, 3), 1792);
        put(&pool, &mut out, &packet(61, 4), 1792);
        assert_same(&[packet(60, 2), packet(61, 4)], &carry(&mut left, &mut right, &mut out, 2));
        assert_eq!(left.counters().transmit_dropped, 2);
        assert_eq!(left.fault(), None);
    });
}

/// Nobody receives: what the ring has no room for is missed, and the books say so.
#[test]
fn overload_balances() {
    in_namespace("overload_balances", || {
        veth(1500);
        let pool = pool(512, 2048);
        let mut left = open(&pool, "left");
        let plan = PacketPlan { ring: 64, ..PacketPlan::new("right") };
        let mut right = PacketQueue::open(&pool, &plan).expect("opens");
        let mut out = Burst::new();
        for _ in 0..50 {
            (0..40).for_each(|seed| put(&pool, &mut out, &packet(60, seed), 1792));
            while !out.is_empty() {
                left.transmit(&mut out);
                left.tend();
            }
        }
        let (mut burst, mut received) = (Burst::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while received + right.counters().receive_missed < 2000 && Instant::now() < deadline {
            right.receive(&mut burst);
            received += packets(&mut burst).len() as u64;
        }
        let books = right.counters();
        assert_eq!(left.counters().transmitted.packets, 2000);
        assert_eq!(books.received.packets, received);
        assert_eq!(received + books.receive_missed, 2000, "{books:?}");
        assert!(received >= 64 && books.receive_missed > 0, "{books:?}");
        // A pool without frames leaves packets where they are.
        let all: Vec<_> = core::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(right.receive(&mut burst), 0);
        drop(all);
    });
}
