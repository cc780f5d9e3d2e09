//! What slow readers cost.

use super::*;

/// What a slow reader did not take yet is not read a second time, as long as there are buffers.
#[test]
fn a_slow_reader_costs_no_further_reads() {
    const BYTES: u32 = 1 << 20;
    let file = Sample::new(&content(BYTES));
    for (method, mut engine) in engines(128) {
        let (socket, mut receiver) = connection();
        let thread = std::thread::spawn(move || taken_slowly(&mut receiver).len());
        let full = send_stretch(&mut engine, 0, &socket, b"head", &file, (0, BYTES.into()));
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Write).expect("ends");
        assert_eq!(thread.join().expect("no panic"), BYTES as usize + 4, "{method}");
        end(&mut engine, 0, &socket);
        engine.finish();
        let counters = engine.counters();
        let reads = matches!(
            method,
            Method::ReadWrite
                | Method::Uring
                | Method::UringZerocopy
                | Method::DirectAio
                | Method::DirectUring
        );
        assert!(full > 0, "{method}: the socket was never full");
        assert_eq!(counters.read_bytes, if reads { BYTES.into() } else { 0 }, "{method}: {counters:?}");
        assert_eq!(counters.fallback_bytes, 0, "{method}: {counters:?}");
    }
}

/// Few buffers wait for slow readers, however many of these there are, and fewer are kept when all are gone.
#[test]
fn buffers_of_slow_readers_are_bounded() {
    fn job<'j>(file: &'j Arc<Sample>, socket: &'j Rc<OwnedFd>, offset: u64) -> Job<'j, Sample> {
        Job { socket, head: &[], file, offset, bytes: 65_536 - offset, more: false, check: false }
    }
    let plan = EnginePlan { chunk: 16 << 10, pipe: 16 << 10, buffers: 4 };
    let (file, mut engine) = (Sample::new(&content(65_536)), copy::ReadWrite::new(&plan));
    let mut connections: Vec<_> = (0..copy::HELD + 20).map(|_| connection()).collect();
    let mut sent = vec![0; connections.len()];
    for ((flow, (socket, _)), sent) in (0..).zip(&connections).zip(&mut sent) {
        while let Step::Sent(bytes) = engine.push(flow, &job(&file, socket, *sent)) {
            *sent += bytes;
        }
    }
    assert_eq!(engine.spare_and_held().1, copy::HELD);
    // The last of them had no place, and gets what it asked for all the same.
    let last = connections.len() - 1;
    let (socket, mut receiver) = connections.remove(last);
    let thread = std::thread::spawn(move || taken_slowly(&mut receiver));
    let flow = u32::try_from(last).expect("few");
    while sent[last] < 65_536 {
        match engine.push(flow, &job(&file, &socket, sent[last])) {
            Step::Sent(bytes) => sent[last] += bytes,
            Step::Full => std::thread::sleep(Duration::from_millis(1)),
            step => panic!("{step:?}"),
        }
    }
    rustix::net::shutdown(&*socket, rustix::net::Shutdown::Write).expect("ends");
    assert!(thread.join().expect("no panic") == content(65_536));
    for (flow, (socket, _)) in (0..).zip(&connections) {
        Engine::<Sample>::close(&mut engine, flow, socket);
    }
    assert_eq!(engine.spare_and_held(), (copy::SPARE, 0));
}
