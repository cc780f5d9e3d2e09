//! A queue pair over two virtqueues.
//!
//! ```text
//!            receive ring
//!   pool ──── empty slots ────► device        slot:  … │ header │ packet …      received at once behind the header
//!        ◄─── filled slots ────
//!            transmit ring
//!   burst ─── frames, pages ──► device        the header goes into the headroom in front of the frame
//!   pool ◄─── sent ────────────
//! ```

use super::feature;
use super::header::{self, HEADER};
use super::memory::RingMemory;
use super::packed::Packed;
use super::receive::Receiver;
use super::ring::{Access, Buffer, Parts, Ring};
use super::split::Split;
use crate::checksum;
use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Copying, Gather, QueueCounters, QueuePair, Tally};
use crate::rings::{self, Front, front};
use core::sync::atomic::{Ordering, fence};
use ringbuf::{BURST, Burst, Frame, Loan, Packets, Pool};
use std::cell::Cell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Which ring of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Empty buffers for the device to fill.
    Receive,
    /// Packets to be sent.
    Transmit,
}

/// What became of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has the rings, and works.
    Up,
    /// It is gone, and touches nothing any more. The queue begins anew, and then says so ([`Transport::settled`]).
    Gone,
}

/// How the rings of one queue pair reach their device.
pub trait Transport: fmt::Debug {
    /// Tells the device that there is something new in a ring.
    ///
    /// # Errors
    /// A [`Fault`] ends the queue.
    fn ring(&self, direction: Direction) -> Result<(), Fault>;

    /// News of the other side since the last call.
    fn change(&mut self) -> Option<Change>;

    /// The queue has begun anew after [`Change::Gone`]: its memory is zero, and nothing is out on loan.
    fn settled(&mut self);

    /// What becomes readable with an interrupt.
    fn waker(&self) -> Option<BorrowedFd<'_>>;

    /// Makes the waker readable: something has come already.
    fn wake(&self);

    /// Makes it unreadable again.
    fn calm(&self);

    /// Stops the device: when it returns, the device touches neither rings nor buffers.
    fn close(&mut self);
}

/// Where a device finds the arena.
#[derive(Clone, Debug)]
pub enum Addresses {
    /// In one piece, from here on.
    Linear(u64),
    /// In pieces of 2 MiB, each at an address of its own: physical memory.
    Pieces(Box<[u64]>),
}

impl Addresses {
    /// The address of an offset of the arena.
    #[inline]
    pub(crate) fn of(&self, offset: u64) -> u64 {
        const SHIFT: u32 = 21;
        match self {
            Self::Linear(base) => base + offset,
            // An offset of the arena has its piece; no buffer crosses into another, since slots are powers of two.
            Self::Pieces(pieces) => usize::try_from(offset >> SHIFT)
                .ok()
                .and_then(|piece| pieces.get(piece))
                .map_or(0, |piece| piece + (offset & ((1 << SHIFT) - 1))),
        }
    }
}

/// What a queue pair is to be.
#[derive(Clone, Debug)]
pub struct VirtioPlan {
    /// The driver's name on the command line.
    pub driver: &'static str,
    /// The device, as the user named it.
    pub device: String,
    /// Which of its queue pairs.
    pub queue: u32,
    /// Descriptors of each ring: a power of two, at most 32768.
    pub ring: u16,
    /// The [features](feature) that both sides have agreed on.
    pub features: u64,
    /// Bytes of the longest packet behind its Ethernet header.
    pub mtu: u32,
    /// Who moves the bytes.
    pub copying: Copying,
}

/// The memory of both rings of a pair, and where they lie in it.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The memory, which the device must reach.
    pub memory: Arc<RingMemory>,
    /// The receive ring.
    pub receive: Parts,
    /// The transmit ring.
    pub transmit: Parts,
}

impl Layout {
    /// Memory for the rings of so many queue pairs, and where each has its own.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn several(pairs: u32, ring: u16, packed: bool) -> std::io::Result<Vec<Self>> {
        let parts = if packed { Packed::parts } else { Split::parts };
        let bytes = parts(0, ring).bytes.next_multiple_of(4096);
        let memory = RingMemory::new(2 * bytes * pairs as usize)?;
        let pair = |number: u32| {
            let start = 2 * bytes * number as usize;
            let (receive, transmit) = (parts(start, ring), parts(start + bytes, ring));
            Self { memory: Arc::clone(&memory), receive, transmit }
        };
        Ok((0..pairs).map(pair).collect())
    }

    /// Makes both rings zero again.
    fn clear(&self) {
        self.memory.clear(self.receive.descriptors..self.transmit.descriptors + self.transmit.bytes);
    }
}

/// Makes a queue pair of rings in zeroed memory.
///
/// # Errors
/// [`OpenError`] when the plan cannot be.
pub fn open<'p, T: Transport + 'p>(
    pool: &'p Pool,
    plan: &VirtioPlan,
    layout: &Layout,
    addresses: Addresses,
    transport: T,
) -> Result<Box<dyn Gather<'p> + 'p>, OpenError> {
    let refused = |why: String| OpenError::refused(&plan.device, "setting up the rings", why);
    if !plan.ring.is_power_of_two() || plan.ring < 4 || plan.ring > 1 << 15 {
        return Err(refused(format!("ring={} is not a power of two from 4 to 32768", plan.ring)));
    }
    let buffer = u32::from(pool.frame_size() - headroom(pool));
    if plan.features & feature::MERGEABLE == 0 && plan.mtu + 18 > buffer {
        return Err(refused(format!(
            "packets of {} bytes fit no buffer of {buffer}, and the device does not put them into several",
            plan.mtu + 18
        )));
    }
    let loans = pool.open_loan().zip(pool.open_loan());
    let (receive, transmit) = loans
        .ok_or_else(|| refused("the pool has no loans left: fewer queues for each worker".to_owned()))?;
    let loans = Loans { pool, receive, transmit };
    Ok(if plan.features & feature::PACKED != 0 {
        Box::new(VirtioQueue::<Packed, T>::new(loans, plan, layout, addresses, transport))
    } else {
        Box::new(VirtioQueue::<Split, T>::new(loans, plan, layout, addresses, transport))
    })
}

/// Bytes in front of a received packet, its header among them.
fn headroom(pool: &Pool) -> u16 {
    ringbuf::HEADROOM.min(pool.frame_size() / 2)
}

/// The slots that the device has. Recalled when this goes, so it must outlive the device.
#[derive(Debug)]
struct Loans<'p> {
    pool: &'p Pool,
    receive: Loan,
    transmit: Loan,
}

impl Drop for Loans<'_> {
    fn drop(&mut self) {
        self.pool.recall(self.receive);
        self.pool.recall(self.transmit);
    }
}

#[derive(Debug)]
struct VirtioQueue<'p, R: Ring, T: Transport> {
    pool: &'p Pool,
    transport: T,
    addresses: Addresses,
    receiver: Receiver<'p, R>,
    transmit: R,
    layout: Layout,
    caps: Caps,
    /// Bytes of the longest packet that fits the link at once.
    limit: usize,
    up: bool,
    fault: Option<Fault>,
    /// Something was posted for sending since the device was last told.
    posted: bool,
    /// Interrupts are on, for a worker that slept.
    armed: Cell<bool>,
    scratch: Box<[Buffer; BURST]>,
    transmitted: Tally,
    unsendable: u64,
    lost: u64,
    wakeups: u64,
    checksums: u64,
    loans: Loans<'p>,
}

impl<'p, R: Ring, T: Transport> VirtioQueue<'p, R, T> {
    fn new(loans: Loans<'p>, plan: &VirtioPlan, layout: &Layout, addresses: Addresses, transport: T) -> Self {
        let pool = loans.pool;
        let mergeable = plan.features & feature::MERGEABLE != 0;
        let receive = R::new(&layout.memory, layout.receive, plan.ring);
        let transmit = R::new(&layout.memory, layout.transmit, plan.ring);
        receive.set_interrupts(false);
        transmit.set_interrupts(false);
        Self {
            pool,
            transport,
            addresses,
            receiver: Receiver::new(pool, loans.receive, receive, headroom(pool), mergeable),
            transmit,
            layout: layout.clone(),
            caps: caps::<R>(plan),
            limit: plan.mtu as usize + 18,
            up: false,
            fault: None,
            posted: false,
            armed: Cell::new(false),
            scratch: Box::new([Buffer::default(); BURST]),
            transmitted: Tally::default(),
            unsendable: 0,
            lost: 0,
            wakeups: 0,
            checksums: 0,
            loans,
        }
    }

    #[cold]
    fn latch(&mut self, fault: Fault) {
        // The first fault is the cause of the others.
        self.fault.get_or_insert(fault);
    }

    /// Brings home what the device has sent.
    #[inline]
    fn complete(&mut self) {
        if self.transmit.is_idle() {
            return;
        }
        let (pool, loan) = (self.pool, self.loans.transmit);
        let reaped = self.transmit.reap(|offset| {
            if pool.is_content(offset) {
                return pool.reclaim_page(offset).map_err(Fault::from);
            }
            let (slot, _) = pool.locate(offset)?;
            pool.reclaim(slot, loan).map_err(Fault::from)
        });
        if let Err(fault) = reaped {
            self.latch(fault);
        }
    }

    /// Rings the bells that are asked for.
    #[inline]
    fn wake(&mut self) {
        let refilled = self.receiver.refill(&self.addresses);
        if !refilled && !self.posted {
            return;
        }
        // §2.7.13.3.1: what was posted must be visible before we look whether the device sleeps.
        fence(Ordering::SeqCst);
        if refilled && self.receiver.ring.wants_bell() {
            self.bell(Direction::Receive);
        }
        if core::mem::take(&mut self.posted) && self.transmit.wants_bell() {
            self.bell(Direction::Transmit);
        }
    }

    #[cold]
    fn bell(&mut self, direction: Direction) {
        self.wakeups += 1;
        if let Err(fault) = self.transport.ring(direction) {
            self.latch(fault);
        }
    }

    /// The other side has come or gone.
    #[cold]
    fn changed(&mut self, change: Change) {
        self.up = change == Change::Up;
        if self.up {
            return;
        }
        let pool = self.pool;
        self.receiver.restart();
        self.lost += self.transmit.restart(|offset| {
            if pool.is_content(offset) {
                // The shadow has each of them once.
                let _ = pool.reclaim_page(offset);
            }
        });
        pool.recall(self.loans.receive);
        pool.recall(self.loans.transmit);
        self.layout.clear();
        self.receiver.ring.set_interrupts(false);
        self.transmit.set_interrupts(false);
        self.posted = false;
        self.transport.settled();
    }

    /// No interrupts while we poll.
    #[cold]
    fn disarm(&mut self) {
        self.armed.set(false);
        self.receiver.ring.set_interrupts(false);
        self.transport.calm();
    }

    /// Sends packets of one frame with nothing undone until something else comes.
    #[inline]
    fn transmit_plain(&mut self, burst: &mut Burst<'p>) {
        let room = usize::from(self.transmit.vacant()).min(BURST);
        for frame in burst.as_mut_slice().iter_mut().take(room) {
            // Nothing undone, and no number of buffers (§5.1.6.2).
            if let Ok(header) = frame.headroom_mut(HEADER) {
                header.fill(0);
            }
        }
        let (addresses, places) = (&self.addresses, &mut self.scratch[..room]);
        let (bytes, sent) = depart_any(self.pool, self.loans.transmit, burst, places, addresses, self.limit);
        self.transmit.post(&self.scratch[..sent], Access::Reads);
        self.transmitted.packets += sent as u64;
        self.transmitted.bytes += bytes;
        self.posted |= sent > 0;
    }

    /// The careful half: what is out of room or out of the ordinary.
    #[cold]
    fn transmit_rest(&mut self, burst: &mut Burst<'p>) {
        while !burst.is_empty() {
            let frames = match front(burst, &self.caps, HEADER) {
                Front::Empty => break,
                Front::Packet(frames) if frames > u32::from(self.transmit.vacant()) => break,
                Front::Packet(frames) if rings::all_of(self.pool, burst, frames) => frames as usize,
                Front::Packet(_) | Front::Unsendable => {
                    burst.drop_packet();
                    self.unsendable += 1;
                    continue;
                }
            };
            if !self.caps.checksum {
                self.checksums += u64::from(checksum::finish(burst));
            }
            let bytes = (0..frames).filter_map(|i| burst.peek(i)).map(|frame| usize::from(frame.len())).sum();
            if !burst.peek_mut(0).is_some_and(|first| self.head(first, bytes)) {
                burst.drop_packet();
                self.unsendable += 1;
                continue;
            }
            let mut count = 0;
            for _ in 0..frames {
                let Some(frame) = burst.pop() else { break };
                self.transmitted.add(frame.len(), frame.continues());
                self.depart(frame, &mut count);
            }
            self.transmit.post_chain(&self.scratch[..count]);
            self.posted = true;
        }
    }

    /// Writes the header in front of a packet's first frame; `false` when it cannot say what is to be done.
    fn head(&self, first: &mut Frame<'p>, bytes: usize) -> bool {
        let offload = first.offload();
        let header = first.headroom_mut(HEADER).ok();
        header.is_some_and(|place| header::write(place, offload, bytes, self.limit).is_ok())
    }

    /// Lends the next frame of a packet to the device; the first takes its header along.
    fn depart(&mut self, frame: Frame<'p>, count: &mut usize) {
        let (offset, len) = (frame.offset(), u32::from(frame.len()));
        // Of this pool, as was seen before.
        if self.pool.depart(frame, self.loans.transmit).is_ok() {
            let header = if *count == 0 { HEADER } else { 0 };
            let address = self.addresses.of(offset - u64::from(header));
            self.scratch[*count] = Buffer { offset, address, len: len + u32::from(header) };
            *count += 1;
        }
    }
}

fn caps<R: Ring>(plan: &VirtioPlan) -> Caps {
    let all = |bits: u64| plan.features & bits == bits;
    // A packet of UDP, or with ECN, may be among those to be cut: all or nothing.
    let segmentation =
        all(feature::CHECKSUM | feature::TSO4 | feature::TSO6 | feature::TSO_ECN | feature::USO);
    let mut mode = format!("{} of {}", R::NAME, plan.ring);
    if all(feature::MERGEABLE) {
        mode += ", mergeable buffers";
    }
    if all(feature::CHECKSUM) {
        mode += ", checksums";
    }
    if segmentation {
        mode += ", segmentation";
    }
    Caps {
        driver: plan.driver,
        device: plan.device.clone(),
        queue: plan.queue,
        copying: plan.copying,
        mode,
        packet_bytes: if segmentation { 65_535 + 18 } else { plan.mtu + 18 },
        buffer_bytes: 65_535,
        packet_frames: u32::from(plan.ring).min(u32::try_from(BURST).unwrap_or(1)),
        checksum: all(feature::CHECKSUM),
        segmentation,
    }
}

/// [`depart_plain`] for this pool's size of slots; the bytes, and how many.
#[inline]
fn depart_any<'p>(
    pool: &'p Pool,
    loan: Loan,
    burst: &mut Burst<'p>,
    places: &mut [Buffer],
    addresses: &Addresses,
    limit: usize,
) -> (u64, usize) {
    match pool.frame_size() {
        2048 => depart_plain::<11>(pool, loan, burst, places, addresses, limit),
        4096 => depart_plain::<12>(pool, loan, burst, places, addresses, limit),
        _ => depart_plain::<0>(pool, loan, burst, places, addresses, limit),
    }
}

/// The hot half of transmitting: a leaf function over slices and numbers.
#[inline(never)]
fn depart_plain<'p, const SHIFT: u32>(
    pool: &'p Pool,
    loan: Loan,
    burst: &mut Burst<'p>,
    places: &mut [Buffer],
    addresses: &Addresses,
    limit: usize,
) -> (u64, usize) {
    let gate = pool.gate::<SHIFT>(loan);
    let mut bytes = 0;
    // A length of zero wraps to the largest number: one comparison finds both ends.
    let fit = |frame: &Frame<'_>| usize::from(frame.len()).wrapping_sub(1) < limit && frame.head() >= HEADER;
    let sent = burst.depart_into(&gate, places, fit, |offset, len| {
        bytes += u64::from(len);
        let address = addresses.of(offset - u64::from(HEADER));
        Buffer { offset, address, len: u32::from(len) + u32::from(HEADER) }
    });
    (bytes, sent as usize)
}

impl<'p, R: Ring, T: Transport> QueuePair<'p> for VirtioQueue<'p, R, T> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        let before = burst.len();
        if let Err(fault) = self.receiver.receive(burst) {
            self.latch(fault);
        }
        burst.len() - before
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        let waiting = burst.len();
        self.transmit_plain(burst);
        if !burst.is_empty() {
            self.transmit_rest(burst);
        }
        self.transmit.publish();
        waiting - burst.len()
    }

    #[inline]
    fn tend(&mut self) {
        if let Some(change) = self.transport.change() {
            self.changed(change);
        }
        if self.fault.is_some() || !self.up {
            return;
        }
        if self.armed.get() {
            self.disarm();
        }
        self.complete();
        self.wake();
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn counters(&self) -> QueueCounters {
        QueueCounters {
            received: self.receiver.tally,
            transmitted: self.transmitted,
            receive_malformed: self.receiver.malformed,
            transmit_dropped: self.lost,
            unsendable: self.unsendable,
            wakeups: self.wakeups,
            checksums_finished: self.checksums,
            ..QueueCounters::default()
        }
    }

    /// Turns interrupts on until the next [`tend`](QueuePair::tend).
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        let waker = self.transport.waker()?;
        self.armed.set(true);
        self.receiver.ring.set_interrupts(true);
        // What came before the device saw the wish would never be told of.
        fence(Ordering::SeqCst);
        if !self.receiver.ring.is_idle() {
            self.transport.wake();
        }
        Some(waker)
    }

    fn pending(&self) -> u32 {
        u32::try_from(self.transmit.lent()).unwrap_or(u32::MAX)
    }
}

impl<'p, R: Ring, T: Transport> Gather<'p> for VirtioQueue<'p, R, T> {
    /// Pages go straight from the arena, as further descriptors of the packet (§2.7.5.3.1 calls it a list).
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        let waiting = packets.len();
        while let Some(front) = packets.front() {
            let (buffers, bytes) = (front.buffers(), front.bytes());
            if !rings::sendable(&front, self.pool, HEADER, &self.caps) {
                self.unsendable += 1;
                drop(packets.pop());
                continue;
            }
            if buffers > usize::from(self.transmit.vacant()) {
                break;
            }
            let Some((head, pages)) = packets.front_mut() else { break };
            if self.caps.checksum {
                drop(pages);
            } else {
                self.checksums += u64::from(checksum::finish_packet(head, pages));
            }
            let says = self.head(head, bytes);
            let Some((head, pages)) = packets.pop_parts() else { break };
            if !says {
                self.unsendable += 1;
                continue;
            }
            self.transmitted.packets += 1;
            self.transmitted.bytes += bytes as u64;
            let mut count = 0;
            self.depart(head, &mut count);
            for page in pages {
                let len = u32::try_from(page.len()).unwrap_or(0);
                let Ok(offset) = self.pool.depart_page(page) else { continue };
                self.scratch[count] = Buffer { offset, address: self.addresses.of(offset), len };
                count += 1;
            }
            self.transmit.post_chain(&self.scratch[..count]);
            self.posted = true;
        }
        self.transmit.publish();
        waiting - packets.len()
    }
}

impl<R: Ring, T: Transport> Drop for VirtioQueue<'_, R, T> {
    fn drop(&mut self) {
        self.transport.close();
        let pool = self.pool;
        self.transmit.restart(|offset| {
            if pool.is_content(offset) {
                let _ = pool.reclaim_page(offset);
            }
        });
    }
}
