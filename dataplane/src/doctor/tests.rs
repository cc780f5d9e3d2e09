//! Judgement and text over recorded facts.

use super::interface::{Answer, Attached, LARGEST_SINGLE_BUFFER, Peer, Verdict};
use super::judge::{list_length, size};
use super::machine::{Kernel, NodeCpus, NodePages, default_routes};
use super::*;
use drivers::link::{KernelVersion, Offloads, XdpFeatures};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

mod cards;

/// A recorded `/proc` and `/sys`, removed on drop.
struct Recorded(PathBuf);

impl Recorded {
    fn tree(name: &str, files: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("ringway-doctor-{}-{name}-{number}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const STATUS_ROOT: &str = "Name:\tringway\nUid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n";
const WHOLE_MAP: &str = "         0          0 4294967295\n";

/// A healthy server of two memory nodes.
fn server(name: &str, more: &[(&str, &str)]) -> Machine {
    let mut files = vec![
        ("proc/thread-self/status", STATUS_ROOT),
        ("proc/self/uid_map", WHOLE_MAP),
        ("proc/self/cgroup", "0::/\n"),
        ("proc/sys/net/core/bpf_jit_enable", "1\n"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
        ("sys/kernel/btf/vmlinux", ""),
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("sys/devices/system/cpu/isolated", "2-7\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("sys/devices/system/node/node1/cpulist", "4-7\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "128\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "64\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "50\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "64\n"),
        ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "50\n"),
    ];
    files.retain(|(path, _)| !more.iter().any(|(other, _)| other == path));
    files.extend(more.iter().filter(|(_, text)| *text != "ABSENT"));
    let tree = Recorded::tree(name, &files);
    let mut machine = Machine::read(&tree.0, &Root::recorded(&tree.0, |_| None));
    machine.kernel = Kernel::of("6.18.0".to_owned(), KernelVersion::new(6, 18), Some(true));
    machine.memlock_bytes = Some(8 << 20);
    machine.problems = judge::machine(&machine);
    machine
}

fn codes(problems: &[Problem]) -> Vec<(Severity, &'static str)> {
    problems.iter().map(|problem| (problem.severity, problem.code)).collect()
}

fn cure<'a>(problems: &'a [Problem], code: &str) -> &'a str {
    problems.iter().find(|problem| problem.code == code).unwrap().cure.as_deref().unwrap()
}

/// A 25G port as its driver presents it: zero-copy, four queues, nothing wrong.
fn port() -> Interface {
    let link = Link {
        index: 2,
        name: "ens1".to_owned(),
        driver: "ice".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        promiscuous: false,
        receive_queues: 4,
        transmit_queues: 4,
        receive_queue_limit: Some(8),
        held_queues: Vec::new(),
        numa_node: None,
        master: None,
        peer: None,
        offloads: Offloads { known: true, receive_checksum: true, ..Offloads::default() },
        xdp: XdpFeatures {
            known: true,
            basic: true,
            redirect: true,
            zero_copy: true,
            receive_fragments: true,
            zero_copy_segments: 5,
            ..XdpFeatures::default()
        },
        attached: None,
    };
    Interface::of(&link, &[], KernelVersion::new(6, 18), &BTreeSet::new())
}

fn judged(change: impl FnOnce(&mut Interface)) -> Vec<Problem> {
    let mut interface = port();
    change(&mut interface);
    judge::interface(&interface, &server("judged", &[]), judge::Asked::ByName)
}

#[test]
fn a_healthy_server_has_no_problems() {
    let machine = server("healthy", &[]);
    assert_eq!(codes(&machine.problems), []);
    assert_eq!(machine.unreadable, []);
    assert_eq!(machine.huge_pages.len(), 1);
    assert_eq!(machine.huge_pages[0].nodes[1], NodePages { node: 1, total: 64, free: 50 });
    assert_eq!(machine.cpus.nodes[1], NodeCpus { node: 1, cpus: "4-7".to_owned() });
    assert!(
        machine.rights.root && machine.rights.bpf && machine.rights.ipc_lock && !machine.rights.sys_resource
    );
    assert_eq!((machine.bpf.jit, machine.bpf.unprivileged), (Some(true), Some(false)));
}

#[test]
fn missing_rights_are_named_with_the_cure_that_fits() {
    let status = "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n";
    let user = server("user", &[("proc/thread-self/status", status)]);
    assert_eq!(
        codes(&user.problems),
        [(Severity::Error, "rights_missing"), (Severity::Warning, "memlock_low")]
    );
    assert!(cure(&user.problems, "rights_missing").starts_with("sudo ringway"));

    // Docker's default set: NET_RAW, but neither NET_ADMIN nor BPF.
    let status = "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n";
    let container = server("container", &[("proc/thread-self/status", status)]);
    let cure = cure(&container.problems, "rights_missing");
    assert!(cure.contains("--cap-add NET_ADMIN --cap-add BPF") && !cure.contains("NET_RAW"), "{cure}");

    let nested = server("nested", &[("proc/self/uid_map", "0 1000 1\n")]);
    assert_eq!(codes(&nested.problems), [(Severity::Error, "user_namespace")]);
}

#[test]
fn what_cannot_be_read_is_said_and_not_guessed() {
    let bare = server(
        "bare",
        &[
            ("sys/devices/system/cpu/online", "ABSENT"),
            ("proc/sys/net/core/bpf_jit_enable", "ABSENT"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "ABSENT"),
        ],
    );
    let paths: Vec<&str> = bare.unreadable.iter().map(|unreadable| unreadable.what.as_str()).collect();
    assert_eq!(paths, ["/sys/devices/system/cpu/online", "/proc/sys/kernel/unprivileged_bpf_disabled"]);
    assert_eq!((bare.bpf.jit, bare.bpf.unprivileged), (None, None));
    assert_eq!(codes(&bare.problems), []);
}

#[test]
fn each_want_of_the_machine_has_a_cure() {
    let poor = server(
        "poor",
        &[
            ("sys/devices/system/cpu/isolated", "\n"),
            ("proc/self/cgroup", "0::/box\n"),
            ("sys/fs/cgroup/box/cpu.max", "150000 100000\n"),
            ("proc/sys/net/core/bpf_jit_enable", "0\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "0\n"),
            ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
        ],
    );
    let expected = [
        (Severity::Note, "no_huge_pages_on_node"),
        (Severity::Note, "no_isolated_cpus"),
        (Severity::Warning, "cpu_quota"),
        (Severity::Warning, "jit_off"),
        (Severity::Note, "unprivileged_bpf"),
    ];
    assert_eq!(codes(&poor.problems), expected);
    assert_eq!(poor.cpus.quota, Some(1.5));
    assert!(cure(&poor.problems, "no_isolated_cpus").contains("nohz_full=1-7"));
    assert!(cure(&poor.problems, "no_huge_pages_on_node").starts_with("echo 128 | sudo tee"));
    assert!(poor.problems.iter().all(|problem| problem.cure.is_some()));
}

#[test]
fn old_kernels_are_told_what_they_lack() {
    let of = |major, minor| {
        let mut machine = server("kernel", &[]);
        machine.kernel = Kernel::of(String::new(), KernelVersion::new(major, minor), Some(true));
        codes(&judge::machine(&machine))
            .into_iter()
            .map(|(severity, code)| (severity, &code["kernel_without_".len()..]))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(6, 17), []);
    assert_eq!(of(6, 12), [(Severity::Note, "transmit_budget")]);
    let six_one = ["netdev_family", "multi_buffer", "transmit_metadata", "transmit_budget"];
    assert_eq!(of(6, 1), six_one.map(|code| (Severity::Note, code)));
    assert_eq!(of(5, 15)[0], (Severity::Error, "xdp_fragments"));
    assert_eq!(of(5, 4)[0], (Severity::Error, "shared_umem"));
}

#[test]
fn a_good_port_has_no_problems() {
    assert_eq!(codes(&judged(|_| {})), []);
}

#[test]
fn each_fault_of_an_interface_is_found() {
    let only = |change: fn(&mut Interface)| codes(&judged(change));
    use Severity::{Note, Warning};
    assert_eq!(only(|port| port.up = false), [(Warning, "interface_down")]);
    assert_eq!(only(|port| port.carrier = false), [(Warning, "no_carrier")]);
    assert_eq!(only(|port| port.offloads = Some(vec!["lro"])), [(Warning, "lro_on")]);
    assert_eq!(only(|port| port.offloads = Some(vec!["hardware_gro"])), [(Warning, "hardware_gro_on")]);
    assert_eq!(only(|port| port.offloads = Some(vec!["rx_vlan_strip"])), [(Note, "vlan_tags_stripped")]);
    assert_eq!(only(|port| port.offloads = Some(vec!["gro"])), [], "harmless in native mode");
    assert_eq!(only(|port| port.partial_checksums = true), [(Note, "partial_checksums")]);
    assert_eq!(only(|port| port.held_queues = vec![0, 3]), [(Warning, "queues_held")]);
    assert_eq!(only(|port| port.master = Some("bond0".to_owned())), [(Note, "has_master")]);
    assert_eq!(only(|port| port.default_route = true), [(Warning, "carries_default_route")]);
    assert_eq!(only(|port| port.numa_node = Some(1)), [(Note, "numa_node")]);
    let program = |mode| judged(move |port| port.attached = Some(Attached { id: 7, mode }));
    assert!(cure(&program("skb"), "program_attached").ends_with("ens1 xdpgeneric off"));
    assert!(cure(&program("native"), "program_attached").ends_with("ens1 xdp off"));
}

#[test]
fn generic_mode_minds_gro() {
    let problems = judged(|port| {
        port.offloads = Some(vec!["gro"]);
        port.native = Answer { verdict: Verdict::No, reason: None };
    });
    assert_eq!(codes(&problems), [(Severity::Warning, "gro_in_skb_mode")]);
}

#[test]
fn an_mtu_past_one_buffer_is_judged_by_what_can_carry_it() {
    let large = |copy, segments| {
        codes(&judged(|port| {
            (port.mtu, port.largest_frame, port.fits_single_buffer) = (9000, 9014, false);
            (port.multi_buffer.copy, port.multi_buffer.zero_copy_segments) = (copy, segments);
        }))
    };
    assert_eq!(large(Verdict::Yes, 5), []);
    assert_eq!(large(Verdict::Yes, 1), [(Severity::Note, "mtu_prevents_zero_copy")]);
    assert_eq!(large(Verdict::No, 0), [(Severity::Warning, "mtu_too_large")]);
    assert_eq!(large(Verdict::Unknown, 0), [(Severity::Warning, "mtu_too_large")]);
    assert_eq!(LARGEST_SINGLE_BUFFER, 3520);
}

#[test]
fn a_veth_is_judged_by_its_other_end() {
    let problems =
        judged(|port| port.peer = Some(Peer { name: "vb".to_owned(), transmit_queues: 6, tso: true }));
    assert_eq!(
        codes(&problems),
        [(Severity::Warning, "too_few_receive_queues"), (Severity::Note, "peer_tso_on")]
    );
    assert_eq!(cure(&problems, "too_few_receive_queues"), "sudo ethtool -L vb tx 4");
}

#[test]
fn drivers_that_need_spare_queues_get_a_number_that_works() {
    let ena = |receive| {
        judged(move |port| {
            port.driver = "ena".to_owned();
            port.receive_queues = receive;
        })
    };
    assert_eq!(codes(&ena(4)), [], "half of eight");
    assert_eq!(cure(&ena(6), "no_spare_queues"), "sudo ethtool -L ens1 combined 4");
}

#[test]
fn the_default_route_is_found() {
    let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                 eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                 eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    let tree = Recorded::tree("route", &[("proc/thread-self/net/route", table)]);
    assert_eq!(default_routes(&tree.0), BTreeSet::from(["eth0".to_owned()]));
}

#[test]
fn the_text_puts_each_problem_below_its_line() {
    let mut interface = port();
    interface.offloads = Some(vec!["lro"]);
    let machine = server("text", &[]);
    interface.problems = judge::interface(&interface, &machine, judge::Asked::ByName);
    let mut report = Report {
        version: "0",
        machine,
        interfaces: vec![interface],
        cards: Vec::new(),
        problems: Vec::new(),
        count: Count::default(),
    };
    report.count = report.counted();
    let text = report.to_text(Colour::Never);
    let below = text.split_once("  offloads on     lro\n").unwrap().1;
    assert!(below.starts_with("    warning: LRO merges"), "{text}");
    assert!(below.contains("\n      -> sudo ethtool -K ens1 lro off\n"), "{text}");
    assert!(text.contains("0 errors, 1 warning, 0 notes"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100 || line.contains("->")), "{text}");
    let stripped = ["1", "33", "32", "0"]
        .iter()
        .fold(report.to_text(Colour::Ansi), |text, code| text.replace(&format!("\x1b[{code}m"), ""));
    assert_eq!(stripped, text, "colours change nothing else");
    report.interfaces[0].problems.clear();
    report.count = report.counted();
    assert!(report.to_text(Colour::Never).ends_with("Ready to forward with AF_XDP: ens1\n"));
}

#[test]
fn lists_and_sizes_are_read_and_written() {
    assert_eq!(["", "0", "0-3", "0-3,8", "0-1,4-5,9"].map(list_length), [0, 1, 4, 5, 5]);
    assert_eq!([4, 2048, 8192, 1 << 20].map(size), ["4 KiB", "2 MiB", "8 MiB", "1 GiB"]);
}
