//! Two queue pairs back to back in memory: what one sends, the other receives. Every test starts here.
//!
//! The frame itself changes hands, through the same rings and the same ledger as with a real device. [`Mischief`]
//! makes the wire lose, reorder or lie, from a seed.

use crate::error::Fault;
use crate::queue::{Caps, Copying, Gather, QueueCounters, QueuePair};
use crate::random::Random;
use crate::rings::{Descriptor, Front, Inbound, Outbound, front};
use ringbuf::{Burst, Frame, Loan, PACKET_PAGES, Packets, Pool, ring_pair};
use std::rc::Rc;

/// How the pair is built.
#[derive(Clone, Copy, Debug)]
pub struct LoopbackPlan {
    /// Descriptors of each ring: a power of two.
    pub ring: u32,
    /// Where the ring positions begin: just below 2³² to see them wrap.
    pub start: u32,
}

impl Default for LoopbackPlan {
    fn default() -> Self {
        Self { ring: 512, start: 0 }
    }
}

/// What this end's transmissions suffer; rates are in 1/65536 of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mischief {
    /// Where the random numbers begin.
    pub seed: u64,
    /// Packets lost on the wire.
    pub lose: u16,
    /// Packets overtaken by the one behind.
    pub reorder: u16,
    /// One lie, told in front of the packet so many places from now ([`Lie::TooLong`]: about that packet).
    pub lie: Option<(Lie, u32)>,
}

/// A lie that a device can tell about one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// An offset outside the arena.
    Outside,
    /// A slot that nobody lent to it.
    NotLent,
    /// The descriptor before, a second time, as soon as there is one.
    Twice,
    /// More bytes than a slot holds.
    TooLong,
}

/// The frame has an [`ringbuf::Offload`]; the place of AF_XDP's `XDP_TX_METADATA`.
const OFFLOAD: u32 = 2;

/// One direction of the wire, shared by its two ends; the last one gone recalls what was under way.
#[derive(Debug)]
struct Wire<'p> {
    pool: &'p Pool,
    loan: Loan,
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        self.pool.recall(self.loan);
    }
}

/// One end.
#[derive(Debug)]
pub struct Loopback<'p> {
    inbound: Inbound<'p>,
    outbound: Outbound<'p>,
    out_wire: Rc<Wire<'p>>,
    _in_wire: Rc<Wire<'p>>,
    caps: Caps,
    fault: Option<Fault>,
    lost: u64,
    mischief: Option<(Mischief, Random)>,
    /// The descriptor sent last, for [`Lie::Twice`].
    last: Option<Descriptor>,
}

/// Builds a pair over one pool; `None` when the pool has no loans left.
///
/// # Panics
/// If the ring size is not a power of two.
#[must_use]
pub fn pair<'p>(pool: &'p Pool, plan: &LoopbackPlan) -> Option<(Loopback<'p>, Loopback<'p>)> {
    let (left_out, right_in) = ring_pair(plan.start, plan.ring);
    let (right_out, left_in) = ring_pair(plan.start, plan.ring);
    let to_right = Rc::new(Wire { pool, loan: pool.open_loan()? });
    let to_left = Rc::new(Wire { pool, loan: pool.open_loan()? });
    let end = |device: &str, ring_out, ring_in, out_wire: &Rc<Wire<'p>>, in_wire: &Rc<Wire<'p>>| Loopback {
        inbound: Inbound::new(pool, in_wire.loan, ring_in).with_pages(),
        outbound: Outbound::new(pool, out_wire.loan, ring_out, 0),
        out_wire: Rc::clone(out_wire),
        _in_wire: Rc::clone(in_wire),
        caps: caps(device, pool, plan.ring),
        fault: None,
        lost: 0,
        mischief: None,
        last: None,
    };
    Some((
        end("left", left_out, left_in, &to_right, &to_left),
        end("right", right_out, right_in, &to_left, &to_right),
    ))
}

fn caps(device: &str, pool: &Pool, ring: u32) -> Caps {
    // Short rings carry short packets: one longer than its ring could never leave.
    let frames = ring.min(u32::try_from(1 + PACKET_PAGES).unwrap_or(1));
    Caps {
        driver: "loopback",
        device: device.to_owned(),
        queue: 0,
        copying: Copying::InMemory,
        mode: "frames change hands".to_owned(),
        packet_bytes: frames * u32::from(pool.frame_size()),
        buffer_bytes: u32::from(pool.frame_size()).max(4096),
        packet_frames: frames,
        checksum: true,
        segmentation: true,
    }
}

/// An in-memory wire carries what is undone in a packet along, as a veth does.
#[inline]
fn options_of(frame: &Frame<'_>) -> u32 {
    if frame.offload().is_some() { OFFLOAD } else { 0 }
}

impl<'p> Loopback<'p> {
    /// Makes this end's transmissions go wrong from now on.
    pub fn misbehave(&mut self, mischief: Mischief) {
        self.mischief = Some((mischief, Random::new(mischief.seed)));
    }

    /// Descriptors sent and not yet received by the other end.
    pub fn under_way(&mut self) -> u32 {
        self.outbound.unread()
    }

    /// Losses, swaps and lies, packet by packet.
    #[cold]
    fn transmit_badly(&mut self, burst: &mut Burst<'p>) -> usize {
        let Some((mut mischief, mut random)) = self.mischief else { return 0 };
        let waiting = burst.len();
        loop {
            let frames = match front(burst, &self.caps, 0) {
                Front::Empty => break,
                // Taken, dropped and counted where that is always done.
                Front::Unsendable => {
                    self.send_front(burst);
                    continue;
                }
                Front::Packet(frames) => frames,
            };
            match mischief.lie {
                Some((lie, 0)) if self.can_tell(lie, frames) => {
                    if !self.tell(lie, burst) {
                        break;
                    }
                    mischief.lie = None;
                    continue;
                }
                later => mischief.lie = later.map(|(lie, places)| (lie, places.saturating_sub(1))),
            }
            let mut next = Burst::new();
            if frames == 1 && random.below(mischief.reorder) && self.swaps(burst) {
                burst.pop().map(|overtaken| next.push(overtaken));
            }
            let gone = if random.below(mischief.lose) {
                self.lose(burst);
                true
            } else {
                self.send_front(burst) > 0
            };
            // What was overtaken goes back in front.
            next.append(burst);
            core::mem::swap(&mut next, burst);
            if !gone {
                break;
            }
        }
        self.mischief = Some((mischief, random));
        waiting - burst.len()
    }

    /// Whether the two packets at the front are single frames, which can change places.
    fn swaps(&self, burst: &Burst<'p>) -> bool {
        (0..2).all(|i| burst.peek(i).is_some_and(|frame| !frame.continues() && !frame.is_empty()))
    }

    /// Sends the packet at the front alone; returns its frames, or 0 when the ring is full.
    fn send_front(&mut self, burst: &mut Burst<'p>) -> usize {
        let mut alone = Burst::new();
        while let Some(frame) = burst.pop() {
            let continues = frame.continues();
            drop(alone.push(frame));
            if !continues {
                break;
            }
        }
        let sent = self.send(&mut alone);
        alone.append(burst);
        core::mem::swap(&mut alone, burst);
        sent
    }

    fn send(&mut self, burst: &mut Burst<'p>) -> usize {
        let first = burst.peek(0).map(|frame| (frame.offset(), u32::from(frame.len())));
        let unsendable = self.outbound.unsendable;
        let sent = self.outbound.transmit(burst, &self.caps, |burst| burst.peek(0).map_or(0, options_of));
        if let Some((offset, len)) = first
            && sent > 0
            && self.outbound.unsendable == unsendable
        {
            self.last = Some(Descriptor::new(offset, len, 0));
        }
        sent
    }

    /// A lost packet was sent; only the wire knows better.
    fn lose(&mut self, burst: &mut Burst<'p>) {
        let frames = burst.packet_frames();
        for frame in (0..frames).filter_map(|i| burst.peek(i)) {
            self.outbound.tally.add(frame.len(), frame.continues());
        }
        self.lost += 1;
        burst.drop_packet();
    }

    /// A lie about the length is told of a packet in one frame, and twice is said only what was said once.
    fn can_tell(&self, lie: Lie, frames: u32) -> bool {
        match lie {
            Lie::Outside | Lie::NotLent => true,
            Lie::Twice => self.last.is_some(),
            Lie::TooLong => frames == 1,
        }
    }

    /// Puts a false descriptor on the ring; `false` when there is no room for it.
    fn tell(&mut self, lie: Lie, burst: &mut Burst<'p>) -> bool {
        let Wire { pool, loan } = *self.out_wire;
        if self.outbound.room() == 0 {
            return false;
        }
        let descriptor = match lie {
            Lie::Outside => Descriptor::new(pool.arena().bytes() as u64, 64, 0),
            // The frame is home again before the other end hears of it.
            Lie::NotLent => Descriptor::new(pool.alloc().map_or(0, |frame| frame.offset()), 64, 0),
            Lie::Twice => self.last.unwrap_or_default(),
            Lie::TooLong => {
                let Some(frame) = burst.pop() else { return true };
                let (offset, len) = (frame.offset(), frame.len());
                if pool.depart(frame, loan).is_err() {
                    self.outbound.unsendable += 1;
                    return true;
                }
                self.outbound.tally.add(len, false);
                Descriptor::new(offset, u32::from(pool.frame_size()) + 1, 0)
            }
        };
        self.outbound.push_raw(descriptor)
    }
}

impl<'p> QueuePair<'p> for Loopback<'p> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        let note = |frame: &mut Frame<'p>, options: u32| {
            if options & OFFLOAD != 0 {
                frame.keep_offload();
            }
        };
        match self.inbound.receive(burst, note) {
            Ok(received) => received,
            Err((received, fault)) => {
                self.fault = Some(fault);
                received
            }
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        if self.mischief.is_some() {
            return self.transmit_badly(burst);
        }
        self.outbound.transmit(burst, &self.caps, |burst| burst.peek(0).map_or(0, options_of))
    }

    #[inline]
    fn tend(&mut self) {}

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn counters(&self) -> QueueCounters {
        QueueCounters {
            received: self.inbound.tally,
            transmitted: self.outbound.tally,
            receive_malformed: self.inbound.malformed,
            transmit_dropped: self.lost,
            unsendable: self.outbound.unsendable,
            ..QueueCounters::default()
        }
    }
}

impl<'p> Gather<'p> for Loopback<'p> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        self.outbound.gather(packets, &self.caps, |packets| {
            packets.front().map_or(0, |packet| options_of(packet.head()))
        })
    }
}
