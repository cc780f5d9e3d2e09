//! What the TCP target does with its bytes: a host with connections under way, and a peer that says anything. A plain
//! function, so that `cargo test` runs it from seeds too (`dataplane/tests/fuzz_tcp.rs`).
//!
//! ```text
//!   bytes ─► what next: a frame of any bytes, a segment nearly right, ICMP, time, the application
//!                │
//!              Host::input ─► Stack::receive ─► transmit      and after each, what must hold
//! ```

use dataplane::net::{Address, Host, HostPlan, Input, InterfacePlan, Prefix, Tags, TcpError, Trouble};
use dataplane::tcp::{Closed, Config, Conn, Cookies, Keepalive, Limits, Out, Segment, Sent, Service, Stack};
use dataplane::{PortId, Tick};
use drivers::checksum::{fold, sum};
use ringbuf::{Arena, ArenaPlan, Frame, Pool};
use std::time::Duration;

const US: [u8; 4] = [10, 0, 0, 2];
const PEER: [u8; 4] = [10, 0, 0, 1];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PORT: PortId = PortId(0);
const CONNECTIONS: u32 = 4;
const HELD: u32 = 3;
const FRAMES: u32 = 8;

/// Reads numbers off the front of the bytes.
struct Numbers<'b>(&'b [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    fn some(&mut self, most: usize) -> Vec<u8> {
        let (some, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        some.to_vec()
    }

    /// Near zero as a rule, anything now and then.
    fn distance(&mut self) -> Option<u32> {
        Some(match self.byte()? {
            0..=99 => 0,
            small @ 100..=199 => (i32::from(small) - 150).cast_unsigned(),
            large @ 200..=230 => (i32::from(large) - 215).wrapping_mul(2000).cast_unsigned(),
            _ => self.word()?,
        })
    }
}

/// The application: what is queued and heard, per connection.
#[derive(Default)]
struct App {
    closed: u64,
    heard: u64,
    acked: u64,
    /// Bytes consumed of what is offered, in sixteenths.
    appetite: u8,
}

impl Service<u64> for App {
    fn opened(&mut self, conn: &mut Conn<'_, u64>) {
        conn.queue(5000);
    }

    fn data(&mut self, _: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        let taken = (bytes.len() * usize::from(self.appetite)).div_ceil(16).min(bytes.len());
        self.heard += taken as u64;
        taken
    }

    fn acked(&mut self, conn: &mut Conn<'_, u64>, upto: u64) {
        assert!(
            upto > *conn.state() && upto <= conn.queued() && upto <= conn.sent(),
            "acknowledged before sent"
        );
        self.acked += upto - *conn.state();
        *conn.state_mut() = upto;
    }

    fn half_closed(&mut self, _: &mut Conn<'_, u64>) {}

    fn closed(&mut self, _: &mut Conn<'_, u64>, _: Closed) {
        self.closed += 1;
    }

    fn timer(&mut self, _: &mut Conn<'_, u64>) {}
}

/// The wire: remembers the last segment for each of the peer's ports.
struct Wire {
    last: Vec<(u16, u32, u32)>,
    answer: Sent,
    sent: u64,
}

impl Out<u64> for Wire {
    fn segment(&mut self, segment: &Segment, acked: &mut u64) -> Sent {
        let bytes = segment.payload.end - segment.payload.start;
        if self.answer == Sent::Full || bytes > 0 && self.answer != Sent::Yes {
            return self.answer;
        }
        assert!(
            segment.payload.start >= *acked || bytes == 0,
            "acknowledged bytes are sent again: {segment:?}"
        );
        assert!(segment.header_len() <= 60 && segment.header_len().is_multiple_of(4));
        assert!(bytes <= 20_000.max(u64::from(segment.mss)), "{segment:?}");
        let mut header = [0; 60];
        assert_eq!(segment.write_header(&mut header, 0), Some(segment.header_len()));
        let control = u32::from(segment.flags.0 & 1) + u32::from(segment.flags.0 >> 1 & 1);
        let next = segment.seq.0.wrapping_add(u32::try_from(bytes).expect("short")).wrapping_add(control);
        self.last.retain(|(port, ..)| *port != segment.peer_port);
        self.last.push((segment.peer_port, next, segment.ack.0));
        self.sent += 1;
        assert!(self.sent < 100_000, "no end of segments");
        Sent::Yes
    }
}

/// The host, and what was done to it.
struct World<'p> {
    pool: &'p Pool,
    host: Host,
    stack: Stack<u64>,
    app: App,
    wire: Wire,
    now: Tick,
    received: u64,
}

fn config(choice: u8) -> Config {
    Config {
        max_connections: CONNECTIONS,
        half_open: u32::from(choice >> 4 & 3),
        time_wait: 2,
        replies: 8,
        run_blocks: HELD,
        receive_blocks: HELD,
        receive_block_bytes: 4096,
        receive_window: 4096 << (choice >> 6),
        limits: Limits { mtu: 1500, largest_segment: if choice & 1 == 0 { 0 } else { 20_000 } },
        pacing: choice & 2 != 0,
        cookies: if choice & 4 == 0 { Cookies::UnderPressure } else { Cookies::Always },
        keepalive: (choice & 8 != 0).then_some(Keepalive {
            idle: Duration::from_secs(20),
            interval: Duration::from_secs(5),
            probes: 2,
        }),
        ..Config::default()
    }
}

fn host() -> Host {
    let interface = InterfacePlan {
        port: PORT,
        mac: MAC,
        mtu: 1500,
        tags: Tags::None,
        addresses: vec![Prefix { address: US.into(), bits: 24 }],
    };
    Host::new(&HostPlan { interfaces: vec![interface], ..HostPlan::default() }).expect("a good plan")
}

impl<'p> World<'p> {
    fn frame(&mut self, bytes: &[u8]) {
        let mut frame: Frame<'p> = self.pool.alloc().expect("each comes home");
        frame.extend(bytes).expect("short");
        match self.host.input(self.now, PORT, &mut frame) {
            Input::Tcp { path, segment, ecn } => {
                let segment = &frame[segment];
                self.received += 1;
                self.stack.receive(self.now, &path, ecn, segment, &mut self.app);
            }
            Input::TcpError(error) => {
                self.stack.icmp(self.now, &error, &mut self.app);
            }
            Input::Answer | Input::Learnt(_) | Input::Taken | Input::Discard(_) => {}
        }
    }

    /// A segment that the peer of the last one sent could send, and then changed: distances of its numbers, flags, window,
    /// options, length.
    fn segment(&mut self, port: u16, numbers: &mut Numbers<'_>) -> Option<Vec<u8>> {
        let known = self.wire.last.iter().find(|(known, ..)| *known == port);
        let (ours, theirs) = known.map_or((0, 1000), |(_, ours, theirs)| (*ours, *theirs));
        let shape = numbers.byte()?;
        let flags = match numbers.byte()? {
            0..=120 => 0x10,
            121..=150 => 0x02,
            151..=170 => 0x11,
            171..=180 => 0x14,
            181..=200 => 0xd0,
            any => any,
        };
        let (seq, ack) = (theirs.wrapping_add(numbers.distance()?), ours.wrapping_add(numbers.distance()?));
        let window = if shape & 1 == 0 { 60_000 } else { u16::try_from(numbers.word()? & 0xffff).ok()? };
        let mut options = if shape & 2 == 0 { Vec::new() } else { numbers.some(usize::from(shape >> 4) * 4) };
        if shape & 4 != 0 {
            // A SACK block, or timestamps, that may be true.
            let at = ours.wrapping_sub(u32::from(shape) * 20);
            let (kind, words) =
                if shape & 8 == 0 { (5, [at, at.wrapping_add(1448)]) } else { (8, [seq, ack]) };
            options.splice(
                0..0,
                [1, 1, kind, 10].into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes)),
            );
        }
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let payload = usize::from(numbers.byte()?) * [0, 1, 5, 5][usize::from(shape >> 6)];
        let words = u8::try_from(5 + options.len() / 4).ok()?;
        let mut tcp = [port.to_be_bytes(), [0, 80]].concat();
        tcp.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        tcp.extend([words << 4, flags]);
        tcp.extend(window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.resize(tcp.len() + payload, b'x');
        Some(packet(6, &tcp))
    }

    /// Sends what is due, as often as the wire takes it.
    fn flow(&mut self, answer: Sent) {
        (self.wire.answer, self.wire.sent) = (answer, 0);
        self.stack.transmit(self.now, &mut self.wire, &mut self.app);
        if answer == Sent::Yes {
            assert!(!self.stack.has_work(), "all was taken, and more is to be sent");
        }
    }

    fn hold(&self) {
        let stats = self.stack.stats();
        let live = self.stack.connections() as u64;
        assert!(live <= u64::from(CONNECTIONS));
        assert!(self.stack.waiting() <= 2);
        let (runs, buffers) = self.stack.blocks_in_use();
        assert!(runs <= HELD as usize && buffers <= HELD as usize);
        assert!(live > 0 || (runs, buffers) == (0, 0), "blocks without a connection");
        assert_eq!(stats.segments_in, self.received);
        assert_eq!(stats.accepted, live + self.app.closed, "{stats:?}");
        assert!(stats.established <= stats.accepted, "{stats:?}");
        assert!(self.app.heard <= stats.bytes_in, "{} heard of {}", self.app.heard, stats.bytes_in);
        assert!(self.app.acked <= stats.bytes_out, "{} acknowledged of {}", self.app.acked, stats.bytes_out);
        assert_eq!(self.pool.free(), FRAMES, "a frame is lost");
    }
}

/// An IPv4 packet from the peer in a frame, with right sums.
fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let (at, pseudo) = match protocol {
        6 => (16, [&PEER[..], &US, &[0, 6], &length].concat()),
        _ => (2, Vec::new()),
    };
    payload[at..at + 2].fill(0);
    let checksum = !fold(sum(&pseudo) + sum(&payload));
    payload[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    let [high, low] = u16::try_from(20 + payload.len()).expect("short").to_be_bytes();
    let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    ip.extend([PEER, US].concat());
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
    [&MAC[..], &[2, 0, 0, 0, 0, 1], &[8, 0], &ip, &payload].concat()
}

/// Any bytes as what a peer, its network and the application do: no panic, bounded memory, counters that agree with
/// each other, no byte sent or acknowledged that was not queued, and no frame lost.
pub fn tcp_segment(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let Some(choice) = numbers.byte() else { return };
    let plan = ArenaPlan { frames: FRAMES, frame_size: 4096, content_bytes: 0, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("32 KiB"));
    let mut stack = Stack::new(config(choice), [7; 16]);
    stack.listen(80);
    let mut world = World {
        pool: &pool,
        host: host(),
        stack,
        app: App { appetite: 16, ..App::default() },
        wire: Wire { last: Vec::new(), answer: Sent::Yes, sent: 0 },
        now: Tick(Duration::from_secs(100)),
        received: 0,
    };
    while let Some(what) = numbers.byte() {
        if step(&mut world, what, &mut numbers).is_none() {
            break;
        }
        world.hold();
    }
    // What is left ends by itself, or when it is told to.
    for id in world.stack.ids() {
        world.stack.with(world.now, id, &mut world.app, |conn, _| conn.reset());
    }
    world.flow(Sent::Yes);
    world.hold();
    assert_eq!(world.stack.connections(), 0);
}

fn step(world: &mut World<'_>, what: u8, numbers: &mut Numbers<'_>) -> Option<()> {
    let port = 4000 + u16::from(what >> 6);
    match what & 15 {
        0 => {
            let length = usize::from(numbers.byte()?);
            let bytes = numbers.some(length);
            world.frame(&bytes);
        }
        1 => {
            let mut bytes = world.segment(port, numbers)?;
            let at = numbers.word()? as usize % bytes.len();
            bytes[at] ^= numbers.byte()?;
            world.frame(&bytes);
        }
        2 => {
            world.now.0 += Duration::from_micros(u64::from(numbers.word()?) >> (what >> 4 & 3) * 8);
            world.stack.tick(world.now, &mut world.app);
            assert!(
                world.stack.next_deadline().is_none_or(|at| at.0 + Duration::from_millis(1) > world.now.0)
            );
        }
        3 => world.flow([Sent::Full, Sent::NotYet, Sent::Gone, Sent::Yes][usize::from(what >> 6)]),
        4 => {
            let order = numbers.byte()?;
            world.app.appetite = order & 31;
            for id in world.stack.ids() {
                world.stack.with(world.now, id, &mut world.app, |conn, _| match order >> 5 {
                    0 => conn.finish(),
                    1 => conn.reset(),
                    2 => conn.more(),
                    _ => conn.queue(u64::from(order) * 100),
                });
            }
        }
        5 => {
            let known = world.wire.last.iter().find(|(known, ..)| *known == port);
            let near = known.map_or(0, |(_, next, _)| *next);
            let trouble = match numbers.byte()? {
                0..=20 => Trouble::Refused,
                21..=40 => Trouble::Unreachable,
                mtu => Trouble::TooBig { mtu: u32::from(mtu) * 8 },
            };
            let error = TcpError {
                local: Address::v4(US),
                local_port: 80,
                peer: Address::v4(PEER),
                peer_port: port,
                sequence: near.wrapping_sub(numbers.distance()?),
                trouble,
            };
            world.stack.icmp(world.now, &error, &mut world.app);
        }
        6 => {
            let length = 8 + usize::from(numbers.byte()?);
            let mut message = numbers.some(length);
            message.resize(length, 0);
            world.frame(&packet(1, &message));
        }
        7 => {
            for id in world.stack.ids() {
                world.stack.resume(world.now, id, &mut world.app);
            }
        }
        _ => {
            let bytes = world.segment(port, numbers)?;
            world.frame(&bytes);
            if what & 16 == 0 {
                world.flow(Sent::Yes);
            }
        }
    }
    Some(())
}
