//! What is said over a connection: requests in, responses queued, and nothing kept longer than it must be.

use super::talk::{Doing, Talk};
use crate::serve::http::{Next, Refusal, Request, Scratch, Waiting};
use crate::serve::responder::{Caller, Responder, Said};
use crate::tcp::{Closed, Conn, Service};
use crate::worker::Tick;

/// What happened to connections, in HTTP's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TalkCounters {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that were closed, in whatever way.
    pub closed: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Of these, those answered unread.
    pub repeated: u64,
    /// Bytes of responses that were queued, heads included.
    pub queued_bytes: u64,
    /// Connections closed because nothing came, or nothing was taken, for too long.
    pub timed_out: u64,
    /// Connections reset because their file changed.
    pub gone: u64,
}

/// Who speaks HTTP over all connections of a worker.
#[derive(Debug)]
pub(super) struct Clerk {
    pub(super) responder: Responder,
    pub(super) scratch: Scratch,
    pub(super) counters: TalkCounters,
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
        if self.responder.peers.enter(conn.path().peer.ip()) {
            conn.state_mut().counted = true;
        } else {
            self.refuse(conn, Refusal::TooManyConnections, &[]);
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
        self.responder.answers.borrow_mut().release(&mut talk.answers, upto);
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
        self.responder.answers.borrow_mut().release(&mut talk.answers, u64::MAX);
        self.counters.closed += u64::from(talk.id.is_some());
        self.counters.gone += u64::from(why == Closed::Gone);
        if talk.counted {
            self.responder.peers.leave(conn.path().peer.ip());
        }
    }

    fn timer(&mut self, conn: &mut Conn<'_, Talk>) {
        let acked = conn.acked();
        let talk = conn.state_mut();
        let (over, waiting) = (talk.intake.is_over(), talk.intake.waiting(true));
        match talk.doing {
            Doing::Sending if acked > talk.acked => {
                let (moved, time) = (acked - talk.acked, self.responder.limits.stall_time);
                talk.acked = acked;
                if self.responder.limits.is_slow_reader(moved, time) {
                    self.time_out(conn);
                } else {
                    conn.set_timer(Some(Tick(conn.now().0 + time)));
                }
            }
            // RFC 9110 section 15.5.9: who has begun a head is told.
            Doing::Reading if waiting == Waiting::Head => {
                self.counters.timed_out += 1;
                self.refuse(conn, Refusal::Timeout, &[]);
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
        let before = conn.state().intake.requests();
        loop {
            while let Some((len, grown)) = self.responder.repeat(caller(conn), &bytes[done..]) {
                done += len;
                self.counters.requests += 1;
                self.counters.repeated += 1;
                self.queue(conn, grown);
            }
            let (used, next) = conn.state_mut().intake.next(&bytes[done..], scratch, &self.responder.limits);
            done += used;
            let doing = match next {
                Next::Request(request, len) => match self.answer(conn, request, (&bytes[done..], len)) {
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
                Next::More if done < bytes.len() || !conn.state().is_at_head() => {
                    // Who writes a request in several calls may hold the rest back until this is acknowledged.
                    conn.acknowledge();
                    Doing::Reading
                }
                Next::More if conn.state().answers.len() > 0 => Doing::Sending,
                Next::More => Doing::Nothing,
                Next::Refused(refusal, asked) => {
                    self.refuse(conn, refusal, asked);
                    return bytes.len();
                }
                Next::Broken(refusal) => {
                    self.responder.counts.refused(refusal, None);
                    self.end(conn);
                    return bytes.len();
                }
                Next::Over => Doing::Sending,
            };
            // The time for a head runs from its first byte, however slowly the others come; when its request is answered, it is the
            // next one's that is waited for.
            let next = conn.state().intake.requests() != before;
            if doing != Doing::Reading || conn.state().doing != Doing::Reading || next {
                self.watch(conn, doing);
            }
            return done;
        }
    }

    /// Answers one request.
    fn answer(&mut self, conn: &mut Conn<'_, Talk>, mut request: Request<'_>, head: (&[u8], usize)) -> Step {
        let now = conn.now();
        let said = self.responder.answer(now, caller(conn), &mut request, head);
        match said {
            Said::Answered { bytes, close } => {
                self.counters.requests += 1;
                self.queue(conn, bytes);
                if close {
                    conn.finish();
                }
            }
            Said::Full => return Step::Wait(Doing::Sending),
            Said::Asked => return Step::Wait(Doing::Asking),
            Said::NoPlace => conn.reset(),
        }
        Step::Answered
    }

    /// Answers what was no request, and ends the connection.
    #[cold]
    fn refuse(&mut self, conn: &mut Conn<'_, Talk>, refusal: Refusal, asked: &[u8]) {
        if let Some(bytes) = self.responder.refuse(caller(conn), refusal, asked) {
            self.queue(conn, bytes);
        }
        self.end(conn);
    }

    /// Lets the stream grow by a response.
    fn queue(&mut self, conn: &mut Conn<'_, Talk>, bytes: u64) {
        conn.queue(bytes);
        self.counters.queued_bytes += bytes;
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
        if doing == Doing::Nothing && self.responder.draining {
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
        conn.set_timer(Some(Tick(conn.now().0 + self.responder.limits.time(waiting))));
    }

    #[cold]
    fn time_out(&mut self, conn: &mut Conn<'_, Talk>) {
        self.counters.timed_out += 1;
        conn.reset();
    }
}

/// A connection, as who answers sees it.
fn caller<'c>(conn: &'c mut Conn<'_, Talk>) -> Caller<'c> {
    let (peer, queued) = (conn.path().peer.ip(), conn.queued());
    let talk = conn.state_mut();
    Caller { peer, queued, waiter: talk.waiter(), answers: &mut talk.answers, intake: &mut talk.intake }
}
