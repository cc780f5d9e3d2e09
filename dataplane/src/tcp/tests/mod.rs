//! Stories of whole connections: two stacks over a link that is made up.

mod link;
mod pair;

/// A connection with 128 bytes of the application's costs at most 512 bytes.
#[test]
fn a_connection_is_small() {
    let core = size_of::<super::core::Core>();
    let slot = size_of::<super::stack::Slot<[u64; 16]>>();
    assert!(slot <= 512, "{slot} bytes, {core} of them ours");
}
