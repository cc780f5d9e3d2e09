//! A port on a PCI card: `vfio:0000:03:00.0`, `uio:0000:03:00.0`, whatever card that is.

use super::intel::IntelPort;
use super::virtio::pci::VirtioPort;
use crate::error::OpenError;
use crate::pci::{Function, Identity, PciPlan, Way};
use crate::queue::Gather;
use crate::spec::{PortSpec, SpecError};
use ringbuf::{Arena, ArenaError, ArenaPlan, Pool};
use std::sync::Arc;
use std::time::Duration;

/// What a port is to be, whatever its card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicPlan {
    /// Queue pairs.
    pub queues: u32,
    /// Descriptors of each ring.
    pub ring: u16,
    /// Bytes of the longest packet behind its Ethernet header.
    pub mtu: u16,
    /// Take what is for others too.
    pub promiscuous: bool,
    /// Leave checksums to the card.
    pub offloads: bool,
    /// How long the link is waited for.
    pub wait: Duration,
}

impl Default for NicPlan {
    fn default() -> Self {
        let wait = Duration::from_secs(5);
        Self { queues: 1, ring: 256, mtu: 1500, promiscuous: true, offloads: true, wait }
    }
}

impl NicPlan {
    /// Reads `vfio:0000:03:00.0,queues=..,ring=..,mtu=..,promiscuous=off,offloads=off,wait=..,force=on`, or `uio:` for that.
    ///
    /// # Errors
    /// [`SpecError`] naming the mistake.
    pub fn from_spec(spec: &PortSpec, way: Way) -> Result<(PciPlan, Self), SpecError> {
        spec.only(&["queues", "ring", "mtu", "promiscuous", "offloads", "wait", "force"])?;
        let address = spec.device.parse().map_err(SpecError)?;
        let switch = |key: &str, default: bool| match spec.option::<String>(key, "on or off")?.as_deref() {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(SpecError(format!("{spec}: {key}={other} is not on or off"))),
        };
        let usual = Self::default();
        let ring: u16 = spec.option("ring", "a power of two")?.unwrap_or(usual.ring);
        if !ring.is_power_of_two() || !(64..=4096).contains(&ring) {
            return Err(SpecError(format!("{spec}: ring={ring} is not a power of two from 64 to 4096")));
        }
        let mtu: u16 = spec.option("mtu", "a number")?.unwrap_or(usual.mtu);
        if !(68..=9198).contains(&mtu) {
            return Err(SpecError(format!("{spec}: mtu={mtu} is not between 68 and 9198")));
        }
        let queues: u32 = spec.option("queues", "a number")?.unwrap_or(usual.queues);
        if !(1..=128).contains(&queues) {
            return Err(SpecError(format!("{spec}: queues={queues} is not between 1 and 128")));
        }
        let plan = Self {
            queues,
            ring,
            mtu,
            promiscuous: switch("promiscuous", usual.promiscuous)?,
            offloads: switch("offloads", usual.offloads)?,
            wait: spec.option("wait", "a number of seconds")?.map_or(usual.wait, Duration::from_secs),
        };
        Ok((PciPlan { way, address, force: switch("force", false)? }, plan))
    }
}

/// A card that is ready for its queues. When this goes, the driver that had it before gets it back.
#[derive(Debug)]
pub struct NicPort {
    plan: NicPlan,
    card: Card,
    /// Behind the card.
    function: Arc<Function>,
}

#[derive(Debug)]
enum Card {
    Intel(IntelPort),
    Virtio(VirtioPort),
}

impl NicPort {
    /// Whether there is a driver here for a function, by its name.
    #[must_use]
    pub fn knows(identity: &Identity) -> Option<&'static str> {
        IntelPort::knows(identity).or_else(|| VirtioPort::knows(identity))
    }

    /// Takes the card from the kernel, and readies it.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words. The card is given back then.
    pub fn open(pci: &PciPlan, plan: &NicPlan) -> Result<Self, OpenError> {
        let known = |identity: &Identity| match Self::knows(identity) {
            Some(_) => Ok(()),
            None => Err(format!(
                "this is {identity}, and there is no driver for it here, only for Intel's 82574L (8086:10d3) and 82576 \
                 (8086:10c9), and for virtio-net (1af4:1041): use the kernel's, by af-xdp: or packet:"
            )),
        };
        let function = Function::open(pci, known)?;
        let card = if VirtioPort::knows(function.identity()).is_some() {
            Card::Virtio(VirtioPort::open(&function, plan.clone())?)
        } else {
            Card::Intel(IntelPort::open(Arc::clone(&function), plan.clone())?)
        };
        Ok(Self { plan: plan.clone(), card, function })
    }

    /// What was asked for.
    #[must_use]
    pub const fn plan(&self) -> &NicPlan {
        &self.plan
    }

    /// Its address.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        match &self.card {
            Card::Intel(port) => port.mac(),
            Card::Virtio(port) => port.mac(),
        }
    }

    /// Bytes of a slot that suits its receive buffers.
    #[must_use]
    pub const fn slot_bytes(&self) -> u16 {
        match &self.card {
            // Buffers of 2 or 3 KiB, behind the headroom.
            Card::Intel(_) => 4096,
            // It takes buffers of any length.
            Card::Virtio(_) => 2048,
        }
    }

    /// Maps an arena that it can reach; `None` when it can reach any.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn arena(&self, plan: &ArenaPlan) -> Result<Option<Arena>, ArenaError> {
        if !self.function.wants_huge_pages() {
            return Ok(None);
        }
        // At least one huge page: an arena that would waste most of it gets ordinary ones.
        let frames = plan.frames.max((2 << 20) / plan.frame_size.max(1));
        Arena::new(&ArenaPlan { frames, huge_pages: true, ..*plan }).map(Some)
    }

    /// What memory [`arena`](Self::arena) maps, in words: `None` where any will do.
    #[must_use]
    pub fn memory(&self) -> Option<&'static str> {
        self.function.wants_huge_pages().then_some("huge pages, for want of an IOMMU")
    }

    /// Takes all memory out of the card's reach, for tests of what comes of that.
    ///
    /// # Errors
    /// What the kernel says; without an IOMMU it cannot be done.
    #[doc(hidden)]
    pub fn withdraw_memory(&self) -> std::io::Result<()> {
        self.function.withdraw_memory()
    }

    /// Opens one queue pair, on the thread that will own it.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open_queue<'p>(&self, pool: &'p Pool, queue: u32) -> Result<Box<dyn Gather<'p> + 'p>, OpenError> {
        match &self.card {
            Card::Intel(port) => port.open_queue(pool, queue),
            Card::Virtio(port) => port.open_queue(pool, queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_is_read() {
        let text = "vfio:03:00.0,queues=2,ring=512,mtu=9000,promiscuous=off,offloads=off,wait=1,force=on";
        let (pci, plan) = NicPlan::from_spec(&text.parse().expect("a port"), Way::Vfio).expect("a plan");
        assert_eq!(
            pci,
            PciPlan { way: Way::Vfio, address: "0000:03:00.0".parse().expect("good"), force: true }
        );
        let want = NicPlan {
            queues: 2,
            ring: 512,
            mtu: 9000,
            promiscuous: false,
            offloads: false,
            wait: Duration::from_secs(1),
        };
        assert_eq!(plan, want);
        for (bad, words) in [
            ("vfio:eth0", "lspci -D lists them"),
            ("vfio:03:00.0,ring=100", "power of two from 64 to 4096"),
            ("vfio:03:00.0,queues=0", "between 1 and 128"),
            ("vfio:03:00.0,mtu=60", "between 68 and 9198"),
            ("vfio:03:00.0,force=yes", "on or off"),
            ("vfio:03:00.0,speed=1", "unknown option"),
        ] {
            let spec = bad.parse().expect("a port");
            let error = NicPlan::from_spec(&spec, Way::Vfio).expect_err("bad").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_said_with_the_cure() {
        let (pci, plan) =
            NicPlan::from_spec(&"uio:ffff:ff:1f.7".parse().expect("a port"), Way::Uio).expect("a plan");
        let error = NicPort::open(&pci, &plan).expect_err("nothing there").to_string();
        assert!(error.contains("ffff:ff:1f.7") && error.contains("lspci -D lists them"), "{error}");
    }
}
