//! The poll thread's side: what is resident, what is on its way.

use super::EXTENT;
use super::cells::{Cells, Key, Need, State};
use super::loader::{Filled, Loader, Order, Outcome};
use super::shared::SharedFiles;
use crate::serve::bell::Bell;
use crate::serve::tree::Entry;
use crate::serve::waiters::{List, Waiter, Waiters};
use crate::worker::Tick;
use ringbuf::{Page, Pool, arena::CONTENT_UNIT};
use rustix::thread::CpuSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often those are woken who found no room at all, if nothing else moves: pages come home without a word.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// Extents read ahead of a reader that was never too fast for them.
const AHEAD_LEAST: u8 = 4;

/// And of one that always was: 4 MiB under way, since extents come out of order and each completion takes two threads to
/// become the next read. `docs/measuring.md` says what that brings beside `fio` with as many reads at once.
const AHEAD_MOST: u8 = 32;

/// How a file's bytes get into the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Through the page cache: one copy by the kernel when an extent is loaded, none per request.
    Snapshot,
    /// Not at all: its own pages are there, mapped before the arena was registered. No copy.
    Shared,
    /// Past it: the disk's DMA writes the arena. No copy at all.
    Direct,
}

/// Which files are read how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kinds {
    /// Direct from a quarter of the content's bytes on; and for all files of more than one extent as soon as the content
    /// has once been full, since then what is thrown out is read again and again.
    #[default]
    Auto,
    /// All by snapshot.
    Snapshot,
    /// All directly, where the file system can.
    Direct,
}

/// What a store should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorePlan {
    /// Which files are read how.
    pub kinds: Kinds,
    /// Reads under way at once.
    pub depth: u16,
    /// Extents read ahead, at most, of a reader that goes through a file from its beginning, or from any place on.
    pub ahead: u8,
    /// Bytes of a page at most: what the queues take in one buffer ([`drivers::Caps::buffer_bytes`]).
    pub page_bytes: usize,
    /// Connections that may wait at once without memory being allocated for it.
    pub waiters: usize,
    /// Where the loader runs; where its maker does, if `None`. A worker is pinned to a CPU, and a loader that shares it with
    /// one that polls is late.
    pub cpus: Option<CpuSet>,
}

impl Default for StorePlan {
    fn default() -> Self {
        Self {
            kinds: Kinds::Auto,
            depth: 64,
            ahead: AHEAD_MOST,
            page_bytes: CONTENT_UNIT,
            waiters: 1024,
            cpus: None,
        }
    }
}

/// A part of a file.
#[derive(Debug)]
pub enum Piece<'p> {
    /// Its bytes: at least one, at most what was asked for, never beyond a unit of 4 KiB of the file.
    Page(Page<'p>),
    /// Not resident: the waiter is woken by [`Store::poll`], and asks again.
    Later,
    /// The file has changed since it was looked up, or was removed.
    Gone,
}

/// What was read in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounters {
    /// Files whose beginning was read so.
    pub files: u64,
    /// Extents read.
    pub reads: u64,
    /// Bytes of files read.
    pub read_bytes: u64,
}

/// What a store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Pages handed out.
    pub hits: u64,
    /// Asked for, and not resident.
    pub misses: u64,
    /// Extents read ahead of being asked for.
    pub ahead: u64,
    /// Extents thrown out to make room.
    pub evicted: u64,
    /// Times that there was no room, because all of it was held or being filled.
    pub no_room: u64,
    /// Extents refused because their file had changed.
    pub gone: u64,
    /// Extents that the disk failed to give.
    pub failed: u64,
    /// By [`Kind::Shared`]: files and bytes that are mapped; nothing is read.
    pub shared: KindCounters,
    /// By [`Kind::Snapshot`].
    pub snapshot: KindCounters,
    /// By [`Kind::Direct`].
    pub direct: KindCounters,
}

/// The content of one worker's arena. It owns all of it: nobody else may lend or write content of the same pool.
#[derive(Debug)]
pub struct Store<'p> {
    pool: &'p Pool,
    plan: StorePlan,
    cells: Cells,
    loader: Loader,
    /// Orders that are not back.
    open: usize,
    /// The cell of the last page, for the next one is most likely there.
    last: u32,
    waiters: Waiters,
    starved: List,
    files: Option<SharedFiles>,
    next_try: Tick,
    counters: StoreCounters,
}

impl<'p> Store<'p> {
    /// A store over the content of `pool`; starts its loader. `bell` is rung when a read is over.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the content is smaller than one extent; the kernel's, when it has no thread or
    /// descriptor left.
    pub fn new(pool: &'p Pool, plan: StorePlan, bell: Arc<Bell>) -> io::Result<Self> {
        let cells = Cells::new(pool.arena().content_bytes());
        if cells.slabs() == 0 {
            let why =
                format!("content of {} bytes: at least {EXTENT} are needed", pool.arena().content_bytes());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // What is read ahead must not push out what is being read.
        let ahead = plan.ahead.min(u8::try_from(cells.slabs() / 2).unwrap_or(u8::MAX));
        let plan = StorePlan { depth: plan.depth.max(1), ahead, page_bytes: plan.page_bytes.max(1), ..plan };
        Ok(Self {
            pool,
            plan,
            cells,
            loader: Loader::start(plan.depth, plan.cpus, bell)?,
            open: 0,
            last: 0,
            waiters: Waiters::with_room(plan.waiters),
            starved: List::EMPTY,
            files: None,
            next_try: Tick::default(),
            counters: StoreCounters::default(),
        })
    }

    /// The same, with files' own pages behind the content. Only for queues that [take
    /// those](drivers::Caps::takes_file_pages).
    #[must_use]
    pub fn with_files(mut self, files: SharedFiles) -> Self {
        self.counters.shared =
            KindCounters { files: files.len() as u64, reads: 0, read_bytes: files.bytes() };
        self.files = Some(files).filter(|files| !files.is_empty());
        self
    }

    /// Up to `len` bytes of a file from `offset` on, to be sent. Never waits and never touches a page that is not there.
    #[inline]
    pub fn page(&mut self, entry: &Arc<Entry>, offset: u64, len: usize, waiter: Waiter) -> Piece<'p> {
        if let Some(files) = &mut self.files
            && let Some(place) = files.place(entry)
        {
            return self.file_page(place, entry, offset, len);
        }
        self.readable_page(entry, offset, len, waiter)
    }

    /// A page of a file's own. Once it has changed, none of it is the old version any more.
    fn file_page(&mut self, place: usize, entry: &Entry, offset: u64, len: usize) -> Piece<'p> {
        let left = entry.size().checked_sub(offset).and_then(|left| usize::try_from(left).ok());
        let (Some(left), Ok(offset), false) = (left, usize::try_from(offset), entry.is_gone()) else {
            return Piece::Gone;
        };
        let most = len.min(self.plan.page_bytes).min(CONTENT_UNIT - offset % CONTENT_UNIT).min(left);
        match self.pool.file_page(place + offset, most).filter(|page| !page.is_empty()) {
            Some(page) => {
                self.counters.hits += 1;
                Piece::Page(page)
            }
            None => Piece::Gone,
        }
    }

    /// The same, to be read by us: never a file's own page, so that [`Page::bytes`] is there.
    #[inline]
    pub fn readable_page(
        &mut self,
        entry: &Arc<Entry>,
        offset: u64,
        len: usize,
        waiter: Waiter,
    ) -> Piece<'p> {
        let (Some(left), Ok(extent)) = (
            entry.size().checked_sub(offset).filter(|left| *left > 0),
            u32::try_from(offset / EXTENT as u64),
        ) else {
            debug_assert!(false, "asked for beyond the end");
            return Piece::Gone;
        };
        // Also what is in memory: whether a transfer ends must not hang on what others have read.
        if entry.is_gone() {
            return Piece::Gone;
        }
        let within = remainder(offset);
        let key = Key { entry: entry.id(), extent };
        let Some(place) = self.resident(key) else { return self.miss(entry, key, waiter) };
        self.cells.touch(place);
        let len = len.min(self.plan.page_bytes);
        let most =
            len.min(CONTENT_UNIT - within % CONTENT_UNIT).min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(page) = self.pool.page(Cells::start(place) + within, most) else {
            return self.starve(waiter);
        };
        self.counters.hits += 1;
        // Only now, when the page keeps its extent from being thrown out for the next one.
        if within < CONTENT_UNIT && entry.size() > EXTENT as u64 {
            let window = self.cells.cell(place).map_or(0, |cell| cell.window);
            self.read_ahead(entry, extent, window);
        }
        Piece::Page(page)
    }

    #[inline]
    fn resident(&mut self, key: Key) -> Option<u32> {
        let is_it = |cells: &Cells, place| {
            cells.cell(place).is_some_and(|cell| cell.key == key && cell.state == State::Resident)
        };
        if !is_it(&self.cells, self.last) {
            let place = self.cells.find(key)?;
            if !is_it(&self.cells, place) {
                return None;
            }
            self.last = place;
        }
        Some(self.last)
    }

    /// Takes in what the loader has read, and names those who waited for it. To be called every turn.
    pub fn poll(&mut self, now: Tick, woken: &mut Vec<Waiter>) {
        let mut moved = false;
        // To look into an empty queue costs a fence.
        while self.open > 0
            && let Some(filled) = self.loader.next()
        {
            moved = true;
            self.take_in(filled, woken);
        }
        if self.starved != List::EMPTY && (moved || now >= self.next_try) {
            self.next_try = Tick(now.0 + TRY_AGAIN);
            self.waiters.wake(&mut self.starved, woken);
        }
    }

    /// Whether [`poll`](Self::poll) would find something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.loader.is_empty()
    }

    /// When those who found no room are to be woken: the next [`poll`](Self::poll) is due then.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        (self.starved != List::EMPTY).then_some(self.next_try)
    }

    /// What it has done so far.
    #[must_use]
    pub const fn counters(&self) -> StoreCounters {
        StoreCounters { evicted: self.cells.evicted, ..self.counters }
    }

    /// Reads under way.
    #[must_use]
    pub const fn reading(&self) -> usize {
        self.open
    }

    #[cold]
    fn miss(&mut self, entry: &Arc<Entry>, key: Key, waiter: Waiter) -> Piece<'p> {
        self.counters.misses += 1;
        let (place, window) = match self.cells.find(key) {
            // On its way, but the reader is faster: further ahead the next time. Once for each extent.
            Some(place) => {
                let cell = self.cells.cell_mut(place);
                let first = cell.waiters == List::EMPTY;
                cell.window = if first { cell.window.saturating_mul(2) } else { cell.window };
                (place, cell.window)
            }
            None => match self.load(entry, key, Need::Wanted) {
                Some(place) => (place, 0),
                None => return self.starve(waiter),
            },
        };
        self.waiters.add(&mut self.cells.cell_mut(place).waiters, waiter);
        self.read_ahead(entry, key.extent, window);
        Piece::Later
    }

    #[cold]
    fn starve(&mut self, waiter: Waiter) -> Piece<'p> {
        self.counters.no_room += 1;
        self.waiters.add(&mut self.starved, waiter);
        Piece::Later
    }

    /// Asks for the next extents of a file that somebody goes through.
    ///
    /// How many is written in the extents themselves, and so goes with the reader: one that waits for them has twice as
    /// many the next time, a slow one never takes the memory for more than it needs, and none costs any state of its own.
    fn read_ahead(&mut self, entry: &Arc<Entry>, extent: u32, window: u8) {
        let id = entry.id();
        let from_the_start = extent == 0 || self.cells.find(Key { entry: id, extent: extent - 1 }).is_some();
        if !from_the_start || entry.is_gone() {
            return;
        }
        let mut window = window.max(AHEAD_LEAST).min(self.plan.ahead);
        for extent in (extent..=extent.saturating_add(window.into())).skip(1) {
            // A quarter of the depth is for those who wait.
            let busy = self.open * 4 >= usize::from(self.plan.depth) * 3;
            if busy || u64::from(extent) * EXTENT as u64 >= entry.size() {
                return;
            }
            let key = Key { entry: id, extent };
            let place = match self.cells.find(key) {
                Some(place) => place,
                None => match self.load(entry, key, Need::Guess) {
                    Some(place) => {
                        self.counters.ahead += 1;
                        place
                    }
                    // All of it is in use: whoever comes this way asks for less.
                    None => {
                        window /= 2;
                        self.narrow(id, extent, window);
                        return;
                    }
                },
            };
            // Of several readers the fastest counts.
            let cell = self.cells.cell_mut(place);
            cell.window = cell.window.max(window);
        }
    }

    /// There is no room for `extent`: those before it that were read ahead shall not ask for as much again.
    fn narrow(&mut self, entry: u64, extent: u32, window: u8) {
        for extent in (0..extent).rev().take(usize::from(window) + 1) {
            let Some(place) = self.cells.find(Key { entry, extent }) else { return };
            let cell = self.cells.cell_mut(place);
            cell.window = cell.window.min(window);
        }
    }

    /// Orders an extent; `None` if there is no room, or the loader has enough to do.
    fn load(&mut self, entry: &Arc<Entry>, key: Key, need: Need) -> Option<u32> {
        if self.open >= usize::from(self.plan.depth) {
            return None;
        }
        let offset = u64::from(key.extent) * EXTENT as u64;
        let want = usize::try_from(entry.size() - offset).unwrap_or(EXTENT).min(EXTENT);
        let direct = self.wants_direct(entry);
        let (cell, grant) = self.cells.begin(self.pool, key, want, need)?;
        let order = Order { entry: Arc::clone(entry), offset, want, grant, cell, direct };
        if let Err(order) = self.loader.order(order) {
            debug_assert!(false, "no more are open than fit");
            drop(self.pool.take_content(order.grant));
            self.cells.abandon(cell);
            return None;
        }
        self.open += 1;
        Some(cell)
    }

    fn wants_direct(&self, entry: &Entry) -> bool {
        match self.plan.kinds {
            Kinds::Snapshot => false,
            Kinds::Direct => true,
            Kinds::Auto => {
                let under_pressure = self.cells.evicted > 0 && entry.size() > EXTENT as u64;
                under_pressure || entry.size() >= (self.cells.slabs() * EXTENT / 4) as u64
            }
        }
    }

    fn take_in(&mut self, filled: Filled, woken: &mut Vec<Waiter>) {
        let Filled { grant, cell, want, direct, outcome } = filled;
        self.open -= 1;
        let taken = self.pool.take_content(grant);
        debug_assert!(taken.is_ok(), "our own grant");
        let mut waiters = std::mem::replace(&mut self.cells.cell_mut(cell).waiters, List::EMPTY);
        match outcome {
            Outcome::Whole => {
                let first = self.cells.cell(cell).is_some_and(|cell| cell.key.extent == 0);
                let kind = if direct { &mut self.counters.direct } else { &mut self.counters.snapshot };
                kind.files += u64::from(first);
                kind.reads += 1;
                kind.read_bytes += want as u64;
                self.cells.finish(cell);
            }
            Outcome::Gone | Outcome::Failed => {
                self.counters.gone += u64::from(outcome == Outcome::Gone);
                self.counters.failed += u64::from(outcome == Outcome::Failed);
                self.cells.abandon(cell);
            }
        }
        self.waiters.wake(&mut waiters, woken);
    }
}

impl Drop for Store<'_> {
    /// Waits for the reads that are under way, and takes back all content.
    fn drop(&mut self) {
        self.loader.stop();
        while let Some(filled) = self.loader.next() {
            drop(self.pool.take_content(filled.grant));
        }
    }
}

/// Where in its extent a byte of a file is.
#[expect(clippy::cast_possible_truncation, reason = "below EXTENT")]
const fn remainder(offset: u64) -> usize {
    (offset % EXTENT as u64) as usize
}
