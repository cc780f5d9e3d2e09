//! virtio-net as a PCI device, against one in memory: what it must be told, what comes and goes, and what lies.
//!
//! ```text
//!   a test ── FakeCard: capabilities, registers, commands ── VirtioPort
//!          ── FakeDevice ══ rings in shared words ══ queue pair ── a test
//! ```
#![forbid(unsafe_code)]

use drivers::nic::NicPlan;
use drivers::nic::virtio::feature;
use drivers::nic::virtio::pci::VirtioPort;
use drivers::nic::virtio::pci::fake::{FakeCard, FakePciPlan, Lie};
use drivers::{Fault, Gather};
use ringbuf::{Arena, ArenaPlan, Burst, Frame, Packet, Packets, Pool};

const FRAMES: u32 = 512;
/// Turns after which a queue has looked at its device.
const TURNS: usize = 1100;

fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 2048, content_bytes: 1 << 16, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("a small arena"))
}

fn card(fake: FakePciPlan, plan: NicPlan) -> (FakeCard, VirtioPort) {
    FakeCard::open(fake, plan).expect("a card in memory")
}

fn offering(more: u64) -> FakePciPlan {
    let usual = FakePciPlan::default();
    FakePciPlan { features: usual.features | more, ..usual }
}

fn frame<'p>(pool: &'p Pool, bytes: &[u8]) -> Frame<'p> {
    let mut frame = pool.alloc().expect("free");
    frame.extend(bytes).expect("fits");
    frame
}

fn of_one(frame: Frame<'_>) -> Burst<'_> {
    let mut burst = Burst::new();
    burst.push(frame).expect("empty");
    burst
}

/// Rings of both kinds, one pair and three: nothing works before all are there; then every byte passes, and at the end
/// nothing is within the device's reach.
#[test]
fn packets_go_both_ways_once_all_queues_are_there() {
    for (features, queues) in [(0, 1), (feature::PACKED, 1), (0, 3), (feature::PACKED, 3)] {
        let pool = pool();
        let plan = NicPlan { queues, ring: 64, ..NicPlan::default() };
        let (card, port) = card(offering(features), plan);
        assert_eq!(port.mac(), [2, 0x52, 0x57, 0, 0, 1]);
        assert_eq!(card.agreed() & feature::PACKED, features);
        let mut pairs = Vec::new();
        for queue in 0..queues {
            assert!(!card.is_working(), "it works before queue {queue} is there");
            pairs.push(port.open_queue(&pool, queue).expect("a queue"));
        }
        assert!(card.is_working());
        assert!(port.open_queue(&pool, 0).is_err(), "a queue twice");
        let on = [vec![0, 0, 1], vec![0, 1, 1]];
        let mut told = card.commands();
        if queues > 1 {
            assert_eq!(told.remove(0), [4, 0, 3, 0]);
        }
        assert_eq!(told, on);
        for (number, queue) in (0u16..).zip(&mut pairs) {
            assert!(queue.caps().mode.starts_with(if features == 0 { "split" } else { "packed" }));
            let mut device = card.pair(&pool, number).expect("rings where the registers say");
            for round in 0..200u8 {
                queue.tend();
                let packet = vec![round; 60 + usize::from(round)];
                assert!(device.deliver([0; 10], &packet), "round {round}");
                let mut burst = Burst::new();
                assert_eq!(queue.receive(&mut burst), 1);
                assert_eq!(*burst.as_slice()[0], *packet);
                assert_eq!(queue.transmit(&mut burst), 1);
                assert_eq!(device.take(), Some(([0; 12], packet)));
            }
            let mut head = Packet::new(frame(&pool, b"head"));
            head.push(pool.page(4096, 1000).expect("content")).expect("room");
            let mut packets = Packets::new();
            packets.push(head).expect("room");
            assert_eq!(queue.gather(&mut packets), 1);
            assert_eq!(device.take().map(|(_, sent)| sent.len()), Some(1004));
            (0..130).for_each(|_| queue.tend());
            assert_eq!((queue.fault(), queue.pending(), pool.pages_on_loan()), (None, 0, 0));
            assert!(!device.is_astray(), "an address that is not translated");
            assert!(card.bells(2 * number) > 0 && card.bells(2 * number + 1) > 0);
        }
        assert!(!card.is_astray(), "a doorbell of another queue");
        let before = card.resets();
        drop(pairs);
        assert!(card.resets() > before && !card.is_working());
        assert_eq!(pool.census().free, FRAMES);
        drop(port);
        assert_eq!(card.wires().pieces(), 0, "nothing stays within the card's reach");
        assert!(!card.wires().is_bus_master());
    }
}

/// Whoever ends first stops the device; what others had with it comes home, and is counted.
#[test]
fn the_first_queue_that_ends_stops_the_device() {
    let pool = pool();
    let (card, port) = card(FakePciPlan::default(), NicPlan { queues: 2, ring: 64, ..NicPlan::default() });
    let mut one = port.open_queue(&pool, 0).expect("a queue");
    let mut other = port.open_queue(&pool, 1).expect("a queue");
    one.tend();
    other.tend();
    assert_eq!(other.transmit(&mut of_one(frame(&pool, &[1; 60]))), 1);
    drop(one);
    assert_eq!(other.pending(), 1);
    other.tend();
    assert_eq!((other.pending(), other.counters().transmit_dropped, other.fault()), (0, 1, None));
    assert_eq!(pool.census().free, FRAMES);
    assert!(!card.is_working());
    // A device that is stopped is not looked at: that it does not work is no fault then.
    (0..TURNS).for_each(|_| other.tend());
    assert_eq!(other.fault(), None);
}

/// What the capabilities, the registers and the control queue say that cannot be is refused in words.
#[test]
fn each_lie_is_refused_in_words() {
    for lie in Lie::ALL {
        let words = match lie {
            Lie::Legacy => "legacy virtio alone",
            Lie::NoCommon => "names no common registers",
            Lie::NoNotify => "names no notify registers",
            Lie::Outside | Lie::Overflow => "common registers lie outside of its BAR 4",
            Lie::Odd => "56 bytes at 0x2",
            Lie::Few => "36 bytes at 0x0",
            Lie::ShortCapability => "is one of 16 bytes",
            Lie::LateCapability => "is one of 255 bytes",
            Lie::NoBar => "mapping its BAR 5",
            Lie::OddDoorbells => "3 bytes apart",
            Lie::FarDoorbell => "doorbell of its queue",
            Lie::NoConfiguration => "no place for what it says",
            Lie::Stubborn => "does not take the features",
            Lie::Endless => "come back from a reset",
            Lie::Absent => "registers are all ones",
            Lie::NoQueues | Lie::NoRing => "its queue 0 has 0 descriptors",
            Lie::NoPairs => "has 0 queue pairs",
            Lie::Group => "which is none",
            Lie::Restless => "changes all the time",
            Lie::Silent | Lie::Confused => "does not answer on its control queue",
            Lie::Refusing => "answers 1 and not 0",
        };
        let pool = pool();
        let fake = FakePciPlan { lie: Some(lie), ..FakePciPlan::default() };
        let plan = NicPlan { queues: 2, ..NicPlan::default() };
        let opened = FakeCard::open(fake, plan).and_then(|(_, port)| {
            let first = port.open_queue(&pool, 0)?;
            let second = port.open_queue(&pool, 1)?;
            drop((first, second));
            Ok(())
        });
        let error = opened.expect_err("a lie").to_string();
        assert!(error.contains(words), "{lie:?}: {error}");
        assert!(error.contains("0000:00:05.0"), "{error}");
        assert_eq!(pool.census().free, FRAMES, "{lie:?}");
    }
}

/// A device that cannot do what it must, or not what is asked for: refused, with the cure where there is one.
#[test]
fn what_cannot_be_is_refused() {
    let usual = FakePciPlan::default();
    let without = |feature: u64| FakePciPlan { features: usual.features & !feature, ..usual.clone() };
    for (fake, plan, words) in [
        (without(feature::VERSION_1), NicPlan::default(), "version 1 of virtio"),
        (without(feature::PLATFORM), NicPlan::default(), "iommu_platform=on"),
        (usual.clone(), NicPlan { queues: 5, ..NicPlan::default() }, "ask for queues=4"),
        (without(feature::QUEUES), NicPlan { queues: 2, ..NicPlan::default() }, "ask for queues=1"),
        (without(feature::CONTROL), NicPlan { queues: 2, ..NicPlan::default() }, "ask for queues=1"),
        (FakePciPlan { mtu: 1400, ..usual.clone() }, NicPlan::default(), "ask for mtu=1400"),
    ] {
        let error = FakeCard::open(fake, plan).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
    // Without mergeable buffers a long packet fits nowhere.
    let (_card, port) = card(without(feature::MERGEABLE), NicPlan { mtu: 9000, ..NicPlan::default() });
    let pool = pool();
    let error = port.open_queue(&pool, 0).err().expect("refused").to_string();
    assert!(error.contains("fit no buffer"), "{error}");
}

/// What is not offered is not asked for, and what builds on it neither.
#[test]
fn features_are_taken_where_they_are_offered() {
    let usual = FakePciPlan::default();
    let tso = feature::TSO4 | feature::TSO6;
    let plan = NicPlan::default();
    let (card_, _port) = card(offering(tso | 1 << 40), plan.clone());
    assert_eq!(
        card_.agreed() & (tso | 1 << 40),
        0,
        "segments without checksums, and a bit that nobody knows"
    );
    let (card_, port) = card(offering(feature::OFFLOADS), plan.clone());
    assert_eq!(card_.agreed() & feature::OFFLOADS, feature::OFFLOADS);
    assert_eq!(card_.agreed() & feature::QUEUES, 0, "one pair needs no word about pairs");
    let pool = pool();
    let caps = port.open_queue(&pool, 0).expect("a queue").caps().clone();
    assert!(caps.checksum && caps.segmentation && caps.packet_bytes > 65_000, "{caps:?}");
    let (card_, _port) = card(offering(feature::OFFLOADS), NicPlan { offloads: false, ..plan.clone() });
    assert_eq!(card_.agreed() & feature::OFFLOADS, 0);
    let mean = FakePciPlan { features: feature::VERSION_1 | feature::PLATFORM, ..usual };
    let (card_, port) = card(mean, NicPlan { promiscuous: false, ..plan.clone() });
    assert_eq!(port.mac()[0] & 3, 2, "an address of our own choice");
    port.open_queue(&pool, 0).expect("a queue");
    assert!(card_.commands().is_empty(), "it has no control queue");
    let (card_, port) =
        card(FakePciPlan { ring: 100, ..FakePciPlan::default() }, NicPlan { promiscuous: false, ..plan });
    assert!(
        port.open_queue(&pool, 0).expect("a queue").caps().mode.contains("of 64"),
        "what its rings can have"
    );
    assert_eq!(card_.commands(), [[0, 0, 0], [0, 1, 0]]);
}

/// A link that goes holds frames back, and is counted; a device that goes, breaks or is asked for is a fault.
#[test]
fn a_queue_looks_at_its_device() {
    let pool = pool();
    let (card_, port) = card(FakePciPlan::default(), NicPlan::default());
    let mut queue = port.open_queue(&pool, 0).expect("a queue");
    queue.tend();
    card_.set_link(false);
    (0..TURNS).for_each(|_| queue.tend());
    let mut burst = of_one(frame(&pool, &[1; 60]));
    assert_eq!((queue.transmit(&mut burst), queue.counters().link_down, queue.fault()), (0, 1, None));
    card_.set_link(true);
    (0..TURNS).for_each(|_| queue.tend());
    assert_eq!((queue.transmit(&mut burst), queue.counters().link_down), (1, 1));
    drop((queue, port));
    type Pull = fn(&FakeCard);
    let pulls: [(Pull, Fault); 3] = [
        (FakeCard::needs_reset, Fault::NeedsReset),
        (FakeCard::vanish, Fault::PulledOut),
        (|card| card.wires().ask_back(), Fault::PulledOut),
    ];
    for (pull, fault) in pulls {
        let (card, port) = card(FakePciPlan::default(), NicPlan::default());
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        queue.tend();
        assert_eq!(queue.transmit(&mut of_one(frame(&pool, &[1; 60]))), 1);
        pull(&card);
        (0..TURNS).for_each(|_| queue.tend());
        assert_eq!(queue.fault(), Some(&fault));
        let mut burst = of_one(frame(&pool, &[1; 60]));
        assert_eq!((queue.transmit(&mut burst), queue.receive(&mut Burst::new())), (0, 0));
        drop((burst, queue, port));
        assert_eq!(pool.census().free, FRAMES);
    }
}

/// A worker that sleeps is woken by what comes, and by what had come before it lay down.
#[test]
fn a_sleeper_is_woken() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pool = pool();
    let (card, port) = card(FakePciPlan::default(), NicPlan::default());
    let mut queue = port.open_queue(&pool, 0).expect("a queue");
    queue.tend();
    let mut device = card.pair(&pool, 0).expect("rings");
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let readable = |queue: &dyn Gather<'_>| {
        let waker = queue.waker().expect("an interrupt");
        poll(&mut [PollFd::from_borrowed_fd(waker, PollFlags::IN)], Some(&now)).expect("polls") > 0
    };
    assert!(!readable(&*queue));
    card.wires().interrupt(0);
    assert!(readable(&*queue));
    queue.tend();
    assert!(!readable(&*queue));
    queue.tend();
    assert!(device.deliver([0; 10], &[7; 60]));
    assert!(readable(&*queue), "it came before the device heard of the wish");
    queue.tend();
    assert_eq!(queue.receive(&mut Burst::new()), 1);
    assert!(!readable(&*queue));
}
