//! What is around a segment: where a peer is, and what its headers say.

mod path;

pub use path::{Address, Ecn, Path, Vlan};
