//! A card in memory: registers, and DMA that goes through the map of the [fake bus](crate::pci::fake); it lies when it is told to.
//!
//! ```text
//!   IntelQueue ══ rings in shared words ══ FakeCard ── deliver(packet), take() ── a test
//! ```
//!
//! It fetches descriptors where its registers say that the rings are, and buffers where descriptors say that they are,
//! if the bus has these mapped, and it may move data at all: a driver that forgets one of these is found out.

use super::card::{ABSENT, rctl, register};
use super::port::IntelPort;
use crate::checksum;
use crate::error::OpenError;
use crate::nic::NicPlan;
use crate::nic::memory::{RingMemory, Sight};
use crate::pci::fake::{FakeBus, Wires};
use crate::pci::{Function, Identity, Model};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::Pool;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Which card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 82574L.
    E1000e,
    /// 82576.
    Igb,
}

/// A lie that the card tells about the next buffer that it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// More bytes than the buffer holds.
    TooLong,
    /// None at all.
    Empty,
    /// A packet that never ends.
    Endless,
    /// A damaged packet.
    Damaged,
    /// A slot that was posted is said to be sent already.
    SentEarly,
    /// Nothing answers any more.
    Gone,
    /// A filled buffer of which nothing is said: what a card does that cannot reach its ring.
    Unsaid,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::TooLong, Self::Empty, Self::Endless, Self::Damaged, Self::SentEarly, Self::Gone, Self::Unsaid];
}

/// The registers of a card.
#[derive(Debug)]
struct Cells {
    registers: Mutex<BTreeMap<usize, u32>>,
    /// How often each was written.
    written: Mutex<BTreeMap<usize, u64>>,
    gone: Mutex<bool>,
    kind: Kind,
    /// Whether the card has MSI-X.
    messages: bool,
    /// Its one message was sent, and its causes have not been asked for since.
    told: Mutex<bool>,
    wires: OnceLock<Arc<Wires>>,
}

/// Where the rings of queue 0 have their registers.
struct Places {
    receive: usize,
    transmit: usize,
}

const LOW: usize = 0x00;
const HIGH: usize = 0x04;
const BYTES: usize = 0x08;
const HEAD: usize = 0x10;
const TAIL: usize = 0x18;
const SRRCTL: usize = 0x0c;
const CONTROL: usize = 0x28;
const QUEUE_ENABLE: u32 = 1 << 25;

impl Kind {
    const fn places(self) -> Places {
        match self {
            Self::E1000e => Places { receive: 0x2800, transmit: 0x3800 },
            Self::Igb => Places { receive: 0xc000, transmit: 0xe000 },
        }
    }

    const fn identity(self) -> Identity {
        let device = match self {
            Self::E1000e => 0x10d3,
            Self::Igb => 0x10c9,
        };
        Identity { vendor: 0x8086, device, class: 0x02_0000, revision: 0 }
    }
}

impl Cells {
    fn get(&self, offset: usize) -> u32 {
        locked(&self.registers).get(&offset).copied().unwrap_or(0)
    }

    fn set(&self, offset: usize, value: u32) {
        locked(&self.registers).insert(offset, value);
    }

    fn change(&self, offset: usize, set: u32, clear: u32) {
        self.set(offset, (self.get(offset) | set) & !clear);
    }

    /// Something was received.
    fn received(&self) {
        // Both have a cause for it at this place; those of queues are there for messages alone.
        self.change(register::ICR, 1 << 7, 0);
        match self.kind {
            Kind::E1000e if self.messages => self.change(register::ICR, 1 << 20, 0),
            Kind::Igb if self.messages && self.get(QUEUE_IVAR) & 0x80 != 0 => {
                self.change(EICR, 1 << (self.get(QUEUE_IVAR) & 0x1f), 0);
            }
            _ => {}
        }
        self.interrupt();
    }

    /// Interrupts for a cause that has come and is allowed to.
    fn interrupt(&self) {
        let Some(wires) = self.wires.get() else { return };
        let causes = self.get(register::ICR) & self.get(register::IMS);
        if !self.messages {
            let told = core::mem::replace(&mut *locked(&self.told), causes != 0);
            if causes != 0 && !told {
                wires.interrupt(0);
            }
            return;
        }
        match self.kind {
            Kind::E1000e if causes & 1 << 20 != 0 && self.get(IVAR) & 8 != 0 => {
                self.change(register::ICR, 0, self.get(EIAC_82574));
                wires.interrupt((self.get(IVAR) & 7) as usize);
            }
            Kind::Igb if self.get(GPIE) & 1 << 4 != 0 => {
                let causes = self.get(EICR) & self.get(EIMS);
                self.change(EICR, 0, causes & self.get(EIAC));
                self.change(EIMS, 0, causes & self.get(EIAM));
                (0..32).filter(|bit| causes & 1 << bit != 0).for_each(|bit| wires.interrupt(bit));
            }
            _ => {}
        }
    }
}

/// Registers for interrupts: of the 82574 (§10.2.4), and of the 82576 (§8.8).
const IVAR: usize = 0x00e4;
const EIAC_82574: usize = 0x00dc;
const GPIE: usize = 0x1514;
const EICS: usize = 0x1520;
const EIMS: usize = 0x1524;
const EIMC: usize = 0x1528;
const EIAC: usize = 0x152c;
const EIAM: usize = 0x1530;
const EICR: usize = 0x1580;
const QUEUE_IVAR: usize = 0x1700;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Model for Cells {
    fn read(&self, _bar: u8, offset: usize, _bytes: usize) -> u64 {
        if *locked(&self.gone) {
            return ABSENT.into();
        }
        match offset {
            // The link is up, at 1000 Mb/s.
            register::STATUS => 0x83,
            // Every command of the PHY is done at once.
            register::MDIC => (self.get(offset) | 1 << 28).into(),
            // A reset is over at once.
            register::CTRL => (self.get(offset) & !(1 << 26)).into(),
            // Gone when it is read.
            register::ICR => {
                *locked(&self.told) = false;
                u64::from(locked(&self.registers).remove(&offset).unwrap_or(0))
            }
            0x4000..0x4100 => u64::from(locked(&self.registers).remove(&offset).unwrap_or(0)),
            _ => self.get(offset).into(),
        }
    }

    fn write(&self, _bar: u8, offset: usize, _bytes: usize, value: u64) {
        *locked(&self.written).entry(offset).or_default() += 1;
        let value = u32::try_from(value).unwrap_or(ABSENT);
        match offset {
            register::ICS => self.change(register::ICR, value, 0),
            register::IMS | EIMS => self.change(offset, value, 0),
            register::IMC => self.change(register::IMS, 0, value),
            EICS => self.change(EICR, value, 0),
            EIMC => self.change(EIMS, 0, value),
            _ => return self.set(offset, value),
        }
        self.interrupt();
    }
}

/// A card with a port on it.
#[derive(Debug)]
pub struct FakeCard {
    kind: Kind,
    cells: Arc<Cells>,
    wires: Arc<Wires>,
    /// Packets that were sent, whole.
    sent: Vec<Sent>,
    /// The packet that is being sent.
    piece: Vec<u8>,
    context: Option<[u64; 2]>,
}

/// A packet as it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The context by which its checksum is to be completed.
    pub context: Option<[u64; 2]>,
}

impl FakeCard {
    /// A card, and a port that drives it.
    ///
    /// # Errors
    /// As [`IntelPort::open`].
    pub fn open(kind: Kind, plan: NicPlan) -> Result<(Self, IntelPort), OpenError> {
        Self::open_with(kind, plan, true)
    }

    /// A card without MSI-X: it has one message.
    ///
    /// # Errors
    /// As [`IntelPort::open`].
    pub fn with_one_message(kind: Kind, plan: NicPlan) -> Result<(Self, IntelPort), OpenError> {
        Self::open_with(kind, plan, false)
    }

    fn open_with(kind: Kind, plan: NicPlan, messages: bool) -> Result<(Self, IntelPort), OpenError> {
        let cells = Arc::new(Cells {
            // Its address is 02:52:57:00:00:01.
            registers: Mutex::new(BTreeMap::from([
                (register::RAL, 0x0057_5202),
                (register::RAH, 0x8000_0100),
            ])),
            written: Mutex::default(),
            gone: Mutex::new(false),
            kind,
            messages,
            told: Mutex::new(false),
            wires: OnceLock::new(),
        });
        let bus = FakeBus::new(Arc::clone(&cells) as Arc<dyn Model>, [0x2_0000, 0, 0, 0, 0, 0]);
        let wires = bus.wires();
        wires.only_one_message(!messages);
        let _ = cells.wires.set(Arc::clone(&wires));
        let function = Function::fake("0000:00:03.0", kind.identity(), bus);
        let port = IntelPort::open(function, plan)?;
        Ok((Self { kind, cells, wires, sent: Vec::new(), piece: Vec::new(), context: None }, port))
    }

    /// The bus that it is on.
    #[must_use]
    pub const fn wires(&self) -> &Arc<Wires> {
        &self.wires
    }

    /// How often the register that tells of empty buffers was written, and the one that tells of packets.
    #[must_use]
    pub fn bells(&self) -> [u64; 2] {
        let places = self.kind.places();
        let written = locked(&self.cells.written);
        [places.receive, places.transmit].map(|ring| written.get(&(ring + TAIL)).copied().unwrap_or(0))
    }

    /// Whether the queue's receive half may work.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        let enabled = self.cells.get(register::RCTL) & rctl::ENABLE != 0;
        let queue = self.cells.get(self.kind.places().receive + CONTROL) & QUEUE_ENABLE != 0;
        self.wires.is_bus_master() && enabled && (queue || self.kind == Kind::E1000e)
    }

    /// The packets that were sent since this was last asked.
    pub fn take(&mut self) -> Vec<Sent> {
        core::mem::take(&mut self.sent)
    }

    /// Puts a number into one of the card's counters, by its register.
    pub fn count(&self, register: usize, packets: u32) {
        self.cells.set(register, packets);
    }

    /// Bytes of a buffer, as the registers say.
    fn buffer_bytes(&self) -> usize {
        match self.kind {
            Kind::E1000e => match self.cells.get(register::RCTL) >> rctl::FLEXIBLE_BUFFER_SHIFT & 0xf {
                0 => 2048,
                kib => kib as usize * 1024,
            },
            Kind::Igb => (self.cells.get(self.kind.places().receive + SRRCTL) & 0x7f) as usize * 1024,
        }
    }

    /// The words of a ring, where its registers say that it is.
    fn ring(&self, ring: usize) -> Option<(crate::nic::memory::Words<AtomicU64>, u32)> {
        let at = |register| self.cells.get(ring + register);
        let address = u64::from(at(LOW)) | u64::from(at(HIGH)) << 32;
        let bytes = at(BYTES);
        if bytes == 0 || !self.wires.is_mapped(address, bytes.into()) {
            return None;
        }
        let (memory, offset) = self.memory(address)?;
        Some((memory.words(offset, bytes as usize / 8), bytes / 16))
    }

    fn memory(&self, address: u64) -> Option<(Arc<RingMemory>, usize)> {
        let (memory, base) = self.wires.rings_at(address)?;
        Some((memory, usize::try_from(address - base).ok()?))
    }

    /// Puts a packet into the buffers that come next; `false` when there are too few.
    pub fn deliver(&mut self, pool: &Pool, packet: &[u8], lie: Option<Lie>) -> bool {
        if lie == Some(Lie::Gone) {
            *locked(&self.cells.gone) = true;
            return true;
        }
        let ring = self.kind.places().receive;
        let Some((words, count)) = self.ring(ring).filter(|_| self.is_receiving()) else { return false };
        let (mut head, tail) = (self.cells.get(ring + HEAD), self.cells.get(ring + TAIL));
        let pieces: Vec<&[u8]> = packet.chunks(self.buffer_bytes()).collect();
        if (tail + count - head) % count < u32::try_from(pieces.len()).unwrap_or(u32::MAX) {
            return false;
        }
        for (number, piece) in pieces.iter().enumerate() {
            let at = 2 * head as usize;
            let address = u64::from_le(words[at].load(Ordering::Acquire));
            if !self.reach(pool, address, piece.len()).is_some_and(|sight| sight.write(address, piece)) {
                return false;
            }
            let (len, ends, damaged) = match lie {
                Some(Lie::TooLong) => (self.buffer_bytes() + 1, true, false),
                Some(Lie::Empty) => (0, true, false),
                Some(Lie::Endless) => (piece.len(), false, false),
                Some(Lie::Damaged) => (piece.len(), number + 1 == pieces.len(), true),
                _ => (piece.len(), number + 1 == pieces.len(), false),
            };
            let status = 1 | u64::from(ends) << 1;
            let word = match self.kind {
                Kind::E1000e => len as u64 | status << 32 | u64::from(damaged) << 40,
                Kind::Igb => (len as u64) << 32 | status | u64::from(damaged) << 31,
            };
            if lie != Some(Lie::Unsaid) {
                words[at + 1].store(word.to_le(), Ordering::Release);
            }
            head = (head + 1) % count;
        }
        self.cells.set(ring + HEAD, head);
        self.cells.received();
        true
    }

    /// Sends what was posted: how many descriptors. With a lie, says that all is sent without having looked.
    pub fn send(&mut self, pool: &Pool, lie: Option<Lie>) -> u32 {
        let ring = self.kind.places().transmit;
        let enabled = self.cells.get(register::TCTL) & 2 != 0 && self.wires.is_bus_master();
        let Some((words, count)) = self.ring(ring).filter(|_| enabled) else { return 0 };
        let (mut head, tail) = (self.cells.get(ring + HEAD), self.cells.get(ring + TAIL));
        let mut fetched = 0;
        while head != tail {
            let at = 2 * head as usize;
            let load = |at: usize| u64::from_le(words[at].load(Ordering::Acquire));
            let (address, word) = (load(at), load(at + 1));
            self.fetch(pool, address, word, lie);
            if word & 1 << 27 != 0 {
                words[at + 1].store((word | 1 << 32).to_le(), Ordering::Release);
            }
            head = (head + 1) % count;
            fetched += 1;
        }
        self.cells.set(ring + HEAD, head);
        fetched
    }

    fn fetch(&mut self, pool: &Pool, address: u64, word: u64, lie: Option<Lie>) {
        let (context, len) = match self.kind {
            Kind::E1000e => (word >> 20 & 0xf == 0, word & 0xf_ffff),
            Kind::Igb => (word >> 20 & 0xf == 2, word & 0xffff),
        };
        if context {
            self.context = Some([address, word]);
            return;
        }
        let len = usize::try_from(len).unwrap_or(0);
        if lie.is_none() {
            let whole =
                self.reach(pool, address, len).is_some_and(|sight| sight.read(address, len, &mut self.piece));
            assert!(whole, "a buffer of {len} bytes at {address:#x}, which is not mapped");
        }
        if word & 1 << 24 != 0 {
            // TXSM of both.
            let context = self.context.filter(|_| word & 1 << 41 != 0);
            let bytes = core::mem::take(&mut self.piece);
            let cuts = match self.kind {
                Kind::E1000e => word & 1 << 26 != 0,
                Kind::Igb => word & 1 << 31 != 0,
            };
            match context.filter(|_| cuts) {
                Some(context) => self.sent.extend(self.cut(&bytes, context, word)),
                None => self.sent.push(Sent { bytes, context }),
            }
        }
    }

    /// Cuts a packet as the card does: by what the context says of its headers, and adding lengths to what these hold.
    fn cut(&self, bytes: &[u8], context: [u64; 2], word: u64) -> Vec<Sent> {
        let field = |of: u64, from: u32, bits: u32| {
            usize::try_from(of >> from & ((1 << bits) - 1)).unwrap_or(usize::MAX)
        };
        let [first, second] = context;
        let (network, transport, headers, told) = match self.kind {
            Kind::E1000e => {
                (field(first, 0, 8), field(first, 32, 8), field(second, 40, 8), field(second, 0, 20))
            }
            Kind::Igb => {
                let network = field(first, 9, 7);
                let transport = network + field(first, 0, 9);
                (network, transport, transport + field(second, 40, 8), field(word, 46, 18))
            }
        };
        let payload = &bytes[headers..];
        assert_eq!(told, payload.len(), "the payload that the descriptors tell of");
        let count = payload.chunks(field(second, 48, 16)).count();
        let cut = payload.chunks(field(second, 48, 16)).enumerate().map(|(index, part)| {
            let mut segment = [&bytes[..headers], part].concat();
            let number = u16::try_from(index).unwrap_or(0);
            let length = u16::try_from(segment.len() - transport).unwrap_or(0);
            let add = |segment: &mut [u8], at: usize, more: u16| {
                let sum = u16::from_be_bytes([segment[at], segment[at + 1]]).wrapping_add(more);
                segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            };
            let behind = u16::try_from(segment.len() - network).unwrap_or(0);
            if segment[network] >> 4 == 4 {
                add(&mut segment, network + 2, behind);
                add(&mut segment, network + 4, number);
                assert_ne!(word & 1 << 40, 0, "IXSM");
                let sum = !checksum::fold(checksum::sum(&segment[network..transport]));
                segment[network + 10..network + 12].copy_from_slice(&sum.to_ne_bytes());
            } else {
                add(&mut segment, network + 4, behind - 40);
            }
            let sent = u32::try_from(index * field(second, 48, 16)).unwrap_or(0);
            let place = transport + 4..transport + 8;
            let sequence = u32::from_be_bytes(segment[place.clone()].try_into().unwrap_or_default());
            segment[place].copy_from_slice(&sequence.wrapping_add(sent).to_be_bytes());
            if index + 1 < count {
                // FIN and PSH.
                segment[transport + 13] &= !0x09;
            }
            let sum = checksum::sum(&segment[transport..]) + u64::from(length.to_be());
            segment[transport + 16..transport + 18].copy_from_slice(&(!checksum::fold(sum)).to_ne_bytes());
            Sent { bytes: segment, context: Some(context) }
        });
        cut.collect()
    }

    /// The arena, where the bus has it mapped.
    fn reach<'p>(&self, pool: &'p Pool, address: u64, len: usize) -> Option<Sight<'p>> {
        if !self.wires.is_mapped(address, len as u64) {
            return None;
        }
        Some(Sight::new(pool, self.wires.arena_base()?))
    }
}
