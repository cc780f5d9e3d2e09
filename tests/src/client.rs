//! A client of our own: TCP over frames that a test carries, tagged if it likes.

use crate::Outcome;
use dataplane::net::{
    Headers, Host, HostPlan, Input, InterfacePlan, Patch, Path, Prefix, Tags, write_headers,
};
use dataplane::tcp::{self, Closed, Conn, Out, Segment, Sent, Service, Stack};
use dataplane::worker::Tick;
use drivers::checksum;
use ringbuf::{Burst, Offload, Pool};

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
    segments: Vec<(Segment, Vec<u8>)>,
}

impl Out<usize> for Emitted {
    fn segment(&mut self, segment: &Segment, talk: &mut usize) -> Sent {
        let bytes = self.sent.get(*talk).map_or(&[][..], |bytes| {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            bytes.get(place(segment.payload.start)..place(segment.payload.end)).unwrap_or_default()
        });
        self.segments.push((segment.clone(), bytes.to_vec()));
        Sent::Yes
    }
}

/// One host with connections to one server.
#[derive(Debug)]
pub struct Client {
    /// Its path, for the next connection; its own MAC address for all.
    pub path: Path,
    /// The MAC address that it began with.
    home: [u8; 6],
    host: Host,
    stack: Stack<usize>,
    talks: Talks,
}

impl Client {
    /// A client at the near end of this path.
    ///
    /// # Errors
    /// When a host cannot be so.
    pub fn new(path: Path) -> Outcome<Self> {
        let interface = InterfacePlan {
            port: path.port,
            mac: path.local_mac,
            mtu: 1500,
            tags: path.vlan.map_or(Tags::None, |vlan| Tags::One(vlan.vid())),
            addresses: vec![Prefix { address: path.local.ip(), bits: 24 }],
        };
        let host = Host::new(&HostPlan { interfaces: vec![interface], ..HostPlan::default() })?;
        let config = tcp::Config { max_connections: 64, ..tcp::Config::default() };
        Ok(Self {
            path,
            home: path.local_mac,
            host,
            stack: Stack::new(config, [5; 16]),
            talks: Talks::default(),
        })
    }

    /// Opens a connection and says this; which one it is.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn say(&mut self, now: Tick, bytes: &[u8]) -> Outcome<usize> {
        let talk = self.talks.sent.len();
        let port = FIRST_PORT + u16::try_from(talk)?;
        self.talks.sent.push(bytes.to_vec());
        self.talks.heard.push(Vec::new());
        self.talks.closed.push(None);
        self.stack.dial(now, self.path, port, crate::server::PORT).ok_or("no room")?;
        Ok(talk)
    }

    /// What came on a connection.
    pub fn heard(&self, talk: usize) -> &[u8] {
        &self.talks.heard[talk]
    }

    /// How a connection ended.
    pub fn ended(&self, talk: usize) -> Option<Closed> {
        self.talks.closed[talk]
    }

    /// What TCP counted.
    pub const fn stats(&self) -> &tcp::Stats {
        self.stack.stats()
    }

    /// The frames that it sends now, complete, each with the connection's port. They are made in frames of `pool`.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn poll(&mut self, now: Tick, pool: &Pool) -> Outcome<Vec<(u16, Vec<u8>)>> {
        self.stack.tick(now, &mut self.talks);
        let mut out = Emitted { sent: std::mem::take(&mut self.talks.sent), segments: Vec::new() };
        self.stack.transmit(now, &mut out, &mut self.talks);
        self.talks.sent = out.sent;
        let frame = |(segment, bytes): (Segment, Vec<u8>)| self.frame(pool, &segment, &bytes);
        out.segments.into_iter().map(frame).collect()
    }

    fn frame(&self, pool: &Pool, segment: &Segment, bytes: &[u8]) -> Outcome<(u16, Vec<u8>)> {
        let mut frame = pool.alloc().ok_or("no frame")?;
        // Routers may change under a connection.
        let path = Path { local_mac: self.path.local_mac, ..segment.path };
        let patch = Patch {
            sequence: segment.seq.0,
            flags: segment.flags.0,
            ecn: segment.ecn,
            payload_bytes: bytes.len(),
            segment_bytes: 0,
        };
        let headers = Headers {
            path: &path,
            service: None,
            local_port: segment.local_port,
            peer_port: segment.peer_port,
            acknowledgement: segment.ack.0,
            window: segment.window,
            options: segment.options.as_bytes(),
            patch,
        };
        write_headers(&mut frame, &headers).map_err(|_| "headers")?;
        frame.extend(bytes).map_err(|_| "too long for a frame")?;
        let mut burst = Burst::new();
        burst.push(frame).map_err(|_| "room for one")?;
        checksum::finish(&mut burst);
        Ok((segment.local_port, burst.pop().ok_or("one")?.to_vec()))
    }

    /// A packet that came, with what is undone in it; whether it was a segment for us.
    pub fn hear(&mut self, now: Tick, packet: &[u8], offload: Option<Offload>) -> bool {
        let mut packet = packet.to_vec();
        if let Some(to) = packet.get_mut(..6).filter(|to| to[0] & 1 == 0) {
            // For the host it is one address, whichever router the packet took.
            to.copy_from_slice(&self.home);
        }
        let Input::Tcp { path, segment, ecn } = self.host.input_copied(self.path.port, &packet, offload)
        else {
            return false;
        };
        self.stack.receive(now, &path, ecn, &packet[segment], &mut self.talks);
        true
    }
}
