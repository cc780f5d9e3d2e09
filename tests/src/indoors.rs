//! A file server and a client of our own, over wires in memory and in made-up time.
//!
//! ```text
//!   client of our own ── loopback ── Worker 0 [ FileServer ]
//!                   └── loopback ── Worker 1 [ FileServer ]      by the client's port
//! ```
//!
//! The server's own threads, which look up paths and load files, run in real time.

use crate::Outcome;
use crate::client::Client;
use dataplane::net::{Address, Path, Prefix, Vlan};
use dataplane::serve::content::Share;
use dataplane::serve::http::{Limits, Policy, PolicyPlan};
use dataplane::serve::server::{FileServer, ServePlan, Servers};
use dataplane::serve::tree::TreePlan;
use dataplane::session::Apps as _;
use dataplane::worker::{Member, TICK_EVERY};
use dataplane::{PortId, Tick, Worker};
use drivers::checksum::{fold, sum};
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use drivers::{Caps, QueuePair as _};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(0);
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER: [u8; 4] = [10, 0, 0, 2];
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const ROUTER: [u8; 4] = [10, 0, 0, 9];
/// How far the clock goes in a turn.
const STEP: Duration = Duration::from_micros(100);

/// What becomes of the server's packets that are longer than the path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// They vanish.
    Vanish,
    /// The router says so, to a worker that does not have the connection if there is one.
    Told,
}

/// A plan for a server of one folder at the usual address.
///
/// # Errors
/// What is wrong with the policy: nothing.
pub fn plan(root: &std::path::Path) -> Outcome<ServePlan> {
    Ok(ServePlan {
        mac: SERVER_MAC,
        vlan: None,
        mtu: 1500,
        addresses: vec![Prefix { address: SERVER.into(), bits: 24 }],
        gateway: None,
        shared: false,
        listen: crate::server::PORT,
        tree: TreePlan::new(root),
        policy: Policy::new(&PolicyPlan::default())?,
        limits: Limits::default(),
        keepalive: None,
        connections: 64,
        copy_below: 2048,
        share: Share::Nothing,
        store: Default::default(),
        log: None,
        kernel: None,
    })
}

/// The client's way to the server.
fn path(vlan: Option<Vlan>) -> Path {
    Path {
        port: PORT,
        vlan,
        local_mac: [2, 0, 0, 0, 0, 1],
        peer_mac: SERVER_MAC,
        local: Address::v4(CLIENT),
        peer: Address::v4(SERVER),
    }
}

/// Memory for so many workers.
///
/// # Errors
/// When there is none left.
pub fn pools(workers: usize) -> Outcome<Vec<Pool>> {
    let plan = ArenaPlan { frames: 2048, content_bytes: 16 << 20, huge_pages: false, ..ArenaPlan::default() };
    (0..workers).map(|_| Ok(Pool::new(Arena::new(&plan)?))).collect()
}

/// One worker and the far end of its wire.
#[derive(Debug)]
struct Place<'p> {
    pool: &'p Pool,
    worker: Worker<'p, Loopback<'p>, FileServer<'p>>,
    far: Loopback<'p>,
}

/// The server, the client, and the wires between them.
#[derive(Debug)]
pub struct Indoors<'p> {
    /// The server's counters.
    pub servers: Servers,
    /// Bytes of the longest IP packet from the server that gets through, and what becomes of longer ones.
    pub mtu: (usize, TooLong),
    /// Packets from the server that are not heard of any more from here on.
    pub deaf: bool,
    /// Where the server's last packet went.
    pub went_to: [u8; 6],
    places: Vec<Place<'p>>,
    /// The client.
    pub client: Client,
    now: Tick,
}

impl<'p> Indoors<'p> {
    /// A server after this plan with a worker for each pool; the client's frames have this tag.
    ///
    /// # Errors
    /// Whatever goes wrong.
    pub fn new(plan: ServePlan, pools: &'p [Pool], vlan: Option<Vlan>) -> Outcome<Self> {
        let servers = Servers::new(plan, pools.len())?;
        let mut places = Vec::new();
        for (index, pool) in pools.iter().enumerate() {
            let wire = LoopbackPlan { ring: 512, start: u32::MAX - 100 };
            let (near, far) = pair(pool, &wire).ok_or("no loans")?;
            // The path takes packets of its MTU, and nobody between cuts longer ones.
            let caps = Caps { segmentation: false, ..near.caps().clone() };
            let app = servers.app(index, pool, &[&caps])?;
            let worker = Worker::new(pool, vec![Member { port: PORT, queue: near }], app);
            places.push(Place { pool, worker, far });
        }
        let client = Client::new(path(vlan))?;
        Ok(Self {
            servers,
            mtu: (usize::MAX, TooLong::Vanish),
            deaf: false,
            went_to: [0; 6],
            places,
            client,
            now: Tick(Duration::from_secs(1)),
        })
    }

    /// Opens a connection and says this; which one it is.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn say(&mut self, bytes: &[u8]) -> Outcome<usize> {
        self.client.say(self.now, bytes)
    }

    /// What came on a connection.
    pub fn heard(&self, talk: usize) -> &[u8] {
        self.client.heard(talk)
    }

    /// The server's counters of these names, as it tells them at its next tick.
    ///
    /// # Errors
    /// Those of a turn.
    pub fn figures<const N: usize>(&mut self, names: [&str; N]) -> Outcome<[u64; N]> {
        self.pass(2 * TICK_EVERY)?;
        let figures = self.servers.figures();
        Ok(names.map(|name| figures.get(name)))
    }

    /// The time.
    pub const fn now(&self) -> Duration {
        self.now.0
    }

    /// Turns until this holds.
    ///
    /// # Errors
    /// When it does not for a minute of made-up time, or twenty seconds of the real one.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Outcome<()> {
        let (begin, real) = (self.now.0, Instant::now());
        while !holds(self) {
            if self.now.0 > begin + Duration::from_secs(600) || real.elapsed() > Duration::from_secs(20) {
                let figures: Vec<_> = self.servers.figures().each().filter(|(_, n)| *n > 0).collect();
                return Err(format!("never: {what}; {figures:?}").into());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Turns for so long.
    ///
    /// # Errors
    /// Those of a frame that is none.
    pub fn pass(&mut self, time: Duration) -> Outcome<()> {
        let end = self.now.0 + time;
        while self.now.0 < end {
            self.turn()?;
        }
        Ok(())
    }

    /// One turn of everything.
    ///
    /// # Errors
    /// When a packet of the server's is none.
    pub fn turn(&mut self) -> Outcome<()> {
        self.now.0 += STEP;
        let frames = self.client.poll(self.now, self.places[0].pool)?;
        let mut moved = !frames.is_empty();
        for (port, frame) in frames {
            self.raw(usize::from(port) % self.places.len(), &frame)?;
        }
        for index in 0..self.places.len() {
            moved |= self.places[index].worker.turn(self.now) > 0;
            for (packet, offload) in arrived(&mut self.places[index].far) {
                self.went_to.copy_from_slice(&packet[..6]);
                let long = packet.len() - if self.client.path.vlan.is_some() { 18 } else { 14 } > self.mtu.0;
                if long && self.mtu.1 == TooLong::Told {
                    self.tell((index + 1) % self.places.len(), &packet)?;
                } else if !long && !self.deaf {
                    self.client.hear(self.now, &packet, offload);
                }
            }
        }
        if !moved {
            // For the threads that look up and load.
            std::thread::sleep(Duration::from_micros(5));
        }
        Ok(())
    }

    /// The router's word about a packet, to one worker.
    fn tell(&mut self, worker: usize, packet: &[u8]) -> Outcome<()> {
        let mtu = u16::try_from(self.mtu.0)?;
        let mut icmp = vec![3, 4, 0, 0, 0, 0];
        icmp.extend(mtu.to_be_bytes());
        icmp.extend(&packet[14..14 + 28]);
        let checksum = !fold(sum(&icmp));
        icmp[2..4].copy_from_slice(&checksum.to_ne_bytes());
        let [high, low] = u16::try_from(20 + icmp.len())?.to_be_bytes();
        let mut ip = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, 1, 0, 0];
        ip.extend(ROUTER);
        ip.extend(SERVER);
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
        let frame = [&SERVER_MAC[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &ip, &icmp].concat();
        self.raw(worker, &frame)
    }

    /// Puts any bytes on a worker's wire.
    ///
    /// # Errors
    /// When there is no frame left.
    pub fn raw(&mut self, worker: usize, bytes: &[u8]) -> Outcome<()> {
        let place = &mut self.places[worker];
        let mut frame = place.pool.alloc().ok_or("no frame")?;
        frame.extend(bytes).map_err(|_| "too long for a frame")?;
        send(&mut place.far, frame)
    }

    /// The sums of every worker, once all is over.
    ///
    /// # Errors
    /// The books that do not balance.
    pub fn close(self) -> Outcome<()> {
        for place in &self.places {
            let books = place.worker.books();
            if !books.balance() {
                return Err(format!("{books}").into());
            }
        }
        Ok(())
    }
}

fn send<'p>(far: &mut Loopback<'p>, frame: ringbuf::Frame<'p>) -> Outcome<()> {
    let mut burst = Burst::new();
    burst.push(frame).map_err(|_| "room for one")?;
    far.transmit(&mut burst);
    if burst.is_empty() { Ok(()) } else { Err("the wire is full".into()) }
}

/// What lies at the end of a wire, packet by packet.
fn arrived(far: &mut Loopback<'_>) -> Vec<(Vec<u8>, Option<ringbuf::Offload>)> {
    let (mut burst, mut packets, mut packet) = (Burst::new(), Vec::new(), Vec::new());
    let mut offload = None;
    far.tend();
    while far.receive(&mut burst) > 0 {
        while let Some(frame) = burst.pop() {
            if packet.is_empty() {
                offload = frame.offload();
            }
            packet.extend_from_slice(&frame);
            if !frame.continues() {
                packets.push((std::mem::take(&mut packet), offload));
            }
        }
    }
    packets
}
