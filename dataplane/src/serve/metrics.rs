//! Numbers for Prometheus, on a kernel socket with a thread of its own: `GET /metrics`, in the text format 0.0.4.
//!
//! The thread reads boards of atomics; no worker notices that it is asked.

use crate::serve::http::{
    Counts, Date, HEAD_MAX, Limits, Method, Parsed, Policy, Refusal, Request, Resource, Scratch, refuse,
    respond,
};
use crate::serve::log::LogCounts;
use crate::stats::Snapshot;
use drivers::QueueCounters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// What a family of numbers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// The text being written.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family; its samples follow. `name` is a metric name, `help` one line.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One number of a family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.line(format_args!("{label}=\"{text}\""));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{end} {value}\n"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
    }

    /// What HTTP counts, all workers added up.
    pub fn http(&mut self, counts: &Counts) {
        self.family("ringway_http_requests_total", Kind::Counter, "Requests by method.");
        for (method, count) in counts.requests() {
            self.sample("ringway_http_requests_total", &[("method", &method)], count);
        }
        self.family("ringway_http_responses_total", Kind::Counter, "Answers by status.");
        for (code, count) in counts.responses() {
            self.sample("ringway_http_responses_total", &[("code", &code)], count);
        }
        self.family(
            "ringway_http_refusals_total",
            Kind::Counter,
            "Bytes that were no request, by what was wrong.",
        );
        for (refusal, count) in counts.refusals() {
            self.sample("ringway_http_refusals_total", &[("reason", &refusal.name())], count);
        }
        self.family("ringway_http_body_bytes_total", Kind::Counter, "Bytes of the bodies of all answers.");
        self.sample("ringway_http_body_bytes_total", &[], counts.body_bytes());
    }

    /// What became of the access log's records.
    pub fn log(&mut self, counts: LogCounts) {
        let name = "ringway_access_log_records_total";
        self.family(name, Kind::Counter, "Records of the access log, by what became of them.");
        let LogCounts { written, dropped, failed } = counts;
        for (result, count) in [("written", written), ("dropped", dropped), ("failed", failed)] {
            self.sample(name, &[("result", &result)], count);
        }
    }

    /// The counters of each worker: its queues, its turns, and what it discarded.
    pub fn workers(&mut self, workers: &[Snapshot]) {
        for (at, name) in QueueCounters::NAMES.iter().enumerate() {
            let family = format!("ringway_queue_{name}_total");
            self.family(&family, Kind::Counter, &format!("Of each queue pair: {}.", name.replace('_', " ")));
            for (worker, snapshot) in workers.iter().enumerate() {
                for (queue, numbers) in snapshot.queues.iter().enumerate() {
                    let labels: [(&str, &dyn Display); 3] =
                        [("worker", &worker), ("port", &numbers.port.0), ("queue", &queue)];
                    self.sample(&family, &labels, numbers.counters.to_array()[at]);
                }
            }
        }
        self.family("ringway_turns_total", Kind::Counter, "Turns of a worker's loop.");
        for (worker, snapshot) in workers.iter().enumerate() {
            self.sample("ringway_turns_total", &[("worker", &worker)], snapshot.turns);
        }
        self.family(
            "ringway_busy_seconds_total",
            Kind::Counter,
            "Time of a worker's turns that moved something.",
        );
        for (worker, snapshot) in workers.iter().enumerate() {
            self.sample("ringway_busy_seconds_total", &[("worker", &worker)], snapshot.busy.as_secs_f64());
        }
        self.family(
            "ringway_discarded_packets_total",
            Kind::Counter,
            "Packets that went no further, by reason.",
        );
        for (worker, snapshot) in workers.iter().enumerate() {
            for (reason, count) in snapshot.discarded() {
                let labels: [(&str, &dyn Display); 2] = [("worker", &worker), ("reason", &reason.name())];
                self.sample("ringway_discarded_packets_total", &labels, count);
            }
        }
    }

    /// As written so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The socket and its thread. Dropping it closes both.
#[derive(Debug)]
pub struct Metrics {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the thread sleeps at most before it sees that it should stop.
const NAP: Duration = Duration::from_millis(100);
/// For a whole exchange: clients are served one after the other.
const PATIENCE: Duration = Duration::from_secs(2);

impl Metrics {
    /// Listens at `address` (port 0: any), and has `render` write the text for each that asks.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread not started.
    pub fn open(address: SocketAddr, render: impl Fn(&mut Text) + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || serve(&listener, &stopped, &render))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool, render: &dyn Fn(&mut Text)) {
    let nap = Timespec { tv_sec: 0, tv_nsec: i64::from(NAP.subsec_nanos()) };
    while !stop.load(Ordering::Acquire) {
        // A signal or nobody: either way, look again.
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&nap));
        while let Ok((stream, _)) = listener.accept() {
            if let Err(error) = exchange(stream, stop, render) {
                tracing::debug!(%error, "a client that wanted metrics went away");
            }
        }
    }
}

/// One request, one answer.
fn exchange(mut stream: TcpStream, stop: &AtomicBool, render: &dyn Fn(&mut Text)) -> io::Result<()> {
    let limits = Limits { head_bytes: 4096, ..Limits::default() };
    let (mut bytes, mut scratch, mut head) = (Vec::new(), Scratch::new(&limits), [0; HEAD_MAX]);
    let (end, policy) = (Instant::now() + PATIENCE, Policy::default());
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (response, body) = loop {
        let date = Date::new(SystemTime::now());
        let late = Instant::now() >= end || stop.load(Ordering::Acquire);
        match Request::parse(&bytes, &mut scratch, &limits) {
            Parsed::Request(request, _) if is_ours(&request) => return answer(&mut stream, &request, render),
            Parsed::Request(mut request, _) => {
                request.persistent = false;
                let response = respond(&request, Resource::NotFound, &policy, &date, &mut head);
                break (response.head_len, response.body);
            }
            Parsed::Incomplete if !late => {}
            Parsed::Incomplete => {
                let response = refuse(Refusal::Timeout, &bytes, &policy, &date, &mut head);
                break (response.head_len, response.body);
            }
            Parsed::Refused(refusal) => {
                let response = refuse(refusal, &bytes, &policy, &date, &mut head);
                break (response.head_len, response.body);
            }
        }
        read_more(&mut stream, &mut bytes)?;
    };
    stream.write_all(&head[..usize::from(response)])?;
    match body.locate(0) {
        crate::serve::http::Place::Bytes(page) => stream.write_all(page),
        _ => Ok(()),
    }
}

fn is_ours(request: &Request<'_>) -> bool {
    request.needs_resource() && request.path == "metrics"
}

/// Waits for a moment only, so that the time of the whole is kept.
fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    stream.set_read_timeout(Some(NAP))?;
    let mut piece = [0; 1024];
    match stream.read(&mut piece) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(len) => {
            bytes.extend_from_slice(&piece[..len]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn answer(stream: &mut TcpStream, request: &Request<'_>, render: &dyn Fn(&mut Text)) -> io::Result<()> {
    let mut text = Text::default();
    render(&mut text);
    let length = text.0.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if request.method == Method::Get { stream.write_all(text.0.as_bytes()) } else { Ok(()) }
}

#[cfg(test)]
pub(in crate::serve) mod tests {
    use super::*;
    use crate::app::PortId;
    use crate::stats::Board;
    use drivers::{Caps, Copying};

    fn ask(address: SocketAddr, raw: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(raw.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    #[test]
    fn it_answers_over_a_socket() {
        let mut counts = Counts::default();
        counts.refused(Refusal::Chunk, None);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let metrics = Metrics::open(address, move |text| text.http(&counts)).expect("a socket");
        let get = ask(metrics.address(), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
        let (head, body) = get.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(body.contains("\nringway_http_refusals_total{reason=\"chunk\"} 1\n"), "{body}");
        assert!(body.contains("# TYPE ringway_http_requests_total counter\n"), "{body}");
        let head = ask(metrics.address(), "HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for (raw, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("nonsense\r\n\r\n", 400),
            ("GET /met", 408),
        ] {
            let answer = ask(metrics.address(), raw);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{raw:?}: {answer}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        }
        drop(TcpStream::connect(metrics.address()).expect("it still listens"));
        let address = metrics.address();
        drop(metrics);
        assert!(TcpStream::connect(address).is_err(), "closed");
    }

    /// What Prometheus' own parser and its linter (`promtool check metrics`) ask for: a family's help and type stand once,
    /// before its samples, which stand together; counters end in `_total` and nothing else does; no sample is there twice.
    pub(in crate::serve) fn check(text: &str) {
        let mut seen = std::collections::HashSet::new();
        let mut samples = std::collections::HashSet::new();
        let (mut family, mut help) = (String::new(), String::new());
        assert!(text.ends_with('\n'), "the last line has an end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').expect("words");
                assert!(words.len() > 5 && words.ends_with('.') && !words.contains('\\'), "{line}");
                name.clone_into(&mut help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert_eq!(name, help, "help comes first");
                assert!(seen.insert(name.to_owned()), "twice: {line}");
                assert!(
                    matches!((name.ends_with("_total"), kind), (true, "counter") | (false, "gauge")),
                    "{line}"
                );
                for suffix in ["_count", "_sum", "_bucket", "_counter", "_gauge"] {
                    assert!(!name.ends_with(suffix), "{line}");
                }
                let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                assert!(letters && name.starts_with("ringway_"), "{line}");
                name.clone_into(&mut family);
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
                let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                assert_eq!(name, family, "samples stand behind their type");
                let labels = labels.strip_suffix('}').expect("an end of the labels");
                for label in labels.split(',').filter(|label| !label.is_empty()) {
                    let (name, value) = label.split_once("=\"").expect("a label");
                    assert!(name.bytes().all(|b| b.is_ascii_lowercase()) && value.ends_with('"'), "{line}");
                }
                assert!(samples.insert(sample.to_owned()), "twice: {line}");
            }
        }
        assert!(!seen.is_empty());
    }

    #[test]
    fn the_text_is_well_formed() {
        let mut text = Text::default();
        text.http(&Counts::default());
        text.log(LogCounts { written: 1, dropped: 2, failed: 3 });
        let caps = || Caps::basic("test", "test0", Copying::InMemory, 2048);
        let board = Board::new(vec![(PortId(0), caps()), (PortId(1), caps())]);
        text.workers(&[board.snapshot(), board.snapshot()]);
        check(text.as_str());
        assert!(
            text.as_str()
                .contains("ringway_queue_received_packets_total{worker=\"1\",port=\"1\",queue=\"1\"} 0")
        );
        text.family("ringway_test", Kind::Gauge, "A label that needs care.");
        text.sample("ringway_test", &[("path", &"a\"b\\c\nd"), ("n", &1)], 0.5);
        let ends = text.as_str().ends_with("ringway_test{path=\"a\\\"b\\\\c\\nd\",n=\"1\"} 0.5\n");
        assert!(ends, "{}", text.as_str());
    }
}
