//! Over our own TCP, on a port.

use super::args::{KindWord, Listen, ServeArgs};
use super::reservation::reserve;
use super::{Fallible, log_plan, policy, tree};
use crate::cli::print::say;
use crate::cli::signals::{AtOnce, announce};
use crate::cli::{Format, Outcome, misunderstood};
use dataplane::net::{self, Prefix};
use dataplane::ports::{Port, Purpose, give_back_abandoned};
use dataplane::report::{self, Rates, Task};
use dataplane::serve::Stage;
use dataplane::serve::content::{Kinds, Share, StorePlan};
use dataplane::serve::server::{Figures, ServePlan, Servers};
use dataplane::session::{SessionPlan, WorkerEnd, WorkerFacts, blamed, session, total};
use dataplane::{PortId, Snapshot};
use drivers::link::Link;
use drivers::xdp::{Endpoint, Filter};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why PUT is 405 over a port.
const NO_UPLOADS: &str = "--upload needs --engine METHOD: over a --port the loop that owns the device never waits for a disk, \
                          and its TCP hands on what comes frame by frame and keeps no place for a file's bytes";

pub(super) fn run(args: &ServeArgs) -> Outcome {
    if let Listen::At(address) = args.listen {
        let port = address.port();
        let words = format!("over a --port the address is --address A/LEN: give --listen {port}");
        return Err(misunderstood(words));
    }
    if args.upload.is_some() {
        return Err(misunderstood(NO_UPLOADS));
    }
    let at_once = AtOnce::new([args.port()])?;
    let signal = Arc::new(AtomicBool::new(false));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(number, Arc::clone(&signal))?;
    }
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&hangup))?;
    give_back_abandoned(std::slice::from_ref(args.port()));
    let link = Link::by_name(&args.port().device).ok();
    // A device that is no interface of the kernel's must be asked itself, before there is a plan; and has no filter.
    let own = if matches!(args.port().driver.as_deref(), Some("dpdk" | "vfio" | "uio")) {
        Some(Port::open(PortId(0), args.port())?)
    } else {
        None
    };
    let plan = plan(args, link.as_ref(), own.as_ref().and_then(Port::own_ethernet))?;
    let cpus: Vec<usize> = args.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect();
    let workers = cpus.len().max(1);
    check_content(args.content, workers)?;
    let mut servers = Servers::new(plan.clone(), workers)?;
    if let Some(address) = args.metrics {
        // Not among the macro's arguments: those are evaluated only when the level is on.
        let address = servers.tell(address)?;
        tracing::info!("numbers for Prometheus at http://{address}/metrics");
    }
    // What is taken in the kernel as well is held until the end.
    let (port, _reserved) = match own {
        Some(port) => (port, Vec::new()),
        None => {
            let (filter, purpose) = (filter(args, &plan)?, Purpose::Files { workers });
            let reserved = reserve(filter.endpoints())?;
            (Port::open_for(PortId(0), args.port(), &filter, purpose)?, reserved)
        }
    };
    let ports = [port];
    let session_plan = SessionPlan {
        cpus,
        frames: args.frames,
        idle: args.idle.into(),
        duration: args.duration,
        content_bytes: (args.content as usize) << 20,
        interval: Some(args.live.interval),
    };
    announce((u64::from(args.content) << 20) * workers as u64);
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
            |workers| {
                at_once.over();
                watcher.ready(workers)
            },
            |workers, at| watcher.interval_over(workers, at),
        );
        drop(guard);
        ends
    })?;
    watcher.finish(begun.elapsed(), &ends)
}

/// Content is locked in memory, so it must be there: with too much the kernel would begin to kill programs.
fn check_content(mib: u32, workers: usize) -> Result<(), String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    // Where it cannot be read, mapping it will tell.
    let Some(total) = total.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib >> 10) else {
        return Ok(());
    };
    if u64::from(mib) * workers as u64 > total {
        let each = if workers == 1 { String::new() } else { format!(" for each of {workers} workers") };
        return Err(format!(
            "--content {mib}: {mib} MiB{each} are more than this machine's memory, {total} MiB\n  give less: what does not fit \
             is read again when it is asked for"
        ));
    }
    Ok(())
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

fn plan(args: &ServeArgs, link: Option<&Link>, own: Option<([u8; 6], u16)>) -> Fallible<ServePlan> {
    if let Some(link) = link.filter(|link| link.mac == [0; 6]) {
        let name = &link.name;
        return Err(format!(
            "{name} has no MAC address, and only Ethernet interfaces can be served from: ip link names them"
        )
        .into());
    }
    // A capture file has no interface: any address of our own will do.
    let (mac, mtu) =
        own.or_else(|| Some((link?.mac, u16::try_from(link?.mtu).unwrap_or(u16::MAX)))).unwrap_or(ANYONE);
    let kernel = kernel(args, link)?;
    let kinds = match args.content_kind {
        KindWord::Auto | KindWord::Shared => Kinds::Auto,
        KindWord::Snapshot => Kinds::Snapshot,
        KindWord::Direct => Kinds::Direct,
    };
    Ok(ServePlan {
        mac,
        vlan: args.vlan,
        mtu,
        shared: kernel.is_some(),
        kernel,
        addresses: args.addresses.clone(),
        gateway: args.gateway,
        listen: args.listen.port(),
        tree: tree(args)?,
        policy: policy(args)?,
        limits: args.bounds.limits(),
        keepalive: args.bounds.keepalive(),
        connections: args.connections,
        copy_below: args.copy_below.map_or(COPY_BELOW, |bytes| bytes as usize),
        share: match args.content_kind {
            // Its IOMMU holds the card to reading: so the kernel gives it pages of a disk's files too.
            KindWord::Shared if args.port().driver.as_deref() == Some("vfio") => Share::OnDisk,
            KindWord::Shared => Share::InMemory,
            _ => Share::Nothing,
        },
        store: StorePlan { kinds, ..StorePlan::default() },
        log: log_plan(args),
    })
}

/// What the kernel says of the interface, if it has our addresses: `None` if it has none of them.
fn kernel(args: &ServeArgs, link: Option<&Link>) -> Fallible<Option<net::HostPlan>> {
    let Some(link) = link else { return Ok(None) };
    let theirs: Vec<IpAddr> = link.addresses()?.into_iter().map(|own| own.address).collect();
    let ours = || args.addresses.iter().map(|prefix| prefix.address);
    match ours().filter(|address| theirs.contains(address)).count() {
        0 => Ok(None),
        _ if args.vlan.is_some() => Err(format!(
            "the kernel has such an address at {} without a tag: with --vlan give one that it does not have",
            link.name
        )
        .into()),
        count if count == args.addresses.len() => {
            let mut plan = net::HostPlan::shared(PortId(0), link, vec![args.listen.port()], 0..0)?;
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

/// Address and MTU of a server without an interface.
const ANYONE: ([u8; 6], u16) = ([2, 0x52, 0x57, 0, 2, 1], 1500);

/// Below this a copy costs no more than a second descriptor, over a veth: `docs/measuring.md` has the measurement.
const COPY_BELOW: usize = 2048;

/// What of the port is ours.
fn filter(args: &ServeArgs, plan: &ServePlan) -> Result<Filter, drivers::xdp::FilterError> {
    let at = |prefix: &Prefix| SocketAddr::new(prefix.address, args.listen.port());
    Filter::flows(
        plan.addresses
            .iter()
            .map(|prefix| if plan.shared { Endpoint::shared(at(prefix)) } else { Endpoint::own(at(prefix)) }),
    )
}

/// The same in each report.
const TASK: Task<'static> = Task { command: "serve", mode: "serve" };

/// Prints while the workers run.
struct Watcher<'a> {
    args: &'a ServeArgs,
    ports: &'a [Port],
    servers: &'a Servers,
    before: RefCell<(Snapshot, Duration, Figures)>,
}

impl Watcher<'_> {
    fn ready(&self, workers: &[WorkerFacts]) -> bool {
        self.servers.show(workers.iter().map(|worker| Arc::clone(&worker.board)).collect());
        let now = total(workers);
        match self.args.format {
            Format::Json => {
                let mut object = report::ready_json(TASK, self.ports, workers, &now);
                let first = self.args.addresses.first().map(|at| self.at(at.address).to_string());
                object["listen"] = first.into();
                object["urls"] = self.urls().into();
                object["root"] = self.args.root.to_string_lossy().into();
                say(&object.to_string())
            }
            Format::Text => say(&format!(
                "{}  {} at {}",
                report::ready_text("serve", self.ports, workers, &now),
                self.args.root.display(),
                self.urls().join(", ")
            )),
        }
    }

    fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.args.listen.port())
    }

    fn urls(&self) -> Vec<String> {
        self.args.addresses.iter().map(|own| format!("http://{}/", self.at(own.address))).collect()
    }

    fn interval_over(&self, workers: &[WorkerFacts], at: Duration) -> bool {
        let now = total(workers);
        let figures = self.servers.figures();
        let mut before = self.before.borrow_mut();
        let (last, then, old) = &*before;
        let rates = Rates::between(last, &now, at - *then);
        let heard = self.args.live.say(|| match self.args.format {
            Format::Json => {
                let mut object = report::interval_json(at, rates, &now);
                object["serve"] = json(&figures);
                object.to_string()
            }
            Format::Text => {
                let line = report::interval_text(at, rates, last, &now);
                let requests = figures.get("requests") - old.get("requests");
                format!("{line}   {requests} requests   {} connections", figures.get("connections"))
            }
        });
        *before = (now, at, figures);
        heard
    }

    fn finish(&self, time: Duration, ends: &[WorkerEnd]) -> Outcome {
        let mut last = Snapshot::default();
        for end in ends {
            last.add(end.last.clone());
        }
        let figures = self.servers.figures();
        let fault = blamed(ends).map(|(_, why)| format!("{}: {why}", self.args.port()));
        match self.args.format {
            Format::Json => {
                let ended = report::ended(ends);
                let mut object =
                    report::end_json(TASK, ended, fault.as_deref(), time, self.ports, ends, &last);
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
