//! A port on one of these cards, and how its queues are opened.

use super::card::{self, Card, LinkState, Setting, Signal};
use super::e1000e::E1000e;
use super::igb::Igb;
use super::queue::{IntelQueue, QueuePlan};
use crate::error::OpenError;
use crate::nic::NicPlan;
use crate::pci::{Function, Identity, Interrupt};
use crate::queue::Gather;
use ringbuf::Pool;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A card that is ready for its queues.
#[derive(Debug)]
pub struct IntelPort {
    plan: NicPlan,
    kind: Kind,
    mac: [u8; 6],
    speed: u32,
    signal: Signal,
    interrupts: Vec<Arc<Interrupt>>,
    open: Mutex<BTreeSet<u32>>,
    // Behind the registers, which must be gone before the card is given back.
    function: Arc<Function>,
}

#[derive(Debug)]
enum Kind {
    E1000e(E1000e),
    Igb(Igb),
}

/// What the plan may ask of a card.
pub(super) const LONGEST: u16 = 9216;

impl IntelPort {
    /// Whether there is a driver here for a function, by its name.
    #[must_use]
    pub const fn knows(identity: &Identity) -> Option<&'static str> {
        match (identity.vendor, identity.device) {
            // 82574L, 82574IT.
            (0x8086, 0x10d3 | 0x10f6) => Some(E1000e::NAME),
            // 82576, by its media (the kernel's e1000_hw.h).
            (0x8086, 0x10c9 | 0x10e6 | 0x10e7 | 0x10e8 | 0x150a | 0x150d | 0x1518 | 0x1526) => {
                Some(Igb::NAME)
            }
            _ => None,
        }
    }

    /// Resets the card, sets it as planned, and waits for its link.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open(function: Arc<Function>, plan: NicPlan) -> Result<Self, OpenError> {
        let refused = |step: &str, why: String| OpenError::refused(function.name(), step, why);
        let registers = function.bar(0)?;
        let kind = match Self::knows(function.identity()) {
            Some(E1000e::NAME) => Kind::E1000e(E1000e(registers.clone())),
            Some(_) => Kind::Igb(Igb(registers.clone())),
            None => {
                return Err(refused(
                    "choosing a driver",
                    "this is none of the cards that it knows".to_owned(),
                ));
            }
        };
        let most = kind.queues();
        if plan.queues == 0 || plan.queues > most {
            let why = format!("it has {most} queue pair(s), not {}", plan.queues);
            return Err(refused("reading the port", why).hint(format!("ask for queues={most} at most")));
        }
        if plan.mtu < 68 || plan.mtu > LONGEST - 18 {
            return Err(refused("reading the port", format!("mtu={} is not between 68 and 9198", plan.mtu)));
        }
        let failed = |step: &str, source| OpenError::new(function.name(), step, source);
        card::reset(&registers).map_err(|why| failed("resetting the card", io::Error::other(why)))?;
        card::wake_phy(&registers).map_err(|why| failed("waking the PHY", io::Error::other(why)))?;
        let mac = card::mac(&registers);
        if mac == [0; 6] || mac[0] & 1 != 0 {
            return Err(refused(
                "asking for its address",
                format!("the card's memory holds none: {mac:02x?}"),
            ));
        }
        let interrupts: Vec<_> = {
            let wanted = u16::try_from(plan.queues).unwrap_or(1);
            function.interrupts(wanted)?.into_iter().map(Arc::new).collect()
        };
        let signal = match interrupts.first() {
            Some(interrupt) if interrupt.is_shared() => Signal::Shared,
            _ => Signal::Message,
        };
        let setting = Setting {
            queues: plan.queues,
            packet_bytes: u32::from(plan.mtu) + 18,
            promiscuous: plan.promiscuous,
            signal,
        };
        kind.prepare(&setting);
        function.set_bus_master(true).map_err(|source| failed("letting it move data", source))?;
        let speed = wait_for_link(&registers, plan.wait)
            .map_err(|why| failed("waiting for the link", io::Error::other(why)))?;
        if speed == 0 {
            tracing::warn!(
                "{}: its link is down: is the cable in? Frames wait until it comes",
                function.name()
            );
        }
        Ok(Self { plan, kind, mac, speed, signal, interrupts, open: Mutex::default(), function })
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

    /// Opens one queue pair, on the thread that will own it.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open_queue<'p>(&self, pool: &'p Pool, queue: u32) -> Result<Box<dyn Gather<'p> + 'p>, OpenError> {
        let step = format!("opening queue {queue}");
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if queue >= self.plan.queues || !open.insert(queue) {
            let why = "there is no such queue, or it was opened before";
            return Err(OpenError::refused(self.function.name(), step, why));
        }
        let plan = QueuePlan {
            driver: self.function.driver(),
            queue,
            ring: self.plan.ring,
            mtu: self.plan.mtu,
            speed: self.speed,
            checksums: self.plan.offloads,
        };
        let interrupt = self.interrupts.get(queue as usize).cloned();
        let (function, signal) = (&self.function, self.signal);
        Ok(match &self.kind {
            Kind::E1000e(card) => Box::new(IntelQueue::open(pool, card, function, &plan, interrupt, signal)?),
            Kind::Igb(card) => Box::new(IntelQueue::open(pool, card, function, &plan, interrupt, signal)?),
        })
    }
}

impl Kind {
    const fn queues(&self) -> u32 {
        match self {
            Self::E1000e(_) => E1000e::QUEUES,
            Self::Igb(_) => Igb::QUEUES,
        }
    }

    fn prepare(&self, setting: &Setting) {
        match self {
            Self::E1000e(card) => card.prepare(setting),
            Self::Igb(card) => card.prepare(setting),
        }
    }

    fn registers(&self) -> &crate::pci::Registers {
        match self {
            Self::E1000e(card) => card.registers(),
            Self::Igb(card) => card.registers(),
        }
    }
}

/// Megabits a second once the link is up; 0 when it does not come.
fn wait_for_link(registers: &crate::pci::Registers, limit: Duration) -> Result<u32, &'static str> {
    let begin = Instant::now();
    loop {
        match card::link(registers) {
            LinkState::Up { speed } => return Ok(speed),
            LinkState::Absent => return Err("the card is gone"),
            LinkState::Down if begin.elapsed() >= limit => return Ok(0),
            LinkState::Down => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

impl Drop for IntelPort {
    fn drop(&mut self) {
        // All its queues have stopped. It forgets their rings, and the kernel's driver finds it as after power-on.
        let _ = self.function.set_bus_master(false);
        let _ = card::reset(self.kind.registers());
        self.kind.registers().change(card::register::CTRL_EXT, card::DRIVER_LOADED, 0);
    }
}
