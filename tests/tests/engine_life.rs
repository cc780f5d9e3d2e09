//! Every engine through what happens to a server: a reload, a file that is replaced, clients that vanish, another server at its
//! port, the end.
//!
//! ```text
//!   left: clients ── left0 ══ rw-left, with an address of the kernel's [ serve --engine METHOD ]  ◄── SIGHUP, SIGTERM
//! ```
#![forbid(unsafe_code)]

use drivers::kernel::Method;
use lab::engine::{Engine, SOON, begin, connect, laboratory, number, response};
use lab::server::{PORT, SERVER, Tree};
use lab::upload::{ask, left};
use lab::{Outcome, Ringway, TestLab, needs};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Large against all buffers on the way.
const BODY: usize = 12 << 20;

const GET: &[u8] = b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n";

/// A download of `/body` whose client has taken some of it, and takes no more for now: the rest is with the server, the kernel
/// having room for little.
fn begin_slowly() -> Outcome<(TcpStream, Vec<u8>)> {
    let stream = connect()?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 64 << 10)?;
    let mut stream = stream;
    stream.write_all(GET)?;
    let mut bytes = vec![0; 100_000];
    stream.read_exact(&mut bytes)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok((stream, bytes))
}

/// What promised the kernel to leave bytes alone has heard from it, or has lost its connection.
fn accounts_for_its_sends(method: Method, serve: &Value) {
    let known = number(serve, "zerocopy_done") + number(serve, "zerocopy_abandoned");
    assert_eq!(number(serve, "zerocopy_sends"), known, "{method}: {serve}");
}

/// SIGHUP in the middle of a transfer: that goes on to its end, the connection goes on after it, and what is asked for
/// then is what is there then.
#[test]
fn a_reload_drops_nobody() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let body = tree.file("body", BODY).expect("a file");
        let page = tree.path().join("page");
        std::fs::write(&page, "before").expect("a page");
        let error_page = format!("404={}", page.display());
        let mut server = Engine::start(&lab, method, &tree, &["--error-page", &error_page]);
        let story = || -> Outcome<()> {
            assert_eq!(ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")?.body, b"before");
            let (mut stream, mut bytes) = begin_slowly()?;
            std::fs::write(&page, "after")?;
            server.process().hang_up()?;
            std::thread::sleep(Duration::from_millis(300));
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            let begun = bytes.len();
            bytes.resize(head + BODY, 0);
            stream.read_exact(&mut bytes[begun..])?;
            assert!(bytes[head..] == body, "{method}: another body");
            stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(response(&mut stream)?.body, b"after", "{method}");
            Ok(())
        };
        left(&lab, story);
        let serve = server.finish();
        assert_eq!(number(&serve, "connections_opened"), 2, "{method}: {serve}");
        accounts_for_its_sends(method, &serve);
    }
}

/// SIGTERM in the middle of a transfer: it completes, nobody new comes in, and the exit code is 0.
#[test]
fn a_terminated_server_drains() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let body = tree.file("body", BODY).expect("a file");
        let mut server = Engine::start(&lab, method, &tree, &["--drain", "10"]);
        let story = || -> Outcome<()> {
            let (mut stream, mut bytes) = begin_slowly()?;
            let mut idle = connect()?;
            std::thread::sleep(Duration::from_millis(100));
            server.process().terminate()?;
            assert_eq!(idle.read(&mut [0; 10])?, 0, "{method}: who has nothing under way is let go");
            assert!(connect().is_err(), "{method}: nobody new comes in");
            assert!(server.process().is_running()?, "{method}: it does not wait");
            // The head had said nothing of an end, so the peer's is awaited behind the last byte.
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            let begun = bytes.len();
            bytes.resize(head + BODY, 0);
            stream.read_exact(&mut bytes[begun..])?;
            assert!(bytes[head..] == body, "{method}: another body");
            Ok(())
        };
        left(&lab, story);
        accounts_for_its_sends(method, &server.ended());
    }
}

/// Renamed over in the middle of a transfer: that ends early, by a reset, and the next one is of the new file.
#[test]
fn a_replaced_file_ends_a_transfer() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let old = tree.file("body", BODY).expect("a file");
        let server = Engine::start(&lab, method, &tree, &[]);
        let story = || -> Outcome<()> {
            let (mut stream, mut bytes) = begin_slowly()?;
            let new = tree.file("new", BODY)?;
            std::fs::rename(tree.path().join("new"), tree.path().join("body"))?;
            std::thread::sleep(Duration::from_millis(100));
            assert!(stream.read_to_end(&mut bytes).is_err(), "{method}: a reset");
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            assert!(
                old.starts_with(&bytes[head..]) && bytes.len() < BODY,
                "{method}: of the old one, and not all"
            );
            let mut stream = begin(GET)?;
            assert!(response(&mut stream)?.body == new, "{method}: the new one");
            Ok(())
        };
        left(&lab, story);
        let serve = server.finish();
        assert_eq!(number(&serve, "responses_cut_short"), 1, "{method}: {serve}");
        accounts_for_its_sends(method, &serve);
    }
}

/// Clients that vanish in the middle of a transfer, by a reset or without a word, take nothing along.
#[test]
fn clients_may_vanish() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let body = tree.file("body", BODY).expect("a file");
        let server = Engine::start(&lab, method, &tree, &[]);
        let story = || -> Outcome<()> {
            let mut gone = Vec::new();
            for number in 0..20 {
                let stream = connect()?;
                rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 16 << 10)?;
                (&stream).write_all(&GET.repeat(1 + number % 3))?;
                if number % 2 == 0 {
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                }
                gone.push(stream);
            }
            std::thread::sleep(Duration::from_millis(200));
            drop(gone);
            let mut stream = begin(GET)?;
            assert!(response(&mut stream)?.body == body, "{method}");
            Ok(())
        };
        left(&lab, story);
        std::thread::sleep(Duration::from_millis(200));
        let serve = server.finish();
        assert_eq!(number(&serve, "connections_closed"), 21, "{method}: {serve}");
        accounts_for_its_sends(method, &serve);
    }
}

/// A port that somebody has is said to be so in words, also where threads share it, which the kernel would let two servers do.
#[test]
fn a_port_in_use_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    for first in [&[][..], &["--cpu", "0,1"]] {
        let server = Engine::start(&lab, Method::Sendfile, &tree, first);
        for second in ["", "--cpu 0,1"] {
            let root = tree.path().to_string_lossy().into_owned();
            let listen = format!("{SERVER}:{PORT}");
            let mut args = vec!["serve", "--engine", "sendfile", "--root", &root, "--listen", &listen];
            args.extend(["--duration", "1"]);
            args.extend(second.split_whitespace());
            let ended = Ringway::start(lab.middle(), &args).expect("started").wait(SOON).expect("ends");
            let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
            let what = format!("{first:?}, then {second:?}: {said}");
            assert!(!ended.status.success(), "{what}");
            assert!(
                said.contains("Address already in use") && said.contains("a port that is free"),
                "{what}"
            );
        }
        assert_eq!(left(&lab, || ask(GET)).status, 404, "the first goes on");
        let _ = server.finish();
    }
}

/// The forms that lie beside a file go by every engine, in a coding that was asked for.
fn sends_precompressed_forms(lab: &TestLab, method: Method) {
    let tree = Tree::new().expect("a folder");
    let plain = tree.file("body", 200_000).expect("a file");
    let forms = [("br", ".br"), ("gzip", ".gz"), ("zstd", ".zst")];
    let forms =
        forms.map(|(coding, end)| (coding, tree.file(&format!("body{end}"), 150_000).expect("a file")));
    let server = Engine::start(lab, method, &tree, &[]);
    let story = || -> Outcome<()> {
        let mut stream = connect()?;
        for (coding, body) in forms.iter().map(|(coding, body)| (*coding, body)).chain([("deflate", &plain)])
        {
            write!(stream, "GET /body HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n")?;
            let reply = response(&mut stream)?;
            assert!(reply.status == 200 && reply.body == *body, "{method}, {coding}: {}", reply.head);
            let said = reply.field("Content-Encoding").unwrap_or("deflate");
            assert_eq!((said, reply.field("Vary")), (coding, Some("Accept-Encoding")), "{method}");
        }
        Ok(())
    };
    left(lab, story);
    let _ = server.finish();
}

#[test]
fn every_engine_sends_precompressed_forms() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    Method::ALL.into_iter().for_each(|method| sends_precompressed_forms(&lab, method));
}

/// Past the page cache where the file system lets them, and through it where not, which is counted: never a byte of both.
#[test]
fn direct_engines_take_what_the_file_system_allows() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in [Method::DirectAio, Method::DirectUring] {
        for (where_it_lies, tree) in [("disk", Tree::new()), ("memory", Tree::in_memory())] {
            let tree = tree.expect("a folder");
            let body = tree.file("body", (3 << 20) + 5).expect("a file");
            // A file in memory can be opened so, since Linux 6.6, and is read through the page cache all the same.
            let allowed = where_it_lies == "disk" && {
                use std::os::unix::fs::OpenOptionsExt;
                let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag");
                std::fs::File::options().read(true).custom_flags(flags).open(tree.path().join("body")).is_ok()
            };
            let server = Engine::start(&lab, method, &tree, &[]);
            let reply = left(&lab, || response(&mut begin(GET)?));
            assert!(reply.body == body, "{method}, {where_it_lies}");
            let serve = server.finish();
            let (direct, refused) =
                (number(&serve, "direct_read_bytes"), number(&serve, "direct_refused_bytes"));
            let (used, unused) = if allowed { (direct, refused) } else { (refused, direct) };
            assert!(used >= body.len() as u64 && unused == 0, "{method}, {where_it_lies}: {serve}");
        }
    }
}

/// Two clients at once get one body, the second by `tee` from the pipe that the first one's came through.
#[test]
fn one_body_goes_to_two_clients_by_tee() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 1 << 20).expect("a file");
    let server = Engine::start(&lab, Method::Vmsplice, &tree, &[]);
    let story = || -> Outcome<()> {
        let mut streams = [connect()?, connect()?];
        for stream in &mut streams {
            rustix::net::sockopt::set_socket_recv_buffer_size(&*stream, 64 << 10)?;
            stream.write_all(GET)?;
        }
        std::thread::scope(|scope| {
            let clients = streams.each_mut().map(|stream| scope.spawn(move || response(stream)));
            for client in clients {
                assert!(client.join().expect("no panic")?.body == body);
            }
            Ok(())
        })
    };
    left(&lab, story);
    let serve = server.finish();
    let (vmspliced, teed) = (number(&serve, "vmspliced_bytes"), number(&serve, "teed_bytes"));
    assert!(teed > 0 && vmspliced >= body.len() as u64, "{serve}");
    assert!(vmspliced + teed >= 2 * body.len() as u64, "all of both came by one or the other: {serve}");
}
