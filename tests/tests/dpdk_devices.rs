//! DPDK devices from the command line: each carries real traffic, each way in which they fail has its sentence, and nothing
//! stays behind.
//!
//! ```text
//!   left ══ rw-left [ forward, dpdk:net_af_packet0 ..] rw-right ══ right
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use lab::dpdk::Socket;
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Ringway, TestLab, needs};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

fn here() -> Namespace {
    Namespace::current().expect("a namespace")
}

/// Files that DPDK makes unless it is told not to. Its folder is there for a moment while a process begins, and others'
/// may just do so.
fn traces() -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let found = traces_now();
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn traces_now() -> Vec<String> {
    let list = |folder: &str| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path().display().to_string()).collect()
    };
    // Of a process that is gone: one that lives may be somebody else's.
    let left = |path: &String| {
        let pid = path.rsplit_once("ringway-").and_then(|(_, pid)| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    ["/var/run/dpdk", "/dev/hugepages"].map(list).concat().into_iter().filter(left).collect()
}

fn between(lab: &TestLab, driver: &str) -> Outcome<Forwarder> {
    let ports = [(0, Side::Left), (1, Side::Right)]
        .map(|(number, side)| format!("dpdk:{driver}{number},iface={}", side.port()));
    Forwarder::start(lab.middle(), &["--port", &ports[0], "--port", &ports[1]])
}

/// Ping and TCP through the drivers that stand on interfaces of the kernel's, from peers that leave checksums undone.
#[test]
fn drivers_over_interfaces_carry_tcp() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    for driver in ["net_af_packet", "net_pcap", "net_af_xdp"] {
        let lab = quiet();
        // A packet that is not cut yet is longer than these drivers' rings take; and after a frame comes another.
        for side in Side::BOTH {
            let features = format!("-K {} tso off gso off", side.interface());
            TestLab::run(lab.host(side), "ethtool", &features).expect("features");
        }
        let forwarder = between(&lab, driver).unwrap_or_else(|error| panic!("{driver}: {error}"));
        ping(&lab, Side::Left, 2, 5).unwrap_or_else(|error| panic!("{driver}: {error}"));
        let transfer =
            tcp(&lab, Side::Left, 1 << 20, 3, SOON).unwrap_or_else(|error| panic!("{driver}: {error}"));
        assert!(transfer.intact(), "{driver}: {transfer:?}");
        let report = forwarder.finish().expect("books in order");
        let copied = report.both("copied_bytes");
        assert_eq!(copied > 0, driver == "net_af_xdp", "{driver}: what is copied is said: {}", report.end);
        assert!(report.both("checksums_finished") > 0, "{driver}: {}", report.end);
    }
    assert_eq!(traces(), [""; 0]);
}

/// Two processes and memif between them.
#[test]
fn memif_joins_two_processes() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let (lab, socket) = (quiet(), Socket::new());
    let start = |role: &str, side: Side| {
        let path = socket.path().display();
        let memif = format!("dpdk:net_memif0,role={role},socket={path},socket-abstract=no");
        let packet = format!("packet:{}", side.port());
        Forwarder::start(lab.middle(), &["--port", &memif, "--port", &packet]).expect("a forwarder")
    };
    let (server, client) = (start("server", Side::Left), start("client", Side::Right));
    ping(&lab, Side::Left, 2, 10).expect("answers");
    let transfer = tcp(&lab, Side::Left, 1 << 20, 3, SOON).expect("a transfer");
    assert!(transfer.intact(), "{transfer:?}");
    client.finish().expect("books in order");
    server.finish().expect("books in order");
}

/// A tap of DPDK's is there while it runs, and gone afterwards, also when it was killed; deleted meanwhile, it is named.
#[test]
fn a_tap_comes_and_goes() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let exists = || TestLab::run(lab.middle(), "ip", "link show dev dtap7").is_ok();
    let args = ["--mode", "mac-swap", "--port", "dpdk:net_tap7,iface=dtap7"];
    let gone_soon = || {
        let until = Instant::now() + Duration::from_secs(5);
        while exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        !exists()
    };
    let forwarder = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    assert!(exists());
    forwarder.finish().expect("books in order");
    assert!(gone_soon(), "after a clean end");

    let mut forwarder = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    forwarder.process().kill().expect("killed");
    drop(forwarder);
    assert!(gone_soon(), "after a kill");

    let forwarder = Forwarder::start(lab.middle(), &args).expect("started again");
    lab.ip("link del dev dtap7").expect("deleted");
    let report = forwarder.report().expect("books in order");
    assert_eq!((report.code, &report.end["ended"]), (Some(1), &"fault".into()), "{report:?}");
    assert!(report.stderr.contains("net_tap7") && report.stderr.contains("deleted"), "{}", report.stderr);
    assert_eq!(traces(), [""; 0]);
}

/// A process that was killed leaves a socket; the next one takes its place, and one that lives is not disturbed.
#[test]
fn a_socket_of_the_dead_is_cleared_away() {
    let socket = Socket::new();
    let port = socket.vhost(0);
    let args = ["--mode", "mac-swap", "--port", &port];
    let mut killed = Forwarder::start(&here(), &args).expect("a forwarder");
    killed.process().kill().expect("killed");
    drop(killed);
    assert!(socket.path().exists(), "what this test is about");
    let living = Forwarder::start(&here(), &args).expect("started again");
    refused(&args, &["in use", "another path"]);
    living.finish().expect("books in order");
    assert!(!socket.path().exists(), "after a clean end");
    std::fs::write(socket.path(), "a file of somebody's").expect("writes");
    refused(&args, &["something else at this path"]);
    assert!(socket.path().exists(), "it is not ours");
}

/// Two workers share a device of two queues, and hear the word to end together.
#[test]
fn two_workers_share_a_device() {
    let args = ["--port", "dpdk:net_null0,queues=2", "--port", "dpdk:net_null1,queues=2", "--cpu", "0,1"];
    let forwarder = Forwarder::start(&here(), &args).expect("a forwarder");
    std::thread::sleep(Duration::from_millis(500));
    let report = forwarder.finish().expect("books in order");
    for port in 0..2 {
        let received = report.queues(port, "received_packets");
        assert!(received.len() == 2 && received.iter().all(|packets| *packets > 0), "{}", report.end);
    }
    assert_eq!(report.book("discarded"), 0, "{}", report.end);
}

/// `ringway forward ARGS` does not start; its sentence has these words, and its exit code says so.
fn refused(args: &[&str], words: &[&str]) {
    let all = [&["forward", "--format", "json"], args].concat();
    let ended = Ringway::complete(&here(), &all, Duration::from_secs(20)).expect("an end");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in: {}", ended.stderr);
    }
    assert_eq!(traces(), [""; 0]);
}

/// Each mistake is answered in a sentence that has the cure.
#[test]
fn what_is_wrong_is_said() {
    let port = |text: &'static str| ["--mode", "mac-swap", "--port", text];
    for (text, words) in [
        ("dpdk:net_nothing0", &["no driver net_nothing", "librte-net-nothing", "librte-meta-net"][..]),
        ("dpdk:eth0", &["virtual devices begin with net_", "PCI address"]),
        ("dpdk:0000:ff:1e.6", &["Cannot find device", "vfio-pci", "dpdk-devbind.py"]),
        ("dpdk:net_null0,sise=64", &["what net_null0 is told", "net_null0,sise=64"]),
        ("dpdk:net_tap0,queues=17", &["it has 16 queue pairs, and 17 are wanted", "queues=16 is the most"]),
        ("dpdk:net_virtio_user0,path=/nonexistent/socket", &["start it first", "server=1"]),
        ("dpdk:net_af_packet0,iface=nothing0", &["net_af_packet0,iface=nothing0", "No such device"]),
        ("dpdk:net_tap0,mtu=65535", &["configuring it", "frames of 1522 bytes are the longest"]),
        ("dpdk:net_null0,ring=5", &["from 32 to 32768"]),
    ] {
        refused(&port(text), words);
    }
    refused(
        &["--mode", "mac-swap", "--port", "dpdk:net_null0,memory=64", "--frames", "65536"],
        &["128 MiB", "memory=MIB", "vm.nr_hugepages"],
    );
}
