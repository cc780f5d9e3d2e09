//! Captures replayed and recorded, whole, cut short, damaged and missing.

use drivers::pcap::{PcapPlan, PcapQueue};
use drivers::{PortSpec, QueuePair};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::{DataLink, Endianness, TsResolution};
use proptest::prelude::*;
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn pool() -> Pool {
    let plan = ArenaPlan { frames: 256, frame_size: 2048, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

/// A folder of its own for each test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringway-pcap-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

fn pcap(endianness: Endianness, datalink: DataLink, lengths: &[usize]) -> Vec<u8> {
    let header = PcapHeader {
        endianness,
        datalink,
        ts_resolution: TsResolution::MicroSecond,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a vector");
    for (mark, len) in (1u8..).zip(lengths) {
        let data = vec![mark; *len];
        let len = u32::try_from(*len).expect("short");
        writer.write_packet(&PcapPacket::new(Duration::from_secs(1), len, &data)).expect("a vector");
    }
    writer.into_writer()
}

fn pcapng(lengths: &[usize]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect("a vector");
    writer.write_pcapng_block(InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0)).expect("a vector");
    for (mark, len) in (1u8..).zip(lengths) {
        let (data, original_len) = (vec![mark; *len].into(), u32::try_from(*len).expect("short"));
        if mark % 2 == 0 {
            writer.write_pcapng_block(SimplePacketBlock { original_len, data }).expect("a vector");
        } else {
            let timestamp = Duration::from_secs(1);
            let block =
                EnhancedPacketBlock { interface_id: 0, timestamp, original_len, data, options: vec![] };
            writer.write_pcapng_block(block).expect("a vector");
        }
    }
    writer.into_inner()
}

fn plan(file: &Path) -> PcapPlan {
    PcapPlan { file: file.to_owned(), out: None, times: 1 }
}

/// Replays all; mark and length of each packet, each seen to be whole.
fn replay(queue: &mut PcapQueue<'_>) -> Vec<(u8, usize)> {
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        while burst.packet_frames() > 0 {
            let frames = burst.packet_frames();
            let bytes: Vec<u8> = (0..frames).flat_map(|_| burst.pop().expect("whole").to_vec()).collect();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            seen.push((bytes[0], bytes.len()));
        }
        assert!(burst.is_empty(), "a packet without its end");
        if queue.exhausted() {
            break;
        }
    }
    seen
}

#[test]
fn replays_pcap_and_pcapng_of_either_endianness() {
    let folder = Folder::new();
    let lengths = [60, 1, 1500, 1792, 1793, 9000, 64];
    let expected: Vec<_> = (1u8..).zip(lengths).collect();
    for (name, bytes) in [
        ("big.pcap", pcap(Endianness::Big, DataLink::ETHERNET, &lengths)),
        ("little.pcap", pcap(Endianness::Little, DataLink::ETHERNET, &lengths)),
        ("next.pcapng", pcapng(&lengths)),
    ] {
        let pool = pool();
        let mut queue = PcapQueue::open(&pool, &plan(&folder.file(name, &bytes))).expect(name);
        assert!(!queue.exhausted());
        assert_eq!(replay(&mut queue), expected, "{name}");
        assert!(queue.exhausted() && queue.trouble().is_none());
        let counters = queue.counters();
        assert_eq!(
            (counters.received.packets, counters.received.bytes, counters.receive_malformed),
            (7, 14210, 0)
        );
        assert_eq!(queue.caps().mode, "replay of 7 packets, no recording");
        assert_eq!(pool.census().free, 256);
    }
}

#[test]
fn replays_as_often_as_asked_and_waits_for_frames() {
    let folder = Folder::new();
    let file = folder.file("in.pcap", &pcap(Endianness::Little, DataLink::ETHERNET, &[60, 4000, 60]));
    let pool = pool();
    let mut queue = PcapQueue::open(&pool, &PcapPlan { times: 3, ..plan(&file) }).expect("good");
    let mut all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    let mut burst = Burst::new();
    assert_eq!(queue.receive(&mut burst), 0);
    all.truncate(256 - 3);
    assert_eq!(queue.receive(&mut burst), 1, "two slots do not hold the packet of three frames");
    drop(all);
    burst.clear();
    assert_eq!(replay(&mut queue).len(), 8, "nothing was skipped");
    assert_eq!(queue.counters().received.packets, 9);
}

#[test]
fn records_what_it_transmits() {
    let folder = Folder::new();
    let lengths = [60, 9000, 1500];
    let file = folder.file("in.pcap", &pcap(Endianness::Little, DataLink::ETHERNET, &lengths));
    let out = folder.0.join("out.pcap");
    let pool = pool();
    let mut queue =
        PcapQueue::open(&pool, &PcapPlan { out: Some(out.clone()), ..plan(&file) }).expect("good");
    let mut burst = Burst::new();
    queue.receive(&mut burst);
    burst.push(pool.alloc().expect("free")).expect("room"); // empty: unsendable
    let frames = burst.len();
    assert_eq!(queue.transmit(&mut burst), frames);
    let counters = queue.counters();
    assert_eq!((counters.transmitted, counters.unsendable), (counters.received, 1));
    drop(queue);
    assert_eq!(pool.census().free, 256);
    let bytes = std::fs::read(&out).expect("recorded");
    let mut reader = PcapReader::new(&bytes[..]).expect("a capture");
    assert_eq!(reader.header().ts_resolution, TsResolution::NanoSecond);
    for (mark, len) in (1u8..).zip(lengths) {
        let packet = reader.next_packet().expect("a packet").expect("whole");
        assert_eq!(packet.data, vec![mark; len]);
        assert!(packet.timestamp.as_secs() > 1_600_000_000);
    }
    assert!(reader.next_packet().is_none());
    // And what was recorded can be replayed.
    let mut again = PcapQueue::open(&pool, &plan(&out)).expect("good");
    assert_eq!(replay(&mut again).len(), 3);
}

/// `/dev/full` says "no space left" to every write.
#[test]
fn a_full_disk_is_an_error_in_words() {
    let folder = Folder::new();
    let file = folder.file("in.pcap", &pcap(Endianness::Little, DataLink::ETHERNET, &[60]));
    let pool = pool();
    let plan = PcapPlan { out: Some("/dev/full".into()), ..plan(&file) };
    let words = PcapQueue::open(&pool, &plan).expect_err("full").to_string();
    assert!(words.contains("/dev/full: creating the file to record to failed: No space left"), "{words}");
}

#[test]
fn a_file_cut_short_is_replayed_as_far_as_it_is_whole() {
    let folder = Folder::new();
    let pool = pool();
    let whole = pcap(Endianness::Little, DataLink::ETHERNET, &[60, 60, 60]);
    for cut in 24..whole.len() {
        let file = folder.file("cut.pcap", &whole[..cut]);
        let mut queue = PcapQueue::open(&pool, &PcapPlan { times: 2, ..plan(&file) }).expect("a header");
        let packets = (cut - 24) / 76;
        let short = (cut - 24) % 76 != 0;
        assert_eq!(queue.trouble().is_some(), short && packets == 0, "only once it has been reached");
        assert_eq!(replay(&mut queue).len(), 2 * packets);
        assert!(queue.exhausted());
        assert_eq!(queue.counters().receive_malformed, u64::from(short));
        if short {
            let words = format!(
                "the capture is cut short at byte {}, behind {packets} whole packets",
                24 + 76 * packets
            );
            assert_eq!(queue.trouble(), Some(words.as_str()));
        }
    }
}

#[test]
fn what_cannot_be_opened_is_explained() {
    let folder = Folder::new();
    let pool = pool();
    let good = folder.file("good.pcap", &pcap(Endianness::Little, DataLink::ETHERNET, &[60]));
    let raw = folder.file("raw.pcap", &pcap(Endianness::Little, DataLink::RAW, &[60]));
    let mut ng = PcapNgWriter::new(Vec::new()).expect("a vector");
    ng.write_pcapng_block(InterfaceDescriptionBlock::new(DataLink::LINUX_SLL, 0)).expect("a vector");
    let ng = folder.file("sll.pcapng", &ng.into_inner());
    for (file, words) in [
        (folder.0.join("none.pcap"), "there is no such file"),
        (folder.0.clone(), "it is a directory"),
        ("-".into(), "write it to a file first"),
        ("/dev/null".into(), "it is not an ordinary file"),
        (raw, "not Ethernet: link type RAW (101)"),
        (ng, "not Ethernet: link type LINUX_SLL (113)"),
        (
            folder.file("text.pcap", b"this is plain text, not a capture"),
            "no capture in pcap or pcapng format",
        ),
        (folder.file("empty.pcap", b""), "ends within its header"),
    ] {
        let error = PcapQueue::open(&pool, &plan(&file)).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(words) && text.starts_with(&*file.display().to_string()), "{text}");
    }
    for (out, words) in [
        (good.clone(), "recording there would destroy the capture"),
        (folder.0.join("none/out.pcap"), "the directory is not there"),
        (folder.0.clone(), "name a file with out= that can be written"),
    ] {
        let text = PcapQueue::open(&pool, &PcapPlan { out: Some(out), ..plan(&good) })
            .expect_err("refused")
            .to_string();
        assert!(text.contains(words), "{text}");
    }
    assert!(std::fs::metadata(&good).expect("still there").len() > 24);
}

#[test]
fn a_port_says_what_to_replay() {
    let spec = |text: &str| PcapPlan::from_spec(&text.parse::<PortSpec>().expect("a port"));
    let expected = PcapPlan { file: "a.pcap".into(), out: Some("b.pcap".into()), times: 7 };
    assert_eq!(spec("pcap:a.pcap,out=b.pcap,loop=7"), Ok(expected));
    assert_eq!(spec("pcap:a.pcap"), Ok(plan(Path::new("a.pcap"))));
    assert!(
        spec("pcap:a.pcap,loop=0").expect_err("never").0.contains("loop=0 is not a number of times from 1")
    );
    assert!(
        spec("pcap:a.pcap,rate=7")
            .expect_err("unknown")
            .0
            .contains("unknown option \"rate\"; there are out, loop")
    );
}

proptest! {
    /// Whatever is in the file, it is refused in words or replayed to its end.
    #[test]
    fn damaged_captures_are_survived(
        next: bool, at in prop::collection::vec((0usize..4000, any::<u8>()), 0..8), cut in 0usize..4000,
    ) {
        let mut bytes = if next { pcapng(&[60, 61, 1500, 2000]) } else { pcap(Endianness::Big, DataLink::ETHERNET, &[60, 61, 1500, 2000]) };
        bytes.truncate(cut);
        for (at, byte) in at {
            // Most of what matters is in front.
            let at = if byte % 2 == 0 { at % 300 } else { at };
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let folder = Folder::new();
        let pool = pool();
        if let Ok(mut queue) = PcapQueue::open(&pool, &plan(&folder.file("bad", &bytes))) {
            for _ in 0..10 {
                let mut burst = Burst::new();
                queue.receive(&mut burst);
            }
            prop_assert!(queue.exhausted());
            prop_assert_eq!(pool.census().free, 256);
        }
    }
}
