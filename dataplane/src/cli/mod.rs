//! What the user typed, as types; one module a command.

mod compare;
mod demo;
mod doctor;
mod forward;
mod lab;
mod load;
mod print;
mod progress;
mod serve;
mod signals;

use clap::{Parser, Subcommand, ValueEnum};
use dataplane::lab::process::LACKING;
use drivers::{PortSpec, SpecError};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// What a command ends with: an exit code, or a sentence that names the thing, the step, the cause and the cure.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// A command line that contradicts itself, or wishes for what cannot be: exit code 2, like what clap does not understand.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misunderstood(String);

/// [`Misunderstood`], in these words.
pub(crate) fn misunderstood(words: impl std::fmt::Display) -> Box<dyn std::error::Error> {
    Box::new(Misunderstood(words.to_string()))
}

/// The kernel lacks what was asked for: an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Lacking(Box<dyn std::error::Error>);

/// A port, with options that its driver knows.
pub(crate) fn port(text: &str) -> Result<PortSpec, SpecError> {
    let spec = text.parse()?;
    dataplane::ports::check(&spec)?;
    Ok(spec)
}

/// Forward packets, serve files and load servers past the kernel's network stack.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, propagate_version = true)]
pub(crate) struct Ringway {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What each is for stands at its arguments: a comment here would hide theirs, and `--help` would be no longer than `-h`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Forward(forward::ForwardArgs),
    Serve(Box<serve::ServeArgs>),
    Compare(Box<compare::CompareArgs>),
    Load(Box<load::LoadArgs>),
    Doctor(doctor::DoctorArgs),
    Lab(lab::LabArgs),
}

/// What clap does not understand.
const MISUNDERSTOOD: u8 = 2;

impl Command {
    /// Does it, and says in words why it could not.
    pub(crate) fn run(self) -> ExitCode {
        let ended = self.outcome().and_then(|code| print::whole().map(|()| code));
        ended.unwrap_or_else(|error| {
            // Nobody may be reading.
            let _ = writeln!(std::io::stderr(), "ringway: {error}");
            match error {
                error if error.is::<Misunderstood>() => ExitCode::from(MISUNDERSTOOD),
                error if error.is::<Lacking>() => ExitCode::from(LACKING),
                _ => ExitCode::FAILURE,
            }
        })
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Demo(args) => demo::run(&args),
            Self::Forward(args) => forward::run(&args),
            Self::Serve(args) => serve::run(&args),
            Self::Compare(args) => compare::run(&args),
            Self::Load(args) => load::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Lab(args) => lab::run(&args),
        }
    }
}

/// How results are printed: a table for people, JSON with stable names for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Logs go to standard error; `RINGWAY_LOG` sets the level (default `warn`).
pub(crate) fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // Colours are for a person's eyes, not for a log file.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(colours).without_time().init();
}

#[cfg(test)]
mod tests {
    use super::Ringway;
    use clap::CommandFactory;

    /// The list of commands has one line for each, and `COMMAND --help` says more than `COMMAND -h` where there is more.
    #[test]
    fn help_is_short_in_the_list_and_long_when_asked_for() {
        let mut program = Ringway::command();
        program.build();
        let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let list = one_line(program.render_help().to_string());
        assert!(list.starts_with("Forward packets, serve files and load servers"), "{list}");
        for command in program.get_subcommands() {
            let line = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!line.is_empty() && !line.contains('\n'), "{}: {line:?}", command.get_name());
            assert!(list.contains(&line), "{line:?} is not in {list}");
        }
        for (name, words) in [
            ("demo", "AF_XDP"),
            ("forward", "tap=FILE"),
            ("serve", "neighbour discovery"),
            ("compare", "Each figure says"),
            ("load", "Without --rate"),
        ] {
            let command = program.find_subcommand_mut(name).expect(name);
            let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.contains(words), "{name}: {about:?}");
            assert!(one_line(command.render_long_help().to_string()).contains(words), "{name} --help");
            assert!(!list.contains(words), "{words:?} is for {name} --help: {list}");
        }
    }
}
