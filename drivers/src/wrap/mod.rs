//! Queue pairs around a queue pair: to watch, to break, to flatten, to measure.
//!
//! | wrapper | what it adds |
//! |---|---|
//! | [`Tap`] | writes what passes to a capture file |
//! | [`Lossy`] | loses, doubles, damages, reorders and delays what is received, from a seed |
//! | [`Flatten`] | gathers for a queue that cannot, by copying, and counts every byte copied |
//! | [`Segment`] | cuts large packets into segments for a queue that cannot |
//! | [`Metered`] | how full the bursts are |
//!
//! A wrapper passes on its queue's capabilities, fault and counters, and adds its own numbers to the latter.

mod flatten;
mod lossy;
mod metered;
mod segment;
mod tap;

pub use flatten::Flatten;
pub use lossy::{Faults, Lossy, LossyPlan};
pub use metered::{Meter, Metered};
pub use segment::Segment;
pub use tap::{Direction, Tap, TapCounts, TapPlan};
