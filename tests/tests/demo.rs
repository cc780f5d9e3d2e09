//! `ringway demo` as a user meets it: with all rights, with none, and ended in the middle.
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::{Ringway, needs};
use serde_json::Value;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn here() -> Namespace {
    Namespace::current().expect("the namespace of this thread")
}

/// The names of namespaces and folders that belong to the demonstration of process `pid`.
fn remains_of(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(&format!("rwd-{pid}-"))).collect();
    let files = std::env::temp_dir().join(format!("ringway-demo-{pid}"));
    found.extend(files.exists().then(|| files.display().to_string()));
    found
}

/// Whether a process runs: a zombie that nobody has reaped yet does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.trim_start().starts_with('Z'))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < end, "not within 15 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A demonstration that has come as far as its first forwarder; and that forwarder's pid.
fn in_the_middle() -> (Ringway, String) {
    let mut demo =
        Ringway::start(&here(), &["demo", "--format", "json", "--seconds", "20"]).expect("a demonstration");
    demo.ready("a TCP transfer", LIMIT).expect("the first transfer");
    let middle = format!("rwd-{}-0-mid", demo.pid());
    let mut forwarder = String::new();
    wait_until("a process in the middle namespace", || {
        let output = Command::new("ip").args(["netns", "pids", &middle]).output().expect("ip runs");
        forwarder =
            String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or("").to_owned();
        !forwarder.is_empty()
    });
    (demo, forwarder)
}

#[test]
fn both_drivers_carry_tcp_and_udp_and_the_books_balance() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let demo = Ringway::start(&here(), &["demo", "--format", "json", "--seconds", "0.5"]).expect("a start");
    let pid = demo.pid();
    let ended = demo.wait(LIMIT).expect("its end");
    assert!(ended.status.success(), "{ended:?}");
    let report = ended.json().expect("one JSON object");
    assert_eq!(report["ok"], true);
    assert!(report["lacking"].is_null());
    let rows = report["rows"].as_array().expect("rows");
    let names: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["driver"].as_str().unwrap_or(""), row["traffic"].as_str().unwrap_or("")))
        .collect();
    let acts = [["tcp", "udp"], ["site", "file"]];
    let wanted =
        acts.iter().flat_map(|act| ["af-xdp", "packet"].map(|driver| act.map(|what| (driver, what))));
    assert_eq!(names, wanted.flatten().collect::<Vec<_>>());
    let ways = report["comparison"]["rows"].as_array().expect("the last act");
    let names: Vec<&str> = ways.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(names, ["bypass", "sendfile", "read-write", "bypass", "sendfile", "read-write"]);
    assert_eq!(ways[0]["rounds"], 1, "{}", ways[0]);
    for row in rows {
        if row["served"].is_null() {
            check_row(row);
            assert_eq!(row["queues"].as_array().map(Vec::len), Some(2), "{row}");
        } else {
            check_served(row);
        }
    }
    assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
}

/// Nine small files to four clients, or the large one: all that was asked for came, and was loaded once.
fn check_served(row: &Value) {
    check_row(row);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number {value} in {row}"));
    let served = &row["served"];
    assert_eq!(row["unit"], "bytes", "{row}");
    assert_eq!(row["sent"], row["arrived"], "{row}");
    assert_eq!(row["queues"].as_array().map(Vec::len), Some(1), "{row}");
    assert_eq!(row["queues"][0]["device"], "rw-left", "{row}");
    let (requests, loaded) = (number(&served["requests"]), number(&served["loaded_bytes"]));
    // Each byte of a body goes the one way or the other; what is sent again goes a second time.
    let sent = number(&served["copied_bytes"]) + number(&served["gathered_bytes"]);
    assert!(sent >= number(&row["arrived"]), "{row}");
    if row["traffic"] == "file" {
        assert_eq!(number(&row["arrived"]), requests * (64 << 20), "{row}");
        assert_eq!(loaded, 64 << 20, "{row}");
        assert_eq!(row["hashes"][0], row["hashes"][1], "{row}");
    } else {
        assert!(requests >= 4 * 9 && requests % 9 == 0, "{row}");
        assert!(loaded > 0 && loaded < 1 << 20, "{row}");
    }
}

fn check_row(row: &Value) {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number {value} in {row}"));
    assert_eq!(row["hash_ok"], true, "{row}");
    assert_eq!(row["balance"], true, "{row}");
    assert_eq!(row["frames_home"], true, "{row}");
    let books = &row["books"];
    assert_eq!(
        number(&books["received"]) + number(&books["allocated"]) + number(&books["cut"]),
        number(&books["transmitted"])
            + number(&books["delivered"])
            + number(&books["unsendable"])
            + number(&books["discarded"])
            + number(&books["held"]),
        "{row}"
    );
    assert!(number(&row["packets"]) > 100 && number(&row["arrived"]) > 100, "{row}");
    if row["traffic"] == "tcp" {
        assert_eq!(row["hashes"][0], row["hashes"][1], "{row}");
    } else if row["served"].is_null() {
        assert_eq!(number(&row["sent"]) - number(&row["arrived"]), number(&row["lost"]), "{row}");
        // Each loss has its place; a frame of ARP may be among them.
        assert!(number(&row["losses"]["unexplained"]) <= number(&row["sent"]) / 1000, "{row}");
    }
}

/// The program without any capability, whoever runs this test; and with this PATH.
fn without_rights(args: &[&str]) -> Output {
    let program = Ringway::program().expect("the program");
    let powerful = lab::needs::missing(&["NET_ADMIN"], &[]).is_empty();
    let mut command = if powerful {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(args).output().expect("setpriv (package util-linux) runs")
}

#[test]
fn without_rights_it_says_which_and_shows_the_loop_in_memory() {
    let output = without_rights(&["demo", "--seconds", "0.2"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in [
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "CAP_SYS_ADMIN",
        "sudo ",
        "setcap ",
        "IN MEMORY ONLY",
        "no NIC, no kernel",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("  loopback  ") && line.ends_with(" ok")).collect();
    assert_eq!(rows.len(), 2, "{text}");

    let output = without_rights(&["demo", "--seconds", "0.2", "--format", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["ok"], true);
    assert_eq!(report["lacking"]["rights"][0], "CAP_NET_ADMIN");
    for row in report["rows"].as_array().expect("rows") {
        assert_eq!(row["driver"], "loopback");
        assert_eq!(row["queues"][0]["copying"], "in-memory");
        assert_eq!(row["sent"], row["arrived"], "{row}");
        check_row(row);
    }
}

#[test]
fn without_ip_it_names_the_package() {
    let program = Ringway::program().expect("the program");
    let output = Command::new(program)
        .args(["demo", "--seconds", "0.1"])
        .env("PATH", "/nowhere")
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("the command `ip`") && text.contains("apt-get install iproute2"), "{text}");
}

/// SIGKILL: nothing of its own runs any more, yet the forwarder ends by itself, and the next run sweeps the laboratory away.
#[test]
fn killed_in_the_middle_the_next_run_clears_up_and_works() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let (demo, forwarder) = in_the_middle();
    let pid = demo.pid();
    demo.kill().expect("a signal");
    assert!(!demo.wait(LIMIT).expect("its end").status.success());
    wait_until("the forwarder ends although nobody ended it", || !runs(&forwarder));
    let args = ["demo", "--format", "json", "--seconds", "0.2"];
    let ended = Ringway::complete(&here(), &args, LIMIT).expect("the second run");
    assert!(ended.status.success(), "{ended:?}");
    assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
}

#[test]
fn a_signal_ends_it_and_nothing_is_left_behind() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    for end in [Ringway::terminate, Ringway::interrupt] {
        let (demo, forwarder) = in_the_middle();
        let pid = demo.pid();
        end(&demo).expect("a signal");
        let ended = demo.wait(Duration::from_secs(8)).expect("its end, soon");
        assert!(!ended.status.success(), "{ended:?}");
        assert!(ended.stderr.contains("stopped by a signal"), "{ended:?}");
        assert!(!runs(&forwarder));
        assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
    }
}
