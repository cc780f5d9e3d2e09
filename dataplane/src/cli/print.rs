//! Standard output, which may end before we do.

use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

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
