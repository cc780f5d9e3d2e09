//! Several queues, one worker each: every flow keeps to its queue, and the books are those of all workers together.
//!
//! ```text
//!   left ══╤═ queue 0 ─ worker 0, CPU 0 ─ queue 0 ═╤══ right
//!          └─ queue 1 ─ worker 1, CPU 1 ─ queue 1 ─┘
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::traffic::{Burst, ping, tcp, udp};
use lab::{Forwarder, TestLab, needs};
use std::collections::BTreeMap;
use std::time::Duration;

/// CPUs that each of the worker threads may run on.
fn affinities(pid: u32) -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    let read = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        Some((field("Name:")?, field("Cpus_allowed_list:")?))
    };
    tasks.filter_map(read).filter(|(name, _)| name.starts_with("ringway-")).collect()
}

/// Many flows over two queues and two workers: both see traffic, each on its CPU.
#[test]
fn two_workers_share_the_flows() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("queues::two_workers_share_the_flows", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| plan.queues = 2).expect("a laboratory");
    let mut forwarder = Forwarder::between(&lab, "af-xdp", "", &["--cpu", "0,1"]).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    let pinned = affinities(forwarder.process().pid());
    let expected = [("ringway-0", "0"), ("ringway-1", "1")];
    assert_eq!(pinned, expected.map(|(name, cpu)| (name.to_owned(), cpu.to_owned())).into());
    for seed in 0..12 {
        let from = if seed % 2 == 0 { Side::Left } else { Side::Right };
        let transfer = tcp(&lab, from, 256 << 10, seed, Duration::from_secs(20)).expect("a transfer");
        assert!(transfer.intact(), "{transfer:?}");
    }
    let report = forwarder.finish().expect("books in order");
    let workers = report.ready["workers"].as_array().expect("workers");
    assert_eq!(workers.iter().map(|worker| worker["cpu"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1)]);
    for port in [0, 1] {
        let received = report.queues(port, "received_packets");
        assert!(received.len() == 2 && received.iter().all(|count| *count > 0), "{}", report.end);
        // What came in by queue n leaves by queue n of the other port: a flow keeps its order.
        assert_eq!(received, report.queues(1 - port, "transmitted_packets"), "{}", report.end);
    }
    assert_eq!(report.book("discarded"), 0, "{}", report.end);
}

/// A port of two workers is deleted under a flood: both end, and the books of both are in order.
#[test]
fn two_workers_end_together() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("queues::two_workers_end_together", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| (plan.queues, plan.ipv6) = (2, false)).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &["--cpu", "0,1"]).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    let report = std::thread::scope(|scope| {
        // What arrives when half of the way is gone does not matter here.
        let flood = scope.spawn(|| drop(udp(&lab, Side::Left, Burst::flood(200_000, 60))));
        std::thread::sleep(Duration::from_millis(50));
        lab.ip("link del rw-right").expect("deleted");
        let report = forwarder.report().expect("books in order");
        flood.join().expect("no panic");
        report
    });
    assert_eq!(report.code, Some(1), "{report:?}");
    assert!(report.stderr.contains("rw-right") && report.stderr.contains("deleted"), "{}", report.stderr);
}

/// A queue at each port and two workers: each frame is handed over, by a copy that is counted, and none is lost.
#[test]
fn two_workers_share_one_queue_a_port() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("queues::two_workers_share_one_queue_a_port", &["two CPUs".to_owned()]);
    }
    for driver in ["af-xdp", "packet"] {
        let lab = TestLab::up().expect("a laboratory");
        let forwarder = Forwarder::between(&lab, driver, "", &["--cpu", "0,1"]).expect("a forwarder");
        ping(&lab, Side::Left, 3, 5).expect("answers");
        // Long enough for both to sleep, so that the next frame must wake its own worker and the one behind it.
        std::thread::sleep(Duration::from_millis(50));
        for (seed, from) in (1..).zip(Side::BOTH) {
            let transfer = tcp(&lab, from, 4 << 20, seed, Duration::from_secs(20)).expect("a transfer");
            assert!(transfer.intact(), "{driver}: {transfer:?}");
        }
        let report = forwarder.finish().expect("books in order");
        let workers = report.ready["workers"].as_array().expect("workers");
        assert_eq!(workers.len(), 2);
        let full = report.discarded("hand-off-full");
        assert_eq!(report.book("handed_over") + full, report.book("received"), "{}", report.end);
        assert!(report.end["handed_over_bytes"].as_u64() > Some(8 << 20), "{}", report.end);
        for port in [0, 1] {
            assert_eq!(report.queues(port, "received_packets").len(), 1, "{}", report.end);
        }
    }
}

/// One worker may have both queues of each port.
#[test]
fn one_worker_serves_two_queues() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.queues = 2).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    for seed in 0..12 {
        let transfer = tcp(&lab, Side::Left, 64 << 10, seed, Duration::from_secs(20)).expect("a transfer");
        assert!(transfer.intact(), "{transfer:?}");
    }
    let report = forwarder.finish().expect("books in order");
    assert!(report.queues(0, "received_packets").iter().all(|count| *count > 0), "{}", report.end);
    assert_eq!(report.ready["workers"][0]["umem_registrations"], 1, "one arena, registered once");
}

/// A queue that was not asked for stays the kernel's, and the report says how many frames went there.
#[test]
fn a_queue_that_is_left_out_stays_with_the_kernel() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.queues = 2).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", ",queues=0", &[]).expect("a forwarder");
    // Sixteen flows: the kernel shares them out by a hash.
    let send = || {
        for _ in 0..16 {
            let socket = std::net::UdpSocket::bind("10.77.0.1:0").expect("a socket");
            let _ = socket
                .send_to(&[7; 100], "10.77.0.255:9")
                .or_else(|_| socket.send_to(&[7; 100], "10.77.0.2:9"));
        }
    };
    TestLab::run(lab.host(Side::Left), "ip", "neigh replace 10.77.0.2 lladdr 02:52:57:00:00:02 dev left0")
        .expect("a neighbour");
    lab.host(Side::Left).run(send).expect("inside");
    std::thread::sleep(Duration::from_millis(100));
    let report = forwarder.finish().expect("books in order");
    let xdp = &report.end["ports"][0]["xdp"];
    let number = |name: &str| xdp[name].as_u64().expect("a count");
    assert!(number("no_socket") > 0 && number("redirected") > 0, "{}", report.end);
    assert!(number("no_socket") + number("redirected") >= 16, "{}", report.end);
}
