//! DPDK has the devices that were named, and touches no other: neither a NIC of this machine's nor an interface beside.
//!
//! ```text
//!   left ══ rw-left [ forward, dpdk:net_af_packet0 ]   rw-right ══ right        and a tap, both somebody else's
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use drivers::dpdk::devices;
use lab::dpdk::{pool, port, queue, traces};
use lab::traffic::ping;
use lab::{Forwarder, TestLab, needs};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What drives each PCI device of this machine, which driver it is kept for, and whether it may be a master of the bus.
fn nics() -> BTreeMap<String, [String; 3]> {
    let Ok(entries) = fs::read_dir("/sys/bus/pci/devices") else { return BTreeMap::new() };
    let facts = |path: &Path| {
        let link =
            |name| fs::read_link(path.join(name)).map(|link| link.display().to_string()).unwrap_or_default();
        let text = |name| fs::read_to_string(path.join(name)).unwrap_or_default();
        [link("driver"), text("driver_override"), text("enable")]
    };
    entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), facts(&entry.path())))
        .collect()
}

/// What a process has opened or mapped that belongs to a device: of VFIO's, of UIO's, of a tap's, of a NIC's registers.
fn held(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
    let mut held: Vec<String> = descriptors
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its memory");
    held.extend(maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(str::to_owned));
    held.retain(|path| {
        ["/dev/vfio", "/dev/uio", "/dev/net/tun", "/sys/bus/pci", "/sys/devices/pci"]
            .iter()
            .any(|folder| path.starts_with(folder))
    });
    held
}

/// By its own list it has the devices of open ports, while they are open.
#[test]
fn the_environment_has_what_was_named() {
    let before = nics();
    assert_eq!(devices(), [""; 0], "there is no environment yet");
    let first = port("dpdk:net_null0").expect("a port");
    assert_eq!(devices(), ["net_null0"]);
    let second = port("dpdk:net_ring7").expect("a port");
    assert_eq!(devices(), ["net_null0", "net_ring7"]);
    assert!(port("dpdk:net_nothing1").is_err());
    assert_eq!(devices(), ["net_null0", "net_ring7"], "what did not open is not there");
    let pool = pool(4096, 0).expect("memory");
    let umem = drivers::xdp::Umem::new(&pool);
    let queues = [&first, &second].map(|port| queue(&umem, port).expect("a queue"));
    assert_eq!(held(std::process::id()), [""; 0]);
    assert_eq!(nics(), before, "while it runs");
    drop(queues);
    drop((first, second));
    assert_eq!(devices(), [""; 0], "all are closed");
    assert_eq!(nics(), before, "and when it is over");
}

/// All that the kernel says of an interface, its counters aside.
fn said_of(namespace: &Namespace, interface: &str) -> String {
    let output = namespace.command("ip").args(["-details", "link", "show", "dev", interface]).output();
    let output = output.expect("ip runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The interfaces that packet sockets of a namespace are bound to.
fn listened_to(namespace: &Namespace) -> Vec<String> {
    let read = |args: &[&str]| -> String {
        let output = namespace.command("cat").args(args).output().expect("cat runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let sockets = read(&["/proc/net/packet"]);
    let mut numbers: Vec<_> = sockets
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned))
        .collect();
    numbers.sort();
    numbers.dedup();
    numbers
}

fn number_of(namespace: &Namespace, interface: &str) -> String {
    let said = said_of(namespace, interface);
    said.split(':').next().unwrap_or_default().trim().to_owned()
}

#[test]
fn an_interface_beside_is_left_alone() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    lab.ip("tuntap add dev foreign0 mode tap").expect("a tap");
    let (named, beside) = (Side::Left.port(), Side::Right.port());
    let look = || [beside, "foreign0"].map(|interface| said_of(lab.middle(), interface));
    let (before, nics_before) = (look(), nics());
    let quiet = listened_to(lab.middle());
    assert!(!before[0].contains("promiscuity 1"), "{}", before[0]);

    let port = format!("dpdk:net_af_packet0,iface={named}");
    let mut forwarder =
        Forwarder::start(lab.middle(), &["--mode", "mac-swap", "--port", &port]).expect("a forwarder");
    let added: Vec<_> =
        listened_to(lab.middle()).into_iter().filter(|number| !quiet.contains(number)).collect();
    assert_eq!(added, [number_of(lab.middle(), named)], "the interface that was named");
    assert!(said_of(lab.middle(), named).contains("promiscuity 1"), "what a look would show");
    assert_eq!(held(forwarder.process().pid()), [""; 0]);
    // Traffic beside it goes on between the two ends of the other cable, and none of it comes to us.
    let _ = ping(&lab, Side::Right, 1, 1);
    assert_eq!((look(), nics()), (before.clone(), nics_before.clone()), "while it runs");

    forwarder.finish().expect("books in order");
    assert_eq!((look(), nics()), (before, nics_before), "and when it is over");
    assert!(!said_of(lab.middle(), named).contains("promiscuity 1"), "given back as it was");
    assert_eq!(listened_to(lab.middle()), quiet);
    assert_eq!(traces(), [""; 0]);
}
