//! `ringway`: the command line. Parsing and printing live here; everything else is in the library.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::init_log();
    cli::Ringway::parse().command.run()
}
