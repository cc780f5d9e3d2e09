//! The virtio rings against a device in memory: every byte that goes in comes out, and no lie costs a slot.

use drivers::nic::virtio::fake::{self, FakeDevice, FakePlan, Lie};
use drivers::nic::virtio::feature;
use drivers::{Fault, Gather};
use proptest::prelude::*;
use ringbuf::{Arena, ArenaPlan, Burst, Offload, Packet, Packets, Pool, Segmentation};

fn pool(frames: u32, frame_size: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size, content_bytes: 1 << 16, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

fn frames<'p>(pool: &'p Pool, packet: &[u8], piece: usize) -> Burst<'p> {
    let mut burst = Burst::new();
    let mut pieces = packet.chunks(piece).peekable();
    while let Some(piece) = pieces.next() {
        let mut frame = pool.alloc().expect("free");
        frame.extend(piece).expect("fits");
        frame.set_continues(pieces.peek().is_some());
        burst.push(frame).expect("room");
    }
    burst
}

fn bytes(burst: &mut Burst<'_>) -> Vec<Vec<u8>> {
    let mut packets = vec![Vec::new()];
    for frame in burst.drain() {
        packets.last_mut().expect("one").extend_from_slice(&frame);
        if !frame.continues() {
            packets.push(Vec::new());
        }
    }
    assert_eq!(packets.pop(), Some(Vec::new()), "a packet without its end");
    packets
}

const SIZES: [usize; 9] = [1, 60, 61, 64, 1000, 1514, 1792, 1793, 9014];

/// Both layouts, several times round: long packets and short ones, in and out, in one buffer and in several.
#[test]
fn every_byte_passes_while_the_rings_wrap() {
    for (packed, backwards, frame_size) in [
        (false, false, 2048),
        (true, false, 2048),
        (false, true, 4096),
        (true, true, 2048),
        (false, false, 512),
    ] {
        let pool = pool(512, frame_size);
        let piece = frame_size as usize - 256;
        {
            let plan = FakePlan { ring: 64, packed, mtu: 9000, ..FakePlan::default() };
            let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
            if backwards {
                device.fill_backwards();
            }
            for round in 0..200u8 {
                let size = SIZES[usize::from(round) % SIZES.len()];
                let packet: Vec<u8> = (0..size).map(|i| i.to_le_bytes()[0] ^ round).collect();
                queue.tend();
                assert!(device.deliver([0; 10], &packet), "{size} bytes in round {round}");
                let mut burst = Burst::new();
                while queue.receive(&mut burst) == 0 {
                    assert_eq!(queue.fault(), None);
                }
                assert_eq!(
                    bytes(&mut burst),
                    std::slice::from_ref(&packet),
                    "{size} bytes, packed: {packed}"
                );
                let mut burst = frames(&pool, &packet, piece.min(1700));
                queue.transmit(&mut burst);
                assert!(burst.is_empty());
                assert_eq!(device.take(), Some(([0; 12], packet)), "{size} bytes, packed: {packed}");
                assert_eq!(device.take(), None);
            }
            queue.tend();
            queue.tend();
            let counters = queue.counters();
            assert_eq!((counters.received, queue.pending()), (counters.transmitted, 0));
            assert_eq!((counters.received.packets, counters.unsendable), (200, 0));
            drop(queue);
            assert!(device.is_closed() && !device.is_astray());
        }
        assert_eq!(pool.census().free, 512);
    }
}

/// A device that is done in order answers for several at once: lists and tables among single buffers, packets in one buffer
/// and in several, while both layouts wrap.
#[test]
fn one_answer_may_be_for_many() {
    for (packed, tables) in [(false, 0), (true, 0), (false, feature::INDIRECT), (true, feature::INDIRECT)] {
        let pool = pool(512, 2048);
        let usual = FakePlan::default();
        let features = usual.features | feature::IN_ORDER | tables;
        {
            let plan = FakePlan { ring: 64, packed, mtu: 9000, features };
            let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
            let mut sent = 0;
            for round in 0..300usize {
                queue.tend();
                let size = SIZES[round % SIZES.len()];
                let packet: Vec<u8> =
                    (0..size).map(|i| i.to_le_bytes()[0] ^ round.to_le_bytes()[0]).collect();
                assert!(device.deliver([0; 10], &packet), "{size} bytes in round {round}");
                let mut burst = Burst::new();
                queue.receive(&mut burst);
                assert_eq!(bytes(&mut burst), std::slice::from_ref(&packet));
                for i in 0..round % 8 {
                    let mut packets = Packets::new();
                    let mut head = pool.alloc().expect("free");
                    head.extend(&[round.to_le_bytes()[0], i.to_le_bytes()[0]]).expect("fits");
                    let mut packet = Packet::new(head);
                    for page in 0..(round + i) % 5 {
                        packet.push(pool.page(4096 * page, 1000).expect("content")).expect("room");
                    }
                    packets.push(packet).expect("room");
                    assert_eq!(queue.gather(&mut packets), 1);
                    sent += 1;
                }
                for i in 0..round % 8 {
                    let (_, packet) = device.take().expect("sent");
                    assert_eq!(packet[..2], [round.to_le_bytes()[0], i.to_le_bytes()[0]]);
                    assert_eq!(packet.len(), 2 + (round + i) % 5 * 1000);
                }
                assert_eq!(device.take(), None);
                (0..4).for_each(|_| queue.tend());
                assert_eq!((pool.pages_on_loan(), queue.pending(), queue.fault()), (0, 0, None));
            }
            assert_eq!(queue.counters().transmitted.packets, sent);
            assert!(!device.is_astray());
        }
        assert_eq!(pool.census().free, 512);
    }
}

/// From one device to another without a frame, between both layouts, while the rings wrap: what cannot go so stays in front for
/// [`receive`](drivers::QueuePair::receive), and no slot is lost.
#[test]
fn packets_pass_as_they_came_in() {
    for (from, to, in_order) in [(false, true, 0), (true, false, feature::IN_ORDER), (true, true, 0)] {
        let pool = pool(512, 2048);
        let features = feature::VERSION_1 | in_order;
        {
            let plan = |packed, mtu| FakePlan { ring: 64, packed, mtu, features };
            let (mut left, mut sender) = fake::pair(&pool, plan(from, 1500)).expect("a pair");
            let (mut right, mut taker) = fake::pair(&pool, plan(to, 1000)).expect("a pair");
            assert!(left.passes());
            let mut burst = Burst::new();
            for round in 0..60usize {
                left.tend();
                right.tend();
                let packets: Vec<Vec<u8>> =
                    (0..round % 23).map(|i| vec![i.to_le_bytes()[0]; 14 + (97 * i + round) % 1004]).collect();
                for packet in &packets {
                    // `DATA_VALID`: nothing to be done.
                    assert!(sender.deliver([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], packet));
                }
                let mut passed = 0;
                while passed < packets.len() {
                    passed += left.pass(&mut *right, 14).expect("nothing is odd among them");
                }
                assert_eq!((left.pass(&mut *right, 14), passed), (Some(0), packets.len()));
                assert_eq!(pool.census().thread, 0, "none of them is a frame");
                for packet in packets {
                    assert_eq!(taker.take(), Some(([0; 12], packet)));
                }
                // One that is too short, one too long for the way out, and one with its checksum undone.
                let undone = [1, 0, 0, 0, 0, 0, 14, 0, 2, 0];
                for (odd, len) in [([0; 10], 13), ([0; 10], 1019), (undone, 60)] {
                    assert!(sender.deliver([0; 10], &[5; 60]) && sender.deliver(odd, &vec![6; len]));
                    assert!(sender.deliver([0; 10], &[7; 60]));
                    assert_eq!(left.pass(&mut *right, 14), Some(1), "the one in front of it");
                    assert_eq!((left.pass(&mut *right, 14), left.receive(&mut burst)), (None, 2));
                    assert_eq!(burst.drain().map(|frame| frame[0]).collect::<Vec<_>>(), [6, 7]);
                    assert_eq!(taker.take(), Some(([0; 12], vec![5; 60])));
                }
            }
            // A way out that is full, and one that is gone.
            let (mut sent, mut delivered) = (0, 0);
            while sender.deliver([0; 10], &[1; 60]) {
                delivered += 1;
                sent += left.pass(&mut *right, 14).unwrap_or(0);
                left.tend();
            }
            assert_eq!((sent, left.pass(&mut *right, 14)), (64, None));
            assert!(delivered > 64);
            assert_eq!(left.receive(&mut burst), delivered - 64);
            burst.clear();
            taker.vanish();
            right.tend();
            left.tend();
            assert!(sender.deliver([0; 10], &[1; 60]));
            assert_eq!((left.pass(&mut *right, 14), left.receive(&mut burst)), (None, 1));
            let (left, right) = (left.counters(), right.counters());
            assert_eq!(left.received.packets, right.transmitted.packets + 60 * 3 * 2 + delivered as u64 - 63);
            assert!(!sender.is_astray() && !taker.is_astray());
        }
        assert_eq!(pool.census().free, 512);
    }
    // Where headers count buffers, none passes.
    let pool = pool(128, 2048);
    let (queue, _) = fake::pair(&pool, FakePlan::default()).expect("a pair");
    assert!(!queue.passes());
}

/// Bursts that fill the ring, and one packet too many.
#[test]
fn a_full_ring_takes_no_more() {
    for (packed, in_order) in [(false, 0), (true, 0), (false, feature::IN_ORDER), (true, feature::IN_ORDER)] {
        let pool = pool(256, 2048);
        let features = FakePlan::default().features | in_order;
        let (mut queue, mut device) =
            fake::pair(&pool, FakePlan { ring: 32, packed, features, ..FakePlan::default() })
                .expect("a pair");
        queue.tend();
        for round in 0..9u8 {
            let mut burst = Burst::new();
            for i in 0..40u8 {
                burst.append(&mut frames(&pool, &[round, i], 100));
            }
            assert_eq!((queue.transmit(&mut burst), queue.pending(), burst.len()), (32, 32, 8));
            for i in 0..32 {
                assert_eq!(device.take().map(|(_, packet)| packet), Some(vec![round, i]));
            }
            queue.tend();
            for _ in 0..32 {
                assert!(device.deliver([0; 10], &[round; 60]));
            }
            assert!(!device.deliver([0; 10], &[round; 60]), "no buffer is left");
            burst.clear();
            assert_eq!(queue.receive(&mut burst), 32);
        }
        assert_eq!(queue.counters().wakeups, device.bells());
    }
}

/// Pages go out behind their head without a copy, and are counted until the device is done with them.
#[test]
fn pages_are_gathered() {
    for (packed, tables) in [(false, 0), (true, 0), (false, feature::INDIRECT), (true, feature::INDIRECT)] {
        let pool = pool(64, 2048);
        let usual = FakePlan::default();
        let plan = FakePlan { ring: 32, packed, mtu: 9000, features: usual.features | tables };
        let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
        queue.tend();
        assert_eq!(queue.caps().mode.contains("tables"), tables != 0);
        let content: Vec<u8> = (0..6 * 4096usize).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
        pool.write_content(0, &content).expect("nobody has it");
        for round in 0..200 {
            let mut packets = Packets::new();
            let mut head = pool.alloc().expect("free");
            head.extend(b"head").expect("fits");
            let mut packet = Packet::new(head);
            for i in 0..round % 6 {
                packet.push(pool.page(4096 * i, 1000).expect("content")).expect("room");
            }
            packets.push(packet).expect("room");
            assert_eq!(queue.gather(&mut packets), 1);
            assert_eq!(pool.pages_on_loan(), round as u64 % 6);
            let descriptors = if tables != 0 && round % 6 > 1 { 1 } else { 1 + round % 6 };
            assert_eq!(queue.pending() as usize, descriptors);
            let (_, sent) = device.take().expect("sent");
            let pages = (0..round % 6).map(|i| &content[4096 * i..][..1000]);
            assert!(sent == [&b"head"[..]].into_iter().chain(pages).collect::<Vec<_>>().concat());
            assert!(!device.is_astray());
            queue.tend();
            queue.tend();
            assert_eq!((pool.pages_on_loan(), queue.pending()), (0, 0));
        }
    }
}

/// What the device leaves undone is noted; what we leave undone is said, or finished when the device cannot.
#[test]
fn checksums_are_left_to_those_who_can() {
    let undone = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0];
    let mut packet = [0u8; 60];
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    (packet[17], packet[23], packet[39]) = (46, 17, 26);
    for (extra, header, finished) in
        [(feature::CHECKSUM | feature::GUEST_CHECKSUM, undone, 0), (0, [0; 10], 1)]
    {
        let pool = pool(128, 2048);
        let plan = FakePlan::default();
        let (mut queue, mut device) =
            fake::pair(&pool, FakePlan { features: plan.features | extra, ..plan }).expect("a pair");
        queue.tend();
        assert!(device.deliver(undone, &packet));
        let mut burst = Burst::new();
        assert_eq!(queue.receive(&mut burst), 1);
        let offload = Offload { checksum_start: 34, checksum_offset: 6, ..Offload::default() };
        assert_eq!(burst.peek(0).and_then(|frame| frame.offload()), Some(offload));
        queue.transmit(&mut burst);
        let (said, sent) = device.take().expect("sent");
        assert_eq!((&said[..10], queue.counters().checksums_finished), (&header[..], finished));
        assert_eq!(sent[40..42] != [0, 0], finished == 1);
    }
}

/// Large packets are handed over as they are, with what is to be done to them, to a device that said that it cuts their kind;
/// those of another kind are refused, whoever sends them.
#[test]
fn only_what_the_device_cuts_is_left_to_it() {
    let plain = feature::CHECKSUM | feature::TSO4 | feature::TSO6;
    let every = plain | feature::TSO_ECN | feature::USO;
    let kinds = [
        (Segmentation::Tcp4, 1, plain),
        (Segmentation::Tcp6, 4, plain),
        (Segmentation::Tcp4Ecn, 0x81, every),
        (Segmentation::Tcp6Ecn, 0x84, every),
        (Segmentation::Udp, 5, every),
    ];
    for (packed, features) in
        [false, true].into_iter().flat_map(|packed| [0, plain, every].map(|f| (packed, f)))
    {
        let pool = pool(128, 2048);
        let usual = FakePlan::default();
        let plan = FakePlan { ring: 64, packed, features: usual.features | features, ..usual };
        let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
        queue.tend();
        let mut refused = 0;
        for (kind, said, needs) in kinds {
            let able = features & needs == needs;
            assert_eq!(queue.cuts(kind), able, "{kind:?}");
            let offload = Offload {
                checksum_start: 34,
                checksum_offset: 16,
                segment_bytes: 1448,
                header_bytes: 66,
                segmentation: kind,
            };
            let mut burst = frames(&pool, &[9; 20_000], 1700);
            burst.peek_mut(0).expect("one").set_offload(Some(offload));
            queue.transmit(&mut burst);
            let mut head = pool.alloc().expect("free");
            head.extend(&[7; 66]).expect("fits");
            head.set_offload(Some(offload));
            let mut packet = Packet::new(head);
            for page in 0..15 {
                packet.push(pool.page(4096 * page, 4096).expect("content")).expect("room");
            }
            let mut packets = Packets::new();
            packets.push(packet).expect("room");
            assert_eq!((burst.len(), queue.gather(&mut packets)), (0, 1));
            for bytes in [20_000, 66 + 15 * 4096] {
                let sent = device.take();
                assert_eq!(sent.is_some(), able, "{kind:?}, {bytes} bytes");
                refused += u64::from(!able);
                let Some((header, packet)) = sent else { continue };
                assert_eq!(header, [1, said, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
                assert_eq!(packet.len(), bytes);
            }
            (0..4).for_each(|_| queue.tend());
        }
        assert_eq!((queue.counters().unsendable, queue.fault()), (refused, None));
        drop(queue);
        assert_eq!((pool.census().free, pool.pages_on_loan()), (128, 0));
    }
}

/// Each lie, in both layouts: a fault or a malformed packet, and every slot comes home.
#[test]
fn no_lie_costs_a_slot() {
    for (packed, in_order) in [(false, 0), (true, 0), (false, feature::IN_ORDER), (true, feature::IN_ORDER)] {
        for lie in Lie::ALL {
            let pool = pool(128, 2048);
            {
                let features = FakePlan::default().features | in_order;
                let plan = FakePlan { ring: 32, packed, features, ..FakePlan::default() };
                let (mut queue, mut device) = fake::pair(&pool, plan).expect("a pair");
                queue.tend();
                let mut burst = Burst::new();
                for round in 0..3 {
                    if round == 1 {
                        device.lie(lie);
                    }
                    device.deliver([0; 10], &[7; 60]);
                    queue.receive(&mut burst);
                }
                let counters = queue.counters();
                match (lie, queue.fault()) {
                    (Lie::NoBuffers, None) => assert_eq!((counters.receive_malformed, burst.len()), (1, 2)),
                    // It is dropped as it comes, for as long as it comes.
                    (Lie::ManyBuffers, None) => assert_eq!(burst.len(), 1),
                    (Lie::Ahead, None) => assert!(packed),
                    (Lie::Outside | Lie::NotLent | Lie::Twice, Some(Fault::Completion { .. })) => {}
                    (Lie::TooLong, Some(Fault::Stray(_))) => {}
                    (Lie::TooShort, Some(fault @ Fault::Short { len: 5, header: 12 })) => {
                        assert!(fault.to_string().contains("5 bytes into a buffer"), "{fault}");
                    }
                    (Lie::Ahead, Some(Fault::Ring(_))) => assert!(!packed),
                    (lie, fault) => panic!("{lie:?}, packed {packed}: {fault:?}, {counters:?}"),
                }
                let census = pool.census();
                assert_eq!(census.total(), 128);
                assert_eq!(census.thread as usize, burst.len());
            }
            assert_eq!(pool.census().free, 128, "{lie:?}, packed: {packed}");
        }
    }
}

/// The other side goes while packets are under way, and comes back: what it had is lost, counted, and home.
#[test]
fn a_device_that_goes_and_comes_back() {
    for packed in [false, true] {
        let pool = pool(128, 2048);
        let (mut queue, mut device) =
            fake::pair(&pool, FakePlan { ring: 32, packed, ..FakePlan::default() }).expect("a pair");
        for round in 1..5u8 {
            queue.tend();
            let mut burst = Burst::new();
            for i in 0..8 {
                burst.append(&mut frames(&pool, &[i; 60], 100));
            }
            queue.transmit(&mut burst);
            for _ in 0..3 {
                assert!(device.take().is_some());
            }
            assert!(device.deliver([0; 10], &[1; 60]) && device.deliver([0; 10], &[2; 60]));
            queue.tend();
            queue.tend();
            device.vanish();
            queue.tend();
            assert_eq!((queue.pending(), queue.counters().transmit_dropped), (0, 5 * u64::from(round)));
            assert_eq!((pool.census().free, device.settled()), (128, round.into()));
            let mut more = frames(&pool, &[9; 60], 100);
            assert_eq!((queue.transmit(&mut more), queue.receive(&mut burst)), (0, 0));
            device.come_back();
            assert!(queue.fault().is_none());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any traffic in any order: packets come out as they went in, and the books balance.
    #[test]
    fn any_traffic(packed: bool, in_order: bool, ring in prop::sample::select(vec![16u16, 32, 128]), steps in prop::collection::vec((0u8..4, 1usize..4000), 1..120)) {
        let pool = pool(512, 2048);
        {
            let features = FakePlan::default().features | if in_order { feature::IN_ORDER } else { 0 };
            let (mut queue, mut device) = fake::pair(&pool, FakePlan { ring, packed, mtu: 9000, features }).expect("a pair");
            let (mut coming, mut going) = (std::collections::VecDeque::new(), std::collections::VecDeque::new());
            let mut number = 0u8;
            for (what, size) in steps {
                number = number.wrapping_add(1);
                let packet = vec![number; size];
                match what {
                    0 => {
                        if device.deliver([0; 10], &packet) {
                            coming.push_back(packet);
                        }
                    }
                    1 => {
                        let mut burst = frames(&pool, &packet, 1700);
                        queue.transmit(&mut burst);
                        if burst.is_empty() {
                            going.push_back(packet);
                        }
                    }
                    2 => queue.tend(),
                    _ => {
                        let mut burst = Burst::new();
                        queue.receive(&mut burst);
                        for packet in bytes(&mut burst) {
                            prop_assert_eq!(Some(packet), coming.pop_front());
                        }
                        if let Some((_, packet)) = device.take() {
                            prop_assert_eq!(Some(packet), going.pop_front());
                        }
                    }
                }
                prop_assert_eq!((queue.fault(), device.is_astray()), (None, false));
            }
        }
        prop_assert_eq!(pool.census().free, 512);
    }
}

/// Nothing is rung for while the device does not ask.
#[test]
fn bells_are_rung_when_asked_for() {
    let pool = pool(512, 2048);
    let (mut queue, mut device): (Box<dyn Gather<'_>>, FakeDevice<'_>) =
        fake::pair(&pool, FakePlan::default()).expect("a pair");
    device.want_bells(false);
    queue.tend();
    queue.transmit(&mut frames(&pool, &[1; 60], 100));
    queue.tend();
    // Nothing new: the look that counts.
    queue.tend();
    assert_eq!(device.bells(), 0);
    device.want_bells(true);
    queue.transmit(&mut frames(&pool, &[1; 60], 100));
    queue.tend();
    queue.tend();
    queue.tend();
    assert_eq!(device.bells(), 1);
    assert!(device.take().is_some() && device.take().is_some());
}
