//! What commands have in common that take their time: a bar on a terminal, plain lines elsewhere; on standard error in both cases.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// What is being done, and how far that is.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// In the words of a template of `indicatif`'s.
    pub(super) fn new(template: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(template).expect("a template known to be right");
        let bar = ProgressBar::new(1).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    /// So many steps of all are done, and this is the next one.
    pub(super) fn step(&self, done: u64, of: u64, what: &str) {
        match &self.0 {
            Some(bar) => {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message(what.to_owned());
            }
            None => {
                // Nobody may be reading; it goes on.
                let _ = writeln!(std::io::stderr(), "[{}/{of}] {what}", done + 1);
            }
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How long each step is to be timed.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.1..=60.0).contains(&seconds) {
        return Err("it must be 0.1 to 60".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
