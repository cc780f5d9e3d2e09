//! `sendfile`.

use super::{Counters, Engine, Job, Source, Step, piece, refused, send_head};
use rustix::fs::sendfile;
use rustix::io::retry_on_intr;
use std::os::fd::OwnedFd;

/// The most that Linux sends in one call (`MAX_RW_COUNT`, `include/linux/fs.h`).
const MOST: usize = 0x7fff_f000;

/// Needs nothing between two calls.
#[derive(Debug, Default)]
pub(super) struct Sendfile {
    counters: Counters,
}

impl<S: Source> Engine<S> for Sendfile {
    fn push(&mut self, _: u32, job: &Job<'_, S>) -> Step {
        let mut sent = 0;
        // MSG_MORE keeps the head back until the file's bytes are behind it (`tcp_push`, `net/ipv4/tcp.c`).
        match send_head(job.socket, job.head) {
            Some(Ok(bytes)) => sent = bytes,
            Some(Err(step)) => return step,
            None => {}
        }
        if sent == job.head.len() as u64 {
            let mut at = job.offset;
            let bytes = piece(job.bytes, MOST);
            match retry_on_intr(|| sendfile(job.socket, job.file.file(), Some(&mut at), bytes)) {
                Ok(0) => return Step::Gone,
                Ok(bytes) => sent += bytes as u64,
                Err(errno) if sent == 0 => return refused(errno),
                // The head is out; the next push says what is wrong.
                Err(_) => {}
            }
        }
        Step::Sent(sent)
    }

    fn close(&mut self, _: u32, _: &OwnedFd) {}

    fn counters(&self) -> Counters {
        self.counters
    }
}
