//! Errors at two temperatures: rich while opening, one latched fault while running.

use ringbuf::{Stray, cursor::Impossible};
use std::fmt;
use std::io;

/// All that a port on an interface takes without root, as `setcap` wants them: one list for every message that names them. The last
/// is for the arena, which is locked in memory and counts against `ulimit -l` without it.
pub const CAPABILITIES: &str = "cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock";

/// Why a port or a queue could not be opened: what was being done, to what, why, and what usually helps.
#[derive(Debug)]
pub struct OpenError {
    /// The device, as the user named it.
    pub device: String,
    /// What was being done: `binding the AF_XDP socket to queue 3`.
    pub step: String,
    /// What the kernel or the file said.
    pub source: io::Error,
    /// The cause and the cure in words, when they are known.
    pub hint: Option<String>,
}

impl OpenError {
    /// An error without a hint.
    pub fn new(device: impl Into<String>, step: impl Into<String>, source: io::Error) -> Self {
        Self { device: device.into(), step: step.into(), source, hint: None }
    }

    /// An error of ours, not the kernel's: a wish that can't be granted.
    pub fn refused(device: impl Into<String>, step: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(device, step, io::Error::new(io::ErrorKind::InvalidInput, why.into()))
    }

    /// Adds the cause and the cure.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} failed: {}", self.device, self.step, self.source)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Why a queue has stopped for good. Latched once, read by the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The interface is no longer there.
    Gone,
    /// The process at the other end of a link of shared memory is gone, and this side does not connect again.
    Severed,
    /// The device does not answer any more, or the kernel asks for it back.
    PulledOut,
    /// The device returned a slot that it did not have.
    Stray(Stray),
    /// The device published an impossible ring position.
    Ring(Impossible),
    /// The device says that a descriptor is done which it did not have, or which there is not.
    Completion {
        /// The descriptor's number.
        id: u32,
    },
    /// The device says that it has filled a buffer, but not even with the header that is in front of each packet.
    Short {
        /// The bytes that it says.
        len: u32,
        /// Those of a header.
        header: u16,
    },
    /// The device says that it must be reset: it found something wrong in its rings, or in itself.
    NeedsReset,
    /// The device has not said for a long time that it is done with what it was given.
    Silent,
    /// A system call that must work failed.
    System {
        /// Which.
        call: &'static str,
        /// `errno`.
        errno: i32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the interface was deleted, or moved to another namespace"),
            Self::Severed => f.write_str(
                "the process at the other end is gone, and this side of such a link does not connect again: start it once the \
                 other is there, or let this side listen (server=1)",
            ),
            Self::PulledOut => f.write_str("the device was pulled out, or the kernel asks for it back"),
            Self::Stray(stray) => stray.fmt(f),
            Self::Ring(Impossible { claimed, head, tail }) => write!(
                f,
                "the device published ring position {claimed:#x}, which is impossible between {head:#x} and {tail:#x}"
            ),
            Self::Completion { id } => {
                write!(f, "the device says that descriptor {id} is done, which it did not have")
            }
            Self::Short { len, header } => write!(
                f,
                "the device says that it has put {len} bytes into a buffer, where the header alone takes {header}"
            ),
            Self::NeedsReset => f.write_str(
                "the device says that it must be reset, since it found something wrong in its rings or in itself, or an IOMMU \
                 kept it from memory (dmesg: DMAR, AMD-Vi): start again",
            ),
            Self::Silent => f.write_str(
                "the device has not said for five seconds that what it was given is done: it hangs, or an IOMMU keeps it from \
                 memory (dmesg: DMAR, AMD-Vi): start again",
            ),
            Self::System { call, errno } => write!(f, "{call}: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl From<Stray> for Fault {
    fn from(stray: Stray) -> Self {
        Self::Stray(stray)
    }
}

impl From<Impossible> for Fault {
    fn from(lie: Impossible) -> Self {
        Self::Ring(lie)
    }
}
