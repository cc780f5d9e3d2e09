//! The forwarding modes. Each is an app; none looks further than it must.

mod mac_swap;
mod wire;

pub use mac_swap::MacSwap;
pub use wire::Wire;

/// Bytes of an Ethernet header: two addresses and a type (IEEE 802.3 §3.2).
pub(crate) const ETHERNET_HEADER: u16 = 14;
