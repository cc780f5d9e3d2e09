//! A file's bytes as pages of the arena: what a device can send without a copy.
//!
//! ```text
//!   content of the arena        │ slab │ slab │ slab │ …      128 KiB each, cut into cells of one size
//!   a file                      │ extent 0 │ extent 1 │ rest │       128 KiB each, the rest what it needs
//!
//!   Store::page ── resident ──► Page                         no system call, no lock, no copy
//!        └──────── not yet ───► Later: a cell is lent to the loader, which reads the extent into it,
//!                               asks whether the file is still the same, and gives the cell back
//! ```
//!
//! | kind | who copies | when |
//! |---|---|---|
//! | [`Kind::Snapshot`] | the kernel, from its page cache to the arena, once | at the first use of an extent |
//! | [`Kind::Shared`] | nobody: the file's own pages are in the arena ([`Candidates`]) | |
//! | [`Kind::Direct`] | nobody: the disk's DMA writes the arena | at the first use, and after each eviction |
//!
//! An extent belongs to one [`Entry`](super::tree::Entry), which is one version of one file. After each read the loader
//! asks for the file's size and times; if they are not the entry's, the entry is gone for good and what is missing of it
//! is never sent: a body is whole, or its connection ends.

mod cells;
mod loader;
mod shared;
mod store;

pub(in crate::serve) use loader::open_direct;
pub use shared::{Candidates, Share, SharedFiles};
pub use store::{Kind, KindCounters, Kinds, Piece, Store, StoreCounters, StorePlan};

#[cfg(test)]
mod tests;

/// Bytes of an extent of a file, and of a slab of the arena: the unit of reading and of eviction. Large enough for a disk
/// to be at its best with a few of them under way, small enough that a connection's share of memory is.
pub const EXTENT: usize = 128 << 10;
