//! vhost-user: the rings of virtio-net with another process at their other end, over shared memory and no kernel.
//!
//! ```text
//!   VirtioQueue ══ rings and arena, shared ══ back end: DPDK's net_vhost, VPP, OVS, QEMU's
//!        │                                        │
//!   [port] ── Unix socket: where the memory is, where the rings lie, eventfds ── [supervisor]
//! ```
//!
//! The protocol's messages are the `vhost` crate's. A back end may go and come back: its packets under way are lost and
//! counted, and the rings begin anew.
//!
//! There is no IOMMU in between: the back end can read and write the whole arena, at any time. Whoever connects such a
//! port trusts the process at its other end with the port's packets (*peer* of [`ringbuf::Arena::shared`]).

mod bell;
mod door;
mod port;
mod supervisor;
mod talk;
#[cfg(test)]
mod tests;

pub use port::{VhostPlan, VhostPort};
