//! One response after the other out of the bytes of a connection.

use super::chunks::{Chunks, Piece};
use super::head::{Framing, Garbage, HEAD_MAX, Head, Heads};
use sha2::{Digest, Sha256};

/// SHA-256 of a body, as `sha256sum` prints it.
pub type BodyHash = [u8; 32];

/// Where in a response we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    Chunked(Chunks),
    /// All that comes is body.
    UntilClose,
}

/// A response that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) status: u16,
    /// The server closes the connection now.
    pub(super) close: bool,
    /// Bytes of its body.
    pub(super) body: u64,
    /// Of its body, if bodies are hashed.
    pub(super) hash: Option<BodyHash>,
}

/// What became of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All are used, and the response goes on.
    More,
    Done(Done),
    Garbage,
}

/// How a connection ended for the response that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// None was.
    Between,
    /// It had been meant to end so.
    Done(Done),
    /// There should have been more.
    Short,
}

/// Reads the responses of one connection. Bodies are counted, hashed if they are to be, and thrown away.
#[derive(Debug, Default)]
pub(super) struct Reader {
    place: Place,
    /// A head that has come in part.
    partial: Vec<u8>,
    status: u16,
    close: bool,
    body: u64,
    /// Bytes of bodies that nobody has asked after yet.
    new: u64,
    hasher: Option<Sha256>,
}

impl Reader {
    pub(super) fn new(hashing: bool) -> Self {
        Self { hasher: hashing.then(Sha256::new), ..Self::default() }
    }

    /// Reads on. `request` is the number of the request that is answered. Returns how many bytes are done with: all of
    /// them, unless a response ended before.
    #[inline]
    pub(super) fn read(&mut self, request: u32, bytes: &[u8], heads: &mut Heads) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let used = match self.place {
                Place::Head if rest.is_empty() => return (at, Step::More),
                Place::Head => match self.read_head(request, rest, heads) {
                    Ok(used) => used,
                    Err(Garbage) => return (at, Step::Garbage),
                },
                Place::Body(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    self.content(&rest[..here]);
                    self.place = Place::Body(left - here as u64);
                    here
                }
                Place::Chunked(_) if rest.is_empty() => return (at, Step::More),
                Place::Chunked(mut chunks) => {
                    let Ok(piece) = chunks.next(rest) else { return (at, Step::Garbage) };
                    self.place = Place::Chunked(chunks);
                    match piece {
                        Piece::Content(here) => {
                            self.content(&rest[..here]);
                            here
                        }
                        Piece::Framing(here) => here,
                    }
                }
                Place::UntilClose => {
                    self.content(rest);
                    rest.len()
                }
            };
            at += used;
            match self.place {
                Place::Body(0) => return (at, Step::Done(self.done())),
                Place::Chunked(chunks) if chunks.is_over() => return (at, Step::Done(self.done())),
                Place::Body(_) | Place::UntilClose if at == bytes.len() => return (at, Step::More),
                _ => {}
            }
        }
    }

    /// Reads a head, of which some may have come before; returns the bytes of `bytes` that it used.
    fn read_head(&mut self, request: u32, bytes: &[u8], heads: &mut Heads) -> Result<usize, Garbage> {
        if self.partial.is_empty() {
            let Some(head) = heads.read(request, bytes)? else {
                self.partial.extend_from_slice(bytes);
                return Ok(bytes.len());
            };
            self.begin(head);
            return Ok(head.len);
        }
        let before = self.partial.len();
        let room = HEAD_MAX.saturating_sub(before);
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some(head) = heads.read(request, &self.partial)? else {
            return if bytes.len() < room { Ok(bytes.len()) } else { Err(Garbage) };
        };
        self.partial.clear();
        self.begin(head);
        // What came before was no whole head, so this one ends behind it.
        head.len.checked_sub(before).ok_or(Garbage)
    }

    fn begin(&mut self, head: Head) {
        if head.status < 200 && head.status != 101 {
            // RFC 9110 section 15.2: the answer itself is still to come.
            return;
        }
        (self.status, self.close, self.body) = (head.status, head.close, 0);
        self.place = match head.framing {
            Framing::Length(bytes) => Place::Body(bytes),
            Framing::Chunked => Place::Chunked(Chunks::new()),
            Framing::Close => Place::UntilClose,
        };
    }

    #[inline]
    fn content(&mut self, bytes: &[u8]) {
        self.body += bytes.len() as u64;
        self.new += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    fn done(&mut self) -> Done {
        self.place = Place::Head;
        let hash = self.hasher.as_mut().map(|hasher| hasher.finalize_reset().into());
        Done { status: self.status, close: self.close, body: self.body, hash }
    }

    /// Bytes of content that may be thrown away unseen: they come next, and nobody wants to hash them. The last byte of
    /// a body is not among them: who reads it hears that the response is done.
    pub(super) fn unseen(&self) -> u64 {
        match self.place {
            _ if self.hasher.is_some() => 0,
            Place::Body(left) => left.saturating_sub(1),
            Place::Chunked(chunks) => chunks.left().saturating_sub(1),
            Place::UntilClose => u64::MAX,
            Place::Head => 0,
        }
    }

    /// So many bytes, of those that may be, were thrown away.
    pub(super) fn pass(&mut self, bytes: u64) {
        self.body += bytes;
        self.new += bytes;
        match &mut self.place {
            Place::Body(left) => *left = left.saturating_sub(bytes),
            Place::Chunked(chunks) => chunks.pass(bytes),
            Place::UntilClose | Place::Head => {}
        }
    }

    /// Bytes of bodies since it was last asked.
    #[inline]
    pub(super) const fn take_new(&mut self) -> u64 {
        std::mem::replace(&mut self.new, 0)
    }

    /// The server has sent its last byte.
    pub(super) fn end(&mut self) -> Ending {
        match self.place {
            Place::Head if self.partial.is_empty() => Ending::Between,
            Place::UntilClose => Ending::Done(self.done()),
            _ => Ending::Short,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads `bytes` in pieces of at most so many; each response, and whether all made sense.
    fn read_in_pieces(bytes: &[u8], most: usize, hashing: bool) -> (Vec<Done>, bool, Ending) {
        let (mut reader, mut heads, mut done) = (Reader::new(hashing), Heads::new(1), Vec::new());
        for mut piece in bytes.chunks(most.max(1)) {
            while !piece.is_empty() {
                let (used, step) = reader.read(0, piece, &mut heads);
                assert!(used <= piece.len());
                piece = &piece[used..];
                match step {
                    Step::More => assert!(piece.is_empty()),
                    Step::Done(one) => done.push(one),
                    Step::Garbage => return (done, false, Ending::Between),
                }
            }
        }
        let ending = reader.end();
        (done, true, ending)
    }

    const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           3;x=y\r\nhel\r\n10 \r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";

    #[test]
    fn responses_follow_each_other_however_they_are_cut() {
        let text = [PLAIN, CHUNKED, EMPTY, EARLY, PLAIN].concat();
        for most in 1..text.len() + 1 {
            let (done, sound, ending) = read_in_pieces(text.as_bytes(), most, false);
            assert!(sound && ending == Ending::Between, "{most}");
            let seen: Vec<_> = done.iter().map(|one| (one.status, one.body, one.close)).collect();
            assert_eq!(seen, [(200, 5, false), (200, 19, false), (304, 0, false), (200, 5, false)], "{most}");
        }
    }

    #[test]
    fn a_body_has_the_hash_that_sha256sum_prints() {
        for most in [1, 7, 1000] {
            let (done, _, _) = read_in_pieces([PLAIN, PLAIN].concat().as_bytes(), most, true);
            let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
            let hex = |hash: &BodyHash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let hashes: Vec<String> = done.iter().filter_map(|one| one.hash.as_ref().map(hex)).collect();
            assert_eq!(hashes, [hello, hello]);
        }
    }

    #[test]
    fn a_body_that_ends_early_is_short() {
        for text in [PLAIN, CHUNKED] {
            for cut in 1..text.len() {
                let (done, sound, ending) = read_in_pieces(&text.as_bytes()[..cut], 1000, false);
                assert!(done.is_empty() && sound && ending == Ending::Short, "{cut} of {text:?}");
            }
        }
        let endless = "HTTP/1.0 200 OK\r\n\r\nhello";
        let (done, _, ending) = read_in_pieces(endless.as_bytes(), 3, false);
        let whole = Done { status: 200, close: true, body: 5, hash: None };
        assert_eq!((done, ending), (vec![], Ending::Done(whole)));
    }

    #[test]
    fn bytes_behind_a_response_are_no_part_of_it() {
        let (done, sound, _) = read_in_pieces(format!("{PLAIN}!").as_bytes(), 1000, false);
        assert_eq!((done.len(), sound), (1, false));
    }

    /// What may be thrown away unseen never reaches the end of a body, and the rest is read as ever.
    #[test]
    fn content_passes_unseen() {
        let (mut reader, mut heads) = (Reader::new(false), Heads::new(1));
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n12345";
        assert_eq!(reader.unseen(), 0);
        assert_eq!(reader.read(0, head, &mut heads), (head.len(), Step::More));
        assert_eq!(reader.unseen(), 994);
        reader.pass(994);
        let (used, step) = reader.read(0, b"6HTTP/1.1", &mut heads);
        assert_eq!((used, step), (1, Step::Done(Done { status: 200, close: false, body: 1000, hash: None })));

        let (used, _) =
            reader.read(0, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n", &mut heads);
        assert!(used > 0);
        assert_eq!(reader.unseen(), 99);
        reader.pass(99);
        let (_, step) = reader.read(0, b"x\r\n0\r\n\r\n", &mut heads);
        assert_eq!(step, Step::Done(Done { status: 200, close: false, body: 100, hash: None }));
    }

    proptest! {
        /// Whatever comes, in whatever pieces, is survived; and the pieces make no difference.
        #[test]
        fn garbage_is_survived(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..40),
            texts in proptest::collection::vec(prop_oneof![
                Just(PLAIN), Just(CHUNKED), Just(EMPTY), Just(EARLY), Just("HTTP/1.1 200 OK\r\n\r\n"),
                Just("ffffffffffffffff\r\n"), Just("10000000000000000\r\n"), Just("\r\n"),
                Just("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n"),
            ], 0..6),
            at in any::<prop::sample::Index>(),
            most in 1..50usize,
            hashing in any::<bool>(),
        ) {
            let text = texts.concat();
            let cut = at.index(text.len() + 1);
            let mut all = text.as_bytes()[..cut].to_vec();
            all.append(&mut bytes);
            all.extend_from_slice(&text.as_bytes()[cut..]);
            prop_assert_eq!(read_in_pieces(&all, most, hashing), read_in_pieces(&all, all.len(), hashing));
        }
    }
}
