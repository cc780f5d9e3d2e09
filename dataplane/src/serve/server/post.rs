//! What the network says about a connection, on its way to the worker that has it.
//!
//! ```text
//!   router ─ICMP─► worker 0: not mine ──► [ box of worker 1 ] ──► Stack::icmp
//!                                    └──► [ box of worker 2 ] ──► nobody
//! ```
//!
//! A device with several queues spreads packets by their addresses, and an ICMP error has a router's: it may reach
//! another worker than the segments of the connection that it is about. Nobody knows where that is, so all others are
//! told. The boxes are bounded: what finds no room is counted and lost, as the network might have lost it.

use crate::net::TcpError;
use crate::serve::bell::Bell;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::sync::Arc;

/// Errors that wait for one worker at most. It looks once a turn.
const BOX: usize = 64;

/// What waits for one worker, and what wakes it.
#[derive(Debug)]
pub(super) struct Letterbox {
    errors: ArrayQueue<TcpError>,
    pub(super) bell: Arc<Bell>,
}

impl Letterbox {
    /// One a worker.
    pub(super) fn row(workers: usize) -> io::Result<Arc<[Self]>> {
        let letterbox = |_| Ok(Self { errors: ArrayQueue::new(BOX), bell: Arc::new(Bell::new()?) });
        (0..workers).map(letterbox).collect::<io::Result<Vec<_>>>().map(Arc::from)
    }
}

/// What passed through one worker's hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PostCounters {
    /// Errors about connections that this worker does not have, told to the others.
    pub(super) handed_on: u64,
    /// Errors that another worker told of, about connections that this one has.
    pub(super) taken: u64,
    /// Times that a box had no room for one.
    pub(super) lost: u64,
}

/// One worker's place in the row.
#[derive(Debug)]
pub(super) struct Post {
    row: Arc<[Letterbox]>,
    own: usize,
    pub(super) counters: PostCounters,
}

impl Post {
    pub(super) fn new(row: Arc<[Letterbox]>, own: usize) -> Self {
        Self { row, own, counters: PostCounters::default() }
    }

    /// Whether there is anybody to tell.
    pub(super) fn has_others(&self) -> bool {
        self.row.len() > 1
    }

    /// Tells all other workers.
    #[cold]
    pub(super) fn hand_on(&mut self, error: TcpError) {
        self.counters.handed_on += 1;
        for (_, other) in self.row.iter().enumerate().filter(|(index, _)| *index != self.own) {
            if other.errors.push(error).is_err() {
                self.counters.lost += 1;
            }
            other.bell.ring();
        }
    }

    /// The next thing that others told of.
    #[inline]
    pub(super) fn next(&self) -> Option<TcpError> {
        let errors = &self.row[self.own].errors;
        if errors.is_empty() { None } else { errors.pop() }
    }

    /// Whether there is one.
    pub(super) fn has_news(&self) -> bool {
        !self.row[self.own].errors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, Trouble};

    fn error(sequence: u32) -> TcpError {
        let address = Address::v4([10, 0, 0, 1]);
        let trouble = Trouble::TooBig { mtu: 1280 };
        TcpError { local: address, local_port: 80, peer: address, peer_port: 4000, sequence, trouble }
    }

    #[test]
    fn all_others_are_told_and_a_full_box_loses_by_number() {
        let row = Letterbox::row(3).expect("eventfds");
        let mut posts: Vec<Post> = (0..3).map(|own| Post::new(Arc::clone(&row), own)).collect();
        assert!(posts[0].has_others());
        posts[0].hand_on(error(1));
        assert!(posts[0].next().is_none(), "not itself");
        assert!(posts[1].has_news());
        assert_eq!([posts[1].next(), posts[1].next()], [Some(error(1)), None]);
        let most = u32::try_from(BOX).expect("small");
        for number in 2..=most + 5 {
            posts[0].hand_on(error(number));
        }
        let (one, two): (Vec<_>, Vec<_>) =
            ((0..).map_while(|_| posts[1].next()).collect(), (0..).map_while(|_| posts[2].next()).collect());
        assert_eq!((one.len(), two.len()), (BOX, BOX));
        assert_eq!((one[0], two[0]), (error(2), error(1)), "oldest first");
        let counters = PostCounters { handed_on: u64::from(most) + 5, taken: 0, lost: 4 + 5 };
        assert_eq!(posts[0].counters, counters);
    }

    #[test]
    fn alone_there_is_nobody_to_tell() {
        let post = Post::new(Letterbox::row(1).expect("an eventfd"), 0);
        assert!(!post.has_others() && !post.has_news());
    }
}
