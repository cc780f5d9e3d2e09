//! Many at once, and bad company: ten thousand connections, a flood of SYNs, clients that read slowly or vanish.
//!
//! ```text
//!   left: 10 000 sockets, curl, a packet socket that lies ── left0 ══ rw-left [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::server::{PORT, SERVER, Server, Tree, curl, fetch, frame_to_server, send_frames, url};
use lab::{Outcome, TestLab, needs};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// How many descriptors this process may have, after it has asked for `wanted`.
fn descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    for maximum in [Some(wanted.max(now.maximum.unwrap_or(u64::MAX))), now.maximum] {
        let current = Some(wanted.min(maximum.unwrap_or(u64::MAX)));
        if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// KiB of a mapping that is a part of the arena: nothing else that a server maps is so large.
const ARENA_PART: u64 = 128 << 10;

/// Resident bytes of a process outside of its arena, which may lie in more than one mapping.
fn beside_the_arena(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let of = |name: &str| {
        text.lines().filter(|line| line.starts_with(name)).filter_map(number).collect::<Vec<_>>()
    };
    let (sizes, resident) = (of("Size:"), of("Rss:"));
    assert_eq!(sizes.len(), resident.len());
    assert!(sizes.iter().any(|size| *size >= ARENA_PART), "there is no arena among {sizes:?}");
    let beside = sizes.iter().zip(&resident).filter(|(size, _)| **size < ARENA_PART);
    beside.map(|(_, resident)| resident).sum::<u64>() << 10
}

/// A connection from one of our addresses.
fn dial(from: Ipv4Addr) -> Outcome<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    connect(&socket, &SocketAddrV4::new(SERVER.parse()?, PORT))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// A request on each connection, then the response on each.
fn ask_all(streams: &mut [TcpStream], body: &[u8]) -> Outcome<()> {
    const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n";
    for group in streams.chunks_mut(500) {
        for stream in &mut *group {
            stream.write_all(REQUEST)?;
        }
        for stream in group {
            let mut answer = Vec::new();
            let mut buffer = [0; 4096];
            while !answer.ends_with(body) {
                let got = stream.read(&mut buffer)?;
                if got == 0 {
                    return Err(format!("the end after {:?}", String::from_utf8_lossy(&answer)).into());
                }
                answer.extend_from_slice(&buffer[..got]);
            }
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                return Err(String::from_utf8_lossy(&answer).into());
            }
        }
    }
    Ok(())
}

/// Ten thousand connections, each with a request, idle, and with a second one; the server's memory stays small.
#[test]
fn ten_thousand_connections_are_cheap() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let allowed = descriptors(11_000).saturating_sub(500);
    let count = allowed.min(10_000);
    if count < 10_000 {
        eprintln!("only {count} connections: no more descriptors are allowed here");
    }
    let sources: Vec<Ipv4Addr> = (10..14).map(|last| Ipv4Addr::new(10, 77, 0, last)).collect();
    for source in &sources {
        let add = format!("addr add {source}/24 dev left0");
        TestLab::run(lab.host(Side::Left), "ip", &add).expect("an address");
    }
    let tree = Tree::new().expect("a folder");
    let body = tree.file("small", 1000).expect("a file");
    let mut server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    let pid = server.process().pid();
    let before = beside_the_arena(pid);
    let dial_all = || -> Outcome<Vec<TcpStream>> {
        sources.iter().cycle().take(usize::try_from(count)?).map(|source| dial(*source)).collect()
    };
    let mut streams = lab.host(Side::Left).run(dial_all).expect("a host").expect("connections");
    ask_all(&mut streams, &body).expect("responses");
    let with_all = beside_the_arena(pid);
    eprintln!("{count} idle connections: {with_all} bytes beside the arena, {before} before them");
    assert!(with_all < 64 << 20, "{with_all} bytes beside the arena, {before} without connections");
    ask_all(&mut streams, &body).expect("responses");
    assert_eq!(fetch(&lab, &[&url("/small")]).expect("one more").status, 200);
    drop(streams);
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("requests"), 2 * count + 1, "{}", report.end);
    assert_eq!(report.served("connections"), 0, "{}", report.end);
}

/// A SYN from any of 16 million addresses, as a frame.
fn syn(number: u32) -> Vec<u8> {
    let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
    let mut tcp = vec![0x30 | a >> 4, b | 1];
    tcp.extend(PORT.to_be_bytes());
    tcp.extend(number.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
    frame_to_server([11, a, b, c], tcp)
}

/// Real clients are served while SYNs from nowhere come.
#[test]
fn a_flood_of_syns_keeps_nobody_out() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 50_000).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &[]).expect("a server");
    assert_eq!(fetch(&lab, &[&url("/body")]).expect("a response").status, 200);
    let stop = AtomicBool::new(false);
    let (served, sent) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut number = 0;
            send_frames(&lab, || {
                number += 1;
                (!stop.load(Ordering::Relaxed)).then(|| syn(number))
            })
        });
        let end = Instant::now() + Duration::from_secs(3);
        let mut served = 0;
        while Instant::now() < end {
            // The receive ring overflows: some segments are lost, and come again.
            let reply = fetch(&lab, &["--connect-timeout", "10", &url("/body")]);
            served += u32::from(reply.is_ok_and(|reply| reply.body == body));
        }
        stop.store(true, Ordering::Relaxed);
        (served, flood.join().expect("no panic").expect("a flood"))
    });
    let report = server.finish().expect("books in order");
    eprintln!("{served} clients beside {sent} SYNs");
    assert!(sent > 5000, "{sent} SYNs are no flood");
    assert!(served >= 2, "{served} clients were served beside {sent} SYNs: {}", report.end);
    assert!(report.served("cookies_sent") > 0, "{}", report.end);
}

/// Slow readers hold nobody up, and who vanishes is let go.
#[test]
fn slow_and_vanished_clients_hold_nobody_up() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let tree = Tree::new().expect("a folder");
    let body = tree.file("body", 4 << 20).expect("a file");
    let server = Server::start(&lab, "af-xdp", &tree, &["--drain", "1"]).expect("a server");
    let slow = || -> Outcome<Vec<TcpStream>> {
        let ask = |_| {
            let mut stream = TcpStream::connect((SERVER, PORT))?;
            stream.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n")?;
            Ok(stream)
        };
        (0..50).map(ask).collect()
    };
    let mut slow = lab.host(Side::Left).run(slow).expect("a host").expect("slow readers");
    let begun = Instant::now();
    let mut buffer = [0; 1024];
    for round in 0..3 {
        for stream in &mut slow {
            assert!(stream.read(&mut buffer).expect("bytes") > 0);
        }
        let reply = fetch(&lab, &[&url("/body")]).expect("a response");
        assert!(reply.body == body, "round {round}: another body");
    }
    assert!(begun.elapsed() < SOON, "others waited for slow readers: {:?}", begun.elapsed());
    // Twenty vanish: their RSTs never leave.
    TestLab::run(lab.host(Side::Left), "ip", "addr add 10.77.0.50/24 dev left0").expect("an address");
    let gone = || (0..20).map(|_| dial(Ipv4Addr::new(10, 77, 0, 50))).collect::<Outcome<Vec<_>>>();
    let mut gone = lab.host(Side::Left).run(gone).expect("a host").expect("connections");
    for stream in &mut gone {
        stream.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n").expect("a request");
    }
    TestLab::run(lab.host(Side::Left), "ip", "addr del 10.77.0.50/24 dev left0").expect("gone");
    drop(gone);
    assert!(fetch(&lab, &[&url("/body")]).expect("a response").body == body);
    assert!(curl(&lab, &["--head", &url("/body")]).expect("curl").status.success());
    let begun = Instant::now();
    let report = server.finish().expect("books in order");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(report.served("requests"), 50 + 3 + 20 + 2, "{}", report.end);
}
