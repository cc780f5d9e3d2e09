//! The comparison: every way to send a file, in one laboratory, one after another, with the same client.
//!
//! | file | |
//! |---|---|
//! | `method.rs` | the ways, and what of each is known beforehand |
//! | `plan.rs` | what is to be compared, in which cases |
//! | `run.rs` | one run, from an empty laboratory to its figures |
//! | `server.rs`, `client.rs`, `site.rs` | who serves, who asks, what is served |
//! | `instruments.rs` | what the kernel counts |
//! | `ledger.rs` | the figures, each with how it is known |
//! | `summary.rs` | medians and spread of several rounds, and who wins |
//! | `claims.rs` | what the literature says, beside what was found |
//! | `machine.rs` | where all this is true |
//! | `text.rs`, `html.rs`, `plot.rs` | the report for people; `save.rs` puts it on the disk |

mod claims;
mod client;
mod html;
mod instruments;
pub mod ledger;
mod machine;
pub mod method;
pub mod plan;
mod plot;
mod run;
mod save;
mod server;
mod site;
mod summary;
mod text;

pub use claims::Claim;
pub use instruments::Instrument;
pub use machine::Machine;
pub use run::{Cpus, Wire};
pub use save::{PageFile, SaveError};
pub use summary::{Figure, Row};

use crate::lab::rights::{self, Lacking};
use crate::lab::{Lab, LabError, LabPlan};
use instruments::Instruments;
use plan::{Case, ComparePlan, Entry};
use run::{Sample, Trouble, measure};
use serde::Serialize;
use site::Site;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run that begins now.
#[derive(Clone, Debug)]
pub struct Step {
    /// What, in words.
    pub what: String,
    /// How many runs are behind.
    pub done: u64,
    /// How many there are.
    pub of: u64,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The laboratory cannot be built.
    #[error("the laboratory needs what this process lacks: {}\n  {}", .0.why, .0.cures.join("\n  "))]
    Lacking(Lacking),
    /// It cannot be built for another reason.
    #[error(transparent)]
    Lab(LabError),
    /// The files to serve cannot be written.
    #[error("{0}")]
    Files(String),
    /// SIGINT or SIGTERM before the first figure.
    #[error("stopped by a signal before the first figure; the laboratory and all processes in it are gone")]
    Stopped,
}

/// All that was found. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `compare`.
    pub event: &'static str,
    /// Whether a signal ended it before all rounds were done.
    pub interrupted: bool,
    /// How long it took.
    pub seconds: f64,
    /// Where it is true.
    pub machine: Machine,
    /// Of the client at once.
    pub connections: u32,
    /// That were asked for.
    pub rounds: u32,
    /// Of each timed run.
    pub run_seconds: f64,
    /// What told the figures, and what could not.
    pub instruments: Vec<Instrument>,
    /// One for each method in each case.
    pub rows: Vec<Row>,
    /// What the literature says, beside what was found.
    pub claims: Vec<Claim>,
    /// Who wins where, in sentences.
    pub verdicts: Vec<String>,
    /// Whether each run of each method that this machine has went well.
    pub ok: bool,
}

/// What came of one method in one case.
#[derive(Debug)]
struct Gathered {
    case: Case,
    entry: Entry,
    samples: Vec<Sample>,
    unavailable: Option<String>,
    failures: Vec<String>,
}

/// Runs everything, round by round, so that what disturbs the machine for a while disturbs all methods alike. Nothing is left behind,
/// whatever happens: processes, laboratory and files go with the values that stand for them.
///
/// # Errors
/// [`CompareError`] when there is no laboratory or no figure to report. A method that this machine has not, or that failed, is a row of
/// the report.
pub fn run(
    plan: &ComparePlan,
    watch: &mut dyn FnMut(&Step),
    stop: &AtomicBool,
) -> Result<Report, CompareError> {
    if let Some(lacking) = rights::lacking(&plan.program, "compare") {
        return Err(CompareError::Lacking(lacking));
    }
    let begin = Instant::now();
    // What every run needs is tried once: so it is said once.
    if let Err(error) = Lab::up(&LabPlan { ipv6: false, ..LabPlan::private("rwc") }) {
        if stop.load(Ordering::Relaxed) {
            return Err(CompareError::Stopped);
        }
        let lacking = rights::refused(error, &plan.program, "compare");
        return Err(lacking.map_or_else(CompareError::Lab, CompareError::Lacking));
    }
    let site = Site::write(plan).map_err(CompareError::Files)?;
    let cpus = Cpus::of_this_machine();
    let mut instruments = Instruments::default();
    let mut gathered = all_of(plan);
    let of = gathered.len() as u64 * u64::from(plan.rounds);
    let (mut done, mut interrupted) = (0, false);
    'rounds: for round in 1..=plan.rounds {
        for place in turns(gathered.len(), round) {
            let one = &mut gathered[place];
            watch(&Step { what: words(one, round, plan.rounds), done, of });
            done += 1;
            if one.unavailable.is_some() {
                continue;
            }
            match measure(plan, &one.case, &one.entry, &site, cpus, &mut instruments, stop) {
                Ok(sample) => one.samples.push(sample),
                Err(Trouble::Unavailable(why)) => one.unavailable = Some(why),
                Err(Trouble::Failed(why)) => one.failures.push(why),
                Err(Trouble::Stopped) => {
                    interrupted = true;
                    break 'rounds;
                }
            }
        }
    }
    let rows: Vec<Row> = gathered.iter().map(Row::of).collect();
    if interrupted && rows.iter().all(|row| row.rounds == 0) {
        return Err(CompareError::Stopped);
    }
    Ok(Report {
        event: "compare",
        interrupted,
        seconds: begin.elapsed().as_secs_f64(),
        machine: Machine::this(cpus, &plan.folder),
        connections: plan.connections,
        rounds: plan.rounds,
        run_seconds: plan.time.as_secs_f64(),
        instruments: instruments.states(),
        claims: claims::found(&rows),
        verdicts: summary::verdicts(&rows),
        ok: rows.iter().all(|row| row.failures.is_empty()) && rows.iter().any(|row| row.rounds > 0),
        rows,
    })
}

/// Who comes when in a round. Each round begins with another, so that nobody always comes right after the same one, and what
/// disturbs the machine at the beginning or the end does not always meet the same one; every other round goes backwards.
fn turns(count: usize, round: u32) -> impl Iterator<Item = usize> {
    let shift = (round - 1) as usize;
    (0..count).map(move |place| {
        let place = (place + shift) % count;
        if round.is_multiple_of(2) { count - 1 - place } else { place }
    })
}

fn all_of(plan: &ComparePlan) -> Vec<Gathered> {
    let entries = plan.entries();
    let of_case = |case: Case| {
        let one = move |entry: &Entry| Gathered {
            case,
            entry: *entry,
            samples: Vec::new(),
            unavailable: None,
            failures: Vec::new(),
        };
        entries.iter().map(one).collect::<Vec<_>>()
    };
    plan.cases().into_iter().flat_map(of_case).collect()
}

fn words(one: &Gathered, round: u32, rounds: u32) -> String {
    format!("round {round} of {rounds}: {}, {}", one.entry.title(), one.case.words())
}

#[cfg(test)]
mod tests {
    use super::turns;

    /// Everybody has one turn in each round, and not always after the same one.
    #[test]
    fn rounds_have_orders_of_their_own() {
        let rounds: Vec<Vec<usize>> = (1..=3).map(|round| turns(4, round).collect()).collect();
        assert_eq!(rounds, [[0, 1, 2, 3], [2, 1, 0, 3], [2, 3, 0, 1]]);
        for round in 1..=9 {
            let mut order: Vec<usize> = turns(5, round).collect();
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4], "round {round}");
        }
        assert_eq!(turns(0, 1).count(), 0);
    }
}
