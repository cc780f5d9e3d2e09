//! `ringway load`: what runs, over the kernel's sockets or over a port.
//!
//! | file | |
//! |---|---|
//! | `args.rs` | what was typed, and what it asks for |
//! | `show.rs` | what is printed, at the start, meanwhile and at the end |

mod args;
mod show;

pub(crate) use args::LoadArgs;

use super::{Outcome, misunderstood, signals};
use args::{check_cpus, check_threads};
use dataplane::PortId;
use dataplane::load::client::{ClientPlan, LoadClients};
use dataplane::load::report::Setting;
use dataplane::load::{Questions, Run, Threads};
use dataplane::ports::{Port, Purpose, give_back_abandoned};
use dataplane::session::{SessionPlan, session};
use drivers::PortSpec;
use drivers::link::Link;
use drivers::xdp::{Endpoint, Filter};
use show::{attend, end, end_over_port, ready, ready_over_port};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
                let heard = ready_over_port(args, &run, at, &ports, workers);
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

/// Stops a run when it goes.
struct Abandon<'r>(&'r Run);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
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
    if !ready(args, &run, at) {
        return Ok(ExitCode::SUCCESS);
    }
    let threads = Threads::start(&run, &cpus)?;
    let cpu = attend(args, &run, signal);
    threads.join()?;
    end(args, &run, at, cpu)
}
