//! The kernel's ways of sending a file: from a file to a TCP socket by each method that Linux has.
//!
//! ```text
//!   Engine::push(flow, job) ─┬─► Sent(n)     so many bytes of head and file are the kernel's now
//!                            ├─► Full        the socket takes no more: push again when it is writable
//!                            ├─► Later       under way: Engine::poll names the flow when there is news
//!                            └─► Gone, Broken
//! ```
//!
//! A *flow* is a connection, by its number; an engine keeps for it what lies between file and socket: a buffer, a pipe,
//! a mapping. The caller keeps where in the stream it is, and pushes the same place again until that was sent.
//!
//! | file | methods |
//! |---|---|
//! | `copy.rs` | `read-write`; what others do where they have no pipe or buffer |
//! | `sendfile.rs` | `sendfile` |
//! | `mapped.rs` | `mmap-write`, `zerocopy`: straight from a mapping, which only the kernel touches |
//! | `pipes.rs` | `splice`, `vmsplice` (and `tee`) |
//! | `uring.rs`, `uring/` | `uring`, `uring-splice`, `uring-zerocopy`, `direct-uring` |
//! | `aio.rs` | `direct-aio` |
//! | `receive.rs` | the other direction: `splice`, `read-write` |
//! | `raw.rs` | the system calls that no safe crate has |

mod aio;
mod buffers;
mod copy;
mod mapped;
mod pipes;
mod raw;
mod receive;
mod sendfile;
#[cfg(test)]
mod tests;
mod uring;

pub use receive::{Got, Receive, Received, Receiver};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, send};
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A way of getting a file's bytes into a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `pread` into a buffer, `send` from it: two copies by the CPU.
    ReadWrite,
    /// `sendmsg` from a mapping of the file: one copy.
    MmapWrite,
    /// `sendfile`: the socket refers to the pages of the page cache; no copy where the device gathers.
    Sendfile,
    /// `splice` from the file into a pipe, and from there into the socket: references, as with `sendfile`.
    Splice,
    /// `vmsplice` of a mapping into a pipe, `splice` into the socket; a body that several ask for goes by `tee`.
    Vmsplice,
    /// `send` with `MSG_ZEROCOPY` from a mapping: references, given back over the error queue.
    Zerocopy,
    /// io_uring: reads into registered buffers, sends from them.
    Uring,
    /// io_uring: splices through a pipe.
    UringSplice,
    /// io_uring: reads into registered buffers, `SEND_ZC` from them.
    UringZerocopy,
    /// Linux AIO past the page cache (`O_DIRECT`), `send` from the buffer.
    DirectAio,
    /// io_uring past the page cache (`O_DIRECT`) into registered buffers, sends from them.
    DirectUring,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::ReadWrite,
        Self::MmapWrite,
        Self::Sendfile,
        Self::Splice,
        Self::Vmsplice,
        Self::Zerocopy,
        Self::Uring,
        Self::UringSplice,
        Self::UringZerocopy,
        Self::DirectAio,
        Self::DirectUring,
    ];

    /// As the user calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "read-write",
            Self::MmapWrite => "mmap-write",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::Vmsplice => "vmsplice",
            Self::Zerocopy => "zerocopy",
            Self::Uring => "uring",
            Self::UringSplice => "uring-splice",
            Self::UringZerocopy => "uring-zerocopy",
            Self::DirectAio => "direct-aio",
            Self::DirectUring => "direct-uring",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|method| method.name()).collect();
            format!("unknown method; there are {}", names.join(", "))
        })
    }
}

/// A file that is served.
pub trait Source {
    /// Its number: no other file, nor another version of it, has it.
    fn id(&self) -> u64;

    /// Its bytes.
    fn size(&self) -> u64;

    /// The file, opened to be read.
    fn file(&self) -> BorrowedFd<'_>;

    /// The same, opened with `O_DIRECT`; `None` where its file system refuses.
    fn direct(&self) -> Option<BorrowedFd<'_>>;

    /// Whether it is still the file, and the version of it, that it was. A system call.
    fn is_same(&self) -> bool;

    /// Whether it is known not to be. No system call.
    fn is_gone(&self) -> bool;
}

/// When a file is looked at for a body that goes in one push. Where that is never, what is read is what is sent, at once, and of a file that
/// became shorter there is less to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Only for bodies that took longer.
    Never,
    /// Before the push, by the caller: behind a new end of the file its mapping has zeros, up to the end of the page.
    Before,
    /// By the engine, between read and send: the read is done some time after the push.
    Between,
}

/// What is to be sent next over a flow.
#[derive(Debug)]
pub struct Job<'j, S> {
    /// Where to. Kept by an engine as long as the kernel works with it.
    pub socket: &'j Rc<OwnedFd>,
    /// Bytes in front of the file's: at most [`HEAD_MAX`].
    pub head: &'j [u8],
    /// Which file.
    pub file: &'j Arc<S>,
    /// Where in it.
    pub offset: u64,
    /// How many bytes; at least one.
    pub bytes: u64,
    /// Whether more follows, so that the last packet is not sent before it is full.
    pub more: bool,
    /// With these bytes a body ends that was begun some time ago, or whose engine wants a [look](Look::Between): where they are read before they
    /// are sent, the file must still be the same between the two.
    pub check: bool,
}

impl<S: Source> Job<'_, S> {
    /// Whether the file was changed before the last of the `read` bytes: then they are not to be sent.
    fn is_spoilt(&self, read: usize) -> bool {
        self.check && read as u64 == self.bytes && !self.file.is_same()
    }
}

/// The longest head that a job may have.
pub const HEAD_MAX: usize = 2048;

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes, of the head first, have become the kernel's.
    Sent(u64),
    /// The socket takes nothing now.
    Full,
    /// It is under way.
    Later,
    /// The file is shorter than it was.
    Gone,
    /// The connection is.
    Broken,
    /// The kernel refused, which is said in the log: the file cannot be had.
    Failed,
}

/// What an engine has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of files that this process copied from memory to memory.
    pub copied_bytes: u64,
    /// Sends that promised the kernel to leave the bytes alone (`MSG_ZEROCOPY`, `SEND_ZC`).
    pub zerocopy_sends: u64,
    /// Of these, those that the kernel says it has copied after all.
    pub zerocopy_copied: u64,
    /// Sends that the kernel is done with, zero-copy ones.
    pub zerocopy_done: u64,
    /// Those whose connection ended before the kernel said so: nobody can be told any more.
    pub zerocopy_abandoned: u64,
    /// Bytes of files that were read into buffers of this process; those that a socket did not take, and that could not be kept, each
    /// time they were.
    pub read_bytes: u64,
    /// Bytes read past the page cache.
    pub direct_read_bytes: u64,
    /// Bytes that should have been, but their file system refuses `O_DIRECT`.
    pub direct_refused_bytes: u64,
    /// Bytes that an engine which need not copy sent by copying: all of its buffers were with slow readers, the user may lock no more
    /// memory, or there was no pipe.
    pub fallback_bytes: u64,
    /// Bytes that reached a socket through a second pipe, by `tee`.
    pub teed_bytes: u64,
    /// Bytes that reached a pipe by `vmsplice`.
    pub vmspliced_bytes: u64,
    /// Operations that went through io_uring or AIO.
    pub operations: u64,
}

impl Counters {
    /// Names and numbers; the names are stable.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("copied_bytes", self.copied_bytes),
            ("zerocopy_sends", self.zerocopy_sends),
            ("zerocopy_copied", self.zerocopy_copied),
            ("zerocopy_done", self.zerocopy_done),
            ("zerocopy_abandoned", self.zerocopy_abandoned),
            ("read_bytes", self.read_bytes),
            ("direct_read_bytes", self.direct_read_bytes),
            ("direct_refused_bytes", self.direct_refused_bytes),
            ("fallback_bytes", self.fallback_bytes),
            ("teed_bytes", self.teed_bytes),
            ("vmspliced_bytes", self.vmspliced_bytes),
            ("operations", self.operations),
        ]
        .into_iter()
    }
}

/// One method at work, for the connections of one thread.
pub trait Engine<S: Source> {
    /// Sends what it can of a job.
    ///
    /// A push after [`Step::Later`] must be for the same place in the stream, and asks what became of it.
    fn push(&mut self, flow: u32, job: &Job<'_, S>) -> Step;

    /// A flow has ended, and its socket is shut; its number may be used again at once.
    fn close(&mut self, flow: u32, socket: &OwnedFd);

    /// The socket of a flow reports an error. `true`: it was only news for the engine, and the connection is well.
    fn error(&mut self, flow: u32, socket: &OwnedFd) -> bool {
        let _ = (flow, socket);
        false
    }

    /// Hands over to the kernel what was begun since the last time, and names the flows that there is news for.
    fn poll(&mut self, woken: &mut Vec<u32>) {
        let _ = woken;
    }

    /// When it must be made sure that a file has not changed.
    fn look(&self) -> Look {
        Look::Never
    }

    /// Lets go of what is kept of files that are gone. Called now and then.
    fn tidy(&mut self) {}

    /// What becomes readable when [`poll`](Self::poll) would find something.
    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// All flows have ended: waits until the kernel is done with what was theirs, some seconds at most, so that the counters
    /// are complete.
    fn finish(&mut self) {}

    /// What it has done.
    fn counters(&self) -> Counters;
}

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnginePlan {
    /// Bytes of a buffer: of one read and one send.
    pub chunk: usize,
    /// Bytes of a pipe.
    pub pipe: usize,
    /// Buffers of the methods that read ahead of the socket: io_uring's and AIO's.
    pub buffers: u16,
}

impl Default for EnginePlan {
    fn default() -> Self {
        Self { chunk: 64 << 10, pipe: 64 << 10, buffers: 128 }
    }
}

/// Why an engine cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("engine {method}: {step}: {source}\n  {cure}")]
pub struct EngineError {
    method: &'static str,
    step: &'static str,
    source: io::Error,
    cure: &'static str,
}

/// Marks what the kernel says where it lacks or forbids a whole interface, as no limit of this process does. `EPERM` is what
/// `kernel.io_uring_disabled` and filters of seccomp say.
fn absent(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => io::Error::new(io::ErrorKind::Unsupported, error),
        _ => error,
    }
}

/// Makes the engine of a method.
///
/// # Errors
/// [`EngineError`] when this kernel lacks or forbids what the method needs.
pub fn engine<S: Source + 'static>(
    method: Method,
    plan: &EnginePlan,
) -> Result<Box<dyn Engine<S>>, EngineError> {
    Ok(match method {
        Method::ReadWrite => Box::new(copy::ReadWrite::new(plan)),
        Method::Sendfile => Box::new(sendfile::Sendfile::default()),
        Method::MmapWrite => Box::new(mapped::MmapWrite::new()),
        Method::Zerocopy => Box::new(mapped::Zerocopy::new()),
        Method::Splice => Box::new(pipes::Splice::new(plan)?),
        Method::Vmsplice => Box::new(pipes::Vmsplice::new(plan)?),
        Method::Uring | Method::UringSplice | Method::UringZerocopy | Method::DirectUring => {
            Box::new(uring::Uring::new(method, plan)?)
        }
        Method::DirectAio => Box::new(aio::DirectAio::new(plan)?),
    })
}

/// What an errno of a send means for the connection. `EINTR` means nothing: the call is made again, since a socket that has
/// room tells nobody so a second time.
fn refused(errno: Errno) -> Step {
    match errno {
        Errno::AGAIN => Step::Full,
        // Of the file, not of the socket: a read failed.
        Errno::IO | Errno::NOMEM | Errno::NOBUFS => failed("sending a file", &errno),
        // A mapping behind the end of its file.
        Errno::FAULT => Step::Gone,
        _ => Step::Broken,
    }
}

/// Says what failed, one sentence a second: what lasts befalls every connection.
#[cold]
fn failed(step: &'static str, error: &dyn fmt::Display) -> Step {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
        *last = Some(Instant::now());
        tracing::warn!("{step}: {error}: its connection is reset (responses_failed counts these)");
    }
    Step::Failed
}

/// Sends bytes that are in memory here; `None` when there are none.
fn send_head(socket: &OwnedFd, head: &[u8]) -> Option<Result<u64, Step>> {
    if head.is_empty() {
        return None;
    }
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Some(retry_on_intr(|| send(socket, head, flags)).map(|bytes| bytes as u64).map_err(refused))
}

/// One `u32` of the kernel's at a time.
fn piece(bytes: u64, most: usize) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(most)
}

/// The place of a flow in a list that grows to the highest number in use.
fn place<T: Default>(flows: &mut Vec<T>, flow: u32) -> &mut T {
    let index = flow as usize;
    if index >= flows.len() {
        flows.resize_with(index + 1, T::default);
    }
    &mut flows[index]
}
