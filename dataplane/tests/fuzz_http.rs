//! The HTTP fuzz target of `tests/fuzz`, from seeds: the same few thousand inputs in every run.
#![forbid(unsafe_code)]

#[expect(unreachable_pub, reason = "the fuzz target reaches it, in a package of its own")]
#[path = "../../tests/fuzz/src/http.rs"]
mod http;

/// Marsaglia's xorshift64.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).expect("31 bits")
}

/// What requests are made of, good and bad. Random bytes alone would hardly ever get beyond the first line.
const PIECES: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: h\r\n",
    "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD http://h/%61 HTTP/1.0\r\n",
    "POST /../b HTTP/1.1\r\n",
    "GET /a/%2e./b?c HTTP/1.1\r\nHost: h\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "Host: h\r\n",
    "Content-Length: 7\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Range: bytes=1-2,4-5,-1\r\n",
    "Range: bytes=5-\r\n",
    "If-None-Match: *\r\n",
    "If-Range: \"x\"\r\n",
    "Accept-Encoding: gzip, br;q=0.5, *;q=0\r\n",
    "Expect: 100-continue\r\n",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "1234567",
    "\n",
    " ",
    "X: y\r\n",
];

#[test]
fn http_request() {
    let rounds = if std::env::var_os("PROPTEST_CASES").is_some() { 50 } else { 5000 };
    let mut state = 4;
    for _ in 0..rounds {
        let mut bytes = vec![random(&mut state).to_le_bytes()[0]];
        for _ in 0..random(&mut state) % 20 {
            bytes.extend_from_slice(PIECES[random(&mut state) % PIECES.len()].as_bytes());
        }
        for _ in 0..random(&mut state) % 3 {
            let at = random(&mut state) % bytes.len();
            bytes[at] = random(&mut state).to_le_bytes()[1];
        }
        http::http_request(&bytes);
    }
}
