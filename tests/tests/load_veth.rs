//! `ringway load` over our own TCP, against `ringway serve`: no kernel's TCP at either end.
//!
//! ```text
//!   left [ load ] ── left0 ═══ rw-left ── [ serve ] middle
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{SERVER, Server, Tree, url, url6};
use lab::{Ended, Report, Ringway, TestLab, needs};
use serde_json::Value;
use std::time::Duration;

/// How long a run may take.
const ENDING: Duration = Duration::from_secs(60);

const ADDRESS: &str = "10.77.0.50/24";

/// Runs a client at the left host until it ends by itself.
fn load(lab: &TestLab, driver: &str, args: &[&str]) -> Ended {
    let port = format!("{driver}:{}", Side::Left.interface());
    let mut all = vec!["load", "--format", "json", "--port", &port, "--address", ADDRESS];
    all.extend(args);
    Ringway::complete(lab.host(Side::Left), &all, ENDING).expect("an end")
}

/// Its report, once the books have been looked at.
fn report(ended: &Ended) -> Report {
    let report = Report::of(ended).expect("books in order");
    assert_eq!(report.code, Some(0), "{report:?}");
    report
}

fn number(end: &Value, name: &str) -> u64 {
    end[name].as_u64().unwrap_or_else(|| panic!("no {name}: {end}"))
}

/// Small and large bodies, each verified, over IPv4 and IPv6; client and server have counted the same.
fn story(driver: &str, mtu: u32) {
    let lab = TestLab::with(|plan| plan.mtu = mtu).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    tree.file("small", 1024).expect("a file");
    tree.file("large", 1 << 20).expect("a file");
    let server = Server::start(&lab, driver, &tree, &[]).expect("a server");
    let spec = format!("{driver}:left0");

    let small = report(&load(&lab, driver, &[&url("/small"), "--requests", "5000", "--hash"]));
    assert_eq!((number(&small.end, "requests"), number(&small.end, "body_bytes")), (5000, 5000 << 10));
    assert_eq!(
        (&small.end["transport"], number(&small.end, "connected")),
        (&spec.into(), 64),
        "{}",
        small.end
    );
    assert_eq!(small.ready["workers"].as_array().map(Vec::len), Some(1), "{}", small.ready);

    let args = [&*url("/large"), "--requests", "64", "--connections", "8", "--hash", "--timeout", "20"];
    let large = report(&load(&lab, driver, &args));
    assert_eq!((number(&large.end, "requests"), number(&large.end, "body_bytes")), (64, 64 << 20));

    let six =
        [&*url6("/small"), "--address", "fd77::50/64", "--requests", "500", "--pipeline", "4", "--hash"];
    let six = report(&load(&lab, driver, &six));
    assert_eq!(number(&six.end, "requests"), 500, "{}", six.end);

    let server = server.finish().expect("books in order");
    assert_eq!(server.served("requests"), 5000 + 64 + 500, "{}", server.end);
    assert_eq!(server.served("connections"), 0, "{}", server.end);
}

#[test]
fn both_ends_are_ours_over_af_xdp() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    story("af-xdp", 1500);
}

#[test]
fn both_ends_are_ours_over_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    story("packet", 1500);
}

/// Segments that are longer than a frame come in pieces.
#[test]
fn long_frames_are_put_together() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    story("af-xdp", 9000);
}

/// Gives the middle's kernel an address at the left port.
fn kernel_address(lab: &TestLab) {
    lab.ip("link set rw-left arp on").expect("ARP");
    lab.ip("address add 10.77.0.99/24 dev rw-left").expect("an address");
}

/// A schedule, over our own TCP: as many as were due, and none late.
#[test]
fn a_constant_rate_is_kept() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    tree.file("small", 1024).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let at = url("/small");
    let args = [&at, "--rate", "500", "--duration", "3", "--warmup", "1", "--connections", "8"];
    let rate = report(&load(&lab, "af-xdp", &args));
    let requests = number(&rate.end, "requests");
    // What was due in the warming-up and could not be sent then, on a machine that stood still, is made up for afterwards.
    assert!((1300..=1700).contains(&requests), "{}", rate.end);
    assert_eq!((&rate.end["mode"], number(&rate.end, "unsent")), (&"rate".into(), 0), "{}", rate.end);
    let seconds = rate.end["seconds"].as_f64().expect("a number");
    assert!((2.9..3.2).contains(&seconds), "{}", rate.end);
    let all = server.finish().expect("books in order").served("requests");
    assert!((1950..=2010).contains(&all), "{all} in four seconds: {}", rate.end);
}

/// Two queues, a worker each: whoever hears the answers to a port dials from it.
#[test]
fn two_workers_find_their_ports() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("load_veth::two_workers_find_their_ports", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| plan.queues = 2).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    tree.file("small", 1024).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--cpu", "0,1"]).expect("a server");
    let at = url("/small");
    let args = [&at, "--requests", "4000", "--connections", "40", "--cpu", "0,1", "--hash"];
    let both = report(&load(&lab, "af-xdp", &args));
    assert_eq!((number(&both.end, "requests"), number(&both.ready, "threads")), (4000, 2), "{}", both.end);
    server.finish().expect("books in order");

    // A server of the kernel's answers by whatever queue it likes.
    let mut kernel = lab.middle().command("python3");
    kernel.args(["-c", KERNEL_SERVER]).stdin(std::process::Stdio::piped());
    if !lab::needs::missing(&[], &["python3"]).is_empty() {
        return;
    }
    kernel_address(&lab);
    let mut kernel = kernel.stdout(std::process::Stdio::piped()).spawn().expect("a server");
    let mut line = [0];
    std::io::Read::read_exact(kernel.stdout.as_mut().expect("a pipe"), &mut line).expect("a word");
    let args = ["http://10.77.0.99:8099/", "--requests", "2000", "--connections", "20", "--cpu", "0,1"];
    let ended = load(&lab, "af-xdp", &args);
    kernel.kill().expect("a signal");
    kernel.wait().expect("an end");
    let both = report(&ended);
    assert_eq!(number(&both.end, "requests"), 2000, "{}", both.end);
    let received: Vec<u64> = both.queues(0, "received_packets");
    assert_eq!(received.len(), 2, "{}", both.end);
}

const KERNEL_SERVER: &str = "
import socketserver
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            if line == b'\\r\\n':
                self.wfile.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello')
server = Server(('10.77.0.99', 8099), Answer)
print('.', end='', flush=True)
server.serve_forever()
";

/// What cannot be is said in a sentence.
#[test]
fn what_cannot_be_is_said() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let words = |args: &[&str]| {
        let ended = load(&lab, "af-xdp", args);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        ended.stderr
    };
    let nobody = words(&["http://10.77.0.77/", "--timeout", "1"]);
    assert!(nobody.contains("10.77.0.77:80: no neighbour answers"), "{nobody}");
    let elsewhere = words(&["http://192.0.2.1/"]);
    assert!(elsewhere.contains("--gateway"), "{elsewhere}");
    kernel_address(&lab);
    let refused = words(&["http://10.77.0.99:81/"]);
    assert!(refused.contains("10.77.0.99:81: connection refused"), "{refused}");
    let gateway = words(&["http://192.0.2.1:81/", "--gateway", "10.77.0.99", "--timeout", "0.5"]);
    assert!(gateway.contains("192.0.2.1:81: no answer"), "{gateway}");
    let ours = format!("{}/24", Side::Left.ipv4());
    let port = format!("af-xdp:{}", Side::Left.interface());
    let args = ["load", &format!("http://{SERVER}/"), "--port", &port, "--address", &ours];
    let ended = Ringway::complete(lab.host(Side::Left), &args, ENDING).expect("an end");
    assert!(ended.stderr.contains("is the kernel's at left0"), "{ended:?}");
}

/// Ctrl-C: what there is is told, connections are reset, nothing is left at the interface.
#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    tree.file("small", 1024).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let at = url("/small");
    let args = [
        "load",
        "--format",
        "json",
        "--port",
        "af-xdp:left0",
        "--address",
        ADDRESS,
        &at,
        "--duration",
        "600",
    ];
    let mut client = Ringway::start(lab.host(Side::Left), &args).expect("a client");
    client.ready("interval", ENDING).expect("a second");
    client.interrupt().expect("a signal");
    let report = report(&client.wait(ENDING).expect("an end"));
    assert!(number(&report.end, "requests") > 100, "{}", report.end);
    let server = server.finish().expect("books in order");
    assert_eq!(server.served("connections"), 0, "{}", server.end);
    let links = lab.host(Side::Left).command("ip").args(["link", "show", "left0"]).output().expect("ip");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(!links.contains("prog/xdp") && !links.contains("PROMISC"), "{links}");
}
