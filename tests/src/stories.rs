//! What any server is told, whatever it serves over: requests and the status that each must have.

use crate::Outcome;
use crate::server::{PORT, Reply, SERVER, Tree};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Sends bytes on a connection of their own and returns all that comes until the server closes it.
///
/// # Errors
/// When nothing answers, or a read takes too long.
pub fn say(bytes: &[u8]) -> Outcome<Vec<u8>> {
    let mut stream = TcpStream::connect((SERVER, PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Requests that are none, and their status.
pub const REFUSED: &[(&[u8], u16)] = &[
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    // Smuggling: two lengths, two codings, a length that is none (RFC 9112 section 6.3).
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    // Paths that lead out, or are none.
    (b"GET /../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /folder/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /..%5cetc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file%00.html HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%c0%ae%c0%ae/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%e0%80%ae%e0%80%ae/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET file HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file#part HTTP/1.1\r\nHost: a\r\n\r\n", 400),
];

/// Requests that are understood, on a connection that they end themselves: request line, further fields, status.
pub const ANSWERED: &[(&str, &str, u16)] = &[
    ("GET /file", "", 200),
    ("GET http://a/file", "", 200),
    ("GET /./file?query", "", 200),
    ("GET //file", "", 200),
    ("GET /nothing", "", 404),
    ("GET /file/", "", 404),
    ("GET /etc/passwd", "", 404),
    ("GET /out", "", 403),
    ("GET /out-folder/passwd", "", 403),
    ("GET /folder", "", 301),
    ("GET /folder/", "", 403),
    ("POST /file", "Content-Length: 0\r\n", 405),
    ("DELETE /file", "", 405),
    ("CONNECT a:80", "", 405),
    ("BREW /file", "", 501),
    ("GET /file", "Range: bytes=0-9\r\n", 206),
    ("GET /file", "Range: bytes=5000-\r\n", 416),
    ("GET /file", "Range: bytes=-0\r\n", 416),
    // What is no range is not looked at (RFC 9110 section 14.2).
    ("GET /file", "Range: bytes=9-0\r\n", 200),
    ("GET /file", "Range: bytes=x-y\r\n", 200),
    ("GET /file", "Range: lines=1-2\r\n", 200),
    ("GET /file", "Expect: tea\r\n", 417),
];

/// A tree with one file, an empty folder, and links that lead out.
///
/// # Panics
/// When there is no room for it.
#[must_use]
pub fn tree() -> Tree {
    let tree = Tree::new().expect("a folder");
    tree.file("file", 5000).expect("a file");
    std::fs::create_dir(tree.path().join("folder")).expect("a folder");
    for (link, target) in [("out", "/etc/passwd"), ("out-folder", "/etc")] {
        std::os::unix::fs::symlink(target, tree.path().join(link)).expect("a link");
    }
    tree
}

/// Every case at once, so that one run shows all that is wrong: a request and its status.
///
/// # Panics
/// With all cases that have another.
pub fn compare(cases: impl IntoIterator<Item = (Vec<u8>, u16)>) {
    let wrong = |(request, want): (Vec<u8>, u16)| {
        let shown = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        let reply = say(&request).and_then(|bytes| Reply::parse(&bytes));
        match reply {
            Ok(reply) if reply.status == want => None,
            Ok(reply) => Some(format!("{shown:?}: {} instead of {want}", reply.status)),
            Err(error) => Some(format!("{shown:?}: {error} instead of {want}")),
        }
    };
    let wrong: Vec<String> = cases.into_iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
