//! What is asked for.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// An `http` URL, taken apart (RFC 3986, as far as a client needs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Path and query, as they go into a request.
    pub path: String,
}

/// Why a text is no URL that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// TLS.
    #[error("{0}: there is no TLS here; ask for the http:// address of the same server")]
    Tls(String),
    /// No scheme, or another one.
    #[error("{0}: an address begins with http://, as in http://10.0.0.2:8080/file")]
    Scheme(String),
    /// A user name in it.
    #[error("{0}: give a user's name as --header 'Authorization: ..', not in the address")]
    User(String),
    /// No host, or one that cannot be.
    #[error("{0}: there is no host in it, as in http://10.0.0.2:8080/file")]
    Host(String),
    /// No TCP port.
    #[error("{0}: {1:?} is no TCP port, which goes from 1 to 65535")]
    Port(String, String),
    /// A character that cannot be sent.
    #[error("{0}: {1:?} cannot be in a path; write it in percent, as %20 for a space")]
    Path(String, char),
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let owned = || text.to_owned();
        let starts =
            |scheme: &str| text.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme));
        if starts("https://") {
            return Err(UrlError::Tls(owned()));
        }
        if !starts("http://") {
            return Err(UrlError::Scheme(owned()));
        }
        let rest = &text["http://".len()..];
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::User(owned()));
        }
        let (host, port) = authority_of(authority).ok_or_else(|| UrlError::Host(owned()))?;
        let port = match port {
            "" => 80,
            digits => match digits.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(UrlError::Port(owned(), digits.to_owned())),
            },
        };
        // What is behind # is the reader's business, and never sent.
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        check_path(text, &path)?;
        Ok(Self { host: host.to_owned(), port, path })
    }
}

/// Refuses what would break the request line.
pub(super) fn check_path(text: &str, path: &str) -> Result<(), UrlError> {
    match path.chars().find(|it| !it.is_ascii_graphic()) {
        Some(odd) => Err(UrlError::Path(text.to_owned(), odd)),
        None => Ok(()),
    }
}

/// Host and port; the port is empty where there is none.
fn authority_of(authority: &str) -> Option<(&str, &str)> {
    let port_of = |rest: &'_ str| -> Option<usize> {
        if rest.is_empty() { Some(0) } else { rest.starts_with(':').then_some(1) }
    };
    if let Some(inner) = authority.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return Some((host, &rest[port_of(rest)?..]));
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!host.is_empty() && host.bytes().all(sound)).then_some((host, &rest[port_of(rest)?..]))
}

impl Url {
    /// The host as a request names it (RFC 9110 section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    /// The host, if it is an IP address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Where the server is: the first address that the system's resolver knows.
    ///
    /// # Errors
    /// When it knows none.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let found = (self.host.as_str(), self.port).to_socket_addrs()?.next();
        found.ok_or_else(|| io::Error::other("the name has no address"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<(String, u16, String), UrlError> {
        text.parse().map(|url: Url| (url.host, url.port, url.path))
    }

    #[test]
    fn addresses_are_taken_apart() {
        let url = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(parsed("http://10.0.0.2:8080/a/b?c=d#e"), url("10.0.0.2", 8080, "/a/b?c=d"));
        assert_eq!(parsed("HTTP://server"), url("server", 80, "/"));
        assert_eq!(parsed("http://server?x"), url("server", 80, "/?x"));
        assert_eq!(parsed("http://[fd77::1]:81/"), url("fd77::1", 81, "/"));
        assert_eq!(parsed("http://[fd77::1]"), url("fd77::1", 80, "/"));
        let round = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(round("http://[fd77::1]:81/x"), Ok("http://[fd77::1]:81/x".to_owned()));
        assert_eq!(round("http://server:80/x"), Ok("http://server/x".to_owned()));
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_in_words() {
        let words = |text: &str| parsed(text).expect_err(text).to_string();
        assert!(words("https://server/").contains("no TLS"));
        for text in ["server/", "ftp://server/", "", "http:/server", "httpx://a"] {
            assert!(words(text).contains("begins with http://"), "{text}");
        }
        for text in [
            "http://",
            "http:///x",
            "http://:80/",
            "http://[::1",
            "http://[x]/",
            "http://a b/",
            "http://[::1]x/",
        ] {
            assert!(words(text).contains("no host"), "{text}");
        }
        for text in ["http://a:0/", "http://a:65536/", "http://a:x/", "http://a:1:2/"] {
            assert!(words(text).contains("no TCP port"), "{text}");
        }
        assert!(words("http://a/b c").contains("%20"));
        assert!(words("http://a/\r\nx").contains("percent"));
        assert!(words("http://me@a/").contains("Authorization"));
    }

    proptest! {
        /// Any text is a URL or an error, and never a panic; and what was parsed once is parsed the same again.
        #[test]
        fn any_text_is_survived(text in "(http://)?[\\PC/:@\\[\\]?#]{0,24}") {
            if let Ok(url) = text.parse::<Url>() {
                prop_assert_eq!(url.to_string().parse::<Url>(), Ok(url));
            }
        }
    }
}
