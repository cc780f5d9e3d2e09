//! `ringway serve`.

use super::forward::{IdleWord, say, seconds};
use super::{Format, Outcome};
use clap::{Args, ValueEnum};
use dataplane::net::{self, Prefix};
use dataplane::ports::Port;
use dataplane::report::{self, Rates};
use dataplane::serve::content::{Kinds, StorePlan};
use dataplane::serve::http::{Limits, Policy, PolicyPlan, media};
use dataplane::serve::log::{self, LogPlan};
use dataplane::serve::server::{Figures, ServePlan, Servers, Stage};
use dataplane::serve::tree::{HostPlan, Symlinks, TreePlan};
use dataplane::session::{SessionPlan, WorkerEnd, WorkerFacts, blamed, session, total};
use dataplane::{PortId, Snapshot};
use drivers::PortSpec;
use drivers::link::Link;
use drivers::spec::NumberList;
use drivers::xdp::{Endpoint, Filter};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Serve files over Ringway's own TCP, straight from memory that the device reads.
///
/// The address may be one that the kernel does not have: then ARP, neighbour discovery and ping are answered here too.
/// Or it may be the interface's own: then only TCP to the one port is taken (af-xdp), and SSH and everything else
/// reach the kernel as before.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to serve: af-xdp:eth0, packet:eth0, or eth0 for the best driver that works there.
    #[arg(long, value_name = "P")]
    port: PortSpec,
    /// The server's address and the length of its network's prefix, as 10.0.0.2/24; give it again for IPv6.
    #[arg(long = "address", value_name = "A/LEN", required = true, value_parser = address)]
    addresses: Vec<Prefix>,
    /// The router to other networks. Answers need none: they go back the way the request came.
    #[arg(long, value_name = "G")]
    gateway: Option<IpAddr>,
    /// The TCP port to listen on.
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    listen: u16,
    /// The folder to serve.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// A virtual host and its folder, as www.example.org=/srv/www; may be given again.
    #[arg(long = "host", value_name = "NAME=DIR", value_parser = host)]
    hosts: Vec<(String, PathBuf)>,
    /// Symbolic links: never followed, followed within the root, or only where link and target have one owner.
    #[arg(long, value_enum, default_value_t)]
    symlinks: SymlinkWord,
    /// Whether a folder without an index file is listed.
    #[arg(long, value_enum, default_value_t)]
    listing: ListingWord,
    /// Cache-Control by file name (or path, if there is a slash), as *.css=max-age=3600; `*` is all; may be given again.
    #[arg(long = "cache-control", value_name = "PATTERN=VALUE", value_parser = pair)]
    cache_control: Vec<(String, String)>,
    /// A page for an error, as 404=/srv/errors/404.html; may be given again.
    #[arg(long = "error-page", value_name = "STATUS=FILE", value_parser = error_page)]
    error_pages: Vec<(u16, PathBuf)>,
    /// Where requests are logged: a file, or - for standard output. SIGHUP opens it anew.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// How requests are logged.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogWord,
    /// Counters for Prometheus, on a socket of the kernel's, as 127.0.0.1:9090.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// How file content gets into memory that the device reads.
    #[arg(long, value_enum, default_value_t)]
    content_kind: KindWord,
    /// Memory for file content, in MiB, of each worker.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    content: usize,
    /// Connections at once, of each worker.
    #[arg(long, value_name = "N", default_value_t = 16384)]
    connections: u32,
    /// Connections at once from one address.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    per_peer: u32,
    /// Seconds after which a connection without a request is closed.
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    idle_timeout: Duration,
    /// Seconds that connections get to end, when the server is told to.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    drain: Duration,
    /// File content in a packet is copied below so many bytes, and gathered by the device from there on.
    #[arg(long, value_name = "BYTES")]
    copy_below: Option<u32>,
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
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SymlinkWord {
    /// Not followed.
    #[default]
    Off,
    /// Followed, if link and target belong to the same user.
    Owner,
    /// Followed, within the root.
    On,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ListingWord {
    /// 403.
    #[default]
    Off,
    /// As HTML, or JSON for who asks for that.
    On,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogWord {
    /// As Apache and nginx do.
    #[default]
    Combined,
    /// One object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum KindWord {
    /// Large files direct, others by snapshot.
    #[default]
    Auto,
    /// Files of tmpfs from the page cache itself, where the device can: nothing is copied, not even when loaded. Only for
    /// files that are replaced, never written to in place: a write shows in responses that are under way.
    Shared,
    /// Read through the page cache into our memory: one copy when loaded, none per request.
    Snapshot,
    /// Read past the page cache: the disk's DMA writes what the device's DMA reads.
    Direct,
}

pub(super) fn address(text: &str) -> Result<Prefix, String> {
    let (address, bits) =
        text.split_once('/').ok_or("the length of the prefix is missing, as in 10.0.0.2/24")?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    let bits = bits.parse().map_err(|_| format!("{bits:?} is no length of a prefix"))?;
    Ok(Prefix { address, bits })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("a = is missing")?;
    Ok((left.to_owned(), right.to_owned()))
}

fn host(text: &str) -> Result<(String, PathBuf), String> {
    pair(text).map(|(name, folder)| (name, folder.into()))
}

fn error_page(text: &str) -> Result<(u16, PathBuf), String> {
    let (status, file) = pair(text)?;
    let status = status.parse().map_err(|_| format!("{status:?} is no status"))?;
    Ok((status, file.into()))
}

pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let signal = Arc::new(AtomicBool::new(false));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(number, Arc::clone(&signal))?;
    }
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&hangup))?;
    let link = Link::by_name(&args.port.device).ok();
    let plan = plan(args, link.as_ref())?;
    let cpus: Vec<usize> = args.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect();
    let mut servers = Servers::new(plan.clone(), cpus.len().max(1))?;
    if let Some(address) = args.metrics {
        // Not among the macro's arguments: those are evaluated only when the level is on.
        let address = servers.tell(address)?;
        tracing::info!("numbers for Prometheus at http://{address}/metrics");
    }
    let port = Port::open_for(PortId(0), &args.port, &filter(args, &plan)?)?;
    let ports = [port];
    let session_plan = SessionPlan {
        cpus,
        frames: args.frames,
        idle: args.idle.into(),
        duration: args.duration,
        content_bytes: args.content << 20,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = Watcher { args, ports: &ports, servers: &servers, before: RefCell::default() };
    let begun = Instant::now();
    let ends = std::thread::scope(|scope| {
        let ended = Arc::new(AtomicBool::new(false));
        let guard = Ended(Arc::clone(&ended));
        let (stop, servers) = (&stop, &servers);
        let attendant = Attendant { args, signal: &signal, hangup: &hangup, stop, ended, servers };
        scope.spawn(move || attendant.attend());
        let ends = session(
            &ports,
            &session_plan,
            stop,
            servers,
            |workers| watcher.ready(workers),
            |workers, at| watcher.second(workers, at),
        );
        drop(guard);
        ends
    })?;
    watcher.finish(begun.elapsed(), &ends)
}

/// Tells the drainer that the session is over, whatever way it ended.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sees to signals while the workers serve.
struct Attendant<'a> {
    args: &'a ServeArgs,
    signal: &'a AtomicBool,
    hangup: &'a AtomicBool,
    stop: &'a AtomicBool,
    ended: Arc<AtomicBool>,
    servers: &'a Servers,
}

impl Attendant<'_> {
    /// How often it looks. Workers look at each tick, and tell their numbers then.
    const LOOK: Duration = Duration::from_millis(20);

    /// Until the session is over: reloads when told to, and when told to end, lets connections end first.
    fn attend(&self) {
        while !self.signal.swap(false, Ordering::Relaxed) {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            self.servers.sweep();
            if self.hangup.swap(false, Ordering::Relaxed) {
                self.reload();
            }
            std::thread::sleep(Self::LOOK);
        }
        self.servers.enter(Stage::Draining);
        self.wait_for_connections(self.args.drain);
        self.servers.enter(Stage::Resetting);
        self.wait_for_connections(Duration::ZERO);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// At most so long, and until a second signal.
    fn wait_for_connections(&self, limit: Duration) {
        let begin = Instant::now();
        loop {
            std::thread::sleep(2 * Self::LOOK);
            let left = self.servers.figures().get("connections");
            let told = self.ended.load(Ordering::Relaxed) || self.signal.load(Ordering::Relaxed);
            if left == 0 || told || begin.elapsed() >= limit {
                return;
            }
        }
    }

    fn reload(&self) {
        let args = self.args;
        let reloaded = tree(args).and_then(|tree| Ok(self.servers.reload(tree, policy(args)?)?));
        match reloaded {
            Ok(()) => tracing::info!("folders, error pages and access log opened anew"),
            Err(error) => tracing::error!("SIGHUP: {error}; everything stays as it was"),
        }
    }
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn tree(args: &ServeArgs) -> Fallible<TreePlan> {
    let hosts =
        args.hosts.iter().map(|(name, root)| HostPlan { names: vec![name.clone()], root: root.clone() });
    let mut tree = TreePlan::new(&args.root);
    tree.hosts.extend(hosts);
    tree.symlinks = match args.symlinks {
        SymlinkWord::Off => Symlinks::Off,
        SymlinkWord::Owner => Symlinks::Owner,
        SymlinkWord::On => Symlinks::On,
    };
    tree.listing = args.listing == ListingWord::On;
    Ok(tree)
}

fn policy(args: &ServeArgs) -> Fallible<Policy> {
    let page = |(status, file): &(u16, PathBuf)| -> Result<(u16, String, Vec<u8>), String> {
        let content =
            std::fs::read(file).map_err(|error| format!("--error-page {}: {error}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok((*status, media::of_name(&name).to_owned(), content))
    };
    let pages = args.error_pages.iter().map(page).collect::<Result<_, _>>()?;
    Ok(Policy::new(&PolicyPlan { cache: args.cache_control.clone(), pages, ..PolicyPlan::default() })?)
}

fn plan(args: &ServeArgs, link: Option<&Link>) -> Fallible<ServePlan> {
    let limits =
        Limits { idle_time: args.idle_timeout, connections_per_peer: args.per_peer, ..Limits::default() };
    if let Some(link) = link.filter(|link| link.mac == [0; 6]) {
        let name = &link.name;
        return Err(format!(
            "{name} has no MAC address, and only Ethernet interfaces can be served from: ip link names them"
        )
        .into());
    }
    let kernel = kernel(args, link)?;
    let log = args.access_log.as_ref().map(|path| LogPlan {
        path: Some(path.clone()).filter(|path| path.as_os_str() != "-"),
        format: match args.log_format {
            LogWord::Combined => log::Format::Combined,
            LogWord::Json => log::Format::Json,
        },
        capacity: LOG_RECORDS,
    });
    let kinds = match args.content_kind {
        KindWord::Auto | KindWord::Shared => Kinds::Auto,
        KindWord::Snapshot => Kinds::Snapshot,
        KindWord::Direct => Kinds::Direct,
    };
    Ok(ServePlan {
        // A capture file has no interface: any address of our own will do.
        mac: link.map_or([2, 0x52, 0x57, 0, 2, 1], |link| link.mac),
        mtu: link.map_or(1500, |link| u16::try_from(link.mtu).unwrap_or(u16::MAX)),
        shared: kernel.is_some(),
        kernel,
        addresses: args.addresses.clone(),
        gateway: args.gateway,
        listen: args.listen,
        tree: tree(args)?,
        policy: policy(args)?,
        limits,
        connections: args.connections,
        copy_below: args.copy_below.map_or(COPY_BELOW, |bytes| bytes as usize),
        share: args.content_kind == KindWord::Shared,
        store: StorePlan { kinds, ..StorePlan::default() },
        log,
    })
}

/// What the kernel says of the interface, if it has our addresses: `None` if it has none of them.
fn kernel(args: &ServeArgs, link: Option<&Link>) -> Fallible<Option<net::HostPlan>> {
    let Some(link) = link else { return Ok(None) };
    let theirs: Vec<IpAddr> = link.addresses()?.into_iter().map(|own| own.address).collect();
    let ours = || args.addresses.iter().map(|prefix| prefix.address);
    match ours().filter(|address| theirs.contains(address)).count() {
        0 => Ok(None),
        count if count == args.addresses.len() => {
            let mut plan = net::HostPlan::shared(PortId(0), link, vec![args.listen], 0..0)?;
            for interface in &mut plan.interfaces {
                interface.addresses.retain(|own| ours().any(|address| address == own.address));
            }
            Ok(Some(plan))
        }
        _ => Err(format!(
            "the kernel has some of these addresses at {}, but not all: serve either its own or others, and the rest \
             with a second ringway",
            link.name
        )
        .into()),
    }
}

/// Answers that may wait for the thread that writes the log.
const LOG_RECORDS: usize = 8192;

/// Below this a copy costs no more than a second descriptor, over a veth: `docs/measuring.md` has the measurement.
const COPY_BELOW: usize = 2048;

/// What of the port is ours.
fn filter(args: &ServeArgs, plan: &ServePlan) -> Result<Filter, drivers::xdp::FilterError> {
    let at = |prefix: &Prefix| SocketAddr::new(prefix.address, args.listen);
    Filter::flows(
        plan.addresses
            .iter()
            .map(|prefix| if plan.shared { Endpoint::shared(at(prefix)) } else { Endpoint::own(at(prefix)) }),
    )
}

/// Prints while the workers run.
struct Watcher<'a> {
    args: &'a ServeArgs,
    ports: &'a [Port],
    servers: &'a Servers,
    before: RefCell<(Snapshot, Duration, Figures)>,
}

impl Watcher<'_> {
    fn ready(&self, workers: &[WorkerFacts]) -> bool {
        let now = total(workers);
        match self.args.format {
            Format::Json => say(&report::ready_json("serve", self.ports, workers, &now).to_string()),
            Format::Text => {
                let urls: Vec<String> = self.args.addresses.iter().map(|at| self.url(at.address)).collect();
                say(&format!(
                    "{}  {} at {}",
                    report::ready_text("serve", self.ports, workers, &now),
                    self.args.root.display(),
                    urls.join(", ")
                ))
            }
        }
    }

    fn url(&self, address: IpAddr) -> String {
        format!("http://{}/", SocketAddr::new(address, self.args.listen))
    }

    fn second(&self, workers: &[WorkerFacts], at: Duration) -> bool {
        let now = total(workers);
        let figures = self.servers.figures();
        let mut before = self.before.borrow_mut();
        let (last, then, old) = &*before;
        let rates = Rates::between(last, &now, at - *then);
        let heard = match self.args.format {
            Format::Json => {
                let mut object = report::interval_json(at, rates, &now);
                object["serve"] = json(&figures);
                say(&object.to_string())
            }
            Format::Text => {
                let line = report::interval_text(at, rates, last, &now);
                let requests = figures.get("requests") - old.get("requests");
                say(&format!("{line}   {requests} requests   {} connections", figures.get("connections")))
            }
        };
        *before = (now, at, figures);
        heard
    }

    fn finish(&self, time: Duration, ends: &[WorkerEnd]) -> Outcome {
        let mut last = Snapshot::default();
        for end in ends {
            last.add(end.last.clone());
        }
        let figures = self.servers.figures();
        let fault = blamed(ends).map(|(_, why)| format!("{}: {why}", self.args.port));
        match self.args.format {
            Format::Json => {
                let ended = if fault.is_some() { "fault" } else { "stopped" };
                let mut object = report::end_json(ended, fault.as_deref(), time, self.ports, ends, &last);
                object["serve"] = json(&figures);
                say(&object.to_string());
            }
            Format::Text => {
                say(&report::end_text(time, self.ports, &last));
                for (name, number) in figures.each().filter(|(_, number)| *number > 0) {
                    say(&format!("  {name:<28} {number:>14}"));
                }
            }
        }
        if !report::in_order(last.books(), ends) {
            return Err(
                "the books do not balance: this is a defect of ringway; please report the lines above".into(),
            );
        }
        match fault {
            Some(fault) => Err(format!("stopped by a fault: {fault}").into()),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

fn json(figures: &Figures) -> serde_json::Value {
    figures
        .each()
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
