//! Raw requests to whole answers, against a small tree in memory.

mod delivery;
mod intake;
mod parse;
mod select;
mod store;

use super::*;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sun, 06 Nov 1994 08:49:37 GMT and half a second.
const CHANGED: Duration = Duration::from_millis(784_111_777_500);
/// Mon, 07 Nov 1994 08:49:37 GMT.
const NOW: u64 = 784_198_177;

fn now() -> Date {
    Date::new(UNIX_EPOCH + Duration::from_secs(NOW))
}

fn changed() -> SystemTime {
    UNIX_EPOCH + CHANGED
}

/// A thousand bytes of text, with brotli and gzip beside it.
fn styles() -> Facts {
    Facts::new("a.css", Representation::new(1000, changed(), 7))
        .with(Coding::Brotli, Representation::new(300, changed(), 8))
        .with(Coding::Gzip, Representation::new(400, changed(), 9))
}

/// The entity tag of one of its forms.
fn tag(facts: &Facts, coding: Coding) -> String {
    let form = facts.representation(coding).expect("it is there");
    String::from_utf8(form.etag().text().to_vec()).expect("ASCII")
}

/// What a client would see.
#[derive(Debug)]
struct Seen {
    status: u16,
    head: String,
    response: Response,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        assert!(!lines.any(|(known, _)| known.eq_ignore_ascii_case(name)), "{name} twice: {}", self.head);
        found
    }

    /// `br 5+10`: the form and the stretch of a body that is one.
    fn stretch(&self) -> String {
        match self.response.body {
            Body::Empty => "-".to_owned(),
            Body::File { coding, start, len } => format!("{} {start}+{len}", coding.name()),
            ref other => panic!("{other:?}"),
        }
    }

    /// The whole body, where the file's bytes come from `file`.
    fn body(&self, file: impl Fn(u64) -> u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.response.body.locate(bytes.len() as u64) {
                Place::Bytes(text) => bytes.extend_from_slice(text),
                Place::File { start, len, .. } => bytes.extend((start..start + len).map(&file)),
                Place::End => break,
            }
        }
        assert_eq!(bytes.len() as u64, self.response.body.len());
        bytes
    }
}

/// A head that each answer must have, whatever it is.
fn seen(response: Response, out: &[u8]) -> Seen {
    let head = std::str::from_utf8(&out[..usize::from(response.head_len)]).expect("ASCII").to_owned();
    assert!(head.starts_with(&format!("HTTP/1.1 {} ", response.status)), "{head}");
    assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1, "{head:?}");
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    let seen = Seen { status: response.status, head, response };
    assert_eq!(seen.field("Date"), Some("Mon, 07 Nov 1994 08:49:37 GMT"), "RFC 9110 section 6.6.1");
    let length = seen.field("Content-Length").map(|length| length.parse::<u64>().expect("digits"));
    match seen.status {
        // RFC 9110 section 8.6.
        204 | 304 => assert_eq!(length, None),
        _ if !seen.response.body.is_empty() => assert_eq!(length, Some(seen.response.body.len())),
        _ => assert!(length.is_some(), "{}", seen.head),
    }
    assert_eq!(seen.response.close, seen.field("Connection") == Some("close"));
    seen
}

fn site() -> Policy {
    Policy::new(&PolicyPlan::default()).expect("the default is good")
}

/// Sends one request for what `resource` is.
fn ask_with(raw: &str, resource: Resource<'_>, policy: &Policy) -> Seen {
    let limits = Limits::default();
    let mut scratch = Scratch::new(&limits);
    let mut out = [0; HEAD_MAX];
    let response = match Request::parse(raw.as_bytes(), &mut scratch, &limits) {
        Parsed::Request(request, _) => respond(&request, resource, policy, &now(), &mut out),
        Parsed::Refused(refusal) => refuse(refusal, raw.as_bytes(), policy, &now(), &mut out),
        Parsed::Incomplete => panic!("incomplete: {raw:?}"),
    };
    seen(response, &out)
}

fn ask(raw: &str, resource: Resource<'_>) -> Seen {
    ask_with(raw, resource, &site())
}

/// A GET of version 1.1 with these field lines.
fn get(lines: &[&str], resource: Resource<'_>) -> Seen {
    request("GET", lines, resource)
}

fn request(method: &str, lines: &[&str], resource: Resource<'_>) -> Seen {
    let mut raw = format!("{method} /a.css HTTP/1.1\r\nHost: a\r\n");
    for line in lines {
        write!(raw, "{line}\r\n").expect("memory");
    }
    raw.push_str("\r\n");
    ask(&raw, resource)
}

#[test]
fn a_file_is_served() {
    let facts = styles();
    let seen = get(&[], Resource::File(&facts));
    assert_eq!(
        seen.head,
        format!(
            "HTTP/1.1 200 OK\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\nServer: ringway\r\n\
             Content-Type: text/css; charset=utf-8\r\nContent-Length: 1000\r\nAccept-Ranges: bytes\r\n\
             Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nETag: {}\r\nVary: Accept-Encoding\r\n\r\n",
            tag(&facts, Coding::Identity)
        )
    );
    assert_eq!(seen.stretch(), "identity 0+1000");
    assert_eq!(seen.response.total_len(), seen.head.len() as u64 + 1000);
    let head = request("HEAD", &[], Resource::File(&facts));
    assert_eq!(head.head, seen.head, "RFC 9110 section 9.3.2");
    assert!(head.response.body.is_empty());
    let empty = Facts::new("empty", Representation::new(0, changed(), 7));
    let seen = get(&[], Resource::File(&empty));
    assert_eq!((seen.status, seen.field("Content-Length"), seen.stretch()), (200, Some("0"), "-".to_owned()));
}

#[test]
fn methods_are_told_apart() {
    let facts = styles();
    for (method, status) in [
        ("GET", 200),
        ("HEAD", 200),
        ("OPTIONS", 204),
        ("POST", 405),
        ("PUT", 405),
        ("DELETE", 405),
        ("TRACE", 405),
        ("PATCH", 405),
        ("BREW", 501),
        ("get", 501),
    ] {
        let seen = request(method, &[], Resource::File(&facts));
        assert_eq!(seen.status, status, "{method}");
        let allow = matches!(status, 204 | 405).then_some("GET, HEAD, OPTIONS");
        assert_eq!(seen.field("Allow"), allow, "{method}");
    }
    assert_eq!(ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Resource::NotFound).status, 204);
    assert_eq!(ask("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Resource::NotFound).status, 405);
}

#[test]
fn what_is_not_a_file_is_answered() {
    for (resource, status) in [
        (Resource::NotFound, 404),
        (Resource::Forbidden, 403),
        (Resource::Busy, 503),
        (Resource::Failed, 500),
        (Resource::Redirect, 301),
    ] {
        let seen = get(&[], resource);
        assert_eq!(seen.status, status);
        assert!(!seen.response.close, "the connection goes on");
        let page = String::from_utf8(seen.body(|_| 0)).expect("text");
        assert!(page.contains(&format!("<h1>{status} ")), "{page}");
        assert!(request("HEAD", &[], resource).response.body.is_empty());
    }
}

/// A redirect never leaves the host, whatever the client wrote.
#[test]
fn redirects_stay_here() {
    for (target, location) in [
        ("/docs", "/docs/"),
        ("/docs?x=1&y", "/docs/?x=1&y"),
        ("//evil.example", "/evil.example/"),
        ("///evil.example//x", "/evil.example/x/"),
        ("/%2e/evil", "/evil/"),
        ("http://evil.example/docs", "/docs/"),
        ("/a%20b%0", "400"),
        ("/a%20b", "/a%20b/"),
        ("/a%0d%0aSet-Cookie:x", "400"),
        ("/\u{fc}", "/%C3%BC/"),
        ("/%c3%bc%3f%23%22", "/%C3%BC%3F%23%22/"),
    ] {
        let seen = ask(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Resource::Redirect);
        match location {
            "400" => assert_eq!(seen.status, 400, "{target}"),
            _ => assert_eq!((seen.status, seen.field("Location")), (301, Some(location)), "{target}"),
        }
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2000));
    assert_eq!(ask(&long, Resource::Redirect).status, 414, "a Location that does not fit");
}

/// RFC 9112 section 9.3: who stays, who goes, and what is said about it.
#[test]
fn connections_stay_or_close() {
    for (version, lines, connection) in [
        ("1.1", &[][..], None),
        ("1.1", &["Connection: keep-alive"], None),
        ("1.1", &["Connection: close"], Some("close")),
        ("1.1", &["Connection: CLOSE"], Some("close")),
        ("1.1", &["Connection: x, close"], Some("close")),
        ("1.1", &["Connection: keep-alive", "Connection: close"], Some("close")),
        ("1.1", &["Connection: closed"], None),
        ("1.0", &[], Some("close")),
        ("1.0", &["Connection: keep-alive"], Some("keep-alive")),
        ("1.0", &["Connection: Keep-Alive"], Some("keep-alive")),
        ("1.0", &["Connection: keep-alive, close"], Some("close")),
        ("1.1", &["Content-Length: 65536"], None),
        ("1.1", &["Content-Length: 65537"], Some("close")),
        ("1.1", &["Content-Length: 1", "Expect: 100-continue"], Some("close")),
        ("1.1", &["Expect: 100-continue"], None),
        ("1.1", &["Transfer-Encoding: chunked"], None),
    ] {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let raw = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let seen = ask(&raw, Resource::NotFound);
        assert_eq!((seen.status, seen.field("Connection")), (404, connection), "{raw}");
    }
    let seen = get(&["Expect: a-miracle"], Resource::NotFound);
    assert_eq!((seen.status, seen.response.close), (417, false));
}

/// Whatever a site adds, the longest head fits, and what is refused would have broken it.
#[test]
fn sites_add_fields_and_pages() {
    let plan = PolicyPlan {
        server: None,
        fields: vec![("X-Content-Type-Options".into(), "nosniff".into()), ("X-Long".into(), "y".repeat(200))],
        cache: vec![
            ("/assets/*".into(), "public, max-age=31536000, immutable".into()),
            ("*.css".into(), "max-age=60".into()),
        ],
        pages: vec![(404, "text/plain; charset=utf-8".into(), b"gone\n".to_vec())],
        uploads: true,
    };
    let policy = Policy::new(&plan).expect("good");
    let long = |name: &str| {
        let big = |inode| Representation::new(u64::MAX - inode, changed(), inode);
        Facts::new(name, big(1)).with(Coding::Zstandard, big(2))
    };
    for name in ["x.pptx", "x.css"] {
        let facts = long(name);
        for range in ["Range: bytes=1-", "Range: bytes=1-1,3-3", "X: y", "Range: bytes=-0", "If-Match: x"] {
            let raw = format!(
                "GET /assets/{name} HTTP/1.0\r\nConnection: keep-alive\r\nAccept-Encoding: zstd\r\n{range}\r\n\r\n"
            );
            let seen = ask_with(&raw, Resource::File(&facts), &policy);
            assert!(seen.status != 500 && seen.head.len() < HEAD_MAX, "{}", seen.head);
            assert_eq!(seen.field("X-Content-Type-Options"), Some("nosniff"));
            assert_eq!(seen.field("Server"), None);
            if seen.status < 300 {
                assert_eq!(seen.field("Cache-Control"), Some("public, max-age=31536000, immutable"));
            }
        }
    }
    let gone = ask_with("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Resource::NotFound, &policy);
    assert_eq!(gone.field("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(gone.body(|_| 0), b"gone\n");

    let with = |change: fn(&mut PolicyPlan)| {
        let mut plan = PolicyPlan::default();
        change(&mut plan);
        Policy::new(&plan).expect_err("it would break the head")
    };
    assert_eq!(
        with(|plan| plan.fields = vec![("A".into(), "b\r\nC: d".into())]),
        PolicyError::Value("A".into())
    );
    assert_eq!(with(|plan| plan.fields = vec![("A B".into(), "c".into())]), PolicyError::Name("A B".into()));
    assert_eq!(
        with(|plan| plan.fields = vec![("date".into(), "c".into())]),
        PolicyError::Name("date".into())
    );
    assert_eq!(with(|plan| plan.server = Some("y".repeat(400))), PolicyError::TooLong(410));
    assert_eq!(with(|plan| plan.pages = vec![(200, "a/b".into(), vec![])]), PolicyError::Status(200));
}

#[test]
fn patterns_fit_paths() {
    for (pattern, path, fits) in [
        ("*.css", "a.css", true),
        ("*.css", "x/a.css", true),
        ("*.css", "a.css.map", false),
        ("assets/*", "assets/a/b", true),
        ("/assets/*", "assets/a", true),
        ("assets/*", "x/assets/a", false),
        ("/*", "anything/at/all", true),
        ("*", "", true),
        ("a*b*c", "a-b-c", true),
        ("a*b*c", "acb", false),
        ("aa*a", "aa", false),
        ("index.html", "docs/index.html", true),
        ("/index.html", "docs/index.html", false),
        ("", "a", false),
    ] {
        assert_eq!(Pattern::new(pattern).fits(path), fits, "{pattern} {path}");
    }
}

/// RFC 9110 section 9.3.2: what is wrong with the rest of a HEAD brings no body either.
#[test]
fn a_head_that_is_refused_has_no_body() {
    for raw in [
        "HEAD /%2e%2e/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nHEAD / HTTP/2.0\r\n\r\n",
        "HEAD / HTTP/1.1\r\n\r\n",
    ] {
        let seen = ask(raw, Resource::NotFound);
        assert!(seen.status >= 400 && seen.response.body.is_empty(), "{raw:?}: {}", seen.head);
    }
    for raw in ["HEADS / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        assert!(!ask(raw, Resource::NotFound).response.body.is_empty(), "{raw:?}");
    }
}
