//! The program, run by the kernel over hand-made frames (`BPF_PROG_TEST_RUN`), without any interface.
//!
//! The kernel takes frames of at least an Ethernet header there, and runs them as if from queue 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libbpf_rs::ProgramInput;
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt, xdp};

use super::*;

const IPV4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0xab12, 0x3407);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 8);
/// Ends in the same three bytes as `IPV6`, so both are in one solicited-node group.
const TWIN: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0x9912, 0x3407);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3407);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Redirected,
    NoSocket,
    NotOurs,
    Malformed,
}
use Verdict::{Malformed, NoSocket, NotOurs, Redirected};

/// The program in the kernel, and what it does with a frame.
struct Runner<'object>(PortSkel<'object>);

impl Runner<'_> {
    /// Runs one frame through the program and reads the verdict from the counters: exactly one moves, by one,
    /// and it agrees with the program's action.
    fn verdict(&self, frame: &[u8]) -> Verdict {
        let before = Verdicts::read(&self.0.maps.verdicts).unwrap();
        let input = ProgramInput { data_in: Some(frame), ..Default::default() };
        let action = self.0.progs.port.test_run(input).unwrap().return_value;
        let after = Verdicts::read(&self.0.maps.verdicts).unwrap();
        assert_eq!(after.total(), before.total() + 1, "one frame, one count");
        let verdict = if after.redirected > before.redirected {
            Redirected
        } else if after.no_socket > before.no_socket {
            NoSocket
        } else if after.not_ours > before.not_ours {
            NotOurs
        } else {
            Malformed
        };
        assert_eq!(action, if verdict == Redirected { XDP_REDIRECT } else { XDP_PASS }, "{verdict:?}");
        verdict
    }
}

/// Loads the program and runs `story` with it, or says that it was skipped.
fn with_program(test: &str, filter: &Filter, story: impl FnOnce(Runner<'_>)) {
    let mut storage = MaybeUninit::uninit();
    match load(&mut storage, &Entry::Port { filter, queues: 1 }) {
        Ok(skeleton) => story(Runner(skeleton)),
        Err(error) if *error.cause() == Cause::NotPermitted => {
            // Straight to standard error: the test harness keeps back what the macros print.
            let line = format!("SKIPPED: {test}: needs CAP_NET_ADMIN + CAP_BPF\n");
            io::Write::write_all(&mut io::stderr(), line.as_bytes()).unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

/// An AF_XDP socket with as much as a program asks of it: memory, a fill ring and a receive ring. It is bound
/// to nothing.
fn socket() -> OwnedFd {
    const PAGE: u32 = 4096;
    let memory: &'static mut [u8] = vec![0; 3 * PAGE as usize].leak();
    let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE.into());
    let fd =
        rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let region = xdp::XdpUmemReg {
        addr: start,
        len: 2 * u64::from(PAGE),
        chunk_size: PAGE,
        headroom: 0,
        flags: xdp::XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(&fd, region).unwrap();
    sockopt::set_xdp_umem_fill_ring_size(&fd, 2).unwrap();
    sockopt::set_xdp_umem_completion_ring_size(&fd, 2).unwrap();
    sockopt::set_xdp_rx_ring_size(&fd, 2).unwrap();
    fd
}

fn ethernet(tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 5]);
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `fragment` is the field of flags and offset; `options` counts words.
fn ipv4_with(to: Ipv4Addr, protocol: u8, fragment: u16, options: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45 + options, 0, 0, 0, 0, 1];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 1, 0, 1]);
    packet.extend(to.octets());
    packet.extend(vec![1; usize::from(options) * 4]);
    packet.extend(payload);
    packet
}

fn ipv4(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4_with(to, protocol, 0x4000, 0, payload))
}

fn ipv6_packet(to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, next, 255];
    packet.extend(TWIN.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

fn ipv6(to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x86dd, &ipv6_packet(to, next, payload))
}

fn tcp(port: u16) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40];
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn arp(target: Ipv4Addr) -> Vec<u8> {
    arp_of(Ipv4Addr::new(10, 1, 0, 1), target)
}

fn arp_of(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2];
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    ethernet(&[], 0x0806, &packet)
}

fn neighbour(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// What both filters for flows say of a frame: the first column for shared endpoints, the second for our own.
fn vectors() -> Vec<(&'static str, Vec<u8>, Verdict, Verdict)> {
    let segment = tcp(80);
    let (v4, v6) = (ipv4_with(IPV4, TCP, 0x4000, 0, &segment), ipv6_packet(IPV6, TCP, &segment));
    let solicit = neighbour(135, IPV6);
    let mut long = ipv4(IPV4, TCP, &segment);
    long.resize(9000, 0xab);
    let mut not_four = ipv4(IPV4, TCP, &segment);
    not_four[14] = 0x65;
    let mut short_ihl = ipv4(IPV4, TCP, &segment);
    short_ihl[14] = 0x44;
    let mut cut_options = ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0, 10, &[]));
    cut_options.truncate(14 + 20 + 36);
    let mut infiniband = arp(IPV4);
    infiniband[18] = 20;
    vec![
        ("TCP over IPv4", ipv4(IPV4, TCP, &segment), Redirected, Redirected),
        ("TCP over IPv6", ipv6(IPV6, TCP, &segment), Redirected, Redirected),
        ("the last endpoint", ipv4(IPV4, TCP, &tcp(8080)), Redirected, Redirected),
        ("another port", ipv4(IPV4, TCP, &tcp(22)), NotOurs, Redirected),
        ("another port over IPv6", ipv6(IPV6, TCP, &tcp(22)), NotOurs, Redirected),
        ("another address", ipv4(ELSEWHERE, TCP, &segment), NotOurs, NotOurs),
        ("another address over IPv6", ipv6(TWIN, TCP, &segment), NotOurs, NotOurs),
        ("UDP", ipv4(IPV4, UDP, &segment), NotOurs, NotOurs),
        ("UDP over IPv6", ipv6(IPV6, UDP, &segment), NotOurs, NotOurs),
        ("one VLAN tag", ethernet(&[0x8100], 0x0800, &v4), Redirected, Redirected),
        ("two VLAN tags", ethernet(&[0x88a8, 0x8100], 0x86dd, &v6), Redirected, Redirected),
        ("three VLAN tags", ethernet(&[0x88a8, 0x8100, 0x8100], 0x0800, &v4), NotOurs, NotOurs),
        ("a VLAN tag cut short", ethernet(&[], 0x8100, &[0, 5, 8]), Malformed, Malformed),
        (
            "IPv4 options",
            ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0, 10, &segment)),
            Redirected,
            Redirected,
        ),
        ("IPv4 options cut short", cut_options, Malformed, Malformed),
        (
            "the first fragment",
            ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0x2000, 0, &segment)),
            Redirected,
            Redirected,
        ),
        (
            "a middle fragment",
            ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0x2001, 0, &segment)),
            NotOurs,
            NotOurs,
        ),
        (
            "the last fragment",
            ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0x1fff, 0, &segment)),
            NotOurs,
            NotOurs,
        ),
        (
            "a far fragment",
            ethernet(&[], 0x0800, &ipv4_with(IPV4, TCP, 0x1000, 0, &segment)),
            NotOurs,
            NotOurs,
        ),
        ("several buffers", long, Redirected, Redirected),
        ("an Ethernet header alone", ethernet(&[], 0x0800, &[]), Malformed, Malformed),
        ("IPv4 cut short", ethernet(&[], 0x0800, &v4[..19]), Malformed, Malformed),
        ("IPv6 cut short", ethernet(&[], 0x86dd, &v6[..39]), Malformed, Malformed),
        ("TCP cut short", ipv4(IPV4, TCP, &segment[..19]), Malformed, Malformed),
        ("TCP over IPv6 cut short", ipv6(IPV6, TCP, &segment[..19]), Malformed, Malformed),
        ("IPv4 of version 6", not_four, Malformed, Malformed),
        ("IPv6 of version 4", ethernet(&[], 0x86dd, &[v4, vec![0; 40]].concat()), Malformed, Malformed),
        ("an IPv4 header of four words", short_ihl, Malformed, Malformed),
        ("an unknown protocol", ethernet(&[], 0x88cc, &[0; 46]), NotOurs, NotOurs),
        ("ping", ipv4(IPV4, ICMP, &[8; 8]), NotOurs, Redirected),
        ("ping of another", ipv4(ELSEWHERE, ICMP, &[8; 8]), NotOurs, NotOurs),
        ("ping over IPv6", ipv6(IPV6, ICMPV6, &[128; 8]), NotOurs, Redirected),
        ("ping of another over IPv6", ipv6(TWIN, ICMPV6, &[128; 8]), NotOurs, NotOurs),
        ("ARP", arp(IPV4), NotOurs, Redirected),
        ("ARP for another", arp(ELSEWHERE), NotOurs, NotOurs),
        ("ARP of who has our address", arp_of(IPV4, Ipv4Addr::UNSPECIFIED), NotOurs, Redirected),
        ("ARP cut short", arp(IPV4)[..41].to_vec(), Malformed, Malformed),
        ("ARP of another hardware", infiniband, NotOurs, NotOurs),
        ("solicitation, unicast", ipv6(IPV6, ICMPV6, &solicit), NotOurs, Redirected),
        ("solicitation, its group", ipv6(GROUP, ICMPV6, &solicit), NotOurs, Redirected),
        ("solicitation for its twin", ipv6(GROUP, ICMPV6, &neighbour(135, TWIN)), NotOurs, NotOurs),
        ("advertisement to the group", ipv6(GROUP, ICMPV6, &neighbour(136, IPV6)), NotOurs, NotOurs),
        ("solicitation cut short", ipv6(GROUP, ICMPV6, &solicit[..23]), Malformed, Malformed),
        ("solicitation to all nodes", ipv6(ALL_NODES, ICMPV6, &solicit), NotOurs, NotOurs),
        ("advertisement to all nodes", ipv6(ALL_NODES, ICMPV6, &neighbour(136, IPV6)), NotOurs, Redirected),
        ("advertisement of its twin", ipv6(ALL_NODES, ICMPV6, &neighbour(136, TWIN)), NotOurs, NotOurs),
        ("all routers", ipv6(ALL_ROUTERS, ICMPV6, &neighbour(136, IPV6)), NotOurs, NotOurs),
    ]
}

/// Every bit of an address counts.
#[test]
fn an_address_that_differs_in_one_bit_is_not_ours() {
    with_program("an_address_that_differs_in_one_bit_is_not_ours", &flows(Endpoint::own), |program| {
        for bit in 0..128 {
            let neighbour = Ipv6Addr::from(IPV6.to_bits() ^ (1 << bit));
            assert_eq!(program.verdict(&ipv6(neighbour, TCP, &tcp(80))), NotOurs, "{neighbour}");
            assert_eq!(program.verdict(&ipv6(neighbour, ICMPV6, &[128; 8])), NotOurs, "{neighbour}");
        }
        for bit in 24..128 {
            let group = Ipv6Addr::from(GROUP.to_bits() ^ (1 << bit));
            let solicit = ipv6(group, ICMPV6, &neighbour(135, IPV6));
            assert_eq!(program.verdict(&solicit), NotOurs, "{group}");
        }
        for bit in 0..32 {
            let neighbour = Ipv4Addr::from(IPV4.to_bits() ^ (1 << bit));
            assert_eq!(program.verdict(&ipv4(neighbour, TCP, &tcp(80))), NotOurs, "{neighbour}");
        }
    });
}

/// A full list, with the two endpoints that count at its ends.
fn flows(endpoint: fn(SocketAddr) -> Endpoint) -> Filter {
    let others = (1..=5).map(|n| Endpoint::shared(at([192, 0, 2, n], 80)));
    let first = [endpoint(at(IPV4, 80)), endpoint(at(IPV6, 80))];
    Filter::flows(first.into_iter().chain(others).chain([endpoint(at(IPV4, 8080))])).unwrap()
}

#[test]
fn a_whole_port_passes_frames_until_its_queue_has_a_socket() {
    with_program(
        "a_whole_port_passes_frames_until_its_queue_has_a_socket",
        &Filter::whole_port(),
        |program| {
            for (what, frame, ..) in vectors() {
                assert_eq!(program.verdict(&frame), NoSocket, "{what}");
            }
            let socket = socket();
            let (queue, fd) = (0_u32.to_ne_bytes(), socket.as_raw_fd().to_ne_bytes());
            program.0.maps.sockets.update(&queue, &fd, MapFlags::ANY).unwrap();
            for (what, frame, ..) in vectors() {
                assert_eq!(program.verdict(&frame), Redirected, "{what}");
            }
            program.0.maps.sockets.delete(&queue).unwrap();
            assert_eq!(program.verdict(&arp(IPV4)), NoSocket);
        },
    );
}

#[test]
fn flows_of_an_endpoint_are_ours_and_the_rest_is_the_kernels() {
    for (i, whose) in ["shared", "own"].into_iter().enumerate() {
        let filter = flows([Endpoint::shared, Endpoint::own][i]);
        with_program("flows_of_an_endpoint_are_ours_and_the_rest_is_the_kernels", &filter, |program| {
            for (what, frame, shared, own) in vectors() {
                let expected = [shared, own][i];
                let without_socket = if expected == Redirected { NoSocket } else { expected };
                assert_eq!(program.verdict(&frame), without_socket, "{whose}, no socket: {what}");
            }
            let socket = socket();
            let (queue, fd) = (0_u32.to_ne_bytes(), socket.as_raw_fd().to_ne_bytes());
            program.0.maps.sockets.update(&queue, &fd, MapFlags::ANY).unwrap();
            for (what, frame, shared, own) in vectors() {
                assert_eq!(program.verdict(&frame), [shared, own][i], "{whose}: {what}");
            }
        });
    }
}

#[test]
fn port_zero_of_our_own_address_takes_every_tcp_port() {
    let filter = Filter::flows([Endpoint::own(at(IPV4, 0))]).unwrap();
    with_program("port_zero_of_our_own_address_takes_every_tcp_port", &filter, |program| {
        assert_eq!(program.verdict(&ipv4(IPV4, TCP, &tcp(1))), NoSocket);
        assert_eq!(program.verdict(&ipv4(IPV4, TCP, &tcp(65535))), NoSocket);
        assert_eq!(program.verdict(&ipv4(IPV4, UDP, &tcp(80))), NotOurs);
        assert_eq!(program.verdict(&ipv4(ELSEWHERE, TCP, &tcp(80))), NotOurs);
    });
}

/// Whatever the bytes, the program ends, counts the frame once, and passes or redirects it.
#[test]
fn garbage_is_passed_or_redirected_and_counted_once() {
    with_program("garbage_is_passed_or_redirected_and_counted_once", &flows(Endpoint::own), |program| {
        let headers = vectors();
        let frames = (0..headers.len(), 0_usize..120, prop::collection::vec(any::<u8>(), 14..300));
        proptest!(ProptestConfig::with_cases(2000), |((which, kept, mut bytes) in frames)| {
            // Garbage behind a true beginning gets further than garbage alone.
            let kept = kept.min(headers[which].1.len()).min(bytes.len());
            bytes[..kept].copy_from_slice(&headers[which].1[..kept]);
            prop_assert_ne!(program.verdict(&bytes), Redirected, "there is no socket");
        });
    });
}

#[test]
fn a_filter_refuses_what_it_cannot_mean() {
    let shared = |n| Endpoint::shared(at([10, 0, 0, n], 80));
    assert_eq!(Filter::flows([]), Err(FilterError::Empty));
    assert_eq!(Filter::flows((1..=9).map(shared)), Err(FilterError::TooMany(9)));
    assert!(Filter::flows((1..=8).map(shared)).is_ok());
    let every_port = Endpoint::shared(at(IPV4, 0));
    assert_eq!(Filter::flows([every_port]), Err(FilterError::EveryPort(IPV4.into())));
    for address in ["0.0.0.0", "224.0.0.1", "ff02::1", "::", "127.0.0.1"] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(Filter::flows([Endpoint::own(at(address, 80))]), Err(FilterError::NotAHost(address)));
    }
    let mapped = Endpoint::shared(at(IPV4.to_ipv6_mapped(), 80));
    assert_eq!(mapped, Endpoint::shared(at(IPV4, 80)), "a mapped address is the IPv4 address");
}

/// The verifier knows the filter as a constant, so nothing of the parser is left: 35 instructions on Linux
/// 6.18, where a filter for one endpoint has 422.
#[test]
fn a_whole_port_parses_nothing() {
    with_program("a_whole_port_parses_nothing", &Filter::whole_port(), |program| {
        let id = libbpf_rs::Program::id_from_fd(program.0.progs.port.as_fd()).unwrap();
        let options = libbpf_rs::query::ProgInfoQueryOptions::default().include_xlated_prog_insns(true);
        let info =
            libbpf_rs::query::ProgInfoIter::with_query_opts(options).find(|info| info.id == id).unwrap();
        let instructions = info.xlated_prog_insns.len() / 8;
        assert!((1..64).contains(&instructions), "{instructions}");
    });
}
