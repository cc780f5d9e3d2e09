//! More than it can take: what is lost is counted where it is lost, and the sums agree with the kernel's.
//!
//! ```text
//!   left ──flood──► rw-left                                    rw-right ──► right
//!                 kernel: dropped ─┬─ missed (no slot, ring full)
//!                                  └─ received = transmitted + discarded by name
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::counters::counters;
use lab::traffic::{Burst, ping, udp};
use lab::{Forwarder, TestLab, needs};

fn flood(driver: &str, options: &str, args: &[&str], burst: Burst) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, driver, options, args).expect("a forwarder");
    ping(&lab, Side::Left, 1, 5).expect("an answer");
    let at = |side: Side| {
        let host = counters(lab.host(side), side.interface()).expect("counters");
        let port = counters(lab.middle(), side.port()).expect("counters");
        (host, port)
    };
    let before = Side::BOTH.map(at);
    let arrived = udp(&lab, Side::Left, burst).expect("a burst");
    let after = Side::BOTH.map(at);
    // Still alive, and not deaf.
    ping(&lab, Side::Right, 1, 5).expect("an answer after the flood");
    let report = forwarder.finish().expect("books in order");

    assert_eq!((arrived.damaged, arrived.repeated), (0, 0), "{arrived:?}");
    assert!(arrived.distinct > 0);
    let [(left_host, left_port), (right_host, _)] = [after[0], after[1]];
    let (host, port) = ((left_host - before[0].0).tx, (left_port - before[0].1).rx);
    // Two pings and their ARP are counted here and there too.
    let few = 16;
    let near = |what: u64, whole: u64| (whole..=whole + few).contains(&what);
    let (received, missed) = (report.port(0, "received_packets"), report.port(0, "receive_missed"));
    // AF_XDP: what the program saw is the third witness.
    let redirected = report.end["ports"][0]["xdp"]["redirected"].as_u64().unwrap_or(received + missed);
    assert_eq!(driver == "af-xdp", report.end["ports"][0]["xdp"].is_object(), "{}", report.end);
    let shown = format!("{host:?} at the host, {port:?} at the port, {}", report.end);
    // Each datagram either left the host, or its interface says that the cable was full.
    assert!(near(host.packets + host.dropped, burst.datagrams.into()), "{shown}");
    assert!(near(redirected, host.packets), "{shown}");
    assert_eq!(redirected, received + missed, "{shown}");
    let through = report.port(1, "transmitted_packets");
    let discarded = report.book("discarded") + report.book("unsendable");
    assert_eq!(
        received + report.port(1, "received_packets"),
        through + report.port(0, "transmitted_packets") + discarded
    );
    // And behind us: what we transmitted reached the other host, or its interface says that it dropped it.
    let reached = (right_host - before[1].0).rx;
    assert!(
        (reached.packets..=reached.packets + reached.dropped + few).contains(&through),
        "{through} transmitted, {reached:?} at the other host"
    );
}

/// Small rings and a flood.
#[test]
fn a_flood_through_small_rings_adds_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    flood("af-xdp", ",ring=64", &[], Burst::flood(100_000, 64));
}

/// Too few frames for the rings: the kernel finds no slot, and says so.
#[test]
fn a_flood_with_too_few_frames_adds_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    flood("af-xdp", ",ring=128", &["--frames", "384"], Burst::flood(100_000, 1000));
}

/// Packet sockets: the kernel counts what its mapped ring has no room for.
#[test]
fn a_flood_by_packet_sockets_adds_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    flood("packet", ",ring=64", &[], Burst::flood(100_000, 64));
}
