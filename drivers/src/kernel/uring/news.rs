//! What flows are told, and what becomes free by that.

use super::{Carrier, Now, Op, Uring};
use crate::kernel::{Source, Step, place};

impl<S: Source> Uring<S> {
    /// Whether what a socket has not taken may wait for it where it is. A pipe may; of buffers a quarter stays free, and the
    /// flow must still be there.
    pub(super) fn may_keep(&self, op: &Op<S>) -> bool {
        self.lives(op) && (matches!(op.carrier, Carrier::Pipe(_)) || self.buffers.are_plenty())
    }

    /// Whether the flow of an operation is still there.
    pub(super) fn lives(&self, op: &Op<S>) -> bool {
        self.flows.get(op.flow as usize).is_some_and(|flow| flow.generation == op.generation)
    }

    /// Tells the flow what became of its job, and which operation has bytes left over.
    pub(super) fn tell(&mut self, op: &Op<S>, step: Step, left: Option<u32>) {
        let flow = place(&mut self.flows, op.flow);
        if flow.generation == op.generation {
            flow.now = Now::Done(step, left);
            self.woken.push(op.flow);
        }
    }

    /// Nothing of an operation is the kernel's any more.
    pub(super) fn release(&mut self, number: u32, op: Op<S>) {
        self.free.push(number);
        match op.carrier {
            Carrier::Pipe(pipe) => {
                if let Some(pipes) = &mut self.pipes {
                    pipes.give(pipe);
                }
            }
            Carrier::Buffer(buffer) => self.buffers.give(buffer),
        }
    }

    /// Somebody may wait for a buffer that is free.
    pub(super) fn wake_waiters(&mut self) {
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
}
