//! Each driver, mode and frame size: every bit that goes in comes out, in order, while every ring wraps.
//!
//! ```text
//!   left0 ──numbered frames──► rw-left [ forward ] rw-right ──► right0     wire
//!   left0 ◄──swapped addresses─ rw-left [ forward ]                        mac-swap
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::raw::{Expect, Landed, Stream, exchange};
use lab::{Forwarder, TestLab, needs};

/// A driver, and what is typed behind the port.
type Row = (&'static str, &'static str);

const ROWS: [Row; 6] = [
    ("af-xdp", ",ring=64"),
    ("af-xdp", ",attach=generic,ring=64"),
    ("af-xdp", ",chunks=unaligned,ring=64"),
    ("af-xdp", ""),
    ("packet", ",ring=64"),
    ("packet", ""),
];

/// A size: the shortest of Ethernet, one more than a power of two, the longest of each MTU, one frame and several.
fn sizes(mtu: usize) -> Vec<usize> {
    let all = [60, 61, 64, 65, 128, 1000, 1514, 1792, 1793, 2048, 3000, 3584, 3840, 3841, 9014, 32768, 65549];
    all.into_iter().filter(|bytes| *bytes <= mtu + 14).collect()
}

/// One forwarder for all sizes: long frames and short ones follow each other through the same rings.
fn run(mtu: u32, row: Row, expect: Expect) {
    let (driver, options) = row;
    let lab = TestLab::with(|plan| (plan.mtu, plan.ipv6) = (mtu, false)).expect("a laboratory");
    let mode = if expect == Expect::Same { "wire" } else { "mac-swap" };
    let forwarder = Forwarder::between(&lab, driver, options, &["--mode", mode]).expect("a forwarder");
    let mut sent = 0;
    for bytes in sizes(mtu as usize) {
        let pieces = bytes.div_ceil(1700) as u64;
        // Several times round a ring of 64, with less under way than it holds.
        let stream = Stream { count: 600 / pieces + 40, bytes, window: (24 / pieces).max(1), vlan: None };
        let from = if bytes % 2 == 0 { Side::Left } else { Side::Right };
        let landed = exchange(&lab, from, stream, expect).expect("peers");
        let expected = Landed { whole: stream.count, foreign: landed.foreign, ..Landed::default() };
        assert_eq!(landed, expected, "{mode}, {driver}{options}, {bytes} bytes from {}", from.name());
        sent += stream.count;
    }
    let report = forwarder.finish().expect("books in order");
    assert!(report.book("transmitted") >= sent, "{}", report.end);
    assert_eq!(report.book("unsendable") + report.book("discarded"), 0, "{}", report.end);
}

macro_rules! matrix {
    ($($name:ident: $mtu:literal, $row:literal;)+) => {
        mod wire {
            use super::*;
            $(#[test]
            fn $name() {
                needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
                run($mtu, ROWS[$row], Expect::Same);
            })+
        }
        mod mac_swap {
            use super::*;
            $(#[test]
            fn $name() {
                needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
                run($mtu, ROWS[$row], Expect::Swapped);
            })+
        }
    };
}

matrix! {
    native_1500: 1500, 0;
    native_9000: 9000, 0;
    native_65535: 65535, 3;
    generic_1500: 1500, 1;
    unaligned_1500: 1500, 2;
    unaligned_65535: 65535, 2;
    packet_1500: 1500, 4;
    packet_9000: 9000, 4;
    packet_65535: 65535, 5;
}

/// A VLAN tag that is part of the frame passes, on the longest frame too.
#[test]
fn tagged_frames_pass() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    for bytes in [64, 1518] {
        let stream = Stream { count: 200, bytes, window: 32, vlan: Some(7) };
        let landed = exchange(&lab, Side::Left, stream, Expect::Same).expect("peers");
        assert_eq!((landed.whole, landed.damaged), (200, 0), "{bytes} bytes: {landed:?}");
    }
    forwarder.finish().expect("books in order");
}
