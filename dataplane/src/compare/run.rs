//! One run: a fresh laboratory, one server, the client; everything is gone afterwards.
//!
//! ```text
//!   CPU 1                                        CPU 0
//!   ringway load ── left0 ═══ cable ═══ rw-left [ bypass | kernel's TCP: an engine, nginx ]
//! ```

use super::client::{Answer, End, Wish, ask};
use super::instruments::{Clock, Counters, Instruments};
use super::ledger::{Counted, CpuSpent, Ledger, Timed, Witnesses};
use super::plan::{Cache, Case, ComparePlan, Entry};
use super::server::{KERNEL, OURS, Server, give_the_kernel_an_address};
use super::site::{Site, paths};
use crate::lab::{Lab, LabPlan, Namespace, Side};
use drivers::link::Link;
use drivers::observe::Networks;
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What one run came to.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) ledger: Ledger,
    pub(super) witnesses: Witnesses,
    /// How the device ran.
    pub(super) mode: String,
    pub(super) wire: Wire,
}

/// The offloads of the server's end of the cable, as the kernel says they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wire {
    /// Large pieces of TCP are handed to the device.
    pub tso: bool,
    /// The kernel cuts them just before the device.
    pub gso: bool,
    /// The device gathers.
    pub scatter_gather: bool,
    /// The device fills checksums in.
    pub checksum: bool,
    /// What is received is merged, at the client's end.
    pub client_gro: bool,
}

/// Why there is no sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// This machine has not got the method, and will not get it in the next round: its kernel lacks it, or its program is missing.
    Unavailable(String),
    /// It went wrong.
    Failed(String),
    /// SIGINT or SIGTERM.
    Stopped,
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// The CPUs of server and client: two, where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// Of the server.
    pub server: usize,
    /// Of the client.
    pub client: usize,
}

impl Cpus {
    pub(super) fn of_this_machine() -> Self {
        let allowed = rustix::thread::sched_getaffinity(None);
        let allowed: Vec<usize> = allowed.map_or_else(
            |_| vec![0],
            |set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        );
        let server = allowed.first().copied().unwrap_or(0);
        Self { server, client: allowed.get(1).copied().unwrap_or(server) }
    }
}

/// How long requests are sent before anything is timed.
const WARM_UP: Duration = Duration::from_millis(200);

/// The longest time in which a first whole answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs `entry` once in `case`.
pub(super) fn measure(
    plan: &ComparePlan,
    case: &Case,
    entry: &Entry,
    site: &Site,
    cpus: Cpus,
    instruments: &mut Instruments,
    stop: &AtomicBool,
) -> Result<Sample, Trouble> {
    let measured = attempt(plan, case, entry, site, cpus, instruments, stop);
    // A signal from the terminal also ends what is being waited for: that is no fault of theirs.
    if stop.load(Ordering::Relaxed) { Err(Trouble::Stopped) } else { measured }
}

fn attempt(
    plan: &ComparePlan,
    case: &Case,
    entry: &Entry,
    site: &Site,
    cpus: Cpus,
    instruments: &mut Instruments,
    stop: &AtomicBool,
) -> Result<Sample, Trouble> {
    let lab = Lab::up(&LabPlan { ipv6: false, mtu: case.mtu, ..LabPlan::private("rwc") });
    let lab = lab.map_err(|error| error.to_string())?;
    let wire = wire_up(&lab, case, entry)?;
    let server = Server::start(&lab, &plan.program, entry, case, site, cpus.server, stop)?;
    let mode = server.mode();
    let mut run = Run { plan, case, entry, site, cpus, lab: &lab, stop, served_bytes: 0 };
    let figures = run.figures(&server, instruments);
    let witnesses = server.finish(run.served_bytes);
    // The client's complaint is the first; the server's explains it better when it died.
    let (timed, spent, counted) = match (figures, &witnesses) {
        (Ok(figures), _) => figures,
        (Err(_), Err(why)) => return Err(why.clone().into()),
        (Err(why), Ok(_)) => return Err(why.into()),
    };
    let witnesses = witnesses?;
    let ledger = Ledger::of(
        entry.method,
        case.size,
        wire.scatter_gather || !entry.method.is_kernel(),
        &timed,
        spent.as_ref(),
        &counted,
        &witnesses,
    );
    Ok(Sample { ledger, witnesses, mode, wire })
}

/// Offloads as the case wants them, and the kernel's address for its own servers.
fn wire_up(lab: &Lab, case: &Case, entry: &Entry) -> Result<Wire, String> {
    let words = |error: crate::lab::LabError| error.to_string();
    let state = |on: bool| if on { "on" } else { "off" };
    let (host, middle) = (lab.host(Side::Left), lab.middle());
    let (there, here) = (Side::Left.interface(), Side::Left.port());
    let tso = state(case.tso);
    // As a veth comes: the laboratory has turned GRO on for its forwarders.
    lab.run_in(host, &format!("ethtool -K {there} gro off tso {tso} gso {tso}")).map_err(words)?;
    lab.run_in(middle, &format!("ethtool -K {here} tso {tso} gso {tso}")).map_err(words)?;
    if !entry.scatter_gather {
        lab.run_in(middle, &format!("ethtool -K {here} sg off")).map_err(words)?;
    }
    if entry.method.is_kernel() {
        give_the_kernel_an_address(lab).map_err(words)?;
    }
    let ask = |namespace: &Namespace, name: &'static str| {
        let link = namespace.run(|| Link::by_name(name)).map_err(words)?;
        link.map(|link| link.offloads).map_err(|error| format!("asking for the offloads of {name}: {error}"))
    };
    let (here, there) = (ask(middle, here)?, ask(host, there)?);
    Ok(Wire {
        tso: here.tso,
        gso: here.gso,
        scatter_gather: here.scatter_gather,
        checksum: here.transmit_checksum,
        client_gro: there.gro,
    })
}

struct Run<'a> {
    plan: &'a ComparePlan,
    case: &'a Case,
    entry: &'a Entry,
    site: &'a Site,
    cpus: Cpus,
    lab: &'a Lab,
    stop: &'a AtomicBool,
    /// What all clients got.
    served_bytes: u64,
}

type Figures = (Timed, Option<CpuSpent>, Counted);

impl Run<'_> {
    /// Warm: a run that is timed, and then one in which the kernel counts, since counting slows what is counted. Cold: each file can be
    /// asked for once, so the one run is timed and counted.
    fn figures(&mut self, server: &Server, instruments: &mut Instruments) -> Result<Figures, String> {
        let (pid, cpu) = (server.pid(), self.cpus.server);
        if self.case.cache == Cache::Cold {
            let size = self.case.size;
            self.site.evict(size).map_err(|error| format!("taking files out of the page cache: {error}"))?;
            let (clock, counters) = (
                Clock::start(pid, self.cpus, instruments),
                Counters::start(pid, cpu, self.networks(), instruments),
            );
            let answer = whole(self.ask(End::Once)?)?;
            let spent = clock.stop(instruments);
            let counted = counters.stop(answer.requests, answer.body_bytes, instruments);
            return Ok((timed(&answer), spent, counted));
        }
        // So short that a large file, or a lost packet, may take all of it.
        self.ask(End::After(WARM_UP))?;
        let (answer, spent) = self.timed(pid, instruments)?;
        // By number rather than time: what the server has sent ahead when time is up was copied, and never came.
        let half = (answer.requests / 2).max(self.plan.connections.into());
        let counters = Counters::start(pid, cpu, self.networks(), instruments);
        let during = whole(self.ask(End::Requests(half))?)?;
        let counted = counters.stop(during.requests, during.body_bytes, instruments);
        Ok((timed(&answer), spent, counted))
    }

    /// The laboratory's: nobody else is there.
    fn networks(&self) -> Option<Networks> {
        let number = |namespace: &Namespace| {
            let file = namespace.run(|| std::fs::metadata("/proc/thread-self/ns/net")).ok()?.ok()?;
            u32::try_from(file.ino()).ok()
        };
        let (server, client) = (number(self.lab.middle())?, number(self.lab.host(Side::Left))?);
        Some(Networks { server, client })
    }

    /// As long as was asked for. A short time may fall into a moment in which the machine has no time for us, and no answer is whole:
    /// then once more, and longer.
    fn timed(
        &mut self,
        pid: u32,
        instruments: &mut Instruments,
    ) -> Result<(Answer, Option<CpuSpent>), String> {
        let mut time = self.plan.time;
        loop {
            let clock = Clock::start(pid, self.cpus, instruments);
            let answer = self.ask(End::After(time))?;
            let spent = clock.stop(instruments);
            time *= 4;
            if answer.requests > 0 || time > PATIENCE {
                return Ok((whole(answer)?, spent));
            }
        }
    }

    fn ask(&mut self, end: End) -> Result<Answer, String> {
        let address = if self.entry.method.is_kernel() { KERNEL } else { OURS };
        let paths = paths(self.case.size, self.case.cache);
        let wish = Wish {
            server: &format!("http://{address}"),
            paths: &paths,
            connections: self.plan.connections,
            end,
            cpu: self.cpus.client,
        };
        let answer = ask(self.lab, &self.plan.program, &wish, self.stop)?;
        self.served_bytes += answer.body_bytes;
        // The end cuts off one answer of each connection at most.
        let (least, size) = (answer.requests * self.case.size, self.case.size);
        let most = least + u64::from(self.plan.connections) * size;
        if (least..=most).contains(&answer.body_bytes) {
            return Ok(answer);
        }
        Err(format!(
            "the client: {} bytes of bodies came, where {} whole answers of {size} bytes have {least}",
            answer.body_bytes, answer.requests
        ))
    }
}

/// Without a whole answer there is nothing to say of requests.
fn whole(answer: Answer) -> Result<Answer, String> {
    if answer.requests > 0 {
        return Ok(answer);
    }
    Err(format!(
        "the client: no request was answered in full within {:.1} s; --seconds gives more",
        answer.seconds
    ))
}

fn timed(answer: &Answer) -> Timed {
    let latency = &answer.latency_us;
    Timed {
        requests: answer.requests,
        body_bytes: answer.body_bytes,
        seconds: answer.seconds,
        latency: [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max],
        client_cpu: answer.cpu_seconds.user + answer.cpu_seconds.system,
    }
}
