//! Engines where a limit is reached or a file changes at a bad moment: whoever asks gets what the file has, or hears that it ended.
//!
//! ```text
//!   left: clients ── left0 ══ rw-left, with an address of the kernel's [ setpriv ... serve --engine METHOD ]
//! ```
#![forbid(unsafe_code)]

use drivers::kernel::Method;
use lab::engine::{Engine, begin, connect, laboratory, number, response};
use lab::needs;
use lab::server::{Reply, Tree};
use lab::upload::left;
use lab::{Outcome, TestLab};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

const GET: &[u8] = b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n";

/// Without capabilities, so that limits of users hold, and with 4 MiB of locked memory for all that the user has.
const UNPRIVILEGED: [&str; 6] =
    ["prlimit", "--memlock=4194304", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];

/// As many clients ask at once, take nothing for a while, and then all of it, one after another.
fn slow_readers(lab: &TestLab, count: usize, body: &[u8]) {
    let story = || -> Outcome<()> {
        let mut streams: Vec<TcpStream> = Vec::new();
        for _ in 0..count {
            streams.push(begin(GET)?);
        }
        std::thread::sleep(Duration::from_millis(700));
        for (number, mut stream) in streams.into_iter().enumerate() {
            let reply =
                response(&mut stream).map_err(|error| format!("client {number} of {count}: {error}"))?;
            assert!(reply.body == body, "client {number}: another body");
        }
        Ok(())
    };
    left(lab, story);
}

/// Locked memory is one limit for all connections: whoever finds it used up by others is sent copies.
#[test]
fn zero_copy_without_memory_to_lock_goes_by_copying() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "setpriv", "prlimit");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 8 << 20).expect("a file");
    let server = Engine::start_by(&lab, &UNPRIVILEGED, Method::Zerocopy, tree.path(), &[]);
    slow_readers(&lab, 20, &body);
    let serve = server.finish();
    assert_eq!(
        (number(&serve, "responses_failed"), number(&serve, "responses_cut_short")),
        (0, 0),
        "{serve}"
    );
    assert!(number(&serve, "zerocopy_sends") > 0 && number(&serve, "fallback_bytes") > 0, "{serve}");
}

/// A user's pipes are small when there are many of them, which is enough to go on.
#[test]
fn pipes_beyond_a_users_share_do() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "setpriv", "prlimit");
    let lab = laboratory();
    let soft = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("a limit");
    let soft: usize = soft.trim().parse().expect("a number");
    // 256 pages each.
    let count = soft / 256 + 30;
    if soft == 0 || count > 200 {
        return eprintln!("SKIPPED: the limit is {soft} pages");
    }
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 3 << 20).expect("a file");
    for method in [Method::Splice, Method::Vmsplice, Method::UringSplice] {
        let server = Engine::start_by(&lab, &UNPRIVILEGED, method, tree.path(), &["--pipe", "1048576"]);
        slow_readers(&lab, count, &body);
        let serve = server.finish();
        let bad = number(&serve, "responses_failed") + number(&serve, "responses_cut_short");
        assert_eq!(bad, 0, "{method}: {serve}");
    }
}

/// Leaves a process so many descriptors besides those that it has open: they have the lowest numbers that are free.
fn limit_descriptors(pid: u32, more: usize) -> Outcome<()> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let open: Vec<u64> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let most = (0..).filter(|number| !open.contains(number)).nth(more);
    let limit = Rlimit { current: most, maximum: most };
    prlimit(Pid::from_raw(i32::try_from(pid)?), Resource::Nofile, limit)?;
    Ok(())
}

/// A connection that there is no descriptor for a pipe for is sent copies.
#[test]
fn without_pipes_it_goes_by_copying() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 12 << 20).expect("a file");
    for method in [Method::Splice, Method::Vmsplice, Method::UringSplice] {
        let mut server = Engine::start(&lab, method, &tree, &[]);
        let pid = server.process().pid();
        let story = || -> Outcome<()> {
            // What a lookup opens is open before.
            let mut streams = (0..10).map(|_| connect()).collect::<std::io::Result<Vec<_>>>()?;
            streams[0].write_all(GET)?;
            assert!(response(&mut streams[0])?.body == body, "{method}: another body");
            // For two pipes.
            limit_descriptors(pid, 4)?;
            for stream in &mut streams {
                stream.write_all(GET)?;
            }
            std::thread::sleep(Duration::from_millis(500));
            for (number, stream) in streams.iter_mut().enumerate() {
                let reply =
                    response(stream).map_err(|error| format!("{method}: client {number}: {error}"))?;
                assert!(reply.body == body, "{method}: client {number}: another body");
            }
            Ok(())
        };
        left(&lab, story);
        let serve = server.finish();
        assert_eq!(number(&serve, "responses_failed"), 0, "{method}: {serve}");
        assert!(number(&serve, "fallback_bytes") > 0, "{method}: {serve}");
    }
}

/// A small file is changed by a name that nothing watches, right before somebody asks for it.
fn asked_after(lab: &TestLab, method: Method, change: fn(&std::fs::File)) -> (Reply, Result<Reply, String>) {
    let (tree, other) = (Tree::new().expect("a folder"), Tree::new().expect("a folder"));
    tree.write("body", &[b'x'; 5000]).expect("a file");
    let hidden = other.path().join("link");
    std::fs::hard_link(tree.path().join("body"), &hidden).expect("a link");
    let hidden = std::fs::File::options().write(true).open(hidden).expect("opens");
    // Not in the same tick of the clock as it was made.
    std::thread::sleep(Duration::from_millis(20));
    let server = Engine::at(lab, method, tree.path(), &[]);
    let story = || -> Outcome<(Reply, Result<Reply, String>)> {
        let mut stream = connect()?;
        stream.write_all(GET)?;
        let first = response(&mut stream)?;
        assert_eq!(first.body, [b'x'; 5000], "{method}");
        change(&hidden);
        stream.write_all(GET)?;
        Ok((first, response(&mut stream).map_err(|error| error.to_string())))
    };
    let got = left(lab, story);
    let _ = server.finish();
    got
}

/// Behind a new end of a file its last page has zeros: nobody is sent them.
#[test]
fn zeros_that_the_file_never_had_are_not_sent() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let (_, got) = asked_after(&lab, method, |file| file.set_len(4500).expect("cuts"));
        if let Ok(reply) = got {
            assert_eq!(reply.body, [b'x'; 4500], "{method}: {:?} bytes", reply.body.len());
        }
    }
}

/// What is written over another is not sent under the name of the old version, where some time passes between read and send.
#[test]
fn a_new_version_is_not_sent_as_the_old_one() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        if matches!(method, Method::ReadWrite | Method::Sendfile | Method::Splice) {
            continue;
        }
        let (first, got) =
            asked_after(&lab, method, |file| file.write_all_at(&[b'y'; 5000], 0).expect("writes"));
        match got {
            // The librarian looked in time, so that it is the new version under its own name.
            Ok(reply) => {
                assert_eq!(reply.body, [b'y'; 5000], "{method}");
                assert_ne!(reply.field("ETag"), first.field("ETag"), "{method}");
            }
            Err(why) => assert!(!why.is_empty(), "{method}"),
        }
    }
}

/// A response that waits behind another for its reader is not of another version than its head says.
#[test]
fn what_waits_behind_another_is_looked_at() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for method in Method::ALL {
        let (tree, other) = (Tree::new().expect("a folder"), Tree::new().expect("a folder"));
        tree.write("body", &[b'x'; 5000]).expect("a file");
        let large = tree.file("large", 12 << 20).expect("a file");
        let hidden = other.path().join("link");
        std::fs::hard_link(tree.path().join("body"), &hidden).expect("a link");
        let hidden = std::fs::File::options().write(true).open(hidden).expect("opens");
        std::thread::sleep(Duration::from_millis(20));
        let server = Engine::start(&lab, method, &tree, &[]);
        let story = || -> Outcome<()> {
            let mut stream = begin(&[b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", GET].concat())?;
            std::thread::sleep(Duration::from_millis(300));
            hidden.write_all_at(&[b'y'; 5000], 0)?;
            // A reset may take along what is on its way of the first.
            let Ok(reply) = response(&mut stream) else { return Ok(()) };
            assert!(reply.body == large, "{method}: another body");
            // The head of the second was written before.
            if let Ok(reply) = response(&mut stream) {
                assert_eq!(reply.body, [b'x'; 5000], "{method}");
            }
            Ok(())
        };
        left(&lab, story);
        let serve = server.finish();
        assert_eq!(number(&serve, "responses_cut_short"), 1, "{method}: {serve}");
    }
}

/// Rights and further names do not end a transfer.
#[test]
fn new_rights_and_names_end_no_transfer() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    const BODY: usize = 12 << 20;
    let lab = laboratory();
    for method in Method::ALL {
        let tree = Tree::new().expect("a folder");
        let body = tree.file("body", BODY).expect("a file");
        let server = Engine::start(&lab, method, &tree, &[]);
        let story = || -> Outcome<()> {
            let mut stream = begin(GET)?;
            let mut first = vec![0; 100_000];
            stream.read_exact(&mut first)?;
            let path = tree.path().join("body");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
            std::fs::hard_link(&path, tree.path().join("second"))?;
            std::thread::sleep(Duration::from_millis(100));
            let head = first.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            let begun = first.len();
            first.resize(head + BODY, 0);
            stream.read_exact(&mut first[begun..])?;
            assert!(first[head..] == body, "{method}: another body");
            Ok(())
        };
        left(&lab, story);
        let serve = server.finish();
        assert_eq!(number(&serve, "responses_cut_short"), 0, "{method}: {serve}");
    }
}
