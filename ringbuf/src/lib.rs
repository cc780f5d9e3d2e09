//! MEMORY: rings, and the buffers that travel through them.
//!
//! # The life of a frame
//!
//! ```text
//!            alloc                    depart                       (the wire)
//!   free ───────────► thread ───────────────────► device: transmit ─────┐
//!    ▲ ▲               │  ▲                                             │ reclaim
//!    │ └───── drop ────┘  │ arrive                                      │
//!    │                    │                                             │
//!    │      lend        device: receive                                 │
//!    ├─────────────────►──┘                                             │
//!    └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A [`Frame`] is a slot of the [`Arena`] that this thread owns; dropping it gives the slot back to its [`Pool`].
//! While a device has a slot there is no `Frame` for it, only an entry in the [`Ledger`]: when a number comes back
//! from a device, the ledger says whether that device could have had it. A device that lies gets a [`Stray`], never
//! somebody else's memory.
//!
//! Frames do not leave their thread. What another worker must send travels as a [`Parcel`], and its slot finds the
//! way home through a bounded queue.
//!
//! # Reading order
//! [`cursor`] (the algebra of every ring), [`shared`] (rings over memory that a peer writes too), [`arena`],
//! [`ledger`], [`pool`], [`frame`], [`burst`], [`shelf`], [`page`], [`content`], [`parcel`].

pub mod arena;
pub mod burst;
pub mod content;
pub mod cursor;
pub mod frame;
pub mod ledger;
pub mod page;
pub mod parcel;
pub mod pool;
pub mod shared;
pub mod shelf;
mod sync;

pub use arena::{Arena, ArenaError, ArenaPlan, Backing, FileMap, Keeper};
pub use burst::{BURST, Burst};
pub use content::ContentGrant;
pub use cursor::Cursor;
pub use frame::{Frame, NoRoom, Offload, Segmentation};
pub use ledger::{Ledger, Loan, Slot, Stray};
pub use page::{Front, PACKET_PAGES, Packet, Packets, Page};
pub use parcel::Parcel;
pub use pool::{Census, Gate, HEADROOM, Pool};
pub use shared::{Batch, Grant, RingParts, SharedConsumer, SharedProducer, ring_pair};
pub use shelf::{Lot, Shelf};
