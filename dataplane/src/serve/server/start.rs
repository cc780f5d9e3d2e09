//! From the plan to one app a worker.

use super::answers::Answers;
use super::clerk::{Clerk, TalkCounters};
use super::page::{Figures, ServePage};
use super::{EmitCounters, FileServer};
use crate::app::PortId;
use crate::net::{Hop, Host, HostPlan, InterfacePlan, PlanError, Prefix, Tags};
use crate::serve::bell::Bell;
use crate::serve::content::{Store, StorePlan};
use crate::serve::http::{Clock, Limits, Policy, Scratch};
use crate::serve::tree::{Finder, Librarian, Tree, TreeError, TreePlan};
use crate::session::Apps;
use crate::tcp::{self, Stack};
use ringbuf::arena::CONTENT_UNIT;
use ringbuf::{PACKET_PAGES, Pool};
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// Paths that a worker keeps in mind.
const PATHS: usize = 65_536;

/// Lookups that a worker may have open.
const LOOKUPS: usize = 1024;

/// Bytes of a segment that is to be cut by the device. Wherever in a page it begins, it lies in at most
/// [`PACKET_PAGES`] of 4 KiB, and with its headers it is below the 64 KiB of an IP packet.
const LARGEST_SEGMENT: u32 = 60 << 10;
const _: () = assert!(LARGEST_SEGMENT as usize <= (PACKET_PAGES - 1) * CONTENT_UNIT);

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct ServePlan {
    /// The interface's MAC address.
    pub mac: [u8; 6],
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
    /// Connections of each worker at once.
    pub connections: u32,
    /// Shorter pieces of files are copied.
    pub copy_below: usize,
    /// Bytes that a device can cut a packet of into segments; 0 for none.
    pub largest_segment: u32,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folders.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The addresses.
    #[error(transparent)]
    Host(#[from] PlanError),
    /// The kernel has no thread, descriptor or random numbers left.
    #[error("starting the librarian: {0}")]
    System(#[from] io::Error),
}

/// Servers, one a worker, over the same files.
#[derive(Debug)]
pub struct Servers {
    plan: ServePlan,
    librarian: Librarian,
    policy: Arc<Policy>,
    pages: Vec<Arc<ServePage>>,
    drain: Arc<AtomicBool>,
}

impl Servers {
    /// Opens the folders and starts the librarian.
    ///
    /// # Errors
    /// [`ServeError`], before any port is opened.
    pub fn new(plan: ServePlan, workers: usize) -> Result<Self, ServeError> {
        // Errors in the addresses are the user's, and are better heard now than from a worker.
        Host::new(&plan.host(false))?;
        let tree = Arc::new(Tree::open(plan.tree.clone())?);
        Ok(Self {
            librarian: Librarian::start(tree)?,
            policy: Arc::new(plan.policy.clone()),
            pages: (0..workers).map(|_| Arc::default()).collect(),
            drain: Arc::default(),
            plan,
        })
    }

    /// When set, the servers take no new connections and end those that there are after their responses.
    #[must_use]
    pub const fn drain(&self) -> &Arc<AtomicBool> {
        &self.drain
    }

    /// The port cuts long packets into segments: fewer of them are made then, each as long as its pages allow.
    pub const fn let_device_cut(&mut self) {
        self.plan.largest_segment = LARGEST_SEGMENT;
    }

    /// The counters, all workers together.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::of(self.pages.iter().map(|page| &**page))
    }

    fn make<'p>(&self, worker: usize, pool: &'p Pool) -> Result<FileServer<'p>, ServeError> {
        let plan = &self.plan;
        let mut secret = [0; 16];
        getrandom(&mut secret, GetRandomFlags::empty()).map_err(io::Error::from)?;
        let config = tcp::Config {
            max_connections: plan.connections,
            time_wait: plan.connections,
            limits: tcp::Limits { mtu: plan.mtu, largest_segment: plan.largest_segment },
            ..tcp::Config::default()
        };
        let mut stack = Stack::new(config, secret);
        stack.listen(plan.listen);
        let bell = Arc::new(Bell::new()?);
        let tree = self.librarian.tree();
        let desk = self.librarian.desk(LOOKUPS, Arc::clone(&bell));
        let now = SystemTime::now();
        let clerk = Clerk {
            answers: Rc::new(RefCell::new(Answers::default())),
            finder: Finder::new(desk, tree.hosts(), PATHS),
            tree: Arc::clone(tree),
            policy: Arc::clone(&self.policy),
            limits: plan.limits.clone(),
            clock: Clock::new(now),
            scratch: Scratch::new(&plan.limits),
            counters: TalkCounters::default(),
            peers: HashMap::new(),
            draining: false,
        };
        Ok(FileServer {
            host: Host::new(&plan.host(worker == 0))?,
            stack,
            clerk,
            store: Store::new(pool, StorePlan::default(), Arc::clone(&bell))?,
            bell,
            copy_below: plan.copy_below,
            pages: Vec::with_capacity(PACKET_PAGES),
            counters: EmitCounters::default(),
            woken: Vec::with_capacity(LOOKUPS),
            drain: Arc::clone(&self.drain),
            listen: plan.listen,
            page: Arc::clone(&self.pages[worker]),
            born: now,
        })
    }
}

impl Apps for Servers {
    type App<'p> = FileServer<'p>;

    fn app<'p>(&self, worker: usize, pool: &'p Pool) -> Result<FileServer<'p>, String> {
        self.make(worker, pool).map_err(|error| error.to_string())
    }
}

impl ServePlan {
    fn host(&self, announces: bool) -> HostPlan {
        let everywhere = |gateway: IpAddr| match gateway {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let default = |gateway| Hop {
            network: Prefix { address: everywhere(gateway), bits: 0 },
            gateway: Some(gateway),
            port: PortId(0),
        };
        HostPlan {
            interfaces: vec![InterfacePlan {
                port: PortId(0),
                mac: self.mac,
                mtu: self.mtu,
                tags: Tags::None,
                addresses: self.addresses.clone(),
            }],
            routes: self.gateway.map(default).into_iter().collect(),
            neighbours: Vec::new(),
            shared: self.shared,
            listens: vec![self.listen],
            dials: 0..0,
            announces,
        }
    }
}
