//! `read` and `write`: as a method, and as what another method does where it cannot get what it needs.

use super::{Counters, Engine, EnginePlan, HEAD_MAX, Job, Source, Step, failed, piece, place, refused};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{pread, retry_on_intr};
use rustix::net::{SendFlags, send};
use std::os::fd::OwnedFd;

/// Buffers that are kept for whoever reads next: 4 MiB of the usual size.
pub(super) const SPARE: usize = 64;

/// Buffers that wait for full sockets: 16 MiB of the usual size, however many readers are slow. What others have not taken is read again.
pub(super) const HELD: usize = 256;

/// A buffer with bytes that the socket has not taken yet.
#[derive(Debug)]
struct Held {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    more: bool,
}

/// Reads the file into a buffer behind the head, and writes both at once.
#[derive(Debug)]
pub(super) struct ReadWrite {
    chunk: usize,
    spare: Vec<Box<[u8]>>,
    flows: Vec<Option<Held>>,
    /// How many of these there are.
    held: usize,
    counters: Counters,
}

impl ReadWrite {
    pub(super) fn new(plan: &EnginePlan) -> Self {
        Self {
            chunk: plan.chunk,
            spare: Vec::new(),
            flows: Vec::new(),
            held: 0,
            counters: Counters::default(),
        }
    }

    #[cfg(test)]
    pub(super) const fn spare_and_held(&self) -> (usize, usize) {
        (self.spare.len(), self.held)
    }

    /// What lies ready for a flow.
    fn take(&mut self, flow: u32) -> Option<Held> {
        let held = place(&mut self.flows, flow).take()?;
        self.held -= 1;
        Some(held)
    }

    fn give(&mut self, buffer: Box<[u8]>) {
        if self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    fn read<S: Source>(&mut self, job: &Job<'_, S>) -> Result<Held, Step> {
        let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; HEAD_MAX + self.chunk].into());
        let head = job.head.len().min(HEAD_MAX);
        buffer[..head].copy_from_slice(&job.head[..head]);
        let bytes = piece(job.bytes, self.chunk);
        let into = &mut buffer[head..head + bytes];
        match retry_on_intr(|| pread(job.file.file(), &mut *into, job.offset)) {
            Ok(read) if read == 0 || job.is_spoilt(read) => {
                self.give(buffer);
                Err(Step::Gone)
            }
            Ok(read) => {
                self.counters.read_bytes += read as u64;
                Ok(Held { buffer, from: 0, to: head + read, more: job.more || (read as u64) < job.bytes })
            }
            Err(errno) => {
                self.give(buffer);
                Err(failed("reading a file", &errno))
            }
        }
    }
}

impl<S: Source> Engine<S> for ReadWrite {
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        let mut held = match self.take(flow) {
            Some(held) => held,
            None => match self.read(job) {
                Ok(held) => held,
                Err(step) => return step,
            },
        };
        let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        flags.set(SendFlags::MORE, held.more);
        let step = match retry_on_intr(|| send(job.socket, &held.buffer[held.from..held.to], flags)) {
            Ok(bytes) => {
                held.from += bytes;
                Step::Sent(bytes as u64)
            }
            Err(errno) => refused(errno),
        };
        if held.from == held.to || step == Step::Broken || self.held == HELD {
            self.give(held.buffer);
        } else {
            self.held += 1;
            *place(&mut self.flows, flow) = Some(held);
        }
        step
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        if let Some(held) = self.take(flow) {
            self.give(held.buffer);
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// Reads and sends here and now, for a method that has no buffer or no pipe for a job. Nothing is kept between two calls: what a
/// socket does not take is read again.
#[derive(Debug)]
pub(super) struct Fallback {
    chunk: usize,
    /// As long as it must be, once it was needed.
    buffer: Vec<u8>,
}

impl Fallback {
    pub(super) const fn new(chunk: usize) -> Self {
        Self { chunk, buffer: Vec::new() }
    }

    #[cold]
    pub(super) fn push<S: Source>(&mut self, job: &Job<'_, S>, counters: &mut Counters) -> Step {
        // What is read for a full socket is read in vain.
        let now = Timespec::default();
        let mut writable = [PollFd::new(&**job.socket, PollFlags::OUT)];
        if retry_on_intr(|| poll(&mut writable, Some(&now))) == Ok(0) {
            return Step::Full;
        }
        let (head, bytes) = (job.head.len(), piece(job.bytes, self.chunk));
        if self.buffer.len() < head + bytes {
            self.buffer.resize(HEAD_MAX.max(head) + self.chunk, 0);
        }
        let (start, body) = self.buffer.split_at_mut(head);
        start.copy_from_slice(job.head);
        let read = match retry_on_intr(|| pread(job.file.file(), &mut body[..bytes], job.offset)) {
            Ok(read) if read == 0 || job.is_spoilt(read) => return Step::Gone,
            Ok(read) => read,
            Err(errno) => return failed("reading a file", &errno),
        };
        counters.read_bytes += read as u64;
        let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        flags.set(SendFlags::MORE, job.more || (read as u64) < job.bytes);
        match retry_on_intr(|| send(job.socket, &self.buffer[..head + read], flags)) {
            Ok(sent) => {
                counters.fallback_bytes += sent as u64;
                Step::Sent(sent as u64)
            }
            Err(errno) => refused(errno),
        }
    }
}
