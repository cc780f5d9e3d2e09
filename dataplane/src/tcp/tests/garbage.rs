//! Whatever comes, nothing panics, nothing leaks, and others are served.

use super::super::segment::Arrived;
use super::super::{Closed, Config, Conn, ConnId, Cookies, Out, Segment, Sent, Seq, Service, Stack};
use super::link::{Random, path};
use crate::net::{Address, Ecn, TcpError, Trouble};
use crate::worker::Tick;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;

/// Sends a little to whoever opens, consumes some of what comes.
#[derive(Default)]
struct Careless {
    random: u64,
    last: Option<ConnId>,
}

impl Service<u64> for Careless {
    fn opened(&mut self, conn: &mut Conn<'_, u64>) {
        self.last = Some(conn.id());
        conn.queue(20_000);
    }

    fn data(&mut self, conn: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match self.random >> 60 {
            0 => conn.finish(),
            1 => conn.more(),
            2 => return 0,
            3 => conn.reset(),
            _ => {}
        }
        bytes.len() / 2 + 1
    }

    fn acked(&mut self, conn: &mut Conn<'_, u64>, upto: u64) {
        assert!(upto > *conn.state() && upto <= conn.queued());
        *conn.state_mut() = upto;
    }

    fn half_closed(&mut self, conn: &mut Conn<'_, u64>) {
        conn.finish();
    }

    fn closed(&mut self, _: &mut Conn<'_, u64>, _: Closed) {}

    fn timer(&mut self, _: &mut Conn<'_, u64>) {}
}

/// Keeps the last segment that went.
#[derive(Default)]
struct Last(Option<(Seq, Seq)>, u64);

impl Out<u64> for Last {
    fn segment(&mut self, segment: &Segment, acked: &mut u64) -> Sent {
        assert!(segment.payload.start <= segment.payload.end);
        assert!(
            segment.payload.is_empty() || segment.payload.start >= *acked,
            "asked for what was acknowledged"
        );
        let mut header = [0; 60];
        let written = segment.write_header(&mut header, 0).expect("room");
        assert!(Arrived::parse(&header[..written]).is_ok());
        self.0 = Some((segment.seq, segment.ack));
        self.1 += 1;
        Sent::Yes
    }
}

fn config() -> Config {
    Config {
        max_connections: 3,
        half_open: 2,
        time_wait: 2,
        run_blocks: 1,
        receive_blocks: 1,
        receive_block_bytes: 5_000,
        receive_window: 5_000,
        replies: 4,
        ..Config::default()
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A header with these fields, its numbers near what is expected or anywhere.
    Segment {
        flags: u8,
        near: bool,
        seq: i32,
        ack: i32,
        window: u16,
        options: Vec<u8>,
        payload: u16,
        port: u16,
    },
    Bytes(Vec<u8>),
    Wait(u32),
    Icmp {
        seq: i32,
        mtu: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![Just(0x02), Just(0x10), Just(0x18), Just(0x11), Just(0x04), any::<u8>()];
    let number = || prop_oneof![Just(0), -3..3i32, -6000..6000i32, any::<i32>()];
    let options = prop_oneof![
        Just(vec![]),
        Just(vec![2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]),
        vec(any::<u8>(), 0..40),
    ];
    let window = prop_oneof![Just(0), Just(1), any::<u16>()];
    let segment = (flags, any::<bool>(), number(), number(), window, options, 0..3000u16, 1..4u16).prop_map(
        |(flags, near, seq, ack, window, options, payload, port)| Step::Segment {
            flags,
            near,
            seq,
            ack,
            window,
            options,
            payload,
            port,
        },
    );
    prop_oneof![
        8 => segment,
        1 => vec(any::<u8>(), 0..80).prop_map(Step::Bytes),
        3 => prop_oneof![0..2_000u32, 0..2_000_000u32, any::<u32>()].prop_map(Step::Wait),
        1 => (number(), any::<u32>()).prop_map(|(seq, mtu)| Step::Icmp { seq, mtu }),
    ]
}

struct World {
    stack: Stack<u64>,
    service: Careless,
    out: Last,
    now: Duration,
}

impl World {
    fn play(&mut self, step: Step) {
        let (ours, theirs) = self.out.0.unwrap_or((Seq(7), Seq(9)));
        let now = Tick(self.now);
        match step {
            Step::Wait(micros) => self.now += Duration::from_micros(u64::from(micros)),
            Step::Bytes(bytes) => {
                self.stack.receive(now, &path(1, 2), Ecn::Congested, &bytes, &mut self.service);
            }
            Step::Icmp { seq, mtu } => {
                let quoted = TcpError {
                    local: path(1, 2).local,
                    peer: path(1, 2).peer,
                    local_port: 80,
                    peer_port: 1,
                    sequence: ours.0.wrapping_add_signed(seq),
                    trouble: Trouble::TooBig { mtu },
                };
                self.stack.icmp(now, &quoted, &mut self.service);
            }
            Step::Segment { flags, near, seq, ack, window, mut options, payload, port } => {
                let (seq_from, ack_from) = if near { (theirs.0, ours.0) } else { (0, 0) };
                options.resize(options.len().div_ceil(4) * 4, 0);
                let mut bytes = vec![0; 20];
                bytes[..2].copy_from_slice(&port.to_be_bytes());
                bytes[3] = 80;
                bytes[4..8].copy_from_slice(&seq_from.wrapping_add_signed(seq).to_be_bytes());
                bytes[8..12].copy_from_slice(&ack_from.wrapping_add_signed(ack).to_be_bytes());
                bytes[12] = u8::try_from(5 + options.len() / 4).expect("short") << 4;
                bytes[13] = flags;
                bytes[14..16].copy_from_slice(&window.to_be_bytes());
                bytes.extend_from_slice(&options);
                bytes.resize(bytes.len() + usize::from(payload), 0);
                self.stack.receive(now, &path(1, 2), Ecn::NotCapable, &bytes, &mut self.service);
            }
        }
        self.stack.tick(Tick(self.now), &mut self.service);
        self.stack.transmit(Tick(self.now), &mut self.out, &mut self.service);
        assert!(!self.stack.has_work(), "all that may go has gone");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Headers of any kind, near to what is expected and far: no panic, no endless turn, and all is given back.
    #[test]
    fn any_segments(steps in vec(step(), 1..120), dial in any::<bool>(), always in any::<bool>()) {
        let cookies = if always { Cookies::Always } else { Cookies::UnderPressure };
        let mut world = World {
            stack: Stack::new(Config { cookies, ..config() }, [1; 16]),
            service: Careless::default(),
            out: Last::default(),
            now: Duration::from_secs(5),
        };
        world.stack.listen(80);
        if dial {
            world.stack.dial(Tick(world.now), path(1, 2), 80, 1);
        }
        for step in steps {
            world.play(step);
        }
        // Everybody has gone away: connections give up in the end, and their blocks are there again.
        let end = world.now + Duration::from_secs(2000);
        while world.now < end {
            let Some(at) = world.stack.next_deadline() else { break };
            world.now = world.now.max(at.0) + Duration::from_micros(1);
            world.play(Step::Wait(0));
        }
        prop_assert!(world.out.1 < 100_000);
        let idle = world.stack.connections();
        let (runs, _) = world.stack.blocks_in_use();
        prop_assert!(runs <= idle, "a connection that waits for its application may hold something, no other");
    }
}

/// SYNs of many, and one real client among them: it is served, and memory is what it was.
#[test]
fn a_syn_flood() {
    let mut stack: Stack<u64> = Stack::new(Config { half_open: 16, ..config() }, [1; 16]);
    let (mut service, mut out) = (Careless::default(), Last::default());
    stack.listen(80);
    let mut random = Random::new(3);
    let syn = |port: u16, seq: u32, flags: u8, ack: u32| {
        let mut bytes = vec![0; 20];
        bytes[..2].copy_from_slice(&port.to_be_bytes());
        bytes[3] = 80;
        bytes[4..8].copy_from_slice(&seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&ack.to_be_bytes());
        (bytes[12], bytes[13]) = (5 << 4, flags);
        bytes[14..16].copy_from_slice(&[255, 255]);
        bytes
    };
    let mut flood = |stack: &mut Stack<u64>, now: u64, service: &mut Careless, out: &mut Last| {
        for _ in 0..50 {
            let mut from = path(1, 2);
            let host = u8::try_from(random.below(250)).expect("small");
            from.peer = Address::v4([172, 16, host, u8::try_from(random.below(250)).expect("small")]);
            let port = u16::try_from(1 + random.below(60_000)).expect("small");
            let number = u32::try_from(random.below(1 << 32)).expect("small");
            let at = Tick(Duration::from_millis(now));
            stack.receive(at, &from, Ecn::NotCapable, &syn(port, number, 2, 0), service);
            stack.transmit(at, out, service);
        }
    };
    for round in 0..100 {
        let now = 1000 + round * 20;
        flood(&mut stack, now, &mut service, &mut out);
    }
    let at = Tick(Duration::from_millis(3001));
    let client = path(1, 9);
    stack.receive(at, &client, Ecn::NotCapable, &syn(77, 1000, 2, 0), &mut service);
    stack.transmit(at, &mut out, &mut service);
    let (cookie, ack) = out.0.expect("a SYN-ACK");
    assert_eq!(ack, Seq(1001));
    flood(&mut stack, 3002, &mut service, &mut out);
    let before = stack.stats().established;
    // The places are all taken by the flood until its SYN-ACKs are given up.
    let later = Tick(Duration::from_secs(75));
    while let Some(at) = stack.next_deadline().filter(|at| *at < later) {
        stack.tick(at, &mut service);
        stack.transmit(at, &mut out, &mut service);
    }
    stack.receive(
        later,
        &client,
        Ecn::NotCapable,
        &syn(77, 1001, 16, cookie.0.wrapping_add(1)),
        &mut service,
    );
    assert_eq!(stack.stats().established, before + 1);
    assert!(stack.stats().cookies_sent > 4000);
}
