//! The client, the same for all servers: `ringway load` over the kernel's sockets at the left host.

use crate::lab::process::Process;
use crate::lab::{Lab, Side};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How much longer than it was told to a client may take.
const GRACE: Duration = Duration::from_secs(20);

/// What it is to ask for.
#[derive(Clone, Debug)]
pub(super) struct Wish<'a> {
    /// `http://10.77.0.99:8080`
    pub(super) server: &'a str,
    pub(super) paths: &'a [String],
    pub(super) connections: u32,
    pub(super) end: End,
    pub(super) cpu: usize,
}

/// When it has asked enough.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    After(Duration),
    /// So many answers came in full; none is cut off.
    Requests(u64),
    /// Each path once.
    Once,
}

/// What it got, as `ringway load --format json` says it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) requests: u64,
    /// Of whole answers, and of those that the end cut off.
    pub(super) body_bytes: u64,
    pub(super) seconds: f64,
    pub(super) errors: Errors,
    /// Of nothing, all zero.
    #[serde(default)]
    pub(super) latency_us: Latency,
    pub(super) cpu_seconds: Cpu,
}

impl Answer {
    /// Whether there must have been an answer is the asker's to say.
    fn read(mut event: Value) -> Result<Self, serde_json::Error> {
        // Latencies of nothing are null.
        if event["requests"] == 0
            && let Some(event) = event.as_object_mut()
        {
            event.remove("latency_us");
        }
        serde_json::from_value(event)
    }
}

/// What went wrong, how often.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Errors {
    status: u64,
    connect: u64,
    reset: u64,
    timeout: u64,
    length: u64,
    hash: u64,
    protocol: u64,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Cpu {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Errors {
    /// In words; none when nothing went wrong.
    pub(super) fn words(&self) -> Option<String> {
        let each = [
            (self.status, "with a status that is no success"),
            (self.connect, "connections refused"),
            (self.reset, "reset"),
            (self.timeout, "without an answer in time"),
            (self.length, "of the wrong length"),
            (self.hash, "with a wrong hash"),
            (self.protocol, "that were no HTTP"),
        ];
        let found: Vec<String> = each
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!found.is_empty()).then(|| format!("answers: {}", found.join(", ")))
    }
}

/// Asks, and waits for the end.
///
/// # Errors
/// What the client complained of; that it vanished; that it got something wrong.
pub(super) fn ask(lab: &Lab, program: &Path, wish: &Wish<'_>, stop: &AtomicBool) -> Result<Answer, String> {
    let mut command = lab.host(Side::Left).command(program);
    command.args(["load", "--format", "json", "--connections", &wish.connections.to_string()]);
    let limit = match wish.end {
        End::After(time) => {
            command.args(["--duration", &time.as_secs_f64().to_string()]);
            time + GRACE
        }
        End::Requests(requests) => {
            command.args(["--requests", &requests.to_string()]);
            GRACE * 6
        }
        End::Once => {
            command.args(["--requests", &wish.paths.len().to_string()]);
            GRACE * 6
        }
    };
    command.args(wish.paths.iter().map(|path| format!("{}{path}", wish.server)));
    let failed = |why: String| format!("the client: {why}");
    let mut client = Process::start(command, Some(wish.cpu)).map_err(failed)?;
    // Its exit code only repeats what is in there.
    let last = client.wait_for("end", limit, stop).map_err(failed)?;
    let answer = Answer::read(last)
        .map_err(|error| format!("the client: its last event is not understood: {error}"))?;
    match answer.errors.words() {
        Some(words) => Err(format!("the client: {words}")),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A warming-up may end before the first answer has.
    #[test]
    fn latencies_of_nothing_are_no_obstacle() {
        let event = serde_json::json!({"event": "end", "requests": 0, "body_bytes": 90, "seconds": 0.2, "errors": {},
            "latency_us": {"mean": null, "p50": null, "p90": null, "p99": null, "p999": null, "max": null},
            "cpu_seconds": {"user": 0.1, "system": 0.2}});
        let answer = Answer::read(event).expect("the event of the contract");
        assert_eq!((answer.requests, answer.body_bytes, answer.latency_us.max), (0, 90, 0.0));
    }

    #[test]
    fn an_end_event_is_understood_and_errors_are_words() {
        let event = r#"{"event":"end","requests":7,"body_bytes":7168,"received_bytes":9000,"seconds":0.5,
            "requests_per_second":14.0,"body_bytes_per_second":14336.0,
            "errors":{"status":0,"connect":0,"reset":2,"timeout":0,"length":1,"hash":0,"protocol":0},
            "latency_us":{"min":1.0,"mean":2.0,"stddev":0.1,"p50":2.0,"p90":3.0,"p99":4.0,"p999":5.0,"max":6.0},
            "cpu_seconds":{"user":0.1,"system":0.2}}"#;
        let answer: Answer = serde_json::from_str(event).expect("the event of the contract");
        assert_eq!((answer.requests, answer.latency_us.p999), (7, 5.0));
        let words = answer.errors.words().expect("three errors");
        assert_eq!(words, "answers: 2 reset, 1 of the wrong length");
        assert_eq!(Errors::default().words(), None);
    }
}
