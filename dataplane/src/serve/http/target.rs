//! The request target and the host: which file of which site (RFC 9112 section 3.2).

use super::status::Refusal;
use std::mem;
use std::net::Ipv6Addr;

/// What the target of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'b> {
    /// Of the absolute form: it overrides `Host`.
    pub(crate) authority: Option<&'b str>,
    /// Clean and relative.
    pub(crate) path: &'b str,
    /// After the question mark, as sent.
    pub(crate) query: Option<&'b str>,
    /// The asterisk of `OPTIONS *`.
    pub(crate) asterisk: bool,
}

impl<'b> Target<'b> {
    /// Origin, absolute and asterisk form; `CONNECT`'s authority form is the caller's. Decoded text goes into `room`.
    pub(crate) fn parse(target: &'b str, room: &mut &'b mut [u8]) -> Result<Self, Refusal> {
        if target == "*" {
            return Ok(Self { authority: None, path: "", query: None, asterisk: true });
        }
        // RFC 9112 section 3.2: a target has no fragment.
        if target.contains('#') {
            return Err(Refusal::Target);
        }
        let (authority, rest) = if target.starts_with('/') { (None, target) } else { absolute(target)? };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        Ok(Self { authority, path: clean(path, room)?, query, asterisk: false })
    }
}

/// `http://host/path` into host and `/path` (RFC 9112 section 3.2.2). An empty path stays empty.
fn absolute(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::Misdirected);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Refusal::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    // RFC 9110 section 4.2.1: an http URI without a host is invalid. (4.2.4: so is one with a user; `host` sees to it.)
    if authority.is_empty() { Err(Refusal::Target) } else { Ok((Some(authority), rest)) }
}

/// Takes `/a/b` apart, decodes it (RFC 3986 section 2.1) and leaves `a/b`.
fn clean<'b>(path: &'b str, room: &mut &'b mut [u8]) -> Result<&'b str, Refusal> {
    let plain = |pair: &[u8]| !matches!(pair, [b'/', b'/' | b'.']);
    let bytes = path.as_bytes();
    let easy = bytes.iter().all(|byte| *byte > b' ' && !matches!(byte, b'%' | b'\\' | 0x7f));
    if easy && bytes.windows(2).all(plain) {
        return Ok(path.strip_prefix('/').unwrap_or(path));
    }
    let (out, rest) = mem::take(room).split_at_mut_checked(bytes.len()).ok_or(Refusal::HeadTooLarge)?;
    *room = rest;
    let len = decode(bytes, out)?;
    // UTF-8 of more bytes than needed is refused here too.
    std::str::from_utf8(&out[..len]).map_err(|_| Refusal::Path)
}

/// Decodes into `out`, which is as long as `path`, and drops empty and `.` segments. Bytes written.
fn decode(path: &[u8], out: &mut [u8]) -> Result<usize, Refusal> {
    let mut len = 0;
    for segment in path.split_inclusive(|byte| *byte == b'/') {
        let start = len;
        let (name, slash) = match segment.split_last() {
            Some((b'/', name)) => (name, true),
            _ => (segment, false),
        };
        let mut name = name.iter();
        while let Some(&byte) = name.next() {
            let byte = match byte {
                b'%' => {
                    let [high, low] = [digit(name.next())?, digit(name.next())?];
                    high << 4 | low
                }
                byte => byte,
            };
            // An encoded slash would be a slash in a name, which no file has; taking it for a separator would let
            // `..%2f` through other people's filters.
            if byte < b' ' || matches!(byte, b'/' | b'\\' | 0x7f) {
                return Err(Refusal::Path);
            }
            out[len] = byte;
            len += 1;
        }
        match &out[start..len] {
            // RFC 3986 section 5.2.4 would take them off; who sends them has not, or hides them.
            b".." => return Err(Refusal::Path),
            b"." => len = start,
            b"" => {}
            _ if slash => {
                out[len] = b'/';
                len += 1;
            }
            _ => {}
        }
    }
    Ok(len)
}

fn digit(byte: Option<&u8>) -> Result<u8, Refusal> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(Refusal::Path),
    }
}

/// The host of `Host` or of an authority, without its port and the root's dot; empty if the field is (RFC 3986 section
/// 3.2.2, RFC 9110 section 7.2). `None`: not a host.
pub(crate) fn host(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        (
            text.split_at(address.len() + 2).0,
            port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?,
        )
    } else {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        if name.len() > 255 || !is_name(name.as_bytes()) || (name.is_empty() && !text.is_empty()) {
            return None;
        }
        (name.strip_suffix('.').unwrap_or(name), port)
    };
    let port_fits =
        port.is_empty() || (port.len() <= 5 && port.parse::<u16>().is_ok() && !port.starts_with('+'));
    port_fits.then_some(host)
}

/// RFC 3986's reg-name, without the comma: two hosts in one field are not a host.
fn is_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => digit(bytes.next()).is_ok() && digit(bytes.next()).is_ok(),
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';'
            | b'=' => true,
            byte => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
    }
    true
}
