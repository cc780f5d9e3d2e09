//! vhost-user against DPDK's back end, net_vhost: every byte passes, and a back end may go and come back.
//!
//! ```text
//!   left0 ──frames──► rw-left [ forward ] ══ vhost-user ══ [ testpmd macswap ]
//!   left0 ◄──swapped─ rw-left [ forward ] ══ vhost-user ══ [                 ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::measured::Running;
use lab::raw::{Expect, Landed, Stream, exchange};
use lab::{Forwarder, Outcome, Ringway, TestLab, needs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn socket(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// DPDK's forwarder with one back end for each socket. It needs no huge pages, since the memory is ours.
fn testpmd(sockets: &[&str], options: &str, arguments: &[&str]) -> Outcome<Running> {
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "dpdk-testpmd", "--no-huge", "--no-shconf", "-m", "256", "--no-pci"]);
    command.args(["--lcores", "0@0,1@0"]);
    for (i, socket) in sockets.iter().enumerate() {
        command.arg("--vdev").arg(format!("net_vhost{i},iface={socket}{options}"));
    }
    command.args(["--", "--auto-start", "--nb-cores=1", "--total-num-mbufs=4096"]).args(arguments);
    Running::start(command, Some("packets/burst="), Stdio::null())
}

const ECHO: [&str; 2] = ["--forward-mode=macswap", "--port-topology=loop"];

fn echoed(options: &str) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let folder = Folder::new(&format!("echo{}", options.len()));
    let socket = folder.socket("a.sock");
    let peer = testpmd(&[&socket], "", &ECHO).expect("testpmd");
    let port = format!("vhost-user:{socket}{options}");
    let ports = ["--port", "af-xdp:rw-left,ring=64", "--port", &port];
    let forwarder = Forwarder::start(lab.middle(), &ports).expect("a forwarder");
    let mut sent = 0;
    for bytes in [60, 61, 64, 65, 1000, 1514] {
        let stream = Stream { count: 600, bytes, window: 24, vlan: None };
        let landed = exchange(&lab, Side::Left, stream, Expect::Swapped).expect("peers");
        let expected = Landed { whole: stream.count, foreign: landed.foreign, ..Landed::default() };
        assert_eq!(landed, expected, "{bytes} bytes, {options}");
        sent += stream.count;
    }
    let report = forwarder.finish().expect("books in order");
    drop(peer);
    assert!(report.port(1, "received_packets") >= sent, "{}", report.end);
    assert_eq!(report.book("unsendable") + report.port(1, "receive_malformed"), 0, "{}", report.end);
}

#[test]
fn every_byte_passes_over_split_rings() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "dpdk-testpmd");
    echoed(",ring=64");
}

#[test]
fn every_byte_passes_over_packed_rings() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "dpdk-testpmd");
    echoed(",ring=64,packed=on");
}

/// Long frames come in several of our buffers, and leave in several.
#[test]
fn long_frames_are_chained_and_merged() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "dpdk-testpmd");
    let lab = TestLab::with(|plan| (plan.mtu, plan.ipv6) = (9000, false)).expect("a laboratory");
    let folder = Folder::new("long");
    let socket = folder.socket("a.sock");
    let jumbo = ["--max-pkt-len=9200", "--mbuf-size=9728"];
    let peer = testpmd(&[&socket], "", &[&ECHO[..], &jumbo[..]].concat()).expect("testpmd");
    let port = format!("vhost-user:{socket},mtu=9000,packed=on");
    let forwarder =
        Forwarder::start(lab.middle(), &["--port", "af-xdp:rw-left", "--port", &port]).expect("a forwarder");
    let sizes = [1793, 4096, 9014];
    let landed = sizes.map(|bytes| {
        let stream = Stream { count: 200, bytes, window: 8, vlan: None };
        let landed = exchange(&lab, Side::Left, stream, Expect::Swapped).expect("peers");
        (landed.whole, landed.damaged, landed.unordered)
    });
    let report = forwarder.finish().expect("books in order");
    drop(peer);
    assert_eq!(landed, [(200, 0, 0); 3], "{sizes:?} bytes: {}", report.end);
}

/// Frames that go round between two back ends and two of our ports; returns the forwarder's ports.
fn ring_of_two(folder: &Folder, options: &str) -> [String; 2] {
    ["a.sock", "b.sock"].map(|name| format!("vhost-user:{}{options}", folder.socket(name)))
}

/// The back end is killed in the middle and started again: packets under way are lost and counted, and it goes on.
#[test]
fn a_back_end_may_go_and_come_back() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "dpdk-testpmd");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let folder = Folder::new("back");
    let sockets = [folder.socket("a.sock"), folder.socket("b.sock")];
    let sockets = [&*sockets[0], &*sockets[1]];
    let around = ["--forward-mode=io", "--tx-first"];
    let peer = testpmd(&sockets, "", &around).expect("testpmd");
    let [left, right] = ring_of_two(&folder, ",packed=on");
    let mut forwarder =
        Forwarder::start(lab.middle(), &["--port", &left, "--port", &right]).expect("a forwarder");
    std::thread::sleep(Duration::from_millis(500));
    for socket in sockets {
        // What it was told by a process that is killed stays behind, and would keep the next one out.
        assert!(Path::new(socket).exists());
    }
    drop(peer);
    forwarder.process().ready("the back end is gone", Duration::from_secs(5)).expect("it is noticed");
    assert!(forwarder.process().is_running().expect("a process"));
    for socket in sockets {
        let _ = std::fs::remove_file(socket);
    }
    let peer = testpmd(&sockets, "", &around).expect("testpmd again");
    for socket in sockets {
        let again = format!("{socket}: a back end has the rings again");
        forwarder.process().ready(&again, Duration::from_secs(10)).expect("the next is found");
    }
    std::thread::sleep(Duration::from_millis(300));
    let report = forwarder.finish().expect("books in order");
    drop(peer);
    assert!(report.both("received_packets") > 0 && report.both("transmitted_packets") > 0, "{}", report.end);
}

/// The back end connects to us, where it is the client.
#[test]
fn a_back_end_may_connect_to_us() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "dpdk-testpmd");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let folder = Folder::new("client");
    let socket = folder.socket("a.sock");
    let mut peer = None;
    let port = format!("vhost-user:{socket},server=on");
    let args = ["forward", "--format", "json", "--port", "af-xdp:rw-left,ring=64", "--port", &port];
    let mut ringway = Ringway::start(lab.middle(), &args).expect("a forwarder");
    let start = std::time::Instant::now();
    while peer.is_none() {
        assert!(start.elapsed() < Duration::from_secs(10), "no socket");
        if Path::new(&socket).exists() {
            peer = Some(testpmd(&[&socket], ",client=1", &ECHO).expect("testpmd"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    ringway.ready("\"event\":\"ready\"", Duration::from_secs(10)).expect("ready");
    let stream = Stream { count: 300, bytes: 200, window: 16, vlan: None };
    let landed = exchange(&lab, Side::Left, stream, Expect::Swapped).expect("peers");
    assert_eq!((landed.whole, landed.damaged), (300, 0), "{landed:?}");
    ringway.interrupt().expect("a signal");
    let ended = ringway.wait(Duration::from_secs(10)).expect("an end");
    assert!(ended.status.success(), "{ended:?}");
    assert!(!Path::new(&socket).exists(), "our socket goes with us");
    drop(peer);
}

/// Nobody at the other end: a sentence with the cure.
#[test]
fn without_a_back_end_the_cure_is_named() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let folder = Folder::new("nobody");
    let port = format!("vhost-user:{},wait=0", folder.socket("a.sock"));
    let args = ["forward", "--port", &port, "--port", "rw-left"];
    let ended = Ringway::complete(lab.middle(), &args, Duration::from_secs(10)).expect("an end");
    assert!(!ended.status.success() && ended.stderr.contains("start the back end first"), "{ended:?}");
}
