//! The kernel's own TCP through two queues.

use crate::world::*;
use drivers::QueuePair;
use drivers::packet::PacketQueue;
use ringbuf::{Burst, Frame, Pool};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// One direction of a wire: what came and could not be sent yet waits.
fn forward<'p>(from: &mut PacketQueue<'p>, to: &mut PacketQueue<'p>, held: &mut Burst<'p>) {
    from.tend();
    from.receive(held);
    to.transmit(held);
}

/// Both directions of a wire between host a and host b.
pub(crate) fn transfer_through_a_wire(mtu: u32, frame_size: u32, bytes: usize) {
    let pool = pool(2048, frame_size);
    let (mut there, mut back) = (Burst::new(), Burst::new());
    transfer(mtu, &pool, bytes, |left, right| {
        forward(left, right, &mut there);
        forward(right, left, &mut back);
    });
    drop((there, back));
    assert_all_home(&pool);
}

/// ```text
///   host a ── veth ── left │ this test │ right ── veth ── host b
/// ```
/// The hosts' TCP with all its defaults: checksums left to the device, packets of 64 KiB left uncut.
#[test]
fn a_tcp_transfer_arrives_intact() {
    for (mtu, frame_size) in [(1500, 2048), (1500, 4096), (9000, 2048)] {
        in_namespace("a_tcp_transfer_arrives_intact", move || {
            transfer_through_a_wire(mtu, frame_size, 64 << 20)
        });
    }
}

/// The same, and between the hosts a link on which we tag each packet: tagged, unfinished and uncut at once.
/// ```text
///   host a ── left │ push │ trunk-l ── veth ── trunk-r │ pop │ right ── host b
/// ```
#[test]
fn a_tagged_tcp_transfer_arrives_intact() {
    in_namespace("a_tagged_tcp_transfer_arrives_intact", || {
        ip("link add trunk-l type veth peer name trunk-r");
        ip("link set trunk-l up");
        ip("link set trunk-r up");
        let pool = pool(2048, 2048);
        let (mut here, mut there) = (open(&pool, "trunk-l"), open(&pool, "trunk-r"));
        let mut held: [Burst<'_>; 8] = core::array::from_fn(|_| Burst::new());
        transfer(1500, &pool, 64 << 20, |left, right| {
            let [a, b, c, d, e, f, g, h] = &mut held;
            cross(left, &mut here, a, b, push_tag);
            cross(&mut there, right, c, d, pop_tag);
            cross(right, &mut there, e, f, push_tag);
            cross(&mut here, left, g, h, pop_tag);
        });
        let (l, r) = (here.counters(), there.counters());
        assert_eq!((l.unsendable, r.unsendable, l.receive_malformed, r.receive_malformed), (0, 0, 0, 0));
        assert_eq!((l.receive_missed, r.receive_missed), (0, 0));
    });
}

const TAG: [u8; 4] = [0x81, 0x00, 0x60, 0x07];

fn push_tag(frame: &mut Frame<'_>) {
    frame.grow_front(4).expect("headroom");
    frame.copy_within(4..16, 0);
    frame[12..16].copy_from_slice(&TAG);
}

fn pop_tag(frame: &mut Frame<'_>) {
    assert_eq!(frame[12..16], TAG);
    frame.copy_within(0..12, 4);
    frame.trim_front(4);
}

/// Receives packets, changes the head of each, and sends them; `came` and `held` keep what waits.
fn cross<'p>(
    from: &mut PacketQueue<'p>,
    to: &mut PacketQueue<'p>,
    came: &mut Burst<'p>,
    held: &mut Burst<'p>,
    change: fn(&mut Frame<'_>),
) {
    from.tend();
    if held.is_empty() {
        from.receive(came);
        let mut is_head = true;
        for mut frame in came.drain() {
            if is_head {
                change(&mut frame);
            }
            is_head = !frame.continues();
            held.push(frame).expect("as many as came");
        }
    }
    to.transmit(held);
}

/// Sends `bytes` bytes from host a to host b, while `turn` carries packets between the queues that face them.
fn transfer<'p>(
    mtu: u32,
    pool: &'p Pool,
    bytes: usize,
    mut turn: impl FnMut(&mut PacketQueue<'p>, &mut PacketQueue<'p>),
) {
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
    let (mut left, mut right) = pair(pool);
    let start = Instant::now();
    while !(a.is_finished() && b.is_finished()) {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?} {:?}", left.counters(), right.counters());
        turn(&mut left, &mut right);
    }
    let seconds = start.elapsed().as_secs_f64();
    a.join().expect("a is content");
    b.join().expect("b is content");
    assert!(done.load(Ordering::Acquire));
    let (l, r) = (left.counters(), right.counters());
    println!(
        "mtu {mtu}, frames of {}: {:.2} Gb/s\n  {l:?}\n  {r:?}",
        pool.frame_size(),
        bytes as f64 * 8e-9 / seconds
    );
    assert_eq!((l.unsendable, r.unsendable, l.transmit_dropped, r.transmit_dropped), (0, 0, 0, 0));
    let mean = l.received.bytes / l.received.packets.max(1);
    assert!(mean > 2 * u64::from(mtu), "{mean} bytes a packet: the path for uncut packets was not tested");
}
