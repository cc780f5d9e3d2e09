//! Which form, which stretches, and whether at all: negotiation, ranges and conditions.

use super::*;

/// A file of `size` bytes without other forms.
fn plain(size: u64) -> Facts {
    Facts::new("a.bin", Representation::new(size, changed(), 7))
}

#[test]
fn forms_are_negotiated() {
    let facts = styles();
    for (accept, form) in [
        (None, "identity"),
        (Some(""), "identity"),
        (Some("gzip"), "gzip"),
        (Some("GZip"), "gzip"),
        (Some("x-gzip"), "gzip"),
        (Some("br"), "br"),
        (Some("zstd"), "identity"),
        (Some("deflate"), "identity"),
        (Some("gzip, deflate, br, zstd"), "br"),
        (Some("gzip;q=1.0, br;q=0.5"), "gzip"),
        (Some("gzip;q=0.5, br;q=0.501"), "br"),
        (Some("gzip ; q=0.5 , br ; Q=0.6"), "br"),
        (Some("br;q=0"), "identity"),
        (Some("br;q=0, gzip"), "gzip"),
        (Some("*"), "br"),
        (Some("*, br;q=0"), "gzip"),
        (Some("*;q=0.1, gzip;q=0.2"), "gzip"),
        (Some("identity"), "identity"),
        (Some("identity, gzip"), "gzip"),
        (Some("identity;q=1, gzip;q=0.5"), "identity"),
        (Some("identity;q=0.5, gzip;q=0.4"), "identity"),
        (Some("identity;q=0.5, gzip;q=0.5"), "gzip"),
        (Some("identity;q=1, *;q=0"), "identity"),
        (Some("gzip, *;q=0"), "gzip"),
        (Some("gzip, identity;q=0"), "gzip"),
        (Some("identity;q=0"), "406"),
        (Some("*;q=0"), "406"),
        (Some("zstd, *;q=0"), "406"),
        (Some("identity;q=0.000"), "406"),
        // What is malformed does not count.
        (Some("gzip;q=2"), "identity"),
        (Some("gzip;q="), "identity"),
        (Some("gzip;q=0.1234"), "identity"),
        (Some("gzip;q=-1"), "identity"),
        (Some("gzip;q=1.5, br"), "br"),
        (Some(",,;q=1,gzip,"), "gzip"),
        (Some("gzip;level=9"), "gzip"),
    ] {
        let line = accept.map(|accept| format!("Accept-Encoding: {accept}"));
        let seen = get(&line.iter().map(String::as_str).collect::<Vec<_>>(), Resource::File(&facts));
        assert_eq!(seen.field("Vary"), Some("Accept-Encoding"), "{accept:?}");
        if form == "406" {
            assert_eq!(seen.status, 406, "{accept:?}");
            continue;
        }
        let size = if form == "br" {
            300
        } else if form == "gzip" {
            400
        } else {
            1000
        };
        assert_eq!(seen.stretch(), format!("{form} 0+{size}"), "{accept:?}");
        assert_eq!(seen.field("Content-Encoding"), (form != "identity").then_some(form), "{accept:?}");
        assert_eq!(seen.field("Content-Type"), Some("text/css; charset=utf-8"), "{accept:?}");
    }
    let lines = ["Accept-Encoding: gzip", "Accept-Encoding: br;q=0.1"];
    assert_eq!(get(&lines, Resource::File(&facts)).stretch(), "gzip 0+400", "lines of a list are one list");
    let seen = get(&["Accept-Encoding: gzip"], Resource::File(&plain(5)));
    assert_eq!((seen.stretch().as_str(), seen.field("Vary")), ("identity 0+5", None));
    let seen = get(&["Accept-Encoding: *;q=0"], Resource::File(&plain(5)));
    assert_eq!(seen.status, 406);
    let longer = plain(5).with(Coding::Gzip, Representation::new(25, changed(), 8));
    assert_eq!(get(&["Accept-Encoding: gzip"], Resource::File(&longer)).stretch(), "identity 0+5");
}

#[test]
fn single_ranges() {
    let facts = plain(1000);
    for (range, answer) in [
        ("bytes=0-0", "0+1"),
        ("bytes=0-499", "0+500"),
        ("bytes=500-", "500+500"),
        ("bytes=-500", "500+500"),
        ("bytes=-1", "999+1"),
        ("bytes=999-", "999+1"),
        ("bytes=999-999", "999+1"),
        ("bytes=0-", "0+1000"),
        ("bytes=0-999", "0+1000"),
        ("bytes=0-1000", "0+1000"),
        ("bytes=0-99999999999999999999999999", "0+1000"),
        ("bytes=-99999999999999999999999999", "0+1000"),
        ("bytes=-1000", "0+1000"),
        ("bytes=-1001", "0+1000"),
        ("BYTES=1-2", "1+2"),
        ("bytes= 1-2", "1+2"),
        ("bytes=,1-2,", "1+2"),
        ("bytes=1-2,5000-", "1+2"),
        ("bytes=1000-", "416"),
        ("bytes=1000-2000", "416"),
        ("bytes=99999999999999999999999999-", "416"),
        ("bytes=-0", "416"),
        ("bytes=1000-,2000-3000", "416"),
        ("bytes=-0,1000-", "416"),
        ("bytes=2-1", "200"),
        ("bytes=0-1,2-1", "200"),
        ("bytes=", "200"),
        ("bytes=,", "200"),
        ("bytes=-", "200"),
        ("bytes=a-b", "200"),
        ("bytes=1", "200"),
        ("bytes=1-2-3", "200"),
        ("bytes=--1", "200"),
        ("bytes=+1-2", "200"),
        ("bytes=1 - 2", "200"),
        ("bytes 1-2", "200"),
        ("bytes", "200"),
        ("", "200"),
        ("items=0-1", "200"),
        ("bytes =0-1", "200"),
        ("bytes=0x1-", "200"),
    ] {
        let seen = get(&[&format!("Range: {range}")], Resource::File(&facts));
        match answer {
            "200" => {
                assert_eq!((seen.status, seen.stretch().as_str()), (200, "identity 0+1000"), "{range}");
                assert_eq!(seen.field("Content-Range"), None);
            }
            "416" => {
                assert_eq!(
                    (seen.status, seen.field("Content-Range")),
                    (416, Some("bytes */1000")),
                    "{range}"
                );
            }
            stretch => {
                assert_eq!((seen.status, seen.stretch()), (206, format!("identity {stretch}")), "{range}");
                let (start, len) = stretch.split_once('+').expect("start+len");
                let (start, len): (u64, u64) = (start.parse().expect("u64"), len.parse().expect("u64"));
                let content = format!("bytes {start}-{}/1000", start + len - 1);
                assert_eq!(seen.field("Content-Range"), Some(content.as_str()), "{range}");
                assert!(seen.field("ETag").is_some() && seen.field("Last-Modified").is_some());
            }
        }
    }
    for (range, status) in [("bytes=0-", 416), ("bytes=-5", 200), ("bytes=0-0", 416), ("bytes=-0", 416)] {
        let seen = get(&[&format!("Range: {range}")], Resource::File(&plain(0)));
        assert_eq!(seen.status, status, "of nothing: {range}");
    }
    // RFC 9110 section 14.2: for GET only; and twice is not valid.
    assert_eq!(request("HEAD", &["Range: bytes=0-1"], Resource::File(&facts)).status, 200);
    assert_eq!(request("OPTIONS", &["Range: bytes=0-1"], Resource::File(&facts)).status, 204);
    assert_eq!(get(&["Range: bytes=0-1", "Range: bytes=2-3"], Resource::File(&facts)).status, 200);
    // The range is one of the form that is sent.
    let lines = ["Range: bytes=-10", "Accept-Encoding: br"];
    let seen = get(&lines, Resource::File(&styles()));
    assert_eq!(
        (seen.stretch().as_str(), seen.field("Content-Range")),
        ("br 290+10", Some("bytes 290-299/300"))
    );
    let huge = get(&["Range: bytes=18446744073709551614-"], Resource::File(&plain(u64::MAX)));
    assert_eq!(huge.stretch(), "identity 18446744073709551614+1");
}

/// Takes a `multipart/byteranges` apart as a client would.
fn take_apart(seen: &Seen, file: impl Fn(u64) -> u8) -> Vec<(String, Vec<u8>)> {
    let kind = seen.field("Content-Type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("multipart");
    assert!((1..=70).contains(&boundary.len()), "RFC 2046 section 5.1.1");
    let body = seen.body(file);
    let delimiter = format!("\r\n--{boundary}");
    let mut pieces = Vec::new();
    let mut rest = &body[..];
    while let Some(at) = memchr::memmem::find(rest, delimiter.as_bytes()) {
        pieces.push(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    assert_eq!(rest, b"--\r\n", "the last delimiter");
    assert_eq!(pieces.remove(0), b"", "no preamble");
    let part = |piece: &[u8]| {
        let end = memchr::memmem::find(piece, b"\r\n\r\n").expect("an empty line") + 4;
        let head = String::from_utf8(piece[..end].to_vec()).expect("text");
        let range = head.split("Content-Range: ").nth(1).expect("a range").trim_end().to_owned();
        assert!(head.starts_with("\r\nContent-Type: application/octet-stream\r\n"), "{head}");
        (range, piece[end..].to_vec())
    };
    pieces.into_iter().map(part).collect()
}

#[test]
fn several_ranges() {
    let facts = plain(1000);
    let file = |at: u64| (at % 251) as u8;
    for (range, parts) in [
        ("bytes=0-1,5-6", &["0-1", "5-6"][..]),
        ("bytes=5-6, 0-1", &["5-6", "0-1"]),
        ("bytes=0-0,-1", &["0-0", "999-999"]),
        ("bytes=0-9,5-14", &["0-9", "5-14"]),
        ("bytes=0-1,2000-,4-5", &["0-1", "4-5"]),
        ("bytes=0-99,200-299,400-499,600-699,800-", &["0-99", "200-299", "400-499", "600-699", "800-999"]),
    ] {
        let seen = get(&[&format!("Range: {range}")], Resource::File(&facts));
        assert_eq!((seen.status, seen.field("Content-Range")), (206, None), "{range}");
        let found = take_apart(&seen, file);
        assert_eq!(found.len(), parts.len(), "{range}");
        for ((content, bytes), part) in found.iter().zip(parts) {
            assert_eq!(content, &format!("bytes {part}/1000"));
            let (first, last) = part.split_once('-').expect("first-last");
            let (first, last): (u64, u64) = (first.parse().expect("u64"), last.parse().expect("u64"));
            assert_eq!(bytes, &(first..=last).map(file).collect::<Vec<_>>(), "{range}");
        }
        // From any offset, the same bytes: that is what a retransmission asks for.
        let whole = seen.body(file);
        for (offset, byte) in whole.iter().enumerate() {
            let found = match seen.response.body.locate(offset as u64) {
                Place::Bytes(bytes) => bytes[0],
                Place::File { start, len, .. } => {
                    assert!(len > 0);
                    file(start)
                }
                Place::End => panic!("{offset} of {}", whole.len()),
            };
            assert_eq!(found, *byte, "{range} at {offset}");
        }
        for beyond in [whole.len() as u64, u64::MAX] {
            assert_eq!(seen.response.body.locate(beyond), Place::End);
        }
    }
}

/// RFC 9110 section 14.2: who wants too much gets the file once, not a hundred times.
#[test]
fn greedy_ranges_get_the_file() {
    let facts = plain(1000);
    let list = |n: usize| {
        let ranges: Vec<String> = (0..n).map(|at| format!("{}-{}", at * 10, at * 10 + 1)).collect();
        format!("Range: bytes={}", ranges.join(","))
    };
    assert_eq!(take_apart(&get(&[&list(RANGES_MAX)], Resource::File(&facts)), |_| 0).len(), RANGES_MAX);
    for range in [
        list(RANGES_MAX + 1).as_str(),
        "Range: bytes=0-,0-",
        "Range: bytes=0-,0-,0-,0-",
        "Range: bytes=0-9,0-9,0-9",
        "Range: bytes=0-900,500-900",
        &format!("Range: bytes={}", ["0-"; 500].join(",")),
    ] {
        let seen = get(&[range], Resource::File(&facts));
        assert_eq!((seen.status, seen.stretch().as_str()), (200, "identity 0+1000"), "{range}");
    }
}

const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

/// The order of RFC 9110 section 13.2.2, over every combination of its four fields.
#[test]
fn conditions_in_their_order() {
    let facts = plain(1000);
    let own = tag(&facts, Coding::Identity);
    // Each with whether its condition is true.
    let tags = [None, Some((own.as_str(), true)), Some(("\"other\"", false)), Some(("*", true))];
    let unmodified =
        [None, Some((BEFORE, false)), Some((SAME, true)), Some((AFTER, true)), Some(("x", true))];
    let modified = [None, Some((BEFORE, true)), Some((SAME, false)), Some((AFTER, false)), Some(("x", true))];
    for if_match in tags {
        for if_unmodified in unmodified {
            for if_none_match in tags.map(|tag| tag.map(|(tag, named)| (tag, !named))) {
                for if_modified in modified {
                    for method in ["GET", "HEAD"] {
                        let first = if_match.or(if_unmodified).is_none_or(|(_, holds)| holds);
                        let second = if_none_match.or(if_modified).is_none_or(|(_, holds)| holds);
                        let status = if !first {
                            412
                        } else if second {
                            200
                        } else {
                            304
                        };
                        let fields = [
                            ("If-Modified-Since", if_modified),
                            ("If-None-Match", if_none_match),
                            ("If-Unmodified-Since", if_unmodified),
                            ("If-Match", if_match),
                        ];
                        let lines: Vec<String> = fields
                            .iter()
                            .filter_map(|(name, value)| value.map(|(value, _)| format!("{name}: {value}")))
                            .collect();
                        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                        let seen = request(method, &lines, Resource::File(&facts));
                        assert_eq!(seen.status, status, "{method} {lines:?}");
                        if status == 304 {
                            assert_eq!(seen.field("ETag"), Some(own.as_str()), "RFC 9110 section 15.4.5");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tags_are_compared() {
    let facts = styles();
    let own = tag(&facts, Coding::Identity);
    let brotli = tag(&facts, Coding::Brotli);
    for (value, none_match, matches) in [
        (own.clone(), 304, 200),
        (format!("W/{own}"), 304, 412),
        (format!("\"a\", {own}"), 304, 200),
        (format!("\"a\",\t,{own}, \"b\""), 304, 200),
        (format!("\"a,b\", W/\"c\", {own}"), 304, 200),
        (format!("\"{own}\""), 200, 412),
        (own.trim_matches('"').to_owned(), 200, 412),
        (own[..own.len() - 1].to_owned(), 200, 412),
        (format!("w/{own}"), 200, 412),
        (brotli, 200, 412),
        ("*".to_owned(), 304, 200),
        ("\"*\"".to_owned(), 200, 412),
        (String::new(), 200, 412),
        ("\"".to_owned(), 200, 412),
        ("W/".to_owned(), 200, 412),
    ] {
        let none = get(&[&format!("If-None-Match: {value}")], Resource::File(&facts));
        let yes = get(&[&format!("If-Match: {value}")], Resource::File(&facts));
        assert_eq!((none.status, yes.status), (none_match, matches), "{value}");
    }
    let lines = [format!("If-None-Match: {own}"), "Accept-Encoding: br".to_owned()];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(get(&lines, Resource::File(&facts)).status, 200, "another form is another thing");
    let lines = ["If-None-Match: \"x\"".to_owned(), format!("If-None-Match: {own}")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let seen = get(&lines, Resource::File(&facts));
    assert_eq!((seen.status, seen.field("Vary")), (304, Some("Accept-Encoding")));
    // RFC 9110 section 13.2.1: conditions do not turn a 404 into anything.
    assert_eq!(get(&["If-Match: \"x\""], Resource::NotFound).status, 404);
    assert_eq!(get(&["If-None-Match: *"], Resource::Redirect).status, 301);
    // The date forms of old.
    for form in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
        assert_eq!(
            get(&[&format!("If-Modified-Since: {form}")], Resource::File(&facts)).status,
            304,
            "{form}"
        );
    }
    let lines = [format!("If-Modified-Since: {SAME}"), format!("If-Modified-Since: {SAME}")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(get(&lines, Resource::File(&facts)).status, 200, "twice is not valid");
}

#[test]
fn a_range_counts_if_the_file_is_the_same() {
    let facts = plain(1000);
    let own = tag(&facts, Coding::Identity);
    for (value, status) in [
        (own.as_str(), 206),
        (SAME, 206),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 206),
        (&format!("W/{own}"), 200),
        ("\"other\"", 200),
        (&format!("{own}, \"x\""), 200),
        (&format!("\"x\", {own}"), 200),
        (BEFORE, 200),
        (AFTER, 200),
        ("*", 200),
        ("", 200),
        ("x", 200),
        ("\"", 200),
    ] {
        let lines = ["Range: bytes=1-2".to_owned(), format!("If-Range: {value}")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(get(&lines, Resource::File(&facts)).status, status, "{value}");
    }
    // Without Range it means nothing; and a bad range is not even looked at when the file is another.
    assert_eq!(get(&["If-Range: \"other\""], Resource::File(&facts)).status, 200);
    let lines = ["Range: bytes=5000-", "If-Range: \"other\""];
    assert_eq!(get(&lines, Resource::File(&facts)).status, 200);
    // Steps 1 to 4 come first.
    let lines = [format!("If-None-Match: {own}"), "Range: bytes=1-2".to_owned(), format!("If-Range: {own}")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(get(&lines, Resource::File(&facts)).status, 304);
    assert_eq!(get(&["If-Match: \"x\"", "Range: bytes=1-2"], Resource::File(&facts)).status, 412);
    // Changed within this very second: its date is no strong validator yet.
    let this_second = UNIX_EPOCH + Duration::from_secs(NOW);
    let fresh = Facts::new("a", Representation::new(10, this_second, 1));
    let lines = ["Range: bytes=1-2", "If-Range: Mon, 07 Nov 1994 08:49:37 GMT"];
    assert_eq!(get(&lines, Resource::File(&fresh)).status, 200);
    // RFC 9110 section 8.8.2.1: no file is younger than the answer.
    let future = Facts::new("a", Representation::new(10, this_second + Duration::from_secs(9), 1));
    let seen = get(&[], Resource::File(&future));
    assert_eq!(seen.field("Last-Modified"), seen.field("Date"));
}

#[test]
fn listings_come_as_html_or_json() {
    let listing = Listing { html: b"<p>".as_slice().into(), json: b"[]".as_slice().into() };
    for (accept, body) in [
        ("text/html", "<p>"),
        ("*/*", "<p>"),
        ("application/json", "[]"),
        ("APPLICATION/JSON", "[]"),
        ("application/*", "[]"),
        ("text/html, application/json", "<p>"),
        ("text/html;q=0.5, application/json", "[]"),
        ("application/json;q=0.9, */*;q=0.1", "[]"),
        ("application/json;q=0, */*", "<p>"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "<p>"),
        ("", "<p>"),
    ] {
        let seen = get(&[&format!("Accept: {accept}")], Resource::Listing(&listing));
        assert_eq!(seen.body(|_| 0), body.as_bytes(), "{accept}");
        assert_eq!((seen.status, seen.field("Vary")), (200, Some("Accept")));
    }
}

/// Which form was chosen decides the tag that a condition fails on and the length that a range is beyond: a cache must know.
#[test]
fn errors_over_a_chosen_form_vary_with_it() {
    let (many, one) = (styles(), plain(1000));
    for (line, status) in [("If-Match: \"x\"", 412), ("Range: bytes=999-", 416), ("Range: bytes=5000-", 416)]
    {
        let seen = get(&["Accept-Encoding: gzip", line], Resource::File(&many));
        assert_eq!((seen.status, seen.field("Vary")), (status, Some("Accept-Encoding")), "{line}");
        let seen = get(&[line], Resource::File(&one));
        assert_eq!(seen.field("Vary"), None, "{line}: there is nothing to choose from");
    }
    let seen = get(&["Accept-Encoding: gzip", "Range: bytes=999-"], Resource::File(&many));
    assert_eq!(seen.field("Content-Range"), Some("bytes */400"));
}
