//! The thread that fills cells, so that the poll thread need not wait for a disk.

use super::Kind;
use super::shared::lies_in_memory;
use crate::serve::bell::Bell;
use crate::serve::tree::Entry;
use crossbeam_queue::ArrayQueue;
use drivers::disk::{DIRECT_ALIGN, Done, Engine, Read, Reader};
use ringbuf::ContentGrant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// It looks round this often even if no bell rings.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// An extent to be read.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) entry: Arc<Entry>,
    /// Where in the file, in bytes.
    pub(super) offset: u64,
    /// How many bytes the file has there, at most the grant's.
    pub(super) want: usize,
    pub(super) grant: ContentGrant,
    pub(super) cell: u32,
    /// Past the page cache, if the file system can.
    pub(super) direct: bool,
}

/// What became of an order.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) grant: ContentGrant,
    pub(super) cell: u32,
    pub(super) want: usize,
    /// Whether the page cache was really passed by.
    pub(super) direct: bool,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The cell has the bytes, and the file was the same version after the read.
    Whole,
    /// The file is another by now.
    Gone,
    /// The disk failed.
    Failed,
}

#[derive(Debug)]
struct Shared {
    orders: ArrayQueue<Order>,
    filled: ArrayQueue<Filled>,
    bell: Bell,
    worker: Arc<Bell>,
    stop: AtomicBool,
}

/// The handle of one worker's loader.
#[derive(Debug)]
pub(super) struct Loader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts a loader of `depth` reads at once, on one of `cpus`; `worker` is rung when one is over.
    pub(super) fn start(depth: u16, cpus: Option<CpuSet>, worker: Arc<Bell>) -> io::Result<Self> {
        let room = usize::from(depth);
        let shared = Arc::new(Shared {
            orders: ArrayQueue::new(room),
            filled: ArrayQueue::new(room),
            bell: Bell::new()?,
            worker,
            stop: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(move || {
            // A thread begins where its maker is pinned. Should it have to stay there, it is slower, that is all.
            if let Some(Err(error)) = cpus.map(|cpus| sched_setaffinity(None, &cpus)) {
                tracing::debug!("the loader stays on its worker's CPU: {error}");
            }
            Fills { reader: Reader::new(depth), shared: its }.run();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands in an order. The caller has no more of them open than `depth`.
    pub(super) fn order(&self, order: Order) -> Result<(), Order> {
        self.shared.orders.push(order)?;
        self.shared.bell.ring();
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.filled.is_empty()
    }

    pub(super) fn next(&self) -> Option<Filled> {
        self.shared.filled.pop()
    }

    /// Ends the thread after the reads that are under way; what it had can be taken from `next` then.
    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed by then; there is nothing more to lose here.
            drop(thread.join());
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The file of a read, and whose it is.
#[derive(Debug)]
struct Job {
    entry: Arc<Entry>,
    cell: u32,
    direct: bool,
}

impl AsFd for Job {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let direct = if self.direct { self.entry.opened_direct() } else { None };
        direct.unwrap_or_else(|| Entry::as_fd(&self.entry))
    }
}

/// What the thread works with.
struct Fills {
    shared: Arc<Shared>,
    reader: Reader<Job>,
}

impl Fills {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        if self.reader.engine() != Engine::IoUring {
            tracing::warn!("files are read one at a time: io_uring is switched off");
        }
        loop {
            if self.round() {
                continue;
            }
            if shared.stop.load(Ordering::Acquire) && self.reader.under_way() == 0 {
                return;
            }
            shared.bell.doze();
            // Once more: what came before the doze rang for nobody.
            if !self.round() && !shared.stop.load(Ordering::Acquire) {
                let bell = PollFd::new(&shared.bell, PollFlags::IN);
                // Interrupted or out of memory: it looks round once more, that is all.
                let _ = match self.reader.bell() {
                    Some(disk) => {
                        poll(&mut [bell, PollFd::from_borrowed_fd(disk, PollFlags::IN)], Some(&ROUND))
                    }
                    None => poll(&mut [bell], Some(&ROUND)),
                };
            }
            shared.bell.rise();
        }
    }

    /// Begins what was ordered and hands back what is over; whether there was anything.
    fn round(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut moved = false;
        while let Some(order) = shared.orders.pop() {
            self.begin(order);
            moved = true;
        }
        if self.reader.under_way() > 0 {
            self.reader.flush();
        }
        while let Some(done) = self.reader.next_done() {
            self.end(done);
            moved = true;
        }
        if moved {
            shared.worker.ring();
        }
        moved
    }

    fn begin(&mut self, order: Order) {
        let Order { entry, offset, want, grant, cell, direct } = order;
        if entry.is_gone() || self.shared.stop.load(Ordering::Acquire) {
            return self.hand_back(Filled { grant, cell, want, direct, outcome: Outcome::Gone });
        }
        let direct = direct && entry.direct(open_direct).is_some();
        if offset == 0 {
            let kind = if direct { Kind::Direct } else { Kind::Snapshot };
            tracing::debug!(name = entry.name(), size = entry.size(), ?kind, "reading a file");
        }
        let len = if direct { want.next_multiple_of(DIRECT_ALIGN) } else { want };
        let read = Read { file: Job { entry, cell, direct }, offset, grant, len, want };
        if let Err(Read { file, grant, want, .. }) = self.reader.submit(read) {
            debug_assert!(false, "no more are ordered than fit");
            self.hand_back(Filled { grant, cell: file.cell, want, direct, outcome: Outcome::Failed });
        }
    }

    fn end(&mut self, done: Done<Job>) {
        let Done { mut read, result } = done;
        let outcome = match result {
            // Whoever changes a file changes its times before its bytes, so a look at the times after the read tells.
            Ok(bytes) if bytes >= read.want && read.file.entry.check() => Outcome::Whole,
            Ok(_) => Outcome::Gone,
            // The file system let us open the file so, and cannot do it all the same.
            Err(error) if read.file.direct && error.kind() == io::ErrorKind::InvalidInput => {
                tracing::debug!(name = read.file.entry.name(), "no direct read of this one: {error}");
                read.file.direct = false;
                match self.reader.submit(read) {
                    Ok(()) => return,
                    Err(back) => {
                        read = back;
                        Outcome::Failed
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    name = read.file.entry.name(),
                    offset = read.offset,
                    "reading a file: {error}"
                );
                Outcome::Failed
            }
        };
        let Read { file: Job { entry, cell, direct }, grant, want, .. } = read;
        if outcome != Outcome::Whole {
            entry.set_gone();
        }
        self.hand_back(Filled { grant, cell, want, direct, outcome });
    }

    fn hand_back(&self, filled: Filled) {
        let back = self.shared.filled.push(filled);
        debug_assert!(back.is_ok(), "as many places as orders");
    }
}

/// Opens a file once more, for reads that bypass the page cache; `None` if its file system cannot (some network file systems;
/// those in memory, which since Linux 6.6 say that they can), or asks for coarser alignment than content has.
pub(in crate::serve) fn open_direct(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    // The very file, whatever its name is by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY;
    let direct = open(&path, flags, Mode::empty())
        .inspect_err(|error| tracing::debug!("no direct reads of a file, so snapshots: {error}"))
        .ok()?;
    if lies_in_memory(&direct) {
        // Its pages are the page cache: a direct read copies them like any other (`shmem_file_open` in mm/shmem.c).
        tracing::debug!("a file in memory has no direct reads, so snapshots");
        return None;
    }
    // Linux 6.1 says what it wants; where it does not, a disk that wants more refuses the read.
    if let Ok(facts) = statx(&direct, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let most = facts.stx_dio_mem_align.max(facts.stx_dio_offset_align) as usize;
        if most == 0 || most > DIRECT_ALIGN {
            tracing::debug!(align = most, "no direct reads of a file, so snapshots");
            return None;
        }
    }
    Some(direct)
}
