//! `ringway`: the command line. Parsing and printing live here; everything else is in the library.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::init_log();
    let args = cli::Ringway::parse();
    match args.command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringway: {error}");
            ExitCode::FAILURE
        }
    }
}
