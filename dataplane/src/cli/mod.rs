//! What the user typed, as types; one module a command.

mod compare;
mod demo;
mod doctor;
mod forward;
mod lab;
mod load;
mod serve;

use clap::{Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::process::ExitCode;

/// What a command ends with: an exit code, or a sentence that names the thing, the step, the cause and the cure.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// A kernel-bypass packet forwarder.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, about, propagate_version = true)]
pub(crate) struct Ringway {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole story in a private laboratory, in less than a minute; needs no argument.
    Demo(demo::DemoArgs),
    /// Forward packets between ports.
    Forward(forward::ForwardArgs),
    /// Serve files over our own TCP.
    Serve(Box<serve::ServeArgs>),
    /// Measure every way to send a file side by side: the bypass, each engine of the kernel's, nginx.
    Compare(Box<compare::CompareArgs>),
    /// Ask a server for as much as it can give, and time its answers.
    Load(Box<load::LoadArgs>),
    /// Say what this machine and each interface can do, and the cure for what they can't.
    Doctor(doctor::DoctorArgs),
    /// The two-host veth laboratory: up, down, exec.
    Lab(lab::LabArgs),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
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
