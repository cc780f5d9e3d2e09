//! Requests that store something: what is read of them, when they may, and what they are answered.

use super::*;

fn parsed<T>(raw: &str, look: impl FnOnce(&Request<'_>) -> T) -> T {
    let limits = Limits::default();
    let mut scratch = Scratch::new(&limits);
    match Request::parse(raw.as_bytes(), &mut scratch, &limits) {
        Parsed::Request(request, _) => look(&request),
        other => panic!("{raw:?}: {other:?}"),
    }
}

fn put(lines: &str) -> String {
    format!("PUT /a.css HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

/// A length of 0 is a length; a part or a coded form is no whole.
#[test]
fn what_is_said_of_a_body_is_read() {
    for (lines, framing, [measured, partial, encoded]) in [
        ("", Framing::Empty, [false; 3]),
        ("Content-Length: 0\r\n", Framing::Empty, [true, false, false]),
        ("Content-Length: 7\r\n", Framing::Length(7), [true, false, false]),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked, [false; 3]),
        ("Content-Length: 7\r\nContent-Range: bytes 0-6/9\r\n", Framing::Length(7), [true, true, false]),
        ("Content-Length: 7\r\nContent-Encoding: gzip\r\n", Framing::Length(7), [true, false, true]),
        ("Content-Length: 7\r\nContent-Encoding: Identity\r\n", Framing::Length(7), [true, false, false]),
    ] {
        let want = Sent { measured, partial, encoded };
        parsed(&put(lines), |request| {
            assert_eq!(
                (request.method, request.framing, request.sent),
                (Method::Put, framing, want),
                "{lines}"
            );
        });
    }
    // Thrown away, such a body ends the connection; stored, it need not.
    for (lines, persistent, stays) in [
        ("Content-Length: 99999999\r\n", false, true),
        ("Content-Length: 7\r\nExpect: 100-continue\r\n", false, true),
        ("Content-Length: 7\r\nConnection: close\r\n", false, false),
        ("Content-Length: 7\r\n", true, true),
    ] {
        let seen = parsed(&put(lines), |request| (request.persistent, request.stays));
        assert_eq!(seen, (persistent, stays), "{lines}");
    }
}

/// RFC 9110 section 13.2.2, of a file that is there and of one that is not.
#[test]
fn conditions_of_storing() {
    let file = Representation::new(1000, changed(), 7);
    let tag = String::from_utf8(file.etag().text().to_vec()).expect("ASCII");
    let weak = format!("If-None-Match: W/{tag}\r\n");
    let strong = format!("If-Match: \"x\", {tag}\r\n");
    let weak_match = format!("If-Match: W/{tag}\r\n");
    for (lines, there, not_there) in [
        ("", true, true),
        ("If-None-Match: *\r\n", false, true),
        (&*weak, false, true),
        ("If-None-Match: \"x\"\r\n", true, true),
        ("If-Match: *\r\n", true, false),
        (&*strong, true, false),
        (&*weak_match, false, false),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", true, true),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", false, true),
        ("If-Unmodified-Since: nonsense\r\n", true, true),
        // For GET and HEAD only.
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", true, true),
    ] {
        let may = |file| parsed(&put(lines), |request| may_store(&request.conditions, file));
        assert_eq!((may(Some(&file)), may(None)), (there, not_there), "{lines}");
    }
}

#[test]
fn answers_to_storing() {
    let etag = *Representation::new(1000, changed(), 7).etag();
    for (storage, status, tag, length) in [
        (Storage::Created(etag), 201, true, Some("0")),
        (Storage::Replaced(etag), 204, true, None),
        (Storage::Refused(409), 409, false, Some("105")),
        (Storage::Refused(503), 503, false, Some("127")),
    ] {
        let mut out = [0; HEAD_MAX];
        let response = parsed(&put("Content-Length: 7\r\n"), |request| {
            stored(request, storage, &site(), &now(), &mut out)
        });
        let seen = seen(response, &out);
        assert_eq!((seen.status, seen.field("Content-Length")), (status, length), "{}", seen.head);
        assert_eq!(seen.field("ETag").is_some(), tag, "{}", seen.head);
        assert_eq!(seen.field("Retry-After").is_some(), status == 503, "{}", seen.head);
    }
    let mut out = [0; HEAD_MAX];
    let interim = invite(&mut out);
    assert_eq!(&out[..usize::from(interim.head_len)], b"HTTP/1.1 100 Continue\r\n\r\n");
    let uploads = Policy::new(&PolicyPlan { uploads: true, ..PolicyPlan::default() }).expect("good");
    let options = "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (policy, allow) in [(&site(), "GET, HEAD, OPTIONS"), (&uploads, "GET, HEAD, OPTIONS, PUT")] {
        assert_eq!(ask_with(options, Resource::NotFound, policy).field("Allow"), Some(allow));
    }
    let refused = ask(&put("Content-Length: 0\r\n"), Resource::NotFound);
    assert_eq!((refused.status, refused.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
}

/// The content of a chunked body is found, however its bytes come, and not a byte of framing with it.
#[test]
fn content_of_chunks() {
    let body = b"5;x=y\r\nhello\r\nA\r\n, chunked \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\nGET";
    for piece in 1..=body.len() {
        let (mut chunks, mut content, mut ended) = (Chunks::new(1000), Vec::new(), None);
        let mut from = 0;
        while ended.is_none() {
            let bytes = &body[from..(from + piece).min(body.len())];
            match chunks.next(bytes).expect("no fault") {
                Part::Data { from: start, to } => {
                    content.extend_from_slice(&bytes[start..to]);
                    from += to;
                }
                Part::More => from += bytes.len(),
                Part::End(used) => ended = Some(from + used),
            }
        }
        assert_eq!((&content[..], ended), (&b"hello, chunked world"[..], Some(body.len() - 3)), "{piece}");
    }
    assert_eq!(Chunks::new(5).next(b"6\r\nhello!"), Err(Refusal::BodyTooLarge));
    assert_eq!(Chunks::new(100).next(b"6 \r\nhello!"), Err(Refusal::Chunk));
}
