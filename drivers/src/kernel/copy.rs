//! `read` and `write`.

use super::{Counters, Engine, EnginePlan, HEAD_MAX, Job, Source, Step, failed, piece, place, refused};
use rustix::io::{pread, retry_on_intr};
use rustix::net::{SendFlags, send};
use std::os::fd::OwnedFd;

/// Buffers that are kept for whoever reads next: 4 MiB of the usual size. More are in use only while many sockets are full.
pub(super) const SPARE: usize = 64;

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
    counters: Counters,
}

impl ReadWrite {
    pub(super) fn new(plan: &EnginePlan) -> Self {
        Self { chunk: plan.chunk, spare: Vec::new(), flows: Vec::new(), counters: Counters::default() }
    }

    #[cfg(test)]
    pub(super) const fn spare(&self) -> usize {
        self.spare.len()
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
        let mut held = match place(&mut self.flows, flow).take() {
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
        if held.from == held.to || step == Step::Broken {
            self.give(held.buffer);
        } else {
            *place(&mut self.flows, flow) = Some(held);
        }
        step
    }

    fn close(&mut self, flow: u32, _: &OwnedFd) {
        if let Some(held) = place(&mut self.flows, flow).take() {
            self.give(held.buffer);
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
