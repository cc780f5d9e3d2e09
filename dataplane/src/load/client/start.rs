//! From the plan to one app a worker.

use super::desk::Desk;
use super::steering::Steering;
use super::{LoadClient, PORTS, Phase};
use crate::app::PortId;
use crate::load::caller::Caller;
use crate::load::run::Run;
use crate::net::{Hop, Host, HostPlan, InterfacePlan, Pieces, PlanError, Prefix, Tags};
use crate::session::Apps;
use crate::tcp::{self, Stack};
use crate::worker::Tick;
use drivers::Caps;
use ringbuf::Pool;
use rustix::rand::{GetRandomFlags, getrandom};
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of all blocks for what comes out of order, of one worker: a connection that finds none has its peer send again.
const BLOCK_BYTES: usize = 64 << 20;

/// A client's place in the network.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The interface's MAC address.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// Our addresses: none that the kernel has too.
    pub addresses: Vec<Prefix>,
    /// The router to other networks.
    pub gateway: Option<IpAddr>,
    /// Bytes that the server may send ahead, over each connection.
    pub receive_window: u32,
}

/// Clients over our own TCP, one a worker, of one run.
#[derive(Debug)]
pub struct LoadClients {
    run: Arc<Run>,
    plan: ClientPlan,
    steering: Arc<Steering>,
}

impl LoadClients {
    /// Clients for a run of as many threads as there are going to be workers.
    ///
    /// # Errors
    /// When the addresses contradict each other or a standard.
    pub fn new(run: &Arc<Run>, plan: ClientPlan) -> Result<Self, PlanError> {
        // Errors in the addresses are the user's, and are better heard now than from a worker.
        Host::new(&plan.host(false))?;
        Ok(Self { steering: Arc::new(Steering::new(run.threads)), run: Arc::clone(run), plan })
    }

    fn make<'p>(&self, worker: usize) -> Result<LoadClient<'p>, String> {
        let mut secret = [0; 16];
        getrandom(&mut secret, GetRandomFlags::empty())
            .map_err(|error| format!("random numbers: {error}"))?;
        let seats = self.run.share(self.run.plan.connections, worker).max(1);
        let seats = u32::try_from(seats).unwrap_or(u32::MAX);
        // Connections that are ending need a place, too.
        let places = seats.saturating_mul(2).saturating_add(64);
        let window = self.plan.receive_window;
        let blocks = u32::try_from(BLOCK_BYTES / (window as usize).max(1)).unwrap_or(u32::MAX);
        let config = tcp::Config {
            max_connections: places,
            // All of them are ours.
            half_open: places,
            time_wait: places,
            limits: tcp::Limits { mtu: self.plan.mtu, largest_segment: 0 },
            receive_blocks: blocks.clamp(16, places.max(16)),
            receive_block_bytes: window,
            receive_window: window,
            ..tcp::Config::default()
        };
        let first = u16::from_le_bytes([secret[0], secret[1]]);
        Ok(LoadClient {
            host: Host::new(&self.plan.host(worker == 0)).map_err(|error| error.to_string())?,
            stack: Stack::new(config, secret),
            desk: Desk::new(Caller::new(&self.run, worker), seats),
            worker: u8::try_from(worker).map_err(|_| "more than 255 workers".to_owned())?,
            steering: Arc::clone(&self.steering),
            neighbours: 0,
            port: PORTS.start + first % (PORTS.end - PORTS.start),
            found: Vec::with_capacity(PORTS.len()),
            pages: Vec::new(),
            pieces: Pieces::new(),
            next_sweep: Tick::default(),
            phase: Phase::Working,
        })
    }
}

impl Apps for LoadClients {
    type App<'p> = LoadClient<'p>;

    fn app<'p>(&self, worker: usize, _: &'p Pool, _: &[&Caps]) -> Result<LoadClient<'p>, String> {
        self.make(worker)
    }
}

impl ClientPlan {
    fn host(&self, announces: bool) -> HostPlan {
        HostPlan {
            interfaces: vec![InterfacePlan {
                port: PortId(0),
                mac: self.mac,
                mtu: self.mtu,
                tags: Tags::None,
                addresses: self.addresses.clone(),
            }],
            routes: self.gateway.map(|gateway| Hop::default_by(gateway, PortId(0))).into_iter().collect(),
            announces,
            ..HostPlan::default()
        }
    }
}
