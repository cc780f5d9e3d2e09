//! What the kernel has on a port already: a default route, an address, a program that listens, a neighbour with our address.
//!
//! ```text
//!   left ══ rw-left [ forward or serve ]        none of it is taken from the kernel unasked, or unsaid
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{SERVER, Server, Tree, curl};
use lab::{Outcome, Ringway, TestLab, needs};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn quiet() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

/// What `ringway forward` by this port says, and its exit code, when it ends by itself after half a second at most.
fn forwarded(lab: &TestLab, port: &str) -> Outcome<(Option<i32>, String)> {
    let args = ["forward", "--mode", "mac-swap", "--duration", "0.5", "--port", port];
    let ended = Ringway::complete(lab.middle(), &args, SOON)?;
    Ok((ended.status.code(), ended.stderr))
}

/// Who forwards by the interface that SSH comes in by is asked whether that is meant.
#[test]
fn the_default_route_is_not_taken_unasked() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let port = Side::Left.port();
    let (code, said) = forwarded(&lab, &format!("af-xdp:{port}")).expect("an end");
    assert!(code == Some(0) && !said.contains("has the address"), "nothing there: {said}");
    lab.ip(&format!("address add 10.55.0.1/24 dev {port}")).expect("an address");
    let (code, said) = forwarded(&lab, &format!("af-xdp:{port}")).expect("an end");
    assert!(code == Some(0) && said.contains("rw-left has the address 10.55.0.1"), "{said}");
    lab.ip("route add default via 10.55.0.2").expect("a route");
    for words in ["af-xdp:rw-left", "rw-left"] {
        let (code, said) = forwarded(&lab, words).expect("an end");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("default route goes through it") && said.contains("force=on"), "{said}");
    }
    let (code, said) = forwarded(&lab, "af-xdp:rw-left,force=on").expect("an end");
    assert_eq!(code, Some(0), "{said}");
}

/// A program that listens at the kernel's own address would hear nothing more.
#[test]
fn a_port_that_somebody_listens_on_is_not_taken() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    tree.file("file", 1000).expect("a file");
    let (port, root) = (Side::Left.port(), tree.path().to_string_lossy());
    lab.ip(&format!("address add 10.77.0.99/24 dev {port}")).expect("an address");
    lab.ip("link set rw-left arp on").expect("ARP");
    let listener = lab
        .middle()
        .run(|| std::net::TcpListener::bind("10.77.0.99:8080"))
        .expect("inside")
        .expect("listens");
    let port = format!("af-xdp:{port}");
    let args = ["serve", "--port", &port, "--address", "10.77.0.99/24", "--root", &root];
    let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("10.77.0.99:8080: a program listens there"), "{}", ended.stderr);
    drop(listener);
    let server = Server::with(lab.middle(), &args[1..]).expect("a server");
    let got = curl(&lab, &["http://10.77.0.99:8080/file"]).expect("curl runs");
    assert_eq!(got.stdout.len(), 1000, "{got:?}");
    // Nor can anybody come later.
    let late = lab.middle().run(|| std::net::TcpListener::bind("10.77.0.99:8080")).expect("inside");
    assert_eq!(late.map(drop).map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));
    server.finish().expect("books in order");
}

/// At an address of our own a port that nobody serves refuses at once.
#[test]
fn another_port_of_our_address_refuses() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    for driver in ["af-xdp", "packet"] {
        let server = Server::start(&lab, driver, &tree, &[]).expect("a server");
        let begin = Instant::now();
        let got = curl(&lab, &[&format!("http://{SERVER}:8081/")]).expect("curl runs");
        assert_eq!(got.status.code(), Some(7), "{driver}: refused: {got:?}");
        assert!(begin.elapsed() < SOON, "{driver}: {:?}", begin.elapsed());
        server.finish().expect("books in order");
    }
}

/// A host that has our address already says so, keeps its neighbours, and the user is told.
#[test]
fn an_address_that_somebody_has_is_told_and_not_announced() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = quiet();
    let tree = Tree::new().expect("a folder");
    let root = tree.path().to_string_lossy();
    lab.host(Side::Left)
        .command("ip")
        .args(["address", "add", SERVER, "dev", Side::Left.interface()])
        .output()
        .expect("ip");
    for driver in ["af-xdp", "packet"] {
        let port = format!("{driver}:{}", Side::Left.port());
        let address = format!("{SERVER}/24");
        let args = [
            "serve",
            "--duration",
            "4",
            "--port",
            &port,
            "--address",
            &address,
            "--root",
            &root,
            "--format",
            "json",
        ];
        let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
        assert!(ended.stderr.contains(&format!("{SERVER} is used by ")), "{driver}: {}", ended.stderr);
        let lines = ended.json_lines().expect("JSON");
        let end = lines.last().expect("an end");
        // The probe, and no announcement.
        assert_eq!(end["ports"][0]["queues"][0]["transmitted_packets"], 1, "{driver}: {end}");
    }
}
