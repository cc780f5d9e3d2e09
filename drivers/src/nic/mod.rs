//! Drivers for network cards in user space: descriptor rings that a device, or another process, reads and writes.
//!
//! | module | device |
//! |---|---|
//! | [`virtio`] | the rings of virtio-net, split and packed, over any transport |
//! | [`vhost`] | vhost-user: the same rings with another process at their other end |

mod memory;
pub mod vhost;
pub mod virtio;

pub use memory::RingMemory;
