//! What a user types for a DPDK port: `dpdk:net_af_packet0,iface=eth0,ring=512`.

use crate::queue::Copying;
use crate::spec::{PortSpec, SpecError};

/// Our own words behind the device; all others are the device's, and handed to DPDK as they are. No network driver of
/// DPDK's has a word that is ours, but for `queues`, which means the same to those that have it.
const OURS: [&str; 6] = ["queues", "ring", "mtu", "memory", "promiscuous", "offloads"];

/// Drivers that must hear themselves of how many queues there are.
const TOLD_QUEUES: [&str; 2] = ["net_vhost", "net_virtio_user"];

/// How a DPDK device is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkPlan {
    /// The device: `net_null0`, `0000:03:00.0`.
    pub device: String,
    /// What DPDK is told of it: `size=64,copy=1`.
    pub arguments: Vec<(String, String)>,
    /// Queue pairs.
    pub queues: u16,
    /// Descriptors of each ring; as many as the device likes, when `None`.
    pub ring: Option<u16>,
    /// Bytes of the longest IP packet; as the device has it, when `None`.
    pub mtu: Option<u16>,
    /// MiB of memory, of the first port that is opened.
    pub memory_mib: Option<u32>,
    /// Whether frames to any address are taken.
    pub promiscuous: bool,
    /// Whether checksums and segments are left to the device, where it can.
    pub offloads: bool,
}

impl DpdkPlan {
    /// A device with what its driver thinks best.
    #[must_use]
    pub fn new(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            arguments: Vec::new(),
            queues: 1,
            ring: None,
            mtu: None,
            memory_mib: None,
            promiscuous: true,
            offloads: true,
        }
    }

    /// From what was typed.
    ///
    /// # Errors
    /// [`SpecError`] naming the option and what it may be.
    pub fn from_spec(spec: &PortSpec) -> Result<Self, SpecError> {
        let mut plan = Self::new(&spec.device);
        if let Some(queues) = spec.option("queues", "how many queue pairs, 1 to 1024")? {
            plan.queues = queues;
        }
        plan.ring = spec.option("ring", "a number of descriptors up to 32768")?;
        plan.mtu = spec.option("mtu", "a number of bytes from 68 to 65535")?;
        plan.memory_mib = spec.option("memory", "a number of MiB from 64 to 262144")?;
        for (key, flag) in [("promiscuous", &mut plan.promiscuous), ("offloads", &mut plan.offloads)] {
            match spec.option::<String>(key, "on or off")?.as_deref() {
                None | Some("on") => {}
                Some("off") => *flag = false,
                Some(other) => return Err(SpecError(format!("{spec}: {key}={other} is not on or off"))),
            }
        }
        let wrong = |what: &str| Err(SpecError(format!("{spec}: {what}")));
        if !(1..=1024).contains(&plan.queues) {
            return wrong("queues is how many queue pairs, 1 to 1024");
        }
        if plan.ring.is_some_and(|ring| !(32..=32768).contains(&ring)) {
            return wrong("ring is a number of descriptors from 32 to 32768");
        }
        if plan.mtu.is_some_and(|mtu| mtu < 68) {
            return wrong("mtu is a number of bytes from 68 to 65535");
        }
        if plan.memory_mib.is_some_and(|mib| !(64..=262_144).contains(&mib)) {
            return wrong("memory is a number of MiB from 64 to 262144");
        }
        let told = TOLD_QUEUES.contains(&plan.driver());
        let theirs =
            |(key, _): &&(String, String)| !OURS.contains(&key.as_str()) || (key == "queues" && told);
        plan.arguments = spec.options.iter().filter(theirs).cloned().collect();
        Ok(plan)
    }

    /// What DPDK is given.
    #[must_use]
    pub fn device_string(&self) -> String {
        let arguments = self.arguments.iter().map(|(key, value)| format!(",{key}={value}"));
        std::iter::once(self.device.clone()).chain(arguments).collect()
    }

    /// The driver by the device's name: `net_null` of `net_null0`; the address itself for PCI.
    #[must_use]
    pub fn driver(&self) -> &str {
        if self.is_pci() { &self.device } else { self.device.trim_end_matches(|c: char| c.is_ascii_digit()) }
    }

    /// Whether it is a PCI address: `0000:03:00.0` or `03:00.0`.
    #[must_use]
    pub fn is_pci(&self) -> bool {
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
        self.device.rsplit_once('.').is_some_and(|(rest, function)| {
            digits(function) && rest.contains(':') && rest.split(':').all(digits)
        })
    }

    /// The device's value of a word of its own.
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.arguments.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Who moves the bytes, by what the driver is known to do (DPDK 22.11, `drivers/net`).
    pub(super) fn copying(&self) -> Copying {
        match self.driver() {
            "net_null" | "net_ring" => Copying::InMemory,
            // The peer reads and writes our memory; as a NIC does.
            "net_virtio_user" => Copying::ZeroCopy,
            // Between the peer's memory and ours; between the socket's ring and ours.
            "net_vhost" | "net_memif" | "net_af_packet" | "net_af_xdp" => Copying::DriverCopies,
            "net_tap" | "net_pcap" => Copying::KernelCopies,
            _ if self.is_pci() => Copying::ZeroCopy,
            _ => Copying::DriverCopies,
        }
    }

    /// Whether the driver's segmentation is of no use: net_tap cuts in software, and refuses segments as long as the MTU
    /// allows, since it counts their Ethernet headers too (`tap_write_mbufs` of 22.11).
    pub(super) fn cuts_wrongly(&self) -> bool {
        self.driver() == "net_tap"
    }

    /// Whether it hands over what a veth or tap peer sends with its checksum undone, and does not say so.
    pub(super) fn partial_checksums(&self) -> bool {
        ["net_af_packet", "net_af_xdp", "net_pcap"].contains(&self.driver())
    }

    /// Whether its receive buffers must hold 2 KiB behind the headroom, so that slots of 4096 bytes are wanted: net_af_packet
    /// says so, and NICs use whole KiB.
    pub(super) fn wants_large_slots(&self) -> bool {
        self.is_pci() || self.driver() == "net_af_packet"
    }

    /// The path of a socket that this side makes and listens at.
    pub(super) fn listens_at(&self) -> Option<&str> {
        let is = |key: &str, value: &str| self.argument(key) == Some(value);
        match self.driver() {
            "net_vhost" if !is("client", "1") => self.argument("iface"),
            "net_virtio_user" if is("server", "1") => self.argument("path"),
            "net_memif" if is("role", "server") || is("role", "master") => self.argument("socket"),
            _ => None,
        }
    }

    /// Whether the other side is an interface of the kernel's with the same address: DPDK gives both sides of a tap one, also
    /// where virtio-user has made the tap. Not so for a tap that stands for another interface (`remote`).
    pub(super) fn shares_its_address(&self) -> bool {
        match self.driver() {
            "net_tap" => self.argument("remote").is_none(),
            "net_virtio_user" => self.argument("path") == Some("/dev/vhost-net"),
            _ => false,
        }
    }

    /// Whether the link stays down once its peer has gone, also when that is started again: virtio-user connects once, when it is
    /// opened, and only where it listens can another come (`virtio_user_dev.c` of 22.11).
    pub(super) fn never_connects_again(&self) -> bool {
        self.driver() == "net_virtio_user" && self.argument("server") != Some("1")
    }

    /// The name of the kernel's interface that this device makes.
    pub(super) fn makes_a_tap(&self) -> Option<&str> {
        if self.driver() == "net_tap" { self.argument("iface") } else { None }
    }

    /// Whether the driver looks for data behind the mbuf itself, so that it gets mbufs of its own, and what it receives
    /// is copied: net_af_xdp, whose UMEM is the pool's own memory.
    pub(super) fn wants_own_mbufs(&self) -> bool {
        self.driver() == "net_af_xdp"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> DpdkPlan {
        DpdkPlan::from_spec(&text.parse().expect("well formed")).expect("good")
    }

    /// What is ours is taken out, and the rest is DPDK's, in order.
    #[test]
    fn options_are_told_apart() {
        let one = plan("dpdk:net_af_packet0,iface=eth0,ring=512,blocksz=4096,queues=2");
        assert_eq!(one.device_string(), "net_af_packet0,iface=eth0,blocksz=4096");
        assert_eq!((one.queues, one.ring, one.driver()), (2, Some(512), "net_af_packet"));
        let two = plan("dpdk:net_virtio_user1,path=/tmp/s,queues=2,mtu=9000");
        assert_eq!(two.device_string(), "net_virtio_user1,path=/tmp/s,queues=2");
        assert_eq!((two.mtu, two.argument("path")), (Some(9000), Some("/tmp/s")));
        let three = plan("dpdk:0000:03:00.0,memory=512,promiscuous=off");
        assert_eq!((three.device_string().as_str(), three.is_pci()), ("0000:03:00.0", true));
        assert_eq!((three.memory_mib, three.promiscuous), (Some(512), false));
        // A capture file of each queue: the same word twice.
        let four = plan("dpdk:net_pcap0,rx_pcap=a,rx_pcap=b");
        assert_eq!(four.device_string(), "net_pcap0,rx_pcap=a,rx_pcap=b");
    }

    /// What holds of a driver may hang on what it is told.
    #[test]
    fn drivers_have_their_ways() {
        for (text, shares, for_good) in [
            ("dpdk:net_tap0,iface=t", true, false),
            ("dpdk:net_tap0,iface=t,remote=eth0", false, false),
            ("dpdk:net_virtio_user0,path=/dev/vhost-net,queues=1", true, true),
            ("dpdk:net_virtio_user0,path=/tmp/s", false, true),
            ("dpdk:net_virtio_user0,path=/tmp/s,server=1", false, false),
            ("dpdk:net_vhost0,iface=/tmp/s", false, false),
        ] {
            let plan = plan(text);
            assert_eq!(
                (plan.shares_its_address(), plan.never_connects_again()),
                (shares, for_good),
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("dpdk:net_null0,queues=0", "1 to 1024"),
            ("dpdk:net_null0,ring=many", "ring=many is not a number of descriptors"),
            ("dpdk:net_null0,ring=8", "from 32 to 32768"),
            ("dpdk:net_null0,mtu=9", "from 68 to 65535"),
            ("dpdk:net_null0,memory=1", "from 64 to 262144"),
            ("dpdk:net_null0,promiscuous=yes", "not on or off"),
        ] {
            let error = DpdkPlan::from_spec(&text.parse().expect("well formed")).expect_err("bad");
            assert!(error.0.contains(words), "{error}");
        }
    }
}
