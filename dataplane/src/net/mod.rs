//! One host on Ethernet: what is around a TCP segment, and what else a host must answer for.
//!
//! ```text
//!   frame ─► Host::input ─┬─► Tcp       where the segment lies, and the way back      ─► tcp
//!                         ├─► Answer    the frame has become the answer: send it back (ARP, echo, ND, unreachable)
//!                         ├─► TcpError  an ICMP error about one of our connections    ─► tcp
//!                         ├─► Learnt    a neighbour's MAC address
//!                         ├─► Taken     something for the host itself
//!                         └─► Discard   a named reason
//!
//!   tcp ─► write_headers ─► frame          Host::poll ─► what the host sends by itself: probes, solicitations
//!          Host::route: the way to a peer that is dialled
//! ```
//!
//! Nothing here reads a clock or makes a system call. A server needs no neighbour: replies go back to the MAC address
//! that the peer's segments come from, which its [`Path`] holds. Only who dials resolves addresses.
//!
//! | file | |
//! |---|---|
//! | `path.rs` | the way to a peer |
//! | `plan.rs` | what the user says of this host |
//! | `kernel.rs` | the same, read from the kernel that owns the addresses |
//! | `wire.rs` | frame in: tags, IP headers, checksums, as fast as may be |
//! | `pieces.rs` | a packet in several frames, put together |
//! | `host.rs` | what a frame is, and who sees to it |
//! | `arp.rs`, `icmp4.rs`, `icmp6.rs`, `nd.rs` | the protocols that a host must speak |
//! | `errors.rs` | ICMP errors: those we send, how often, and those about our connections |
//! | `neighbours.rs` | the neighbour cache |
//! | `claim.rs` | probing for our addresses, announcing and defending them |
//! | `message.rs` | packets that the host makes by itself |
//! | `headers.rs` | headers out |

mod arp;
mod claim;
mod errors;
mod headers;
mod host;
mod icmp4;
mod icmp6;
mod kernel;
mod message;
mod nd;
mod neighbours;
mod path;
mod pieces;
mod plan;
mod wire;

#[cfg(test)]
mod tests;

pub use claim::Conflict;
pub use errors::{TcpError, Trouble};
pub use headers::{HEADER_BYTES, Headers, Patch, Template, write_headers};
pub use host::{Host, HostCounters, Input, Route};
pub use kernel::kernel_neighbours;
pub use message::Message;
pub use neighbours::Neighbour;
pub use path::{Address, Ecn, Path, Vlan};
pub use pieces::Pieces;
pub use plan::{Hop, HostPlan, InterfacePlan, PlanError, Prefix, Tags};
