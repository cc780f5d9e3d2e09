//! What happens to the connections of one worker.

use super::super::caller::{Caller, Heard, Lost, Talk};
use super::super::run::{Hopeless, Run};
use super::super::sockets::pause_after;
use crate::tcp::{Closed, Conn, ConnId, Service};
use crate::worker::Tick;
use std::collections::VecDeque;

/// The client's part of a connection.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) talk: Talk,
    /// Its seat; none once another connection has that.
    pub(super) seat: Option<u32>,
}

impl Line {
    pub(super) fn begin(&mut self, run: &Run, seat: u32) {
        self.talk.renew(run);
        self.seat = Some(seat);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No connection; to be dialled then.
    Resting(Tick),
    /// To be dialled: it is among those.
    Due,
    /// The handshake is under way, since then.
    Opening(Tick),
    Open,
}

/// The place for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) stage: Stage,
    pub(super) conn: Option<ConnId>,
    /// The local port of the handshake.
    pub(super) port: u16,
    /// It is among those that wait for a request.
    pub(super) free: bool,
    /// Failures in a row.
    failures: u32,
}

/// All that connections of a worker share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) caller: Caller,
    pub(super) seats: Vec<Seat>,
    /// Seats that are to be dialled at once.
    pub(super) to_dial: VecDeque<u32>,
    /// Seats that have room for a request, when none was due.
    pub(super) free: VecDeque<u32>,
}

impl Desk {
    pub(super) fn new(caller: Caller, seats: u32) -> Self {
        let seat = Seat { stage: Stage::Due, conn: None, port: 0, free: false, failures: 0 };
        Self {
            caller,
            seats: vec![seat; seats as usize],
            to_dial: (0..seats).collect(),
            free: VecDeque::with_capacity(seats as usize),
        }
    }

    pub(super) fn seat(&mut self, seat: u32) -> &mut Seat {
        &mut self.seats[seat as usize]
    }

    /// Sends what is due over a connection that has room for it.
    #[inline]
    pub(super) fn say(&mut self, conn: &mut Conn<'_, Line>) {
        let now = conn.now();
        while let Some(request) = self.caller.ask(now, &mut conn.state_mut().talk) {
            let bytes = request.len() as u64;
            conn.queue(bytes);
        }
        let Line { talk, seat: Some(seat) } = conn.state() else { return };
        if self.caller.has_room(talk) && self.caller.next_at().is_some() {
            let at = &mut self.seats[*seat as usize];
            if !at.free {
                at.free = true;
                self.free.push_back(*seat);
            }
        }
    }

    /// The connection serves no more: its seat gets another.
    #[cold]
    pub(super) fn leave(&mut self, conn: &mut Conn<'_, Line>, how: Lost) {
        let now = conn.now();
        let line = conn.state_mut();
        let Some(seat) = line.seat.take() else { return };
        let served = line.talk.is_answered();
        self.caller.lost(now, &mut line.talk, how);
        self.vacate(seat, now, served);
    }

    /// A seat is to be dialled again: at once if nothing is wrong with the server, and after a pause otherwise.
    pub(super) fn vacate(&mut self, seat: u32, now: Tick, served: bool) {
        let at = self.seat(seat);
        at.conn = None;
        if served {
            at.failures = 0;
            self.make_due(seat);
        } else {
            at.failures += 1;
            at.stage = Stage::Resting(Tick(now.0 + pause_after(at.failures)));
        }
    }

    pub(super) fn make_due(&mut self, seat: u32) {
        self.seat(seat).stage = Stage::Due;
        self.to_dial.push_back(seat);
    }

    /// The handshake came to nothing.
    #[cold]
    pub(super) fn fail(&mut self, seat: u32, now: Tick, why: fn(std::net::SocketAddr) -> Hopeless) {
        self.caller.not_connected(why);
        self.vacate(seat, now, false);
    }
}

impl Service<Line> for Desk {
    fn opened(&mut self, conn: &mut Conn<'_, Line>) {
        let Some(seat) = conn.state().seat else { return };
        self.seat(seat).stage = Stage::Open;
        self.caller.connected();
        self.say(conn);
    }

    #[inline]
    fn data(&mut self, conn: &mut Conn<'_, Line>, bytes: &[u8]) -> usize {
        let now = conn.now();
        let line = conn.state_mut();
        // What comes after the seat was left is nobody's.
        if line.seat.is_some() {
            match self.caller.hear(now, &mut line.talk, bytes) {
                Heard::On => self.say(conn),
                Heard::Over => {
                    self.leave(conn, Lost::Over);
                    conn.finish();
                }
            }
        }
        bytes.len()
    }

    fn acked(&mut self, _: &mut Conn<'_, Line>, _: u64) {}

    fn half_closed(&mut self, conn: &mut Conn<'_, Line>) {
        self.leave(conn, Lost::Closed);
        conn.finish();
    }

    fn closed(&mut self, conn: &mut Conn<'_, Line>, why: Closed) {
        let Some(seat) = conn.state().seat else { return };
        if self.seat(seat).stage == Stage::Open {
            self.leave(conn, Lost::Reset);
            return;
        }
        conn.state_mut().seat = None;
        let now = conn.now();
        self.fail(
            seat,
            now,
            match why {
                Closed::Refused | Closed::Reset => Hopeless::Refused,
                _ => Hopeless::Silent,
            },
        );
    }

    fn timer(&mut self, _: &mut Conn<'_, Line>) {}
}
