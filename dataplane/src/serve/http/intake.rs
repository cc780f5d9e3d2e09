//! What one connection has sent: request after request, with the bodies between them read past.
//!
//! Kept per connection, so it is small. The bytes are the caller's: it offers those that it has, drops those that were
//! used, and comes again with the rest and more.

use super::chunks::Chunks;
use super::limits::{Limits, Waiting};
use super::request::{Framing, Parsed, Request, Scratch};
use super::response::Response;
use super::status::Refusal;

/// The receiving side of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Intake {
    state: State,
    requests: u32,
    draining: bool,
}

const _: () = assert!(size_of::<Intake>() <= 40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A head comes next.
    Head,
    /// So many bytes of a body do.
    Length(u64),
    Chunked(Chunks),
    /// The last answer was given.
    Over,
}

/// What was found.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack of one call; a box would be an allocation per request"
)]
#[derive(Debug)]
pub enum Next<'b> {
    /// Nothing yet: more bytes are needed.
    More,
    /// A request whose head has so many bytes. They are *not* among those used: once it is answered, tell
    /// [`Intake::answered`] and drop them; if its answer must wait, keep them, and offer them again.
    Request(Request<'b>, usize),
    /// Not a request: these bytes. [Refuse](super::refuse) them, and end the connection after that.
    Refused(Refusal, &'b [u8]),
    /// The body of a request that was answered is broken or too long. Nothing can be said any more: end the connection
    /// after the answers that are on their way.
    Broken(Refusal),
    /// The last answer was given: whatever still comes is thrown away. Keep reading until the client has closed, or an
    /// answer on its way may be lost to a reset (RFC 9112 section 9.6).
    Over,
}

impl Default for Intake {
    fn default() -> Self {
        Self { state: State::Head, requests: 0, draining: false }
    }
}

impl Intake {
    /// Looks at what has come. Returns how many bytes, from the front, are done with, and what comes after them.
    pub fn next<'b>(
        &mut self,
        bytes: &'b [u8],
        scratch: &'b mut Scratch,
        limits: &Limits,
    ) -> (usize, Next<'b>) {
        let used = match self.skip(bytes) {
            Ok(used) => used,
            Err(refusal) => {
                self.state = State::Over;
                return (bytes.len(), Next::Broken(refusal));
            }
        };
        match self.state {
            State::Over => (bytes.len(), Next::Over),
            State::Length(_) | State::Chunked(_) => (used, Next::More),
            State::Head => match Request::parse(&bytes[used..], scratch, limits) {
                Parsed::Incomplete => (used, Next::More),
                Parsed::Request(mut request, len) => {
                    request.persistent &= !self.is_last(limits);
                    (used, Next::Request(request, len))
                }
                Parsed::Refused(refusal) => {
                    self.state = State::Over;
                    (bytes.len(), Next::Refused(refusal, &bytes[used..]))
                }
            },
        }
    }

    /// Whether the connection ends after the answer that comes next.
    #[must_use]
    pub const fn is_last(&self, limits: &Limits) -> bool {
        self.draining || limits.requests > 0 && self.requests.saturating_add(1) >= limits.requests
    }

    /// Reads past a body. Bytes used.
    fn skip(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match &mut self.state {
            State::Head | State::Over => Ok(0),
            State::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(here)
            }
            State::Chunked(chunks) => {
                let (used, ended) = chunks.skip(bytes)?;
                if ended {
                    self.state = State::Head;
                }
                Ok(used)
            }
        }
    }

    /// Notes that a request was answered: its body comes next, or the end.
    pub fn answered(&mut self, request: &Request<'_>, response: &Response, limits: &Limits) {
        self.requests = self.requests.saturating_add(1);
        self.state = match request.framing {
            _ if response.close => State::Over,
            Framing::Empty => State::Head,
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Chunked(Chunks::new(limits.body_bytes)),
        };
    }

    /// Whether a request that was answered before may be answered again unread: a head comes next, and it is not the last.
    #[must_use]
    pub const fn may_repeat(&self, limits: &Limits) -> bool {
        matches!(self.state, State::Head) && !self.is_last(limits)
    }

    /// Notes that such a request was answered: one without a body, after which the connection goes on.
    pub const fn repeated(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    /// Lets the next answer be the last: the server wants to stop. A connection that [waits](Self::waiting) for a request
    /// may be closed at once.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Nothing more is to be answered: what comes is thrown away.
    pub const fn close(&mut self) {
        self.state = State::Over;
    }

    /// Whether nothing more will be answered.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Requests answered.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.requests
    }

    /// What it waits for, so [how long](Limits::time); `pending`: whether bytes are left that were offered.
    #[must_use]
    pub const fn waiting(&self, pending: bool) -> Waiting {
        match self.state {
            State::Head if pending => Waiting::Head,
            State::Head => Waiting::Request,
            State::Length(_) | State::Chunked(_) => Waiting::Body,
            State::Over => Waiting::Reader,
        }
    }
}
