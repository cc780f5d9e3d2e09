//! Killed without a chance to end anything, or left by its terminal: nothing goes on, and the next one clears away.
//!
//! ```text
//!   ringway compare ──► ringway serve, nginx, ringway load      kill -9 the first: the kernel ends the others
//!        │
//!        └─ --dir DIR/ringway-compare-PID      lab down --all removes it
//! ```
#![forbid(unsafe_code)]

use lab::{Forwarder, Ringway, TestLab, needs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

/// The processes that this one has started: their numbers and names.
fn children(of: u32) -> Vec<(u32, String)> {
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let field = |status: &str, name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t").map(str::to_owned));
        line.unwrap_or_default()
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.filter_map(|pid: u32| {
        let status = status(pid)?;
        let alive = !field(&status, "State").starts_with('Z');
        (alive && field(&status, "PPid") == of.to_string()).then(|| (pid, field(&status, "Name")))
    });
    found.collect()
}

fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_there(pid: u32) -> bool {
    // A zombie has ended: whoever inherits it reaps it.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

fn scratch_of(pid: u32, dir: &Path) -> PathBuf {
    dir.join(format!("ringway-compare-{pid}"))
}

/// A server whose memory the kernel is still taking says so, and heeds a signal at once: nothing is held by then that does
/// not go with the process.
#[test]
fn a_signal_ends_a_server_that_is_not_ready_yet() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF, IPC_LOCK; tools: "ip", "ethtool");
    let memory = std::fs::read_to_string("/proc/meminfo").expect("/proc");
    let available =
        memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next());
    let mib = available.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 11;
    if mib < 1024 {
        return lab::needs::skip(
            "killed::a_signal_ends_a_server_that_is_not_ready_yet",
            &["2 GiB of memory".to_owned()],
        );
    }
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let content = mib.min(4096).to_string();
    let args = [
        "serve",
        "--port",
        "af-xdp:rw-left",
        "--address",
        "10.77.0.90/24",
        "--root",
        "/",
        "--content",
        &content,
    ];
    let mut server = Ringway::start(lab.middle(), &args).expect("started");
    server.ready("MiB of memory", SOON).expect("it says what it does");
    let begin = Instant::now();
    server.terminate().expect("a signal");
    let ended = server.wait(SOON).expect("an end");
    assert_eq!(
        (ended.status.code(), ended.stdout.as_str()),
        (Some(128 + 15), ""),
        "before it was ready: {ended:?}"
    );
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    wait_until("the program is gone", SOON, || {
        let shown = lab.middle().command("ip").args(["-d", "link", "show", "dev", "rw-left"]).output();
        let shown = String::from_utf8_lossy(&shown.expect("ip").stdout).into_owned();
        !shown.contains("xdp") && shown.contains("promiscuity 0")
    });
}

#[test]
fn what_a_killed_comparison_has_started_ends_with_it() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF; tools: "ip", "ethtool", "setpriv", "timeout");
    let program = Ringway::program().expect("the program");
    let dir = std::env::temp_dir().join(format!("ringway-killed-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a folder");
    let nginx = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join("nginx").is_file());
    let methods = if nginx {
        &["sendfile", "bypass-packet", "nginx-sendfile"][..]
    } else {
        &["sendfile", "bypass-packet"]
    };
    for method in methods {
        let mut command = Command::new(&program);
        command.args(["compare", "--methods", method, "--sizes", "1k", "--seconds", "30", "--rounds", "1"]);
        command.arg("--dir").arg(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut compare = command.spawn().expect("a child");
        let pid = compare.id();
        // The server and its client; the commands that build the laboratory come before.
        let mut started = Vec::new();
        wait_until("server and client", SOON, || {
            started = children(pid);
            started.iter().filter(|(_, name)| ["ringway", "timeout"].contains(&name.as_str())).count() >= 2
        });
        let grandchildren: Vec<_> = started.iter().flat_map(|(pid, _)| children(*pid)).collect();
        assert_eq!(
            grandchildren.len(),
            usize::from(method.starts_with("nginx")),
            "{method}: {grandchildren:?}"
        );
        compare.kill().expect("a signal");
        compare.wait().expect("its end");
        for (pid, name) in started.iter().chain(&grandchildren) {
            wait_until(&format!("{method}: the end of {name} ({pid})"), Duration::from_secs(2), || {
                !is_there(*pid)
            });
        }
        assert!(scratch_of(pid, &dir).exists(), "{method}: nobody could remove it");
        let down = Command::new(&program).args(["lab", "down", "--all"]).output().expect("an end");
        assert!(down.status.success(), "{down:?}");
        // Another test's laboratory may be swept at the same time by the same command elsewhere: so the folder is asked for.
        assert!(!scratch_of(pid, &dir).exists(), "{method}: {down:?}");
    }
    std::fs::remove_dir(dir).expect("it is empty");
}

/// A terminal that is closed ends a forwarder with its books, unless it is to go on (`nohup`).
#[test]
fn a_closed_terminal_ends_a_forwarder_in_order() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "sh");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let mut forwarder = Forwarder::between(&lab, "packet", "", &[]).expect("a forwarder");
    forwarder.process().hang_up().expect("a signal");
    let report = forwarder.report().expect("books in order");
    assert_eq!((report.code, &report.end["ended"]), (Some(0), &"stopped".into()), "{report:?}");
    let program = Ringway::program().expect("the program");
    let line = format!(
        "trap '' HUP; {} forward --port packet:rw-left --port packet:rw-right --duration 1.5 --format json & \
         sleep 0.5; kill -HUP $!; wait $!",
        program.display()
    );
    let output = lab.middle().command("sh").args(["-c", &line]).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("\"ended\":\"time-up\""), "{output:?}");
}
