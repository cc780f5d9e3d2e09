//! Uploads: PUT below the root, by each way of getting a body from a socket into a file.
//!
//! ```text
//!   left: curl -T, raw sockets ── left0 ══ rw-left [ serve --engine METHOD --upload WAY ] ── files that are whole, or not there
//! ```
#![forbid(unsafe_code)]

use drivers::kernel::{Method, Receive};
use lab::engine::{Engine, SOON, begin, connect, laboratory, number, response};
use lab::server::{Reply, Tree, curl, fetch, url};
use lab::upload::{ask, chunked, left, names, put};
use lab::{Outcome, Ringway, TestLab, needs};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// What curl was answered after any `100 Continue`.
fn upload(lab: &TestLab, file: &Path, more: &[&str], path: &str) -> Reply {
    let (file, url) = (file.to_string_lossy().into_owned(), url(path));
    let mut args = vec!["--include", "--upload-file", &file];
    args.extend(more);
    args.push(&url);
    let output = curl(lab, &args).expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    Reply::parse(output.stdout.strip_prefix(interim).unwrap_or(&output.stdout)).expect("a response")
}

/// A body of any size becomes a file, and the next GET gives it, byte for byte; sent again, it replaces the file.
fn stores_what_it_is_sent(lab: &TestLab, method: Method, way: Receive) {
    let (sources, tree) = (Tree::new().expect("a folder"), Tree::new().expect("a folder"));
    std::fs::create_dir(tree.path().join("folder")).expect("a folder");
    let log = sources.path().join("log");
    let log_arg = log.to_string_lossy().into_owned();
    let server = Engine::start(lab, method, &tree, &["--upload", way.name(), "--access-log", &log_arg]);
    let sizes = [0, 1, 1000, 64 << 10, (64 << 10) + 1, (5 << 20) + 3];
    for bytes in sizes {
        let what = format!("{method}, {way}, {bytes} bytes");
        let first = sources.file(&format!("first-{bytes}"), bytes).expect("a file");
        let second = sources.file(&format!("second-{bytes}"), bytes + 7).expect("a file");
        let path = format!("/folder/body%20{bytes}");
        let stored = tree.path().join(format!("folder/body {bytes}"));
        for (name, more, body, status) in [
            ("first", &[][..], &first, 201),
            ("second", &[], &second, 204),
            // Of an empty file, this curl sends no end.
            ("first", &["--header", "Transfer-Encoding: chunked"][..2 * usize::from(bytes > 0)], &first, 204),
        ] {
            let reply = upload(lab, &sources.path().join(format!("{name}-{bytes}")), more, &path);
            assert_eq!(reply.status, status, "{what}: {name}: {}", reply.head);
            assert!(std::fs::read(&stored).expect("a file") == *body, "{what}: {name}: on disk");
            let got = fetch(lab, &[&url(&path)]).expect("a response");
            assert!(got.status == 200 && got.body == *body, "{what}: {name}: {}", got.head);
            assert_eq!(got.field("ETag"), reply.field("ETag"), "{what}: {name}");
        }
    }
    assert_eq!(names(&tree.path().join("folder")).len(), sizes.len(), "nothing besides");
    let serve = server.finish();
    let sum: usize = sizes.iter().map(|bytes| 3 * bytes + 7).sum();
    let chunks: usize = sizes.iter().sum();
    let (spliced, copied) = (number(&serve, "upload_spliced_bytes"), number(&serve, "upload_copied_bytes"));
    assert_eq!(spliced + copied, sum as u64, "{method}, {way}: {serve}");
    assert_eq!(number(&serve, "uploads_stored"), 3 * sizes.len() as u64, "{serve}");
    match way {
        // All but chunks, and what came together with a head.
        Receive::Splice => assert!(spliced > sum as u64 - chunks as u64 - (1 << 20), "{serve}"),
        Receive::ReadWrite => assert_eq!(spliced, 0, "{serve}"),
    }
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("\"PUT /folder/body%200 HTTP/1.1\" 201 "), "{log}");
}

#[test]
fn bodies_become_files() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "curl");
    let lab = laboratory();
    for way in Receive::ALL {
        stores_what_it_is_sent(&lab, Method::Sendfile, way);
    }
}

/// Whatever sends, uploads are the same: each engine once.
#[test]
fn every_engine_takes_uploads() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "curl");
    let lab = laboratory();
    let body: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let server = Engine::start(&lab, method, &tree, &["--upload"]);
        let story = || -> Outcome<()> {
            let mut stream = begin(&put("/new", "", &body))?;
            assert_eq!(response(&mut stream)?.status, 201, "{method}");
            stream.write_all(b"GET /new HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let reply = response(&mut stream)?;
            assert!(reply.status == 200 && reply.body == body, "{method}: {}", reply.head);
            Ok(())
        };
        left(&lab, story);
        assert!(number(&server.finish(), "upload_spliced_bytes") > 0, "{method}");
    }
}

/// Each refusal has its status, and leaves no trace; a connection whose place in the stream is known goes on.
#[test]
fn what_cannot_be_stored_is_refused() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = lab::stories::tree();
        let before = names(tree.path());
        let limit = ["--upload", way.name(), "--upload-limit", "100k"];
        let server = Engine::start(&lab, Method::Sendfile, &tree, &limit);
        let (small, large) = (vec![1; 1000], vec![2; 20 << 20]);
        let long = format!("/{}", "n".repeat(300));
        let broken = b"PUT /new HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloworld";
        // The request, its status, whether the connection goes on.
        let cases: Vec<(&str, Vec<u8>, u16, bool)> = vec![
            ("a folder that is not there", put("/none/x", "", &small), 409, true),
            ("below a file", put("/file/x", "", &small), 409, true),
            ("a folder", put("/folder", "", &small), 409, true),
            ("a folder with its slash", put("/folder/", "", &small), 409, true),
            ("the root", put("/", "", &small), 409, true),
            ("a link", put("/out", "", &small), 403, true),
            ("behind a link", put("/out-folder/x", "", &small), 403, true),
            ("a draft", put("/.ringway-draft-1", "", &small), 403, true),
            ("a long name", put(&long, "", &small), 414, true),
            ("no length", b"PUT /new HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 411, true),
            ("a part", put("/new", "Content-Range: bytes 0-999/5000\r\n", &small), 400, true),
            ("a coded form", put("/new", "Content-Encoding: gzip\r\n", &small), 415, true),
            ("a miracle", put("/new", "Expect: tea\r\n", b""), 417, true),
            ("not new", put("/file", "If-None-Match: *\r\n", &small), 412, true),
            ("not there", put("/new", "If-Match: *\r\n", &small), 412, true),
            ("another", put("/file", "If-Match: \"other\"\r\n", &small), 412, true),
            (
                "newer",
                put("/file", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", &small),
                412,
                true,
            ),
            ("a length beyond the limit", put("/new", "", &large), 413, false),
            ("chunks beyond the limit", chunked("/new", &large, 50_000), 413, false),
            ("broken chunks", broken.to_vec(), 400, false),
            ("without a body, long", put("/none/x", "", &large[..90_000]), 409, false),
        ];
        let story = || -> Outcome<()> {
            for (what, bytes, status, goes_on) in &cases {
                let mut stream = begin(bytes).map_err(|error| format!("{what}: {error}"))?;
                let reply = response(&mut stream).map_err(|error| format!("{what}: {error}"))?;
                assert_eq!(reply.status, *status, "{way}: {what}: {}", reply.head);
                assert_eq!(reply.field("Connection"), (!goes_on).then_some("close"), "{way}: {what}");
                if *goes_on {
                    stream.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")?;
                    assert_eq!(response(&mut stream)?.status, 200, "{way}: {what}");
                } else {
                    // In order, not by a reset that could have taken the answer along.
                    assert_eq!(stream.read_to_end(&mut Vec::new())?, 0, "{way}: {what}");
                }
            }
            let options = ask(b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(options.field("Allow"), Some("GET, HEAD, OPTIONS, PUT"));
            let post = ask(b"POST /file HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")?;
            assert_eq!((post.status, post.field("Allow")), (405, Some("GET, HEAD, OPTIONS, PUT")));
            let reply = ask(b"GET /.ringway-draft-1 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(reply.status, 404);
            Ok(())
        };
        left(&lab, story);
        assert_eq!(names(tree.path()), before, "{way}");
        let serve = server.finish();
        let failed = (number(&serve, "uploads_begun"), number(&serve, "uploads_failed"));
        assert_eq!(failed, (2, 2), "only these had begun: {serve}");
    }
}

/// Conditions that hold; several requests at once on one connection, in their order; the body invited, or not.
#[test]
fn requests_follow_bodies() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = Tree::new().expect("a folder");
        let server = Engine::start(&lab, Method::Sendfile, &tree, &["--upload", way.name()]);
        let (first, second) = (vec![b'1'; 200_000], vec![b'2'; 300_000]);
        let get = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let pipelined = || -> Outcome<()> {
            let whole = [
                put("/a", "If-None-Match: *\r\n", &first),
                get.clone(),
                put("/a", "If-Match: *\r\n", &second),
                get.clone(),
                chunked("/a", &first, 777),
                get.clone(),
                chunked("/b", b"", 1),
                get.clone(),
            ]
            .concat();
            let mut stream = connect()?;
            let mut writer = stream.try_clone()?;
            let thread = std::thread::spawn(move || writer.write_all(&whole));
            let mut answers = Vec::new();
            for _ in 0..8 {
                let reply = response(&mut stream)?;
                answers.push((reply.status, reply.body));
            }
            thread.join().expect("no panic")?;
            let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
            assert_eq!(statuses, [201, 200, 204, 200, 204, 200, 201, 200], "{way}");
            for (at, body) in [(1, &first), (3, &second), (5, &first), (7, &first)] {
                assert!(answers[at].1 == *body, "{way}: answer {at}");
            }
            Ok(())
        };
        left(&lab, pipelined);
        let invited = || -> Outcome<()> {
            let head = b"PUT /c HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
            let mut stream = begin(head)?;
            assert_eq!(response(&mut stream)?.status, 100, "{way}");
            stream.write_all(b"hel")?;
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(b"lo")?;
            assert_eq!(response(&mut stream)?.status, 201, "{way}");
            Ok(())
        };
        left(&lab, invited);
        // Refused before the body is sent: no invitation.
        let refused =
            || ask(b"PUT /x/y HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let refused = left(&lab, refused);
        assert_eq!((refused.status, refused.field("Connection")), (409, Some("close")), "{way}");
        assert_eq!(std::fs::read(tree.path().join("c")).expect("a file"), b"hello");
        assert_eq!(names(tree.path()), ["a", "b", "c"]);
        let serve = server.finish();
        assert_eq!(number(&serve, "uploads_stored"), 5, "{serve}");
    }
}

/// Without --upload, PUT is what it was; over a port, and where words make no sense, a sentence says so.
#[test]
fn nothing_is_stored_unasked() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = lab::stories::tree();
    let server = Engine::start(&lab, Method::Sendfile, &tree, &[]);
    let before = names(tree.path());
    let story = || -> Outcome<()> {
        for bytes in [put("/file", "", b"x"), put("/new", "", b"x"), chunked("/new", b"hello", 2)] {
            let reply = ask(&bytes)?;
            assert_eq!((reply.status, reply.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
        }
        Ok(())
    };
    left(&lab, story);
    assert_eq!(names(tree.path()), before);
    assert_eq!(number(&server.finish(), "uploads_begun"), 0);
    let root = tree.path().to_string_lossy().into_owned();
    for (typed, words) in [
        ("--engine sendfile --upload sideways", "possible values: splice, read-write"),
        ("--engine sendfile --upload-limit 1k", "--upload"),
        ("--engine sendfile --upload --upload-limit much", "not a size"),
        ("--engine sendfile --upload --pipe 67108864", "making a pipe"),
        (
            "--port af-xdp:rw-left --address 10.77.0.50/24 --upload",
            "--upload needs --engine METHOD: over a --port the loop that owns the device never waits for a disk",
        ),
    ] {
        let mut args = vec!["serve", "--root", &root, "--duration", "0.1"];
        args.extend(typed.split(' '));
        let ended = Ringway::start(lab.middle(), &args).expect("started").wait(SOON).expect("ends");
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        // Root may have pipes of any size.
        let allowed = typed.contains("--pipe") && ended.status.success();
        assert!(allowed || !ended.status.success() && said.contains(words), "{typed}: {said}");
    }
}
