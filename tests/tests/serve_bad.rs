//! Bad input over a real socket: the right status, a closed connection, and the next client is served.
//!
//! ```text
//!   left: a client that says anything at all ── left0 ══ rw-left [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{PORT, Reply, SERVER, Server, Tree, fetch, frame_to_server, send_frames, url};
use lab::traffic::Content;
use lab::{Outcome, Ringway, TestLab, needs};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Sends bytes on a connection of their own and returns all that comes until the server closes it.
fn say(bytes: &[u8]) -> Outcome<Vec<u8>> {
    let mut stream = TcpStream::connect((SERVER, PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Requests that are none, and their status.
const REFUSED: &[(&[u8], u16)] = &[
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    // Smuggling: two lengths, two codings, a length that is none (RFC 9112 section 6.3).
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    // Paths that lead out, or are none.
    (b"GET /../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /folder/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /..%5cetc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file%00.html HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%c0%ae%c0%ae/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%e0%80%ae%e0%80%ae/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET file HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /file#part HTTP/1.1\r\nHost: a\r\n\r\n", 400),
];

/// Requests that are understood, on a connection that they end themselves: request line, further fields, status.
const ANSWERED: &[(&str, &str, u16)] = &[
    ("GET /file", "", 200),
    ("GET http://a/file", "", 200),
    ("GET /./file?query", "", 200),
    ("GET //file", "", 200),
    ("GET /nothing", "", 404),
    ("GET /file/", "", 404),
    ("GET /etc/passwd", "", 404),
    ("GET /out", "", 403),
    ("GET /out-folder/passwd", "", 403),
    ("GET /folder", "", 301),
    ("GET /folder/", "", 403),
    ("POST /file", "Content-Length: 0\r\n", 405),
    ("DELETE /file", "", 405),
    ("CONNECT a:80", "", 405),
    ("BREW /file", "", 501),
    ("GET /file", "Range: bytes=0-9\r\n", 206),
    ("GET /file", "Range: bytes=5000-\r\n", 416),
    ("GET /file", "Range: bytes=-0\r\n", 416),
    // What is no range is not looked at (RFC 9110 section 14.2).
    ("GET /file", "Range: bytes=9-0\r\n", 200),
    ("GET /file", "Range: bytes=x-y\r\n", 200),
    ("GET /file", "Range: lines=1-2\r\n", 200),
    ("GET /file", "Expect: tea\r\n", 417),
];

/// A tree with one file, an empty folder, and links that lead out.
fn tree() -> Tree {
    let tree = Tree::new().expect("a folder");
    tree.file("file", 5000).expect("a file");
    std::fs::create_dir(tree.path().join("folder")).expect("a folder");
    for (link, target) in [("out", "/etc/passwd"), ("out-folder", "/etc")] {
        std::os::unix::fs::symlink(target, tree.path().join(link)).expect("a link");
    }
    tree
}

/// Every case at once, so that one run shows all that is wrong.
fn compare(cases: impl IntoIterator<Item = (Vec<u8>, u16)>) {
    let wrong = |(request, want): (Vec<u8>, u16)| {
        let shown = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        let reply = say(&request).and_then(|bytes| Reply::parse(&bytes));
        match reply {
            Ok(reply) if reply.status == want => None,
            Ok(reply) => Some(format!("{shown:?}: {} instead of {want}", reply.status)),
            Err(error) => Some(format!("{shown:?}: {error} instead of {want}")),
        }
    };
    let wrong: Vec<String> = cases.into_iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is no request gets its status, then the end; who comes next is served.
#[test]
fn what_is_no_request_is_refused() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::up().expect("a laboratory");
    let tree = tree();
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let long = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes)).into_bytes();
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)).into_bytes();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(20_000)).into_bytes();
    let cases = REFUSED.iter().map(|(request, status)| (request.to_vec(), *status));
    let cases = cases.chain([(long(5000), 414), (long(100_000), 414), (fields, 431), (head, 431)]);
    let cases: Vec<_> = cases.collect();
    let count = cases.len() as u64;
    lab.host(Side::Left).run(|| compare(cases)).expect("a host");
    assert_eq!(fetch(&lab, &[&url("/file")]).expect("served").status, 200);
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("requests_refused"), count, "{}", report.end);
    assert_eq!(report.served("requests"), 1, "{}", report.end);
}

/// What is a request, but not for a file that we may give, has its own status.
#[test]
fn what_is_not_there_or_not_allowed_has_its_status() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::up().expect("a laboratory");
    let tree = tree();
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let whole = |(line, fields, status): &(&str, &str, u16)| {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        (text.into_bytes(), *status)
    };
    lab.host(Side::Left).run(|| compare(ANSWERED.iter().map(whole))).expect("a host");
    server.finish().expect("books in order");
}

/// A frame of noise: of any kind to our address, or a TCP segment to our port with right checksums and nothing else.
fn noise(number: u32) -> Vec<u8> {
    const TYPES: [[u8; 2]; 4] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]];
    let length = 20 + number as usize * 7 % 500;
    let mut bytes = vec![0; length];
    Content::new(number.into()).fill(&mut bytes);
    if number.is_multiple_of(2) {
        // The left host's own address, so that some hit a connection's numbers, and a peer that is nobody.
        bytes[2..4].copy_from_slice(&PORT.to_be_bytes());
        let from = if number.is_multiple_of(4) { [10, 77, 0, 1] } else { [10, 77, 0, 200] };
        return frame_to_server(from, bytes);
    }
    let addresses = [Side::Left.port_mac(), Side::Left.host_mac()].concat();
    [addresses, TYPES[number as usize / 2 % 4].to_vec(), bytes].concat()
}

/// Noise disturbs nobody: clients are served in the middle of it and after it.
#[test]
fn noise_disturbs_nobody() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::up().expect("a laboratory");
    let tree = tree();
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    for round in 0..4 {
        let mut numbers = round * 5000..(round + 1) * 5000;
        let sent = send_frames(&lab, || numbers.next().map(noise)).expect("a packet socket");
        assert_eq!(sent, 5000);
        assert_eq!(fetch(&lab, &[&url("/file")]).expect("served").status, 200, "round {round}");
    }
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("requests"), 4, "{}", report.end);
    assert_eq!(report.served("responses_2xx"), 4, "{}", report.end);
    assert!(report.port(0, "received_packets") > 2000, "{}", report.end);
}

/// Typed behind `ringway serve`, and the words that must be in the answer. `DIR` is a folder that is there.
const TYPED: &[(&str, &[&str])] = &[
    ("", &["--port", "--address", "--root"]),
    ("--port af-xdp:rw-left --address 10.77.0.100 --root DIR", &["prefix", "10.0.0.2/24"]),
    ("--port af-xdp:rw-left --address 10.77.0/24 --root DIR", &["10.77.0", "no IP address"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/33 --root DIR", &["33"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/x --root DIR", &["\"x\""]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root /nowhere/at/all", &["/nowhere/at/all"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root /etc/passwd", &["/etc/passwd"]),
    ("--port af-xdp:none0 --address 10.77.0.100/24 --root DIR", &["none0", "no interface"]),
    ("--port xdp:rw-left --address 10.77.0.100/24 --root DIR", &["unknown driver \"xdp\""]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --listen 0", &["--listen"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --listen 70000", &["70000"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --content 0", &["content"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --cpu 4000", &["no CPU 4000"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --host name", &["="]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --error-page 404=/none", &["/none"]),
    ("--port af-xdp:rw-left --address 10.77.0.100/24 --root DIR --drain never", &["never", "seconds"]),
];

/// Each mistake is answered by a sentence with the words that help.
#[test]
fn mistakes_are_answered_by_a_sentence() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let tree = tree();
    let root = tree.path().to_string_lossy();
    let mut wrong = Vec::new();
    for (typed, words) in TYPED {
        let typed = typed.replace("DIR", &root);
        // One that is taken after all ends by itself.
        let args = ["serve", "--duration", "0.2"].into_iter().chain(typed.split_whitespace());
        let ended = Ringway::complete(lab.middle(), &args.collect::<Vec<_>>(), SOON).expect("an end");
        let refused = matches!(ended.status.code(), Some(1 | 2)) && ended.stdout.is_empty();
        let helps = words.iter().all(|word| ended.stderr.contains(word));
        if !refused || !helps || ended.stderr.contains("panicked") {
            wrong.push(format!("{typed}: {words:?}, {ended:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
