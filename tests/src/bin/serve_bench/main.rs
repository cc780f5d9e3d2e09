//! `make bench`, the second half: the file server beside nginx, on the same interface, with the same client, in one run.
//!
//! ```text
//!   CPU 1                 CPU 0
//!   wrk ── left0 ═══ rw-left [ ringway serve | nginx, sendfile ]
//! ```
//!
//! In cases named `load` the client is `ringway load` over af-xdp at `left0`: wrk's core is full before a server of ours
//! is, and what that server can do is not seen then.
//!
//! A veth as it comes does the client's receiving on the server's CPU. In arrangement `split` the client's end has GRO
//! and threaded NAPI, and that thread is on the client's CPU, as it would be with two machines.

mod case;
mod client;
mod server;

use case::{CASES, Case};
use dataplane::lab::{Lab, LabPlan, Namespace, Side};
use lab::Outcome;
use lab::measured::cpu_times;
use serde::Serialize;
use server::{Server, kernel_seconds};
use std::time::{Duration, Instant};

/// How long a server may take to end: its connections are drained.
const PATIENCE: Duration = Duration::from_secs(15);

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    case: &'static str,
    server: &'static str,
    /// Requests a second, as the client counted them.
    requests: f64,
    /// Megabytes of bodies a second.
    megabytes: f64,
    /// CPU time of the server's process, in percent of one CPU.
    process_percent: f64,
    /// Share of CPU 0 that the server took: its process, with what the kernel does for it when it sends, and
    /// `ksoftirqd/0`, which does what is too much for that. Whatever else runs on the machine is not in it.
    server_percent: f64,
    /// The share of a CPU that the server's own work took: of Ringway the time of turns that moved something, so that polling
    /// for nothing is not in it; of nginx, which waits in the kernel, the share above.
    busy_percent: f64,
    /// Share of CPU 0 that was busy, with whatever.
    cpu0_percent: f64,
    /// Share of CPU 1 that was busy: the client's, with whatever.
    cpu1_percent: f64,
    /// Responses that were not 2xx, connections that broke, timeouts.
    errors: u64,
}

struct Settings {
    rounds: usize,
    seconds: u32,
    json: bool,
    case: Option<String>,
    only: Option<String>,
}

impl Settings {
    /// Which servers take part: those that `--only` names, else all but the two that only differ in the threshold.
    fn wants(&self, server: Server) -> bool {
        match &self.only {
            Some(only) => only.split(',').any(|word| server.name().contains(word)),
            None => !matches!(server, Server::Gather | Server::Copy),
        }
    }
}

fn main() -> Outcome<()> {
    let settings = settings()?;
    let site = server::Site::new()?;
    let mut samples = Vec::new();
    for case in CASES {
        let wanted = match &settings.case {
            Some(only) => case.name.contains(only.as_str()),
            None => !case.name.starts_with("piece"),
        };
        if !wanted {
            continue;
        }
        for round in 0..settings.rounds {
            for server in Server::ALL {
                if !settings.wants(*server) {
                    continue;
                }
                let sample = measure(case, *server, &site, settings.seconds)?;
                eprintln!(
                    "{:<24} round {round}  {:<28} {:>9.0} requests/s, {:>6.0} MB/s, process {:>3.0} %, with ksoftirqd {:>3.0} %, CPU 0 {:>3.0} %, CPU 1 {:>3.0} %, errors {}",
                    case.name,
                    sample.server,
                    sample.requests,
                    sample.megabytes,
                    sample.process_percent,
                    sample.server_percent,
                    sample.cpu0_percent,
                    sample.cpu1_percent,
                    sample.errors
                );
                samples.push(sample);
            }
        }
    }
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&samples)?);
    } else {
        print!("{}", table(&samples));
    }
    Ok(())
}

fn settings() -> Outcome<Settings> {
    let mut settings = Settings { rounds: 3, seconds: 3, json: false, case: None, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => settings.rounds = value()?.parse()?,
            // wrk takes whole seconds.
            "--seconds" => {
                let least: f64 = value()?.parse()?;
                settings.seconds = (1..3600).find(|whole| f64::from(*whole) >= least).unwrap_or(3600);
            }
            "--case" => settings.case = Some(value()?),
            "--only" => settings.only = Some(value()?),
            "--json" => settings.json = true,
            _ => {
                return Err(format!(
                    "unknown argument {arg}; there are --rounds N, --seconds S, --case NAME, --only NAME, --json"
                )
                .into());
            }
        }
    }
    Ok(settings)
}

/// A fresh laboratory for each measurement, so that no server inherits another's leavings.
fn measure(case: &'static Case, server: Server, site: &server::Site, seconds: u32) -> Outcome<Sample> {
    let lab = Lab::up(&LabPlan { ipv6: false, mtu: case.mtu, ..LabPlan::private("rwb") })?;
    let state = if case.segmentation { "on" } else { "off" };
    for (namespace, interface) in [(lab.host(Side::Left), "left0"), (lab.middle(), "rw-left")] {
        run(namespace, &format!("ethtool -K {interface} tso {state} gso {state}"))?;
    }
    // As a veth comes: the laboratory has turned GRO on for its forwarders.
    run(lab.host(Side::Left), "ethtool -K left0 gro off")?;
    let running = server.start(&lab, site)?;
    if case.split {
        split(&lab)?;
    }
    let client = |seconds: u32| client::ask(&lab, case, &server.address(), seconds);
    client(1)?;
    let before = (running.cpu()?, cpu_times()?, kernel_seconds()?);
    let clock = Instant::now();
    let answer = client(seconds)?;
    let time = clock.elapsed().as_secs_f64();
    let after = (running.cpu()?, cpu_times()?, kernel_seconds()?);
    let end = running.stop(PATIENCE)?;
    let busy = |cpu: usize| {
        (after.1[cpu].busy - before.1[cpu].busy) / (after.1[cpu].all - before.1[cpu].all) * 100.0
    };
    let process_percent = (after.0 - before.0) / time * 100.0;
    let server_percent = process_percent + (after.2 - before.2) / time * 100.0;
    // Of the whole session, the first second included: both numbers are.
    let per_request = busy_per_request(&end);
    Ok(Sample {
        case: case.name,
        server: server.name(),
        requests: answer.requests,
        megabytes: answer.requests * case.bytes / 1e6,
        process_percent,
        server_percent,
        busy_percent: per_request.map_or(server_percent, |seconds| 100.0 * answer.requests * seconds),
        cpu0_percent: busy(0),
        cpu1_percent: busy(1),
        errors: answer.errors,
    })
}

/// Seconds of turns that moved something, for each request, from the last line of a server of ours.
fn busy_per_request(end: &str) -> Option<f64> {
    let end: serde_json::Value = serde_json::from_str(end).ok()?;
    Some(end["busy_seconds"].as_f64()? / end["serve"]["requests"].as_f64().filter(|count| *count > 0.0)?)
}

fn run(namespace: &Namespace, line: &str) -> Outcome<()> {
    let output = namespace.command("sh").args(["-c", line]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The client's receiving to the client's CPU: GRO, threaded NAPI, its thread pinned.
fn split(lab: &Lab) -> Outcome<()> {
    let line = "ethtool -K left0 gro on; echo 1 > /sys/class/net/left0/threaded; \
                for task in /proc/[0-9]*; do \
                    case $(cat $task/comm 2>/dev/null) in napi/left0-*) taskset -pc 1 ${task#/proc/};; esac; \
                done | grep -q affinity";
    run(lab.host(Side::Left), line)
}

/// Medians, with the least and the greatest, and each server's ratio to nginx: of rates, and of rates over the server's
/// share of its CPU.
fn table(samples: &[Sample]) -> String {
    let mut text = String::from(
        "\n| case | server | requests/s: median (least .. greatest) | MB/s | x nginx | x nginx per server CPU | x nginx per busy CPU | process CPU % | with ksoftirqd % | busy % | CPU 0 % | CPU 1 % | errors |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in CASES {
        let of = |server: Server, figure: fn(&Sample) -> f64| {
            let chosen = samples.iter().filter(|s| s.case == case.name && s.server == server.name());
            let mut figures: Vec<f64> = chosen.map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        // Of an even number: half way between the two in the middle.
        let median = |figures: &[f64]| match figures.len() {
            0 => f64::NAN,
            count => f64::midpoint(figures[(count - 1) / 2], figures[count / 2]),
        };
        let rate = |server| median(&of(server, |s| s.requests));
        let per_cpu = |server| median(&of(server, |s| s.requests / s.server_percent));
        let per_busy = |server| median(&of(server, |s| s.requests / s.busy_percent));
        for server in Server::ALL {
            let requests = of(*server, |s| s.requests);
            if requests.is_empty() {
                continue;
            }
            let errors: u64 = samples
                .iter()
                .filter(|s| s.case == case.name && s.server == server.name())
                .map(|s| s.errors)
                .sum();
            text += &format!(
                "| {} | {} | {:.0} ({:.0} .. {:.0}) | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {errors} |\n",
                case.name,
                server.name(),
                median(&requests),
                requests.first().copied().unwrap_or(f64::NAN),
                requests.last().copied().unwrap_or(f64::NAN),
                median(&of(*server, |s| s.megabytes)),
                rate(*server) / rate(Server::Nginx),
                per_cpu(*server) / per_cpu(Server::Nginx),
                per_busy(*server) / per_busy(Server::Nginx),
                median(&of(*server, |s| s.process_percent)),
                median(&of(*server, |s| s.server_percent)),
                median(&of(*server, |s| s.busy_percent)),
                median(&of(*server, |s| s.cpu0_percent)),
                median(&of(*server, |s| s.cpu1_percent)),
            );
        }
    }
    text
}
