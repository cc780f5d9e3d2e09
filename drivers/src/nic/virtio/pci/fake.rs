//! A device in memory: capabilities, registers and a control queue; its data queues are those of the
//! [fake](crate::nic::virtio::fake) device. It lies when it is told to.
//!
//! ```text
//!   VirtioPort ── registers ── FakeCard
//!   queue pair ══ rings in shared words ══ FakeDevice ── deliver(packet), take() ── a test
//! ```
//!
//! Rings and buffers are looked for where registers and descriptors say that they are, if the [fake bus](crate::pci::fake) has
//! these mapped: a driver that forgets to translate an address is found out.

use super::device::status;
pub use super::lie::Lie;
use super::lie::configuration;
use super::port::VirtioPort;
use crate::error::OpenError;
use crate::nic::NicPlan;
use crate::nic::memory::RingMemory;
use crate::nic::virtio::end::{Chain, End};
use crate::nic::virtio::fake::{FakeDevice, FakePlan, attach};
use crate::nic::virtio::ring::Parts;
use crate::nic::virtio::{Addresses, Layout, feature};
use crate::pci::fake::{FakeBus, Wires};
use crate::pci::{Function, Identity, Model};
use core::sync::atomic::{AtomicU64, Ordering};
use ringbuf::Pool;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// What the device is.
#[derive(Clone, Debug)]
pub struct FakePciPlan {
    /// What it offers; see [`feature`].
    pub features: u64,
    /// Queue pairs.
    pub pairs: u16,
    /// Descriptors of its longest ring.
    pub ring: u16,
    /// The longest packet behind its Ethernet header.
    pub mtu: u16,
    /// A lie of its registers.
    pub lie: Option<Lie>,
}

impl Default for FakePciPlan {
    fn default() -> Self {
        let features = feature::VERSION_1 | feature::PLATFORM | feature::MERGEABLE | feature::MAC;
        let control = feature::CONTROL | feature::CONTROL_RECEIVE | feature::QUEUES;
        let features = features | control | feature::STATUS | feature::MTU | feature::INDIRECT;
        Self { features, pairs: 4, ring: 256, mtu: 9000, lie: None }
    }
}

/// Where the registers are in BAR 4.
pub(super) const BAR_BYTES: usize = 0x4000;
const ISR: usize = 0x1000;
const CONFIG: usize = 0x2000;
const NOTIFY: usize = 0x3000;
pub(super) const APART: usize = 4;

/// How long the driver waits for this device, which answers at once or never.
const PATIENCE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    size: u16,
    vector: u16,
    enabled: bool,
    /// Descriptors, driver, device.
    places: [u64; 3],
}

#[derive(Debug, Default)]
struct State {
    select: u32,
    agreed_select: u32,
    agreed: u64,
    status: u8,
    generation: u8,
    queue: u16,
    queues: BTreeMap<u16, Queue>,
    control: Option<(End, Arc<RingMemory>, u64)>,
    commands: Vec<Vec<u8>>,
    rung: BTreeMap<u16, u64>,
    resets: u32,
    down: bool,
    gone: bool,
    /// A doorbell was rung that is another queue's.
    astray: bool,
}

/// The registers.
#[derive(Debug)]
struct Cells {
    plan: FakePciPlan,
    state: Mutex<State>,
    wires: OnceLock<Arc<Wires>>,
}

impl Cells {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lies(&self, lie: Lie) -> bool {
        self.plan.lie == Some(lie)
    }

    fn control_queue(&self, state: &State) -> u16 {
        if state.agreed & feature::QUEUES != 0 { 2 * self.plan.pairs } else { 2 }
    }

    fn read_common(&self, state: &mut State, offset: usize) -> u64 {
        let queue = state.queues.get(&state.queue).copied().unwrap_or_default();
        match offset {
            0x04 => self.plan.features >> if state.select == 0 { 0 } else { 32 } & 0xffff_ffff,
            0x10 => 0xffff,
            0x12 if self.lies(Lie::NoQueues) => 0,
            0x12 => u64::from(2 * self.plan.pairs + 1),
            0x14 => {
                let hidden = if self.lies(Lie::Stubborn) { status::FEATURES_OK } else { 0 };
                let stays = u8::from(self.lies(Lie::Endless));
                (state.status & !hidden | stays).into()
            }
            0x15 => {
                state.generation = state.generation.wrapping_add(u8::from(self.lies(Lie::Restless)));
                state.generation.into()
            }
            0x18 if self.lies(Lie::NoRing) => 0,
            0x18 if queue.size > 0 => queue.size.into(),
            0x18 => self.plan.ring.into(),
            0x1a => queue.vector.into(),
            0x1c => queue.enabled.into(),
            0x1e if self.lies(Lie::FarDoorbell) => 0xffff,
            0x1e => state.queue.into(),
            _ => 0,
        }
    }

    fn read_config(&self, state: &State, offset: usize, bytes: usize) -> u64 {
        let mut config = [0; 16];
        let first = if self.lies(Lie::Group) { 3 } else { 2 };
        config[..6].copy_from_slice(&[first, 0x52, 0x57, 0, 0, 1]);
        config[6] = u8::from(!state.down);
        let pairs = if self.lies(Lie::NoPairs) { 0 } else { self.plan.pairs };
        config[8..10].copy_from_slice(&pairs.to_le_bytes());
        config[10..12].copy_from_slice(&self.plan.mtu.to_le_bytes());
        let mut word = [0; 8];
        let field = config.get(offset..offset + bytes).unwrap_or_default();
        word[..field.len()].copy_from_slice(field);
        u64::from_le_bytes(word)
    }

    fn write_common(&self, state: &mut State, offset: usize, value: u64) {
        let (short, word) = (low16(value), low32(value));
        let queue = state.queues.entry(state.queue).or_default();
        match offset {
            0x00 => state.select = word,
            0x08 => state.agreed_select = word,
            0x0c => {
                let shift = if state.agreed_select == 0 { 0 } else { 32 };
                state.agreed = state.agreed & !(0xffff_ffff << shift) | u64::from(word) << shift;
            }
            0x14 if value == 0 => {
                let before = core::mem::take(state);
                *state = State { resets: before.resets + 1, down: before.down, ..State::default() };
                (state.commands, state.rung, state.astray) = (before.commands, before.rung, before.astray);
            }
            0x14 => state.status = value.to_le_bytes()[0],
            0x16 => state.queue = short,
            0x18 => queue.size = short,
            0x1a => queue.vector = short,
            0x1c => queue.enabled = short == 1,
            0x20..0x38 => {
                let place = &mut queue.places[(offset - 0x20) / 8];
                let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
                *place = *place & !(0xffff_ffff << shift) | u64::from(word) << shift;
            }
            _ => {}
        }
    }

    /// The memory of a queue's ring, where its registers say that it is; and at which address that begins.
    fn ring(&self, queue: &Queue) -> Option<(Arc<RingMemory>, u64, Parts)> {
        let wires = self.wires.get()?;
        let (memory, base) = wires.rings_at(queue.places[0])?;
        let offset = |place: u64| usize::try_from(place.checked_sub(base)?).ok();
        let [descriptors, driver, device] = queue.places.map(offset);
        let (descriptors, driver, device) = (descriptors?, driver?, device?);
        let bytes = memory.bytes() as u64;
        let inside = queue.places.iter().all(|place| place - base + 64 <= bytes)
            && descriptors + 16 * usize::from(queue.size) <= memory.bytes();
        let end = descriptors.max(driver).max(device) + 8 * usize::from(queue.size) + 6;
        let whole = wires.is_mapped(base, bytes) && queue.enabled && inside && end <= memory.bytes();
        whole.then_some((memory, base, Parts { descriptors, driver, device, bytes: end - descriptors }))
    }

    fn plan_of(&self, state: &State, queue: &Queue) -> FakePlan {
        let packed = state.agreed & feature::PACKED != 0;
        FakePlan { ring: queue.size, packed, features: state.agreed, mtu: self.plan.mtu.into() }
    }

    /// Answers what is on the control queue.
    fn answer(&self, state: &mut State) {
        if state.status & status::DRIVER_OK == 0 || self.lies(Lie::Silent) {
            return;
        }
        if state.control.is_none() {
            let number = self.control_queue(state);
            let Some(queue) = state.queues.get(&number).copied() else { return };
            let Some((memory, base, parts)) = self.ring(&queue) else { return };
            let end = End::new(&memory, parts, &self.plan_of(state, &queue));
            state.control = Some((end, memory, base));
        }
        let Some((end, memory, base)) = &mut state.control else { return };
        while let Some(chain) = end.next() {
            let mut command = Vec::new();
            let answer = if self.lies(Lie::Refusing) { 1 } else { 0 };
            for (address, len, writable) in &chain.parts {
                let Ok(offset) = usize::try_from(address - *base) else { return };
                let word = &memory.words::<AtomicU64>(offset, 1)[0];
                let mut bytes = word.load(Ordering::Acquire).to_ne_bytes();
                if *writable {
                    bytes[0] = answer;
                    word.store(u64::from_ne_bytes(bytes), Ordering::Release);
                } else {
                    command.extend_from_slice(&bytes[..*len as usize]);
                }
            }
            state.commands.push(command);
            let Chain { id, count, .. } = chain;
            end.give(u32::from(id) + u32::from(self.lies(Lie::Confused)), 1, count);
            end.publish(0);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "registers are narrower than what a model is given")]
const fn low32(value: u64) -> u32 {
    value as u32
}

#[expect(clippy::cast_possible_truncation, reason = "registers are narrower than what a model is given")]
const fn low16(value: u64) -> u16 {
    value as u16
}

impl Model for Cells {
    fn read(&self, _bar: u8, offset: usize, bytes: usize) -> u64 {
        let mut state = self.state();
        if state.gone || self.lies(Lie::Absent) {
            return u64::MAX >> (64 - 8 * bytes);
        }
        match offset {
            0..ISR => self.read_common(&mut state, offset),
            CONFIG..NOTIFY => self.read_config(&state, offset - CONFIG, bytes),
            _ => 0,
        }
    }

    fn write(&self, _bar: u8, offset: usize, _bytes: usize, value: u64) {
        let mut state = self.state();
        match offset {
            _ if state.gone => {}
            0..ISR => self.write_common(&mut state, offset, value),
            NOTIFY.. => {
                let queue = low16(value);
                *state.rung.entry(queue).or_default() += 1;
                state.astray |= (offset - NOTIFY) / APART != usize::from(queue);
                if queue == self.control_queue(&state) {
                    self.answer(&mut state);
                }
            }
            _ => {}
        }
    }
}

/// A device, and what a test sees and pulls at.
#[derive(Debug)]
pub struct FakeCard {
    cells: Arc<Cells>,
    wires: Arc<Wires>,
}

impl FakeCard {
    /// A device, and a port that drives it.
    ///
    /// # Errors
    /// As [`VirtioPort::open`].
    pub fn open(fake: FakePciPlan, plan: NicPlan) -> Result<(Self, VirtioPort), OpenError> {
        let config = configuration(fake.lie);
        Self::with(fake, plan, &config)
    }

    /// Its configuration space, as long as it does not lie.
    #[must_use]
    pub fn configuration() -> [u8; 256] {
        configuration(None)
    }

    /// The same with this configuration space, from byte 0 on.
    ///
    /// # Errors
    /// As [`VirtioPort::open`].
    pub fn with(fake: FakePciPlan, plan: NicPlan, config: &[u8]) -> Result<(Self, VirtioPort), OpenError> {
        let cells = Arc::new(Cells { plan: fake, state: Mutex::default(), wires: OnceLock::new() });
        let bus = FakeBus::new(Arc::clone(&cells) as Arc<dyn Model>, [0, 0, 0, 0, BAR_BYTES, 0]);
        let wires = bus.wires();
        let _ = cells.wires.set(Arc::clone(&wires));
        wires.set_config(0, &config[..config.len().min(256)]);
        let identity = Identity { vendor: 0x1af4, device: 0x1041, class: 0x02_0000, revision: 1 };
        let function = Function::fake("0000:00:05.0", identity, bus);
        let port = VirtioPort::open_patiently(&function, plan, PATIENCE)?;
        Ok((Self { cells, wires }, port))
    }

    /// The bus that it is on.
    #[must_use]
    pub const fn wires(&self) -> &Arc<Wires> {
        &self.wires
    }

    /// Whether it works: it was told that the driver is ready.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.cells.state().status & status::DRIVER_OK != 0 && self.wires.is_bus_master()
    }

    /// How often it was reset.
    #[must_use]
    pub fn resets(&self) -> u32 {
        self.cells.state().resets
    }

    /// What both agreed on.
    #[must_use]
    pub fn agreed(&self) -> u64 {
        self.cells.state().agreed
    }

    /// The commands on its control queue.
    #[must_use]
    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.cells.state().commands.clone()
    }

    /// How often a queue's doorbell was rung.
    #[must_use]
    pub fn bells(&self, queue: u16) -> u64 {
        self.cells.state().rung.get(&queue).copied().unwrap_or(0)
    }

    /// Whether a doorbell was ever rung for another queue.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        self.cells.state().astray
    }

    /// Its link goes or comes.
    pub fn set_link(&self, up: bool) {
        self.cells.state().down = !up;
    }

    /// It finds something wrong in itself.
    pub fn needs_reset(&self) {
        self.cells.state().status |= status::NEEDS_RESET;
    }

    /// Nothing answers any more.
    pub fn vanish(&self) {
        self.cells.state().gone = true;
    }

    /// The device's end of a queue pair; `None` unless its registers name rings that are mapped.
    #[must_use]
    pub fn pair<'p>(&self, pool: &'p Pool, pair: u16) -> Option<FakeDevice<'p>> {
        let state = self.cells.state();
        let [receive, transmit] =
            [2 * pair, 2 * pair + 1].map(|number| state.queues.get(&number).copied().unwrap_or_default());
        let plan = self.cells.plan_of(&state, &receive);
        let (memory, base, receive) = self.cells.ring(&receive)?;
        let (_, _, transmit) = self.cells.ring(&transmit)?;
        let layout = Layout { memory, receive, transmit, tables: 0, addresses: Addresses::Linear(base) };
        // Each pair has the arena mapped, in the order in which they were opened.
        Some(attach(pool, layout, plan, self.wires.base_of_arena(pair.into())?))
    }
}
