//! What a session prints: tables for people, and JSON with stable names for programs.

use crate::app::PortId;
use crate::ports::Port;
use crate::run::Ended;
use crate::session::{WorkerEnd, WorkerFacts};
use crate::stats::{Books, Snapshot};
use drivers::QueueCounters;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// What passed in a while.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Packets received, millions a second.
    pub received_mpps: f64,
    /// Packets transmitted, millions a second.
    pub transmitted_mpps: f64,
    /// Bits transmitted, thousand millions a second, Ethernet headers included.
    pub transmitted_gbps: f64,
    /// Time of turns that moved something, of all workers: 1.0 is all of one.
    pub busy: f64,
}

impl Rates {
    /// From two snapshots and the time between them.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rates are rounded to three digits anyway")]
    pub fn between(before: &Snapshot, after: &Snapshot, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let grown = |number: fn(&QueueCounters) -> u64| {
            let sum = |snapshot: &Snapshot| {
                snapshot.queues.iter().map(|queue| number(&queue.counters)).sum::<u64>()
            };
            (sum(after).saturating_sub(sum(before))) as f64 / seconds
        };
        Self {
            received_mpps: grown(|counters| counters.received.packets) / 1e6,
            transmitted_mpps: grown(|counters| counters.transmitted.packets) / 1e6,
            transmitted_gbps: grown(|counters| counters.transmitted.bytes) * 8.0 / 1e9,
            busy: after.busy.saturating_sub(before.busy).as_secs_f64() / seconds,
        }
    }
}

/// What a session does: the command that was typed, and which of its ways it goes.
#[derive(Clone, Copy, Debug)]
pub struct Task<'t> {
    /// `forward`, `serve`, `load`.
    pub command: &'t str,
    /// `wire`, `mac-swap`; what the command is called where it has only one way.
    pub mode: &'t str,
}

/// `{"event":"ready", ..}`: what was opened, before the first frame.
#[must_use]
pub fn ready_json(task: Task<'_>, ports: &[Port], workers: &[WorkerFacts], now: &Snapshot) -> Value {
    json!({
        "event": "ready",
        "command": task.command,
        "mode": task.mode,
        "ports": ports.iter().map(|port| port_json(port, now, false)).collect::<Vec<_>>(),
        "workers": workers.iter().map(|worker| json!({
            "worker": worker.worker,
            "cpu": worker.cpu,
            "frames": worker.frames,
            "frame_size": worker.frame_size,
            "memory": worker.backing.to_string(),
            "umem_registrations": worker.registrations,
        })).collect::<Vec<_>>(),
    })
}

/// `{"event":"interval", ..}`: what passed since the last one, and all counts so far.
#[must_use]
pub fn interval_json(at: Duration, rates: Rates, now: &Snapshot) -> Value {
    json!({
        "event": "interval",
        "seconds": at.as_secs_f64(),
        "rates": rates,
        "ports": counts(now),
        "discarded": discarded(now),
        "books": now.books(),
    })
}

/// What each port has counted so far, all its queues together.
fn counts(now: &Snapshot) -> Vec<Value> {
    let ports: BTreeSet<u8> = now.queues.iter().map(|queue| queue.port.0).collect();
    let count = |port: u8| {
        let numbers = QueueCounters::NAMES.iter().zip(port_sum(now, PortId(port)).to_array());
        let mut object: Map<String, Value> =
            numbers.map(|(name, number)| ((*name).to_owned(), json!(number))).collect();
        object.insert("port".to_owned(), json!(port));
        Value::Object(object)
    };
    ports.into_iter().map(count).collect()
}

/// `{"event":"end", ..}`: the whole session.
#[must_use]
pub fn end_json(
    task: Task<'_>,
    ended: &str,
    fault: Option<&str>,
    time: Duration,
    ports: &[Port],
    ends: &[WorkerEnd],
    last: &Snapshot,
) -> Value {
    let books = last.books();
    let average = Rates::between(&Snapshot::default(), last, time);
    json!({
        "event": "end",
        "command": task.command,
        "mode": task.mode,
        "ended": ended,
        "fault": fault,
        "seconds": time.as_secs_f64(),
        "rates": average,
        "ports": ports.iter().map(|port| port_json(port, last, true)).collect::<Vec<_>>(),
        "discarded": discarded(last),
        "books": books,
        "balance": books.balance(),
        "handed_over_bytes": last.handed.taken_bytes,
        "frames": {
            "total": ends.iter().map(|end| end.census.total()).sum::<u32>(),
            "home": ends.iter().map(|end| end.census.free).sum::<u32>(),
        },
        "turns": last.turns,
        "busy_seconds": last.busy.as_secs_f64(),
    })
}

fn discarded(snapshot: &Snapshot) -> Map<String, Value> {
    snapshot.discarded().map(|(reason, count)| (reason.name().to_owned(), json!(count))).collect()
}

fn port_json(port: &Port, snapshot: &Snapshot, counters: bool) -> Value {
    let queues = snapshot.queues.iter().filter(|queue| queue.port == port.id());
    let queue_json = |queue: &crate::stats::QueueSnapshot| {
        let mut object = json!({ "queue": queue.caps.queue, "copying": queue.caps.copying.name(), "mode": queue.caps.mode });
        if counters && let Some(object) = object.as_object_mut() {
            let numbers = QueueCounters::NAMES.iter().zip(queue.counters.to_array());
            object.extend(numbers.map(|(name, number)| ((*name).to_owned(), json!(number))));
        }
        object
    };
    let driver = queues.clone().next().map_or("", |queue| queue.caps.driver);
    let mut object = json!({
        "port": port.id().0,
        "spec": port.spec().to_string(),
        "driver": driver,
        "device": port.spec().device,
        "choice": port.choice(),
        "queues": queues.map(queue_json).collect::<Vec<_>>(),
    });
    if counters
        && let Some(verdicts) = port.verdicts()
        && let Some(object) = object.as_object_mut()
    {
        let words = json!({
            "redirected": verdicts.redirected, "no_socket": verdicts.no_socket,
            "not_ours": verdicts.not_ours, "malformed": verdicts.malformed,
        });
        object.insert("xdp".to_owned(), words);
    }
    object
}

/// The same as text: what was opened.
#[must_use]
pub fn ready_text(mode: &str, ports: &[Port], workers: &[WorkerFacts], now: &Snapshot) -> String {
    let mut text = String::new();
    let plural = if workers.len() == 1 { "worker" } else { "workers" };
    let _ = writeln!(text, "ringway: {mode}, {} {plural}", workers.len());
    for port in ports {
        for (i, queue) in now.queues.iter().filter(|queue| queue.port == port.id()).enumerate() {
            let name = if i == 0 { format!("port {}  {}", port.id().0, port.spec()) } else { String::new() };
            let caps = &queue.caps;
            let _ = writeln!(
                text,
                "  {name:<34} queue {:<3} {:<9} {}",
                caps.queue,
                caps.copying.name(),
                caps.mode
            );
        }
        if let Some(choice) = port.choice() {
            let _ = writeln!(text, "          {choice}");
        }
    }
    for worker in workers {
        let cpu = worker.cpu.map_or_else(|| "any CPU".to_owned(), |cpu| format!("CPU {cpu}"));
        let _ = writeln!(
            text,
            "  worker {}: {cpu}, {} frames of {} bytes in {}",
            worker.worker, worker.frames, worker.frame_size, worker.backing
        );
    }
    text
}

/// A number a second in the unit that fits it.
fn a_second(number: f64, unit: &str) -> String {
    match number {
        ..999.5 => format!("{number:.0} {unit}"),
        ..999.95e3 => format!("{:.1} k{unit}", number / 1e3),
        ..999.995e6 => format!("{:.2} M{unit}", number / 1e6),
        _ => format!("{:.3} G{unit}", number / 1e9),
    }
}

/// Packets a second.
fn packets(mpps: f64) -> String {
    a_second(mpps * 1e6, "pps")
}

/// Bits a second.
fn bits(gbps: f64) -> String {
    a_second(gbps * 1e9, "b/s")
}

/// One line an interval.
#[must_use]
pub fn interval_text(at: Duration, rates: Rates, before: &Snapshot, now: &Snapshot) -> String {
    let missed =
        |snapshot: &Snapshot| snapshot.queues.iter().map(|queue| queue.counters.receive_missed).sum::<u64>();
    let lost = |snapshot: &Snapshot| snapshot.books().discarded + snapshot.books().unsendable;
    let grown = |number: fn(&QueueCounters) -> u64| {
        let sum = |snapshot: &Snapshot| -> u64 {
            snapshot.queues.iter().map(|queue| number(&queue.counters)).sum()
        };
        sum(now).saturating_sub(sum(before))
    };
    format!(
        "{:>6.1} s   in {:>9} ={:>11}   out {:>9} ={:>11} {:>11}   busy {:>4.0} %   discarded {:>7}   missed {:>7}",
        at.as_secs_f64(),
        grown(|counters| counters.received.packets),
        packets(rates.received_mpps),
        grown(|counters| counters.transmitted.packets),
        packets(rates.transmitted_mpps),
        bits(rates.transmitted_gbps),
        100.0 * rates.busy,
        lost(now).saturating_sub(lost(before)),
        missed(now).saturating_sub(missed(before)),
    )
}

/// The whole session: a line a port, the reasons, the books.
#[must_use]
pub fn end_text(time: Duration, ports: &[Port], last: &Snapshot) -> String {
    let mut text = String::new();
    let average = Rates::between(&Snapshot::default(), last, time);
    let _ = writeln!(
        text,
        "\n{:.1} s, {} and {} on average",
        time.as_secs_f64(),
        packets(average.transmitted_mpps),
        bits(average.transmitted_gbps)
    );
    let _ = writeln!(
        text,
        "  {:<34} {:>12} {:>12} {:>10} {:>10} {:>10}",
        "port", "received", "transmitted", "missed", "dropped", "unsendable"
    );
    for port in ports {
        let sum = port_sum(last, port.id());
        let _ = writeln!(
            text,
            "  {:<34} {:>12} {:>12} {:>10} {:>10} {:>10}",
            port.spec().to_string(),
            sum.received.packets,
            sum.transmitted.packets,
            sum.receive_missed,
            sum.transmit_dropped,
            sum.unsendable
        );
        if let Some(verdicts) = port.verdicts().filter(|verdicts| verdicts.no_socket > 0) {
            let _ = writeln!(
                text,
                "    {} frames came in by queues without a socket and went to the kernel",
                verdicts.no_socket
            );
        }
    }
    for (reason, count) in last.discarded() {
        let _ = writeln!(text, "  discarded {count:>12}  {}: {}", reason.name(), reason.advice());
    }
    if last.handed.over > 0 {
        let (packets, bytes) = (last.handed.over, last.handed.taken_bytes);
        let _ = writeln!(text, "  {packets} packets were handed from worker to worker, {bytes} bytes copied");
    }
    let _ = writeln!(text, "  books: {}", last.books());
    text
}

/// Why a session ended, by its name in JSON: what the first worker to end says of it. The others only follow.
#[must_use]
pub fn ended(ends: &[WorkerEnd]) -> &'static str {
    let each = || ends.iter().map(|end| &end.ended);
    if each().any(|ended| matches!(ended, Ended::Faulted(..))) {
        return "fault";
    }
    match each().find(|ended| **ended != Ended::Stopped) {
        Some(Ended::TimeUp) => "time-up",
        Some(Ended::Exhausted) => "exhausted",
        _ => "stopped",
    }
}

/// All queues of a port added up.
#[must_use]
pub fn port_sum(snapshot: &Snapshot, port: PortId) -> QueueCounters {
    let queues = snapshot.queues.iter().filter(|queue| queue.port == port);
    let sum = queues.fold([0; QueueCounters::FIELDS], |mut sum, queue| {
        for (sum, number) in sum.iter_mut().zip(queue.counters.to_array()) {
            *sum += number;
        }
        sum
    });
    QueueCounters::from_array(sum)
}

/// The books of a session, whether all that was handed over was taken, and whether every frame came home: what the exit
/// code says.
#[must_use]
pub fn in_order(books: Books, ends: &[WorkerEnd]) -> bool {
    let arrived = books.handed_over == books.taken_over;
    books.balance() && arrived && ends.iter().all(|end| end.census.free == end.census.total())
}

/// When the next interval is over, after one that was due at `due`. What was slept through is left out: lines that made up for it would
/// come in one go, and speak of no time at all.
#[must_use]
pub fn next_beat(due: Duration, interval: Duration, now: Duration) -> Duration {
    let missed = now.saturating_sub(due).as_nanos() / interval.as_nanos().max(1);
    due + interval.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_in_its_own_unit() {
        for (pps, text) in [
            (0.0, "0 pps"),
            (7.0, "7 pps"),
            (999.4, "999 pps"),
            (999.6, "1.0 kpps"),
            (1234.0, "1.2 kpps"),
            (999_960.0, "1.00 Mpps"),
            (14_880_000.0, "14.88 Mpps"),
            (1_200_000_000.0, "1.200 Gpps"),
        ] {
            assert_eq!(packets(pps / 1e6), text);
        }
        assert_eq!((bits(0.000_012), bits(2.5)), ("12.0 kb/s".to_owned(), "2.500 Gb/s".to_owned()));
    }

    #[test]
    fn what_was_slept_through_is_left_out() {
        let at = |now| {
            next_beat(Duration::from_millis(200), Duration::from_millis(200), Duration::from_millis(now))
        };
        assert_eq!([200, 399, 400, 910].map(|now| at(now).as_millis()), [400, 400, 600, 1000]);
        assert_eq!(at(150).as_millis(), 400, "a clock that goes back");
    }
}
