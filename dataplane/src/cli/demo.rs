//! `ringway demo`.

use super::progress::{Progress, seconds};
use super::{Format, Outcome, print, signals};
use clap::Args;
use dataplane::demo::{self, DemoPlan};
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

/// Exit code 0 only when all content arrived unharmed and all books balance.
pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    signals::stop(&stop)?;
    let plan = DemoPlan { time: args.seconds, ..DemoPlan::of_this_program()? };
    let begin = Instant::now();
    let progress = Progress::new("{spinner} {bar:20} {pos}/{len}  {msg}  {elapsed}");
    let report = demo::run(
        &plan,
        &mut |step| progress.step(u64::from(step.number) - 1, step.of.into(), &step.what),
        &stop,
    );
    progress.end();
    let report = report?;
    let text = match args.format {
        Format::Json => serde_json::to_string(&report)? + "\n",
        Format::Text => report.to_text(begin.elapsed()),
    };
    print::report(&text)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
