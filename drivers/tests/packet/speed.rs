//! A measurement.

use crate::tcp::transfer_through_a_wire;
use crate::world::*;
use drivers::QueuePair;
use ringbuf::{Burst, Pool};
use std::time::{Duration, Instant};

/// How fast it is, in one thread, to be read and not to be judged: `cargo test --release -p ringway-drivers --test packet
/// -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn throughput() {
    for bytes in [60, 1514] {
        in_namespace("throughput", move || {
            veth(1500);
            let pool = pool(2048, 2048);
            let (mut left, mut right) = pair(&pool);
            let (mut out, mut burst, start) = (Burst::new(), Burst::new(), Instant::now());
            let (content, cpu) = (packet(bytes, 1), cpu_seconds());
            while start.elapsed() < Duration::from_secs(2) {
                put_full(&pool, &mut out, &content);
                left.transmit(&mut out);
                left.tend();
                right.receive(&mut burst);
                burst.clear();
                right.tend();
            }
            let (sent, received) = (left.counters().transmitted.packets, right.counters());
            println!(
                "{bytes} bytes: {:.2} Mpps sent and received, {:.2} per second of CPU time, missed {}",
                received.received.packets as f64 * 1e-6 / start.elapsed().as_secs_f64(),
                received.received.packets as f64 * 1e-6 / (cpu_seconds() - cpu),
                received.receive_missed
            );
            assert_eq!(sent, received.received.packets + received.receive_missed);
        });
    }
    in_namespace("throughput", || transfer_through_a_wire(1500, 2048, 8 << 30));
}

fn put_full<'p>(pool: &'p Pool, burst: &mut Burst<'p>, packet: &[u8]) {
    while burst.room() > 0 {
        put(pool, burst, packet, 1792);
    }
}

/// What this thread has used, the kernel's work in its name included: first number of `schedstat`, in nanoseconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
    stat.split(' ').next().and_then(|used| used.parse::<f64>().ok()).expect("a number") * 1e-9
}
