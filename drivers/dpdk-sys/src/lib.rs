//! libdpdk behind a shim of opaque handles and bursts, declared as `shim/ringway_dpdk.h` has them.
//!
//! What costs per packet in DPDK is inline C over `rte_mbuf`, whose layout is no contract. So bursts are turned in C
//! (`shim/queue.c`), and Rust sees plain descriptors: an offset in the arena, a length, options.
//!
//! Empty without the feature `link`, so that the workspace builds where there is no libdpdk. `drivers/src/dpdk/ffi.rs` is
//! the only caller, and has the rules.
#![cfg_attr(not(feature = "link"), forbid(unsafe_code))]

#[cfg(feature = "link")]
mod shim;

#[cfg(feature = "link")]
pub use shim::*;
