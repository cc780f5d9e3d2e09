//! Raw frames from one host of a laboratory to another, each with a number and content made from it.
//!
//! The peers are AF_XDP queues of our own in this process, one at each host, over one arena. No kernel stack touches
//! what they send, so each byte that arrives is a byte that was forwarded.

use crate::traffic::Content;
use crate::{Outcome, TestLab};
use dataplane::lab::Side;
use drivers::QueuePair;
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use ringbuf::{Arena, ArenaPlan, Burst, Frame, HEADROOM, Pool};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// IEEE 802 local experimental EtherType 1 (IEEE Std 802, 9.2): nobody else's frames have it.
const TYPE: [u8; 2] = [0x88, 0xb5];

/// Bytes before the content: addresses, type, number.
const HEADER: usize = 22;

/// Bytes of each frame of a packet in several: what a fresh frame of 4096 bytes has room for.
const PIECE: usize = 4096 - HEADROOM as usize;

/// Without a frame for so long, those that are missing are lost.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Frames.
    pub count: u64,
    /// Bytes of each, the Ethernet header included; at least 22.
    pub bytes: usize,
    /// Frames under way at once: what fits the smallest ring on the way is never lost.
    pub window: u64,
    /// A VLAN tag in front of the type (IEEE 802.1Q), as part of the frame.
    pub vlan: Option<u16>,
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Landed {
    /// Frames that arrived as they should, each number once and in order.
    pub whole: u64,
    /// Frames of ours with another length or content.
    pub damaged: u64,
    /// Frames of ours that came late or twice.
    pub unordered: u64,
    /// Frames that are not ours.
    pub foreign: u64,
}

/// How the frames should look when they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// At the other host, bit by bit as they were sent.
    Same,
    /// At the host that sent them, source and destination exchanged.
    Swapped,
}

/// One number's frame.
fn write(frame: &mut Vec<u8>, number: u64, stream: &Stream, swapped: bool) {
    frame.clear();
    let (to, from) = ([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0x01], [0x02, 0x11, 0x22, 0x33, 0x44, 0x02]);
    let (first, second) = if swapped { (from, to) } else { (to, from) };
    frame.extend(first);
    frame.extend(second);
    if let Some(tag) = stream.vlan {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(TYPE);
    frame.extend(number.to_be_bytes());
    let header = frame.len();
    frame.resize(stream.bytes, 0);
    Content::new(number).fill(&mut frame[header..]);
}

/// Sends a stream from one host and looks at each frame that arrives where it should.
///
/// # Errors
/// When a queue cannot be had. What was lost or damaged is in the answer.
pub fn exchange(lab: &TestLab, from: Side, stream: Stream, expect: Expect) -> Outcome<Landed> {
    Ok(run(lab, from, &[stream], expect, 0)?[0])
}

/// The same with one stream after another, as far as all that was sent arrived: the queues are opened once. An answer for
/// each that was begun. A single frame goes first, again if it is lost: a driver of the kernel's for a NIC begins anew when our
/// program is attached to it, and what comes in that moment is gone.
///
/// # Errors
/// As [`exchange`].
pub fn exchange_all(lab: &TestLab, from: Side, streams: &[Stream], expect: Expect) -> Outcome<Vec<Landed>> {
    run(lab, from, streams, expect, 3)
}

fn run(
    lab: &TestLab,
    from: Side,
    streams: &[Stream],
    expect: Expect,
    greetings: u32,
) -> Outcome<Vec<Landed>> {
    if let Some(short) = streams.iter().find(|stream| stream.bytes < HEADER + 4) {
        return Err(format!("{} bytes have no room for a number", short.bytes).into());
    }
    let pool = Pool::new(Arena::new(&ArenaPlan {
        frames: 4 * 512 + 512,
        frame_size: 4096,
        ..ArenaPlan::default()
    })?);
    let umem = Umem::new(&pool);
    let open = |side: Side| -> Outcome<XdpQueue<'_>> {
        let _inside = lab.host(side).enter()?;
        let port = XdpPort::open(XdpPlan { ring: 512, ..XdpPlan::new(side.interface()) })?;
        Ok(XdpQueue::open(&umem, &port, 0)?)
    };
    let mut near = open(from)?;
    let mut far = if expect == Expect::Same { Some(open(from.other())?) } else { None };
    let greeting = Stream { count: 1, bytes: 60, window: 1, vlan: None };
    for _ in 0..greetings {
        if exchange_over(&pool, &mut near, far.as_mut(), greeting)?.whole == 1 {
            break;
        }
        println!("a greeting from {} is lost", from.name());
    }
    let mut all = Vec::with_capacity(streams.len());
    for stream in streams {
        let landed = exchange_over(&pool, &mut near, far.as_mut(), *stream)?;
        all.push(landed);
        if landed.whole < stream.count {
            break;
        }
    }
    drop((near, far));
    drop::<Rc<Umem<'_>>>(umem);
    let census = pool.census();
    if census.free != census.total() {
        return Err(format!("frames of the peers are lost: {census:?}").into());
    }
    Ok(all)
}

/// The same between queues that are open: from `near` to `far`, or back to `near` with the addresses exchanged when there
/// is no other. Frames are `pool`'s, of 4096 bytes.
///
/// # Errors
/// When a queue dies.
pub fn exchange_over<'p, Q: QueuePair<'p>>(
    pool: &'p Pool,
    near: &mut Q,
    mut far: Option<&mut Q>,
    stream: Stream,
) -> Outcome<Landed> {
    let expect = if far.is_some() { Expect::Same } else { Expect::Swapped };
    let mut wire = Wire::new(pool, stream, expect);
    while wire.landed.whole < stream.count && wire.last.elapsed() < PATIENCE {
        wire.send(near);
        near.tend();
        match far.as_deref_mut() {
            Some(far) => {
                far.tend();
                wire.receive(far);
            }
            None => wire.receive(near),
        }
        let fault = near.fault().or_else(|| far.as_ref().and_then(|far| far.fault()));
        if let Some(fault) = fault {
            return Err(format!("a peer's own queue: {fault}").into());
        }
    }
    Ok(wire.landed)
}

struct Wire<'p> {
    pool: &'p Pool,
    stream: Stream,
    expect: Expect,
    next: u64,
    landed: Landed,
    last: Instant,
    frame: Vec<u8>,
    arrived: Vec<u8>,
    burst: Burst<'p>,
}

impl<'p> Wire<'p> {
    fn new(pool: &'p Pool, stream: Stream, expect: Expect) -> Self {
        let (frame, arrived) = (Vec::with_capacity(stream.bytes), Vec::with_capacity(stream.bytes));
        let (burst, last) = (Burst::new(), Instant::now());
        Self { pool, stream, expect, next: 0, landed: Landed::default(), last, frame, arrived, burst }
    }

    /// One packet, if the window is open.
    fn send(&mut self, queue: &mut impl QueuePair<'p>) {
        let here = self.landed.whole + self.landed.damaged;
        if self.next == self.stream.count || self.next - here.min(self.next) >= self.stream.window {
            return;
        }
        write(&mut self.frame, self.next, &self.stream, false);
        let mut packet = Burst::new();
        let parts = self.frame.chunks(PIECE);
        let last = parts.len() - 1;
        for (i, part) in parts.enumerate() {
            let Some(mut frame) = self.pool.alloc() else { return };
            frame.extend(part).expect("a fresh frame of 4096 bytes has room for a piece");
            frame.set_continues(i < last);
            packet.push(frame).expect("a burst has room for a packet");
        }
        if queue.transmit(&mut packet) > 0 {
            self.next += 1;
        }
    }

    fn receive(&mut self, queue: &mut impl QueuePair<'p>) {
        if queue.receive(&mut self.burst) == 0 {
            std::thread::yield_now();
            return;
        }
        self.last = Instant::now();
        self.arrived.clear();
        while let Some(frame) = self.burst.pop() {
            self.arrived.extend_from_slice(&frame);
            if !frame.continues() {
                self.judge();
                self.arrived.clear();
            }
            drop::<Frame<'_>>(frame);
        }
    }

    fn judge(&mut self) {
        let tag = if self.stream.vlan.is_some() { 4 } else { 0 };
        let ours = self.arrived.get(12 + tag..14 + tag) == Some(&TYPE[..]);
        let number = self.arrived.get(14 + tag..).and_then(|rest| rest.first_chunk()).copied();
        let Some(number) = number.map(u64::from_be_bytes).filter(|_| ours) else {
            self.landed.foreign += 1;
            return;
        };
        write(&mut self.frame, number, &self.stream, self.expect == Expect::Swapped);
        if self.arrived != self.frame {
            self.landed.damaged += 1;
        } else if number != self.landed.whole {
            self.landed.unordered += 1;
        } else {
            self.landed.whole += 1;
        }
    }
}
