//! The packet driver against the kernel: two queues on the two ends of a veth, or between two hosts.
//!
//! Each test lives in a network namespace of its own thread, which vanishes with it.

use drivers::packet::{PacketPlan, PacketQueue};
use drivers::{Fault, QueuePair};
use ringbuf::{Arena, ArenaPlan, BURST, Burst, Offload, Pool};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body` in a thread with a network namespace of its own, or says that it can't.
fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    let test = test.to_owned();
    let run = move || {
        if unshare().is_err() {
            println!("SKIPPED: {test}: needs CAP_NET_ADMIN + CAP_NET_RAW");
            return;
        }
        body();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread to a new network namespace in which no interface speaks unasked.
fn unshare() -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "the unsafe one guards file tables, which a network namespace leaves alone"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth `left` - `right`, both ends here and up.
fn veth(mtu: u32) {
    ip(&format!("link add left mtu {mtu} type veth peer name right mtu {mtu}"));
    ip("link set left up");
    ip("link set right up");
}

fn pool(frames: u32, frame_size: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("memory"))
}

fn open<'p>(pool: &'p Pool, interface: &str) -> PacketQueue<'p> {
    PacketQueue::open(pool, &PacketPlan::new(interface)).expect("the interface is there and up")
}

fn pair(pool: &Pool) -> (PacketQueue<'_>, PacketQueue<'_>) {
    (open(pool, "left"), open(pool, "right"))
}

/// An Ethernet packet of `bytes` bytes that only `seed` makes.
fn packet(bytes: usize, seed: u8) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5];
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    packet.resize_with(bytes, || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    packet
}

/// Puts a packet into `burst`, in frames of at most `cut` bytes.
fn put<'p>(pool: &'p Pool, burst: &mut Burst<'p>, packet: &[u8], cut: usize) {
    let pieces = packet.chunks(cut).count();
    for (i, piece) in packet.chunks(cut).enumerate() {
        let mut frame = pool.alloc().expect("the pool is large enough");
        frame.extend(piece).expect("cut to fit");
        frame.set_continues(i + 1 < pieces);
        burst.push(frame).expect("the burst has room");
    }
}

/// Takes whole packets out of a burst.
fn packets(burst: &mut Burst<'_>) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for frame in burst.drain() {
        all.last_mut().expect("never empty").extend_from_slice(&frame);
        if !frame.continues() {
            all.push(Vec::new());
        }
    }
    all.pop();
    all
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Sends all of `out`, and receives until `count` packets came or time is up.
fn carry<'p>(
    from: &mut PacketQueue<'p>,
    to: &mut PacketQueue<'p>,
    out: &mut Burst<'p>,
    count: usize,
) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut burst = Burst::new();
    while received.len() < count && Instant::now() < deadline {
        from.transmit(out);
        from.tend();
        to.receive(&mut burst);
        received.append(&mut packets(&mut burst));
        to.tend();
    }
    received
}

fn assert_same(sent: &[Vec<u8>], received: &[Vec<u8>]) {
    let lengths = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(sent), lengths(received));
    assert!(sent == received, "the content differs");
}

fn assert_all_home(pool: &Pool) {
    let census = pool.census();
    assert_eq!(census.free, census.total(), "{census:?}");
}

#[test]
fn every_length_crosses_both_ways() {
    in_namespace("every_length_crosses_both_ways", || {
        veth(1500);
        let pool = pool(512, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut sent_bytes = 0;
        for start in (60..=1514).step_by(BURST) {
            let sent: Vec<_> =
                (start..(start + BURST).min(1515)).map(|n| packet(n, n.to_le_bytes()[0])).collect();
            sent_bytes += sent.iter().map(Vec::len).sum::<usize>() as u64;
            let mut out = Burst::new();
            sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
            assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
            for part in sent.chunks(BURST / 3) {
                part.iter().for_each(|packet| put(&pool, &mut out, packet, 700));
                assert_same(part, &carry(&mut right, &mut left, &mut out, part.len()));
            }
        }
        let (there, here) = (left.counters(), right.counters());
        assert_eq!((there.transmitted.packets, there.transmitted.bytes), (1455, sent_bytes));
        assert_eq!(here.received, there.transmitted);
        assert_eq!(
            here.receive_missed + here.receive_malformed + there.unsendable + there.transmit_dropped,
            0
        );
        drop((left, right));
        assert_all_home(&pool);
        assert!(ip("-d link show left").contains("promiscuity 0"));
    });
}

/// Chains, in arenas of several frame sizes, of packets that fit a ring slot and that do not, keep their order.
#[test]
fn long_and_short_packets_keep_their_order() {
    in_namespace("long_and_short_packets_keep_their_order", || {
        veth(65535);
        for frame_size in [2048, 4096, 16384] {
            let pool = pool(256, frame_size);
            let (mut left, mut right) = pair(&pool);
            let lengths = [60, 9014, 61, 1971, 1972, 1973, 62, 2006, 2007, 30_000, 63, 64];
            let sent: Vec<_> = lengths.iter().zip(1..).map(|(n, seed)| packet(*n, seed)).collect();
            let mut out = Burst::new();
            sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
            assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
            let sent = [packet(65_549, 9)];
            put(&pool, &mut out, &sent[0], 1792);
            assert_same(&sent, &carry(&mut right, &mut left, &mut out, 1));
            assert_eq!(left.counters().receive_malformed + right.counters().receive_malformed, 0);
            drop((left, right, out));
            assert_all_home(&pool);
        }
    });
}

/// The kernel takes a tag off each received frame; it is put back, whatever its protocol.
#[test]
fn tags_survive() {
    in_namespace("tags_survive", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let tagged = |tags: &[u8], bytes, seed| {
            let mut packet = packet(bytes, seed);
            packet.splice(12..12, tags.iter().copied());
            packet
        };
        let sent = [
            tagged(&[0x81, 0x00, 0x60, 0x07], 60, 1),
            tagged(&[0x88, 0xa8, 0x0f, 0xff], 60, 2),
            tagged(&[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x00], 1000, 3),
            tagged(&[0x81, 0x00, 0x00, 0x01], 1514, 4),
            packet(60, 5),
        ];
        let mut out = Burst::new();
        sent.iter().for_each(|packet| put(&pool, &mut out, packet, 1792));
        assert_same(&sent, &carry(&mut left, &mut right, &mut out, sent.len()));
    });
}

/// Runts, packets too long for the link, and notes that point outside are named, and block nobody.
#[test]
fn what_cannot_be_sent_is_counted() {
    in_namespace("what_cannot_be_sent_is_counted", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(1515, 1), 1792);
        put(&pool, &mut out, &[7; 13], 1792);
        put(&pool, &mut out, &packet(100, 2), 1792);
        let wild = Offload { checksum_start: 90, checksum_offset: 16, ..Offload::default() };
        out.peek_mut(2).expect("third").set_offload(Some(wild));
        put(&pool, &mut out, &packet(3000, 3), 1000);
        put(&pool, &mut out, &packet(60, 4), 1792);
        assert_same(&[packet(60, 4)], &carry(&mut left, &mut right, &mut out, 1));
        assert_eq!((left.counters().unsendable, left.counters().transmitted.packets), (4, 1));
    });
}

/// A packet that the peer's end never accepts is given up, and those behind it pass.
#[test]
fn a_packet_that_the_device_always_drops_does_not_jam_the_ring() {
    in_namespace("a_packet_that_the_device_always_drops_does_not_jam_the_ring", || {
        veth(9000);
        ip("link set right mtu 1000");
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(1500, 1), 1792);
        put(&pool, &mut out, &packet(60, 2), 1792);
        put(&pool, &mut out, &packet(5000, 3), 1792);
        put(&pool, &mut out, &packet(61, 4), 1792);
        assert_same(&[packet(60, 2), packet(61, 4)], &carry(&mut left, &mut right, &mut out, 2));
        assert_eq!(left.counters().transmit_dropped, 2);
        assert_eq!(left.fault(), None);
    });
}

/// Nobody receives: what the ring has no room for is missed, and the books say so.
#[test]
fn overload_balances() {
    in_namespace("overload_balances", || {
        veth(1500);
        let pool = pool(512, 2048);
        let mut left = open(&pool, "left");
        let plan = PacketPlan { ring: 64, ..PacketPlan::new("right") };
        let mut right = PacketQueue::open(&pool, &plan).expect("opens");
        let mut out = Burst::new();
        for _ in 0..50 {
            (0..40).for_each(|seed| put(&pool, &mut out, &packet(60, seed), 1792));
            while !out.is_empty() {
                left.transmit(&mut out);
                left.tend();
            }
        }
        let (mut burst, mut received) = (Burst::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while received + right.counters().receive_missed < 2000 && Instant::now() < deadline {
            right.receive(&mut burst);
            received += packets(&mut burst).len() as u64;
        }
        let books = right.counters();
        assert_eq!(left.counters().transmitted.packets, 2000);
        assert_eq!(books.received.packets, received);
        assert_eq!(received + books.receive_missed, 2000, "{books:?}");
        assert!(received >= 64 && books.receive_missed > 0, "{books:?}");
        // A pool without frames leaves packets where they are.
        let all: Vec<_> = core::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(right.receive(&mut burst), 0);
        drop(all);
    });
}

#[test]
fn a_link_comes_back() {
    in_namespace("a_link_comes_back", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        ip("link set left down");
        put(&pool, &mut out, &packet(60, 1), 1792);
        put(&pool, &mut out, &packet(1400, 2), 1792);
        for _ in 0..1000 {
            left.transmit(&mut out);
            left.tend();
            right.tend();
        }
        assert!(left.counters().link_down > 0);
        assert_eq!((left.fault(), right.fault()), (None, None));
        ip("link set left up");
        // What waited in the ring goes out once the link is back.
        assert_same(&[packet(60, 1), packet(1400, 2)], &carry(&mut left, &mut right, &mut out, 2));
        put(&pool, &mut out, &packet(60, 3), 1792);
        assert_same(&[packet(60, 3)], &carry(&mut right, &mut left, &mut out, 1));
    });
}

/// The sender notices, and so does an end that only listens; the error does not keep a sleeper awake.
#[test]
fn a_deleted_interface_is_gone() {
    in_namespace("a_deleted_interface_is_gone", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        ip("link del left");
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(60, 1), 1792);
        for _ in 0..1000 {
            left.transmit(&mut out);
            left.tend();
            right.receive(&mut Burst::new());
            right.tend();
        }
        assert_eq!((left.fault(), right.fault()), (Some(&Fault::Gone), Some(&Fault::Gone)));
        drop((left, right, out));
        assert_all_home(&pool);
    });
}

/// Two sockets share the flows of a port: nothing twice, nothing lost, each with a part.
#[test]
fn queues_share_the_flows() {
    in_namespace("queues_share_the_flows", || {
        veth(1500);
        let pool = pool(512, 2048);
        let mut left = open(&pool, "left");
        let plan = |queue| PacketPlan { queue, queues: 2, fanout_group: 77, ..PacketPlan::new("right") };
        let mut queues = [0, 1].map(|queue| PacketQueue::open(&pool, &plan(queue)).expect("opens"));
        let mut out = Burst::new();
        for port in 0..60 {
            let mut packet = packet(60, port);
            // IPv4 and UDP, as far as the flow's hash looks.
            packet[12..14].copy_from_slice(&[8, 0]);
            packet[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
            packet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            packet[34..38].copy_from_slice(&[1, port, 0, 9]);
            put(&pool, &mut out, &packet, 1792);
        }
        left.transmit(&mut out);
        left.tend();
        let mut shares = [0, 0];
        let (mut burst, deadline) = (Burst::new(), Instant::now() + PATIENCE);
        while shares[0] + shares[1] < 60 && Instant::now() < deadline {
            for (queue, share) in queues.iter_mut().zip(&mut shares) {
                *share += queue.receive(&mut burst);
                burst.clear();
            }
        }
        assert_eq!(shares[0] + shares[1], 60);
        assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
        // Nobody hears what the port itself sends.
        put(&pool, &mut out, &packet(60, 1), 1792);
        queues[0].transmit(&mut out);
        queues[0].tend();
        assert_eq!(carry(&mut queues[0], &mut left, &mut out, 1).len(), 1);
        assert_eq!(queues[0].receive(&mut burst) + queues[1].receive(&mut burst), 0);
        // The group is taken: another interface cannot join.
        let other = PacketPlan { interface: "left".to_owned(), ..plan(0) };
        let error = PacketQueue::open(&pool, &other).expect_err("the group is another's").to_string();
        assert!(error.contains("joining the fanout group 77") && error.contains("group=N"), "{error}");
    });
}

#[test]
fn opening_explains_itself() {
    in_namespace("opening_explains_itself", || {
        veth(1500);
        let pool = pool(64, 2048);
        let refusal = |interface: &str| {
            PacketQueue::open(&pool, &PacketPlan::new(interface)).expect_err("cannot open").to_string()
        };
        assert!(refusal("nosuch").contains("There is no interface \"nosuch\""), "{}", refusal("nosuch"));
        assert!(refusal("a-name-that-is-far-too-long").contains("There is no interface"));
        ip("link set right down");
        assert!(refusal("right").contains("ip link set dev right up"), "{}", refusal("right"));
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).expect("rights can always be given up");
        assert!(refusal("left").contains("CAP_NET_RAW"), "{}", refusal("left"));
    });
}

/// Runs `body` as a host: a thread in its own namespace, with `interface` moved there from here.
fn host(
    interface: &str,
    address: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> thread::JoinHandle<()> {
    let (ready, is_ready) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel();
    let (set_up, is_set_up) = mpsc::channel();
    let name = interface.to_owned();
    let host = thread::spawn(move || {
        unshare().expect("the first one went well");
        ready.send(rustix::thread::gettid()).expect("waited for");
        is_moved.recv().expect("sent below");
        ip(&format!("addr add {address} dev {name}"));
        ip(&format!("link set {name} up"));
        set_up.send(()).expect("waited for");
        body();
    });
    let thread = is_ready.recv().expect("sent first").as_raw_nonzero();
    ip(&format!("link set dev {interface} netns {thread}"));
    moved.send(()).expect("waited for");
    is_set_up.recv().expect("sent last");
    host
}

/// One direction of a wire: what came and could not be sent yet waits.
fn forward<'p>(from: &mut PacketQueue<'p>, to: &mut PacketQueue<'p>, held: &mut Burst<'p>) {
    from.tend();
    from.receive(held);
    to.transmit(held);
}

/// ```text
///   host a ── veth ── left │ this test │ right ── veth ── host b
/// ```
/// The hosts' TCP with all its defaults: checksums left to the device, packets of 64 KiB left uncut.
#[test]
fn a_tcp_transfer_arrives_intact() {
    for (mtu, frame_size) in [(1500, 2048), (1500, 4096), (9000, 2048)] {
        in_namespace("a_tcp_transfer_arrives_intact", move || transfer(mtu, frame_size, 64 << 20));
    }
}

fn transfer(mtu: u32, frame_size: u32, bytes: usize) {
    ip(&format!("link add left mtu {mtu} type veth peer name host-a mtu {mtu}"));
    ip(&format!("link add right mtu {mtu} type veth peer name host-b mtu {mtu}"));
    ip("link set left up");
    ip("link set right up");
    let content = Arc::new(packet(1 << 20, 42));
    let expected = Arc::clone(&content);
    let done = Arc::new(AtomicBool::new(false));
    let (finished, listening) = (Arc::clone(&done), mpsc::channel());
    let b = host("host-b", "10.9.0.2/24", move || {
        let listener = TcpListener::bind("10.9.0.2:7000").expect("ours");
        listening.0.send(()).expect("waited for");
        let (mut stream, _) = listener.accept().expect("a client");
        let mut block = vec![0; expected.len()];
        for _ in 0..bytes / block.len() {
            stream.read_exact(&mut block).expect("all of it");
            assert!(block == *expected, "the content differs");
        }
        stream.write_all(b"thanks").expect("connected");
        finished.store(true, Ordering::Release);
    });
    let a = host("host-a", "10.9.0.1/24", move || {
        listening.1.recv().expect("sent by b");
        let mut stream = TcpStream::connect("10.9.0.2:7000").expect("b is reached");
        for _ in 0..bytes / content.len() {
            stream.write_all(&content).expect("b listens");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("b answers");
        assert_eq!(answer, "thanks");
    });
    let pool = pool(2048, frame_size);
    let (mut left, mut right) = pair(&pool);
    let (mut there, mut back) = (Burst::new(), Burst::new());
    let start = Instant::now();
    while !(a.is_finished() && b.is_finished()) {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?} {:?}", left.counters(), right.counters());
        forward(&mut left, &mut right, &mut there);
        forward(&mut right, &mut left, &mut back);
    }
    let seconds = start.elapsed().as_secs_f64();
    a.join().expect("a is content");
    b.join().expect("b is content");
    assert!(done.load(Ordering::Acquire));
    let (l, r) = (left.counters(), right.counters());
    println!(
        "mtu {mtu}, frames of {frame_size}: {:.2} Gb/s\n  {l:?}\n  {r:?}",
        bytes as f64 * 8e-9 / seconds
    );
    assert_eq!((l.unsendable, r.unsendable, l.transmit_dropped, r.transmit_dropped), (0, 0, 0, 0));
    let mean = l.received.bytes / l.received.packets.max(1);
    assert!(mean > 2 * u64::from(mtu), "{mean} bytes a packet: the path for uncut packets was not tested");
    drop((left, right, there, back));
    assert_all_home(&pool);
}

/// How fast it is, in one thread, to be read and not to be judged: `cargo test --release -p ringway-drivers --test packet
/// -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn throughput() {
    for bytes in [60, 1514] {
        in_namespace("throughput", move || {
            veth(1500);
            let pool = pool(2048, 2048);
            let (mut left, mut right) = pair(&pool);
            let (mut out, mut burst, start) = (Burst::new(), Burst::new(), Instant::now());
            let content = packet(bytes, 1);
            while start.elapsed() < Duration::from_secs(2) {
                put_full(&pool, &mut out, &content);
                left.transmit(&mut out);
                left.tend();
                right.receive(&mut burst);
                burst.clear();
                right.tend();
            }
            let (sent, received) = (left.counters().transmitted.packets, right.counters());
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{bytes} bytes: sent {:.2} Mpps, received {:.2} Mpps, missed {}",
                sent as f64 * 1e-6 / seconds,
                received.received.packets as f64 * 1e-6 / seconds,
                received.receive_missed
            );
        });
    }
    in_namespace("throughput", || transfer(1500, 2048, 8 << 30));
}

fn put_full<'p>(pool: &'p Pool, burst: &mut Burst<'p>, packet: &[u8]) {
    while burst.room() > 0 {
        put(pool, burst, packet, 1792);
    }
}
