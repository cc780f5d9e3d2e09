//! What a client says and hears, whatever carries it: the kernel's sockets or our own TCP.
//!
//! ```text
//!   ask ─► request, at its time ─► (transport) ─► hear: bytes of the answer ─► counted, timed, verified
//! ```

use super::head::Heads;
use super::pace::Pace;
use super::plan::Verify;
use super::reader::{Done, Ending, Reader, Step};
use super::run::{Hopeless, Run, RunEnd};
use super::tally::{Mishap, Tally};
use crate::worker::Tick;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it should have been sent, and when it was.
    due: Tick,
    sent: Tick,
    /// Which one it is.
    request: u32,
    /// Where it ends in the stream of its connection.
    end: u64,
}

/// HTTP's part of a connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    reader: Reader,
    /// Requests without an answer, the oldest first.
    asked: VecDeque<Asked>,
    /// Bytes of all requests so far.
    end: u64,
    /// Whether an answer came over this connection.
    answered: bool,
}

impl Talk {
    pub(super) fn new(run: &Run) -> Self {
        let reader = Reader::new(run.plan.verify != Verify::Lengths);
        Self { reader, asked: VecDeque::with_capacity(run.plan.pipeline), end: 0, answered: false }
    }

    /// Since when the oldest request without an answer waits.
    pub(super) fn waits_since(&self) -> Option<Tick> {
        self.asked.front().map(|asked| asked.sent)
    }

    /// Bytes of all requests so far.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of content that may be thrown away unseen: they come next.
    pub(super) fn unseen(&self) -> u64 {
        self.reader.unseen()
    }

    /// Whether an answer came over this connection: a server that never gives one is left alone for a while.
    pub(super) const fn is_answered(&self) -> bool {
        self.answered
    }

    /// The bytes of the stream of requests from this offset on, as far as they are of one request.
    #[inline]
    pub(super) fn bytes<'r>(&self, run: &'r Run, offset: u64) -> Option<&'r [u8]> {
        let asked = self.asked.iter().find(|asked| asked.end > offset)?;
        let bytes = &run.plan.requests[asked.request as usize];
        let left = usize::try_from(asked.end - offset).ok()?;
        bytes.get(bytes.len().checked_sub(left)?..)
    }

    /// A new connection: its stream begins anew.
    pub(super) fn renew(&mut self, run: &Run) {
        self.reader = Reader::new(run.plan.verify != Verify::Lengths);
        self.asked.clear();
        (self.end, self.answered) = (0, false);
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server has sent its last byte.
    Closed,
    /// It was reset, or the network failed.
    Reset,
    /// An answer took too long.
    Slow,
    /// The answers make no sense any more, or the server said that it would close: what is counted, is.
    Over,
}

/// What to do with a connection after it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Heard {
    /// Go on.
    On,
    /// Close it, and open another: [`Lost::Over`].
    Over,
}

/// One thread's client: the schedule, what is said over its connections, and what it has counted.
#[derive(Debug)]
pub(super) struct Caller {
    run: Arc<Run>,
    thread: usize,
    pace: Pace,
    heads: Heads,
    /// Requests that a connection did not get to: they are sent first, and their time runs on.
    again: VecDeque<Asked>,
    next_request: u32,
    /// Requests that may still be sent, when their number is fixed.
    quota: Option<u64>,
    /// Requests without an answer.
    waiting: u64,
    tally: Tally,
    /// When counting began.
    since: Option<Tick>,
    over: bool,
    /// When the end came, and the median until then.
    ended: Option<(Tick, Duration)>,
    next_report: Tick,
    /// Connections that are open.
    open: u64,
}

/// How often other threads are told how far this one is.
const REPORT_EVERY: Duration = Duration::from_millis(10);

impl Caller {
    pub(super) fn new(run: &Arc<Run>, thread: usize) -> Self {
        let plan = &run.plan;
        let quota = plan.limit.map(|limit| {
            let (threads, thread) = (run.threads as u64, thread as u64);
            limit / threads + u64::from(thread < limit % threads)
        });
        Self {
            pace: Pace::new(plan.mode, thread, run.threads),
            heads: Heads::new(plan.requests.len()),
            again: VecDeque::new(),
            // Threads do not all ask for the same thing at the same time.
            next_request: u32::try_from(thread % plan.requests.len()).unwrap_or(0),
            quota,
            waiting: 0,
            tally: Tally::default(),
            since: None,
            over: false,
            ended: None,
            next_report: Tick::default(),
            open: 0,
            thread,
            run: Arc::clone(run),
        }
    }

    pub(super) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// To be called often. Whether this thread has nothing more to do.
    #[inline]
    pub(super) fn advance(&mut self, now: Tick) -> bool {
        if now >= self.next_report {
            self.look(now);
        }
        self.over
    }

    fn look(&mut self, now: Tick) {
        let plan = &self.run.plan;
        if self.since.is_none() && now.0 >= plan.warmup {
            self.since = Some(now);
            if !plan.warmup.is_zero() {
                self.tally = Tally::default();
            }
        }
        let time = self.since.map(|since| now.0.saturating_sub(since.0));
        let enough = time.is_some_and(|time| plan.duration.is_some_and(|duration| time >= duration));
        let all = self.quota == Some(0) && self.waiting == 0 && self.again.is_empty();
        let why = match (self.run.is_stopped(), enough, all) {
            (true, ..) => Some(RunEnd::Stopped),
            (_, true, _) => Some(RunEnd::TimeUp),
            (.., true) => Some(RunEnd::Exhausted),
            _ => None,
        };
        if let Some(why) = why.filter(|_| !self.over) {
            self.over = true;
            self.run.note_end(why);
        }
        if let Some(since) = self.since {
            self.tally.counted = Some((since, now));
        }
        let end = self.since.zip(self.run.plan.duration).map(|(since, duration)| since.0 + duration);
        let begin = self.since.is_none().then_some(self.run.plan.warmup);
        let moments = [end, begin].into_iter().flatten().filter(|moment| *moment > now.0);
        self.next_report = Tick(moments.fold(now.0 + REPORT_EVERY, Duration::min));
        self.report();
    }

    fn report(&self) {
        let meter = self.run.meter(self.thread);
        meter.counting.store(self.since.is_some(), Ordering::Relaxed);
        meter.requests.store(self.tally.requests, Ordering::Relaxed);
        meter.body_bytes.store(self.tally.body_bytes, Ordering::Relaxed);
        meter.errors.store(self.tally.mishaps(), Ordering::Relaxed);
        meter.connections.store(self.open, Ordering::Relaxed);
    }

    /// When it wants to [`advance`](Self::advance) at the latest.
    pub(super) const fn look_at(&self) -> Tick {
        self.next_report
    }

    /// When the next request is due that no connection has: the past, if one is overdue; `None` in a closed loop, and
    /// when there is none.
    pub(super) fn next_at(&self) -> Option<Tick> {
        match self.pace.next_at() {
            _ if self.over => None,
            _ if !self.again.is_empty() => Some(Tick::default()),
            _ if self.quota == Some(0) => None,
            at => at,
        }
    }

    /// There is no use in trying on.
    #[cold]
    pub(super) fn despair(&mut self, why: impl FnOnce(SocketAddr) -> Hopeless) {
        self.run.despair(why(self.run.plan.server));
        self.next_report = Tick::default();
    }

    /// Whether a connection may have another request under way.
    #[inline]
    pub(super) fn has_room(&self, talk: &Talk) -> bool {
        talk.asked.len() < self.run.plan.pipeline && !self.over
    }

    /// The next request over this connection, if one is due and the connection may have another under way.
    #[inline]
    pub(super) fn ask(&mut self, now: Tick, talk: &mut Talk) -> Option<&[u8]> {
        if !self.has_room(talk) {
            return None;
        }
        let mut asked = match self.again.pop_front() {
            Some(asked) => asked,
            None => self.next(now)?,
        };
        let bytes = &self.run.plan.requests[asked.request as usize];
        talk.end += bytes.len() as u64;
        (asked.end, asked.sent) = (talk.end, now);
        talk.asked.push_back(asked);
        Some(bytes)
    }

    /// The next request of the schedule.
    #[inline]
    fn next(&mut self, now: Tick) -> Option<Asked> {
        if self.quota == Some(0) {
            return None;
        }
        let due = self.pace.take(now)?;
        if let Some(quota) = self.quota.as_mut().filter(|_| self.since.is_some()) {
            *quota -= 1;
            if *quota == 0 {
                // Whether the end has come must be looked at whenever an answer comes.
                self.next_report = Tick::default();
            }
        }
        let request = self.next_request;
        self.next_request = if request as usize + 1 < self.run.plan.requests.len() { request + 1 } else { 0 };
        self.waiting += 1;
        Some(Asked { due, sent: now, request, end: 0 })
    }

    /// Bytes that came over a connection.
    #[inline]
    pub(super) fn hear(&mut self, now: Tick, talk: &mut Talk, mut bytes: &[u8]) -> Heard {
        self.tally.received_bytes += bytes.len() as u64;
        self.tally.heard = Some(now);
        while !bytes.is_empty() {
            let Some(asked) = talk.asked.front() else {
                self.tally.count(Mishap::Protocol);
                return Heard::Over;
            };
            let (used, step) = talk.reader.read(asked.request, bytes, &mut self.heads);
            self.tally.body_bytes += talk.reader.take_new();
            bytes = &bytes[used..];
            match step {
                Step::More => return Heard::On,
                Step::Done(done) => {
                    self.answered(now, talk, done);
                    if done.close {
                        self.give_back(talk);
                        return Heard::Over;
                    }
                }
                Step::Garbage => {
                    self.fail(talk, Mishap::Protocol);
                    return Heard::Over;
                }
            }
        }
        Heard::On
    }

    /// So many bytes, of those that may be, were thrown away by the kernel.
    pub(super) fn hear_unseen(&mut self, now: Tick, talk: &mut Talk, bytes: u64) {
        self.tally.received_bytes += bytes;
        self.tally.heard = Some(now);
        talk.reader.pass(bytes);
        self.tally.body_bytes += talk.reader.take_new();
    }

    #[inline]
    fn answered(&mut self, now: Tick, talk: &mut Talk, done: Done) {
        let Some(asked) = talk.asked.pop_front() else { return };
        self.waiting -= 1;
        if self.quota == Some(0) {
            self.next_report = Tick::default();
        }
        talk.answered = true;
        self.tally.requests += 1;
        self.tally.latency.record(now.0.saturating_sub(asked.due.0));
        if self.pace.is_fixed() {
            self.tally.service.record(now.0.saturating_sub(asked.sent.0));
        }
        if !(200..400).contains(&done.status) {
            self.tally.count(Mishap::Status);
        } else if let Some(hash) = done.hash
            && !self.run.is_right(asked.request, hash)
        {
            self.tally.count(Mishap::Hash);
        }
    }

    /// Requests that the server has announced not to answer over this connection: another one gets them.
    fn give_back(&mut self, talk: &mut Talk) {
        self.again.extend(talk.asked.drain(..));
    }

    /// The answer to the oldest request will not come whole, and no other over this connection.
    fn fail(&mut self, talk: &mut Talk, mishap: Mishap) {
        if talk.asked.pop_front().is_some() {
            self.waiting -= 1;
            self.tally.count(mishap);
        }
        while talk.asked.pop_front().is_some() {
            self.waiting -= 1;
            self.tally.count(Mishap::Reset);
        }
        if self.quota == Some(0) {
            self.next_report = Tick::default();
        }
    }

    /// A connection has ended. Afterwards `talk` is ready for another one.
    pub(super) fn lost(&mut self, now: Tick, talk: &mut Talk, how: Lost) {
        match how {
            Lost::Over => self.fail(talk, Mishap::Reset),
            Lost::Reset => match talk.reader.end() {
                Ending::Between => self.fail(talk, Mishap::Reset),
                // A reset is no way to end a body, not even one that ends with the connection.
                Ending::Done(_) | Ending::Short => self.fail(talk, Mishap::Length),
            },
            Lost::Slow => {
                // It would have taken longer: left out, the slowest answers would not show.
                if let Some(asked) = talk.asked.front() {
                    self.tally.latency.record(now.0.saturating_sub(asked.due.0));
                }
                self.fail(talk, Mishap::Timeout);
            }
            Lost::Closed => match talk.reader.end() {
                Ending::Done(done) => {
                    self.answered(now, talk, done);
                    self.give_back(talk);
                }
                Ending::Between => self.fail(talk, Mishap::Reset),
                Ending::Short => self.fail(talk, Mishap::Length),
            },
        }
        talk.renew(&self.run);
        self.open = self.open.saturating_sub(1);
    }

    /// A connection was opened.
    pub(super) fn connected(&mut self) {
        self.tally.connected += 1;
        self.open += 1;
        self.run.reach();
    }

    /// A connection could not be opened. If none ever could, there is no use in trying on.
    pub(super) fn not_connected(&mut self, why: impl FnOnce(SocketAddr) -> Hopeless) {
        self.tally.count(Mishap::Connect);
        if !self.run.is_reached() {
            self.despair(why);
        }
    }

    /// The end has come: nothing more is asked. [`cut_off`](Self::cut_off) and [`hand_in`](Self::hand_in) follow.
    pub(super) fn end(&mut self, now: Tick) {
        self.over = true;
        self.ended = Some((now, self.tally.latency.percentile(50.0)));
        for asked in std::mem::take(&mut self.again) {
            self.tally.unsent += 1;
            self.wait_in_vain(asked.due, 1);
        }
        if self.quota != Some(0) {
            let mut pace = self.pace.clone();
            // What became due at the very end was not late yet.
            let late = Tick(now.0.saturating_sub(REPORT_EVERY));
            pace.take_overdue(late, |due, many| {
                self.tally.unsent += many;
                self.wait_in_vain(due, many);
            });
        }
    }

    /// What is under way over this connection has no answer at the end.
    pub(super) fn cut_off(&mut self, talk: &Talk) {
        for asked in &talk.asked {
            self.tally.unanswered += 1;
            if let Some((end, _)) = self.ended {
                let waited = end.0.saturating_sub(asked.sent.0);
                self.tally.oldest_unanswered = self.tally.oldest_unanswered.max(waited);
            }
            self.wait_in_vain(asked.due, 1);
        }
    }

    /// At a constant rate, a server that stalls until the end shall not look as if it had been quick until then: what
    /// has waited longer than half of the answered requests counts with the time that it has waited.
    fn wait_in_vain(&mut self, due: Tick, many: u64) {
        let Some((end, median)) = self.ended.filter(|_| self.pace.is_fixed()) else { return };
        let waited = end.0.saturating_sub(due.0);
        if waited > median {
            self.tally.latency.record_many(waited, many);
        }
    }

    /// Hands in what was counted.
    pub(super) fn hand_in(&mut self) {
        if self.since.is_none() {
            // Nothing but the warming-up. What went wrong there is all that there is to be said.
            self.tally = Tally { errors: self.tally.errors, ..Tally::default() };
        }
        self.report();
        self.run.add(&self.tally);
    }
}
