//! One story for a rule: what happens rarely, and goes wrong unseen.

use super::super::seq::Seq;
use super::super::{Closed, Config};
use super::link::{App, Link, Weather};
use super::script::{Script, plain};
use crate::worker::Tick;

#[test]
fn rfc_9293_section_3_5_a_syn_ack_answers_two_that_dial_at_once() {
    let script = Script::play(
        "
            ! dial
        +0  > S 0
        +.1 < S 0 win 5000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < S. 0 ack 1 win 5000 <mss 1000>
        +0  > . 1 ack 1
        +0  < . 1 ack 1 win 5000
        +5  ! nothing
        ",
    );
    assert_eq!(script.events(), "opened");
}

/// Each end's SYN-ACK was answered with another one, as fast as the link went.
#[test]
fn two_stacks_that_dial_at_once_open_one_connection() {
    let apps = (App::new(1, 2, 5000), App::new(2, 1, 5000));
    let mut link = Link::new(4, Weather::CALM, (Config::default(), apps.0), (Config::default(), apps.1));
    let [left, right] = &mut link.ends;
    left.stack.dial(Tick(link.now), left.path, 4000, 80).expect("room");
    right.stack.dial(Tick(link.now), right.path, 80, 4000).expect("room");
    link.run();
    for (end, count) in link.ends.iter().zip(link.counts) {
        assert_eq!((end.app.closed(), end.app.received), (Some(Closed::Finished), 5000));
        assert_eq!(end.stack.stats().established, 1);
        assert!(count < 20, "{count} segments");
    }
}

/// The address may be a liar's victim.
#[test]
fn a_peer_that_never_answered_gets_no_reset() {
    let script = Script::play(
        "
        +0  < S 0 win 1000 <mss 1000>
        +0  > S. 0 ack 1
        +1  > S. 0 ack 1
        +2  > S. 0 ack 1
        +4  > S. 0 ack 1
        +8  > S. 0 ack 1
        +16 > S. 0 ack 1
        +40 ! nothing
        ",
    );
    assert_eq!(
        (script.stack().connections(), script.stat("timed_out"), script.stat("resets_out")),
        (0, 1, 0)
    );
}

#[test]
fn rfc_6298_section_5_7_three_seconds_after_a_lost_syn() {
    let script = Script::play(
        "
             ! dial
        +0   > S 0
        +1   > S 0
        +.05 < S. 0 ack 1 win 5000 <mss 1000>
        +0   > . 1 ack 1
             ! queue 100
        +0   > P. 1:101 ack 1
        +3   > P. 1:101 ack 1
        +.1  < . 1 ack 101 win 5000
        ",
    );
    assert_eq!(script.stat("timeouts"), 2);
}

/// We close first, with timestamps.
const STAMPED: &str = "
    +0  < S 0 win 8000 <mss 1000, TS 100 0>
    +0  > S. 0 ack 1
    +.1 < . 1 ack 1 win 8000 <TS 200 0>
        ! finish
    +0  > F. 1 ack 1
    +.1 < F. 1 ack 2 win 8000 <TS 300 0>
    +0  > . 2 ack 2
";

#[test]
fn rfc_6191_section_2_a_timestamp_decides() {
    let mut script = Script::play(STAMPED);
    script.run("+1 < S 5000 win 8000 <mss 1000, TS 299 0>\n+0 > . 2 ack 2");
    assert_eq!(script.stat("time_wait_reused"), 0, "a later number does not make up for an older timestamp");
    script.run("+1 < S 1 win 8000 <mss 1000, TS 300 0>\n+0 > . 2 ack 2");
    assert_eq!(script.stat("time_wait_reused"), 0, "the same timestamp and no later number");
    script.run("+1 < S 5000 win 8000 <mss 1000, TS 300 0>\n+0 > S. 0 ack 5001");
    assert_eq!(script.stat("time_wait_reused"), 1);

    let mut script = Script::play(STAMPED);
    script.run("+1 < S 0 win 8000 <mss 1000, TS 301 0>\n+0 > S. 0 ack 1");
    assert_eq!(script.stat("time_wait_reused"), 1, "later by its timestamp alone");
}

#[test]
fn rfc_6191_section_2_without_timestamps_before() {
    let mut script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000
            ! finish
        +0  > F. 1 ack 1
        +.1 < F. 1 ack 2 win 8000
        +0  > . 2 ack 2
        ",
    );
    script.run("+1 < S 1 win 8000 <mss 1000>\n+0 > . 2 ack 2");
    assert_eq!(script.stat("time_wait_reused"), 0);
    script.run("+1 < S 1 win 8000 <mss 1000, TS 5 0>\n+0 > S. 0 ack 2");
    assert_eq!(script.stat("time_wait_reused"), 1);
}

/// Two ends in TIME-WAIT that disagree about a number would answer each other for a minute.
#[test]
fn time_wait_does_not_answer_what_brings_nothing() {
    let mut script = Script::play(STAMPED);
    script.run("+.1 < . 7 ack 2 win 8000 <TS 301 0>\n+0 ! nothing\n+.1 < F. 1 ack 2 win 8000 <TS 302 0>\n+0 > . 2 ack 2");
}

/// RFC 9293 section 3.6.1, MAY-2. A connection sends far more than the 250 000 numbers that the clock moves in a second.
#[test]
fn a_connection_reopened_from_time_wait_begins_behind_the_numbers_of_the_old_one() {
    let config = || Config { pacing: false, ..Config::default() };
    let (mut client, server) = (App::new(1, 2, 100), App::new(2, 1, 6_000_000));
    client.finish_first = false;
    let weather = Weather { delay: std::time::Duration::from_micros(50), ..Weather::CALM };
    let mut link = Link::new(3, weather, (config(), client), (config(), server));
    let origin = |link: &Link| link.ends[1].stack.slots.first().expect("a place").core.origin;
    link.dial();
    link.run();
    let first = origin(&link);
    assert_eq!(link.ends[1].stack.waiting(), 1);
    for end in &mut link.ends {
        end.app.events.clear();
        end.app.peer_done = false;
        end.app.received = 0;
    }
    link.dial();
    link.run();
    assert_eq!(link.ends[1].stack.stats().time_wait_reused, 1);
    let second: Seq = origin(&link);
    assert!(second.since(first) > 6_000_000, "{}", second.since(first));
}

/// RFC 5681 section 4.1: the restart window is not above the initial one, which has a limit in bytes too.
#[test]
fn the_initial_window_of_jumbo_frames() {
    use super::super::congestion::Congestion;
    assert_eq!(Congestion::initial(1460, 10), 14_600);
    assert_eq!(Congestion::initial(8948, 10), 17_896);
    let mut congestion = Congestion::new(8948, 10);
    congestion.window = 900_000;
    congestion.idle(Congestion::initial(8948, 10));
    assert_eq!(congestion.window, 17_896);
}

/// A connection with ECN, and eight segments in flight.
fn eight_with_ecn(options: &str) -> Script {
    let mut script = Script::new(Config { ecn: true, ..plain() });
    let mut story = format!(
        "+0 < SEW 0 win 60000 <{options}>\n+0 > S.E 0 ack 1\n+.1 < . 1 ack 1 win 60000\n! queue 8000\n"
    );
    for n in 0..8 {
        let (start, end) = (n * 1000 + 1, n * 1000 + 1001);
        story += &format!("+0 > {}. {start}:{end} ack 1 ect\n", if n == 7 { "P" } else { "" });
    }
    script.run(&story);
    script
}

/// Each acknowledgement behind the mark was taken for a partial one, and each segment sent twice.
#[test]
fn rfc_3168_section_6_1_2_a_mark_is_no_loss_without_sack() {
    let mut script = eight_with_ecn("mss 1000");
    script.run(
        "
        +.1 < .E 1 ack 1001 win 60000
        +0  < .E 1 ack 2001 win 60000
        +0  < .E 1 ack 3001 win 60000
        +0  ! nothing
        +0  < . 1 ack 6001 win 60000
        +0  < . 1 ack 8001 win 60000
            ! queue 1000
        +0  > P.W 8001:9001 ack 1 ect
        +.1 < . 1 ack 9001 win 60000
        ",
    );
    let counts =
        ["ecn_reductions", "recoveries", "retransmits_fast", "timeouts"].map(|name| script.stat(name));
    assert_eq!(counts, [1, 0, 0, 0]);
}

#[test]
fn rfc_3168_section_6_1_2_a_loss_behind_a_mark_is_repaired_without_slowing_down_again() {
    let mut script = eight_with_ecn("mss 1000");
    script.run(
        "
        +.1 < .E 1 ack 1001 win 60000
        +0  < . 1 ack 1001 win 60000
        +0  < . 1 ack 1001 win 60000
        +0  < . 1 ack 1001 win 60000
        +0  > . 1001:2001 ack 1
        +.1 < . 1 ack 8001 win 60000
            ! queue 9000
        +0  > .W 8001:9001 ack 1 ect
        +0  > . 9001:10001 ack 1 ect
        +0  > . 10001:11001 ack 1 ect
        +0  > . 11001:12001 ack 1 ect
        +0  > . 12001:13001 ack 1 ect
        +0  > . 13001:14001 ack 1 ect
        +0  > . 14001:15001 ack 1 ect           // seven tenths of ten, once
        +.1 < . 1 ack 15001 win 60000
        +0  > . 15001:16001 ack 1 ect
        +0  > P. 16001:17001 ack 1 ect
        +.1 < . 1 ack 17001 win 60000
        ",
    );
    let counts =
        ["ecn_reductions", "recoveries", "retransmits_fast", "timeouts"].map(|name| script.stat(name));
    assert_eq!(counts, [1, 1, 1, 0]);
}

/// RFC 8985 section 6.2, step 4: no waiting for reordered segments is for recovery, and a mark is none.
#[test]
fn a_mark_does_not_take_reordering_for_loss() {
    let mut script = eight_with_ecn("mss 1000, sackOK");
    script.run(
        "
        +.1  < .E 1 ack 1001 win 60000
        +0   < . 1 ack 1001 win 60000 <sack 2001:3001>
        +.01 ! nothing
        +0   < . 1 ack 8001 win 60000
        ",
    );
    assert_eq!((script.stat("retransmits_fast"), script.stat("recoveries")), (0, 0));
}

/// A peer behind a router that fails over, as the last byte of the MAC address that its segments come from.
#[test]
fn answers_go_where_believable_segments_come_from() {
    let mut script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000
        +0  < P. 1:101 ack 1 win 8000
            ! queue 500
        +0  > P. 1:501 ack 101
        +.1 < . 101 ack 501 win 8000
        ",
    );
    assert_eq!(script.went_to[5], 2);
    // None of these is the peer's: another number, one far behind, an acknowledgement of nothing, a bad reset, a SYN.
    script.run(
        "
           ! move 9
        +0 < . 3000000:3000010 ack 1 win 8000
        +0 > . 501 ack 101
        +1 < . 4000000000:4000000010 ack 501 win 8000
        +0 > . 501 ack 101
        +1 < . 101 ack 900 win 8000
        +0 > . 501 ack 101
        +1 < R 150 ack 1 win 8000
        +0 > . 501 ack 101
        +1 < S 101 win 8000
        +0 > . 501 ack 101
        ",
    );
    assert_eq!((script.went_to[5], script.stat("peers_moved")), (2, 0));
    // The request again, as it was not answered: by another router.
    script.run(
        "
           ! move 7
        +.1 < P. 1:101 ack 501 win 8000
        +0  > . 501 ack 101
        ",
    );
    assert_eq!((script.went_to[5], script.stat("peers_moved")), (7, 1));
    script.run(
        "
           ! move 8
        +0 < . 101 ack 501 win 8001
           ! queue 10
        +0 > P. 501:511 ack 101
        +0 < . 101 ack 511 win 8000
        ",
    );
    assert_eq!((script.went_to[5], script.stat("peers_moved")), (8, 2));
}

/// A bit of an Ethernet header turned over, which no checksum of ours tells: the last acknowledgement seems to come from
/// somebody else, and nothing more will come before the peer hears of us.
#[test]
fn a_move_that_leads_nowhere_is_doubted() {
    let mut script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000
        +0  < P. 1:101 ack 1 win 8000
            ! queue 500
        +0  > P. 1:501 ack 101
           ! move 9
        +.1 < . 101 ack 501 win 8000
           ! queue 10
        +0 > P. 501:511 ack 101
        ",
    );
    assert_eq!((script.went_to[5], script.stat("peers_moved")), (9, 1));
    let mut went = Vec::new();
    for time in ["+.25", "+.5", "+1", "+2"] {
        script.run(&format!("{time} > P. 501:511 ack 101"));
        went.push(script.went_to[5]);
    }
    assert_eq!(went, [2, 9, 2, 9], "each in turn");
    // Two segments from there: that is where the peer is.
    script.run(
        "
           ! move 7
        +0 < P. 101:201 ack 511 win 8000
        +0 < P. 201:301 ack 511 win 8000
        +0 > . 511 ack 301
           ! queue 10
        +0   > P. 511:521 ack 301
        +.25 > P. 511:521 ack 301
        ",
    );
    assert_eq!(script.went_to[5], 7);
}
