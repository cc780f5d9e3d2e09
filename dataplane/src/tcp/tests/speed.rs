//! How fast a stream is over a link that loses, and how many segments that takes.

use super::link::{App, Link, Weather};
use crate::tcp::{Config, Limits};
use std::time::Duration;

/// A stream of so many bytes over a round trip of 20 ms, both windows 1 MiB. Returns seconds, and segments per thousand
/// beyond those that were needed.
fn stream(bytes: u64, loss: u64, change: impl Fn(&mut Config), weather: impl Fn(&mut Weather)) -> (f64, u64) {
    let mut config = Config {
        max_connections: 4,
        receive_blocks: 2,
        receive_block_bytes: 1 << 20,
        receive_window: 1 << 20,
        limits: Limits { mtu: 1500, largest_segment: 0 },
        ..Config::default()
    };
    change(&mut config);
    let mut conditions = Weather { delay: Duration::from_millis(10), loss, ..Weather::CALM };
    weather(&mut conditions);
    let mut link = Link::new(4, conditions, (config, App::new(1, 2, 0)), (config, App::new(2, 1, bytes)));
    link.ends[0].app.finish_first = false;
    link.dial();
    let begin = link.now;
    link.run();
    assert_eq!(link.ends[0].app.received, bytes);
    let needed = bytes.div_ceil(1448);
    let stats = link.ends[1].stack.stats();
    let extra = (link.counts[1] - needed.min(link.counts[1])) * 1000 / needed;
    eprintln!(
        "{bytes} bytes, loss {loss} per mille: {:.2} s, extra {extra} per mille, timeouts {}, recoveries {}, probes {}",
        (link.now - begin).as_secs_f64(),
        stats.timeouts,
        stats.recoveries,
        stats.tail_probes,
    );
    ((link.now - begin).as_secs_f64(), extra)
}

#[test]
fn without_loss_the_window_is_the_limit() {
    // 20 MB at 1 MiB a round trip of 20 ms is 0.4 s, and slow start before.
    let (seconds, extra) = stream(20_000_000, 0, |_| {}, |_| {});
    assert!(seconds < 0.9 && extra < 20, "{seconds} s, {extra}");
    let (seconds, _) = stream(20_000_000, 0, |config| config.pacing = false, |_| {});
    assert!(seconds < 0.9, "{seconds} s without pacing");
}

#[test]
fn loss_is_repaired_without_timeouts() {
    // CUBIC's average window with a loss in each 1000: 1.054 (RTT / p)^(3/4) segments (RFC 9438 section 5.2 has
    // Reno's at 38; CUBIC is in its Reno-friendly region here): 38 * 1448 / 20 ms = 2.8 MB/s.
    let (seconds, extra) = stream(5_000_000, 1, |_| {}, |_| {});
    assert!(seconds < 4.0 && extra < 20, "{seconds} s, {extra}");
    // One in 100: 12 segments, 870 kB/s.
    let (seconds, extra) = stream(2_000_000, 10, |_| {}, |_| {});
    assert!(seconds < 5.0 && extra < 40, "{seconds} s, {extra}");
    let (seconds, extra) = stream(500_000, 50, |_| {}, |_| {});
    assert!(seconds < 8.0 && extra < 120, "{seconds} s, {extra}");
}

#[test]
fn reordering_is_not_taken_for_loss() {
    // A fifth of the segments 3 ms late: within a quarter of the round trip.
    let (seconds, extra) = stream(5_000_000, 0, |_| {}, |weather| weather.reorder = 200);
    assert!(seconds < 2.0 && extra < 30, "{seconds} s, {extra}");
}
