//! POLICY: the loop, the forwarder and what the command line needs.
#![forbid(unsafe_code)]

pub mod lab;
