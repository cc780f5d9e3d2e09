//! io_uring: all that waits is done by the kernel in its own time, and begun with one system call for many.
//!
//! ```text
//!   push ─► READ_FIXED ─► SEND or SEND_ZC ─► Sent        uring, uring-zerocopy, direct-uring
//!   push ─► SPLICE file to pipe ─► SPLICE pipe to socket ─► Sent        uring-splice
//! ```
//!
//! Nothing waits for a socket in the kernel: what a socket does not take stays in its buffer or pipe until the socket is
//! writable, or, where free buffers are few, is thrown away and read again. So slow readers never keep all buffers.

mod begin;
mod news;

use super::buffers::Buffers;
use super::copy::Fallback;
use super::pipes::{Pipe, Pipes};
use super::{Counters, Engine, EngineError, EnginePlan, Job, Look, Method, Source, Step, absent, place};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::pipe::PipeFlags;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// `include/uapi/linux/io_uring.h`
const REPORT_USAGE: u16 = 1 << 3;
const USAGE_COPIED: u32 = 1 << 31;

/// Entries that the ring has room for at once; more wait for the next submission.
const ENTRIES: u32 = 1024;

/// One stretch on its way.
///
/// Invariant **in flight**: from the push of an entry to its last completion, its `Op` is in `ops` under the number in
/// the entry: so socket and file stay open, and its buffer is not free and not written to. While the kernel reads a file into it, it is
/// nobody else's; while it only sends from it, several operations may.
#[derive(Debug)]
struct Op<S> {
    flow: u32,
    generation: u32,
    socket: Rc<OwnedFd>,
    /// Open as long as it is read.
    file: Arc<S>,
    carrier: Carrier,
    stage: Stage,
    more: bool,
    /// Bytes of the head: they are ours before the file's.
    head: usize,
    /// Bytes of the file that are asked for.
    bytes: usize,
    /// The file must still be the same when they are read.
    check: bool,
}

/// What carries the bytes.
#[derive(Debug)]
enum Carrier {
    Buffer(u16),
    Pipe(Pipe),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading {
        skip: usize,
        direct: bool,
    },
    Sending {
        from: usize,
        to: usize,
    },
    /// Sent, and the kernel still refers to the buffer: `taken`, if the socket took anything of it.
    Lent {
        taken: bool,
    },
}

/// What a flow has under way.
#[derive(Debug, Default)]
struct Flow {
    generation: u32,
    now: Now,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Now {
    #[default]
    Idle,
    Busy,
    /// For a buffer.
    Waiting,
    /// What became of it, and the operation whose bytes are left over.
    Done(Step, Option<u32>),
    /// So much is read, and the socket was full.
    Held(u32),
}

/// The ring of one thread.
pub(super) struct Uring<S> {
    ring: IoUring,
    method: Method,
    chunk: usize,
    buffers: ManuallyDrop<Buffers>,
    pipes: Option<Pipes>,
    /// For what has no buffer or no pipe.
    fallback: Fallback,
    ops: ManuallyDrop<Vec<Option<Op<S>>>>,
    free: Vec<u32>,
    /// Entries that found no room.
    held_back: Vec<squeue::Entry>,
    flows: Vec<Flow>,
    woken: Vec<u32>,
    counters: Counters,
}

impl<S: Source> Uring<S> {
    pub(super) fn new(method: Method, plan: &EnginePlan) -> Result<Self, EngineError> {
        Self::with_entries(method, plan, ENTRIES)
    }

    /// With room in the ring for so many submissions, and twice as many completions.
    pub(super) fn with_entries(method: Method, plan: &EnginePlan, entries: u32) -> Result<Self, EngineError> {
        let error = |step, source, cure| EngineError { method: method.name(), step, source, cure };
        let ring = IoUring::new(entries).map_err(|source| {
            error(
                "making an io_uring",
                absent(source),
                "allow it: sysctl kernel.io_uring_disabled=0, and no seccomp filter in the way",
            )
        })?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|source| error("asking io_uring what it can", source, "use Linux 5.6 or newer"))?;
        for (code, wanted) in [
            (opcode::ReadFixed::CODE, method != Method::UringSplice),
            (opcode::Send::CODE, matches!(method, Method::Uring | Method::DirectUring)),
            (opcode::SendZc::CODE, method == Method::UringZerocopy),
            (opcode::Splice::CODE, method == Method::UringSplice),
        ] {
            if wanted && !probe.is_supported(code) {
                let source = io::ErrorKind::Unsupported.into();
                return Err(error(
                    "looking for its operations",
                    source,
                    "use a newer Linux: SEND_ZC came with 6.0",
                ));
            }
        }
        let (count, pipes) = match method {
            Method::UringSplice => (0, Some(Pipes::new(method.name(), plan, PipeFlags::CLOEXEC)?)),
            _ => (plan.buffers, None),
        };
        let mut buffers = Buffers::new(count, plan.chunk)
            .map_err(|source| error("mapping buffers", source, "give a smaller --chunk"))?;
        let vectors = buffers.vectors();
        if count > 0 {
            // SAFETY: the buffers stay where they are until the ring is gone, or for ever.
            let registered = unsafe { ring.submitter().register_buffers(&vectors) };
            registered.map_err(|source| {
                error(
                    "registering buffers",
                    source,
                    "raise the limit of locked memory: ulimit -l, or LimitMEMLOCK= of its unit",
                )
            })?;
        }
        Ok(Self {
            ring,
            method,
            chunk: plan.chunk,
            buffers: ManuallyDrop::new(buffers),
            pipes,
            fallback: Fallback::new(plan.chunk),
            ops: ManuallyDrop::new(Vec::new()),
            free: Vec::new(),
            held_back: Vec::new(),
            flows: Vec::new(),
            woken: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// A number for an operation, under which it is kept.
    fn number(&mut self, op: Op<S>) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.ops[number as usize] = Some(op);
                number
            }
            None => {
                self.ops.push(Some(op));
                u32::try_from(self.ops.len() - 1).expect("fewer than connections")
            }
        }
    }

    fn enter(&mut self, number: u32, entry: squeue::Entry) {
        self.counters.operations += 1;
        let entry = entry.user_data(number.into());
        // SAFETY: *in flight*: the operation is in `ops`, with all that the entry names.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.held_back.push(entry);
        }
    }

    /// Tells the kernel what there is to do, unless that is nothing.
    fn submit(&mut self) {
        loop {
            while let Some(entry) = self.held_back.pop() {
                // SAFETY: as in `enter`: an entry that was held back is in flight already.
                let pushed = unsafe { self.ring.submission().push(&entry) };
                if pushed.is_err() {
                    self.held_back.push(entry);
                    break;
                }
            }
            let submission = self.ring.submission();
            // Completions that found no room are handed over by the next call, also when that has nothing to submit.
            if submission.is_empty() && !submission.cq_overflow() {
                return;
            }
            drop(submission);
            if let Err(error) = self.ring.submit() {
                // Its completions must be taken first: the next poll does.
                tracing::debug!("io_uring submit: {error}");
                return;
            }
            if self.held_back.is_empty() {
                return;
            }
        }
    }

    /// Takes in one completion.
    fn complete(&mut self, entry: &cqueue::Entry) {
        let Ok(number) = usize::try_from(entry.user_data()) else { return };
        let Some(mut op) = self.ops.get_mut(number).and_then(Option::take) else { return };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let result = entry.result();
        if cqueue::notif(entry.flags()) {
            // One of which nothing was taken counts as copied for the kernel, and is none for us.
            if matches!(op.stage, Stage::Lent { taken: true }) {
                self.counters.zerocopy_done += 1;
                self.counters.zerocopy_copied += u64::from(result.cast_unsigned() & USAGE_COPIED != 0);
            }
            self.release(number, op);
            return;
        }
        let more = cqueue::more(entry.flags());
        match op.stage {
            Stage::Reading { skip, direct } => {
                let read = usize::try_from(result).unwrap_or(0).saturating_sub(skip).min(op.bytes);
                if matches!(op.carrier, Carrier::Buffer(_)) {
                    self.counters.read_bytes += read as u64;
                }
                if direct {
                    self.counters.direct_read_bytes += usize::try_from(result).unwrap_or(0) as u64;
                }
                // Whatever becomes of them, they are in it.
                if let Carrier::Pipe(pipe) = &mut op.carrier {
                    pipe.bytes = read;
                }
                let spoilt = || op.check && read == op.bytes && !op.file.is_same();
                if read == 0 || !self.lives(&op) || spoilt() {
                    let step = if result >= 0 { Step::Gone } else { failed(result) };
                    self.tell(&op, step, None);
                    self.release(number, op);
                    return;
                }
                op.more |= read < op.bytes;
                let from = match &mut op.carrier {
                    Carrier::Buffer(buffer) => self.buffers.join(*buffer, op.head, skip),
                    Carrier::Pipe(_) => 0,
                };
                op.stage = Stage::Sending { from, to: from + op.head + read };
                self.send(number, op);
            }
            Stage::Sending { from, to } => {
                let sent = usize::try_from(result).unwrap_or(0).min(to - from);
                if let Carrier::Pipe(pipe) = &mut op.carrier {
                    pipe.bytes -= sent.min(pipe.bytes);
                }
                let step = match (sent, -result) {
                    (0, libc::EAGAIN) => Step::Full,
                    // To be pushed again at once.
                    (0, libc::EINTR) => Step::Sent(0),
                    (0, _) => Step::Broken,
                    _ => Step::Sent(sent as u64),
                };
                let left = from + sent < to && step != Step::Broken;
                let kept = left && self.may_keep(&op);
                if !more {
                    if kept {
                        op.stage = Stage::Sending { from: from + sent, to };
                        self.tell(&op, step, Some(number));
                        self.ops[number as usize] = Some(op);
                    } else {
                        self.tell(&op, step, None);
                        self.release(number, op);
                    }
                    return;
                }
                // A notification is still to come: the buffer is the kernel's until then, which only reads it, so that what is left
                // can be sent from there meanwhile, as an operation of its own.
                self.counters.zerocopy_sends += u64::from(sent > 0);
                let rest = if kept { self.rest_of(&op, from + sent, to) } else { None };
                self.tell(&op, step, rest);
                op.stage = Stage::Lent { taken: sent > 0 };
                self.ops[number as usize] = Some(op);
            }
            Stage::Lent { .. } => self.release(number, op),
        }
    }

    /// What is left of an operation whose buffer the kernel still refers to.
    fn rest_of(&mut self, op: &Op<S>, from: usize, to: usize) -> Option<u32> {
        let Carrier::Buffer(buffer) = op.carrier else { return None };
        self.buffers.share(buffer);
        Some(self.number(Op {
            flow: op.flow,
            generation: op.generation,
            socket: Rc::clone(&op.socket),
            file: Arc::clone(&op.file),
            carrier: Carrier::Buffer(buffer),
            stage: Stage::Sending { from, to },
            more: op.more,
            head: op.head,
            bytes: op.bytes,
            check: op.check,
        }))
    }

    /// Sends what is left of an operation.
    fn send(&mut self, number: u32, op: Op<S>) {
        let Stage::Sending { from, to } = op.stage else {
            self.release(number, op);
            return;
        };
        let socket = Fd(op.socket.as_raw_fd());
        let length = u32::try_from(to - from).unwrap_or(u32::MAX);
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        if op.more {
            flags |= libc::MSG_MORE;
        }
        let entry = match &op.carrier {
            Carrier::Pipe(pipe) => {
                let more = if op.more { libc::SPLICE_F_MORE } else { 0 };
                let flags = more | libc::SPLICE_F_NONBLOCK;
                let from = Fd(pipe.read.as_raw_fd());
                opcode::Splice::new(from, -1, socket, -1, length).flags(flags).build()
            }
            Carrier::Buffer(buffer) => {
                let bytes = self.buffers.content(*buffer)[from..to].as_ptr();
                if self.method == Method::UringZerocopy {
                    let send = opcode::SendZc::new(socket, bytes, length).buf_index(Some(*buffer));
                    send.flags(flags).zc_flags(REPORT_USAGE).build()
                } else {
                    opcode::Send::new(socket, bytes, length).flags(flags).build()
                }
            }
        };
        self.ops[number as usize] = Some(op);
        self.enter(number, entry);
    }

    /// Takes in all completions that are there.
    fn complete_all(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            self.complete(&entry);
        }
    }
}

/// What a failed read or splice means.
fn failed(result: i32) -> Step {
    match -result {
        // A socket that is gone, or a job that was called off.
        libc::EPIPE | libc::ECONNRESET | libc::ECANCELED => Step::Broken,
        // To be pushed again.
        libc::EINTR | libc::EAGAIN => Step::Sent(0),
        errno => super::failed("reading a file", &io::Error::from_raw_os_error(errno)),
    }
}

impl<S: Source> Engine<S> for Uring<S> {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        let state = place(&mut self.flows, flow);
        match state.now {
            Now::Busy | Now::Waiting => Step::Later,
            Now::Done(step, left) => {
                state.now = left.map_or(Now::Idle, Now::Held);
                step
            }
            Now::Held(number) => {
                state.now = Now::Busy;
                if let Some(op) = self.ops[number as usize].take() {
                    self.send(number, op);
                }
                Step::Later
            }
            Now::Idle => self.begin(flow, job),
        }
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        let state = place(&mut self.flows, flow);
        let now = std::mem::take(&mut state.now);
        state.generation = state.generation.wrapping_add(1);
        if let Now::Held(number) | Now::Done(_, Some(number)) = now
            && let Some(op) = self.ops[number as usize].take()
        {
            self.release(number, op);
        }
    }

    fn poll(&mut self, woken: &mut Vec<u32>) {
        self.submit();
        self.complete_all();
        self.submit();
        self.wake_waiters();
        woken.append(&mut self.woken);
    }

    fn look(&self) -> Look {
        Look::Between
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring keeps its descriptor open as long as `self` is borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    fn finish(&mut self) {
        let soon = Timespec::new().sec(1);
        for round in 0..4 {
            self.submit();
            self.complete_all();
            if self.ops.iter().all(Option::is_none) {
                return;
            }
            if round == 0 {
                // Reads and sends end by that; a buffer that a send refers to comes back when the reset socket lets go of it.
                let _ = self.ring.submitter().register_sync_cancel(Some(soon), CancelBuilder::any());
            }
            let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&soon));
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl<S> Drop for Uring<S> {
    /// Calls off what is under way and waits for its end. Should that fail, what the kernel may still use is forgotten,
    /// not freed.
    fn drop(&mut self) {
        let soon = Timespec::new().sec(1);
        for round in 0..8 {
            if self.ops.iter().all(Option::is_none) {
                // SAFETY: dropped here and nowhere else, and not used after; nothing is in flight.
                unsafe { ManuallyDrop::drop(&mut self.ops) };
                // SAFETY: the same.
                unsafe { ManuallyDrop::drop(&mut self.buffers) };
                return;
            }
            if round == 0 {
                // Linux 6.0; before, what is under way ends when its sockets are shut down.
                let _ = self.ring.submitter().register_sync_cancel(Some(soon), CancelBuilder::any());
            }
            let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&soon));
            let done: Vec<cqueue::Entry> = self.ring.completion().collect();
            for entry in done.iter().filter(|entry| !cqueue::more(entry.flags())) {
                let number = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
                drop(self.ops.get_mut(number).and_then(Option::take));
            }
        }
    }
}

impl<S> std::fmt::Debug for Uring<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("method", &self.method).finish_non_exhaustive()
    }
}
