//! What each fuzz target does with its bytes. Plain functions, so that `cargo test` runs them from seeds too
//! (`drivers/tests/fuzz_smoke.rs`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use drivers::loopback::{Lie, LoopbackPlan, Mischief, pair};
use drivers::nic::NicPlan;
use drivers::nic::virtio::fake::{self, FakePlan};
use drivers::nic::virtio::feature;
use drivers::nic::virtio::pci::fake::{self as card, FakeCard, FakePciPlan};
use drivers::{QueuePair, checksum};
use ringbuf::{
    Arena, ArenaPlan, Burst, Frame, Packet, Packets, Parcel, Pool, RingParts, SharedConsumer, SharedProducer,
    Slot,
};
use std::sync::Arc;

/// Reads numbers off the front of a fuzzer's bytes.
struct Numbers<'b>(&'b [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }
}

const CAPACITY: u32 = 8;
const FENCE: u64 = 0xdead_beef_dead_beef;

/// The words and slots of a ring, fenced by slots that nobody may touch.
struct Memory {
    words: [AtomicU32; 3],
    slots: [AtomicU64; 3 * CAPACITY as usize],
}

impl Memory {
    fn parts(self: &Arc<Self>) -> RingParts<u64> {
        let word = |i: usize| NonNull::new(self.words[i].as_ptr()).expect("a reference");
        let first = NonNull::new(self.slots[CAPACITY as usize].as_ptr()).expect("a reference");
        RingParts::new(word(0), word(1), word(2), first, CAPACITY, Arc::clone(self) as _)
    }
}

/// A peer that writes whatever it likes into the words of a ring: its positions are believed only when possible.
pub fn shared_ring_peer(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let (Some(start), Some(side)) = (numbers.word(), numbers.byte()) else { return };
    let memory = Arc::new(Memory {
        words: [start.into(), start.into(), 0.into()],
        slots: std::array::from_fn(|_| FENCE.into()),
    });
    if side.is_multiple_of(2) {
        // SAFETY: the parts lie in `memory`, which the keeper holds; this is its only end; any u64 is a u64.
        let mut ring = unsafe { SharedProducer::new(memory.parts()) };
        let mut tail = start;
        while let (Some(claimed), Some(want)) = (numbers.word(), numbers.byte()) {
            // Half of the claims are near the truth.
            let near = tail.wrapping_sub(claimed % 16);
            memory.words[1].store(if want < 128 { near } else { claimed }, Ordering::Relaxed);
            let mut grant = ring.reserve(u32::from(want % 32));
            assert!(grant.room() <= CAPACITY);
            while grant.push(1).is_ok() {}
            tail = tail.wrapping_add(grant.commit());
            assert_eq!(memory.words[0].load(Ordering::Relaxed), tail);
            assert!(ring.unread() <= CAPACITY);
        }
    } else {
        // SAFETY: as above.
        let mut ring: SharedConsumer<u64> = unsafe { SharedConsumer::new(memory.parts()) };
        let mut head = start;
        while let (Some(claimed), Some(want)) = (numbers.word(), numbers.byte()) {
            let near = head.wrapping_add(claimed % 16);
            memory.words[0].store(if want < 128 { near } else { claimed }, Ordering::Relaxed);
            let mut batch = ring.peek(u32::from(want % 32));
            assert!(batch.remaining() <= CAPACITY);
            batch.advance(u32::from(want % 5));
            head = head.wrapping_add(batch.commit());
            assert_eq!(memory.words[1].load(Ordering::Relaxed), head);
        }
    }
    let (before, rest) = memory.slots.split_at(CAPACITY as usize);
    let fences = before.iter().chain(&rest[CAPACITY as usize..]);
    assert!(fences.into_iter().all(|slot| slot.load(Ordering::Relaxed) == FENCE), "written outside the ring");
}

const FRAMES: u32 = 32;

fn pool() -> Pool {
    let plan = ArenaPlan { frames: FRAMES, frame_size: 256, content_bytes: 4096, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("12 KiB"))
}

/// A device that returns whatever numbers it likes, and a wire that lies: no slot is ever lost or held twice.
pub fn ledger_device(bytes: &[u8]) {
    let pool = pool();
    {
        let (Some(loan), Some(other)) = (pool.open_loan(), pool.open_loan()) else { return };
        let (mut left, mut right) =
            pair(&pool, &LoopbackPlan { ring: 8, start: u32::MAX - 3 }).expect("loans");
        let mut numbers = Numbers(bytes);
        let mut frames: Vec<Frame<'_>> = Vec::new();
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut arrived = Burst::new();
        while let Some(what) = numbers.byte() {
            let number = numbers.word().unwrap_or_else(|| u32::from(what));
            let slot = Slot(if number.is_multiple_of(3) { number } else { number % FRAMES });
            let loan = if what & 0x80 == 0 { loan } else { other };
            match what % 12 {
                0 => drop(pool.lend(loan)),
                1 => {
                    if let Ok(frame) = pool.arrive(slot, loan, number >> 24, number >> 16 & 0x1ff) {
                        frames.push(frame);
                    }
                }
                2 => {
                    if let Ok((slot, head)) = pool.locate(u64::from(number)) {
                        frames.extend(pool.arrive(slot, loan, head, what.into()));
                    }
                }
                3 => drop(pool.reclaim(slot, loan)),
                4 => frames.extend(pool.alloc()),
                5 => {
                    if let Some(frame) = frames.pop() {
                        assert!(pool.depart(frame, loan).is_ok());
                    }
                }
                6 => {
                    if let Some(frame) = frames.pop() {
                        parcels.extend(pool.park(frame));
                    }
                }
                7 => drop(parcels.pop()),
                8 => drop(pool.collect()),
                9 => drop(pool.reclaim_page(u64::from(number))),
                10 => {
                    let lies = [Lie::Outside, Lie::NotLent, Lie::Twice, Lie::TooLong];
                    let lie = Some((lies[number as usize % 4], number >> 8 & 3));
                    let [lose, reorder, ..] = number.to_le_bytes().map(|rate| u16::from(rate) << 6);
                    left.misbehave(Mischief { seed: number.into(), lose, reorder, lie });
                }
                _ => {
                    let mut burst = Burst::new();
                    for mut frame in frames.drain(frames.len().saturating_sub(7)..) {
                        frame.set_continues(number.is_multiple_of(5) && burst.len().is_multiple_of(2));
                        let _ = frame.extend(&number.to_le_bytes());
                        assert!(burst.push(frame).is_ok());
                    }
                    left.transmit(&mut burst);
                    frames.extend(burst.drain());
                    right.receive(&mut arrived);
                    right.tend();
                    arrived.clear();
                }
            }
            let slots: std::collections::HashSet<_> = frames.iter().map(Frame::slot).collect();
            assert_eq!(slots.len(), frames.len(), "one slot, two frames");
            let census = pool.census();
            assert_eq!((census.total(), census.free), (FRAMES, pool.free()));
            assert_eq!(census.thread as usize, frames.len());
        }
        drop(parcels);
        pool.collect();
        frames.clear();
        pool.recall(loan);
        pool.recall(other);
    }
    assert_eq!(pool.census().free, FRAMES, "a slot was lost");
}

/// A virtio device that writes whatever it likes into the rings and headers: faults, but no slot is lost or held twice.
pub fn virtio_device(bytes: &[u8]) {
    let pool = pool();
    {
        let mut numbers = Numbers(bytes);
        let Some(kind) = numbers.byte() else { return };
        let usual = FakePlan::default();
        let tables = if kind.is_multiple_of(3) { feature::INDIRECT } else { 0 };
        let packed = kind.is_multiple_of(2);
        let in_order = if kind.is_multiple_of(5) { feature::IN_ORDER } else { 0 };
        let plan = FakePlan { ring: 8, packed, mtu: 400, features: usual.features | tables | in_order };
        let Ok((mut queue, mut device)) = fake::pair(&pool, plan) else { return };
        queue.tend();
        let mut frames: Vec<Frame<'_>> = Vec::new();
        while let Some(what) = numbers.byte() {
            let number = numbers.word().unwrap_or_else(|| u32::from(what));
            match what % 9 {
                0 => device.scribble(number as usize >> 8, number.to_le_bytes()[0]),
                1 => device.lie(fake::Lie::ALL[number as usize % fake::Lie::ALL.len()]),
                2 => {
                    let header = std::array::from_fn(|i| number.to_le_bytes()[i % 4]);
                    device.deliver(header, &[what; 600][..1 + number as usize % 599]);
                }
                3 => drop(device.take()),
                4 => queue.tend(),
                5 => {
                    let mut burst = Burst::new();
                    queue.receive(&mut burst);
                    frames.extend(burst.drain());
                    frames.truncate(16);
                }
                6 => frames.extend(pool.alloc()),
                7 => {
                    let Some(mut head) = pool.alloc() else { continue };
                    assert!(head.extend(&[what; 20]).is_ok());
                    let mut packet = Packet::new(head);
                    for _ in 0..number % 7 {
                        packet.push(pool.page(0, 1 + number as usize % 50).expect("content")).expect("room");
                    }
                    let mut packets = Packets::new();
                    assert!(packets.push(packet).is_ok());
                    queue.gather(&mut packets);
                }
                _ => {
                    let mut burst = Burst::new();
                    for mut frame in frames.drain(frames.len().saturating_sub(7)..) {
                        frame.set_continues(number.is_multiple_of(5) && burst.len().is_multiple_of(2));
                        let _ = frame.extend(&number.to_le_bytes());
                        assert!(burst.push(frame).is_ok());
                    }
                    queue.transmit(&mut burst);
                    frames.extend(burst.drain());
                }
            }
            let slots: std::collections::HashSet<_> = frames.iter().map(Frame::slot).collect();
            assert_eq!(slots.len(), frames.len(), "one slot, two frames");
            assert_eq!((pool.census().total(), pool.census().free), (FRAMES, pool.free()));
        }
    }
    assert_eq!(pool.census().free, FRAMES, "a slot was lost");
    assert_eq!(pool.pages_on_loan(), 0, "a page was lost");
}

/// A virtio card whose capabilities, and what it offers, are whatever it likes: it is refused in words, or driven; nothing is
/// read or written outside of its registers, and no slot is lost.
pub fn virtio_card(bytes: &[u8]) {
    let pool = pool();
    let mut numbers = Numbers(bytes);
    let (Some(features), Some(lie)) = (numbers.word(), numbers.byte()) else { return };
    let usual = FakePciPlan::default();
    // Two thirds are a device as it should be but for what follows.
    let features = if lie.is_multiple_of(3) {
        usual.features ^ u64::from(features) << (lie % 30)
    } else {
        usual.features
    };
    let lie = card::Lie::ALL.get(usize::from(lie)).copied();
    let mut config = FakeCard::configuration();
    while let (Some(at), Some(byte)) = (numbers.byte(), numbers.byte()) {
        // Most of configuration space is not looked at.
        config[usize::from(if at < 200 { 0x40 + at % 0x50 } else { at })] = byte;
    }
    let fake = FakePciPlan { features, lie, ..usual };
    let plan = NicPlan { queues: 1 + u32::from(bytes[0] % 2), ring: 8, mtu: 200, ..NicPlan::default() };
    let plan = NicPlan { wait: std::time::Duration::ZERO, ..plan };
    match FakeCard::with(fake, plan.clone(), &config) {
        Err(error) => assert!(error.to_string().contains(" failed: "), "{error}"),
        Ok((card, port)) => {
            let queues: Result<Vec<_>, _> =
                (0..plan.queues).map(|queue| port.open_queue(&pool, queue)).collect();
            for mut queue in queues.into_iter().flatten() {
                for _ in 0..1100 {
                    queue.tend();
                }
                let mut burst = Burst::new();
                if let Some(mut frame) = pool.alloc() {
                    let _ = frame.extend(&[1; 60]);
                    let _ = burst.push(frame);
                }
                queue.transmit(&mut burst);
                queue.receive(&mut burst);
            }
            drop(port);
            assert!(!card.wires().is_bus_master() && card.wires().pieces() == 0);
        }
    }
    assert_eq!(pool.census().free, FRAMES, "a slot was lost");
}

/// Any bytes as a packet: looked at and completed without a panic, and complete is complete.
pub fn checksum_packet(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let Some(cut) = numbers.byte() else { return };
    let packet = &numbers.0[..numbers.0.len().min(2000)];
    let plan = ArenaPlan { frames: 16, frame_size: 4096, content_bytes: 0, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("64 KiB"));
    let offload = checksum::undone(packet);
    if let Some(offload) = offload {
        let place = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset);
        assert!(place + 2 <= packet.len(), "the note points outside the packet");
    }
    let mut burst = Burst::new();
    let step = (usize::from(cut) * 4).max(packet.len() / 8 + 1);
    let mut pieces = packet.chunks(step).peekable();
    while let Some(piece) = pieces.next() {
        let mut frame = pool.alloc().expect("sixteen");
        frame.extend(piece).expect("2000 bytes at most");
        frame.set_continues(pieces.peek().is_some());
        if burst.is_empty() {
            frame.set_offload(offload);
        }
        assert!(burst.push(frame).is_ok());
    }
    let finished = checksum::finish(&mut burst);
    assert!(!finished || offload.is_some());
    let whole: Vec<u8> = burst.drain().flat_map(|frame| frame.to_vec()).collect();
    assert_eq!(whole.len(), packet.len());
    let changed = whole.iter().zip(packet).filter(|(now, before)| now != before).count();
    assert!(changed <= 2, "only the checksum's two bytes change");
    assert!(finished || changed == 0);
}
