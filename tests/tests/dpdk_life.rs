//! What happens to a DPDK device in its life: links that go down, peers that are killed, several queues, huge pages. Nothing stays
//! behind, and the books balance.
//!
//! ```text
//!   [ load, killed and started again ] ══ vhost-user ══ [ serve, which lives on ]
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::dpdk::{Socket, traces};
use lab::server::{SERVER, Server, Tree, url};
use lab::{Ended, Report, Ringway, TestLab, needs};
use std::time::Duration;

const ENDING: Duration = Duration::from_secs(60);

fn here() -> Namespace {
    Namespace::current().expect("a namespace")
}

fn tree() -> Tree {
    let tree = Tree::new().expect("a folder");
    tree.file("small", 1024).expect("a file");
    tree.file("large", 4 << 20).expect("a file");
    tree
}

fn serve(port: &str, tree: &Tree, more: &[&str]) -> Server {
    let (address, root) = (format!("{SERVER}/24"), tree.path().to_string_lossy());
    let mut args = vec!["--port", port, "--address", &address, "--root", &root];
    args.extend(more);
    // A virtio-user that listens is ready once its peer is there.
    let start = if port.contains("server=1") { Server::begin } else { Server::with };
    start(&here(), &args).expect("a server")
}

fn load_args<'a>(port: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["load", "--format", "json", "--port", port, "--address", "10.77.0.50/24", "--hash"];
    args.extend(more);
    args
}

/// Asks for so many small files, and has each of them.
fn ask(port: &str, more: &[&str]) -> Report {
    let url = url("/small");
    let args = [&[&*url, "--requests", "400", "--connections", "8"], more].concat();
    let ended = Ringway::complete(&here(), &load_args(port, &args), ENDING).expect("an end");
    let report = Report::of(&ended).expect("books in order");
    assert_eq!((report.code, report.end["requests"].as_u64()), (Some(0), Some(400)), "{report:?}");
    report
}

/// Asks for large files, and is killed while they come.
fn ask_and_die(port: &str) {
    let url = url("/large");
    let args = load_args(port, &[&url, "--duration", "30"]);
    let mut client = Ringway::start(&here(), &args).expect("a client");
    client.ready("\"event\":\"ready\"", ENDING).expect("ready");
    // Long enough for frames of both directions to lie in the shared rings.
    std::thread::sleep(Duration::from_millis(500));
    assert!(client.is_running().expect("a process"));
    client.kill().expect("killed");
}

/// A server at one side of a link lives on while its peer is killed in the middle of its answers, and serves the next one.
fn survives(socket: &Socket, server: &str, client: &str) -> Report {
    let tree = tree();
    let serving = serve(server, &tree, &[]);
    if !client.contains("server=1") {
        socket.wait().expect("a socket");
    }
    ask(client, &[]);
    ask_and_die(client);
    ask(client, &[]);
    let report = serving.finish().expect("books in order");
    assert!(report.served("requests") >= 800, "{}", report.end);
    assert!(report.port(0, "link_down") >= 2, "each peer that left was noticed: {}", report.end);
    assert_eq!(traces(), [""; 0]);
    report
}

#[test]
fn vhost_outlives_a_killed_virtio_user() {
    let socket = Socket::new();
    survives(&socket, &socket.vhost(0), &socket.virtio_user(0));
    assert!(!socket.path().exists(), "after a clean end");
}

#[test]
fn virtio_user_outlives_a_killed_vhost() {
    let socket = Socket::new();
    let (server, client) = (socket.virtio_user(0) + ",server=1", socket.vhost(0) + ",client=1");
    survives(&socket, &server, &client);
    assert!(!socket.path().exists(), "after a clean end");
}

/// The side that listens is the one that dies: the other connects again to whoever takes its place at the socket.
#[test]
fn vhost_connects_again_to_who_listens() {
    let socket = Socket::new();
    let (server, client) = (socket.vhost(0) + ",client=1", socket.virtio_user(0) + ",server=1");
    survives(&socket, &server, &client);
}

/// A virtio-user that does not listen has no way back to its peer: it says so and ends, and can be started again.
#[test]
fn virtio_user_that_cannot_return_says_so() {
    let (socket, tree) = (Socket::new(), tree());
    let (vhost, virtio_user) = (socket.vhost(0), socket.virtio_user(0));
    let url = url("/large");
    let args = load_args(&vhost, &[&url, "--duration", "30", "--timeout", "20"]);
    let mut listening = Ringway::start(&here(), &args).expect("a client");
    socket.wait().expect("a socket");
    let serving = serve(&virtio_user, &tree, &[]);
    listening.ready("\"event\":\"ready\"", ENDING).expect("ready");
    std::thread::sleep(Duration::from_millis(500));
    listening.kill().expect("killed");
    let report = serving.report().expect("books in order");
    assert_eq!((report.code, &report.end["ended"]), (Some(1), &"fault".into()), "{report:?}");
    for word in ["net_virtio_user0", "the process at the other end is gone", "server=1"] {
        assert!(report.stderr.contains(word), "no {word:?} in: {}", report.stderr);
    }
    // Both again, the other way about, over the socket that the dead one left.
    assert!(socket.path().exists(), "what a kill leaves");
    let serving = serve(&vhost, &tree, &[]);
    ask(&virtio_user, &[]);
    serving.finish().expect("books in order");
    assert!(!socket.path().exists(), "after a clean end");
}

/// A virtio-user that listens waits for its peer while it opens; told to end, it does, and takes its socket with it.
#[test]
fn waiting_for_a_peer_can_be_ended() {
    for signal in [Ringway::interrupt, Ringway::terminate] {
        let socket = Socket::new();
        let port = socket.virtio_user(0) + ",server=1";
        let args = ["forward", "--mode", "mac-swap", "--port", &port];
        let mut waiting = Ringway::start(&here(), &args).expect("a process");
        socket.wait().expect("a socket");
        std::thread::sleep(Duration::from_millis(200));
        assert!(waiting.is_running().expect("a process"));
        signal(&waiting).expect("a signal");
        let ended = waiting.wait(Duration::from_secs(10)).expect("an end");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains("nobody came"), "{}", ended.stderr);
        assert!(!socket.path().exists());
        assert_eq!(traces(), [""; 0]);
    }
}

/// Two workers at either side of a link of two queues: each queue carries its share, and all end together.
#[test]
fn two_workers_at_two_queues() {
    let (socket, tree) = (Socket::new(), tree());
    let two = ["--cpu", "0,1"];
    let serving = serve(&format!("{},queues=2", socket.vhost(0)), &tree, &two);
    ask(&format!("{},queues=2", socket.virtio_user(0)), &two);
    let report = serving.finish().expect("books in order");
    let received = report.queues(0, "received_packets");
    assert!(received.len() == 2 && received.iter().all(|packets| *packets > 100), "{}", report.end);
}

/// The kernel's side of a tap is set down and up again: that is counted and not a fault, and what is asked then is answered.
#[test]
fn a_link_goes_down_and_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let (lab, tree) = (TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory"), tree());
    let root = tree.path().to_string_lossy();
    let args = ["--port", "dpdk:net_tap0,iface=dtap0", "--address", "10.99.0.2/24", "--root", &root];
    let serving = Server::with(lab.middle(), &args).expect("a server");
    lab.ip("address add 10.99.0.1/24 dev dtap0").expect("an address");
    // What the server said of itself at the start is forgotten: it must be found by asking.
    lab.ip("neighbour flush dev dtap0").expect("flushed");
    let ask = || -> Ended {
        let url = "http://10.99.0.2:8080/small";
        let args = ["load", "--format", "json", url, "--requests", "100", "--connections", "4", "--hash"];
        Ringway::complete(lab.middle(), &args, ENDING).expect("an end")
    };
    for round in 0..3 {
        let ended = ask();
        assert!(ended.status.success(), "round {round}: {ended:?}");
        lab.ip("link set dtap0 down").expect("down");
        std::thread::sleep(Duration::from_millis(200));
        lab.ip("link set dtap0 up").expect("up");
    }
    let ended = ask();
    assert!(ended.status.success(), "{ended:?}");
    let report = serving.finish().expect("books in order");
    assert_eq!((report.port(0, "link_down"), report.served("requests")), (3, 400), "{}", report.end);
    assert_eq!(traces(), [""; 0]);
}
