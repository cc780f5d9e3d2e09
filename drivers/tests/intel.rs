//! The drivers of Intel's cards against cards in memory: what comes, what goes, what lies.
//!
//! ```text
//!   a test ── FakeCard ══ rings in shared words ══ queue pair ── a test
//! ```
#![forbid(unsafe_code)]

use drivers::nic::NicPlan;
use drivers::nic::intel::IntelPort;
use drivers::nic::intel::fake::{FakeCard, Kind, Lie};
use drivers::wrap::Segment;
use drivers::{Fault, Gather, QueuePair, checksum};
use ringbuf::{Arena, ArenaPlan, Burst, Offload, Packet, Packets, Pool, Segmentation, Stray};
use std::time::{Duration, Instant};

const KINDS: [Kind; 2] = [Kind::E1000e, Kind::Igb];
const FRAMES: u32 = 1024;

fn pool(content_bytes: usize) -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 4096, content_bytes, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("a small arena"))
}

fn card(kind: Kind, plan: NicPlan) -> (FakeCard, IntelPort) {
    FakeCard::open(kind, plan).expect("a card in memory")
}

/// A packet of so many bytes that is like no other.
fn packet(len: usize, seed: u8) -> Vec<u8> {
    (0..=u8::MAX).cycle().map(|i| i.wrapping_mul(31).wrapping_add(seed)).take(len).collect()
}

/// The packet that comes at a place of a round.
fn one_of(round: u32, place: usize) -> Vec<u8> {
    let seed = u8::try_from((round as usize + place) % 251).expect("below 251");
    packet(60 + (place * 97) % 1400, seed)
}

fn frame<'p>(pool: &'p Pool, bytes: &[u8]) -> ringbuf::Frame<'p> {
    let mut frame = pool.alloc().expect("free");
    frame.extend(bytes).expect("fits");
    frame
}

/// Everything that is delivered is received, many times around the rings; everything sent leaves as it was; all slots come
/// home.
#[test]
fn packets_go_both_ways_around_the_rings() {
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan { ring: 64, ..NicPlan::default() });
        assert_eq!(port.mac(), [2, 0x52, 0x57, 0, 0, 1]);
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        for round in 0..300u32 {
            let count = 1 + (round as usize * 7) % 40;
            for i in 0..count {
                assert!(card.deliver(&pool, &one_of(round, i), None), "round {round}");
            }
            let mut burst = Burst::new();
            assert_eq!(queue.receive(&mut burst), count, "{kind:?} round {round}");
            for (i, frame) in burst.as_slice().iter().enumerate() {
                assert_eq!(**frame, *one_of(round, i));
            }
            assert_eq!(queue.transmit(&mut burst), count);
            assert!(card.send(&pool, None) as usize >= count);
            let sent = card.take();
            assert_eq!(sent.len(), count);
            for (i, sent) in sent.iter().enumerate() {
                assert_eq!(sent.bytes, one_of(round, i));
            }
            queue.tend();
            assert_eq!(queue.fault(), None);
            assert_eq!(queue.pending(), 0, "{kind:?} round {round}");
        }
        let counters = queue.counters();
        assert_eq!(counters.received, counters.transmitted);
        drop(queue);
        assert_eq!(pool.census().free, FRAMES);
        assert_eq!(card.wires().pieces(), 0, "nothing stays within the card's reach");
        drop(port);
        assert!(!card.wires().is_bus_master());
    }
}

/// A burst is told by one write of the tail, and reported once in thirty-two descriptors.
#[test]
fn the_bus_is_crossed_once_a_burst() {
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let [_, before] = card.bells();
        let mut burst = Burst::new();
        for i in 0..64 {
            burst.push(frame(&pool, &packet(60, i))).expect("room");
        }
        assert_eq!(queue.transmit(&mut burst), 64);
        assert_eq!(card.bells()[1], before + 1);
        assert_eq!(queue.pending(), 64);
        queue.tend();
        assert_eq!(queue.pending(), 64, "nothing was sent yet");
        card.send(&pool, None);
        queue.tend();
        assert_eq!(queue.pending(), 0);
    }
}

/// A full ring takes what fits; the rest stays with the caller, and goes later.
#[test]
fn a_full_ring_leaves_the_rest() {
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan { ring: 64, ..NicPlan::default() });
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let mut burst = Burst::new();
        for i in 0..64 {
            burst.push(frame(&pool, &packet(60, i))).expect("room");
        }
        let first = queue.transmit(&mut burst);
        assert!(first > 32 && first < 64, "{first}");
        assert_eq!(queue.transmit(&mut burst), 0);
        card.send(&pool, None);
        assert_eq!(queue.transmit(&mut burst), 64 - first);
        card.send(&pool, None);
        assert_eq!(card.take().len(), 64);
    }
}

/// A long packet comes in several buffers and is one packet in several frames, and goes out as one.
#[test]
fn long_packets_are_chains() {
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan { mtu: 9000, ..NicPlan::default() });
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let bytes = packet(9014, 3);
        assert!(card.deliver(&pool, &bytes, None));
        let mut burst = Burst::new();
        assert_eq!(queue.receive(&mut burst), 3, "{kind:?}");
        let whole: Vec<u8> = burst.as_slice().iter().flat_map(|frame| frame.iter().copied()).collect();
        assert_eq!(whole, bytes);
        let continues: Vec<bool> = burst.as_slice().iter().map(ringbuf::Frame::continues).collect();
        assert_eq!(continues, [true, true, false]);
        assert_eq!(queue.transmit(&mut burst), 3);
        card.send(&pool, None);
        assert_eq!(card.take()[0].bytes, bytes);
        assert_eq!(queue.counters().received.packets, 1);
        // One that is longer than the card may send.
        let mut burst = Burst::new();
        for i in 0..3 {
            let mut frame = frame(&pool, &packet(3500, 0));
            frame.set_continues(i < 2);
            burst.push(frame).expect("room");
        }
        assert_eq!((queue.transmit(&mut burst), queue.counters().unsendable), (3, 1));
    }
}

/// Pages go as further descriptors, straight from the arena, and are counted until the card reports the packet sent.
#[test]
fn pages_are_gathered() {
    for kind in KINDS {
        let pool = pool(1 << 16);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let mut packets = Packets::new();
        let mut packet_of = Packet::new(frame(&pool, &packet(54, 1)));
        for start in [100, 5000] {
            packet_of.push(pool.page(start, 700).expect("content")).expect("room");
        }
        packets.push(packet_of).expect("room");
        assert_eq!(queue.gather(&mut packets), 1);
        assert_eq!(pool.pages_on_loan(), 2);
        card.send(&pool, None);
        let sent = card.take();
        assert_eq!((sent[0].bytes.len(), &sent[0].bytes[..54]), (54 + 1400, &packet(54, 1)[..]));
        queue.tend();
        assert_eq!((pool.pages_on_loan(), queue.pending()), (0, 0));
        // A queue that ends with pages under way gives them up.
        let mut packet_of = Packet::new(frame(&pool, &packet(54, 1)));
        packet_of.push(pool.page(0, 700).expect("content")).expect("room");
        packets.push(packet_of).expect("room");
        assert_eq!(queue.gather(&mut packets), 1);
        drop(queue);
        assert_eq!((pool.pages_on_loan(), pool.census().free), (0, FRAMES));
    }
}

/// A TCP packet over IPv4, as far as a card looks.
fn tcp() -> Vec<u8> {
    let mut bytes = packet(100, 0);
    bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
    bytes[16..18].copy_from_slice(&[0, 86]);
    bytes[20..24].copy_from_slice(&[0, 0, 64, 6]);
    bytes
}

/// A checksum is left to the card by a context that is told once; what the card cannot do is done here.
#[test]
fn checksums_are_left_to_the_card() {
    let undone = Offload { checksum_start: 34, checksum_offset: 16, ..Offload::default() };
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let mut burst = Burst::new();
        for _ in 0..3 {
            let mut frame = frame(&pool, &tcp());
            frame.set_offload(Some(undone));
            burst.push(frame).expect("room");
        }
        burst.push(frame(&pool, &tcp())).expect("room");
        assert_eq!(queue.transmit(&mut burst), 4);
        assert_eq!(card.send(&pool, None), 5, "{kind:?}: four packets and one context");
        let context = match kind {
            // From byte 34 on, stored at 50.
            Kind::E1000e => [34 << 32 | 50 << 40, 1 << 29],
            // An IP header of 20 bytes behind 14, IPv4, TCP.
            Kind::Igb => [20 | 14 << 9, 2 << 20 | 1 << 29 | 1 << 10 | 1 << 11],
        };
        let contexts: Vec<_> = card.take().into_iter().map(|sent| sent.context).collect();
        assert_eq!(contexts, [Some(context), Some(context), Some(context), None]);
        assert_eq!(queue.counters().checksums_finished, 0);
        queue.tend();
        assert_eq!(queue.pending(), 0);
    }
    // ICMPv6 has a checksum too, which the 82576 does not know.
    let pool = pool(0);
    let (mut card, port) = card(Kind::Igb, NicPlan::default());
    let mut queue = port.open_queue(&pool, 0).expect("a queue");
    let mut bytes = tcp();
    bytes[23] = 58;
    let mut frame = frame(&pool, &bytes);
    frame.set_offload(Some(Offload { checksum_start: 34, checksum_offset: 2, ..Offload::default() }));
    let mut burst = Burst::new();
    burst.push(frame).expect("room");
    assert_eq!(queue.transmit(&mut burst), 1);
    card.send(&pool, None);
    let sent = card.take();
    assert_eq!((sent[0].context, queue.counters().checksums_finished), (None, 1));
    assert_ne!(sent[0].bytes, bytes, "the checksum was written");
}

/// The headers of a TCP packet with so much payload, its pseudo header's sum in its checksum, and how it is to be cut.
fn large(ipv4: bool, payload: usize) -> (Vec<u8>, Offload) {
    let transport = if ipv4 { 34 } else { 54 };
    let mut bytes = vec![2; transport + 32];
    let length = u16::try_from(32 + payload).expect("short");
    if ipv4 {
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        bytes[16..18].copy_from_slice(&(length + 20).to_be_bytes());
        bytes[18..26].copy_from_slice(&[0xff, 0xfe, 0, 0, 64, 6, 9, 9]);
    } else {
        bytes[12..18].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes[18..22].copy_from_slice(&[length.to_be_bytes()[0], length.to_be_bytes()[1], 6, 64]);
    }
    // The sequence number goes round; eight words of header; ACK, PSH and FIN.
    bytes[transport + 4..transport + 8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
    bytes[transport + 12..transport + 14].copy_from_slice(&[0x80, 0x19]);
    let place = u16::try_from(transport).expect("short");
    let pseudo = checksum::fold(pseudo(&bytes, transport, length)).to_ne_bytes();
    bytes[transport + 16..transport + 18].copy_from_slice(&pseudo);
    let segmentation = if ipv4 { Segmentation::Tcp4 } else { Segmentation::Tcp6 };
    let header_bytes = place + 32;
    let offload = Offload {
        checksum_start: place,
        checksum_offset: 16,
        segment_bytes: 1448,
        header_bytes,
        segmentation,
    };
    (bytes, offload)
}

fn pseudo(bytes: &[u8], transport: usize, length: u16) -> u64 {
    let addresses = if transport == 34 { &bytes[26..34] } else { &bytes[22..54] };
    checksum::sum(addresses) + u64::from(6u16.to_be()) + u64::from(length.to_be())
}

/// Long TCP goes to the card uncut, from frames and pages; what leaves is segments whose sums are right.
#[test]
fn long_packets_are_left_to_the_card_to_cut() {
    for (kind, ipv4, pages) in
        KINDS.into_iter().flat_map(|kind| [(kind, true, 9), (kind, true, 0), (kind, false, 9)])
    {
        let pool = pool(1 << 16);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        assert!(queue.caps().segmentation && queue.caps().mode.contains("segmentation"));
        let body = if pages > 0 { pages * 4000 } else { 9000 };
        let (headers, offload) = large(ipv4, body);
        let transport = usize::from(offload.checksum_start);
        if pages > 0 {
            let mut head = frame(&pool, &headers);
            head.set_offload(Some(offload));
            let mut packet = Packet::new(head);
            for page in 0..pages {
                packet.push(pool.page(page * 4096, 4000).expect("content")).expect("room");
            }
            let mut packets = Packets::new();
            packets.push(packet).expect("room");
            assert_eq!(queue.gather(&mut packets), 1);
        } else {
            let whole = [headers.clone(), vec![0; body]].concat();
            let mut burst = Burst::new();
            let parts: Vec<&[u8]> = whole.chunks(3000).collect();
            for (at, part) in parts.iter().enumerate() {
                let mut frame = frame(&pool, part);
                if at == 0 {
                    frame.set_offload(Some(offload));
                }
                frame.set_continues(at + 1 < parts.len());
                burst.push(frame).expect("room");
            }
            assert_eq!(queue.transmit(&mut burst), parts.len());
        }
        card.send(&pool, None);
        let sent = card.take();
        assert_eq!(sent.len(), body.div_ceil(1448), "{kind:?}");
        let mut left = body;
        for (index, sent) in sent.iter().enumerate() {
            let (bytes, share) = (&sent.bytes, left.min(1448));
            left -= share;
            assert_eq!(bytes.len(), transport + 32 + share);
            let length = u16::try_from(32 + share).expect("short");
            let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            if ipv4 {
                let number = 0xfffeu16.wrapping_add(u16::try_from(index).expect("few"));
                assert_eq!((word(16), word(18)), (length + 20, number));
                assert_eq!(checksum::fold(checksum::sum(&bytes[14..34])), 0xffff);
            } else {
                assert_eq!(word(18), length);
            }
            let sum = pseudo(bytes, transport, length) + checksum::sum(&bytes[transport..]);
            assert_eq!(checksum::fold(sum), 0xffff, "{kind:?} {index}");
            let number = 0xffff_ff00u32.wrapping_add(u32::try_from(index * 1448).expect("short"));
            assert_eq!(bytes[transport + 4..transport + 8], number.to_be_bytes());
            assert_eq!(bytes[transport + 13], if left == 0 { 0x19 } else { 0x10 });
        }
        queue.tend();
        let counters = queue.counters();
        assert_eq!((queue.pending(), counters.transmitted.packets, counters.unsendable), (0, 1, 0));
        drop(queue);
        assert_eq!((pool.pages_on_loan(), pool.census().free), (0, FRAMES));
    }
}

/// What no card cuts is counted and dropped, and does not stand in the way; around such a queue, UDP is cut in software.
#[test]
fn what_a_card_does_not_cut_is_not_sent() {
    for kind in KINDS {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let (headers, offload) = large(true, 3000);
        let large = |protocol: u8, offload: Offload, bytes: usize| {
            let mut all = [headers.clone(), vec![0; 3000]].concat();
            all[23] = protocol;
            let mut frame = frame(&pool, &all[..bytes]);
            frame.set_offload(Some(offload));
            frame
        };
        let udp =
            Offload { checksum_offset: 6, segmentation: Segmentation::Udp, header_bytes: 42, ..offload };
        let mut burst = Burst::new();
        let elsewhere = Offload { checksum_start: 40, ..offload };
        let uncut = Offload { segment_bytes: 0, segmentation: Segmentation::None, ..offload };
        for frame in [
            large(17, udp, 3066),
            large(6, elsewhere, 3066),
            large(6, uncut, 3066),
            // Half of its TCP header is missing.
            large(6, offload, 50),
        ] {
            burst.push(frame).expect("room");
        }
        burst.push(frame(&pool, &packet(60, 1))).expect("room");
        assert_eq!(queue.transmit(&mut burst), 5);
        card.send(&pool, None);
        assert_eq!((card.take().len(), queue.counters().unsendable), (1, 4), "{kind:?}");
        let mut queue = Segment::rest(queue, &pool);
        assert!(queue.caps().mode.contains("cuts the rest in software"));
        burst.push(large(17, udp, 3066)).expect("room");
        burst.push(large(6, offload, 3066)).expect("room");
        queue.transmit(&mut burst);
        card.send(&pool, None);
        // 3024 and 3000 bytes of payload, by 1448.
        assert_eq!((card.take().len(), queue.counters().packets_cut), (3 + 3, 1), "{kind:?}");
        drop(queue);
        assert_eq!(pool.census().free, FRAMES);
    }
}

/// A card that lies is a latched fault or a counted packet, and never memory damage: every slot comes home.
#[test]
fn a_card_that_lies_is_not_believed() {
    for (kind, lie) in KINDS.into_iter().flat_map(|kind| Lie::ALL.map(|lie| (kind, lie))) {
        let pool = pool(0);
        let (mut card, port) = card(kind, NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        let mut burst = Burst::new();
        match lie {
            Lie::TooLong => {
                assert!(card.deliver(&pool, &packet(60, 1), Some(lie)));
                assert_eq!(queue.receive(&mut burst), 0);
                let fault = queue.fault().cloned();
                assert!(
                    matches!(fault, Some(Fault::Stray(Stray::OutOfBounds { len: 2049, .. }))),
                    "{fault:?}"
                );
                card.deliver(&pool, &packet(60, 1), None);
                assert_eq!(queue.receive(&mut burst), 0, "a fault is for good");
            }
            Lie::Empty | Lie::Damaged => {
                assert!(card.deliver(&pool, &packet(60, 1), Some(lie)));
                assert!(card.deliver(&pool, &packet(61, 1), None));
                assert_eq!(queue.receive(&mut burst), 1);
                assert_eq!(
                    (queue.fault(), queue.counters().receive_malformed),
                    (None, 1),
                    "{kind:?} {lie:?}"
                );
            }
            Lie::Endless => {
                for _ in 0..100 {
                    assert!(card.deliver(&pool, &packet(60, 1), Some(lie)));
                }
                assert!(card.deliver(&pool, &packet(60, 1), None));
                assert!(card.deliver(&pool, &packet(61, 1), None));
                assert_eq!(queue.receive(&mut burst), 1);
                assert_eq!((queue.fault(), queue.counters().receive_malformed), (None, 1));
            }
            Lie::SentEarly => {
                // The packet is damaged, and nothing else: the slot was the card's to read.
                burst.push(frame(&pool, &packet(60, 1))).expect("room");
                queue.transmit(&mut burst);
                card.send(&pool, Some(lie));
                queue.tend();
                assert_eq!((queue.fault(), queue.pending()), (None, 0));
            }
            Lie::Gone => {
                card.deliver(&pool, &[], Some(lie));
                for _ in 0..2048 {
                    queue.tend();
                }
                assert_eq!(queue.fault(), Some(&Fault::PulledOut));
                burst.push(frame(&pool, &packet(60, 1))).expect("room");
                assert_eq!((queue.transmit(&mut burst), burst.len()), (0, 1));
            }
            Lie::Unsaid => {
                assert!(card.deliver(&pool, &packet(60, 1), Some(lie)));
                falls_silent(&mut *queue);
                assert_eq!(queue.counters().transmit_dropped, 0, "{kind:?}");
            }
        }
        drop(burst);
        drop(queue);
        assert_eq!(pool.census().free, FRAMES, "{kind:?} {lie:?}");
        // What does not answer may write still: only the bus keeps it from that.
        assert!(lie != Lie::Gone || !card.wires().is_bus_master(), "{kind:?}");
    }
}

/// Turns until a queue has a fault: that its card says nothing.
fn falls_silent<'p>(queue: &mut (dyn Gather<'p> + 'p)) {
    let begin = Instant::now();
    while queue.fault().is_none() && begin.elapsed() < Duration::from_secs(20) {
        assert_eq!(queue.receive(&mut Burst::new()), 0);
        queue.tend();
    }
    assert_eq!(queue.fault(), Some(&Fault::Silent));
    assert!(begin.elapsed() >= Duration::from_secs(5), "after {:?}", begin.elapsed());
}

/// A card that does not say that it has sent is a fault after a while, and what it had is counted as dropped. One that has nothing
/// to say is well.
#[test]
fn a_card_that_does_not_report_is_a_fault() {
    let (pool, idle_pool) = (pool(0), pool(0));
    let (card, port) = card(Kind::Igb, NicPlan::default());
    let (_idle_card, idle_port) = self::card(Kind::E1000e, NicPlan::default());
    let mut queue = port.open_queue(&pool, 0).expect("a queue");
    let mut idle = idle_port.open_queue(&idle_pool, 0).expect("a queue");
    let mut burst = Burst::new();
    for seed in 0..3 {
        burst.push(frame(&pool, &packet(60, seed))).expect("room");
    }
    assert_eq!(queue.transmit(&mut burst), 3);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        queue.tend();
        idle.tend();
    }
    assert_eq!((queue.fault(), idle.fault()), (Some(&Fault::Silent), None));
    let counters = queue.counters();
    assert_eq!((counters.transmitted.packets, counters.transmit_dropped), (3, 3));
    assert_eq!(queue.transmit(&mut burst), 0, "a fault is for good");
    drop(queue);
    assert_eq!(pool.census().free, FRAMES);
    drop(card);
}

/// When the kernel asks for a card back, its queue stops.
#[test]
fn a_card_that_is_wanted_back_is_let_go() {
    let pool = pool(0);
    let (card, port) = card(Kind::E1000e, NicPlan::default());
    let mut queue = port.open_queue(&pool, 0).expect("a queue");
    assert!(card.is_receiving());
    card.wires().ask_back();
    for _ in 0..2048 {
        queue.tend();
    }
    assert_eq!(queue.fault(), Some(&Fault::PulledOut));
    drop(queue);
    assert!(!card.is_receiving(), "it was stopped before its buffers were given to others");
}

/// What cannot be is refused in words.
#[test]
fn what_a_card_does_not_have_is_refused() {
    let words = |kind, plan: NicPlan| FakeCard::open(kind, plan).expect_err("refused").to_string();
    let error = words(Kind::E1000e, NicPlan { queues: 2, ..NicPlan::default() });
    assert!(error.contains("has 1 queue pair(s), not 2") && error.contains("queues=1 at most"), "{error}");
    let small = ArenaPlan { frames: 64, frame_size: 2048, content_bytes: 0, huge_pages: false };
    let small = Pool::new(Arena::new(&small).expect("small"));
    let (_card, port) = card(Kind::Igb, NicPlan { queues: 2, ..NicPlan::default() });
    let error = port.open_queue(&small, 0).err().expect("too small").to_string();
    assert!(error.contains("slots of 4096 bytes"), "{error}");
    let pool = pool(0);
    let first = port.open_queue(&pool, 1).expect("a queue");
    assert!(port.open_queue(&pool, 1).is_err() && port.open_queue(&pool, 2).is_err());
    drop(first);
}
