//! What clients may do, as it is given on the command line; and tags, which no kernel here can make.
//!
//! ```text
//!   left: curl, or a client of our own that tags its frames ── left0 ══ rw-left [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use dataplane::net::{Address, Path, Vlan};
use dataplane::{PortId, Tick};
use drivers::QueuePair as _;
use drivers::packet::{PacketPlan, PacketQueue};
use lab::client::Client;
use lab::server::{PORT, Reply, SERVER, Server, Tree, curl, fetch, url};
use lab::{Outcome, TestLab, needs};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

fn laboratory() -> TestLab {
    TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory")
}

/// What a client hears that says this and then waits for the end, and how long that took.
fn conversation(lab: &TestLab, said: &[u8], patience: Duration) -> Outcome<(Vec<u8>, Duration)> {
    lab.host(Side::Left).run(|| -> Outcome<_> {
        let mut stream = TcpStream::connect(SocketAddrV4::new(SERVER.parse()?, PORT))?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(said)?;
        let (begin, mut heard) = (Instant::now(), Vec::new());
        stream.read_to_end(&mut heard)?;
        Ok((heard, begin.elapsed()))
    })?
}

fn status(lab: &TestLab, said: &[u8]) -> u16 {
    let (heard, _) = conversation(lab, said, Duration::from_secs(10)).expect("an end");
    Reply::parse(&heard).expect("a response").status
}

/// Each limit of the command line holds at its border.
#[test]
fn limits_hold() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let (lab, tree) = (laboratory(), Tree::new().expect("a folder"));
    tree.file("small", 100).expect("a file");
    tree.file("large", 40 << 20).expect("a file");
    let args = [
        "--head-bytes",
        "300",
        "--fields",
        "5",
        "--target-bytes",
        "20",
        "--body-bytes",
        "10",
        "--requests",
        "3",
        "--head-timeout",
        "1",
        "--stall-timeout",
        "1",
        "--least-rate",
        "10000000",
    ];
    let server = Server::start(&lab, "af-xdp", &tree, &args).expect("a server");
    let request = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    assert_eq!(status(&lab, &request("/small", "")), 200);
    // 20 bytes of target, and one more.
    assert_eq!(status(&lab, &request("/small?aaaaaaaaaaaaa", "")), 200);
    assert_eq!(status(&lab, &request("/small?aaaaaaaaaaaaaa", "")), 414);
    // Five fields with the two that are always there.
    assert_eq!(status(&lab, &request("/small", "A: b\r\nC: d\r\nE: f\r\n")), 200);
    assert_eq!(status(&lab, &request("/small", "A: b\r\nC: d\r\nE: f\r\nG: h\r\n")), 431);
    let long = |bytes: usize| {
        let rest = bytes - request("/small", "A: \r\n").len();
        request("/small", &format!("A: {}\r\n", "a".repeat(rest)))
    };
    assert_eq!((long(300).len(), status(&lab, &long(300))), (300, 200));
    assert_eq!(status(&lab, &long(301)), 431);
    // A body of ten bytes is passed over; behind a longer one nothing is read.
    let body = |bytes: usize| {
        let first =
            format!("GET /small HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
        [first.into_bytes(), request("/small", "")].concat()
    };
    let answers = |said: &[u8]| {
        let (heard, _) = conversation(&lab, said, Duration::from_secs(10)).expect("an end");
        heard.windows(9).filter(|nine| nine == b"HTTP/1.1 ").count()
    };
    assert_eq!((answers(&body(10)), answers(&body(11))), (2, 1));
    // Three requests on a connection; the fourth is not answered.
    assert_eq!(answers(&b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4)), 3);
    // A head that does not end.
    let (heard, time) = conversation(&lab, b"GET / HT", Duration::from_secs(10)).expect("an end");
    assert_eq!(Reply::parse(&heard).expect("a response").status, 408);
    assert!(time > Duration::from_millis(900) && time < Duration::from_secs(3), "{time:?}");
    // A reader that takes 1 MB/s, where ten are the least: reset.
    let slow =
        curl(&lab, &["--limit-rate", "1M", "--max-time", "20", "--output", "/dev/null", &url("/large")]);
    let slow = slow.expect("curl");
    assert!(matches!(slow.status.code(), Some(18 | 56)), "{slow:?}");
    assert_eq!(fetch(&lab, &[&url("/large")]).expect("a response").body.len(), 40 << 20);
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("clients_timed_out"), 2, "{}", report.end);
}

/// A client that vanishes is missed by TCP long before its time without a request is over.
#[test]
fn a_client_that_vanished_is_missed() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let (lab, tree) = (laboratory(), Tree::new().expect("a folder"));
    let args = ["--keepalive", "1", "--idle-timeout", "600"];
    let server = Server::start(&lab, "af-xdp", &tree, &args).expect("a server");
    let here = lab
        .host(Side::Left)
        .run(|| -> Outcome<TcpStream> { Ok(TcpStream::connect(SocketAddrV4::new(SERVER.parse()?, PORT))?) });
    let stream = here.expect("a host").expect("a connection");
    // Its kernel answers while it is there.
    std::thread::sleep(Duration::from_millis(3500));
    TestLab::run(lab.host(Side::Left), "ip", "link set left0 down").expect("it vanishes");
    std::thread::sleep(Duration::from_millis(3500));
    let report = server.finish().expect("books in order");
    let [asked, lost] = ["keepalives", "timed_out"].map(|name| report.served(name));
    assert!(asked >= 6, "{asked}: {}", report.end);
    assert_eq!(lost, 1, "{}", report.end);
    drop(stream);
}

/// An ARP request of the left host for the server, with this tag.
fn question(tag: Option<u16>) -> Vec<u8> {
    let (mac, server) = (Side::Left.host_mac(), SERVER.parse::<Ipv4Addr>().expect("an address").octets());
    let mut frame = [&[0xff; 6][..], &mac].concat();
    if let Some(tag) = tag {
        frame.extend([&[0x81, 0][..], &tag.to_be_bytes()].concat());
    }
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([&mac[..], &[10, 77, 0, 1], &[0; 6], &server].concat());
    frame.resize(64, 0);
    frame
}

/// Over a real wire with tags: a question by ARP, and a file; true for each if it was answered.
fn ask_tagged(lab: &TestLab, tag: Option<u16>, content: &[u8]) -> Outcome<(bool, bool)> {
    lab.host(Side::Left).run(|| -> Outcome<_> {
        let pool = Pool::new(Arena::new(&ArenaPlan { frames: 4096, ..ArenaPlan::default() })?);
        let mut queue = PacketQueue::open(&pool, &PacketPlan::new(Side::Left.interface()))?;
        let path = Path {
            port: PortId(0),
            vlan: tag.and_then(Vlan::new),
            local_mac: Side::Left.host_mac(),
            peer_mac: Side::Left.port_mac(),
            // One that the host's kernel does not have, or it would reset what it knows nothing of.
            local: Address::v4([10, 77, 0, 50]),
            peer: Address::v4(SERVER.parse::<Ipv4Addr>()?.octets()),
        };
        let mut client = Client::new(path)?;
        let (begin, mut burst, mut resolved) = (Instant::now(), Burst::new(), false);
        let now = || Tick(Duration::from_secs(1) + begin.elapsed());
        let talk = client.say(now(), b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut frames = vec![question(tag)];
        while client.ended(talk).is_none() && begin.elapsed() < Duration::from_secs(4) {
            frames.extend(client.poll(now(), &pool)?.into_iter().map(|(_, frame)| frame));
            for bytes in frames.drain(..) {
                let mut frame = pool.alloc().ok_or("no frame")?;
                frame.extend(&bytes).map_err(|_| "too long")?;
                burst.push(frame).map_err(|_| "a burst is full")?;
                while queue.transmit(&mut burst) == 0 {
                    queue.tend();
                }
            }
            queue.tend();
            while queue.receive(&mut burst) > 0 {
                let (mut packet, mut offload) = (Vec::new(), None);
                while let Some(frame) = burst.pop() {
                    offload = if packet.is_empty() { frame.offload() } else { offload };
                    packet.extend_from_slice(&frame);
                    if frame.continues() {
                        continue;
                    }
                    let arp = if tag.is_some() { 16 } else { 12 };
                    resolved |= packet[arp..].starts_with(&[8, 6]) && packet[arp + 9] == 2;
                    client.hear(now(), &packet, offload);
                    packet.clear();
                }
            }
        }
        let served = client.heard(talk).ends_with(content) && client.ended(talk).is_some();
        Ok((resolved, served))
    })?
}

/// Tagged frames reach the server and are answered with the tag; others are as good as not there.
#[test]
fn a_vlan_of_its_own() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    for driver in ["af-xdp", "packet"] {
        let (lab, tree) = (laboratory(), Tree::new().expect("a folder"));
        let content = tree.file("file", 300_000).expect("a file");
        let server = Server::start(&lab, driver, &tree, &["--vlan", "42"]).expect("a server");
        for (tag, answered) in [(Some(42), true), (Some(43), false), (None, false)] {
            let found = ask_tagged(&lab, tag, &content).expect("a client");
            assert_eq!(found, (answered, answered), "{driver}, tag {tag:?}");
        }
        let report = server.finish().expect("books in order");
        assert_eq!(report.served("accepted"), 1, "{driver}: {}", report.end);
    }
}
