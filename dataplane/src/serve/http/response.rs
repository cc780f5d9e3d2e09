//! A response as a plan: the bytes of its head, then a body that is found by arithmetic.
//!
//! ```text
//!   stream:  | head: head_len bytes, kept by the caller | body: Body::locate(offset) says which bytes |
//! ```

use super::facts::Coding;
use std::sync::Arc;

/// Head and body of one response. Kept until the last byte is acknowledged, so it is small.
#[derive(Clone, Debug)]
pub struct Response {
    /// What follows the head.
    pub body: Body,
    /// Bytes of the head: as many as were written into the caller's buffer.
    pub head_len: u16,
    /// Its status.
    pub status: u16,
    /// Whether the connection ends after it.
    pub close: bool,
}

const _: () = assert!(size_of::<Response>() <= 40);

impl Response {
    /// Bytes of the whole response.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        u64::from(self.head_len) + self.body.len()
    }
}

/// What follows the head.
#[derive(Clone, Debug)]
pub enum Body {
    /// Nothing: HEAD, 204, 304, an empty file.
    Empty,
    /// A page that is part of the program.
    Static(&'static [u8]),
    /// A page in memory: a listing, an error page of the site.
    Shared(Arc<[u8]>),
    /// A stretch of the file.
    File {
        /// Which of its forms.
        coding: Coding,
        /// Its first byte.
        start: u64,
        /// Its bytes; at least one.
        len: u64,
    },
    /// Several stretches of the file with text between: `multipart/byteranges` (RFC 9110 section 14.6).
    Parts(Box<Parts>),
}

/// Where a body's bytes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'r> {
    /// Here.
    Bytes(&'r [u8]),
    /// In the file, or the precompressed file beside it.
    File {
        /// Which of its forms.
        coding: Coding,
        /// Where in it.
        start: u64,
        /// How many bytes from there.
        len: u64,
    },
    /// Nowhere: the body ends at this offset or before it.
    End,
}

impl Body {
    /// Bytes of the body.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Static(bytes) => bytes.len() as u64,
            Self::Shared(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
            Self::Parts(parts) => parts.len,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset` on, as far as they lie in one place. The next place begins where these end.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Place<'_> {
        match self {
            Self::Empty => Place::End,
            Self::Static(bytes) => tail(bytes, offset),
            Self::Shared(bytes) => tail(bytes, offset),
            &Self::File { coding, start, len } => stretch(coding, start, len, offset),
            Self::Parts(parts) => parts.locate(offset),
        }
    }
}

/// What of `bytes` is left after `offset`.
fn tail(bytes: &[u8], offset: u64) -> Place<'_> {
    match usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)) {
        None | Some([]) => Place::End,
        Some(rest) => Place::Bytes(rest),
    }
}

/// What of a stretch is left after `offset`.
fn stretch<'r>(coding: Coding, start: u64, len: u64, offset: u64) -> Place<'r> {
    if offset >= len {
        return Place::End;
    }
    Place::File { coding, start: start + offset, len: len - offset }
}

/// Stretches of a file, each behind a text of its own, and a text at the end.
#[derive(Clone, Debug)]
pub struct Parts {
    coding: Coding,
    /// All texts, one after the other.
    text: Vec<u8>,
    parts: Vec<Part>,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where in the body its text begins.
    at: u64,
    /// Where in `text` its text lies.
    text: (usize, usize),
    start: u64,
    len: u64,
}

impl Parts {
    pub(crate) fn new(coding: Coding) -> Self {
        Self { coding, text: Vec::new(), parts: Vec::new(), len: 0 }
    }

    /// Adds a text and the stretch that follows it.
    pub(crate) fn push(&mut self, text: &[u8], start: u64, len: u64) {
        let from = self.text.len();
        self.text.extend_from_slice(text);
        self.parts.push(Part { at: self.len, text: (from, self.text.len()), start, len });
        self.len += text.len() as u64 + len;
    }

    fn locate(&self, offset: u64) -> Place<'_> {
        // A dozen parts or so: not worth a search by halves.
        let Some(part) = self.parts.iter().rev().find(|part| part.at <= offset) else { return Place::End };
        let (from, to) = part.text;
        let (within, text) = (offset - part.at, self.text.get(from..to).unwrap_or_default());
        match within.checked_sub(text.len() as u64) {
            None => tail(text, within),
            Some(beyond) => stretch(self.coding, part.start, part.len, beyond),
        }
    }
}
