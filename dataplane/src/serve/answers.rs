//! Responses that are under way: kept until the last byte is acknowledged, because TCP keeps no bytes.
//!
//! ```text
//!   a connection's stream:  | head, body | head, body | head, body |
//!                             └ Chain: first ──► next ──► last, places in one slab
//! ```

use crate::serve::http::{Body, HEAD_MAX, Place, Response};
use crate::serve::tree::Answer;
use std::sync::Arc;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// The responses of one connection, oldest first.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Chain {
    first: u32,
    last: u32,
    len: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

impl Chain {
    /// How many there are.
    pub(in crate::serve) const fn len(&self) -> u32 {
        self.len
    }
}

/// One response, and where in the connection's stream it lies.
#[derive(Debug)]
struct Slot {
    next: u32,
    start: u64,
    end: u64,
    response: Response,
    /// What the path was found to be: keeps its files open.
    source: Option<Arc<Answer>>,
    head: Box<[u8; HEAD_MAX]>,
}

/// Where some bytes of a stream are.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Found<'a> {
    /// The bytes, as far as they lie in one place.
    pub(in crate::serve) place: Place<'a>,
    /// Whose files they are in.
    pub(in crate::serve) source: Option<&'a Arc<Answer>>,
}

/// A response that has become a part of a stream.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Added<'a> {
    pub(in crate::serve) response: &'a Response,
    /// What the path was found to be.
    pub(in crate::serve) source: Option<&'a Arc<Answer>>,
    /// The bytes of its head.
    pub(in crate::serve) head: &'a [u8],
}

/// All responses of a worker. The slab grows to as many as were ever under way at once, and keeps its size then.
#[derive(Debug, Default)]
pub(in crate::serve) struct Answers {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Answers {
    /// A response in the making: `write` is given the room for its head.
    ///
    /// It becomes the last of `chain`, from `start` in the stream on. `None` when there are four thousand million already.
    pub(in crate::serve) fn add(
        &mut self,
        chain: &mut Chain,
        start: u64,
        source: Option<Arc<Answer>>,
        write: impl FnOnce(Option<&Arc<Answer>>, &mut [u8; HEAD_MAX]) -> Response,
    ) -> Option<Added<'_>> {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = u32::try_from(self.slots.len()).ok().filter(|place| *place != NONE)?;
                let response = Response { body: Body::Empty, head_len: 0, status: 0, close: false };
                let head = Box::new([0; HEAD_MAX]);
                self.slots.push(Slot { next: NONE, start: 0, end: 0, response, source: None, head });
                place
            }
        };
        let slot = &mut self.slots[place as usize];
        slot.response = write(source.as_ref(), &mut slot.head);
        (slot.next, slot.start, slot.end, slot.source) =
            (NONE, start, start + slot.response.total_len(), source);
        match chain.last {
            NONE => chain.first = place,
            last => self.slots[last as usize].next = place,
        }
        chain.last = place;
        chain.len += 1;
        let Slot { response, source, head, .. } = &self.slots[place as usize];
        Some(Added { response, source: source.as_ref(), head: &head[..usize::from(response.head_len)] })
    }

    /// The bytes of the stream from `offset` on.
    #[inline]
    pub(in crate::serve) fn find(&self, chain: &Chain, offset: u64) -> Option<Found<'_>> {
        let mut place = chain.first;
        while let Some(slot) = self.slots.get(place as usize) {
            if offset < slot.end {
                let within = offset.checked_sub(slot.start)?;
                let head_len = usize::from(slot.response.head_len);
                let place = match usize::try_from(within).ok().filter(|within| *within < head_len) {
                    Some(within) => Place::Bytes(&slot.head[within..head_len]),
                    None => slot.response.body.locate(within - head_len as u64),
                };
                return Some(Found { place, source: slot.source.as_ref() });
            }
            place = slot.next;
        }
        None
    }

    /// Lets go of the responses that end before `upto`: the peer has them.
    #[inline]
    pub(in crate::serve) fn release(&mut self, chain: &mut Chain, upto: u64) {
        while let Some(slot) = self.slots.get_mut(chain.first as usize) {
            if slot.end > upto {
                return;
            }
            self.free.push(chain.first);
            (slot.source, slot.response.body) = (None, Body::Empty);
            chain.first = slot.next;
            chain.len -= 1;
            if chain.first == NONE {
                chain.last = NONE;
            }
        }
    }

    /// Responses under way.
    pub(in crate::serve) fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answers: &Answers, chain: &Chain, mut offset: u64, end: u64) -> Vec<u8> {
        let mut text = Vec::new();
        while offset < end {
            let Some(Found { place: Place::Bytes(bytes), .. }) = answers.find(chain, offset) else {
                panic!("nothing at {offset}")
            };
            let bytes = &bytes[..bytes.len().min(usize::try_from(end - offset).expect("short"))];
            text.extend_from_slice(bytes);
            offset += bytes.len() as u64;
        }
        text
    }

    fn say(answers: &mut Answers, chain: &mut Chain, start: u64, head: &[u8], body: &'static [u8]) -> u64 {
        let response = answers.add(chain, start, None, |_, out| {
            out[..head.len()].copy_from_slice(head);
            let head_len = u16::try_from(head.len()).expect("short");
            Response { body: Body::Static(body), head_len, status: 200, close: false }
        });
        start + response.expect("a place").response.total_len()
    }

    #[test]
    fn a_stream_is_found_byte_by_byte_until_it_is_acknowledged() {
        let (mut answers, mut chain, mut other) = (Answers::default(), Chain::default(), Chain::default());
        let one = say(&mut answers, &mut chain, 0, b"head1", b"body1");
        say(&mut answers, &mut other, 0, b"x", b"y");
        let two = say(&mut answers, &mut chain, one, b"head2", b"body2");
        for (start, end) in [(0, 20), (3, 7), (9, 11), (12, 20), (19, 20)] {
            let want = &b"head1body1head2body2"[usize::try_from(start).unwrap_or(0)..end];
            assert_eq!(text(&answers, &chain, start, end as u64), want, "{start}..{end}");
        }
        assert!(answers.find(&chain, two).is_none());
        answers.release(&mut chain, 9);
        assert_eq!((chain.len(), answers.under_way()), (2, 3), "its last byte is not acknowledged");
        answers.release(&mut chain, 10);
        assert_eq!((chain.len(), answers.under_way()), (1, 2));
        assert!(answers.find(&chain, 9).is_none());
        assert_eq!(text(&answers, &chain, 10, 20), b"head2body2");
        answers.release(&mut chain, u64::MAX);
        say(&mut answers, &mut chain, two, b"h", b"b");
        assert_eq!(text(&answers, &chain, 20, 22), b"hb");
        assert_eq!(answers.slots.len(), 3, "places are used again");
        assert_eq!(text(&answers, &other, 0, 2), b"xy");
    }
}
