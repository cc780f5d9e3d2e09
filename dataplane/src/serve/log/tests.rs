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
            Record::refused(peer, refusal, &refuse(refusal, raw.as_bytes(), &policy, &date, &mut out), at())
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
    let cut = record(&raw);
    let text = line(&cut, Format::Combined);
    assert!(text.contains(&format!("\"GET /{}... HTTP/1.1\"", "z".repeat(239))), "{text}");
    assert!(text.ends_with(&format!("\"{}...\" \"{}...\"\n", "z".repeat(100), "z".repeat(140))), "{text}");
    let value: serde_json::Value = serde_json::from_str(&line(&cut, Format::Json)).expect("JSON");
    assert_eq!(value["cut"], serde_json::json!(["target", "referer", "agent"]));
    assert_eq!(value["agent"], "z".repeat(140));
    let just = format!("GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: {}\r\n\r\n", "z".repeat(140));
    assert!(!line(&record(&just), Format::Combined).contains("..."), "as long as it may be");
}

/// Whatever a client sends makes one line, in which nothing can be taken for another text or for an order to a terminal.
#[test]
fn nothing_that_is_sent_makes_a_line_of_its_own() {
    let agents: [&[u8]; 4] = [
        b"x\" 200 5 \"-\" \"y",
        b"x\t\x80\x9b31m\xe2\x80\xa8\xc2\x85",
        b"\\\" 10.0.0.9 - - [06/Nov/1994:08:49:37 +0000] \"GET / HTTP/1.1",
        b"\xff\xfe\xc3",
    ];
    for agent in agents {
        let raw = [b"GET /\"' HTTP/1.1\r\nHost: h\r\nUser-Agent: ", agent, b"\r\n\r\n"].concat();
        let limits = Limits::default();
        let mut scratch = Scratch::new(&limits);
        let Parsed::Request(request, _) = Request::parse(&raw, &mut scratch, &limits) else {
            panic!("{agent:?}")
        };
        let response =
            respond(&request, Resource::NotFound, &Policy::default(), &Date::new(at()), &mut [0; HEAD_MAX]);
        let mut record = Record::new("10.0.0.1".parse().expect("one"), &request, &response, at());
        for evil in [b"\r\n", b"\x1b[", b"\0\0"] {
            // The parser lets none of these in; the log does not lean on that.
            let end = usize::from(record.ends[4]);
            record.text[end..end + 2].copy_from_slice(evil);
            record.ends[4] += 2;
        }
        let text = line(&record, Format::Combined);
        assert_eq!(text.find('\n'), Some(text.len() - 1), "{text:?}");
        assert!(text.trim_end().bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{text:?}");
        assert_eq!(text.matches('"').count(), 6, "three texts in quotes: {text:?}");
        let json = line(&record, Format::Json);
        assert_eq!(json.find('\n'), Some(json.len() - 1), "{json:?}");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(value["agent"].as_str().is_some_and(|text| text.ends_with("\r\n\u{1b}[\0\0")), "{json}");
    }
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
