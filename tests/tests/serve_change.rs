//! Files that change in the middle of a transfer: a client gets the old file whole, or a reset; never a mixture.
//!
//! ```text
//!   left: curl --limit-rate ── left0 ══ rw-left [ serve ] ── a file that is cut, rewritten, deleted, replaced
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{Server, Tree, fetch, url};
use lab::{TestLab, needs};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

/// Large against all buffers on the way: 4 MiB of TCP's and what the server reads ahead.
const BODY: usize = 24 << 20;

/// What is done to the file.
type Change = fn(&Path, &[u8]);

const CHANGES: [(&str, Change); 4] = [
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
];

/// A slow download, in whose middle `change` happens.
fn changed_under(lab: &TestLab, tree: &Tree, name: &str, change: Change, new: &[u8]) -> Output {
    let mut command = lab.host(Side::Left).command("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--limit-rate", "16M"]);
    let child = command.arg(url(&format!("/{name}"))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().expect("curl");
    let reader = std::thread::spawn(|| child.wait_with_output().expect("an end"));
    std::thread::sleep(Duration::from_millis(400));
    change(&tree.path().join(name), new);
    reader.join().expect("no panic")
}

fn story(tree: &Tree) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let mut server = Server::start(&lab, "af-xdp", tree, &[]).expect("a server");
    for (name, change) in CHANGES {
        let old = tree.file(name, BODY).expect("a file");
        let new = vec![b'n'; BODY];
        let output = changed_under(&lab, tree, name, change, &new);
        if output.status.success() {
            assert!(output.stdout == old, "{name}: a whole body, but another");
        } else {
            // 18: the end came too early, 56: a reset.
            assert!(matches!(output.status.code(), Some(18 | 56)), "{name}: {output:?}");
            let got = &output.stdout;
            assert!(got.len() < BODY, "{name}: complete and broken");
            assert!(*got == old[..got.len()], "{name}: a mixture after {} bytes", got.len());
        }
        assert!(server.process().is_running().expect("a process"), "{name}: the server is gone");
        let reply = fetch(&lab, &[&url(&format!("/{name}"))]).expect("a response");
        match name {
            "deleted" => assert_eq!(reply.status, 404, "{}", reply.head),
            "cut" => assert!(reply.body == old[..1000], "{name}: {}", reply.head),
            _ => assert!(reply.body == new, "{name}: {}", reply.head),
        }
        // The next one needs the room.
        let _ = std::fs::remove_file(tree.path().join(name));
    }
    let report = server.finish().expect("books in order");
    // Cut and rewritten, an old file is no longer to be had: that is where the resets come from.
    assert!(report.served("content_gone") >= 2, "nothing changed in the middle: {}", report.end);
}

/// Files on a disk.
#[test]
fn a_body_is_never_a_mixture() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    story(&Tree::new().expect("a folder"));
}

/// Files in memory, which a device may be reading at that moment.
#[test]
fn a_body_is_never_a_mixture_in_memory() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    story(&Tree::in_memory().expect("a folder"));
}
