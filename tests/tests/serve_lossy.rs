//! A bad wire between client and server: what is lost, doubled, damaged and delayed is sent again, and every body
//! arrives whole.
//!
//! ```text
//!   left: curl ── left0 ══ rw-left [ forward, loss=1 .. ] rw-right ══ right0 [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{PORT, SERVER, SERVER6, Server, Tree, fetch, url, url6};
use lab::{Forwarder, Report, TestLab, needs};

/// Bytes of a body.
const BODY: usize = 4 << 20;

/// A server behind a wire with these faults (in percent, as the ports of `ringway forward` take them), and `requests`
/// bodies over each IP.
fn through(faults: &str, requests: usize) -> Report {
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let content = tree.file("body", BODY).expect("a file");
    let (v4, v6) = (format!("{SERVER}/24"), format!("{SERVER6}/64"));
    let port = format!("af-xdp:{}", Side::Right.interface());
    let (root, listen) = (tree.path().to_string_lossy(), PORT.to_string());
    let args = ["--port", &port, "--address", &v4, "--address", &v6, "--root", &root, "--listen", &listen];
    let server = Server::with(lab.host(Side::Right), &args).expect("a server");
    let ports = Side::BOTH
        .map(|side| format!("af-xdp:{},{faults},seed={}", side.port(), 7 + u8::from(side == Side::Left)));
    let forwarder =
        Forwarder::start(lab.middle(), &["--port", &ports[0], "--port", &ports[1]]).expect("a wire");
    for _ in 0..requests {
        for at in [url("/body"), url6("/body")] {
            let reply = fetch(&lab, &["--retry", "2", "--retry-connrefused", "--retry-delay", "1", &at]);
            let reply = reply.expect("a response");
            assert_eq!(reply.status, 200, "{}", reply.head);
            assert!(reply.body == content, "another body, of {} bytes", reply.body.len());
        }
    }
    // A server that waits for acknowledgements that were lost ends well too.
    let report = server.finish().expect("books in order");
    forwarder.finish().expect("books in order");
    report
}

/// Segments sent again, for whatever reason.
fn again(report: &Report) -> u64 {
    ["retransmits_fast", "retransmits_timeout", "tail_probes"].map(|name| report.served(name)).iter().sum()
}

/// One packet in a thousand is lost, each way.
#[test]
fn bodies_survive_a_loss_of_one_in_a_thousand() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let report = through("loss=0.1", 2);
    assert!(again(&report) > 0, "{}", report.end);
}

/// One in a hundred.
#[test]
fn bodies_survive_a_loss_of_one_in_a_hundred() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let report = through("loss=1", 1);
    assert!(again(&report) >= 10, "{}", report.end);
    // Acknowledgements tell what was lost: most of it is sent again without waiting for a timer.
    assert!(report.served("retransmits_fast") > report.served("retransmits_timeout"), "{}", report.end);
}

/// One in twenty.
#[test]
fn bodies_survive_a_loss_of_one_in_twenty() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let report = through("loss=5", 1);
    assert!(again(&report) >= 50, "{}", report.end);
}

/// Packets change places, come twice, and arrive with a flipped bit.
#[test]
fn bodies_survive_disorder_and_damage() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let report = through("loss=0.5,reorder=1,duplicate=1,corrupt=0.5", 1);
    assert!(again(&report) > 0, "{}", report.end);
}
