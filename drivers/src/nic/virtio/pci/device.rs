//! A device as its common registers show it (VIRTIO 1.2 §4.1.4.3), shared by its queues.
//!
//! ```text
//!   reset ─► acknowledged, driver ─► features agreed ─► all queues have joined ─► works ─► the first queue ends: reset
//! ```
//!
//! A device stops as a whole, since what stops one ring alone (`VIRTIO_F_RING_RESET`) is rare: when one of its queues ends, all
//! do. The others then find that it is gone, and what it had not sent comes home.

use super::capabilities::Regions;
use super::control::Control;
use crate::error::{Fault, OpenError};
use crate::nic::virtio::feature;
use crate::nic::virtio::ring::Parts;
use crate::pci::{DmaRings, Doorbell, Function, Registers};
use core::sync::atomic::{AtomicU8, Ordering};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// `struct virtio_pci_common_cfg` (§4.1.4.3).
mod common {
    pub(super) const OFFERED_SELECT: usize = 0x00;
    pub(super) const OFFERED: usize = 0x04;
    pub(super) const AGREED_SELECT: usize = 0x08;
    pub(super) const AGREED: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const QUEUES: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const GENERATION: usize = 0x15;
    pub(super) const SELECT: usize = 0x16;
    pub(super) const SIZE: usize = 0x18;
    pub(super) const VECTOR: usize = 0x1a;
    pub(super) const ENABLE: usize = 0x1c;
    pub(super) const NOTIFY: usize = 0x1e;
    pub(super) const DESCRIPTORS: usize = 0x20;
    pub(super) const DRIVER: usize = 0x28;
    pub(super) const DEVICE: usize = 0x30;
}

/// The device status field (§2.1).
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u8 = 1;
    pub(in super::super) const DRIVER: u8 = 2;
    pub(in super::super) const DRIVER_OK: u8 = 4;
    pub(in super::super) const FEATURES_OK: u8 = 8;
    pub(in super::super) const NEEDS_RESET: u8 = 64;
    pub(in super::super) const FAILED: u8 = 128;
    /// What a device that is not there reads as: no device has all of them.
    pub(in super::super) const ABSENT: u8 = 0xff;
}

/// `VIRTIO_MSI_NO_VECTOR` (§4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// `struct virtio_net_config` (§5.1.4).
mod net {
    pub(super) const MAC: usize = 0;
    pub(super) const STATUS: usize = 6;
    pub(super) const PAIRS: usize = 8;
    pub(super) const MTU: usize = 10;
}

/// `VIRTIO_NET_S_LINK_UP` (§5.1.4).
const LINK_UP: u16 = 1;

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Its queues are being opened.
    Waiting,
    /// It has all of them, and works.
    Working,
    /// It is being stopped.
    Stopping,
    /// It touches nothing any more.
    Stopped,
}

/// What the device configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its address; `None` when it has none of its own.
    pub(super) mac: Option<[u8; 6]>,
    /// Queue pairs.
    pub(super) pairs: u16,
    /// The longest packet behind its Ethernet header, where it says so.
    pub(super) mtu: Option<u16>,
}

/// Where a queue has its ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'r> {
    /// Its number among the device's queues.
    pub(super) queue: u16,
    pub(super) ring: u16,
    pub(super) rings: &'r DmaRings,
    pub(super) parts: Parts,
    /// Which interrupt.
    pub(super) vector: u16,
}

/// What tells the device of something in a ring: a queue's number, written to the queue's own place.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    doorbell: Doorbell<u16>,
    queue: u16,
}

impl Bell {
    #[inline]
    pub(super) fn ring(&self) {
        self.doorbell.ring(self.queue);
    }
}

/// A device, as all its queues know it.
#[derive(Debug)]
pub(super) struct Device {
    regions: Regions,
    features: u64,
    stage: AtomicU8,
    state: Mutex<State>,
    patience: Duration,
    // Behind the registers.
    function: Arc<Function>,
}

#[derive(Debug)]
struct State {
    queues: u32,
    joined: BTreeSet<u32>,
    control: Option<Control>,
}

impl Device {
    /// Resets a device and agrees with it on features (§3.1.1, steps 1 to 6). `wanted` are taken where they are offered.
    pub(super) fn agree(
        function: &Arc<Function>,
        wanted: u64,
        patience: Duration,
    ) -> Result<Self, OpenError> {
        let refused = |why: &str| OpenError::refused(function.name(), "agreeing with the device", why);
        let regions = Regions::find(function)?;
        let state = State { queues: 0, joined: BTreeSet::new(), control: None };
        let stage = AtomicU8::new(Stage::Waiting as u8);
        let function = Arc::clone(function);
        let mut device = Self { regions, features: 0, stage, state: Mutex::new(state), patience, function };
        device.reset().map_err(|why| {
            OpenError::new(device.function.name(), "resetting the device", io::Error::other(why))
        })?;
        device.add_status(status::ACKNOWLEDGE);
        device.add_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered = device.offered();
        if offered & feature::VERSION_1 == 0 {
            return Err(refused("it does not speak version 1 of virtio"));
        }
        device.features = feature::consistent(offered & wanted);
        for (half, bits) in [(0u32, device.features), (1, device.features >> 32)] {
            device.common().write(common::AGREED_SELECT, half);
            device.common().write(common::AGREED, low32(bits));
        }
        let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        device.add_status(agreed);
        if device.status() & status::FEATURES_OK == 0 {
            device.add_status(status::FAILED);
            return Err(refused("it does not take the features that it offered itself"));
        }
        Ok(device)
    }

    pub(super) const fn function(&self) -> &Arc<Function> {
        &self.function
    }

    /// What both sides can do.
    pub(super) const fn features(&self) -> u64 {
        self.features
    }

    pub(super) const fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    const fn common(&self) -> &Registers {
        &self.regions.common
    }

    pub(super) fn status(&self) -> u8 {
        self.common().read(common::STATUS)
    }

    fn add_status(&self, bits: u8) {
        self.common().write(common::STATUS, bits);
    }

    fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.common().write(common::OFFERED_SELECT, select);
            u64::from(self.common().read::<u32>(common::OFFERED))
        };
        half(0) | half(1) << 32
    }

    /// §4.1.4.3.2: it is reset once it says so itself.
    fn reset(&self) -> Result<(), &'static str> {
        self.common().write(common::STATUS, 0u8);
        let begin = Instant::now();
        loop {
            match self.status() {
                0 => return Ok(()),
                status::ABSENT => return Err("its registers are all ones: it is not there, or sleeps"),
                _ if begin.elapsed() > self.patience => return Err("it does not come back from a reset"),
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// What its configuration says. Where it may change meanwhile it is read until it did not (§2.5.1).
    pub(super) fn facts(&self) -> Result<Facts, OpenError> {
        let refused = |why: &str| OpenError::refused(self.function.name(), "reading its configuration", why);
        let lacks = || refused("it has no place for what it says that it has");
        let region = self.regions.device.as_ref();
        let byte = |offset: usize| {
            let region = region.filter(|region| offset < region.bytes()).ok_or_else(lacks)?;
            Ok::<u8, OpenError>(region.read(offset))
        };
        let word = |offset: usize, needs: u64, usual: u16| {
            if !self.has(needs) {
                return Ok(usual);
            }
            let region = region.filter(|region| offset + 2 <= region.bytes()).ok_or_else(lacks)?;
            Ok::<u16, OpenError>(region.read(offset))
        };
        for _ in 0..100 {
            let before: u8 = self.common().read(common::GENERATION);
            let mut mac = [0; 6];
            if self.has(feature::MAC) {
                for (place, at) in mac.iter_mut().zip(net::MAC..) {
                    *place = byte(at)?;
                }
            }
            let mtu = word(net::MTU, feature::MTU, 0)?;
            let facts = Facts {
                mac: self.has(feature::MAC).then_some(mac),
                pairs: word(net::PAIRS, feature::QUEUES, 1)?,
                mtu: self.has(feature::MTU).then_some(mtu),
            };
            if self.common().read::<u8>(common::GENERATION) == before {
                return Ok(facts);
            }
        }
        Err(refused("it changes all the time"))
    }

    /// Whether its link is up; one that does not say is.
    pub(super) fn is_link_up(&self) -> bool {
        let region = self.regions.device.as_ref().filter(|region| region.bytes() >= net::STATUS + 2);
        match region {
            Some(region) if self.has(feature::STATUS) => region.read::<u16>(net::STATUS) & LINK_UP != 0,
            _ => true,
        }
    }

    /// Takes the interrupt line down, whatever raised it (§4.1.4.5).
    pub(super) fn take_line_down(&self) {
        let _: u8 = self.regions.isr.read(0);
    }

    /// The longest ring that a queue can have: 0 when there is no such queue.
    pub(super) fn longest_ring(&self, queue: u16) -> u16 {
        let _state = self.state();
        if queue >= self.common().read::<u16>(common::QUEUES) {
            return 0;
        }
        self.common().write(common::SELECT, queue);
        self.common().read(common::SIZE)
    }

    /// Tells the device where a ring is (§4.1.5.1.3), and says what tells it of something in there; and whether it
    /// interrupts.
    pub(super) fn place(&self, place: &Place<'_>) -> Result<(Bell, bool), OpenError> {
        let _state = self.state();
        let refused = |why: String| OpenError::refused(self.function.name(), "setting up the rings", why);
        let registers = self.common();
        registers.write(common::SELECT, place.queue);
        registers.write(common::SIZE, place.ring);
        let parts = place.parts;
        for (register, offset) in [
            (common::DESCRIPTORS, parts.descriptors),
            (common::DRIVER, parts.driver),
            (common::DEVICE, parts.device),
        ] {
            let address = place.rings.address(offset);
            // §4.1.3.1: 64 bits are two times 32.
            registers.write(register, low32(address));
            registers.write(register + 4, low32(address >> 32));
        }
        registers.write(common::VECTOR, place.vector);
        // §4.1.5.1.2.2: one that it cannot have reads as none.
        let interrupts = registers.read::<u16>(common::VECTOR) == place.vector;
        let offset: u16 = registers.read(common::NOTIFY);
        // §4.1.4.4.
        let offset = u64::from(offset) * u64::from(self.regions.multiplier);
        let part = usize::try_from(offset).ok().and_then(|offset| self.regions.notify.part(offset, 2));
        let part = part.ok_or_else(|| {
            refused(format!("the doorbell of its queue {} lies outside of its registers", place.queue))
        })?;
        registers.write(common::ENABLE, 1u16);
        Ok((Bell { doorbell: part.doorbell(0), queue: place.queue }, interrupts))
    }

    /// No interrupt tells of changes of the configuration: it is looked at every so often.
    pub(super) fn silence_configuration(&self) {
        self.common().write(common::CONFIG_VECTOR, NO_VECTOR);
    }

    /// So many queue pairs are to join before it works, and this commands it.
    pub(super) fn prepare(&self, queues: u32, control: Option<Control>) {
        let mut state = self.state();
        (state.queues, state.control) = (queues, control);
    }

    /// One more queue pair is there. With the last it works (§3.1.1, step 8), and does what `command` says.
    pub(super) fn join(
        &self,
        pair: u32,
        command: impl FnOnce(&mut Control) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut state = self.state();
        state.joined.insert(pair);
        if state.joined.len() < state.queues as usize || self.stage() != Stage::Waiting {
            return Ok(());
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.add_status(ready);
        if let Some(control) = &mut state.control {
            command(control)?;
        }
        self.stage.store(Stage::Working as u8, Ordering::Release);
        Ok(())
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        // Pairs with the release of whoever went on: what it did to the device is done.
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Waiting,
            1 => Stage::Working,
            2 => Stage::Stopping,
            _ => Stage::Stopped,
        }
    }

    /// Whether it is there, ours, and well.
    pub(super) fn look(&self) -> Result<(), Fault> {
        let status = self.status();
        if status == status::ABSENT || self.function.is_wanted_back() {
            return Err(Fault::PulledOut);
        }
        if status & status::NEEDS_RESET != 0 || status & status::DRIVER_OK == 0 {
            return Err(Fault::NeedsReset);
        }
        Ok(())
    }

    /// Stops it: when this returns, it touches neither rings nor buffers.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        if self.stage() == Stage::Stopped {
            return;
        }
        self.stage.store(Stage::Stopping as u8, Ordering::Release);
        if self.reset().is_err() {
            // It must not write to what others have next: the bus keeps it from that, whatever it does.
            let _ = self.function.set_bus_master(false);
        }
        state.control = None;
        self.stage.store(Stage::Stopped as u8, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn low32(value: u64) -> u32 {
    value as u32
}
