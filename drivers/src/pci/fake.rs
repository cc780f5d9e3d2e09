//! A bus in memory: a model instead of a card, and addresses that nothing but the map knows.
//!
//! Each piece of memory is mapped far away from where it is and from its neighbours: a driver that tells its device of an
//! address of its own, of an offset, or of one too long is found out, since the model finds nothing there.

use super::Bus;
use super::dma::{Addresses, Dma, Memory};
use super::interrupt::Interrupt;
use super::registers::{Model, Registers};
use crate::nic::RingMemory;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Where the first piece is mapped, and how far apart pieces are.
const FIRST: u64 = 0x10_0000_0000;
const APART: u64 = 1 << 33;

/// A bus with one function.
#[derive(Clone, Debug)]
pub struct FakeBus {
    model: Arc<dyn Model>,
    wires: Arc<Wires>,
}

/// What a test sees of the bus beside the registers.
#[derive(Debug)]
pub struct Wires {
    config: Mutex<[u8; 256]>,
    /// Bytes of each base address register.
    bars: [usize; 6],
    /// What is mapped: the address for the device, the length.
    mapped: Mutex<Vec<(u64, u64)>>,
    /// Those of them that are rings.
    rings: Mutex<Vec<(u64, Arc<RingMemory>)>>,
    next: Mutex<u64>,
    resets: Mutex<u32>,
    wanted_back: AtomicBool,
    events: Mutex<Vec<OwnedFd>>,
    /// The function has one message, and no MSI-X.
    one_message: AtomicBool,
}

impl FakeBus {
    /// A function with such registers.
    #[must_use]
    pub fn new(model: Arc<dyn Model>, bars: [usize; 6]) -> Self {
        let wires = Wires {
            config: Mutex::new([0; 256]),
            bars,
            mapped: Mutex::default(),
            rings: Mutex::default(),
            next: Mutex::new(FIRST),
            resets: Mutex::default(),
            wanted_back: AtomicBool::new(false),
            events: Mutex::default(),
            one_message: AtomicBool::new(false),
        };
        Self { model, wires: Arc::new(wires) }
    }

    /// What a test sees and pulls at.
    #[must_use]
    pub fn wires(&self) -> Arc<Wires> {
        Arc::clone(&self.wires)
    }
}

impl Wires {
    /// Whether the function may move data.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        locked(&self.config)[4] & 4 != 0
    }

    /// Writes configuration space as the device would have it.
    pub fn set_config(&self, offset: usize, bytes: &[u8]) {
        locked(&self.config)[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether so many bytes from an address on are mapped, in one piece.
    #[must_use]
    pub fn is_mapped(&self, address: u64, bytes: u64) -> bool {
        locked(&self.mapped).iter().any(|(base, len)| address >= *base && address + bytes <= base + len)
    }

    /// The rings that an address lies in, and where they begin: for a model.
    pub(crate) fn rings_at(&self, address: u64) -> Option<(Arc<RingMemory>, u64)> {
        let rings = locked(&self.rings);
        let (base, memory) = rings.iter().find(|(base, memory)| {
            address.checked_sub(*base).is_some_and(|offset| offset < memory.bytes() as u64)
        })?;
        Some((Arc::clone(memory), *base))
    }

    /// Where the first arena is mapped.
    pub(crate) fn arena_base(&self) -> Option<u64> {
        self.base_of_arena(0)
    }

    /// Where one of the arenas is mapped, in the order of mapping.
    pub(crate) fn base_of_arena(&self, which: usize) -> Option<u64> {
        let rings = locked(&self.rings);
        let mapped = locked(&self.mapped);
        let mut arenas = mapped.iter().filter(|(base, _)| !rings.iter().any(|(ring, _)| ring == base));
        Some(arenas.nth(which)?.0)
    }

    /// How many pieces are mapped.
    #[must_use]
    pub fn pieces(&self) -> usize {
        locked(&self.mapped).len()
    }

    /// How often the function was reset by its bus.
    #[must_use]
    pub fn resets(&self) -> u32 {
        *locked(&self.resets)
    }

    /// The kernel wants the function back.
    pub fn ask_back(&self) {
        self.wanted_back.store(true, Ordering::Relaxed);
    }

    /// Whether the function has one message for everything (MSI), rather than as many as are asked for (MSI-X).
    pub fn only_one_message(&self, one: bool) {
        self.one_message.store(one, Ordering::Relaxed);
    }

    /// Raises an interrupt.
    pub fn interrupt(&self, vector: usize) {
        if let Some(event) = locked(&self.events).get(vector) {
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }
}

/// What a panic elsewhere left behind is still what it was.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Bus for FakeBus {
    fn read_config(&self, offset: u16, into: &mut [u8]) -> io::Result<()> {
        let config = locked(&self.wires.config);
        let end = usize::from(offset) + into.len();
        into.copy_from_slice(config.get(offset.into()..end).ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> io::Result<()> {
        let mut config = locked(&self.wires.config);
        let end = usize::from(offset) + bytes.len();
        config.get_mut(offset.into()..end).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        Ok(())
    }

    fn bar(&self, index: u8) -> io::Result<Registers> {
        match self.wires.bars.get(usize::from(index)) {
            Some(0) | None => Err(io::ErrorKind::NotFound.into()),
            Some(bytes) => Ok(Registers::model(Arc::clone(&self.model), index, *bytes)),
        }
    }

    fn reset(&self) -> io::Result<()> {
        *locked(&self.wires.resets) += 1;
        Ok(())
    }

    fn interrupts(&self, count: u16) -> io::Result<Vec<Interrupt>> {
        let mut interrupts = Vec::new();
        let mut events = locked(&self.wires.events);
        let one_message = self.wires.one_message.load(Ordering::Relaxed);
        for _ in 0..if one_message { count.min(1) } else { count } {
            use rustix::event::{EventfdFlags, eventfd};
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            events.push(event.try_clone()?);
            interrupts.push(if one_message { Interrupt::only_event(event) } else { Interrupt::event(event) });
        }
        Ok(interrupts)
    }

    fn is_wanted_back(&self) -> bool {
        self.wires.wanted_back.load(Ordering::Relaxed)
    }

    fn wants_huge_pages(&self) -> bool {
        false
    }

    fn show_rings(&self, memory: &Arc<RingMemory>, addresses: &Addresses) {
        if let Addresses::Linear(base) = addresses {
            locked(&self.wires.rings).push((*base, Arc::clone(memory)));
        }
    }
}

// SAFETY: the model reaches memory only through what a test gives it, and looks here whether it may.
unsafe impl Dma for FakeBus {
    unsafe fn map(&self, memory: Memory) -> io::Result<Addresses> {
        let mut next = locked(&self.wires.next);
        let base = *next;
        *next += APART;
        locked(&self.wires.mapped).push((base, memory.bytes as u64));
        Ok(Addresses::Linear(base))
    }

    fn unmap(&self, addresses: &Addresses, _bytes: usize) {
        locked(&self.wires.mapped).retain(|(base, _)| Addresses::Linear(*base) != *addresses);
        locked(&self.wires.rings).retain(|(base, _)| Addresses::Linear(*base) != *addresses);
    }
}
