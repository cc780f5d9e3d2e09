//! The access log: a line for each answer, in the combined format or as JSON.
//!
//! A worker must not wait for a disk, so it puts a [`Record`] into a bounded queue, and a thread writes it. When the
//! thread falls behind, records are dropped and counted; service is not.

use crate::serve::http::{Date, Refusal, Request, Response, Version};
use crossbeam_queue::ArrayQueue;
use serde::Serialize;
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(test)]
mod tests;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As Apache and nginx call it: `peer - - [date] "request" status bytes "referer" "agent"`.
    Combined,
    /// One object a line, with stable names.
    Json,
}

/// Bytes of text that a record keeps; each text has its share, and is cut when it is longer.
const TEXT: usize = 560;
const SHARES: [usize; 5] = [16, 240, 64, 100, 140];
const _: () = assert!(SHARES[0] + SHARES[1] + SHARES[2] + SHARES[3] + SHARES[4] == TEXT);

/// One answer, as it is logged. Made without allocation.
#[derive(Clone, Debug)]
pub struct Record {
    peer: IpAddr,
    at: SystemTime,
    status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// From the request to the last byte that was acknowledged, if that is known.
    pub taken: Option<Duration>,
    version: Option<Version>,
    ends: [u16; 5],
    /// One bit for each text that was longer than its share.
    cut: u8,
    text: [u8; TEXT],
}

/// What stands behind a text that was cut, in a line of the combined format.
const CUT: &[u8] = b"...";

impl Record {
    /// The answer to a request that came at `at`. `bytes` are those that the answer has; set it to those that were
    /// taken, if the connection ended early.
    #[must_use]
    pub fn new(peer: IpAddr, request: &Request<'_>, response: &Response, at: SystemTime) -> Self {
        let texts = [
            request.method_text.as_bytes(),
            request.target.as_bytes(),
            request.host.as_bytes(),
            request.referer.unwrap_or_default(),
            request.user_agent.unwrap_or_default(),
        ];
        let (status, bytes) = (response.status, response.body.len());
        Self::with(peer, at, status, bytes, Some(request.version), texts)
    }

    /// The answer to what was not a request.
    #[must_use]
    pub fn refused(peer: IpAddr, refusal: Refusal, response: &Response, at: SystemTime) -> Self {
        let texts = [b"", refusal.name().as_bytes(), b"", b"", b""];
        Self::with(peer, at, refusal.status(), response.body.len(), None, texts)
    }

    fn with(
        peer: IpAddr,
        at: SystemTime,
        status: u16,
        bytes: u64,
        version: Option<Version>,
        texts: [&[u8]; 5],
    ) -> Self {
        let (mut text, mut ends, mut end, mut cut) = ([0; TEXT], [0; 5], 0, 0);
        for (place, ((source, share), mark)) in texts.iter().zip(SHARES).zip(&mut ends).enumerate() {
            cut |= u8::from(source.len() > share) << place;
            let source = &source[..source.len().min(share)];
            text[end..end + source.len()].copy_from_slice(source);
            end += source.len();
            *mark = u16::try_from(end).unwrap_or(u16::MAX);
        }
        Self { peer: peer.to_canonical(), at, status, bytes, taken: None, version, ends, cut, text }
    }

    /// Method, target, host, referer, agent.
    fn texts(&self) -> [&[u8]; 5] {
        let mut from = 0;
        self.ends.map(|end| {
            let text = self.text.get(from..usize::from(end)).unwrap_or_default();
            from = usize::from(end);
            text
        })
    }

    /// Which of them were cut.
    fn cuts(&self) -> [bool; 5] {
        std::array::from_fn(|place| self.cut >> place & 1 == 1)
    }

    const fn protocol(version: Version) -> &'static str {
        match version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }

    /// Writes the line of this record.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Combined => self.combined(out),
            Format::Json => self.json(out),
        }
    }

    fn combined(&self, out: &mut impl Write) -> io::Result<()> {
        let [method, target, _, referer, agent] = self.texts();
        let [method_cut, target_cut, _, referer_cut, agent_cut] = self.cuts();
        let date = Date::new(self.at);
        // `Sun, 06 Nov 1994 08:49:37 GMT` holds all the pieces.
        let date = std::str::from_utf8(date.text()).unwrap_or_default();
        let piece = |from: usize, to: usize| date.get(from..to).unwrap_or_default();
        let (day, month, year, time) = (piece(5, 7), piece(8, 11), piece(12, 16), piece(17, 25));
        write!(out, "{} - - [{day}/{month}/{year}:{time} +0000] \"", self.peer)?;
        if let Some(version) = self.version {
            escape(method, method_cut, out)?;
            out.write_all(b" ")?;
            escape(target, target_cut, out)?;
            write!(out, " {}", Self::protocol(version))?;
        } else {
            out.write_all(b"-")?;
        }
        write!(out, "\" {} {} \"", self.status, self.bytes)?;
        escape(if referer.is_empty() { b"-" } else { referer }, referer_cut, out)?;
        out.write_all(b"\" \"")?;
        escape(if agent.is_empty() { b"-" } else { agent }, agent_cut, out)?;
        out.write_all(b"\"\n")
    }

    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let [method, target, host, referer, agent] = self.texts().map(String::from_utf8_lossy);
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let named = self.version.is_some();
        let some = |text: Cow<'_, str>| (!text.is_empty()).then(|| text.into_owned());
        let line = Line {
            time: since.as_secs_f64(),
            peer: self.peer,
            method: some(method),
            target: if named { some(target.clone()) } else { None },
            host: some(host),
            protocol: self.version.map(Self::protocol),
            status: self.status,
            bytes: self.bytes,
            seconds: self.taken.map(|taken| taken.as_secs_f64()),
            referer: some(referer),
            agent: some(agent),
            refused: if named { None } else { some(target) },
            cut: NAMES.into_iter().zip(self.cuts()).filter_map(|(name, cut)| cut.then_some(name)).collect(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

/// A line of JSON. Names are a contract.
#[derive(Serialize)]
struct Line {
    /// Seconds since 1970.
    time: f64,
    peer: IpAddr,
    method: Option<String>,
    target: Option<String>,
    host: Option<String>,
    protocol: Option<&'static str>,
    status: u16,
    bytes: u64,
    seconds: Option<f64>,
    referer: Option<String>,
    agent: Option<String>,
    refused: Option<String>,
    /// Names of the texts that were longer than is kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut: Vec<&'static str>,
}

/// The texts of a record, as JSON calls them.
const NAMES: [&str; 5] = ["method", "target", "host", "referer", "agent"];

/// As nginx does: what could end the text or the line, or speak to a terminal, is `\xHH`.
fn escape(text: &[u8], cut: bool, out: &mut impl Write) -> io::Result<()> {
    for &byte in text {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => write!(out, "\\x{byte:02X}")?,
            byte => out.write_all(&[byte])?,
        }
    }
    out.write_all(if cut { CUT } else { b"" })
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// The file, appended to and created if need be; `None`: standard output.
    pub path: Option<PathBuf>,
    /// How lines look.
    pub format: Format,
    /// Records that may wait for the thread; about 650 bytes each, reserved at once.
    pub capacity: usize,
}

/// What workers and the writing thread share.
#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<Record>,
    dropped: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    reopen: AtomicBool,
    stop: AtomicBool,
}

/// A worker's end of the log.
#[derive(Clone, Debug)]
pub struct LogQueue(Arc<Shared>);

impl LogQueue {
    /// Hands a record to the thread. No system call, no allocation, no waiting: when the queue is full, it is dropped and
    /// counted.
    pub fn push(&self, record: Record) {
        if self.0.queue.push(record).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How it went so far.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        LogCounts {
            written: read(&self.0.written),
            dropped: read(&self.0.dropped),
            failed: read(&self.0.failed),
        }
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogCounts {
    /// Lines written.
    pub written: u64,
    /// Records that found the queue full.
    pub dropped: u64,
    /// Lines that could not be written: the disk is full, say.
    pub failed: u64,
}

/// The access log, with its thread. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not started.
    pub fn open(plan: &LogPlan) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(plan.capacity.max(1)),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let writer = Writer {
            out: sink(plan)?,
            plan: plan.clone(),
            shared: Arc::clone(&shared),
            line: Vec::with_capacity(1024),
            complained: false,
        };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// An end for a worker.
    #[must_use]
    pub fn queue(&self) -> LogQueue {
        LogQueue(Arc::clone(&self.shared))
    }

    /// Opens the file anew, after somebody has moved the old one away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but what it has counted.
            drop(thread.join());
        }
    }
}

enum Sink {
    Standard(BufWriter<io::Stdout>),
    File(BufWriter<File>),
}

fn sink(plan: &LogPlan) -> io::Result<Sink> {
    Ok(match &plan.path {
        None => Sink::Standard(BufWriter::with_capacity(1 << 16, io::stdout())),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            Sink::File(BufWriter::with_capacity(1 << 16, file))
        }
    })
}

impl Sink {
    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Self::Standard(out) => out,
            Self::File(out) => out,
        }
    }
}

/// The thread.
struct Writer {
    out: Sink,
    plan: LogPlan,
    shared: Arc<Shared>,
    line: Vec<u8>,
    complained: bool,
}

/// Between looks at the queue: workers do not ring, for that is a system call. At 400 000 lines a second, the shorter
/// one is 4000 records.
const NAP: Duration = Duration::from_millis(10);
const LONG_NAP: Duration = Duration::from_millis(40);

impl Writer {
    fn run(mut self) {
        let mut nap = NAP;
        loop {
            // Before the queue is emptied, so that what was pushed before the end is written.
            let stop = self.shared.stop.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            let mut lines = 0u64;
            // A round at most: workers may be as fast as this thread for hours, and lines are to be seen, and a new file
            // opened, meanwhile. At the end nobody pushes any more.
            let most = if stop { u64::MAX } else { self.shared.queue.capacity() as u64 };
            while lines < most
                && let Some(record) = self.shared.queue.pop()
            {
                self.write(&record);
                lines += 1;
            }
            if lines > 0 {
                let flushed = self.out.as_write().flush();
                self.note(flushed);
            }
            if stop {
                return;
            }
            if lines < most {
                nap = if lines > 0 { NAP } else { (nap * 2).min(LONG_NAP) };
                thread::sleep(nap);
            }
        }
    }

    fn write(&mut self, record: &Record) {
        self.line.clear();
        let written = record.write(self.plan.format, &mut self.line);
        let written = written.and_then(|()| self.out.as_write().write_all(&self.line));
        if self.note(written) {
            self.shared.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reopen(&mut self) {
        let flushed = self.out.as_write().flush();
        self.note(flushed);
        match sink(&self.plan) {
            Ok(out) => (self.out, self.complained) = (out, false),
            Err(error) => tracing::warn!(%error, "the access log goes on in its old file"),
        }
    }

    /// Counts a failure, and says so once.
    fn note(&mut self, result: io::Result<()>) -> bool {
        let Err(error) = result else { return true };
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        if !self.complained {
            self.complained = true;
            tracing::warn!(%error, "the access log cannot be written; lines are lost");
        }
        false
    }
}
