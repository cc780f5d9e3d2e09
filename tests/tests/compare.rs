//! `ringway compare` as a user meets it: figures with their labels, methods that are missing, and everything that can go wrong.
#![forbid(unsafe_code)]

use dataplane::compare;
use dataplane::compare::ledger::{Label, Quantity};
use dataplane::compare::method::Method;
use dataplane::compare::plan::ComparePlan;
use dataplane::lab::Namespace;
use lab::server::Tree;
use lab::{Ringway, needs};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

fn here() -> Namespace {
    Namespace::current().expect("the namespace of this thread")
}

/// The names of namespaces and folders that belong to the comparison of process `pid`.
fn remains_of(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(&format!("rwc-{pid}-"))).collect();
    let files = std::env::temp_dir().join(format!("ringway-compare-{pid}"));
    found.extend(files.exists().then(|| files.display().to_string()));
    found
}

fn started(args: &[&str]) -> Ringway {
    let all: Vec<&str> = ["compare"].iter().chain(args).copied().collect();
    Ringway::start(&here(), &all).expect("a start")
}

fn output(args: &[&str]) -> Output {
    let program = Ringway::program().expect("the program");
    Command::new(program).arg("compare").args(args).output().expect("it starts")
}

fn row<'r>(report: &'r Value, method: &str, size: u64) -> &'r Value {
    let rows = report["rows"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["method"] == method && row["size"] == size);
    found.unwrap_or_else(|| panic!("no {method} with {size} in {report}"))
}

fn figure(row: &Value, name: &str) -> (f64, String) {
    let figure = &row["figures"][name];
    let median = figure["median"].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"));
    (median, figure["label"].as_str().unwrap_or_default().to_owned())
}

/// The bypass, measured: it answers, its books of copies say what its device and its own counters say, and nothing is left behind.
#[test]
fn a_short_comparison_has_figures_with_labels_and_leaves_nothing() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let tree = Tree::new().expect("a folder");
    let page = tree.path().join("report.html");
    let running = started(&[
        "--methods",
        "bypass,bypass-packet",
        "--sizes",
        "1k,64k",
        "--rounds",
        "2",
        "--seconds",
        "0.2",
        "--format",
        "json",
        "--report",
        &page.to_string_lossy(),
    ]);
    let pid = running.pid();
    let ended = running.wait(LIMIT).expect("its end");
    assert!(ended.status.success(), "{ended:?}");
    let report = ended.json().expect("one JSON object");
    assert_eq!(
        (&report["event"], &report["ok"], &report["interrupted"]),
        (&"compare".into(), &true.into(), &false.into())
    );
    for (method, size) in
        [("bypass", 1024), ("bypass", 65536), ("bypass-packet", 1024), ("bypass-packet", 65536)]
    {
        let row = row(&report, method, size);
        assert_eq!(row["rounds"], 2, "{row}");
        let (requests, bytes) = (figure(row, "requests").0, figure(row, "body_bytes").0);
        assert!(
            requests > 100.0 && bytes >= requests * f64::from(u32::try_from(size).expect("small")),
            "{row}"
        );
        assert!(figure(row, "latency_p50").0 <= figure(row, "latency_p99").0, "{row}");
        assert!(figure(row, "cpu_seconds_per_gb").0 > 0.0, "{row}");
        // Each byte goes through at least one copy of ours or of the kernel's: a veth has no zero-copy.
        let (copies, label) = figure(row, "copies_per_byte");
        assert!(
            (0.9..=4.0).contains(&copies) && ["witnessed", "measured"].contains(&label.as_str()),
            "{row}"
        );
        assert_eq!(figure(row, "nic_passes_per_byte"), (0.0, "derived".to_owned()));
    }
    let kernel = figure(row(&report, "bypass", 1024), "kernel_copies_per_byte");
    let refused = |name: &str| {
        let instruments = report["instruments"].as_array().expect("instruments");
        let found = instruments.iter().find(|one| one["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {instruments:?}"));
        assert_eq!(found["works"] == false, found["why"].is_string(), "{found}");
        found["works"] == false
    };
    // Where BPF is refused, the device's word stands in and says so.
    if refused("copies in the kernel") {
        assert_eq!(kernel, (1.0, "witnessed".to_owned()));
    } else {
        assert_eq!(kernel.1, "measured");
    }
    if !refused("system calls") {
        assert!(figure(row(&report, "bypass", 65536), "syscalls_per_mb").0 > 0.0);
    }
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"), "{html}");
    assert!(html.matches("<svg").count() >= 7 && !html.contains("http"), "nothing is loaded from elsewhere");
    assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
    let beside: Vec<_> =
        std::fs::read_dir(tree.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(beside, ["report.html"]);
}

/// 1 MiB by `read` and `write` in pieces of 64 KiB: 32 system calls, and one each for the request and the head; two bytes copied a byte.
/// What is counted over real sockets is what is computed by hand.
#[test]
fn read_and_write_in_pieces_costs_what_is_computed_by_hand() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let plan = ComparePlan {
        program: env!("CARGO_BIN_EXE_piecewise").into(),
        methods: vec![Method::named("read-write").expect("a method")],
        sizes: vec![1 << 20],
        connections: 1,
        rounds: 1,
        ..ComparePlan::of_this_program().expect("/proc")
    };
    let report = compare::run(&plan, &mut |_| {}, &AtomicBool::new(false)).expect("a report");
    let [row] = &report.rows[..] else { panic!("one row: {report:?}") };
    assert!(row.failures.is_empty() && row.rounds == 1, "{row:?}");
    let median = |quantity| row.figure(quantity).map(|figure| (figure.median, figure.label));
    match median(Quantity::SyscallsPerRequest) {
        // Opening and closing the one connection is shared by some hundred requests.
        Some((calls, label)) => {
            assert!((34.0..36.0).contains(&calls) && label == Label::Measured, "{row:?}");
            let (crossings, _) = median(Quantity::CrossingsPer64Kib).expect("with calls");
            assert!((4.2..4.8).contains(&crossings), "{row:?}");
        }
        None => assert!(report.instruments.iter().any(|one| one.name == "system calls" && !one.works)),
    }
    let (copies, label) = median(Quantity::KernelCopiesPerByte).expect("a figure");
    let bpf = report.instruments.iter().any(|one| one.name == "copies in the kernel" && one.works);
    assert!((1.98..2.1).contains(&copies), "{row:?}");
    assert_eq!(label, if bpf { Label::Measured } else { Label::Derived }, "{row:?}");
}

/// Files that were taken out of the page cache are read from the disk, once.
#[test]
fn cold_files_come_from_the_disk_once() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let running = started(&[
        "--methods",
        "bypass",
        "--sizes",
        "1m",
        "--cache",
        "cold",
        "--rounds",
        "1",
        "--connections",
        "8",
        "--format",
        "json",
    ]);
    let ended = running.wait(LIMIT).expect("its end");
    assert!(ended.status.success(), "{ended:?}");
    let report = ended.json().expect("one JSON object");
    let row = row(&report, "bypass", 1 << 20);
    assert_eq!(figure(row, "requests").0, 256.0, "each file once");
    if report["machine"]["filesystem"] == "ext4" {
        let (passes, label) = figure(row, "disk_passes_per_byte");
        assert!((0.95..1.5).contains(&passes), "{row}");
        assert_eq!(label, "measured");
    }
}

/// Nothing is read past the page cache where files are nothing but that: the copy out of it is not forgotten.
#[test]
fn direct_reads_in_memory_are_copies() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let tree = Tree::in_memory().expect("a folder");
    let folder = tree.path().to_string_lossy().into_owned();
    let words = "--methods direct-aio,direct-uring --sizes 64k --rounds 1 --seconds 0.3 --format json --dir";
    let args: Vec<&str> = words.split(' ').chain([&*folder]).collect();
    let ended = started(&args).wait(LIMIT).expect("its end");
    assert!(ended.status.success(), "{ended:?}");
    let report = ended.json().expect("one JSON object");
    for method in ["direct-aio", "direct-uring"] {
        let row = row(&report, method, 65536);
        let (copies, label) = figure(row, "kernel_copies_per_byte");
        assert!((1.95..2.2).contains(&copies) && (label == "measured" || copies == 2.0), "{row}");
        assert_eq!(figure(row, "disk_passes_per_byte").0, 0.0, "{row}");
        // The client has a CPU of its own where there are two, and what the kernel does there is told.
        if report["machine"]["cpus"].as_u64() > Some(1) {
            let (seconds, label) = figure(row, "client_softirq_seconds");
            assert!((0.0..1.0).contains(&seconds) && label == "measured", "{row}");
            assert_eq!(figure(row, "client_softirq_per_gb").1, "measured");
        }
    }
}

/// Files in memory cannot be cold: that is said before anything is built.
#[test]
fn a_cold_cache_in_memory_is_refused() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let tree = Tree::in_memory().expect("a folder");
    let output = output(&["--cache", "cold", "--methods", "bypass", "--dir", &tree.path().to_string_lossy()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("on tmpfs") && text.contains("--dir names a folder on a disk"), "{text}");
    assert_eq!(std::fs::read_dir(tree.path()).expect("a folder").count(), 0, "nothing is written");
}

/// A server that does not start is a failure of each round, not a method that this machine has not got; one that says so is.
#[test]
fn a_server_that_does_not_start_is_a_failure() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new().expect("a folder");
    for (code, lacking) in [(1, false), (69, true)] {
        let program = tree.path().join(format!("server-{code}"));
        std::fs::write(&program, format!("#!/bin/sh\necho no such thing >&2\nexit {code}\n"))
            .expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("sets");
        let plan = ComparePlan {
            program,
            methods: vec![Method::named("uring").expect("a method")],
            sizes: vec![1024],
            rounds: 2,
            ..ComparePlan::of_this_program().expect("/proc")
        };
        let report = compare::run(&plan, &mut |_| {}, &AtomicBool::new(false)).expect("a report");
        let [row] = &report.rows[..] else { panic!("one row: {report:?}") };
        assert_eq!(row.unavailable.is_some(), lacking, "{row:?}");
        assert_eq!(row.failures.len(), if lacking { 0 } else { 2 }, "{row:?}");
        let said = row.unavailable.iter().chain(&row.failures).all(|why| why.contains("no such thing"));
        assert!(said && !report.ok, "{row:?}");
    }
}

#[test]
fn unknown_methods_and_sizes_are_told_what_there_is() {
    for (args, words) in [
        (["--methods", "sendfiel"], "there are bypass, bypass-packet, read-write"),
        (["--sizes", "big"], "write 1024, 64k or 1m"),
        (["--sizes", "2g"], "1 byte to 1g"),
        (["--mtu", "70000"], "576..=65535"),
        (["--rounds", "0"], "1..=1000"),
        (["--seconds", "0"], "0.1 to 60"),
        (["--tso", "perhaps"], "possible values: on, off, both"),
    ] {
        let output = output(&args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
}

#[test]
fn without_rights_or_tools_it_says_which_and_writes_nothing() {
    let tree = Tree::new().expect("a folder");
    let page = tree.path().join("report.html");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command.arg(Ringway::program().expect("the program")).args(["compare", "--report"]).arg(&page);
    let output = command.output().expect("setpriv (package util-linux) runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("CAP_NET_ADMIN") && text.contains(" compare"), "{text}");
    let mut command = Command::new(Ringway::program().expect("the program"));
    let output = command.arg("compare").env("PATH", "/nowhere").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the command `ip`"), "{text}");
    assert_eq!(std::fs::read_dir(tree.path()).expect("a folder").count(), 0);
}

/// A disk that is full ends in a sentence, and in no half of a page.
#[test]
fn a_full_disk_leaves_no_half_page() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool", "unshare", "mount");
    let tree = Tree::new().expect("a folder");
    let small = tree.path().join("small");
    std::fs::create_dir(&small).expect("a folder");
    let program = Ringway::program().expect("the program");
    // A filesystem of two pages, which nobody else sees.
    let script = "mount -t tmpfs -o size=8k none \"$0\" && \
                  \"$1\" compare --methods bypass --sizes 1k --rounds 1 --seconds 0.1 --report \"$0/report.html\"; \
                  code=$?; echo \"left: $(ls -A \"$0\")\"; exit $code";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(&small)
        .arg(&program)
        .output()
        .expect("unshare runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out} {err}");
    assert!(err.contains("No space left on device") && err.contains("nothing of it is kept"), "{err}");
    assert!(out.contains("Who wins where"), "what was measured is printed all the same: {out}");
    assert!(out.ends_with("left: \n"), "{out}");
    let nowhere = self::output(&["--report", "/no-such-folder/report.html"]);
    let text = String::from_utf8_lossy(&nowhere.stderr);
    assert!(text.contains("the report /no-such-folder/report.html: creating it"), "{text}");
}

/// Which `ringway` runs in the namespace of a side of the laboratory that `pid` has now: the client at the left, the server in the middle.
fn processes(pid: u32, side: &str) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|name| name.starts_with(&format!("rwc-{pid}-")) && name.ends_with(side));
    ours.flat_map(|name| {
        let output = Command::new("ip").args(["netns", "pids", &name]).output().expect("ip runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_ringway = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ringway")
        };
        text.split_whitespace().filter(is_ringway).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

fn wait_for_one(pid: u32, side: &str) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = processes(pid, side).pop() {
            return found;
        }
        assert!(Instant::now() < end, "nothing runs at the {side}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A signal in the second round: the first is reported, the exit code says that it is not all, and nothing is left behind.
#[test]
fn a_signal_ends_it_with_what_it_has() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    let tree = Tree::new().expect("a folder");
    let page = tree.path().join("report.html");
    let mut running = started(&[
        "--methods",
        "bypass",
        "--sizes",
        "1k",
        "--rounds",
        "50",
        "--seconds",
        "0.5",
        "--format",
        "json",
        "--report",
        &page.to_string_lossy(),
    ]);
    let pid = running.pid();
    running.ready("round 2 of 50", LIMIT).expect("the second round");
    let server = wait_for_one(pid, "mid");
    running.interrupt().expect("a signal");
    let ended = running.wait(Duration::from_secs(15)).expect("its end, soon");
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let report = ended.json().expect("one JSON object");
    assert_eq!(report["interrupted"], true);
    assert_eq!(row(&report, "bypass", 1024)["rounds"], 1, "{report}");
    assert!(!Path::new(&format!("/proc/{server}")).exists(), "the server is gone");
    assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
    assert!(std::fs::read_to_string(&page).expect("a page").contains("Interrupted"));

    let mut running = started(&["--methods", "bypass", "--sizes", "1k", "--seconds", "20"]);
    let pid = running.pid();
    running.ready("round 1 of 3", LIMIT).expect("the first round");
    wait_for_one(pid, "mid");
    running.terminate().expect("a signal");
    let ended = running.wait(Duration::from_secs(15)).expect("its end, soon");
    assert!(!ended.status.success() && ended.stderr.contains("before the first figure"), "{ended:?}");
    assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
}

/// A client that is killed, and a server that is: the row says which, the other method is measured all the same.
#[test]
fn a_client_or_a_server_that_vanishes_is_named() {
    needs!(NET_ADMIN, NET_RAW, SYS_ADMIN; tools: "ip", "ethtool");
    for (side, says) in [("left", "the client: "), ("mid", "the server: ")] {
        let running = started(&[
            "--methods",
            "bypass,bypass-packet",
            "--sizes",
            "1k",
            "--rounds",
            "1",
            "--seconds",
            "1",
            "--format",
            "json",
        ]);
        let pid = running.pid();
        // Once there is a client, the server is ready. The client that warms up may be gone before it is killed.
        loop {
            let client = wait_for_one(pid, "left");
            let victim = if side == "mid" { wait_for_one(pid, "mid") } else { client };
            let killed = Command::new("kill").args(["-KILL", &victim]).output().expect("kill runs");
            if killed.status.success() {
                break;
            }
        }
        let ended = running.wait(LIMIT).expect("its end");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let report = ended.json().expect("one JSON object");
        let failed = row(&report, "bypass", 1024);
        let why = failed["failures"][0].as_str().unwrap_or_else(|| panic!("no failure in {failed}"));
        assert!(why.starts_with(says), "{why}");
        assert_eq!(row(&report, "bypass-packet", 1024)["rounds"], 1, "{report}");
        assert!(remains_of(pid).is_empty(), "{:?}", remains_of(pid));
    }
}
