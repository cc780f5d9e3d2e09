//! A connection of the kernel's: requests in, responses out, as far as the socket goes.

mod patience;
mod push;
mod upload;

pub use upload::UploadPlan;
pub(super) use upload::Uploads;

use super::page::Tally;
use crate::serve::Waiter;
use crate::serve::answers::{Answers, Chain};
use crate::serve::control::Control;
use crate::serve::http::{Intake, Method, Next, Refusal, Scratch, Waiting};
use crate::serve::responder::{Caller, Responder, Said};
use crate::serve::tree::Entry;
use crate::worker::Tick;
use drivers::kernel::{Engine, Step};
use push::push;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, connect_unspec, recv, shutdown, sockopt};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use upload::Upload;

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: Rc<OwnedFd>,
    pub(super) peer: IpAddr,
    pub(super) waiter: Waiter,
    intake: Intake,
    answers: Chain,
    /// Bytes of responses so far, and how many of them are the kernel's.
    queued: u64,
    sent: u64,
    /// What was read and not used: part of a head, or requests that must wait.
    inbox: Vec<u8>,
    /// A body that is being stored.
    upload: Option<Box<Upload>>,
    pub(super) readable: bool,
    /// The peer has ended its side: a read is not the last before it has said so.
    pub(super) hung_up: bool,
    writable: bool,
    /// It became so since the engine was given what is under way: whatever that says of a full socket is old.
    freed: bool,
    /// The engine has something under way.
    under_way: bool,
    /// Whether its peer's count includes it.
    pub(super) counted: bool,
    /// Among those that have something to do.
    pub(super) ready: bool,
    /// A request has come that must wait.
    pending: bool,
    /// It waits for nobody who would wake it: it is tried again.
    again: bool,
    /// The peer has said all that it will say.
    half_closed: bool,
    /// The stream ends behind what is queued.
    finishing: bool,
    /// It has been ended.
    shut: bool,
    /// The body under way needed more than one push: it is looked at once more before its end.
    long: bool,
    /// What was queued when this turn began. Responses up to there have waited for their turn: they are looked at like long ones.
    waited: u64,
    /// What it waits for, since when, and how far it was then; and the requests that had been answered.
    waiting: Waiting,
    since: Tick,
    mark: u64,
    answered: u32,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It waits for the socket, the librarian or the engine.
    Rests,
    /// It could go on, but others have their turn first.
    Yields,
    /// It is over.
    Close,
    /// It is to be ended with a reset.
    Reset,
}

/// What connections of one thread share while one of them has its turn.
pub(super) struct Turn<'t> {
    pub(super) now: Tick,
    pub(super) responder: &'t mut Responder,
    pub(super) scratch: &'t mut Scratch,
    pub(super) engine: &'t mut dyn Engine<Entry>,
    /// Where files may be stored.
    pub(super) uploads: Option<&'t mut Uploads>,
    pub(super) control: &'t Control,
    /// Room for what is read at once.
    pub(super) room: &'t mut [u8],
    pub(super) tally: &'t mut Tally,
    /// The number of the connection.
    pub(super) flow: u32,
    /// Bytes that it may still send, or receive, in this turn.
    pub(super) quantum: u64,
}

impl Conn {
    pub(super) fn new(socket: OwnedFd, peer: IpAddr, waiter: Waiter, now: Tick) -> Self {
        Self {
            socket: Rc::new(socket),
            peer,
            waiter,
            intake: Intake::default(),
            answers: Chain::default(),
            queued: 0,
            sent: 0,
            inbox: Vec::new(),
            upload: None,
            hung_up: false,
            // Often the request is there before it is asked for.
            readable: true,
            writable: true,
            freed: false,
            under_way: false,
            counted: false,
            ready: false,
            pending: false,
            again: false,
            half_closed: false,
            finishing: false,
            shut: false,
            long: false,
            waited: 0,
            waiting: Waiting::Request,
            since: now,
            mark: 0,
            answered: 0,
        }
    }

    /// Does what can be done now: sends, answers, reads, and sends again.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) -> Verdict {
        self.waited = self.queued;
        loop {
            let before = (self.sent, self.queued);
            if let Some(verdict) = self.pump(turn) {
                return verdict;
            }
            if let Some(verdict) = self.listen(turn) {
                return verdict;
            }
            if self.sent == self.queued && self.finishing {
                return self.finish(turn);
            }
            if before == (self.sent, self.queued) {
                self.watch(turn);
                return Verdict::Rests;
            }
        }
    }

    /// The socket takes bytes again.
    pub(super) const fn became_writable(&mut self) {
        (self.writable, self.freed) = (true, true);
    }

    /// Nothing under way, nothing begun.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_begun = self.inbox.is_empty() && self.upload.is_none();
        self.sent == self.queued && nothing_begun && matches!(self.waiting, Waiting::Request)
    }

    /// Nothing more is answered; the stream ends behind what is queued.
    pub(super) fn end(&mut self) {
        self.intake.close();
        self.finishing = true;
    }

    /// A question that waited can be asked again, or there is news from the engine.
    pub(super) fn awake(&mut self) {
        self.pending = false;
    }

    /// Lets go of what is queued.
    pub(super) fn forget(&mut self, answers: &mut Answers) {
        answers.release(&mut self.answers, u64::MAX);
    }

    /// Reads and answers requests. `Some` when that is the end of the connection.
    fn listen(&mut self, turn: &mut Turn<'_>) -> Option<Verdict> {
        self.pending &= !std::mem::take(&mut self.again);
        // What was kept comes first, unless it has to wait; and an upload that waited has no bytes to come.
        if (!self.inbox.is_empty() || self.upload.is_some()) && !self.pending {
            let mut bytes = std::mem::take(&mut self.inbox);
            let done = self.read(&bytes, turn);
            bytes.drain(..done);
            self.inbox = bytes;
        }
        while self.readable && !self.pending {
            if self.is_drawing() {
                match self.draw(turn) {
                    None => continue,
                    verdict => return verdict,
                }
            }
            if turn.quantum == 0 {
                return Some(self.yields(turn));
            }
            let most = 2 * turn.responder.limits.head_bytes;
            let room = turn.room.len().min(most.saturating_sub(self.inbox.len()).max(1));
            let got = match recv(&*self.socket, &mut turn.room[..room], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return self.heard_all(),
                Ok((got, _)) => got,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return None;
                }
                Err(_) => return Some(Verdict::Close),
            };
            // Fewer than there was room for: there are no more (epoll(7), question 9).
            self.readable = got == room || self.hung_up;
            turn.quantum = turn.quantum.saturating_sub(got as u64);
            let room = std::mem::take(&mut turn.room);
            if self.inbox.is_empty() {
                let done = self.read(&room[..got], turn);
                self.inbox.extend_from_slice(&room[done..got]);
            } else {
                let mut bytes = std::mem::take(&mut self.inbox);
                bytes.extend_from_slice(&room[..got]);
                let done = self.read(&bytes, turn);
                bytes.drain(..done);
                self.inbox = bytes;
            }
            turn.room = room;
        }
        if self.again { Some(self.yields(turn)) } else { None }
    }

    /// The peer has ended its side: answers go on, and then so do we.
    fn heard_all(&mut self) -> Option<Verdict> {
        (self.readable, self.half_closed) = (false, true);
        if self.shut {
            return Some(Verdict::Close);
        }
        if !self.pending {
            // What it has begun, it will not complete.
            self.end();
        }
        None
    }

    /// Answers requests, as far as that can be done now; returns the bytes that are done with.
    fn read(&mut self, bytes: &[u8], turn: &mut Turn<'_>) -> usize {
        let mut done = 0;
        loop {
            if self.upload.is_some() {
                let (used, goes_on) = self.take_in(turn, &bytes[done..]);
                done += used;
                if !goes_on {
                    return done;
                }
            }
            while let Some((len, grown)) = turn.responder.repeat(self.caller(), &bytes[done..]) {
                done += len;
                turn.tally.requests += 1;
                turn.tally.repeated += 1;
                self.queue(turn, grown);
            }
            let mut scratch = std::mem::replace(turn.scratch, Scratch::empty());
            let (used, next) = self.intake.next(&bytes[done..], &mut scratch, &turn.responder.limits);
            done += used;
            let mut over = false;
            match next {
                Next::Request(mut request, len) => {
                    let (head, rest) = bytes[done..].split_at(len);
                    let said = if request.method == Method::Put && turn.uploads.is_some() {
                        self.begin_upload(turn, &mut request, head, !rest.is_empty())
                    } else {
                        let raw = (&bytes[done..], len);
                        Some(turn.responder.answer(turn.now, self.caller(), &mut request, raw))
                    };
                    match said {
                        Some(Said::Full | Said::Asked) => {
                            self.pending = true;
                            over = true;
                        }
                        Some(said) => {
                            done += len;
                            over = matches!(said, Said::NoPlace);
                            self.note(turn, said);
                        }
                        // Its body comes next.
                        None => done += len,
                    }
                }
                Next::More => {
                    // What the peer has begun, it will not complete.
                    if self.half_closed {
                        self.end();
                    }
                    over = true;
                }
                Next::Refused(refusal, asked) => {
                    self.refuse(turn, refusal, asked);
                    (done, over) = (bytes.len(), true);
                }
                Next::Broken(refusal) => {
                    turn.responder.counts.refused(refusal, None);
                    self.end();
                    (done, over) = (bytes.len(), true);
                }
                Next::Over => (done, over) = (bytes.len(), true),
            }
            *turn.scratch = scratch;
            if over {
                return done;
            }
        }
    }

    /// Answers what was no request, and ends the connection.
    #[cold]
    fn refuse(&mut self, turn: &mut Turn<'_>, refusal: Refusal, asked: &[u8]) {
        if let Some(bytes) = turn.responder.refuse(self.caller(), refusal, asked) {
            self.queue(turn, bytes);
        }
        self.end();
    }

    /// As who answers sees it.
    const fn caller(&mut self) -> Caller<'_> {
        Caller {
            peer: self.peer,
            waiter: self.waiter,
            queued: self.queued,
            answers: &mut self.answers,
            intake: &mut self.intake,
        }
    }

    /// Lets the stream grow.
    const fn queue(&mut self, turn: &mut Turn<'_>, bytes: u64) {
        turn.tally.queued_bytes += bytes;
        self.queued += bytes;
    }

    /// Lets the stream grow by an answer; there is none where there was no place for it.
    fn note(&mut self, turn: &mut Turn<'_>, said: Said) {
        if let Said::Answered { bytes, close } = said {
            turn.tally.requests += 1;
            self.queue(turn, bytes);
            self.finishing |= close;
        } else {
            self.end();
        }
    }

    /// Refuses a connection as soon as it is there.
    pub(super) fn turn_away(&mut self, turn: &mut Turn<'_>) {
        self.refuse(turn, Refusal::TooManyConnections, &[]);
    }

    /// Sends what is queued. `Some` when it cannot go on now, or ever.
    fn pump(&mut self, turn: &mut Turn<'_>) -> Option<Verdict> {
        while self.sent < self.queued && self.writable {
            if turn.quantum == 0 {
                return Some(self.yields(turn));
            }
            self.freed &= self.under_way;
            let answers = Rc::clone(&turn.responder.answers);
            let step = push(self, &answers.borrow(), turn);
            self.under_way = step == Step::Later;
            match step {
                Step::Sent(bytes) => {
                    self.sent += bytes;
                    turn.tally.sent_bytes += bytes;
                    turn.quantum = turn.quantum.saturating_sub(bytes);
                    let before = self.answers.len();
                    answers.borrow_mut().release(&mut self.answers, self.sent);
                    let complete = self.answers.len() < before;
                    self.long = !complete;
                    // A request may have waited for room in the pipeline.
                    self.pending &= !complete;
                }
                Step::Full => self.writable = self.freed,
                Step::Later => {
                    self.long = true;
                    return Some(self.rest(turn));
                }
                Step::Gone => {
                    turn.tally.gone += 1;
                    return Some(Verdict::Reset);
                }
                Step::Failed => {
                    turn.tally.failed += 1;
                    return Some(Verdict::Reset);
                }
                Step::Broken => return Some(Verdict::Close),
            }
        }
        None
    }

    fn rest(&mut self, turn: &Turn<'_>) -> Verdict {
        self.watch(turn);
        Verdict::Rests
    }

    fn yields(&mut self, turn: &Turn<'_>) -> Verdict {
        self.watch(turn);
        Verdict::Yields
    }

    /// All is sent, and the stream is to end. What still comes is thrown away until the peer ends, too, or an answer on
    /// its way may be lost to a reset (RFC 9112 section 9.6).
    fn finish(&mut self, turn: &mut Turn<'_>) -> Verdict {
        if self.half_closed {
            return Verdict::Close;
        }
        if !std::mem::replace(&mut self.shut, true) && shutdown(&*self.socket, Shutdown::Write).is_err() {
            return Verdict::Close;
        }
        self.inbox = Vec::new();
        self.pending = false;
        while self.readable {
            // Who sends for ever has his turns like anybody else, until it is too long.
            if turn.quantum == 0 {
                return self.yields(turn);
            }
            match recv(&*self.socket, &mut *turn.room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Verdict::Close,
                Ok((got, _)) => {
                    self.readable = got == turn.room.len() || self.hung_up;
                    turn.quantum = turn.quantum.saturating_sub(got as u64);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => return Verdict::Close,
            }
        }
        self.watch(turn);
        Verdict::Rests
    }

    /// Ends it at once, so that the peer hears of it.
    pub(super) fn reset(&self) {
        // Errors mean that it is gone already.
        let _ = sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO));
        // Not `shutdown`, which ends in order; and not only `close`, since the engine may keep the socket for a while:
        // this sends the reset now (`tcp_disconnect`, `net/ipv4/tcp.c`).
        if connect_unspec(&*self.socket).is_err() {
            let _ = shutdown(&*self.socket, Shutdown::Both);
        }
    }
}
