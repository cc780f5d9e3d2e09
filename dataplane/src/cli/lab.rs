//! `ringway lab`.

use super::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct LabArgs {}

pub(crate) fn run(_args: &LabArgs) -> Outcome {
    Err("not yet".into())
}
