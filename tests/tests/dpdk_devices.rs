//! DPDK devices from the command line: each carries real traffic, each way in which they fail has its sentence, and nothing
//! stays behind.
//!
//! ```text
//!   left ══ rw-left [ forward, dpdk:net_af_packet0 ..] rw-right ══ right
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use lab::dpdk::{Socket, traces};
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Ringway, TestLab, needs};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

fn here() -> Namespace {
    Namespace::current().expect("a namespace")
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
    refused(&args, &["a process listens there", "another path"]);
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
    // What the command line itself does not understand is told by clap, with its code.
    let code = if ended.stderr.starts_with("error: invalid value") { 2 } else { 1 };
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in: {}", ended.stderr);
    }
    assert_eq!(traces(), [""; 0]);
}

/// A tap that a program has is not shared with another: both would lose frames to each other. A tap that was made to stay, and
/// which nobody has, is taken.
#[test]
fn a_tap_in_use_is_refused() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let args = ["--mode", "mac-swap", "--port", "dpdk:net_tap0,iface=dtap6"];
    let first = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    let all = [&["forward"][..], &args].concat();
    let second = Ringway::complete(lab.middle(), &all, SOON).expect("an end");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    for word in ["making the tap dtap6", "the device is in use", "iface="] {
        assert!(second.stderr.contains(word), "no {word:?} in: {}", second.stderr);
    }
    first.finish().expect("books in order");
    lab.ip("tuntap add dev dtap6 mode tap multi_queue").expect("a tap that stays");
    lab.ip("link set dtap6 up").expect("up");
    let third = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    third.finish().expect("books in order");
}

/// Who has no right to what a virtual device stands on is told which.
#[test]
fn rights_that_are_missing_are_named() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "setpriv");
    let lab = quiet();
    let program = Ringway::program().expect("built");
    for device in
        ["net_tap0,iface=dtap8", "net_af_packet0,iface=lo", "net_pcap0,iface=lo", "net_af_xdp0,iface=lo"]
    {
        let mut command = lab.middle().command("setpriv");
        command.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]).arg(&program);
        let port = format!("dpdk:{device}");
        let output =
            command.args(["forward", "--mode", "mac-swap", "--port", &port]).output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{device}: {said}");
        assert!(said.contains("takes root, or CAP_NET_ADMIN and CAP_NET_RAW"), "{device}: {said}");
        assert_eq!(traces(), [""; 0]);
    }
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
        ("dpdk:net_vhost0,iface=/nonexistent/socket", &["its folder is not there", "make the folder"]),
        (
            "dpdk:net_memif0,role=server,socket=/nonexistent/s,socket-abstract=no",
            &["its folder is not there"],
        ),
        ("dpdk:net_pcap0,rx_pcap=/nonexistent.pcap", &["Couldn't open /nonexistent.pcap", "is told"]),
    ] {
        refused(&port(text), words);
    }
    refused(
        &["--mode", "mac-swap", "--port", "dpdk:net_null0,memory=64", "--frames", "65536"],
        &["128 MiB", "memory=MIB", "vm.nr_hugepages"],
    );
}

/// More memory than the system gives a process.
#[test]
fn memory_that_is_not_to_be_had_is_named() {
    let program = Ringway::program().expect("built");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -v 3000000; exec \"$0\" \"$@\""]).arg(program);
    let output =
        command.args(["forward", "--mode", "mac-swap", "--port", "dpdk:net_null0,memory=8192"]).output();
    let output = output.expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["starting DPDK's environment failed", "8192 MiB are not to be had", "memory=MIB"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(traces(), [""; 0]);
}
