//! `ringway forward`.

use super::print::{Live, say};
use super::signals;
use super::{Format, Outcome, misunderstood, port};
use clap::{Args, ValueEnum};
use dataplane::forward::{MacSwap, Wire};
use dataplane::ports::{Port, give_back_abandoned};
use dataplane::report::{self, Rates, Task};
use dataplane::session::{Each, SessionPlan, WorkerEnd, WorkerFacts, blamed, session, total};
use dataplane::{App, Idle, PortId, Snapshot};
use drivers::PortSpec;
use drivers::spec::NumberList;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Forward packets between ports.
///
/// A port is driver:device[,key=value..]: af-xdp:eth0 | af-xdp:eth0,queues=0-3,mode=copy | packet:eth0 |
/// pcap:in.pcap,out=out.pcap | vhost-user:/run/sock | vfio:0000:03:00.0 | uio:0000:03:00.0. A bare eth0 takes the best driver that works there. tap=FILE, with
/// any driver, records what passes.
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// A port; give it twice or more.
    #[arg(long = "port", value_name = "P", required = true, value_parser = port)]
    ports: Vec<PortSpec>,
    /// What to do with a frame.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// One worker on each of these CPUs, as in 0-3,7; without it one worker anywhere.
    #[arg(long, value_name = "LIST")]
    cpu: Option<NumberList>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// What a worker does when no frame comes.
    #[arg(long, value_enum, default_value_t)]
    idle: IdleWord,
    /// Frames of each worker's arena.
    #[arg(long, value_name = "N")]
    frames: Option<u32>,
    /// How to print what happens: a table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    live: Live,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Mode {
    /// Ports 0 and 1 are a cable, 2 and 3 another.
    #[default]
    Wire,
    /// Each frame goes back where it came from, addresses exchanged.
    MacSwap,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum IdleWord {
    /// Poll on, for a core of one's own.
    Spin,
    /// Poll on, but let others run.
    Yield,
    /// Sleep at once until a frame comes: under `chrt -f 1`, for a core shared with the device's kernel threads.
    Wait,
    /// Poll for a while, then sleep until a frame comes.
    #[default]
    Adaptive,
}

impl From<IdleWord> for Idle {
    fn from(word: IdleWord) -> Self {
        match word {
            IdleWord::Spin => Self::Spin,
            IdleWord::Yield => Self::Yield,
            IdleWord::Wait => Self::Wait,
            IdleWord::Adaptive => Self::Adaptive,
        }
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(crate) fn run(args: &ForwardArgs) -> Outcome {
    match args.mode {
        Mode::Wire if !args.ports.len().is_multiple_of(2) => {
            Err(misunderstood("--mode wire joins ports in pairs: name two, four, .. of them"))
        }
        Mode::Wire => forward(args, "wire", Wire),
        Mode::MacSwap => forward(args, "mac-swap", MacSwap),
    }
}

fn forward<A>(args: &ForwardArgs, mode: &str, app: A) -> Outcome
where
    A: for<'p> App<'p> + Copy + Sync,
{
    check_ports(&args.ports).map_err(misunderstood)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::stop(&stop)?;
    give_back_abandoned(&args.ports);
    let ports: Vec<Port> =
        (0..).zip(&args.ports).map(|(id, spec)| Port::open(PortId(id), spec)).collect::<Result<_, _>>()?;
    let plan = SessionPlan {
        cpus: args.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect(),
        frames: args.frames,
        idle: args.idle.into(),
        duration: args.duration,
        content_bytes: 0,
        interval: Some(args.live.interval),
    };
    let queues = vec![None; ports.len()];
    let task = Task { command: "forward", mode };
    let mut watcher = Watcher {
        args,
        task,
        ports: &ports,
        before: Snapshot::default(),
        at: Duration::ZERO,
        queues,
        begun: None,
    };
    let watcher = std::cell::RefCell::new(&mut watcher);
    let ends = session(
        &ports,
        &plan,
        &stop,
        &Each(app),
        |workers| watcher.borrow_mut().ready(workers),
        |workers, at| watcher.borrow_mut().interval_over(workers, at),
    )?;
    let time = watcher.borrow().begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    finish(args, task, time, &ports, &ends)
}

fn check_ports(specs: &[PortSpec]) -> Result<(), String> {
    if specs.len() > 64 {
        return Err("at most 64 ports".to_owned());
    }
    for (i, spec) in specs.iter().enumerate() {
        if spec.driver.as_deref() != Some("pcap")
            && specs[..i].iter().any(|other| other.device == spec.device)
        {
            return Err(format!("{} is named twice; a port belongs to one place", spec.device));
        }
    }
    Ok(())
}

/// Prints while the workers run.
struct Watcher<'a> {
    args: &'a ForwardArgs,
    task: Task<'a>,
    ports: &'a [Port],
    before: Snapshot,
    at: Duration,
    /// How many queues each port has by now, where that has changed: said once a change.
    queues: Vec<Option<u32>>,
    /// When the workers began.
    begun: Option<Instant>,
}

impl Watcher<'_> {
    fn ready(&mut self, workers: &[WorkerFacts]) -> bool {
        let now = total(workers);
        self.begun = Some(Instant::now());
        match self.args.format {
            Format::Json => say(&report::ready_json(self.task, self.ports, workers, &now).to_string()),
            Format::Text => say(&report::ready_text(self.task.mode, self.ports, workers, &now)),
        }
    }

    fn interval_over(&mut self, workers: &[WorkerFacts], at: Duration) -> bool {
        let now = total(workers);
        let rates = Rates::between(&self.before, &now, at - self.at);
        let heard = self.args.live.say(|| match self.args.format {
            Format::Json => report::interval_json(at, rates, &now).to_string(),
            Format::Text => report::interval_text(at, rates, &self.before, &now),
        });
        (self.before, self.at) = (now, at);
        for (port, known) in self.ports.iter().zip(&mut self.queues) {
            let changed = port.queues_changed();
            if let Some(queues) = changed.filter(|_| changed != *known) {
                tracing::warn!(
                    "{} has {queues} queues now: frames on new ones go to the kernel; start again to take them all",
                    port.spec()
                );
            }
            *known = changed;
        }
        heard
    }
}

fn finish(args: &ForwardArgs, task: Task<'_>, time: Duration, ports: &[Port], ends: &[WorkerEnd]) -> Outcome {
    let mut last = Snapshot::default();
    for end in ends {
        last.add(end.last.clone());
    }
    let fault = blamed(ends).map(|(port, why)| format!("{}: {why}", ports[usize::from(port.0)].spec()));
    let ended = report::ended(ends);
    match args.format {
        Format::Json => {
            say(&report::end_json(task, ended, fault.as_deref(), time, ports, ends, &last).to_string());
        }
        Format::Text => {
            say(&report::end_text(time, ports, &last));
        }
    }
    if !report::in_order(last.books(), ends) {
        return Err(
            "the books do not balance: this is a defect of ringway; please report the lines above".into()
        );
    }
    match fault {
        Some(fault) => Err(format!("stopped by a fault: {fault}").into()),
        None => Ok(ExitCode::SUCCESS),
    }
}
