//! The examples are the files `NN-name.rs` of this folder; this library is empty.
#![forbid(unsafe_code)]
