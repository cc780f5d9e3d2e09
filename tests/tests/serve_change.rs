//! Files that change in the middle of a transfer: the client gets a reset, and what it has is of the old file.
//!
//! ```text
//!   left: a slow client ── left0 ══ rw-left [ serve ] ── a file that is cut, rewritten, deleted, replaced, moved
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{PORT, SERVER, Server, Tree, fetch, url};
use lab::{TestLab, needs};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Large against all buffers on the way: 4 MiB of TCP's and what the server reads ahead.
const BODY: usize = 24 << 20;

/// What is done to the file.
type Change = fn(&Path, &[u8]);

const CHANGES: [(&str, Change); 5] = [
    ("cut", |path, _| {
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(1000)).expect("cut");
    }),
    ("rewritten", |path, new| std::fs::write(path, new).expect("written")),
    ("deleted", |path, _| std::fs::remove_file(path).expect("deleted")),
    ("replaced", |path, new| {
        let beside = path.with_extension("new");
        std::fs::write(&beside, new).expect("written");
        std::fs::rename(beside, path).expect("renamed");
    }),
    ("moved", |path, _| std::fs::rename(path, path.with_extension("old")).expect("renamed")),
];

/// Read before the change; the client's kernel takes as much again, and both together are far from the end.
const BEFORE: usize = 1 << 20;

/// A download, in whose middle `change` happens: what was read of the body, and how it ended.
fn changed_under(
    lab: &TestLab,
    tree: &Tree,
    name: &str,
    change: Change,
    new: &[u8],
) -> (Vec<u8>, io::Result<()>) {
    let download = || -> io::Result<(Vec<u8>, io::Result<()>)> {
        let mut stream = TcpStream::connect(format!("{SERVER}:{PORT}"))?;
        // Without this some kernels take all of it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, BEFORE)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET /{name} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
        let mut bytes = vec![0; BEFORE];
        stream.read_exact(&mut bytes)?;
        // Until no more comes on its own.
        std::thread::sleep(Duration::from_millis(300));
        change(&tree.path().join(name), new);
        // The news takes a moment.
        std::thread::sleep(Duration::from_millis(100));
        let ended = stream.read_to_end(&mut bytes).map(|_| ());
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        Ok((bytes.split_off(head + 4), ended))
    };
    lab.host(Side::Left).run(download).expect("inside").expect("a response begins")
}

/// How a file gets to the wire, and what of it is in memory when it changes.
struct Way {
    driver: &'static str,
    kind: &'static str,
    /// Whether all of it has been read before.
    warm: bool,
    /// What is done to it.
    changes: &'static [(&'static str, Change)],
}

fn story(tree: &Tree, way: &Way) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let Way { driver, kind, warm, changes } = *way;
    let old: Vec<Vec<u8>> = changes.iter().map(|(name, _)| tree.file(name, BODY).expect("a file")).collect();
    let mut server = Server::start(&lab, driver, tree, &["--content-kind", kind]).expect("a server");
    for ((name, change), old) in changes.iter().zip(old) {
        let what = format!("{name}, {kind} over {driver}");
        if warm {
            let reply = fetch(&lab, &[&url(&format!("/{name}"))]).expect("a response");
            assert!(reply.body == old, "{what}: {}", reply.head);
        }
        let new = vec![b'n'; BODY];
        let (got, ended) = changed_under(&lab, tree, name, *change, &new);
        let ended = ended.expect_err(&format!("{what}: {} bytes, and an orderly end", got.len()));
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset, "{what}: {ended}");
        assert!(got.len() < BODY, "{what}: complete and broken");
        assert!(got == old[..got.len()], "{what}: a mixture after {} bytes", got.len());
        assert!(server.process().is_running().expect("a process"), "{what}: the server is gone");
        let reply = fetch(&lab, &[&url(&format!("/{name}"))]).expect("a response");
        match *name {
            "deleted" | "moved" => assert_eq!(reply.status, 404, "{}", reply.head),
            "cut" => assert!(reply.body == old[..1000], "{what}: {}", reply.head),
            _ => assert!(reply.body == new, "{what}: {}", reply.head),
        }
        // The next one needs the room.
        let _ = std::fs::remove_file(tree.path().join(name));
    }
    let report = server.finish().expect("books in order");
    assert_eq!(
        report.served("content_gone"),
        changes.len() as u64,
        "each of them, and no more: {}",
        report.end
    );
    let read = report.served(&format!("{kind}_bytes"));
    assert!(read >= BODY as u64 / 4, "{kind}: {}", report.end);
}

/// Files on a disk, of which the rest would have to be read.
#[test]
fn a_body_is_never_a_mixture() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let way = Way { driver: "af-xdp", kind: "direct", warm: false, changes: &CHANGES };
    story(&Tree::new().expect("a folder"), &way);
}

/// Files that are wholly in memory: the old bytes would all be there, and whether a transfer ends well must not hang on
/// that.
#[test]
fn a_file_in_memory_is_not_sent_on_when_it_is_gone() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    for (driver, kind) in [("af-xdp", "snapshot"), ("packet", "snapshot"), ("af-xdp", "direct")] {
        let way = Way { driver, kind, warm: true, changes: &CHANGES };
        story(&Tree::new().expect("a folder"), &way);
    }
}

/// Files on tmpfs, which a device may be reading at that moment: as snapshots, and as they lie in the page cache, where
/// what is written in place shows at once and is no case for this.
#[test]
fn a_body_is_never_a_mixture_in_memory() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let way = Way { driver: "af-xdp", kind: "snapshot", warm: false, changes: &CHANGES };
    story(&Tree::in_memory().expect("a folder"), &way);
    let way = Way { driver: "af-xdp", kind: "shared", warm: false, changes: &CHANGES[2..] };
    story(&Tree::in_memory().expect("a folder"), &way);
}
