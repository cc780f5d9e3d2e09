//! A vhost-user port, and how its queues are opened.

use super::bell::{Bells, Line};
use super::door::Door;
use super::supervisor::{Member, PATIENCE, Peer, Shared, supervise};
use crate::error::OpenError;
use crate::nic::virtio::{self, Addresses, Layout, VirtioPlan, feature};
use crate::queue::{Copying, Gather};
use crate::spec::{PortSpec, SpecError};
use ringbuf::Pool;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a vhost-user port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostPlan {
    /// The socket.
    pub path: PathBuf,
    /// Queue pairs.
    pub queues: u32,
    /// Descriptors of each ring.
    pub ring: u16,
    /// Packed rings.
    pub packed: bool,
    /// Checksums and segmentation are left to the other side where it can.
    pub offloads: bool,
    /// Bytes of the longest packet behind its Ethernet header.
    pub mtu: u32,
    /// We listen, and the back end connects.
    pub server: bool,
    /// How long the first back end is waited for.
    pub wait: Duration,
}

/// Packets up to this MTU fit one slot of any arena. Then buffers need not be mergeable, and nobody counts them in the
/// headers.
const ONE_BUFFER: u32 = 1500;

impl VhostPlan {
    /// Reads `vhost-user:/run/sock,queues=..,ring=..,packed=on,offloads=off,mtu=..,server=on,wait=..`.
    ///
    /// # Errors
    /// [`SpecError`] naming the mistake.
    pub fn from_spec(spec: &PortSpec) -> Result<Self, SpecError> {
        spec.only(&["queues", "ring", "packed", "offloads", "mtu", "server", "wait"])?;
        let switch = |key: &str, default: bool| match spec.option::<String>(key, "on or off")?.as_deref() {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(SpecError(format!("{spec}: {key}={other} is not on or off"))),
        };
        let within = |key: &str, number: u32, most: u32| match number {
            n if (1..=most).contains(&n) => Ok(n),
            n => Err(SpecError(format!("{spec}: {key}={n} is not between 1 and {most}"))),
        };
        let ring: u16 = spec.option("ring", "a power of two")?.unwrap_or(256);
        if !ring.is_power_of_two() || !(4..=1 << 15).contains(&ring) {
            return Err(SpecError(format!("{spec}: ring={ring} is not a power of two from 4 to 32768")));
        }
        Ok(Self {
            path: PathBuf::from(&spec.device),
            queues: within("queues", spec.option("queues", "a number")?.unwrap_or(1), 128)?,
            ring,
            packed: switch("packed", false)?,
            offloads: switch("offloads", true)?,
            mtu: within("mtu", spec.option("mtu", "a number")?.unwrap_or(1500), 65_535 - 18)?,
            server: switch("server", false)?,
            wait: Duration::from_secs(spec.option("wait", "a number of seconds")?.unwrap_or(10)),
        })
    }

    /// What we would take of what a back end offers.
    pub(super) const fn wanted(&self) -> u64 {
        let mut wanted = feature::VERSION_1 | feature::INDIRECT | feature::IN_ORDER | 1 << 30;
        if self.mtu > ONE_BUFFER {
            wanted |= feature::MERGEABLE;
        }
        if self.packed {
            wanted |= feature::PACKED;
        }
        if self.queues > 1 {
            wanted |= feature::QUEUES;
        }
        if self.offloads {
            wanted |= feature::OFFLOADS;
        }
        wanted
    }
}

/// A connection to a back end, shared by its queues.
#[derive(Debug)]
pub struct VhostPort {
    plan: VhostPlan,
    features: u64,
    layouts: Vec<Layout>,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

impl VhostPort {
    /// Waits for a back end and asks what it can do. It gets its rings once all queues are open.
    ///
    /// # Errors
    /// [`OpenError`], with the cure in words.
    pub fn open(plan: VhostPlan) -> Result<Arc<Self>, OpenError> {
        let device = plan.path.display().to_string();
        let failed = |step: &str, source: io::Error| OpenError::new(&device, step, source);
        let refused = |why: String| OpenError::refused(&device, "agreeing with the back end", why);
        let door = Door::new(&plan)?;
        let peer = first(&plan, &door).map_err(|source| {
            if source.kind() == io::ErrorKind::TimedOut {
                let hint = "it has accepted, but does not answer: is it stopped, or no back end of vhost-user at all?";
                return failed("asking the back end what it can do", source).hint(hint);
            }
            let other = if plan.server { "connects to it" } else { "listens there" };
            failed("waiting for a back end", source).hint(format!(
                "nobody {other}: start the back end first (dpdk-testpmd --vdev net_vhost0,iface={device}), or {}",
                if plan.server { "let it connect (client=1)" } else { "let it connect to us: server=on" }
            ))
        })?;
        if peer.features & feature::VERSION_1 == 0 {
            return Err(refused("it does not speak version 1 of virtio".to_owned()));
        }
        if plan.packed && peer.features & feature::PACKED == 0 {
            return Err(refused("it has no packed rings; leave out packed=on".to_owned()));
        }
        if peer.pairs < plan.queues.into() {
            let (has, asked) = (peer.pairs, plan.queues);
            return Err(refused(format!("it has {has} queue pairs, not {asked}; ask for queues={has}")));
        }
        let layouts = Layout::several(plan.queues, plan.ring, plan.packed)
            .map_err(|source| failed("mapping memory for the rings", source))?;
        let shared = Shared::new(plan.queues).map_err(|source| failed("making an eventfd", source))?;
        let features = peer.features;
        let supervisor = {
            let (shared, plan) = (Arc::clone(&shared), plan.clone());
            let name = std::thread::Builder::new().name("vhost-user".to_owned());
            name.spawn(move || supervise(&shared, &plan, door, peer))
                .map_err(|source| failed("starting a thread", source))?
        };
        Ok(Arc::new(Self { plan, features, layouts, shared, supervisor: Some(supervisor) }))
    }

    /// What was asked for.
    #[must_use]
    pub const fn plan(&self) -> &VhostPlan {
        &self.plan
    }

    /// Opens one queue pair, on the thread that will own it. Nothing passes before all are open.
    ///
    /// # Errors
    /// [`OpenError`] when the pool's arena [is not shared](ringbuf::Arena::shared), or the queue is open already.
    pub fn open_queue<'p>(&self, pool: &'p Pool, queue: u32) -> Result<Box<dyn Gather<'p> + 'p>, OpenError> {
        let device = self.plan.path.display().to_string();
        let step = format!("opening queue {queue}");
        let failed = |source| OpenError::new(&device, &step, source);
        let arena = pool.arena();
        let file = arena.file().ok_or_else(|| {
            OpenError::refused(&device, &step, "this arena is not one that another process can map")
        })?;
        let layout = self.layouts.get(queue as usize);
        let layout = layout.ok_or_else(|| OpenError::refused(&device, &step, "there is no such queue"))?;
        let bells = Arc::new(Bells::new().map_err(failed)?);
        let address = arena.base().as_ptr().expose_provenance() as u64;
        let plan = VirtioPlan {
            driver: "vhost-user",
            device: device.clone(),
            queue,
            ring: self.plan.ring,
            features: self.features,
            mtu: self.plan.mtu,
            copying: Copying::PeerCopies,
        };
        let line = Line { shared: Arc::clone(&self.shared), bells: Arc::clone(&bells), seen: 0 };
        let opened = virtio::open(pool, &plan, layout, Addresses::Linear(address), line)?;
        let member = Member {
            arena: file.try_clone_to_owned().map_err(failed)?,
            arena_address: address,
            arena_bytes: arena.bytes() as u64,
            layout: layout.clone(),
            bells,
        };
        if !self.shared.join(queue, member) {
            return Err(OpenError::refused(&device, &step, "it is open already, or the port is closing"));
        }
        Ok(opened)
    }

    /// Waits until the back end has the rings, once all queues are open: what comes before it has them finds no room.
    ///
    /// # Errors
    /// [`OpenError`] when the back end has refused them.
    pub fn wait_ready(&self) -> Result<(), OpenError> {
        let device = self.plan.path.display();
        match self.shared.wait_up() {
            Ok(true) => {}
            Ok(false) => tracing::warn!("{device}: the back end has not taken the rings yet"),
            Err(source) => {
                let error =
                    OpenError::new(device.to_string(), "handing the rings over to the back end", source);
                return Err(error.hint("its own log says why it does not take them"));
            }
        }
        Ok(())
    }
}

impl Drop for VhostPort {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// The first back end, for as long as the plan waits.
fn first(plan: &VhostPlan, door: &Door) -> io::Result<Peer> {
    let begin = Instant::now();
    loop {
        match door.connect(plan) {
            Ok(stream) => {
                // Whoever waits for nobody still hears whom he finds.
                let left = plan.wait.saturating_sub(begin.elapsed()).max(Duration::from_secs(1));
                return Peer::meet(stream, plan, left.min(PATIENCE));
            }
            Err(error) if begin.elapsed() >= plan.wait => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_is_read() {
        let text = "vhost-user:/run/x,queues=2,ring=512,packed=on,offloads=off,mtu=9000,server=on,wait=3";
        let plan = VhostPlan::from_spec(&text.parse().expect("a port")).expect("a plan");
        let want = VhostPlan {
            path: "/run/x".into(),
            queues: 2,
            ring: 512,
            packed: true,
            offloads: false,
            mtu: 9000,
            server: true,
            wait: Duration::from_secs(3),
        };
        assert_eq!(plan, want);
        for (bad, words) in [
            ("ring=100", "power of two"),
            ("queues=0", "between 1 and 128"),
            ("packed=yes", "on or off"),
            ("mtu=x", "is not a number"),
        ] {
            let spec = format!("vhost-user:/run/x,{bad}").parse().expect("a port");
            let error = VhostPlan::from_spec(&spec).expect_err("bad").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn nobody_there_is_said_with_the_cure() {
        let plan = VhostPlan {
            wait: Duration::ZERO,
            ..VhostPlan::from_spec(&"vhost-user:/nowhere/sock".parse().expect("a port")).expect("a plan")
        };
        let error = VhostPort::open(plan).expect_err("nobody").to_string();
        assert!(error.contains("start the back end first") && error.contains("server=on"), "{error}");
    }
}
