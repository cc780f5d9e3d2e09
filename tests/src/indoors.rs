//! A file server and a client of our own, over wires in memory and in made-up time.
//!
//! ```text
//!   client: Host, Stack ── loopback ── Worker 0 [ FileServer ]
//!                      └── loopback ── Worker 1 [ FileServer ]      by the client's port
//! ```
//!
//! The server's own threads, which look up paths and load files, run in real time.

use crate::Outcome;
use dataplane::net::{
    Address, Headers, Host, HostPlan, Input, InterfacePlan, Path, Prefix, Tags, Vlan, write_headers,
};
use dataplane::serve::http::{Limits, Policy, PolicyPlan};
use dataplane::serve::server::{FileServer, ServePlan, Servers};
use dataplane::serve::tree::TreePlan;
use dataplane::session::Apps as _;
use dataplane::tcp::{self, Closed, Conn, ConnId, Out, Segment, Sent, Service, Stack};
use dataplane::worker::{Member, TICK_EVERY};
use dataplane::{PortId, Tick, Worker};
use drivers::checksum::{fold, sum};
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use drivers::{Caps, QueuePair as _};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::time::{Duration, Instant};

/// The server's port.
pub const LISTEN: u16 = 8080;
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
        mtu: 1500,
        addresses: vec![Prefix { address: SERVER.into(), bits: 24 }],
        gateway: None,
        shared: false,
        listen: LISTEN,
        tree: TreePlan::new(root),
        policy: Policy::new(&PolicyPlan::default())?,
        limits: Limits::default(),
        connections: 64,
        copy_below: 2048,
        share: false,
        store: Default::default(),
        log: None,
        kernel: None,
    })
}

/// Memory for so many workers.
///
/// # Errors
/// When there is none left.
pub fn pools(workers: usize) -> Outcome<Vec<Pool>> {
    let plan = ArenaPlan { frames: 2048, content_bytes: 16 << 20, huge_pages: false, ..ArenaPlan::default() };
    (0..workers).map(|_| Ok(Pool::new(Arena::new(&plan)?))).collect()
}

/// What the client sent, and heard, on each of its connections, by their order.
#[derive(Debug, Default)]
struct Talks {
    sent: Vec<Vec<u8>>,
    heard: Vec<Vec<u8>>,
    closed: Vec<Option<Closed>>,
}

impl Service<usize> for Talks {
    fn opened(&mut self, conn: &mut Conn<'_, usize>) {
        // Ports are given in order.
        let talk = usize::from(conn.local_port() - FIRST_PORT);
        *conn.state_mut() = talk;
        conn.queue(self.sent[talk].len() as u64);
    }

    fn data(&mut self, conn: &mut Conn<'_, usize>, bytes: &[u8]) -> usize {
        self.heard[*conn.state()].extend_from_slice(bytes);
        bytes.len()
    }

    fn acked(&mut self, _: &mut Conn<'_, usize>, _: u64) {}

    fn half_closed(&mut self, conn: &mut Conn<'_, usize>) {
        conn.finish();
    }

    fn closed(&mut self, conn: &mut Conn<'_, usize>, why: Closed) {
        self.closed[*conn.state()] = Some(why);
    }

    fn timer(&mut self, _: &mut Conn<'_, usize>) {}
}

const FIRST_PORT: u16 = 40_000;

/// The client's segments as frames.
#[derive(Debug, Default)]
struct Emitted {
    sent: Vec<Vec<u8>>,
    frames: Vec<(u16, Segment, Vec<u8>)>,
}

impl Out<usize> for Emitted {
    fn segment(&mut self, segment: &Segment, talk: &mut usize) -> Sent {
        let bytes = self.sent.get(*talk).map_or(&[][..], |bytes| {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            bytes.get(place(segment.payload.start)..place(segment.payload.end)).unwrap_or_default()
        });
        self.frames.push((segment.local_port, segment.clone(), bytes.to_vec()));
        Sent::Yes
    }
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
    /// The client's path to it, for the next connection and for the frames of those that there are.
    pub path: Path,
    /// Bytes of the longest IP packet from the server that gets through, and what becomes of longer ones.
    pub mtu: (usize, TooLong),
    /// Packets from the server that are not heard of any more from here on.
    pub deaf: bool,
    /// Where the server's last packet went.
    pub went_to: [u8; 6],
    places: Vec<Place<'p>>,
    host: Host,
    stack: Stack<usize>,
    talks: Talks,
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
        let interface = InterfacePlan {
            port: PORT,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            tags: vlan.map_or(Tags::None, |vlan| Tags::One(vlan.vid())),
            addresses: vec![Prefix { address: CLIENT.into(), bits: 24 }],
        };
        let path = Path {
            port: PORT,
            vlan,
            local_mac: interface.mac,
            peer_mac: SERVER_MAC,
            local: Address::v4(CLIENT),
            peer: Address::v4(SERVER),
        };
        let host = Host::new(&HostPlan { interfaces: vec![interface], ..HostPlan::default() })?;
        let config = tcp::Config { max_connections: 64, ..tcp::Config::default() };
        Ok(Self {
            servers,
            path,
            mtu: (usize::MAX, TooLong::Vanish),
            deaf: false,
            went_to: [0; 6],
            places,
            host,
            stack: Stack::new(config, [5; 16]),
            talks: Talks::default(),
            now: Tick(Duration::from_secs(1)),
        })
    }

    /// Opens a connection and says this; which one it is.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn say(&mut self, bytes: &[u8]) -> Outcome<usize> {
        let talk = self.talks.sent.len();
        let port = FIRST_PORT + u16::try_from(talk)?;
        self.talks.sent.push(bytes.to_vec());
        self.talks.heard.push(Vec::new());
        self.talks.closed.push(None);
        self.stack.dial(self.now, self.path, port, LISTEN).ok_or("no room")?;
        Ok(talk)
    }

    /// Says more on a connection that is open.
    pub fn say_more(&mut self, talk: usize, bytes: &[u8]) {
        self.talks.sent[talk].extend_from_slice(bytes);
        let ids: Vec<ConnId> = self.stack.ids();
        for id in ids {
            let add = |conn: &mut Conn<'_, usize>, _: &mut Talks| {
                if *conn.state() == talk {
                    conn.queue(bytes.len() as u64);
                }
            };
            self.stack.with(self.now, id, &mut self.talks, add);
        }
    }

    /// What came on a connection.
    pub fn heard(&self, talk: usize) -> &[u8] {
        &self.talks.heard[talk]
    }

    /// How a connection ended.
    pub fn ended(&self, talk: usize) -> Option<Closed> {
        self.talks.closed[talk]
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

    /// What the client's TCP counted.
    pub const fn client(&self) -> &tcp::Stats {
        self.stack.stats()
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
        self.stack.tick(self.now, &mut self.talks);
        let mut out = Emitted { sent: std::mem::take(&mut self.talks.sent), frames: Vec::new() };
        self.stack.transmit(self.now, &mut out, &mut self.talks);
        self.talks.sent = out.sent;
        let mut moved = !out.frames.is_empty();
        for (port, segment, bytes) in out.frames {
            let worker = self.worker_of(port);
            self.put(worker, &segment, &bytes)?;
        }
        for index in 0..self.places.len() {
            moved |= self.places[index].worker.turn(self.now) > 0;
            for (packet, offload) in arrived(&mut self.places[index].far) {
                self.went_to.copy_from_slice(&packet[..6]);
                let long = packet.len() - if self.path.vlan.is_some() { 18 } else { 14 } > self.mtu.0;
                if long && self.mtu.1 == TooLong::Told {
                    self.tell((index + 1) % self.places.len(), &packet)?;
                } else if !long && !self.deaf {
                    self.hear(&packet, offload);
                }
            }
        }
        if !moved {
            // For the threads that look up and load.
            std::thread::sleep(Duration::from_micros(5));
        }
        Ok(())
    }

    /// Which worker gets the frames of a connection.
    fn worker_of(&self, port: u16) -> usize {
        usize::from(port) % self.places.len()
    }

    fn put(&mut self, worker: usize, segment: &Segment, bytes: &[u8]) -> Outcome<()> {
        let place = &mut self.places[worker];
        let mut frame = place.pool.alloc().ok_or("no frame")?;
        // Routers may change under a connection.
        let path = Path { local_mac: self.path.local_mac, ..segment.path };
        let headers = Headers {
            path: &path,
            service: None,
            local_port: segment.local_port,
            peer_port: segment.peer_port,
            sequence: segment.seq.0,
            acknowledgement: segment.ack.0,
            flags: segment.flags.0,
            window: segment.window,
            options: segment.options.as_bytes(),
            ecn: segment.ecn,
            payload_bytes: bytes.len(),
            segment_bytes: 0,
        };
        write_headers(&mut frame, &headers).map_err(|_| "headers")?;
        frame.extend(bytes).map_err(|_| "too long for a frame")?;
        send(&mut place.far, frame)
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

    fn hear(&mut self, packet: &[u8], offload: Option<ringbuf::Offload>) {
        let mut packet = packet.to_vec();
        // The client's own address, whichever router the packet took.
        if packet[0] & 1 == 0 {
            packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        }
        let input = self.host.input_copied(PORT, &packet, offload);
        if let Input::Tcp { path, segment, ecn } = input {
            self.stack.receive(self.now, &path, ecn, &packet[segment], &mut self.talks);
        }
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
