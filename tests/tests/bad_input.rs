//! Whatever is typed wrong, or not allowed, ends with a sentence that says what and why; never with a panic.
#![forbid(unsafe_code)]

use lab::{Ended, Ringway, TestLab, needs};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn refused(ended: &Ended, case: &str, words: &[&str]) {
    assert!(!ended.stderr.contains("panicked"), "{case}: {}", ended.stderr);
    // 1: a refusal of ours, 2: clap's usage. A signal has no code.
    assert!(matches!(ended.status.code(), Some(1 | 2)), "{case}: {ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{case}: {word:?} is not in {:?}", ended.stderr);
    }
    assert_eq!(ended.stdout, "", "{case}: it began");
}

/// Typed behind `ringway forward`, and the words that must be in the answer.
const TYPED: &[(&str, &[&str])] = &[
    ("", &["--port"]),
    ("--port xdp:rw-left --port rw-right", &["unknown driver \"xdp\"", "af-xdp, packet, pcap"]),
    ("--port vfio:0000:03:00.0 --port rw-right", &["0000:03:00.0", "no such PCI device"]),
    ("--port af-xdp: --port rw-right", &["names no device"]),
    ("--port af-xdp:none0 --port rw-right", &["none0", "no interface"]),
    ("--port none0 --port rw-right", &["none0", "no interface"]),
    ("--port af-xdp:../../x --port rw-right", &["../../x"]),
    ("--port af-xdp:a-name-of-more-than-15-bytes --port rw-right", &["a-name-of-more-than-15-bytes"]),
    ("--port af-xdp:rw-left", &["pairs"]),
    ("--port af-xdp:rw-left --port rw-right --port lo", &["pairs"]),
    ("--port af-xdp:rw-left --port rw-left", &["named twice"]),
    ("--port af-xdp:rw-left --port rw-right --mode hub", &["hub", "wire", "mac-swap"]),
    ("--port af-xdp:rw-left --port rw-right --idle nap", &["nap", "adaptive"]),
    ("--port af-xdp:rw-left --port rw-right --format xml", &["xml", "json"]),
    ("--port af-xdp:rw-left --port rw-right --cpu 4000", &["no CPU 4000"]),
    ("--port af-xdp:rw-left --port rw-right --cpu one", &["one", "list of numbers"]),
    ("--port af-xdp:rw-left --port rw-right --cpu 3-1", &["3-1"]),
    ("--port af-xdp:rw-left --port rw-right --duration soon", &["not a number of seconds"]),
    ("--port af-xdp:rw-left --port rw-right --duration=-1", &["-1"]),
    ("--port af-xdp:rw-left --port rw-right --duration nan", &["nan"]),
    ("--port af-xdp:rw-left --port rw-right --frames many", &["many"]),
    ("--port af-xdp:rw-left --port rw-right --frames 0", &["0 frames are too few", "--frames"]),
    ("--port af-xdp:rw-left --port rw-right --frames 4000000000", &["frames"]),
    ("--port af-xdp:rw-left,queues=7 --port rw-right", &["no queue 7", "ethtool -L"]),
    ("--port af-xdp:rw-left,queues= --port rw-right", &["queues="]),
    ("--port af-xdp:rw-left,queues=0-99999 --port rw-right", &["queues=0-99999"]),
    ("--port af-xdp:rw-left,mode=fast --port rw-right", &["mode=fast", "zero-copy or copy"]),
    (
        "--port af-xdp:rw-left,mode=zero-copy --port rw-right",
        &["zero-copy", "veth", "leave mode=zero-copy out"],
    ),
    ("--port af-xdp:rw-left,attach=nic --port rw-right", &["attach=nic", "native or generic"]),
    ("--port af-xdp:rw-left,chunks=odd --port rw-right", &["chunks=odd", "unaligned or aligned"]),
    ("--port af-xdp:rw-left,ring=100 --port rw-right", &["ring=100", "power of two"]),
    ("--port af-xdp:rw-left,ring=32 --port rw-right", &["ring=32", "from 64"]),
    ("--port af-xdp:rw-left,ring=65536 --port rw-right", &["ring=65536", "to 32768"]),
    ("--port af-xdp:rw-left,ring=many --port rw-right", &["ring=many"]),
    ("--port af-xdp:rw-left,busy-poll=x --port rw-right", &["busy-poll=x", "microseconds"]),
    ("--port af-xdp:rw-left,speed=9 --port rw-right", &["unknown option \"speed\"", "queues, mode"]),
    ("--port af-xdp:rw-left,ring --port rw-right", &["not key=value"]),
    ("--port af-xdp:rw-left,ring=64,ring=64 --port rw-right", &["given twice"]),
    ("--port packet:none0 --port rw-right", &["none0"]),
    ("--port pcap:none.pcap --port rw-right", &["none.pcap"]),
];

/// Each mistake is answered by a sentence with the words that help.
#[test]
fn mistakes_are_answered_by_a_sentence() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    for (typed, words) in TYPED {
        let args: Vec<&str> = ["forward"].into_iter().chain(typed.split_whitespace()).collect();
        let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
        refused(&ended, typed, words);
    }
    for unknown in [["fly"], ["--port"]] {
        refused(&Ringway::complete(lab.middle(), &unknown, SOON).expect("an end"), unknown[0], &["Usage"]);
    }
}

/// An interface that is down is named with the command that brings it up.
#[test]
fn an_interface_that_is_down_is_refused() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    lab.ip("link set rw-right down").expect("down");
    let args = ["forward", "--port", "af-xdp:rw-left", "--port", "af-xdp:rw-right"];
    let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
    refused(&ended, "down", &["rw-right", "is down", "ip link set rw-right up"]);
}

/// A worker without any queue: how many there are, and how to get more.
#[test]
fn too_few_queues_are_refused() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("bad_input::too_few_queues_are_refused", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let args = ["forward", "--mode", "mac-swap", "--port", "af-xdp:rw-left", "--cpu", "0,1"];
    let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
    refused(&ended, "queues", &["1 queue", "2 workers", "ethtool -L"]);
}

/// Without a right, the sentence says which one is missing.
#[test]
fn missing_rights_are_named() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "setpriv");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let program = Ringway::program().expect("built");
    for (gone, words) in [
        ("-all", ["CAP_"].as_slice()),
        ("-net_raw", &["CAP_NET_RAW"]),
        ("-net_admin,-sys_admin", &["CAP_NET_ADMIN"]),
        ("-bpf,-sys_admin", &["CAP_BPF"]),
    ] {
        let mut command = lab.middle().command("setpriv");
        command.arg(format!("--bounding-set={gone}")).arg("--inh-caps=-all").arg(&program);
        command.args(["forward", "--duration", "0.2"]);
        let output = command.args(["--port", "af-xdp:rw-left", "--port", "af-xdp:rw-right"]).output();
        let output = output.expect("setpriv");
        let ended = Ended {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        refused(&ended, gone, words);
        assert!(ended.stderr.contains("rw-left"), "{gone}: {}", ended.stderr);
    }
}
