//! One story for a rule: handshake, window, acknowledgements, the end of connections.

use super::super::{Cookies, Keepalive};
use super::script::{Script, plain};
use crate::net::Trouble;
use std::time::Duration;

/// A connection without options, opened by the peer.
const PLAIN: &str = "
    +0   < S 0 win 8000 <mss 1000>
    +0   > S. 0 ack 1 win 65535 <>
    +.01 < . 1 ack 1 win 8000
";

/// A connection with SACK.
const SACK: &str = "
    +0   < S 0 win 60000 <mss 1000, sackOK>
    +0   > S. 0 ack 1 <sackOK>
    +.1  < . 1 ack 1 win 60000
";

fn after(handshake: &str, story: &str) -> Script {
    Script::play(&format!("{handshake}{story}"))
}

#[test]
fn rfc_9293_section_3_5_three_way_handshake_with_all_options() {
    let script = Script::play(
        "
        +0  < S 0 win 1000 <mss 1400, sackOK, TS 5 0, ws 7>
        +0  > S. 0 ack 1 win 65535 <mss 1000, sackOK, TS * 5, ws 1>
        +.1 < . 1 ack 1 win 1000 <TS 6 0>
        ",
    );
    assert_eq!(script.events(), "opened");
    assert_eq!(script.stat("established"), 1);
}

#[test]
fn rfc_9293_section_3_5_a_syn_ack_is_sent_again() {
    Script::play(
        "
        +0  < S 0 win 1000 <mss 1000>
        +0  > S. 0 ack 1
        +1  > S. 0 ack 1
        +2  > S. 0 ack 1
        +.5 < S 0 win 1000 <mss 1000>   // the peer did not get it
        +0  > S. 0 ack 1
        ",
    );
}

#[test]
fn rfc_9293_section_3_5_we_dial() {
    let script = Script::play(
        "
             ! dial
        +0   > S 0 <mss 1000, sackOK, TS * 0, ws 1>
        +1   > S 0
        +.05 < S. 0 ack 1 win 5000 <mss 500>
        +0   > . 1 ack 1 <>
             ! queue 600
        +0   > . 1:501 ack 1
        +.01 < . 1 ack 501 win 5000
        +0   > P. 501:601 ack 1
        +.01 < . 1 ack 601 win 5000
        ",
    );
    assert_eq!(script.events(), "opened, acked 500, acked 600");
}

#[test]
fn rfc_9293_section_3_5_both_dial_at_once() {
    let script = Script::play(
        "
            ! dial
        +0  > S 0
        +.1 < S 0 win 5000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 5000
        ",
    );
    assert_eq!(script.events(), "opened");
}

#[test]
fn rfc_9293_section_3_10_7_3_refused() {
    let script = Script::play(
        "
            ! dial
        +0  > S 0
        +.1 < . 1 ack 7      // of nothing that we sent
        +0  > R 7
        +.1 < R. 0 ack 7     // nor is this one
        +0  ! nothing
        +.1 < R. 0 ack 1
        ",
    );
    assert_eq!(script.events(), "closed Refused");
}

#[test]
fn rfc_9293_section_3_10_7_1_no_connection() {
    Script::play(
        "
        +0 < . 5:8 ack 99 win 100      // no cookie of ours
        +0 > R 99
        +0 < F 5 win 100
        +0 ! nothing
        +0 < R 5
        +0 ! nothing
        ",
    );
}

#[test]
fn rfc_9293_section_3_8_6_3_every_second_segment_is_acknowledged_at_once_and_one_alone_soon() {
    after(
        PLAIN,
        "
        +0   < . 1:1001 ack 1 win 8000
        +.04 > . 1 ack 1001
        +0   < . 1001:2001 ack 1 win 8000
        +0   < . 2001:3001 ack 1 win 8000
        +0   > . 1 ack 3001
        +0   < P. 3001:3101 ack 1 win 8000
             ! queue 10                       // company for the acknowledgement
        +0   > P. 1:11 ack 3101
        +.05 < . 3101 ack 11 win 8000
        ",
    );
}

#[test]
fn rfc_9293_section_3_7_4_who_waits_for_more_acknowledges_at_once() {
    after(
        PLAIN,
        "
        +0   < P. 1:6 ack 1 win 8000
        +.01 ! acknowledge                    // the application wants the rest
        +0   > . 1 ack 6
        +0   < P. 6:40 ack 1 win 8000
             ! queue 10                       // and answers
        +0   > P. 1:11 ack 40
        +.05 < . 40 ack 11 win 8000
        +.1  ! nothing
        ",
    );
}

#[test]
fn rfc_5681_section_4_2_out_of_order_is_acknowledged_at_once() {
    let script = after(
        PLAIN,
        "
        +0  < . 1001:2001 ack 1 win 8000
        +0  > . 1 ack 1
        +0  < . 2001:3001 ack 1 win 8000
        +0  < . 3001:4001 ack 1 win 8000
        +0  > . 1 ack 1                       // each one counts for a peer without SACK
        +0  > . 1 ack 1
        +0  < . 1:1001 ack 1 win 8000
        +0  > . 1 ack 4001
        ",
    );
    assert_eq!(script.stack().blocks_in_use(), (0, 0));
}

#[test]
fn rfc_2018_and_2883_blocks_newest_first_and_duplicates() {
    after(
        SACK,
        "
        +0 < . 1001:2001 ack 1 win 8000
        +0 > . 1 ack 1 <sack 1001:2001>
        +0 < . 3001:4001 ack 1 win 8000
        +0 > . 1 ack 1 <sack 3001:4001 1001:2001>
        +0 < . 2001:3001 ack 1 win 8000
        +0 > . 1 ack 1 <sack 1001:4001>
        +0 < . 2001:3001 ack 1 win 8000
        +0 > . 1 ack 1 <sack 2001:3001 1001:4001>
        +0 < . 1:1001 ack 1 win 8000
        +0 > . 1 ack 4001
        +0 < . 1:1001 ack 1 win 8000
        +0 > . 1 ack 4001 <sack 1:1001>
        ",
    );
}

#[test]
fn rfc_5961_section_3_and_4_blind_resets_and_syns_are_challenged() {
    let script = after(
        PLAIN,
        "
        +0  < R 100               // in the window, but not next
        +0  > . 1 ack 1
        +0  < R 200
        +0  ! nothing             // one in half a second
        +.6 < S 5000
        +0  > . 1 ack 1
        +.6 < R 99000             // not in the window
        +0  ! nothing
        +.6 < R 1
        ",
    );
    assert_eq!(script.events(), "opened, closed Reset");
    assert_eq!((script.stat("challenge_acks"), script.stat("challenge_limited")), (2, 1));
}

#[test]
fn rfc_5961_section_5_acknowledgements_of_what_was_never_sent() {
    let script = after(
        PLAIN,
        "
            ! queue 100
        +0  > P. 1:101 ack 1
        +.1 < . 1:11 ack 102 win 8000
        +0  > . 101 ack 1
        +.1 < . 1 ack 101 win 8000
        ",
    );
    assert_eq!(script.stat("ack_ahead"), 1);
    assert_eq!(script.stat("bytes_in"), 0, "and what it carried is not looked at");
}

#[test]
fn rfc_7323_section_5_paws() {
    let script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000, TS 100 0>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000 <TS 101 0>
        +0  < . 1:11 ack 1 win 8000 <TS 90 0>
        +0  > . 1 ack 1 <TS * 101>
        +0  < . 1:11 ack 1 win 8000 <TS 102 0>
        +.04 > . 1 ack 11 <TS * 102>
        +0  < . 21:31 ack 1 win 8000 <TS 110 0>   // beyond a gap: not echoed (section 4.3)
        +0  > . 1 ack 11 <TS * 102>
        +0  < . 11:21 ack 1 win 8000 <TS 105 0>
        +0  > . 1 ack 31 <TS * 105>
        +0  < R 31 <TS 50 0>                      // but a reset is never too old
        ",
    );
    assert_eq!(script.stat("paws"), 1);
    assert_eq!(script.events(), "opened, closed Reset");
}

#[test]
fn rfc_9293_section_3_6_we_close_first() {
    let script = after(
        PLAIN,
        "
             ! close 5
        +0   > FP. 1:6 ack 1
        +.1  < . 1 ack 7 win 8000
        +.1  < . 1:3 ack 7 win 8000         // the peer still sends
        +.04 > . 7 ack 3
        +.1  < F. 3 ack 7 win 8000
        +0   > . 7 ack 4
        +.1  < F. 3 ack 7 win 8000          // it did not get that
        +0   > . 7 ack 4
        ",
    );
    assert_eq!(script.events(), "opened, acked 5, half_closed, closed Finished");
    assert_eq!((script.stack().connections(), script.stack().waiting()), (0, 1));
}

#[test]
fn rfc_9293_section_3_6_the_peer_closes_first() {
    let script = after(
        PLAIN,
        "
        +0  < F. 1 ack 1 win 8000
        +0  > . 1 ack 2
            ! close 5
        +0  > FP. 1:6 ack 2
        +.1 < . 2 ack 7 win 8000
        ",
    );
    assert_eq!(script.events(), "opened, half_closed, acked 5, closed Finished");
    assert_eq!((script.stack().connections(), script.stack().waiting()), (0, 0));
}

#[test]
fn rfc_9293_section_3_6_both_close_at_once() {
    let script = after(
        PLAIN,
        "
            ! finish
        +0  > F. 1 ack 1
        +.1 < F. 1 ack 1 win 8000
        +0  > . 2 ack 2
        +.1 < . 2 ack 2 win 8000
        +0  > . 2 ack 2                    // from TIME-WAIT, once
        ",
    );
    assert_eq!(script.events(), "opened, half_closed, closed Finished");
    assert_eq!(script.stack().waiting(), 1);
}

#[test]
fn rfc_9293_section_3_6_1_time_wait_ends_or_is_reopened() {
    let story = "
            ! finish
        +0  > F. 1 ack 1
        +.1 < F. 1 ack 2 win 8000
        +0  > . 2 ack 2
    ";
    let mut script = after(PLAIN, story);
    script.run("+30 < R 2          // RFC 1337: does not end it\n+0 ! nothing");
    assert_eq!(script.stack().waiting(), 1);
    script.run("+1 < S 3000 win 8000 <mss 1000>\n+0 > S. 0 ack 3001");
    assert_eq!((script.stat("time_wait_reused"), script.stack().waiting()), (1, 0));
    let mut script = after(PLAIN, story);
    script.run("+61 ! nothing");
    assert_eq!(script.stack().waiting(), 0);
}

#[test]
fn rfc_9293_section_3_10_5_abort() {
    let script = after(PLAIN, "! reset\n+0 > R. 1 ack 1\n+.1 < . 1:5 ack 1 win 8000\n+0 > R 1");
    assert_eq!(script.events(), "opened, closed Aborted");
}

#[test]
fn rfc_9293_section_3_8_6_1_a_shut_window_is_probed() {
    let mut script =
        after(PLAIN, "! queue 3000\n+0 > . 1:1001 ack 1\n+0 > . 1001:2001 ack 1\n+0 > P. 2001:3001 ack 1");
    script.run(
        "
        +.1  < . 1 ack 3001 win 0
             ! queue 500
        +.2  > . 3000 ack 1
        +.01 < . 1 ack 3001 win 0
        +.39 > . 3000 ack 1
        +.8  > . 3000 ack 1
        +.01 < . 1 ack 3001 win 1000
        +0   > P. 3001:3501 ack 1
        +.1  < . 1 ack 3501 win 1000
        ",
    );
    assert_eq!((script.stat("window_probes"), script.stat("timeouts")), (3, 0));
}

#[test]
fn rfc_9293_section_3_8_6_a_window_that_shrinks() {
    let script = after(
        PLAIN,
        "
             ! queue 4000
        +0   > . 1:1001 ack 1
        +0   > . 1001:2001 ack 1
        +0   > . 2001:3001 ack 1
        +0   > P. 3001:4001 ack 1
        +.1  < . 1 ack 1001 win 1000        // two segments are beyond it now
             ! queue 1000
        +0   ! nothing
        +.1  < . 1 ack 4001 win 1000
        +0   > P. 4001:5001 ack 1
        +.1  < . 1 ack 5001 win 1000
        ",
    );
    assert_eq!(script.stat("timeouts"), 0);
}

#[test]
fn rfc_9293_section_3_8_6_2_1_no_small_segment_into_a_small_window() {
    after(
        PLAIN,
        "
             ! queue 8000
        +0   > . 1:1001 ack 1
        +0   > . 1001:2001 ack 1
        +0   > . 2001:3001 ack 1
        +0   > . 3001:4001 ack 1
        +0   > . 4001:5001 ack 1
        +0   > . 5001:6001 ack 1
        +0   > . 6001:7001 ack 1
        +0   > P. 7001:8001 ack 1
             ! queue 3000
        +.05 < . 1 ack 8001 win 100         // less than half of what it once was
        +0   ! nothing
        +.2  > . 8001:8101 ack 1            // but after a while even that
        +.05 < . 1 ack 8101 win 4000
        +0   > . 8101:9101 ack 1
        +0   > . 9101:10101 ack 1
        +0   > P. 10101:11001 ack 1
        +.05 < . 1 ack 11001 win 4000
        ",
    );
}

#[test]
fn rfc_9293_section_3_8_6_2_2_the_window_reopens_in_one_go() {
    let mut config = plain();
    config.receive_block_bytes = 4000;
    config.receive_window = 4000;
    let mut script = Script::new(config);
    script.run(PLAIN.replace("win 65535", "win 4000").as_str());
    script.run(
        "
             ! deaf
        +0   < . 1:1001 ack 1 win 8000
        +0   < . 1001:2001 ack 1 win 8000
        +0   > . 1 ack 2001 win 2000
        +0   < . 2001:3001 ack 1 win 8000
        +0   < . 3001:4001 ack 1 win 8000
        +0   > . 1 ack 4001 win 0
        +.3  < . 4001 ack 1 win 8000        // in the window's eye: nothing in it
        +0   ! nothing
        +.3  < . 4000 ack 1 win 8000        // a probe
        +0   > . 1 ack 4001 win 0
             ! hear
        +0   > . 1 ack 4001 win 4000
        ",
    );
}

#[test]
fn rfc_9293_section_3_8_4_keepalive() {
    let mut config = plain();
    let (idle, interval) = (Duration::from_secs(30), Duration::from_secs(5));
    config.keepalive = Some(Keepalive { idle, interval, probes: 2 });
    let mut script = Script::new(config);
    script.tolerance = Duration::from_millis(20);
    script.run(PLAIN);
    script.run(
        "
        +30  > . 0 ack 1
        +.1  < . 1 ack 1 win 8000
        +30  > . 0 ack 1
        +5   > . 0 ack 1
        +5   > R. 1 ack 1
        ",
    );
    assert_eq!(script.events(), "opened, closed TimedOut");
}

#[test]
fn rfc_4987_cookies_under_pressure() {
    let mut config = plain();
    config.half_open = 0;
    let mut script = Script::new(config);
    script.run(
        "
        +0  < S 0 win 1000 <mss 1400, sackOK, TS 5 0, ws 7>
        +0  > S. 0 ack 1 <mss 1000, sackOK, TS * 5, ws 1>
        +.1 < . 1 ack 2 win 1000 <TS 6 0>      // a guess
        +0  > R 2
        ",
    );
    assert_eq!((script.stack().connections(), script.stat("cookies_bad")), (0, 1));
    // The peer echoes what it was sent: the script cannot name it, so it is one without timestamps.
    let mut config = plain();
    config.cookies = Cookies::Always;
    let mut script = Script::new(config);
    script.run(
        "
        +0  < S 0 win 1000 <mss 600>
        +0  > S. 0 ack 1 <>
        +.1 < P. 1:11 ack 1 win 9000
            ! queue 1000
        +0  > . 1:537 ack 11                  // 600 is remembered as 536
        +0  > P. 537:1001 ack 11
        +.1 < . 11 ack 1001 win 9000
        ",
    );
    assert_eq!((script.stat("cookies_accepted"), script.stat("established")), (1, 1));
}

#[test]
fn rfc_4987_a_cookie_is_good_for_two_minutes_at_most() {
    let mut config = plain();
    config.cookies = Cookies::Always;
    let mut script = Script::new(config);
    script.run("+0 < S 0 win 1000 <mss 600>\n+0 > S. 0 ack 1\n+129 < . 1 ack 1 win 9000\n+0 > R 1");
    assert_eq!(script.stat("cookies_bad"), 1);
}

#[test]
fn rfc_1191_too_big() {
    let mut script = after(PLAIN, "! queue 2000\n+0 > . 1:1001 ack 1\n+0 > P. 1001:2001 ack 1");
    script.icmp(5000, Trouble::TooBig { mtu: 640 });
    assert_eq!(script.stat("icmp_ignored"), 1, "not in flight");
    script.icmp(1, Trouble::TooBig { mtu: 640 });
    script.run(
        "
        +0  > . 1:601 ack 1
        +0  > . 601:1201 ack 1
        +0  > . 1201:1801 ack 1
        +0  > P. 1801:2001 ack 1
        +.1 < . 1 ack 2001 win 8000
        ",
    );
    assert_eq!((script.stat("pmtu_lowered"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_5927_unreachable_ends_only_what_is_not_open() {
    let mut script = after(PLAIN, "! queue 10\n+0 > P. 1:11 ack 1");
    script.icmp(1, Trouble::Refused);
    script.run("+.1 < . 1 ack 11 win 8000");
    assert_eq!(script.events(), "opened, acked 10");
    let mut script = Script::play("! dial\n+0 > S 0");
    script.icmp(0, Trouble::Refused);
    assert_eq!(script.events(), "closed Unreachable");
}

#[test]
fn over_ipv6_the_segments_are_shorter() {
    let mut script = Script::new(plain()).over_v6();
    script.run(
        "
        +0  < S 0 win 8000 <mss 1400>
        +0  > S. 0 ack 1 <mss 980>
        +.1 < . 1 ack 1 win 8000
            ! queue 1000
        +0  > . 1:981 ack 1
        +0  > P. 981:1001 ack 1
        +.1 < . 1 ack 1001 win 8000
        ",
    );
}

#[test]
fn content_that_is_late_parks_and_content_that_changed_resets() {
    let script = after(
        PLAIN,
        "
             ! park
             ! queue 1500
        +1   ! nothing
        +0   < . 1:3 ack 1 win 8000        // meanwhile the connection acknowledges
        +.04 > . 1 ack 3
             ! resume
        +0   > . 1:1001 ack 3
        +0   > P. 1001:1501 ack 3
        +.1  < . 3 ack 1501 win 8000
             ! gone
             ! queue 10
        +0   > R. 1501 ack 3
        ",
    );
    assert_eq!(script.events(), "opened, acked 1500, closed Gone");
}

#[test]
fn rfc_1337_a_late_reset_does_not_take_unread_bytes() {
    let mut script = after(
        PLAIN,
        "
             ! deaf
             ! close 5
        +0   > FP. 1:6 ack 1
        +.1  < F. 1:11 ack 7 win 8000
        +0   > . 7 ack 12
        +.1  < R 12                         // the peer has forgotten the connection
        +0   ! nothing
        ",
    );
    assert_eq!(script.events(), "opened, acked 5, half_closed");
    script.run("! hear\n+0 > . 7 ack 12");
    assert_eq!(script.events(), "opened, acked 5, half_closed, closed Finished");
}
