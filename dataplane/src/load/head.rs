//! The head of a response (RFC 9112), and a memory of heads seen before.

/// Bytes of the longest head that is read.
pub(super) const HEAD_MAX: usize = 64 << 10;

/// Fields of the head with most of them.
const FIELDS_MAX: usize = 128;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// It has so many bytes.
    Length(u64),
    /// It says itself.
    Chunked,
    /// It ends with the connection.
    Close,
}

/// What matters in the head of a response to GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes, the empty line included.
    pub(super) len: usize,
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// The server closes the connection behind the body.
    pub(super) close: bool,
}

/// No head of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage;

/// Reads the head at the beginning of `bytes`; `None` while it is not all there.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, Garbage> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        _ => return Err(Garbage),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(Garbage) };
    let (mut length, mut chunked, mut coded) = (None, false, false);
    let (mut close, mut keep) = (false, false);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = number(field.value).ok_or(Garbage)?;
            // RFC 9112 section 6.3: two that differ are no length at all.
            if length.is_some_and(|before| before != value) {
                return Err(Garbage);
            }
            length = Some(value);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            coded = true;
            chunked = words(field.value).last().is_some_and(|word| word.eq_ignore_ascii_case(b"chunked"));
        } else if field.name.eq_ignore_ascii_case("connection") {
            close |= words(field.value).any(|word| word.eq_ignore_ascii_case(b"close"));
            keep |= words(field.value).any(|word| word.eq_ignore_ascii_case(b"keep-alive"));
        }
    }
    // RFC 9112 section 6.3, in its order.
    let framing = match (status, length) {
        (100..200 | 204 | 304, _) => Framing::Length(0),
        _ if chunked => Framing::Chunked,
        (_, Some(length)) if !coded => Framing::Length(length),
        _ => Framing::Close,
    };
    let close = close || minor == 0 && !keep || framing == Framing::Close;
    Ok(Some(Head { len, status, framing, close }))
}

/// Decimal digits, and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let text = digits.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(digits).ok())??;
    text.parse().ok()
}

fn words(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Heads that were seen before, by the request that they answered.
///
/// A server's heads differ once a second, in their date: equal bytes mean the same, so most heads are compared and not
/// parsed. Comparing costs a tenth of that.
#[derive(Debug)]
pub(super) struct Heads(Vec<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    head: Option<Head>,
}

/// Heads that are kept in mind. Requests whose numbers agree modulo this share a place.
const KNOWN: usize = 1024;

/// Longer heads are not.
const KNOWN_BYTES: usize = 1024;

impl Heads {
    pub(super) fn new(requests: usize) -> Self {
        Self(vec![Known { bytes: Vec::with_capacity(KNOWN_BYTES), head: None }; requests.clamp(1, KNOWN)])
    }

    /// As [`read`], of the answer to request number `request`.
    #[inline]
    pub(super) fn read(&mut self, request: u32, bytes: &[u8]) -> Result<Option<Head>, Garbage> {
        let at = request as usize % self.0.len();
        let known = &mut self.0[at];
        if let Some(head) = known.head
            && bytes.starts_with(&known.bytes)
        {
            return Ok(Some(head));
        }
        let head = read(bytes)?;
        if let Some(head) = head.filter(|head| head.len <= KNOWN_BYTES) {
            known.bytes.clear();
            known.bytes.extend_from_slice(&bytes[..head.len]);
            known.head = Some(head);
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<(u16, Framing, bool)>, Garbage> {
        read(text.as_bytes()).map(|head| head.map(|head| (head.status, head.framing, head.close)))
    }

    #[test]
    fn the_end_of_a_body_is_found_as_the_standard_says() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), false)),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n",
                (200, Framing::Length(5), false),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n", (200, Framing::Chunked, false)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                (200, Framing::Chunked, false),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
                (200, Framing::Close, true),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", (200, Framing::Close, true)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, Framing::Length(0), false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (204, Framing::Length(0), false)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n",
                (200, Framing::Length(0), true),
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", (200, Framing::Length(1), true)),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n",
                (200, Framing::Length(1), false),
            ),
        ];
        for (text, want) in cases {
            assert_eq!(head(text), Ok(Some(want)), "{text}");
        }
    }

    #[test]
    fn garbage_is_no_head() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "\u{0}",
        ] {
            assert_eq!(head(text), Err(Garbage), "{text}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_MAX));
        assert_eq!(head(&long), Err(Garbage));
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-"), Ok(None));
    }

    #[test]
    fn equal_heads_are_recognised_and_others_are_not() {
        let mut heads = Heads::new(1);
        let first = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".as_slice();
        let other = b"HTTP/1.1 404 No\r\nContent-Length: 7\r\n\r\n".as_slice();
        for bytes in [first, first, other, first, other, other] {
            assert_eq!(heads.read(0, bytes), read(bytes));
            assert_eq!(heads.read(3, &bytes[..20]), Ok(None));
        }
    }

    proptest! {
        /// Whatever comes, the memory of heads says what the parser says.
        #[test]
        fn the_memory_never_lies(texts in proptest::collection::vec(
            "(HTTP/1.[01] [0-9]{3} [a-z]{0,2}\r\n((Content-Length|Connection|X): ?[0-9a-z]{0,3}\r\n){0,3}(\r\n)?)|\\PC{0,9}", 1..12))
        {
            let mut heads = Heads::new(2);
            for (request, text) in (0..).zip(&texts) {
                prop_assert_eq!(heads.read(request, text.as_bytes()), read(text.as_bytes()));
            }
        }
    }
}
