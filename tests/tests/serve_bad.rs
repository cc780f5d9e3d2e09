//! Bad input over a real socket: the right status, a closed connection, and the next client is served.
//!
//! ```text
//!   left: a client that says anything at all ── left0 ══ rw-left [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{PORT, Server, fetch, frame_to_server, send_frames, url};
use lab::stories::{ANSWERED, REFUSED, compare, tree};
use lab::traffic::Content;
use lab::{Ringway, TestLab, needs};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

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
