//! HTTP/1.1 as a file server speaks it, apart from how bytes travel: over our own TCP or over the kernel's sockets.
//!
//! [`facts`] is what the file side tells of a file; everything else is built on it.

pub mod date;
pub mod facts;
pub mod media;

pub use date::{Clock, Date};
pub use facts::{Coding, Etag, Facts, Listing, Representation, Resource};
