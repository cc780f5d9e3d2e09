//! Several queues of one device: each flow keeps to one of them, and the flows are shared out.
//!
//! ```text
//!   kernel: 64 sockets ── dtap5 ══ net_tap, two queues [ this process ]
//! ```
//!
//! A tap's queues are shared out by the kernel, which hashes each flow (`tun_automq_select_queue`). That a NIC does so when it is
//! asked for RSS is shown with an emulated one (`dpdk_nics.rs`); rings in memory, memif and vhost have queues, and no hash.
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use drivers::QueuePair;
use drivers::dpdk::DpdkQueue;
use drivers::xdp::Umem;
use lab::dpdk::{number, pool, port};
use lab::{Outcome, TestLab, needs};
use ringbuf::Burst;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const FLOWS: u16 = 64;
const EACH: usize = 4;
const FIRST_PORT: u16 = 20_000;

/// The source port of a UDP datagram in IPv4 without options.
fn source_port(frame: &[u8]) -> Option<u16> {
    let udp = frame.get(12..15)? == [8, 0, 0x45] && *frame.get(23)? == 17;
    let port = u16::from_be_bytes([*frame.get(34)?, *frame.get(35)?]);
    (udp && (FIRST_PORT..FIRST_PORT + FLOWS).contains(&port)).then_some(port)
}

fn send(sockets: &[UdpSocket]) -> Outcome<()> {
    for socket in sockets {
        socket.send_to(&[0; 64], "10.99.0.2:9")?;
    }
    Ok(())
}

/// By which queue each datagram of each flow came.
fn observe(lab: &TestLab) -> Outcome<BTreeMap<u16, Vec<usize>>> {
    let port = port(&format!("dpdk:net_tap{},iface=dtap5,queues=2,ring=256", number()))?;
    lab.ip("address add 10.99.0.1/24 dev dtap5")?;
    lab.ip("neighbour add 10.99.0.2 lladdr 02:00:00:00:00:02 dev dtap5")?;
    let pool = pool(4096, 0)?;
    let umem = Umem::new(&pool);
    let mut queues = [DpdkQueue::open(&umem, &port, 0)?, DpdkQueue::open(&umem, &port, 1)?];
    let bind = |flow: u16| UdpSocket::bind(("10.99.0.1", FIRST_PORT + flow));
    let sockets = (0..FLOWS).map(bind).collect::<Result<Vec<_>, _>>()?;
    let mut seen: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    let mut burst = Burst::new();
    let until = Instant::now() + Duration::from_secs(20);
    for round in 1..=EACH {
        send(&sockets)?;
        while seen.values().map(Vec::len).sum::<usize>() < round * usize::from(FLOWS) {
            if Instant::now() > until {
                return Err(format!("datagrams are missing: {seen:?}").into());
            }
            for (number, queue) in queues.iter_mut().enumerate() {
                queue.tend();
                queue.receive(&mut burst);
                for frame in burst.drain() {
                    if let Some(port) = source_port(&frame) {
                        seen.entry(port).or_default().push(number);
                    }
                }
            }
        }
    }
    Ok(seen)
}

#[test]
fn each_flow_keeps_to_a_queue_of_its_own() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let seen = lab.middle().run(|| observe(&lab).map_err(|error| error.to_string()));
    let seen = seen.expect("a namespace").expect("all datagrams");
    assert_eq!(seen.len(), usize::from(FLOWS));
    for (port, queues) in &seen {
        assert!(queues.len() == EACH && queues.iter().all(|queue| *queue == queues[0]), "{port}: {queues:?}");
    }
    let second = seen.values().filter(|queues| queues[0] == 1).count();
    // A fair coin 64 times gives fewer than 12 of either side once in 8 million tries.
    assert!((12..=52).contains(&second), "{second} of {FLOWS} flows by the second queue");
}
