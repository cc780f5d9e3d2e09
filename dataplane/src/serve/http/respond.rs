//! A request and what its path is, to a response (RFC 9110).
//!
//! Nothing here allocates, but for `multipart/byteranges`.

use super::conditions::{self, Verdict};
use super::date::Date;
use super::encoding;
use super::facts::{Coding, Etag, Facts, Listing, Representation, Resource, mix};
use super::head::Head;
use super::policy::Policy;
use super::ranges::{self, Selected, Span};
use super::request::{self, Expect, Method, Request, Version};
use super::response::{Body, Parts, Response};
use super::status::{self, Refusal};
use std::sync::Arc;

/// Answers a request. The head is written into `out`, which holds [`HEAD_MAX`](super::HEAD_MAX) bytes at least.
///
/// `resource` is not looked at if the request [needs none](Request::needs_resource).
pub fn respond(
    request: &Request<'_>,
    resource: Resource<'_>,
    policy: &Policy,
    date: &Date,
    out: &mut [u8],
) -> Response {
    let answer = Answer { style: Style::of(request), policy, date, out };
    match request.method {
        // RFC 9110 section 9.3.7; conditions and expectations do not count for it.
        Method::Options => answer.options(),
        // RFC 9110 section 15.5.6: 405 comes with `Allow`. Where something may be stored, whoever stores it has answered.
        Method::NotAllowed | Method::Put => answer.error(405, policy.allow()),
        Method::Unknown => answer.error(501, b""),
        Method::Get | Method::Head if request.expect == Expect::Unknown => answer.error(417, b""),
        Method::Get | Method::Head => match resource {
            Resource::File(facts) => answer.file(request, facts),
            Resource::Redirect => answer.redirect(request),
            Resource::Listing(listing) => answer.listing(request, listing),
            Resource::NotFound => answer.error(404, b""),
            Resource::Forbidden => answer.error(403, b""),
            Resource::Busy => answer.error(503, b"Retry-After: 1\r\n"),
            Resource::Failed => answer.error(500, b""),
        },
    }
}

/// Answers what is not a request; `asked` is what there is of it. The connection ends after it.
pub fn refuse(refusal: Refusal, asked: &[u8], policy: &Policy, date: &Date, out: &mut [u8]) -> Response {
    // RFC 9110 section 9.3.2: no answer to HEAD has a body, whatever is wrong with what follows the method.
    let head_only = request::begins_with_head(asked);
    let style = Style { head_only, connection: b"Connection: close\r\n", close: true };
    Answer { style, policy, date, out }.error(refusal.status(), b"")
}

/// What became of a body that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// It is a file where there was none.
    Created(Etag),
    /// It is in the place of another.
    Replaced(Etag),
    /// It is not stored; a status from 400 on says why.
    Refused(u16),
}

/// Answers a request to store something (RFC 9110 section 9.3.4).
pub fn stored(
    request: &Request<'_>,
    storage: Storage,
    policy: &Policy,
    date: &Date,
    out: &mut [u8],
) -> Response {
    let mut answer = Answer { style: Style::of(request), policy, date, out };
    let (status, etag, length): (u16, Etag, &[u8]) = match storage {
        Storage::Created(etag) => (201, etag, b"Content-Length: 0\r\n"),
        // RFC 9110 section 8.6: with 204 there is no length.
        Storage::Replaced(etag) => (204, etag, b""),
        Storage::Refused(status @ 503) => return answer.error(status, b"Retry-After: 1\r\n"),
        Storage::Refused(status) => return answer.error(status, b""),
    };
    let mut head = answer.begin(status);
    head.field(b"ETag: ", etag.text());
    head.put(length);
    head.put(b"\r\n");
    let len = head.finish();
    answer.end(status, len, Body::Empty)
}

/// Tells a client that holds its body back to send it (RFC 9110 section 15.2.1). It is no answer yet.
pub fn invite(out: &mut [u8]) -> Response {
    let mut head = Head::new(out);
    head.put(b"HTTP/1.1 100 Continue\r\n\r\n");
    Response { body: Body::Empty, head_len: head.finish().unwrap_or(0), status: 100, close: false }
}

/// How an answer is written, whatever it says.
#[derive(Clone, Copy)]
struct Style {
    head_only: bool,
    connection: &'static [u8],
    close: bool,
}

impl Style {
    fn of(request: &Request<'_>) -> Self {
        // RFC 9112 section 9.3: silence means "stays open" to a client of version 1.1, and "closes" to one of 1.0.
        let connection: &[u8] = match (request.persistent, request.version) {
            (true, Version::Http11) => b"",
            (true, Version::Http10) => b"Connection: keep-alive\r\n",
            (false, _) => b"Connection: close\r\n",
        };
        Self { head_only: request.method == Method::Head, connection, close: !request.persistent }
    }
}

/// An answer in the making.
struct Answer<'a> {
    style: Style,
    policy: &'a Policy,
    date: &'a Date,
    out: &'a mut [u8],
}

impl Answer<'_> {
    /// The lines of every answer.
    fn begin(&mut self, status: u16) -> Head<'_> {
        let mut head = Head::new(self.out);
        head.put(status::line(status));
        head.field(b"Date: ", self.date.text());
        head.put(self.policy.lines());
        head.put(self.style.connection);
        head
    }

    /// The plan of an answer whose head came to `len` bytes; a 500 if it did not fit.
    fn end(&mut self, status: u16, len: Option<u16>, body: Body) -> Response {
        let close = self.style.close;
        let Some(head_len) = len else { return self.emergency() };
        // RFC 9110 section 9.3.2: HEAD has the same head, and no body.
        let body = if self.style.head_only || body.is_empty() { Body::Empty } else { body };
        Response { body, head_len, status, close }
    }

    /// For what cannot happen: the policy is checked for size, and the rest is bounded.
    fn emergency(&mut self) -> Response {
        const TEXT: &[u8] =
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let mut head = Head::new(self.out);
        head.put(TEXT);
        let head_len = head.finish().unwrap_or(0);
        Response { body: Body::Empty, head_len, status: 500, close: true }
    }

    fn options(mut self) -> Response {
        let allow = self.policy.allow();
        let mut head = self.begin(204);
        head.put(allow);
        head.put(b"\r\n");
        let len = head.finish();
        self.end(204, len, Body::Empty)
    }

    /// An error with its page; `lines` are fields of its own.
    fn error(mut self, status: u16, lines: &[u8]) -> Response {
        let policy = self.policy;
        let own = policy.page(status);
        let (media, body) = match own {
            Some(page) => (page.media.as_str(), Body::Shared(Arc::clone(&page.content))),
            None => ("text/html; charset=utf-8", Body::Static(status::page(status))),
        };
        let mut head = self.begin(status);
        head.put(lines);
        head.field(b"Content-Type: ", media.as_bytes());
        length(&mut head, body.len());
        head.put(b"\r\n");
        let len = head.finish();
        self.end(status, len, body)
    }

    /// To the same path with a slash. Written from the clean path, so that `//elsewhere` cannot become another host.
    fn redirect(mut self, request: &Request<'_>) -> Response {
        let body = Body::Static(status::page(301));
        let mut head = self.begin(301);
        head.put(b"Location: /");
        escape_path(&mut head, request.path);
        head.put(b"/");
        if let Some(query) = request.query {
            head.put(b"?");
            head.put(query.as_bytes());
        }
        head.put(b"\r\nContent-Type: text/html; charset=utf-8\r\n");
        length(&mut head, body.len());
        head.put(b"\r\n");
        match head.finish() {
            None => self.error(414, b""),
            len => self.end(301, len, body),
        }
    }

    fn listing(mut self, request: &Request<'_>, listing: &Listing) -> Response {
        let (media, page): (&[u8], _) = if encoding::prefers_json(request.accept) {
            (b"application/json", &listing.json)
        } else {
            (b"text/html; charset=utf-8", &listing.html)
        };
        let body = Body::Shared(Arc::clone(page));
        let policy = self.policy;
        let mut head = self.begin(200);
        head.field(b"Content-Type: ", media);
        length(&mut head, body.len());
        head.put(policy.cache_line(request.path).unwrap_or(b"Cache-Control: no-cache\r\n"));
        head.put(b"Vary: Accept\r\n\r\n");
        let len = head.finish();
        self.end(200, len, body)
    }

    fn file(self, request: &Request<'_>, facts: &Facts) -> Response {
        let Some(coding) = encoding::choose(facts, request.accept_encoding) else {
            // RFC 9110 section 12.5.3.
            return self.error(406, b"Vary: Accept-Encoding\r\n");
        };
        // `choose` names what is there.
        let Some(file) = facts.representation(coding) else { return self.error(500, b"") };
        match conditions::evaluate(&request.conditions, file) {
            Verdict::Failed => return self.error(412, vary(facts)),
            Verdict::NotModified => return self.not_modified(request, facts, file),
            Verdict::Perform => {}
        }
        // RFC 9110 section 14.2: `Range` counts for GET only.
        let selected = match request.range {
            Some(value)
                if request.method == Method::Get
                    && conditions::range_holds(request.conditions.if_range, file, self.date) =>
            {
                ranges::select(value, file.size())
            }
            _ => Selected::Whole,
        };
        match selected {
            Selected::Whole => self.whole(request, facts, coding, file),
            Selected::One(span) => self.part(request, facts, coding, file, span),
            Selected::Many(spans) => self.parts(request, facts, coding, file, spans.as_slice()),
            Selected::Nothing => self.unsatisfiable(facts, file.size()),
        }
    }

    /// RFC 9110 section 15.5.17: says how long it is.
    fn unsatisfiable(self, facts: &Facts, size: u64) -> Response {
        let mut lines = [0; 96];
        let mut field = Head::new(&mut lines);
        field.put(b"Content-Range: bytes */");
        field.number(size);
        field.put(b"\r\n");
        field.put(vary(facts));
        let len = usize::from(field.finish().unwrap_or(0));
        self.error(416, &lines[..len])
    }

    /// RFC 9110 section 15.4.5: the fields that a 200 would have had and a cache needs.
    fn not_modified(mut self, request: &Request<'_>, facts: &Facts, file: &Representation) -> Response {
        let (policy, date) = (self.policy, self.date);
        let mut head = self.begin(304);
        validators(&mut head, request, facts, file, policy, date);
        head.put(b"\r\n");
        let len = head.finish();
        self.end(304, len, Body::Empty)
    }

    fn whole(
        mut self,
        request: &Request<'_>,
        facts: &Facts,
        coding: Coding,
        file: &Representation,
    ) -> Response {
        let (policy, date) = (self.policy, self.date);
        let mut head = self.begin(200);
        head.field(b"Content-Type: ", facts.media().as_bytes());
        encoded(&mut head, coding);
        length(&mut head, file.size());
        head.put(b"Accept-Ranges: bytes\r\n");
        validators(&mut head, request, facts, file, policy, date);
        head.put(b"\r\n");
        let len = head.finish();
        self.end(200, len, Body::File { coding, start: 0, len: file.size() })
    }

    /// RFC 9110 section 15.3.7.1.
    fn part(
        mut self,
        request: &Request<'_>,
        facts: &Facts,
        coding: Coding,
        file: &Representation,
        span: Span,
    ) -> Response {
        let (policy, date) = (self.policy, self.date);
        let mut head = self.begin(206);
        head.field(b"Content-Type: ", facts.media().as_bytes());
        encoded(&mut head, coding);
        head.content_range(span.start, span.len, file.size());
        length(&mut head, span.len);
        head.put(b"Accept-Ranges: bytes\r\n");
        validators(&mut head, request, facts, file, policy, date);
        head.put(b"\r\n");
        let len = head.finish();
        self.end(206, len, Body::File { coding, start: span.start, len: span.len })
    }

    /// RFC 9110 sections 15.3.7.2 and 14.6.
    fn parts(
        mut self,
        request: &Request<'_>,
        facts: &Facts,
        coding: Coding,
        file: &Representation,
        spans: &[Span],
    ) -> Response {
        let boundary = boundary(file, self.date);
        let mut parts = Parts::new(coding);
        for span in spans {
            let mut text = [0; 256];
            let mut head = Head::new(&mut text);
            head.put(b"\r\n--");
            head.put(&boundary);
            head.field(b"\r\nContent-Type: ", facts.media().as_bytes());
            head.content_range(span.start, span.len, file.size());
            head.put(b"\r\n");
            let Some(len) = head.finish() else { return self.error(500, b"") };
            parts.push(&text[..usize::from(len)], span.start, span.len);
        }
        parts.push(&[b"\r\n--", &boundary[..], b"--\r\n"].concat(), 0, 0);
        let body = Body::Parts(Box::new(parts));
        let (policy, date) = (self.policy, self.date);
        let mut head = self.begin(206);
        head.field(b"Content-Type: multipart/byteranges; boundary=", &boundary);
        encoded(&mut head, coding);
        length(&mut head, body.len());
        head.put(b"Accept-Ranges: bytes\r\n");
        validators(&mut head, request, facts, file, policy, date);
        head.put(b"\r\n");
        let len = head.finish();
        self.end(206, len, body)
    }
}

fn length(head: &mut Head<'_>, bytes: u64) {
    head.put(b"Content-Length: ");
    head.number(bytes);
    head.put(b"\r\n");
}

fn encoded(head: &mut Head<'_>, coding: Coding) {
    if coding != Coding::Identity {
        head.field(b"Content-Encoding: ", coding.name().as_bytes());
    }
}

/// What caches compare, and how long they may keep it.
fn validators(
    head: &mut Head<'_>,
    request: &Request<'_>,
    facts: &Facts,
    file: &Representation,
    policy: &Policy,
    date: &Date,
) {
    // RFC 9110 section 8.8.2.1: a file from the future was changed now.
    let modified = if file.modified().seconds() > date.seconds() { date } else { file.modified() };
    head.field(b"Last-Modified: ", modified.text());
    head.field(b"ETag: ", file.etag().text());
    head.put(vary(facts));
    head.put(policy.cache_line(request.path).unwrap_or_default());
}

/// RFC 9110 section 12.5.5: of all that depends on which form was chosen, errors over its tag or its length too.
fn vary(facts: &Facts) -> &'static [u8] {
    if facts.varies() { b"Vary: Accept-Encoding\r\n" } else { b"" }
}

/// What cannot occur in the file, but by chance of one in 2^96: made of the file's tag and the second.
fn boundary(file: &Representation, date: &Date) -> [u8; 24] {
    let mut state = date.seconds();
    for byte in file.etag().text() {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte));
    }
    let words = [state, mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15))];
    std::array::from_fn(|at| {
        let digit = words[at / 16] >> (at % 16 * 4) & 15;
        b"0123456789abcdef"[digit as usize]
    })
}

/// Percent-encodes all but what RFC 3986 section 3.3 lets stand in a path.
fn escape_path(head: &mut Head<'_>, path: &str) {
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            head.put(&[byte]);
        } else {
            let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
            head.put(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}
