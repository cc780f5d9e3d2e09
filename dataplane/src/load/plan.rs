//! What is to be asked, how often, and for how long.

use super::reader::BodyHash;
use super::url::{Url, UrlError, check_path};
use std::net::SocketAddr;
use std::time::Duration;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Each connection sends its next request when it has the answer to one before.
    Closed,
    /// So many a second, at times that are fixed beforehand and do not wait for the server.
    Rate(f64),
}

/// What is done with bodies besides counting their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing.
    Lengths,
    /// Each is to be the same as the first of its path.
    First,
    /// Each is to have this hash.
    Hash(BodyHash),
}

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where the server is.
    pub server: SocketAddr,
    /// Requests as they go out, asked for in turn; never empty.
    pub requests: Vec<Box<[u8]>>,
    /// The path of each.
    pub paths: Vec<String>,
    /// Connections of all threads or workers together.
    pub connections: usize,
    /// Requests that a connection may have under way.
    pub pipeline: usize,
    /// When requests are sent.
    pub mode: Mode,
    /// How long requests are sent, but not counted.
    pub warmup: Duration,
    /// How long they are counted.
    pub duration: Option<Duration>,
    /// How many are counted, at most.
    pub limit: Option<u64>,
    /// How long an answer, or a handshake, may take.
    pub timeout: Duration,
    /// What is done with bodies.
    pub verify: Verify,
}

/// Why there can be no such run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No address of what is to be asked for.
    #[error("there is nothing to ask for: give an address, as http://10.0.0.2:8080/file")]
    Nothing,
    /// An address.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Two servers.
    #[error("{0} and {1} are two servers; give one run addresses of one server")]
    TwoServers(String, String),
    /// A field that would break the head.
    #[error("--header {0:?}: give a name and a value, as 'Accept: */*'")]
    Header(String),
    /// A path without a slash.
    #[error("{0:?} is no path: each line of --paths begins with a slash")]
    Path(String),
}

/// What to ask for: the paths of one server, and the fields that go with each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// The first address, which names the server.
    pub url: Url,
    /// The path of each request.
    pub paths: Vec<String>,
    /// Each request as it goes out.
    pub requests: Vec<Box<[u8]>>,
}

impl Questions {
    /// From what the user typed: addresses of one server, further paths there, fields as `Name: value`.
    ///
    /// # Errors
    /// [`PlanError`], which says what is wrong with which of them.
    pub fn new(urls: &[String], paths: &[String], fields: &[String]) -> Result<Self, PlanError> {
        let parsed: Vec<Url> = urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
        let Some(url) = parsed.first().cloned() else { return Err(PlanError::Nothing) };
        if let Some(other) = parsed.iter().find(|other| (&other.host, other.port) != (&url.host, url.port)) {
            return Err(PlanError::TwoServers(url.to_string(), other.to_string()));
        }
        // With a list of paths the address only names the server.
        let mut all: Vec<String> = Vec::new();
        if paths.is_empty() || parsed.len() > 1 || url.path != "/" {
            all.extend(parsed.into_iter().map(|url| url.path));
        }
        for path in paths {
            if !path.starts_with('/') {
                return Err(PlanError::Path(path.clone()));
            }
            check_path(path, path)?;
            all.push(path.clone());
        }
        let mut tail = String::new();
        for field in fields {
            let (name, value) = field_of(field).ok_or_else(|| PlanError::Header(field.clone()))?;
            tail += &format!("{name}: {value}\r\n");
        }
        let names_host = fields.iter().any(|field| field_of(field).is_some_and(|(name, _)| is_host(name)));
        let host = if names_host { String::new() } else { format!("Host: {}\r\n", url.authority()) };
        let request = |path: &String| format!("GET {path} HTTP/1.1\r\n{host}{tail}\r\n").into_bytes().into();
        Ok(Self { requests: all.iter().map(request).collect(), paths: all, url })
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

/// RFC 9110 section 5: a token, and visible characters.
fn field_of(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let visible = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    let sound = !name.is_empty() && name.bytes().all(token) && value.bytes().all(visible);
    sound.then(|| (name, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(urls: &[&str], paths: &[&str], fields: &[&str]) -> Result<Questions, PlanError> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Questions::new(&owned(urls), &owned(paths), &owned(fields))
    }

    #[test]
    fn requests_are_what_the_standard_asks_for() {
        let found = questions(&["http://a:81/x", "http://a:81/y?z"], &["/list"], &["Accept: */*"]);
        let found = found.expect("sound");
        assert_eq!(found.paths, ["/x", "/y?z", "/list"]);
        assert_eq!(*found.requests[1], *b"GET /y?z HTTP/1.1\r\nHost: a:81\r\nAccept: */*\r\n\r\n");
        let found = questions(&["http://a/"], &["/list"], &["host:b"]).expect("sound");
        assert_eq!(found.requests, [b"GET /list HTTP/1.1\r\nhost: b\r\n\r\n".as_slice().into()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let words = |urls: &[&str], paths: &[&str], fields: &[&str]| {
            questions(urls, paths, fields).expect_err("an error").to_string()
        };
        assert!(words(&[], &[], &[]).contains("nothing to ask for"));
        assert!(words(&["http://a/", "http://b/"], &[], &[]).contains("two servers"));
        assert!(words(&["http://a/"], &["x"], &[]).contains("slash"));
        assert!(words(&["http://a/"], &["/x y"], &[]).contains("%20"));
        for field in ["x", ": y", "a b: c", "a: b\r\nc: d", "a\u{e4}: b"] {
            assert!(words(&["http://a/"], &[], &[field]).contains("--header"), "{field}");
        }
    }
}
