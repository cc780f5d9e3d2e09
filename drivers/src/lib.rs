//! DEVICES: one trait, many queues, no policy.
//!
//! A driver moves frames between one pair of rings and its caller, in bursts. It decides nothing: what to do with a
//! frame is the app's business, when to ask for one is the worker's.
//!
//! | module | device |
//! |---|---|
//! | [`loopback`] | two queue pairs back to back in memory; every test starts here |
//! | [`xdp`] | AF_XDP: the NIC's queues through the kernel's fast path |
//! | [`packet`] | AF_PACKET: the kernel-socket fallback |
//! | [`nic`] | network cards and vhost-user from user space: descriptor rings of our own |
//! | [`pci`] | no queue pair: the bus that such cards are on, by VFIO, UIO or in memory |
//! | `dpdk` | any device of DPDK's, with the feature `dpdk` |
//! | [`pcap`] | replay from and record to a capture file |
//! | [`disk`] | no queue pair: files read into content, by io_uring |
//! | [`kernel`] | no queue pair: the ways in which the kernel sends a file over its own sockets |
//! | [`observe`] | no queue pair: what the kernel does for a process, counted |
//! | [`wrap`] | `Tap`, `Lossy`, `Flatten`, `Segment`, `Metered`: queue pairs around a queue pair |
//!
//! How to write one: `examples/04-own-driver.rs`, and the chapter "Writing a driver" of the book.

pub mod checksum;
pub mod disk;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod error;
pub mod kernel;
pub mod link;
pub mod loopback;
pub mod nic;
pub mod observe;
pub mod packet;
pub mod pcap;
pub mod pci;
mod plain;
pub mod queue;
mod random;
mod rings;
mod runs;
mod segment;
mod socket_path;
pub mod spec;
pub mod wrap;
pub mod xdp;

pub use error::{CAPABILITIES, Fault, OpenError};
pub use queue::{Caps, Copying, Gather, Passing, QueueCounters, QueuePair, Tally};
pub use spec::{PortSpec, SpecError};
