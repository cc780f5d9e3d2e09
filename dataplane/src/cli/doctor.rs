//! `ringway doctor`.

use super::{Format, Outcome};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(_args: &DoctorArgs) -> Outcome {
    Err("not yet".into())
}
