//! Each example runs, and does what it says.
#![forbid(unsafe_code)]

use dataplane::lab::fetch::Client;
use dataplane::lab::traffic::Hash;
use dataplane::lab::{Namespace, Side};
use lab::server::{PORT, SERVER, Tree};
use lab::{TestLab, needs};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const REFLECT: &str = env!("CARGO_BIN_EXE_01-reflect");
const FORWARD: &str = env!("CARGO_BIN_EXE_02-forward");
const OWN_APP: &str = env!("CARGO_BIN_EXE_03-own-app");
const OWN_DRIVER: &str = env!("CARGO_BIN_EXE_04-own-driver");
const SERVE: &str = env!("CARGO_BIN_EXE_05-serve-a-file");

/// What a program printed, after it ended well.
fn printed(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out.into_owned()
}

/// An example at work inside a namespace; killed if the test ends first.
struct Running(Option<Child>);

impl Running {
    fn start(namespace: &Namespace, program: &str, args: &[&str]) -> Self {
        let mut command = namespace.command(program);
        let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(child.expect("the example starts")))
    }

    fn finish(mut self) -> String {
        let child = self.0.take().expect("taken once");
        printed(&child.wait_with_output().expect("its end"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Pings until an answer comes: an example takes its port some time after it was started.
fn ping(lab: &TestLab, address: &str) {
    let begin = Instant::now();
    let once = || {
        let mut command = lab.host(Side::Left).command("ping");
        let output = command.args(["-c", "3", "-i", "0.1", "-W", "1", address]).output().expect("ping");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut said = once();
    while !said.contains(" 0% packet loss") {
        assert!(begin.elapsed() < Duration::from_secs(10), "no answer from {address}: {said}");
        said = once();
    }
}

/// `received N + allocated ..`: the books, balanced, of at least so many packets.
fn assert_books(printed: &str, least: u64) {
    let books = printed.lines().rfind(|line| line.contains("received ")).expect("the books are printed");
    let number = books.split("received ").nth(1).and_then(|rest| rest.split(' ').next());
    let received: u64 = number.and_then(|number| number.parse().ok()).expect("a number");
    assert!(received >= least && books.contains(" = "), "{printed}");
}

#[test]
fn reflect_exchanges_addresses_in_memory() {
    let printed = printed(&Command::new(REFLECT).output().expect("it starts"));
    for number in 1..=3 {
        assert!(printed.contains(&format!(r"\x02from!\x02to-me\x88\xb5hello {number}")), "{printed}");
    }
    assert_books(&printed, 3);
}

#[test]
fn own_driver_carries_frames_over_udp() {
    let printed = printed(&Command::new(OWN_DRIVER).output().expect("it starts"));
    assert!(printed.starts_with(r"\x02from!\x02to-me\x88\xb5hello"), "{printed}");
    assert_books(&printed, 1);
}

/// A host's own neighbour solicitations come back to it: seen in the books, which count both ways.
#[test]
fn reflect_holds_a_real_port() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN, BPF; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    let reflect = Running::start(lab.middle(), REFLECT, &["af-xdp:rw-left", "3"]);
    // Nobody answers ARP; that each question is reflected is what is wanted.
    let mut command = lab.host(Side::Left).command("ping");
    let output = command.args(["-c", "2", "-W", "2", "10.77.0.99"]).output().expect("ping");
    assert!(!output.status.success());
    assert_books(&reflect.finish(), 1);
}

#[test]
fn forward_joins_two_hosts() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN, BPF; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    let forward = Running::start(lab.middle(), FORWARD, &["af-xdp:rw-left", "af-xdp:rw-right", "5"]);
    ping(&lab, "10.77.0.2");
    // The hosts leave their checksums to the hardware, as hosts do.
    let transfer =
        lab::traffic::tcp(&lab, Side::Left, 4 << 20, 2, Duration::from_secs(10)).expect("a connection");
    assert!(transfer.intact(), "{transfer:?}");
    let printed = forward.finish();
    assert!(printed.contains("ringway: wire, 1 worker"), "{printed}");
    assert_books(&printed, 6);
}

#[test]
fn own_app_answers_ping() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN, BPF; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    let host = Running::start(lab.middle(), OWN_APP, &["af-xdp:rw-left", "10.77.0.9", "4"]);
    ping(&lab, "10.77.0.9");
    assert_books(&host.finish(), 4);
}

#[test]
fn serve_answers_a_client_of_the_kernels() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN, BPF; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let content = tree.file("some/file.bin", 3_000_001).expect("a file");
    let root = tree.path().to_string_lossy();
    let server =
        Running::start(lab.middle(), SERVE, &["af-xdp:rw-left", &format!("{SERVER}/24"), &root, "6"]);
    ping(&lab, SERVER);

    let address = SocketAddr::new(SERVER.parse::<IpAddr>().expect("an address"), PORT);
    let (limit, never) = (Duration::from_secs(10), AtomicBool::new(false));
    let mut client = Client::connect(lab.host(Side::Left), address, limit, &never).expect("a connection");
    let got = client.get("/some/file.bin").expect("an answer");
    let mut hash = Hash::default();
    hash.add(&content);
    assert_eq!((got.status, got.bytes, got.hash), (200, 3_000_001, hash.value()));
    assert_eq!(client.get("/some/").expect("a listing").status, 200);
    assert_eq!(client.get("/none").expect("an answer").status, 404);
    drop(client);
    let printed = server.finish();
    assert!(printed.contains("3 requests"), "{printed}");
    assert_books(&printed, 10);
}
