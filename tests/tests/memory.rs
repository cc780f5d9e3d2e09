//! What it takes from the machine: the arena, and 8 MiB at most.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::traffic::tcp;
use lab::{Forwarder, TestLab, needs};
use std::path::Path;
use std::time::Duration;

/// Resident bytes of a process beside those of files: the arena, rings that the kernel shares with it, heap and stacks (`smaps` in proc(5)).
///
/// The pages of the program and its libraries are left out. They are the page cache's, whether anybody runs the program or not, and how many of them count as
/// resident is the file system's doing: where the cache has large folios, the same faults map megabytes more.
fn kept(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let mut of_a_file = false;
    let mut kilobytes = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if !of_a_file => {
                kilobytes += words.next().expect("a number").parse::<u64>().expect("a number")
            }
            Some(range) if !range.ends_with(':') => {
                of_a_file = words.nth(4).is_some_and(|path| Path::new(path).is_file())
            }
            _ => {}
        }
    }
    kilobytes << 10
}

/// Whatever the driver, the length of frames and the depth of rings.
#[test]
fn memory_is_the_arena_and_little_more() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    for (mtu, driver, options) in
        [(1500, "af-xdp", ""), (1500, "af-xdp", ",ring=64"), (9000, "af-xdp", ""), (1500, "packet", "")]
    {
        let lab = TestLab::with(|plan| plan.mtu = mtu).expect("a laboratory");
        let mut forwarder = Forwarder::between(&lab, driver, options, &[]).expect("a forwarder");
        tcp(&lab, Side::Left, 8 << 20, 1, Duration::from_secs(20)).expect("a transfer");
        let taken = kept(forwarder.process().pid());
        let report = forwarder.finish().expect("books in order");
        let worker = &report.ready["workers"][0];
        let number = |name: &str| worker[name].as_u64().expect("a number");
        let arena = number("frames") * number("frame_size");
        eprintln!("{driver}{options} {mtu}: {} KiB beside the arena", taken.saturating_sub(arena) >> 10);
        assert!(taken <= arena + (8 << 20), "{taken} bytes kept, {arena} of them the arena: {worker}");
    }
}
