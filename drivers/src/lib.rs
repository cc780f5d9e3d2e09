//! DEVICES: one trait, many queues, no policy.

pub mod link;
pub mod xdp;
