//! AF_XDP: our own rings over a socket, and the XDP program that feeds them.
//!
//! An [`XdpPort`] is an interface with the program on it; any thread may hold it. A [`Umem`] is a worker's arena as the
//! kernel knows it. An [`XdpQueue`] is one queue of the port, bound on the worker's thread with the worker's arena.
//!
//! | file | |
//! |---|---|
//! | `port.rs` | the interface, its program, promiscuous mode |
//! | `open.rs` | binding a queue: modes tried, refusals in words |
//! | `queue.rs` | the running queue: fill, receive, transmit, complete |
//! | `umem.rs` | one registration shared by all queues |
//! | `socket.rs` | every system call and mapping |
//! | `program.rs` | loading and attaching `bpf/port.bpf.c` |

mod open;
mod port;
mod program;
mod queue;
mod socket;
mod umem;

pub use port::{XdpPlan, XdpPort};
pub use program::{
    AttachError, Cause, Endpoint, Filter, FilterError, MAX_ENDPOINTS, Mode, PortProgram, Program, Sink,
    SinkProgram, Step, Traffic, Verdicts,
};
pub(crate) use program::{log_through_tracing, percpu_sums};
pub use queue::XdpQueue;
pub use umem::Umem;
