//! Every engine of `serve --engine`, with the stories that the server over our own TCP is told, too.
//!
//! ```text
//!   left: clients ── left0 ══ rw-left, with an address of the kernel's [ serve --engine METHOD ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use drivers::kernel::Method;
use lab::engine::{Engine, SOON, laboratory, number};
use lab::server::{PORT, SERVER, Tree, fetch, url};
use lab::stories::{ANSWERED, REFUSED, compare, tree};
use lab::{Outcome, Ringway, TestLab, needs};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bodies of every kind of size come whole, in parts, one after another on a connection; what is no request, or nothing
/// that there is, has its status.
fn tells_the_same_story(lab: &TestLab, method: Method) {
    let tree = tree();
    let sizes = [0, 1, 1000, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, (5 << 20) + 3];
    let bodies = sizes
        .map(|bytes| (format!("body-{bytes}"), tree.file(&format!("body-{bytes}"), bytes).expect("a file")));
    let server = Engine::start(lab, method, &tree, &[]);
    for (name, body) in &bodies {
        let reply = fetch(lab, &[&url(&format!("/{name}"))]).expect("a response");
        assert!(reply.status == 200 && reply.body == *body, "{method}: {name}: {}", reply.head);
        let head = fetch(lab, &["--head", &url(&format!("/{name}"))]).expect("a response");
        assert_eq!(head.field("Content-Length"), reply.field("Content-Length"), "{method}: {name}");
    }
    let (name, large) = bodies.last().expect("the largest");
    let range = fetch(lab, &["--range", "4097-70000", &url(&format!("/{name}"))]).expect("a response");
    assert!(range.status == 206 && range.body == large[4097..=70000], "{method}: {}", range.head);
    let parts = fetch(lab, &["--range", "0-9,5000-69999", &url(&format!("/{name}"))]).expect("a response");
    let parts_hold = |piece: &[u8]| parts.body.windows(piece.len()).any(|window| window == piece);
    assert!(parts.status == 206 && parts_hold(&large[5000..70000]), "{method}: {}", parts.head);
    let again = fetch(lab, &[&url("/file")]).expect("a response");
    let etag = format!("If-None-Match: {}", again.field("ETag").expect("an etag"));
    assert_eq!(fetch(lab, &["--header", &etag, &url("/file")]).expect("a response").status, 304, "{method}");
    let whole = |(line, fields, status): &(&str, &str, u16)| {
        (format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").into_bytes(), *status)
    };
    let bad = REFUSED.iter().map(|(request, status)| (request.to_vec(), *status));
    let cases: Vec<_> = bad.chain(ANSWERED.iter().map(whole)).collect();
    lab.host(Side::Left).run(|| compare(cases)).expect("a host");
    lab.host(Side::Left).run(|| pipelined(large)).expect("a host").expect("sixteen answers");
    let serve = server.finish();
    assert!(number(&serve, "sent_bytes") > sizes.iter().sum::<usize>() as u64, "{method}: {serve}");
    match method {
        // Over a veth the kernel copies after all, and says so.
        Method::Zerocopy | Method::UringZerocopy => {
            assert!(number(&serve, "zerocopy_sends") > 0, "{serve}");
            assert_eq!(serve["zerocopy_sends"], serve["zerocopy_done"], "all came back: {serve}");
            assert!(number(&serve, "zerocopy_copied") > 0, "{serve}");
        }
        Method::DirectAio | Method::DirectUring => {
            let direct = number(&serve, "direct_read_bytes") + number(&serve, "direct_refused_bytes");
            assert!(direct > 5 << 20, "read past the page cache, or said not to be: {serve}");
        }
        Method::Vmsplice => {
            assert!(number(&serve, "vmspliced_bytes") > 0, "{serve}");
            assert!(number(&serve, "teed_bytes") > 0, "the same body again goes by tee: {serve}");
        }
        Method::Uring | Method::UringSplice => assert!(number(&serve, "operations") > 100, "{serve}"),
        _ => {}
    }
}

/// Sixteen requests at once, answered in order.
fn pipelined(large: &[u8]) -> Outcome<()> {
    let mut stream = TcpStream::connect((SERVER, PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    let one = |name: &str| format!("GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n");
    let last = format!("GET /body-{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", large.len());
    stream.write_all((one("body-1000").repeat(15) + &last).as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let answers = bytes.windows(12).filter(|window| window.starts_with(b"HTTP/1.1 200")).count();
    // The same words inside of random bytes are not to be expected.
    if answers == 16 && bytes.ends_with(large) { Ok(()) } else { Err(format!("{answers} answers").into()) }
}

/// A file that is cut in the middle of a transfer: the connection ends early, and the server goes on.
fn survives_a_cut(lab: &TestLab, method: Method) {
    let tree = Tree::new().expect("a folder");
    let (cut, _) = (tree.file("cut", 24 << 20).expect("a file"), tree.file("file", 1000).expect("a file"));
    let server = Engine::start(lab, method, &tree, &[]);
    let download = || -> io::Result<(usize, io::Result<usize>)> {
        let mut stream = TcpStream::connect((SERVER, PORT))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 64 << 10)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET /cut HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut bytes = vec![0; 1 << 20];
        stream.read_exact(&mut bytes)?;
        std::thread::sleep(Duration::from_millis(200));
        std::fs::OpenOptions::new().write(true).open(tree.path().join("cut"))?.set_len(1000)?;
        let ended = stream.read_to_end(&mut bytes);
        Ok((bytes.len(), ended))
    };
    let (got, ended) = lab.host(Side::Left).run(download).expect("a host").expect("a response begins");
    assert!(got < cut.len(), "{method}: a body of full length");
    assert!(ended.is_err(), "{method}: a reset, not an end in order");
    assert_eq!(fetch(lab, &[&url("/file")]).expect("served").status, 200, "{method}");
    assert_eq!(number(&server.finish(), "responses_cut_short"), 1, "{method}");
}

/// Clients that ask for much and read nothing keep nobody else waiting.
fn slow_readers_keep_nobody_waiting(lab: &TestLab, method: Method, slow: usize) {
    let tree = Tree::new().expect("a folder");
    for (name, bytes) in [("large", 16 << 20), ("file", 1000)] {
        tree.file(name, bytes).expect("a file");
    }
    let server = Engine::start(lab, method, &tree, &[]);
    let story = || -> io::Result<Duration> {
        let readers = (0..slow).map(|_| {
            let mut stream = TcpStream::connect((SERVER, PORT))?;
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096)?;
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")?;
            Ok(stream)
        });
        let readers = readers.collect::<io::Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        let mut stream = TcpStream::connect((SERVER, PORT))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        assert!(bytes.starts_with(b"HTTP/1.1 200") && bytes.len() > 1000, "{method}");
        drop(readers);
        Ok(begin.elapsed())
    };
    let took = lab.host(Side::Left).run(story).expect("a host").expect("answered");
    assert!(took < Duration::from_secs(5), "{method}: {took:?} beside {slow} slow readers");
    let _ = server.finish();
}

#[test]
fn every_engine_tells_the_same_story() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "curl");
    let lab = laboratory();
    Method::ALL.into_iter().for_each(|method| tells_the_same_story(&lab, method));
}

#[test]
fn no_engine_dies_of_a_file_that_is_cut() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "curl");
    let lab = laboratory();
    Method::ALL.into_iter().for_each(|method| survives_a_cut(&lab, method));
}

/// More of them than an engine has buffers.
#[test]
fn slow_readers_keep_no_engines_buffers() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        slow_readers_keep_nobody_waiting(&lab, method, 160);
    }
}

/// A thousand connections at once, each served.
#[test]
fn a_thousand_connections_are_served() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let body = tree.file("file", 20_000).expect("a file");
    for method in [Method::Sendfile, Method::Uring, Method::DirectAio] {
        let server = Engine::start(&lab, method, &tree, &[]);
        let story = || -> io::Result<()> {
            let streams = (0..1000).map(|_| TcpStream::connect((SERVER, PORT)));
            let mut streams = streams.collect::<io::Result<Vec<_>>>()?;
            for stream in &mut streams {
                stream.set_read_timeout(Some(SOON))?;
                stream.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            }
            for mut stream in streams {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes)?;
                assert!(bytes.ends_with(&body), "{method}");
            }
            Ok(())
        };
        lab.host(Side::Left).run(story).expect("a host").expect("all answered");
        let serve = server.finish();
        assert_eq!(
            (number(&serve, "requests"), number(&serve, "connections_opened")),
            (1000, 1000),
            "{serve}"
        );
    }
}

/// Who stops reading is reset after --stall-timeout; who says nothing is let go after --idle-timeout.
#[test]
fn who_does_not_move_is_let_go() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    tree.file("large", 16 << 20).expect("a file");
    for method in [Method::Sendfile, Method::Uring] {
        let server = Engine::start(&lab, method, &tree, &["--stall-timeout", "1", "--idle-timeout", "1"]);
        let story = || -> io::Result<(io::Result<usize>, io::Result<usize>)> {
            let (mut slow, mut silent) =
                (TcpStream::connect((SERVER, PORT))?, TcpStream::connect((SERVER, PORT))?);
            rustix::net::sockopt::set_socket_recv_buffer_size(&slow, 4096)?;
            slow.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")?;
            silent.set_read_timeout(Some(SOON))?;
            let quiet = silent.read(&mut [0; 100]);
            std::thread::sleep(Duration::from_secs(3));
            slow.set_read_timeout(Some(SOON))?;
            Ok((quiet, slow.read_to_end(&mut Vec::new())))
        };
        let (quiet, slow) = lab.host(Side::Left).run(story).expect("a host").expect("connected");
        assert_eq!(quiet.expect("an end in order"), 0, "{method}");
        assert!(slow.is_err(), "{method}: a reset");
        assert_eq!(number(&server.finish(), "clients_timed_out"), 2, "{method}");
    }
}

/// What cannot be is said in words.
#[test]
fn wrong_words_are_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let root = tree.path().to_string_lossy().into_owned();
    for (typed, words) in [
        ("--engine teleport", "possible values: read-write"),
        ("--engine sendfile --port af-xdp:rw-left", "cannot be used with"),
        ("--engine sendfile --vlan 7", "cannot be used with"),
        ("--engine sendfile --listen 192.0.2.1:80", "give --listen an address of this machine"),
        ("--engine sendfile --listen here", "neither a port"),
        ("--engine sendfile --cpu 1000", "there is no CPU 1000"),
        (
            "--port af-xdp:rw-left --address 10.77.0.50/24 --listen 10.77.0.50:80",
            "over a --port the address is --address",
        ),
    ] {
        let mut args = vec!["serve", "--root", &root];
        args.extend(typed.split(' '));
        let ended = Ringway::start(lab.middle(), &args).expect("started").wait(SOON).expect("ends");
        // Lines are wrapped where they are long.
        let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!ended.status.success() && said.contains(words), "{typed}: {said}");
    }
}
