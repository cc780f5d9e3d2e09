//! Cutting large packets, against a model that knows no frames; and what becomes of segments that find no room.
#![forbid(unsafe_code)]

use drivers::loopback::{LoopbackPlan, pair};
use drivers::wrap::Segment;
use drivers::{QueuePair, checksum};
use proptest::prelude::*;
use ringbuf::{Arena, ArenaPlan, Burst, Offload, Pool, Segmentation};

fn pool(frames: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size: 2048, huge_pages: false, ..ArenaPlan::default() };
    Pool::new(Arena::new(&plan).expect("memory"))
}

/// A large packet as a kernel hands it over, and how it is to be cut.
#[derive(Clone, Debug)]
struct Large {
    tags: usize,
    v6: bool,
    udp: bool,
    ip_options: usize,
    tcp_options: usize,
    id: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
    segment: u16,
}

impl Large {
    const fn ip(&self) -> usize {
        14 + 4 * self.tags
    }

    const fn transport(&self) -> usize {
        self.ip() + if self.v6 { 40 } else { 20 + 4 * self.ip_options }
    }

    const fn transport_header(&self) -> usize {
        if self.udp { 8 } else { 20 + 4 * self.tcp_options }
    }

    const fn headers(&self) -> usize {
        self.transport() + self.transport_header()
    }

    fn offload(&self) -> Offload {
        Offload {
            checksum_start: u16::try_from(self.transport()).expect("short"),
            checksum_offset: if self.udp { 6 } else { 16 },
            segment_bytes: self.segment,
            header_bytes: u16::try_from(self.headers()).expect("short"),
            segmentation: match (self.udp, self.v6) {
                (true, _) => Segmentation::Udp,
                (false, false) => Segmentation::Tcp4,
                (false, true) => Segmentation::Tcp6Ecn,
            },
        }
    }

    /// A packet with these bytes of payload, its checksums right.
    fn packet(&self, id: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in 0..self.tags {
            bytes.extend([if tag == 0 { 0x88 } else { 0x81 }, if tag == 0 { 0xa8 } else { 0 }, 0, 7]);
        }
        let protocol = if self.udp { 17 } else { 6 };
        let length = u16::try_from(self.transport_header() + payload.len()).expect("short");
        let mut pseudo = Vec::new();
        if self.v6 {
            bytes.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend([0x11; 16]);
            bytes.extend([0x22; 16]);
            pseudo.extend([[0x11; 16], [0x22; 16]].concat());
        } else {
            bytes.extend([0x08, 0x00]);
            let header = u16::try_from(20 + 4 * self.ip_options).expect("short");
            let mut ip = vec![0x40 | u8::try_from(header / 4).expect("short"), 0];
            ip.extend((header + length).to_be_bytes());
            ip.extend(id.to_be_bytes());
            ip.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            ip.resize(header.into(), 1);
            let sum = internet_checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(ip);
            pseudo.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        pseudo.extend([0, protocol]);
        pseudo.extend(length.to_be_bytes());
        let mut rest = vec![0x30, 0x39, 0, 80];
        let place = if self.udp {
            rest.extend(length.to_be_bytes());
            rest.extend([0, 0]);
            6
        } else {
            rest.extend(sequence.to_be_bytes());
            rest.extend([0, 0, 0, 9]);
            rest.extend([
                u8::try_from(self.transport_header() / 4).expect("short") << 4,
                flags,
                1,
                0,
                0,
                0,
                0,
                0,
            ]);
            rest.resize(self.transport_header(), 1);
            16
        };
        rest.extend(payload);
        pseudo.extend(&rest);
        let sum = match internet_checksum(&pseudo) {
            0 => 0xffff,
            sum => sum,
        };
        rest[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    /// What must come out.
    fn segments(&self) -> Vec<Vec<u8>> {
        let pieces: Vec<&[u8]> = match self.payload.is_empty() {
            true => vec![&[]],
            false => self.payload.chunks(self.segment.into()).collect(),
        };
        let (mut sequence, last) = (self.sequence, pieces.len() - 1);
        let mut segments = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            // CWR on the first alone, FIN and PSH on the last.
            let mask = match (index == 0, index == last) {
                (true, true) => 0xff,
                (true, false) => 0xff - 9,
                (false, true) => 0x7f,
                (false, false) => 0x7f - 9,
            };
            let id = self.id.wrapping_add(u16::try_from(index).expect("few"));
            segments.push(self.packet(id, sequence, self.flags & mask, piece));
            sequence = sequence.wrapping_add(u32::try_from(piece.len()).expect("short"));
        }
        segments
    }

    /// The large packet itself in frames of at most `most` bytes, behind what is in the burst.
    fn put<'p>(&self, pool: &'p Pool, burst: &mut Burst<'p>, most: usize) {
        let whole = self.packet(self.id, self.sequence, self.flags, &self.payload);
        let (first, rest) = whole.split_at(whole.len().min(self.headers().max(most)));
        let pieces: Vec<&[u8]> = std::iter::once(first).chain(rest.chunks(most)).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let mut frame = pool.alloc().expect("a frame");
            frame.extend(piece).expect("room");
            frame.set_continues(index + 1 < pieces.len());
            if index == 0 {
                frame.set_offload(Some(self.offload()));
            }
            burst.push(frame).expect("room");
        }
    }
}

/// RFC 1071 §1, word by word.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// Takes whole packets, their checksums completed as a queue would.
fn take<'p>(end: &mut impl QueuePair<'p>) -> Vec<Vec<u8>> {
    let (mut burst, mut packets) = (Burst::new(), Vec::new());
    while end.receive(&mut burst) > 0 {
        while burst.packet_frames() > 0 {
            checksum::finish(&mut burst);
            let frames = burst.packet_frames();
            packets.push(burst.drain().take(frames).flat_map(|frame| frame.to_vec()).collect());
        }
        end.tend();
    }
    packets
}

prop_compose! {
    fn large()(
        tags in 0usize..3, v6: bool, udp: bool, ip_options in 0usize..4, tcp_options in 0usize..10, id: u16,
        sequence in prop_oneof![any::<u32>(), Just(u32::MAX - 700)], flags: u8, segment in 1u16..4000, of in 1usize..90,
        rest in 0usize..4000, seed: u8,
    ) -> Large {
        let bytes = (usize::from(segment) * of + rest % usize::from(segment)).min(40_000);
        let payload = (0..bytes).map(|i| u8::try_from(i % 251).expect("byte") ^ seed).collect();
        Large { tags, v6, udp, ip_options, tcp_options, id, sequence, flags, payload, segment }
    }
}

fn plain<'p>(pool: &'p Pool, burst: &mut Burst<'p>, byte: u8) {
    let mut frame = pool.alloc().expect("a frame");
    frame.extend(&[byte; 60]).expect("room");
    burst.push(frame).expect("room");
}

proptest! {
    /// Whatever its headers, sizes and frames: the segments are those of the model, in order among their neighbours.
    #[test]
    fn segments_are_as_the_model_says(large in large(), most in 700usize..1792) {
        let pool = pool(1024);
        let (near, mut far) = pair(&pool, &LoopbackPlan::default()).expect("loans");
        let mut queue = Segment::new(near, &pool);
        let mut burst = Burst::new();
        plain(&pool, &mut burst, 1);
        large.put(&pool, &mut burst, most);
        plain(&pool, &mut burst, 2);
        let frames = burst.len();
        prop_assert_eq!(queue.transmit(&mut burst), frames);
        let mut expected = large.segments();
        let (count, bytes) = (expected.len() as u64, expected.iter().map(|s| s.len() as u64).sum::<u64>());
        expected.insert(0, vec![1; 60]);
        expected.push(vec![2; 60]);
        let arrived = take(&mut far);
        prop_assert_eq!(arrived.len(), expected.len());
        for (got, want) in arrived.iter().zip(&expected) {
            prop_assert_eq!(got, want);
        }
        let counters = queue.counters();
        prop_assert_eq!((counters.packets_cut, counters.segments_cut, counters.segment_bytes), (1, count, bytes));
        prop_assert_eq!((counters.unsendable, counters.transmitted.packets), (0, count + 2));
        drop((burst, queue, far));
        prop_assert_eq!(pool.census().free, 1024);
    }

    /// Garbage with a note, cut short anywhere: never a panic, never a frame lost, and counted as one or the other.
    #[test]
    fn garbage_is_survived(
        large in large(), short in 0usize..2000, place in 0usize..120, byte: u8, segment in 0u16..2000, start in 0u16..200,
        offset in 0u16..20, kind in 0usize..6,
    ) {
        use Segmentation::{None, Tcp4, Tcp4Ecn, Tcp6, Tcp6Ecn, Udp};
        let pool = pool(1024);
        let (near, far) = pair(&pool, &LoopbackPlan { ring: 1024, start: 0 }).expect("loans");
        let mut queue = Segment::new(near, &pool);
        let mut whole = large.packet(large.id, large.sequence, large.flags, &large.payload);
        whole.truncate(short.min(1700));
        if let Some(at) = whole.get_mut(place) {
            *at = byte;
        }
        let mut frame = pool.alloc().expect("a frame");
        frame.extend(&whole).expect("room");
        let segmentation = [None, Tcp4, Tcp4Ecn, Tcp6, Tcp6Ecn, Udp][kind];
        frame.set_offload(Some(Offload {
            checksum_start: start, checksum_offset: offset, segment_bytes: segment, header_bytes: 54, segmentation,
        }));
        let mut burst = Burst::new();
        burst.push(frame).expect("room");
        queue.transmit(&mut burst);
        let counters = queue.counters();
        if segment > 0 {
            prop_assert_eq!(counters.unsendable + counters.packets_cut, 1);
        }
        drop((burst, queue, far));
        prop_assert_eq!(pool.census().free, 1024);
    }
}

fn example(bytes: usize) -> Large {
    let payload = vec![7; bytes];
    Large {
        tags: 0,
        v6: false,
        udp: false,
        ip_options: 0,
        tcp_options: 3,
        id: 1,
        sequence: 1,
        flags: 0x18,
        payload,
        segment: 1448,
    }
}

/// A ring that fills up within a packet loses the rest of it by name; one that is full leaves the packet where it is.
#[test]
fn a_full_ring_is_named() {
    let pool = pool(256);
    let (near, mut far) = pair(&pool, &LoopbackPlan { ring: 16, start: 0 }).expect("loans");
    let mut queue = Segment::new(near, &pool);
    let mut burst = Burst::new();
    example(45 * 1448).put(&pool, &mut burst, 1792);
    let frames = burst.len();
    assert_eq!(queue.transmit(&mut burst), frames);
    let counters = queue.counters();
    assert_eq!(
        (counters.segments_cut, counters.transmitted.packets, counters.segments_no_room),
        (45, 16, 29)
    );

    plain(&pool, &mut burst, 1);
    example(3000).put(&pool, &mut burst, 1792);
    let frames = burst.len();
    assert_eq!((queue.transmit(&mut burst), burst.len()), (0, frames));
    assert_eq!(burst.peek(0).map(|frame| frame[0]), Some(1), "in the same order");
    assert_eq!(take(&mut far), example(45 * 1448).segments()[..16]);
    queue.tend();
    assert_eq!(queue.transmit(&mut burst), frames);
    assert_eq!(take(&mut far)[1..], example(3000).segments());
    assert_eq!(queue.counters().segments_no_room, 29);
}

/// A pool that runs dry does too.
#[test]
fn a_pool_without_frames_is_named() {
    // 37 frames for the packet, and 11 for its segments.
    let pool = pool(48);
    let (near, mut far) = pair(&pool, &LoopbackPlan::default()).expect("loans");
    let mut queue = Segment::new(near, &pool);
    let mut burst = Burst::new();
    example(45 * 1448).put(&pool, &mut burst, 1792);
    let (frames, free) = (burst.len(), u64::from(pool.free()));
    assert_eq!(queue.transmit(&mut burst), frames);
    let counters = queue.counters();
    assert_eq!(counters.transmitted.packets, free);
    assert_eq!((counters.segments_cut, counters.segments_no_frame), (45, 45 - free));
    assert_eq!(take(&mut far), example(45 * 1448).segments()[..usize::try_from(free).expect("few")]);
    drop((queue, far));
    assert_eq!(pool.census().free, 48);
}
