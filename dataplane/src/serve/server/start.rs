//! From the plan to one app a worker.

use super::clerk::{Clerk, TalkCounters};
use super::page::{Figures, ServePage};
use super::post::{Letterbox, Post};
use super::{EmitCounters, FileServer};
use crate::app::PortId;
use crate::net::{
    HEADER_BYTES, Hop, Host, HostPlan, InterfacePlan, Pieces, PlanError, Prefix, Tags, Template,
};
use crate::serve::content::{Candidates, Share, SharedFiles, Store, StorePlan};
use crate::serve::control::Stage;
use crate::serve::front::{Front, FrontError};
use crate::serve::http::{Limits, Policy};
use crate::serve::log::LogPlan;
use crate::serve::metrics::Text;
use crate::serve::responder::Responder;
use crate::serve::site::LOOKUPS;
use crate::serve::tree::TreePlan;
use crate::session::Apps;
use crate::stats::Board;
use crate::tcp::{self, Stack};
use drivers::Caps;
use ringbuf::arena::CONTENT_UNIT;
use ringbuf::{Arena, ArenaError, ArenaPlan, PACKET_PAGES, Pool};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{CpuSet, sched_getaffinity};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Bytes that a client may send ahead at least; more if two heads may be longer.
const RECEIVE_BYTES: u32 = 16 << 10;

/// Questions of TCP's whether a client is still there.
const KEEPALIVES: u8 = 4;

/// Bytes of a segment that is to be cut by the device. Wherever in a page it begins, it lies in at most
/// [`PACKET_PAGES`] of 4 KiB, and with its headers it is below the 64 KiB of an IP packet.
const LARGEST_SEGMENT: u32 = 60 << 10;
const _: () = assert!(LARGEST_SEGMENT as usize <= (PACKET_PAGES - 1) * CONTENT_UNIT);

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct ServePlan {
    /// The interface's MAC address.
    pub mac: [u8; 6],
    /// The VLAN whose tag every frame bears, both ways.
    pub vlan: Option<u16>,
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// Our addresses.
    pub addresses: Vec<Prefix>,
    /// The router to other networks, for who dials; answers go back the way the request came.
    pub gateway: Option<IpAddr>,
    /// The kernel has these addresses too.
    pub shared: bool,
    /// The TCP port.
    pub listen: u16,
    /// Which files.
    pub tree: TreePlan,
    /// What answers say besides.
    pub policy: Policy,
    /// What clients may ask.
    pub limits: Limits,
    /// After how much silence TCP asks whether a client is still there; four times, a quarter of it apart.
    pub keepalive: Option<Duration>,
    /// Connections of each worker at once.
    pub connections: u32,
    /// Shorter pieces of files are copied.
    pub copy_below: usize,
    /// Which files are sent from the page cache itself, where a device can. For files that are never written
    /// to in place: a write shows in responses that are under way, before it is heard of.
    pub share: Share,
    /// How other files get into memory that devices read.
    pub store: StorePlan,
    /// The access log, if there is to be one.
    pub log: Option<LogPlan>,
    /// What the kernel says of the interface: for [`shared`](Self::shared) addresses.
    pub kernel: Option<HostPlan>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folders, the access log, or the socket for Prometheus.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The addresses.
    #[error(transparent)]
    Host(#[from] PlanError),
    /// The kernel has no thread, descriptor, memory or random numbers left.
    #[error("starting the server: {0}")]
    System(#[from] io::Error),
}

/// Files in an arena that may not have been registered yet.
type Mapped = (Arc<Candidates>, SharedFiles);

/// Servers, one a worker, over the same files.
#[derive(Debug)]
pub struct Servers {
    plan: ServePlan,
    front: Front,
    pages: Arc<[Arc<ServePage>]>,
    /// Where each worker hears from the others.
    letterboxes: Arc<[Letterbox]>,
    /// Where each worker counts, once all have begun.
    boards: Arc<OnceLock<Vec<Arc<Board>>>>,
    /// Files whose own pages each worker's arena has mapped, until its app takes them.
    files: Vec<Mutex<Option<Mapped>>>,
    /// Where this process may run: workers are pinned, their loaders are not.
    cpus: Option<CpuSet>,
    /// Those files, found once for all workers, and open no longer than it takes all of them to start.
    candidates: Mutex<Weak<Candidates>>,
}

impl Servers {
    /// Opens the folders and the access log, and starts the librarian.
    ///
    /// # Errors
    /// [`ServeError`], before any port is opened.
    pub fn new(plan: ServePlan, workers: usize) -> Result<Self, ServeError> {
        // Errors in the addresses are the user's, and are better heard now than from a worker.
        Host::new(&plan.host(false))?;
        let front = Front::open(plan.tree.clone(), plan.policy.clone(), plan.log.as_ref())?;
        Ok(Self {
            front,
            pages: (0..workers).map(|_| Arc::default()).collect(),
            letterboxes: Letterbox::row(workers)?,
            boards: Arc::default(),
            files: (0..workers).map(|_| Mutex::new(None)).collect(),
            cpus: sched_getaffinity(None).ok(),
            candidates: Mutex::default(),
            plan,
        })
    }

    /// Tells numbers to Prometheus, as long as this lives.
    ///
    /// # Errors
    /// [`ServeError::Front`] when the address cannot be had.
    pub fn tell(&mut self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let (counted, pages) = (Arc::clone(&self.pages), Arc::clone(&self.pages));
        let boards = Arc::clone(&self.boards);
        let counts = move || counted.iter().map(|page| page.http()).sum();
        let render = move |text: &mut Text| {
            Figures::of(pages.iter().map(|page| &**page)).tell(text);
            if let Some(boards) = boards.get() {
                text.workers(&boards.iter().map(|board| board.snapshot()).collect::<Vec<_>>());
            }
        };
        Ok(self.front.tell(address, counts, render)?)
    }

    /// Has what the workers count told to Prometheus as well. A second call changes nothing.
    pub fn show(&self, boards: Vec<Arc<Board>>) {
        let _ = self.boards.set(boards);
    }

    /// Brings the end nearer.
    pub fn enter(&self, stage: Stage) {
        self.front.enter(stage);
    }

    /// Opens the folders anew, takes up another policy, and opens the access log anew. Connections go on; a response that
    /// is under way ends as it began.
    ///
    /// # Errors
    /// [`ServeError`]; everything stays as it was then.
    pub fn reload(&self, tree: TreePlan, policy: Policy) -> Result<(), ServeError> {
        Ok(self.front.reload(tree, policy)?)
    }

    /// Lets go of sites that were served long before. Waits for their threads: not for a worker.
    pub fn sweep(&self) {
        self.front.control.sweep();
    }

    /// The counters, all workers together.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::of(self.pages.iter().map(|page| &**page))
    }

    /// What can be shared, in arenas with room for so many bytes.
    fn candidates(&self, most: usize) -> Arc<Candidates> {
        let mut known = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        known.upgrade().unwrap_or_else(|| {
            let site = self.front.control.site();
            let found = Arc::new(Candidates::find(site.librarian.tree(), most, self.plan.share));
            *known = Arc::downgrade(&found);
            found
        })
    }

    fn make<'p>(
        &self,
        worker: usize,
        pool: &'p Pool,
        queues: &[&Caps],
    ) -> Result<FileServer<'p>, ServeError> {
        let plan = &self.plan;
        let mut secret = [0; 16];
        getrandom(&mut secret, GetRandomFlags::empty()).map_err(io::Error::from)?;
        let largest_segment = largest_segment(queues);
        let two_heads = u32::try_from(2 * plan.limits.head_bytes).unwrap_or(u32::MAX);
        let receive_bytes = RECEIVE_BYTES.max(two_heads);
        let config = tcp::Config {
            max_connections: plan.connections,
            time_wait: plan.connections,
            limits: tcp::Limits { mtu: plan.mtu, largest_segment },
            // A block holds a head that has come in part: each connection may have one, and nobody can take all. They
            // cost memory only once they are used.
            receive_blocks: plan.connections,
            receive_block_bytes: receive_bytes,
            receive_window: receive_bytes,
            keepalive: plan.keepalive.map(|idle| tcp::Keepalive {
                idle,
                interval: (idle / KEEPALIVES.into()).max(Duration::from_millis(100)),
                probes: KEEPALIVES,
            }),
            ..tcp::Config::default()
        };
        let mut stack = Stack::new(config, secret);
        stack.listen(plan.listen);
        let bell = Arc::clone(&self.letterboxes[worker].bell);
        let edition = self.front.control.edition.load(Ordering::Acquire);
        let site = self.front.control.site();
        let now = SystemTime::now();
        let log = self.front.log();
        let responder = Responder::new(&site, &bell, &plan.limits, log, self.pages.len(), plan.connections);
        let clerk = Clerk { scratch: responder.scratch(), responder, counters: TalkCounters::default() };
        let page_bytes = queues.iter().map(|caps| caps.buffer_bytes as usize).min().unwrap_or(CONTENT_UNIT);
        let store_plan = StorePlan { page_bytes, cpus: self.cpus, ..plan.store };
        let mut store = Store::new(pool, store_plan, Arc::clone(&bell))?;
        let mapped = self.files[worker].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((candidates, mut files)) = mapped
            && queues.iter().all(|caps| caps.takes_file_pages())
        {
            candidates.confirm(&mut files);
            store = store.with_files(files);
        }
        Ok(FileServer {
            host: Host::new(&plan.host(worker == 0))?,
            stack,
            clerk,
            store,
            bell,
            copy_below: plan.copy_below,
            pages: Vec::with_capacity(PACKET_PAGES),
            counters: EmitCounters::default(),
            template: Template::NONE,
            woken: Vec::with_capacity(LOOKUPS),
            control: Arc::clone(&self.front.control),
            site,
            edition,
            retired: Vec::new(),
            complained: None,
            pieces: Pieces::new(),
            stage: Stage::Serving,
            listen: plan.listen,
            page: Arc::clone(&self.pages[worker]),
            post: Post::new(Arc::clone(&self.letterboxes), worker),
            born: now,
        })
    }
}

/// Bytes of payload that all queues take in one packet and cut by themselves; 0 if one does not.
fn largest_segment(queues: &[&Caps]) -> u32 {
    let headers = u32::try_from(HEADER_BYTES).unwrap_or(0);
    let largest = |caps: &&Caps| {
        if caps.segmentation { caps.packet_bytes.saturating_sub(headers).min(LARGEST_SEGMENT) } else { 0 }
    };
    queues.iter().map(largest).min().unwrap_or(0)
}

impl Apps for Servers {
    type App<'p> = FileServer<'p>;

    fn arena(&self, worker: usize, plan: &ArenaPlan) -> Result<Arena, ArenaError> {
        if self.plan.share == Share::Nothing {
            return Arena::new(plan);
        }
        let candidates = self.candidates(plan.content_bytes);
        let (arena, files) = candidates.map(plan)?;
        *self.files[worker].lock().unwrap_or_else(PoisonError::into_inner) = Some((candidates, files));
        Ok(arena)
    }

    fn app<'p>(&self, worker: usize, pool: &'p Pool, queues: &[&Caps]) -> Result<FileServer<'p>, String> {
        self.make(worker, pool, queues).map_err(|error| error.to_string())
    }
}

impl ServePlan {
    fn host(&self, announces: bool) -> HostPlan {
        if let Some(plan) = &self.kernel {
            return plan.clone();
        }
        HostPlan {
            interfaces: vec![InterfacePlan {
                port: PortId(0),
                mac: self.mac,
                mtu: self.mtu,
                tags: self.vlan.map_or(Tags::None, Tags::One),
                addresses: self.addresses.clone(),
            }],
            routes: self.gateway.map(|gateway| Hop::default_by(gateway, PortId(0))).into_iter().collect(),
            neighbours: Vec::new(),
            shared: self.shared,
            listens: vec![self.listen],
            dials: 0..0,
            announces,
        }
    }
}
