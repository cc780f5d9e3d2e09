//! Every interleaving of a writer and a reader on one ring, as the memory model allows it.
//!
//! That it sees bugs was tried out: with either release store, or all acquire loads, of `shared.rs` made relaxed,
//! both tests fail ("Causality violation: Concurrent read and write accesses"). It needs no bound on interruptions:
//! all of them take a tenth of a second.
//!
//! ```text
//! RUSTFLAGS='--cfg loom' cargo test -p ringway-ringbuf --release --test loom --target-dir target/loom
//! ```
#![cfg(loom)]

use ringbuf::ring_pair;

/// A ring of two slots that wraps at 2^32: entries come out once, in order, written before they are read.
#[test]
fn entries_are_written_before_they_are_read() {
    loom::model(|| {
        let (mut writer, mut reader) = ring_pair::<u32>(u32::MAX, 2);
        let sender = loom::thread::spawn(move || {
            let mut next = 1;
            for _ in 0..2 {
                let mut grant = writer.reserve(2);
                while next <= 3 && grant.push(next).is_ok() {
                    next += 1;
                }
                grant.commit();
            }
            assert_eq!(writer.lie(), None);
            (writer, next)
        });
        let mut expected = 1;
        for _ in 0..2 {
            let mut batch = reader.peek(2);
            for value in &mut batch {
                assert_eq!(value, expected);
                expected += 1;
            }
            batch.commit();
        }
        let (_writer, next) = sender.join().expect("no panic");
        for value in reader.peek(2) {
            assert_eq!(value, expected);
            expected += 1;
        }
        assert_eq!((expected, reader.lie()), (next, None));
    });
}

/// One slot, used again: the writer overwrites only what has been read.
#[test]
fn slots_are_read_before_they_are_written_again() {
    loom::model(|| {
        let (mut writer, mut reader) = ring_pair::<u32>(u32::MAX, 1);
        let sender = loom::thread::spawn(move || {
            let mut sent = 0;
            for value in [1, 2] {
                let mut grant = writer.reserve(1);
                sent += u32::from(grant.push(value).is_ok());
                grant.commit();
            }
            (writer, sent)
        });
        let mut seen = 0;
        for _ in 0..2 {
            let mut batch = reader.peek(1);
            seen += u32::from(batch.next().is_some());
            batch.commit();
        }
        let (_writer, sent) = sender.join().expect("no panic");
        assert!(seen <= sent && sent <= seen + 1);
    });
}
