//! The laboratory's bench: what a test over real interfaces needs.
//!
//! * [`needs!`] skips a test where a right or a tool is missing, and says so;
//! * [`TestLab`] is a laboratory of the test's own, gone when the test ends, also by a panic;
//! * [`Ringway`] is the program under test as a process inside it;
//! * [`traffic`] and [`counters`] are the real peers: the kernel's own TCP, UDP and ping, and what its interfaces counted;
//! * [`Forwarder`] is `ringway forward` between its two ports, [`Report`] what it printed;
//! * [`server`] is `ringway serve` with a tree of files, and its clients;
//! * [`engine`] is the same over the kernel's sockets;
//! * [`client`] is a client of our own, for paths that no kernel here can take;
//! * [`indoors`] is the file server and that client over wires in memory;
//! * [`guest`] is a kernel of our choice with emulated NICs, in QEMU;
//! * [`measured`] is what the benchmarks put side by side;
//! * [`raw`] sends frames that no kernel stack touches, and looks at each that arrives;
//! * `dpdk`, with the feature, opens DPDK devices in the test's own process;
//! * [`stories`] is what any server is told: requests, and the status of each;
//! * [`upload`] is requests that store something, and what is left of them;
//! * [`source`] reads Rust source for the tests that hold the tree to its own rules.
#![forbid(unsafe_code)]

pub mod client;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod engine;
mod forwarder;
pub mod guest;
pub mod indoors;
pub mod measured;
pub mod needs;
mod process;
pub mod raw;
pub mod server;
pub mod source;
pub mod stories;
mod testlab;
pub mod upload;

pub use dataplane::lab::{counters, traffic};
pub use forwarder::{Forwarder, Report};
pub use process::{Ended, Ringway};
pub use testlab::TestLab;

/// Anything that may go wrong in a helper: a test only prints it.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
