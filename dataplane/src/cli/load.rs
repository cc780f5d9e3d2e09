//! `ringway load`.

use super::forward::{IdleWord, seconds};
use super::print::{Live, say};
use super::serve::address;
use super::signals;
use super::{Format, Outcome, misunderstood, port};
use clap::Args;
use dataplane::PortId;
use dataplane::Snapshot;
use dataplane::load::client::{ClientPlan, LoadClients};
use dataplane::load::report::{self, CpuSeconds, Setting};
use dataplane::load::{BodyHash, LoadPlan, Mode, PlanError, Progress, Questions, Run, Threads, Verify};
use dataplane::net::Prefix;
use dataplane::ports::{Port, Purpose, give_back_abandoned};
use dataplane::report::Task;
use dataplane::session::{SessionPlan, WorkerEnd, blamed, session, total};
use drivers::PortSpec;
use drivers::link::Link;
use drivers::spec::NumberList;
use drivers::xdp::{Endpoint, Filter};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Ask an HTTP/1.1 server for as much as it can give, and time its answers.
///
/// Without --rate each connection asks again as soon as it is answered: that finds how much the server can do. With
/// --rate requests are due at times that are fixed beforehand, and latency is measured from those: that finds how long
/// people wait. Lengths of bodies are always verified; their content with --hash.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// What to ask for, as http://10.0.0.2:8080/file; several addresses of one server are asked for in turn.
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// Ask over Ringway's own TCP by this port, as af-xdp:eth0 or packet:eth0, instead of the kernel's sockets.
    #[arg(long, value_name = "P", requires = "addresses", value_parser = port)]
    port: Option<PortSpec>,
    /// The address to ask from and the length of its network's prefix, as 10.0.0.3/24: one of its own, which the kernel
    /// does not have. All TCP to it is ours, and ARP, neighbour discovery and ping are answered here.
    #[arg(long = "address", value_name = "A/LEN", requires = "port", value_parser = address)]
    addresses: Vec<Prefix>,
    /// The router to other networks.
    #[arg(long, value_name = "G", requires = "port")]
    gateway: Option<IpAddr>,
    /// A file with further paths of the server to ask for in turn, one a line.
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,
    /// A field of each request, as 'Accept-Encoding: gzip'; may be given again.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Connections, all threads or workers together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Requests that a connection may have under way.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pipeline: u32,
    /// So many requests a second in all, at times that do not wait for answers.
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Stop after so many seconds, the warming-up not counted; 10, unless there are --requests.
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// Stop after so many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Do not count the first so many seconds.
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// Seconds that an answer, or opening a connection, may take.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Compare the SHA-256 of each body with the first one's of its path.
    #[arg(long)]
    hash: bool,
    /// Compare the SHA-256 of each body with this, as sha256sum prints it.
    #[arg(long, value_name = "HEX", value_parser = hash)]
    expect: Option<BodyHash>,
    /// One thread or worker on each of these CPUs, as in 0-3,7; without it one anywhere.
    #[arg(long, value_name = "LIST")]
    cpu: Option<NumberList>,
    /// What a worker does when no frame comes.
    #[arg(long, value_enum, default_value_t, requires = "port")]
    idle: IdleWord,
    /// Frames of each worker's arena.
    #[arg(long, value_name = "N", requires = "port")]
    frames: Option<u32>,
    /// KiB that the server may send ahead, over each connection of our own TCP; without it as many as fit into the port's
    /// rings when all connections are sent so much at once, 256 at most.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=65536), requires = "port")]
    receive_window: Option<u32>,
    /// How to print what happens: a table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    live: Live,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("give a number from 0.001 to 100000000".to_owned()),
    }
}

fn hash(text: &str) -> Result<BodyHash, String> {
    let mut hash = BodyHash::default();
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits {
        Some(digits) if digits.len() == 2 * hash.len() => {
            for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(hash)
        }
        _ => Err("a SHA-256 has 64 hexadecimal digits, as sha256sum prints it".to_owned()),
    }
}

impl LoadArgs {
    fn questions(&self) -> Result<Questions, Box<dyn std::error::Error>> {
        let mut paths = Vec::new();
        if let Some(file) = &self.paths {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("reading the paths from {}: {error}", file.display()))?;
            paths.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if paths.is_empty() {
                return Err(format!("{} has no path in it; give one a line", file.display()).into());
            }
        }
        Questions::new(&self.urls, &paths, &self.headers).map_err(|error| match error {
            // A line of a file: the command line was understood.
            PlanError::Path(_) => error.into(),
            _ => misunderstood(error),
        })
    }

    fn plan(&self, questions: Questions, server: SocketAddr) -> LoadPlan {
        let default = if self.requests.is_some() { None } else { Some(Duration::from_secs(10)) };
        LoadPlan {
            server,
            requests: questions.requests,
            paths: questions.paths,
            connections: self.connections as usize,
            pipeline: self.pipeline as usize,
            mode: self.rate.map_or(Mode::Closed, Mode::Rate),
            warmup: self.warmup,
            duration: self.duration.or(default),
            limit: self.requests,
            timeout: self.timeout,
            verify: match self.expect {
                Some(hash) => Verify::Hash(hash),
                None if self.hash => Verify::First,
                None => Verify::Lengths,
            },
        }
    }

    fn cpus(&self) -> Vec<usize> {
        self.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect()
    }
}

pub(crate) fn run(args: &LoadArgs) -> Outcome {
    let signal = Arc::new(AtomicBool::new(false));
    signals::stop(&signal)?;
    let questions = args.questions()?;
    let url = questions.url.clone();
    match &args.port {
        Some(port) => over_port(args, &signal, questions, &url.to_string(), port),
        None => over_kernel(args, &signal, questions, &url.to_string()),
    }
}

/// In reports of the ports; the load's own overrides the mode.
const TASK: Task<'static> = Task { command: "load", mode: "load" };

/// Over our own TCP.
fn over_port(
    args: &LoadArgs,
    signal: &AtomicBool,
    questions: Questions,
    url: &str,
    spec: &PortSpec,
) -> Outcome {
    let host = &questions.url.host;
    let ip = questions.url.ip().ok_or_else(|| {
        misunderstood(format_args!(
            "{host} is a name, and over a port nobody is asked for its address: give an IP address"
        ))
    })?;
    give_back_abandoned(std::slice::from_ref(spec));
    let cpus = args.cpus();
    check_threads(args, cpus.len())?;
    let server = SocketAddr::new(ip, questions.url.port);
    let link = Link::by_name(&spec.device).ok();
    let mut client = client(args, spec, link.as_ref(), ip)?;
    let every_port = client.addresses.iter().map(|own| Endpoint::own(SocketAddr::new(own.address, 0)));
    let filter = Filter::flows(every_port)?;
    let run = Arc::new(Run::new(args.plan(questions, server), cpus.len().max(1)));
    let ports = [Port::open_for(PortId(0), spec, &filter, Purpose::Frames)?];
    if args.receive_window.is_none() {
        client.receive_window = window_that_fits(&ports[0], client.mtu, args.connections);
    }
    let clients = LoadClients::new(&run, client)?;
    let transport = spec.to_string();
    let at = Setting { url, transport: &transport };
    let plan = SessionPlan { cpus, frames: args.frames, idle: args.idle.into(), ..SessionPlan::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let (ends, cpu) = std::thread::scope(|scope| {
        // Whatever way the session ends, nobody waits for the run's end any longer.
        let guard = Abandon(&run);
        let mut attendant = None;
        let ends = session(
            &ports,
            &plan,
            &stop,
            &clients,
            |workers| {
                let now = total(workers);
                let heard = match args.format {
                    Format::Json => {
                        let mut object = dataplane::report::ready_json(TASK, &ports, workers, &now);
                        merge(&mut object, report::ready_json(&run, at));
                        say(&object.to_string())
                    }
                    Format::Text => {
                        let ports = dataplane::report::ready_text("load", &ports, workers, &now);
                        say(&format!("{ports}{}", report::ready_text(&run, at)))
                    }
                };
                attendant = Some(scope.spawn(|| {
                    let cpu = attend(args, &run, signal);
                    stop.store(true, Ordering::Relaxed);
                    cpu
                }));
                heard
            },
            |_, _| true,
        );
        drop(guard);
        let cpu = attendant.and_then(|attendant| attendant.join().ok()).unwrap_or_default();
        ends.map(|ends| (ends, cpu))
    })?;
    end_over_port(args, &run, at, &ports, &ends, begun.elapsed(), cpu)
}

/// What a connection may be sent ahead when the user says nothing, at most.
const WINDOW_MAX: u32 = 256 << 10;

/// A receive window such that the windows of all connections together fit into the port's rings: what finds them full is
/// lost, and must be sent again. At least two segments, because one alone is acknowledged late (RFC 9293 section 3.8.6.3).
fn window_that_fits(port: &Port, mtu: u16, connections: u32) -> u32 {
    // The header of IPv4 with that of TCP and its timestamps; that of IPv6 only makes it safer.
    let segment = u32::from(mtu).saturating_sub(52).max(536);
    let Some(slots) = port.receive_slots() else { return WINDOW_MAX };
    let room = u64::from(slots) * u64::from(segment.min(port.slot_bytes().into()));
    let share = u32::try_from(room / u64::from(connections.max(1))).unwrap_or(u32::MAX);
    share.clamp(2 * segment, WINDOW_MAX)
}

/// Prints what came of it, with the books.
fn end_over_port(
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

/// Stops a run when it goes.
struct Abandon<'r>(&'r Run);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Adds the fields of one JSON object to another.
fn merge(object: &mut serde_json::Value, more: serde_json::Value) {
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// Our place in the network.
fn client(
    args: &LoadArgs,
    spec: &PortSpec,
    link: Option<&Link>,
    server: IpAddr,
) -> Result<ClientPlan, Box<dyn std::error::Error>> {
    if !args.addresses.iter().any(|own| own.address.is_ipv4() == server.is_ipv4()) {
        let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
        let words = format!("{server} is an {family} address: give an --address of that kind too");
        return Err(misunderstood(words));
    }
    if let Some(link) = link {
        if link.mac == [0; 6] {
            return Err(format!(
                "{} has no MAC address, and only Ethernet interfaces can be asked over: ip link names them",
                link.name
            )
            .into());
        }
        let theirs = link.addresses()?;
        if let Some(taken) =
            args.addresses.iter().find(|own| theirs.iter().any(|it| it.address == own.address))
        {
            return Err(format!(
                "{} is the kernel's at {}, and it would answer for it too: give an --address of the same network that nobody has",
                taken.address, spec.device
            )
            .into());
        }
    }
    Ok(ClientPlan {
        mac: link.map_or([2, 0x52, 0x57, 0, 3, 1], |link| link.mac),
        mtu: link.map_or(1500, |link| u16::try_from(link.mtu).unwrap_or(u16::MAX)),
        addresses: args.addresses.clone(),
        gateway: args.gateway,
        receive_window: args.receive_window.map_or(WINDOW_MAX, |kib| kib << 10),
    })
}

/// Over the kernel's sockets.
fn over_kernel(args: &LoadArgs, signal: &AtomicBool, questions: Questions, url: &str) -> Outcome {
    let cpus = args.cpus();
    check_threads(args, cpus.len())?;
    check_cpus(&cpus)?;
    let host = questions.url.host.clone();
    let server = questions.url.resolve().map_err(|error| {
        format!("looking up {host}: {error}; is the name right, and a resolver reachable?")
    })?;
    let run = Arc::new(Run::new(args.plan(questions, server), cpus.len().max(1)));
    let at = Setting { url, transport: "kernel" };
    if !(match args.format {
        Format::Json => say(&report::ready_json(&run, at).to_string()),
        Format::Text => say(&report::ready_text(&run, at)),
    }) {
        return Ok(ExitCode::SUCCESS);
    }
    let threads = Threads::start(&run, &cpus)?;
    let cpu = attend(args, &run, signal);
    threads.join()?;
    let tally = run.tally();
    match args.format {
        Format::Json => say(&report::end_json(&run, at, &tally, cpu, None).to_string()),
        Format::Text => say(report::end_text(&run, &tally, cpu).trim_end()),
    };
    verdict(&run)
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

/// Each thread or worker has a connection at least.
fn check_threads(args: &LoadArgs, threads: usize) -> Result<(), Box<dyn std::error::Error>> {
    if threads > args.connections as usize {
        return Err(misunderstood(format_args!(
            "{} connections are too few for {threads} threads; give more --connections, or name fewer CPUs",
            args.connections
        )));
    }
    Ok(())
}

fn check_cpus(cpus: &[usize]) -> Result<(), String> {
    let available: Vec<usize> =
        core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect();
    match cpus.iter().find(|cpu| !available.contains(cpu)) {
        Some(cpu) => Err(format!("there is no CPU {cpu} to run on; this process may use {available:?}")),
        None => Ok(()),
    }
}

/// Sees to signals and prints at each interval until the run is over; returns the CPU time of what was counted.
fn attend(args: &LoadArgs, run: &Run, signal: &AtomicBool) -> CpuSeconds {
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
        next += args.live.interval;
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
