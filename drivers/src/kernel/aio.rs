//! Linux AIO with `O_DIRECT`: the disk writes into our buffers while we do something else; `send` from there.

use super::buffers::{Buffers, LEAD, Reach};
use super::raw::{Aio, Event};
use super::{
    Counters, Engine, EngineError, EnginePlan, Job, Look, Method, Source, Step, absent, piece, place, refused,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::retry_on_intr;
use rustix::net::{SendFlags, send};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A read under way.
///
/// Invariant *kept* of `raw.rs`: from the request to its event it is in `reads` under the number in the request, so that
/// the file stays open, and the buffer is nobody else's and not looked at.
#[derive(Debug)]
struct Read<S> {
    flow: u32,
    generation: u32,
    buffer: u16,
    file: Arc<S>,
    skip: usize,
    head: usize,
    bytes: usize,
    /// The file must still be the same when they are read.
    check: bool,
    more: bool,
    direct: bool,
}

/// What a flow has under way.
#[derive(Debug, Default)]
struct Flow {
    generation: u32,
    now: Now,
}

#[derive(Clone, Copy, Debug, Default)]
enum Now {
    #[default]
    Idle,
    Reading,
    /// For a buffer.
    Waiting,
    /// Bytes of a buffer that the socket has not taken yet.
    Held {
        buffer: u16,
        from: usize,
        to: usize,
        more: bool,
    },
    Over(Step),
}

/// AIO reads and plain sends.
#[derive(Debug)]
pub(super) struct DirectAio<S> {
    /// Dropped first: the kernel waits for what is under way then.
    aio: ManuallyDrop<Aio>,
    bell: OwnedFd,
    chunk: usize,
    buffers: Buffers,
    reads: Vec<Option<Read<S>>>,
    flows: Vec<Flow>,
    woken: Vec<u32>,
    /// Reads that were taken in, less rings of the bell that were. The kernel puts a completion down before it rings
    /// (`aio_complete` in `fs/aio.c`), so that a ring may come when nothing is under way any more.
    rings_owed: i64,
    counters: Counters,
}

impl<S: Source> DirectAio<S> {
    pub(super) fn new(plan: &EnginePlan) -> Result<Self, EngineError> {
        let error = |step, source, cure| EngineError { method: Method::DirectAio.name(), step, source, cure };
        let aio = Aio::new(plan.buffers.into()).map_err(|source| {
            error(
                "making an AIO context",
                absent(source),
                "raise fs.aio-max-nr, or use a kernel with CONFIG_AIO",
            )
        })?;
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|errno| error("making an eventfd", errno.into(), "raise ulimit -n"))?;
        let buffers = Buffers::new(plan.buffers, plan.chunk)
            .map_err(|source| error("mapping buffers", source, "give a smaller --chunk"))?;
        Ok(Self {
            aio: ManuallyDrop::new(aio),
            bell,
            chunk: plan.chunk,
            buffers,
            reads: (0..plan.buffers).map(|_| None).collect(),
            flows: Vec::new(),
            woken: Vec::new(),
            rings_owed: 0,
            counters: Counters::default(),
        })
    }

    fn begin(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        let generation = place(&mut self.flows, flow).generation;
        let Some(buffer) = self.buffers.take() else {
            place(&mut self.flows, flow).now = Now::Waiting;
            self.buffers.wait(flow, generation);
            return Step::Later;
        };
        let head = job.head.len();
        self.buffers.bytes(buffer)[..head].copy_from_slice(job.head);
        let bytes = piece(job.bytes, self.chunk);
        let direct = job.file.direct();
        if direct.is_none() {
            self.counters.direct_refused_bytes += bytes as u64;
        }
        let reach = Reach::new(job.offset, bytes, direct.is_some());
        self.reads[usize::from(buffer)] = Some(Read {
            flow,
            generation,
            buffer,
            file: Arc::clone(job.file),
            check: job.check && bytes as u64 == job.bytes,
            skip: reach.skip,
            head,
            bytes,
            more: job.more || (bytes as u64) < job.bytes,
            direct: direct.is_some(),
        });
        let fd = direct.unwrap_or_else(|| job.file.file());
        let into = (self.buffers.data(buffer), reach.bytes);
        self.counters.operations += 1;
        // SAFETY: *kept*: the read is in `reads`, and the buffer is not free.
        let begun = unsafe { self.aio.read(buffer.into(), fd, into, reach.offset, &self.bell) };
        if let Err(errno) = begun {
            self.reads[usize::from(buffer)] = None;
            self.buffers.give(buffer);
            return super::failed("reading a file by AIO", &errno);
        }
        place(&mut self.flows, flow).now = Now::Reading;
        Step::Later
    }

    /// Sends what lies in a buffer.
    fn send(&mut self, flow: u32, socket: &OwnedFd) -> Step {
        let Now::Held { buffer, from, to, more } = place(&mut self.flows, flow).now else {
            return Step::Later;
        };
        let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        flags.set(SendFlags::MORE, more);
        let bytes = &self.buffers.bytes(buffer)[from..to];
        match retry_on_intr(|| send(socket, bytes, flags)) {
            Ok(bytes) => {
                let now = if from + bytes == to {
                    self.buffers.give(buffer);
                    Now::Idle
                } else {
                    Now::Held { buffer, from: from + bytes, to, more }
                };
                place(&mut self.flows, flow).now = now;
                Step::Sent(bytes as u64)
            }
            Err(errno) => {
                let step = refused(errno);
                // Slow readers must not keep all buffers: what they have not taken is read again.
                if step != Step::Full || !self.buffers.are_plenty() {
                    place(&mut self.flows, flow).now = Now::Idle;
                    self.buffers.give(buffer);
                }
                step
            }
        }
    }

    /// Somebody may wait for a buffer that is free.
    fn wake_waiters(&mut self) {
        let Self { buffers, flows, woken, .. } = self;
        buffers.wake_waiters(|flow, generation| {
            let state = place(flows, flow);
            let waits = state.generation == generation;
            if waits {
                state.now = Now::Idle;
                woken.push(flow);
            }
            waits
        });
    }

    fn complete(&mut self, event: &Event) {
        let place_of = usize::try_from(event.data).unwrap_or(usize::MAX);
        let Some(read) = self.reads.get_mut(place_of).and_then(Option::take) else { return };
        let arrived = usize::try_from(event.result).unwrap_or(0);
        if read.direct {
            self.counters.direct_read_bytes += arrived as u64;
        }
        let bytes = arrived.saturating_sub(read.skip).min(read.bytes);
        self.counters.read_bytes += bytes as u64;
        let flow = place(&mut self.flows, read.flow);
        if flow.generation != read.generation {
            self.buffers.give(read.buffer);
            return;
        }
        self.woken.push(read.flow);
        let spoilt = read.check && bytes == read.bytes && !read.file.is_same();
        if bytes == 0 || spoilt {
            flow.now = Now::Over(if event.result >= 0 { Step::Gone } else { failed(event.result) });
            self.buffers.give(read.buffer);
            return;
        }
        let from = self.buffers.join(read.buffer, read.head, read.skip);
        debug_assert!(from + read.head == LEAD + read.skip, "the head ends where the data begins");
        let (to, more) = (from + read.head + bytes, read.more || bytes < read.bytes);
        place(&mut self.flows, read.flow).now = Now::Held { buffer: read.buffer, from, to, more };
    }
}

fn failed(result: i64) -> Step {
    let errno = i32::try_from(-result).unwrap_or(libc::EIO);
    super::failed("reading a file by AIO", &io::Error::from_raw_os_error(errno))
}

impl<S: Source> Engine<S> for DirectAio<S> {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        let state = place(&mut self.flows, flow);
        match state.now {
            Now::Reading | Now::Waiting => Step::Later,
            Now::Held { .. } => self.send(flow, job.socket),
            Now::Over(step) => {
                state.now = Now::Idle;
                step
            }
            Now::Idle => self.begin(flow, job),
        }
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        let state = place(&mut self.flows, flow);
        let now = std::mem::take(&mut state.now);
        state.generation = state.generation.wrapping_add(1);
        if let Now::Held { buffer, .. } = now {
            self.buffers.give(buffer);
        }
    }

    fn poll(&mut self, woken: &mut Vec<u32>) {
        // Nothing under way and no ring to come, nothing to ask for.
        if self.rings_owed != 0 || self.reads.iter().any(Option::is_some) {
            let mut rings = [0; 8];
            if rustix::io::read(&self.bell, &mut rings).is_ok() {
                self.rings_owed -= i64::from_ne_bytes(rings);
            }
            let mut events = [Event::default(); 64];
            while let Ok(count @ 1..) = self.aio.events(&mut events, 0) {
                self.rings_owed += i64::try_from(count).unwrap_or(0);
                for event in &events[..count.min(events.len())] {
                    self.complete(event);
                }
            }
        }
        self.wake_waiters();
        woken.append(&mut self.woken);
    }

    fn look(&self) -> Look {
        Look::Between
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<S> Drop for DirectAio<S> {
    fn drop(&mut self) {
        // SAFETY: dropped here and nowhere else, and not used after. `io_destroy` waits for all reads, so that files and
        // buffers, which go after this, are nobody's any more.
        unsafe { ManuallyDrop::drop(&mut self.aio) };
    }
}
