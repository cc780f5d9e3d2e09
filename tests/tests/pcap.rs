//! Capture files as ports of the whole program: no rights needed, and each packet comes out as it went in.
//!
//! ```text
//!   in.pcap ──► port 0 [ forward ] port 1 ──► out.pcap
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::traffic::Content;
use lab::{Report, Ringway};
use std::path::PathBuf;
use std::time::Duration;

/// A folder of this test's own, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The classic format: a header of 24 bytes, then 16 bytes before each packet (draft-ietf-opsawg-pcap).
fn capture(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for (second, packet) in (0u32..).zip(packets) {
        let length = u32::try_from(packet.len()).expect("short");
        for word in [second, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

fn packets_of(file: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut packets) = (&file[24..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(*rest[8..].first_chunk().expect("a whole header")) as usize;
        packets.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    packets
}

fn packets(lengths: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    let packet = |(number, length): (u64, usize)| {
        let mut bytes = vec![0; length];
        Content::new(number).fill(&mut bytes);
        bytes
    };
    (0..).zip(lengths).map(packet).collect()
}

fn forward(args: &[&str]) -> Report {
    let here = Namespace::current().expect("a namespace");
    let all: Vec<&str> = ["forward", "--format", "json"].into_iter().chain(args.iter().copied()).collect();
    let ended = Ringway::complete(&here, &all, Duration::from_secs(20)).expect("it ends by itself");
    Report::of(&ended).expect("books in order")
}

/// A wire from one file to another carries packets of one byte to 65 KiB, and ends when the file does.
#[test]
fn a_capture_passes_through_a_wire() {
    let folder = Folder::new("wire");
    let (from, empty, to) = (folder.file("in.pcap"), folder.file("empty.pcap"), folder.file("out.pcap"));
    let sent = packets((0..500).map(|i| [14, 60, 1514, 1793, 9014, 30_000, 65_549][i % 7]));
    std::fs::write(&from, capture(&sent)).expect("a file");
    std::fs::write(&empty, capture(&[])).expect("a file");
    let report = forward(&["--port", &format!("pcap:{from}"), "--port", &format!("pcap:{empty},out={to}")]);
    assert_eq!((report.code, &report.end["ended"]), (Some(0), &"exhausted".into()), "{report:?}");
    let arrived = packets_of(&std::fs::read(&to).expect("a recording"));
    assert_eq!(arrived.len(), sent.len());
    for (number, (sent, arrived)) in sent.iter().zip(&arrived).enumerate() {
        assert!(sent == arrived, "packet {number} of {} bytes", sent.len());
    }
}

/// Runts are discarded by name, a file cut short in a packet is replayed to its last whole one, and the rest passes.
#[test]
fn runts_and_a_file_cut_short_are_named() {
    let folder = Folder::new("cut");
    let (from, to) = (folder.file("in.pcap"), folder.file("out.pcap"));
    let mut file = capture(&packets([60, 13, 100, 1, 60, 200].into_iter()));
    file.truncate(file.len() - 50);
    std::fs::write(&from, file).expect("a file");
    let report = forward(&["--mode", "mac-swap", "--port", &format!("pcap:{from},out={to},loop=2")]);
    assert_eq!(report.discarded("runt"), 4, "{}", report.end);
    assert_eq!((report.book("received"), report.book("transmitted")), (10, 6), "{}", report.end);
    assert_eq!(report.port(0, "receive_malformed"), 1, "{}", report.end);
    assert_eq!(packets_of(&std::fs::read(&to).expect("a recording")).len(), 6);
}

/// What is no capture is refused by a sentence that names the file.
#[test]
fn what_is_no_capture_is_refused() {
    let folder = Folder::new("refused");
    let here = Namespace::current().expect("a namespace");
    let wifi = {
        let mut file = capture(&[]);
        file[20] = 105;
        file
    };
    for (name, content) in [
        ("text.pcap", b"this is no capture, it is a text of some length".to_vec()),
        ("nothing.pcap", Vec::new()),
        ("header.pcap", capture(&[])[..20].to_vec()),
        ("wifi.pcap", wifi),
    ] {
        let path = folder.file(name);
        std::fs::write(&path, content).expect("a file");
        let port = format!("pcap:{path}");
        let args = ["forward", "--mode", "mac-swap", "--port", &port];
        let ended = Ringway::complete(&here, &args, Duration::from_secs(10)).expect("an end");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(name) && !ended.stderr.contains("panicked"), "{ended:?}");
    }
}

/// A frame from 10.0.0.1 to the server at 10.0.0.2, with right sums.
fn ip_frame(protocol: u8, mut payload: Vec<u8>) -> Vec<u8> {
    use drivers::checksum::{fold, sum};
    let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let (at, pseudo) = match protocol {
        6 => (16, [&from[..], &to, &[0, 6], &length(payload.len())].concat()),
        _ => (2, Vec::new()),
    };
    let checksum = !fold(sum(&pseudo) + sum(&payload));
    payload[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    let mut ip = [&[0x45, 0][..], &length(20 + payload.len()), &[0, 0, 0x40, 0, 64, protocol, 0, 0]].concat();
    ip.extend([from, to].concat());
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
    [&SERVE_MAC[..], &[2, 0, 0, 0, 0, 1], &[8, 0], &ip, &payload].concat()
}

/// What `serve` calls itself where no interface has a MAC address.
const SERVE_MAC: [u8; 6] = [2, 0x52, 0x57, 0, 2, 1];

/// A segment to port 8080: sequence number, acknowledgement, flags, payload.
fn segment(seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [40_000u16.to_be_bytes(), 8080u16.to_be_bytes()].concat();
    let numbers = [seq.to_be_bytes(), ack.to_be_bytes()].concat();
    let tcp = [&ports[..], &numbers, &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0], payload].concat();
    ip_frame(6, tcp)
}

/// A client's half of a conversation, replayed to `serve`. Questions that need no secret are answered in the recording:
/// ARP, ping, the SYN. The request itself cannot be: our sequence number is another one in each run (RFC 6528), so the
/// replayed acknowledgement is of nothing, and is reset.
#[test]
fn a_recorded_client_is_answered_up_to_the_secret() {
    let folder = Folder::new("serve");
    let (from, to) = (folder.file("in.pcap"), folder.file("out.pcap"));
    std::fs::write(folder.file("page"), b"content").expect("a file");
    let mut arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    arp.extend([&[2, 0, 0, 0, 0, 1][..], &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]].concat());
    let ping = ip_frame(1, [&[8, 0, 0, 0, 0, 1, 0, 2][..], b"abcdefgh"].concat());
    let request = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n";
    let said = [arp, ping, segment(1000, 0, 0x02, &[]), segment(1001, 77, 0x18, request), vec![0; 13]];
    std::fs::write(&from, capture(&said)).expect("a file");
    let here = Namespace::current().expect("a namespace");
    let (port, root) = (format!("pcap:{from},out={to}"), folder.file(""));
    let args = [
        "serve",
        "--format",
        "json",
        "--port",
        &port,
        "--address",
        "10.0.0.2/24",
        "--root",
        &root,
        "--duration",
        "1",
    ];
    let ended = Ringway::complete(&here, &args, Duration::from_secs(20)).expect("it ends by itself");
    let report = Report::of(&ended).expect("books in order");
    assert_eq!(report.code, Some(0), "{ended:?}");
    assert_eq!(report.discarded("runt"), 1, "{}", report.end);
    let heard = packets_of(&std::fs::read(&to).expect("a recording"));
    let one = |what: &str, is: &dyn Fn(&[u8]) -> bool| {
        let mut found = heard.iter().filter(|packet| is(packet));
        let one = found.next().unwrap_or_else(|| panic!("{what}: {heard:02x?}"));
        assert_eq!(one[..6], [2, 0, 0, 0, 0, 1], "{what} goes to who asked");
        one.clone()
    };
    let reply = one("an ARP reply", &|packet| packet[12..14] == [8, 6] && packet[21] == 2);
    assert_eq!((&reply[22..28], &reply[28..32]), (&SERVE_MAC[..], &[10, 0, 0, 2][..]));
    let echo = one("an echo reply", &|packet| packet[23] == 1 && packet[34] == 0);
    assert_eq!(&echo[38..50], &[&[0, 1, 0, 2][..], b"abcdefgh"].concat()[..]);
    let tcp =
        |flags: u8| move |packet: &[u8]| packet[12..14] == [8, 0] && packet[23] == 6 && packet[47] == flags;
    let accepted = one("a SYN-ACK", &tcp(0x12));
    assert_eq!(&accepted[42..46], &1001u32.to_be_bytes(), "it acknowledges the SYN");
    let reset = one("a reset", &tcp(0x04));
    assert_eq!(&reset[38..42], &77u32.to_be_bytes(), "with the number that was acknowledged");
    assert_eq!((report.served("accepted"), report.served("requests")), (1, 0), "{}", report.end);
}
