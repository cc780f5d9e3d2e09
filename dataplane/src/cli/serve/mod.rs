//! `ringway serve`.

mod args;
mod bounds;
mod bypass;
mod kernel;
mod reservation;

pub(crate) use args::{ServeArgs, address};

use super::{Lacking, Outcome, misunderstood};
use args::{ListingWord, LogWord, SymlinkWord};
use dataplane::serve::http::{Policy, PolicyPlan, media};
use dataplane::serve::log::{self, LogPlan};
use dataplane::serve::tree::{HostPlan, Symlinks, TreePlan};
use rustix::io::Errno;
use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Serves. Where the kernel lacks what was asked for, the exit code is one of its own: who compares methods tells that from a
/// failure.
pub(crate) fn run(args: &ServeArgs) -> Outcome {
    args.check().map_err(misunderstood)?;
    let outcome = match args.engine {
        Some(method) => kernel::run(args, method),
        None => bypass::run(args),
    };
    outcome.map_err(|error| if is_lacking(&*error) { Box::new(Lacking(error)) } else { error })
}

/// Whether the kernel has not got it: the kernel said so, or an engine did, which looked.
fn is_lacking(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && (error.kind() == io::ErrorKind::Unsupported
                || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn tree(args: &ServeArgs) -> Fallible<TreePlan> {
    let hosts =
        args.hosts.iter().map(|(name, root)| HostPlan { names: vec![name.clone()], root: root.clone() });
    let mut tree = TreePlan::new(&args.root);
    tree.hosts.extend(hosts);
    tree.symlinks = match args.symlinks {
        SymlinkWord::Off => Symlinks::Off,
        SymlinkWord::Owner => Symlinks::Owner,
        SymlinkWord::On => Symlinks::On,
    };
    tree.listing = args.listing == ListingWord::On;
    Ok(tree)
}

fn policy(args: &ServeArgs) -> Fallible<Policy> {
    let page = |(status, file): &(u16, PathBuf)| -> Result<(u16, String, Vec<u8>), String> {
        let content = std::fs::read(file).map_err(|error| {
            let file = file.display();
            format!(
                "--error-page {status}={file}: reading it failed: {error}\n  give a file that is there and that this \
                 user can read"
            )
        })?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok((*status, media::of_name(&name).to_owned(), content))
    };
    let pages = args.error_pages.iter().map(page).collect::<Result<_, _>>()?;
    Ok(Policy::new(&PolicyPlan {
        cache: args.cache_control.clone(),
        pages,
        uploads: args.upload.is_some(),
        ..PolicyPlan::default()
    })?)
}

/// Answers that may wait for the thread that writes the log.
const LOG_RECORDS: usize = 8192;

fn log_plan(args: &ServeArgs) -> Option<LogPlan> {
    args.access_log.as_ref().map(|path| LogPlan {
        path: Some(path.clone()).filter(|path| path.as_os_str() != "-"),
        format: match args.log_format {
            LogWord::Combined => log::Format::Combined,
            LogWord::Json => log::Format::Json,
        },
        capacity: LOG_RECORDS,
    })
}
