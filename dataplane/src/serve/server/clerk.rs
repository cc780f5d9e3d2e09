//! What is said over a connection: requests in, responses queued, and nothing kept longer than it must be.

use super::answers::Answers;
use super::talk::{Doing, Talk};
use crate::serve::http::{
    Clock, Framing, Limits, Parsed, Policy, Refusal, Request, Resource, Response, Scratch, Waiting, refuse,
    respond,
};
use crate::serve::tree::{Answer, Finder, Lookup, Tree};
use crate::tcp::{Closed, Conn, Service};
use crate::worker::Tick;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Responses of one connection that may be under way: what a client pipelines beyond waits.
const PIPELINE: u32 = 8;

/// What HTTP has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TalkCounters {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that were closed, in whatever way.
    pub closed: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Responses by the first digit of their status: 2xx, 3xx, 4xx, 5xx.
    pub statuses: [u64; 4],
    /// Bytes of responses that were queued, heads included.
    pub queued_bytes: u64,
    /// What was no request, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::COUNT],
    /// Connections closed because nothing came, or nothing was taken, for too long.
    pub timed_out: u64,
    /// Connections reset because their file changed.
    pub gone: u64,
}

impl Default for TalkCounters {
    fn default() -> Self {
        Self {
            opened: 0,
            closed: 0,
            requests: 0,
            statuses: [0; 4],
            queued_bytes: 0,
            refused: [0; Refusal::COUNT],
            timed_out: 0,
            gone: 0,
        }
    }
}

/// What all connections of a worker share in HTTP.
#[derive(Debug)]
pub(super) struct Clerk {
    pub(super) answers: Rc<RefCell<Answers>>,
    pub(super) finder: Finder,
    pub(super) tree: Arc<Tree>,
    pub(super) policy: Arc<Policy>,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) scratch: Scratch,
    pub(super) counters: TalkCounters,
    /// Connections by address, where they are limited.
    pub(super) peers: HashMap<crate::net::Address, u32>,
    /// No further requests are answered: each connection ends after its response.
    pub(super) draining: bool,
}

/// What became of the bytes at hand.
enum Step {
    /// So many are done with; go on.
    Taken(usize),
    /// More must come first.
    Incomplete,
    /// Something else must happen first.
    Wait(Doing),
}

impl Service<Talk> for Clerk {
    fn opened(&mut self, conn: &mut Conn<'_, Talk>) {
        self.counters.opened += 1;
        conn.state_mut().id = Some(conn.id());
        let most = self.limits.connections_per_peer;
        if most > 0 {
            let count = self.peers.entry(conn.path().peer).or_insert(0);
            *count += 1;
            conn.state_mut().counted = true;
            if *count > most {
                self.refuse(conn, Refusal::TooManyConnections);
                return;
            }
        }
        self.watch(conn, Doing::Nothing);
    }

    fn data(&mut self, conn: &mut Conn<'_, Talk>, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.step(conn, &bytes[done..]) {
                Step::Taken(taken) => done += taken,
                Step::Incomplete => {
                    // The time for a head runs from its first byte, however slowly the others come.
                    if conn.state().doing != Doing::Reading {
                        self.watch(conn, Doing::Reading);
                    }
                    return done;
                }
                Step::Wait(doing) => {
                    self.watch(conn, doing);
                    return done;
                }
            }
        }
        let doing = if conn.state().answers.len() > 0 { Doing::Sending } else { Doing::Nothing };
        if conn.state().skip > 0 {
            self.watch(conn, Doing::Reading);
        } else {
            self.watch(conn, doing);
        }
        done
    }

    fn acked(&mut self, conn: &mut Conn<'_, Talk>, upto: u64) {
        let talk = conn.state_mut();
        let before = talk.answers.len();
        self.answers.borrow_mut().release(&mut talk.answers, upto);
        if talk.answers.len() < before {
            if talk.doing == Doing::Sending {
                // A request may wait for room in the pipeline.
                conn.more();
                if conn.state().answers.len() == 0 {
                    self.watch(conn, Doing::Nothing);
                }
            }
            self.end_if_done(conn);
        }
    }

    fn half_closed(&mut self, conn: &mut Conn<'_, Talk>) {
        conn.state_mut().half_closed = true;
        self.end_if_done(conn);
    }

    fn closed(&mut self, conn: &mut Conn<'_, Talk>, why: Closed) {
        let talk = conn.state_mut();
        self.answers.borrow_mut().release(&mut talk.answers, u64::MAX);
        self.counters.closed += u64::from(talk.id.is_some());
        self.counters.gone += u64::from(why == Closed::Gone);
        if talk.counted {
            let peer = conn.path().peer;
            if let Some(count) = self.peers.get_mut(&peer) {
                *count -= 1;
                if *count == 0 {
                    self.peers.remove(&peer);
                }
            }
        }
    }

    fn timer(&mut self, conn: &mut Conn<'_, Talk>) {
        let acked = conn.acked();
        let talk = conn.state_mut();
        match talk.doing {
            Doing::Sending if acked > talk.acked => {
                let moved = acked - talk.acked;
                talk.acked = acked;
                let time = self.limits.stall_time;
                if self.limits.is_slow_reader(moved, time) {
                    self.time_out(conn);
                } else {
                    conn.set_timer(Some(Tick(conn.now().0 + time)));
                }
            }
            // RFC 9110 section 15.5.9: who has begun a head is told.
            Doing::Reading if talk.skip == 0 && !talk.closing => {
                self.counters.timed_out += 1;
                self.refuse(conn, Refusal::Timeout);
            }
            Doing::Nothing if !talk.closing => {
                self.counters.timed_out += 1;
                talk.closing = true;
                conn.finish();
                self.watch(conn, Doing::Sending);
            }
            _ => self.time_out(conn),
        }
    }
}

impl Clerk {
    /// Does the next thing with the bytes that came.
    fn step(&mut self, conn: &mut Conn<'_, Talk>, bytes: &[u8]) -> Step {
        let talk = conn.state_mut();
        if talk.closing {
            return Step::Taken(bytes.len());
        }
        if talk.skip > 0 {
            let skipped = (bytes.len() as u64).min(talk.skip);
            talk.skip -= skipped;
            return Step::Taken(usize::try_from(skipped).unwrap_or(bytes.len()));
        }
        if talk.answers.len() >= PIPELINE {
            return Step::Wait(Doing::Sending);
        }
        let mut scratch = std::mem::replace(&mut self.scratch, Scratch::empty());
        let step = match Request::parse(bytes, &mut scratch, &self.limits) {
            Parsed::Incomplete => Step::Incomplete,
            Parsed::Refused(refusal) => {
                self.refuse(conn, refusal);
                Step::Taken(bytes.len())
            }
            Parsed::Request(request, len) => self.answer(conn, request, len),
        };
        self.scratch = scratch;
        step
    }

    /// Answers one request.
    fn answer(&mut self, conn: &mut Conn<'_, Talk>, mut request: Request<'_>, len: usize) -> Step {
        let talk = conn.state_mut();
        let last = self.limits.requests > 0 && talk.requests + 1 >= self.limits.requests;
        if last || self.draining || talk.half_closed || request.framing == Framing::Chunked {
            request.persistent = false;
        }
        let mut source = None;
        if request.needs_resource() {
            let host = self.tree.host(request.host);
            match self.finder.find(conn.now(), host, request.path, conn.state().waiter()) {
                Lookup::Known(answer) => source = Some(Arc::clone(answer)),
                Lookup::Asked => return Step::Wait(Doing::Asking),
                Lookup::Busy => {}
            }
        }
        let (policy, date) = (Arc::clone(&self.policy), *self.clock.date());
        self.queue(conn, source, |source, out| {
            let resource = source.map_or(Resource::Busy, |answer| answer.found().resource());
            respond(&request, resource, &policy, &date, out)
        });
        self.counters.requests += 1;
        let talk = conn.state_mut();
        talk.requests += 1;
        if let Framing::Length(bytes) = request.framing
            && !talk.closing
        {
            talk.skip = bytes;
        }
        Step::Taken(len)
    }

    /// Queues a response; the connection ends after it if it says so.
    fn queue(
        &mut self,
        conn: &mut Conn<'_, Talk>,
        source: Option<Arc<Answer>>,
        write: impl FnOnce(Option<&Answer>, &mut [u8]) -> Response,
    ) {
        let start = conn.queued();
        let all = Rc::clone(&self.answers);
        let mut answers = all.borrow_mut();
        let written = answers.add(&mut conn.state_mut().answers, start, source, |source, head| {
            write(source.map(|answer| &**answer), &mut head[..])
        });
        let Some(response) = written else {
            drop(answers);
            conn.reset();
            return;
        };
        let (bytes, status, close) = (response.total_len(), response.status, response.close);
        drop(answers);
        conn.queue(bytes);
        self.counters.queued_bytes += bytes;
        if let Some(count) = self.counters.statuses.get_mut(usize::from(status / 100).wrapping_sub(2)) {
            *count += 1;
        }
        if close {
            conn.state_mut().closing = true;
            conn.finish();
        }
    }

    /// Answers what was no request, and ends the connection.
    #[cold]
    fn refuse(&mut self, conn: &mut Conn<'_, Talk>, refusal: Refusal) {
        self.counters.refused[refusal as usize] += 1;
        let (policy, date) = (Arc::clone(&self.policy), *self.clock.date());
        self.queue(conn, None, |_, out| refuse(refusal, &policy, &date, out));
        self.watch(conn, Doing::Sending);
    }

    /// A peer that says no more gets what it asked for, and then the end.
    fn end_if_done(&mut self, conn: &mut Conn<'_, Talk>) {
        let talk = conn.state_mut();
        if talk.half_closed && talk.answers.len() == 0 && talk.doing != Doing::Asking && !talk.closing {
            talk.closing = true;
            conn.finish();
        }
    }

    /// Sets the timer for what the connection waits for.
    fn watch(&mut self, conn: &mut Conn<'_, Talk>, doing: Doing) {
        let acked = conn.acked();
        let talk = conn.state_mut();
        let waiting = match doing {
            Doing::Nothing => Waiting::Request,
            Doing::Reading if talk.skip > 0 => Waiting::Body,
            Doing::Reading => Waiting::Head,
            Doing::Asking | Doing::Sending => Waiting::Reader,
        };
        (talk.doing, talk.acked) = (doing, acked);
        conn.set_timer(Some(Tick(conn.now().0 + self.limits.time(waiting))));
    }

    #[cold]
    fn time_out(&mut self, conn: &mut Conn<'_, Talk>) {
        self.counters.timed_out += 1;
        conn.reset();
    }
}
