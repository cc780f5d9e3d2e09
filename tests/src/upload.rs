//! What requests that store something look like, and what is left of them.

use crate::engine::{begin, response};
use crate::server::Reply;
use crate::{Outcome, TestLab};
use dataplane::lab::Side;
use std::io::Read;
use std::net::Shutdown;
use std::path::Path;

/// All names below a folder, hidden ones too.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A request to store a body; `fields` are lines.
#[must_use]
pub fn put(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

/// The same in chunks of `piece` bytes.
#[must_use]
pub fn chunked(path: &str, body: &[u8], piece: usize) -> Vec<u8> {
    let mut bytes =
        format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in body.chunks(piece) {
        bytes.extend(format!("{:x};name=value\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nTrailer: x\r\n\r\n");
    bytes
}

/// Tells a story inside of the left host.
///
/// # Panics
/// When it fails.
pub fn left<T: Send>(lab: &TestLab, work: impl FnOnce() -> Outcome<T> + Send) -> T {
    lab.host(Side::Left).run(work).expect("a host").expect("a story")
}

/// The answer to a request on a connection of its own, with the server's own end of it awaited.
///
/// # Errors
/// When there is none, or the connection does not end in order.
pub fn ask(bytes: &[u8]) -> Outcome<Reply> {
    let mut stream = begin(bytes)?;
    let reply = response(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(reply)
}
