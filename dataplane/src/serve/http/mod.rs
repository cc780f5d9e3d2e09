//! HTTP/1.1 as a file server speaks it (RFC 9110, RFC 9112), apart from how bytes travel: over our own TCP or over the
//! kernel's sockets.
//!
//! ```text
//!   bytes ─► Request::parse ─► (the file side: which file?) ─► respond ─► head in the caller's buffer, plan of the body
//! ```
//!
//! | module | |
//! |---|---|
//! | [`intake`] | request after request of one connection, keep-alive and pipelined |
//! | [`request`] | the head of a request, strictly parsed |
//! | [`facts`] | what the file side tells of a file |
//! | [`respond`](mod@respond) | a request and its file to a response |
//! | [`response`] | a response as a plan: stream offset to bytes by arithmetic |
//! | [`policy`] | what a site adds: fields, cache rules, error pages |
//! | [`limits`] | what a client may ask of us |
//! | [`peers`] | connections by address |
//! | [`status`] | status codes; why bytes were refused |
//! | [`counts`] | what HTTP counts |
//! | [`media`] | media types by name |
//! | [`date`] | dates, and the clock of a worker |

mod chunks;
mod conditions;
pub mod counts;
pub mod date;
mod encoding;
pub mod facts;
mod head;
pub mod intake;
pub mod limits;
pub mod media;
pub mod peers;
pub mod policy;
mod ranges;
pub mod request;
pub mod respond;
pub mod response;
pub mod status;
mod target;

pub(in crate::serve) use chunks::{Chunks, Part};
pub(in crate::serve) use conditions::may_store;
pub use counts::{Counts, CountsBoard};
pub use date::{Clock, Date};
pub use facts::{Coding, Etag, Facts, Listing, Representation, Resource};
pub use head::HEAD_MAX;
pub use intake::{Intake, Next};
pub use limits::{FIELDS_MAX, HEAD_BYTES_MAX, Limits, Waiting};
pub use peers::Peers;
pub use policy::{Pattern, Policy, PolicyError, PolicyPlan};
pub use ranges::RANGES_MAX;
pub use request::{Conditions, Expect, Framing, Method, Parsed, Request, Scratch, Sent, Version};
pub use respond::{Storage, invite, refuse, respond, stored};
pub use response::{Body, Parts, Place, Response};
pub use status::{Refusal, STATUSES};
#[cfg(test)]
mod tests;
