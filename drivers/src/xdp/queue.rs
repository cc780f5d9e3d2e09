//! One queue pair over AF_XDP.
//!
//! ```text
//!             fill ring                              receive ring
//!   pool ───── empty slots ────► kernel, NIC ───── filled slots ────► burst
//!
//!           completion ring                          transmit ring
//!   pool ◄──── sent slots ────── kernel, NIC ◄──── frames to send ─── burst
//! ```

use super::port::XdpPort;
use super::socket::{METADATA_BYTES, Rings, Socket};
use super::umem::Umem;
use crate::checksum;
use crate::error::Fault;
use crate::queue::{Caps, Gather, QueueCounters, QueuePair};
use crate::rings::{Inbound, Outbound};
use ringbuf::{Burst, Frame, Loan, Offload, Packets, Pool, SharedConsumer, SharedProducer, Stray};
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Empty slots offered at a time: twice a burst, so that a queue that fell behind catches up.
const REFILL: u32 = 128;

/// `ENOBUFS` and `ENOMEM` say that the kernel has no memory for a packet now. So many times in a row is for good.
const OUT_OF_MEMORY_LIMIT: u32 = 100_000;

/// One queue pair of an interface, opened by [`XdpQueue::open`].
#[derive(Debug)]
pub struct XdpQueue<'p> {
    pool: &'p Pool,
    inbound: Inbound<'p>,
    outbound: Outbound<'p>,
    fill: SharedProducer<u64>,
    completion: SharedConsumer<u64>,
    caps: Caps,
    manner: Manner,
    completed: u64,
    fault: OnceCell<Fault>,
    wakeups: u64,
    link_down: u64,
    dropped: u64,
    checksums: u64,
    out_of_memory: u32,
    /// Vacant entries of the fill ring that are worth a refill.
    refill_at: u32,
    // Fields go in this order: the rings above are unmapped, the socket is closed, then what the kernel still had is
    // recalled, and the arena is last.
    socket: Rc<Socket>,
    loans: Loans<'p>,
    _umem: Rc<Umem<'p>>,
    port: Arc<XdpPort>,
}

/// How this queue must be treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Our system calls poll the NIC's queue.
    pub(super) busy_poll: bool,
    /// Checksums can be left to the kernel or the device, by metadata.
    pub(super) metadata: bool,
    /// The peer may leave checksums undone.
    pub(super) partial_checksums: bool,
}

/// The slots that the kernel has. Recalled when this goes, so it must outlive the socket.
#[derive(Debug)]
pub(super) struct Loans<'p> {
    pub(super) pool: &'p Pool,
    pub(super) receive: Loan,
    pub(super) transmit: Loan,
    /// Whether the device itself reads and writes the slots.
    pub(super) zero_copy: bool,
}

/// How long a device may go on with what it has after its socket was closed: the kernel stops it from a work queue
/// (`xp_release_deferred`, `net/xdp/xsk_buff_pool.c`), soon but not at once.
const SETTLE: Duration = Duration::from_millis(100);

impl Drop for Loans<'_> {
    fn drop(&mut self) {
        if self.zero_copy {
            std::thread::sleep(SETTLE);
        }
        self.pool.recall(self.receive);
        self.pool.recall(self.transmit);
    }
}

/// What opening a queue has come to.
#[derive(Debug)]
pub(super) struct Bound<'p> {
    pub(super) socket: Rc<Socket>,
    pub(super) rings: Rings,
    pub(super) loans: Loans<'p>,
    pub(super) headroom: u16,
}

impl<'p> XdpQueue<'p> {
    pub(super) fn new(
        umem: &Rc<Umem<'p>>,
        port: &Arc<XdpPort>,
        bound: Bound<'p>,
        caps: Caps,
        manner: Manner,
    ) -> Self {
        let Bound { socket, rings, loans, headroom } = bound;
        let pool = umem.pool();
        let refill_at = REFILL.min(rings.fill.capacity()) / 2;
        Self {
            pool,
            inbound: Inbound::new(pool, loans.receive, rings.receive),
            outbound: Outbound::new(pool, loans.transmit, rings.transmit, headroom),
            fill: rings.fill,
            completion: rings.completion,
            caps,
            manner,
            completed: 0,
            fault: OnceCell::new(),
            wakeups: 0,
            link_down: 0,
            dropped: 0,
            checksums: 0,
            out_of_memory: 0,
            refill_at,
            socket,
            loans,
            _umem: Rc::clone(umem),
            port: Arc::clone(port),
        }
    }

    /// The port it belongs to.
    #[must_use]
    pub const fn port(&self) -> &Arc<XdpPort> {
        &self.port
    }

    /// Buffers that the kernel has sent and given back.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        self.completed
    }

    fn latch(&self, fault: impl Into<Fault>) {
        // The first fault is the cause of the others.
        let _ = self.fault.set(fault.into());
    }

    fn under_way(&self) -> u64 {
        self.outbound.buffers - self.completed
    }

    /// Brings home what the kernel has sent.
    #[inline]
    fn complete(&mut self) {
        let under_way = u32::try_from(self.under_way()).unwrap_or(u32::MAX);
        if under_way == 0 {
            return;
        }
        let mut batch = self.completion.peek(under_way);
        let mut stray = None;
        for offset in batch.by_ref() {
            if let Err(found) = reclaim(self.pool, &self.loans, offset) {
                stray = Some(found);
                break;
            }
            self.completed += 1;
        }
        batch.commit();
        if let Some(stray) = stray {
            self.latch(stray);
        }
        if let Some(lie) = self.completion.lie() {
            self.latch(lie);
        }
        if let Some(lie) = self.outbound.lie() {
            self.latch(lie);
        }
    }

    /// Offers empty slots.
    #[inline]
    fn refill(&mut self) {
        let mut grant = self.fill.reserve(REFILL);
        // Not slot by slot, but long before the ring is empty: the kernel drops what finds no slot.
        if grant.room() < self.refill_at {
            return;
        }
        while grant.room() > 0 {
            let Some(slot) = self.pool.lend(self.loans.receive) else { break };
            // There is room.
            let _ = grant.push(self.pool.offset(slot));
        }
        grant.commit();
        if let Some(lie) = self.fill.lie() {
            self.latch(lie);
        }
    }

    /// Rings the bells that are asked for: at most one system call each way.
    #[inline]
    fn wake(&mut self) {
        if self.manner.busy_poll || self.fill.needs_wakeup() {
            self.wakeups += 1;
            if let Err(errno) = self.socket.kick_receive() {
                self.heed(errno, "recvfrom");
            }
        }
        if self.under_way() > 0 && self.outbound.needs_wakeup() && self.outbound.unread() > 0 {
            self.wakeups += 1;
            match self.socket.kick_transmit() {
                Ok(()) => self.out_of_memory = 0,
                Err(errno) => self.heed(errno, "sendto"),
            }
        }
    }

    /// What an error of a wake-up means (`net/xdp/xsk.c`).
    #[cold]
    fn heed(&mut self, errno: i32, call: &'static str) {
        match errno {
            // The budget is spent, the socket's buffer or the completion ring is full: flow control.
            libc::EAGAIN | libc::EINTR => {}
            // The device dropped the packet, and completed it.
            libc::EBUSY => self.dropped += 1,
            // The link is down. It may come back, and the socket with it.
            libc::ENETDOWN => self.link_down += 1,
            libc::ENOBUFS | libc::ENOMEM if self.out_of_memory < OUT_OF_MEMORY_LIMIT => {
                self.out_of_memory += 1
            }
            // No longer bound: the interface is gone.
            libc::ENXIO | libc::ENODEV => self.latch(Fault::Gone),
            errno => self.latch(Fault::System { call, errno }),
        }
    }
}

#[inline]
fn reclaim(pool: &Pool, loans: &Loans<'_>, offset: u64) -> Result<(), Stray> {
    if pool.is_content(offset) {
        return pool.reclaim_page(offset);
    }
    let (slot, _) = pool.locate(offset)?;
    pool.reclaim(slot, loans.transmit)
}

/// Sees to what is undone in the packet at the front; returns the options of its descriptor.
#[inline]
fn prepare(burst: &mut Burst<'_>, metadata: bool, checksums: &mut u64) -> u32 {
    let Some(front) = burst.peek_mut(0) else { return 0 };
    let Some(offload) = front.offload() else { return 0 };
    if metadata && leave_to_device(front, offload) {
        return libc::XDP_TX_METADATA;
    }
    *checksums += u64::from(checksum::finish(burst));
    0
}

/// Writes `struct xsk_tx_metadata` in front of the packet (`include/uapi/linux/if_xdp.h`).
fn leave_to_device(front: &mut Frame<'_>, offload: Offload) -> bool {
    // The kernel refuses a field outside the first buffer, and would refuse it for ever.
    let field = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset);
    if offload.checksum_offset == 0 || field + 2 > front.len().into() {
        return false;
    }
    let Ok(metadata) = front.headroom_mut(METADATA_BYTES) else { return false };
    metadata.fill(0);
    metadata[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    metadata[8..10].copy_from_slice(&offload.checksum_start.to_ne_bytes());
    metadata[10..12].copy_from_slice(&offload.checksum_offset.to_ne_bytes());
    true
}

impl<'p> QueuePair<'p> for XdpQueue<'p> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.get().is_some() {
            return 0;
        }
        let looks = self.manner.partial_checksums;
        let received = self.inbound.receive(burst, |frame, _| {
            if looks && let Some(offload) = checksum::undone(frame) {
                frame.set_offload(Some(offload));
            }
        });
        received.unwrap_or_else(|(received, fault)| {
            self.latch(fault);
            received
        })
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.get().is_some() {
            return 0;
        }
        let Self { outbound, caps, manner, checksums, .. } = self;
        outbound.transmit(burst, caps, |burst| prepare(burst, manner.metadata, checksums))
    }

    #[inline]
    fn tend(&mut self) {
        if self.fault.get().is_some() {
            return;
        }
        self.complete();
        self.refill();
        self.wake();
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// Two system calls; and the place where a deleted interface is noticed by a queue that only receives.
    fn counters(&self) -> QueueCounters {
        let lost = self.socket.statistics();
        match self.socket.pending_error() {
            None => {}
            Some(libc::ENETDOWN) => self.latch(Fault::Gone),
            Some(errno) => self.latch(Fault::System { call: "AF_XDP socket", errno }),
        }
        QueueCounters {
            received: self.inbound.tally,
            transmitted: self.outbound.tally,
            receive_missed: lost.map_or(0, |lost| lost.rx_dropped + lost.rx_ring_full),
            receive_malformed: self.inbound.malformed + lost.map_or(0, |lost| lost.rx_invalid_descs),
            transmit_dropped: self.dropped + lost.map_or(0, |lost| lost.tx_invalid_descs),
            unsendable: self.outbound.unsendable,
            wakeups: self.wakeups,
            link_down: self.link_down,
            checksums_finished: self.checksums,
            ..QueueCounters::default()
        }
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(AsFd::as_fd(&*self.socket))
    }

    fn pending(&self) -> u32 {
        u32::try_from(self.under_way()).unwrap_or(u32::MAX)
    }
}

impl<'p> Gather<'p> for XdpQueue<'p> {
    /// Pages go straight from the arena, as further descriptors of the packet. Needs unaligned chunks, which an arena
    /// with content always has.
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if self.fault.get().is_some() {
            return 0;
        }
        let Self { outbound, caps, manner, checksums, .. } = self;
        outbound.gather(packets, caps, |packets| {
            let Some((head, pages)) = packets.front_mut() else { return 0 };
            let Some(offload) = head.offload() else { return 0 };
            if manner.metadata && leave_to_device(head, offload) {
                return libc::XDP_TX_METADATA;
            }
            *checksums += u64::from(checksum::finish_packet(head, pages));
            0
        })
    }
}

impl Drop for XdpQueue<'_> {
    fn drop(&mut self) {
        // No frame may be on its way to a socket that closes: under load, some kernels do not survive it.
        self.port.close_queue(self.caps.queue);
    }
}
