//! The AF_XDP socket: every system call and mapping of this driver.
//!
//! Steps and their order follow `Documentation/networking/af_xdp.rst` and `net/xdp/xsk.c`.

use crate::error::OpenError;
use crate::rings::Descriptor;
use ringbuf::{Arena, RingParts, SharedConsumer, SharedProducer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): descriptors that one `sendto` takes in copy mode; 32 before.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bytes in front of a packet in which the kernel reads what to do with it (`struct xsk_tx_metadata`).
pub(super) const METADATA_BYTES: u16 = 24;

/// How the memory is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    /// Chunks need not be aligned to their size: for content that lies anywhere.
    pub(super) unaligned: bool,
    /// [`METADATA_BYTES`] lie in front of each packet that is sent.
    pub(super) metadata: bool,
}

/// A socket on its way to being bound.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    interface: String,
    queue: u32,
}

/// Room left by a socket option that does not matter when it is refused.
type Wish<T> = Option<T>;

impl Socket {
    pub(super) fn new(interface: &str, queue: u32) -> Result<Self, OpenError> {
        let fd = socket_with(AddressFamily::from_raw(AF_XDP), SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|error| {
                let error = OpenError::new(interface, "opening an AF_XDP socket", error.into());
                match error.source.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => error.hint(
                        "the right to it is missing: run as root, or give the program CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
                    ),
                    Some(libc::EAFNOSUPPORT) => error.hint(
                        "this kernel is built without AF_XDP (CONFIG_XDP_SOCKETS); packet: works everywhere",
                    ),
                    _ => error,
                }
            })?;
        Ok(Self { fd, interface: interface.to_owned(), queue })
    }

    fn error(&self, step: &str, source: io::Error) -> OpenError {
        OpenError::new(&self.interface, format!("{step} for queue {}", self.queue), source)
    }

    /// Registers the arena with this socket.
    pub(super) fn register(&self, arena: &Arena, registration: Registration) -> Result<(), OpenError> {
        let mut flags = 0;
        if registration.unaligned {
            flags |= libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG;
        }
        if registration.metadata {
            flags |= libc::XDP_UMEM_TX_METADATA_LEN;
        }
        let request = libc::xdp_umem_reg {
            addr: arena.base().as_ptr() as u64,
            len: arena.bytes() as u64,
            chunk_size: arena.frame_size(),
            headroom: 0,
            flags,
            tx_metadata_len: if registration.metadata { METADATA_BYTES.into() } else { 0 },
        };
        raise_memlock();
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &request).map_err(|source| {
            let error = self.error("registering the arena with the kernel", source);
            match error.source.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => error.hint(format!(
                    "{} MiB must be locked in memory: give the program CAP_IPC_LOCK, raise the limit (ulimit -l), or ask for fewer --frames",
                    arena.bytes() >> 20
                )),
                Some(libc::EINVAL) => error.hint("AF_XDP takes frames of 2048 or 4096 bytes"),
                _ => error,
            }
        })
    }

    /// Makes the four rings, of `ring` entries each, the fill and completion rings included.
    pub(super) fn rings(&self, ring: u32) -> Result<Rings, OpenError> {
        for (option, name) in [
            (libc::XDP_UMEM_FILL_RING, "fill"),
            (libc::XDP_UMEM_COMPLETION_RING, "completion"),
            (libc::XDP_RX_RING, "receive"),
            (libc::XDP_TX_RING, "transmit"),
        ] {
            self.set(libc::SOL_XDP, option, &ring).map_err(|source| {
                self.error(&format!("making the {name} ring of {ring} entries"), source)
                    .hint("a ring has a power of two of entries; ring=2048 is the default")
            })?;
        }
        let offsets: libc::xdp_mmap_offsets = self
            .get(libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
            .map_err(|source| self.error("asking where the rings are", source))?;
        let fill_at = libc::off_t::try_from(libc::XDP_UMEM_PGOFF_FILL_RING).unwrap_or(libc::off_t::MAX);
        let completion_at =
            libc::off_t::try_from(libc::XDP_UMEM_PGOFF_COMPLETION_RING).unwrap_or(libc::off_t::MAX);
        let receive = self.map::<Descriptor>(&offsets.rx, ring, libc::XDP_PGOFF_RX_RING)?;
        let transmit = self.map::<Descriptor>(&offsets.tx, ring, libc::XDP_PGOFF_TX_RING)?;
        let fill = self.map::<u64>(&offsets.fr, ring, fill_at)?;
        let completion = self.map::<u64>(&offsets.cr, ring, completion_at)?;
        // SAFETY: *map*: the parts lie in the mappings their keepers hold, at the offsets the kernel named for rings of
        // this size; *ends*: each is made once per socket, and the kernel has the other end; *plain*: a descriptor is
        // integers.
        let receive = unsafe { SharedConsumer::new(receive) };
        // SAFETY: as above.
        let transmit = unsafe { SharedProducer::new(transmit) };
        // SAFETY: as above; the entries are integers.
        let fill = unsafe { SharedProducer::new(fill) };
        // SAFETY: as above.
        let completion = unsafe { SharedConsumer::new(completion) };
        Ok(Rings { receive, transmit, fill, completion })
    }

    fn map<T>(
        &self,
        offsets: &libc::xdp_ring_offset,
        entries: u32,
        at: libc::off_t,
    ) -> Result<RingParts<T>, OpenError> {
        let inside = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = inside(offsets.desc).saturating_add(entries as usize * size_of::<T>());
        // SAFETY: a new shared mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                self.fd.as_raw_fd(),
                at,
            )
        };
        let base = NonNull::new(base.cast::<u8>()).filter(|base| base.as_ptr().cast() != libc::MAP_FAILED);
        let base = base.ok_or_else(|| self.error("mapping a ring", io::Error::last_os_error()))?;
        let mapping = Mapping { base, bytes };
        let word = |offset: u64| mapping.at(inside(offset), size_of::<u32>());
        let (producer, consumer, flags) =
            (word(offsets.producer), word(offsets.consumer), word(offsets.flags));
        let slots = mapping.at(inside(offsets.desc), entries as usize * size_of::<T>());
        match (producer, consumer, flags, slots) {
            (Some(producer), Some(consumer), Some(flags), Some(slots)) => Ok(RingParts::new(
                producer.cast(),
                consumer.cast(),
                flags.cast(),
                slots.cast(),
                entries,
                Arc::new(mapping),
            )),
            _ => {
                Err(self.error("mapping a ring", io::Error::other("the kernel's offsets lie outside of it")))
            }
        }
    }

    /// Binds the socket to its queue, with an arena of its own or that of the socket `share`.
    pub(super) fn bind(&self, ifindex: u32, flags: u16, share: Option<RawFd>) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: AF_XDP,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: self.queue,
            sxdp_shared_umem_fd: share.and_then(|fd| u32::try_from(fd).ok()).unwrap_or(0),
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
        // SAFETY: the address is a whole `sockaddr_xdp`, of the length given, and only read.
        match unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Raises what limits transmission in copy mode; returns the budget that the kernel granted, if it knows of one.
    pub(super) fn raise_limits(&self, ring: u32, bytes: i32) -> Wish<u32> {
        // skbs are charged to the socket until they are gone; without the right to force it, the plain limit holds.
        if self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
            let _ = self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
        }
        self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &ring).ok().map(|()| ring)
    }

    /// Asks that our own system calls drive the NIC's queue, in preference to interrupts (Linux 5.11).
    pub(super) fn prefer_busy_poll(&self, micros: i32, budget: i32) -> Result<(), OpenError> {
        let wishes = [
            (libc::SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, micros),
            (libc::SO_BUSY_POLL_BUDGET, budget),
        ];
        for (option, value) in wishes {
            self.set(libc::SOL_SOCKET, option, &value).map_err(|source| {
                self.error("asking for preferred busy polling", source)
                    .hint("needs Linux 5.11 and CAP_NET_ADMIN; leave busy-poll out to do without")
            })?;
        }
        Ok(())
    }

    /// Whether the device really reads and writes the arena itself.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let options: libc::xdp_options = self.get(libc::SOL_XDP, libc::XDP_OPTIONS)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// The kernel's own count of what was lost. `None` when it would not say.
    pub(super) fn statistics(&self) -> Option<libc::xdp_statistics> {
        self.get(libc::SOL_XDP, libc::XDP_STATISTICS).ok()
    }

    /// The error that the kernel has left on the socket: `ENETDOWN` once the interface is gone.
    pub(super) fn pending_error(&self) -> Option<i32> {
        let error: libc::c_int = self.get(libc::SOL_SOCKET, libc::SO_ERROR).ok()?;
        (error != 0).then_some(error)
    }

    /// Tells the kernel that the transmit ring has entries; it takes as many as its budget allows.
    #[inline]
    pub(super) fn kick_transmit(&self) -> Result<(), i32> {
        // SAFETY: no buffer and no address are passed.
        let sent = unsafe {
            libc::sendto(self.fd.as_raw_fd(), core::ptr::null(), 0, libc::MSG_DONTWAIT, core::ptr::null(), 0)
        };
        if sent >= 0 { Ok(()) } else { Err(errno()) }
    }

    /// Lets the kernel look at the fill ring, or poll the NIC's queue for us.
    #[inline]
    pub(super) fn kick_receive(&self) -> Result<(), i32> {
        // SAFETY: no buffer and no address are passed.
        let received = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                core::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
            )
        };
        if received >= 0 { Ok(()) } else { Err(errno()) }
    }

    fn set<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
        // SAFETY: `value` is `length` bytes, and only read.
        match unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, core::ptr::from_ref(value).cast(), length)
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Only for `T` of plain integers: the callers above name the kernel's own structs, whose every bit pattern is one.
    fn get<T: Copy>(&self, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
        let mut value = core::mem::MaybeUninit::<T>::zeroed();
        let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
        // SAFETY: the kernel writes at most `length` bytes, which is what `value` has.
        match unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
        } {
            // SAFETY: zeroed or written, and a struct of plain integers either way.
            0 => Ok(unsafe { value.assume_init() }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "44 is a small number")]
const AF_XDP: u16 = libc::AF_XDP as u16;

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Lifts the limit on locked memory, against which an arena counts unless we have CAP_IPC_LOCK (`xdp_umem_account_pages`,
/// `net/xdp/xdp_umem.c`). Without the right to lift it nothing is lost yet: the registration itself says whether the
/// limit was in the way.
fn raise_memlock() {
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!("the limit on locked memory stays as it is: {error}");
    }
}

/// Our ends of the four rings.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) receive: SharedConsumer<Descriptor>,
    pub(super) transmit: SharedProducer<Descriptor>,
    pub(super) fill: SharedProducer<u64>,
    pub(super) completion: SharedConsumer<u64>,
}

/// One mapped ring. Invariant **map**: `bytes` bytes from `base` stay mapped until drop.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address range without access of its own; the rings argue their accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The place of `bytes` bytes at `offset`, if they lie inside and at a multiple of eight, or four for a word.
    fn at(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let aligned = offset.is_multiple_of(if bytes == size_of::<u32>() { 4 } else { 8 });
        // SAFETY: *map*: the offset lies in the mapping.
        (inside && aligned).then(|| unsafe { self.base.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: *map*: this is the whole mapping, and the ring that used it is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Asks for frames of every address until the descriptor is closed: the kernel counts such wishes, and forgets ours
/// when we are gone (`packet(7)`, `PACKET_MR_PROMISC`). The socket itself receives nothing.
pub(super) fn hold_promiscuous(ifindex: u32) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        mr_type: PROMISCUOUS,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&request)).unwrap_or(0);
    // SAFETY: the request is a whole `packet_mreq`, of the length given, and only read.
    match unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            length,
        )
    } {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "1 is a small number")]
const PROMISCUOUS: libc::c_ushort = libc::PACKET_MR_PROMISC as libc::c_ushort;
