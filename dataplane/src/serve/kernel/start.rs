//! From the plan to a thread for each CPU.

use super::conn::UploadPlan;
use super::page::{KernelFigures, KernelPage};
use super::worker::Worker;
use crate::serve::Stage;
use crate::serve::front::{Front, FrontError};
use crate::serve::http::{Limits, Policy};
use crate::serve::log::LogPlan;
use crate::serve::metrics::Text;
use crate::serve::tree::{Entry, TreePlan};
use drivers::kernel::{EngineError, EnginePlan, Method, Receiver, engine};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections that may wait to be accepted; the kernel's own limit is `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Questions whether a client is still there.
const KEEPALIVES: u32 = 4;

/// What a server over the kernel's sockets is to be.
#[derive(Clone, Debug)]
pub struct KernelPlan {
    /// How files get into sockets.
    pub method: Method,
    /// Sizes of that.
    pub engine: EnginePlan,
    /// Where to listen.
    pub listen: SocketAddr,
    /// A thread on each of these CPUs; one wherever the kernel puts it when there are none.
    pub cpus: Vec<usize>,
    /// Which files.
    pub tree: TreePlan,
    /// What answers say besides.
    pub policy: Policy,
    /// What clients may ask.
    pub limits: Limits,
    /// Connections of each thread at once.
    pub connections: u32,
    /// After how much silence the kernel asks whether a client is still there; four times, a quarter of it apart.
    pub keepalive: Option<Duration>,
    /// Bytes that one connection may send before others have their turn.
    pub quantum: u64,
    /// Whether files may be stored.
    pub upload: Option<UploadPlan>,
    /// The access log, if there is to be one.
    pub log: Option<LogPlan>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The folders, the access log, or the socket for Prometheus.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// This kernel lacks what the engine needs.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The address.
    #[error("listening at {0}: {1}\n  {cure}", cure = listen_cure(.1))]
    Listen(SocketAddr, io::Error),
    /// There is no such CPU, or it is not ours.
    #[error("there is no CPU {cpu} to run on; this process may use {available:?}")]
    Cpu {
        /// The one that was asked for.
        cpu: usize,
        /// Those that there are.
        available: Vec<usize>,
    },
    /// The kernel has no thread or descriptor left.
    #[error("starting the server: {0}")]
    System(#[from] io::Error),
}

fn listen_cure(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 takes root or CAP_NET_BIND_SERVICE (sudo setcap cap_net_bind_service+ep on the program), or \
             a lower sysctl net.ipv4.ip_unprivileged_port_start; any --listen from 1024 on needs none"
        }
        io::ErrorKind::AddrInUse => "another program listens there: give --listen a port that is free",
        _ => "give --listen an address of this machine and a port that is free",
    }
}

/// A server that runs. Dropped, it resets what is left and ends.
#[derive(Debug)]
pub struct KernelServers {
    front: Front,
    pages: Arc<[Arc<KernelPage>]>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl KernelServers {
    /// Opens the folders, listens, and starts a thread for each CPU.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is left running then.
    pub fn start(plan: &KernelPlan) -> Result<Self, KernelError> {
        let available: Vec<usize> =
            core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect();
        if let Some(cpu) = plan.cpus.iter().find(|cpu| !available.contains(cpu)) {
            return Err(KernelError::Cpu { cpu: *cpu, available });
        }
        // A trial, so that what is missing is said here and not by a thread.
        drop(engine::<Entry>(plan.method, &plan.engine)?);
        drop(plan.upload.map(|upload| Receiver::new(upload.way, &plan.engine)).transpose()?);
        let front = Front::open(plan.tree.clone(), plan.policy.clone(), plan.log.as_ref())?;
        let cpus: Vec<Option<usize>> = match plan.cpus.len() {
            0 => vec![None],
            _ => plan.cpus.iter().copied().map(Some).collect(),
        };
        let mut address = plan.listen;
        if cpus.len() > 1 && address.port() != 0 {
            is_free(address).map_err(|error| KernelError::Listen(address, error.into()))?;
        }
        let mut sockets = Vec::new();
        for _ in &cpus {
            let error = |error: rustix::io::Errno| KernelError::Listen(address, error.into());
            let socket = listener(address, cpus.len() > 1, plan.keepalive).map_err(error)?;
            // Port 0 is any; all threads share the one that the first was given.
            address = getsockname(&socket).map_err(error)?.try_into().map_err(error)?;
            sockets.push(socket);
        }
        let mut servers = Self {
            front,
            pages: cpus.iter().map(|_| Arc::default()).collect(),
            address,
            threads: Vec::new(),
        };
        for (place, (cpu, socket)) in cpus.into_iter().zip(sockets).enumerate() {
            let thread = servers.spawn(plan, place, cpu, socket)?;
            servers.threads.push(thread);
        }
        Ok(servers)
    }

    fn spawn(
        &self,
        plan: &KernelPlan,
        place: usize,
        cpu: Option<usize>,
        socket: OwnedFd,
    ) -> Result<JoinHandle<()>, KernelError> {
        let (plan, control) = (plan.clone(), Arc::clone(&self.front.control));
        let (page, workers) = (Arc::clone(&self.pages[place]), self.pages.len());
        let log = self.front.log();
        let (sender, ready) = std::sync::mpsc::channel();
        let body = move || {
            if let Some(cpu) = cpu
                && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
            {
                tracing::warn!(cpu, "the kernel does not let this thread be pinned");
            }
            match Worker::new(&plan, socket, &control, page, log, workers) {
                Ok(mut worker) => {
                    let _ = sender.send(None);
                    worker.run();
                }
                Err(error) => drop(sender.send(Some(error))),
            }
        };
        let thread = std::thread::Builder::new().name(format!("serve-{place}")).spawn(body)?;
        match ready.recv() {
            Ok(None) => Ok(thread),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(io::Error::other("a thread ended before it began").into()),
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells numbers to Prometheus, as long as this lives.
    ///
    /// # Errors
    /// [`KernelError::Front`] when the address cannot be had.
    pub fn tell(&mut self, address: SocketAddr) -> Result<SocketAddr, KernelError> {
        let (counted, pages) = (Arc::clone(&self.pages), Arc::clone(&self.pages));
        let counts = move || counted.iter().map(|page| page.http()).sum();
        let render = move |text: &mut Text| KernelFigures::of(pages.iter().map(|page| &**page)).tell(text);
        Ok(self.front.tell(address, counts, render)?)
    }

    /// Brings the end nearer.
    pub fn enter(&self, stage: Stage) {
        self.front.enter(stage);
    }

    /// Opens the folders anew, takes up another policy, and opens the access log anew. Connections go on; a response that
    /// is under way ends as it began.
    ///
    /// # Errors
    /// [`KernelError`]; everything stays as it was then.
    pub fn reload(&self, tree: TreePlan, policy: Policy) -> Result<(), KernelError> {
        Ok(self.front.reload(tree, policy)?)
    }

    /// Lets go of sites that were served long before.
    pub fn sweep(&self) {
        self.front.control.sweep();
    }

    /// The counters, all threads together.
    #[must_use]
    pub fn figures(&self) -> KernelFigures {
        KernelFigures::of(self.pages.iter().map(|page| &**page))
    }

    /// Ends it at once, and returns the last word of the counters.
    #[must_use]
    pub fn end(mut self) -> KernelFigures {
        self.join();
        self.figures()
    }

    fn join(&mut self) {
        self.enter(Stage::Resetting);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the server panicked: this is a defect of ringway");
            }
        }
    }

    /// Whether a thread has ended by itself: it has panicked, which is a defect.
    #[must_use]
    pub fn has_died(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished) && self.front.control.stage() < Stage::Resetting
    }
}

impl Drop for KernelServers {
    fn drop(&mut self) {
        self.join();
    }
}

/// Whether nobody listens there. A port that our threads share would be shared with another program of the same user, too, if
/// that shares it; so it is asked for once without sharing.
fn is_free(address: SocketAddr) -> rustix::io::Result<()> {
    bind(&socket_for(address)?, &address)
}

fn listener(address: SocketAddr, shared: bool, keepalive: Option<Duration>) -> rustix::io::Result<OwnedFd> {
    let socket = socket_for(address)?;
    if shared {
        // Each thread has a queue of its own, and the kernel shares out new connections.
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // Accepted sockets inherit it: the end of a response is not to wait for an acknowledgement (Nagle).
    sockopt::set_tcp_nodelay(&socket, true)?;
    // So do they this.
    if let Some(idle) = keepalive {
        // In whole seconds, up to half a day (`MAX_TCP_KEEPIDLE` in include/net/tcp.h).
        let most = Duration::from_secs(32_767);
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), most);
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, seconds(idle))?;
        sockopt::set_tcp_keepintvl(&socket, seconds(idle / KEEPALIVES))?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVES)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket_for(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}
