//! A port over AF_XDP: one interface, its program, and what all its queues have in common.

use super::program::{Filter, Mode, PortProgram, Program, Verdicts};
use super::socket::hold_promiscuous;
use crate::error::OpenError;
use crate::link::{KernelVersion, Link, ZeroCopy};
use crate::spec::{NumberList, PortSpec, SpecError};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a user may wish for a port.
#[derive(Clone, Debug)]
pub struct XdpPlan {
    /// The interface.
    pub interface: String,
    /// Its queues to bind; all when `None`.
    pub queues: Option<Vec<u32>>,
    /// Where the program is attached; native, then generic, when `None`.
    pub attach: Option<Mode>,
    /// Whether the device should read and write the arena itself; tried when the driver claims it, when `None`.
    pub zero_copy: Option<bool>,
    /// Entries of each ring: a power of two.
    pub ring: u32,
    /// Whether chunks may lie anywhere in the arena.
    pub unaligned: bool,
    /// Microseconds for which a system call of ours may poll the NIC's queue itself.
    pub busy_poll: Option<u32>,
    /// Which frames are ours.
    pub filter: Filter,
    /// Whether frames for other addresses should come too: a forwarder wants them.
    pub promiscuous: bool,
}

impl XdpPlan {
    /// The defaults for an interface: every queue, every frame, the best mode that there is.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queues: None,
            attach: None,
            zero_copy: None,
            ring: 2048,
            unaligned: false,
            busy_poll: None,
            filter: Filter::whole_port(),
            promiscuous: true,
        }
    }

    /// From `af-xdp:eth0[,queues=0-3][,mode=copy|zero-copy][,attach=native|generic][,ring=N][,chunks=aligned|unaligned]`
    /// `[,busy-poll=MICROSECONDS]`.
    ///
    /// # Errors
    /// [`SpecError`] naming the option and what it may be.
    pub fn from_spec(spec: &PortSpec) -> Result<Self, SpecError> {
        // `force` is for whoever asks for a whole port, and decided there; named here, where all options are.
        spec.only(&["queues", "mode", "attach", "ring", "chunks", "busy-poll", "force"])?;
        let word = |key: &str, words: [&str; 2]| -> Result<Option<bool>, SpecError> {
            let may_be = format!("{} or {}", words[0], words[1]);
            match spec.option::<String>(key, &may_be)? {
                None => Ok(None),
                Some(value) if value == words[0] => Ok(Some(true)),
                Some(value) if value == words[1] => Ok(Some(false)),
                Some(value) => Err(SpecError(format!("{spec}: {key}={value}, but {key} is {may_be}"))),
            }
        };
        let ring = spec.option("ring", "a power of two from 64 to 32768")?.unwrap_or(2048);
        if !u32::is_power_of_two(ring) || !(64..=32768).contains(&ring) {
            return Err(SpecError(format!("{spec}: ring={ring} is not a power of two from 64 to 32768")));
        }
        let native = word("attach", ["native", "generic"])?;
        Ok(Self {
            queues: spec.option::<NumberList>("queues", "a list of numbers like 0-3")?.map(|list| list.0),
            attach: native.map(|native| if native { Mode::Native } else { Mode::Generic }),
            zero_copy: word("mode", ["zero-copy", "copy"])?,
            ring,
            unaligned: word("chunks", ["unaligned", "aligned"])?.unwrap_or(false),
            busy_poll: spec.option("busy-poll", "a number of microseconds")?,
            ..Self::new(&spec.device)
        })
    }
}

/// An interface with our program on it. Any thread may hold it; its queues are opened on their workers' threads.
///
/// When the last holder lets go, the program comes off and promiscuous mode ends; when the process dies, the kernel
/// sees to both.
#[derive(Debug)]
pub struct XdpPort {
    pub(super) plan: XdpPlan,
    pub(super) link: Link,
    pub(super) program: PortProgram,
    _promiscuous: Option<OwnedFd>,
    open_queues: AtomicU32,
}

impl XdpPort {
    /// Attaches the program. No frame is taken from the kernel before a queue is opened.
    ///
    /// # Errors
    /// [`OpenError`]: no such interface, it is down, a queue that it does not have, or what the kernel refused.
    pub fn open(plan: XdpPlan) -> Result<Arc<Self>, OpenError> {
        let name = plan.interface.clone();
        let link = Link::by_name(&name).map_err(|error| {
            OpenError::new(&name, "looking at the interface", io::Error::other(error.to_string()))
        })?;
        if !link.up {
            return Err(OpenError::new(
                &name,
                "opening the port",
                io::Error::from_raw_os_error(libc::ENETDOWN),
            )
            .hint(format!("the interface is down; bring it up first: ip link set {name} up")));
        }
        let queues = link.receive_queues.max(1);
        if let Some(missing) = plan.queues.iter().flatten().find(|queue| **queue >= queues) {
            let why = format!("there is no queue {missing}: {name} has {queues}, numbered from 0");
            return Err(OpenError::refused(&name, "choosing the queues", why).hint(format!(
                "ethtool -l {name} shows how many it can have, ethtool -L {name} combined N sets them"
            )));
        }
        if plan.zero_copy == Some(true)
            && let ZeroCopy::No(why) = link.zero_copy()
        {
            return Err(OpenError::refused(&name, "asking for zero-copy", why)
                .hint("leave mode=zero-copy out to take what there is"));
        }
        let attach_error = |error: super::AttachError| OpenError {
            device: name.clone(),
            step: "taking the port".into(),
            source: io::Error::other(error.to_string()),
            hint: None,
        };
        let program = Program::load(&plan.filter, queues).map_err(attach_error)?;
        let program = program.attach_best(link.index, &name, plan.attach).map_err(attach_error)?;
        if let Some(refusal) = program.native_refusal() {
            tracing::warn!("{name}: native XDP was refused, frames go the slow way: {refusal}");
        }
        if program.mode() == Mode::Generic && link.partial_checksums() {
            tracing::warn!(
                "{name}: in generic mode its peer may send TCP uncut, tens of kilobytes at a time, which is lost here; \
                 let the peer cut it: ethtool -K PEER tso off gso off"
            );
        }
        let promiscuous = if plan.promiscuous {
            let held = hold_promiscuous(link.index);
            Some(held.map_err(|source| {
                let error = OpenError::new(&name, "asking for frames of every address", source);
                match error.source.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => {
                        error.hint("run as root, or give the program CAP_NET_RAW")
                    }
                    _ => error,
                }
            })?)
        } else {
            None
        };
        Ok(Arc::new(Self { plan, link, program, _promiscuous: promiscuous, open_queues: AtomicU32::new(0) }))
    }

    /// Bytes of the longest frame on its wire, with a VLAN tag, which is not counted in the MTU.
    #[must_use]
    pub const fn frame_bytes(&self) -> u32 {
        self.link.mtu + 14 + 4
    }

    /// Bytes of a slot, 2048 or 4096, that is large enough for such a frame, if either is.
    #[must_use]
    pub fn slot_bytes(&self) -> u16 {
        let small = room(2048, self.may_zero_copy().then_some(self.link.driver.as_str()));
        if self.frame_bytes() > small { 4096 } else { 2048 }
    }

    /// Whether the device might read and write the arena itself: whether that is tried.
    pub(super) fn may_zero_copy(&self) -> bool {
        self.plan
            .zero_copy
            .unwrap_or_else(|| self.program.mode() == Mode::Native && self.link.zero_copy() == ZeroCopy::Yes)
    }

    /// Whether a slot takes the longest frame whole when the device writes it.
    pub(super) fn fits_zero_copy(&self, slot: u16) -> bool {
        self.frame_bytes() <= room(slot, Some(&self.link.driver))
    }

    /// Whether a checksum that is left to the kernel in copy mode comes out right. For virtio_net, whose packets it makes of
    /// the arena's own pages, it was wrong in each packet on Linux 6.12, and right on 7.2 (seen in guests).
    pub(super) fn kernel_adds_checksums(&self) -> bool {
        self.link.driver != "virtio_net" || KernelVersion::running() >= KernelVersion::new(7, 2)
    }

    /// Sends a queue's frames to its socket from now on.
    pub(super) fn open_queue(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), OpenError> {
        let error = |source| {
            OpenError::new(&self.plan.interface, format!("giving queue {queue} to the program"), source)
        };
        if !self.program.is_attached() {
            let gone = io::Error::other("the program is no longer on the interface");
            return Err(error(gone).hint("it comes off with the last queue: open the port again"));
        }
        self.program.insert(queue, socket).map_err(|refusal| error(io::Error::other(refusal.to_string())))?;
        self.open_queues.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the kernel have a queue's frames again; with the last queue the program comes off.
    pub(super) fn close_queue(&self, queue: u32) {
        if let Err(error) = self.program.remove(queue) {
            tracing::debug!("{}: taking queue {queue} from the program: {error}", self.plan.interface);
        }
        if self.open_queues.fetch_sub(1, Ordering::Relaxed) == 1
            && let Err(error) = self.program.detach()
        {
            tracing::warn!("{}: taking the program off: {error}", self.plan.interface);
        }
    }

    /// The interface as it was when the port was opened.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// The queues to be bound.
    #[must_use]
    pub fn queues(&self) -> Vec<u32> {
        self.plan.queues.clone().unwrap_or_else(|| (0..self.link.receive_queues.max(1)).collect())
    }

    /// Whether all queues were asked for, rather than some.
    #[must_use]
    pub const fn takes_all_queues(&self) -> bool {
        self.plan.queues.is_none()
    }

    /// Entries of each ring.
    #[must_use]
    pub const fn ring(&self) -> u32 {
        self.plan.ring
    }

    /// Where the program sits.
    #[must_use]
    pub fn attach_mode(&self) -> Mode {
        self.program.mode()
    }

    /// What the program has decided so far.
    ///
    /// # Errors
    /// When the kernel does not let the counters be read.
    pub fn verdicts(&self) -> io::Result<Verdicts> {
        self.program.verdicts()
    }
}

/// Bytes that the kernel keeps free in front of each received frame (`XDP_PACKET_HEADROOM`, `include/uapi/linux/bpf.h`).
const RECEIVE_HEADROOM: u32 = 256;

/// Bytes of a frame that one slot receives: by a driver of this name in zero-copy mode, or by the kernel's copying.
///
/// igb tells its NIC the size of a buffer in whole kilobytes (`igb_setup_srrctl`, Linux 6.14 to 7.2): of a slot of 2048 bytes
/// it leaves 1024, and a longer frame comes as two, each of which looks whole. Nothing but a larger slot helps.
fn room(slot: u16, zero_copy: Option<&str>) -> u32 {
    let room = u32::from(slot).saturating_sub(RECEIVE_HEADROOM);
    if zero_copy == Some("igb") { room / 1024 * 1024 } else { room }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn igb_has_room_in_whole_kilobytes() {
        assert_eq!((room(2048, Some("igb")), room(4096, Some("igb"))), (1024, 3072));
        assert_eq!((room(2048, Some("ice")), room(2048, None)), (1792, 1792));
    }
}
