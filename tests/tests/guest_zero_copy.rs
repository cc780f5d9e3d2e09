//! AF_XDP in zero-copy mode, over NICs that have it: the NIC reads and writes the arena, both ways.
//!
//! ```text
//!   left: TCP, ping ── left0 ══ rw-left [ forward ] rw-right ══ right0 ── right: TCP, ping
//!                     virtio    virtio, igb         virtio, igb    virtio
//! ```

use dataplane::lab::Side;
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::server::{Server, Tree, fetch, url};
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Report, Ringway, TestLab};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Every queue of every port is what was asked for, by the kernel's word.
fn all_zero_copy(report: &Report) {
    let ports = report.end["ports"].as_array().expect("ports");
    for queue in ports.iter().flat_map(|port| port["queues"].as_array().expect("queues")) {
        assert_eq!(queue["copying"], "zero-copy", "{queue}");
    }
}

/// What `ringway doctor` says of a port.
fn doctor(lab: &TestLab) -> Outcome<serde_json::Value> {
    let args = ["doctor", "--format", "json", Side::Left.port()];
    let ended = Ringway::complete(lab.middle(), &args, LIMIT)?;
    Ok(ended.json()?["interfaces"][0].clone())
}

/// TCP and ping pass each way; the books balance.
fn forwards(inside: &Inside) -> Outcome<()> {
    let lab = inside.lab(|_| {})?;
    let promised = doctor(&lab)?;
    assert_eq!(promised["zero_copy"]["verdict"], "yes", "{promised}");
    assert_eq!(promised["native"]["verdict"], "yes", "{promised}");
    let forwarder = Forwarder::between(&lab, "af-xdp", ",mode=zero-copy", &[])?;
    let mut outcome = Ok(());
    for from in Side::BOTH {
        outcome = outcome.and_then(|()| traffic(&lab, from));
    }
    let report = forwarder.finish()?;
    // Before anything is judged: it says where packets went.
    println!("{}", report.end);
    outcome?;
    all_zero_copy(&report);
    assert!(report.both("received_bytes") > 4 << 20, "{}", report.end);
    Ok(())
}

fn traffic(lab: &TestLab, from: Side) -> Outcome<()> {
    ping(lab, from, 5, 10)?;
    let transfer = tcp(lab, from, 2 << 20, 1, LIMIT)?;
    assert!(transfer.intact(), "{transfer:?}");
    Ok(())
}

/// Bodies arrive whole from a server on such a port.
fn serves(inside: &Inside) -> Outcome<()> {
    let lab = inside.lab(|_| {})?;
    let tree = Tree::in_memory()?;
    let content = tree.file("body.bin", 1 << 20)?;
    let server = Server::start(&lab, "af-xdp", &tree, &[])?;
    for _ in 0..3 {
        let reply = fetch(&lab, &[&url("/body.bin")])?;
        assert_eq!(reply.status, 200, "{}", reply.head);
        assert!(reply.body == content, "another body, of {} bytes", reply.body.len());
    }
    let report = server.finish()?;
    all_zero_copy(&report);
    Ok(())
}

fn guest(nic: Nic) -> Guest {
    Guest::new(Kernel::V7).cable(nic).cable(nic).iommu(true).program("curl").program("cat")
}

#[test]
#[ignore = "tier guest"]
fn igb_forwards() {
    guest(Nic::Igb).run(|inside| forwards(inside));
}

#[test]
#[ignore = "tier guest"]
fn virtio_forwards() {
    guest(Nic::Virtio).run(|inside| forwards(inside));
}

#[test]
#[ignore = "tier guest"]
fn igb_serves() {
    guest(Nic::Igb).run(|inside| serves(inside));
}

#[test]
#[ignore = "tier guest"]
fn virtio_serves() {
    guest(Nic::Virtio).run(|inside| serves(inside));
}
