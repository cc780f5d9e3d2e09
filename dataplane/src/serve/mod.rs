//! Serving files.
//!
//! | module | |
//! |---|---|
//! | [`http`] | HTTP/1.1: bytes to a request, a request to the head of a response and a plan of its body |

pub mod http;
