//! A device: probed, configured, started with its last queue, closed with its first.

use super::eal;
use super::ffi::{self, Device, Facts, HerdHandle, can};
use super::herd;
use super::hints::{MEMORY_HINT, mtu_hint, probing_hint, queue_hint};
use super::in_the_way;
use super::plan::DpdkPlan;
use crate::error::OpenError;
use crate::queue::{Caps, Copying};
use ringbuf::Backing;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Descriptors of a ring, when neither user nor device has a wish.
const RING: u16 = 1024;

/// Bytes of an Ethernet header and two tags, and of the longest IP packet.
const ETHERNET: u32 = 14 + 8;
const LONGEST: u32 = 65_535 + ETHERNET;

/// Drivers whose freeing of what was sent stops the ring for good once a packet had several segments: it makes each of them a
/// packet of its own, and the device reports no more than the last (`igb_tx_done_cleanup` of `igb_rxtx.c` against the
/// question for room in `eth_igb_xmit_pkts`, seen with 22.11; `eth_igc_tx_done_cleanup` is the same by its source).
const STOPPED_BY_TIDYING: [&str; 3] = ["net_e1000_igb", "net_e1000_igb_vf", "net_igc"];

/// Addresses that are given away without a registry have this bit (IEEE 802 §8.4).
const LOCAL: u8 = 2;

/// How long a queue that ends waits for those of other threads: a worker may sleep for 100 ms before it hears the word to end, and
/// then drains for 200 (`dataplane/src/run.rs`).
const FAREWELL: Duration = Duration::from_millis(500);

/// A DPDK device; any thread may hold it.
#[derive(Debug)]
pub struct DpdkPort {
    plan: DpdkPlan,
    facts: Facts,
    driver: String,
    /// What is used of what it can do.
    used: u32,
    rings: (u16, u16),
    mtu: u16,
    backing: Backing,
    state: Mutex<State>,
    /// Whether a thread is inside a queue; for good, once the port is closed.
    gates: Box<[AtomicBool]>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    device: Option<Device>,
    set_up: u16,
    /// The threads that have queues, queue by queue, until they let go of them.
    owners: Vec<Option<ThreadId>>,
}

impl DpdkPort {
    /// Probes and configures a device; its queues come later, and it starts with the last of them.
    ///
    /// # Errors
    /// [`OpenError`] naming the device, the step, what DPDK says, and the cure.
    pub fn open(plan: &DpdkPlan) -> Result<Arc<Self>, OpenError> {
        let backing = eal::start(plan)?;
        in_the_way::look(plan)?;
        eal::forget_complaints();
        let name = plan.device.as_str();
        let fail = |step: &str, error: &io::Error| OpenError::new(name, step, said(error));
        let (device, facts) = Device::open(&plan.device_string()).map_err(|error| {
            let error = said(&error);
            in_the_way::sweep(plan);
            let hint = probing_hint(plan, &error);
            OpenError::new(name, "probing the device", error).hint(hint)
        })?;
        let driver = ffi::short(&facts.driver);
        if plan.queues > facts.max_queues {
            let why = format!("it has {} queue pairs, and {} are wanted", facts.max_queues, plan.queues);
            return Err(OpenError::refused(name, "sharing out queues", why)
                .hint(format!("queues={} is the most", facts.max_queues)));
        }
        if plan.queues > 1 && facts.rss == 0 {
            tracing::info!("{name}: the driver {driver} names no way of spreading flows over queues");
        }
        let mtu = plan.mtu.unwrap_or(facts.mtu);
        let mut used = facts.can & (can::CHAIN | can::SCATTER);
        if plan.offloads {
            used |= facts.can & (can::CHECKSUM | can::IP_CHECKSUM);
        }
        // A large packet is a head and pages, so cutting is of use to who sends chains, and needs the checksums.
        let whole = can::CHAIN | can::CHECKSUM;
        if used & whole == whole && !plan.cuts_wrongly() {
            used |= facts.can & can::CUT;
        }
        device
            .configure(plan.queues, used, facts.rss, mtu)
            .map_err(|error| fail("configuring it", &error).hint(mtu_hint(plan, &facts)))?;
        if plan.mtu.is_some() {
            device
                .set_mtu(mtu)
                .map_err(|error| fail("setting its MTU", &error).hint(mtu_hint(plan, &facts)))?;
        }
        let wish = |theirs: u16| plan.ring.unwrap_or(if theirs == 0 { RING } else { theirs });
        let rings = device
            .rings(wish(facts.rx_ring), wish(facts.tx_ring))
            .map_err(|error| fail("choosing ring sizes", &error).hint("leave ring= away"))?;
        let owners = vec![None; plan.queues.into()];
        Ok(Arc::new(Self {
            gates: (0..plan.queues).map(|_| AtomicBool::new(false)).collect(),
            plan: plan.clone(),
            facts,
            driver,
            used,
            rings,
            mtu,
            backing,
            state: Mutex::new(State { device: Some(device), set_up: 0, owners }),
            closed: AtomicBool::new(false),
        }))
    }

    /// How it was asked for.
    #[must_use]
    pub const fn plan(&self) -> &DpdkPlan {
        &self.plan
    }

    /// Its address, for who speaks as a host here. Where the kernel's interface at the other side has the very same one, it is
    /// another: what bears one's own address was sent by oneself.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut mac = self.facts.mac;
        if self.plan.shares_its_address() {
            mac[0] |= LOCAL;
            mac[5] ^= 1;
        }
        mac
    }

    /// Bytes of its longest IP packet.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) const fn rings(&self) -> (u16, u16) {
        self.rings
    }

    /// Whether the device may be asked to free what it has sent; else it does so when the ring comes round.
    pub(super) fn tidies(&self) -> bool {
        !STOPPED_BY_TIDYING.contains(&self.driver.as_str())
    }

    /// Slots of a queue's receive ring.
    #[must_use]
    pub const fn receive_ring(&self) -> u16 {
        self.rings.0
    }

    /// Bytes that a slot should hold, its headroom aside.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        let large = if self.plan.wants_large_slots() { 2048 } else { 0 };
        let longest = if self.hands_over_uncut() { LONGEST } else { u32::from(self.mtu) + 18 };
        // Buffers begin up to three lines of a cache behind their slots, and DPDK's headroom is half of ours.
        (longest + 3 * 64 - 128).max(large)
    }

    /// Frames that one of its queues may hold.
    #[must_use]
    pub fn frames_per_queue(&self) -> u32 {
        u32::from(self.rings.0) + u32::from(self.rings.1) + herd::resting(self.packet_frames())
    }

    /// Frames of the longest packet that comes in, in slots of 4096 bytes or more.
    pub(super) fn packet_frames(&self) -> u32 {
        let longest = if self.hands_over_uncut() { LONGEST } else { self.longest_uncut() };
        longest.div_ceil(4096 - 256).max(1)
    }

    /// Whether packets may come in that are still to be cut into segments.
    #[must_use]
    pub fn hands_over_uncut(&self) -> bool {
        self.plan.argument("tso").is_some_and(|value| value != "0")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets one queue pair up, and starts the device with the last.
    pub(super) fn set_up<T>(
        &self,
        queue: u16,
        herd: &HerdHandle,
        make: impl FnOnce(&Device) -> Option<T>,
    ) -> Result<T, OpenError> {
        let fail =
            |step: String, error: &io::Error| OpenError::new(self.plan.device.as_str(), step, said(error));
        let mut state = self.state();
        let State { device: Some(device), set_up, owners } = &mut *state else {
            return Err(OpenError::refused(&self.plan.device, "opening a queue", "it was closed before"));
        };
        eal::forget_complaints();
        let copies = self.plan.wants_own_mbufs();
        if copies {
            let mbufs = 4 * (u32::from(self.rings.0) + u32::from(self.rings.1)) * u32::from(self.plan.queues);
            herd.copies(mbufs, 2048 + 128)
                .map_err(|error| fail("making mbufs".to_owned(), &error).hint(MEMORY_HINT))?;
        }
        device.queue(queue, self.rings, herd, copies).map_err(|error| {
            let error = fail(format!("setting queue {queue} up"), &error);
            let hint = queue_hint(&self.plan, &error.source);
            error.hint(hint)
        })?;
        let made = make(device)
            .ok_or_else(|| fail(format!("opening queue {queue}"), &io::ErrorKind::OutOfMemory.into()))?;
        *set_up += 1;
        owners[usize::from(queue)] = Some(std::thread::current().id());
        if *set_up == self.plan.queues {
            device
                .start(self.plan.promiscuous)
                .map_err(|error| fail("starting it".to_owned(), &error).hint(MEMORY_HINT))?;
        }
        Ok(made)
    }

    /// Lets a queue's thread in, unless the port is closed. Who was let in says when it leaves.
    #[inline]
    pub(super) fn enter(&self, queue: u16) -> bool {
        // With one queue nobody but the queue itself closes the port.
        self.gates.len() == 1 || !self.gates[usize::from(queue)].swap(true, Ordering::Acquire)
    }

    /// See [`enter`](Self::enter).
    #[inline]
    pub(super) fn leave(&self, queue: u16) {
        if self.gates.len() > 1 {
            self.gates[usize::from(queue)].store(false, Ordering::Release);
        }
    }

    /// Says that a queue goes, and gives other threads, which were told to end when this one was, time to say so too.
    pub(super) fn depart(&self, queue: u16) {
        let own = std::thread::current().id();
        self.state().owners[usize::from(queue)] = None;
        let until = Instant::now() + FAREWELL;
        while !self.closed.load(Ordering::Acquire)
            && self.state().owners.iter().flatten().any(|owner| *owner != own)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.close();
    }

    /// Closes the device once no thread is inside any of its queues; they stay shut out. A device cannot do without one
    /// queue while another goes on: whoever ends first ends it.
    pub(super) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        for gate in &self.gates {
            while gate.swap(true, Ordering::Acquire) {
                std::thread::yield_now();
            }
        }
        self.state().device = None;
    }

    /// Whether it was taken out, or its link is down; and what it lost.
    pub(super) fn look(&self) -> Look {
        let state = self.state();
        let Some(device) = &state.device else { return Look::default() };
        Look { removed: device.removed(), down: !device.up(), lost: device.statistics().unwrap_or_default() }
    }

    /// The truth about one queue.
    pub(super) fn caps(&self, queue: u16, frame_size: u16) -> Caps {
        let has = |bit: u32| self.used & bit != 0;
        let mut mode = format!("{}, rings of {} and {}", self.driver, self.rings.0, self.rings.1);
        let words = [
            (has(can::CHAIN), "chains"),
            (has(can::CHECKSUM), "checksums"),
            (has(can::CUT), "TSO"),
            (self.plan.wants_own_mbufs(), "mbufs of its own, copied"),
            (self.backing == Backing::HugePages, "huge pages"),
        ];
        for (_, word) in words.iter().filter(|(there, _)| *there) {
            mode += ", ";
            mode += word;
        }
        let most = u32::from(self.facts.max_segments).clamp(2, herd::FRAMES);
        let most = if self.facts.max_segments == 0 { herd::FRAMES } else { most };
        let copying = if self.plan.wants_own_mbufs() { Copying::DriverCopies } else { self.plan.copying() };
        Caps {
            driver: "dpdk",
            device: self.plan.device.clone(),
            queue: queue.into(),
            copying,
            mode,
            packet_bytes: if has(can::CUT) { LONGEST } else { self.longest_uncut() },
            buffer_bytes: u32::from(frame_size).max(4096),
            packet_frames: if has(can::CHAIN) { most } else { 1 },
            checksum: has(can::CHECKSUM),
            segmentation: has(can::CUT),
        }
    }

    /// Bytes of the longest packet that is not to be cut.
    pub(super) fn longest_uncut(&self) -> u32 {
        u32::from(self.mtu) + ETHERNET
    }

    /// Whether checksums of IPv4 headers are the device's when it cuts.
    pub(super) const fn completes_ip(&self) -> bool {
        self.used & can::IP_CHECKSUM != 0
    }
}

/// What a look at a device shows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) removed: bool,
    pub(super) down: bool,
    pub(super) lost: ffi::Statistics,
}

/// The error with what DPDK said of it.
fn said(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), eal::with_complaint(error))
}
