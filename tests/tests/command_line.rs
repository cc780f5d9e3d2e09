//! What is typed wrong, what cannot be opened, what cannot be printed: exit codes that a script can rely on, and words that help.
//!
//! Nothing here needs a right, or touches an interface.
#![forbid(unsafe_code)]

use lab::{Ringway, needs};
use std::fs::File;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn ringway(typed: &str) -> Output {
    let program = Ringway::program().expect("the program");
    Command::new(program).args(typed.split_whitespace()).stdin(Stdio::null()).output().expect("an end")
}

/// Standard error of a command that ends with this code, and prints nothing.
fn refused(typed: &str, code: i32) -> String {
    let output = ringway(typed);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{typed}: {said}");
    assert!(output.stdout.is_empty() && !said.contains("panicked"), "{typed}: {output:?}");
    said
}

fn says(said: &str, typed: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{typed}: {word:?} is not in {said:?}");
    }
}

/// What no machine could do is the command line's fault: exit code 2, before anything is opened.
#[test]
fn what_cannot_be_meant_is_2() {
    for (typed, words) in [
        ("forward --port af-xdp:p0,mode=zerocopy --port p1", &["mode=zerocopy", "zero-copy"][..]),
        (
            "forward --port af-xdp:p0,queue=0 --port p1",
            &["\"queue\"", "there are queues", "tap, loss", "seed"],
        ),
        ("forward --port af-xdp:p0,ring=1000 --port p1", &["ring=1000", "power of two"]),
        ("forward --port packet:p0,ring=1000 --port p1", &["ring=1000"]),
        ("forward --port packet:p0,loss=150 --port p1", &["loss=150", "percent"]),
        ("forward --port p0,seed=x --port p1", &["seed=x"]),
        ("forward --port pcap:p0,loop=x --port p1", &["loop=x"]),
        ("forward --port uio:p0 --port p1", &["p0"]),
        ("forward --port p0", &["pairs"]),
        ("forward --port p0 --port p0", &["named twice"]),
        ("serve --port p0 --address 10.0.0.2/33 --root .", &["\"33\"", "0 to 32"]),
        ("serve --port p0 --address fd77::2/129 --root .", &["0 to 128"]),
        ("serve --port p0 --address 10.0.0.2/24 --root . --listen 127.0.0.1:80", &["--listen 80"]),
        ("serve --port p0 --address 10.0.0.2/24 --root . --upload", &["--engine"]),
        ("serve --port p0 --address 10.0.0.2/24 --root . --content 0", &["--content", "1..=1048576"]),
        ("serve --port p0 --address 10.0.0.2/24 --root . --content 99999999", &["--content", "1048576"]),
        ("serve --root .", &["--port P --address A/LEN", "--engine sendfile", "Usage"]),
        ("serve --root . --port p0", &["--address 10.0.0.2/24", "--engine"]),
        ("serve --root . --address 10.0.0.2/24", &["--port eth0", "--engine"]),
        (
            "serve --engine sendfile --port p0 --root .",
            &["cannot be used with", "--port <P> --address <A/LEN> --root", "--engine <METHOD> --root"],
        ),
        (
            "serve --engine sendfile --root . --access-log - --format json",
            &["--access-log -", "standard output", "a file"],
        ),
        ("load 10.0.0.2/file", &["http://"]),
        ("load https://10.0.0.2/file", &["no TLS"]),
        ("load http://10.0.0.2/ --header foo", &["--header", "Accept"]),
        ("load http://10.0.0.2/ http://10.0.0.3/", &["two servers"]),
        ("load http://server/ --port p0 --address 10.0.0.3/24", &["is a name"]),
        ("load http://10.0.0.2/ --port p0 --address fd77::2/64", &["--address of that kind"]),
        ("load http://127.0.0.1:1/ --connections 1 --cpu 0,1", &["too few for 2 threads"]),
        ("lab up --queues 0", &["queues"]),
    ] {
        says(&refused(typed, 2), typed, words);
    }
}

/// What is not there, or not allowed, is the machine's: exit code 1, and what to do about it.
#[test]
fn what_cannot_be_had_is_1_and_has_a_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!(
        "serve --engine sendfile --root . --listen {}",
        taken.local_addr().map(|at| at.to_string()).expect("an address")
    );
    for (typed, words) in [
        ("serve --engine sendfile --root /nope", &["/nope", "--root", "that are there"][..]),
        (
            "serve --engine sendfile --root /proc/version",
            &["/proc/version", "give --root and --host folders"],
        ),
        (
            "serve --engine sendfile --root . --error-page 404=/nope",
            &["404=/nope", "reading it", "give a file"],
        ),
        ("serve --engine sendfile --root . --access-log /nope/log", &["/nope/log", "--access-log"]),
        (
            "serve --port p0 --address 10.0.0.2/24 --root . --content 1048576",
            &["--content 1048576", "memory"],
        ),
        ("forward --port none0 --port none1", &["none0", "no interface"]),
        (&taken, &["another program listens there"]),
    ] {
        says(&refused(typed, 1), typed, words);
    }
}

/// A disk that is full is no success; and who reads no further is no failure.
#[test]
fn lines_that_cannot_be_printed_are_a_failure() {
    let program = Ringway::program().expect("the program");
    let pcap = std::env::temp_dir().join(format!("ringway-full-{}.pcap", std::process::id()));
    // An empty capture: its header (little-endian, Ethernet).
    let header = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    std::fs::write(&pcap, header).expect("a file");
    let port = format!("pcap:{}", pcap.display());
    let args = |format: &str| format!("forward --mode mac-swap --port {port} --format {format}");
    for typed in [args("text"), args("json"), "doctor --format json".into(), "doctor".into()] {
        let full = File::create("/dev/full").expect("the device");
        let mut command = Command::new(&program);
        command.args(typed.split_whitespace()).stdout(full).stderr(Stdio::piped());
        let output = command.spawn().expect("a child").wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{typed}: {said}");
        says(&said, &typed, &["standard output", "No space left on device"]);
        assert!(said.matches("No space left").count() <= 2, "once while it runs, once at the end: {said}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(&program);
    command.args(args("json").split_whitespace()).stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().expect("a child").wait_with_output().expect("an end");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::fs::remove_file(pcap).expect("ours");
}

/// Nobody is told what nobody may do, and what would help; in the words of what was asked for.
#[test]
fn nobody_is_told_which_right_is_missing() {
    needs!(SETUID; tools: "setpriv");
    // Where anybody may start it: the folder of a build may be closed.
    let place = std::env::temp_dir().join(format!("ringway-nobody-{}", std::process::id()));
    std::fs::copy(Ringway::program().expect("the program"), &place).expect("a copy");
    for (typed, words) in [
        ("lab status", &["looking for a laboratory needs CAP_NET_ADMIN", "sudo"][..]),
        ("lab down", &["removing a laboratory needs CAP_NET_ADMIN", "sudo"]),
        ("lab up", &["building a laboratory needs CAP_NET_ADMIN"]),
        ("serve --engine sendfile --root / --listen 80", &["CAP_NET_BIND_SERVICE", "1024"]),
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&place);
        let output = command.args(typed.split_whitespace()).output().expect("setpriv");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{typed}: {output:?}");
        says(&said, typed, words);
    }
    std::fs::remove_file(place).expect("ours");
}
