//! What goes wrong in the field, by packet sockets: links that go, more than they take, a sudden end.
//!
//! ```text
//!   left ══ rw-left [ forward, packet ] rw-right ══ right
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use dataplane::lab::counters::{Counters, counters};
use lab::traffic::{Burst, ping, tcp, udp};
use lab::{Forwarder, TestLab, needs};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

fn by_packet(lab: &TestLab, options: &str) -> Forwarder {
    Forwarder::between(lab, "packet", options, &[]).expect("a forwarder")
}

fn promiscuous(lab: &TestLab, side: Side) -> bool {
    let mut ip = lab.middle().command("ip");
    let output = ip.args(["-d", "link", "show", "dev", side.port()]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("promiscuity"), "{text}");
    !text.contains("promiscuity 0")
}

/// Either port goes down, again and again, with and without traffic: what is forwarded afterwards is whole, and frames
/// for a dead link are counted by name.
#[test]
fn links_go_down_and_come_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let forwarder = by_packet(&lab, "");
    ping(&lab, Side::Left, 2, 5).expect("answers before");
    for side in [Side::Left, Side::Right, Side::Left, Side::Right] {
        lab.ip(&format!("link set {} down", side.port())).expect("down");
        // The sender behind the other port does not know: it sends on, by its neighbour entry.
        let arrived = udp(&lab, side.other(), Burst::gentle(500, 100)).expect("a burst into the void");
        assert_eq!(arrived.distinct, 0);
        lab.ip(&format!("link set {} up", side.port())).expect("up");
        ping(&lab, Side::Left, 2, 10).expect("answers after");
        ping(&lab, Side::Right, 2, 10).expect("answers after, the other way");
    }
    let transfer = tcp(&lab, Side::Left, 1 << 20, 3, SOON).expect("a transfer");
    assert!(transfer.intact(), "{transfer:?}");
    let report = forwarder.finish().expect("books in order");
    assert!(report.port(0, "link_down") > 0 && report.port(1, "link_down") > 0, "{}", report.end);
}

/// An interface is deleted, in the middle of traffic from either side: it ends soon, by exit code 1 and a sentence that
/// names this interface alone, every frame home; and the other port is left as it was.
#[test]
fn an_interface_is_deleted_under_traffic() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    for (victim, from) in [(Side::Left, Side::Left), (Side::Left, Side::Right), (Side::Right, Side::Left)] {
        let lab = quiet();
        let forwarder = by_packet(&lab, ",ring=64");
        ping(&lab, Side::Left, 2, 5).expect("answers");
        let report = std::thread::scope(|scope| {
            // Half of its way vanishes meanwhile: what arrives does not matter here.
            let flood = scope.spawn(|| drop(udp(&lab, from, Burst::flood(300_000, 100))));
            std::thread::sleep(Duration::from_millis(100));
            lab.ip(&format!("link del {}", victim.port())).expect("deleted");
            let begin = Instant::now();
            let report = forwarder.report().expect("books in order");
            assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
            flood.join().expect("no panic");
            report
        });
        assert_eq!((report.code, &report.end["ended"]), (Some(1), &"fault".into()), "{report:?}");
        let says = |words: &str| report.stderr.contains(words);
        let other = victim.other();
        assert!(says(victim.port()) && says("deleted") && !says(other.port()), "{}", report.stderr);
        assert!(!promiscuous(&lab, other), "{} is left promiscuous", other.port());
    }
}

/// Floods from both sides at once through small rings: each datagram left the host or its interface says that it was
/// dropped, each that came was received or missed, each received was transmitted or discarded by name.
#[test]
fn floods_both_ways_add_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let forwarder = by_packet(&lab, ",ring=64");
    ping(&lab, Side::Left, 1, 5).expect("an answer");
    let at_hosts = || Side::BOTH.map(|side| counters(lab.host(side), side.interface()).expect("counters"));
    let before = at_hosts();
    let datagrams = 60_000;
    let [left, right] = std::thread::scope(|scope| {
        let lab = &lab;
        let flood = |side| scope.spawn(move || udp(lab, side, Burst::flood(datagrams, 200)));
        Side::BOTH.map(flood).map(|flood| flood.join().expect("no panic").expect("a burst"))
    });
    let after = at_hosts();
    ping(&lab, Side::Right, 1, 5).expect("an answer after the floods");
    let report = forwarder.finish().expect("books in order");
    for arrived in [left, right] {
        assert_eq!((arrived.damaged, arrived.repeated), (0, 0), "{arrived:?}");
        assert!(arrived.distinct > 0, "{arrived:?}");
    }
    // Two pings and their ARP are counted here and there too.
    let near = |what: u64, whole: u64| (whole..=whole + 16).contains(&what);
    for port in [0, 1] {
        let sent: Counters = after[port] - before[port];
        let shown = format!("port {port}: {sent:?} at the host, {}", report.end);
        assert!(near(sent.tx.packets + sent.tx.dropped, datagrams.into()), "{shown}");
        let (received, missed) = (report.port(port, "received_packets"), report.port(port, "receive_missed"));
        assert!(near(received + missed, sent.tx.packets), "{shown}");
        let reached = (after[1 - port] - before[1 - port]).rx;
        let through = report.port(1 - port, "transmitted_packets");
        assert!((reached.packets..=reached.packets + reached.dropped + 16).contains(&through), "{shown}");
    }
    let discarded = report.book("discarded") + report.book("unsendable");
    assert_eq!(
        report.both("received_packets"),
        report.both("transmitted_packets") + discarded,
        "{}",
        report.end
    );
}

/// Killed in the middle of a flood, none of its code runs any more: nothing of it stays at the ports, and the next one
/// starts at once and forwards everything.
#[test]
fn killed_under_load_it_starts_again() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    for _ in 0..3 {
        let mut forwarder = by_packet(&lab, "");
        ping(&lab, Side::Left, 1, 5).expect("an answer");
        assert!(Side::BOTH.into_iter().all(|side| promiscuous(&lab, side)));
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| drop(udp(&lab, Side::Left, Burst::flood(50_000, 100))));
            std::thread::sleep(Duration::from_millis(30));
            forwarder.process().kill().expect("sent");
            drop(forwarder);
            flood.join().expect("no panic");
        });
        // The kernel cleans up behind a process some moments after its end.
        let end = Instant::now() + Duration::from_secs(5);
        while Side::BOTH.into_iter().any(|side| promiscuous(&lab, side)) {
            assert!(Instant::now() < end, "a port is left promiscuous");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let forwarder = by_packet(&lab, "");
    let transfer = tcp(&lab, Side::Right, 1 << 20, 9, SOON).expect("a transfer");
    assert!(transfer.intact(), "{transfer:?}");
    let report = forwarder.finish().expect("books in order");
    assert_eq!((report.book("unsendable"), report.stderr.as_str()), (0, ""), "{}", report.end);
}
