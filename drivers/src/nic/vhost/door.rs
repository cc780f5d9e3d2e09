//! How we come to a back end: by its socket, or by ours.

use super::port::VhostPlan;
use crate::error::OpenError;
use crate::socket_path::{clear_away, knock};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// How we come to a back end.
#[derive(Debug)]
pub(super) enum Door {
    /// We connect to its socket.
    Knock,
    /// It connects to ours, which goes with us.
    Open(Listening),
}

impl Door {
    pub(super) fn new(plan: &VhostPlan) -> Result<Self, OpenError> {
        Ok(if plan.server { Self::Open(Listening::at(&plan.path)?) } else { Self::Knock })
    }

    /// One attempt, which waits for nobody.
    pub(super) fn connect(&self, plan: &VhostPlan) -> io::Result<UnixStream> {
        let stream = match self {
            Self::Knock => knock(&plan.path)?,
            Self::Open(own) => own.listener.accept()?.0,
        };
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

/// A socket of ours; its name goes with it.
#[derive(Debug)]
pub(super) struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the name.
    named: (u64, u64),
}

impl Listening {
    fn at(path: &Path) -> Result<Self, OpenError> {
        let (device, step) = (path.display().to_string(), "listening for a back end");
        clear_away(path, &device, step)?;
        let failed = |source| OpenError::new(&device, step, source);
        let listener = UnixListener::bind(path)
            .map_err(|source| failed(source).hint("its folder must be there, and ours to write in"))?;
        let named = path.symlink_metadata().map_err(failed)?;
        let named = (named.dev(), named.ino());
        let own = Self { listener, path: path.to_owned(), named };
        own.listener.set_nonblocking(true).map_err(failed)?;
        Ok(own)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Only what is ours still: somebody may have put his own there.
        if self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.named) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
