//! Files into content: many reads under way at once, each into memory that nobody else can reach.
//!
//! ```text
//!   Read { file, offset, grant } ── submit ──► [ in flight: the reader keeps file and grant ] ── next_done ──► Done
//! ```
//!
//! By io_uring where the kernel allows it, one by one with `pread` where not. With a file opened `O_DIRECT` the disk's
//! DMA writes the very bytes that a NIC's DMA reads later; otherwise the kernel copies them once, from its page cache.

mod uring;

use ringbuf::ContentGrant;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use uring::Uring;

/// What `O_DIRECT` asks of offsets, lengths and addresses at most (`STATX_DIOALIGN`: 512 or 4096 on every disk so far).
pub const DIRECT_ALIGN: usize = 4096;

/// One read: `len` bytes of `file` from `offset` to the beginning of `grant`.
#[derive(Debug)]
pub struct Read<F> {
    /// Where from; kept until the read is done. What else the caller wants to know then can be in it.
    pub file: F,
    /// Where in the file, in bytes. A multiple of [`DIRECT_ALIGN`] for `O_DIRECT`.
    pub offset: u64,
    /// Where to.
    pub grant: ContentGrant,
    /// How many bytes to ask for: at most the grant's. A multiple of [`DIRECT_ALIGN`] for `O_DIRECT`.
    pub len: usize,
    /// How many bytes the file should have there: the reader asks again until it has them or the file ends.
    pub want: usize,
}

/// A read that is over.
#[derive(Debug)]
pub struct Done<F> {
    /// The read, with its grant.
    pub read: Read<F>,
    /// Bytes read: less than wanted where the file ended early.
    pub result: io::Result<usize>,
}

/// How a [`Reader`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Many at once.
    IoUring,
    /// One after another: io_uring is switched off here (`kernel.io_uring_disabled`, a seccomp filter, an old kernel).
    Pread,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Pread => "pread",
        })
    }
}

/// Reads under way, owned by one thread.
#[derive(Debug)]
pub struct Reader<F> {
    /// Without one, `pread`.
    uring: Option<Uring<F>>,
    waiting: VecDeque<Read<F>>,
    done: VecDeque<Done<F>>,
    depth: usize,
}

impl<F: AsFd> Reader<F> {
    /// A reader of at most `depth` reads at once, at least one.
    #[must_use]
    pub fn new(depth: u16) -> Self {
        let depth = depth.max(1);
        let uring = Uring::new(depth.into()).inspect_err(|error| {
            tracing::warn!("io_uring cannot be had ({error}): files are read one by one");
        });
        Self::with(uring.ok(), depth)
    }

    /// One that never uses io_uring.
    #[must_use]
    pub fn without_uring(depth: u16) -> Self {
        Self::with(None, depth.max(1))
    }

    fn with(uring: Option<Uring<F>>, depth: u16) -> Self {
        let depth = usize::from(depth);
        let room = || VecDeque::with_capacity(depth);
        Self { uring, waiting: room(), done: VecDeque::with_capacity(depth), depth }
    }

    /// How it reads.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        if self.uring.is_some() { Engine::IoUring } else { Engine::Pread }
    }

    /// Takes a read; it begins at the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// The read itself, when `depth` are under way, or it asks for more bytes than its grant has, or for none.
    pub fn submit(&mut self, read: Read<F>) -> Result<(), Read<F>> {
        if self.under_way() >= self.depth || read.len == 0 || read.len > read.grant.len() {
            return Err(read);
        }
        self.waiting.push_back(read);
        Ok(())
    }

    /// Begins what was submitted: one system call for all of it. Without io_uring it reads here and now.
    pub fn flush(&mut self) {
        let Some(uring) = &mut self.uring else {
            while let Some(mut read) = self.waiting.pop_front() {
                let result = pread(&mut read);
                self.done.push_back(Done { read, result });
            }
            return;
        };
        while let Some(read) = self.waiting.pop_front() {
            if let Err(read) = uring.push(read, 0) {
                self.waiting.push_front(read);
                break;
            }
        }
        uring.submit();
    }

    /// The next read that is over, in whatever order.
    pub fn next_done(&mut self) -> Option<Done<F>> {
        self.done.pop_front().or_else(|| self.uring.as_mut()?.next_done())
    }

    /// Reads submitted and not handed back yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.waiting.len() + self.done.len() + self.uring.as_ref().map_or(0, Uring::in_flight)
    }

    /// Becomes readable when a read is over; `None` where [`flush`](Self::flush) waits for each.
    #[must_use]
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.uring.as_ref().map(Uring::as_fd)
    }
}

/// Reads until there is what is wanted, or the file ends.
fn pread<F: AsFd>(read: &mut Read<F>) -> io::Result<usize> {
    let mut got = 0;
    while got < read.want {
        let from = resume_at(got);
        let at = read.offset + from as u64;
        match rustix::io::pread(&read.file, &mut read.grant[from..read.len], at) {
            Ok(bytes) if from + bytes <= got => break,
            Ok(bytes) => got = from + bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

/// Where to go on after `got` bytes: `O_DIRECT` wants it aligned, so a few bytes may be read twice.
const fn resume_at(got: usize) -> usize {
    got / DIRECT_ALIGN * DIRECT_ALIGN
}

#[cfg(test)]
mod tests;
