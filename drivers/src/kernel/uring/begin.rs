//! How a job begins: what is asked of the kernel first.

use super::{Carrier, Now, Op, Stage, Uring};
use crate::kernel::buffers::Reach;
use crate::kernel::pipes::Pipes;
use crate::kernel::{Job, Method, Source, Step, piece, place, send_head};
use io_uring::opcode;
use io_uring::types::Fd;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

impl<S: Source> Uring<S> {
    /// Begins a job: reads what it can of the file.
    pub(super) fn begin(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        if self.method == Method::UringSplice {
            return self.begin_splice(flow, job);
        }
        let generation = place(&mut self.flows, flow).generation;
        let Some(buffer) = self.buffers.take() else {
            // The others come back soon. These, only when the peers have taken what they refer to.
            if self.method == Method::UringZerocopy {
                return self.fallback.push(job, &mut self.counters);
            }
            place(&mut self.flows, flow).now = Now::Waiting;
            self.buffers.wait(flow, generation);
            return Step::Later;
        };
        let head = job.head.len();
        self.buffers.bytes(buffer)[..head].copy_from_slice(job.head);
        let (bytes, wants_direct) = (piece(job.bytes, self.chunk), self.method == Method::DirectUring);
        let direct = if wants_direct { job.file.direct() } else { None };
        if wants_direct && direct.is_none() {
            self.counters.direct_refused_bytes += bytes as u64;
        }
        let reach = Reach::new(job.offset, bytes, direct.is_some());
        let fd = direct.unwrap_or_else(|| job.file.file()).as_raw_fd();
        let length = u32::try_from(reach.bytes).unwrap_or(u32::MAX);
        let stage = Stage::Reading { skip: reach.skip, direct: direct.is_some() };
        let number = self.number(Op {
            flow,
            generation,
            socket: Rc::clone(job.socket),
            file: Arc::clone(job.file),
            check: job.check && bytes as u64 == job.bytes,
            carrier: Carrier::Buffer(buffer),
            stage,
            more: job.more || (bytes as u64) < job.bytes,
            head,
            bytes,
        });
        let data = self.buffers.data(buffer);
        let entry = opcode::ReadFixed::new(Fd(fd), data, length, buffer).offset(reach.offset).build();
        self.enter(number, entry);
        place(&mut self.flows, flow).now = Now::Busy;
        Step::Later
    }

    /// Begins a job by splicing; the head is sent here and now.
    fn begin_splice(&mut self, flow: u32, job: &Job<'_, S>) -> Step {
        match send_head(job.socket, job.head) {
            // The rest at the next push, since nothing wakes for it.
            Some(Ok(bytes)) => {
                return Step::Sent(bytes);
            }
            Some(Err(step)) => return step,
            None => {}
        }
        let pipe = match self.pipes.as_mut().map(Pipes::take) {
            Some(Ok(pipe)) => pipe,
            // None to be had: too many descriptors are open, or this user's pipes have too many pages.
            Some(Err(_)) => return self.fallback.push(job, &mut self.counters),
            // Made with the engine, where its method is this one.
            None => return Step::Broken,
        };
        let bytes = piece(job.bytes, pipe.size);
        let generation = place(&mut self.flows, flow).generation;
        let (file, into) = (Fd(job.file.file().as_raw_fd()), Fd(pipe.write.as_raw_fd()));
        let number = self.number(Op {
            flow,
            generation,
            socket: Rc::clone(job.socket),
            file: Arc::clone(job.file),
            check: job.check && bytes as u64 == job.bytes,
            carrier: Carrier::Pipe(pipe),
            stage: Stage::Reading { skip: 0, direct: false },
            more: job.more || (bytes as u64) < job.bytes,
            head: 0,
            bytes,
        });
        let offset = i64::try_from(job.offset).unwrap_or(i64::MAX);
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        let entry = opcode::Splice::new(file, offset, into, -1, length).build();
        self.enter(number, entry);
        place(&mut self.flows, flow).now = Now::Busy;
        Step::Later
    }
}
