//! Any device that DPDK has a driver for: NICs taken from the kernel, and virtual ones.
//!
//! ```text
//!            receive ring of the device                       transmit ring
//!   herd ──── mbufs of empty slots ────► filled ─► burst ─► mbufs of frames ────► sent ──► herd
//!     ▲ lend                                                                                │ reclaim
//!   pool ◄──────────────────────── what rests beyond a few bursts ──────────────────────────┘
//! ```
//!
//! Each slot of the arena has one `rte_mbuf` for ever, whose buffer is the slot: no frame is copied. The arena lies in
//! DPDK's own memory ([`arena`]), which every device can reach and a vhost-user peer can map: memory that is registered from
//! outside (`rte_extmem_register`) has no file, so that no peer could. What arrives in mbufs of another pool's is copied, and
//! every byte of that counted.
//!
//! | file | |
//! |---|---|
//! | `plan.rs` | what a user types |
//! | `eal.rs` | DPDK's environment, so that nobody learns its arguments |
//! | `port.rs` | a device: probed, configured, started with its last queue, closed with its first |
//! | `in_the_way.rs`, `hints.rs` | what keeps a device from opening, and what usually helps |
//! | `herd.rs` | an arena's frames as DPDK knows them |
//! | `queue.rs`, `packet.rs` | the running queue; packets out of the ordinary |
//! | `mbuf.rs` | the hot halves of that: between mbufs and frames in one step |
//! | `ffi.rs` | every call into the shim |

mod eal;
mod ffi;
mod herd;
mod hints;
mod in_the_way;
mod mbuf;
mod packet;
mod plan;
mod port;
mod queue;

pub use herd::Herd;
pub use plan::DpdkPlan;
pub use port::DpdkPort;
pub(crate) use queue::Arrived;
pub use queue::DpdkQueue;

use ringbuf::{Arena, ArenaError, ArenaPlan};
use std::io;

/// Maps an arena in DPDK's memory. A port must have been opened before.
///
/// # Errors
/// [`ArenaError`], with the cure when DPDK's memory is too small.
pub fn arena(plan: &ArenaPlan) -> Result<Arena, ArenaError> {
    let Some(backing) = eal::backing() else {
        return Err(ArenaError::Plan("memory of DPDK's is there once a port has been opened"));
    };
    eal::forget_complaints();
    ffi::arena(plan, backing).map_err(|error| match error {
        ArenaError::Map { bytes, .. } => ArenaError::Map {
            bytes,
            source: io::Error::new(
                io::ErrorKind::OutOfMemory,
                "DPDK has not so much memory left in one piece: give the first port more, memory=MIB, or reserve more \
                 huge pages, sysctl vm.nr_hugepages=N",
            ),
        },
        other => other,
    })
}

/// The names of all devices that DPDK has opened in this process, whoever asked for them: those of open ports, and no others.
#[must_use]
pub fn devices() -> Vec<String> {
    if eal::backing().is_some() { ffi::devices() } else { Vec::new() }
}
