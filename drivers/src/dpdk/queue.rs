//! The running queue.

use super::ffi::{QueueHandle, Statistics};
use super::herd::Herd;
use super::mbuf;
use super::port::{DpdkPort, Look};
use crate::checksum;
use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Copying, Gather, Passed, Passing, QueueCounters, QueuePair, Tally};
use crate::rings::{Descriptor, room};
use crate::xdp::Umem;
use ringbuf::{BURST, Burst, Frame, Packets, Pool};
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

/// Turns without a frame between two looks at the device.
const GLANCE: u32 = 4096;

/// One queue pair of a DPDK device.
#[derive(Debug)]
pub struct DpdkQueue<'p> {
    pub(super) pool: &'p Pool,
    pub(super) raw: QueueHandle,
    pub(super) caps: Caps,
    pub(super) number: u16,
    pub(super) received: Tally,
    pub(super) transmitted: Tally,
    pub(super) unsendable: u64,
    pub(super) checksums: u64,
    pub(super) copied_bytes: u64,
    pub(super) fault: OnceCell<Fault>,
    pub(super) scratch: Box<[Descriptor; BURST]>,
    /// Bytes of the longest packet that is not to be cut.
    pub(super) longest: u32,
    /// The peer may leave checksums undone, without a word.
    pub(super) looks: bool,
    idle: u32,
    link_down: Cell<u64>,
    down: Cell<bool>,
    /// The link was up once.
    up: Cell<bool>,
    pub(super) malformed: u64,
    pub(super) herd: Rc<Herd>,
    _umem: Rc<Umem<'p>>,
    pub(super) port: Arc<DpdkPort>,
}

/// What a queue has received, for another to send.
#[derive(Debug)]
pub(crate) struct Arrived<'a> {
    raw: &'a mut QueueHandle,
    herd: &'a Rc<Herd>,
    shortest: u16,
}

impl<'p> DpdkQueue<'p> {
    /// Opens one queue pair of a port, on the thread that will own it. The device starts with its last.
    ///
    /// # Errors
    /// [`OpenError`] naming the device, the step, what DPDK says, and the cure.
    pub fn open(umem: &Rc<Umem<'p>>, port: &Arc<DpdkPort>, queue: u32) -> Result<Self, OpenError> {
        let device = port.plan().device.as_str();
        let number =
            u16::try_from(queue).ok().filter(|queue| *queue < port.plan().queues).ok_or_else(|| {
                OpenError::refused(device, format!("opening queue {queue}"), "there is no such queue")
            })?;
        let pool = umem.pool();
        let herd = Herd::of(umem, device)?;
        herd.reserve(pool, port.rings().0, port.packet_frames());
        let raw = port.set_up(number, &herd.handle, |device| QueueHandle::new(&herd.handle, device, number));
        let raw = match raw {
            Ok(raw) => raw,
            Err(error) => {
                // What it took with it is home again once it is closed.
                port.close();
                if Rc::strong_count(&herd) == 1 {
                    herd.settle(pool);
                }
                return Err(error);
            }
        };
        Ok(Self {
            pool,
            raw,
            caps: port.caps(number, pool.frame_size()),
            number,
            received: Tally::default(),
            transmitted: Tally::default(),
            unsendable: 0,
            checksums: 0,
            copied_bytes: 0,
            fault: OnceCell::new(),
            scratch: Box::new([Descriptor::default(); BURST]),
            longest: port.longest_uncut(),
            looks: port.plan().partial_checksums(),
            idle: 0,
            link_down: Cell::new(0),
            down: Cell::new(false),
            up: Cell::new(false),
            malformed: 0,
            herd,
            _umem: Rc::clone(umem),
            port: Arc::clone(port),
        })
    }

    pub(super) fn latch(&self, fault: impl Into<Fault>) {
        // The first fault is the cause of the others.
        let _ = self.fault.set(fault.into());
    }

    /// Whether it still has its device and its senses.
    #[inline]
    pub(super) fn is_well(&self) -> bool {
        self.fault.get().is_none()
    }

    #[inline]
    fn receive_inside(&mut self, burst: &mut Burst<'p>) -> usize {
        let looks = self.looks;
        let Self { pool, raw, herd, received, .. } = self;
        let room = room(burst);
        if room == 0 {
            return 0;
        }
        let polled = raw.poll(room);
        let found = polled.len();
        let (taken, bytes) = if looks {
            let note = |frame: &mut Frame<'p>| {
                if let Some(offload) = checksum::undone(frame) {
                    frame.set_offload(Some(offload));
                }
            };
            mbuf::arrive(pool, herd.loan, polled, burst, note)
        } else {
            mbuf::arrive(pool, herd.loan, polled, burst, |_| ())
        };
        raw.took(taken);
        herd.lent(-i64::from(taken));
        received.packets += u64::from(taken);
        received.bytes += bytes;
        let taken = taken as usize;
        if taken == found {
            self.idle = if found > 0 { 0 } else { self.idle.wrapping_add(1) };
            return taken;
        }
        self.idle = 0;
        taken + self.receive_rest(burst)
    }

    #[inline]
    fn transmit_inside(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.raw.waiting() > 0 && self.raw.flush(0) > 0 {
            return 0;
        }
        let Self { pool, raw, herd, longest, transmitted, .. } = self;
        let before = burst.len();
        let (sent, bytes) = mbuf::depart(pool, herd.loan, herd.mbufs(pool), burst, raw.places(), *longest);
        herd.lent(i64::from(sent));
        transmitted.packets += u64::from(sent);
        transmitted.bytes += bytes;
        self.raw.flush(sent);
        if !burst.is_empty() {
            self.transmit_rest(burst);
        }
        before - burst.len()
    }

    #[inline]
    fn pass_inside(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        let dpdk = Arrived { raw: &mut self.raw, herd: &self.herd, shortest };
        let passed = to.take_over(Passing(Passed::Mbufs(dpdk)))?;
        self.received.packets += passed.packets;
        self.received.bytes += passed.bytes;
        if passed.packets > 0 {
            self.idle = 0;
        } else if self.raw.left() > 0 {
            return None;
        } else {
            self.idle = self.idle.wrapping_add(1);
        }
        usize::try_from(passed.packets).ok()
    }

    /// The ledger is not asked: the mbufs stay out on the loan of all DPDK devices of this worker, from one to the other. A
    /// device's word about where the bytes lie is not taken here either (`rwd_pass`).
    #[inline]
    fn take_over_inside(&mut self, arrived: Arrived<'_>) -> Option<Tally> {
        let Arrived { raw, herd, shortest } = arrived;
        if !Rc::ptr_eq(herd, &self.herd) || self.raw.waiting() > 0 && self.raw.flush(0) > 0 {
            return None;
        }
        let (packets, bytes) = raw.pass(&mut self.raw, shortest.into(), self.longest);
        let passed = Tally { packets: packets.into(), bytes };
        self.transmitted.packets += passed.packets;
        self.transmitted.bytes += passed.bytes;
        Some(passed)
    }

    /// Looks at the link, and whether the device is there.
    #[cold]
    #[inline(never)]
    fn glance(&self) -> Look {
        let look = self.port.look();
        if look.removed {
            self.latch(Fault::Gone);
        }
        if look.down && self.up.get() && self.port.plan().never_connects_again() {
            self.latch(Fault::Severed);
        }
        self.up.set(self.up.get() || !look.down);
        if look.down && !self.down.get() {
            self.link_down.set(self.link_down.get() + 1);
        }
        self.down.set(look.down);
        look
    }

    /// What sent frames and pages wait for is a word to the device.
    #[cold]
    #[inline(never)]
    pub(super) fn tidy(&mut self) {
        if self.port.tidies() {
            self.raw.tidy();
        }
    }

    /// Packets that the device has not sent, where what it has sent stays in its ring: those that wait, and one for all that it
    /// took.
    fn unsent(&self) -> u32 {
        if !self.port.enter(self.number) {
            return 0;
        }
        let unsent = self.raw.waiting() + u32::from(self.raw.sends(self.port.rings().1));
        self.port.leave(self.number);
        unsent
    }
}

impl<'p> QueuePair<'p> for DpdkQueue<'p> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if !self.is_well() {
            return 0;
        }
        if !self.port.enter(self.number) {
            return 0;
        }
        let received = self.receive_inside(burst);
        self.port.leave(self.number);
        received
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if !self.is_well() {
            return 0;
        }
        if !self.port.enter(self.number) {
            return 0;
        }
        let sent = self.transmit_inside(burst);
        self.port.leave(self.number);
        sent
    }

    fn passes(&self) -> bool {
        // What may be undone without a word must be looked for.
        !self.looks
    }

    #[inline]
    fn pass(&mut self, to: &mut dyn QueuePair<'p>, shortest: u16) -> Option<usize> {
        if self.looks || !self.is_well() || !self.port.enter(self.number) {
            return None;
        }
        let passed = self.pass_inside(to, shortest);
        self.port.leave(self.number);
        passed
    }

    #[inline]
    fn take_over(&mut self, passing: Passing<'_>) -> Option<Tally> {
        let Passed::Mbufs(arrived) = passing.0 else { return None };
        if !self.is_well() || !self.port.enter(self.number) {
            return None;
        }
        let passed = self.take_over_inside(arrived);
        self.port.leave(self.number);
        passed
    }

    #[inline]
    fn tend(&mut self) {
        if !self.is_well() {
            return;
        }
        if !self.port.enter(self.number) {
            return;
        }
        if self.raw.waiting() > 0 {
            self.raw.flush(0);
        }
        // Sent frames and pages that nobody asks for stay in the ring.
        if self.idle % 256 == 255 {
            self.tidy();
        }
        self.port.leave(self.number);
        let balanced = self.herd.balance(self.pool);
        let released = self.herd.release_pages(self.pool);
        if let Err(fault) = balanced.and_then(|()| Ok(released?)) {
            self.latch(fault);
        }
        if self.idle % GLANCE == GLANCE - 1 {
            self.glance();
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    fn counters(&self) -> QueueCounters {
        // DPDK counts a device's losses, not a queue's: the first queue names them.
        let lost = if self.number == 0 { self.glance().lost } else { Statistics::default() };
        QueueCounters {
            received: self.received,
            transmitted: self.transmitted,
            receive_missed: lost.missed,
            receive_malformed: self.malformed + self.raw.malformed() + lost.malformed,
            transmit_dropped: self.raw.refused() + lost.dropped,
            unsendable: self.unsendable,
            link_down: self.link_down.get(),
            checksums_finished: self.checksums,
            copied_bytes: self.copied_bytes,
            ..QueueCounters::default()
        }
    }

    fn pending(&self) -> u32 {
        if !self.port.tidies() {
            return self.unsent();
        }
        // A frame in an in-memory ring is not on its way to anybody but us.
        if self.number > 0 || self.caps.copying == Copying::InMemory {
            return self.raw.waiting();
        }
        self.herd.under_way()
    }
}

impl<'p> Gather<'p> for DpdkQueue<'p> {
    /// Pages go as further segments of the packet, from where they lie.
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if !self.is_well() {
            return 0;
        }
        if !self.port.enter(self.number) {
            return 0;
        }
        let gathered = self.gather_inside(packets);
        self.port.leave(self.number);
        gathered
    }
}

impl Drop for DpdkQueue<'_> {
    fn drop(&mut self) {
        // What it has received may be another herd's, which goes with the last device.
        self.raw.close();
        self.port.depart(self.number);
        if Rc::strong_count(&self.herd) == 1 {
            self.herd.settle(self.pool);
        }
    }
}
