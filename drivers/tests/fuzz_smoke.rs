//! The fuzz targets of `tests/fuzz`, from seeds: the same few thousand inputs in every run.

#[expect(unreachable_pub, reason = "the fuzz targets reach them, in a package of their own")]
#[path = "../../tests/fuzz/src/bodies.rs"]
mod bodies;

/// Marsaglia's xorshift64.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Inputs of up to 600 bytes; under valgrind fewer of them (`PROPTEST_CASES`).
fn run(seed: u64, body: impl Fn(&[u8]), shape: impl Fn(&mut Vec<u8>)) {
    let rounds = if std::env::var_os("PROPTEST_CASES").is_some() { 50 } else { 3000 };
    let mut state = seed;
    for _ in 0..rounds {
        let len = usize::try_from(random(&mut state) % 600).expect("small");
        let mut bytes: Vec<u8> = (0..len).map(|_| random(&mut state).to_le_bytes()[3]).collect();
        shape(&mut bytes);
        body(&bytes);
    }
}

#[test]
fn shared_ring_peer() {
    run(1, bodies::shared_ring_peer, |_| ());
}

#[test]
fn ledger_device() {
    run(2, bodies::ledger_device, |_| ());
}

#[test]
fn virtio_device() {
    run(4, bodies::virtio_device, |_| ());
}

/// Most bytes scribbled into capabilities leave none, so few are.
#[test]
fn virtio_card() {
    run(5, bodies::virtio_card, |bytes| {
        let scribbles = bytes.first().map_or(0, |first| usize::from(first % 8));
        bytes.truncate(5 + 2 * scribbles);
    });
}

/// Random bytes are hardly ever IP, so most of these are given its headers, and some the pseudo header's sum.
#[test]
fn checksum_packet() {
    run(3, bodies::checksum_packet, |bytes| {
        if bytes.len() < 60 || bytes[0] % 4 == 0 {
            return;
        }
        bytes[13..15].copy_from_slice(&[8, 0]);
        bytes[15] = 0x45;
        let total = u16::try_from(bytes.len() - 15).expect("short");
        bytes[17..19].copy_from_slice(&total.to_be_bytes());
        bytes[21..23].fill(0);
        bytes[24] = if bytes[1] % 2 == 0 { 6 } else { 17 };
        let field = if bytes[24] == 6 { 16 } else { 6 } + 35;
        let words = bytes[27..35].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let mut sum = words.sum::<u32>() + u32::from(bytes[24]) + u32::from(total - 20);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[field..field + 2].copy_from_slice(&u16::try_from(sum).expect("folded").to_be_bytes());
    });
}
