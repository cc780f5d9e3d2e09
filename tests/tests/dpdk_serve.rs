//! Files served over DPDK devices, to curl over the kernel's own TCP.
//!
//! ```text
//!   curl ── dtap0 ══ [ serve ]                                                       one process, net_tap
//!   curl ── left0 ══ rw-left [ forward ] vhost ══ virtio-user [ serve ]              two, with TSO and without
//!   curl ── left0 ══ rw-left [ forward ] vhost ══ our own rings [ serve ]            the same with TSO
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use lab::dpdk::Socket;
use lab::server::{Reply, SERVER, Server, Tree, fetch, url};
use lab::{Forwarder, Outcome, Report, TestLab, needs};

/// One segment, and much more than any window.
const SIZES: [usize; 3] = [1 << 10, 100 << 10, 8 << 20];

fn files(tree: &Tree) -> Vec<(String, Vec<u8>)> {
    let each = |bytes: usize| {
        let name = format!("{bytes}.bin");
        let content = tree.file(&name, bytes).expect("a file");
        (name, content)
    };
    SIZES.into_iter().map(each).collect()
}

fn curl_at(namespace: &Namespace, url: &str) -> Outcome<Reply> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--include", url]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("curl: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Reply::parse(&output.stdout)
}

/// Over a tap, which has an address of the kernel's at its other side.
#[test]
fn a_kernel_fetches_over_a_tap() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let files = files(&tree);
    let root = tree.path().to_string_lossy();
    let args = ["--port", "dpdk:net_tap0,iface=dtap0", "--address", "10.99.0.2/24", "--root", &root];
    let server = Server::with(lab.middle(), &args).expect("a server");
    lab.ip("address add 10.99.0.1/24 dev dtap0").expect("an address");
    lab.ip("link set dtap0 up").expect("up");
    for (name, content) in &files {
        let reply = curl_at(lab.middle(), &format!("http://10.99.0.2:8080/{name}")).expect("a response");
        assert_eq!(reply.status, 200, "{name}: {}", reply.head);
        assert!(reply.body == *content, "{name}: another body, of {} bytes", reply.body.len());
    }
    // A device of DPDK's wakes nobody, and the worker must not sleep as if it did.
    let mut connects: Vec<f64> = (0..7).map(|_| connect_after_silence(lab.middle())).collect();
    connects.sort_by(f64::total_cmp);
    assert!(connects[3] < 0.04, "seconds to connect after a silence: {connects:?}");
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("requests"), (files.len() + connects.len()) as u64);
}

/// Seconds that a handshake takes when nothing has happened for a while.
fn connect_after_silence(namespace: &Namespace) -> f64 {
    std::thread::sleep(std::time::Duration::from_millis(150));
    let mut command = namespace.command("curl");
    command.args(["--silent", "--max-time", "20", "--noproxy", "*", "--output", "/dev/null"]);
    command.args(["--write-out", "%{time_connect}", "http://10.99.0.2:8080/1024.bin"]);
    let output = command.output().expect("starts");
    assert!(output.status.success(), "curl: {}", output.status);
    String::from_utf8_lossy(&output.stdout).parse().expect("seconds")
}

/// Serves by DPDK's virtio-user to a forwarder that has the vhost side and a kernel's veth.
fn over_vhost(tso: bool, more: &[&str]) -> (Report, Report) {
    over_vhost_by(|socket| socket.virtio_user(0), tso, more)
}

/// The same by any driver that speaks it.
fn over_vhost_by(port: impl Fn(&Socket) -> String, tso: bool, more: &[&str]) -> (Report, Report) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let files = files(&tree);
    let socket = Socket::new();
    let vhost = format!("{},tso={}", socket.vhost(0), u8::from(tso));
    let packet = format!("packet:{}", Side::Left.port());
    let forwarder =
        Forwarder::start(lab.middle(), &["--port", &vhost, "--port", &packet]).expect("a forwarder");
    let (port, address) = (port(&socket), format!("{SERVER}/24"));
    let root = tree.path().to_string_lossy();
    let mut args = vec!["--port", &port, "--address", &address, "--root", &root];
    args.extend(more);
    let server = Server::with(lab.middle(), &args).expect("a server");
    for (name, content) in &files {
        let reply = fetch(&lab, &[&url(&format!("/{name}"))]).expect("a response");
        assert_eq!(reply.status, 200, "{name}: {}", reply.head);
        assert!(reply.body == *content, "{name}: another body, of {} bytes", reply.body.len());
    }
    let served = server.finish().expect("the server's books in order");
    (served, forwarder.finish().expect("the forwarder's books in order"))
}

/// With a device that cuts, the server hands over segments of tens of thousands of bytes, gathered from where the content
/// lies; without one, of an MTU each.
#[test]
fn segments_are_left_to_the_device_to_cut() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let bytes: usize = SIZES.iter().sum();
    let (small, _) = over_vhost(false, &[]);
    assert!(small.served("segments_out") > bytes as u64 / 1460, "{}", small.end);
    let (large, forwarded) = over_vhost(true, &[]);
    assert!(large.served("segments_out") * 4 < small.served("segments_out"), "{}", large.end);
    assert!(large.served("gathered_bytes") > bytes as u64 * 9 / 10, "{}", large.end);
    assert_eq!(large.port(0, "checksums_finished"), 0, "left to the device: {}", large.end);
    assert_eq!(large.port(0, "flattened_bytes"), 0, "{}", large.end);
    assert_eq!(forwarded.both("copied_bytes") + forwarded.book("unsendable"), 0, "{}", forwarded.end);
    let mode = large.ready["ports"][0]["queues"][0]["mode"].as_str().unwrap_or_default();
    assert!(mode.contains("TSO"), "{mode}");
}

/// The driver `vhost-user`, with rings of our own, does alike; net_vhost cuts TCP, but neither UDP nor TCP with ECN.
#[test]
fn our_own_rings_hand_over_large_segments_too() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let bytes: usize = SIZES.iter().sum();
    for (options, kind) in [("", "split"), (",packed=on", "packed")] {
        let port = |socket: &Socket| format!("vhost-user:{}{options}", socket.path().display());
        let (small, _) = over_vhost_by(port, false, &[]);
        let (large, forwarded) = over_vhost_by(port, true, &[]);
        let mode = large.ready["ports"][0]["queues"][0]["mode"].as_str().unwrap_or_default();
        assert!(mode.starts_with(kind) && mode.contains("segmentation"), "{mode}");
        println!("{mode}: {} segments, not {}", large.served("segments_out"), small.served("segments_out"));
        assert!(small.served("segments_out") > bytes as u64 / 1460, "{}", small.end);
        assert!(large.served("segments_out") * 4 < small.served("segments_out"), "{}", large.end);
        assert!(large.served("gathered_bytes") > bytes as u64 * 9 / 10, "{}", large.end);
        assert_eq!(
            large.port(0, "checksums_finished") + large.port(0, "flattened_bytes"),
            0,
            "{}",
            large.end
        );
        assert_eq!(large.book("unsendable") + forwarded.book("unsendable"), 0, "{}", forwarded.end);
    }
}

/// Content gathered from every size of piece, without TSO: chains of a head and a page or two.
#[test]
fn small_pieces_are_gathered_too() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let (report, _) = over_vhost(false, &["--copy-below", "1"]);
    assert!(report.served("gathered_bytes") > 8 << 20, "{}", report.end);
    assert_eq!(report.port(0, "flattened_bytes"), 0, "{}", report.end);
}
