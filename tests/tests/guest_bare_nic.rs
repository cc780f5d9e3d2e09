//! NICs driven from user space, without the kernel: by VFIO behind an IOMMU, and by UIO without one. Each of them forwards,
//! serves, and goes through the matrix of Forward: modes, frame sizes, rings that wrap.
//!
//! ```text
//!   left: TCP, ping, curl ── left0 ══ 0000:01:00.0 [ forward, serve ] 0000:03:00.0 ══ right0 ── right: TCP, ping
//!         numbered frames    virtio   82574L, 82576, virtio, no kernel driver       virtio
//! ```
//!
//! Before and after, the kernel's driver has them.

use dataplane::lab::{Namespace, Side};
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::raw::{Expect, Landed, Stream, exchange_all};
use lab::server::{PORT, SERVER, Server, Tree, fetch, url};
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Report, TestLab, needs};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// By which door of the kernel's, and what it needs.
#[derive(Clone, Copy)]
struct Door {
    driver: &'static str,
    modules: &'static [&'static str],
}

const VFIO: Door = Door { driver: "vfio", modules: &["vfio-pci", "vfio_iommu_type1"] };
const UIO: Door = Door { driver: "uio", modules: &["uio_pci_generic"] };

impl Door {
    fn guest(self, nic: Nic) -> Guest {
        let guest = Guest::new(Kernel::V6_12).cable(nic).cable(nic).iommu(self.driver == "vfio");
        let guest = guest.program("curl").arguments("hugepages=96").limit(Duration::from_secs(120));
        self.modules.iter().fold(guest, |guest, module| guest.module(module))
    }

    fn load(self, inside: &Inside) -> Outcome<()> {
        self.modules.iter().try_for_each(|module| inside.load(module))
    }

    fn ports(self, inside: &Inside, options: &str) -> [String; 2] {
        [0, 1].map(|cable| format!("{}:{}{options}", self.driver, inside.near_pci(cable)))
    }
}

fn traffic(lab: &TestLab, bytes: u64) -> Outcome<()> {
    for from in Side::BOTH {
        ping(lab, from, 3, 10)?;
        let transfer = tcp(lab, from, bytes, 1, LIMIT)?;
        assert!(transfer.intact(), "{transfer:?}");
    }
    Ok(())
}

/// TCP and ping pass each way; the books balance.
fn forwards(lab: &TestLab, ports: &[String; 2]) -> Outcome<Report> {
    let here = Namespace::current()?;
    let forwarder = Forwarder::start(&here, &["--port", &ports[0], "--port", &ports[1]])?;
    let outcome = traffic(lab, 1 << 20);
    let report = forwarder.finish()?;
    if outcome.is_err() {
        // It says where packets went.
        println!("{}\n{}", report.end, report.stderr);
    }
    outcome?;
    for port in 0..2 {
        let queue = &report.end["ports"][port]["queues"][0];
        println!("{} {}", queue["copying"], queue["mode"]);
        assert_eq!(queue["copying"], "zero-copy");
    }
    assert!(report.both("received_bytes") > 2 << 20, "{}", report.end);
    Ok(report)
}

/// A body arrives whole, without a byte of it copied.
fn serves(lab: &TestLab, port: &str) -> Outcome<Report> {
    let tree = Tree::in_memory()?;
    let content = tree.file("body.bin", 512 << 10)?;
    let (address, root) = (format!("{SERVER}/24"), tree.path().to_string_lossy().into_owned());
    let listen = PORT.to_string();
    // Of huge pages there are not many.
    let args =
        ["--port", port, "--address", &address, "--listen", &listen, "--root", &root, "--content", "64"];
    let server = Server::with(&Namespace::current()?, &args)?;
    let reply = fetch(lab, &[&url("/body.bin")]);
    let report = server.finish()?;
    let reply = reply.map_err(|error| format!("{error}; {}; {}", report.end, report.stderr))?;
    assert!(reply.status == 200 && reply.body == content, "another body, of {} bytes", reply.body.len());
    assert_eq!(report.port(0, "flattened_bytes"), 0, "pages go from the arena");
    Ok(report)
}

/// The kernel's driver has both cards.
fn kernels(inside: &Inside, nic: Nic) -> Outcome<()> {
    for cable in 0..2 {
        let pci = inside.near_pci(cable);
        assert_eq!(inside.driver(&pci).as_deref(), Some(nic.pci_driver()), "{pci}");
        assert!(!inside.near(cable)?.is_empty());
    }
    Ok(())
}

/// The card cuts: it is given far more at once than the wire carries, and the body was whole all the same.
fn cut_by_the_card(served: &Report) {
    let queue = &served.end["ports"][0]["queues"][0];
    assert!(queue["mode"].as_str().is_some_and(|mode| mode.contains("segmentation")), "{queue}");
    let (bytes, packets) = (served.port(0, "transmitted_bytes"), served.port(0, "transmitted_packets"));
    let segments = served.served("segments_out");
    println!("{bytes} bytes in {packets} packets, {segments} of TCP: {queue}");
    assert!(bytes > 512 << 10 && bytes / packets > 3 * 1514, "{bytes} bytes in {packets} packets");
    assert_eq!(served.port(0, "checksums_finished"), 0, "{}", served.end);
    assert_eq!(served.book("unsendable"), 0, "{}", served.end);
}

/// Sizes of the matrix: the shortest of Ethernet, one more than a power of two, the longest of each MTU, one buffer of a card
/// and several.
const SIZES: [usize; 13] = [60, 61, 64, 65, 128, 1000, 1514, 2048, 2049, 3072, 3073, 4096, 9014];

/// Descriptors of each ring in the matrix.
const RING: u64 = 64;

/// What one side sends: every other size, so often that the rings wrap several times, with less under way than they hold.
fn streams(mtu: usize, from: Side) -> Vec<Stream> {
    let first = if from == Side::Left { 0 } else { 1 };
    let sizes = SIZES.into_iter().filter(|bytes| *bytes <= mtu + 14).skip(first).step_by(2);
    let stream = |bytes: usize| {
        let pieces = bytes.div_ceil(1700) as u64;
        Stream { count: 3 * RING / pieces, bytes, window: (24 / pieces).max(1), vlan: None }
    };
    sizes.map(stream).collect()
}

/// Every bit that goes in comes out, in order. One forwarder for all sizes: long frames and short ones follow each other through
/// the same rings.
fn carries(inside: &Inside, lab: &TestLab, door: Door, mtu: usize, expect: Expect) -> Outcome<()> {
    let mode = if expect == Expect::Same { "wire" } else { "mac-swap" };
    let ports = door.ports(inside, &format!(",ring={RING},mtu={mtu}"));
    let args = ["--mode", mode, "--port", &ports[0], "--port", &ports[1]];
    let forwarder = Forwarder::start(&Namespace::current()?, &args)?;
    let exchanges = Side::BOTH.map(|from| (streams(mtu, from), from));
    let landed = exchanges.clone().map(|(streams, from)| exchange_all(lab, from, &streams, expect));
    let report = forwarder.finish()?;
    let mut sent = 0;
    for ((streams, from), all_landed) in exchanges.iter().zip(landed) {
        let all_landed = all_landed?;
        for (stream, landed) in streams.iter().zip(&all_landed) {
            let expected = Landed { whole: stream.count, foreign: landed.foreign, ..Landed::default() };
            let from = from.name();
            assert_eq!(*landed, expected, "{mode}, {} bytes from {from}: {}", stream.bytes, report.end);
            sent += stream.count;
        }
        assert_eq!(all_landed.len(), streams.len());
    }
    assert!(report.book("transmitted") >= sent, "{}", report.end);
    assert_eq!(report.book("unsendable") + report.book("discarded"), 0, "{}", report.end);
    for port in 0..2 {
        assert_eq!(report.port(port, "receive_malformed"), 0, "{}", report.end);
        assert_eq!(report.end["ports"][port]["queues"][0]["copying"], "zero-copy", "{}", report.end);
    }
    Ok(())
}

/// The matrix: both modes, and MTUs whose packets are one buffer of a card, and several.
fn matrix(inside: &Inside, lab: &TestLab, door: Door) -> Outcome<()> {
    for mtu in [1500, 9000] {
        for side in Side::BOTH {
            TestLab::run(lab.host(side), "ip", &format!("link set {} mtu {mtu}", side.interface()))?;
        }
        for expect in [Expect::Same, Expect::Swapped] {
            let begin = Instant::now();
            carries(inside, lab, door, mtu, expect)?;
            println!("matrix, {expect:?}, MTU {mtu}: {:?}", begin.elapsed());
        }
    }
    Ok(())
}

fn intel(inside: &mut Inside, nic: Nic, door: Door) -> Outcome<()> {
    let (lab, _, served) = all(inside, nic, door)?;
    cut_by_the_card(&served);
    // QEMU's 82576 drops them too, and counts nothing.
    if nic == Nic::E1000e { too_long_is_counted(inside, &lab, door) } else { Ok(()) }
}

/// Packets longer than the port's MTU are the card's to drop, and to count.
fn too_long_is_counted(inside: &Inside, lab: &TestLab, door: Door) -> Outcome<()> {
    let [left, right] = door.ports(inside, "");
    let forwarder = Forwarder::start(&Namespace::current()?, &["--port", &left, "--port", &right])?;
    ping(lab, Side::Left, 2, 10)?;
    TestLab::run(lab.host(Side::Left), "ip", &format!("link set {} mtu 9000", Side::Left.interface()))?;
    let ipv4 = Side::Right.ipv4();
    let lost = TestLab::run(lab.host(Side::Left), "ping", &format!("-c 3 -i 0.2 -W 1 -M do -s 3000 {ipv4}"));
    assert!(lost.is_err(), "a packet of 3000 bytes passed");
    let report = forwarder.finish()?;
    assert_eq!(report.port(0, "receive_malformed"), 3, "{}", report.end);
    Ok(())
}

fn all(inside: &mut Inside, nic: Nic, door: Door) -> Outcome<(TestLab, Report, Report)> {
    door.load(inside)?;
    let lab = inside.hosts(|_| {})?;
    kernels(inside, nic)?;
    let ports = door.ports(inside, "");
    let begin = Instant::now();
    let forwarded = forwards(&lab, &ports)?;
    kernels(inside, nic)?;
    println!("forward: {:?}", begin.elapsed());
    let served = serves(&lab, &ports[0])?;
    kernels(inside, nic)?;
    println!("serve: {:?}", begin.elapsed());
    matrix(inside, &lab, door)?;
    kernels(inside, nic)?;
    Ok((lab, forwarded, served))
}

#[test]
#[ignore = "tier guest"]
fn e1000e_by_vfio() {
    VFIO.guest(Nic::E1000e).run(|inside| intel(inside, Nic::E1000e, VFIO));
}

#[test]
#[ignore = "tier guest"]
fn e1000e_by_uio() {
    UIO.guest(Nic::E1000e).run(|inside| intel(inside, Nic::E1000e, UIO));
}

#[test]
#[ignore = "tier guest"]
fn igb_by_vfio() {
    VFIO.guest(Nic::Igb).run(|inside| intel(inside, Nic::Igb, VFIO));
}

#[test]
#[ignore = "tier guest"]
fn igb_by_uio() {
    UIO.guest(Nic::Igb).run(|inside| intel(inside, Nic::Igb, UIO));
}

#[test]
#[ignore = "tier guest"]
fn virtio_by_vfio() {
    VFIO.guest(Nic::Virtio).run(|inside| all(inside, Nic::Virtio, VFIO).map(drop));
}

#[test]
#[ignore = "tier guest"]
fn virtio_by_uio() {
    UIO.guest(Nic::Virtio).run(|inside| all(inside, Nic::Virtio, UIO).map(drop));
}

#[test]
#[ignore = "tier guest"]
fn virtio_with_packed_rings_by_vfio() {
    VFIO.guest(Nic::Virtio).packed(true).run(|inside| {
        let (_lab, forwarded, served) = all(inside, Nic::Virtio, VFIO)?;
        for queue in [&forwarded.end["ports"][0]["queues"][0], &served.end["ports"][0]["queues"][0]] {
            assert!(queue["mode"].as_str().is_some_and(|mode| mode.starts_with("packed ring")), "{queue}");
        }
        Ok(())
    });
}

/// Over cables that carry large segments, the server hands over tens of thousands of bytes at once, gathered from where the
/// content lies, and sums nothing itself; the packets that it forwards come with checksums undone, and leave so.
#[test]
#[ignore = "tier guest"]
fn virtio_is_left_the_cutting_and_summing() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip");
    VFIO.guest(Nic::Virtio).packed(true).taps(1).run(|inside| {
        let (_lab, forwarded, served) = all(inside, Nic::Virtio, VFIO)?;
        let queue = &served.end["ports"][0]["queues"][0];
        let mode = queue["mode"].as_str().unwrap_or_default();
        assert!(mode.contains("checksums, segmentation"), "{mode}");
        let (bytes, segments) = (512 << 10, served.served("segments_out"));
        println!("{segments} segments for {bytes} bytes: {queue}");
        assert!(segments * 5000 < bytes, "{segments} segments for {bytes} bytes");
        assert!(served.served("gathered_bytes") > bytes * 9 / 10, "{}", served.end);
        for report in [&forwarded, &served] {
            assert_eq!(report.port(0, "checksums_finished"), 0, "{}", report.end);
            assert_eq!(report.book("unsendable"), 0, "{}", report.end);
        }
        Ok(())
    });
}
