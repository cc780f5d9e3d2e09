//! `curl` and `ping`, over the kernel's own TCP and IP, at a server that has none of a kernel's.
//!
//! ```text
//!   left: curl, ping ── left0 ══ rw-left [ serve ]   10.77.0.100, fd77::100
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{SERVER, Server, Tree, curl, fetch, url, url6};
use lab::{Outcome, Report, TestLab, needs};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Sizes of the bodies: none, one byte, one segment, a window, and much more than any.
const SIZES: [usize; 5] = [0, 1, 1 << 10, 100 << 10, 8 << 20];

/// A file of each size, by name.
fn files(tree: &Tree) -> Outcome<Vec<(String, Vec<u8>)>> {
    let each = |bytes: usize| {
        let name = format!("{bytes}.bin");
        tree.file(&name, bytes).map(|content| (name, content))
    };
    SIZES.into_iter().map(each).collect()
}

/// Every body arrives whole, over IPv4 and IPv6.
fn bodies(lab: &TestLab, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        for at in [url, url6] {
            let reply = fetch(lab, &[&at(&format!("/{name}"))]).expect("a response");
            assert_eq!(reply.status, 200, "{name}: {}", reply.head);
            assert_eq!(reply.field("content-length"), Some(&*content.len().to_string()), "{}", reply.head);
            assert!(reply.body == *content, "{name}: another body, of {} bytes", reply.body.len());
        }
    }
}

/// What HTTP offers besides whole bodies.
fn manners(lab: &TestLab, content: &[u8], path: &str) {
    let at = url(path);
    let head = fetch(lab, &["--head", &at]).expect("a head");
    assert_eq!((head.status, head.body.len()), (200, 0), "{}", head.head);
    assert_eq!(head.field("content-length"), Some(&*content.len().to_string()), "{}", head.head);
    for (range, want) in [
        ("0-0", &content[..1]),
        ("1000-51999", &content[1000..52_000]),
        ("-77", &content[content.len() - 77..]),
    ] {
        let part = fetch(lab, &["--range", range, &at]).expect("a part");
        assert_eq!(part.status, 206, "{range}: {}", part.head);
        assert!(part.body == want, "{range}: another part, of {} bytes", part.body.len());
    }
    let tag = head.field("etag").expect("an etag");
    let known = fetch(lab, &["--header", &format!("If-None-Match: {tag}"), &at]).expect("a response");
    assert_eq!((known.status, known.body.len()), (304, 0), "{}", known.head);
    let nothing = fetch(lab, &[&url("/nothing-of-that-name")]).expect("a response");
    assert_eq!(nothing.status, 404, "{}", nothing.head);
    // curl says how many connections it needed for each of the two.
    let words =
        curl(lab, &["--output", "/dev/null", &at, "--output", "/dev/null", &at, "-w", "%{num_connects}"]);
    assert_eq!(words.expect("curl").stdout, b"10", "the second request goes over the first's connection");
}

/// Sixteen at once, each with a body of its own connection.
fn parallel(lab: &TestLab, content: &[u8], path: &str) {
    let start = |_| {
        let mut command = lab.host(Side::Left).command("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", &url(path)]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl")
    };
    let started: Vec<_> = (0..16).map(start).collect();
    // All read at once: one that waited for its turn would be a slow reader.
    let read = |child: std::process::Child| std::thread::spawn(|| child.wait_with_output().expect("an end"));
    let readers: Vec<_> = started.into_iter().map(read).collect();
    for reader in readers {
        let output = reader.join().expect("no panic");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "another body, of {} bytes", output.stdout.len());
    }
}

fn pings(lab: &TestLab) {
    TestLab::run(lab.host(Side::Left), "ping", "-c 3 -i 0.05 -W 5 10.77.0.100").expect("echoes");
    TestLab::run(lab.host(Side::Left), "ping", "-6 -c 3 -i 0.05 -W 5 fd77::100").expect("echoes");
    TestLab::run(lab.host(Side::Left), "ping", "-c 1 -W 5 -s 1400 10.77.0.100").expect("a long echo");
}

fn story(driver: &str, mtu: u32, args: &[&str]) -> Report {
    let lab = TestLab::with(|plan| plan.mtu = mtu).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let files = files(&tree).expect("files");
    let server = Server::start(&lab, driver, &tree, args).expect("a server");
    pings(&lab);
    bodies(&lab, &files);
    manners(&lab, &files[3].1, "/102400.bin");
    parallel(&lab, &files[3].1, "/102400.bin");
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("echoes"), 7, "{}", report.end);
    assert_eq!(report.served("connections"), 0, "{}", report.end);
    assert_eq!(report.served("requests"), 10 + 1 + 3 + 1 + 1 + 2 + 16, "{}", report.end);
    assert_eq!(report.served("responses_4xx"), 1, "{}", report.end);
    assert_eq!(report.served("responses_3xx"), 1, "{}", report.end);
    assert_eq!(report.served("requests_refused"), 0, "{}", report.end);
    assert!(report.served("response_bytes") > 16 << 20, "{}", report.end);
    report
}

/// Bytes of all bodies of a story, when nothing is sent again.
fn body_bytes() -> u64 {
    let whole = 2 * SIZES.iter().sum::<usize>();
    (whole + 1 + 51_000 + 77 + 18 * (100 << 10)) as u64
}

/// Bodies, ranges, conditions, parallel clients, ping: over AF_XDP.
#[test]
fn curl_is_served_over_af_xdp() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    let report = story("af-xdp", 1500, &[]);
    assert_eq!(report.port(0, "flattened_bytes"), 0, "{}", report.end);
    assert!(
        report.served("copied_bytes") + report.served("gathered_bytes") >= body_bytes(),
        "{}",
        report.end
    );
}

/// The same by a packet socket, which has no other way than to copy.
#[test]
fn curl_is_served_over_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    story("packet", 1500, &[]);
}

/// What may be gathered is: no byte of a file is touched by our CPU.
#[test]
fn nothing_is_copied_when_all_is_gathered() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    let report = story("af-xdp", 1500, &["--copy-below", "1"]);
    assert_eq!((report.served("copied_bytes"), report.port(0, "flattened_bytes")), (0, 0), "{}", report.end);
    assert!(report.served("gathered_bytes") >= body_bytes(), "{}", report.end);
}

/// Nothing is gathered where copying is always cheaper.
#[test]
fn nothing_is_gathered_when_all_is_copied() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    let report = story("af-xdp", 1500, &["--copy-below", "65535"]);
    assert_eq!(report.served("gathered_bytes"), 0, "{}", report.end);
    assert!(report.served("copied_bytes") >= body_bytes(), "{}", report.end);
}

/// Long frames: a segment is longer than a frame of the arena, and is gathered by default.
#[test]
fn curl_is_served_in_long_frames() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    let report = story("af-xdp", 9000, &[]);
    assert_eq!(report.port(0, "flattened_bytes"), 0, "{}", report.end);
    let gathered = report.served("gathered_bytes");
    assert!(gathered > 15 << 20, "{}", report.end);
    // Long segments, not short ones: otherwise the frames were not long.
    let per_packet = report.port(0, "transmitted_bytes") / report.port(0, "transmitted_packets");
    assert!(per_packet > 3000, "{per_packet} bytes a packet: {}", report.end);
}

/// A client that writes a request in three pieces: its kernel holds the second and the third back until the first is
/// acknowledged, so that must not wait for an answer that is not going to come.
#[test]
fn a_request_in_pieces_is_not_kept_waiting() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let content = tree.file("page", 1000).expect("a file");
    let server = Server::start(&lab, "packet", &tree, &[]).expect("a server");
    let mut times =
        lab.host(Side::Left).run(|| in_pieces(&content)).expect("a namespace").expect("responses");
    times.sort();
    // An acknowledgement that waits for company takes 40 ms, each time.
    assert!(times[times.len() / 2] < Duration::from_millis(25), "{times:?}");
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("requests"), 20, "{}", report.end);
}

/// How long each of twenty responses takes over one connection.
fn in_pieces(content: &[u8]) -> std::io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect((SERVER, 8080))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut times, mut room) = (Vec::new(), vec![0; 64 << 10]);
    for _ in 0..20 {
        let begin = Instant::now();
        for piece in ["GET /", "page", " HTTP/1.1\r\nHost: h\r\n\r\n"] {
            stream.write_all(piece.as_bytes())?;
        }
        let mut have = 0;
        while !room[..have].ends_with(content) {
            match stream.read(&mut room[have..])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                more => have += more,
            }
        }
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// A bare interface: over a veth, where AF_XDP copies, files leave faster by `packet`; an address that the kernel has as well
/// can be shared over `af-xdp` only, and an option of `af-xdp`'s is a wish to have it.
#[test]
fn a_bare_interface_is_served_by_the_best_driver_for_files() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF; tools: "ip", "ethtool", "curl");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let content = tree.file("file", 300_000).expect("a file");
    let root = tree.path().to_str().expect("a plain path");
    let bare = Side::Left.port();
    let wish = format!("{bare},mode=copy");
    let (foreign, own) = (format!("{SERVER}/24"), "10.77.0.99");
    let afterwards = format!("{own}/24");
    let fastest = "the fastest driver that works there";
    let cuts = "which cuts large segments in the kernel: veth is a software interface";
    let cases = [
        (bare, &foreign, "packet", cuts),
        (&wish, &foreign, "af-xdp", fastest),
        (bare, &afterwards, "af-xdp", fastest),
    ];
    for (port, address, driver, why) in cases {
        if *address == afterwards {
            lab.ip("link set rw-left arp on").expect("ARP");
            lab.ip(&format!("address add {address} dev {bare}")).expect("an address");
        }
        let args = ["--port", port, "--address", address, "--root", root];
        let server = Server::with(lab.middle(), &args).expect("a server");
        let at = address.split('/').next().expect("an address");
        let got = curl(&lab, &[&format!("http://{at}:8080/file")]).expect("curl runs");
        assert!(got.stdout == content, "{port} {address}: {} bytes: {got:?}", got.stdout.len());
        let report = server.finish().expect("books in order");
        let said = report.end["ports"][0]["choice"].as_str().expect("a choice");
        assert!(said.contains(&format!("runs over {driver}")) && said.contains(why), "{port}: {said}");
    }
}

/// Files in memory (tmpfs) are served as those on a disk.
#[test]
fn files_in_memory_are_served() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    let lab = TestLab::up().expect("a laboratory");
    let tree = Tree::in_memory().expect("a folder");
    let files = files(&tree).expect("files");
    for kind in ["auto", "shared"] {
        for copy_below in ["2048", "1"] {
            let args = ["--content-kind", kind, "--copy-below", copy_below];
            let server = Server::start(&lab, "af-xdp", &tree, &args).expect("a server");
            bodies(&lab, &files);
            let report = server.finish().expect("books in order");
            assert_eq!(report.port(0, "flattened_bytes"), 0, "{}", report.end);
            // The page cache itself is in the arena, or nothing of it is; and what is gathered was never read.
            assert_eq!(report.served("shared_bytes") > 0, kind == "shared", "{}", report.end);
            if kind == "shared" && copy_below == "1" {
                let read = report.served("snapshot_bytes") + report.served("direct_bytes");
                assert_eq!(read, 0, "{}", report.end);
            }
        }
    }
}

/// Two queues, a worker each: connections spread over both, and each is served by the worker that has it.
#[test]
fn two_workers_share_the_connections() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping", "curl");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("serve_veth::two_workers_share_the_connections", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| plan.queues = 2).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let content = tree.file("page", 100 << 10).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--cpu", "0,1"]).expect("a server");
    pings(&lab);
    parallel(&lab, &content, "/page");
    parallel(&lab, &content, "/page");
    let report = server.finish().expect("books in order");
    assert_eq!(report.ready["workers"].as_array().map(Vec::len), Some(2), "{}", report.ready);
    assert_eq!(report.served("requests"), 32, "{}", report.end);
    let sent = report.queues(0, "transmitted_bytes");
    assert!(sent.len() == 2 && sent.iter().all(|bytes| *bytes > 200 << 10), "{sent:?}: {}", report.end);
}
