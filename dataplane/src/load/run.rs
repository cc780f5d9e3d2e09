//! One run, as its threads share it.

use super::plan::{LoadPlan, Verify};
use super::reader::BodyHash;
use super::tally::Tally;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What all threads or workers of a run have in common.
#[derive(Debug)]
pub struct Run {
    /// What it is to be.
    pub plan: LoadPlan,
    /// Threads or workers.
    pub(super) threads: usize,
    stop: AtomicBool,
    /// The hash of the first body of each path.
    hashes: Box<[OnceLock<BodyHash>]>,
    meters: Box<[Meter]>,
    /// Threads whose part is done.
    over: AtomicUsize,
    /// Whether a connection was ever opened.
    reached: AtomicBool,
    hopeless: OnceLock<Hopeless>,
    /// Why threads ended so far, as [`RunEnd`]: of several reasons the greatest.
    ended: AtomicU8,
    tallies: Mutex<Tally>,
}

/// What a thread tells of itself while it works.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) counting: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) body_bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// Why a run ended. What overrides what is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RunEnd {
    /// All requests that there were to be are done with.
    Exhausted = 1,
    /// Its time was up.
    TimeUp,
    /// It was told to.
    Stopped,
}

impl RunEnd {
    /// Its name in JSON: as a forwarder's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::TimeUp => "time-up",
            Self::Stopped => "stopped",
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The warming-up is over, for all threads.
    pub counting: bool,
    /// Responses that came whole.
    pub requests: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// What went wrong.
    pub errors: u64,
    /// Connections that are open.
    pub connections: u64,
}

/// Why there is no use in trying on: not one connection could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hopeless {
    /// The server's machine refused.
    #[error("connecting to {0}: connection refused; is a server listening there?")]
    Refused(SocketAddr),
    /// Nobody answered.
    #[error(
        "connecting to {0}: no answer within the --timeout; is the address right, and the server's machine reachable?"
    )]
    Silent(SocketAddr),
    /// Our own stack knows no way there.
    #[error(
        "connecting to {0}: no network of --address has it; give an address with the right /LEN, or a --gateway"
    )]
    NoRoute(SocketAddr),
    /// Nobody on the link has the address that frames would go to.
    #[error("connecting to {0}: no neighbour answers for it; is the address right, and the cable in?")]
    NoNeighbour(SocketAddr),
    /// What the kernel says.
    #[error("connecting to {0}: {1}")]
    Kernel(SocketAddr, String),
}

impl Run {
    /// A run of so many threads or workers; each has at least one connection.
    #[must_use]
    pub fn new(plan: LoadPlan, threads: usize) -> Self {
        Self {
            threads,
            stop: AtomicBool::new(false),
            hashes: plan.requests.iter().map(|_| OnceLock::new()).collect(),
            meters: (0..threads).map(|_| Meter::default()).collect(),
            over: AtomicUsize::new(0),
            reached: AtomicBool::new(false),
            hopeless: OnceLock::new(),
            ended: AtomicU8::new(0),
            tallies: Mutex::default(),
            plan,
        }
    }

    /// Ends it early: what was counted until now is the result.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Nobody works at it any more, whatever became of it.
    pub fn abandon(&self) {
        self.stop();
        self.over.store(self.threads, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn reach(&self) {
        if !self.is_reached() {
            self.reached.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// There is no use: ends it, if nobody has said so before.
    pub(super) fn despair(&self, why: Hopeless) {
        let _ = self.hopeless.set(why);
        self.stop();
    }

    /// Why it could not even begin.
    #[must_use]
    pub fn hopeless(&self) -> Option<&Hopeless> {
        self.hopeless.get()
    }

    /// A thread asks nothing any more, and why.
    pub(super) fn note_end(&self, why: RunEnd) {
        self.ended.fetch_max(why as u8, Ordering::Relaxed);
    }

    /// Why it ended, once it has.
    #[must_use]
    pub fn ended(&self) -> RunEnd {
        match self.ended.load(Ordering::Relaxed) {
            1 => RunEnd::Exhausted,
            2 => RunEnd::TimeUp,
            _ => RunEnd::Stopped,
        }
    }

    /// A thread's part is done.
    pub(super) fn add(&self, tally: &Tally) {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).add(tally);
    }

    /// A thread has nothing more to do.
    pub(super) fn done(&self) {
        self.over.fetch_add(1, Ordering::Release);
    }

    /// Whether all threads have nothing more to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) >= self.threads
    }

    /// What all threads that are done have counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hash of the bodies, where all requests have the same one.
    #[must_use]
    pub fn hash(&self) -> Option<BodyHash> {
        let mut known = self.hashes.iter().filter_map(OnceLock::get);
        let first = *known.next()?;
        known.all(|other| *other == first).then_some(first)
    }

    /// Whether a body is as it should be.
    pub(super) fn is_right(&self, request: u32, hash: BodyHash) -> bool {
        let first = self.hashes.get(request as usize).map(|first| *first.get_or_init(|| hash));
        match self.plan.verify {
            Verify::Lengths => true,
            Verify::First => first == Some(hash),
            Verify::Hash(want) => hash == want,
        }
    }

    pub(super) fn meter(&self, thread: usize) -> &Meter {
        &self.meters[thread]
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut sum = Progress { counting: true, ..Progress::default() };
        for meter in &self.meters {
            sum.counting &= meter.counting.load(Ordering::Relaxed);
            sum.requests += meter.requests.load(Ordering::Relaxed);
            sum.body_bytes += meter.body_bytes.load(Ordering::Relaxed);
            sum.errors += meter.errors.load(Ordering::Relaxed);
            sum.connections += meter.connections.load(Ordering::Relaxed);
        }
        sum
    }

    /// Thread `thread`'s share of a number: all shares together are the number.
    pub(super) fn share(&self, of: usize, thread: usize) -> usize {
        of / self.threads + usize::from(thread < of % self.threads)
    }
}
