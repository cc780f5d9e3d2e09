#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::shared_ring_peer(bytes));
