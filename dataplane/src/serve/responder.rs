//! A request to a queued response: which file, what HTTP says of it, who hears of it. The same over our own TCP and over
//! the kernel's sockets; whoever owns the connections sees to bytes and times.

use super::answers::{Added, Answers, Chain};
use super::http::{
    Clock, Counts, Intake, Limits, Peers, Policy, Refusal, Request, Resource, Response, Scratch, Storage,
    invite, refuse, respond, stored,
};
use super::log::{LogQueue, Record};
use super::repeats::Repeats;
use super::site::{self, Site};
use super::tree::{Finder, HostId, Lookup, Tree};
use super::{Waiter, bell::Bell};
use crate::worker::Tick;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// Responses of one connection that may be under way: what a client pipelines beyond waits.
pub(in crate::serve) const PIPELINE: u32 = 8;

/// What all connections of a worker share in HTTP.
#[derive(Debug)]
pub(in crate::serve) struct Responder {
    /// Read by whoever sends, while requests are answered.
    pub(in crate::serve) answers: Rc<RefCell<Answers>>,
    pub(in crate::serve) finder: Finder,
    tree: Arc<Tree>,
    policy: Arc<Policy>,
    pub(in crate::serve) repeats: Repeats,
    pub(in crate::serve) limits: Limits,
    clock: Clock,
    /// The wall clock, as of the last tick.
    now: SystemTime,
    pub(in crate::serve) counts: Counts,
    log: Option<LogQueue>,
    /// Connections by address.
    pub(in crate::serve) peers: Peers,
    /// No further requests are answered: each connection ends after its response.
    pub(in crate::serve) draining: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum Said {
    /// It is answered: the stream grows by so many bytes, and ends after them if it says so.
    Answered { bytes: u64, close: bool },
    /// Too many responses of the connection are under way: to be offered again when one is gone.
    Full,
    /// The librarian looks for its path: to be offered again when the waiter is woken.
    Asked,
    /// There is no place for another response in the whole worker.
    NoPlace,
}

/// Whose request it is.
pub(in crate::serve) struct Caller<'c> {
    pub(in crate::serve) peer: IpAddr,
    pub(in crate::serve) waiter: Waiter,
    /// Bytes that were queued before.
    pub(in crate::serve) queued: u64,
    pub(in crate::serve) answers: &'c mut Chain,
    pub(in crate::serve) intake: &'c mut Intake,
}

impl Responder {
    /// For one of `workers` workers, each with at most so many `connections`.
    pub(in crate::serve) fn new(
        site: &Site,
        bell: &Arc<Bell>,
        limits: &Limits,
        log: Option<LogQueue>,
        workers: usize,
        connections: u32,
    ) -> Self {
        let now = SystemTime::now();
        // Each worker counts for itself.
        let per_peer = limits.connections_per_peer.div_ceil(u32::try_from(workers).unwrap_or(1).max(1));
        Self {
            answers: Rc::new(RefCell::new(Answers::default())),
            finder: site::finder(site, bell),
            tree: Arc::clone(site.librarian.tree()),
            policy: Arc::clone(&site.policy),
            repeats: Repeats::default(),
            limits: limits.clone(),
            clock: Clock::new(now),
            now,
            counts: Counts::default(),
            log,
            peers: Peers::new(per_peer, connections as usize),
            draining: false,
        }
    }

    /// A parser's scratch for these limits. It is not kept here: a request borrows it while it is answered.
    pub(in crate::serve) fn scratch(&self) -> Scratch {
        Scratch::new(&self.limits)
    }

    /// What the wall clock says now, at each tick.
    pub(in crate::serve) fn at(&mut self, now: SystemTime) {
        self.now = now;
        self.repeats.at(self.clock.at(now).seconds());
    }

    /// Goes over to another site; returns the finder over the old one.
    pub(in crate::serve) fn take_up(&mut self, site: &Site, bell: &Arc<Bell>) -> Finder {
        self.tree = Arc::clone(site.librarian.tree());
        self.policy = Arc::clone(&site.policy);
        self.repeats.clear();
        std::mem::replace(&mut self.finder, site::finder(site, bell))
    }

    /// Answers the request at the beginning of `bytes`, if the very same was answered in this second; the bytes of
    /// its head, and those by which the stream grows. `None`: it must be read.
    #[inline]
    pub(in crate::serve) fn repeat(&mut self, caller: Caller<'_>, bytes: &[u8]) -> Option<(usize, u64)> {
        // The log's lines have the words of each request.
        let full = caller.answers.len() >= PIPELINE;
        if self.draining || self.log.is_some() || full || !caller.intake.may_repeat(&self.limits) {
            return None;
        }
        let repeat = self.repeats.find(bytes)?;
        let mut answers = self.answers.borrow_mut();
        let source = Some(Arc::clone(repeat.source));
        let response = answers
            .add(caller.answers, caller.queued, source, |_, out| {
                out[..repeat.head.len()].copy_from_slice(repeat.head);
                repeat.response.clone()
            })?
            .response;
        self.finder.count_hit();
        self.counts.answered(repeat.method, response);
        caller.intake.repeated();
        let done = (repeat.len, response.total_len());
        Some(done)
    }

    /// Answers one request, whose head is the first `len` of these bytes.
    pub(in crate::serve) fn answer(
        &mut self,
        now: Tick,
        caller: Caller<'_>,
        request: &mut Request<'_>,
        (bytes, len): (&[u8], usize),
    ) -> Said {
        if caller.answers.len() >= PIPELINE {
            return Said::Full;
        }
        request.persistent &= !self.draining;
        let mut source = None;
        if request.needs_resource() {
            let host = self.tree.host(request.host);
            match self.finder.find(now, host, request.path, caller.waiter) {
                Lookup::Known(answer) => source = Some(Arc::clone(answer)),
                Lookup::Asked => return Said::Asked,
                Lookup::Busy => {}
            }
        }
        let mut answers = self.answers.borrow_mut();
        let written = answers.add(caller.answers, caller.queued, source, |source, out| {
            let resource = source.map_or(Resource::Busy, |answer| answer.found().resource());
            respond(request, resource, &self.policy, self.clock.date(), out)
        });
        let Some(Added { response, source, head }) = written else { return Said::NoPlace };
        self.counts.answered(request.method, response);
        if let Some(log) = &self.log {
            log.push(Record::new(caller.peer, request, response, self.now));
        }
        caller.intake.answered(request, response, &self.limits);
        if self.log.is_none()
            && let Some(source) = source
        {
            self.repeats.learn((bytes, len), request, source, response, head);
        }
        said(response)
    }

    /// Answers a request that was to store something. Nothing is asked of anybody: it is answered, or there is no place.
    pub(in crate::serve) fn stored(
        &mut self,
        caller: Caller<'_>,
        request: &mut Request<'_>,
        storage: Storage,
    ) -> Said {
        request.persistent &= !self.draining;
        let mut answers = self.answers.borrow_mut();
        let written = answers.add(caller.answers, caller.queued, None, |_, out| {
            stored(request, storage, &self.policy, self.clock.date(), out)
        });
        let Some(Added { response, .. }) = written else { return Said::NoPlace };
        self.counts.answered(request.method, response);
        if let Some(log) = &self.log {
            log.push(Record::new(caller.peer, request, response, self.now));
        }
        caller.intake.answered(request, response, &self.limits);
        said(response)
    }

    /// Tells a client to go on: the stream grows by so many bytes. `None` when there is no place for them.
    pub(in crate::serve) fn invite(&mut self, caller: Caller<'_>) -> Option<u64> {
        let mut answers = self.answers.borrow_mut();
        let interim = answers.add(caller.answers, caller.queued, None, |_, out| invite(out))?;
        Some(interim.response.total_len())
    }

    /// What is served.
    pub(in crate::serve) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The host of a name.
    pub(in crate::serve) fn host(&self, name: &str) -> HostId {
        self.tree.host(name)
    }

    /// Answers what was no request; `asked` is what there is of it. The connection ends after it. `None` when there is no
    /// place for a response.
    #[cold]
    pub(in crate::serve) fn refuse(
        &mut self,
        caller: Caller<'_>,
        refusal: Refusal,
        asked: &[u8],
    ) -> Option<u64> {
        let mut answers = self.answers.borrow_mut();
        let response = answers
            .add(caller.answers, caller.queued, None, |_, out| {
                refuse(refusal, asked, &self.policy, self.clock.date(), out)
            })?
            .response;
        self.counts.refused(refusal, Some(response));
        if let Some(log) = &self.log {
            log.push(Record::refused(caller.peer, refusal, response, self.now));
        }
        caller.intake.close();
        Some(response.total_len())
    }
}

fn said(response: &Response) -> Said {
    Said::Answered { bytes: response.total_len(), close: response.close }
}
