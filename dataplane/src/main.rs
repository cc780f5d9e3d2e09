//! `ringway`: the command line. Parsing and printing live here; everything else is in the library.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(why) = dataplane::lab::process::end_with_parent() {
        // Nobody may be reading.
        let _ = writeln!(std::io::stderr(), "ringway: {why}");
        return ExitCode::FAILURE;
    }
    cli::init_log();
    cli::Ringway::parse().command.run()
}
