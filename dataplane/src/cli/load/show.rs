//! What `ringway load` prints.

use super::LoadArgs;
use crate::cli::print::say;
use crate::cli::{Format, Outcome};
use dataplane::Snapshot;
use dataplane::load::report::{self, CpuSeconds, Setting};
use dataplane::load::{Progress, Run};
use dataplane::ports::Port;
use dataplane::report::{Task, next_beat};
use dataplane::session::{WorkerEnd, WorkerFacts, blamed, total};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// In reports of the ports; the load's own overrides the mode.
const TASK: Task<'static> = Task { command: "load", mode: "load" };

/// What is asked, and of whom; returns whether anybody reads it.
pub(super) fn ready(args: &LoadArgs, run: &Run, at: Setting<'_>) -> bool {
    match args.format {
        Format::Json => say(&report::ready_json(run, at).to_string()),
        Format::Text => say(&report::ready_text(run, at)),
    }
}

/// The same, with the ports.
pub(super) fn ready_over_port(
    args: &LoadArgs,
    run: &Run,
    at: Setting<'_>,
    ports: &[Port],
    workers: &[WorkerFacts],
) -> bool {
    let now = total(workers);
    match args.format {
        Format::Json => {
            let mut object = dataplane::report::ready_json(TASK, ports, workers, &now);
            merge(&mut object, report::ready_json(run, at));
            say(&object.to_string())
        }
        Format::Text => {
            let ports = dataplane::report::ready_text("load", ports, workers, &now);
            say(&format!("{ports}{}", report::ready_text(run, at)))
        }
    }
}

/// Prints what came of it.
pub(super) fn end(args: &LoadArgs, run: &Run, at: Setting<'_>, cpu: CpuSeconds) -> Outcome {
    let tally = run.tally();
    match args.format {
        Format::Json => say(&report::end_json(run, at, &tally, cpu, None).to_string()),
        Format::Text => say(report::end_text(run, &tally, cpu).trim_end()),
    };
    verdict(run)
}

/// Sees to signals and prints at each interval until the run is over; returns the CPU time of what was counted.
pub(super) fn attend(args: &LoadArgs, run: &Run, signal: &AtomicBool) -> CpuSeconds {
    const LOOK: Duration = Duration::from_millis(10);
    let bar = bar(args);
    let begin = Instant::now();
    let mut before = (Progress::default(), Duration::ZERO);
    let (mut counted_from, mut next) = (None, args.live.interval);
    while !run.is_over() {
        std::thread::sleep(LOOK);
        let (now, at) = (run.progress(), begin.elapsed());
        if signal.load(Ordering::Relaxed) {
            run.stop();
        }
        if now.counting {
            counted_from.get_or_insert_with(CpuSeconds::now);
        }
        move_bar(&bar, args, now, at);
        if at < next || run.is_over() {
            continue;
        }
        next = next_beat(next, args.live.interval, at);
        let heard = bar.suspend(|| {
            args.live.say(|| match args.format {
                Format::Json => report::interval_json(at, before, now).to_string(),
                Format::Text => report::interval_text(at, before, now),
            })
        });
        if !heard {
            run.stop();
        }
        before = (now, at);
    }
    bar.finish_and_clear();
    let end = CpuSeconds::now();
    end.since(counted_from.unwrap_or(end))
}

/// How far it is, for a person at a terminal; nothing anywhere else.
fn bar(args: &LoadArgs) -> ProgressBar {
    let total = match (args.requests, args.duration) {
        (Some(requests), None) => requests,
        (_, duration) => millis(args.warmup + duration.unwrap_or(Duration::from_secs(10))),
    };
    let target =
        if args.live.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn move_bar(bar: &ProgressBar, args: &LoadArgs, now: Progress, at: Duration) {
    if bar.is_hidden() {
        return;
    }
    bar.set_position(if args.requests.is_some() && args.duration.is_none() {
        now.requests
    } else {
        millis(at)
    });
    bar.set_message(format!("{} requests, {} errors", now.requests, now.errors));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Adds the fields of one JSON object to another.
fn merge(object: &mut serde_json::Value, more: serde_json::Value) {
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// Prints what came of it, with the books.
pub(super) fn end_over_port(
    args: &LoadArgs,
    run: &Run,
    at: Setting<'_>,
    ports: &[Port],
    ends: &[WorkerEnd],
    time: Duration,
    cpu: CpuSeconds,
) -> Outcome {
    let mut last = Snapshot::default();
    for end in ends {
        last.add(end.last.clone());
    }
    let fault = blamed(ends).map(|(_, why)| format!("{}: {why}", at.transport));
    let tally = run.tally();
    match args.format {
        Format::Json => {
            let mut object = dataplane::report::end_json(TASK, "", None, time, ports, ends, &last);
            // Why it ended is the run's to say: the workers only stopped when it was over.
            merge(&mut object, report::end_json(run, at, &tally, cpu, fault.as_deref()));
            say(&object.to_string())
        }
        Format::Text => {
            say(dataplane::report::end_text(time, ports, &last).trim_end())
                && say(report::end_text(run, &tally, cpu).trim_end())
        }
    };
    if !dataplane::report::in_order(last.books(), ends) {
        return Err(
            "the books do not balance: this is a defect of ringway; please report the lines above".into()
        );
    }
    match fault {
        Some(fault) => Err(format!("stopped by a fault: {fault}").into()),
        None => verdict(run),
    }
}

/// Exit code 0 means that requests were answered until the end, and nothing went wrong.
fn verdict(run: &Run) -> Outcome {
    if let Some(why) = run.hopeless() {
        return Err(why.to_string().into());
    }
    let tally = run.tally();
    if tally.requests == 0 {
        return Err("not one request was answered".into());
    }
    if tally.is_deserted() {
        return Err(format!(
            "nobody answered in the last {:.1} s of {:.1} s, though {} requests were under way: the server is gone, stands \
             still, or cannot be reached any more; the latencies are those of the answers that came before",
            tally.silence().as_secs_f64(),
            tally.time().as_secs_f64(),
            tally.unanswered
        )
        .into());
    }
    Ok(if tally.mishaps() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
