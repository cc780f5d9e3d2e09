//! Every driver of ours over every NIC that is emulated: copy mode and packet sockets, links that go, NICs that are pulled.
//!
//! ```text
//!   left: TCP, ping, curl ── left0 ══ rw-left [ forward, serve ] rw-right ══ right0 ── right: TCP, ping
//!                            virtio   e1000e, igb, virtio                    virtio
//! ```

use dataplane::lab::Side;
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::server::{Server, Tree, fetch, url};
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Report, TestLab};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// TCP and ping pass each way; the books balance.
fn forwards(lab: &TestLab, driver: &str, options: &str) -> Outcome<Report> {
    let forwarder = Forwarder::between(lab, driver, options, &[])?;
    let mut outcome = Ok(());
    for from in Side::BOTH {
        outcome = outcome.and_then(|()| traffic(lab, from));
    }
    let report = forwarder.finish()?;
    if outcome.is_err() {
        // It says where packets went.
        println!("{driver}{options}: {}\n{}", report.end, report.stderr);
    }
    outcome.map_err(|error| format!("forward by {driver}{options}: {error}"))?;
    Ok(report)
}

fn traffic(lab: &TestLab, from: Side) -> Outcome<()> {
    ping(lab, from, 3, 10)?;
    let transfer = tcp(lab, from, 1 << 20, 1, LIMIT)?;
    assert!(transfer.intact(), "{transfer:?}");
    Ok(())
}

/// A body arrives whole.
fn serves(lab: &TestLab, driver: &str) -> Outcome<Report> {
    let tree = Tree::in_memory()?;
    let content = tree.file("body.bin", 512 << 10)?;
    let server = Server::start(lab, driver, &tree, &[])?;
    let reply = fetch(lab, &[&url("/body.bin")]);
    let report = server.finish()?;
    let reply =
        reply.map_err(|error| format!("serve by {driver}: {error}; {}; {}", report.end, report.stderr))?;
    assert!(reply.status == 200 && reply.body == content, "another body, of {} bytes", reply.body.len());
    Ok(report)
}

/// Forward and serve, by AF_XDP in copy mode and by packet sockets.
fn every_driver(lab: &TestLab) -> Outcome<()> {
    for (driver, options) in [("af-xdp", ",mode=copy"), ("packet", "")] {
        let begin = Instant::now();
        let report = forwards(lab, driver, options)?;
        for port in 0..2 {
            let queue = &report.end["ports"][port]["queues"][0];
            println!("{driver}: {} {}", queue["copying"], queue["mode"]);
            assert_ne!(queue["copying"], "zero-copy");
        }
        serves(lab, driver)?;
        println!("{driver}: {:?}", begin.elapsed());
    }
    Ok(())
}

/// The carrier goes and comes, and frames flow as before.
fn link_goes_and_comes(inside: &mut Inside, lab: &TestLab) -> Outcome<()> {
    for driver in ["af-xdp", "packet"] {
        let forwarder = Forwarder::between(lab, driver, "", &[])?;
        ping(lab, Side::Left, 2, 10)?;
        inside.link(1, false)?;
        assert!(ping(lab, Side::Left, 2, 1).is_err(), "{driver}: answers over a link that is cut");
        inside.link(1, true)?;
        ping(lab, Side::Left, 2, 20)?;
        ping(lab, Side::Right, 2, 20)?;
        forwarder.finish()?;
    }
    Ok(())
}

/// A NIC that is pulled out in the middle is the fault that is told, and the books balance.
fn nic_is_pulled(inside: &mut Inside, lab: &TestLab) -> Outcome<()> {
    let forwarder = Forwarder::between(lab, "af-xdp", "", &[])?;
    ping(lab, Side::Left, 2, 10)?;
    inside.pull_out(1)?;
    // Frames go on to the port that is no more.
    let _ = ping(lab, Side::Left, 3, 3);
    let report = forwarder.report()?;
    assert_eq!(report.end["ended"], "fault", "{}", report.end);
    assert_eq!(report.code, Some(1));
    let fault = report.end["fault"].as_str().unwrap_or_default();
    assert!(fault.contains("rw-right"), "{fault}");
    Ok(())
}

fn all(inside: &mut Inside) -> Outcome<()> {
    let lab = inside.lab(|_| {})?;
    every_driver(&lab)?;
    link_goes_and_comes(inside, &lab)?;
    nic_is_pulled(inside, &lab)
}

fn guest(nic: Nic) -> Guest {
    Guest::new(Kernel::V6_12).cable(nic).cable(nic).program("curl").limit(Duration::from_secs(120))
}

#[test]
#[ignore = "tier guest"]
fn e1000e() {
    guest(Nic::E1000e).run(all);
}

#[test]
#[ignore = "tier guest"]
fn igb() {
    guest(Nic::Igb).run(all);
}

#[test]
#[ignore = "tier guest"]
fn virtio() {
    guest(Nic::Virtio).run(all);
}
