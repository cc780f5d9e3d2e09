//! Drivers for network cards in user space: descriptor rings that a device, or another process, reads and writes.
//!
//! | module | device |
//! |---|---|
//! | [`virtio`] | the rings of virtio-net, split and packed, over any transport |
//! | [`intel`] | Intel's 82574L and 82576 on the [PCI bus](crate::pci) |
//! | [`vhost`] | vhost-user: the same rings with another process at their other end |

pub mod intel;
mod memory;
mod port;
pub mod vhost;
pub mod virtio;

pub use memory::RingMemory;
pub use port::{NicPlan, NicPort};
