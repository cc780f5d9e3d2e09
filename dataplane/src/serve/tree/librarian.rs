//! The thread that looks paths up, so that workers need not wait for a disk.

use super::answer::{Answer, Found};
use super::resolve::Trail;
use super::watch::Watches;
use super::{HostId, Tree};
use crate::serve::bell::Bell;
use crossbeam_queue::ArrayQueue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After so many lookups, what nobody needs any more is let go.
const PURGE_EVERY: u64 = 1024;

/// It looks round this often even if no bell rings.
const ROUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Of files that nothing watches, as many are looked at in one round.
const DOUBTS: usize = 256;

/// A path that a worker wants to know.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) host: HostId,
    pub(super) path: Arc<str>,
    /// What the worker knew before.
    pub(super) old: Option<Arc<Answer>>,
    /// The worker's own number for it.
    pub(super) ticket: u32,
}

/// What became of a question.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) ticket: u32,
    pub(super) answer: Arc<Answer>,
}

/// Where one worker's questions go and answers come from.
#[derive(Debug)]
pub struct Desk {
    questions: ArrayQueue<Question>,
    replies: ArrayQueue<Reply>,
    /// Rung when there is a reply.
    worker: Arc<Bell>,
    librarian: Arc<Bell>,
}

impl Desk {
    /// Hands in a question. A worker has no more of them open than the desk has places.
    pub(super) fn ask(&self, question: Question) -> Result<(), Question> {
        self.questions.push(question)?;
        self.librarian.ring();
        Ok(())
    }

    pub(super) fn next_reply(&self) -> Option<Reply> {
        self.replies.pop()
    }

    pub(super) fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Questions that may be open at once.
    pub(super) fn places(&self) -> usize {
        self.questions.capacity()
    }
}

/// What the librarian has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LibrarianCounters {
    /// Paths looked up in the file system.
    pub lookups: u64,
    /// Questions answered with another worker's answer.
    pub shared: u64,
    /// Directories under watch.
    pub watches: u64,
}

#[derive(Debug)]
struct Shared {
    tree: Arc<Tree>,
    bell: Arc<Bell>,
    stop: AtomicBool,
    desks: Mutex<Vec<Weak<Desk>>>,
    lookups: AtomicU64,
    answered_from_memory: AtomicU64,
    watches: AtomicU64,
}

/// The handle of the thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Librarian {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Librarian {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's, when it has no thread or descriptor left.
    pub fn start(tree: Arc<Tree>) -> io::Result<Self> {
        allow_descriptors();
        let shared = Arc::new(Shared {
            tree,
            bell: Arc::new(Bell::new()?),
            stop: AtomicBool::new(false),
            desks: Mutex::new(Vec::new()),
            lookups: AtomicU64::new(0),
            answered_from_memory: AtomicU64::new(0),
            watches: AtomicU64::new(0),
        });
        let its = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("librarian".to_owned()).spawn(move || Desks::new(its).run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The tree whose paths it looks up.
    #[must_use]
    pub fn tree(&self) -> &Arc<Tree> {
        &self.shared.tree
    }

    /// A desk for one worker with `places` for open questions, at least one; `bell` is rung for each reply.
    #[must_use]
    pub fn desk(&self, places: usize, bell: Arc<Bell>) -> Arc<Desk> {
        let places = places.max(1);
        let desk = Arc::new(Desk {
            questions: ArrayQueue::new(places),
            replies: ArrayQueue::new(places),
            worker: bell,
            librarian: Arc::clone(&self.shared.bell),
        });
        let mut desks = self.shared.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.push(Arc::downgrade(&desk));
        desk
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> LibrarianCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LibrarianCounters {
            lookups: load(&self.shared.lookups),
            shared: load(&self.shared.answered_from_memory),
            watches: load(&self.shared.watches),
        }
    }
}

impl Drop for Librarian {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed by then; there is nothing more to lose here.
            drop(thread.join());
        }
    }
}

/// What the thread works with.
struct Desks {
    shared: Arc<Shared>,
    watches: Watches,
    /// Answers that some worker may still have: another worker gets the same.
    known: HashMap<(HostId, Arc<str>), Weak<Answer>>,
    /// Answers with files whose changes are not heard of.
    doubtful: VecDeque<Weak<Answer>>,
    /// When they are looked at again.
    next_look: Instant,
    /// The desks of one round: kept for its memory, since a file that is being written wakes this thread for each piece.
    round: Vec<Arc<Desk>>,
}

impl Desks {
    fn new(shared: Arc<Shared>) -> Self {
        let (known, doubtful) = (HashMap::new(), VecDeque::new());
        let (next_look, round) = (Instant::now(), Vec::new());
        Self { shared, watches: Watches::new(), known, doubtful, next_look, round }
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.stop.load(Ordering::Acquire) {
            self.watches.drain();
            self.look_around();
            if self.serve_desks() > 0 {
                continue;
            }
            shared.bell.doze();
            // Once more: what came before the doze rang for nobody.
            if self.serve_desks() == 0 && !shared.stop.load(Ordering::Acquire) {
                self.sleep();
            }
            shared.bell.rise();
        }
    }

    /// A transfer that asks for nothing more would never learn that its file has gone, if nobody watches over it: so once a
    /// round somebody looks, at some of them if they are many.
    fn look_around(&mut self) {
        if self.doubtful.is_empty() || Instant::now() < self.next_look {
            return;
        }
        for _ in 0..self.doubtful.len().min(DOUBTS) {
            let Some(weak) = self.doubtful.pop_front() else { break };
            // Stale ones too: transfers may be under way.
            if let Some(answer) = weak.upgrade() {
                fresh(&answer);
                self.doubtful.push_back(weak);
            }
        }
        self.next_look = Instant::now() + Duration::from_secs(ROUND.tv_sec.unsigned_abs());
    }

    fn sleep(&self) {
        let bell = PollFd::new(&*self.shared.bell, PollFlags::IN);
        // Interrupted or out of memory: it looks round once more, that is all.
        let _ = match self.watches.as_fd() {
            Some(watches) => {
                poll(&mut [bell, PollFd::from_borrowed_fd(watches, PollFlags::IN)], Some(&ROUND))
            }
            None => poll(&mut [bell], Some(&ROUND)),
        };
    }

    /// Answers what is asked, one question of each desk in turn; returns how many.
    fn serve_desks(&mut self) -> usize {
        let mut round = std::mem::take(&mut self.round);
        {
            let mut desks = self.shared.desks.lock().unwrap_or_else(PoisonError::into_inner);
            desks.retain(|desk| desk.strong_count() > 0);
            round.extend(desks.iter().filter_map(Weak::upgrade));
        }
        let mut served = 0;
        for desk in round.drain(..) {
            if let Some(Question { host, path, old, ticket }) = desk.questions.pop() {
                let answer = self.answer(host, path, old);
                // There is room: each reply takes the place of a question.
                drop(desk.replies.push(Reply { ticket, answer }));
                desk.worker.ring();
                served += 1;
            }
        }
        self.round = round;
        served
    }

    fn answer(&mut self, host: HostId, path: Arc<str>, old: Option<Arc<Answer>>) -> Arc<Answer> {
        // What was changed before the question is heard of before the lookup.
        self.watches.drain();
        let key = (host, path);
        let known = self.known.get(&key).and_then(Weak::upgrade);
        if let Some(answer) = &known
            && !answer.is_stale()
            && answer.good_for().as_secs() > 1
            && fresh(answer)
        {
            self.shared.answered_from_memory.fetch_add(1, Ordering::Relaxed);
            return Arc::clone(answer);
        }
        let answer = self.look_up(host, &key.1, known.or(old).as_deref());
        self.known.insert(key, Arc::downgrade(&answer));
        let lookups = self.shared.lookups.fetch_add(1, Ordering::Relaxed) + 1;
        if lookups.is_multiple_of(PURGE_EVERY) {
            self.watches.purge();
            self.known.retain(|_, answer| answer.strong_count() > 0);
            self.doubtful.retain(|answer| answer.strong_count() > 0);
        }
        self.shared.watches.store(self.watches.len() as u64, Ordering::Relaxed);
        answer
    }

    fn look_up(&mut self, host: HostId, path: &str, old: Option<&Answer>) -> Arc<Answer> {
        let mut trail = Trail::default();
        let mut found = self.shared.tree.trace(host, path, &mut trail);
        let mut watched = self.watches.watch(&trail);
        if watched.is_new {
            // Only what is looked up under watch is sure not to have changed unseen since.
            trail = Trail::default();
            found = self.shared.tree.trace(host, path, &mut trail);
            watched = self.watches.watch(&trail);
        }
        if let Some(old) = old {
            found.keep_entries_of(old.found());
        }
        let complete = watched.complete && !watched.is_new;
        tracing::debug!(path, watched = complete, found = word(&found), "looked up");
        let answer = Arc::new(Answer::new(found, complete));
        if !complete && matches!(answer.found(), Found::File(_)) {
            self.doubtful.push_back(Arc::downgrade(&answer));
        }
        self.watches.register(&watched, &answer);
        answer
    }
}

/// Each known file is open, and so is each of its forms: 1024, as many systems begin with, is soon not enough. What the
/// system allows at most may be asked for by anybody.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() && limit.current.is_some() {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!("the limit on open files stays: {error}");
        }
    }
}

/// Whether the files behind an answer are still as they were: a write through a mapping is not heard of.
fn fresh(answer: &Answer) -> bool {
    match answer.found() {
        Found::File(forms) => forms.entries().all(|entry| entry.check()),
        _ => true,
    }
}

const fn word(found: &Found) -> &'static str {
    match found {
        Found::File(_) => "file",
        Found::Redirect => "redirect",
        Found::Listing(_) => "listing",
        Found::NotFound => "not found",
        Found::Forbidden => "forbidden",
        Found::Busy => "busy",
        Found::Failed => "failed",
    }
}
