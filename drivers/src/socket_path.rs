//! A path at which a socket of ours is to be.

use crate::error::OpenError;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects, and does not wait where others wait to be let in (`EAGAIN`).
pub(crate) fn knock(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Removes a socket that a process has left which was killed: nobody listens there. Anything else stays, and is said of `device`
/// at this `step`.
pub(crate) fn clear_away(path: &Path, device: &str, step: &str) -> Result<(), OpenError> {
    let refused = |why: &str, cure: &str| Err(OpenError::refused(device, step, why).hint(cure));
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        return refused("there is something else at this path", "name a path where nothing is");
    }
    match knock(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{}: removing the socket of a process that is gone", path.display());
            std::fs::remove_file(path).map_err(|source| {
                OpenError::new(device, format!("removing the old socket {}", path.display()), source)
            })
        }
        _ => refused("a process listens there", "end that process, or name another path"),
    }
}
