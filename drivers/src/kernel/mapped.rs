//! Straight from a mapping of the file, which only the kernel touches.

use super::raw::{Mapping, News, allow_zerocopy, next_error, send_mapped};
use super::{Counters, Engine, Job, Look, Source, Step, failed, piece, place, refused, send_head};
use rustix::io::{Errno, retry_on_intr};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// Files that are mapped at once, by one engine; those unused for longest are unmapped first.
const FILES: usize = 512;

/// The most that one call sends from a mapping.
const MOST: usize = 1 << 20;

/// Mappings by file. To map and unmap costs more than many a body, so they stay for a while.
#[derive(Debug)]
pub(super) struct Mappings<S> {
    files: HashMap<u64, (Rc<Mapping>, Arc<S>, u64)>,
    clock: u64,
}

impl<S: Source> Mappings<S> {
    pub(super) fn new() -> Self {
        Self { files: HashMap::with_capacity(FILES + 1), clock: 0 }
    }

    /// The mapping of a file, all of it.
    pub(super) fn of(&mut self, file: &Arc<S>) -> io::Result<Rc<Mapping>> {
        self.clock += 1;
        if let Some((mapping, _, used)) = self.files.get_mut(&file.id()) {
            *used = self.clock;
            return Ok(Rc::clone(mapping));
        }
        self.map(file)
    }

    /// Lets go of files that have changed or are removed: mapped, they would keep their room on the disk.
    pub(super) fn tidy(&mut self) {
        self.files.retain(|_, (_, file, _)| !file.is_gone());
    }

    #[cold]
    fn map(&mut self, file: &Arc<S>) -> io::Result<Rc<Mapping>> {
        self.tidy();
        if self.files.len() >= FILES {
            // A quarter at once: to look through all of them is not for every new file.
            let mut ages: Vec<u64> = self.files.values().map(|(_, _, used)| *used).collect();
            ages.sort_unstable();
            let old = ages[FILES / 4];
            self.files.retain(|_, (_, _, used)| *used > old);
        }
        let bytes = usize::try_from(file.size()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mapping = Rc::new(Mapping::new(file.file(), bytes)?);
        self.files.insert(file.id(), (Rc::clone(&mapping), Arc::clone(file), self.clock));
        Ok(mapping)
    }
}

/// What a failed mapping means.
pub(super) fn unmapped(error: &io::Error) -> Step {
    failed("mapping a file", error)
}

/// `sendmsg` of head and mapping at once.
#[derive(Debug)]
pub(super) struct MmapWrite<S> {
    mappings: Mappings<S>,
    counters: Counters,
}

impl<S: Source> MmapWrite<S> {
    pub(super) fn new() -> Self {
        Self { mappings: Mappings::new(), counters: Counters::default() }
    }
}

impl<S: Source> Engine<S> for MmapWrite<S> {
    fn push(&mut self, _: u32, job: &Job<'_, S>) -> Step {
        let mapping = match self.mappings.of(job.file) {
            Ok(mapping) => mapping,
            Err(error) => return unmapped(&error),
        };
        let bytes = piece(job.bytes, MOST);
        let more = job.more || (bytes as u64) < job.bytes;
        let flags = if more { libc::MSG_MORE } else { 0 };
        let stretch = (job.offset, bytes);
        match retry_on_intr(|| send_mapped(job.socket, job.head, &mapping, stretch, flags)) {
            Ok(sent) => Step::Sent(sent as u64),
            Err(errno) => refused(errno),
        }
    }

    fn close(&mut self, _: u32, _: &OwnedFd) {}

    fn look(&self) -> Look {
        Look::Before
    }

    fn tidy(&mut self) {
        self.mappings.tidy();
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// A connection that sends without copying.
#[derive(Debug, Default)]
struct Flow {
    allowed: bool,
    /// Sends that the kernel has not given back.
    out: u32,
}

/// `MSG_ZEROCOPY`.
#[derive(Debug)]
pub(super) struct Zerocopy<S> {
    mappings: Mappings<S>,
    flows: Vec<Flow>,
    counters: Counters,
}

impl<S: Source> Zerocopy<S> {
    pub(super) fn new() -> Self {
        Self { mappings: Mappings::new(), flows: Vec::new(), counters: Counters::default() }
    }

    /// Sends by copying what may not be pinned: `RLIMIT_MEMLOCK` is one limit for all that a user has, so that other flows may
    /// have used it up (`mm_account_pinned_pages`, `net/core/skbuff.c`), and nothing of this one's would come back.
    fn copy_instead(&mut self, job: &Job<'_, S>, mapping: &Mapping, bytes: usize, flags: i32) -> Step {
        match retry_on_intr(|| send_mapped(job.socket, &[], mapping, (job.offset, bytes), flags)) {
            Ok(sent) => {
                self.counters.fallback_bytes += sent as u64;
                Step::Sent(sent as u64)
            }
            Err(errno) => refused(errno),
        }
    }

    /// Takes back what the kernel is done with.
    fn reap(&mut self, flow: u32, socket: &OwnedFd) -> bool {
        let mut only_ours = false;
        while let Ok(news) = next_error(socket) {
            match news {
                News::Released(released) => {
                    only_ours = true;
                    let flow = place(&mut self.flows, flow);
                    flow.out = flow.out.saturating_sub(released.sends);
                    self.counters.zerocopy_done += u64::from(released.sends);
                    if released.copied {
                        self.counters.zerocopy_copied += u64::from(released.sends);
                    }
                }
                News::Other => {}
                News::Nothing => return only_ours,
            }
        }
        false
    }
}

impl<S: Source> Engine<S> for Zerocopy<S> {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        let state = place(&mut self.flows, flow);
        if !state.allowed {
            if let Err(errno) = allow_zerocopy(job.socket) {
                return failed("allowing zero-copy sends (SO_ZEROCOPY)", &errno);
            }
            state.allowed = true;
        }
        let mapping = match self.mappings.of(job.file) {
            Ok(mapping) => mapping,
            Err(error) => return unmapped(&error),
        };
        let mut sent = 0;
        // The head is ours to write over, so it is copied.
        match send_head(job.socket, job.head) {
            Some(Ok(bytes)) => sent = bytes,
            Some(Err(step)) => return step,
            None => {}
        }
        if sent == job.head.len() as u64 {
            let bytes = piece(job.bytes, MOST);
            let more = job.more || (bytes as u64) < job.bytes;
            let flags = libc::MSG_ZEROCOPY | if more { libc::MSG_MORE } else { 0 };
            match retry_on_intr(|| send_mapped(job.socket, &[], &mapping, (job.offset, bytes), flags)) {
                Ok(bytes) => {
                    sent += bytes as u64;
                    place(&mut self.flows, flow).out += 1;
                    self.counters.zerocopy_sends += 1;
                }
                // Too many pages are pinned: this flow's come back, or they are other flows' and may be so for long.
                Err(Errno::NOBUFS) if sent == 0 => {
                    let before = place(&mut self.flows, flow).out;
                    self.reap(flow, job.socket);
                    let after = place(&mut self.flows, flow).out;
                    // Those that have just come back make room at once; for others the error queue wakes us.
                    return match after {
                        _ if after < before => Step::Sent(0),
                        0 => self.copy_instead(job, &mapping, bytes, flags & !libc::MSG_ZEROCOPY),
                        _ => Step::Full,
                    };
                }
                Err(errno) if sent == 0 => return refused(errno),
                Err(_) => {}
            }
        }
        Step::Sent(sent)
    }

    fn close(&mut self, flow: u32, socket: &OwnedFd) {
        if place(&mut self.flows, flow).out > 0 {
            // A reset has given all back by now; of an end in order, what the peer has not yet acknowledged is still out.
            self.reap(flow, socket);
        }
        let left = std::mem::take(place(&mut self.flows, flow));
        self.counters.zerocopy_abandoned += u64::from(left.out);
    }

    fn error(&mut self, flow: u32, socket: &OwnedFd) -> bool {
        self.reap(flow, socket)
    }

    fn look(&self) -> Look {
        Look::Before
    }

    fn tidy(&mut self) {
        self.mappings.tidy();
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
