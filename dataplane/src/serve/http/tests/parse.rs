//! Heads: what is taken, what is refused and why.

use super::*;

fn parse_with(raw: &[u8], limits: &Limits) -> Result<(String, String, usize), Option<Refusal>> {
    let mut scratch = Scratch::new(limits);
    match Request::parse(raw, &mut scratch, limits) {
        Parsed::Request(request, len) => Ok((request.host.to_owned(), request.path.to_owned(), len)),
        Parsed::Refused(refusal) => Err(Some(refusal)),
        Parsed::Incomplete => Err(None),
    }
}

fn parse(raw: &[u8]) -> Result<(String, String, usize), Option<Refusal>> {
    parse_with(raw, &Limits::default())
}

/// Path of a target, or why it is refused.
fn path(target: &str) -> Result<String, Refusal> {
    let raw = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    parse(raw.as_bytes()).map(|(_, path, _)| path).map_err(|refusal| refusal.expect("it is whole"))
}

#[test]
fn targets_become_clean_paths() {
    for (target, clean) in [
        ("/", ""),
        ("/a", "a"),
        ("/a/", "a/"),
        ("/a/b.c", "a/b.c"),
        ("//a", "a"),
        ("/a//b///c//", "a/b/c/"),
        ("/./a/./b/.", "a/b/"),
        ("/.", ""),
        ("/a/.", "a/"),
        ("/a/./", "a/"),
        ("/%2e/a", "a"),
        ("/.well-known/x", ".well-known/x"),
        ("/...", "..."),
        ("/..a/b..", "..a/b.."),
        ("/a%20b", "a b"),
        ("/%41%62", "Ab"),
        ("/%c3%bc", "\u{fc}"),
        ("/%E2%82%AC", "\u{20ac}"),
        ("/a?b", "a"),
        ("/a?/../b", "a"),
        ("/a?%00", "a"),
        ("/?", ""),
        ("/a+b", "a+b"),
        ("/a:b@c", "a:b@c"),
        ("/%25%32%65", "%2e"),
        ("/%252e%252e/", "%2e%2e/"),
        ("http://b", ""),
        ("http://b/", ""),
        ("http://b/c", "c"),
        ("HTTP://b:80/c?d", "c"),
        ("http://b?c", ""),
        ("/http://b/c", "http:/b/c"),
    ] {
        assert_eq!(path(target).as_deref(), Ok(clean), "{target}");
    }
}

#[test]
fn paths_that_no_file_can_have_are_refused() {
    for target in [
        "/..",
        "/../",
        "/../etc/passwd",
        "/a/..",
        "/a/../b",
        "/a/../../b",
        "/.//..",
        "/%2e%2e",
        "/%2e%2e/",
        "/%2e%2e%2fetc",
        "/.%2e/",
        "/%2E./",
        "/..%2f",
        "/a%2fb",
        "/a%2Fb",
        "/a\\b",
        "/..\\",
        "/%5c",
        "/..%5c",
        "/%00",
        "/a%00.html",
        "/%0a",
        "/%0d%0a",
        "/%1f",
        "/%7f",
        "/%",
        "/%2",
        "/%zz",
        "/%+1",
        "/%c0%ae%c0%ae/",
        "/%c0%af",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%ff",
        "/%c3",
        "/%ed%a0%80",
        "/%f5%80%80%80",
        "/%u002e",
    ] {
        assert_eq!(path(target), Err(Refusal::Path), "{target}");
    }
}

#[test]
fn targets_in_no_form_are_refused() {
    for (target, refusal) in [
        ("a", Refusal::Target),
        ("*", Refusal::Target),
        ("a:80", Refusal::Target),
        ("/a#b", Refusal::Target),
        ("?a", Refusal::Target),
        ("ftp://a/", Refusal::Target),
        ("http:///a", Refusal::Target),
        ("http://?a", Refusal::Target),
        ("http:/a", Refusal::Target),
        ("https://a/", Refusal::Misdirected),
        ("http://user@a/", Refusal::Host),
        ("http://user:pw@a/", Refusal::Host),
        ("http://a:b/", Refusal::Host),
        ("http://a:99999/", Refusal::Host),
        ("http://a,b/", Refusal::Host),
        ("http://[::1/", Refusal::Host),
        ("http://:80/", Refusal::Host),
    ] {
        assert_eq!(path(target), Err(refusal), "{target}");
    }
    assert_eq!(parse(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").map(|(_, path, _)| path).as_deref(), Ok(""));
    assert_eq!(parse(b"OPTIONS x HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Some(Refusal::Target)));
}

#[test]
fn hosts_are_read() {
    for (value, host) in [
        ("a", Some("a")),
        ("a.example:8080", Some("a.example")),
        ("a.example.", Some("a.example")),
        ("A.Example", Some("A.Example")),
        ("10.0.0.2:80", Some("10.0.0.2")),
        ("[::1]", Some("[::1]")),
        ("[::1]:8080", Some("[::1]")),
        ("[fe80::1%25eth0]", None),
        ("", Some("")),
        ("a:", Some("a")),
        ("a%2db", Some("a%2db")),
        ("x_y-z~1", Some("x_y-z~1")),
        ("a b", None),
        ("a,b", None),
        ("a, b", None),
        ("a/b", None),
        ("a@b", None),
        ("a:b", None),
        ("a:1:2", None),
        ("a:-1", None),
        ("a:+80", None),
        ("a:65536", None),
        ("a:000080", None),
        (":80", None),
        ("[::1", None),
        ("[::1]x", None),
        ("[]", None),
        ("[1.2.3.4]", None),
        ("::1", None),
        ("a%2", None),
        ("a%zz", None),
        ("a\\b", None),
        ("a\"b", None),
        ("<a>", None),
        ("\u{fc}", None),
    ] {
        let raw = format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
        let expected = host.map(str::to_owned).ok_or(Some(Refusal::Host));
        assert_eq!(parse(raw.as_bytes()).map(|(host, ..)| host), expected, "{value}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(256));
    assert_eq!(parse(long.as_bytes()), Err(Some(Refusal::Host)));
    let host = |raw: &str| parse(raw.as_bytes()).map(|(host, ..)| host);
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), Ok(String::new()));
    assert_eq!(host("GET / HTTP/1.1\r\n\r\n"), Err(Some(Refusal::Host)));
    assert_eq!(host("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Err(Some(Refusal::Host)));
    assert_eq!(host("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"), Err(Some(Refusal::Host)));
    // RFC 9112 section 3.2.2: the target's host counts; one of the field must be there and valid all the same.
    assert_eq!(host("GET http://b:1/ HTTP/1.1\r\nHost: a\r\n\r\n"), Ok("b".to_owned()));
    assert_eq!(host("GET http://b/ HTTP/1.1\r\n\r\n"), Err(Some(Refusal::Host)));
    assert_eq!(host("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n"), Err(Some(Refusal::Host)));
}

/// Bytes that two readers could take for different requests, and bytes that are none.
#[test]
fn smuggling_and_nonsense_are_refused() {
    use Refusal::{
        BareLineFeed, BothLengths, Field, Host, Length, RequestLine, TransferCoding, UnknownTransferCoding,
        Version,
    };
    for (raw, refusal) in [
        // The first line.
        ("\0", RequestLine),
        ("\u{16}\u{3}\u{1}", RequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("\t", RequestLine),
        ("\r\r", RequestLine),
        ("\r\n\r\n\r\n", RequestLine),
        ("GET\r\n\r\n", RequestLine),
        ("GET /\r\n\r\n", RequestLine),
        ("GET / \r\n\r\n", RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", RequestLine),
        ("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/11\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        // Ends of lines.
        ("\n", BareLineFeed),
        ("\r\n\n", BareLineFeed),
        ("GET / HTTP/1.1\n", BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\n", BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLineFeed),
        ("GET / HTTP/1.1\nHost: a\n\n", BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\n", BareLineFeed),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", RequestLine),
        // Field lines.
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n : chunked\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: z\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n\u{fc}: b\r\n\r\n", Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n(X): b\r\n\r\n", Field),
        // Lengths.
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nCONTENT-LENGTH: 5\r\n\r\n", Length),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", BothLengths),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", BothLengths),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nContent-Length: 5\r\n\r\n", BothLengths),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\n", BothLengths),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", TransferCoding),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            TransferCoding,
        ),
        ("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", TransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", UnknownTransferCoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", UnknownTransferCoding),
        // Hosts.
        ("GET / HTTP/1.1\r\nX: y\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Host),
    ] {
        assert_eq!(parse(raw.as_bytes()), Err(Some(refusal)), "{raw:?}");
        let seen = ask(raw, Resource::NotFound);
        assert_eq!((seen.status, seen.response.close), (refusal.status(), true), "{raw:?}");
    }
    // Bytes that are not UTF-8 at all.
    assert_eq!(parse(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Some(RequestLine)));
    assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"), Err(Some(Host)));
    assert_eq!(
        parse(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n"),
        Err(Some(TransferCoding))
    );
}

#[test]
fn good_heads_are_taken() {
    for (raw, left) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        ("GET / HTTP/1.1\r\nHost:a\r\n\r\n", 0),
        ("GET / HTTP/1.1\r\nhOST:  \t a \t\r\n\r\n", 0),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", 16),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\n", 1),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\n12345", 5),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \u{fc}\r\n\r\n", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", 0),
        ("GET / HTTP/1.0\r\n\r\n", 0),
        ("HEAD / HTTP/1.0\r\nHost: a\r\n\r\n\0", 1),
    ] {
        match parse(raw.as_bytes()) {
            Ok((.., len)) => assert_eq!(raw.len() - len, left, "{raw:?}"),
            other => panic!("{other:?}: {raw:?}"),
        }
    }
}

/// Each limit holds to the byte, and says which it is.
#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits { head_bytes: 400, fields: 3, target_bytes: 100, ..Limits::default() };
    let check = |raw: &str| parse_with(raw.as_bytes(), &limits).map(|(.., len)| len);
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
    assert!(check(&target(100)).is_ok());
    assert_eq!(check(&target(101)), Err(Some(Refusal::TargetTooLong)));
    assert_eq!(check(&target(300)), Err(Some(Refusal::TargetTooLong)));
    assert_eq!(check(&format!("GET /{}", "x".repeat(130))), Err(None));
    assert_eq!(check(&format!("GET /{}", "x".repeat(150))), Err(Some(Refusal::TargetTooLong)));
    let head = |len: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(len - rest))
    };
    assert_eq!(check(&head(400)), Ok(400));
    assert_eq!(check(&(head(400) + "GET / HTTP")), Ok(400));
    assert_eq!(check(&head(401)), Err(Some(Refusal::HeadTooLarge)));
    assert_eq!(check(&head(401)[..400]), Err(None));
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert!(check(&fields(3)).is_ok());
    assert_eq!(check(&fields(4)), Err(Some(Refusal::HeadTooLarge)));
    let most = Limits { fields: 5000, ..Limits::default() };
    assert!(parse_with(fields(100).as_bytes(), &most).is_ok());
    assert_eq!(parse_with(fields(101).as_bytes(), &most), Err(Some(Refusal::HeadTooLarge)));
    // Joined lists have a bound too.
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "If-Match: \"0123456789\"\r\n".repeat(60));
    assert_eq!(parse(many.as_bytes()), Err(Some(Refusal::HeadTooLarge)));
}

/// Names of refusals are labels of counters.
#[test]
fn refusals_have_names_and_pages() {
    let mut names: Vec<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Refusal::COUNT);
    for refusal in Refusal::ALL {
        let mut out = [0; HEAD_MAX];
        let seen = seen(refuse(*refusal, b"", &site(), &now(), &mut out), &out);
        assert!(seen.response.close && !seen.body(|_| 0).is_empty(), "{refusal:?}");
    }
}
