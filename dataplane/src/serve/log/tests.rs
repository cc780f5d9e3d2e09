//! Lines as others write them, and what becomes of records.

use super::*;
use crate::serve::http::{HEAD_MAX, Limits, Parsed, Policy, Resource, Scratch, refuse, respond};

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(784_111_777_500)
}

fn record(raw: &str) -> Record {
    let limits = Limits::default();
    let (mut scratch, mut out) = (Scratch::new(&limits), [0; HEAD_MAX]);
    let (policy, date) = (Policy::default(), Date::new(at()));
    let peer = "::ffff:10.0.0.1".parse().expect("an address");
    match Request::parse(raw.as_bytes(), &mut scratch, &limits) {
        Parsed::Request(request, _) => {
            let response = respond(&request, Resource::NotFound, &policy, &date, &mut out);
            Record::new(peer, &request, &response, at())
        }
        Parsed::Refused(refusal) => {
            Record::refused(peer, refusal, &refuse(refusal, &policy, &date, &mut out), at())
        }
        Parsed::Incomplete => panic!("incomplete"),
    }
}

fn line(record: &Record, format: Format) -> String {
    let mut line = Vec::new();
    record.write(format, &mut line).expect("memory");
    String::from_utf8(line).expect("text")
}

const GET: &str =
    "GET /a?b=\"c\" HTTP/1.1\r\nHost: h:80\r\nUser-Agent: x\"y\\\u{fc}\r\nReferer: http://r/\r\n\r\n";

#[test]
fn lines_are_as_others_write_them() {
    let get = record(GET);
    assert_eq!(
        line(&get, Format::Combined),
        format!(
            "10.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a?b=\\x22c\\x22 HTTP/1.1\" 404 {} \"http://r/\" \
             \"x\\x22y\\x5C\\xC3\\xBC\"\n",
            get.bytes
        )
    );
    let bare = record("OPTIONS * HTTP/1.0\r\n\r\n");
    assert!(line(&bare, Format::Combined).ends_with("\"OPTIONS * HTTP/1.0\" 204 0 \"-\" \"-\"\n"));
    let refused = record("nonsense\r\n\r\n");
    assert!(line(&refused, Format::Combined).contains("] \"-\" 400 "));
}

#[test]
fn json_has_stable_names() {
    let mut get = record(GET);
    get.taken = Some(Duration::from_millis(250));
    let value: serde_json::Value = serde_json::from_str(&line(&get, Format::Json)).expect("JSON");
    assert_eq!(
        value,
        serde_json::json!({
            "time": 784_111_777.5, "peer": "10.0.0.1", "method": "GET", "target": "/a?b=\"c\"", "host": "h",
            "protocol": "HTTP/1.1", "status": 404, "bytes": get.bytes, "seconds": 0.25, "referer": "http://r/",
            "agent": "x\"y\\\u{fc}", "refused": null,
        })
    );
    let value: serde_json::Value =
        serde_json::from_str(&line(&record("nonsense\r\n\r\n"), Format::Json)).expect("JSON");
    assert_eq!((&value["refused"], &value["target"]), (&"request-line".into(), &serde_json::Value::Null));
}

#[test]
fn long_texts_are_cut() {
    let long = "z".repeat(1000);
    let raw = format!("GET /{long} HTTP/1.1\r\nHost: h\r\nUser-Agent: {long}\r\nReferer: {long}\r\n\r\n");
    let line = line(&record(&raw), Format::Combined);
    assert!(line.contains(&format!("\"GET /{} HTTP/1.1\"", "z".repeat(239))), "{line}");
    assert!(line.ends_with(&format!("\"{}\" \"{}\"\n", "z".repeat(100), "z".repeat(140))), "{line}");
}

/// Written, dropped: every record is one or the other. After the file is moved away, lines go to a new one.
#[test]
fn records_are_written_or_counted() {
    let directory = std::env::temp_dir().join(format!("ringway-log-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("access.log");
    let plan = LogPlan { path: Some(path.clone()), format: Format::Combined, capacity: 8 };
    let log = Log::open(&plan).expect("a log");
    let queue = log.queue();
    let get = record(GET);
    for _ in 0..5000 {
        queue.push(get.clone());
    }
    let wait = |done: &dyn Fn(LogCounts) -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !done(queue.counts()) {
            assert!(std::time::Instant::now() < end, "{:?}", queue.counts());
            thread::sleep(Duration::from_millis(1));
        }
    };
    wait(&|counts| counts.written + counts.dropped == 5000);
    let before = queue.counts();
    assert!(before.dropped > 0 && before.written >= 8, "{before:?}");
    let old = directory.join("old.log");
    std::fs::rename(&path, &old).expect("moved");
    log.reopen();
    wait(&|_| path.exists());
    queue.push(get.clone());
    drop(log);
    let lines = |path| std::fs::read_to_string(path).expect("text").lines().count() as u64;
    assert_eq!((lines(&old), lines(&path)), (before.written, 1));
    assert_eq!(queue.counts().written, before.written + 1);
    std::fs::remove_dir_all(&directory).expect("removed");

    let nowhere = LogPlan { path: Some("/nonexistent/access.log".into()), ..plan.clone() };
    assert!(Log::open(&nowhere).is_err());
    // A disk that is full.
    let log = Log::open(&LogPlan { path: Some("/dev/full".into()), ..plan }).expect("a log");
    let queue = log.queue();
    queue.push(get);
    drop(log);
    assert!(queue.counts().failed > 0, "{:?}", queue.counts());
}
