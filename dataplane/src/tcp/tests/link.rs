//! Two stacks and the link between them, in made-up time.
//!
//! ```text
//!   left: Stack ──► delays, losses, copies ──► right: Stack
//!               ◄──                         ◄──
//! ```

use super::super::segment::Arrived;
use super::super::{Closed, Config, Conn, ConnId, Out, Segment, Sent, Service, Stack};
use crate::app::PortId;
use crate::net::{Address, Ecn, Path};
use crate::worker::Tick;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A small generator: xorshift64*.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit.max(1)
    }

    /// True in so many of a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// The byte of a stream at an offset; neighbours and far ones differ.
pub(super) fn byte_at(stream: u64, offset: u64) -> u8 {
    let mixed = (offset ^ stream << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[7]
}

/// What the application of a test knows of a connection.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Which stream it sends.
    pub(super) stream: u64,
    /// Which stream it should get.
    pub(super) expect: u64,
    pub(super) received: u64,
    pub(super) acked: u64,
}

/// What happened to the application.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Event {
    Opened(ConnId),
    HalfClosed,
    Closed(Closed),
}

/// An application that sends so many bytes when the connection opens, and checks each byte that comes.
#[derive(Debug)]
pub(super) struct App {
    pub(super) stream: u64,
    pub(super) expect: u64,
    pub(super) to_send: u64,
    /// Queue so much at a time, the next when it is acknowledged; zero is all at once.
    pub(super) piece: u64,
    /// Consume only so much of what is offered; zero is all.
    pub(super) sip: usize,
    /// Do not consume before this.
    pub(super) sleep_until: Tick,
    /// Finish when the stream is queued; otherwise when the peer has.
    pub(super) finish_first: bool,
    /// Not before so much was received.
    pub(super) finish_after: u64,
    pub(super) peer_done: bool,
    pub(super) received: u64,
    pub(super) last: Option<ConnId>,
    pub(super) events: Vec<Event>,
}

impl App {
    pub(super) const fn new(stream: u64, expect: u64, to_send: u64) -> Self {
        Self {
            stream,
            expect,
            to_send,
            piece: 0,
            sip: 0,
            sleep_until: Tick(Duration::ZERO),
            finish_first: true,
            finish_after: 0,
            peer_done: false,
            received: 0,
            last: None,
            events: Vec::new(),
        }
    }

    fn feed(&self, conn: &mut Conn<'_, Session>) {
        let left = self.to_send - conn.queued();
        let piece = if self.piece == 0 { left } else { self.piece.min(left) };
        conn.queue(piece);
        self.finish_if_done(conn);
    }

    fn finish_if_done(&self, conn: &mut Conn<'_, Session>) {
        let first = self.finish_first && self.received >= self.finish_after;
        if conn.queued() == self.to_send && (first || self.peer_done) {
            conn.finish();
        }
    }

    pub(super) fn closed(&self) -> Option<Closed> {
        self.events.iter().find_map(|event| if let Event::Closed(why) = event { Some(*why) } else { None })
    }
}

impl Service<Session> for App {
    fn opened(&mut self, conn: &mut Conn<'_, Session>) {
        let (stream, expect) = (self.stream, self.expect);
        *conn.state_mut() = Session { stream, expect, ..Session::default() };
        self.last = Some(conn.id());
        self.events.push(Event::Opened(conn.id()));
        self.feed(conn);
    }

    fn data(&mut self, conn: &mut Conn<'_, Session>, bytes: &[u8]) -> usize {
        let now = conn.now();
        if now < self.sleep_until {
            conn.set_timer(Some(self.sleep_until));
            return 0;
        }
        let taken = if self.sip == 0 { bytes.len() } else { bytes.len().min(self.sip) };
        if taken < bytes.len() {
            conn.set_timer(Some(Tick(now.0 + Duration::from_micros(300))));
        }
        let session = conn.state_mut();
        for byte in &bytes[..taken] {
            assert_eq!(*byte, byte_at(session.expect, session.received), "at {}", session.received);
            session.received += 1;
        }
        self.received += taken as u64;
        self.finish_if_done(conn);
        taken
    }

    fn acked(&mut self, conn: &mut Conn<'_, Session>, upto: u64) {
        assert!(upto > conn.state().acked && upto <= conn.queued());
        conn.state_mut().acked = upto;
        if upto == conn.queued() && upto < self.to_send {
            self.feed(conn);
        }
    }

    fn half_closed(&mut self, conn: &mut Conn<'_, Session>) {
        self.events.push(Event::HalfClosed);
        self.peer_done = true;
        self.finish_if_done(conn);
    }

    fn closed(&mut self, conn: &mut Conn<'_, Session>, why: Closed) {
        let _ = conn;
        self.events.push(Event::Closed(why));
    }

    fn timer(&mut self, conn: &mut Conn<'_, Session>) {
        conn.more();
    }
}

/// One end.
pub(super) struct End {
    pub(super) stack: Stack<Session>,
    pub(super) app: App,
    pub(super) path: Path,
}

/// Of the addresses of [`path`].
const IP_HEADER: usize = 20;
/// Preamble, header, checksum and gap.
const ETHERNET: usize = 38;

/// What the link does to segments, each way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    /// Bits a second that go onto the wire each way; zero is any number. What has to wait is never dropped.
    pub(super) rate: u64,
    /// Up to so much later, in order unless `reorder` strikes.
    pub(super) jitter: Duration,
    pub(super) loss: u64,
    pub(super) copies: u64,
    pub(super) reorder: u64,
    /// Marked instead of delivered plain, if the sender takes part in ECN.
    pub(super) marks: u64,
    /// Out says `Full` so often.
    pub(super) full: u64,
    /// Out says `NotYet` so often.
    pub(super) not_yet: u64,
    /// Bytes of the longest IP packet that passes; longer ones are lost without a word.
    pub(super) mtu: usize,
}

impl Weather {
    pub(super) const CALM: Self = Self {
        delay: Duration::from_millis(5),
        rate: 0,
        jitter: Duration::ZERO,
        loss: 0,
        copies: 0,
        reorder: 0,
        marks: 0,
        full: 0,
        not_yet: 0,
        mtu: usize::MAX,
    };
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    at: Duration,
    order: u64,
    to: usize,
    ecn: u8,
    bytes: Vec<u8>,
}

pub(super) struct Link {
    pub(super) ends: [End; 2],
    pub(super) weather: Weather,
    pub(super) random: Random,
    pub(super) now: Duration,
    flying: BinaryHeap<Reverse<Parcel>>,
    order: u64,
    /// No segment of one direction arrives before this, unless it is reordered.
    last_arrival: [Duration; 2],
    /// When the last bit of each direction is on the wire.
    wire_free: [Duration; 2],
    /// Connections to resume, and when.
    parked: Vec<(Duration, usize)>,
    /// Segments dropped by number, for a story: (end that sends, its n-th segment).
    pub(super) drops: Vec<(usize, u64)>,
    pub(super) counts: [u64; 2],
    /// What was sent, as text, when kept.
    pub(super) log: Option<Vec<String>>,
}

/// Where segments go: to bytes, with the checksum left out.
pub(super) struct Wire<'a> {
    end: usize,
    weather: Weather,
    random: &'a mut Random,
    pub(super) out: Vec<(u8, Vec<u8>)>,
    parked: &'a mut Vec<(Duration, usize)>,
    now: Duration,
}

impl<'a> Wire<'a> {
    pub(super) const fn new(
        end: usize,
        weather: Weather,
        random: &'a mut Random,
        parked: &'a mut Vec<(Duration, usize)>,
        now: Duration,
    ) -> Self {
        Self { end, weather, random, out: Vec::new(), parked, now }
    }
}

impl Out<Session> for Wire<'_> {
    fn segment(&mut self, segment: &Segment, state: &mut Session) -> Sent {
        if self.random.chance(self.weather.full) {
            return Sent::Full;
        }
        if !segment.payload.is_empty() && self.random.chance(self.weather.not_yet) {
            self.parked.push((self.now + Duration::from_micros(700), self.end));
            return Sent::NotYet;
        }
        let mss = u64::from(segment.mss);
        let (start, end) = (segment.payload.start, segment.payload.end);
        let mut from = start;
        // What a device that cuts does with a long segment.
        loop {
            let upto = end.min(from + mss);
            let mut cut = segment.clone();
            cut.seq = segment.seq.plus(u32::try_from(from - start).expect("short"));
            cut.payload = from..upto;
            if upto < end {
                cut.flags = cut.flags.without(super::super::Flags(0x09));
            }
            let mut bytes = vec![0; cut.header_len()];
            cut.write_header(&mut bytes, 0).expect("room");
            bytes.extend((from..upto).map(|offset| byte_at(state.stream, offset)));
            self.out.push((cut.ecn.bits(), bytes));
            from = upto;
            if from >= end {
                break;
            }
        }
        Sent::Yes
    }
}

pub(super) const fn path(local: u8, peer: u8) -> Path {
    Path {
        port: PortId(0),
        vlan: None,
        local_mac: [2, 0, 0, 0, 0, local],
        peer_mac: [2, 0, 0, 0, 0, peer],
        local: Address::v4([10, 0, 0, local]),
        peer: Address::v4([10, 0, 0, peer]),
    }
}

impl Link {
    /// The left end dials port 80 of the right one.
    pub(super) fn new(seed: u64, weather: Weather, left: (Config, App), right: (Config, App)) -> Self {
        let mut random = Random::new(seed);
        let secret = u128::from(random.next()) << 64 | u128::from(random.next());
        let end = |(config, app), path| End { stack: Stack::new(config, secret.to_le_bytes()), app, path };
        let ends = [end(left, path(1, 2)), end(right, path(2, 1))];
        // The clock begins anywhere: sequence numbers and timestamps wrap somewhere.
        let now = Duration::from_micros(random.below(1 << 40));
        Self {
            ends,
            weather,
            random,
            now,
            flying: BinaryHeap::new(),
            order: 0,
            last_arrival: [Duration::ZERO; 2],
            wire_free: [Duration::ZERO; 2],
            parked: Vec::new(),
            drops: Vec::new(),
            counts: [0; 2],
            log: None,
        }
    }

    pub(super) fn dial(&mut self) -> ConnId {
        self.ends[1].stack.listen(80);
        let left = &mut self.ends[0];
        left.stack.dial(Tick(self.now), left.path, 4000, 80).expect("room")
    }

    fn send(&mut self, from: usize) {
        let end = &mut self.ends[from];
        let mut wire = Wire::new(from, self.weather, &mut self.random, &mut self.parked, self.now);
        end.stack.transmit(Tick(self.now), &mut wire, &mut end.app);
        for (ecn, bytes) in wire.out {
            self.counts[from] += 1;
            self.fly(from, ecn, bytes);
        }
    }

    fn fly(&mut self, from: usize, mut ecn: u8, bytes: Vec<u8>) {
        let weather = self.weather;
        let dropped = self.random.chance(weather.loss)
            || self.drops.contains(&(from, self.counts[from]))
            || bytes.len() + IP_HEADER > weather.mtu;
        if let Some(log) = &mut self.log {
            let segment = Arrived::parse(&bytes).expect("ours");
            log.push(format!(
                "{:>10} {} {:?} seq {} ack {} len {} win {}{}",
                self.now.as_micros(),
                if from == 0 { ">" } else { "<" },
                segment.flags,
                segment.seq.0,
                segment.ack.0,
                segment.payload.len(),
                segment.window,
                if dropped { " DROPPED" } else { "" },
            ));
        }
        if dropped {
            return;
        }
        if ecn != 0 && self.random.chance(weather.marks) {
            ecn = 3;
        }
        let mut leaves = self.now;
        let bits = 8 * (ETHERNET + IP_HEADER + bytes.len()) as u64;
        if let Some(nanoseconds) = (bits * 1_000_000_000).checked_div(weather.rate) {
            leaves = leaves.max(self.wire_free[from]) + Duration::from_nanos(nanoseconds);
            self.wire_free[from] = leaves;
        }
        let copies = if self.random.chance(weather.copies) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = u64::try_from(weather.jitter.as_micros()).expect("short");
            let mut at = leaves + weather.delay + Duration::from_micros(self.random.below(jitter + 1));
            if self.random.chance(weather.reorder) {
                at += weather.delay / 3;
            } else {
                at = at.max(self.last_arrival[from]);
                self.last_arrival[from] = at;
            }
            self.order += 1;
            self.flying.push(Reverse(Parcel {
                at,
                order: self.order,
                to: 1 - from,
                ecn,
                bytes: bytes.clone(),
            }));
        }
    }

    /// One step: to the next arrival or deadline. False if nothing will ever happen again.
    pub(super) fn step(&mut self) -> bool {
        for from in 0..2 {
            self.send(from);
        }
        let arrival = self.flying.peek().map(|Reverse(parcel)| parcel.at);
        let deadlines = self.ends.iter().filter_map(|end| end.stack.next_deadline().map(|at| at.0));
        let stuck = self.ends.iter().any(|end| end.stack.has_work());
        let again = stuck.then(|| self.now + Duration::from_micros(50));
        let resumes = self.parked.iter().map(|(at, _)| *at);
        let Some(next) = arrival.into_iter().chain(deadlines).chain(again).chain(resumes).min() else {
            return false;
        };
        self.now = self.now.max(next);
        while self.flying.peek().is_some_and(|Reverse(parcel)| parcel.at <= self.now) {
            let Some(Reverse(parcel)) = self.flying.pop() else { break };
            let end = &mut self.ends[parcel.to];
            let ecn = Ecn::from_bits(parcel.ecn);
            end.stack.receive(Tick(self.now), &end.path, ecn, &parcel.bytes, &mut end.app);
        }
        for end in &mut self.ends {
            end.stack.tick(Tick(self.now), &mut end.app);
        }
        let now = self.now;
        let due: Vec<usize> = self.parked.iter().filter(|(at, _)| *at <= now).map(|(_, end)| *end).collect();
        self.parked.retain(|(at, _)| *at > now);
        for index in due {
            let end = &mut self.ends[index];
            if let Some(id) = end.app.last {
                end.stack.resume(Tick(now), id, &mut end.app);
            }
        }
        true
    }

    /// Runs until both applications have been told that the connection is closed.
    pub(super) fn run(&mut self) {
        let begin = self.now;
        let mut steps = 0u64;
        while self.ends.iter().any(|end| end.app.closed().is_none()) {
            assert!(self.step(), "nothing happens any more: {}", self.describe());
            steps += 1;
            assert!(
                steps < 3_000_000 && self.now < begin + Duration::from_secs(30_000),
                "endless: {}",
                self.describe()
            );
        }
    }

    pub(super) fn describe(&self) -> String {
        let tail = self.log.as_ref().map(|log| log[log.len().saturating_sub(60)..].join("\n"));
        let ends: Vec<String> = self
            .ends
            .iter()
            .map(|end| format!("{:?}\n{:#?}\n{:?}", end.app, end.stack.slots.first(), end.stack.stats()))
            .collect();
        format!("{}\n{}", ends.join("\n"), tail.unwrap_or_default())
    }
}
