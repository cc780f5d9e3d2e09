//! One story for a rule: what is lost, and how it is found (RFC 5681, 6298, 6582, 6675, 6937, 8985, 3042, 3168).

use super::script::{Script, plain};

/// A connection with SACK, a round trip of 100 ms, and four segments in flight.
const FOUR: &str = "
    +0   < S 0 win 60000 <mss 1000, sackOK>
    +0   > S. 0 ack 1 <sackOK>
    +.1  < . 1 ack 1 win 60000
         ! queue 4000
    +0   > . 1:1001 ack 1
    +0   > . 1001:2001 ack 1
    +0   > . 2001:3001 ack 1
    +0   > P. 3001:4001 ack 1
";

/// The same without SACK, and with eight.
const EIGHT_PLAIN: &str = "
    +0   < S 0 win 60000 <mss 1000>
    +0   > S. 0 ack 1
    +.1  < . 1 ack 1 win 60000
         ! queue 8000
    +0   > . 1:1001 ack 1
    +0   > . 1001:2001 ack 1
    +0   > . 2001:3001 ack 1
    +0   > . 3001:4001 ack 1
    +0   > . 4001:5001 ack 1
    +0   > . 5001:6001 ack 1
    +0   > . 6001:7001 ack 1
    +0   > P. 7001:8001 ack 1
";

fn after(begin: &str, story: &str) -> Script {
    Script::play(&format!("{begin}{story}"))
}

#[test]
fn rfc_6928_ten_segments_to_begin_with() {
    let mut story = String::from(
        "+0 < S 0 win 60000 <mss 1000>\n+0 > S. 0 ack 1\n+.1 < . 1 ack 1 win 60000\n! queue 20000\n",
    );
    for n in 0..10 {
        story += &format!("+0 > . {}:{} ack 1\n", n * 1000 + 1, n * 1000 + 1001);
    }
    // Slow start (RFC 5681 section 3.1): each segment acknowledged makes room for two.
    story += "+.1 < . 1 ack 2001 win 60000\n";
    for n in 10..14 {
        story += &format!("+0 > . {}:{} ack 1\n", n * 1000 + 1, n * 1000 + 1001);
    }
    Script::play(&story);
}

#[test]
fn rfc_6298_section_5_the_timeout_doubles() {
    let script = after(
        "
        +0   < S 0 win 60000 <mss 1000>
        +0   > S. 0 ack 1
        +.1  < . 1 ack 1 win 60000
             ! queue 500
        +0   > P. 1:501 ack 1
        ",
        "
        +.3  > P. 1:501 ack 1      // 100 ms + 4 * 50 ms
        +.6  > P. 1:501 ack 1
        +1.2 > P. 1:501 ack 1
        +.1  < . 1 ack 501 win 60000
             ! queue 500
        +0   > P. 501:1001 ack 1
        +.3  > P. 501:1001 ack 1   // Karn: nothing was measured meanwhile, but the doubling is over
        +.1  < . 1 ack 1001 win 60000
        ",
    );
    assert_eq!(script.stat("timeouts"), 4);
}

#[test]
fn rfc_5681_section_3_2_the_third_duplicate_and_rfc_3042_limited_transmit() {
    let script = after(
        EIGHT_PLAIN,
        "
             ! queue 4000
        +0   > . 8001:9001 ack 1
        +0   > . 9001:10001 ack 1
        +.1  < . 1 ack 1 win 60000
        +0   > . 10001:11001 ack 1        // RFC 3042: a new segment for each of the first two
        +0   < . 1 ack 1 win 60000
        +0   > P. 11001:12001 ack 1
        +0   < . 1 ack 1 win 60000
        +0   > . 1:1001 ack 1
        +.1  < . 1 ack 4001 win 60000     // RFC 6582 section 3.2: partial: the next is lost too
        +0   > . 4001:5001 ack 1
        +.1  < . 1 ack 12001 win 60000
        ",
    );
    assert_eq!((script.stat("recoveries"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_8985_section_6_2_the_first_is_lost_when_later_ones_arrived() {
    let script = after(
        FOUR,
        "
        +.1  < . 1 ack 1 win 60000 <sack 1001:2001>
        +0   ! nothing                    // within the reordering window: a quarter of 100 ms
        +0   < . 1 ack 1 win 60000 <sack 1001:3001>
        +0   ! nothing
        +0   < . 1 ack 1 win 60000 <sack 1001:4001>
        +0   > . 1:1001 ack 1             // three segments: no waiting
        +.1  < . 1 ack 4001 win 60000
        ",
    );
    assert_eq!((script.stat("recoveries"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_8985_section_6_2_the_reordering_timer() {
    let mut script = Script::new(plain());
    script.tolerance = std::time::Duration::from_millis(2);
    script.run(FOUR);
    script.run(
        "
        +.1   < . 1 ack 1 win 60000 <sack 1001:2001>
        +.025 > . 1:1001 ack 1
        +.05  < . 1 ack 2001 win 60000
        +.05  < . 1 ack 4001 win 60000
        ",
    );
    assert_eq!((script.stat("recoveries"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_8985_section_7_the_tail_is_probed() {
    let mut script = Script::new(plain());
    script.tolerance = std::time::Duration::from_millis(2);
    script.run(FOUR);
    script.run(
        "
        +.2  > P. 3001:4001 ack 1                            // two round trips
        +.1  < . 1 ack 1 win 60000 <sack 3001:4001>
        +0   > . 1:1001 ack 1
        +.1  < . 1 ack 1001 win 60000 <sack 3001:4001>
        +0   > . 1001:2001 ack 1
        +0   > . 2001:3001 ack 1
        +.1  < . 1 ack 4001 win 60000
        ",
    );
    assert_eq!((script.stat("tail_probes"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_6937_the_window_shrinks_in_proportion() {
    let mut story = String::from(
        "+0 < S 0 win 60000 <mss 1000, sackOK>\n+0 > S. 0 ack 1\n+.1 < . 1 ack 1 win 60000\n! queue 30000\n",
    );
    for n in 0..10 {
        story += &format!("+0 > . {}:{} ack 1\n", n * 1000 + 1, n * 1000 + 1001);
    }
    story += "+.1 < . 1 ack 1 win 60000 <sack 1001:4001>\n+0 > . 1:1001 ack 1\n";
    // Ten were in flight, seven shall be: seven segments go for each ten that arrive.
    story += "
        +0 < . 1 ack 1 win 60000 <sack 1001:5001>
        +0 > . 10001:11001 ack 1
        +0 < . 1 ack 1 win 60000 <sack 1001:6001>
        +0 > . 11001:12001 ack 1
    ";
    let script = Script::play(&story);
    assert_eq!((script.stat("recoveries"), script.stat("timeouts")), (1, 0));
}

#[test]
fn rfc_4015_a_spurious_timeout_is_undone() {
    let script = Script::play(
        "
        +0   < S 0 win 60000 <mss 1000, TS 1 0>
        +0   > S. 0 ack 1
        +.1  < . 1 ack 1 win 60000 <TS 2 0>
             ! queue 2976
        +0   > . 1:989 ack 1
        +0   > . 989:1977 ack 1
        +0   > . 1977:2965 ack 1
        +0   > P. 2965:2977 ack 1
        +.3  > . 1:989 ack 1
        +.01 < . 1 ack 1977 win 60000 <TS 3 ~300>    // an echo from before
        +0   ! nothing                               // nothing else is sent again
        +.1  < . 1 ack 2977 win 60000 <TS 4 ~300>
        ",
    );
    assert_eq!((script.stat("timeouts"), script.stat("timeouts_undone")), (1, 1));
}

#[test]
fn rfc_2018_section_8_a_peer_that_reneges() {
    let script = after(
        FOUR,
        "
        +.1  < . 1 ack 1 win 60000 <sack 1001:4001>
        +0   > . 1:1001 ack 1
        +.1  < . 1 ack 1001 win 60000                // and the rest is gone
        +.25 > . 1001:2001 ack 1
        +.1  < . 1 ack 2001 win 60000
        +0   > . 2001:3001 ack 1
        +0   > P. 3001:4001 ack 1
        +.1  < . 1 ack 4001 win 60000
        ",
    );
    assert_eq!(script.stat("timeouts"), 1);
}

#[test]
fn rfc_3168_marks_are_echoed_and_obeyed() {
    let mut config = plain();
    config.ecn = true;
    let mut script = Script::new(config);
    script.run(
        "
        +0  < SEW 0 win 60000 <mss 1000, sackOK>
        +0  > S.E 0 ack 1
        +.1 < . 1 ack 1 win 60000
        +0  < . 1:11 ack 1 win 60000 ce
        +0  > .E 1 ack 11
            ! queue 2000
        +0  > .E 1:1001 ack 11 ect
        +0  > P.E 1001:2001 ack 11 ect
        +.1 < .W 11:21 ack 1001 win 60000
        +.04 > . 2001 ack 21
        +0  < .E 21 ack 2001 win 60000
            ! queue 1000
        +0  > P.W 2001:3001 ack 21 ect
        +.1 < . 21 ack 3001 win 60000
        ",
    );
    assert_eq!((script.stat("ecn_marked"), script.stat("ecn_reductions")), (1, 1));
}

#[test]
fn rfc_9293_section_3_8_3_given_up_after_a_while() {
    let mut config = plain();
    config.give_up = std::time::Duration::from_secs(3);
    let mut script = Script::new(config);
    script.tolerance = std::time::Duration::from_millis(20);
    script.run("+0 < S 0 win 60000 <mss 1000>\n+0 > S. 0 ack 1\n+.1 < . 1 ack 1 win 60000\n! queue 10\n\
                +0 > P. 1:11 ack 1\n+.3 > P. 1:11 ack 1\n+.6 > P. 1:11 ack 1\n+1.2 > P. 1:11 ack 1\n+2.4 > R. 11 ack 1");
    assert_eq!(script.events(), "opened, closed TimedOut");
}
