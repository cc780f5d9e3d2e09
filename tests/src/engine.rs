//! `ringway serve --engine METHOD` as a test sees it: over the kernel's sockets, at an address that the middle has itself.
//!
//! ```text
//!   left: clients ── left0 ══ rw-left, with an address of the kernel's [ serve --engine METHOD ]
//! ```

use crate::server::{PORT, SERVER, Tree};
use crate::{Outcome, Ringway, TestLab};
use drivers::kernel::Method;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// What should take a moment takes no longer than this.
pub const SOON: Duration = Duration::from_secs(15);

/// A laboratory whose middle has the server's address itself.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn laboratory() -> TestLab {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    lab.ip("link set rw-left arp on").expect("ip");
    lab.ip(&format!("addr add {SERVER}/24 dev rw-left")).expect("ip");
    lab
}

/// A server by one method, ready for clients.
#[derive(Debug)]
pub struct Engine(Ringway);

impl Engine {
    /// Serves a tree, with `args` behind what every test needs.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(lab: &TestLab, method: Method, tree: &Tree, args: &[&str]) -> Self {
        Self::at(lab, method, tree.path(), args)
    }

    /// Serves any folder.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn at(lab: &TestLab, method: Method, root: &Path, args: &[&str]) -> Self {
        Self::start_by(lab, &[], method, root, args)
    }

    /// Serves any folder, started by another program (see [`Ringway::start_by`]).
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_by(lab: &TestLab, wrapper: &[&str], method: Method, root: &Path, args: &[&str]) -> Self {
        let (listen, root) = (format!("{SERVER}:{PORT}"), root.to_string_lossy().into_owned());
        let mut all = vec!["serve", "--format", "json", "--engine", method.name(), "--listen", &listen];
        all.extend(["--root", &root]);
        if !args.contains(&"--drain") {
            all.extend(["--drain", "1"]);
        }
        all.extend(args);
        let mut ringway = Ringway::start_by(lab.middle(), wrapper, &all).expect("started");
        ringway.ready("\"event\":\"ready\"", SOON).expect("ready");
        Self(ringway)
    }

    /// The process.
    #[must_use]
    pub const fn process(&mut self) -> &mut Ringway {
        &mut self.0
    }

    /// Ends it in order; returns its counters.
    ///
    /// # Panics
    /// When it does not end well, says anything besides, or a connection or an upload is left.
    #[must_use]
    pub fn finish(self) -> Value {
        self.0.interrupt().expect("a signal");
        self.ended()
    }

    /// Waits for its end, after a signal; returns its counters.
    ///
    /// # Panics
    /// As [`finish`](Self::finish).
    #[must_use]
    pub fn ended(self) -> Value {
        let ended = self.0.wait(SOON).expect("ends");
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
        let last = ended.json_lines().expect("JSON").pop().expect("a last word");
        assert_eq!(last["event"], "end", "{last}");
        let serve = last["serve"].clone();
        assert_eq!(serve["connections_opened"], serve["connections_closed"], "no connection is left: {last}");
        let over = number(&serve, "uploads_stored") + number(&serve, "uploads_failed");
        assert_eq!(number(&serve, "uploads_begun"), over, "no upload is left: {last}");
        serve
    }
}

/// One of a server's counters.
///
/// # Panics
/// When there is none of that name.
#[must_use]
pub fn number(serve: &Value, name: &str) -> u64 {
    serve[name].as_u64().unwrap_or_else(|| panic!("no {name} in {serve}"))
}

/// A connection to the server, for a thread inside of a host.
///
/// # Errors
/// When nothing listens.
pub fn connect() -> io::Result<TcpStream> {
    let stream = TcpStream::connect((SERVER, PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// One response from a connection that goes on: its head, and as many bytes of body as that says.
///
/// # Errors
/// When the stream ends or breaks before.
pub fn response(stream: &mut impl Read) -> Outcome<crate::server::Reply> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut reply = crate::server::Reply::parse(&head)?;
    let length: usize = reply.field("Content-Length").map_or(Ok(0), str::parse)?;
    reply.body = vec![0; length];
    stream.read_exact(&mut reply.body)?;
    Ok(reply)
}

/// Sends bytes on a connection of their own, in one go.
///
/// # Errors
/// When nothing listens, or the peer takes no more.
pub fn begin(bytes: &[u8]) -> io::Result<TcpStream> {
    let mut stream = connect()?;
    stream.write_all(bytes)?;
    Ok(stream)
}
