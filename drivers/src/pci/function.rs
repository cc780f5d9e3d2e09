//! A PCI function that is ours: what drivers are written against.

use super::Bus;
use super::address::{Identity, PciAddress};
use super::binding::{Binding, Claim};
use super::dma::{DmaArena, DmaRings};
use super::fake::FakeBus;
use super::interrupt::Interrupt;
use super::registers::Registers;
use super::root::Root;
use super::uio::Uio;
use super::vfio::Vfio;
use crate::error::OpenError;
use ringbuf::Pool;
use std::fmt;
use std::io;
use std::sync::Arc;

/// By which of the kernel's doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// VFIO, with an IOMMU.
    Vfio,
    /// UIO, without one.
    Uio,
}

impl Way {
    /// Its name as a driver of ports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vfio => "vfio",
            Self::Uio => "uio",
        }
    }

    /// The kernel's driver that opens the door.
    #[must_use]
    pub const fn kernel_driver(self) -> &'static str {
        match self {
            Self::Vfio => "vfio-pci",
            Self::Uio => "uio_pci_generic",
        }
    }

    /// All of them.
    pub const ALL: [Self; 2] = [Self::Vfio, Self::Uio];

    /// Whether a driver of the kernel's is a door for programs such as ours.
    #[must_use]
    pub fn is_door(driver: &str) -> bool {
        Self::ALL.iter().any(|way| way.kernel_driver() == driver)
    }

    /// What is being done while it is found out whether it leads there.
    pub(super) const fn step(self) -> &'static str {
        match self {
            Self::Vfio => "looking at the way by VFIO",
            Self::Uio => "looking at the way by UIO",
        }
    }
}

/// Which function, and how to take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciPlan {
    /// By which door.
    pub way: Way,
    /// Which.
    pub address: PciAddress,
    /// Also when its interface is in use.
    pub force: bool,
}

/// A function in our hands. When it goes, it is stopped and given back.
#[derive(Debug)]
pub struct Function {
    name: String,
    driver: &'static str,
    identity: Identity,
    bus: Box<dyn Bus>,
    /// Behind the bus: the door is shut before whoever drove it before gets it back.
    _binding: Option<Binding>,
}

/// An entry of the list of capabilities (PCI 3.0 §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where in configuration space.
    pub offset: u16,
}

/// The command register, and its bits (PCI 3.0 §6.2.2).
const COMMAND: u16 = 4;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const NO_INTX: u16 = 1 << 10;

/// The status register says that there is a list of capabilities, which begins where the pointer says (§6.2.3, §6.7).
const STATUS: u16 = 6;
const HAS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;

impl Function {
    /// Takes a function from the kernel's driver. `known` says whether there is a driver of ours for it, before anything is
    /// changed; its error names those that there are.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words. Everything is as it was then.
    pub fn open(
        plan: &PciPlan,
        known: impl FnOnce(&Identity) -> Result<(), String>,
    ) -> Result<Arc<Self>, OpenError> {
        let name = plan.address.to_string();
        let root = Root::machine();
        let folder = root.function(plan.address);
        let identity = Identity::read(&folder).map_err(|source| {
            let error = OpenError::new(&name, "looking for the device", source);
            error.hint("there is no such PCI device: lspci -D lists them")
        })?;
        known(&identity).map_err(|why| OpenError::refused(&name, "choosing a driver", why))?;
        let claim = Claim { address: plan.address, way: plan.way, force: plan.force };
        let binding = Binding::take(&root, &claim)?;
        let bus: Box<dyn Bus> = match plan.way {
            Way::Vfio => Box::new(Vfio::open(&name, &folder)?),
            Way::Uio => Box::new(Uio::open(&name, &folder)?),
        };
        let function = Self { name, driver: plan.way.name(), identity, bus, _binding: Some(binding) };
        function.enable().map_err(|source| function.failed("switching it on", source))?;
        Ok(Arc::new(function))
    }

    /// A function in memory.
    #[must_use]
    pub fn fake(name: &str, identity: Identity, bus: FakeBus) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), driver: "fake", identity, bus: Box::new(bus), _binding: None })
    }

    /// Its address as text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `vfio`, `uio` or `fake`.
    #[must_use]
    pub const fn driver(&self) -> &'static str {
        self.driver
    }

    /// What it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The registers behind a base address register.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn bar(self: &Arc<Self>, index: u8) -> Result<Registers, OpenError> {
        let registers = self.bus.bar(index);
        let registers =
            registers.map_err(|source| self.failed(format!("mapping its BAR {index}"), source))?;
        Ok(registers.of(self))
    }

    /// Reads a number of configuration space.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn config<const N: usize>(&self, offset: u16) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.bus.read_config(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes configuration space.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_config(&self, offset: u16, bytes: &[u8]) -> io::Result<()> {
        self.bus.write_config(offset, bytes)
    }

    /// The list of capabilities, in its order.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn capabilities(&self) -> io::Result<Vec<Capability>> {
        let mut found = Vec::new();
        if u16::from_le_bytes(self.config(STATUS)?) & HAS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let [mut next] = self.config(CAPABILITIES)?;
        // The list lies in bytes 64 to 255, four apart: a longer one goes round in a circle.
        while next >= 0x40 && found.len() < 48 {
            let offset = u16::from(next & !3);
            let [id, after] = self.config(offset)?;
            found.push(Capability { id, offset });
            next = after;
        }
        Ok(found)
    }

    /// Lets the function move data, or forbids it. Without the right it touches no memory, whatever its registers say.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_bus_master(&self, on: bool) -> io::Result<()> {
        let command = u16::from_le_bytes(self.config(COMMAND)?);
        let command = if on { command | BUS_MASTER } else { command & !BUS_MASTER };
        self.set_config(COMMAND, &command.to_le_bytes())
    }

    /// Resets the function by its bus, where that can be done.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset(&self) -> io::Result<()> {
        self.bus.reset()
    }

    /// So many interrupts, or fewer when there are no more.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn interrupts(&self, count: u16) -> Result<Vec<Interrupt>, OpenError> {
        self.bus.interrupts(count).map_err(|source| self.failed("asking for its interrupts", source))
    }

    /// Memory for descriptor rings, within its reach.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn rings(self: &Arc<Self>, bytes: usize) -> Result<DmaRings, OpenError> {
        DmaRings::new(self, bytes).map_err(|source| {
            let error = self.failed("mapping memory for its rings", source);
            if self.bus.wants_huge_pages() {
                error
                    .hint("without an IOMMU they must lie in a huge page: sysctl vm.nr_hugepages=16, or more")
            } else {
                error
            }
        })
    }

    /// Brings a worker's arena within its reach.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn map_arena<'p>(self: &Arc<Self>, pool: &'p Pool) -> Result<DmaArena<'p>, OpenError> {
        DmaArena::new(self, pool)
    }

    /// Whether the kernel asks for it back: it is to be pulled out, or another driver is to have it. Whoever drives it stops
    /// then. A system call: not for every turn.
    #[must_use]
    pub fn is_wanted_back(&self) -> bool {
        self.bus.is_wanted_back()
    }

    /// Takes all memory out of its reach, see [`Bus::withdraw`].
    ///
    /// # Errors
    /// What the kernel says; without an IOMMU it cannot be done.
    #[doc(hidden)]
    pub fn withdraw_memory(&self) -> io::Result<()> {
        self.bus.withdraw()
    }

    /// Whether memory must lie in huge pages to be within its reach.
    #[must_use]
    pub fn wants_huge_pages(&self) -> bool {
        self.bus.wants_huge_pages()
    }

    /// Whether its addresses lead through an IOMMU: those of memory itself are of no use to it then.
    #[must_use]
    pub fn has_iommu(&self) -> bool {
        !self.bus.wants_huge_pages()
    }

    /// An error at this device.
    pub fn failed(&self, step: impl fmt::Display, source: io::Error) -> OpenError {
        OpenError::new(&self.name, step.to_string(), source)
    }

    pub(super) fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// Registers answer, and there is no interrupt that nobody asked for; it moves no data yet.
    fn enable(&self) -> io::Result<()> {
        let command = u16::from_le_bytes(self.config(COMMAND)?);
        let command = (command | MEMORY | NO_INTX) & !BUS_MASTER;
        self.set_config(COMMAND, &command.to_le_bytes())
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // Gone already, when it fails.
        let _ = self.set_bus_master(false);
    }
}
