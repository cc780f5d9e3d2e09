//! Segments that were never the peer's, or come long after: what a connection believes of them.

use super::script::{Script, plain};

const STAMPED: &str = "
    +0  < S 0 win 8000 <mss 1000, sackOK, TS 100 0>
    +0  > S. 0 ack 1
    +.1 < . 1 ack 1 win 8000 <TS 200 0>
";

/// Half of all sequence numbers are old, and an acknowledgement that is in flight is soon guessed: both together would let
/// anybody say that bytes have arrived which were lost.
#[test]
fn an_acknowledgement_in_a_segment_from_long_ago_is_not_believed() {
    let mut script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000
            ! queue 100
        +0  > P. 1:101 ack 1
        +0  < . 3221225473:3221225474 ack 101 win 8000    // 2^30 before the window
        +0  > . 101 ack 1
        ",
    );
    assert_eq!(script.events(), "opened");
    // The peer's own, sent again since our acknowledgement was lost, is worth as much as any.
    script.run("+0 < . 4294967290:4294967292 ack 101 win 8000\n+0 > . 101 ack 1");
    assert_eq!((script.events().as_str(), script.stat("duplicates_in")), ("opened, acked 100", 2));
}

/// RFC 5961 section 5 comes before RFC 7323 section 4.3: who guesses only the sequence number must not set TS.Recent, or
/// PAWS would drop all that the peer sends from then on.
#[test]
fn a_timestamp_beside_an_impossible_acknowledgement_is_not_remembered() {
    let mut script = Script::play(STAMPED);
    script.run(
        "
        +.1  < . 1:101 ack 900000 win 8000 <TS 1000000000 0>
        +0   > . 1 ack 1 <TS * 200>
        +.1  < P. 1:101 ack 1 win 8000 <TS 400 0>
        +.04 > . 1 ack 101 <TS * 400>
        ",
    );
    assert_eq!((script.stat("ack_ahead"), script.stat("paws")), (1, 0));
}

/// RFC 7323 section 5.5: after 24 days of silence half of all timestamps seem older than the last one. The first segment is
/// let through, and its timestamp counts from then on.
#[test]
fn rfc_7323_section_5_5_a_clock_that_went_half_way_round() {
    let mut script = Script::play(STAMPED);
    script.run(
        "
        +2160000 < P. 1:101 ack 1 win 8000 <TS 2160000300 0>
        +.04     > . 1 ack 101 <TS * 2160000300>
        +.1      < P. 101:201 ack 1 win 8000 <TS 2160000440 0>
        +.04     > . 1 ack 201 <TS * 2160000440>
        ",
    );
    assert_eq!(script.stat("paws"), 0);
}

/// RFC 9293 section 3.10.7.4: with a window of zero an acknowledgement still counts, also that of a probe with a byte in it;
/// section 3.8.6.1: each of them is answered.
#[test]
fn rfc_9293_section_3_10_7_4_a_byte_before_a_shut_window() {
    let mut config = plain();
    (config.receive_block_bytes, config.receive_window) = (2000, 2000);
    let mut script = Script::new(config);
    script.run(
        "
            +0   < S 0 win 8000 <mss 1000>
            +0   > S. 0 ack 1 win 2000
            +.01 < . 1 ack 1 win 8000
                 ! deaf
                 ! queue 100
            +0   > P. 1:101 ack 1
            +0   < . 1:1001 ack 1 win 8000
            +0   < . 1001:2001 ack 1 win 8000
            +0   > . 101 ack 2001 win 0
            +.05 < . 2001:2002 ack 1 win 8000
            +0   > . 101 ack 2001 win 0
            +.05 < . 2001:2002 ack 101 win 8000
            +0   > . 101 ack 2001 win 0
        ",
    );
    assert_eq!(script.events(), "opened, acked 100");
}

/// RFC 5681 section 4.2: a FIN behind a gap is out of order like any other segment. Unanswered, a lost tail would be
/// repaired only by a timeout, since the probe for it is that FIN again.
#[test]
fn rfc_5681_section_4_2_a_fin_behind_a_gap_is_acknowledged_at_once() {
    let script = Script::play(
        "
        +0  < S 0 win 8000 <mss 1000>
        +0  > S. 0 ack 1
        +.1 < . 1 ack 1 win 8000
        +0  < F. 101 ack 1 win 8000
        +0  > . 1 ack 1
        +0  < F. 101 ack 1 win 8000
        +0  > . 1 ack 1
        +0  < P. 1:101 ack 1 win 8000
        +0  > . 1 ack 102
        ",
    );
    assert_eq!(script.events(), "opened, half_closed");
}
