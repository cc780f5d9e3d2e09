//! Intel's gigabit Ethernet: the 82574L (the kernel's e1000e) and the 82576 (igb).
//!
//! ```text
//!   e1000e, igb   the two cards: registers, descriptors, how a queue is started and stopped
//!   card          what the rest asks of a card
//!   queue         a queue pair over two descriptor rings          receive, transmit   its halves
//!   offload       what of a packet is left to the card         watch               whether it still reports
//!   fake          a card in memory, which can lie
//! ```
//!
//! Both have rings of descriptors of 16 bytes. What lies from head to tail is the card's; we write the tail, and learn what
//! is done by a bit that the card sets in the descriptor itself (DD), never by reading its head: a read across the bus
//! takes as long as a thousand instructions.
//!
//! ```text
//!   receive     ┌ empty: address of a buffer, 0       filled: length, DD, EOP at the packet's last ┐
//!   transmit    └ address, length, EOP at the last, RS at the last of a batch        sent: DD there ┘
//! ```
//!
//! The documents are the "Intel 82574 GbE Controller Family Datasheet" (317694, rev. 2.7, for e1000e.rs) and the "Intel 82576EB
//! Gigabit Ethernet Controller Datasheet" (rev. 2.63, for igb.rs). They could not be had here. Sections are named by number only
//! where other public drivers and reviews that had the document cite the same number for the same thing; elsewhere the register's
//! name stands alone, by which its section is found. Held against the kernel's igb (e1000_82575.h, e1000_defines.h) were the bits of
//! transmit descriptors and contexts, SRRCTL, MRQC and QUEUE_ENABLE.
//!
//! The card is believed about nothing: it names no buffers, only says that the next one is done, and of how many bytes;
//! the length is held against what it was given, and the pool's ledger has the last word.

mod card;
mod e1000e;
pub mod fake;
mod igb;
mod loans;
mod offload;
mod port;
mod queue;
mod receive;
mod transmit;
mod watch;

pub use port::IntelPort;
