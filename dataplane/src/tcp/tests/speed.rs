//! How fast a stream is over a link that loses, and how many segments that takes.

use super::link::path;
use super::link::{App, Link, Weather};
use crate::net::Ecn;
use crate::tcp::{Closed, Config, Conn, Flags, Limits, Out, Segment, Sent, Service, Stack};
use crate::worker::Tick;
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

/// One connection alone fills a fast wire with a short round trip: no timer, no pace and no slow start holds it back.
#[test]
fn one_stream_fills_ten_gigabits() {
    let (bytes, rate) = (16u64 << 20, 10_000_000_000);
    for (mtu, largest) in [(1500, 0), (1500, 64 << 10), (9000, 0)] {
        let limits = |config: &mut Config| config.limits = Limits { mtu, largest_segment: largest };
        let (seconds, _) = stream(bytes, 0, limits, |weather| {
            (weather.delay, weather.rate) = (Duration::from_micros(50), rate);
        });
        let payload = u64::from(mtu) - 52;
        let on_wire = bytes.div_ceil(payload) * (u64::from(mtu) + 38) * 8;
        let ideal = Duration::from_nanos(on_wire * 1_000_000_000 / rate).as_secs_f64();
        assert!(
            seconds > ideal && seconds < 1.2 * ideal,
            "MTU {mtu}, {largest}: {seconds} s, ideal {ideal} s"
        );
    }
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

/// Three streams over a wire that takes eight segments a turn: each gets its share, whoever came first.
#[test]
fn a_quantum_each() {
    let config = Config { quantum: 4 * 1448, pacing: false, receive_window: 1 << 20, ..Config::default() };
    let (mut stack, mut service, mut wire) = (Stack::new(config, [5; 16]), Many, Narrow::default());
    stack.listen(80);
    let mut receive = |stack: &mut Stack<u64>, now: u64, port: u8, seq: u32, flags: u8, ack: u32| {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&[4, port, 0, 80]);
        bytes[4..8].copy_from_slice(&seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&ack.to_be_bytes());
        (bytes[12], bytes[13]) = (5 << 4, flags);
        bytes[14..16].copy_from_slice(&[255, 255]);
        let at = Tick(Duration::from_micros(now));
        stack.receive(at, &path(1, 2), Ecn::NotCapable, &bytes, &mut service);
    };
    for now in 0..4_000u64 {
        for port in 0..3u8 {
            let index = usize::from(port);
            match (now, wire.next[index]) {
                (0, _) => receive(&mut stack, now, port, 0, 2, 0),
                // What was sent a turn ago has arrived.
                (_, Some(next)) => receive(&mut stack, now, port, 1, 16, next),
                _ => {}
            }
        }
        wire.room = 8;
        stack.transmit(Tick(Duration::from_micros(now)), &mut wire, &mut Many);
    }
    let [least, most] =
        [wire.bytes.iter().min(), wire.bytes.iter().max()].map(|bytes| *bytes.expect("three"));
    assert!(least > 1_000_000 && most - least < most / 10, "{:?}", wire.bytes);
}

/// Sends for ever.
struct Many;

impl Service<u64> for Many {
    fn opened(&mut self, conn: &mut Conn<'_, u64>) {
        conn.queue(1 << 40);
    }

    fn data(&mut self, _: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn acked(&mut self, _: &mut Conn<'_, u64>, _: u64) {}
    fn half_closed(&mut self, _: &mut Conn<'_, u64>) {}
    fn closed(&mut self, _: &mut Conn<'_, u64>, _: Closed) {}
    fn timer(&mut self, _: &mut Conn<'_, u64>) {}
}

/// Takes so many segments a turn, and remembers what each peer expects next.
#[derive(Default)]
struct Narrow {
    room: u32,
    next: [Option<u32>; 3],
    bytes: [u64; 3],
}

impl Out<u64> for Narrow {
    fn segment(&mut self, segment: &Segment, _: &mut u64) -> Sent {
        if self.room == 0 {
            return Sent::Full;
        }
        self.room -= 1;
        let index = usize::from(segment.peer_port & 0xff);
        let syn = u32::from(segment.flags.has(Flags::SYN));
        self.next[index] = Some(segment.seq.plus(segment.payload_len() + syn).0);
        self.bytes[index] += u64::from(segment.payload_len());
        Sent::Yes
    }
}
