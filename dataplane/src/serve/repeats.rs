//! Requests that repeat: most clients of a file send the very same bytes for it, and within one second the head of the
//! answer is the same to the byte.
//!
//! ```text
//!   bytes of a head ── mixed to a place ── the same bytes, the same second, the file unchanged? ── yes: the head as it was
//!                                                                                                └─ no: parse, find, respond
//! ```
//!
//! What it holds follows from the bytes, the policy, the file and the second, and from nothing else: a site that is taken up
//! [empties](Repeats::clear) it, a file that changes makes its answer stale, and each second all of it is void.

use super::http::{Body, Framing, HEAD_MAX, Method, Request, Response};
use super::tree::{Answer, Found};
use std::sync::Arc;
use std::time::Duration;

/// How many heads are remembered; a power of two.
const PLACES: usize = 128;
const _: () = assert!(PLACES <= 256, "a byte names a place");
/// Heads that are longer are read each time.
const KEY_MAX: usize = 512;
/// So much of a head tells it from others: the method, the path, and mostly the host.
const MIXED: usize = 64;

/// The requests of one worker that were answered lately.
#[derive(Debug)]
pub(in crate::serve) struct Repeats {
    places: Box<[Place]>,
    second: u64,
}

#[derive(Debug)]
struct Place {
    /// What was last seen here. Only who is seen twice is remembered: one alone would pay for nothing.
    mark: u64,
    /// Keeps its files open: let go of after a second ([`Repeats::at`]).
    source: Option<Arc<Answer>>,
    method: Method,
    response: Response,
    key_len: usize,
    key: [u8; KEY_MAX],
    head: [u8; HEAD_MAX],
}

/// An answer as it was given before.
#[derive(Debug)]
pub(in crate::serve) struct Repeat<'r> {
    pub(in crate::serve) method: Method,
    pub(in crate::serve) response: &'r Response,
    pub(in crate::serve) source: &'r Arc<Answer>,
    /// Of the response.
    pub(in crate::serve) head: &'r [u8],
    /// Bytes of the request.
    pub(in crate::serve) len: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        let place = || Place {
            mark: 0,
            source: None,
            method: Method::Get,
            response: Response { body: Body::Empty, head_len: 0, status: 0, close: false },
            key_len: 0,
            key: [0; KEY_MAX],
            head: [0; HEAD_MAX],
        };
        Self { places: (0..PLACES).map(|_| place()).collect(), second: 0 }
    }
}

impl Repeats {
    /// The second that the date of each answer names.
    pub(in crate::serve) fn at(&mut self, second: u64) {
        if second != self.second {
            self.second = second;
            self.clear();
        }
    }

    /// Forgets everything.
    pub(in crate::serve) fn clear(&mut self) {
        for place in &mut self.places {
            place.source = None;
        }
    }

    /// The answer to a head at the beginning of `bytes`, if it was given before and still holds.
    #[inline]
    pub(in crate::serve) fn find(&self, bytes: &[u8]) -> Option<Repeat<'_>> {
        let place = &self.places[place(mix(bytes))];
        let source = place.source.as_ref()?;
        // A head ends with its empty line, so what begins with all of it is the same head.
        if !bytes.starts_with(&place.key[..place.key_len]) || source.is_stale() {
            return None;
        }
        Some(Repeat {
            method: place.method,
            response: &place.response,
            source,
            head: &place.head[..usize::from(place.response.head_len)],
            len: place.key_len,
        })
    }

    /// Remembers an answer: `bytes` are those that its head of `len` bytes was read from, and `head` that of the response.
    pub(in crate::serve) fn learn(
        &mut self,
        (bytes, len): (&[u8], usize),
        request: &Request<'_>,
        source: &Arc<Answer>,
        response: &Response,
        head: &[u8],
    ) {
        let mark = mix(bytes);
        let place = &mut self.places[place(mark)];
        let seen = std::mem::replace(&mut place.mark, mark) == mark;
        // An answer that inotify does not watch over is good for a second only from when it was found, not from now.
        let lasts = matches!(source.found(), Found::File(_)) && source.good_for() > Duration::from_secs(1);
        let plain = request.framing == Framing::Empty && !response.close;
        let simple = matches!(response.body, Body::Empty | Body::File { .. });
        if !(seen && lasts && plain && simple && len <= KEY_MAX) {
            return;
        }
        place.key[..len].copy_from_slice(&bytes[..len]);
        place.head[..head.len()].copy_from_slice(head);
        (place.key_len, place.method) = (len, request.method);
        (place.response, place.source) = (response.clone(), Some(Arc::clone(source)));
    }
}

#[inline]
fn place(mark: u64) -> usize {
    usize::from(mark.to_le_bytes()[0]) % PLACES
}

/// Mixes the beginning of a head, and what comes directly behind a very short one: then it is found only where the same
/// follows. Whoever looks for collisions makes his own requests slower.
#[inline]
fn mix(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes[..bytes.len().min(MIXED)].as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mixed = words.iter().chain([&last]).fold(0, |state: u64, word| {
        (state.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    // The low bits of a product know little of the high ones of its factors.
    mixed ^ mixed >> 32
}
