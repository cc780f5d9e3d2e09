//! A path that drops long packets and says nothing (RFC 2923, RFC 4821).

use super::super::{Closed, Config, Limits};
use super::link::{App, Link, Weather};
use super::script::Script;
use std::time::Duration;

#[test]
fn rfc_4821_the_third_timeout_makes_segments_shorter() {
    let script = Script::play(
        "
        +0   < S 0 win 8000 <mss 1000>
        +0   > S. 0 ack 1
        +.01 < . 1 ack 1 win 8000
             ! queue 2000
        +0   > . 1:1001 ack 1
        +0   > P. 1001:2001 ack 1
        +.2  > . 1:1001 ack 1
        +.4  > . 1:1001 ack 1
        +.8  > . 1:537 ack 1                // 576 - 40
        +.01 < . 1 ack 537 win 8000
        +0   > . 537:1001 ack 1
        +0   > . 1001:1537 ack 1
        +.01 < . 1 ack 1537 win 8000
        +0   > P. 1537:2001 ack 1
        +.01 < . 1 ack 2001 win 8000
        ",
    );
    assert_eq!((script.stat("pmtu_black_holes"), script.stat("pmtu_lowered")), (1, 0));
}

/// What is short already cannot be lost for its length.
#[test]
fn short_segments_that_are_lost_are_no_black_hole() {
    let script = Script::play(
        "
        +0   < S 0 win 8000 <mss 1000>
        +0   > S. 0 ack 1
        +.01 < . 1 ack 1 win 8000
             ! queue 500
        +0   > P. 1:501 ack 1
        +.2  > P. 1:501 ack 1
        +.4  > P. 1:501 ack 1
        +.8  > P. 1:501 ack 1
        +1.6 > P. 1:501 ack 1
        +.01 < . 1 ack 501 win 8000
        ",
    );
    assert_eq!(script.stat("pmtu_black_holes"), 0);
}

/// 300 000 bytes through a link that takes `mtu`, between stacks that believe in `believed`; how often segments were
/// made shorter, and how long it took.
fn through(believed: u16, mtu: usize, seed: u64) -> (u64, Duration) {
    let config = || Config { limits: Limits { mtu: believed, largest_segment: 0 }, ..Config::default() };
    let weather = Weather { mtu, loss: seed % 2 * 5, ..Weather::CALM };
    let apps = (App::new(1, 2, 100), App::new(2, 1, 300_000));
    let mut link = Link::new(seed, weather, (config(), apps.0), (config(), apps.1));
    link.dial();
    let begin = link.now;
    link.run();
    for end in &link.ends {
        assert_eq!(end.app.closed(), Some(Closed::Finished), "{}", link.describe());
    }
    assert_eq!(link.ends[0].app.received, 300_000);
    (link.ends[1].stack.stats().pmtu_black_holes, link.now - begin)
}

#[test]
fn a_stream_gets_through_a_black_hole() {
    for seed in super::seeds(40) {
        for (believed, mtu, steps) in [
            (1500, 1500, 0),
            (1500, 1400, 1),
            (1500, 1280, 1),
            (1500, 600, 2),
            (9000, 1500, 1),
            (9000, 1300, 2),
        ] {
            let (found, time) = through(believed, mtu, seed);
            // When the first shorter segment is lost by chance, the next one is shorter still.
            let right = if seed % 2 == 0 { found == steps } else { found >= steps };
            assert!(right, "seed {seed}: {believed} over {mtu}: {found} steps");
            assert!(time < Duration::from_secs(20), "seed {seed}: {believed} over {mtu}: {time:?}");
        }
    }
}
