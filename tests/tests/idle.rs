//! Nothing to do: adaptive idling sleeps and wakes at the first frame; spinning spins, as asked.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::traffic::ping;
use lab::{Forwarder, TestLab, needs};
use std::time::{Duration, Instant};

/// User and system time of a process so far (proc_pid_stat(5): fields 14 and 15, in hundredths of a second).
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

/// Time in which the worker's thread ran or wanted to run (proc_pid_schedstat: nanoseconds on and waiting for a CPU).
fn wanted_time(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "ringway-0")
    };
    let worker = tasks.into_iter().find(named)?;
    let text = std::fs::read_to_string(worker.path().join("schedstat")).ok()?;
    let nanos = text.split_whitespace().take(2).map(str::parse::<u64>).sum::<Result<u64, _>>().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// Milliseconds until a single echo request was answered, as `ping` measured it.
fn round_trip(lab: &TestLab) -> f64 {
    let mut command = lab.host(Side::Left).command("ping");
    let output = command.args(["-n", "-c", "1", "-w", "5", "10.77.0.2"]).output().expect("ping");
    let text = String::from_utf8(output.stdout).expect("text");
    let time = text.split("time=").nth(1).and_then(|rest| rest.split_whitespace().next());
    time.and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("no answer: {text}"))
}

/// Idle it takes less than 2 % of a CPU, and the first frame after that does not wait.
#[test]
fn adaptive_idling_sleeps_and_wakes() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    sleeps_and_wakes("af-xdp", &[]);
}

/// The same by packet sockets.
#[test]
fn adaptive_idling_sleeps_and_wakes_by_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    sleeps_and_wakes("packet", &[]);
}

/// `--idle wait` sleeps whenever there is nothing, and loses no frame for it.
#[test]
fn waiting_sleeps_and_wakes() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    sleeps_and_wakes("af-xdp", &["--idle", "wait"]);
}

fn sleeps_and_wakes(driver: &str, arguments: &[&str]) {
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let mut forwarder = Forwarder::between(&lab, driver, "", arguments).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    let pid = forwarder.process().pid();
    // Neighbours ask once more some seconds after they met (delay_first_probe_time): that is not idleness either.
    let (before, begin) = (cpu_time(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let (took, whole) = (cpu_time(pid) - before, begin.elapsed());
    assert!(took < whole / 50, "{took:?} of {whole:?} idle");
    // The best of three: one may fall into somebody else's burst of work.
    let best = (0..3).map(|_| {
        std::thread::sleep(Duration::from_millis(150));
        round_trip(&lab)
    });
    let best = best.fold(f64::MAX, f64::min);
    assert!(best < 50.0, "{best} ms after idling");
    forwarder.finish().expect("books in order");
}

/// `--idle spin` never gives its CPU away: it runs, or waits for its turn to run.
#[test]
fn spinning_spins() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let mut forwarder = Forwarder::between(&lab, "af-xdp", "", &["--idle", "spin"]).expect("a forwarder");
    ping(&lab, Side::Left, 2, 5).expect("answers");
    let pid = forwarder.process().pid();
    match wanted_time(pid) {
        Some(before) => {
            let begin = Instant::now();
            std::thread::sleep(Duration::from_secs(1));
            let (wanted, whole) = (wanted_time(pid).expect("as before") - before, begin.elapsed());
            assert!(wanted > whole * 8 / 10, "{wanted:?} of {whole:?}");
        }
        None => lab::needs::skip("idle::spinning_spins", &["/proc/PID/schedstat".to_owned()]),
    }
    forwarder.finish().expect("books in order");
}
