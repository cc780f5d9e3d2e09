//! Bytes to a request (RFC 9112 sections 2 to 6), strictly: what two readers might read differently is refused.
//!
//! A [`Request`] borrows the bytes that it was parsed from, and a [`Scratch`] for the little that had to be rewritten.
//! If its answer must wait for the file side, the bytes are kept and parsed again: that is cheaper than owning them.

use super::limits::{FIELDS_MAX, Limits};
use super::status::Refusal;
use super::target::{self, Target};
use std::mem::{self, MaybeUninit};

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// RFC 9110 section 9.3.1.
    Get,
    /// RFC 9110 section 9.3.2.
    Head,
    /// RFC 9110 section 9.3.7.
    Options,
    /// RFC 9110 section 9.3.4. Answered 405 where nothing may be stored.
    Put,
    /// Known, but not for files: answered 405.
    NotAllowed,
    /// Not known: answered 501.
    Unknown,
}

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a request's body is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What the client expects (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Nothing,
    /// `100-continue`: it holds its body back. Unless that is to be stored, we answer at once, and close: whether the
    /// body then comes is open.
    Continue,
    /// Something that nobody knows: answered 417.
    Unknown,
}

/// What the fields of a request say of its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// There is a `Content-Length`, be it 0.
    pub measured: bool,
    /// There is a `Content-Range`: it is a part of something (RFC 9110 section 14.5).
    pub partial: bool,
    /// There is a `Content-Encoding` besides `identity`: the bytes are not what they stand for.
    pub encoded: bool,
}

/// Fields that make a request conditional (RFC 9110 section 13.1), as sent. Lists sent in several lines are joined; a
/// field that must be there once and is there twice is empty, so invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions<'b> {
    /// `If-Match`
    pub if_match: Option<&'b [u8]>,
    /// `If-None-Match`
    pub if_none_match: Option<&'b [u8]>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'b [u8]>,
    /// `If-Unmodified-Since`
    pub if_unmodified_since: Option<&'b [u8]>,
    /// `If-Range`
    pub if_range: Option<&'b [u8]>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'b> {
    /// What is asked for.
    pub method: Method,
    /// The method as sent.
    pub method_text: &'b str,
    /// Of the request.
    pub version: Version,
    /// The target as sent.
    pub target: &'b str,
    /// Clean and relative; see [`facts`](super::facts). Empty if there is no file in question (`*`, `CONNECT`).
    pub path: &'b str,
    /// What follows the question mark, as sent.
    pub query: Option<&'b str>,
    /// Without port, as sent; empty if none was named. Compared without regard to case.
    pub host: &'b str,
    /// The body that follows the head.
    pub framing: Framing,
    /// What else is said of it.
    pub sent: Sent,
    /// Whether the connection may go on after this request, its body being thrown away.
    pub persistent: bool,
    /// Whether the client would have it go on.
    pub stays: bool,
    /// `Expect`
    pub expect: Expect,
    /// Fields of RFC 9110 section 13.1.
    pub conditions: Conditions<'b>,
    /// `Range`
    pub range: Option<&'b [u8]>,
    /// `Accept`
    pub accept: Option<&'b [u8]>,
    /// `Accept-Encoding`
    pub accept_encoding: Option<&'b [u8]>,
    /// `Referer`, for the log.
    pub referer: Option<&'b [u8]>,
    /// `User-Agent`, for the log.
    pub user_agent: Option<&'b [u8]>,
}

/// What bytes turned out to be.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack of one call; a box would be an allocation per request"
)]
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// The beginning of a head.
    Incomplete,
    /// A request, and the length of its head in bytes: its body, or the next request, begins there.
    Request(Request<'b>, usize),
    /// Not a request.
    Refused(Refusal),
}

/// Room for the parts of a request that cannot stay as they were sent. One for each thread that parses.
#[derive(Debug)]
pub struct Scratch(Box<[u8]>);

impl Scratch {
    /// As much as a head within `limits` can need.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(vec![0; limits.head_bytes].into())
    }

    /// No room at all: what stands in for the real one while that is in use.
    #[must_use]
    pub(in crate::serve) fn empty() -> Self {
        Self(Box::default())
    }
}

impl<'b> Request<'b> {
    /// Parses the head at the beginning of `bytes`.
    ///
    /// The answer for a prefix holds for all that begins with it: more bytes turn `Incomplete` into something else, and
    /// nothing else into anything.
    #[must_use]
    pub fn parse(bytes: &'b [u8], scratch: &'b mut Scratch, limits: &Limits) -> Parsed<'b> {
        match parse(bytes, scratch, limits) {
            Ok(None) => Parsed::Incomplete,
            Ok(Some((request, len))) => Parsed::Request(request, len),
            Err(refusal) => Parsed::Refused(refusal),
        }
    }

    /// Whether the file side has to be asked before this can be answered.
    #[must_use]
    pub const fn needs_resource(&self) -> bool {
        matches!(self.method, Method::Get | Method::Head) && !matches!(self.expect, Expect::Unknown)
    }
}

fn parse<'b>(
    bytes: &'b [u8],
    scratch: &'b mut Scratch,
    limits: &Limits,
) -> Result<Option<(Request<'b>, usize)>, Refusal> {
    let Some(start) = beginning(bytes)? else { return Ok(None) };
    let Some(end) = head_end(&bytes[start..], limits)? else { return Ok(None) };
    let head = &bytes[start..start + end];
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let room = &mut room[..limits.fields.min(FIELDS_MAX)];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, room) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        // It has its last line, so it is whole; if that line is seen elsewhere, something is wrong with the others.
        Ok(_) => return Err(Refusal::Field),
        Err(error) => return Err(refusal_of(error, head)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::RequestLine);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let mut room = &mut scratch.0[..];
    let mut fields = Fields::default();
    for header in &*parsed.headers {
        fields.take(header.name, header.value, &mut room)?;
    }
    let request = assemble(method, target, version, &fields, limits, &mut room)?;
    Ok(Some((request, start + end)))
}

/// Where the request line begins: a client may send an empty line too many after a body (RFC 9112 section 2.2); we
/// forgive two. `None`: it has not come yet.
fn beginning(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut start = 0;
    loop {
        match bytes[start..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if start < 4 => start += 2,
            [b'\n', ..] => return Err(Refusal::BareLineFeed),
            // So that what is no HTTP at all is answered at once: a TLS greeting, for one.
            [first, ..] if !first.is_ascii_graphic() => return Err(Refusal::RequestLine),
            _ => return Ok(Some(start)),
        }
    }
}

/// Whether the method of what may be no request is HEAD.
pub(super) fn begins_with_head(bytes: &[u8]) -> bool {
    matches!(beginning(bytes), Ok(Some(start)) if bytes[start..].starts_with(b"HEAD "))
}

/// What may stand beside the target in the first line: a method, a version, two spaces.
const BESIDE_TARGET: usize = 48;

/// Where the head ends: after its first empty line. `None`: that has not come yet. Every line must end in CR LF.
fn head_end(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
    let window = &bytes[..bytes.len().min(limits.head_bytes)];
    let line_max = limits.target_bytes + BESIDE_TARGET;
    let mut line = 0;
    for at in memchr::memchr_iter(b'\n', window) {
        // First the length, then the end: so a prefix is judged as the whole will be.
        if line == 0 && at > line_max {
            return Err(Refusal::TargetTooLong);
        }
        if at == line || window[at - 1] != b'\r' {
            return Err(Refusal::BareLineFeed);
        }
        if at - line == 1 {
            return Ok(Some(at + 1));
        }
        line = at + 1;
    }
    if line == 0 && window.len() > line_max {
        return Err(Refusal::TargetTooLong);
    }
    if bytes.len() > limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) }
}

fn refusal_of(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::Version if names_a_version(head) => Refusal::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        _ => Refusal::RequestLine,
    }
}

/// Whether the first line is well-formed, with a version of any number.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(head);
    let mut words = line.split(|byte| *byte == b' ');
    let (target, version) = (words.nth(1), words.next());
    target.is_some_and(|target| !target.is_empty())
        && matches!(version, Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']))
        && words.next().is_none()
}

/// The fields that matter, as they come.
#[derive(Default)]
struct Fields<'b> {
    host: Option<&'b [u8]>,
    length: Option<&'b [u8]>,
    coding: Option<&'b [u8]>,
    sent: Sent,
    connection: Option<&'b [u8]>,
    expect: Option<&'b [u8]>,
    conditions: Conditions<'b>,
    range: Option<&'b [u8]>,
    accept: Option<&'b [u8]>,
    accept_encoding: Option<&'b [u8]>,
    referer: Option<&'b [u8]>,
    user_agent: Option<&'b [u8]>,
}

impl<'b> Fields<'b> {
    fn take(&mut self, name: &str, value: &'b [u8], room: &mut &'b mut [u8]) -> Result<(), Refusal> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => only(&mut self.host, value, Refusal::Host)?,
            5 if is("range") => once(&mut self.range, value),
            6 if is("accept") => join(&mut self.accept, value, room)?,
            6 if is("expect") => join(&mut self.expect, value, room)?,
            7 if is("referer") => drop(self.referer.get_or_insert(value)),
            8 if is("if-match") => join(&mut self.conditions.if_match, value, room)?,
            8 if is("if-range") => once(&mut self.conditions.if_range, value),
            10 if is("connection") => join(&mut self.connection, value, room)?,
            10 if is("user-agent") => drop(self.user_agent.get_or_insert(value)),
            13 if is("content-range") => self.sent.partial = true,
            13 if is("if-none-match") => join(&mut self.conditions.if_none_match, value, room)?,
            14 if is("content-length") => {
                self.sent.measured = true;
                only(&mut self.length, value, Refusal::Length)?;
            }
            15 if is("accept-encoding") => join(&mut self.accept_encoding, value, room)?,
            16 if is("content-encoding") => {
                self.sent.encoded |= !value.trim_ascii().eq_ignore_ascii_case(b"identity");
            }
            17 if is("if-modified-since") => once(&mut self.conditions.if_modified_since, value),
            17 if is("transfer-encoding") => only(&mut self.coding, value, Refusal::TransferCoding)?,
            19 if is("if-unmodified-since") => once(&mut self.conditions.if_unmodified_since, value),
            _ => {}
        }
        Ok(())
    }
}

/// A field that may be there once; a second one is an attack.
fn only<'b>(slot: &mut Option<&'b [u8]>, value: &'b [u8], refusal: Refusal) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(refusal) } else { Ok(()) }
}

/// A field that may be there once; a second one makes it invalid, so that it is ignored.
fn once<'b>(slot: &mut Option<&'b [u8]>, value: &'b [u8]) {
    *slot = Some(if slot.is_some() { b"" } else { value });
}

/// A field that is a list, and may come in several lines (RFC 9110 section 5.3).
fn join<'b>(slot: &mut Option<&'b [u8]>, value: &'b [u8], room: &mut &'b mut [u8]) -> Result<(), Refusal> {
    let Some(before) = *slot else {
        *slot = Some(value);
        return Ok(());
    };
    let len = before.len() + 1 + value.len();
    let (joined, rest) = mem::take(room).split_at_mut_checked(len).ok_or(Refusal::HeadTooLarge)?;
    *room = rest;
    joined[..before.len()].copy_from_slice(before);
    joined[before.len()] = b',';
    joined[before.len() + 1..].copy_from_slice(value);
    *slot = Some(joined);
    Ok(())
}

fn assemble<'b>(
    method: &'b str,
    target: &'b str,
    version: Version,
    fields: &Fields<'b>,
    limits: &Limits,
    room: &mut &'b mut [u8],
) -> Result<Request<'b>, Refusal> {
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let framing = framing(version, fields)?;
    let named = match fields.host {
        Some(value) => target::host(value).ok_or(Refusal::Host)?,
        None if version == Version::Http11 => return Err(Refusal::Host),
        None => "",
    };
    let place = match method {
        // RFC 9112 section 3.2.3: the authority form, and only here. We are no proxy, whatever it names.
        "CONNECT" => Target { authority: None, path: "", query: None, asterisk: false },
        _ => Target::parse(target, room)?,
    };
    if place.asterisk && method != "OPTIONS" {
        return Err(Refusal::Target);
    }
    let host = match place.authority {
        // RFC 9112 section 3.2.2: the target's own host counts, whatever `Host` says.
        Some(authority) => target::host(authority.as_bytes()).ok_or(Refusal::Host)?,
        None => named,
    };
    let expect = match fields.expect {
        // RFC 9110 section 10.1.1: one in a request of version 1.0 is ignored.
        Some(value) if version == Version::Http11 => {
            if value.eq_ignore_ascii_case(b"100-continue") {
                Expect::Continue
            } else {
                Expect::Unknown
            }
        }
        _ => Expect::Nothing,
    };
    let keep = match framing {
        Framing::Length(bytes) => bytes <= limits.body_bytes && expect == Expect::Nothing,
        Framing::Chunked => expect == Expect::Nothing,
        Framing::Empty => true,
    };
    let stays = is_persistent(version, fields.connection);
    Ok(Request {
        method: method_of(method),
        method_text: method,
        version,
        target,
        path: place.path,
        query: place.query,
        host,
        framing,
        sent: fields.sent,
        persistent: keep && stays,
        stays,
        expect,
        conditions: fields.conditions,
        range: fields.range,
        accept: fields.accept,
        accept_encoding: fields.accept_encoding,
        referer: fields.referer,
        user_agent: fields.user_agent,
    })
}

/// RFC 9110 section 9.1: a method that nobody knows is 501, one that is not for this resource 405.
fn method_of(text: &str) -> Method {
    match text {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        "PUT" => Method::Put,
        "POST" | "DELETE" | "CONNECT" | "TRACE" | "PATCH" => Method::NotAllowed,
        _ => Method::Unknown,
    }
}

/// RFC 9112 section 6.3, in its order; where it lets us choose, we refuse.
fn framing(version: Version, fields: &Fields<'_>) -> Result<Framing, Refusal> {
    match (fields.coding, fields.length) {
        (Some(_), Some(_)) => Err(Refusal::BothLengths),
        // RFC 9112 section 6.1: framing in a version that has none of it is faulty.
        (Some(_), None) if version == Version::Http10 => Err(Refusal::TransferCoding),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(coding), None) => {
            let mut names = coding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).rev();
            let is_chunked = |name: &[u8]| name.eq_ignore_ascii_case(b"chunked");
            if names.next().is_some_and(is_chunked) && !names.any(is_chunked) {
                Err(Refusal::UnknownTransferCoding)
            } else {
                Err(Refusal::TransferCoding)
            }
        }
        (None, Some(length)) => Ok(match number(length).ok_or(Refusal::Length)? {
            0 => Framing::Empty,
            bytes => Framing::Length(bytes),
        }),
        (None, None) => Ok(Framing::Empty),
    }
}

/// RFC 9110 section 8.6: digits, and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112 section 9.3.
fn is_persistent(version: Version, connection: Option<&[u8]>) -> bool {
    let has = |name: &[u8]| {
        let options = connection.unwrap_or_default().split(|byte| *byte == b',');
        options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(name))
    };
    !has(b"close") && (version == Version::Http11 || has(b"keep-alive"))
}
