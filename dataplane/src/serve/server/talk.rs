//! HTTP's part of a connection.

use crate::serve::Waiter;
use crate::serve::answers::Chain;
use crate::serve::http::{Intake, Waiting};
use crate::tcp::ConnId;

/// What a connection is doing, in HTTP's terms. It lies in the connection's own place, so it is small.
#[derive(Clone, Debug, Default)]
pub(super) struct Talk {
    /// The connection's name, once it is open.
    pub(super) id: Option<ConnId>,
    /// Responses that the peer does not have yet.
    pub(super) answers: Chain,
    /// Requests, and what is read past.
    pub(super) intake: Intake,
    /// Acknowledged bytes when the timer was last set: whether a slow reader has moved.
    pub(super) acked: u64,
    pub(super) doing: Doing,
    /// Whether a request has come that must wait.
    pub(super) pending: bool,
    /// Whether the peer has said all that it will say.
    pub(super) half_closed: bool,
    /// Whether the address of the peer counts it.
    pub(super) counted: bool,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doing {
    /// For a request to begin.
    #[default]
    Nothing,
    /// For the rest of a head or body.
    Reading,
    /// For the librarian to look up a path.
    Asking,
    /// For the peer to take responses; maybe with a request that has to wait for that.
    Sending,
}

const _: () = assert!(size_of::<Talk>() <= 128);

impl Talk {
    /// The number under which it waits for content and lookups.
    #[inline]
    pub(super) fn waiter(&self) -> Waiter {
        self.id.map_or(Waiter(u64::MAX), waiter)
    }
}

impl Talk {
    /// Whether a head comes next, rather than the rest of a body.
    pub(super) fn is_at_head(&self) -> bool {
        self.intake.waiting(true) == Waiting::Head
    }
}

/// A connection as a number.
#[inline]
pub(super) fn waiter(id: ConnId) -> Waiter {
    Waiter(u64::from(id.generation) << 32 | u64::from(id.index))
}

/// And back.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
pub(super) const fn connection(waiter: Waiter) -> ConnId {
    ConnId { index: waiter.0 as u32, generation: (waiter.0 >> 32) as u32 }
}
