//! What is read before and after a run, from the kernel. Each instrument may be refused; the others go on, and the report says why.

use super::ledger::{Counted, CpuSpent};
use super::run::Cpus;
use drivers::observe::{
    CopyLedger, Counter, Event, Networks, ObserveError, cpu_seconds, cpu_times, disk_bytes, family,
    kernel_thread,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// An instrument, and why it is refused if it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instrument {
    /// What it tells.
    pub name: &'static str,
    /// Whether it worked.
    pub works: bool,
    /// Otherwise why not, and what would help.
    pub why: Option<String>,
    /// By what means it tells, where there are several.
    pub how: Option<String>,
}

/// All of them, and what became of each.
#[derive(Debug, Default)]
pub(super) struct Instruments {
    refusals: BTreeMap<&'static str, Option<String>>,
    means: BTreeMap<&'static str, String>,
}

const COPIES: &str = "copies in the kernel";
const CPU: &str = "CPU time";
const DISK: &str = "bytes from the disk";

impl Instruments {
    fn take<T, E: std::fmt::Display>(&mut self, name: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                self.refusals.entry(name).or_insert(None);
                Some(value)
            }
            Err(error) => {
                self.refusals.insert(name, Some(error.to_string()));
                None
            }
        }
    }

    /// For the report.
    pub(super) fn states(&self) -> Vec<Instrument> {
        let state = |(name, why): (&&'static str, &Option<String>)| Instrument {
            name,
            works: why.is_none(),
            why: why.clone(),
            how: self.means.get(*name).cloned(),
        };
        self.refusals.iter().map(state).collect()
    }
}

/// CPU time of a server so far.
#[derive(Debug)]
pub(super) struct Clock {
    server: u32,
    cpu: u32,
    /// The client's, if it has one of its own.
    client_cpu: Option<u32>,
    ksoftirqd: Option<u32>,
    before: Option<CpuSpent>,
}

impl Clock {
    pub(super) fn start(server: u32, cpus: Cpus, instruments: &mut Instruments) -> Self {
        let number = |cpu: usize| u32::try_from(cpu).unwrap_or(0);
        let cpu = number(cpus.server);
        let client_cpu = (cpus.client != cpus.server).then(|| number(cpus.client));
        let ksoftirqd = kernel_thread(&format!("ksoftirqd/{cpu}"));
        let mut clock = Self { server, cpu, client_cpu, ksoftirqd, before: None };
        clock.before = instruments.take(CPU, clock.now());
        clock
    }

    fn now(&self) -> std::io::Result<CpuSpent> {
        let softirq = |cpu| cpu_times(cpu).map(|times| times.softirq);
        let client_softirq = self.client_cpu.map(softirq).transpose()?;
        let mut spent = CpuSpent { softirq: softirq(self.cpu)?, client_softirq, ..CpuSpent::default() };
        for process in family(self.server) {
            let seconds = cpu_seconds(process)?;
            spent.user += seconds.user;
            spent.system += seconds.system;
        }
        if let Some(thread) = self.ksoftirqd {
            let seconds = cpu_seconds(thread)?;
            spent.ksoftirqd = seconds.user + seconds.system;
        }
        Ok(spent)
    }

    /// What was spent since the start.
    pub(super) fn stop(self, instruments: &mut Instruments) -> Option<CpuSpent> {
        let (before, now) = (self.before?, instruments.take(CPU, self.now())?);
        Some(CpuSpent {
            user: (now.user - before.user).max(0.0),
            system: (now.system - before.system).max(0.0),
            softirq: (now.softirq - before.softirq).max(0.0),
            ksoftirqd: (now.ksoftirqd - before.ksoftirqd).max(0.0),
            client_softirq: now
                .client_softirq
                .zip(before.client_softirq)
                .map(|(now, before)| (now - before).max(0.0)),
        })
    }
}

/// Counters at work. Counting costs: each system call of the machine takes a longer way while they are open.
#[derive(Debug)]
pub(super) struct Counters {
    server: u32,
    counters: Vec<(Event, Option<(Counter, u64)>)>,
    copies: Option<(CopyLedger, u64)>,
    disk: Option<u64>,
}

impl Counters {
    pub(super) fn start(
        server: u32,
        cpu: usize,
        networks: Option<Networks>,
        instruments: &mut Instruments,
    ) -> Self {
        const OF_PROCESS: [Event; 5] = [
            Event::SystemCalls,
            Event::ContextSwitches,
            Event::Migrations,
            Event::MinorFaults,
            Event::MajorFaults,
        ];
        const OF_CPU: [Event; 2] = [Event::Interrupts, Event::SoftInterrupts];
        let cpu = u32::try_from(cpu).unwrap_or(0);
        let processes = family(server);
        let open = |counter: Result<Counter, ObserveError>| {
            counter.and_then(|counter| counter.read().map(|before| (counter, before)))
        };
        let mut counters = Vec::new();
        for event in OF_PROCESS {
            let counter = open(Counter::of_processes(event, &processes));
            counters.push((event, instruments.take(event.words(), counter)));
        }
        for event in OF_CPU {
            let counter = open(Counter::of_cpu(event, cpu));
            counters.push((event, instruments.take(event.words(), counter)));
        }
        let mut watched = processes;
        watched.extend(kernel_thread(&format!("ksoftirqd/{cpu}")));
        let copies = CopyLedger::attach(&watched, cpu, networks);
        let copies = copies.and_then(|ledger| sum(&ledger).map(|before| (ledger, before)));
        let copies = instruments.take(COPIES, copies);
        if let Some((ledger, _)) = &copies {
            instruments.means.insert(COPIES, ledger.how());
        }
        Self { server, counters, copies, disk: instruments.take(DISK, disk_bytes_of(server)) }
    }

    /// What was counted since the start, while the client got so much.
    pub(super) fn stop(self, requests: u64, body_bytes: u64, instruments: &mut Instruments) -> Counted {
        let mut counted = Counted { requests, body_bytes, ..Counted::default() };
        for (event, counter) in self.counters {
            let since = counter.and_then(|(counter, before)| {
                let now = instruments.take(event.words(), counter.read())?;
                Some(now.saturating_sub(before))
            });
            let place = match event {
                Event::SystemCalls => &mut counted.syscalls,
                Event::ContextSwitches => &mut counted.context_switches,
                Event::Migrations => &mut counted.migrations,
                Event::MinorFaults => &mut counted.minor_faults,
                Event::MajorFaults => &mut counted.major_faults,
                Event::Interrupts => &mut counted.interrupts,
                Event::SoftInterrupts => &mut counted.soft_interrupts,
                Event::TaskClock => continue,
            };
            *place = since;
        }
        counted.copied_bytes = self.copies.and_then(|(ledger, before)| {
            let now = instruments.take(COPIES, sum(&ledger))?;
            Some(now.saturating_sub(before))
        });
        counted.disk_bytes = self.disk.and_then(|before| {
            let now = instruments.take(DISK, disk_bytes_of(self.server))?;
            Some(now.saturating_sub(before))
        });
        counted
    }
}

fn disk_bytes_of(server: u32) -> std::io::Result<u64> {
    family(server).into_iter().map(disk_bytes).sum()
}

fn sum(ledger: &CopyLedger) -> Result<u64, ObserveError> {
    Ok(ledger.read()?.iter().map(|sum| sum.bytes).sum())
}
