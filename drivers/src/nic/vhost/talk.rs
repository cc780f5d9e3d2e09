//! Talks with a back end that end in time.
//!
//! The protocol's crate waits for an answer as long as the connection stands: it takes a socket's timeout (`EAGAIN`) for
//! a reason to try again. So the connection is ended from outside.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// What `talk` over this connection returns. Has it not ended after `limit`, the connection is hung up, which ends it.
///
/// # Errors
/// That of the talk; `TimedOut` when it was cut short.
pub(super) fn within<T>(
    limit: Duration,
    stream: &UnixStream,
    talk: impl FnOnce() -> Result<T, vhost::Error>,
) -> io::Result<T> {
    let (ended, waits) = channel::<()>();
    std::thread::scope(|scope| {
        let watchdog = std::thread::Builder::new().name("vhost-user-wait".to_owned());
        let watchdog = watchdog.spawn_scoped(scope, move || {
            let late = waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = stream.shutdown(Shutdown::Both);
            }
            late
        })?;
        let said = talk();
        drop(ended);
        if watchdog.join().unwrap_or(true) {
            let why = format!("the back end gave no answer for {} s", limit.as_secs_f32());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        said.map_err(io::Error::other)
    })
}
