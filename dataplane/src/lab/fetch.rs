//! A client of HTTP over the kernel's own TCP: one connection, one request after another, each body hashed.

use super::traffic::{End, Hash, LOOK_EVERY, waits};
use super::{Namespace, Outcome};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Bytes that are read at once. A head must fit.
const BUFFER: usize = 256 * 1024;

/// A connection to a server. Every step ends by the client's deadline.
#[derive(Debug)]
pub struct Client<'a> {
    stream: TcpStream,
    server: SocketAddr,
    end: End<'a>,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that nobody has looked at.
    held: usize,
}

/// An answer to a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The status.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// Their hash, as [`struct@Hash`] makes it.
    pub hash: u64,
}

impl<'a> Client<'a> {
    /// Connects from inside of `namespace`; everything must be over within `limit`, and ends soon after `stop` is set.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn connect(
        namespace: &Namespace,
        server: SocketAddr,
        limit: Duration,
        stop: &'a AtomicBool,
    ) -> Outcome<Self> {
        let end = End { at: Instant::now() + limit, stop: Some(stop) };
        let connect = || TcpStream::connect_timeout(&server, end.left());
        let stream = namespace.run(connect)?.map_err(|error| format!("connecting to {server}: {error}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self { stream, server, end, buffer: vec![0; BUFFER], held: 0 })
    }

    /// Asks for `path` and reads the whole answer.
    ///
    /// # Errors
    /// When the connection ends too early, time is up, or the answer does not say how long it is.
    pub fn get(&mut self, path: &str) -> Outcome<Fetched> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.server);
        self.stream.write_all(request.as_bytes())?;
        let (status, length) = self.head().map_err(|error| format!("GET {path}: {error}"))?;
        let mut hash = Hash::default();
        let mut rest = length;
        loop {
            let part = usize::try_from(rest).map_or(self.held, |rest| rest.min(self.held));
            hash.add(&self.buffer[..part]);
            self.buffer.copy_within(part..self.held, 0);
            (self.held, rest) = (self.held - part, rest - part as u64);
            if rest == 0 {
                return Ok(Fetched { status, bytes: length, hash: hash.value() });
            }
            self.fill()
                .map_err(|error| format!("GET {path}: {rest} of {length} bytes are missing: {error}"))?;
        }
    }

    /// Reads up to the end of a head; returns status and length of the body, which begins at the front of the buffer.
    fn head(&mut self) -> Outcome<(u16, u64)> {
        let end = loop {
            let found = self.buffer[..self.held].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = found {
                break at;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|value| value.trim().parse().ok());
        self.buffer.copy_within(end + 4..self.held, 0);
        self.held -= end + 4;
        match (status, length) {
            (Some(status), Some(length)) => Ok((status, length)),
            _ => Err(format!("an answer without status or length: {head:?}").into()),
        }
    }

    /// Reads more into the buffer.
    fn fill(&mut self) -> Outcome<()> {
        if self.held == self.buffer.len() {
            return Err("a head without an end".into());
        }
        loop {
            match self.stream.read(&mut self.buffer[self.held..]) {
                Ok(0) => return Err("the server ended the connection".into()),
                Ok(read) => {
                    self.held += read;
                    return Ok(());
                }
                Err(error) if waits(&error) => self.end.check()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn hash_of(bytes: &[u8]) -> u64 {
        let mut hash = Hash::default();
        hash.add(bytes);
        hash.value()
    }

    #[test]
    fn answers_are_read_one_after_another_however_they_are_cut() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let server = listener.local_addr().expect("its address");
        let said = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for part in said.chunks(7) {
                stream.write_all(part).expect("a reader");
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").expect("a reader");
            // Closed with requests unread, it would be reset.
            stream.shutdown(std::net::Shutdown::Write).expect("a reader");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let (here, never) = (Namespace::current().expect("a namespace"), AtomicBool::new(false));
        let limit = Duration::from_secs(10);
        // Without the right to enter a namespace, even one's own, there is nothing to test.
        let Ok(mut client) = Client::connect(&here, server, limit, &never) else { return };
        let first = client.get("/").expect("an answer");
        assert_eq!(first, Fetched { status: 200, bytes: 5, hash: hash_of(b"hello") });
        let second = client.get("/no").expect("an answer");
        assert_eq!((second.status, second.bytes), (404, 0));
        let third = client.get("/short").expect_err("too short").to_string();
        assert!(third.contains("4 of 9 bytes are missing"), "{third}");
        drop(client);
        peer.join().expect("no panic");
    }
}
