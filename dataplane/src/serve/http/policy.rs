//! What a site adds to its answers: fields, cache rules, error pages. Made once, checked once.

use super::status::STATUSES;
use std::sync::Arc;

/// As a person writes it.
#[derive(Clone, Debug)]
pub struct PolicyPlan {
    /// The value of `Server`; `None` leaves the field out.
    pub server: Option<String>,
    /// Fields of every answer: name and value.
    pub fields: Vec<(String, String)>,
    /// `Cache-Control` by pattern of the path; the first that fits counts. See [`Pattern`].
    pub cache: Vec<(String, String)>,
    /// Pages for statuses from 400 on: status, media type, content.
    pub pages: Vec<(u16, String, Vec<u8>)>,
    /// Whether `PUT` is among the methods that are allowed.
    pub uploads: bool,
}

impl Default for PolicyPlan {
    fn default() -> Self {
        let server = Some("ringway".to_owned());
        Self { server, fields: Vec::new(), cache: Vec::new(), pages: Vec::new(), uploads: false }
    }
}

/// What is wrong with a plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Not a field name (RFC 9110 section 5.6.2), or one that HTTP itself writes.
    #[error("`{0}` cannot be added to answers: it is no field name, or one that the server writes itself")]
    Name(String),
    /// Not a field value (RFC 9110 section 5.5).
    #[error("the value of `{0}` has characters that a field cannot have")]
    Value(String),
    /// More than fits beside the other fields of a head.
    #[error("the fields take {0} bytes; {FIELDS_ROOM} fit")]
    TooLong(usize),
    /// A page for a status that has none.
    #[error("no page can be set for status {0}")]
    Status(u16),
}

/// Bytes that the added fields may take, so that each head fits [`HEAD_MAX`](super::HEAD_MAX).
pub const FIELDS_ROOM: usize = 320;

/// Ready for use. Shared by workers.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Lines for every answer, `Server` among them.
    lines: Vec<u8>,
    cache: Vec<(Pattern, Vec<u8>)>,
    pages: Vec<(u16, Page)>,
    uploads: bool,
}

/// A page of the site's own for a status.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) media: String,
    pub(crate) content: Arc<[u8]>,
}

impl Policy {
    /// Checks a plan.
    ///
    /// # Errors
    /// If it would write something that is not HTTP.
    pub fn new(plan: &PolicyPlan) -> Result<Self, PolicyError> {
        let mut lines = Vec::new();
        let server = plan.server.iter().map(|value| ("Server", value.as_str()));
        let fields = plan.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in server.chain(fields) {
            check(name, value, name != "Server")?;
            line(&mut lines, name, value);
        }
        let mut longest = 0;
        let mut cache = Vec::new();
        for (pattern, value) in &plan.cache {
            check("Cache-Control", value, false)?;
            let mut text = Vec::new();
            line(&mut text, "Cache-Control", value);
            longest = longest.max(text.len());
            cache.push((Pattern::new(pattern), text));
        }
        if lines.len() + longest > FIELDS_ROOM {
            return Err(PolicyError::TooLong(lines.len() + longest));
        }
        let mut pages = Vec::new();
        for (status, media, content) in &plan.pages {
            if *status < 400 || !STATUSES.contains(status) {
                return Err(PolicyError::Status(*status));
            }
            check("Content-Type", media, false)?;
            if media.len() > 80 {
                return Err(PolicyError::Value("Content-Type".to_owned()));
            }
            pages.push((*status, Page { media: media.clone(), content: content.as_slice().into() }));
        }
        Ok(Self { lines, cache, pages, uploads: plan.uploads })
    }

    /// Lines for every answer.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The line for a path, if a rule fits it.
    pub(crate) fn cache_line(&self, path: &str) -> Option<&[u8]> {
        let (_, line) = self.cache.iter().find(|(pattern, _)| pattern.fits(path))?;
        Some(line)
    }

    /// The line that says which methods there are.
    pub(crate) const fn allow(&self) -> &'static [u8] {
        if self.uploads { b"Allow: GET, HEAD, OPTIONS, PUT\r\n" } else { b"Allow: GET, HEAD, OPTIONS\r\n" }
    }

    pub(crate) fn page(&self, status: u16) -> Option<&Page> {
        self.pages.iter().find(|(of, _)| *of == status).map(|(_, page)| page)
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.trim_ascii().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Fields that HTTP writes: another of them would contradict it.
const OURS: &[&str] = &[
    "server",
    "date",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "trailer",
    "upgrade",
    "etag",
    "last-modified",
    "accept-ranges",
    "vary",
    "location",
    "allow",
];

fn check(name: &str, value: &str, added: bool) -> Result<(), PolicyError> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let ours = OURS.iter().any(|known| name.eq_ignore_ascii_case(known));
    if name.is_empty() || !name.bytes().all(is_token) || (added && ours) {
        return Err(PolicyError::Name(name.to_owned()));
    }
    let fits = |byte: u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if value.bytes().all(fits) { Ok(()) } else { Err(PolicyError::Value(name.to_owned())) }
}

/// A pattern of paths: `*` stands for any characters, slashes too; anything else for itself. Without a slash it is
/// compared with the last segment only. A slash at its beginning is the root's, and may be left out.
///
/// `*.css` · `assets/*` · `/index.html` · `*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    whole: bool,
}

impl Pattern {
    /// Any text is a pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.trim_start_matches('/').to_owned(), whole: text.contains('/') }
    }

    /// Whether it fits a clean path.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        let path = if self.whole { path } else { path.rsplit('/').next().unwrap_or(path) };
        let mut pieces = self.text.split('*');
        // `split` gives one piece at least: what stands before the first star.
        let Some(mut rest) = path.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            let Some((_, after)) = rest.split_once(piece) else { return false };
            rest = after;
        }
        rest.ends_with(last)
    }
}
