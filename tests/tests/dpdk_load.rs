//! Our own client and our own server over a shared-memory link: no kernel in the path, and no TCP but ours.
//!
//! ```text
//!   [ load ] virtio-user ══ vhost [ serve ]         two processes; and each side the other way about
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::dpdk::Socket;
use lab::server::{SERVER, Server, Tree, url};
use lab::{Outcome, Report, Ringway};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const ENDING: Duration = Duration::from_secs(60);

fn here() -> Namespace {
    Namespace::current().expect("a namespace")
}

/// Asks until it has had so many answers; its books are in order.
fn load(port: &str, args: &[&str]) -> Report {
    let mut all = vec!["load", "--format", "json", "--port", port, "--address", "10.77.0.50/24", "--hash"];
    all.extend(args);
    let ended = Ringway::complete(&here(), &all, ENDING).expect("an end");
    let report = Report::of(&ended).expect("the client's books in order");
    assert_eq!(report.code, Some(0), "{report:?}");
    report
}

fn number(end: &Value, name: &str) -> u64 {
    end[name].as_u64().unwrap_or_else(|| panic!("no {name}: {end}"))
}

/// What a program that is not ours says of a file.
fn hash(file: &Path) -> Outcome<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().ok_or("no hash")?.to_owned())
}

/// Small and large bodies by a server at one side, to clients that come and go at the other; both count the same.
fn story(socket: &Socket, server: &str, client: &str) -> Report {
    let tree = Tree::new().expect("a folder");
    let address = format!("{SERVER}/24");
    let root = tree.path().to_string_lossy();
    let files = [("small", 1 << 10, 3000), ("large", 1 << 20, 48)];
    for (name, bytes, _) in files {
        tree.file(name, bytes).expect("a file");
    }
    let args = ["--port", server, "--address", &address, "--root", &root];
    // One that listens as virtio-user is ready once its peer is there.
    let serving = Server::begin(&here(), &args).expect("a server");
    socket.wait().expect("a socket");
    for (name, bytes, requests) in files {
        let count = requests.to_string();
        let asked = load(client, &[&url(&format!("/{name}")), "--requests", &count, "--connections", "8"]);
        let end = &asked.end;
        assert_eq!((number(end, "requests"), number(end, "body_bytes")), (requests, requests * bytes as u64));
        assert_eq!(end["body_sha256"], hash(&tree.path().join(name)).expect("a hash"), "{name}: {end}");
        assert!(end["errors"].as_object().is_some_and(|all| all.values().all(|n| n == 0)), "{end}");
        assert_eq!(asked.port(0, "copied_bytes"), 0, "{end}");
    }
    let served = serving.finish().expect("the server's books in order");
    assert_eq!(served.served("requests"), 3048, "{}", served.end);
    served
}

fn mode(report: &Report) -> &str {
    report.ready["ports"][0]["queues"][0]["mode"].as_str().unwrap_or_default()
}

/// The server lends its memory; the client's side copies out of it, as a NIC would.
#[test]
fn the_server_at_virtio_user() {
    let socket = Socket::new();
    let served = story(
        &socket,
        &format!("{},server=1", socket.virtio_user(0)),
        &format!("{},client=1", socket.vhost(0)),
    );
    assert!(served.served("segments_out") > 48 << 20 >> 11, "an MTU each: {}", served.end);
    assert!(!socket.path().exists(), "after a clean end");
}

/// The same, and the client's side takes what is not cut yet: segments of tens of thousands of bytes, gathered.
#[test]
fn uncut_segments_cross_the_link() {
    let socket = Socket::new();
    let client = format!("{},client=1,tso=1", socket.vhost(0));
    let served = story(&socket, &format!("{},server=1", socket.virtio_user(0)), &client);
    assert!(mode(&served).contains("TSO"), "{}", mode(&served));
    assert!(served.served("segments_out") < 48 << 20 >> 12, "{}", served.end);
    assert!(served.served("gathered_bytes") > 40 << 20, "{}", served.end);
    assert_eq!(served.port(0, "flattened_bytes"), 0, "{}", served.end);
}

/// The server listens as vhost; the client lends its memory.
#[test]
fn the_server_at_vhost() {
    let socket = Socket::new();
    story(&socket, &socket.vhost(0), &socket.virtio_user(0));
    assert!(!socket.path().exists(), "after a clean end");
}
