//! The PCI bus from user space: a card's registers, its memory accesses and its interrupts in our hands.
//!
//! ```text
//!   driver (nic) ── Function ── Bus: Dma ──┬── vfio   the kernel's VFIO: an IOMMU holds the card to what was mapped for it
//!                     │                    ├── uio    registers by sysfs, physical addresses: the card can reach everything
//!                     │                    └── fake   a model in memory, for tests without a card
//!                     └── Binding: who drove it before, and gets it back
//! ```
//!
//! | what a driver needs | here |
//! |---|---|
//! | registers | [`Function::bar`], a [`Registers`]; what tells the device of something in memory is a [`Doorbell`] |
//! | configuration space | [`Function::config`], [`Function::capabilities`] |
//! | descriptor rings | [`Function::rings`], a [`DmaRings`] |
//! | the worker's arena | [`Function::map_arena`], a [`DmaArena`] |
//! | leave to move data | [`Function::set_bus_master`] |
//! | interrupts | [`Function::interrupts`], each an [`Interrupt`] |
//! | whether the kernel wants it back | [`Function::is_wanted_back`] |
//!
//! What keeps a function from being taken is asked in one place (`obstacle`): opening refuses by it, and a [`Survey`] tells of it,
//! which only looks.
//!
//! A driver drops in this order: stop the device, then its [`DmaRings`] and [`DmaArena`], then recall what was on loan.

mod address;
mod binding;
mod dma;
pub mod fake;
mod function;
mod holders;
mod interrupt;
mod mapping;
mod note;
mod obstacle;
mod registers;
mod root;
#[cfg(test)]
mod scratch;
mod survey;
mod uio;
mod vfio;

pub use address::{Identity, PciAddress};
pub use binding::restore_abandoned;
pub use dma::{Addresses, Dma, DmaArena, DmaRings, Memory};
pub use function::{Capability, Function, PciPlan, Way};
pub use interrupt::Interrupt;
pub use note::Owner;
pub use obstacle::{Module, Neighbour, Obstacle};
pub use registers::{Doorbell, Model, Registers, Width};
pub use root::Root;
pub use survey::{Approach, Doors, Survey};

use crate::nic::RingMemory;
use std::fmt;
use std::io;
use std::sync::Arc;

/// How a function is reached. The side of the seam that knows the kernel; [`Dma`] is the part of it with duties.
pub trait Bus: Dma + fmt::Debug + Send + Sync {
    /// Reads configuration space.
    ///
    /// # Errors
    /// What the kernel says.
    fn read_config(&self, offset: u16, into: &mut [u8]) -> io::Result<()>;

    /// Writes configuration space.
    ///
    /// # Errors
    /// What the kernel says.
    fn write_config(&self, offset: u16, bytes: &[u8]) -> io::Result<()>;

    /// The registers behind a base address register.
    ///
    /// # Errors
    /// What the kernel says; that there are none.
    fn bar(&self, index: u8) -> io::Result<Registers>;

    /// Resets the function: it forgets everything, and moves no data.
    ///
    /// # Errors
    /// What the kernel says: not every function can be reset by its bus.
    fn reset(&self) -> io::Result<()>;

    /// So many interrupts, each with a descriptor of its own; fewer when there are no more.
    ///
    /// # Errors
    /// What the kernel says.
    fn interrupts(&self, count: u16) -> io::Result<Vec<Interrupt>>;

    /// Whether the kernel asks to let the function go. Cheap, but a system call.
    fn is_wanted_back(&self) -> bool;

    /// Whether memory must lie in huge pages to be mapped.
    fn wants_huge_pages(&self) -> bool;

    /// Takes all memory out of the function's reach, whatever it does just now: its next access is a fault of the IOMMU's. For tests
    /// of what a device does then; nothing is in danger by it, since it reaches less.
    ///
    /// # Errors
    /// Without an IOMMU it cannot be done.
    fn withdraw(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Shows the memory of rings that was mapped at `addresses`, to a bus that must look into it itself.
    fn show_rings(&self, memory: &Arc<RingMemory>, addresses: &Addresses) {
        let _ = (memory, addresses);
    }
}
