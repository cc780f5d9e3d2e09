//! What it takes from the machine: the arena, and 16 MiB at most.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::traffic::tcp;
use lab::{Forwarder, TestLab, needs};
use std::time::Duration;

/// Resident bytes of a process: all that `VmRSS` counts (proc_pid_status(5)).
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
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
        let taken = resident(forwarder.process().pid());
        let report = forwarder.finish().expect("books in order");
        let worker = &report.ready["workers"][0];
        let number = |name: &str| worker[name].as_u64().expect("a number");
        let arena = number("frames") * number("frame_size");
        assert!(taken <= arena + (16 << 20), "{taken} bytes resident, {arena} of them the arena: {worker}");
    }
}
