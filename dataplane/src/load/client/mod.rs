//! The client as an app: frames in, TCP, answers; requests, TCP, frames out.
//!
//! ```text
//!   frame ─► Host ─► Stack ─► Desk: Caller hears the answer, and asks again
//!                      │
//!   packet ◄─ Emitter ◄┘ segments, by stream offset ─► bytes of requests
//! ```
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the app |
//! | `desk.rs` | what happens to connections |
//! | `emit.rs` | segments to packets |
//! | `steering.rs` | which worker hears which local port |
//! | `start.rs` | from the plan to one app a worker |

mod desk;
mod emit;
mod start;
mod steering;

pub use start::{ClientPlan, LoadClients};

use super::caller::Lost;
use super::run::Hopeless;
use crate::app::{App, Outbox, PortId};
use crate::net::{Host, Input, Pieces, Route};
use crate::stats::Reason;
use crate::tcp::Stack;
use crate::worker::Tick;
use desk::{Desk, Line, Stage};
use emit::Emitter;
use ringbuf::{Burst, Frame, Page};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use steering::Steering;

/// Local ports that are dialled from: all that no service is known by (RFC 6335 section 6).
const PORTS: Range<u16> = 1024..u16::MAX;

/// Handshakes that are begun in one turn.
const DIALS: usize = 32;

/// How often connections are looked at for answers that take too long.
const SWEEP: Duration = Duration::from_millis(20);

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Working,
    /// What is open is being reset.
    Ending,
    Ended,
}

/// Loads a server over our own TCP, on one worker.
#[derive(Debug)]
pub struct LoadClient<'p> {
    host: Host,
    stack: Stack<Line>,
    desk: Desk,
    worker: u8,
    steering: Arc<Steering>,
    /// Neighbours of other workers that are known here.
    neighbours: usize,
    /// The next port to dial from.
    port: u16,
    /// Ports of others whose answers come here.
    found: Vec<u16>,
    /// Room for the pages of one packet: none.
    pages: Vec<Page<'p>>,
    /// Room for a packet that came in several frames.
    pieces: Pieces<'p>,
    next_sweep: Tick,
    phase: Phase,
}

impl<'p> App<'p> for LoadClient<'p> {
    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        burst.warm();
        while let Some(mut frame) = burst.pop() {
            if frame.continues() {
                self.handle_pieces(now, from, frame, burst, out);
                continue;
            }
            match self.host.input(now, from, &mut frame) {
                Input::Tcp { path, segment, ecn } => {
                    let segment = frame.get(segment).unwrap_or_default();
                    if self.steering.is_shared() {
                        self.steer(segment);
                    }
                    self.stack.receive(now, &path, ecn, segment, &mut self.desk);
                    out.deliver(frame);
                }
                Input::Answer => out.send(from, frame),
                Input::TcpError(error) => {
                    self.stack.icmp(now, &error, &mut self.desk);
                    out.deliver(frame);
                }
                Input::Learnt(neighbour) => {
                    if self.steering.is_shared() {
                        self.steering.tell(neighbour);
                    }
                    out.deliver(frame);
                }
                Input::Taken => out.deliver(frame),
                Input::Discard(reason) => out.discard(frame, reason),
            }
        }
    }

    fn poll(&mut self, now: Tick, out: &mut Outbox<'p>) -> bool {
        if self.desk.caller.advance(now) {
            self.end(now);
        } else {
            if now >= self.next_sweep {
                self.sweep(now);
            }
            if !self.desk.to_dial.is_empty() {
                self.dial(now);
            }
            self.send_due(now);
        }
        if self.stack.next_deadline().is_some_and(|due| due <= now) {
            self.stack.tick(now, &mut self.desk);
        }
        if !self.stack.has_work() {
            if self.phase == Phase::Ending {
                self.phase = Phase::Ended;
                self.desk.caller.run().done();
            }
            return false;
        }
        let Self { host, stack, desk, pages, .. } = self;
        let run = Arc::clone(desk.caller.run());
        let mut emitter = Emitter { run: &run, host, outbox: out, pages, sent: false };
        stack.transmit(now, &mut emitter, desk);
        emitter.sent
    }

    fn deadline(&self) -> Option<Tick> {
        let due = if self.desk.free.is_empty() { None } else { self.desk.caller.next_at() };
        let ended = self.phase == Phase::Ended;
        let look = (!ended).then(|| self.desk.caller.look_at().min(self.next_sweep));
        [self.stack.next_deadline(), self.host.deadline(), due, look].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Tick, out: &mut Outbox<'p>) {
        let Self { host, steering, neighbours, .. } = self;
        steering.news(neighbours, |neighbour| host.learn(now, PortId(0), neighbour, false));
        while let Some(message) = self.host.poll(now) {
            let Some(mut frame) = out.allocate() else { break };
            if frame.extend(message.bytes()).is_ok() {
                out.send(message.port(), frame);
            } else {
                out.discard(frame, Reason::Unhandled);
            }
        }
        if let Some(conflict) = self.host.take_conflict() {
            tracing::warn!("{conflict}: give an address that nobody has, or take it from there");
        }
    }
}

impl<'p> LoadClient<'p> {
    /// A packet in several frames, as jumbo frames and peers on this machine send: put together first.
    #[cold]
    fn handle_pieces(
        &mut self,
        now: Tick,
        from: PortId,
        first: Frame<'p>,
        burst: &mut Burst<'p>,
        out: &mut Outbox<'p>,
    ) {
        self.pieces.gather(first, burst);
        let reason = match self.pieces.segment(&self.host, from) {
            Ok((path, ecn, segment)) => {
                self.stack.receive(now, &path, ecn, segment, &mut self.desk);
                None
            }
            Err(reason) => Some(reason),
        };
        self.pieces.settle(out, reason);
    }

    /// Tells the other workers which port's answers come here.
    #[inline]
    fn steer(&mut self, segment: &[u8]) {
        let Some(&[high, low]) = segment.get(2..4) else { return };
        let port = u16::from_be_bytes([high, low]);
        let ours = self.steering.is_for(self.worker, port);
        if self.steering.heard(self.worker, port) && !ours && self.found.len() < self.found.capacity() {
            self.found.push(port);
        }
    }

    /// Begins handshakes, some at a time.
    #[cold]
    fn dial(&mut self, now: Tick) {
        let server = self.desk.caller.run().plan.server;
        for _ in 0..DIALS {
            let Some(&seat) = self.desk.to_dial.front() else { return };
            let path = match self.host.route(now, server.ip()) {
                Route::Path(path) => path,
                Route::Asked => return,
                Route::Silent => {
                    self.desk.to_dial.pop_front();
                    self.desk.fail(seat, now, Hopeless::NoNeighbour);
                    continue;
                }
                Route::NoRoute => {
                    self.desk.caller.despair(Hopeless::NoRoute);
                    return;
                }
            };
            let dialled = (0..PORTS.len()).find_map(|_| {
                let port = self.next_port();
                self.stack.dial(now, path, port, server.port()).map(|id| (id, port))
            });
            self.desk.to_dial.pop_front();
            let Some((id, port)) = dialled else {
                // All places are taken by connections that are ending.
                self.desk.vacate(seat, now, false);
                continue;
            };
            let at = self.desk.seat(seat);
            (at.stage, at.conn, at.port) = (Stage::Opening(now), Some(id), port);
            self.stack.with(now, id, &mut self.desk, |conn, desk| {
                conn.state_mut().begin(desk.caller.run(), seat);
            });
        }
    }

    /// The next local port that may be ours.
    fn next_port(&mut self) -> u16 {
        if let Some(port) = self.found.pop() {
            return port;
        }
        for _ in PORTS {
            self.port = if self.port + 1 < PORTS.end { self.port + 1 } else { PORTS.start };
            if self.steering.is_for(self.worker, self.port) {
                break;
            }
        }
        self.port
    }

    /// Sends what has become due, over connections that wait for it.
    #[inline]
    fn send_due(&mut self, now: Tick) {
        while self.desk.caller.next_at().is_some_and(|due| due <= now) {
            let Some(seat) = self.desk.free.pop_front() else { return };
            let at = self.desk.seat(seat);
            at.free = false;
            if let (Stage::Open, Some(id)) = (at.stage, at.conn) {
                self.stack.with(now, id, &mut self.desk, |conn, desk| desk.say(conn));
            }
        }
    }

    /// Dials what has rested, and gives up on what takes too long.
    #[cold]
    fn sweep(&mut self, now: Tick) {
        self.next_sweep = Tick(now.0 + SWEEP);
        let timeout = self.desk.caller.run().plan.timeout;
        let late = |since: Tick| now.0.saturating_sub(since.0) >= timeout;
        for seat in (0..).take(self.desk.seats.len()) {
            let at = *self.desk.seat(seat);
            match (at.stage, at.conn) {
                (Stage::Resting(until), _) if until <= now => self.desk.make_due(seat),
                (Stage::Opening(since), Some(id)) => {
                    let astray = !self.steering.is_for(self.worker, at.port);
                    if astray || late(since) {
                        self.stack.with(now, id, &mut self.desk, |conn, desk| {
                            conn.state_mut().seat = None;
                            conn.reset();
                            if astray {
                                // Another worker has its answer: another port, then.
                                desk.vacate(seat, now, true);
                            } else {
                                desk.fail(seat, now, Hopeless::Silent);
                            }
                        });
                    }
                }
                (Stage::Open, Some(id)) => {
                    self.stack.with(now, id, &mut self.desk, |conn, desk| {
                        if conn.state().talk.waits_since().is_some_and(late) {
                            desk.leave(conn, Lost::Slow);
                            conn.reset();
                        }
                    });
                }
                _ => {}
            }
        }
    }

    /// The end has come: what is under way is counted, and connections are reset.
    #[cold]
    fn end(&mut self, now: Tick) {
        if self.phase != Phase::Working {
            return;
        }
        self.phase = Phase::Ending;
        self.desk.caller.end(now);
        for seat in (0..).take(self.desk.seats.len()) {
            let Some(id) = self.desk.seat(seat).conn.take() else { continue };
            self.stack.with(now, id, &mut self.desk, |conn, desk| {
                conn.state_mut().seat = None;
                desk.caller.cut_off(&conn.state().talk);
                conn.reset();
            });
        }
        self.desk.caller.hand_in();
    }
}

impl Drop for LoadClient<'_> {
    /// A worker that ends before its time has counted something, too.
    fn drop(&mut self) {
        if self.phase == Phase::Working {
            self.desk.caller.hand_in();
        }
        if self.phase != Phase::Ended {
            self.desk.caller.run().done();
        }
    }
}
