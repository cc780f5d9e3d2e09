//! What the workers of a client tell each other: which of them hears the answers to which local port.
//!
//! A device with several queues puts a flow's frames into one of them by a hash of its own. A worker that dials cannot
//! know where answers will come; but whoever gets them can say so, and the port is then left to that worker. The peer
//! sees a handshake that ends in a reset, and another one.

use crate::net::Neighbour;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Shared by the workers of one run.
#[derive(Debug)]
pub(super) struct Steering {
    workers: u8,
    /// For each TCP port the worker that hears it, plus one; zero while nobody knows.
    heard_by: Box<[AtomicU8]>,
    /// Neighbours that one worker has learnt.
    neighbours: Mutex<Vec<Neighbour>>,
    known: AtomicUsize,
}

/// Neighbours that are told to others: a client needs the server's, or the gateway's.
const NEIGHBOURS: usize = 256;

impl Steering {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: u8::try_from(workers).unwrap_or(u8::MAX),
            heard_by: (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect(),
            neighbours: Mutex::default(),
            known: AtomicUsize::new(0),
        }
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.workers > 1
    }

    /// Who may try a port of which nothing is known.
    fn first(&self, port: u16) -> u8 {
        u8::try_from(port % u16::from(self.workers)).unwrap_or(0)
    }

    /// Whether `worker` may dial from `port`.
    pub(super) fn is_for(&self, worker: u8, port: u16) -> bool {
        match self.heard_by[usize::from(port)].load(Ordering::Relaxed) {
            0 => self.first(port) == worker,
            heard => heard - 1 == worker,
        }
    }

    /// `worker` got a segment to `port`; whether that is news: then it may dial from there, and nobody else.
    #[inline]
    pub(super) fn heard(&self, worker: u8, port: u16) -> bool {
        let by = &self.heard_by[usize::from(port)];
        by.load(Ordering::Relaxed) != worker + 1 && by.swap(worker + 1, Ordering::Relaxed) != worker + 1
    }

    /// Tells the others of a neighbour.
    pub(super) fn tell(&self, neighbour: Neighbour) {
        // A worker waits for nobody: the neighbour answers again.
        let Ok(mut neighbours) = self.neighbours.try_lock() else { return };
        if neighbours.len() < NEIGHBOURS {
            neighbours.push(neighbour);
            self.known.store(neighbours.len(), Ordering::Release);
        }
    }

    /// What was told since `from` were known.
    pub(super) fn news(&self, from: &mut usize, mut each: impl FnMut(Neighbour)) {
        if self.known.load(Ordering::Acquire) <= *from {
            return;
        }
        let Ok(neighbours) = self.neighbours.try_lock() else { return };
        neighbours[*from..].iter().for_each(|neighbour| each(*neighbour));
        *from = neighbours.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_for_whoever_hears_it() {
        let steering = Steering::new(2);
        assert!(steering.is_for(0, 1000) && !steering.is_for(1, 1000));
        assert!(steering.heard(1, 1000) && !steering.heard(1, 1000));
        assert!(!steering.is_for(0, 1000) && steering.is_for(1, 1000));
        assert!(steering.is_for(1, 1001) && steering.heard(1, 1001) && steering.is_for(1, 1001));
    }
}
