//! A port on a virtio-net device, and how its queues are opened.

use super::control::{Command, Control, RING};
use super::device::{Device, Facts, NO_VECTOR, Place, Stage};
use super::line::Line;
use crate::error::OpenError;
use crate::nic::NicPlan;
use crate::nic::virtio::{Layout, VirtioPlan, feature, open};
use crate::pci::{Function, Identity, Interrupt};
use crate::queue::{Copying, Gather};
use ringbuf::Pool;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A device that is ready for its queues.
#[derive(Debug)]
pub struct VirtioPort {
    plan: NicPlan,
    device: Arc<Device>,
    mac: [u8; 6],
    /// Descriptors of each ring: no more than the device can have.
    ring: u16,
    interrupts: Vec<Arc<Interrupt>>,
    open: Mutex<BTreeSet<u32>>,
}

/// How long the device may take for a reset or a command.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the driver takes of what a device offers.
const fn wanted(plan: &NicPlan) -> u64 {
    let mut wanted = feature::VERSION_1 | feature::PLATFORM | feature::PACKED;
    wanted |= feature::INDIRECT | feature::MERGEABLE | feature::MAC | feature::STATUS | feature::MTU;
    wanted |= feature::CONTROL | feature::CONTROL_RECEIVE;
    if cfg!(target_arch = "x86_64") {
        // The barriers here are those that real devices need; on other machines they are those between processors.
        wanted |= feature::ORDER_PLATFORM;
    }
    if plan.queues > 1 {
        wanted |= feature::QUEUES;
    }
    if plan.offloads {
        wanted |= feature::OFFLOADS;
    }
    wanted
}

impl VirtioPort {
    /// Whether there is a driver here for a function, by its name (§4.1.2.1: 0x1040 and the device's type; the older number
    /// may be a device that speaks both).
    #[must_use]
    pub const fn knows(identity: &Identity) -> Option<&'static str> {
        match (identity.vendor, identity.device) {
            (0x1af4, 0x1041 | 0x1000) => Some("virtio-net"),
            _ => None,
        }
    }

    /// Resets the device, agrees with it on what both can do, and waits for its link.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open(function: &Arc<Function>, plan: NicPlan) -> Result<Self, OpenError> {
        Self::open_patiently(function, plan, PATIENCE)
    }

    pub(super) fn open_patiently(
        function: &Arc<Function>,
        plan: NicPlan,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let device = Device::agree(function, wanted(&plan), patience)?;
        if function.has_iommu() && !device.has(feature::PLATFORM) {
            let why = "it does not go through the IOMMU, though there is one: it would take our addresses for others";
            return Err(OpenError::refused(function.name(), "agreeing with the device", why).hint(format!(
                "QEMU: iommu_platform=on; or boot without the IOMMU, and use uio:{}",
                function.name()
            )));
        }
        let facts = device.facts()?;
        check(&device, &facts, &plan)?;
        let ring = longest(&device, &plan)?;
        function.set_bus_master(true).map_err(|source| function.failed("letting it move data", source))?;
        let count = u16::try_from(plan.queues).unwrap_or(1);
        let interrupts: Vec<_> = function.interrupts(count)?.into_iter().map(Arc::new).collect();
        device.silence_configuration();
        let device = Arc::new(device);
        let port = Self {
            mac: facts.mac.unwrap_or_else(own_address),
            ring,
            interrupts,
            open: Mutex::default(),
            device,
            plan,
        };
        let control = port.control(&facts, patience)?;
        port.device.prepare(port.plan.queues, control);
        port.wait_for_link();
        Ok(port)
    }

    /// The control queue, where there is one: behind all pairs (§5.1.2).
    fn control(&self, facts: &Facts, patience: Duration) -> Result<Option<Control>, OpenError> {
        if !self.device.has(feature::CONTROL) {
            return Ok(None);
        }
        let queue = facts.pairs.saturating_mul(2);
        let function = self.device.function();
        if self.device.longest_ring(queue) < RING {
            let why = format!("it has a control queue, but no queue {queue} of at least {RING} descriptors");
            return Err(OpenError::refused(function.name(), "setting up the rings", why));
        }
        let packed = self.device.has(feature::PACKED);
        let (parts, bytes) = Control::layout(packed);
        let rings = function.rings(bytes)?;
        let place = Place { queue, ring: RING, rings: &rings, parts, vector: NO_VECTOR };
        let (bell, _) = self.device.place(&place)?;
        Ok(Some(Control::new(rings, packed, bell, function.name(), patience)))
    }

    fn wait_for_link(&self) {
        let begin = Instant::now();
        while !self.device.is_link_up() {
            if begin.elapsed() >= self.plan.wait {
                let name = self.device.function().name();
                tracing::warn!("{name}: its link is down: is the cable in? Frames wait until it comes");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What was asked for.
    #[must_use]
    pub const fn plan(&self) -> &NicPlan {
        &self.plan
    }

    /// Its address.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Opens one queue pair, on the thread that will own it. Nothing passes before all are open.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open_queue<'p>(&self, pool: &'p Pool, queue: u32) -> Result<Box<dyn Gather<'p> + 'p>, OpenError> {
        let function = self.device.function();
        let step = format!("opening queue {queue}");
        let first = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let first = u16::try_from(2 * queue).ok().filter(|_| queue < self.plan.queues);
            first.filter(|_| open.insert(queue) && self.device.stage() == Stage::Waiting)
        };
        let first = first.ok_or_else(|| {
            let why = "there is no such queue, or it was opened before";
            OpenError::refused(function.name(), &step, why)
        })?;
        let (packed, ring) = (self.device.has(feature::PACKED), self.ring);
        let rings = function.rings(Layout::bytes(ring, packed))?;
        let layout = Layout::of_pair(rings.memory(), 0, ring, packed, rings.addresses().clone());
        let arena = function.map_arena(pool)?;
        let vector = u16::try_from(queue).ok().filter(|_| self.has_vector(queue)).unwrap_or(NO_VECTOR);
        let receive = Place { queue: first, ring, rings: &rings, parts: layout.receive, vector };
        let transmit = Place { queue: first + 1, parts: layout.transmit, vector: NO_VECTOR, ..receive };
        let (receive, interrupts) = self.device.place(&receive)?;
        let (transmit, _) = self.device.place(&transmit)?;
        let plan = VirtioPlan {
            driver: function.driver(),
            device: function.name().to_owned(),
            queue,
            ring,
            features: self.device.features(),
            mtu: self.plan.mtu.into(),
            copying: Copying::ZeroCopy,
        };
        let addresses = arena.addresses().clone();
        let line = Line {
            device: Arc::clone(&self.device),
            receive,
            transmit,
            interrupt: self.interrupts.get(queue as usize).filter(|_| interrupts).cloned(),
            awake: always_readable().map_err(|source| function.failed(&step, source))?,
            turns: 0,
            seen: Stage::Waiting,
            link: true,
            _arena: arena,
            _rings: rings,
        };
        // From here on its drop stops the device.
        let opened = open(pool, &plan, &layout, addresses, line)?;
        self.device.join(queue, |control| self.command(control))?;
        Ok(opened)
    }

    /// Whether a queue interrupts by a message of its own; all by the line, when that is all that there is.
    fn has_vector(&self, queue: u32) -> bool {
        self.interrupts.get(queue as usize).is_some_and(|interrupt| !interrupt.is_shared())
    }

    /// What a device is told that has just begun to work.
    fn command(&self, control: &mut Control) -> Result<(), OpenError> {
        if self.plan.queues > 1 {
            control.command(Command::Pairs(u16::try_from(self.plan.queues).unwrap_or(u16::MAX)))?;
        }
        if self.device.has(feature::CONTROL_RECEIVE) {
            control.command(Command::Promiscuous(self.plan.promiscuous))?;
            control.command(Command::AllMulticast(self.plan.promiscuous))?;
        }
        Ok(())
    }
}

impl Drop for VirtioPort {
    fn drop(&mut self) {
        // All its queues have stopped it, if there were any.
        self.device.stop();
        let _ = self.device.function().set_bus_master(false);
    }
}

/// Whether the device can be what the plan asks for.
fn check(device: &Device, facts: &Facts, plan: &NicPlan) -> Result<(), OpenError> {
    let refused = |why: String| OpenError::refused(device.function().name(), "reading the port", why);
    if let Some(mac) = facts.mac
        && (mac == [0; 6] || mac[0] & 1 != 0)
    {
        return Err(refused(format!("the device says that its address is {mac:02x?}, which is none")));
    }
    // §5.1.4.1: from 1 to 0x8000.
    if !(1..=0x8000).contains(&facts.pairs) {
        return Err(refused(format!("the device says that it has {} queue pairs", facts.pairs)));
    }
    if plan.queues == 0 || plan.queues > facts.pairs.into() {
        let most = facts.pairs;
        let why = format!("it has {most} queue pair(s), not {}", plan.queues);
        return Err(refused(why).hint(format!(
            "ask for queues={most} at most; QEMU gives more by mq=on, and queues= of its netdev"
        )));
    }
    if let Some(most) = facts.mtu.filter(|most| plan.mtu > *most) {
        let why = format!("the device takes packets of {most} bytes, not {}", plan.mtu);
        return Err(refused(why).hint(format!("ask for mtu={most} at most")));
    }
    Ok(())
}

/// Descriptors of each ring: what was asked for, or as many as all its queues can have.
fn longest(device: &Device, plan: &NicPlan) -> Result<u16, OpenError> {
    let name = device.function().name();
    let mut ring = plan.ring;
    for queue in 0..2 * plan.queues {
        let most = device.longest_ring(u16::try_from(queue).unwrap_or(u16::MAX));
        if most < RING {
            let why = format!("its queue {queue} has {most} descriptors");
            return Err(OpenError::refused(name, "setting up the rings", why));
        }
        // A power of two, as in split rings it is anyway (§2.7).
        ring = ring.min(1 << most.ilog2());
    }
    if ring < plan.ring {
        tracing::warn!("{name}: its rings have at most {ring} descriptors, not {}", plan.ring);
    }
    Ok(ring)
}

/// An address for a device without one: of our own choice, and marked as such (IEEE 802, §8.2).
fn own_address() -> [u8; 6] {
    let [a, b, c, d, e, ..] = RandomState::new().hash_one(0u8).to_le_bytes();
    [0x02, a, b, c, d, e]
}

fn always_readable() -> std::io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
