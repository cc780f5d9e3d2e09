//! TCP allocates nothing once it is warm: not for a segment, not for a connection, not for a loss.
#![deny(unsafe_code)]

mod counting;

use dataplane::app::PortId;
use dataplane::net::{Address, Ecn, Path};
use dataplane::tcp::{Closed, Config, Conn, Out, Segment, Sent, Service, Stack};
use dataplane::worker::Tick;
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and no segments either.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// A client asks 100 bytes and gets 30 000, and closes.
struct App {
    queue: u64,
    closed: u64,
}

impl Service<u64> for App {
    fn opened(&mut self, conn: &mut Conn<'_, u64>) {
        conn.queue(self.queue);
    }

    fn data(&mut self, conn: &mut Conn<'_, u64>, bytes: &[u8]) -> usize {
        *conn.state_mut() += bytes.len() as u64;
        if *conn.state() == 30_000 {
            conn.finish();
        }
        if *conn.state() == 100 {
            conn.queue(30_000);
        }
        bytes.len()
    }

    fn acked(&mut self, _: &mut Conn<'_, u64>, _: u64) {}

    fn half_closed(&mut self, conn: &mut Conn<'_, u64>) {
        conn.finish();
    }

    fn closed(&mut self, _: &mut Conn<'_, u64>, _: Closed) {
        self.closed += 1;
    }

    fn timer(&mut self, _: &mut Conn<'_, u64>) {}
}

/// A wire of fixed size, which loses one segment in 50.
struct Wire {
    segments: Vec<(usize, [u8; 1600])>,
    sent: u64,
}

impl Out<u64> for Wire {
    fn segment(&mut self, segment: &Segment, _: &mut u64) -> Sent {
        self.sent += 1;
        if self.sent.is_multiple_of(50) {
            return Sent::Yes;
        }
        if self.segments.len() == self.segments.capacity() {
            return Sent::Full;
        }
        let mut bytes = [0; 1600];
        let header = segment.write_header(&mut bytes, 0).expect("room");
        let length = header + usize::try_from(segment.payload.end - segment.payload.start).expect("short");
        self.segments.push((length, bytes));
        Sent::Yes
    }
}

fn path(local: u8, peer: u8) -> Path {
    Path {
        port: PortId(0),
        vlan: None,
        local_mac: [0; 6],
        peer_mac: [0; 6],
        local: Address::v4([10, 0, 0, local]),
        peer: Address::v4([10, 0, 0, peer]),
    }
}

struct End {
    stack: Stack<u64>,
    app: App,
    wire: Wire,
    path: Path,
}

impl End {
    fn new(queue: u64, path: Path) -> Self {
        // A small TIME-WAIT table is soon full, and that is warm.
        let config = Config { max_connections: 64, time_wait: 64, ..Config::default() };
        let wire = Wire { segments: Vec::with_capacity(256), sent: 0 };
        Self { stack: Stack::new(config, [9; 16]), app: App { queue, closed: 0 }, wire, path }
    }

    fn turn(&mut self, now: Tick, other: &mut Self) {
        for (length, bytes) in self.wire.segments.drain(..) {
            other.stack.receive(now, &other.path, Ecn::NotCapable, &bytes[..length], &mut other.app);
        }
        self.stack.tick(now, &mut self.app);
        self.stack.transmit(now, &mut self.wire, &mut self.app);
    }
}

#[test]
fn a_warm_stack_allocates_nothing() {
    let (mut client, mut server) = (End::new(100, path(1, 2)), End::new(0, path(2, 1)));
    server.stack.listen(80);
    let (mut port, mut before) = (1000u16, 0);
    for turn in 0..60_000u32 {
        if turn == 20_000 {
            before = ALLOCATIONS.with(Cell::get);
        }
        let now = Tick(Duration::from_micros(100) * turn);
        if client.stack.connections() < 8 {
            port = port.wrapping_add(1).max(1000);
            client.stack.dial(now, client.path, port, 80);
        }
        client.turn(now, &mut server);
        server.turn(now, &mut client);
    }
    let stats = server.stack.stats();
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(client.app.closed > 100 && stats.retransmits_fast > 50, "{} {stats:?}", client.app.closed);
}
