//! Stories of whole connections: two stacks over a link that is made up.

mod black_hole;
mod foreign;
mod garbage;
mod link;
mod loss;
mod pair;
mod rare;
mod rules;
mod script;
mod speed;
mod strangers;

/// The seeds of a random test: `SEED=n` is that one, `SEEDS=n` so many, otherwise `few`.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(few),
    }
}

/// Says which seed it was, when a test fails; forgotten when it doesn't.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("SEED={}", self.0);
    }
}

/// A connection with 128 bytes of the application's costs at most 512 bytes.
#[test]
fn a_connection_is_small() {
    let core = size_of::<super::core::Core>();
    let slot = size_of::<super::stack::Slot<[u64; 16]>>();
    assert!(slot <= 512, "{slot} bytes, {core} of them ours");
}
