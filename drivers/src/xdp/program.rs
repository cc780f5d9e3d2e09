//! The XDP program of a port: loads it, attaches it, tells it the sockets, and reads its counters.
//!
//! ```text
//! Program::load(filter, queues) -> attach_best(interface) -> PortProgram: insert(queue, socket) .. detach()
//! ```
//!
//! The program itself is `bpf/port.bpf.c`. It is attached by a bpf_link, so the kernel takes it off when this
//! process ends, however it ends. Detach before closing the sockets: under load some drivers do not survive
//! the other order.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Once;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, OpenObject, PrintLevel, ProgramHandle, Xdp, XdpFlags};

pub use self::error::{AttachError, Cause, Step};
pub use self::filter::{Endpoint, Filter, FilterError, MAX_ENDPOINTS};
use self::link::Link;
pub use self::sink::{Sink, SinkProgram, Traffic};
use self::skeleton::{PortSkel, PortSkelBuilder, types};

mod error;
mod filter;
mod link;
mod sink;
#[cfg(test)]
mod tests;

#[expect(
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    unreachable_pub,
    reason = "written by libbpf-cargo: the skeleton of bpf/port.bpf.c"
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/port.skel.rs"));
}

/// Where in the kernel a program sees frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the driver, before the kernel makes anything of a frame.
    Native,
    /// In the stack, for drivers that know no XDP: each frame is a kernel packet by then, and slow.
    Generic,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The program of a port, verified by the kernel and on no interface yet.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    sockets: MapHandle,
    verdicts: MapHandle,
}

impl Program {
    /// Loads the program for an interface with this many receive queues.
    ///
    /// # Errors
    /// When the kernel refuses it: rights, or a kernel before 5.18.
    pub fn load(filter: &Filter, queues: u32) -> Result<Self, AttachError> {
        let mut storage = MaybeUninit::uninit();
        let skeleton = load(&mut storage, &Entry::Port { filter, queues })?;
        Ok(Self {
            fd: owned(skeleton.progs.port.as_fd())?,
            sockets: handle(&skeleton.maps.sockets)?,
            verdicts: handle(&skeleton.maps.verdicts)?,
        })
    }

    /// Attaches it to the interface of this index and name in one mode.
    ///
    /// # Errors
    /// When the kernel or the driver refuses; the error says why and what helps.
    pub fn attach(self, ifindex: u32, name: &str, mode: Mode) -> Result<PortProgram, AttachError> {
        self.attach_best(ifindex, name, Some(mode))
    }

    /// Attaches it in the mode that is wanted; without a wish natively, or else generically if it is the
    /// driver that stands in the way. [`PortProgram::native_refusal`] then says how.
    ///
    /// # Errors
    /// When no mode worked; the error says why and what helps.
    pub fn attach_best(
        self,
        ifindex: u32,
        name: &str,
        want: Option<Mode>,
    ) -> Result<PortProgram, AttachError> {
        let attached = Attached::new(self.fd.as_fd(), ifindex, name, want)?;
        Ok(PortProgram { name: name.into(), attached, program: self })
    }
}

/// The program of a port at work. Any thread may use it; dropping it takes the program off.
#[derive(Debug)]
pub struct PortProgram {
    name: String,
    // Before the maps, so that the program is off the interface when they go.
    attached: Attached,
    program: Program,
}

impl PortProgram {
    /// How it is attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.attached.mode
    }

    /// Why it is not attached natively, if that was tried.
    #[must_use]
    pub fn native_refusal(&self) -> Option<&AttachError> {
        self.attached.refused.as_ref()
    }

    /// Whether it is still on its interface, which may have been deleted.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached.link.is_attached()
    }

    /// Sends the frames of this receive queue to `socket` from now on. The program holds the socket until
    /// [`Self::remove`] or until it is closed.
    ///
    /// # Errors
    /// When the queue is beyond those the program was loaded for, or the socket has no receive ring, fill
    /// ring or memory yet.
    pub fn insert(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), AttachError> {
        let fd = socket.as_raw_fd().to_ne_bytes();
        let inserted = self.program.sockets.update(&queue.to_ne_bytes(), &fd, MapFlags::ANY);
        inserted.map_err(|error| AttachError::from_libbpf(Step::Insert(queue), &error).on(&self.name))
    }

    /// Lets the kernel have the frames of this receive queue again. Doing so twice is no error.
    ///
    /// # Errors
    /// When the queue is beyond those the program was loaded for.
    pub fn remove(&self, queue: u32) -> Result<(), AttachError> {
        match self.program.sockets.delete(&queue.to_ne_bytes()) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(AttachError::from_libbpf(Step::Remove(queue), &error).on(&self.name))
            }
            _ => Ok(()),
        }
    }

    /// What became of the frames so far, on all CPUs.
    ///
    /// # Errors
    /// When the kernel does not let the counters be read.
    pub fn verdicts(&self) -> io::Result<Verdicts> {
        Verdicts::read(&self.program.verdicts)
    }

    /// Takes the program off: when this returns, no frame is redirected any more and the sockets may be
    /// closed. A second call does nothing, and the counters stay readable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> io::Result<()> {
        self.attached.link.detach()
    }
}

/// What became of the frames that the program saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Sent to the socket of their queue. The socket may still drop them; its own statistics say so.
    pub redirected: u64,
    /// Ours, but their queue had no socket: passed to the kernel.
    pub no_socket: u64,
    /// Passed to the kernel by the filter.
    pub not_ours: u64,
    /// Too short for the headers they announce, or with impossible ones: passed to the kernel.
    pub malformed: u64,
}

impl Verdicts {
    /// All frames that the program saw.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.redirected + self.no_socket + self.not_ours + self.malformed
    }

    /// Indices are those of `enum verdict` in `bpf/port.bpf.c`.
    fn read(counters: &impl MapCore) -> io::Result<Self> {
        let count = |index| percpu_sums(counters, index).map(|[sum]| sum);
        Ok(Self { redirected: count(0)?, no_socket: count(1)?, not_ours: count(2)?, malformed: count(3)? })
    }
}

/// A program on an interface.
#[derive(Debug)]
struct Attached {
    link: Link,
    mode: Mode,
    refused: Option<AttachError>,
}

impl Attached {
    fn new(
        program: BorrowedFd<'_>,
        ifindex: u32,
        name: &str,
        want: Option<Mode>,
    ) -> Result<Self, AttachError> {
        let attach = |mode| {
            Link::attach(program, ifindex, mode).map_err(|mut source| {
                // The kernel says EINVAL here too (`bpf_xdp_link_attach` in net/core/dev.c).
                if !exists(ifindex) {
                    source = rustix::io::Errno::NODEV.into();
                }
                let error = AttachError::new(Some(name), Step::Attach(mode), source);
                if let Cause::Occupied { .. } = error.cause() {
                    occupant(program, ifindex, error)
                } else {
                    error
                }
            })
        };
        if let Some(mode) = want {
            return Ok(Self { link: attach(mode)?, mode, refused: None });
        }
        match attach(Mode::Native) {
            Ok(link) => Ok(Self { link, mode: Mode::Native, refused: None }),
            Err(native) if native.is_of_the_driver() => match attach(Mode::Generic) {
                Ok(link) => Ok(Self { link, mode: Mode::Generic, refused: Some(native) }),
                Err(generic) => Err(generic.after(native)),
            },
            Err(native) => Err(native),
        }
    }
}

/// Whether there is an interface of this index; true when that cannot be asked.
fn exists(ifindex: u32) -> bool {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let named = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::index_to_name(socket, ifindex));
    !matches!(named, Err(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO))
}

/// Adds to `error` which program it is that holds the interface. Any process may ask for its number; its name
/// takes CAP_SYS_ADMIN.
fn occupant(ours: BorrowedFd<'_>, ifindex: u32, error: AttachError) -> AttachError {
    let ifindex = i32::try_from(ifindex).ok();
    let found = ifindex.and_then(|ifindex| Xdp::new(ours).query(ifindex, XdpFlags::NONE).ok());
    let id = found.and_then(|found| {
        [found.prog_id, found.drv_prog_id, found.skb_prog_id, found.hw_prog_id]
            .into_iter()
            .find(|&id| id != 0)
    });
    let program = id.and_then(|id| ProgramHandle::from_prog_id(id).ok());
    error.occupied(id, program.map(|program| program.name().to_string_lossy().into_owned()))
}

/// Which of the programs in the object is wanted.
enum Entry<'a> {
    Port { filter: &'a Filter, queues: u32 },
    Pass,
    Drop,
}

/// Loads one program of the object and the maps that it uses. The skeleton borrows `storage`: what is to
/// outlive it is taken out with [`owned`] and [`handle`].
fn load<'object>(
    storage: &'object mut MaybeUninit<OpenObject>,
    entry: &Entry<'_>,
) -> Result<PortSkel<'object>, AttachError> {
    log_through_tracing();
    let refused = |error| AttachError::from_libbpf(Step::Load, &error);
    let mut open = PortSkelBuilder::default().open(storage).map_err(refused)?;
    open.progs.port.set_autoload(matches!(entry, Entry::Port { .. }));
    open.progs.pass.set_autoload(matches!(entry, Entry::Pass));
    open.progs.drop.set_autoload(matches!(entry, Entry::Drop));
    if let Entry::Port { filter, queues } = entry {
        open.maps.sockets.set_max_entries((*queues).max(1)).map_err(refused)?;
        open.maps.sunk.set_autocreate(false).map_err(refused)?;
        let constants = open.maps.rodata_data.as_deref_mut().expect("the object has read-only data");
        for (slot, endpoint) in constants.endpoints.iter_mut().zip(filter.endpoints()) {
            *slot = types::endpoint {
                address: types::address { word: endpoint.words() },
                port: endpoint.port().to_be(),
                own: endpoint.is_own().into(),
            };
            constants.endpoint_count += 1;
        }
    } else {
        open.maps.sockets.set_autocreate(false).map_err(refused)?;
        open.maps.verdicts.set_autocreate(false).map_err(refused)?;
    }
    open.load().map_err(refused)
}

fn owned(fd: BorrowedFd<'_>) -> Result<OwnedFd, AttachError> {
    fd.try_clone_to_owned().map_err(|error| AttachError::new(None, Step::Load, error))
}

fn handle(map: &libbpf_rs::MapMut<'_>) -> Result<MapHandle, AttachError> {
    MapHandle::try_from(map).map_err(|error| AttachError::from_libbpf(Step::Load, &error))
}

/// Sums one entry of a per-CPU map, `N` counters of 64 bits, over all CPUs.
pub(crate) fn percpu_sums<const N: usize>(map: &impl MapCore, index: u32) -> io::Result<[u64; N]> {
    let found = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).map_err(io::Error::other)?;
    let mut sums = [0; N];
    for cpu in found.unwrap_or_default() {
        for (sum, counter) in sums.iter_mut().zip(cpu.as_chunks().0) {
            *sum += u64::from_ne_bytes(*counter);
        }
    }
    Ok(sums)
}

/// Sends what libbpf has to say to the log; by itself it writes to standard error.
pub(crate) fn log_through_tracing() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Info, |level, text| {
            tracing::debug!(target: "libbpf", ?level, "{}", text.trim_end());
        })));
    });
}
