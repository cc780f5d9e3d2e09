//! Serving files.
//!
//! | module | |
//! |---|---|
//! | [`http`] | HTTP/1.1: bytes to a request, a request to the head of a response and a plan of its body |
//! | [`kernel`] | the same over the kernel's sockets |
//! | [`log`] | the access log |
//! | [`metrics`] | numbers for Prometheus |
//! | [`server`] | the server as an app |
//! | [`tree`] | which file a path is |
//! | [`content`] | a file's bytes as pages that a device can read |
//! | [`bell`] | waking a thread that sleeps |
//! | `responder`, `answers` | a request to a response that is under way, whatever it travels over |
//! | `repeats` | the answers of this second, for those who ask the same |
//! | `control` | what workers are told from outside |
//! | `front` | who tells them: site, stage, access log, numbers for Prometheus |
//! | [`site`] | what is served, exchanged as a whole |

mod answers;
pub mod bell;
pub mod content;
mod control;
mod front;
pub mod http;
pub mod kernel;
pub mod log;
pub mod metrics;
mod repeats;
mod responder;
pub mod server;
pub mod site;
#[cfg(test)]
mod testing;
pub mod tree;
mod waiters;

pub use control::Stage;
pub use front::FrontError;
pub use waiters::Waiter;
