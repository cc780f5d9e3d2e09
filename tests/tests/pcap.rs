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
