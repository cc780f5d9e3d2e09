//! The client with a server made of paper, and a clock that a test moves.

use super::caller::{Caller, Heard, Lost, Talk};
use super::plan::{LoadPlan, Mode, Verify};
use super::run::{Hopeless, Run};
use super::tally::{Mishap, Tally};
use crate::worker::Tick;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn plan(mode: Mode, connections: usize) -> LoadPlan {
    LoadPlan {
        server: "192.0.2.1:80".parse().expect("an address"),
        requests: vec![
            b"GET /a HTTP/1.1\r\n\r\n".as_slice().into(),
            b"GET /bcd HTTP/1.1\r\n\r\n".as_slice().into(),
        ],
        paths: vec!["/a".to_owned(), "/bcd".to_owned()],
        connections,
        pipeline: 1,
        mode,
        warmup: Duration::ZERO,
        duration: Some(Duration::from_secs(4)),
        limit: None,
        timeout: Duration::from_secs(60),
        verify: Verify::Lengths,
    }
}

fn micros(time: u64) -> Tick {
    Tick(Duration::from_micros(time))
}

/// Runs one thread's client in steps of 50 microseconds. `stalls` says whether the server is frozen; otherwise it answers
/// each request after 100 microseconds, one after the other.
fn simulate(plan: LoadPlan, stalls: impl Fn(Tick) -> bool) -> Tally {
    let run = Arc::new(Run::new(plan, 1));
    let mut caller = Caller::new(&run, 0);
    let mut talks: Vec<Talk> = (0..run.plan.connections).map(|_| Talk::new(&run)).collect();
    let mut queue = std::collections::VecDeque::new();
    let mut now = Tick::default();
    for _ in &talks {
        caller.connected();
    }
    while !caller.advance(now) {
        for (at, talk) in talks.iter_mut().enumerate() {
            while caller.ask(now, talk).is_some() {
                queue.push_back(at);
            }
        }
        now = Tick(now.0 + Duration::from_micros(50));
        if now.0.as_micros() % 100 == 0
            && !stalls(now)
            && let Some(at) = queue.pop_front()
        {
            assert_eq!(caller.hear(now, &mut talks[at], ANSWER), Heard::On);
        }
    }
    caller.end(now);
    talks.iter().for_each(|talk| caller.cut_off(talk));
    caller.hand_in();
    run.tally()
}

/// The server stands still for a second of four. In a closed loop that is one slow answer of many thousands; at a constant
/// rate everybody who came in that second has waited, and the figures say so.
#[test]
fn a_stall_is_not_omitted() {
    let stalls = |now: Tick| (1.0..2.0).contains(&now.0.as_secs_f64());
    let closed = simulate(plan(Mode::Closed, 1), stalls);
    assert!(closed.latency.percentile(99.9) < Duration::from_millis(1), "{:?}", closed.latency.summary());

    let fixed = simulate(plan(Mode::Rate(1000.0), 1), stalls);
    let latency = fixed.latency.summary();
    // A quarter came while it stood still, on average half a second too early; the backlog then took 0.11 s.
    assert!((3900..=4001).contains(&fixed.requests), "{}", fixed.requests);
    assert!(latency.p50 < 1_000.0 && (600_000.0..700_000.0).contains(&latency.p90), "{latency:?}");
    assert!((950_000.0..1_010_000.0).contains(&latency.p99), "{latency:?}");
    assert!((115_000.0..160_000.0).contains(&latency.mean), "{latency:?}");
    // From when it was sent, it still looks as if nothing had been.
    assert!(fixed.service.percentile(99.9) < Duration::from_millis(1), "{:?}", fixed.service.summary());
    assert_eq!((fixed.unsent, fixed.mishaps()), (0, 0));
}

/// A server that never comes back from a stall does not look quick because nothing was answered.
#[test]
fn a_stall_until_the_end_shows() {
    let tally = simulate(plan(Mode::Rate(1000.0), 2), |now| now.0 >= Duration::from_secs(2));
    let latency = tally.latency.summary();
    assert_eq!(tally.unanswered, 2);
    assert!((1980..=2000).contains(&tally.unsent), "{}", tally.unsent);
    assert!((1990..=2001).contains(&tally.requests), "{}", tally.requests);
    assert!((700_000.0..2_010_000.0).contains(&latency.p90) && latency.max > 1_900_000.0, "{latency:?}");
}

/// Too slow a server: the backlog counts, though every answer was quick.
#[test]
fn a_backlog_counts() {
    // It does 10 000 a second.
    let tally = simulate(plan(Mode::Rate(20_000.0), 1), |_| false);
    let latency = tally.latency.summary();
    assert!((39_900..40_100).contains(&tally.requests), "{}", tally.requests);
    assert!((39_700..40_100).contains(&tally.unsent), "{}", tally.unsent);
    assert!(
        latency.max > 1_900_000.0 && tally.service.percentile(99.0) < Duration::from_millis(1),
        "{latency:?}"
    );
}

#[test]
fn so_many_requests_and_no_more() {
    let (duration, limit) = (None, Some(1001));
    let tally = simulate(LoadPlan { duration, limit, ..plan(Mode::Closed, 3) }, |_| false);
    assert_eq!((tally.requests, tally.body_bytes, tally.unanswered), (1001, 5005, 0));
    let tally = simulate(LoadPlan { duration, limit, ..plan(Mode::Rate(500.0), 3) }, |_| false);
    assert_eq!((tally.requests, tally.unsent, tally.unanswered), (1001, 0, 0));
}

#[test]
fn the_warming_up_is_not_counted() {
    let warmup = Duration::from_secs(3);
    let tally = simulate(LoadPlan { warmup, ..plan(Mode::Closed, 1) }, |now| now.0 < warmup);
    assert!((39_900..=40_001).contains(&tally.requests), "{}", tally.requests);
    assert!((3.99..4.03).contains(&tally.time().as_secs_f64()), "{:?}", tally.time());
    // The one that came in the warming-up, and was answered when it was over, is all that is slow.
    assert!(tally.latency.percentile(99.9) < Duration::from_millis(1));
}

/// What goes wrong is counted once for each request that it hits, under its name.
#[test]
fn each_mishap_has_its_name() {
    let mishap = |how: &dyn Fn(&mut Caller, &mut Talk)| {
        let run = Arc::new(Run::new(LoadPlan { pipeline: 2, ..plan(Mode::Closed, 1) }, 1));
        let (mut caller, mut talk) = (Caller::new(&run, 0), Talk::new(&run));
        caller.advance(Tick::default());
        caller.connected();
        while caller.ask(Tick::default(), &mut talk).is_some() {}
        how(&mut caller, &mut talk);
        caller.end(micros(1));
        caller.cut_off(&talk);
        caller.hand_in();
        let tally = run.tally();
        let found: Vec<(Mishap, u64)> =
            Mishap::ALL.iter().map(|it| (*it, tally.errors[*it as usize])).filter(|(_, n)| *n > 0).collect();
        (found, tally.requests, tally.unsent)
    };
    let hear = |caller: &mut Caller, talk: &mut Talk, bytes: &[u8]| caller.hear(micros(1), talk, bytes);
    let lost = |caller: &mut Caller, talk: &mut Talk, how| caller.lost(micros(1), talk, how);
    let not_found = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".as_slice();
    let closing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".as_slice();

    let found = mishap(&|caller, talk| assert_eq!(hear(caller, talk, not_found), Heard::On));
    assert_eq!(found, (vec![(Mishap::Status, 1)], 1, 0));
    let found = mishap(&|caller, talk| {
        assert_eq!(hear(caller, talk, &ANSWER[..40]), Heard::On);
        lost(caller, talk, Lost::Closed);
    });
    assert_eq!(found, (vec![(Mishap::Reset, 1), (Mishap::Length, 1)], 0, 0));
    let found = mishap(&|caller, talk| lost(caller, talk, Lost::Reset));
    assert_eq!(found, (vec![(Mishap::Reset, 2)], 0, 0));
    let found = mishap(&|caller, talk| {
        assert_eq!(hear(caller, talk, &ANSWER[..40]), Heard::On);
        lost(caller, talk, Lost::Reset);
    });
    assert_eq!(found, (vec![(Mishap::Reset, 1), (Mishap::Length, 1)], 0, 0));
    let found = mishap(&|caller, talk| lost(caller, talk, Lost::Slow));
    assert_eq!(found, (vec![(Mishap::Reset, 1), (Mishap::Timeout, 1)], 0, 0));
    let found = mishap(&|caller, talk| assert_eq!(hear(caller, talk, b"no HTTP\r\n\r\n"), Heard::Over));
    assert_eq!(found, (vec![(Mishap::Reset, 1), (Mishap::Protocol, 1)], 0, 0));
    // More than was asked for.
    let thrice = [ANSWER, ANSWER, ANSWER].concat();
    let found = mishap(&|caller, talk| assert_eq!(hear(caller, talk, &thrice), Heard::Over));
    assert_eq!(found, (vec![(Mishap::Protocol, 1)], 2, 0));
    // Who closes in good order leaves the second request to another connection: no mishap.
    let found = mishap(&|caller, talk| {
        assert_eq!(hear(caller, talk, closing), Heard::Over);
        lost(caller, talk, Lost::Over);
    });
    assert_eq!(found, (vec![], 1, 1));
    let found = mishap(&|caller, talk| {
        assert_eq!(hear(caller, talk, closing), Heard::Over);
        lost(caller, talk, Lost::Over);
        assert!(caller.ask(micros(1), talk).is_some_and(|bytes| bytes.starts_with(b"GET /bcd")));
        assert_eq!(hear(caller, talk, ANSWER), Heard::On);
    });
    assert_eq!(found, (vec![], 2, 0));
}

#[test]
fn a_body_that_changes_is_noticed() {
    let run = Arc::new(Run::new(LoadPlan { verify: Verify::First, ..plan(Mode::Closed, 1) }, 1));
    let (mut caller, mut talk) = (Caller::new(&run, 0), Talk::new(&run));
    caller.advance(Tick::default());
    let other = ANSWER.to_ascii_uppercase();
    let other = String::from_utf8(other).expect("text").replace("CONTENT-LENGTH", "Content-Length");
    // Two paths in turn: each has a first body of its own.
    for body in [ANSWER, other.as_bytes(), ANSWER, other.as_bytes(), other.as_bytes()] {
        assert!(caller.ask(micros(1), &mut talk).is_some());
        assert_eq!(caller.hear(micros(2), &mut talk, body), Heard::On);
    }
    caller.hand_in();
    assert_eq!((run.tally().errors[Mishap::Hash as usize], run.tally().requests), (1, 5));
}

/// Where the first connection of all is refused, there is no use in trying on; later, there is.
#[test]
fn only_the_first_failure_is_hopeless() {
    let run = Arc::new(Run::new(plan(Mode::Closed, 1), 1));
    let mut caller = Caller::new(&run, 0);
    caller.connected();
    caller.not_connected(Hopeless::Refused);
    assert_eq!((run.hopeless(), caller.advance(Tick::default())), (None, false));
    let run = Arc::new(Run::new(plan(Mode::Closed, 1), 1));
    let mut caller = Caller::new(&run, 0);
    caller.not_connected(Hopeless::Refused);
    assert!(caller.advance(Tick::default()));
    assert!(run.hopeless().is_some_and(|why| why.to_string().contains("192.0.2.1:80: connection refused")));
}

/// The stream of requests is the same, from wherever it is asked for.
#[test]
fn requests_are_a_stream() {
    let run = Arc::new(Run::new(LoadPlan { pipeline: 3, ..plan(Mode::Closed, 1) }, 1));
    let (mut caller, mut talk) = (Caller::new(&run, 0), Talk::new(&run));
    let mut all = Vec::new();
    while let Some(bytes) = caller.ask(micros(1), &mut talk) {
        all.extend_from_slice(bytes);
    }
    assert_eq!(talk.end(), all.len() as u64);
    for from in 0..all.len() {
        let (mut at, mut read) = (from as u64, Vec::new());
        while let Some(bytes) = talk.bytes(&run, at) {
            read.extend_from_slice(bytes);
            at += bytes.len() as u64;
        }
        assert!(read == all[from..], "{from}");
    }
}

proptest! {
    /// Whatever a server sends, in whatever pieces, and however connections end: each request is answered or has failed,
    /// once; none vanish, and so the run ends.
    #[test]
    fn no_request_vanishes(
        steps in proptest::collection::vec((0..8usize, 1..60usize, 0..5u8), 0..40),
        pipeline in 1..4usize,
        hashing in any::<bool>(),
    ) {
        let sayings: [&[u8]; 8] = [
            ANSWER,
            &ANSWER[..20],
            &ANSWER[20..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
            b"\x00\xff",
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        ];
        let limit = 60;
        let verify = if hashing { Verify::First } else { Verify::Lengths };
        let plan = LoadPlan { pipeline, verify, limit: Some(limit), duration: None, ..plan(Mode::Closed, 1) };
        let run = Arc::new(Run::new(plan, 1));
        let (mut caller, mut talk) = (Caller::new(&run, 0), Talk::new(&run));
        prop_assert!(!caller.advance(Tick::default()));
        caller.connected();
        // After all that the connection is reset, and the server behaves.
        let patience = 2 * usize::try_from(limit).expect("small");
        let steps = steps.into_iter().chain([(4, 60, 1)]).chain(std::iter::repeat_n((0, 60, 4), patience));
        for (number, (saying, piece, ending)) in (1..).zip(steps) {
            let now = micros(number);
            while caller.ask(now, &mut talk).is_some() {}
            if caller.advance(now) {
                break;
            }
            let mut how = match ending {
                0 => Some(Lost::Closed),
                1 => Some(Lost::Reset),
                2 => Some(Lost::Slow),
                _ => None,
            };
            for piece in sayings[saying].chunks(piece) {
                if caller.hear(now, &mut talk, piece) == Heard::Over {
                    how = Some(Lost::Over);
                    break;
                }
            }
            if let Some(how) = how {
                caller.lost(now, &mut talk, how);
            }
        }
        prop_assert!(caller.advance(micros(1000)), "requests have vanished");
        caller.end(micros(1000));
        caller.cut_off(&talk);
        caller.hand_in();
        let tally = run.tally();
        let errors = |it: Mishap| tally.errors[it as usize];
        let failed = errors(Mishap::Reset) + errors(Mishap::Timeout) + errors(Mishap::Length);
        // What nobody asked for is a mishap too, but no request.
        prop_assert!(tally.requests + failed <= limit, "{tally:?}");
        prop_assert!(tally.requests + failed + errors(Mishap::Protocol) >= limit, "{tally:?}");
        prop_assert_eq!((tally.unanswered, tally.unsent), (0, 0));
    }
}
