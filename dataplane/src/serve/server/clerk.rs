//! What is said over a connection: requests in, responses queued, and nothing kept longer than it must be.

use super::answers::Answers;
use super::talk::{Doing, Talk};
use crate::serve::http::{
    Clock, Counts, Limits, Next, Peers, Policy, Refusal, Request, Resource, Response, Scratch, Waiting,
    refuse, respond,
};
use crate::serve::log::{LogQueue, Record};
use crate::serve::tree::{Finder, Lookup, Tree};
use crate::tcp::{Closed, Conn, Service};
use crate::worker::Tick;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// Responses of one connection that may be under way: what a client pipelines beyond waits.
const PIPELINE: u32 = 8;

/// What happened to connections, in HTTP's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TalkCounters {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that were closed, in whatever way.
    pub closed: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of responses that were queued, heads included.
    pub queued_bytes: u64,
    /// Connections closed because nothing came, or nothing was taken, for too long.
    pub timed_out: u64,
    /// Connections reset because their file changed.
    pub gone: u64,
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
    /// The wall clock, as of the last tick.
    pub(super) now: SystemTime,
    pub(super) scratch: Scratch,
    pub(super) counters: TalkCounters,
    pub(super) counts: Counts,
    pub(super) log: Option<LogQueue>,
    /// Connections by address.
    pub(super) peers: Peers,
    /// No further requests are answered: each connection ends after its response.
    pub(super) draining: bool,
}

/// What became of a request.
enum Step {
    /// It is answered.
    Answered,
    /// Something else must happen first: it is to be offered again.
    Wait(Doing),
}

impl Service<Talk> for Clerk {
    fn opened(&mut self, conn: &mut Conn<'_, Talk>) {
        self.counters.opened += 1;
        conn.state_mut().id = Some(conn.id());
        if self.peers.enter(conn.path().peer.ip()) {
            conn.state_mut().counted = true;
        } else {
            self.refuse(conn, Refusal::TooManyConnections);
            return;
        }
        self.watch(conn, Doing::Nothing);
    }

    fn data(&mut self, conn: &mut Conn<'_, Talk>, bytes: &[u8]) -> usize {
        // Its own scratch would be borrowed as long as the request lives.
        let mut scratch = std::mem::replace(&mut self.scratch, Scratch::empty());
        let done = self.read(conn, bytes, &mut scratch);
        self.scratch = scratch;
        done
    }

    fn acked(&mut self, conn: &mut Conn<'_, Talk>, upto: u64) {
        let talk = conn.state_mut();
        let before = talk.answers.len();
        self.answers.borrow_mut().release(&mut talk.answers, upto);
        if talk.answers.len() < before && talk.doing == Doing::Sending {
            if conn.state().answers.len() == 0 {
                self.watch(conn, Doing::Nothing);
            }
            // A request may wait for room in the pipeline; if none does, `read` sees what is next.
            conn.more();
        }
    }

    fn half_closed(&mut self, conn: &mut Conn<'_, Talk>) {
        conn.state_mut().half_closed = true;
        // A request that waits is offered again, and `read` ends the connection behind the last of them.
        if !conn.state().pending {
            self.end(conn);
        }
    }

    fn closed(&mut self, conn: &mut Conn<'_, Talk>, why: Closed) {
        let talk = conn.state_mut();
        self.answers.borrow_mut().release(&mut talk.answers, u64::MAX);
        self.counters.closed += u64::from(talk.id.is_some());
        self.counters.gone += u64::from(why == Closed::Gone);
        if talk.counted {
            self.peers.leave(conn.path().peer.ip());
        }
    }

    fn timer(&mut self, conn: &mut Conn<'_, Talk>) {
        let acked = conn.acked();
        let talk = conn.state_mut();
        let (over, waiting) = (talk.intake.is_over(), talk.intake.waiting(true));
        match talk.doing {
            Doing::Sending if acked > talk.acked => {
                let (moved, time) = (acked - talk.acked, self.limits.stall_time);
                talk.acked = acked;
                if self.limits.is_slow_reader(moved, time) {
                    self.time_out(conn);
                } else {
                    conn.set_timer(Some(Tick(conn.now().0 + time)));
                }
            }
            // RFC 9110 section 15.5.9: who has begun a head is told.
            Doing::Reading if waiting == Waiting::Head => {
                self.counters.timed_out += 1;
                self.refuse(conn, Refusal::Timeout);
            }
            Doing::Nothing if !over => {
                self.counters.timed_out += 1;
                self.end(conn);
            }
            _ => self.time_out(conn),
        }
    }
}

impl Clerk {
    /// Reads requests and answers them, as far as that can be done now; returns the bytes that are done with.
    fn read(&mut self, conn: &mut Conn<'_, Talk>, bytes: &[u8], scratch: &mut Scratch) -> usize {
        let mut done = 0;
        conn.state_mut().pending = false;
        loop {
            let (used, next) = conn.state_mut().intake.next(&bytes[done..], scratch, &self.limits);
            done += used;
            let doing = match next {
                Next::Request(request, len) => match self.answer(conn, request) {
                    Step::Answered => {
                        done += len;
                        continue;
                    }
                    Step::Wait(doing) => {
                        conn.state_mut().pending = true;
                        doing
                    }
                },
                // What the peer has begun, it will not complete.
                Next::More if conn.state().half_closed => {
                    self.end(conn);
                    return bytes.len();
                }
                Next::More if done < bytes.len() || !conn.state().is_at_head() => Doing::Reading,
                Next::More if conn.state().answers.len() > 0 => Doing::Sending,
                Next::More => Doing::Nothing,
                Next::Refused(refusal) => {
                    self.refuse(conn, refusal);
                    return bytes.len();
                }
                Next::Broken(refusal) => {
                    self.counts.refused(refusal, None);
                    self.end(conn);
                    return bytes.len();
                }
                Next::Over => Doing::Sending,
            };
            // The time for a head runs from its first byte, however slowly the others come.
            if doing != Doing::Reading || conn.state().doing != Doing::Reading {
                self.watch(conn, doing);
            }
            return done;
        }
    }

    /// Answers one request.
    fn answer(&mut self, conn: &mut Conn<'_, Talk>, mut request: Request<'_>) -> Step {
        let talk = conn.state();
        if talk.answers.len() >= PIPELINE {
            return Step::Wait(Doing::Sending);
        }
        request.persistent &= !self.draining;
        let mut source = None;
        if request.needs_resource() {
            let host = self.tree.host(request.host);
            match self.finder.find(conn.now(), host, request.path, talk.waiter()) {
                Lookup::Known(answer) => source = Some(Arc::clone(answer)),
                Lookup::Asked => return Step::Wait(Doing::Asking),
                Lookup::Busy => {}
            }
        }
        let (start, mut answers) = (conn.queued(), self.answers.borrow_mut());
        let written = answers.add(&mut conn.state_mut().answers, start, source, |source, out| {
            let resource = source.map_or(Resource::Busy, |answer| answer.found().resource());
            respond(&request, resource, &self.policy, self.clock.date(), out)
        });
        let Some(response) = written else {
            conn.reset();
            return Step::Answered;
        };
        self.counters.requests += 1;
        self.counts.answered(request.method, response);
        if let Some(log) = &self.log {
            log.push(Record::new(conn.path().peer.ip(), &request, response, self.now));
        }
        conn.state_mut().intake.answered(&request, response, &self.limits);
        self.counters.queued_bytes += queue(conn, response);
        Step::Answered
    }

    /// Answers what was no request, and ends the connection.
    #[cold]
    fn refuse(&mut self, conn: &mut Conn<'_, Talk>, refusal: Refusal) {
        let (start, mut answers) = (conn.queued(), self.answers.borrow_mut());
        let written = answers.add(&mut conn.state_mut().answers, start, None, |_, out| {
            refuse(refusal, &self.policy, self.clock.date(), out)
        });
        if let Some(response) = written {
            self.counts.refused(refusal, Some(response));
            if let Some(log) = &self.log {
                log.push(Record::refused(conn.path().peer.ip(), refusal, response, self.now));
            }
            self.counters.queued_bytes += queue(conn, response);
        }
        drop(answers);
        self.end(conn);
    }

    /// Nothing more is read, and the stream ends behind what is queued.
    fn end(&mut self, conn: &mut Conn<'_, Talk>) {
        conn.state_mut().intake.close();
        conn.finish();
        self.watch(conn, Doing::Sending);
    }

    /// The server wants to end: who has nothing under way is not waited for.
    pub(super) fn end_if_idle(&mut self, conn: &mut Conn<'_, Talk>) {
        if conn.state().doing == Doing::Nothing && conn.state().answers.len() == 0 {
            self.end(conn);
        }
    }

    /// Sets the timer for what the connection waits for.
    fn watch(&mut self, conn: &mut Conn<'_, Talk>, mut doing: Doing) {
        if doing == Doing::Nothing && self.draining {
            conn.state_mut().intake.close();
            conn.finish();
            doing = Doing::Sending;
        }
        let acked = conn.acked();
        let talk = conn.state_mut();
        let waiting = match doing {
            Doing::Nothing => Waiting::Request,
            Doing::Reading => talk.intake.waiting(true),
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

/// Lets the stream grow by a response, and end after it if it says so; returns its bytes.
fn queue(conn: &mut Conn<'_, Talk>, response: &Response) -> u64 {
    let bytes = response.total_len();
    conn.queue(bytes);
    if response.close {
        conn.finish();
    }
    bytes
}
