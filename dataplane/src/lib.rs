//! POLICY: the loop, the forwarder and what the command line needs.
//!
//! Start reading at [`worker`]: `Worker::turn` is all that the dataplane ever does.
//!
//! | module | |
//! |---|---|
//! | [`worker`] | one turn of the loop |
//! | [`app`] | what a worker does with frames, and where it puts them |
//! | [`hand_off`] | packets on their way to another worker |
//! | [`forward`] | the forwarding modes: `wire`, `mac-swap` |
//! | [`net`] | one host on Ethernet: VLAN, ARP, ND, IP, ICMP; what is around a TCP segment |
//! | [`stats`] | named reasons, the counters page, the books |
//! | [`ports`] | opening what the user named; the only `match` over drivers |
//! | [`serve`] | serving files over HTTP |
//! | [`load`] | asking a server for as much as it can give, and timing it |
//! | [`session`] | workers on their threads, from the first queue to the books |
//! | [`report`] | what a session prints, as text and JSON |
//! | [`rights`] | what it takes to open a port |
//! | [`lab`] | two hosts as network namespaces, and the cables between them |
//! | [`doctor`] | what this machine and its interfaces can do |
//! | [`demo`] | the demonstration, act by act, and its one table |
//! | [`compare`] | every way to send a file, measured side by side |
//! | [`net`] | what is around a segment: addresses, headers, neighbours |
//! | [`tcp`] | TCP without input and output of its own |
//! | [`run`] | a worker on its thread: clock, idling, stopping |
#![forbid(unsafe_code)]

pub mod app;
pub mod compare;
pub mod demo;
pub mod doctor;
pub mod forward;
pub mod hand_off;
pub mod lab;
pub mod load;
pub mod net;
pub mod ports;
pub mod report;
pub mod rights;
pub mod run;
pub mod serve;
pub mod session;
pub mod stats;
pub mod tcp;
pub mod worker;

pub use app::{App, Outbox, PortId};
pub use run::{Ended, Idle};
pub use stats::{Board, Books, Reason, Snapshot};
pub use worker::{Tick, Worker};
