//! Standard output, which may end before we do; and how often something is said there.

use clap::Args;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// Lines while it runs.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Live {
    /// Seconds between two lines about what passes, 0.1 to 86400.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(super) interval: Duration,
    /// No such lines: only what was opened, and the end.
    #[arg(long, conflicts_with = "interval")]
    pub(super) quiet: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give a number of seconds from 0.1 to 86400".to_owned()),
    }
}

impl Live {
    /// Prints a line about what passes, if such lines are wanted; says whether anybody still reads.
    pub(super) fn say(self, line: impl FnOnce() -> String) -> bool {
        self.quiet || say(&line())
    }
}

/// Why a line could not be printed: the first time that it happened.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a line; says whether anybody still reads. A line that cannot be written, on a full disk say, is no reason to
/// stop in the middle: it is told once in the log, and [`whole`] tells it at the end.
pub(super) fn say(line: &str) -> bool {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => false,
        Err(error) => {
            if LOST.set(error.to_string()).is_ok() {
                tracing::warn!("printing: {error}; it goes on, and lines are missing");
            }
            true
        }
    }
}

/// Prints a whole report.
///
/// # Errors
/// When it cannot be written. That whoever reads has read enough is no error.
pub(super) fn report(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(missing(&error.to_string())),
        _ => Ok(()),
    }
}

/// Whether all that was said was written.
///
/// # Errors
/// A sentence, when it was not.
pub(super) fn whole() -> Result<(), Box<dyn std::error::Error>> {
    LOST.get().map_or(Ok(()), |why| Err(missing(why).into()))
}

fn missing(why: &str) -> String {
    format!(
        "printing to standard output failed: {why}; what it was sent to lacks lines: make room there, or send it elsewhere"
    )
}
