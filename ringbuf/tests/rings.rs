//! The shared rings against a queue that cannot wrap, and against a peer that lies.
#![cfg(not(loom))]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use proptest::prelude::*;
use ringbuf::{RingParts, SharedConsumer, SharedProducer, ring_pair};
use std::collections::VecDeque;
use std::sync::Arc;

/// One step of either side; the numbers are how many entries it wants.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reserve, write so many, and commit or not.
    Write { want: u32, push: u32, commit: bool },
    /// Look at so many, read or skip so many, and commit or not.
    Read { want: u32, take: u32, skip: bool, commit: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0u32..40, 0u32..40, prop::bool::weighted(0.8));
    let read = (0u32..40, 0u32..40, any::<bool>(), prop::bool::weighted(0.8));
    prop_oneof![
        write.prop_map(|(want, push, commit)| Step::Write { want, push, commit }),
        read.prop_map(|(want, take, skip, commit)| Step::Read { want, take, skip, commit }),
    ]
}

proptest! {
    /// From just below 2^32: what is committed comes out once and in order, what is not never does.
    #[test]
    fn a_ring_is_a_queue(back in 0u32..20, shift in 0u32..6, steps in prop::collection::vec(step(), 1..200)) {
        let capacity = 1u32 << shift;
        let (mut writer, mut reader) = ring_pair(u32::MAX - back, capacity);
        let mut oracle = VecDeque::new();
        let mut next = 0u64;
        for step in steps {
            match step {
                Step::Write { want, push, commit } => {
                    let vacant = capacity - u32::try_from(oracle.len()).expect("short");
                    let mut grant = writer.reserve(want);
                    prop_assert_eq!(grant.room(), want.min(vacant));
                    let mut written = Vec::new();
                    for i in 0..push {
                        let value = next + u64::from(i);
                        if grant.push(value).is_ok() {
                            written.push(value);
                        } else {
                            prop_assert_eq!(grant.room(), 0);
                        }
                    }
                    prop_assert_eq!(written.len(), push.min(want.min(vacant)) as usize);
                    next += u64::from(push);
                    if commit {
                        prop_assert_eq!(grant.commit() as usize, written.len());
                        oracle.extend(written);
                    }
                }
                Step::Read { want, take, skip, commit } => {
                    let filled = u32::try_from(oracle.len()).expect("short").min(want);
                    let mut batch = reader.peek(want);
                    prop_assert_eq!(batch.remaining(), filled);
                    for ahead in 0..filled {
                        prop_assert_eq!(batch.peek(ahead), oracle.get(ahead as usize).copied());
                    }
                    prop_assert_eq!(batch.peek(filled), None);
                    if skip {
                        batch.advance(take);
                    } else {
                        for value in batch.by_ref().take(take as usize).collect::<Vec<_>>().iter().zip(&oracle) {
                            prop_assert_eq!(value.0, value.1);
                        }
                    }
                    if commit {
                        prop_assert_eq!(batch.commit(), take.min(filled));
                        oracle.drain(..take.min(filled) as usize);
                    }
                }
            }
            prop_assert_eq!(writer.unread() as usize, oracle.len());
            prop_assert_eq!((writer.lie(), reader.lie()), (None, None));
        }
    }
}

/// Two threads, a ring that wraps many times: every entry once and in order.
#[test]
fn two_threads_agree() {
    let count = if std::env::var_os("PROPTEST_CASES").is_some() { 2_000 } else { 200_000 };
    let (mut writer, mut reader) = ring_pair::<u64>(u32::MAX - 100, 8);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < count {
            let mut grant = writer.reserve(5);
            while next < count && grant.push(next).is_ok() {
                next += 1;
            }
            if grant.commit() == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(writer.lie(), None);
    });
    let mut expected = 0;
    while expected < count {
        let mut batch = reader.peek(3);
        for value in &mut batch {
            assert_eq!(value, expected);
            expected += 1;
        }
        if batch.commit() == 0 {
            std::thread::yield_now();
        }
    }
    sender.join().expect("no panic");
    assert_eq!(reader.lie(), None);
}

const CAPACITY: u32 = 16;
const UNTOUCHED: u64 = 0xdead_beef_dead_beef;

/// A ring in memory of the test's own, fenced by slots that nobody may touch.
struct Memory {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: [AtomicU64Slot; 3 * CAPACITY as usize],
}

type AtomicU64Slot = core::sync::atomic::AtomicU64;

impl Memory {
    fn new(producer: u32, consumer: u32) -> Arc<Self> {
        Arc::new(Self {
            producer: producer.into(),
            consumer: consumer.into(),
            flags: 0.into(),
            slots: std::array::from_fn(|_| UNTOUCHED.into()),
        })
    }

    fn parts(self: &Arc<Self>) -> RingParts<u64> {
        // The words and slots are atomics, so the test may write them while a ring looks on.
        let word = |word: &AtomicU32| NonNull::new(word.as_ptr()).expect("a reference");
        let first = NonNull::new(self.slots[CAPACITY as usize].as_ptr()).expect("a reference");
        let keeper = Arc::clone(self);
        RingParts::new(word(&self.producer), word(&self.consumer), word(&self.flags), first, CAPACITY, keeper)
    }

    fn producer(self: &Arc<Self>) -> SharedProducer<u64> {
        // SAFETY: the parts lie in `self`, which the keeper holds; the test takes one producer; any u64 is a u64.
        unsafe { SharedProducer::new(self.parts()) }
    }

    fn consumer(self: &Arc<Self>) -> SharedConsumer<u64> {
        // SAFETY: as above, one consumer.
        unsafe { SharedConsumer::new(self.parts()) }
    }

    fn fence_is_whole(&self) -> bool {
        let (before, rest) = self.slots.split_at(CAPACITY as usize);
        before.iter().chain(&rest[CAPACITY as usize..]).all(|slot| slot.load(Ordering::Relaxed) == UNTOUCHED)
    }
}

/// Near the truth and anywhere.
fn position(start: u32) -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0u32..64).prop_map(move |near| start.wrapping_add(near).wrapping_sub(24))]
}

proptest! {
    /// A reader that publishes nonsense: the writer never has more room than the ring, remembers the lie, and writes
    /// nowhere else.
    #[test]
    fn a_lying_reader_is_not_believed(start: u32, claims in prop::collection::vec((any::<u32>(), -20i32..40, any::<bool>(), 0u32..20), 1..60)) {
        let memory = Memory::new(start, start);
        let mut ring = memory.producer();
        // The model: where an honest writer stands, and the newest reader's position that was possible.
        let (mut head, mut tail, mut lied) = (start, start, false);
        for (wild, near, is_near, want) in claims {
            let claimed = if is_near { head.wrapping_add_signed(near) } else { wild };
            memory.consumer.store(claimed, Ordering::Relaxed);
            let looks = CAPACITY - tail.wrapping_sub(head) < want;
            if looks && claimed.wrapping_sub(head) <= tail.wrapping_sub(head) {
                head = claimed;
            } else if looks {
                lied = true;
            }
            let mut grant = ring.reserve(want);
            prop_assert_eq!(grant.room(), want.min(CAPACITY - tail.wrapping_sub(head)));
            while grant.push(7).is_ok() {}
            tail = tail.wrapping_add(grant.commit());
            prop_assert_eq!(memory.producer.load(Ordering::Relaxed), tail);
            prop_assert_eq!(ring.lie().is_some(), lied);
            prop_assert!(memory.fence_is_whole());
        }
    }

    /// A writer that publishes nonsense: the reader sees no more than the ring holds, and keeps its place.
    #[test]
    fn a_lying_writer_is_not_believed(start: u32, claims in prop::collection::vec((any::<u32>(), -20i32..40, any::<bool>(), 0u32..40, 0u32..20), 1..60)) {
        let memory = Memory::new(start, start);
        for (i, slot) in (0u64..).zip(&memory.slots[CAPACITY as usize..2 * CAPACITY as usize]) {
            slot.store(i, Ordering::Relaxed);
        }
        let mut ring = memory.consumer();
        let (mut head, mut tail, mut lied) = (start, start, false);
        for (wild, near, is_near, want, take) in claims {
            let claimed = if is_near { tail.wrapping_add_signed(near) } else { wild };
            memory.producer.store(claimed, Ordering::Relaxed);
            let filled = tail.wrapping_sub(head);
            let possible = (filled..=CAPACITY).contains(&claimed.wrapping_sub(head));
            if filled < want && possible {
                tail = claimed;
            } else if filled < want {
                lied = true;
            }
            let mut batch = ring.peek(want);
            let seen = want.min(tail.wrapping_sub(head));
            prop_assert_eq!(batch.remaining(), seen);
            for value in batch.by_ref().take(take as usize) {
                prop_assert_eq!(value, u64::from(head % CAPACITY));
                head = head.wrapping_add(1);
            }
            batch.commit();
            prop_assert_eq!(memory.consumer.load(Ordering::Relaxed), head);
            prop_assert_eq!(ring.lie().is_some(), lied);
        }
    }

    /// Rings that are taken over in an impossible state are taken for empty.
    #[test]
    fn rings_are_taken_over(producer: u32, consumer in position(0)) {
        for consumer in [consumer, producer.wrapping_sub(consumer)] {
            let memory = Memory::new(producer, consumer);
            let filled = producer.wrapping_sub(consumer);
            let possible = filled <= CAPACITY;
            let room = memory.producer().reserve(u32::MAX).room();
            prop_assert_eq!(room, if possible { CAPACITY - filled } else { CAPACITY });
            let mut reader = memory.consumer();
            prop_assert_eq!(reader.peek(u32::MAX).remaining(), if possible { filled } else { 0 });
            prop_assert_eq!(reader.lie().is_some(), !possible);
        }
    }
}

/// The flag by which a sleeping kernel asks for a call.
#[test]
fn the_wakeup_flag_is_read() {
    let memory = Memory::new(0, 0);
    let (producer, consumer) = (memory.producer(), memory.consumer());
    for (flags, wakes) in [(0, false), (1, true), (2, false), (3, true)] {
        memory.flags.store(flags, Ordering::Relaxed);
        assert_eq!((producer.needs_wakeup(), consumer.needs_wakeup()), (wakes, wakes));
    }
}
