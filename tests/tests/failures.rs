//! What goes wrong in the field, while it runs and at its end: links that go, queues that come, signals.
//!
//! ```text
//!   left ══ rw-left [ forward ] rw-right ══ right        down, deleted, changed, wanted twice, killed
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use lab::traffic::{Burst, ping, udp};
use lab::{Forwarder, Ringway, TestLab, needs};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

fn shown(namespace: &Namespace, args: &str) -> String {
    let output = namespace.command("ip").args(args.split(' ')).output().expect("ip");
    String::from_utf8(output.stdout).expect("text")
}

/// Whether the ports are as they were before anybody came.
fn traces(lab: &TestLab) -> Vec<String> {
    let marks = |side: Side| {
        let text = shown(lab.middle(), &format!("-d link show dev {}", side.port()));
        let promiscuous = !text.contains("promiscuity 0");
        (text.contains("xdp") || promiscuous).then_some(text)
    };
    Side::BOTH.into_iter().filter_map(marks).collect()
}

/// The kernel cleans up behind a process some moments after its end.
fn no_traces(lab: &TestLab) {
    let end = Instant::now() + Duration::from_secs(5);
    while !traces(lab).is_empty() {
        assert!(Instant::now() < end, "left behind: {:?}", traces(lab));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn network_namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A port goes down under traffic and comes up again: frames flow as before, and what met the dead link is counted.
#[test]
fn a_link_goes_down_and_comes_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    link_down_and_up("af-xdp");
}

/// The same by packet sockets.
#[test]
fn a_link_goes_down_and_comes_up_by_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    link_down_and_up("packet");
}

fn link_down_and_up(driver: &str) {
    let lab = quiet();
    let forwarder = Forwarder::between(&lab, driver, "", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 3, 5).expect("answers before");
    lab.ip("link set rw-right down").expect("down");
    // Left does not know: it sends on, by its neighbour entry.
    let arrived = udp(&lab, Side::Left, Burst::gentle(3000, 100)).expect("a burst into the void");
    assert_eq!(arrived.distinct, 0);
    lab.ip("link set rw-right up").expect("up");
    ping(&lab, Side::Left, 3, 10).expect("answers after");
    ping(&lab, Side::Right, 3, 10).expect("answers after, the other way");
    let report = forwarder.finish().expect("books in order");
    assert!(report.port(1, "link_down") > 0, "{}", report.end);
    no_traces(&lab);
}

/// The cable is pulled at the far end: what the kernel lets fall is counted as dropped, and frames flow again.
#[test]
fn the_cable_is_pulled_at_the_far_end() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 3, 5).expect("answers before");
    TestLab::run(lab.host(Side::Right), "ip", "link set right0 down").expect("down");
    let arrived = udp(&lab, Side::Left, Burst::gentle(1000, 100)).expect("a burst into the void");
    assert_eq!(arrived.distinct, 0);
    TestLab::run(lab.host(Side::Right), "ip", "link set right0 up").expect("up");
    ping(&lab, Side::Left, 3, 10).expect("answers after");
    let report = forwarder.finish().expect("books in order");
    // Not all of them: what still waits in the ring when the link is back goes out then.
    assert!(report.port(1, "transmit_dropped") > 0, "{}", report.end);
}

/// An interface that moves to another namespace is gone as one that is deleted.
#[test]
fn an_interface_moves_away() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    let elsewhere = lab.host(Side::Right).name().expect("a named namespace").to_owned();
    lab.ip(&format!("link set rw-left netns {elsewhere}")).expect("moved");
    let report = forwarder.report().expect("books in order");
    assert_eq!(report.code, Some(1), "{report:?}");
    assert!(report.stderr.contains("rw-left") && report.stderr.contains("namespace"), "{}", report.stderr);
}

/// It ends well also while a link is down and frames wait for it.
#[test]
fn it_ends_well_while_a_link_is_down() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let forwarder = Forwarder::between(&lab, "af-xdp", ",ring=64", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 1, 5).expect("an answer");
    lab.ip("link set rw-right down").expect("down");
    udp(&lab, Side::Left, Burst::gentle(500, 100)).expect("a burst into the void");
    let report = forwarder.finish().expect("books in order, every frame home");
    // A hasty sender overruns the receive ring too: that is counted elsewhere.
    let named = report.discarded("transmit-ring-full") + report.port(0, "receive_missed");
    assert!(report.discarded("transmit-ring-full") > 0 && named > 400, "{}", report.end);
}

/// An interface is deleted under it: it ends soon, says which, and every frame is home.
#[test]
fn an_interface_is_deleted() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    for (driver, traffic) in [("af-xdp", false), ("af-xdp", true), ("packet", false), ("packet", true)] {
        let lab = quiet();
        let forwarder = Forwarder::between(&lab, driver, "", &[]).expect("a forwarder");
        ping(&lab, Side::Left, 2, 5).expect("answers");
        let report = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                if traffic {
                    // Half of its way vanishes meanwhile: what arrives does not matter here.
                    let _ = udp(&lab, Side::Right, Burst::flood(300_000, 100));
                }
            });
            if traffic {
                std::thread::sleep(Duration::from_millis(100));
            }
            lab.ip("link del rw-left").expect("deleted");
            let begin = Instant::now();
            let report = forwarder.report().expect("books in order");
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(2), "{driver}: it took {took:?}");
            flood.join().expect("no panic");
            report
        });
        assert_eq!(report.code, Some(1), "{report:?}");
        assert_eq!(report.end["ended"], "fault", "{}", report.end);
        let says = |words: &str| report.stderr.contains(words);
        assert!(says("rw-left") && says("deleted") && !says("rw-right"), "{}", report.stderr);
        assert!(!shown(lab.middle(), "-d link show dev rw-right").contains("xdp"));
    }
}

/// A queue more than there was: a warning that names the port, once, and nothing stops.
#[test]
fn the_number_of_queues_changes() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| (plan.queues, plan.ipv6) = (2, false)).expect("a laboratory");
    // A veth with a program needs as many receive queues as its peer has transmit queues.
    TestLab::run(lab.host(Side::Left), "ethtool", "-L left0 tx 1").expect("one queue");
    TestLab::run(lab.middle(), "ethtool", "-L rw-left rx 1").expect("one queue");
    let mut forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    TestLab::run(lab.middle(), "ethtool", "-L rw-left rx 2").expect("two queues");
    forwarder.process().ready("rw-left has 2 queues now", SOON).expect("a warning");
    ping(&lab, Side::Left, 2, 5).expect("answers still");
    std::thread::sleep(Duration::from_millis(1200));
    let report = forwarder.finish().expect("books in order");
    assert_eq!(report.stderr.matches("queues now").count(), 1, "{}", report.stderr);
}

/// Two want one interface: the second hears why not and what to do, the first notices nothing.
#[test]
fn two_want_one_interface() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    let first = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    // Without a driver's name, too: by packet sockets it would hear nothing.
    for port in ["af-xdp:rw-left", "af-xdp:rw-left,attach=native", "af-xdp:rw-left,attach=generic", "rw-left"]
    {
        let args = ["forward", "--mode", "mac-swap", "--port", port];
        let second = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
        assert_eq!(second.status.code(), Some(1), "{second:?}");
        for words in ["rw-left", "another XDP program", "end the process that holds it"] {
            assert!(second.stderr.contains(words), "{words:?} is not in {}", second.stderr);
        }
        ping(&lab, Side::Left, 3, 5).expect("answers still");
    }
    first.finish().expect("books in order");
    no_traces(&lab);
}

/// SIGINT and SIGTERM end it with its books in order, and nothing of it is left.
#[test]
fn signals_end_it_and_nothing_is_left() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    for (driver, signal) in [
        ("af-xdp", Ringway::interrupt as fn(&Ringway) -> _),
        ("af-xdp", Ringway::terminate),
        ("packet", Ringway::interrupt),
        ("packet", Ringway::terminate),
    ] {
        let mut forwarder = Forwarder::between(&lab, driver, "", &[]).expect("a forwarder");
        let pid = forwarder.process().pid().to_string();
        assert_eq!(traces(&lab).len(), 2, "promiscuous mode, or a program, on each port");
        ping(&lab, Side::Left, 2, 5).expect("answers");
        signal(forwarder.process()).expect("sent");
        let report = forwarder.report().expect("books in order");
        assert_eq!((report.code, &report.end["ended"]), (Some(0), &"stopped".into()), "{report:?}");
        assert_eq!(report.stderr, "");
        // At once: it takes its program off itself.
        assert_eq!(traces(&lab), Vec::<String>::new());
        assert!(!network_namespaces().iter().any(|name| name.contains(&format!("-{pid}-"))));
    }
}

/// Killed, none of its code runs any more: the kernel takes the program off, and the next start works at once.
#[test]
fn killed_it_leaves_nothing_and_starts_again() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = quiet();
    for driver in ["af-xdp", "af-xdp", "packet", "packet", "af-xdp"] {
        let mut forwarder = Forwarder::between(&lab, driver, "", &[]).expect("a forwarder, at once");
        ping(&lab, Side::Left, 2, 5).expect("answers");
        forwarder.process().kill().expect("sent");
        drop(forwarder);
    }
    no_traces(&lab);
}

/// Its time is up: it ends by itself, soon after.
#[test]
fn it_ends_when_its_time_is_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &["--duration", "0.3"]).expect("a forwarder");
    let report = forwarder.report().expect("books in order");
    assert_eq!((report.code, &report.end["ended"]), (Some(0), &"time-up".into()), "{report:?}");
    assert!(report.end["seconds"].as_f64() >= Some(0.3), "{}", report.end);
}

/// Nobody reads what it prints (`ringway forward | head -1`): it ends, and does not panic.
#[test]
fn it_ends_when_nobody_reads() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let program = Ringway::program().expect("built");
    let mut command = lab.middle().command(program);
    command.args(["forward", "--port", "rw-left", "--port", "rw-right", "--format", "json"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("started");
    drop(child.stdout.take());
    let end = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > end {
            child.kill().expect("killed");
            panic!("it goes on though nobody reads");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = child.wait_with_output().expect("its words");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((status.code(), stderr.as_ref()), (Some(0), ""), "nothing went wrong");
    no_traces(&lab);
}
