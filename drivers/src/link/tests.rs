//! Links of a namespace made for the purpose: two ends of a veth with three queues.

use super::*;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// A network namespace with the ends `va` and `vb` of a veth, removed with everything in it on drop.
struct Namespace(String);

impl Namespace {
    /// `None`, and a line that says so, where the rights are missing.
    fn with_veth(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringway-link-{}-{number}", std::process::id());
        if !run("ip", &["netns", "add", &name]) {
            println!("SKIPPED: {test}: needs CAP_NET_ADMIN");
            return None;
        }
        let namespace = Self(name);
        let queues = ["numrxqueues", "3", "numtxqueues", "3"];
        let pair = ["link", "add", "va"].iter().chain(&queues).chain(&["type", "veth", "peer", "name", "vb"]);
        namespace.ip(&pair.chain(&queues).copied().collect::<Vec<_>>());
        Some(namespace)
    }

    fn ip(&self, arguments: &[&str]) {
        let all: Vec<&str> = ["-n", &self.0].into_iter().chain(arguments.iter().copied()).collect();
        assert!(run("ip", &all), "ip {all:?}");
    }

    fn ethtool(&self, arguments: &[&str]) {
        let all: Vec<&str> =
            ["netns", "exec", &self.0, "ethtool"].into_iter().chain(arguments.iter().copied()).collect();
        assert!(run("ip", &all), "ip {all:?}");
    }

    /// Runs `work` on a thread that is in the namespace, with the file systems of the one outside.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        let enter = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_veth_is_read_in_the_threads_own_namespace() {
    let Some(namespace) = Namespace::with_veth("a_veth_is_read_in_the_threads_own_namespace") else { return };
    namespace.ip(&["link", "set", "va", "address", "02:00:00:00:00:0a", "mtu", "1600"]);
    let down = namespace.inside(|| Link::by_name("va").unwrap());
    assert!(!down.up && !down.running);
    assert_eq!((down.receive_queues, down.transmit_queues), (3, 3), "known while it is down, too");

    namespace.ip(&["link", "set", "va", "up"]);
    assert!(!namespace.inside(|| Link::by_name("va").unwrap()).running, "the other end is down");
    namespace.ip(&["link", "set", "vb", "up"]);
    let (va, vb) = namespace.inside(|| (Link::by_name("va").unwrap(), Link::by_name("vb").unwrap()));
    assert_eq!(va.driver, "veth");
    assert_eq!(va.mac, [2, 0, 0, 0, 0, 10]);
    assert_eq!(va.mtu, 1600);
    assert!(va.up && va.running && !va.promiscuous && !va.loopback);
    assert_eq!((va.receive_queues, va.transmit_queues), (3, 3));
    assert_eq!(va.receive_queue_limit, Some(3));
    assert_eq!((va.peer, vb.peer), (Some(vb.index), Some(va.index)));
    assert_eq!(va.attached, None);
    assert!(va.held_queues.is_empty());
    assert_eq!(va.numa_node, None);
    assert!(va.partial_checksums());
    assert!(matches!(va.zero_copy(), ZeroCopy::No(why) if why.contains("veth")));
    if va.offloads.known {
        assert!(va.offloads.tso && va.offloads.transmit_checksum && !va.offloads.lro);
    }
    if va.xdp.known {
        assert!(va.xdp.basic && va.xdp.redirect && va.xdp.receive_fragments && !va.xdp.zero_copy);
    }
    assert_eq!(va.xdp.known, KernelVersion::running() >= KernelVersion::new(6, 3));
}

#[test]
fn a_change_of_queues_is_noticed() {
    let Some(namespace) = Namespace::with_veth("a_change_of_queues_is_noticed") else { return };
    let count = || namespace.inside(|| queue_count("va").unwrap());
    assert_eq!(count(), 3);
    namespace.ethtool(&["-L", "va", "rx", "2", "tx", "1"]);
    assert_eq!(count(), 2);
    let link = namespace.inside(|| Link::by_name("va").unwrap());
    assert_eq!((link.receive_queues, link.transmit_queues, link.receive_queue_limit), (2, 1, Some(3)));
    namespace.ip(&["link", "del", "va"]);
    let error = namespace.inside(|| queue_count("va").unwrap_err());
    assert!(matches!(error, LinkError::NoSuch { .. }), "{error}");
}

#[test]
fn offloads_follow_ethtool() {
    let Some(namespace) = Namespace::with_veth("offloads_follow_ethtool") else { return };
    let offloads = || namespace.inside(|| Link::by_name("va").unwrap().offloads);
    if !offloads().known {
        println!("SKIPPED: offloads_follow_ethtool: needs the ethtool netlink family (Linux 5.6)");
        return;
    }
    assert!(offloads().vlan_strip && offloads().tso && !offloads().gro);
    namespace.ethtool(&["-K", "va", "rxvlan", "off", "tso", "off", "gro", "on"]);
    assert!(!offloads().vlan_strip && !offloads().tso && offloads().gro);
}

#[test]
fn all_lists_what_is_there_and_only_that() {
    let Some(namespace) = Namespace::with_veth("all_lists_what_is_there_and_only_that") else { return };
    namespace.ip(&["link", "add", "br7", "type", "bridge"]);
    namespace.ip(&["link", "set", "va", "master", "br7"]);
    let links = namespace.inside(|| Link::all().unwrap());
    let named = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    assert!(links.is_sorted_by_key(|link| link.index));
    assert!(named("lo").loopback && named("lo").driver == "lo");
    assert_eq!(named("br7").driver, "bridge");
    assert_eq!(named("va").master, Some(named("br7").index));
    assert!(!links.iter().any(|link| link.name == "eth0"), "a namespace made empty");
    let one = namespace.inside(|| Link::by_name("va").unwrap());
    assert_eq!(&one, named("va"));
}

#[test]
fn a_wrong_name_suggests_the_right_one() {
    let Some(namespace) = Namespace::with_veth("a_wrong_name_suggests_the_right_one") else { return };
    let say = |name: &'static str| namespace.inside(move || Link::by_name(name).unwrap_err().to_string());
    assert_eq!(say("vc"), "no interface called 'vc' in this network namespace; did you mean va or vb?");
    assert!(say("enp3s0").ends_with("there are: lo, va, vb"), "{}", say("enp3s0"));
    assert!(say("a-name-longer-than-the-kernel-allows").starts_with("no interface called"));
    assert!(say("").starts_with("no interface called ''"));
}

#[test]
fn suggestions_are_close_or_everything() {
    let names = ["lo", "eth0", "enp3s0f1"].map(str::to_owned);
    assert_eq!(hint("eth1", &names), "did you mean eth0?");
    assert_eq!(hint("enp3s0f0", &names), "did you mean enp3s0f1?");
    assert_eq!(hint("wlan0", &names), "there are: lo, eth0, enp3s0f1");
    assert_eq!(hint("x", &[]), "there are none that can be listed");
}

#[test]
fn distance_counts_edits() {
    let pairs = [
        ("", "ab", 2),
        ("eth0", "eth0", 0),
        ("eth0", "eth1", 1),
        ("eth0", "th0", 1),
        ("kitten", "sitting", 3),
    ];
    for (left, right, distance) in pairs {
        assert_eq!(edits(left, right), distance, "{left} {right}");
    }
}

#[test]
fn the_numa_node_is_read_where_there_is_one() {
    let root = std::env::temp_dir().join(format!("ringway-numa-{}", std::process::id()));
    let device = |address: &str| root.join("pci/devices").join(address);
    for (address, node) in [("0000:03:00.0", "1\n"), ("0000:04:00.0", "-1\n")] {
        fs::create_dir_all(device(address)).unwrap();
        fs::write(device(address).join("numa_node"), node).unwrap();
    }
    let node = |address| numa_node(&root, address);
    let found = (node("0000:03:00.0"), node("0000:04:00.0"), node("0000:05:00.0"), node(""), node("../x"));
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(found, (Some(1), None, None, None, None));
}

#[test]
fn addresses_neighbours_and_routes_are_the_kernels() {
    let Some(namespace) = Namespace::with_veth("addresses_neighbours_and_routes_are_the_kernels") else {
        return;
    };
    let ip = |line: &str| namespace.ip(&line.split_whitespace().collect::<Vec<_>>());
    for line in [
        "link set va up",
        "link set vb up",
        "address add 192.0.2.2/24 dev va",
        "address add 2001:db8::2/64 dev va nodad",
        "route add 198.51.100.0/24 via 192.0.2.1 dev va metric 7",
        "route add default via 192.0.2.9 dev va src 192.0.2.2",
        "route add default via 2001:db8::1 dev va",
        "route add blackhole 203.0.113.0/24",
        "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev va nud reachable",
        "neigh add 2001:db8::1 lladdr 02:00:00:00:00:06 dev va",
        "neigh add 192.0.2.1 lladdr 02:00:00:00:00:99 dev vb",
    ] {
        ip(line);
    }
    let parse = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    namespace.inside(|| {
        let link = Link::by_name("va").unwrap();
        let addresses = link.addresses().unwrap();
        for (text, bits) in [("192.0.2.2", 24), ("2001:db8::2", 64)] {
            let expected = LinkAddress { address: parse(text), bits, unusable: false };
            assert!(addresses.contains(&expected), "{addresses:?}");
        }
        let neighbours = link.neighbours().unwrap();
        let four = LinkNeighbour { address: parse("192.0.2.1"), mac: [2, 0, 0, 0, 0, 1] };
        let six = LinkNeighbour { address: parse("2001:db8::1"), mac: [2, 0, 0, 0, 0, 6] };
        assert!(
            neighbours.len() == 2 && neighbours.contains(&four) && neighbours.contains(&six),
            "{neighbours:?}"
        );
        let routes = link.routes().unwrap();
        for (network, bits, gateway, source) in [
            ("192.0.2.0", 24, None, Some("192.0.2.2")),
            ("198.51.100.0", 24, Some("192.0.2.1"), None),
            ("0.0.0.0", 0, Some("192.0.2.9"), Some("192.0.2.2")),
            ("::", 0, Some("2001:db8::1"), None),
            ("2001:db8::", 64, None, None),
        ] {
            let found = routes.iter().any(|route| {
                (route.network, route.bits) == (parse(network), bits)
                    && (route.gateway, route.source) == (gateway.map(parse), source.map(parse))
            });
            assert!(found, "{network}: {routes:?}");
        }
        assert!(routes.iter().all(|route| route.network != parse("203.0.113.0")), "{routes:?}");
        assert!(routes.iter().any(|route| route.metric == 7), "{routes:?}");
        // Asked for, but nobody answers: no neighbour, and no error.
        link.resolve(parse("192.0.2.77")).unwrap();
        assert_eq!(link.neighbours().unwrap().len(), 2);
        let gone = Link { index: 9999, ..link };
        assert!(gone.resolve(parse("192.0.2.77")).is_err());
    });
    let shown =
        Command::new("ip").args(["-n", &namespace.0, "neigh", "show", "192.0.2.77"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("192.0.2.77 dev va"),
        "it was asked for: {shown:?}"
    );
}
