//! Workers on their threads, from the first queue to the books.
//!
//! ```text
//!   ports ─► share out queues ─► one thread a worker: pin, map an arena, open queues ─► all ready ─► run
//!                                                                                         │
//!   books ◄── close queues ◄── sent frames home ◄── stop: signal, time, fault, end ◄───────┘
//! ```

use crate::app::{App, PortId};
use crate::hand_off::{self, Ends, HandOff};
use crate::ports::{AnyQueue, Port, umem};
use crate::run::{Ended, Idle, run};
use crate::stats::{Board, Snapshot};
use crate::worker::{Member, Worker};
use drivers::{Caps, OpenError, QueuePair};
use ringbuf::{Arena, ArenaError, ArenaPlan, Backing, Census, Pool};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Frames beyond those that rings hold: some bursts to work with.
const SPARE_FRAMES: u32 = 256;

/// How the workers are to run.
#[derive(Clone, Debug, Default)]
pub struct SessionPlan {
    /// The CPU of each worker; empty for one worker wherever the kernel puts it.
    pub cpus: Vec<usize>,
    /// Frames of each worker's arena; as many as its queues may hold, when `None`.
    pub frames: Option<u32>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// When to stop by itself.
    pub duration: Option<Duration>,
    /// Bytes of each worker's arena for file content.
    pub content_bytes: usize,
    /// How often whoever watches is called; once a second, when `None`.
    pub interval: Option<Duration>,
}

impl SessionPlan {
    fn interval(&self) -> Duration {
        self.interval.unwrap_or(Duration::from_secs(1))
    }
}

/// Makes each worker's app, on the worker's own thread, once its pool is there: an app may keep frames and pages.
pub trait Apps: Sync {
    /// The app of a worker whose pool lives for `'p`.
    type App<'p>: App<'p>;

    /// Maps the arena of one worker.
    ///
    /// # Errors
    /// [`ArenaError`]; the session fails with it.
    fn arena(&self, worker: usize, plan: &ArenaPlan) -> Result<Arena, ArenaError> {
        let _ = worker;
        Arena::new(plan)
    }

    /// The app of one worker, once its queues are open and its arena is registered with their devices.
    ///
    /// # Errors
    /// A sentence for the user; the session fails with it.
    fn app<'p>(&self, worker: usize, pool: &'p Pool, queues: &[&Caps]) -> Result<Self::App<'p>, String>;
}

/// A copy of one app for each worker: for apps that keep nothing.
#[derive(Clone, Copy, Debug)]
pub struct Each<A>(pub A);

impl<A: for<'p> App<'p> + Copy + Sync> Apps for Each<A> {
    type App<'p> = A;

    fn app(&self, _worker: usize, _pool: &Pool, _queues: &[&Caps]) -> Result<A, String> {
        Ok(self.0)
    }
}

/// Why there was no session.
#[derive(Debug)]
pub enum SessionError {
    /// No such CPU, or we may not run there.
    Cpu {
        /// The one that was asked for.
        cpu: usize,
        /// Those that there are.
        available: Vec<usize>,
    },
    /// A worker would have no queue at all.
    TooFewQueues {
        /// The queues of all ports.
        queues: usize,
        /// The workers.
        workers: usize,
    },
    /// Two ports of one worker, whose devices cannot reach the same arena.
    TwoMemories {
        /// The worker.
        worker: usize,
        /// Two devices, and the memory that each needs.
        ports: [(String, &'static str); 2],
    },
    /// So few frames that one queue could keep them all, and the others starve.
    TooFewFrames {
        /// As many as were asked for.
        frames: u32,
        /// As many as there must be.
        least: u32,
    },
    /// The arena could not be mapped.
    Arena(ArenaError),
    /// A queue could not be opened.
    Queue(OpenError),
    /// A worker's app could not be made; says why.
    App(String),
    /// A worker's thread could not be started or linked to the others.
    Thread(String),
    /// A worker panicked, which is a defect of its app, a driver or ourselves. Its queues are closed, and the other
    /// workers have stopped.
    Died {
        /// Its number.
        worker: usize,
        /// What it said.
        why: String,
    },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { cpu, available } => {
                write!(f, "there is no CPU {cpu} to run on; this process may use {available:?}")
            }
            Self::TooFewQueues { queues, workers } => write!(
                f,
                "all ports together have {queues} queue(s), so some of {workers} workers would have nothing to do\n  \
                 name fewer CPUs, or give an interface more queues: ethtool -L DEVICE combined {workers} (a dpdk port: queues={workers})"
            ),
            Self::TwoMemories { worker, ports: [(one, its), (other, others)] } => write!(
                f,
                "worker {worker} has one arena, but {one} needs {its}, and {other} needs {others}\n  \
                 give them workers of their own, one CPU for each: --cpu 0,1"
            ),
            Self::TooFewFrames { frames, least } => write!(
                f,
                "{frames} frames are too few: empty ones wait at every queue, so that a worker needs at least {least}\n  \
                 give more --frames, or the ports smaller rings: ring=.."
            ),
            Self::Arena(error) => error.fmt(f),
            Self::Queue(error) => error.fmt(f),
            Self::App(words) => f.write_str(words),
            Self::Thread(what) => write!(f, "a worker's thread: {what}"),
            Self::Died { worker, why } => write!(f, "worker {worker} died, its queues are closed: {why}"),
        }
    }
}

impl std::error::Error for SessionError {}

/// What is known of a worker once its queues are open.
#[derive(Clone, Debug)]
pub struct WorkerFacts {
    /// Its number.
    pub worker: usize,
    /// Its CPU, when it is pinned.
    pub cpu: Option<usize>,
    /// Frames of its arena.
    pub frames: u32,
    /// Bytes of each.
    pub frame_size: u32,
    /// What the arena's memory is.
    pub backing: Backing,
    /// How often the arena is registered with the kernel for AF_XDP.
    pub registrations: usize,
    /// Its counters.
    pub board: Arc<Board>,
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub struct WorkerEnd {
    /// Its number.
    pub worker: usize,
    /// Why.
    pub ended: Ended,
    /// Its last numbers.
    pub last: Snapshot,
    /// Where its slots were after its queues had closed: all free, or frames were lost.
    pub census: Census,
}

enum News {
    Ready(WorkerFacts),
    Failed(SessionError),
    Ended(WorkerEnd),
}

/// Runs one worker a CPU over the ports until the first of them ends, then the others.
///
/// `ready` hears of all workers once every queue is open and what is sent there gets somewhere; `interval_over` is called
/// at each of the plan's intervals until the end. Both return whether to go on; without a start there are no ends.
///
/// # Errors
/// [`SessionError`] when a queue could not be opened; nothing runs then. [`SessionError::Died`] when a worker panicked
/// while it ran; all have ended then, and all queues are closed.
pub fn session(
    ports: &[Port],
    plan: &SessionPlan,
    stop: &Arc<AtomicBool>,
    apps: &impl Apps,
    mut ready: impl FnMut(&[WorkerFacts]) -> bool,
    mut interval_over: impl FnMut(&[WorkerFacts], Duration) -> bool,
) -> Result<Vec<WorkerEnd>, SessionError> {
    let shares = share_out(ports, plan.cpus.len().max(1))?;
    let ends = link(ports, &shares)?;
    check_cpus(&plan.cpus)?;
    check_frames(ports, &shares, plan.frames)?;
    for (worker, share) in shares.iter().enumerate() {
        let wanted = share.iter().map(|(index, _)| &ports[*index]);
        check_memory(worker, wanted.filter_map(|port| Some((port.spec().device.as_str(), port.memory()?))))?;
    }
    // Not a barrier: that would wait for ever for a worker that never came.
    let go = OnceLock::new();
    let (news, inbox) = channel();
    std::thread::scope(|scope| {
        // Should we fail below, nobody shall wait for the word.
        let _release = Release { go: &go, stop };
        let mut threads = Vec::new();
        for (worker, (share, ends)) in shares.iter().zip(ends).enumerate() {
            let desk = Desk { worker, ports, share, ends, plan, stop, go: &go, news: news.clone() };
            let name = format!("ringway-{worker}");
            let started = std::thread::Builder::new().name(name).spawn_scoped(scope, move || desk.work(apps));
            match started {
                Ok(thread) => threads.push((worker, thread)),
                Err(error) => drop(news.send(News::Failed(SessionError::Thread(error.to_string())))),
            }
        }
        drop(news);
        let facts = gather_facts(&inbox, shares.len()).and_then(|facts| {
            ports.iter().try_for_each(Port::wait_ready).map_err(SessionError::Queue)?;
            Ok(facts)
        });
        let goes = facts.as_ref().is_ok_and(|facts| ready(facts));
        let _ = go.set(goes);
        let ends = match facts {
            Ok(facts) if goes => watch(&inbox, &facts, stop, plan.interval(), &mut interval_over),
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let mut died = None;
        for (worker, thread) in threads {
            // Joined, a panic does not become ours.
            if let Err(panic) = thread.join() {
                died.get_or_insert_with(|| SessionError::Died { worker, why: words_of(&*panic) });
            }
        }
        died.map_or(ends, Err)
    })
}

/// Gives the word not to run, if no other was given; and to stop, should whoever watches panic.
struct Release<'g> {
    go: &'g OnceLock<bool>,
    stop: &'g AtomicBool,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let _ = self.go.set(false);
        if std::thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// What a panic said.
fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

/// Which queues of which ports each worker owns: queue by queue in turn.
///
/// A port with fewer queues than there are workers begins where the last such port ended, so that each worker has
/// something to do; the others hand over to it.
fn share_out(ports: &[Port], workers: usize) -> Result<Vec<Vec<(usize, u32)>>, SessionError> {
    let mut shares = vec![Vec::new(); workers];
    let (mut next, mut total) = (0, 0);
    for (index, port) in ports.iter().enumerate() {
        let queues = port.queues();
        total += queues.len();
        let first = if queues.len() < workers { next } else { 0 };
        if queues.len() < workers {
            next = (first + queues.len()) % workers;
        }
        for (rank, queue) in queues.into_iter().enumerate() {
            shares[(first + rank) % workers].push((index, queue));
        }
    }
    if shares.iter().any(Vec::is_empty) {
        return Err(SessionError::TooFewQueues { queues: total, workers });
    }
    Ok(shares)
}

/// Links workers that lack a queue at some port to one that has it.
fn link(ports: &[Port], shares: &[Vec<(usize, u32)>]) -> Result<Vec<Option<Ends>>, SessionError> {
    let ports_of = |share: &Vec<(usize, u32)>| share.iter().map(|(index, _)| ports[*index].id()).collect();
    let workers: Vec<Vec<PortId>> = shares.iter().map(ports_of).collect();
    hand_off::connect(&workers, frame_size(ports))
        .map_err(|error| SessionError::Thread(format!("linking it to others: {error}")))
}

/// Bytes of a slot, the same for all workers: what one hands over must fit the other's.
fn frame_size(ports: &[Port]) -> u16 {
    ports.iter().map(Port::slot_bytes).max().unwrap_or(2048)
}

fn check_cpus(cpus: &[usize]) -> Result<(), SessionError> {
    let available: Vec<usize> =
        core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect();
    match cpus.iter().find(|cpu| !available.contains(cpu)) {
        Some(cpu) => Err(SessionError::Cpu { cpu: *cpu, available }),
        None => Ok(()),
    }
}

/// A queue without traffic keeps its whole ring of empty frames: what is left must do for the others.
fn check_frames(
    ports: &[Port],
    shares: &[Vec<(usize, u32)>],
    frames: Option<u32>,
) -> Result<(), SessionError> {
    let waiting = |share: &Vec<(usize, u32)>| -> u32 {
        share.iter().map(|(index, _)| ports[*index].frames_per_queue() / 2).sum()
    };
    let least = shares.iter().map(waiting).max().unwrap_or(0) + SPARE_FRAMES / 2;
    match frames {
        Some(frames) if frames < least => Err(SessionError::TooFewFrames { frames, least }),
        _ => Ok(()),
    }
}

/// One arena must do for all the devices of a worker: `wanted` are those that can reach only some memory.
fn check_memory<'d>(
    worker: usize,
    mut wanted: impl Iterator<Item = (&'d str, &'static str)>,
) -> Result<(), SessionError> {
    let Some((one, its)) = wanted.next() else { return Ok(()) };
    match wanted.find(|(_, others)| *others != its) {
        None => Ok(()),
        Some((other, others)) => {
            let ports = [(one.to_owned(), its), (other.to_owned(), others)];
            Err(SessionError::TwoMemories { worker, ports })
        }
    }
}

/// Waits until each worker is ready or has failed; the first failure is the answer.
fn gather_facts(inbox: &Receiver<News>, workers: usize) -> Result<Vec<WorkerFacts>, SessionError> {
    let mut facts = Vec::new();
    let mut failure = None;
    for _ in 0..workers {
        match inbox.recv() {
            Ok(News::Ready(fact)) => facts.push(fact),
            Ok(News::Failed(error)) => {
                failure.get_or_insert(error);
            }
            Ok(News::Ended(_)) | Err(_) => {
                failure.get_or_insert_with(|| SessionError::Thread("ended before it began".to_owned()));
            }
        }
    }
    facts.sort_by_key(|fact| fact.worker);
    failure.map_or(Ok(facts), Err)
}

/// At each interval until all workers have ended; the first to end stops the others.
fn watch(
    inbox: &Receiver<News>,
    facts: &[WorkerFacts],
    stop: &AtomicBool,
    interval: Duration,
    interval_over: &mut impl FnMut(&[WorkerFacts], Duration) -> bool,
) -> Result<Vec<WorkerEnd>, SessionError> {
    let begin = Instant::now();
    let mut next = interval;
    let mut ends = Vec::new();
    while ends.len() < facts.len() {
        match inbox.recv_timeout(next.saturating_sub(begin.elapsed())) {
            Ok(News::Ended(end)) => {
                stop.store(true, Ordering::Relaxed);
                ends.push(end);
            }
            Ok(News::Failed(error)) => {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
            Ok(News::Ready(_)) => {}
            Err(RecvTimeoutError::Timeout) => {
                if !interval_over(facts, begin.elapsed()) {
                    stop.store(true, Ordering::Relaxed);
                }
                next = crate::report::next_beat(next, interval, begin.elapsed());
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(SessionError::Thread("ended without a word".to_owned()));
            }
        }
    }
    ends.sort_by_key(|end| end.worker);
    Ok(ends)
}

/// What one worker's thread is given.
struct Desk<'s> {
    worker: usize,
    ports: &'s [Port],
    share: &'s [(usize, u32)],
    /// Its links to other workers.
    ends: Option<Ends>,
    plan: &'s SessionPlan,
    stop: &'s AtomicBool,
    /// Whether to run, once all are ready.
    go: &'s OnceLock<bool>,
    news: Sender<News>,
}

impl Drop for Desk<'_> {
    /// Nobody shall wait for a worker that died.
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What it said is known once it is joined.
            let died = SessionError::Died { worker: self.worker, why: String::new() };
            let _ = self.news.send(News::Failed(died));
        }
    }
}

impl Desk<'_> {
    fn work(self, apps: &impl Apps) {
        let cpu = self.plan.cpus.get(self.worker).copied();
        if let Some(cpu) = cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
        {
            return self.fail(SessionError::Cpu { cpu, available: Vec::new() });
        }
        match self.arena(apps) {
            Ok(arena) => self.work_with(&Pool::new(arena), cpu, apps),
            Err(error) => self.fail(SessionError::Arena(error)),
        }
    }

    fn work_with(mut self, pool: &Pool, cpu: Option<usize>, apps: &impl Apps) {
        let umem = umem(pool);
        let cuts = self.ports.iter().any(Port::hands_over_uncut);
        let open = |(index, queue): &(usize, u32)| {
            let port = &self.ports[*index];
            Ok(Member { port: port.id(), queue: port.open_queue(&umem, *queue, cuts)? })
        };
        let members: Result<Vec<Member<AnyQueue<'_>>>, OpenError> = self.share.iter().map(open).collect();
        let members = match members {
            Ok(members) => members,
            Err(error) => return self.fail(SessionError::Queue(error)),
        };
        let queues: Vec<&Caps> = members.iter().map(|member| member.queue.caps()).collect();
        let mut worker = match apps.app(self.worker, pool, &queues) {
            Ok(app) => Worker::new(pool, members, app),
            Err(words) => return self.fail(SessionError::App(words)),
        };
        if let Some(ends) = self.ends.take() {
            worker = worker.with_hand_off(HandOff::new(pool, ends));
        }
        let arena = pool.arena();
        let facts = WorkerFacts {
            worker: self.worker,
            cpu,
            frames: arena.frames(),
            frame_size: arena.frame_size(),
            backing: arena.backing(),
            registrations: umem.registrations(),
            board: Arc::clone(worker.board()),
        };
        drop(umem);
        let _ = self.news.send(News::Ready(facts));
        if !self.go.wait() {
            return;
        }
        let ended = run(&mut worker, self.plan.idle, self.plan.duration, self.stop);
        let last = worker.board().snapshot();
        drop(worker);
        pool.collect();
        let end = WorkerEnd { worker: self.worker, ended, last, census: pool.census() };
        let _ = self.news.send(News::Ended(end));
    }

    /// Where the devices of this worker can reach it: what a device asks for comes before what the app would like.
    fn arena(&self, apps: &impl Apps) -> Result<Arena, ArenaError> {
        let plan = self.arena_plan();
        for (index, _) in self.share {
            if let Some(arena) = self.ports[*index].arena(&plan)? {
                return Ok(arena);
            }
        }
        apps.arena(self.worker, &plan)
    }

    fn fail(self, error: SessionError) {
        let _ = self.news.send(News::Failed(error));
    }

    /// As many frames as its queues may hold, and some bursts to work with.
    fn arena_plan(&self) -> ArenaPlan {
        let ports = self.share.iter().map(|(index, _)| &self.ports[*index]);
        let held: u32 = ports.map(Port::frames_per_queue).sum();
        let away = self.ends.as_ref().map_or(0, Ends::frames);
        ArenaPlan {
            frames: self.plan.frames.unwrap_or(held + away + SPARE_FRAMES),
            frame_size: frame_size(self.ports).into(),
            content_bytes: self.plan.content_bytes,
            ..ArenaPlan::default()
        }
    }
}

/// The ports of a set of snapshots added up, worker by worker.
#[must_use]
pub fn total(facts: &[WorkerFacts]) -> Snapshot {
    let mut sum = Snapshot::default();
    for fact in facts {
        sum.add(fact.board.snapshot());
    }
    sum
}

/// The port that a worker's end blames, if it blames one.
#[must_use]
pub fn blamed(ends: &[WorkerEnd]) -> Option<(PortId, String)> {
    ends.iter().find_map(|end| match &end.ended {
        Ended::Faulted(port, fault) => Some((*port, fault.to_string())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices that can reach only some memory share an arena with those that take any, and with their like.
    #[test]
    fn one_arena_for_two_memories_is_refused_in_words() {
        let (file, dpdk) = ("a file that another process maps", "memory of DPDK's");
        for wanted in [&[][..], &[("a", file)], &[("a", file), ("b", file)]] {
            assert!(check_memory(0, wanted.iter().copied()).is_ok(), "{wanted:?}");
        }
        let wanted = [("/run/a", file), ("/run/b", file), ("net_null0", dpdk)];
        let words = check_memory(3, wanted.into_iter()).expect_err("refused").to_string();
        for word in ["worker 3", "/run/a needs a file", "net_null0 needs memory of DPDK's", "--cpu 0,1"] {
            assert!(words.contains(word), "{word}: {words}");
        }
    }
}
