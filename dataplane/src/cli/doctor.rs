//! `ringway doctor`.

use super::{Format, Outcome, print};
use clap::Args;
use dataplane::doctor::{Colour, Report};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Say what this machine, each interface and each network card can do, and the cure for what they can't.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Interfaces, and PCI addresses of cards, to examine [default: all but the loopback].
    #[arg(value_name = "INTERFACE|ADDRESS")]
    interfaces: Vec<String>,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Exit code 0 when nothing is an error, 1 otherwise.
pub(crate) fn run(args: &DoctorArgs) -> Outcome {
    dataplane::ports::give_back_abandoned(&[]);
    let report = Report::examine(&args.interfaces);
    print::report(&match args.format {
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Text => report.to_text(colour(&std::io::stdout())),
    })?;
    Ok(if report.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Colours on a terminal, unless the user does not want them (<https://no-color.org>).
fn colour(out: &impl IsTerminal) -> Colour {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if out.is_terminal() && !unwanted { Colour::Ansi } else { Colour::Never }
}
