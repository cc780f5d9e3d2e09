//! TCP without input and output of its own: segments in, segments out, time as an argument.
//!
//! A [`Stack`] is the connections of one worker. What came in goes to [`Stack::receive`]; what is due is done by
//! [`Stack::tick`]; [`Stack::transmit`] names the segments that go out to an [`Out`]. The application is a [`Service`],
//! and keeps what it needs per connection in the connection's own place.
//!
//! There is no send buffer. The application says by how many bytes its stream grew; a segment names the offsets of the
//! stream that it carries, and a retransmission names them again. So a connection costs a few hundred bytes, whatever it
//! sends.
//!
//! | file | |
//! |---|---|
//! | `stack` | the connections, their places, the calls of the application |
//! | `strays` | segments without a connection: SYNs, TIME-WAIT, resets |
//! | `handshake` | SYN and SYN-ACK (RFC 9293 section 3.5, RFC 7323, RFC 3168) |
//! | `cookies` | a handshake without memory (RFC 4987) |
//! | `icmp` | what the network says (RFC 1191, 8201, 5927) |
//! | `input` | a segment for a connection (RFC 9293 section 3.10.7.4, RFC 5961, RFC 7323) |
//! | `recovery` | acknowledgements and timers (RFC 6298, 6582, 6675, 8985) |
//! | `congestion`, `cubic` | the congestion window (RFC 5681, 6937, 9438, 6928) |
//! | `output` | what a connection sends in its turn |
//! | `scoreboard` | what is in flight |
//! | `reassembly` | what came and is not consumed |
//! | `timers`, `table`, `time_wait` | who is due, who is meant, who was |
//! | `moves` | peers that another router answers for now, or so it seems |
//! | `segment`, `seq`, `isn`, `rtt` | the small parts |

mod config;
mod congestion;
mod conn;
mod cookies;
mod core;
mod cubic;
mod handshake;
mod icmp;
mod input;
mod isn;
mod moves;
mod output;
mod reassembly;
mod recovery;
mod rtt;
mod scoreboard;
pub mod segment;
mod seq;
mod shared;
mod stack;
mod stats;
mod strays;
mod table;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;

pub use config::{Config, Cookies, Keepalive, Limits};
pub use conn::{Closed, Conn, ConnId, Out, Sent, Service};
pub use core::State;
pub use segment::{Flags, Segment};
pub use seq::Seq;
pub use stack::Stack;
pub use stats::Stats;
