//! The packet driver against the kernel: two queues on the two ends of a veth, or between two hosts.
//!
//! Each test lives in a network namespace of its own thread, which vanishes with it.

mod frames;
mod link;
mod speed;
mod tcp;
mod world;
