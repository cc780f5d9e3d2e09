//! However the bytes come, the answer is the same; and whatever they are, nothing panics.

use super::*;
use proptest::prelude::*;

/// What a parse says, without the borrow.
fn verdict(bytes: &[u8], limits: &Limits) -> String {
    let mut scratch = Scratch::new(limits);
    format!("{:?}", Request::parse(bytes, &mut scratch, limits))
}

/// The first prefix that says something must say what the whole says.
fn check(bytes: &[u8], limits: &Limits) -> Result<(), TestCaseError> {
    let whole = verdict(bytes, limits);
    for end in 0..bytes.len() {
        let part = verdict(&bytes[..end], limits);
        if part != "Incomplete" {
            prop_assert_eq!(&part, &whole, "{} of {} bytes: {:?}", end, bytes.len(), bytes);
        }
    }
    Ok(())
}

/// Bytes that look like a request, more or less.
fn like_a_request() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "GET ",
        "HEAD ",
        "OPTIONS ",
        "POST ",
        "/",
        "/a",
        "/..",
        "%2e",
        "%",
        "*",
        "http://h/",
        "?",
        " HTTP/1.1",
        " HTTP/1.0",
        " HTTP/2.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        "Host: a",
        "Content-Length: 3",
        "Content-Length: ",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "Range: bytes=0-1",
        "If-Match: ",
        "\"x\"",
        ",",
        "xxxxxxxxxxxx",
        "\0",
        "\u{fc}",
        "Expect: 100-continue",
        "Accept-Encoding: br;q=0.5",
    ]);
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes, &Limits::default())?;
        check(&bytes, &Limits { head_bytes: 64, fields: 2, target_bytes: 8, ..Limits::default() })?;
    }

    #[test]
    fn bytes_like_a_request(bytes in like_a_request()) {
        check(&bytes, &Limits::default())?;
        check(&bytes, &Limits { head_bytes: 100, fields: 2, target_bytes: 8, ..Limits::default() })?;
    }

    /// A whole head with any values of the fields that we look into: each answer is well-formed.
    #[test]
    fn any_fields(
        values in prop::collection::vec("[ -~]{0,30}", 8),
        ranges in "bytes=[-0-9,]{0,20}",
        target in "/[!-~]{0,30}",
    ) {
        let names = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Accept",
            "Accept-Encoding", "Expect"];
        let mut raw = format!("GET {target} HTTP/1.1\r\nHost: a\r\nRange: {ranges}\r\n");
        for (name, value) in names.iter().zip(&values) {
            write!(raw, "{name}: {value}\r\n").expect("memory");
        }
        raw.push_str("\r\n");
        let facts = styles();
        let listing = Listing { html: b"<p>".as_slice().into(), json: b"[]".as_slice().into() };
        for resource in [Resource::File(&facts), Resource::Redirect, Resource::Listing(&listing)] {
            let seen = ask(&raw, resource);
            prop_assert!(seen.status != 500, "{}", seen.head);
            seen.body(|_| 0);
        }
    }
}
