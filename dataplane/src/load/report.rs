//! What a run prints: tables for people, and JSON with stable names for programs.

use super::plan::Mode;
use super::reader::BodyHash;
use super::run::{Progress, Run};
use super::tally::{Latency, Mishap, Tally};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::time::Duration;

/// CPU time of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuSeconds {
    /// In our own code.
    pub user: f64,
    /// In the kernel, for us.
    pub system: f64,
}

impl CpuSeconds {
    /// So far; zero where `/proc` is not mounted (`proc_pid_stat(5)`, fields 14 and 15).
    #[must_use]
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
        #[expect(clippy::cast_precision_loss, reason = "it is 100")]
        let second = rustix::param::clock_ticks_per_second() as f64;
        let mut next = || ticks.next().unwrap_or(0.0) / second;
        Self { user: next(), system: next() }
    }

    /// What was added to an earlier figure.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

/// What is said of a run besides what it counted.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The first address that was asked for.
    pub url: &'a str,
    /// `kernel`, or the port.
    pub transport: &'a str,
}

#[expect(clippy::cast_precision_loss, reason = "rates are rounded anyway")]
fn per_second(number: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { number as f64 / time.as_secs_f64() }
}

/// A hash as `sha256sum` prints it.
#[must_use]
pub fn hex(hash: &BodyHash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mode(run: &Run) -> (&'static str, Option<f64>) {
    match run.plan.mode {
        Mode::Closed => ("closed", None),
        Mode::Rate(rate) => ("rate", Some(rate)),
    }
}

/// `{"event":"ready", ..}`: what is going to be done. Fields of the ports are added by who opened them.
#[must_use]
pub fn ready_json(run: &Run, at: Setting<'_>) -> Value {
    let (mode, rate) = mode(run);
    json!({
        "event": "ready",
        "command": "load",
        "mode": mode,
        "url": at.url,
        "transport": at.transport,
        "connections": run.plan.connections,
        "pipeline": run.plan.pipeline,
        "threads": run.threads,
        "pace": mode,
        "rate": rate,
    })
}

/// `{"event":"interval", ..}`: what passed since the last one.
#[must_use]
pub fn interval_json(at: Duration, before: (Progress, Duration), now: Progress) -> Value {
    let (requests, bytes, errors) = grown(before.0, now);
    let time = at.saturating_sub(before.1);
    json!({
        "event": "interval",
        "seconds": at.as_secs_f64(),
        "counted": now.counting,
        "requests": requests,
        "requests_per_second": per_second(requests, time),
        "body_bytes_per_second": per_second(bytes, time),
        "errors": errors,
        "connections": now.connections,
    })
}

fn grown(before: Progress, now: Progress) -> (u64, u64, u64) {
    // When counting begins, everything begins anew.
    let before = if before.counting == now.counting { before } else { Progress::default() };
    (
        now.requests.saturating_sub(before.requests),
        now.body_bytes.saturating_sub(before.body_bytes),
        now.errors.saturating_sub(before.errors),
    )
}

/// `{"event":"end", ..}`: the whole run. `fault` is what the port died of, where there is one.
#[must_use]
pub fn end_json(run: &Run, at: Setting<'_>, tally: &Tally, cpu: CpuSeconds, fault: Option<&str>) -> Value {
    let fault = fault.map(str::to_owned).or_else(|| run.hopeless().map(ToString::to_string));
    let (mode, rate) = mode(run);
    let time = tally.time();
    let errors: Map<String, Value> =
        Mishap::ALL.iter().map(|it| (it.name().to_owned(), json!(tally.errors[*it as usize]))).collect();
    let mut object = json!({
        "event": "end",
        "command": "load",
        "ended": if fault.is_some() { "fault" } else { run.ended().name() },
        "fault": fault,
        "url": at.url,
        "transport": at.transport,
        "connections": run.plan.connections,
        "pipeline": run.plan.pipeline,
        "seconds": time.as_secs_f64(),
        "mode": mode,
        "pace": mode,
        "rate": rate,
        "requests": tally.requests,
        "body_bytes": tally.body_bytes,
        "received_bytes": tally.received_bytes,
        "requests_per_second": per_second(tally.requests, time),
        "body_bytes_per_second": per_second(tally.body_bytes, time),
        "errors": errors,
        "latency_us": latency_json(&tally.latency),
        "connected": tally.connected,
        "unanswered": tally.unanswered,
        "oldest_unanswered_seconds": (tally.unanswered > 0).then_some(tally.oldest_unanswered.as_secs_f64()),
        "silent_seconds": tally.silence().as_secs_f64(),
        "cpu_seconds": cpu,
    });
    if rate.is_some() {
        object["service_us"] = latency_json(&tally.service);
        object["unsent"] = json!(tally.unsent);
    }
    if let Some(hash) = run.hash() {
        object["body_sha256"] = json!(hex(&hash));
    }
    object
}

/// Latencies by name. Those of nothing are null: 0 would be a very good one.
fn latency_json(latency: &Latency) -> Value {
    let mut object = json!(latency.summary());
    if let Some(figures) = object.as_object_mut().filter(|_| latency.count() == 0) {
        figures.values_mut().for_each(|figure| *figure = Value::Null);
    }
    object
}

/// The same as text: what is going to be done.
#[must_use]
pub fn ready_text(run: &Run, at: Setting<'_>) -> String {
    let plan = &run.plan;
    let pace = match plan.mode {
        Mode::Closed => "each asks again when it is answered".to_owned(),
        Mode::Rate(rate) => format!("{rate} requests a second"),
    };
    let transport = if at.transport == "kernel" { "the kernel's sockets" } else { at.transport };
    let others = match plan.paths.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    format!("ringway: load, {}{others}\n  {} connections over {transport}, {pace}", at.url, plan.connections)
}

/// One line a second.
#[must_use]
pub fn interval_text(at: Duration, before: (Progress, Duration), now: Progress) -> String {
    let (requests, bytes, errors) = grown(before.0, now);
    let time = at.saturating_sub(before.1);
    format!(
        "{:>6.1} s   {:>9.0} requests/s   {:>8.1} MB/s   {:>6} errors   {:>5} connections{}",
        at.as_secs_f64(),
        per_second(requests, time),
        per_second(bytes, time) / 1e6,
        errors,
        now.connections,
        if now.counting { "" } else { "   warming up" },
    )
}

/// The whole run: rates, latencies, what went wrong.
#[must_use]
pub fn end_text(run: &Run, tally: &Tally, cpu: CpuSeconds) -> String {
    let mut text = String::new();
    let time = tally.time();
    let _ = writeln!(
        text,
        "\n{:.1} s   {} requests   {:.0} requests/s   {:.1} MB/s of bodies",
        time.as_secs_f64(),
        tally.requests,
        per_second(tally.requests, time),
        per_second(tally.body_bytes, time) / 1e6,
    );
    let _ = writeln!(
        text,
        "  {:<22} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "microseconds", "min", "mean", "stddev", "50 %", "90 %", "99 %", "99.9 %", "max"
    );
    let row = |name: &str, latency: &Latency| {
        let it = latency.summary();
        let figures = [it.min, it.mean, it.stddev, it.p50, it.p90, it.p99, it.p999, it.max];
        let cell = |figure: &f64| match latency.count() {
            0 => format!(" {:>10}", "-"),
            _ => format!(" {figure:>10.1}"),
        };
        let cells: String = figures.iter().map(cell).collect();
        format!("  {name:<22}{cells}")
    };
    let fixed = matches!(run.plan.mode, Mode::Rate(_));
    let _ = writeln!(text, "{}", row(if fixed { "from when it was due" } else { "latency" }, &tally.latency));
    if fixed {
        let _ = writeln!(text, "{}", row("from when it was sent", &tally.service));
        if tally.unsent > 0 {
            let _ = writeln!(
                text,
                "  {} requests were due, and no connection was free for them until the end: the server is slower than \
                 --rate, or --connections are too few",
                tally.unsent
            );
        }
    }
    for mishap in Mishap::ALL {
        let count = tally.errors[mishap as usize];
        if count > 0 {
            let _ = writeln!(text, "  errors {count:>12}  {}: {}", mishap.name(), mishap.words());
        }
    }
    if tally.unanswered > 0 {
        let _ = writeln!(
            text,
            "  unanswered {:>8}  requests under way at the end; the oldest had waited for {:.3} s",
            tally.unanswered,
            tally.oldest_unanswered.as_secs_f64()
        );
    }
    if tally.mishaps() == 0 && tally.requests > 0 && !tally.is_deserted() {
        let _ = writeln!(text, "  no errors");
    }
    if let Some(hash) = run.hash() {
        let _ = writeln!(text, "  SHA-256 of the body: {}", hex(&hash));
    }
    let _ = writeln!(text, "  CPU time of the client: {:.2} s user, {:.2} s system", cpu.user, cpu.system);
    text
}
