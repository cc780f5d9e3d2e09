//! Mappings of files that only the kernel reads from, the messages of a socket's error queue, and Linux AIO.
//!
//! Invariants:
//! * **map**: a [`Mapping`] is valid as an address range until it is dropped, and no reference to its bytes is ever made:
//!   the file may become shorter at any time, and then a touch of a page would be `SIGBUS` here, and is `EFAULT` in the
//!   kernel;
//! * **kept**: what an AIO request names (file, buffer) stays until its event has come, by the caller of
//!   [`Aio::read`].

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

/// A file in the address space, to be named to the kernel and never looked at.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<libc::c_void>,
    bytes: usize,
}

impl Mapping {
    pub(super) fn new(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no memory that there is.
        let base = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, bytes })
    }

    /// The address of `bytes` bytes from `offset` on, as far as there are so many.
    fn stretch(&self, offset: u64, bytes: usize) -> libc::iovec {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes);
        let iov_len = bytes.min(self.bytes - offset);
        libc::iovec { iov_base: self.base.as_ptr().wrapping_byte_add(offset), iov_len }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: *map*: mapped by `new`, and nobody can name it any more. Pages that a socket or pipe refers to are
        // theirs by now.
        unsafe { libc::munmap(self.base.as_ptr(), self.bytes) };
    }
}

fn answer(bytes: impl TryInto<usize>) -> Result<usize, Errno> {
    bytes
        .try_into()
        .map_err(|_| Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}

/// Sends a head and bytes of a mapping.
pub(super) fn send_mapped(
    socket: &OwnedFd,
    head: &[u8],
    mapping: &Mapping,
    (offset, bytes): (u64, usize),
    flags: i32,
) -> Result<usize, Errno> {
    let head = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
    let mut pieces = [head, mapping.stretch(offset, bytes)];
    // SAFETY: all zero is a message without address and ancillary data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (pieces.as_mut_ptr(), pieces.len());
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: *map*; the head outlives the call, and the kernel reads both and keeps no pointer to them. (With
    // MSG_ZEROCOPY it keeps the pages, which it counts.)
    answer(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Puts references to bytes of a mapping into a pipe.
pub(super) fn vmsplice(pipe: &OwnedFd, mapping: &Mapping, offset: u64, bytes: usize) -> Result<usize, Errno> {
    let piece = mapping.stretch(offset, bytes);
    // SAFETY: *map*: the kernel takes references to the pages, or says EFAULT.
    answer(unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const piece, 1, libc::SPLICE_F_NONBLOCK) })
}

/// Lets a socket send without copying.
pub(super) fn allow_zerocopy(socket: &OwnedFd) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    let bytes = libc::socklen_t::try_from(size_of_val(&on)).expect("4");
    let value = (&raw const on).cast();
    // SAFETY: the kernel reads four bytes of `on`.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, value, bytes) };
    answer(outcome).map(drop)
}

/// Sends that the kernel is done with: how many, and whether it has copied their bytes after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) sends: u32,
    pub(super) copied: bool,
}

/// What lies in a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Zero-copy sends are over.
    Released(Released),
    /// Something else, which is no concern of ours.
    Other,
    /// It is empty.
    Nothing,
}

/// Takes the next message from a socket's error queue (`Documentation/networking/msg_zerocopy.rst`).
pub(super) fn next_error(socket: &OwnedFd) -> Result<News, Errno> {
    /// Room for one extended error and an address behind it, aligned as headers want it.
    #[repr(C, align(8))]
    struct Room([u8; 128]);
    let mut room = Room([0; 128]);
    // SAFETY: all zero is a message without buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_control, message.msg_controllen) = (room.0.as_mut_ptr().cast(), size_of::<Room>() as _);
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most as many bytes as `room` has.
    match answer(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) }) {
        Ok(_) => {}
        Err(Errno::AGAIN) => return Ok(News::Nothing),
        Err(errno) => return Err(errno),
    }
    // SAFETY: `message` is as the kernel left it, and its control bytes are in `room`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    let Some(header) = NonNull::new(header) else { return Ok(News::Other) };
    // SAFETY: a header that CMSG_FIRSTHDR finds lies whole in the control bytes, aligned.
    let facts = unsafe { header.read() };
    let right = matches!(
        (facts.cmsg_level, facts.cmsg_type),
        (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
    );
    let needs = size_of::<libc::cmsghdr>() + size_of::<libc::sock_extended_err>();
    if !right || facts.cmsg_len < needs {
        return Ok(News::Other);
    }
    // SAFETY: the data begins behind the header, inside of `room` by the length that was looked at.
    let data = unsafe { libc::CMSG_DATA(header.as_ptr()) };
    // SAFETY: so many bytes are there, and every pattern of them is a value; they need not be aligned.
    let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
    if error.ee_origin != SO_EE_ORIGIN_ZEROCOPY {
        return Ok(News::Other);
    }
    // A range of sends, both ends included; the numbers wrap.
    let sends = error.ee_data.wrapping_sub(error.ee_info).wrapping_add(1);
    Ok(News::Released(Released { sends, copied: error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED != 0 }))
}

/// `include/uapi/linux/errqueue.h`
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

/// `struct iocb` (`include/uapi/linux/aio_abi.h`), little-endian.
#[repr(C)]
#[derive(Debug, Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fildes: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

const _: () = assert!(size_of::<Request>() == 64);
const _: () = assert!(cfg!(target_endian = "little"), "key and rw_flags change places otherwise");

/// `IOCB_CMD_PREAD`, `IOCB_FLAG_RESFD`.
const PREAD: u16 = 0;
const RESFD: u32 = 1;

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event {
    /// What [`Aio::read`] was given.
    pub(super) data: u64,
    object: u64,
    /// Bytes, or an errno below zero.
    pub(super) result: i64,
    result2: i64,
}

/// A context of Linux AIO (`io_setup(2)`).
#[derive(Debug)]
pub(super) struct Aio(libc::c_ulong);

impl Aio {
    /// For at most `depth` requests at once.
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word, which is zero as it asks for.
        let outcome = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(context))
    }

    /// Begins a read of a file into `buffer`; `bell` becomes readable with its event, which has `data`.
    ///
    /// # Safety
    /// *kept*: file and buffer must stay, and nobody may touch the buffer, until the event has come.
    pub(super) unsafe fn read(
        &self,
        data: u64,
        file: BorrowedFd<'_>,
        (buffer, bytes): (*mut u8, usize),
        offset: u64,
        bell: &OwnedFd,
    ) -> Result<(), Errno> {
        let number = |fd: i32| u32::try_from(fd).expect("descriptors are not negative");
        let request = Request {
            data,
            opcode: PREAD,
            fildes: number(file.as_raw_fd()),
            buffer: buffer.addr() as u64,
            bytes: bytes as u64,
            offset: i64::try_from(offset).map_err(|_| Errno::OVERFLOW)?,
            flags: RESFD,
            resfd: number(bell.as_raw_fd()),
            ..Request::default()
        };
        // The kernel learns the address from it.
        buffer.expose_provenance();
        let list = [&raw const request];
        // SAFETY: one request, which the kernel copies; *kept* by the caller.
        let begun = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_ptr()) };
        answer(begun).map(drop)
    }

    /// Events that have come, up to as many as `events` holds; waits for `least` of them.
    pub(super) fn events(&self, events: &mut [Event], least: usize) -> Result<usize, Errno> {
        let room = events.as_mut_ptr();
        let none: *mut libc::timespec = null_mut();
        // SAFETY: the kernel writes at most as many events as there is room for.
        answer(unsafe { libc::syscall(libc::SYS_io_getevents, self.0, least, events.len(), room, none) })
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours and is used no more. The kernel waits for what is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}
