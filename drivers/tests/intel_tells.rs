//! What Intel's cards tell of themselves: a worker that sleeps is woken by what comes, whichever kind of interrupt there is; and
//! what the card lost is counted.
//!
//! ```text
//!   a test: sleeps ── queue pair ══ FakeCard ── delivers, interrupts, counts ── a test
//! ```
#![forbid(unsafe_code)]

use drivers::nic::NicPlan;
use drivers::nic::intel::IntelPort;
use drivers::nic::intel::fake::{FakeCard, Kind};
use drivers::{Gather, OpenError, QueueCounters, QueuePair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn pool() -> Pool {
    let plan = ArenaPlan { frames: 1024, frame_size: 4096, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("a small arena"))
}

/// Whether it would wake at once.
fn wakes(queue: &dyn Gather<'_>) -> bool {
    let waker = queue.waker().expect("an interrupt");
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(waker, PollFlags::IN)], Some(&now)).expect("polls") > 0
}

/// Whether it comes to sleep when nothing comes. What came while it was awake may wake it once more: the card kept that in mind.
fn falls_asleep(queue: &mut dyn Gather<'_>) -> bool {
    (0..2).any(|_| {
        let sleeps = !wakes(queue);
        queue.tend();
        sleeps
    })
}

fn is_woken(open: impl Fn(Kind, NicPlan) -> Result<(FakeCard, IntelPort), OpenError>) {
    for kind in [Kind::E1000e, Kind::Igb] {
        let pool = pool();
        let (mut card, port) = open(kind, NicPlan::default()).expect("a card in memory");
        let mut queue = port.open_queue(&pool, 0).expect("a queue");
        // More than once: a cause that is not taken back wakes nobody again.
        for round in 0..5 {
            assert!(falls_asleep(&mut *queue), "{kind:?}, round {round}: nothing has come");
            assert!(!wakes(&*queue));
            assert!(card.deliver(&pool, &[7; 60], None));
            assert!(wakes(&*queue), "{kind:?}, round {round}: it came to a sleeper");
            queue.tend();
            assert_eq!(queue.receive(&mut Burst::new()), 1);
            queue.tend();
            assert!(card.deliver(&pool, &[7; 60], None));
            assert!(wakes(&*queue), "{kind:?}, round {round}: it came before the card heard of the wish");
            queue.tend();
            assert_eq!(queue.receive(&mut Burst::new()), 1);
            queue.tend();
        }
    }
}

#[test]
fn a_sleeper_is_woken_by_its_own_message() {
    is_woken(FakeCard::open);
}

#[test]
fn a_sleeper_is_woken_by_the_only_message() {
    is_woken(FakeCard::with_one_message);
}

/// Each loss has its place in the counters, once, however often they are asked for; and what was lost before is nobody's.
#[test]
fn what_a_card_lost_is_counted() {
    for kind in [Kind::E1000e, Kind::Igb] {
        let pool = pool();
        let (card, port) = FakeCard::open(kind, NicPlan::default()).expect("a card in memory");
        card.count(0x4000, 1000);
        card.count(0x4018, 1000);
        let queue = port.open_queue(&pool, 0).expect("a queue");
        assert_eq!(queue.counters(), QueueCounters::default(), "{kind:?}");
        // MPC; CRCERRS, ALGNERRC, RXERRC, CEXTERR, ROC; ECOL, LATECOL.
        let counters = [0x4010, 0x4000, 0x4004, 0x400c, 0x403c, 0x40ac, 0x4018, 0x4020];
        for (bit, register) in counters.into_iter().enumerate() {
            card.count(register, 1 << bit);
        }
        for _ in 0..2 {
            let counters = queue.counters();
            let lost = (counters.receive_missed, counters.receive_malformed, counters.transmit_dropped);
            assert_eq!(lost, (1, 0b0011_1110, 0b1100_0000), "{kind:?}");
        }
    }
}
