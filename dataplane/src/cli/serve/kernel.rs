//! Over the kernel's sockets, by one of its methods.

use super::args::ServeArgs;
use super::{log_plan, policy, tree};
use crate::cli::print::say;
use crate::cli::{Format, Outcome};
use dataplane::report::next_beat;
use dataplane::serve::Stage;
use dataplane::serve::kernel::{KernelFigures, KernelPlan, KernelServers, UploadPlan};
use drivers::kernel::{EnginePlan, Method, Receive};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn run(args: &ServeArgs, method: Method) -> Outcome {
    let (signal, hangup) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(number, Arc::clone(&signal))?;
    }
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&hangup))?;
    let plan = KernelPlan {
        method,
        engine: EnginePlan { chunk: args.chunk as usize, pipe: args.pipe as usize, ..EnginePlan::default() },
        listen: args.listen.address(),
        cpus: args.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect(),
        tree: tree(args)?,
        policy: policy(args)?,
        limits: args.bounds.limits(),
        connections: args.connections,
        keepalive: args.bounds.keepalive(),
        quantum: args.quantum.into(),
        upload: args.upload.map(|way| UploadPlan { way, limit: args.upload_limit }),
        log: log_plan(args),
    };
    let mut servers = KernelServers::start(&plan)?;
    if let Some(address) = args.metrics {
        let address = servers.tell(address)?;
        tracing::info!("numbers for Prometheus at http://{address}/metrics");
    }
    let begun = Instant::now();
    let mut watcher =
        Watcher { args, method, begun, before: KernelFigures::default(), next: args.live.interval };
    watcher.ready(&servers);
    let (mut heard, mut time_up) = (true, false);
    while heard && !signal.swap(false, Ordering::Relaxed) && !servers.has_died() {
        time_up = args.duration.is_some_and(|limit| begun.elapsed() >= limit);
        if time_up {
            break;
        }
        if hangup.swap(false, Ordering::Relaxed) {
            reload(args, &servers);
        }
        servers.sweep();
        heard = watcher.interval_over(&servers);
        std::thread::sleep(LOOK);
    }
    let died = servers.has_died();
    servers.enter(Stage::Draining);
    let ending = Instant::now();
    // At least as long as threads need to hear of it; a second signal ends it at once.
    let soon = 8 * LOOK;
    while !signal.load(Ordering::Relaxed) && !died {
        let passed = ending.elapsed();
        let left = servers.figures().get("connections");
        if passed >= args.drain.max(soon) || (left == 0 && passed >= soon) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    servers.enter(Stage::Resetting);
    let time = begun.elapsed();
    let figures = servers.end();
    let ended = match (died, time_up) {
        (true, _) => Ended::Died,
        (false, true) => Ended::TimeUp,
        (false, false) => Ended::Stopped,
    };
    watcher.finish(time, &figures, ended)
}

fn reload(args: &ServeArgs, servers: &KernelServers) {
    let reloaded = tree(args).and_then(|tree| Ok(servers.reload(tree, policy(args)?)?));
    match reloaded {
        Ok(()) => tracing::info!("folders, error pages and access log opened anew"),
        Err(error) => tracing::error!("SIGHUP: {error}; everything stays as it was"),
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// A signal, or nobody reads any more.
    Stopped,
    TimeUp,
    Died,
}

impl Ended {
    /// As the forwarder's `ended`.
    const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::TimeUp => "time-up",
            Self::Died => "fault",
        }
    }

    const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Stopped | Self::TimeUp => None,
            Self::Died => {
                Some("a thread of the server ended by itself: this is a defect of ringway; please report it")
            }
        }
    }
}

/// Prints while the server runs.
struct Watcher<'a> {
    args: &'a ServeArgs,
    method: Method,
    begun: Instant,
    before: KernelFigures,
    next: Duration,
}

impl Watcher<'_> {
    fn ready(&self, servers: &KernelServers) {
        let (method, address) = (self.method, servers.address());
        match self.args.format {
            Format::Json => say(&json!({
                "event": "ready",
                "command": "serve",
                "mode": "serve",
                "engine": method.name(),
                "listen": address.to_string(),
                "urls": [format!("http://{address}/")],
                "root": self.args.root.to_string_lossy(),
                "upload": self.args.upload.map(Receive::name),
            })
            .to_string()),
            Format::Text => {
                let uploads = self.args.upload.map(|way| format!("; PUT stores files, by {way}"));
                say(&format!(
                    "serving {} at http://{address}/ over the kernel's sockets, by {method}{}; Ctrl-C ends it",
                    self.args.root.display(),
                    uploads.unwrap_or_default()
                ))
            }
        };
    }

    /// At each interval; returns whether anybody still reads.
    fn interval_over(&mut self, servers: &KernelServers) -> bool {
        let at = self.begun.elapsed();
        if at < self.next {
            return true;
        }
        self.next = next_beat(self.next, self.args.live.interval, at);
        let figures = servers.figures();
        let heard = self.args.live.say(|| match self.args.format {
            Format::Json => json!({
                "event": "interval",
                "seconds": at.as_secs_f64(),
                "serve": object(&figures),
            })
            .to_string(),
            Format::Text => {
                let since = |name| figures.get(name) - self.before.get(name);
                format!(
                    "{:>6.1} s   {:>8} requests   {:>8} MB   {:>6} connections",
                    at.as_secs_f64(),
                    since("requests"),
                    since("sent_bytes") / 1_000_000,
                    figures.get("connections")
                )
            }
        });
        self.before = figures;
        heard
    }

    fn finish(&self, time: Duration, figures: &KernelFigures, ended: Ended) -> Outcome {
        match self.args.format {
            Format::Json => say(&json!({
                "event": "end",
                "command": "serve",
                "mode": "serve",
                "ended": ended.name(),
                // Its name before there was `ended`, which is that of all other commands.
                "reason": ended.name(),
                "fault": ended.fault(),
                "engine": self.method.name(),
                "seconds": time.as_secs_f64(),
                "serve": object(figures),
            })
            .to_string()),
            Format::Text => {
                let lines = figures.each().filter(|(_, number)| *number > 0);
                lines.fold(true, |_, (name, number)| say(&format!("  {name:<28} {number:>14}")))
            }
        };
        ended.fault().map_or(Ok(ExitCode::SUCCESS), |why| Err(why.into()))
    }
}

fn object(figures: &KernelFigures) -> Value {
    figures
        .each()
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
