//! The helpers proven without Ringway: over a bridge of the kernel's they must find everything in order, and over a cable
//! that is cut they must say so in time.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::counters::counters;
use lab::traffic::{Arrived, Burst, ping, tcp, tcp_to, udp};
use lab::{Ringway, TestLab, needs};
use std::time::{Duration, Instant};

fn bridged() -> TestLab {
    let lab = TestLab::up().expect("a laboratory");
    lab.bridge().expect("a bridge");
    lab
}

#[test]
fn tcp_content_arrives_whole_both_ways() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = bridged();
    for side in Side::BOTH {
        let transfer = tcp(&lab, side, 3_000_001, 7, Duration::from_secs(20)).expect("a transfer");
        assert!(transfer.intact());
        assert_eq!(transfer.bytes, 3_000_001);
    }
    let six = tcp_to(&lab, Side::Left, Side::Right.ipv6().into(), 10_000, 7, Duration::from_secs(20));
    assert!(six.expect("a transfer").intact());
    let empty = tcp(&lab, Side::Left, 0, 7, Duration::from_secs(20)).expect("a transfer");
    assert!(empty.intact());
}

#[test]
fn tcp_over_nothing_ends_by_its_deadline() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let begin = Instant::now();
    let error = tcp(&lab, Side::Left, 1000, 7, Duration::from_secs(1)).expect_err("nothing joins the ports");
    assert!(error.to_string().contains("connecting"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn udp_datagrams_are_counted() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = bridged();
    let arrived = udp(&lab, Side::Right, Burst::gentle(2000, 1000)).expect("a burst");
    assert_eq!(arrived, Arrived { distinct: 2000, ..Arrived::default() });
}

#[test]
fn udp_over_a_cut_cable_is_counted_as_lost() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = bridged();
    lab.ip("link set rw-right nomaster").expect("a cut");
    let arrived = udp(&lab, Side::Left, Burst::gentle(50, 100)).expect("a burst");
    assert_eq!(arrived, Arrived::default());
}

#[test]
fn ping_tells_a_bridge_from_nothing() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    assert!(ping(&lab, Side::Left, 2, 1).is_err());
    lab.bridge().expect("a bridge");
    ping(&lab, Side::Left, 10, 5).expect("ten answers");
}

#[test]
fn interfaces_count_what_passes() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = bridged();
    let before = counters(lab.middle(), "rw-left").expect("counters");
    udp(&lab, Side::Left, Burst::gentle(500, 200)).expect("a burst");
    let passed = counters(lab.middle(), "rw-left").expect("counters") - before;
    // 500 datagrams and a few of ARP and neighbour discovery; 14 + 20 + 8 bytes of headers each.
    assert!((500..520).contains(&passed.rx.packets), "{passed:?}");
    assert!(passed.rx.bytes >= 500 * (200 + 42), "{passed:?}");
    assert_eq!(passed.rx.errors + passed.rx.dropped, 0);
    assert!(counters(lab.middle(), "nothing0").is_err());
}

/// Without IPv6 a laboratory carries not one frame of its own accord.
#[test]
fn a_quiet_laboratory_is_quiet() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    std::thread::sleep(Duration::from_millis(500));
    for side in Side::BOTH {
        let counted = counters(lab.middle(), side.port()).expect("counters");
        assert_eq!((counted.rx.packets, counted.tx.packets), (0, 0), "{side:?}");
    }
}

#[test]
fn the_program_is_started_read_and_waited_for() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let ended = Ringway::complete(lab.middle(), &["--version"], Duration::from_secs(10)).expect("its end");
    assert!(ended.status.success());
    assert!(ended.stdout.starts_with("ringway "), "{ended:?}");

    let ended =
        Ringway::complete(lab.middle(), &["no-such-command"], Duration::from_secs(10)).expect("its end");
    assert!(!ended.status.success());
    assert!(ended.stderr.contains("no-such-command"), "{ended:?}");
    assert!(ended.json().is_err());
}

/// A program that runs on is killed by its pid when it is dropped, and `ready` gives up in time.
#[test]
fn a_program_that_says_nothing_is_given_up() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let mut ringway = Ringway::start(lab.middle(), &["--help"]).expect("a start");
    ringway.ready("Usage", Duration::from_secs(10)).expect("its usage");
    let error = ringway.ready("what it never says", Duration::from_secs(10)).expect_err("it ended");
    assert!(error.to_string().contains("ended"), "{error}");
}
