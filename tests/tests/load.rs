//! `ringway load` over the kernel's sockets, against servers that do what servers do.
//!
//! ```text
//!   ringway load ── 127.0.0.1 ── [ a few lines of a server, one for each kind of misbehaviour ]
//! ```
//!
//! Nothing here needs a right.
#![forbid(unsafe_code)]

use lab::{Outcome, Ringway};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Serves each connection by `serve` on a thread of its own, as long as the test's process lives.
fn server(serve: impl Fn(&mut Peer) -> Outcome<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || {
                let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                // The client goes away in the middle of everything: that is no failure.
                let _ = serve(&mut Peer { stream, reader });
            });
        }
    });
    address
}

/// A client, as a server sees it.
struct Peer {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Peer {
    /// The path of the next request, and its head.
    fn request(&mut self) -> Outcome<(String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head)? == 0 {
                return Err("the client is gone".into());
            }
        }
        let path = head.split(' ').nth(1).ok_or("no path")?.to_owned();
        Ok((path, head))
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) -> Outcome<()> {
        Ok(self.stream.write_all(bytes.as_ref())?)
    }
}

fn whole(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn load(args: &[&str]) -> Output {
    let program = Ringway::program().expect("the program");
    Command::new(program).arg("load").args(args).output().expect("an end")
}

/// Runs it as a program would; its last line, and whether it was content.
fn report(args: &[&str]) -> (Value, bool) {
    let output = load(&[args, &["--format", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert_eq!(lines.first().map(|line| &line["event"]), Some(&"ready".into()), "{output:?}");
    let end = lines.last().expect("lines").clone();
    assert_eq!(end["event"], "end", "{output:?}");
    (end, output.status.success())
}

fn number(end: &Value, name: &str) -> u64 {
    end[name].as_u64().unwrap_or_else(|| panic!("no {name}: {end}"))
}

/// What went wrong, without what did not.
fn errors(end: &Value) -> Vec<(String, u64)> {
    let errors = end["errors"].as_object().unwrap_or_else(|| panic!("no errors: {end}"));
    assert_eq!(
        errors.keys().collect::<Vec<_>>(),
        ["connect", "hash", "length", "protocol", "reset", "status", "timeout"],
        "names are a contract"
    );
    let each = errors.iter().map(|(name, count)| (name.clone(), count.as_u64().expect("a number")));
    each.filter(|(_, count)| *count > 0).collect()
}

fn url(server: SocketAddr, path: &str) -> String {
    format!("http://{server}{path}")
}

/// The names that other programs read, and sums that agree with each other.
#[test]
fn the_report_keeps_its_contract() {
    let server = server(|peer| {
        loop {
            peer.request()?;
            peer.say(whole("hello"))?;
        }
    });
    let (end, content) = report(&[&url(server, "/"), "--requests", "500", "--connections", "7"]);
    assert!(content, "{end}");
    assert_eq!((number(&end, "requests"), number(&end, "body_bytes")), (500, 2500), "{end}");
    assert_eq!(number(&end, "received_bytes"), 500 * whole("hello").len() as u64, "{end}");
    assert_eq!(
        (&end["mode"], &end["rate"], &end["transport"]),
        (&"closed".into(), &Value::Null, &"kernel".into())
    );
    assert_eq!((number(&end, "connections"), number(&end, "connected")), (7, 7), "{end}");
    assert_eq!(errors(&end), []);
    let float = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number: {end}"));
    let (seconds, rate) = (float(&end["seconds"]), float(&end["requests_per_second"]));
    assert!((rate * seconds - 500.0).abs() < 0.01, "{end}");
    assert!((float(&end["body_bytes_per_second"]) - 5.0 * rate).abs() < 0.01, "{end}");
    let latency: Vec<f64> = ["min", "p50", "p90", "p99", "p999", "max"]
        .iter()
        .map(|name| float(&end["latency_us"][name]))
        .collect();
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
    let mean = float(&end["latency_us"]["mean"]);
    assert!(latency[0] <= mean && mean <= latency[5] && float(&end["latency_us"]["stddev"]) >= 0.0, "{end}");
    assert!(float(&end["cpu_seconds"]["user"]) >= 0.0 && float(&end["cpu_seconds"]["system"]) >= 0.0);
}

/// The ways to end a body, pipelined or not; each is verified byte by byte.
#[test]
fn every_framing_is_read() {
    let server = server(|peer| {
        loop {
            let (path, _) = peer.request()?;
            match path.as_str() {
                "/chunked" => {
                    peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")?;
                    peer.say("2\r\nlo\r\n0\r\n\r\n")?;
                }
                "/close" => return peer.say("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
                "/last" => {
                    return peer
                        .say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
                }
                "/early" => peer.say(format!("HTTP/1.1 103 Early Hints\r\n\r\n{}", whole("hello")))?,
                "/drip" => {
                    for byte in whole("hello").bytes() {
                        peer.say([byte])?;
                    }
                }
                _ => peer.say(whole("hello"))?,
            }
        }
    });
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for path in ["/", "/chunked", "/close", "/last", "/early", "/drip"] {
        // Who closes while more requests come resets the connection, and may take the answer away with it.
        let pipelines = if matches!(path, "/close" | "/last") { &["1"][..] } else { &["1", "3"] };
        for pipeline in pipelines {
            let url = url(server, path);
            let args =
                [&url, "--requests", "60", "--connections", "4", "--pipeline", pipeline, "--expect", hello];
            let (end, content) = report(&args);
            assert!(content, "{path}, {pipeline}: {end}");
            assert_eq!((number(&end, "requests"), number(&end, "body_bytes")), (60, 300), "{path}: {end}");
            assert_eq!(end["body_sha256"], hello, "{path}: {end}");
        }
    }
}

/// Several paths in turn, each with its fields.
#[test]
fn paths_are_asked_for_in_turn() {
    let server = server(|peer| {
        loop {
            let (path, head) = peer.request()?;
            let sound = head.contains("\r\nX-Test: yes\r\n") && head.contains("\r\nHost: 127.0.0.1:");
            peer.say(whole(if sound { &path } else { "" }))?;
        }
    });
    let list = std::env::temp_dir().join(format!("ringway-load-paths-{}", std::process::id()));
    std::fs::write(&list, "/ccc\n\n/dddd\n").expect("a file");
    let (one, two, file) = (url(server, "/a"), url(server, "/bb"), list.to_string_lossy().into_owned());
    let (end, content) = report(&[
        &one,
        &two,
        "--paths",
        &file,
        "--requests",
        "400",
        "--connections",
        "3",
        "--header",
        "X-Test: yes",
        "--hash",
    ]);
    std::fs::remove_file(&list).expect("gone");
    assert!(content, "{end}");
    assert_eq!((number(&end, "requests"), number(&end, "body_bytes")), (400, 100 * (2 + 3 + 4 + 5)), "{end}");
}

/// A large body is counted to the last byte, whether the kernel throws it away or we look at it.
#[test]
fn large_bodies_are_counted_to_the_last_byte() {
    let server = server(|peer| {
        let body = vec![7; 3_000_001];
        loop {
            peer.request()?;
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()))?;
            peer.say(&body)?;
        }
    });
    for more in [&[][..], &["--hash"]] {
        let (end, content) =
            report(&[&[&*url(server, "/"), "--requests", "20", "--connections", "2"], more].concat());
        assert!(content, "{end}");
        assert_eq!(number(&end, "body_bytes"), 20 * 3_000_001, "{end}");
    }
}

/// Each way to misbehave has its name, and the exit code is not 0.
#[test]
fn each_misbehaviour_has_its_name() {
    let server = server(|peer| {
        for number in 0.. {
            let (path, _) = peer.request()?;
            match path.as_str() {
                "/status" => peer.say("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!")?,
                "/length" => return peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"),
                "/chunk" => {
                    return peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello");
                }
                "/reset" => return Ok(()),
                "/protocol" => return peer.say("I am no server of yours\r\n\r\n"),
                "/more" => peer.say(whole("hello") + "and more")?,
                "/hash" => peer.say(whole(if number % 2 == 0 { "hello" } else { "world" }))?,
                // Whoever hangs does so until the client has had enough.
                _ => drop(peer.reader.read_to_end(&mut Vec::new())?),
            }
        }
        Ok(())
    });
    for (path, name) in [
        ("/status", "status"),
        ("/length", "length"),
        ("/chunk", "length"),
        ("/reset", "reset"),
        ("/protocol", "protocol"),
        ("/more", "protocol"),
        ("/hash", "hash"),
        ("/timeout", "timeout"),
    ] {
        let url = url(server, path);
        let args =
            [&url, "--requests", "6", "--connections", "2", "--timeout", "0.3", "--hash", "--duration", "5"];
        let (end, content) = report(&args);
        assert!(!content, "{path}: {end}");
        let found = errors(&end);
        assert!(found.len() == 1 && found[0].0 == name, "{path}: {found:?}, {end}");
        let whole = matches!(path, "/status" | "/hash" | "/more");
        assert_eq!(number(&end, "requests"), if whole { 6 } else { 0 }, "{path}: {end}");
        let count = if path == "/hash" { 2..=4 } else { 5..=6 };
        assert!(count.contains(&found[0].1), "{path}: {found:?}");
    }
}

/// A server that hangs up on everybody is not hammered: each connection rests, longer each time.
#[test]
fn a_server_that_hangs_up_is_not_hammered() {
    let server = server(|_| Ok(()));
    let (end, content) = report(&[&url(server, "/"), "--duration", "1", "--connections", "4"]);
    assert!(!content && number(&end, "requests") == 0, "{end}");
    // 10, 20, 40 .. 640 ms: seven or eight attempts each in a second, not thousands.
    let (connected, spent) = (number(&end, "connected"), end["cpu_seconds"]["user"].as_f64());
    assert!((8..=40).contains(&connected), "{end}");
    assert!(spent < Some(0.3), "{end}");
}

/// A second in which the server stands still: at a constant rate it shows in the latency from when requests were due.
#[test]
fn a_stall_shows_at_a_constant_rate() {
    let begin = Instant::now();
    let server = server(move |peer| {
        loop {
            peer.request()?;
            // All connections at once, as a server does that collects its garbage.
            let into = begin.elapsed().as_millis() % 3000;
            if (1000..2000).contains(&into) {
                std::thread::sleep(Duration::from_millis(u64::try_from(2000 - into)?));
            }
            peer.say(whole("hello"))?;
        }
    });
    let (end, content) =
        report(&[&url(server, "/"), "--rate", "1000", "--duration", "3", "--connections", "4"]);
    assert!(content, "{end}");
    assert_eq!((&end["mode"], end["rate"].as_f64()), (&"rate".into(), Some(1000.0)));
    assert!((2500..=3003).contains(&number(&end, "requests")), "{end}");
    let p90 = |what: &str| end[what]["p90"].as_f64().expect("a number");
    // A third of all came while it stood still. Four of them had been sent.
    assert!(p90("latency_us") > 400_000.0 && p90("service_us") < 300_000.0, "{end}");
}

/// What cannot be is said in a sentence, and the exit code is 1.
#[test]
fn what_cannot_be_is_said() {
    let words = |args: &[&str]| {
        let output = load(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(words(&["https://127.0.0.1/"]).contains("there is no TLS here"));
    assert!(words(&["127.0.0.1/"]).contains("begins with http://"));
    assert!(words(&["http://127.0.0.1:0/"]).contains("no TCP port"));
    assert!(words(&["http://name.invalid/"]).contains("looking up name.invalid"));
    assert!(words(&["http://127.0.0.1/", "http://127.0.0.2/"]).contains("two servers"));
    assert!(words(&["http://127.0.0.1/", "--header", "nothing"]).contains("--header"));
    assert!(words(&["http://127.0.0.1/", "--paths", "/nothing-there"]).contains("reading the paths"));
    assert!(words(&["http://127.0.0.1/", "--expect", "12"]).contains("64 hexadecimal digits"));
    assert!(words(&["http://127.0.0.1/", "--rate", "0"]).contains("a number from"));
    assert!(words(&["http://127.0.0.1/", "--cpu", "4095"]).contains("no CPU 4095"));
    assert!(words(&["http://127.0.0.1/", "--cpu", "0-1", "--connections", "1"]).contains("too few"));
    assert!(
        words(&["http://name/", "--port", "af-xdp:lo", "--address", "10.0.0.1/8"]).contains("an IP address")
    );
    assert!(words(&["http://10.0.0.2/", "--port", "af-xdp:lo"]).contains("--address"));
    assert!(words(&["http://10.0.0.2/", "--gateway", "10.0.0.1"]).contains("--port"));
    assert!(
        words(&["http://10.0.0.2/", "--port", "af-xdp:lo", "--address", "fd77::3/64"])
            .contains("is an IPv4 address")
    );
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let refused = words(&[&url(free, "/")]);
    assert!(refused.contains(&format!("connecting to {free}: connection refused")), "{refused}");
}

/// Ctrl-C ends it, and it tells what it has.
#[test]
fn an_interrupted_run_reports_what_it_has() {
    let server = server(|peer| {
        loop {
            peer.request()?;
            peer.say(whole("hello"))?;
        }
    });
    let mut command = Command::new(Ringway::program().expect("the program"));
    command.args(["load", &url(server, "/"), "--duration", "600", "--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a child");
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut text = String::new();
    while !text.contains("interval") {
        assert!(reader.read_line(&mut text).expect("a line") > 0, "{text}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    reader.read_to_string(&mut text).expect("the rest");
    assert!(child.wait().expect("an end").success(), "{text}");
    let end: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert!(number(&end, "requests") > 100 && end["seconds"].as_f64() < Some(60.0), "{end}");
}

/// For people: a table, and words for what went wrong.
#[test]
fn people_read_a_table() {
    let server = server(|peer| {
        loop {
            peer.request()?;
            peer.say("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")?;
        }
    });
    let output = load(&[&url(server, "/"), "--requests", "10"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["over the kernel's sockets", "10 requests", "99.9 %", "status: answers with a status"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(output.stderr.is_empty(), "no bar where nobody looks: {output:?}");
}

/// A server that falls silent does not leave a good report of the few that it answered before: the exit code and words say
/// that it is gone, and how long the oldest request waited.
#[test]
fn a_server_that_falls_silent_is_no_success() {
    let server = server(|peer| {
        for _ in 0..3 {
            peer.request()?;
            peer.say(whole("hello"))?;
        }
        peer.request()?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    let args = [&url(server, "/"), "--duration", "1.5", "--connections", "4"];
    let output = load(&args);
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("12 requests") && text.contains("unanswered        4"), "{text}");
    assert!(text.contains("the oldest had waited for 1."), "{text}");
    assert!(said.contains("nobody answered in the last 1.") && said.contains("4 requests"), "{said}");
    let (end, content) = report(&args);
    assert!(!content && errors(&end).is_empty(), "{end}");
    assert_eq!((number(&end, "requests"), number(&end, "unanswered")), (12, 4), "{end}");
    for name in ["oldest_unanswered_seconds", "silent_seconds"] {
        assert!(end[name].as_f64().is_some_and(|time| time > 1.0 && time < 1.6), "{name}: {end}");
    }
}

/// A long body is an answer under way: who takes its whole time for one is not taken for dead.
#[test]
fn a_slow_body_is_no_silence() {
    let server = server(|peer| {
        peer.request()?;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")?;
        peer.request()?;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
        loop {
            peer.say("x")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (end, content) = report(&[&url(server, "/"), "--duration", "1", "--connections", "1"]);
    assert!(content && number(&end, "requests") == 1 && number(&end, "unanswered") == 1, "{end}");
}

/// Latencies of nothing are not 0 microseconds.
#[test]
fn latencies_of_nothing_are_none() {
    let server = server(|peer| {
        peer.request()?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    let args = [&url(server, "/"), "--duration", "0.3", "--rate", "10"];
    let (end, content) = report(&args);
    assert!(!content && number(&end, "requests") == 0, "{end}");
    let of = |name: &str| end[name].as_object().unwrap_or_else(|| panic!("no {name}: {end}")).clone();
    assert!(of("service_us").len() == 8 && of("service_us").values().all(Value::is_null), "{end}");
    let output = load(&[&url(server, "/"), "--duration", "0.3"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text.lines().find(|line| line.trim_start().starts_with("latency")).expect("a row");
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["latency", "-", "-", "-", "-", "-", "-", "-", "-"]
    );
    assert!(!text.contains("no errors") && output.status.code() == Some(1), "{text}");
}
