//! `splice`, `vmsplice` and `tee`: a pipe between file and socket, with references to pages in it.

use super::copy::Fallback;
use super::mapped::{Mappings, unmapped};
use super::raw::vmsplice;
use super::{
    Counters, Engine, EngineError, EnginePlan, Job, Look, Method, Source, Step, piece, place, refused,
    send_head,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    /// Bytes in it.
    pub(super) bytes: usize,
    /// Bytes that it holds.
    pub(super) size: usize,
}

/// Pipes that are kept for the next one who wants one. More than are filled at once nobody needs, and all of a user's count towards
/// `fs.pipe-user-pages-soft`.
const SPARE: usize = 256;

/// Pipes that are empty, to be used again, and how they are made.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
    /// Bytes that one should hold.
    size: usize,
    flags: PipeFlags,
}

impl Pipes {
    /// Makes the first pipe, so that what is wrong is known before anybody asks for a file.
    pub(super) fn new(
        method: &'static str,
        plan: &EnginePlan,
        flags: PipeFlags,
    ) -> Result<Self, EngineError> {
        let mut pipes = Self { spare: Vec::new(), size: plan.pipe, flags };
        let error = |source: Errno| EngineError {
            method,
            step: "making a pipe",
            source: source.into(),
            cure: "give a smaller --pipe (/proc/sys/fs/pipe-max-size is the limit without CAP_SYS_RESOURCE), or raise ulimit -n",
        };
        let pipe = pipes.make().map_err(error)?;
        // More than is allowed is a mistake to be told. That this user's pages are used up is none: then it is smaller for a while.
        match fcntl_setpipe_size(&pipe.write, plan.pipe) {
            Ok(size) => pipes.size = size,
            Err(Errno::PERM) if plan.pipe <= most_of_a_pipe() => {}
            Err(errno) => return Err(error(errno)),
        }
        pipes.spare.push(pipe);
        Ok(pipes)
    }

    fn make(&self) -> Result<Pipe, Errno> {
        let (read, write) = pipe_with(self.flags)?;
        let mut pipe = Pipe { read, write, bytes: 0, size: 0 };
        self.grow(&mut pipe)?;
        Ok(pipe)
    }

    /// Gives an empty pipe its size, or leaves it as it is: without `CAP_SYS_RESOURCE` a user whose pipes have as many pages as
    /// `fs.pipe-user-pages-soft` says gets one of two pages (`fs/pipe.c`), which does as well, in more calls.
    fn grow(&self, pipe: &mut Pipe) -> Result<(), Errno> {
        pipe.size = match fcntl_setpipe_size(&pipe.write, self.size) {
            Ok(size) => size,
            Err(_) => fcntl_getpipe_size(&pipe.write)?,
        };
        Ok(())
    }

    /// An empty pipe.
    pub(super) fn take(&mut self) -> Result<Pipe, Errno> {
        let Some(mut pipe) = self.spare.pop() else { return self.make() };
        if pipe.size < self.size {
            // Others may have let go of theirs.
            self.grow(&mut pipe)?;
        }
        Ok(pipe)
    }

    /// Keeps a pipe for the next one who wants one; one with bytes in it, or too many, is closed.
    pub(super) fn give(&mut self, pipe: Pipe) {
        if pipe.bytes == 0 && self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}

/// What anybody may ask for; what the kernel begins with, if it does not say.
fn most_of_a_pipe() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-max-size");
    limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(1 << 20)
}

/// Moves what is in a pipe to a socket; returns the bytes.
fn drain(pipe: &mut Pipe, socket: &OwnedFd, more: bool) -> Result<u64, Step> {
    let mut flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    flags.set(SpliceFlags::MORE, more);
    match retry_on_intr(|| splice(&pipe.read, None, socket, None, pipe.bytes, flags)) {
        // A pipe with bytes in it and a writer has no end.
        Ok(0) => Err(Step::Broken),
        Ok(bytes) => {
            pipe.bytes -= bytes.min(pipe.bytes);
            Ok(bytes as u64)
        }
        Err(errno) => Err(refused(errno)),
    }
}

/// What methods have that put a pipe between file and socket for each flow that needs one.
#[derive(Debug)]
struct Between {
    pipes: Pipes,
    /// Those of flows, with bytes in them.
    flows: Vec<Option<Pipe>>,
    /// For flows that get none.
    fallback: Fallback,
    counters: Counters,
}

impl Between {
    fn new(method: Method, plan: &EnginePlan) -> Result<Self, EngineError> {
        Ok(Self {
            pipes: Pipes::new(method.name(), plan, PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
            flows: Vec::new(),
            fallback: Fallback::new(plan.chunk),
            counters: Counters::default(),
        })
    }

    /// With bytes in it it stays with its flow; empty, it is for anybody.
    fn keep(&mut self, flow: u32, pipe: Pipe) {
        if pipe.bytes > 0 {
            *place(&mut self.flows, flow) = Some(pipe);
        } else {
            self.pipes.give(pipe);
        }
    }

    /// Closes a flow's pipe with what is in it.
    fn close(&mut self, flow: u32) {
        drop(place(&mut self.flows, flow).take());
    }
}

/// A method of that kind.
trait Fills<S> {
    fn between(&mut self) -> &mut Between;

    /// Puts the next bytes of a file into an empty pipe.
    fn fill(&mut self, job: &Job<'_, S>, pipe: &mut Pipe) -> Result<(), Step>;
}

/// Sends a head, and what is in the flow's pipe behind it; what the socket does not take stays there.
fn push_through<S: Source>(method: &mut impl Fills<S>, flow: u32, job: &Job<'_, S>) -> Step {
    let between = method.between();
    let pipe = place(&mut between.flows, flow).take().map_or_else(|| between.pipes.take(), Ok);
    let Ok(mut pipe) = pipe else {
        // None to be had: too many descriptors are open, or this user's pipes have too many pages.
        return between.fallback.push(job, &mut between.counters);
    };
    let step = send_behind_head(method, job, &mut pipe);
    method.between().keep(flow, pipe);
    step
}

fn send_behind_head<S>(method: &mut impl Fills<S>, job: &Job<'_, S>, pipe: &mut Pipe) -> Step {
    let mut sent = 0;
    match send_head(job.socket, job.head) {
        Some(Ok(bytes)) => sent = bytes,
        Some(Err(step)) => return step,
        None => {}
    }
    if sent < job.head.len() as u64 {
        return Step::Sent(sent);
    }
    let filled = if pipe.bytes > 0 { Ok(()) } else { method.fill(job, pipe) };
    let step = filled.and_then(|()| {
        let more = job.more || (pipe.bytes as u64) < job.bytes;
        drain(pipe, job.socket, more)
    });
    match step {
        Ok(bytes) => Step::Sent(sent + bytes),
        Err(step) if sent == 0 => step,
        // The head is out; the next push says what is wrong.
        Err(_) => Step::Sent(sent),
    }
}

/// `splice` in, `splice` out.
#[derive(Debug)]
pub(super) struct Splice(Between);

impl Splice {
    pub(super) fn new(plan: &EnginePlan) -> Result<Self, EngineError> {
        Between::new(Method::Splice, plan).map(Self)
    }
}

impl<S: Source> Fills<S> for Splice {
    fn between(&mut self) -> &mut Between {
        &mut self.0
    }

    fn fill(&mut self, job: &Job<'_, S>, pipe: &mut Pipe) -> Result<(), Step> {
        let (mut at, flags) = (job.offset, SpliceFlags::NONBLOCK | SpliceFlags::MOVE);
        let most = piece(job.bytes, pipe.size);
        match retry_on_intr(|| splice(job.file.file(), Some(&mut at), &pipe.write, None, most, flags)) {
            Ok(0) => Err(Step::Gone),
            Ok(bytes) => {
                pipe.bytes = bytes;
                Ok(())
            }
            Err(errno) => Err(refused(errno)),
        }
    }
}

impl<S: Source> Engine<S> for Splice {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        push_through(self, flow, job)
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        self.0.close(flow);
    }

    fn counters(&self) -> Counters {
        self.0.counters
    }
}

/// A stretch that was asked for lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stretch {
    file: u64,
    offset: u64,
    bytes: usize,
}

impl Stretch {
    /// Where it is remembered. Offsets are multiples of a pipe's size, so their low bits alone would fill a few places only.
    fn place(&self) -> usize {
        // 2^64 divided by the golden ratio, as in Knuth's multiplicative hashing (TAOCP 3, 6.4); its upper bits are the mixed ones.
        let mixed = (self.file ^ self.offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::from(mixed.to_be_bytes()[0]) % LATELY
    }
}

/// A stretch that stays in a pipe, to be copied from by `tee` for everybody who asks for it.
#[derive(Debug)]
struct Original<S> {
    stretch: Stretch,
    file: Arc<S>,
    pipe: Pipe,
    used: u64,
}

/// Stretches that are remembered as asked for, and those that stay in pipes.
const LATELY: usize = 64;
const ORIGINALS: usize = 16;

/// `vmsplice` of a mapping; `tee` for what is asked for more than once.
#[derive(Debug)]
pub(super) struct Vmsplice<S> {
    between: Between,
    mappings: Mappings<S>,
    lately: [Stretch; LATELY],
    originals: Vec<Original<S>>,
    clock: u64,
}

impl<S: Source> Vmsplice<S> {
    pub(super) fn new(plan: &EnginePlan) -> Result<Self, EngineError> {
        Ok(Self {
            between: Between::new(Method::Vmsplice, plan)?,
            mappings: Mappings::new(),
            lately: [Stretch::default(); LATELY],
            originals: Vec::new(),
            clock: 0,
        })
    }

    fn refer(&mut self, job: &Job<'_, S>, pipe: &Pipe, stretch: Stretch) -> Result<usize, Step> {
        let mapping = self.mappings.of(job.file).map_err(|error| unmapped(&error))?;
        let bytes = retry_on_intr(|| vmsplice(&pipe.write, &mapping, stretch.offset, stretch.bytes))
            .map_err(refused)?;
        self.between.counters.vmspliced_bytes += bytes as u64;
        if bytes == 0 { Err(Step::Gone) } else { Ok(bytes) }
    }

    /// Puts a stretch into a pipe of its own, where it stays until others are more in demand. `None` where there is no pipe for it.
    #[cold]
    fn original(&mut self, job: &Job<'_, S>, stretch: Stretch) -> Result<Option<usize>, Step> {
        let Ok(mut pipe) = self.between.pipes.take() else { return Ok(None) };
        pipe.bytes = self.refer(job, &pipe, stretch)?;
        if self.originals.len() == ORIGINALS {
            let oldest = (0..ORIGINALS).min_by_key(|place| self.originals[*place].used).unwrap_or(0);
            self.originals.swap_remove(oldest);
        }
        self.originals.push(Original { stretch, file: Arc::clone(job.file), pipe, used: self.clock });
        Ok(Some(self.originals.len() - 1))
    }
}

impl<S: Source> Fills<S> for Vmsplice<S> {
    fn between(&mut self) -> &mut Between {
        &mut self.between
    }

    /// By reference to the mapping, or to another pipe.
    fn fill(&mut self, job: &Job<'_, S>, pipe: &mut Pipe) -> Result<(), Step> {
        self.clock += 1;
        // A pipe has a page in each slot, so that a stretch that begins within one has a page less.
        let most = pipe.size - usize::try_from(job.offset % 4096).unwrap_or(0);
        let stretch = Stretch { file: job.file.id(), offset: job.offset, bytes: piece(job.bytes, most) };
        let lately = &mut self.lately[stretch.place()];
        let again = std::mem::replace(lately, stretch) == stretch;
        let kept = || self.originals.iter().position(|original| original.stretch == stretch);
        let original = match again.then(kept).flatten() {
            None if again => self.original(job, stretch)?,
            original => original,
        };
        let Some(original) = original else {
            pipe.bytes = self.refer(job, pipe, stretch)?;
            return Ok(());
        };
        let original = &mut self.originals[original];
        original.used = self.clock;
        let (from, bytes) = (&original.pipe.read, original.pipe.bytes);
        pipe.bytes =
            retry_on_intr(|| tee(from, &pipe.write, bytes, SpliceFlags::NONBLOCK)).map_err(refused)?;
        self.between.counters.teed_bytes += pipe.bytes as u64;
        Ok(())
    }
}

impl<S: Source> Engine<S> for Vmsplice<S> {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        push_through(self, flow, job)
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        self.between.close(flow);
    }

    fn look(&self) -> Look {
        Look::Before
    }

    fn tidy(&mut self) {
        self.mappings.tidy();
        self.originals.retain(|original| !original.file.is_gone());
    }

    fn counters(&self) -> Counters {
        self.between.counters
    }
}
