//! How a server ends: drained, at once, by a fault, after its time; and that nothing is left of it.
//!
//! ```text
//!   left: curl ── left0 ══ rw-left [ serve ]  ◄── SIGINT, SIGKILL, `ip link del`
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{Server, Tree, curl, fetch, url};
use lab::{Report, TestLab, needs};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Bytes of a body that takes a while.
const BODY: usize = 16 << 20;

/// The port is as it was before: no XDP program, not promiscuous. The kernel cleans up some moments after the end.
fn no_traces(lab: &TestLab) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let output = lab.middle().command("ip").args(["-d", "link", "show", "dev", "rw-left"]).output();
        let text = String::from_utf8(output.expect("ip").stdout).expect("text");
        if !text.contains("xdp") && text.contains("promiscuity 0") {
            return;
        }
        assert!(Instant::now() < end, "left behind: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

/// Ctrl-C: what is under way completes, nobody new comes in, exit code 0.
#[test]
fn an_interrupted_server_drains() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    let content = tree.file("body", BODY).expect("a file");
    let mut server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let mut command = lab.host(Side::Left).command("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--limit-rate", "8M"]);
    let child = command.arg(url("/body")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("curl");
    let reader = std::thread::spawn(|| child.wait_with_output().expect("an end"));
    std::thread::sleep(Duration::from_millis(500));
    server.process().interrupt().expect("a process");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.process().is_running().expect("a process"), "it did not wait");
    let late = curl(&lab, &["--connect-timeout", "1", &url("/body")]).expect("curl");
    assert!(!late.status.success(), "a new client came in");
    let output = reader.join().expect("no panic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == content, "another body");
    let report = server.report().expect("books in order");
    assert_eq!(report.code, Some(0), "{report:?}");
    assert_eq!(report.served("connections"), 0, "{}", report.end);
    no_traces(&lab);
}

/// A client that never ends does not hold it up for longer than it is told.
#[test]
fn draining_has_its_limit() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    tree.file("body", BODY).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--drain", "0.5"]).expect("a server");
    let mut command = lab.host(Side::Left).command("curl");
    command.args([
        "--silent",
        "--max-time",
        "20",
        "--noproxy",
        "*",
        "--limit-rate",
        "100K",
        "--output",
        "/dev/null",
    ]);
    let mut child = command.arg(url("/body")).spawn().expect("curl");
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let report: Report = server.finish().expect("books in order");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(report.served("requests"), 1, "{}", report.end);
    child.kill().expect("a process");
    child.wait().expect("an end");
    no_traces(&lab);
}

/// Killed, it leaves nothing that the next one stumbles over.
#[test]
fn a_killed_server_can_be_started_again() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    let content = tree.file("body", 100 << 10).expect("a file");
    for _ in 0..2 {
        let mut server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
        assert!(fetch(&lab, &[&url("/body")]).expect("a response").body == content);
        server.process().kill().expect("a process");
        drop(server);
    }
    no_traces(&lab);
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    assert!(fetch(&lab, &[&url("/body")]).expect("a response").body == content);
    server.finish().expect("books in order");
    no_traces(&lab);
}

/// Its interface is deleted: it ends with a sentence, its books in order.
#[test]
fn its_interface_is_deleted() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    for driver in ["af-xdp", "packet"] {
        let lab = quiet();
        let tree = Tree::new().expect("a folder");
        tree.file("body", 100).expect("a file");
        let server = Server::start(&lab, driver, &tree, &[]).expect("a server");
        assert_eq!(fetch(&lab, &[&url("/body")]).expect("a response").status, 200);
        lab.ip("link del rw-left").expect("deleted");
        let report = server.report().expect("books in order");
        assert_eq!(report.code, Some(1), "{driver}: {report:?}");
        assert!(report.stderr.contains("rw-left"), "{driver}: {}", report.stderr);
    }
}

/// It stops by itself when its time is over.
#[test]
fn it_stops_after_its_time() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    tree.file("body", 100).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--duration", "1"]).expect("a server");
    assert_eq!(fetch(&lab, &[&url("/body")]).expect("a response").status, 200);
    let report = server.report().expect("books in order");
    assert_eq!((report.code, report.served("requests")), (Some(0), 1), "{report:?}");
    no_traces(&lab);
}

/// What the workers count is told to Prometheus, by queue.
#[test]
fn metrics_tell_what_the_workers_count() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let up = lab.middle().command("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
    assert!(up.success());
    let tree = Tree::new().expect("a folder");
    let content = tree.file("body", BODY).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--metrics", "127.0.0.1:9090"]).expect("a server");
    assert!(fetch(&lab, &[&url("/body")]).expect("a body").body == content, "another body");
    let mut ask = lab.middle().command("curl");
    ask.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "5",
        "http://127.0.0.1:9090/metrics",
    ]);
    // The worker tells its numbers at a tick, which on a busy machine may come after the first question.
    let mut tell = || -> String {
        let output = ask.output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let (begin, mut text) = (std::time::Instant::now(), tell());
    let sent = "ringway_queue_transmitted_bytes_total{worker=\"0\",port=\"0\",queue=\"0\"} ";
    let told = |text: &str| {
        let number = text.lines().find_map(|line| line.strip_prefix(sent)?.parse::<u64>().ok());
        number.is_some_and(|bytes| bytes > BODY as u64)
    };
    while !told(&text) && begin.elapsed() < std::time::Duration::from_secs(3) {
        text = tell();
    }
    let number = |sample: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{sample} is not in {text}"))
    };
    let queue = "{worker=\"0\",port=\"0\",queue=\"0\"}";
    assert!(number(&format!("ringway_queue_transmitted_bytes_total{queue}")) > BODY as u64, "{text}");
    assert!(number(&format!("ringway_queue_received_packets_total{queue}")) > 3, "{text}");
    assert!(number("ringway_turns_total{worker=\"0\"}") > 0, "{text}");
    server.finish().expect("a good end");
}
