//! Two of our own stacks.

use super::super::{Closed, Config, Limits};
use super::link::{App, Event, Link, Random, Weather};
use super::{Named, seeds};
use std::time::Duration;

fn config() -> Config {
    Config {
        max_connections: 4,
        half_open: 4,
        time_wait: 4,
        run_blocks: 4,
        receive_blocks: 4,
        // In a storm the peer's timeout is soon at its longest.
        give_up: Duration::from_secs(1000),
        fin_wait_for: Duration::from_secs(1000),
        ..Config::default()
    }
}

/// What must hold when both sides are done: all bytes arrived and nothing is borrowed.
fn assert_complete(link: &Link) {
    for (end, other) in [(0, 1), (1, 0)] {
        let app = &link.ends[end].app;
        assert_eq!(app.received, link.ends[other].app.to_send, "{}", link.describe());
        assert_eq!(app.closed(), Some(Closed::Finished), "{}", link.describe());
        assert_eq!(app.events.iter().filter(|event| **event == Event::HalfClosed).count(), 1);
        assert_eq!(link.ends[end].stack.connections(), 0);
        assert_eq!(link.ends[end].stack.blocks_in_use(), (0, 0));
    }
}

#[test]
fn a_request_and_an_answer() {
    let mut client = App::new(1, 2, 300);
    client.finish_first = false;
    let mut link = Link::new(1, Weather::CALM, (config(), client), (config(), App::new(2, 1, 1000)));
    link.log = Some(Vec::new());
    link.dial();
    link.run();
    assert_complete(&link);
    let stats = link.ends[1].stack.stats();
    assert_eq!((stats.timeouts, stats.retransmits_fast, stats.tail_probes), (0, 0, 0), "{}", link.describe());
    assert_eq!(link.ends[1].stack.waiting() + link.ends[0].stack.waiting(), 1, "one side waits");
}

#[test]
fn a_large_stream_each_way() {
    let mut link = Link::new(
        2,
        Weather::CALM,
        (config(), App::new(1, 2, 3_000_000)),
        (config(), App::new(2, 1, 3_000_000)),
    );
    link.dial();
    link.run();
    assert_complete(&link);
    for end in &link.ends {
        let stats = end.stack.stats();
        assert_eq!((stats.timeouts, stats.retransmits_fast), (0, 0), "{}", link.describe());
    }
}

/// Weather and applications drawn from a seed.
fn stormy(seed: u64) -> Link {
    let mut random = Random::new(seed);
    let weather = Weather {
        rate: 0,
        delay: Duration::from_micros(20 + random.below(30_000)),
        jitter: Duration::from_micros(random.below(3_000)),
        loss: [0, 1, 10, 50, 150][usize::try_from(random.below(5)).expect("small")],
        copies: random.below(30),
        reorder: [0, 0, 20, 100][usize::try_from(random.below(4)).expect("small")],
        marks: random.below(20),
        full: random.below(100),
        not_yet: random.below(60),
        mtu: usize::MAX,
    };
    let mut draw_config = || {
        let mut config = config();
        config.limits = Limits {
            mtu: [100, 576, 1500, 1500, 9000][usize::try_from(random.below(5)).expect("small")],
            largest_segment: [0, 0, 20_000, 65_000][usize::try_from(random.below(4)).expect("small")],
        };
        config.receive_window =
            [3000, 20_000, 65_536, 65_536][usize::try_from(random.below(4)).expect("small")];
        config.run_blocks = u32::try_from(random.below(3)).expect("small");
        config.receive_blocks = u32::try_from(random.below(3)).expect("small");
        config.ecn = random.chance(500);
        config.pacing = random.chance(500);
        config
    };
    let configs = (draw_config(), draw_config());
    let mut draw_app = |stream, expect| {
        let sizes = [0, 1, 100, 5_000, 60_000, 300_000];
        let mut app = App::new(stream, expect, sizes[usize::try_from(random.below(6)).expect("small")]);
        app.piece = [0, 0, 700, 9_000][usize::try_from(random.below(4)).expect("small")];
        app.sip = [0, 0, 0, 500][usize::try_from(random.below(4)).expect("small")];
        app
    };
    let (left, mut right) = (draw_app(1, 2), draw_app(2, 1));
    right.finish_first = random.chance(700);
    Link::new(seed, weather, (configs.0, left), (configs.1, right))
}

/// All of the stream arrives, whatever the link does. `SEED=n` runs one, `SEEDS=n` so many.
#[test]
fn storms() {
    for seed in seeds(300) {
        let mut link = stormy(seed);
        link.log = std::env::var("SEED").ok().map(|_| Vec::new());
        let named = Named(seed);
        link.dial();
        link.run();
        assert_complete(&link);
        std::mem::forget(named);
    }
}
