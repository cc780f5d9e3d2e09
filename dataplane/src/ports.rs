//! Opening what the user named. Here, and only here, a driver is chosen.

use crate::app::PortId;
use crate::rights;
#[cfg(feature = "dpdk")]
use drivers::QueuePair;
#[cfg(feature = "dpdk")]
use drivers::dpdk::{self, DpdkPlan, DpdkPort, DpdkQueue};
use drivers::link::{self, Link, ZeroCopy};
use drivers::nic::vhost::{VhostPlan, VhostPort};
use drivers::nic::{NicPlan, NicPort};
use drivers::packet::{PacketPlan, PacketQueue};
use drivers::pcap::{PcapPlan, PcapQueue};
use drivers::pci::{self, Way};
use drivers::wrap::{Flatten, Lossy, LossyPlan, Segment, Tap, TapPlan};
use drivers::xdp::{Filter, Umem, Verdicts, XdpPlan, XdpPort, XdpQueue};
use drivers::{Gather, OpenError, PortSpec, SpecError};
use ringbuf::{Arena, ArenaError, ArenaPlan, BURST, Pool, Segmentation};
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A queue pair of whatever driver: one indirect call a burst. Those that cannot gather are wrapped in [`Flatten`].
pub type AnyQueue<'p> = Box<dyn Gather<'p> + 'p>;

/// A port that has been opened, as far as that can be done before a worker opens its queues.
#[derive(Debug)]
pub struct Port {
    id: PortId,
    spec: PortSpec,
    device: Device,
    /// Why this driver, when the user named none.
    choice: Option<String>,
    /// Where everything that passes is recorded.
    tap: Option<PathBuf>,
    /// What the packets that come in suffer, in a laboratory.
    bad_wire: Option<LossyPlan>,
}

/// What a port is opened for, where that makes one driver better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Each packet by itself: forwarding, and the client of a load.
    Frames,
    /// Long streams of the server's, by so many workers, each of which wants a queue.
    Files {
        /// How many.
        workers: usize,
    },
}

#[derive(Debug)]
enum Device {
    Xdp(Arc<XdpPort>),
    Packet(PacketPlan),
    Pcap(PcapPlan),
    Vhost(Arc<VhostPort>),
    Nic(Arc<NicPort>),
    #[cfg(feature = "dpdk")]
    Dpdk(Arc<DpdkPort>),
}

/// Frames for a queue that copies between rings of its own and the arena: two bursts each way.
const COPYING_FRAMES: u32 = 256;
const _: () = assert!(COPYING_FRAMES as usize == 4 * BURST);

/// Whether a port is described as its driver wants it. Looks at no device.
///
/// # Errors
/// [`SpecError`], which names the option and what it may be.
pub fn check(spec: &PortSpec) -> Result<(), SpecError> {
    let mut bare = spec.clone();
    bare.take("tap");
    bad_wire(&mut bare)?;
    if takes_force(&bare) {
        forced(&mut bare)?;
    }
    let checked = match bare.driver.as_deref() {
        Some("packet") => PacketPlan::from_spec(&bare).map(drop),
        Some("pcap") => PcapPlan::from_spec(&bare).map(drop),
        #[cfg(feature = "dpdk")]
        Some("dpdk") => DpdkPlan::from_spec(&bare).map(drop),
        Some("vhost-user") => VhostPlan::from_spec(&bare).map(drop),
        Some("vfio") => NicPlan::from_spec(&bare, Way::Vfio).map(drop),
        Some("uio") => NicPlan::from_spec(&bare, Way::Uio).map(drop),
        // af-xdp, or none: other names were refused when the spec was read.
        _ => XdpPlan::from_spec(&bare).map(drop),
    };
    // Who asks has the port before their eyes: it need not be in the sentence as well.
    let port = format!("{bare}: ");
    checked
        .map_err(|SpecError(words)| SpecError(words.strip_prefix(&port).map(str::to_owned).unwrap_or(words)))
}

impl Port {
    /// Opens a port: looks at the device, and takes what all its queues share.
    ///
    /// Every driver knows `tap=FILE`: a capture (pcapng) of all that its queues receive and transmit; one file a queue,
    /// `FILE.1` for queue 1 and so on. tcpdump on the interface sees none of what an XDP program takes.
    ///
    /// `af-xdp` knows `force=on`: a port that is taken whole may carry the machine's default route.
    ///
    /// For laboratories, every driver can also be a bad wire: `loss=`, `duplicate=`, `corrupt=` and `reorder=` are percent
    /// of the packets that come in, below 100, and `seed=` makes them different ones.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open(id: PortId, spec: &PortSpec) -> Result<Self, OpenError> {
        Self::open_for(id, spec, &Filter::whole_port(), Purpose::Frames)
    }

    /// The same, but of what arrives only what `filter` takes is ours; the rest reaches the kernel as before. Drivers
    /// without a filter of their own deliver everything, and leave the choice to the app. The purpose decides which driver
    /// is the best when the user names none.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words: also when the filter shares an address with the kernel, and the driver
    /// cannot keep the kernel from answering for it.
    pub fn open_for(
        id: PortId,
        spec: &PortSpec,
        filter: &Filter,
        purpose: Purpose,
    ) -> Result<Self, OpenError> {
        let wrong = |error: SpecError| OpenError::refused(&spec.device, "reading the port", error.0);
        let mut bare = spec.clone();
        let tap = bare.take("tap").map(PathBuf::from);
        let forced = takes_force(&bare) && forced(&mut bare).map_err(wrong)?;
        let bad_wire = bad_wire(&mut bare).map_err(wrong)?;
        rights::check(spec)?;
        let (device, choice) = match spec.driver.as_deref() {
            Some("af-xdp") => {
                let plan = XdpPlan::from_spec(&bare).map_err(wrong)?;
                (Device::Xdp(xdp(XdpPlan { filter: filter.clone(), ..plan })?), None)
            }
            Some("packet") => (Device::Packet(PacketPlan::from_spec(&bare).map_err(wrong)?), None),
            Some("pcap") => (Device::Pcap(PcapPlan::from_spec(&bare).map_err(wrong)?), None),
            #[cfg(feature = "dpdk")]
            Some("dpdk") => {
                let plan = DpdkPlan::from_spec(&bare).map_err(wrong)?;
                (Device::Dpdk(DpdkPort::open(&plan)?), None)
            }
            Some("vhost-user") => {
                (Device::Vhost(VhostPort::open(VhostPlan::from_spec(&bare).map_err(wrong)?)?), None)
            }
            Some(name @ ("vfio" | "uio")) => {
                let way = if name == "vfio" { Way::Vfio } else { Way::Uio };
                let (pci, plan) = NicPlan::from_spec(&bare, way).map_err(wrong)?;
                (Device::Nic(Arc::new(NicPort::open(&pci, &plan)?)), None)
            }
            Some(other) => {
                let why = format!("unknown driver \"{other}\"");
                return Err(OpenError::refused(&spec.device, "reading the port", why));
            }
            None => best(&bare, filter, purpose)?,
        };
        if let (Device::Packet(_), Some(endpoint)) =
            (&device, filter.endpoints().iter().find(|at| !at.is_own()))
        {
            let why = format!(
                "the kernel has {} too, and would reset every connection to it; only af-xdp can share an address\n  \
                 give an address of the same network that the kernel does not have, or --port af-xdp:{}",
                endpoint.address(),
                spec.device
            );
            return Err(OpenError::refused(&spec.device, "sharing an address", why));
        }
        if let Device::Xdp(port) = &device
            && filter.endpoints().is_empty()
        {
            look_before_taking(port.link(), forced)?;
        }
        Ok(Self { id, spec: spec.clone(), device, choice, tap, bad_wire })
    }

    /// Its place on the command line.
    #[must_use]
    pub const fn id(&self) -> PortId {
        self.id
    }

    /// What the user typed.
    #[must_use]
    pub const fn spec(&self) -> &PortSpec {
        &self.spec
    }

    /// Why this driver, when the user named none.
    #[must_use]
    pub fn choice(&self) -> Option<&str> {
        self.choice.as_deref()
    }

    /// Its queues, to be shared out among workers.
    #[must_use]
    pub fn queues(&self) -> Vec<u32> {
        match &self.device {
            Device::Xdp(port) => port.queues(),
            Device::Packet(plan) => (0..plan.queues).collect(),
            Device::Pcap(_) => vec![0],
            Device::Vhost(port) => (0..port.plan().queues).collect(),
            Device::Nic(port) => (0..port.plan().queues).collect(),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => (0..port.plan().queues.into()).collect(),
        }
    }

    /// Frames that one of its queues may hold: what is offered for receiving, and what waits to be sent.
    #[must_use]
    pub fn frames_per_queue(&self) -> u32 {
        match &self.device {
            Device::Xdp(port) => 2 * port.ring(),
            Device::Packet(_) | Device::Pcap(_) => COPYING_FRAMES,
            Device::Vhost(port) => 2 * u32::from(port.plan().ring),
            Device::Nic(port) => 2 * u32::from(port.plan().ring),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => port.frames_per_queue(),
        }
    }

    /// Frames that all its queues together take in before anybody looks: what comes beyond is lost. `None` where nothing is,
    /// because the other side waits.
    #[must_use]
    pub fn receive_slots(&self) -> Option<u32> {
        let (ring, queues) = match &self.device {
            Device::Xdp(port) => (port.ring(), port.queues().len()),
            Device::Packet(plan) => (plan.ring, plan.queues as usize),
            Device::Pcap(_) => return None,
            Device::Vhost(port) => (port.plan().ring.into(), port.plan().queues as usize),
            Device::Nic(port) => (port.plan().ring.into(), port.plan().queues as usize),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => (port.receive_ring().into(), port.plan().queues.into()),
        };
        Some(ring.saturating_mul(u32::try_from(queues).unwrap_or(u32::MAX)))
    }

    /// Bytes of a slot that suits it: 2048, or 4096 where longer frames come, or the device leaves less room in a slot.
    #[must_use]
    pub fn slot_bytes(&self) -> u16 {
        match &self.device {
            Device::Xdp(port) => port.slot_bytes(),
            // The kernel hands over TCP before it is cut.
            Device::Packet(_) => 4096,
            Device::Pcap(_) => 2048,
            // 256 bytes of each slot are headroom, and 12 the header.
            Device::Vhost(port) if port.plan().mtu + 18 <= 2048 - 256 - 12 => 2048,
            Device::Vhost(_) => 4096,
            Device::Nic(port) => port.slot_bytes(),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) if port.frame_bytes() <= 2048 - 256 => 2048,
            #[cfg(feature = "dpdk")]
            Device::Dpdk(_) => 4096,
        }
    }

    /// Whether it hands over TCP packets larger than a frame on the wire, for the other side to cut.
    #[must_use]
    pub fn hands_over_uncut(&self) -> bool {
        match &self.device {
            Device::Packet(_) => true,
            Device::Xdp(_) | Device::Pcap(_) | Device::Vhost(_) | Device::Nic(_) => false,
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => port.hands_over_uncut(),
        }
    }

    /// Maps an arena that this port's device can reach, where not every memory is: `None` for a device that any will do.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn arena(&self, plan: &ArenaPlan) -> Result<Option<Arena>, ArenaError> {
        match &self.device {
            Device::Xdp(_) | Device::Packet(_) | Device::Pcap(_) => Ok(None),
            // Its other process maps one file.
            Device::Vhost(_) => Arena::shared(plan).map(Some),
            Device::Nic(port) => port.arena(plan),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(_) => dpdk::arena(plan).map(Some),
        }
    }

    /// What memory [`arena`](Self::arena) maps, in words: `None` where any will do.
    #[must_use]
    pub fn memory(&self) -> Option<&'static str> {
        match &self.device {
            Device::Xdp(_) | Device::Packet(_) | Device::Pcap(_) => None,
            Device::Vhost(_) => Some("a file that another process maps"),
            Device::Nic(port) => port.memory(),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(_) => Some("memory of DPDK's"),
        }
    }

    /// The address and the MTU of a device that is no interface of the kernel's.
    #[must_use]
    pub fn own_ethernet(&self) -> Option<([u8; 6], u16)> {
        match &self.device {
            Device::Xdp(_) | Device::Packet(_) | Device::Pcap(_) | Device::Vhost(_) => None,
            Device::Nic(port) => Some((port.mac(), port.plan().mtu)),
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => Some((port.mac(), port.mtu())),
        }
    }

    /// Opens one queue, on the thread that will own it. `cuts` says whether packets may come that are still to be cut
    /// into segments: it is done in software then where the device cannot.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open_queue<'p>(
        &self,
        umem: &Rc<Umem<'p>>,
        queue: u32,
        cuts: bool,
    ) -> Result<AnyQueue<'p>, OpenError> {
        let opened: AnyQueue<'p> = match &self.device {
            Device::Xdp(port) => Box::new(XdpQueue::open(umem, port, queue)?),
            Device::Packet(plan) => {
                Box::new(PacketQueue::open(umem.pool(), &PacketPlan { queue, ..plan.clone() })?)
            }
            Device::Pcap(plan) => Box::new(Flatten::new(PcapQueue::open(umem.pool(), plan)?, umem.pool())),
            Device::Vhost(port) => port.open_queue(umem.pool(), queue)?,
            Device::Nic(port) => port.open_queue(umem.pool(), queue)?,
            #[cfg(feature = "dpdk")]
            Device::Dpdk(port) => match DpdkQueue::open(umem, port, queue)? {
                single if single.caps().packet_frames == 1 => Box::new(Flatten::new(single, umem.pool())),
                chains => Box::new(chains),
            },
        };
        let opened = match &self.tap {
            None => opened,
            Some(file) => tapped(opened, file, queue)?,
        };
        // Around the tap, which so records what leaves. A capture file takes packets of any size.
        let each = [Segmentation::Tcp4, Segmentation::Tcp4Ecn, Segmentation::Tcp6, Segmentation::Tcp6Ecn];
        let all = || each.into_iter().chain([Segmentation::Udp]).all(|kind| opened.cuts(kind));
        let cuts = cuts && !matches!(self.device, Device::Pcap(_)) && !all();
        let opened = if cuts { Box::new(Segment::rest(opened, umem.pool())) } else { opened };
        Ok(match self.bad_wire {
            None => opened,
            Some(plan) => {
                let plan = LossyPlan { seed: plan.seed.wrapping_add(queue.into()), ..plan };
                Box::new(Lossy::new(opened, umem.pool(), plan))
            }
        })
    }

    /// Waits until what is sent to the port gets somewhere, once all its queues are open; for a few seconds at most.
    ///
    /// # Errors
    /// [`OpenError`] when it will not get anywhere.
    pub fn wait_ready(&self) -> Result<(), OpenError> {
        match &self.device {
            Device::Vhost(port) => port.wait_ready(),
            _ => Ok(()),
        }
    }

    /// What the XDP program decided, where there is one.
    #[must_use]
    pub fn verdicts(&self) -> Option<Verdicts> {
        match &self.device {
            Device::Xdp(port) => port.verdicts().ok(),
            _ => None,
        }
    }

    /// How many queues the interface has by now, when that is no longer what was opened.
    #[must_use]
    pub fn queues_changed(&self) -> Option<u32> {
        let opened = match &self.device {
            Device::Xdp(port) if port.takes_all_queues() => port.link(),
            _ => return None,
        };
        link::queue_count(&opened.name).ok().filter(|count| *count != opened.receive_queues)
    }

    /// The interface as AF_XDP found it.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        match &self.device {
            Device::Xdp(port) => Some(port.link()),
            _ => None,
        }
    }
}

/// Takes a port for AF_XDP; says who has it, if another has.
fn xdp(plan: XdpPlan) -> Result<Arc<XdpPort>, OpenError> {
    XdpPort::open(plan).map_err(rights::name_the_holder)
}

/// Gives PCI cards back that a process which died has left, but for those of these ports: they are taken over. Says in the log
/// what it did.
pub fn give_back_abandoned(specs: &[PortSpec]) {
    let wanted: Vec<_> = specs
        .iter()
        .filter(|spec| matches!(spec.driver.as_deref(), Some("vfio" | "uio")))
        .filter_map(|spec| spec.device.parse().ok())
        .collect();
    for told in pci::restore_abandoned(&pci::Root::machine(), &wanted) {
        tracing::warn!("{told}");
    }
}

/// Whether `force` is an option of this port's that is seen to here.
fn takes_force(spec: &PortSpec) -> bool {
    matches!(spec.driver.as_deref(), None | Some("af-xdp"))
}

/// Whether the user has said that a port is to be taken whatever depends on it.
fn forced(spec: &mut PortSpec) -> Result<bool, SpecError> {
    match spec.take("force").as_deref() {
        None | Some("off") => Ok(false),
        Some("on") => Ok(true),
        Some(other) => Err(SpecError(format!("force={other} is not on or off"))),
    }
}

/// A port that is taken whole is lost to the kernel: what still needs it there is said, and the way to the rest of the world is
/// not cut off unasked.
fn look_before_taking(link: &Link, forced: bool) -> Result<(), OpenError> {
    let name = &link.name;
    if !forced && link.routes().is_ok_and(|routes| routes.iter().any(|route| route.bits == 0)) {
        let why = "this machine's default route goes through it, and none of its packets would reach the kernel any more";
        let cure = format!("name another interface, or say that it is meant: --port af-xdp:{name},force=on");
        return Err(OpenError::refused(name, "taking the whole port", why).hint(cure));
    }
    let is_usual = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    for at in link.addresses().unwrap_or_default().into_iter().map(|at| at.address).filter(is_usual) {
        tracing::warn!(
            "{name} has the address {at}: as long as this runs, nothing that is sent to it reaches the kernel"
        );
    }
    Ok(())
}

/// What the user wants packets to suffer; `None` when nothing.
fn bad_wire(spec: &mut PortSpec) -> Result<Option<LossyPlan>, SpecError> {
    let mut percent = |key: &str| -> Result<u16, SpecError> {
        let Some(text) = spec.take(key) else { return Ok(0) };
        let number = text.parse::<f64>().ok().filter(|number| (0.0..100.0).contains(number));
        let number =
            number.ok_or_else(|| SpecError(format!("{key}={text} is no number of percent below 100")))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 65536")]
        Ok((number / 100.0 * 65536.0) as u16)
    };
    let (drop, duplicate) = (percent("loss")?, percent("duplicate")?);
    let (corrupt, reorder) = (percent("corrupt")?, percent("reorder")?);
    let seed = spec.take("seed").map_or(Ok(0), |text| {
        text.parse().map_err(|_| SpecError(format!("seed={text} is no whole number")))
    })?;
    let plan = LossyPlan { seed, drop, duplicate, corrupt, reorder, ..LossyPlan::default() };
    Ok((drop | duplicate | corrupt | reorder != 0).then_some(plan))
}

/// The best driver that works on an interface, and why it is that one.
fn best(spec: &PortSpec, filter: &Filter, purpose: Purpose) -> Result<(Device, Option<String>), OpenError> {
    let wrong = |error: SpecError| OpenError::refused(&spec.device, "reading the port", error.0);
    if let Purpose::Files { workers } = purpose
        && let Some((plan, why)) = packet_for_files(spec, filter, workers)
    {
        let words =
            format!("{} runs over packet, which cuts large segments in the kernel: {why}", spec.device);
        return Ok((Device::Packet(plan), Some(words)));
    }
    // An interface that is not there, or is down, is so for every driver.
    let plan = XdpPlan::from_spec(spec).map_err(wrong)?;
    let refusal = match xdp(XdpPlan { filter: filter.clone(), ..plan }) {
        Ok(port) => {
            let words = format!("{} runs over af-xdp, the fastest driver that works there", spec.device);
            return Ok((Device::Xdp(port), Some(words)));
        }
        // Nor is one whose frames another program takes before anybody else sees them.
        Err(error)
            if Link::by_name(&spec.device).map_or(true, |link| !link.up || link.attached.is_some()) =>
        {
            return Err(error);
        }
        Err(error) => error,
    };
    let plan = PacketPlan::from_spec(spec).map_err(wrong)?;
    let words = format!("{} runs over packet, since af-xdp does not work there: {refusal}", spec.device);
    Ok((Device::Packet(plan), Some(words)))
}

/// How `packet` would serve files, and why it does so faster than `af-xdp`; `None` where it does not, or cannot.
///
/// Without zero-copy both copy each byte, but `af-xdp` pays for each packet what `packet` pays for each 60 KiB, which the
/// kernel cuts (measured in the book's chapter on measuring, beside nginx). An address that the kernel has as well can be
/// shared over `af-xdp` only, and options of `af-xdp`'s are a wish to have it.
fn packet_for_files(spec: &PortSpec, filter: &Filter, workers: usize) -> Option<(PacketPlan, String)> {
    let link = Link::by_name(&spec.device).ok().filter(|link| link.up && link.attached.is_none())?;
    let ZeroCopy::No(why) = link.zero_copy() else { return None };
    if filter.endpoints().iter().any(|endpoint| !endpoint.is_own()) {
        return None;
    }
    let plan = PacketPlan::from_spec(spec).ok()?;
    let queues = plan.queues.max(u32::try_from(workers).ok()?);
    Some((PacketPlan { queues, ..plan }, why))
}

/// Records all that a queue receives and transmits.
fn tapped<'p>(queue: AnyQueue<'p>, file: &Path, number: u32) -> Result<AnyQueue<'p>, OpenError> {
    let path =
        if number == 0 { file.to_owned() } else { PathBuf::from(format!("{}.{number}", file.display())) };
    let error = |source| {
        let step = format!("recording to {}", path.display());
        OpenError::new(queue.caps().device.as_str(), step, source)
            .hint("give tap= the name of a file, in a folder that is there and can be written to")
    };
    let writer = BufWriter::new(File::create(&path).map_err(error)?);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let device = queue.caps().device.clone();
    match Tap::new(queue, writer, TapPlan::default(), clock) {
        Ok(tap) => Ok(Box::new(tap)),
        Err(source) => Err(OpenError::new(device, format!("recording to {}", path.display()), source)),
    }
}

/// What a worker's queues share: its arena as each driver knows it.
#[must_use]
pub fn umem<'p>(pool: &'p Pool) -> Rc<Umem<'p>> {
    Umem::new(pool)
}
