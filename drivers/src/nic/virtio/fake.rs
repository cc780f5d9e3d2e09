//! A device in memory: the other end of the rings, which moves bytes as DMA would, and lies when it is told to.
//!
//! ```text
//!   VirtioQueue ══ rings in shared words ══ FakeDevice ── deliver(packet), take() ── a test
//! ```

use super::end::{Chain, End};
use super::feature;
use super::header::HEADER;
use super::memory::Sight;
use super::packed;
use super::queue::open;
use super::split::{NEXT, WRITE};
use super::transport::{Addresses, Change, Direction, Layout, Transport, VirtioPlan};
use crate::error::{Fault, OpenError};
use crate::queue::{Copying, Gather};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::Pool;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// Where the fake bus puts the arena: a queue that forgets to translate is found out.
const BASE: u64 = 0x10_0000_0000;

/// Which rings, and how long.
#[derive(Clone, Copy, Debug)]
pub struct FakePlan {
    /// Descriptors of each ring.
    pub ring: u16,
    /// Packed rings.
    pub packed: bool,
    /// Features apart from the one of the layout; see [`feature`].
    pub features: u64,
    /// Bytes behind the Ethernet header.
    pub mtu: u32,
}

impl Default for FakePlan {
    fn default() -> Self {
        let features = feature::VERSION_1 | feature::MERGEABLE;
        Self { ring: 256, packed: false, features, mtu: 1500 }
    }
}

/// A lie that the device tells about the next buffer that it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A descriptor that there is not.
    Outside,
    /// A descriptor that it does not have.
    NotLent,
    /// The same descriptor twice.
    Twice,
    /// More bytes than the buffer holds.
    TooLong,
    /// Fewer bytes than a header.
    TooShort,
    /// A position that it cannot have reached (split rings; others cannot say it).
    Ahead,
    /// A packet in no buffer at all.
    NoBuffers,
    /// A packet in more buffers than come.
    ManyBuffers,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Outside,
        Self::NotLent,
        Self::Twice,
        Self::TooLong,
        Self::TooShort,
        Self::Ahead,
        Self::NoBuffers,
        Self::ManyBuffers,
    ];
}

/// What goes on between the queue and its device beside the rings.
#[derive(Debug, Default)]
struct Line {
    news: VecDeque<Change>,
    settled: u32,
    bells: u64,
    closed: bool,
}

/// The queue's side of it.
#[derive(Debug)]
struct FakeLine(Rc<RefCell<Line>>);

impl Transport for FakeLine {
    fn ring(&self, _: Direction) -> Result<(), Fault> {
        self.0.borrow_mut().bells += 1;
        Ok(())
    }

    fn change(&mut self) -> Result<Option<Change>, Fault> {
        Ok(self.0.borrow_mut().news.pop_front())
    }

    fn settled(&mut self) {
        self.0.borrow_mut().settled += 1;
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn awake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn calm(&mut self) {}

    fn close(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

/// The device.
#[derive(Debug)]
pub struct FakeDevice<'p> {
    sight: Sight<'p>,
    line: Rc<RefCell<Line>>,
    layout: Layout,
    plan: FakePlan,
    receive: End,
    transmit: End,
    /// Chains of the receive ring that it has looked at and not filled: it may fill them in any order.
    empty: Vec<Chain>,
    lie: Option<Lie>,
    /// What it takes, once the one before is sent: it answers in order, for several packets at once.
    ahead: Option<Chain>,
    /// For how many at most.
    at_once: u16,
    /// Packets that were sent and not answered for yet, and their descriptors.
    owed: (u16, u16),
    /// The descriptor given back last: the driver's again, until it posts it anew.
    before: u32,
    /// The order in which it gives buffers back, when that is not the one in which they came.
    backwards: bool,
    /// A descriptor named memory outside the arena, or of the wrong direction.
    astray: bool,
}

fn ends(layout: &Layout, plan: &FakePlan) -> (End, End) {
    let end = |parts| End::new(&layout.memory, parts, plan);
    (end(layout.receive), end(layout.transmit))
}

/// A queue pair and its device.
///
/// # Errors
/// As [`open`].
pub fn pair<'p>(
    pool: &'p Pool,
    plan: FakePlan,
) -> Result<(Box<dyn Gather<'p> + 'p>, FakeDevice<'p>), OpenError> {
    let memory = |source| OpenError::new("fake", "mapping memory for the rings", source);
    let layout = Layout::several(1, plan.ring, plan.packed).map_err(memory)?.remove(0);
    let line = Rc::new(RefCell::new(Line::default()));
    line.borrow_mut().news.push_back(Change::Up);
    let virtio = VirtioPlan {
        driver: "virtio",
        device: "fake".to_owned(),
        queue: 0,
        ring: plan.ring,
        features: plan.features | if plan.packed { feature::PACKED } else { 0 },
        mtu: plan.mtu,
        copying: Copying::ZeroCopy,
    };
    let queue = open(pool, &virtio, &layout, Addresses::Linear(BASE), FakeLine(Rc::clone(&line)))?;
    Ok((queue, FakeDevice { line, ..attach(pool, layout, plan, BASE) }))
}

/// A device on rings that are somebody's already; the arena is seen at `base`.
pub(super) fn attach(pool: &Pool, layout: Layout, plan: FakePlan, base: u64) -> FakeDevice<'_> {
    let (receive, transmit) = ends(&layout, &plan);
    FakeDevice {
        sight: Sight::new(pool, base),
        line: Rc::default(),
        layout,
        plan,
        receive,
        transmit,
        empty: Vec::new(),
        lie: None,
        ahead: None,
        at_once: 3,
        owed: (0, 0),
        before: u32::MAX,
        backwards: false,
        astray: false,
    }
}

impl FakeDevice<'_> {
    /// Tells a lie about the next buffer.
    pub const fn lie(&mut self, lie: Lie) {
        self.lie = Some(lie);
    }

    /// Fills buffers last come, first served (split rings allow it, §2.7).
    pub const fn fill_backwards(&mut self) {
        self.backwards = true;
    }

    /// Answers in order for so many packets at once, at most, instead of three.
    pub const fn answer_at_once(&mut self, packets: u16) {
        self.at_once = packets;
    }

    /// Writes a byte anywhere into the rings' memory.
    pub fn scribble(&self, place: usize, byte: u8) {
        let words =
            self.layout.memory.words::<core::sync::atomic::AtomicU16>(0, self.layout.memory.bytes() / 2);
        // The rings take up little of the memory: most scribbles are to hit them.
        let ring = if place.is_multiple_of(2) { self.layout.receive } else { self.layout.transmit };
        let place = (ring.descriptors + place % ring.bytes) / 2;
        if let Some(word) = words.get(place) {
            word.store(
                u16::from_le_bytes([byte, word.load(Ordering::Relaxed).to_le_bytes()[1]]),
                Ordering::Relaxed,
            );
        }
    }

    /// Asks for a bell, or for none.
    pub fn want_bells(&self, wanted: bool) {
        self.receive.set_bell(wanted);
        self.transmit.set_bell(wanted);
    }

    /// How often the bell was rung.
    #[must_use]
    pub fn bells(&self) -> u64 {
        self.line.borrow().bells
    }

    /// How often the queue began anew.
    #[must_use]
    pub fn settled(&self) -> u32 {
        self.line.borrow().settled
    }

    /// Whether the queue has ever sent it astray: to memory outside the arena, or of the wrong direction.
    #[must_use]
    pub const fn is_astray(&self) -> bool {
        self.astray
    }

    /// Whether the queue has stopped it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.line.borrow().closed
    }

    /// It is gone; the queue hears of it when it is next tended.
    pub fn vanish(&mut self) {
        self.empty.clear();
        (self.ahead, self.owed) = (None, (0, 0));
        self.line.borrow_mut().news.push_back(Change::Gone);
    }

    /// It comes back, once the queue has begun anew.
    pub fn come_back(&mut self) {
        (self.receive, self.transmit) = ends(&self.layout, &self.plan);
        self.line.borrow_mut().news.push_back(Change::Up);
    }

    /// Puts a packet into the driver's buffers, behind a header whose first ten bytes are `header`; `false` when there
    /// are not enough of them: nothing is delivered then.
    pub fn deliver(&mut self, header: [u8; 10], packet: &[u8]) -> bool {
        // Never more than the ring holds, whatever was scribbled there.
        while self.empty.len() < self.plan.ring.into()
            && let Some(chain) = self.receive.next()
        {
            self.empty.push(chain);
        }
        let mut bytes = [&header[..], &[0, 0], packet].concat();
        let mut filled: Vec<(Chain, usize)> = Vec::new();
        let mut at = 0;
        while at < bytes.len() && !self.empty.is_empty() {
            let next = if self.backwards { self.empty.len() - 1 } else { 0 };
            let chain = self.empty.remove(next);
            let room: usize = chain.parts.iter().map(|part| part.1 as usize).sum();
            let len = room.min(bytes.len() - at);
            at += len;
            filled.push((chain, len));
        }
        if at < bytes.len() {
            let chains = filled.into_iter().map(|(chain, _)| chain);
            if self.backwards {
                self.empty.extend(chains.rev())
            } else {
                self.empty.splice(0..0, chains).for_each(drop)
            }
            return false;
        }
        let lie = self.lie.take();
        let count = match lie {
            Some(Lie::NoBuffers) => 0,
            Some(Lie::ManyBuffers) => 3000,
            _ => u16::try_from(filled.len()).unwrap_or(u16::MAX),
        };
        bytes[10..12].copy_from_slice(&count.to_le_bytes());
        at = 0;
        for (chain, len) in &filled {
            let mut from = &bytes[at..at + len];
            for &(address, room, writable) in &chain.parts {
                let (now, later) = from.split_at(from.len().min(room as usize));
                self.astray |= !writable || !self.sight.write(address, now);
                from = later;
            }
            at += len;
        }
        self.give_back(&filled, lie);
        true
    }

    fn give_back(&mut self, filled: &[(Chain, usize)], lie: Option<Lie>) {
        let mut ahead = 0;
        if let ([.., (last, len)], None, true) = (filled, lie, self.in_order()) {
            // All but the last are full, and need no answer of their own.
            let descriptors = filled.iter().map(|(chain, _)| chain.count).sum();
            let (id, len) = (u32::from(last.id), u32::try_from(*len).unwrap_or(u32::MAX));
            let packets = u16::try_from(filled.len()).unwrap_or(u16::MAX);
            self.receive.give_many(id, len, packets, descriptors);
            self.before = id;
            self.receive.publish(0);
            return;
        }
        for (i, (chain, len)) in filled.iter().enumerate() {
            let (id, len) = (u32::from(chain.id), u32::try_from(*len).unwrap_or(u32::MAX));
            let (id, len) = match lie.filter(|_| i == 0) {
                Some(Lie::Outside) => (id + u32::from(self.plan.ring), len),
                Some(Lie::NotLent) => (self.before, len),
                Some(Lie::TooLong) => (id, 1 << 20),
                Some(Lie::TooShort) => (id, 5),
                Some(Lie::Twice) => {
                    self.receive.give(id, len, 1);
                    (id, len)
                }
                Some(Lie::Ahead) => {
                    ahead = self.plan.ring + 1;
                    (id, len)
                }
                _ => (id, len),
            };
            self.receive.give(id, len, chain.count);
            self.before = id;
        }
        self.receive.publish(ahead);
    }

    /// The parts of a table in place of the table.
    fn unfold(&mut self, mut chain: Chain) -> Chain {
        if !chain.table {
            return chain;
        }
        let Addresses::Linear(base) = self.layout.addresses else { return chain };
        let (address, bytes, _) = chain.parts.pop().unwrap_or_default();
        let count = bytes as usize / 16;
        let offset = address.checked_sub(base).and_then(|offset| usize::try_from(offset).ok());
        let inside = |offset: &usize| {
            offset.is_multiple_of(16) && offset.saturating_add(16 * count) <= self.layout.memory.bytes()
        };
        let Some(offset) = offset.filter(inside) else {
            self.astray = true;
            return chain;
        };
        let words = self.layout.memory.words::<AtomicU64>(offset, 2 * count);
        let mut at = 0;
        for _ in 0..count {
            let Some([place, rest]) = words.as_chunks::<2>().0.get(at) else { break };
            let (len, flags, next) = packed::fields(rest.load(Ordering::Acquire));
            chain.parts.push((u64::from_le(place.load(Ordering::Acquire)), len, flags & WRITE != 0));
            // In a packed ring the order is the table's.
            at = if self.plan.packed { at + 1 } else { usize::from(next) };
            if !self.plan.packed && flags & NEXT == 0 {
                break;
            }
        }
        chain
    }

    const fn in_order(&self) -> bool {
        self.plan.features & feature::IN_ORDER != 0
    }

    /// Answers for a packet that was sent, in order: not for each.
    fn answer_in_order(&mut self, id: u32, count: u16) {
        self.owed = (self.owed.0 + 1, self.owed.1 + count);
        self.ahead = self.transmit.next();
        if self.owed.0 >= self.at_once || self.ahead.is_none() {
            let (packets, descriptors) = core::mem::take(&mut self.owed);
            self.transmit.give_many(id, 0, packets, descriptors);
            self.transmit.publish(0);
        }
    }

    /// Takes the next packet that the driver sent: its header and the packet behind.
    pub fn take(&mut self) -> Option<([u8; 12], Vec<u8>)> {
        let chain = self.ahead.take().or_else(|| self.transmit.next())?;
        let chain = self.unfold(chain);
        let mut bytes = Vec::new();
        for &(address, len, writable) in &chain.parts {
            self.astray |= writable || !self.sight.read(address, len as usize, &mut bytes);
        }
        let id = match self.lie.take() {
            Some(Lie::Outside) => u32::from(chain.id) + u32::from(self.plan.ring),
            Some(Lie::Twice) => {
                self.transmit.give(chain.id.into(), 0, chain.count);
                chain.id.into()
            }
            Some(Lie::Ahead) => {
                self.transmit.publish(self.plan.ring + 1);
                return None;
            }
            _ => chain.id.into(),
        };
        if self.in_order() {
            self.answer_in_order(id, chain.count);
        } else {
            self.transmit.give(id, 0, chain.count);
            self.transmit.publish(0);
        }
        let packet = bytes.split_off(usize::from(HEADER).min(bytes.len()));
        Some((core::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)), packet))
    }
}
