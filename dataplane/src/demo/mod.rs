//! The demonstration: real packets between two hosts in a private laboratory, act by act, ending in one table.
//!
//! | act | file | |
//! |---|---|---|
//! | forward | `forward.rs` | TCP and UDP of the kernel's own through `ringway forward`, driver by driver |
//! | serve | `serve.rs` | a small site and a file of 64 MiB, from `ringway serve` to the kernel's TCP, driver by driver |
//! | compare | `compare.rs` | one file by three ways: the bypass, `sendfile`, read and write |
//! | memory | `memory.rs` | the same loop over the loopback driver, where the rights for a laboratory are missing |
//!
//! `site.rs` makes what is served, `books.rs` puts
//! together what sockets, kernel and ringway counted, `text.rs` writes the table.

mod books;
mod compare;
mod forward;
mod measured;
mod memory;
mod serve;
mod site;
mod text;

pub use crate::lab::rights::Lacking;
pub use measured::{Losses, Measured, QueueMode, Row, Served};

use crate::lab::{Lab, LabError, LabPlan, rights};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoPlan {
    /// The program that forwards and serves: `ringway` itself.
    pub program: PathBuf,
    /// How long each kind of traffic is forwarded; files are served for half as long.
    pub time: Duration,
    /// Drivers to show, one after another, each as it begins a port on the command line.
    pub drivers: Vec<String>,
}

impl DemoPlan {
    /// AF_XDP, then the kernel fallback, through this program.
    ///
    /// # Errors
    /// When the kernel does not say which file this program is: no `/proc`.
    pub fn of_this_program() -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            time: Duration::from_secs(3),
            drivers: vec!["af-xdp".to_owned(), "packet".to_owned()],
        })
    }
}

/// A step that begins now.
#[derive(Clone, Debug)]
pub struct Step {
    /// What, in words.
    pub what: String,
    /// Its number, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// SIGINT or SIGTERM.
    #[error("stopped by a signal; the laboratory and all processes in it are gone")]
    Stopped,
    /// The laboratory could not be built although the rights are there.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Not even memory could be had.
    #[error("the loopback driver: {0}")]
    Memory(String),
}

/// All that was shown. Its JSON names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `demo`.
    pub event: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Why real packets could not be shown, when they could not.
    pub lacking: Option<Lacking>,
    /// The rows of the table, in the order of the acts.
    pub rows: Vec<Row>,
    /// The last act: three ways to send a file, side by side.
    pub comparison: Option<crate::compare::Report>,
    /// Why there is none, when real packets were shown.
    pub comparison_error: Option<String>,
    /// Whether all content arrived unharmed, all books balance and no row failed.
    pub ok: bool,
}

/// Runs the acts that this machine has the rights for. Nothing is left behind, whatever happens: processes and laboratory go with
/// the values that stand for them.
///
/// # Errors
/// [`DemoError`] when it was stopped, or the laboratory cannot be built for a reason other than rights. A driver that fails is a row
/// of the report.
pub fn run(plan: &DemoPlan, watch: &mut dyn FnMut(&Step), stop: &AtomicBool) -> Result<Report, DemoError> {
    let mut lacking = rights::lacking(&plan.program, "demo");
    let (mut rows, mut comparison) = (Vec::new(), None);
    if lacking.is_none() {
        match with_lab(plan, watch, stop) {
            Ok(shown) => {
                rows = shown;
                comparison = Some(compare::act(plan, watch, stop));
            }
            Err(DemoError::Lab(error)) => lacking = Some(rights::refused(error, &plan.program, "demo")?),
            Err(error) => return Err(error),
        }
    }
    if lacking.is_some() {
        rows = memory::act(plan.time, watch, stop)?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(DemoError::Stopped);
    }
    let (comparison, comparison_error) = match comparison {
        Some(Ok(report)) => (Some(report), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let ok = !rows.is_empty()
        && rows.iter().all(Row::in_order)
        && comparison_error.is_none()
        && comparison.as_ref().is_none_or(|report| report.ok);
    Ok(Report {
        event: "demo",
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        lacking,
        rows,
        comparison,
        comparison_error,
        ok,
    })
}

/// Steps before the last act.
fn steps_before(plan: &DemoPlan) -> u32 {
    1 + forward::steps(plan) + serve::steps(plan)
}

/// The acts that need two hosts.
fn with_lab(plan: &DemoPlan, watch: &mut dyn FnMut(&Step), stop: &AtomicBool) -> Result<Vec<Row>, DemoError> {
    let of = steps_before(plan) + compare::steps();
    watch(&Step { what: "building a laboratory: two hosts, two cables".to_owned(), number: 1, of });
    // Without IPv6 the laboratory carries not one frame of its own accord: what is counted is what was sent.
    let lab = Lab::up(&LabPlan { ipv6: false, ..LabPlan::private("rwd") });
    // A signal from the terminal also ends the commands that build it: that is no fault of theirs.
    if stop.load(Ordering::Relaxed) {
        return Err(DemoError::Stopped);
    }
    let lab = lab?;
    let mut number = 1;
    let mut next = |what: String| {
        number += 1;
        watch(&Step { what, number, of });
    };
    let mut rows = forward::act(&lab, plan, &mut next, stop)?;
    rows.extend(serve::act(&lab, plan, &mut next, stop)?);
    Ok(rows)
}
