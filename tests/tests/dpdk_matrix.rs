//! DPDK devices in every role: every bit that goes in comes out, in order, while every ring wraps.
//!
//! ```text
//!   this process: vhost or virtio-user ──numbered frames──► [ forward ] ──► vhost or virtio-user      wire
//!   this process:                      ◄──addresses swapped─ [ forward ]                              mac-swap
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::forward::{MacSwap, Wire};
use dataplane::lab::Namespace;
use dataplane::worker::Member;
use dataplane::{App, Books, Outbox, PortId, Reason, Tick, Worker};
use drivers::dpdk::{DpdkPort, DpdkQueue};
use drivers::xdp::Umem;
use drivers::{Caps, Copying, Gather, QueuePair};
use lab::Forwarder;
use lab::dpdk::{Socket, number, pool, port, queue};
use lab::raw::{Landed, Stream, exchange_over};
use lab::traffic::Content;
use ringbuf::{Burst, Frame, Packet, Packets, Pool};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
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
fn run(role: Role, mtu: usize, mode: &str, more: &str) {
    let sockets = if mode == "wire" { vec![Socket::new(), Socket::new()] } else { vec![Socket::new()] };
    let options = format!(",mtu={mtu},ring=256{more}");
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
    ($($name:ident: $role:ident, $mtu:literal, $mode:literal, $more:literal;)+) => {
        $(#[test]
        fn $name() {
            run(Role::$role, $mtu, $mode, $more);
        })+
    };
}

matrix! {
    vhost_wire_1500: Vhost, 1500, "wire", "";
    vhost_wire_9000: Vhost, 9000, "wire", "";
    vhost_mac_swap_1500: Vhost, 1500, "mac-swap", "";
    vhost_mac_swap_9000: Vhost, 9000, "mac-swap", "";
    virtio_user_wire_1500: VirtioUser, 1500, "wire", "";
    virtio_user_wire_9000: VirtioUser, 9000, "wire", "";
    virtio_user_mac_swap_1500: VirtioUser, 1500, "mac-swap", "";
    virtio_user_mac_swap_9000: VirtioUser, 9000, "mac-swap", "";
    vhost_wire_without_offloads: Vhost, 9000, "wire", ",offloads=off";
    virtio_user_wire_without_offloads: VirtioUser, 9000, "wire", ",offloads=off";
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

/// In DPDK's own headroom, as a device fills it: buffers begin up to three lines behind their slots.
fn as_received<'p>(pool: &'p Pool, bytes: &[u8]) -> Frame<'p> {
    let mut frame = pool.alloc().expect("a frame");
    let slot = frame.offset() / u64::from(pool.frame_size());
    frame.restart(128 + 64 * u16::try_from(slot % 4).expect("small"));
    frame.extend(bytes).expect("room");
    frame
}

fn content(number: usize, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    Content::new(number as u64).fill(&mut content);
    content
}

/// Sends packets into a ring, one by one.
fn lay<'p>(pool: &'p Pool, queue: &mut DpdkQueue<'p>, all: &[Vec<u8>]) {
    for sent in all {
        let mut burst = Burst::new();
        burst.push(as_received(pool, sent)).expect("room");
        queue.tend();
        assert_eq!(queue.transmit(&mut burst), 1);
    }
}

fn received<'p>(queue: &mut impl Gather<'p>) -> Vec<Vec<u8>> {
    let mut arrived = Vec::new();
    let mut burst = Burst::new();
    while queue.receive(&mut burst) > 0 {
        arrived.extend(burst.drain().map(|frame| frame.to_vec()));
    }
    arrived
}

/// Packets that one device has received leave by another as they are: what is plain, in its order, until there is one that
/// must be seen, or the way is full. What did not go is there to be received.
#[test]
fn packets_pass_from_device_to_device() {
    let open = |mtu: u16| port(&format!("dpdk:net_ring{},mtu={mtu}", number())).expect("a port");
    let ports = [open(3500), open(3000), open(3500)];
    let (pool, other) = (pool(4096, 0).expect("memory"), pool(1024, 0).expect("memory"));
    let (umem, other_umem) = (Umem::new(&pool), Umem::new(&other));
    let [mut near, mut far] = [0, 1].map(|at: usize| queue(&umem, &ports[at]).expect("a queue"));
    let mut elsewhere = queue(&other_umem, &ports[2]).expect("a queue");
    assert!(near.passes());
    assert_eq!(near.pass(&mut far, 14), Some(0), "nothing is there");

    // The fourth is a runt, and the seventh longer than the far port's packets.
    let lengths = [14, 1514, 60, 13, 61, 100, 3100, 64];
    let all: Vec<_> = lengths.iter().enumerate().map(|(i, bytes)| content(i, *bytes)).collect();
    lay(&pool, &mut near, &all);
    assert_eq!(near.pass(&mut far, 14), Some(3));
    assert_eq!(near.pass(&mut far, 14), None);
    assert_eq!(near.pass(&mut far, 14), None, "and nothing has moved");
    assert!(received(&mut near) == all[3..]);
    assert!(received(&mut far) == all[..3]);

    // A frame with our own headroom is no frame as a device fills it, and one in two parts is no plain packet.
    let mut burst = filled(&pool, &content(9, 3300));
    near.transmit(&mut burst);
    assert_eq!(near.pass(&mut far, 14), None);
    assert!(received(&mut near).concat() == content(9, 3300));

    // Nothing passes into memory that a device was not given, and nothing is lost.
    lay(&pool, &mut near, &all[..1]);
    assert_eq!(near.pass(&mut elsewhere, 14), None);
    assert!(received(&mut near) == all[..1]);

    // A ring takes 1023, and a burst waits in front of it; from then on all must be seen.
    let many: Vec<_> = (0..1023).map(|i| content(i, 60)).collect();
    lay(&pool, &mut far, &many);
    let more: Vec<_> = (2000..2200).map(|i| content(i, 60)).collect();
    lay(&pool, &mut near, &more);
    assert_eq!(near.pass(&mut far, 14), Some(64));
    assert_eq!(near.pass(&mut far, 14), None);
    let mut arrived = received(&mut far);
    far.tend();
    arrived.extend(received(&mut far));
    assert!(arrived == [many.as_slice(), &more[..64]].concat());
    assert_eq!(near.pass(&mut far, 14), Some(64));
    assert!(received(&mut far) == more[64..128]);
    assert!(received(&mut near) == more[128..]);
    let (near_count, far_count) = (near.counters(), far.counters());
    assert_eq!((near_count.received, near_count.unsendable), (near_count.transmitted, 0));
    assert_eq!((far_count.received, far_count.unsendable), (far_count.transmitted, 0));
    drop((near, far, elsewhere));
    all_home(&pool);
    all_home(&other);
}

/// `wire` or `mac-swap` until it is told to keep what comes.
struct Circle<A> {
    app: A,
    /// Whether packets may pass without being seen.
    passes: bool,
    keeps: Rc<Cell<bool>>,
    seen: Rc<Cell<usize>>,
    kept: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl<'p, A: App<'p>> App<'p> for Circle<A> {
    fn straight(&self, from: PortId) -> Option<(PortId, u16)> {
        self.app.straight(from).filter(|_| self.passes && !self.keeps.get())
    }

    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        if !self.keeps.get() {
            self.seen.set(self.seen.get() + burst.len());
            return self.app.handle(now, from, burst, out);
        }
        while burst.packet_frames() > 0 {
            let mut whole = Vec::new();
            for ahead in 0..burst.packet_frames() {
                whole.extend_from_slice(burst.peek(ahead).expect("counted"));
            }
            self.kept.borrow_mut().push(whole);
            out.discard_packet(burst, Reason::Unhandled);
        }
    }
}

/// Two ports whose rings lead back to themselves: what a wire between them carries goes round, from one to the other, for as
/// long as it turns; and what is sent back where it came from comes again. Then it is compared.
fn circle<A: for<'p> App<'p>>(app: A, turns: usize, passes: bool, lengths: &[usize]) -> (usize, Books) {
    let open = || port(&format!("dpdk:net_ring{},mtu=65000", number())).expect("a port");
    let ports = [open(), open()];
    let pool = pool(4096, 0).expect("memory");
    let umem = Umem::new(&pool);
    let mut queues: Vec<_> = ports.iter().map(|port| queue(&umem, port).expect("a queue")).collect();
    let all: Vec<_> = lengths.iter().enumerate().map(|(i, bytes)| content(i, *bytes)).collect();
    for sent in &all {
        let mut burst = Burst::new();
        if sent.len() < 3000 {
            burst.push(as_received(&pool, sent)).expect("room");
        } else {
            burst = filled(&pool, sent);
        }
        queues[0].tend();
        queues[0].transmit(&mut burst);
        assert!(burst.is_empty());
    }
    let (keeps, seen, kept) = (Rc::default(), Rc::default(), Rc::default());
    let app =
        Circle { app, passes, keeps: Rc::clone(&keeps), seen: Rc::clone(&seen), kept: Rc::clone(&kept) };
    let members = (0..).zip(queues).map(|(port, queue)| Member { port: PortId(port), queue }).collect();
    let mut worker = Worker::new(&pool, members, app);
    for turn in 0..turns {
        worker.turn(Tick(Duration::from_micros(turn as u64)));
    }
    let seen: usize = seen.get();
    keeps.set(true);
    while worker.turn(Tick(Duration::from_secs(1))) > 0 {}
    let books = worker.books();
    // What the queue sent before it was the worker's, it counts too.
    assert_eq!(books.received + lengths.len() as u64, books.transmitted + books.discarded, "{books:?}");
    let mut arrived: Vec<Vec<u8>> = kept.take();
    let whole: Vec<_> = all.into_iter().filter(|packet| packet.len() >= 14).collect();
    // It was stopped somewhere on its way round.
    let first = arrived.iter().position(|packet| *packet == whole[0]).expect("the first");
    arrived.rotate_left(first);
    assert!(arrived == whole, "another order, or other packets");
    drop(worker);
    all_home(&pool);
    (seen, books)
}

/// A burst and more, so that it is taken in parts.
fn lengths(mtu: usize) -> Vec<usize> {
    sizes(mtu).cycle().take(150).collect()
}

#[test]
fn wire_over_rings_carries_frames() {
    let (seen, books) = circle(Wire, 1000, false, &lengths(9000));
    assert!(seen > 60_000 && books.received > 60_000, "{seen}, {books:?}");
}

#[test]
fn wire_over_rings_lets_packets_pass() {
    let (seen, books) = circle(Wire, 1000, true, &lengths(1500));
    assert_eq!(seen, 0, "none became a frame");
    assert!(books.received > 60_000, "{books:?}");
}

/// Runts, packets in several frames and plain ones by turns: each goes the way that is its own, and none overtakes another.
#[test]
fn wire_over_rings_keeps_the_order_of_all() {
    let mut mixed = lengths(9000);
    mixed.extend([13, 60, 1, 61]);
    let (seen, books) = circle(Wire, 1000, true, &mixed);
    assert!(seen > 1000 && seen < 60_000 && books.received > 10_000, "{seen}, {books:?}");
}

#[test]
fn mac_swap_over_rings_comes_back() {
    // An even number of times, whatever of it comes twice in a turn.
    let (seen, books) = circle(MacSwap, 2, true, &sizes(9000).collect::<Vec<_>>());
    assert!(seen > 0 && books.received > 0, "{books:?}");
}
