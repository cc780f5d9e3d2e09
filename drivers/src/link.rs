//! What the kernel says of a network interface.
