//! A head and pages of content over AF_XDP, sent as one packet without a copy of ours: every byte is looked at.
//!
//! ```text
//!   left0: head │ page │ page │ …  ══ one packet ══►  rw-left: as many frames as it takes
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use drivers::checksum::{finish, fold, sum};
use drivers::wrap::Flatten;
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use drivers::{Gather, QueuePair};
use lab::traffic::Content;
use lab::{TestLab, needs};
use ringbuf::{Arena, ArenaPlan, Burst, FileMap, Offload, PACKET_PAGES, Packet, Packets, Pool};
use rustix::fs::{MemfdFlags, memfd_create};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of one unit of content: no page reaches beyond it.
const CONTENT_UNIT: usize = 4096;

/// Units of content.
const UNITS: usize = 64;

/// Without a packet for so long, it is lost.
const PATIENCE: Duration = Duration::from_secs(8);

/// Destination, source, and IEEE 802 local experimental EtherType 1.
const ETHERNET: [u8; 14] = [2, 0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 0x11, 0x22, 0x33, 0x44, 2, 0x88, 0xb5];

fn cable(mtu: u32) -> TestLab {
    TestLab::with(|plan| (plan.mtu, plan.ipv6) = (mtu, false)).expect("a laboratory")
}

/// A pool with content made from `seed`, and a copy of that content.
fn stocked(frame_size: u32, seed: u64) -> (Pool, Vec<u8>) {
    let content_bytes = UNITS * CONTENT_UNIT;
    let plan = ArenaPlan { frames: 3072, frame_size, content_bytes, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("an arena"));
    let mut content = vec![0; content_bytes];
    Content::new(seed).fill(&mut content);
    pool.write_content(0, &content).expect("nobody holds it");
    (pool, content)
}

fn open<'p>(umem: &Rc<Umem<'p>>, namespace: &Namespace, interface: &str, ring: u32) -> XdpQueue<'p> {
    let _inside = namespace.enter().expect("inside");
    let port = XdpPort::open(XdpPlan { ring, ..XdpPlan::new(interface) }).expect("a port");
    XdpQueue::open(umem, &port, 0).expect("a queue")
}

/// The two ends of the left cable: the host's gathers by a small ring, the other has room for all of it.
fn ends<'p>(lab: &TestLab, umem: &Rc<Umem<'p>>) -> (XdpQueue<'p>, XdpQueue<'p>) {
    let near = open(umem, lab.host(Side::Left), Side::Left.interface(), 64);
    let far = open(umem, lab.middle(), Side::Left.port(), 1024);
    assert!(near.caps().packet_frames as usize > PACKET_PAGES, "{:?}", near.caps());
    (near, far)
}

/// A page of `len` bytes at a place that depends on `number`, odd ones too; returns where it starts.
fn place(number: usize, len: usize) -> usize {
    number % UNITS * CONTENT_UNIT + number * 37 % (CONTENT_UNIT - len + 1)
}

/// A packet of `head` and `pages` pages, and its bytes.
fn packet<'p>(
    pool: &'p Pool,
    content: &[u8],
    head: &[u8],
    number: usize,
    pages: &[usize],
) -> (Packet<'p>, Vec<u8>) {
    let mut frame = pool.alloc().expect("a frame");
    frame.extend(head).expect("room for a head");
    let mut packet = Packet::new(frame);
    let mut bytes = head.to_vec();
    for (i, len) in pages.iter().enumerate() {
        let start = place(number * PACKET_PAGES + i, *len);
        packet.push(pool.page(start, *len).expect("within a unit")).expect("at most 17");
        bytes.extend_from_slice(&content[start..start + len]);
    }
    assert_eq!((packet.bytes(), packet.buffers()), (bytes.len(), 1 + pages.len()));
    (packet, bytes)
}

/// Gathers all that waits; returns what arrives. With `complete`, noted checksums are completed first.
fn exchange<'p>(
    near: &mut XdpQueue<'p>,
    far: &mut XdpQueue<'p>,
    packets: &mut Packets<'p>,
    complete: bool,
) -> Vec<Vec<u8>> {
    let wanted = packets.len();
    let (mut arrived, mut whole) = (Vec::new(), Vec::new());
    let mut burst = Burst::new();
    let end = Instant::now() + PATIENCE;
    while (arrived.len() < wanted || near.pending() > 0) && Instant::now() < end {
        near.gather(packets);
        near.tend();
        far.tend();
        far.receive(&mut burst);
        while !burst.is_empty() {
            if whole.is_empty() && complete {
                finish(&mut burst);
            }
            let frame = burst.pop().expect("not empty");
            whole.extend_from_slice(&frame);
            if !frame.continues() {
                arrived.push(std::mem::take(&mut whole));
            }
        }
        assert!(near.fault().is_none() && far.fault().is_none(), "{:?} {:?}", near.fault(), far.fault());
    }
    assert_eq!((packets.len(), near.pending()), (0, 0), "{:?}", near.counters());
    arrived
}

fn all_home(pool: &Pool) {
    assert_eq!(pool.pages_on_loan(), 0);
    let census = pool.census();
    assert_eq!(census.free, census.total(), "{census:?}");
}

/// Short heads and 0, 1, 3 and 17 pages, of every length and at odd places, more than the ring has room for.
#[test]
fn heads_and_pages_arrive_bit_by_bit() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = cable(65535);
    for frame_size in [4096, 2048] {
        let (pool, content) = stocked(frame_size, frame_size.into());
        let umem = Umem::new(&pool);
        let (mut near, mut far) = ends(&lab, &umem);
        let most = near.caps().buffer_bytes as usize;
        let long = most.min((65535 + 14 - 22) / PACKET_PAGES);
        let mut sent: usize = 0;
        for round in 0..40 {
            let (mut packets, mut expected) = (Packets::new(), Vec::new());
            for pages in [
                vec![],
                vec![most],
                vec![1, long, 1 + round * 7],
                vec![long; PACKET_PAGES],
                vec![long - round; 16],
            ] {
                let head = [&ETHERNET[..], &sent.to_be_bytes()].concat();
                let (packet, bytes) = packet(&pool, &content, &head, sent, &pages);
                packets.push(packet).expect("a few");
                expected.push(bytes);
                sent += 1;
            }
            let arrived = exchange(&mut near, &mut far, &mut packets, false);
            let lengths = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(lengths(&arrived), lengths(&expected), "frames of {frame_size}, {:?}", far.counters());
            assert!(arrived == expected, "frames of {frame_size}, round {round}: other bytes");
            assert_eq!(pool.pages_on_loan(), 0);
        }
        let counters = near.counters();
        assert_eq!((counters.transmitted.packets, counters.unsendable), (sent as u64, 0), "{counters:?}");
        assert_eq!(counters.transmitted.bytes, far.counters().received.bytes);
        assert_eq!(counters.flattened_bytes, 0);
        drop((near, far));
        all_home(&pool);
    }
}

/// What no device could send is dropped and counted, its pages are free, and what waits behind it goes out.
#[test]
fn what_can_not_be_gathered_is_counted() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = cable(1500);
    let (pool, content) = stocked(2048, 1);
    let umem = Umem::new(&pool);
    let (mut near, mut far) = ends(&lab, &umem);
    let most = near.caps().buffer_bytes as usize;
    let mut packets = Packets::new();
    // Too long for the device, too long for a buffer, and empty.
    for pages in [vec![800, 800], vec![most + 1], vec![0]] {
        packets.push(packet(&pool, &content, &ETHERNET, 3, &pages).0).expect("a few");
    }
    assert_eq!(near.gather(&mut packets), 3);
    assert_eq!((near.counters().unsendable, pool.pages_on_loan()), (3, 0));
    let (good, bytes) = packet(&pool, &content, &ETHERNET, 4, &[700, 700]);
    packets.push(good).expect("room");
    assert_eq!(exchange(&mut near, &mut far, &mut packets, false), [bytes]);
    assert_eq!((near.counters().unsendable, near.counters().transmitted.packets), (3, 1));
    drop((near, far));
    all_home(&pool);
}

/// Content that a device may still read is not written; when it is back, it is, and the new bytes go out.
#[test]
fn content_on_loan_is_not_written() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = cable(1500);
    let (pool, mut content) = stocked(2048, 2);
    let umem = Umem::new(&pool);
    let (mut near, mut far) = ends(&lab, &umem);
    for round in 0..20 {
        let (one, bytes) = packet(&pool, &content, &ETHERNET, 5, &[600, 300]);
        let mut packets = Packets::new();
        packets.push(one).expect("room");
        assert_eq!(near.gather(&mut packets), 1);
        assert_eq!(pool.pages_on_loan(), 2);
        let start = place(5 * PACKET_PAGES, 600) / CONTENT_UNIT * CONTENT_UNIT;
        let mut fresh = vec![0; 2 * CONTENT_UNIT];
        Content::new(100 + round).fill(&mut fresh);
        for busy in [start, start + CONTENT_UNIT] {
            assert!(pool.write_content(busy, &[0]).is_err(), "on loan");
        }
        assert!(pool.write_content(start, &fresh).is_err(), "both on loan");
        pool.write_content(start + 2 * CONTENT_UNIT, &content[start + 2 * CONTENT_UNIT..][..9])
            .expect("the unit behind is free");
        let mut arrived = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut burst = Burst::new();
        while (arrived.is_empty() || near.pending() > 0) && Instant::now() < end {
            near.tend();
            far.tend();
            far.receive(&mut burst);
            burst.drain().for_each(|frame| arrived.extend_from_slice(&frame));
        }
        assert!(arrived == bytes, "round {round}: {} bytes of {}", arrived.len(), bytes.len());
        assert_eq!(pool.pages_on_loan(), 0);
        pool.write_content(start, &fresh).expect("all is back");
        content[start..start + fresh.len()].copy_from_slice(&fresh);
    }
    // Queues that go with pages on loan: those come back when the last of their arena's sockets is closed.
    let mut packets = Packets::new();
    packets.push(packet(&pool, &content, &ETHERNET, 6, &[100, 100, 100]).0).expect("room");
    near.gather(&mut packets);
    assert_eq!(pool.pages_on_loan(), 3);
    drop((near, far));
    drop::<Rc<Umem<'_>>>(umem);
    pool.write_content(0, &content).expect("all is back");
    all_home(&pool);
}

/// UDP over IPv4 whose checksum field holds the pseudo header's sum (`CHECKSUM_PARTIAL`, include/linux/skbuff.h).
fn undone_udp(payload: usize) -> (Vec<u8>, Offload) {
    let mut head = ETHERNET[..12].to_vec();
    let length = u16::try_from(8 + payload).expect("short").to_be_bytes();
    let total = u16::try_from(28 + payload).expect("short").to_be_bytes();
    head.extend([
        0x08, 0, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2,
    ]);
    let check = (!fold(sum(&head[14..34]))).to_ne_bytes();
    head[24..26].copy_from_slice(&check);
    let pseudo = pseudo(&head);
    head.extend([0x30, 0x39, 0x03, 0x09, length[0], length[1]]);
    head.extend(fold(pseudo + sum(&length)).to_ne_bytes());
    (head, Offload { checksum_start: 34, checksum_offset: 6, ..Offload::default() })
}

/// Addresses and protocol; the length is the caller's.
fn pseudo(packet: &[u8]) -> u64 {
    sum(&packet[26..34]) + sum(&[0, 17])
}

/// As a receiver verifies it (RFC 768): header, data and pseudo header sum up to all ones.
fn is_right(packet: &[u8]) -> bool {
    fold(pseudo(packet) + sum(&packet[38..40]) + sum(&packet[34..])) == 0xffff
}

/// A checksum left to the device, over a head and pages of odd lengths: by the kernel where the interface says that it
/// has none, else by whoever takes the packet from the far end, to whom it is noted as undone.
#[test]
fn a_checksum_over_pages_comes_out_right() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = cable(65535);
    for (frame_size, by_kernel) in [(4096, false), (2048, false), (4096, true), (2048, true)] {
        let features = format!("-K left0 tx {}", if by_kernel { "off" } else { "on" });
        TestLab::run(lab.host(Side::Left), "ethtool", &features).expect("features");
        let (pool, content) = stocked(frame_size, 7);
        let umem = Umem::new(&pool);
        let (mut near, mut far) = ends(&lab, &umem);
        let long = (near.caps().buffer_bytes as usize).min((65535 - 28) / PACKET_PAGES);
        for (number, pages) in
            [vec![], vec![1], vec![999, 1, 1001], vec![long; 17], vec![long - 2; 17], vec![333; 17]]
                .into_iter()
                .enumerate()
        {
            let (head, offload) = undone_udp(pages.iter().sum());
            let (mut one, mut bytes) = packet(&pool, &content, &head, number, &pages);
            one.head_mut().set_offload(Some(offload));
            let mut packets = Packets::new();
            packets.push(one).expect("room");
            let arrived = exchange(&mut near, &mut far, &mut packets, !by_kernel);
            let [arrived] = &arrived[..] else { panic!("{} packets; {:?}", arrived.len(), far.counters()) };
            assert!(
                arrived.len() == bytes.len() && is_right(arrived),
                "frames of {frame_size}, {pages:?}, by kernel {by_kernel}"
            );
            // Nothing else has changed.
            bytes[40..42].copy_from_slice(&arrived[40..42]);
            assert!(*arrived == bytes, "frames of {frame_size}, {pages:?}, by kernel {by_kernel}");
        }
        if near.caps().checksum {
            assert_eq!(near.counters().checksums_finished, 0, "left to the kernel");
        }
        drop((near, far));
        all_home(&pool);
    }
}

/// A file's own pages: sent by the kernel from where they lie, also after the file has been cut off, which would kill
/// whoever of us looked. A packet whose checksum is ours to compute cannot have such pages.
#[test]
fn a_files_own_pages_are_sent_unread() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = cable(9000);
    TestLab::run(lab.host(Side::Left), "ethtool", "-K left0 tx off").expect("features");
    let memory = memfd_create("a file", MemfdFlags::CLOEXEC).expect("a memfd");
    let file = std::fs::File::from(memory);
    let mut content = vec![0; 3 * CONTENT_UNIT - 100];
    Content::new(9).fill(&mut content);
    file.write_all_at(&content, 0).expect("writes");
    let plan = ArenaPlan { frames: 3072, frame_size: 2048, content_bytes: CONTENT_UNIT, huge_pages: false };
    let (arena, places) =
        Arena::with_files(&plan, &[FileMap { file: file.as_fd(), bytes: content.len(), page: CONTENT_UNIT }])
            .expect("an arena");
    let start = places[0].as_ref().expect("mapped").start;
    let pool = Pool::new(arena);
    let umem = Umem::new(&pool);
    let (mut near, mut far) = ends(&lab, &umem);
    if !near.caps().takes_file_pages() {
        return eprintln!("SKIPPED: this kernel computes no checksums for AF_XDP: {:?}", near.caps());
    }
    for cut in [false, true] {
        if cut {
            file.set_len(0).expect("cuts");
        }
        let spans = [0..700, 4096..5555, content.len() - 999..content.len()];
        let (head, offload) = undone_udp(spans.iter().map(ExactSizeIterator::len).sum());
        let mut frame = pool.alloc().expect("a frame");
        frame.extend(&head).expect("room");
        frame.set_offload(Some(offload));
        let (mut one, mut bytes) = (Packet::new(frame), head);
        for span in spans {
            one.push(pool.file_page(start + span.start, span.len()).expect("inside")).expect("few");
            bytes.extend_from_slice(&content[span]);
        }
        let mut packets = Packets::new();
        packets.push(one).expect("room");
        let arrived = exchange(&mut near, &mut far, &mut packets, false);
        let [arrived] = &arrived[..] else { panic!("{} packets; {:?}", arrived.len(), far.counters()) };
        assert!(is_right(arrived), "cut off: {cut}");
        bytes[40..42].copy_from_slice(&arrived[40..42]);
        if !cut {
            assert!(*arrived == bytes, "the file's bytes");
        }
    }
    assert_eq!(near.counters().checksums_finished, 0, "nobody of us has read them");

    let mut flat = Flatten::new(near, &pool);
    let mut frame = pool.alloc().expect("a frame");
    frame.extend(&ETHERNET).expect("room");
    let mut one = Packet::new(frame);
    one.push(pool.file_page(start, 100).expect("inside")).expect("few");
    let mut packets = Packets::new();
    packets.push(one).expect("room");
    assert_eq!((flat.gather(&mut packets), flat.counters().unsendable), (1, 1), "refused and counted");
    drop((flat, far));
    all_home(&pool);
}
