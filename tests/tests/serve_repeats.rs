//! The same request again and again: answered unread, and never with anything but what reading it would give.
//!
//! ```text
//!   client of our own ── loopback ── worker [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::serve::http::Limits;
use dataplane::serve::server::ServePlan;
use lab::indoors::{Indoors, plan, pools};
use lab::server::{Reply, Tree};
use std::time::Duration;

/// The responses to `requests`, each over a connection of its own, one after another.
fn ask(room: &mut Indoors<'_>, requests: &[&[u8]]) -> Vec<Reply> {
    requests.iter().map(|request| reply(room, request)).collect()
}

fn reply(room: &mut Indoors<'_>, request: &[u8]) -> Reply {
    let talk = room.say(request).expect("room");
    room.until("a head", |room| Reply::parse(room.heard(talk)).is_ok()).expect("a head");
    let whole = |bytes: &[u8]| {
        let reply = Reply::parse(bytes).expect("a response");
        let length = reply.field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        request.starts_with(b"HEAD") || reply.status == 304 || reply.body.len() >= length
    };
    room.until("a response", |room| whole(room.heard(talk))).expect("whole");
    Reply::parse(room.heard(talk)).expect("a response")
}

/// A head without what the second changes.
fn timeless(reply: &Reply) -> Vec<&str> {
    reply.head.lines().filter(|line| !line.starts_with("Date: ")).collect()
}

#[test]
fn what_repeats_is_answered_as_if_it_were_read() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 3000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    let first = reply(&mut room, b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n");
    let tag = first.field("etag").expect("a tag").to_owned();
    let cases = [
        ("GET /file HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 200, &content[..]),
        ("HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 200, &[]),
        (
            "GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=100-1099\r\n\r\n".to_owned(),
            206,
            &content[100..1100],
        ),
        (format!("GET /file HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n"), 304, &[]),
    ];
    for (request, status, body) in &cases {
        let replies = ask(&mut room, &[request.as_bytes(); 6]);
        for reply in &replies {
            assert_eq!(reply.status, *status, "{request}");
            assert!(reply.body == *body, "{request}: {} bytes", reply.body.len());
            assert_eq!(timeless(reply), timeless(&replies[0]), "{request}");
        }
    }
    // The first two of each six are read, and so are two when a second goes by among them.
    let [requests, repeated, hits] =
        room.figures(["requests", "requests_repeated", "responses_2xx"]).expect("figures");
    assert_eq!((requests, hits), (25, 19));
    assert!((12..=17).contains(&repeated), "{repeated} of {requests}");
    room.close().expect("books in order");
}

#[test]
fn what_is_no_plain_question_for_a_file_is_read_each_time() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    tree.file("file", 100).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 204),
        ("POST /file HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("GET /file HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200),
        ("GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET /file HTTP/1.1\r\n\r\n", 400),
    ] {
        for reply in ask(&mut room, &[request.as_bytes(); 4]) {
            assert_eq!(reply.status, status, "{request}");
        }
    }
    assert_eq!(room.figures(["requests_repeated"]).expect("figures"), [0]);
    room.close().expect("books in order");
}

/// Several requests in one segment, and a connection that may ask for so many only.
#[test]
fn a_pipeline_repeats_up_to_the_last_request() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 500).expect("a file");
    let limits = Limits { requests: 5, ..Limits::default() };
    let plan = ServePlan { limits, ..plan(tree.path()).expect("a plan") };
    let mut room = Indoors::new(plan, &pools, None).expect("a server");
    // Longer than what a head is told apart by, so that what follows it does not matter.
    let request: &[u8] = b"GET /file HTTP/1.1\r\nHost: a.example.net\r\nAccept: text/plain, */*\r\n\r\n";
    ask(&mut room, &[request; 3]);
    let talk = room.say(&request.repeat(7)).expect("room");
    room.until("five", |room| room.heard(talk).windows(500).filter(|part| *part == content).count() == 5)
        .expect("five responses");
    room.pass(Duration::from_millis(200)).expect("turns");
    let heard = String::from_utf8_lossy(room.heard(talk)).into_owned();
    assert_eq!(heard.matches("HTTP/1.1 200 OK\r\n").count(), 5);
    assert_eq!(heard.matches("Connection: close\r\n").count(), 1);
    room.close().expect("books in order");
}

/// The response to a request over a connection of its own; nothing when the connection was ended, as that of a transfer is
/// which has lost its file.
fn reply_or_end(room: &mut Indoors<'_>, request: &[u8]) -> Option<Reply> {
    let talk = room.say(request).expect("room");
    let whole = |reply: &Reply| reply.field("content-length") == Some(&reply.body.len().to_string());
    room.until("an end", |room| {
        room.client.ended(talk).is_some() || Reply::parse(room.heard(talk)).is_ok_and(|reply| whole(&reply))
    })
    .expect("an end");
    Reply::parse(room.heard(talk)).ok().filter(|_| room.client.ended(talk).is_none())
}

/// A file that is written anew is sent anew, within the second.
#[test]
fn a_changed_file_ends_the_repetition() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let request: &[u8] = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut content = tree.file("file", 1000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    for size in [2000, 700, 1500] {
        // Emptied and written are two events: the second may be told when the new bytes have been sent once.
        let mut whole = 0;
        while whole < 4 {
            if let Some(reply) = reply_or_end(&mut room, request) {
                assert!(reply.body == content, "{} bytes", reply.body.len());
                whole += 1;
            }
        }
        let (old, real) = (content, std::time::Instant::now());
        content = tree.file("file", size).expect("a file");
        // Until inotify has told of it, the old one may be named.
        loop {
            if let Some(reply) = reply_or_end(&mut room, request) {
                assert!(reply.body == content || reply.body == old, "{} bytes", reply.body.len());
                if reply.body == content {
                    break;
                }
            }
            assert!(real.elapsed() < Duration::from_secs(5), "the change is never seen");
            // The client has room for so many connections, and the librarian's thread wants a processor.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    room.close().expect("books in order");
}
