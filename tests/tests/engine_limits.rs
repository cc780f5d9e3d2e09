//! What clients may do to a server over the kernel's sockets, where the limit is one of time or of room.
//!
//! ```text
//!   left: clients ── left0 ══ rw-left, with an address of the kernel's [ serve --engine METHOD ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use drivers::kernel::Method;
use lab::engine::{Engine, SOON, begin, connect, laboratory, number, response};
use lab::server::{PORT, SERVER, Server, Tree};
use lab::upload::{ask, left};
use lab::{Outcome, TestLab, needs};
use rustix::net::{AddressFamily, SocketType, bind, socket};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

const GET: &[u8] = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";

/// Requests without a pause between them, of each of which a part has come when the one before is answered: for a while that is longer
/// than a head may take.
fn requests_that_run_into_each_other() -> Outcome<()> {
    const REQUESTS: usize = 25;
    let mut stream = connect()?;
    let mut writer = stream.try_clone()?;
    let thread = std::thread::spawn(move || -> std::io::Result<()> {
        let (bytes, half) = (GET.repeat(REQUESTS), GET.len() / 2);
        writer.write_all(&bytes[..half])?;
        for piece in bytes[half..].chunks(GET.len()) {
            std::thread::sleep(Duration::from_millis(150));
            writer.write_all(piece)?;
        }
        Ok(())
    });
    for number in 0..REQUESTS {
        let reply = response(&mut stream).map_err(|error| format!("request {number}: {error}"))?;
        assert_eq!(reply.status, 200, "request {number}: {}", reply.head);
    }
    thread.join().expect("no panic")?;
    Ok(())
}

/// The time for a head is that of one head.
#[test]
fn each_head_has_its_own_time() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let tree = Tree::new().expect("a folder");
    tree.file("file", 100).expect("a file");
    let lab = laboratory();
    for method in [Method::Sendfile, Method::Uring] {
        let server = Engine::start(&lab, method, &tree, &["--head-timeout", "1"]);
        left(&lab, requests_that_run_into_each_other);
        let serve = server.finish();
        assert_eq!(number(&serve, "clients_timed_out"), 0, "{method}: {serve}");
    }
    drop(lab);
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let server = Server::start(&lab, "packet", &tree, &["--head-timeout", "1"]).expect("a server");
    left(&lab, requests_that_run_into_each_other);
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("clients_timed_out"), 0, "{}", report.end);
}

/// Whoever has more connections than one address may have is told so, and does not keep others out by staying to hear it.
#[test]
fn one_address_does_not_take_all_places() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    TestLab::run(lab.host(Side::Left), "ip", "addr add 10.77.0.77/24 dev left0").expect("ip");
    let tree = Tree::new().expect("a folder");
    tree.file("file", 100).expect("a file");
    let server = Engine::start(&lab, Method::Sendfile, &tree, &["--per-peer", "3", "--connections", "40"]);
    let story = || -> Outcome<()> {
        let mut greedy = Vec::new();
        for _ in 0..60 {
            // The last ones are reset, perhaps at once.
            greedy.extend(connect().ok());
        }
        std::thread::sleep(Duration::from_millis(300));
        let answered = |stream: &mut TcpStream| {
            let _ = stream.write_all(GET);
            response(stream).map(|reply| reply.status).ok()
        };
        let statuses: Vec<_> = greedy.iter_mut().map(answered).collect();
        let count = |status| statuses.iter().filter(|it| **it == status).count();
        assert_eq!(count(Some(200)), 3, "{statuses:?}");
        assert!(count(Some(429)) >= 10, "most are told why: {statuses:?}");
        let other = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&other, &SocketAddrV4::new("10.77.0.77".parse()?, 0))?;
        rustix::net::connect(&other, &SocketAddrV4::new(SERVER.parse()?, PORT))?;
        let mut other = TcpStream::from(other);
        other.set_read_timeout(Some(SOON))?;
        assert_eq!(answered(&mut other), Some(200), "somebody else is served");
        Ok(())
    };
    left(&lab, story);
    let _ = server.finish();
}

/// A client that is gone without a word, and owes nothing, is found by asking.
#[test]
fn a_silent_client_that_is_gone_is_found() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    tree.file("file", 100).expect("a file");
    let mut server = Engine::start(&lab, Method::Sendfile, &tree, &["--keepalive", "1", "--interval", "0.2"]);
    let stream = left(&lab, || {
        let mut stream = begin(GET)?;
        assert_eq!(response(&mut stream)?.status, 200);
        Ok(stream)
    });
    // From now on what it says goes to nobody.
    let astray = format!("neigh replace {SERVER} lladdr 02:00:00:00:00:99 nud permanent dev left0");
    TestLab::run(lab.host(Side::Left), "ip", &astray).expect("ip");
    // A second of silence, and four questions a second apart.
    server.process().ready("\"connections_closed\":1,", SOON).expect("it is given up");
    drop(stream);
    let _ = server.finish();
}

/// A body that follows another one has its own time, too, whatever became of that.
#[test]
fn each_upload_has_its_own_time() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let server = Engine::start(&lab, Method::Sendfile, &tree, &["--upload", "--stall-timeout", "2"]);
    let story = || -> Outcome<()> {
        let first = lab::upload::put("/first", "If-None-Match: *\r\n", &[b'1'; 10_000]);
        let second = lab::upload::put("/second", "", &[b'2'; 10_000]);
        let mut stream = begin(&first[..9000])?;
        std::thread::sleep(Duration::from_millis(1000));
        // Meanwhile somebody else stores it.
        assert_eq!(ask(&lab::upload::put("/first", "", b"other"))?.status, 201);
        std::thread::sleep(Duration::from_millis(700));
        stream.write_all(&[&first[9000..], &second[..500]].concat())?;
        assert_eq!(response(&mut stream)?.status, 412);
        // It is now more than two seconds since the first of the first, and less since that of the second.
        std::thread::sleep(Duration::from_millis(1500));
        stream.write_all(&second[500..])?;
        let reply = response(&mut stream)?;
        assert_eq!(reply.status, 201, "{}", reply.head);
        stream.shutdown(std::net::Shutdown::Write)?;
        assert_eq!(stream.read(&mut [0])?, 0);
        Ok(())
    };
    left(&lab, story);
    let serve = server.finish();
    assert_eq!(number(&serve, "clients_timed_out"), 0, "{serve}");
}
