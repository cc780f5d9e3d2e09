//! Asking a server for as much as it can give, and timing its answers.
//!
//! ```text
//!   LoadPlan ─► Run ─┬─ thread: Sockets ──┬─ Caller: schedule, requests, answers, histogram ─► Tally
//!                    └─ worker: LoadClient ┘
//! ```
//!
//! One client, two ways out: what is said and heard, and how it is counted, is the same over the kernel's sockets
//! (`sockets`) and over our own TCP on any port (`client`).
//!
//! | file | |
//! |---|---|
//! | `url`, `plan` | what is asked for, how often, for how long |
//! | `run` | what threads share: the plan, the end, who is how far |
//! | `caller` | what is said and heard, and counted |
//! | `pace` | when the next request is due |
//! | `reader`, `head`, `chunks` | responses out of bytes |
//! | `tally` | counters and histograms |
//! | [`report`] | what is printed |
//! | `sockets` | over the kernel's sockets |
//! | [`client`] | over our own TCP |

mod caller;
mod chunks;
pub mod client;
mod head;
mod pace;
mod plan;
mod reader;
pub mod report;
mod run;
mod sockets;
mod tally;
#[cfg(test)]
mod tests;
mod url;

pub use plan::{LoadPlan, Mode, PlanError, Questions, Verify};
pub use reader::BodyHash;
pub use run::{Hopeless, Progress, Run, RunEnd};
pub use sockets::Threads;
pub use tally::{Latency, Mishap, Summary, Tally};
pub use url::{Url, UrlError};
