//! The TCP fuzz target of `tests/fuzz`, from seeds: the same few thousand inputs in every run.
#![forbid(unsafe_code)]

#[expect(unreachable_pub, reason = "the fuzz target reaches it, in a package of its own")]
#[path = "../../tests/fuzz/src/tcp.rs"]
mod tcp;

/// Marsaglia's xorshift64.
fn random(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.to_le_bytes()[5]
}

/// A peer that opens a connection on each of two ports, and sends a little: what follows meets them under way.
const OPENING: &[u8] = &[
    // A SYN with a window and no options; then its acknowledgement; then ten bytes.
    0x08, 0x00, 0x80, 0, 0, 0, 0x08, 0x00, 0x00, 0, 0, 0, 0x08, 0x40, 0x00, 0, 0, 10,
    // The same from the next port, with timestamps.
    0x48, 0x0c, 0x80, 0, 0, 0, 0x48, 0x0c, 0x00, 0, 0, 0, 0x48, 0x4c, 0x00, 0, 0, 10,
];

#[test]
fn tcp_segment() {
    let rounds = if std::env::var_os("PROPTEST_CASES").is_some() { 50 } else { 4000 };
    // `SEED=n`: that one alone.
    let one: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(1..rounds, |seed| seed..seed + 1) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = vec![random(&mut state)];
        if seed % 8 != 0 {
            // Never cookies alone, and room for what is half open.
            bytes[0] = bytes[0] & !4 | 0x30;
            bytes.extend_from_slice(OPENING);
        }
        bytes.extend((0..random(&mut state)).flat_map(|_| [random(&mut state), random(&mut state)]));
        let ended = std::panic::catch_unwind(|| tcp::tcp_segment(&bytes));
        assert!(ended.is_ok(), "SEED={seed}");
    }
}
