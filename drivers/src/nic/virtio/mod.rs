//! The rings of virtio-net, over any transport (VIRTIO 1.2, OASIS 2022: section numbers here are of that text).
//!
//! ```text
//!   queue      one receive ring and one transmit ring as a queue pair; headers, checksums, mergeable buffers
//!   ring       what it asks of a ring         split, packed    the two layouts
//!   transport  how the rings reach their device: a bus, or another process
//!   shadow     what was posted, out of the device's reach         table     many buffers behind one descriptor
//!   pass       packets from one device to the next, as they are
//!   fake       a device in memory, which can lie           end       its end of a ring
//!   pci        the same rings with a card at their other end
//! ```
//!
//! The device is believed about nothing: positions and ids are checked here, lengths and slots by the pool, and what
//! cannot be true is a latched [`Fault`](crate::Fault).

mod caps;
mod end;
pub mod fake;
mod gather;
mod header;
mod packed;
mod pass;
pub mod pci;
mod queue;
mod receive;
mod ring;
mod shadow;
mod split;
mod table;
mod transmit;
mod transport;

use super::memory;

pub use super::memory::RingMemory;
pub use queue::open;
pub use ring::Parts;
pub use transport::{Addresses, Change, Direction, Layout, Transport, VirtioPlan};

/// Feature bits of the device type and of virtio itself (§5.1.3, §6).
pub mod feature {
    /// Checksums of what we send may be left to the device (`VIRTIO_NET_F_CSUM`).
    pub const CHECKSUM: u64 = 1 << 0;
    /// It may leave those of what it delivers to us (`VIRTIO_NET_F_GUEST_CSUM`).
    pub const GUEST_CHECKSUM: u64 = 1 << 1;
    /// It says how long packets may be (`VIRTIO_NET_F_MTU`).
    pub const MTU: u64 = 1 << 3;
    /// It has an address (`VIRTIO_NET_F_MAC`).
    pub const MAC: u64 = 1 << 5;
    /// It cuts TCP over IPv4 that we send (`VIRTIO_NET_F_HOST_TSO4`).
    pub const TSO4: u64 = 1 << 11;
    /// The same over IPv6 (`VIRTIO_NET_F_HOST_TSO6`).
    pub const TSO6: u64 = 1 << 12;
    /// The same with ECN (`VIRTIO_NET_F_HOST_ECN`).
    pub const TSO_ECN: u64 = 1 << 13;
    /// It puts a long packet into several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    pub const MERGEABLE: u64 = 1 << 15;
    /// It says whether the link is up (`VIRTIO_NET_F_STATUS`).
    pub const STATUS: u64 = 1 << 16;
    /// It has a control queue (`VIRTIO_NET_F_CTRL_VQ`).
    pub const CONTROL: u64 = 1 << 17;
    /// That queue says which packets it takes (`VIRTIO_NET_F_CTRL_RX`).
    pub const CONTROL_RECEIVE: u64 = 1 << 18;
    /// It has several queue pairs (`VIRTIO_NET_F_MQ`).
    pub const QUEUES: u64 = 1 << 22;
    /// A descriptor may name a table of descriptors (`VIRTIO_F_INDIRECT_DESC`).
    pub const INDIRECT: u64 = 1 << 28;
    /// It follows version 1 (`VIRTIO_F_VERSION_1`).
    pub const VERSION_1: u64 = 1 << 32;
    /// It goes through an IOMMU (`VIRTIO_F_ACCESS_PLATFORM`).
    pub const PLATFORM: u64 = 1 << 33;
    /// It takes packed rings (`VIRTIO_F_RING_PACKED`).
    pub const PACKED: u64 = 1 << 34;
    /// It is done with buffers in the order in which they were posted (`VIRTIO_F_IN_ORDER`), and may say so of the last of
    /// several alone.
    pub const IN_ORDER: u64 = 1 << 35;
    /// It needs the barriers of a real device (`VIRTIO_F_ORDER_PLATFORM`).
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    /// It cuts UDP that we send (`VIRTIO_NET_F_HOST_USO`).
    pub const USO: u64 = 1 << 56;

    /// What is left to the device, or by it to us.
    pub const OFFLOADS: u64 = CHECKSUM | GUEST_CHECKSUM | TSO4 | TSO6 | TSO_ECN | USO;

    /// These without those that lack what they build on (§5.1.3.1).
    #[must_use]
    pub const fn consistent(mut features: u64) -> u64 {
        if features & CHECKSUM == 0 {
            features &= !(TSO4 | TSO6 | TSO_ECN | USO);
        }
        if features & (TSO4 | TSO6) == 0 {
            features &= !TSO_ECN;
        }
        if features & CONTROL == 0 {
            features &= !(CONTROL_RECEIVE | QUEUES);
        }
        features
    }
}
