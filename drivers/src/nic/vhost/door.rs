//! How we come to a back end: by its socket, or by ours.

use super::port::VhostPlan;
use crate::error::OpenError;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
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

/// Connects, and does not wait where others wait to be let in (`EAGAIN`).
fn knock(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
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
        clear_away(path)?;
        let failed = |source| OpenError::new(path.display().to_string(), "listening for a back end", source);
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

/// Removes a socket that a process has left which was killed: nobody listens there. Anything else stays.
fn clear_away(path: &Path) -> Result<(), OpenError> {
    let refused = |why: &str, cure: &str| {
        Err(OpenError::refused(path.display().to_string(), "listening for a back end", why).hint(cure))
    };
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        return refused("there is something else at this path", "name a path where nothing is");
    }
    match knock(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{}: removing the socket of a process that is gone", path.display());
            std::fs::remove_file(path).map_err(|source| {
                OpenError::new(path.display().to_string(), "removing the old socket", source)
            })
        }
        _ => refused("a process listens there", "end that process, or name another path"),
    }
}
