//! Two hosts of the kernel's own talk through the forwarder as if it were a cable.
//!
//! ```text
//!   left: TCP, UDP, ping ── left0 ══ rw-left [ forward ] rw-right ══ right0 ── right: TCP, UDP, ping
//!                    default offloads: every checksum is only begun when it reaches us
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use lab::counters::counters;
use lab::raw::{Expect, Stream, exchange};
use lab::traffic::{Burst, ping, tcp_to, udp};
use lab::{Forwarder, Report, TestLab, needs};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// What the namespace's own IP, TCP and UDP counted: `Tcp.InCsumErrors` and the like, IPv6 by `Udp6InErrors`.
fn stack_counters(namespace: &Namespace) -> BTreeMap<String, u64> {
    let read = |file: &str| {
        let output = namespace.command("cat").arg(file).output().expect("cat");
        String::from_utf8(output.stdout).expect("text")
    };
    let mut found = BTreeMap::new();
    let (snmp, snmp6) = (read("/proc/net/snmp"), read("/proc/net/snmp6"));
    let lines: Vec<&str> = snmp.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
            let group = names.split(':').next().unwrap_or_default();
            found.insert(format!("{group}.{name}"), value.parse().unwrap_or(0));
        }
    }
    for line in snmp6.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            found.insert(name.to_owned(), value.trim().parse().unwrap_or(0));
        }
    }
    assert!(found.contains_key("Tcp.InCsumErrors") && found.contains_key("Udp6InCsumErrors"), "{found:?}");
    found
}

fn no_bad_checksums(lab: &TestLab) {
    for side in Side::BOTH {
        let bad: Vec<_> = stack_counters(lab.host(side))
            .into_iter()
            .filter(|(name, count)| name.contains("CsumErrors") && *count > 0)
            .collect();
        assert!(bad.is_empty(), "{}: {bad:?}", side.name());
    }
}

/// Bytes and hashes of a real transfer each way, over the family of `address`.
fn transfers(lab: &TestLab, address: fn(Side) -> IpAddr, bytes: u64) {
    for (seed, from) in (1..).zip(Side::BOTH) {
        let transfer = tcp_to(lab, from, address(from.other()), bytes, seed, LIMIT).expect("a transfer");
        assert_eq!(transfer.bytes, bytes);
        assert!(transfer.intact(), "{transfer:?}");
    }
}

fn tcp_through(driver: &str, options: &str, mtu: u32) -> Report {
    let lab = TestLab::with(|plan| plan.mtu = mtu).expect("a laboratory");
    if options.contains("generic") {
        // In its generic path the kernel does not tell the sender to stop: packets of 64 KiB would come.
        for side in Side::BOTH {
            let off = format!("-K {} tso off", side.interface());
            TestLab::run(lab.host(side), "ethtool", &off).expect("an offload off");
        }
    }
    let forwarder = Forwarder::between(&lab, driver, options, &[]).expect("a forwarder");
    ping(&lab, Side::Left, 3, 5).expect("answers");
    transfers(&lab, |side| side.ipv4().into(), 8 << 20);
    transfers(&lab, |side| side.ipv6().into(), 8 << 20);
    no_bad_checksums(&lab);
    let report = forwarder.finish().expect("books in order");
    assert!(report.both("transmitted_bytes") > 32 << 20, "{}", report.end);
    report
}

/// TCP with checksums that the sender only began, over IPv4 and IPv6, ends with equal hashes.
#[test]
fn tcp_arrives_intact() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    tcp_through("af-xdp", "", 1500);
}

/// The same in frames of several buffers.
#[test]
fn tcp_arrives_intact_in_long_frames() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    tcp_through("af-xdp", "", 9000);
}

/// The same where the kernel attaches the program in its generic path.
#[test]
fn tcp_arrives_intact_in_generic_mode() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    tcp_through("af-xdp", ",attach=generic", 1500);
}

/// In generic mode a sender's TSO goes on, and its packets of up to 64 KiB fit no cable: none of them vanishes, each is
/// counted as unsendable.
#[test]
fn packets_longer_than_the_way_out_are_named() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", ",attach=generic", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 3, 5).expect("short ones pass");
    let transfer = tcp_to(&lab, Side::Left, Side::Right.ipv4().into(), 8 << 20, 1, Duration::from_secs(1));
    let report = forwarder.finish().expect("books in order");
    let named = report.port(1, "unsendable") + report.port(0, "receive_malformed");
    assert!(transfer.is_ok_and(|transfer| transfer.intact()) || named > 0, "{}", report.end);
}

/// Datagrams that come no faster than a ring drains all arrive, whole and in order, and the forwarder counted each.
#[test]
fn udp_arrives_without_a_loss() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    // Neighbours are known before it begins: ARP queues hold a few packets only.
    ping(&lab, Side::Left, 1, 5).expect("an answer");
    let before = counters(lab.middle(), Side::Left.port()).expect("counters");
    let arrived = udp(&lab, Side::Left, Burst::gentle(1500, 1000)).expect("a burst");
    let at_port = (counters(lab.middle(), Side::Left.port()).expect("counters") - before).rx.packets;
    assert_eq!((arrived.distinct, arrived.damaged, arrived.repeated, arrived.late), (1500, 0, 0, 0));
    no_bad_checksums(&lab);
    let report = forwarder.finish().expect("books in order");
    assert!(at_port >= 1500, "the port saw {at_port}");
    assert_eq!(report.port(0, "received_packets"), report.port(1, "transmitted_packets"), "{}", report.end);
    assert!(report.port(0, "received_packets") >= 1500, "{}", report.end);
    assert_eq!(report.both("receive_missed"), 0, "{}", report.end);
}

/// A reflector: frames come back to who sent them, addresses exchanged, and nothing leaves by the other port.
#[test]
fn mac_swap_answers() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &["--mode", "mac-swap"]).expect("a forwarder");
    let stream = Stream { count: 2000, bytes: 64, window: 64, vlan: None };
    for from in Side::BOTH {
        let landed = exchange(&lab, from, stream, Expect::Swapped).expect("peers");
        assert_eq!((landed.whole, landed.damaged), (stream.count, 0), "{}", from.name());
    }
    let report = forwarder.finish().expect("books in order");
    for port in [0, 1] {
        assert_eq!(report.port(port, "received_packets"), report.port(port, "transmitted_packets"));
        assert!(report.port(port, "transmitted_packets") >= stream.count, "{}", report.end);
    }
}

/// The same over the kernel's own packet sockets.
#[test]
fn tcp_arrives_intact_by_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    tcp_through("packet", "", 1500);
}

/// One port by AF_XDP and one by a packet socket, whichever way the data goes: what the packet socket hands over uncut is
/// cut here, packet by packet, and nothing is unsendable.
#[test]
fn tcp_arrives_intact_between_different_drivers() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    let args = ["--port", "packet:rw-left", "--port", "af-xdp:rw-right"];
    let forwarder = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    ping(&lab, Side::Left, 3, 5).expect("answers");
    transfers(&lab, |side| side.ipv4().into(), 4 << 20);
    transfers(&lab, |side| side.ipv6().into(), 4 << 20);
    no_bad_checksums(&lab);
    let report = forwarder.finish().expect("books in order");
    let (packets, segments) = (report.port(1, "packets_cut"), report.port(1, "segments_cut"));
    assert!(packets > 100 && segments > 4 * packets, "{}", report.end);
    assert_eq!(report.book("cut"), segments - packets, "{}", report.end);
    assert_eq!((report.port(0, "packets_cut"), report.book("unsendable")), (0, 0), "{}", report.end);
}

/// A datagram in three fragments: only the first has a UDP header, none has a checksum to be finished by us.
#[test]
fn fragments_arrive_intact() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    ping(&lab, Side::Left, 1, 5).expect("an answer");
    let arrived = udp(&lab, Side::Left, Burst::gentle(500, 4000)).expect("a burst");
    assert_eq!((arrived.distinct, arrived.damaged), (500, 0));
    no_bad_checksums(&lab);
    forwarder.finish().expect("books in order");
}

/// TCP inside VXLAN: the sender leaves the checksum of the *inner* segment undone.
#[test]
fn tcp_arrives_intact_through_a_tunnel() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    for (side, address) in Side::BOTH.into_iter().zip(["10.79.0.1/24", "10.79.0.2/24"]) {
        let (host, remote) = (lab.host(side), side.other().ipv4());
        let add = format!("link add tunnel0 type vxlan id 7 remote {remote} dstport 4789");
        if let Err(error) = TestLab::run(host, "ip", &add) {
            assert!(error.to_string().contains("Unknown device type"), "{error}");
            let here = "forward_veth::tcp_arrives_intact_through_a_tunnel";
            return lab::needs::skip(here, &["VXLAN interfaces (CONFIG_VXLAN)".to_owned()]);
        }
        TestLab::run(host, "ip", &format!("addr add {address} dev tunnel0")).expect("an address");
        TestLab::run(host, "ip", "link set tunnel0 up").expect("up");
    }
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    let address = |side| IpAddr::from([10, 79, 0, if side == Side::Left { 1 } else { 2 }]);
    transfers(&lab, address, 1 << 20);
    no_bad_checksums(&lab);
    forwarder.finish().expect("books in order");
}

/// Four ports are two cables: frames of the one never come out of the other.
#[test]
fn four_ports_are_two_cables() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    for (side, port, end) in [(Side::Left, "rw-c", "c0"), (Side::Right, "rw-d", "d0")] {
        let (host, name) = (lab.host(side), lab.host(side).name().expect("a named namespace"));
        lab.ip(&format!("link add {port} type veth peer name {end} netns {name}")).expect("a cable");
        lab.ip(&format!("link set {port} arp off up")).expect("up");
        let address = if side == Side::Left { "10.80.0.1/24" } else { "10.80.0.2/24" };
        TestLab::run(host, "ip", &format!("addr add {address} dev {end}")).expect("an address");
        TestLab::run(host, "ethtool", &format!("-K {end} gro on")).expect("NAPI");
        TestLab::run(host, "ip", &format!("link set {end} up")).expect("up");
    }
    let ports = ["rw-left", "rw-right", "rw-c", "rw-d"].map(|port| format!("af-xdp:{port}"));
    let args: Vec<&str> = ports.iter().flat_map(|port| ["--port", port]).collect();
    let forwarder = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    transfers(&lab, |side| side.ipv4().into(), 1 << 20);
    let address = |side| IpAddr::from([10, 80, 0, if side == Side::Left { 1 } else { 2 }]);
    transfers(&lab, address, 2 << 20);
    let report = forwarder.finish().expect("books in order");
    for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        let (came, went) = (report.port(from, "received_packets"), report.port(to, "transmitted_packets"));
        assert!(came > 0 && came == went, "{from} to {to}: {}", report.end);
    }
    assert_eq!(report.ready["workers"][0]["umem_registrations"], 1, "one arena for all ports");
}

/// One port alone can be a reflector, with our own system calls driving its queue.
#[test]
fn one_port_reflects_by_busy_polling() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let args = ["--mode", "mac-swap", "--port", "af-xdp:rw-left,busy-poll=20"];
    let forwarder = Forwarder::start(lab.middle(), &args).expect("a forwarder");
    let stream = Stream { count: 500, bytes: 200, window: 32, vlan: None };
    let landed = exchange(&lab, Side::Left, stream, Expect::Swapped).expect("peers");
    assert_eq!((landed.whole, landed.damaged), (stream.count, 0));
    let report = forwarder.finish().expect("books in order");
    let mode = report.ready["ports"][0]["queues"][0]["mode"].as_str().expect("words");
    assert!(mode.contains("busy-poll 20"), "{mode}");
}

/// VLAN interfaces at both hosts: the tag goes through, and TCP over it arrives intact.
///
/// The hosts put the tag into the frame themselves (`txvlan off`): as an offload it would travel beside the frame,
/// where no XDP program sees it.
#[test]
fn tcp_arrives_intact_through_a_vlan() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::up().expect("a laboratory");
    for (side, address) in Side::BOTH.into_iter().zip(["10.78.0.1/24", "10.78.0.2/24"]) {
        let (host, interface) = (lab.host(side), side.interface());
        let add = format!("link add link {interface} name vlan7 type vlan id 7");
        if let Err(error) = TestLab::run(host, "ip", &add) {
            // Not a lack of rights, those were looked at: this kernel is built without 802.1Q.
            assert!(error.to_string().contains("Unknown device type"), "{error}");
            let here = "forward_veth::tcp_arrives_intact_through_a_vlan";
            return lab::needs::skip(here, &["VLAN interfaces (CONFIG_VLAN_8021Q)".to_owned()]);
        }
        TestLab::run(host, "ethtool", &format!("-K {interface} txvlan off")).expect("the tag in the frame");
        TestLab::run(host, "ip", &format!("addr add {address} dev vlan7")).expect("an address");
        TestLab::run(host, "ip", "link set vlan7 up").expect("up");
    }
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    let address = |side| IpAddr::from([10, 78, 0, if side == Side::Left { 1 } else { 2 }]);
    transfers(&lab, address, 4 << 20);
    no_bad_checksums(&lab);
    forwarder.finish().expect("books in order");
}
