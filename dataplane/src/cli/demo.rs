//! `ringway demo`.

use super::{Format, Outcome, print};
use clap::Args;
use dataplane::demo::{self, DemoPlan, Step};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The whole story in a private laboratory, in less than a minute; needs no argument.
///
/// Builds a private laboratory of two hosts and forwards real packets between them, through AF_XDP and then through the
/// kernel fallback. Without the rights for that it says which are missing, and shows the loop in memory.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long to send each kind of traffic, in seconds, 0.1 to 60.
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.1..=60.0).contains(&seconds) {
        return Err("it must be 0.1 to 60".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Exit code 0 only when all content arrived unharmed and all books balance.
pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let plan = DemoPlan { time: args.seconds, ..DemoPlan::of_this_program()? };
    let begin = Instant::now();
    let mut progress = Progress::new();
    let report = demo::run(&plan, &mut |step| progress.step(step), &stop);
    progress.end();
    let report = report?;
    let text = match args.format {
        Format::Json => serde_json::to_string(&report)? + "\n",
        Format::Text => report.to_text(begin.elapsed()),
    };
    print::report(&text)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is being done: a line that moves on a terminal, plain lines elsewhere; on standard error in both cases.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {bar:20} {pos}/{len}  {msg}  {elapsed}")
            .expect("a template known to be right");
        let bar = ProgressBar::new(1).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    fn step(&mut self, step: &Step) {
        match &self.0 {
            Some(bar) => {
                bar.set_length(step.of.into());
                bar.set_position((step.number - 1).into());
                bar.set_message(step.what.clone());
            }
            None => {
                // Nobody may be reading; the demonstration goes on.
                let _ = writeln!(std::io::stderr(), "[{}/{}] {}", step.number, step.of, step.what);
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
