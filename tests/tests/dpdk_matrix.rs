//! DPDK devices in every role: every bit that goes in comes out, in order, while every ring wraps.
//!
//! ```text
//!   this process: vhost or virtio-user ──numbered frames──► [ forward ] ──► vhost or virtio-user      wire
//!   this process:                      ◄──addresses swapped─ [ forward ]                              mac-swap
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use drivers::dpdk::DpdkPort;
use drivers::xdp::Umem;
use drivers::{Caps, Copying, Gather, QueuePair};
use lab::Forwarder;
use lab::dpdk::{Socket, number, pool, port, queue};
use lab::raw::{Landed, Stream, exchange_over};
use lab::traffic::Content;
use ringbuf::{Burst, Frame, Packet, Packets, Pool};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest of Ethernet, one more than a power of two, the longest of each MTU, one frame and several.
fn sizes(mtu: usize) -> impl Iterator<Item = usize> + Clone {
    let all = [60, 61, 64, 65, 128, 1000, 1514, 1792, 1793, 2048, 3000, 3840, 3841, 4096, 8000, 9014];
    all.into_iter().filter(move |bytes| *bytes <= mtu + 14)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Vhost,
    VirtioUser,
}

/// One forwarder for all sizes, over two links, or one.
fn run(role: Role, mtu: usize, mode: &str) {
    let sockets = if mode == "wire" { vec![Socket::new(), Socket::new()] } else { vec![Socket::new()] };
    let options = format!(",mtu={mtu},ring=256");
    let theirs = |(i, socket): (u32, &Socket)| match role {
        Role::Vhost => socket.vhost(i) + &options,
        Role::VirtioUser => socket.virtio_user(i) + &options,
    };
    let their_ports: Vec<String> = (0..).zip(&sockets).map(theirs).collect();
    let mut args = vec!["--mode", mode];
    their_ports.iter().for_each(|port| args.extend(["--port", port]));
    let start = || {
        let here = Namespace::current().expect("a namespace");
        Forwarder::start(&here, &args).expect("a forwarder")
    };
    let open = |socket: &Socket| -> Arc<DpdkPort> {
        let text = match role {
            Role::Vhost => socket.virtio_user(number()),
            Role::VirtioUser => socket.vhost(number()),
        };
        port(&(text + &options)).expect("a port")
    };
    // The side that listens comes first.
    let (forwarder, ports): (_, Vec<_>) = match role {
        Role::Vhost => {
            let forwarder = start();
            (forwarder, sockets.iter().map(open).collect())
        }
        Role::VirtioUser => {
            let ports: Vec<_> = sockets.iter().map(open).collect();
            (start(), ports)
        }
    };
    let pool = pool(8192, 0).expect("memory");
    let umem = Umem::new(&pool);
    let mut ends: Vec<_> = ports.iter().map(|port| queue(&umem, port).expect("a queue")).collect();
    let mut sent = 0;
    // The two sides agree on features first; frames before that are lost, as on a cable that is being plugged in.
    let (near, far) = ends.split_at_mut(1);
    let greeting = Stream { count: 1, bytes: 64, window: 1, vlan: None };
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let landed = exchange_over(&pool, &mut near[0], far.first_mut(), greeting).expect("well");
        if landed.whole == 1 {
            break;
        }
        assert!(Instant::now() < patience, "no link");
    }
    for bytes in sizes(mtu) {
        let pieces = bytes.div_ceil(1700) as u64;
        let stream = Stream { count: 1500 / pieces, bytes, window: (24 / pieces).max(1), vlan: None };
        let landed = exchange_over(&pool, &mut near[0], far.first_mut(), stream).expect("well");
        let expected = Landed { whole: stream.count, foreign: landed.foreign, ..Landed::default() };
        assert_eq!(landed, expected, "{mode}, {bytes} bytes");
        sent += stream.count;
    }
    let caps: &Caps = near[0].caps();
    assert_eq!(caps.copying == Copying::ZeroCopy, role == Role::Vhost, "{caps:?}");
    assert_eq!(near[0].counters().copied_bytes, 0, "nothing came in others' memory");
    let report = forwarder.finish().expect("books in order");
    assert!(report.book("transmitted") > sent, "{}", report.end);
    assert_eq!(report.book("unsendable") + report.port(0, "copied_bytes"), 0, "{}", report.end);
    drop(ends);
    all_home(&pool);
}

fn all_home(pool: &Pool) {
    let census = pool.census();
    assert_eq!((census.free, pool.pages_on_loan()), (census.total(), 0), "{census:?}");
}

macro_rules! matrix {
    ($($name:ident: $role:ident, $mtu:literal, $mode:literal;)+) => {
        $(#[test]
        fn $name() {
            run(Role::$role, $mtu, $mode);
        })+
    };
}

matrix! {
    vhost_wire_1500: Vhost, 1500, "wire";
    vhost_wire_9000: Vhost, 9000, "wire";
    vhost_mac_swap_1500: Vhost, 1500, "mac-swap";
    vhost_mac_swap_9000: Vhost, 9000, "mac-swap";
    virtio_user_wire_1500: VirtioUser, 1500, "wire";
    virtio_user_wire_9000: VirtioUser, 9000, "wire";
    virtio_user_mac_swap_1500: VirtioUser, 1500, "mac-swap";
    virtio_user_mac_swap_9000: VirtioUser, 9000, "mac-swap";
}

fn filled<'p>(pool: &'p Pool, bytes: &[u8]) -> Burst<'p> {
    let mut burst = Burst::new();
    let parts: Vec<&[u8]> = bytes.chunks(3000).collect();
    for (i, part) in parts.iter().enumerate() {
        let mut frame: Frame<'_> = pool.alloc().expect("a frame");
        frame.extend(part).expect("room");
        frame.set_continues(i + 1 < parts.len());
        burst.push(frame).expect("room");
    }
    burst
}

/// A ring in memory: the frame itself comes back, in one piece and in several; not a byte is copied.
#[test]
fn ring_hands_over_the_frames_themselves() {
    let port = port(&format!("dpdk:net_ring{},mtu=65000", number())).expect("a port");
    let pool = pool(4096, 0).expect("memory");
    let umem = Umem::new(&pool);
    let mut queue = queue(&umem, &port).expect("a queue");
    let mut content = Content::new(1);
    for turn in 0..2000usize {
        let bytes = sizes(65000).nth(turn % 16).expect("sixteen");
        let mut sent = vec![0; bytes];
        content.fill(&mut sent);
        let mut burst = filled(&pool, &sent);
        let addresses: Vec<u64> = burst.as_slice().iter().map(Frame::offset).collect();
        queue.tend();
        queue.transmit(&mut burst);
        assert!(burst.is_empty());
        queue.receive(&mut burst);
        assert_eq!(
            burst.as_slice().iter().map(Frame::offset).collect::<Vec<_>>(),
            addresses,
            "{bytes} bytes"
        );
        let arrived: Vec<u8> = burst.drain().flat_map(|frame| frame.to_vec()).collect();
        assert!(arrived == sent, "{bytes} bytes");
    }
    let counters = queue.counters();
    assert_eq!((counters.received, counters.copied_bytes), (counters.transmitted, 0));
    drop(queue);
    all_home(&pool);
}

/// What comes in mbufs that are no frames of ours, here a head with pages of content behind it, is copied, and each byte
/// counted; the pages are free again.
#[test]
fn what_is_not_in_our_frames_is_copied_and_counted() {
    let port = port(&format!("dpdk:net_ring{},mtu=65000", number())).expect("a port");
    let pool = pool(2048, 1 << 20).expect("memory");
    let umem = Umem::new(&pool);
    let mut queue = queue(&umem, &port).expect("a queue");
    let mut stock = vec![0; 1 << 20];
    Content::new(2).fill(&mut stock);
    pool.write_content(0, &stock).expect("nobody holds it");
    let mut bytes_sent = 0;
    for turn in 0..500usize {
        let pages = 1 + turn % 17;
        let mut head = pool.alloc().expect("a frame");
        head.extend(&[7; 60]).expect("room");
        let (mut packet, mut sent) = (Packet::new(head), vec![7; 60]);
        for page in 0..pages {
            let (start, len) = ((page + turn) % 256 * 4096 + page, 1 + turn * 31 % 3700);
            packet.push(pool.page(start, len).expect("content")).expect("few");
            sent.extend_from_slice(&stock[start..start + len]);
        }
        let mut packets = Packets::new();
        packets.push(packet).expect("room");
        assert!(there_and_back(&mut queue, &mut packets) == [sent.as_slice()], "{pages} pages");
        bytes_sent += sent.len() as u64;
        let counters = queue.counters();
        assert_eq!((counters.copied_bytes, counters.received), (bytes_sent, counters.transmitted));
        queue.tend();
        assert_eq!(pool.pages_on_loan(), 0);
    }
    drop(queue);
    all_home(&pool);
}

/// Sends what is in `packets` into a ring; returns each packet that comes out of it.
fn there_and_back<'p>(queue: &mut impl Gather<'p>, packets: &mut Packets<'p>) -> Vec<Vec<u8>> {
    let (mut arrived, mut whole) = (Vec::new(), Vec::new());
    let mut received = Burst::new();
    queue.tend();
    queue.gather(packets);
    assert!(packets.is_empty());
    while queue.receive(&mut received) > 0 {
        for frame in received.drain() {
            whole.extend_from_slice(&frame);
            if !frame.continues() {
                arrived.push(std::mem::take(&mut whole));
            }
        }
    }
    assert!(queue.fault().is_none(), "{:?}", queue.fault());
    arrived
}
