//! The load generator allocates nothing for a request: not to ask, not to hear, not to count.
#![deny(unsafe_code)]

mod counting;

use dataplane::load::{LoadPlan, Mode, Questions, Run, Threads, Verify};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of all threads: nobody here may allocate.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";

/// Answers each read with as many responses as it had requests, in two pieces; allocates nothing.
fn serve(listener: &TcpListener) {
    std::thread::scope(|scope| {
        for stream in listener.incoming().take(4).flatten() {
            scope.spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 4096]);
                // Or the second piece would wait for an acknowledgement of the first.
                let _ = stream.set_nodelay(true);
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    for _ in 0..buffer[..read].iter().filter(|byte| **byte == b'G').count() {
                        let sent = stream.write_all(ANSWER).and_then(|()| stream.write_all(&[b'x'; 1000]));
                        if sent.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_warm_client_allocates_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("an address");
    let serving = std::thread::spawn(move || serve(&listener));
    let urls = [format!("http://{server}/a"), format!("http://{server}/b")];
    let questions = Questions::new(&urls, &[], &[]).expect("sound");
    let run = Arc::new(Run::new(
        LoadPlan {
            server,
            requests: questions.requests,
            paths: questions.paths,
            connections: 4,
            pipeline: 2,
            mode: Mode::Closed,
            warmup: Duration::ZERO,
            duration: None,
            limit: None,
            timeout: Duration::from_secs(5),
            verify: Verify::First,
        },
        1,
    ));
    let threads = Threads::start(&run, &[]).expect("a thread");
    std::thread::sleep(Duration::from_millis(500));
    let (before, warm) = (ALLOCATIONS.load(Ordering::Relaxed), run.progress());
    std::thread::sleep(Duration::from_millis(1000));
    let (after, done) = (ALLOCATIONS.load(Ordering::Relaxed), run.progress());
    run.stop();
    threads.join().expect("no panic");
    serving.join().expect("no panic");
    assert!(done.requests > warm.requests + 1000 && done.errors == 0, "{done:?}");
    assert_eq!(after - before, 0, "{} requests", done.requests - warm.requests);
}
