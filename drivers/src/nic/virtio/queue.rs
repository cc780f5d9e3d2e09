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
use super::packed::Packed;
use super::receive::Receiver;
use super::ring::{Access, Buffer, Ring};
use super::split::Split;
use super::transport::{Addresses, Change, Direction, Layout, Transport, VirtioPlan};
use crate::checksum;
use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Gather, QueueCounters, QueuePair, Tally};
use crate::rings::{self, Front, front};
use core::sync::atomic::{Ordering, fence};
use ringbuf::{BURST, Burst, Frame, Loan, Packets, Pool};
use std::cell::Cell;
use std::os::fd::BorrowedFd;

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
    /// Where in the arena pages begin.
    content_start: u64,
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
            content_start: pool.arena().content_start() as u64,
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
        let (pool, loan, content) = (self.pool, self.loans.transmit, self.content_start);
        let reaped = self.transmit.reap(|offset| {
            if offset >= content {
                return pool.reclaim_page(offset).map_err(Fault::from);
            }
            let (slot, _) = pool.locate(offset)?;
            pool.reclaim(slot, loan).map_err(Fault::from)
        });
        if let Err(fault) = reaped {
            self.latch(fault);
        }
    }

    /// Whether a packet of so many buffers fits the transmit ring, once what is done has been taken off it.
    fn has_room(&mut self, buffers: usize) -> bool {
        if buffers > usize::from(self.transmit.vacant()) {
            self.complete();
        }
        buffers <= usize::from(self.transmit.vacant())
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
                Front::Packet(frames) if !self.has_room(frames as usize) => break,
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
        // Not while more goes out and there is room: each look takes the ring's lines away from the device that writes
        // them.
        if !self.posted || self.transmit.lent() > usize::from(self.transmit.vacant()) {
            self.complete();
        }
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
            if !self.has_room(buffers) {
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
