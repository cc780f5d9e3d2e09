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

use super::caps::caps;
use super::feature;
use super::header::HEADER;
use super::packed::Packed;
use super::receive::{Patience, Receiver};
use super::ring::{Buffer, Ring};
use super::shadow::Shadow;
use super::split::Split;
use super::table::Tables;
use super::transmit::in_order;
use super::transport::{Addresses, Change, Direction, Layout, Transport, VirtioPlan};
use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Gather, Passed, Passing, QueueCounters, QueuePair, Tally};
use core::sync::atomic::{Ordering, fence};
use ringbuf::{BURST, Burst, Pool, Segmentation};
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
    Ok(if plan.features & feature::PACKED != 0 {
        Box::new(VirtioQueue::<Packed, T>::new(pool, plan, layout, addresses, transport))
    } else {
        Box::new(VirtioQueue::<Split, T>::new(pool, plan, layout, addresses, transport))
    })
}

/// Bytes in front of a received packet. It begins a cache line, and its header ends the one before: that one is nobody's to
/// write as long as headers say nothing, so that both cores keep it.
fn headroom(pool: &Pool) -> u16 {
    ringbuf::HEADROOM.min(pool.frame_size() / 2)
}

#[derive(Debug)]
pub(super) struct VirtioQueue<'p, R: Ring, T: Transport> {
    pub(super) pool: &'p Pool,
    transport: T,
    pub(super) addresses: Addresses,
    pub(super) receiver: Receiver<'p, R>,
    pub(super) transmit: R,
    pub(super) sent: Shadow<'p>,
    /// For packets of many buffers, where the device takes tables.
    pub(super) tables: Option<Tables>,
    layout: Layout,
    pub(super) caps: Caps,
    /// What both sides have agreed on.
    features: u64,
    /// Bytes of the longest packet that fits the link at once.
    pub(super) limit: usize,
    up: bool,
    /// The device's link is up, as far as it says.
    link: bool,
    /// Both.
    pub(super) sends: bool,
    pub(super) fault: Option<Fault>,
    /// Something was posted for sending since the device was last told.
    pub(super) posted: bool,
    /// Turns since something was posted for sending; round and round from 1 to 128.
    quiet: u8,
    /// Whether the device sleeps was last looked at without a fence.
    unsure: bool,
    /// What was posted for receiving and for sending since the device was last rung for, or known to be awake.
    owed: (bool, bool),
    /// When the receive ring is looked at.
    patience: Patience,
    /// Interrupts are on, for a worker that slept.
    armed: Cell<bool>,
    pub(super) scratch: Box<[Buffer; BURST]>,
    pub(super) transmitted: Tally,
    pub(super) unsendable: u64,
    lost: u64,
    /// Packets that the device had when a fault ended this queue.
    stranded: u64,
    wakeups: u64,
    pub(super) checksums: u64,
    link_down: u64,
}

impl<'p, R: Ring, T: Transport> VirtioQueue<'p, R, T> {
    fn new(pool: &'p Pool, plan: &VirtioPlan, layout: &Layout, addresses: Addresses, transport: T) -> Self {
        let receive = R::new(&layout.memory, layout.receive, plan.ring);
        let transmit = R::new(&layout.memory, layout.transmit, plan.ring);
        receive.set_interrupts(false);
        transmit.set_interrupts(false);
        let (sent, tables) = if plan.features & feature::INDIRECT == 0 {
            (Shadow::new(pool, plan.ring), None)
        } else {
            (Shadow::with_lists(pool, plan.ring), Some(Tables::new(layout, plan.ring)))
        };
        Self {
            pool,
            transport,
            addresses,
            receiver: Receiver::new(pool, plan, receive, headroom(pool) - HEADER),
            transmit,
            sent,
            tables,
            layout: layout.clone(),
            caps: caps::<R>(plan),
            features: plan.features,
            limit: plan.mtu as usize + 18,
            up: false,
            link: true,
            sends: false,
            fault: None,
            posted: false,
            quiet: 0,
            unsure: false,
            owed: (false, false),
            patience: Patience::default(),
            armed: Cell::new(false),
            scratch: Box::new([Buffer::NONE; BURST]),
            transmitted: Tally::default(),
            unsendable: 0,
            lost: 0,
            stranded: 0,
            wakeups: 0,
            checksums: 0,
            link_down: 0,
        }
    }

    #[cold]
    fn latch(&mut self, fault: Fault) {
        // The first fault is the cause of the others.
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.stranded = self.sent.packets();
        }
    }

    /// Brings home what the device has sent.
    #[inline]
    pub(super) fn complete(&mut self) {
        if self.transmit.is_idle() {
            return;
        }
        let in_order = self.features & feature::IN_ORDER != 0;
        if let Err(fault) = if in_order { self.complete_in_order() } else { self.complete_plain() } {
            self.latch(fault);
        }
    }

    /// Of a device that answers in order, not each answer need be looked at.
    fn complete_in_order(&mut self) -> Result<(), Fault> {
        while let Some(batch) = self.transmit.batch(self.sent.lent())? {
            let (packets, descriptors) = self.sent.finish_batch(batch)?;
            self.transmit.advance(packets, descriptors);
        }
        Ok(())
    }

    fn complete_plain(&mut self) -> Result<(), Fault> {
        // Twice, where the run of ids goes over the end of the table.
        for _ in 0..2 {
            let (first, lent) = self.sent.behind();
            let key = self.transmit.key() + u32::from(first);
            let answers = self.transmit.answers(lent, lent)?;
            let came = answers.len();
            let count = in_order::<R>(answers, key);
            self.sent.shelf.home(first.into(), count.into());
            self.transmit.advance(count, count);
            self.sent.answered(count);
            if usize::from(count) < came || came == 0 {
                return if self.transmit.is_idle() { Ok(()) } else { self.complete_rest() };
            }
            if count < lent {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The careful half: packets of several buffers, and out of order.
    #[cold]
    fn complete_rest(&mut self) -> Result<(), Fault> {
        // A device that answers as fast as we look ends somewhere.
        for _ in 0..self.sent.lent() {
            let Some((id, _)) = self.transmit.next(self.sent.lent())? else { break };
            let count = self.sent.finish(id)?;
            // §2.8.6: the device skips as many as the list has.
            self.transmit.advance(1, count);
        }
        Ok(())
    }

    /// Whether a packet of so many buffers fits the transmit ring, once what is done has been taken off it.
    pub(super) fn has_room(&mut self, buffers: usize) -> bool {
        if buffers > usize::from(self.sent.vacant()) {
            self.complete();
        }
        buffers <= usize::from(self.sent.vacant())
    }

    /// Rings the bells that are asked for.
    #[inline]
    fn wake(&mut self) {
        let refilled = self.receiver.refill(&self.addresses);
        let posted = core::mem::take(&mut self.posted);
        if !refilled && !posted && !self.unsure {
            return;
        }
        // §2.7.13.4.1: what was posted must be visible before we look whether the device sleeps. That takes a fence, which
        // waits until the other core has let go of the ring's lines: so a busy queue looks without one, may read a word that
        // is older than its own, and looks again at every turn until the first in which it posts nothing.
        self.unsure = refilled || posted;
        if !self.unsure {
            fence(Ordering::SeqCst);
        }
        self.owed.0 |= refilled;
        self.owed.1 |= posted;
        if self.owed.0 && self.receiver.ring.wants_bell() {
            self.bell(Direction::Receive);
            self.owed.0 = false;
        }
        if self.owed.1 && self.transmit.wants_bell() {
            self.bell(Direction::Transmit);
            self.owed.1 = false;
        }
        if !self.unsure {
            self.owed = (false, false);
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
        match change {
            Change::Link { up } => {
                self.link_down += u64::from(self.link && !up);
                self.link = up;
            }
            Change::Up => self.up = true,
            Change::Gone => self.begin_anew(),
        }
        self.sends = self.up && self.link;
    }

    /// The device touches nothing any more: what it had comes home.
    fn begin_anew(&mut self) {
        self.up = false;
        self.layout.clear();
        self.receiver.restart();
        self.transmit.restart();
        self.lost += self.sent.clear();
        self.stranded = 0;
        self.receiver.ring.set_interrupts(false);
        self.transmit.set_interrupts(false);
        (self.posted, self.unsure, self.owed) = (false, false, (false, false));
        self.transport.settled();
    }

    /// No interrupts while we poll.
    #[cold]
    fn disarm(&mut self) {
        self.armed.set(false);
        self.patience = Patience::default();
        self.receiver.ring.set_interrupts(false);
        self.transport.calm();
    }
}

impl<'p, R: Ring, T: Transport> QueuePair<'p> for VirtioQueue<'p, R, T> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.caps.segmentation
            && match kind {
                Segmentation::None | Segmentation::Tcp4 | Segmentation::Tcp6 => true,
                Segmentation::Tcp4Ecn | Segmentation::Tcp6Ecn => self.features & feature::TSO_ECN != 0,
                Segmentation::Udp => self.features & feature::USO != 0,
            }
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        if self.patience.waits() {
            return 0;
        }
        let before = burst.len();
        if let Err(fault) = self.receiver.receive(burst) {
            self.latch(fault);
        }
        let got = burst.len() - before;
        self.patience.saw(got);
        got
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() || !self.sends {
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

    fn passes(&self) -> bool {
        self.receiver.passes()
    }

    #[inline]
    fn pass(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        if self.fault.is_some() || !self.up {
            return None;
        }
        if self.patience.waits() {
            return Some(0);
        }
        match self.receiver.pass(to, shortest) {
            Ok(passed) => {
                self.patience.saw(passed.unwrap_or(1));
                passed
            }
            Err(fault) => {
                self.latch(fault);
                None
            }
        }
    }

    #[inline]
    fn take_over(&mut self, passing: Passing<'_>) -> Option<Tally> {
        match passing.0 {
            Passed::Slots(lot) if self.fault.is_none() && self.sends => Some(self.take_slots(lot)),
            _ => None,
        }
    }

    #[inline]
    fn tend(&mut self) {
        match self.transport.change() {
            Ok(None) => {}
            Ok(Some(change)) => self.changed(change),
            Err(fault) => self.latch(fault),
        }
        if self.fault.is_some() || !self.up {
            return;
        }
        if self.armed.get() {
            self.disarm();
        }
        // Not while more goes out and there is room, and the longer nothing went out the seldomer: each look takes the ring's
        // lines away from the device that writes them.
        self.quiet = if self.posted { 0 } else { self.quiet % 128 + 1 };
        if self.quiet.is_power_of_two() || self.sent.lent() > self.sent.vacant() {
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
            transmit_dropped: self.lost + self.stranded,
            unsendable: self.unsendable,
            wakeups: self.wakeups,
            checksums_finished: self.checksums,
            link_down: self.link_down,
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
        if self.receiver.ring.is_idle() { Some(waker) } else { self.transport.awake() }
    }

    fn pending(&self) -> u32 {
        self.sent.lent().into()
    }
}

impl<R: Ring, T: Transport> Drop for VirtioQueue<'_, R, T> {
    fn drop(&mut self) {
        // The slots and pages come home with the shadows, which are dropped behind this.
        self.transport.close();
    }
}
