//! The other direction, *receive-file*: from a TCP socket into a file.
//!
//! ```text
//!   Receiver::pull(socket, file, at, bytes) ─┬─► Bytes(n)    so many are in the file
//!                                            ├─► Nothing     the socket has none now
//!                                            ├─► Ended, Broken
//!                                            └─► Refused     the file takes no more, and why
//! ```
//!
//! | way | |
//! |---|---|
//! | `splice` | socket to pipe by reference, pipe to file: the one copy is the file's, into its page cache |
//! | `read-write` | `recv` into a buffer, `pwrite` from it: two copies |
//!
//! Between two calls nothing is left in pipe or buffer, so one of them does for all connections of a thread, and a body
//! costs no memory however long it takes.

use super::pipes::Pipes;
use super::{EngineError, EnginePlan, piece};
use rustix::io::{Errno, pwrite, retry_on_intr};
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, SpliceFlags, splice};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;

/// A way of getting what a socket receives into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receive {
    /// `splice` into a pipe, and from there into the file: one copy by the CPU.
    Splice,
    /// `recv` into a buffer, `pwrite` from it: two.
    ReadWrite,
}

impl Receive {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Splice, Self::ReadWrite];

    /// As the user calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::ReadWrite => "read-write",
        }
    }
}

impl fmt::Display for Receive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Receive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| "unknown way; there are splice, read-write".to_owned())
    }
}

/// What became of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes have come, and are in the file.
    Bytes(u64),
    /// None is there now.
    Nothing,
    /// The peer has said all that it will say.
    Ended,
    /// The connection is gone.
    Broken,
    /// The file could not be written to, or there is no pipe: what was taken from the socket is lost.
    Refused(Errno),
}

/// What a receiver has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes that reached files through a pipe.
    pub spliced_bytes: u64,
    /// Bytes that did out of memory of this process.
    pub copied_bytes: u64,
}

/// One way at work, for the connections of one thread.
#[derive(Debug)]
pub struct Receiver {
    way: Way,
    received: Received,
}

#[derive(Debug)]
enum Way {
    Splice(Pipes),
    ReadWrite(Box<[u8]>),
}

impl Receiver {
    /// With the pipe, or the buffer, of `plan`.
    ///
    /// # Errors
    /// [`EngineError`] when the kernel has no pipe of that size.
    pub fn new(way: Receive, plan: &EnginePlan) -> Result<Self, EngineError> {
        let way = match way {
            Receive::Splice => {
                Way::Splice(Pipes::new("receive-file", plan, PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
            }
            Receive::ReadWrite => Way::ReadWrite(vec![0; plan.chunk].into()),
        };
        Ok(Self { way, received: Received::default() })
    }

    /// Moves what the socket has, at most `bytes`, into the file from `at` on.
    pub fn pull(&mut self, socket: &OwnedFd, file: BorrowedFd<'_>, at: u64, bytes: u64) -> Got {
        match &mut self.way {
            Way::Splice(pipes) => {
                let got = through_a_pipe(pipes, socket, file, at, bytes);
                if let Got::Bytes(bytes) = got {
                    self.received.spliced_bytes += bytes;
                }
                got
            }
            Way::ReadWrite(buffer) => {
                let most = piece(bytes, buffer.len());
                let got = match retry_on_intr(|| recv(socket, &mut buffer[..most], RecvFlags::DONTWAIT)) {
                    Ok((0, _)) => return Got::Ended,
                    Ok((got, _)) => got,
                    Err(errno) => return nothing(errno),
                };
                match write_all(file, &buffer[..got], at) {
                    Ok(()) => {
                        self.received.copied_bytes += got as u64;
                        Got::Bytes(got as u64)
                    }
                    Err(errno) => Got::Refused(errno),
                }
            }
        }
    }

    /// Writes bytes that are in memory here already: those that came together with the head of their request.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&mut self, file: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<(), Errno> {
        write_all(file, bytes, at)?;
        self.received.copied_bytes += bytes.len() as u64;
        Ok(())
    }

    /// What it has done.
    #[must_use]
    pub const fn received(&self) -> Received {
        self.received
    }
}

/// What an errno of a receive means.
const fn nothing(errno: Errno) -> Got {
    match errno {
        Errno::AGAIN => Got::Nothing,
        _ => Got::Broken,
    }
}

fn through_a_pipe(pipes: &mut Pipes, socket: &OwnedFd, file: BorrowedFd<'_>, mut at: u64, bytes: u64) -> Got {
    let mut pipe = match pipes.take() {
        Ok(pipe) => pipe,
        Err(errno) => return Got::Refused(errno),
    };
    let (most, flags) = (piece(bytes, pipe.size), SpliceFlags::NONBLOCK | SpliceFlags::MOVE);
    let got = match retry_on_intr(|| splice(socket, None, &pipe.write, None, most, flags)) {
        Ok(0) => Got::Ended,
        Ok(got) => {
            pipe.bytes = got;
            Got::Bytes(got as u64)
        }
        Err(errno) => nothing(errno),
    };
    while pipe.bytes > 0 {
        let flags = SpliceFlags::MOVE;
        match retry_on_intr(|| splice(&pipe.read, None, file, Some(&mut at), pipe.bytes, flags)) {
            // A pipe with bytes in it has no end, and a file takes something or says why not. With bytes in it, it is
            // closed and not used again.
            Ok(0) => return Got::Refused(Errno::IO),
            Ok(moved) => pipe.bytes -= moved.min(pipe.bytes),
            Err(errno) => return Got::Refused(errno),
        }
    }
    pipes.give(pipe);
    got
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match retry_on_intr(|| pwrite(file, bytes, at))? {
            0 => return Err(Errno::IO),
            written => {
                at += written as u64;
                bytes = &bytes[written..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    /// A connection over loopback: who sends, and the socket that receives.
    fn connection() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let sender = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
        let (receiver, _) = listener.accept().expect("accepts");
        receiver.set_nonblocking(true).expect("a flag");
        (sender, receiver.into())
    }

    fn file() -> File {
        rustix::fs::memfd_create("received", rustix::fs::MemfdFlags::CLOEXEC).expect("a file").into()
    }

    fn receivers() -> impl Iterator<Item = Receiver> {
        let plan = EnginePlan { chunk: 8192, pipe: 8192, buffers: 1 };
        Receive::ALL.into_iter().map(move |way| Receiver::new(way, &plan).expect("a receiver"))
    }

    /// Whatever the pieces, the file has what was sent and no byte more; what follows the body stays in the socket.
    #[test]
    fn bytes_arrive_intact_and_no_more_than_asked_for() {
        for mut receiver in receivers() {
            let (mut sender, socket) = connection();
            let body: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
            let sent = body.clone();
            let thread = std::thread::spawn(move || {
                for piece in sent.chunks(7001) {
                    sender.write_all(piece).expect("sent");
                }
                sender.write_all(b"next request").expect("sent");
                sender
            });
            let (mut into, mut at) = (file(), 0);
            while at < body.len() as u64 {
                match receiver.pull(&socket, into.as_fd(), at, body.len() as u64 - at) {
                    Got::Bytes(bytes) => at += bytes,
                    Got::Nothing => std::thread::yield_now(),
                    other => panic!("{other:?}"),
                }
            }
            let sender = thread.join().expect("no panic");
            let mut stored = Vec::new();
            into.seek(SeekFrom::Start(0)).expect("seeks");
            into.read_to_end(&mut stored).expect("reads");
            assert!(stored == body, "{receiver:?}");
            let mut rest = [0; 100];
            let (rest_bytes, _) = recv(&socket, &mut rest[..], RecvFlags::empty()).expect("the rest");
            assert_eq!(&rest[..rest_bytes], b"next request");
            let received = receiver.received();
            assert_eq!(received.spliced_bytes + received.copied_bytes, body.len() as u64);
            assert_eq!(received.spliced_bytes > 0, matches!(receiver.way, Way::Splice(_)));
            assert_eq!(receiver.pull(&socket, into.as_fd(), at, 10), Got::Nothing);
            sender.shutdown(Shutdown::Write).expect("ends");
            assert_eq!(receiver.pull(&socket, into.as_fd(), at, 10), Got::Ended);
        }
    }

    /// A file that takes no more is said to, and the next body is not spoilt by what was left in a pipe.
    #[test]
    fn a_file_that_takes_no_more_is_told_apart_from_the_socket() {
        for mut receiver in receivers() {
            let (mut sender, socket) = connection();
            sender.write_all(b"0123456789").expect("sent");
            let sealed = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
            let full = File::from(rustix::fs::memfd_create("full", sealed).expect("a file"));
            full.set_len(4).expect("a size");
            rustix::fs::fcntl_add_seals(&full, rustix::fs::SealFlags::GROW).expect("sealed");
            while receiver.pull(&socket, full.as_fd(), 4, 3) == Got::Nothing {}
            // The three bytes are lost with the body; the others are still in order.
            let mut into = file();
            assert_eq!(receiver.pull(&socket, into.as_fd(), 0, 100), Got::Bytes(7));
            let mut stored = String::new();
            into.seek(SeekFrom::Start(0)).expect("seeks");
            into.read_to_string(&mut stored).expect("reads");
            assert_eq!(stored, "3456789");
            let readable = File::open("/dev/null").expect("a file");
            assert_eq!(receiver.write(readable.as_fd(), b"x", 0), Err(Errno::BADF));
        }
    }

    #[test]
    fn a_peer_that_resets_is_broken() {
        for mut receiver in receivers() {
            let (sender, socket) = connection();
            rustix::net::sockopt::set_socket_linger(&sender, Some(std::time::Duration::ZERO)).expect("set");
            drop(sender);
            assert_eq!(receiver.pull(&socket, file().as_fd(), 0, 10), Got::Broken);
        }
    }

    #[test]
    fn ways_have_names() {
        for way in Receive::ALL {
            assert_eq!(way.name().parse(), Ok(way));
        }
        assert!("sendfile".parse::<Receive>().is_err());
    }
}
