//! Why a program could not be loaded or attached, in a sentence that names the interface, the step, the cause
//! and the cure.

use std::{fmt, io};

use rustix::io::Errno;

use super::Mode;
use crate::error::CAPABILITIES;

/// Why an XDP program does not run on an interface, or does not know a socket.
#[derive(Debug)]
pub struct AttachError {
    interface: Option<String>,
    step: Step,
    cause: Cause,
    /// What was tried before this, and refused.
    before: Option<Box<Self>>,
    source: io::Error,
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The program was being handed to the kernel, and verified.
    Load,
    /// It was being attached to the interface.
    Attach(Mode),
    /// The socket of this queue was being made known to it.
    Insert(u32),
    /// The socket of this queue was being taken away from it.
    Remove(u32),
}

/// What stood in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Rights are missing (`EPERM`, `EACCES`).
    NotPermitted,
    /// Another program is attached (`EBUSY`, `EEXIST`): its number and name, where the kernel tells.
    Occupied {
        /// The number that `bpftool prog show id` takes.
        id: Option<u32>,
        /// The name, which only a privileged process learns.
        name: Option<String>,
    },
    /// The driver or kernel refused the request as it stands (`EINVAL`).
    Refused,
    /// The MTU is larger than the driver takes (`ERANGE`).
    MtuTooLarge,
    /// The driver, the kernel or the socket cannot do it (`EOPNOTSUPP`).
    Unsupported,
    /// Memory or free queues are missing (`ENOMEM`).
    OutOfMemory,
    /// There are too few queues (`ENOSPC`).
    TooFewQueues,
    /// The queue is outside of the table (`E2BIG`).
    NoSuchQueue,
    /// There is no such interface, or not any more (`ENODEV`, `ENOENT`, `ENXIO`).
    Gone,
    /// Anything else; the source says what.
    Other,
}

impl AttachError {
    pub(super) fn new(interface: Option<&str>, step: Step, source: io::Error) -> Self {
        let errno = source.raw_os_error().map(Errno::from_raw_os_error);
        let cause = match errno {
            Some(Errno::PERM | Errno::ACCESS) => Cause::NotPermitted,
            Some(Errno::BUSY | Errno::EXIST) => Cause::Occupied { id: None, name: None },
            Some(Errno::INVAL) => Cause::Refused,
            Some(Errno::RANGE) => Cause::MtuTooLarge,
            Some(Errno::OPNOTSUPP) => Cause::Unsupported,
            Some(Errno::NOMEM) => Cause::OutOfMemory,
            Some(Errno::NOSPC) => Cause::TooFewQueues,
            Some(Errno::TOOBIG) => Cause::NoSuchQueue,
            Some(Errno::NODEV | Errno::NOENT | Errno::NXIO) => Cause::Gone,
            _ => Cause::Other,
        };
        Self { interface: interface.map(Into::into), step, cause, before: None, source }
    }

    pub(super) fn from_libbpf(step: Step, error: &libbpf_rs::Error) -> Self {
        let cause = match error.kind() {
            libbpf_rs::ErrorKind::InvalidInput if matches!(step, Step::Remove(_)) => Cause::NoSuchQueue,
            libbpf_rs::ErrorKind::PermissionDenied => Cause::NotPermitted,
            libbpf_rs::ErrorKind::InvalidInput => Cause::Refused,
            libbpf_rs::ErrorKind::Unsupported => Cause::Unsupported,
            libbpf_rs::ErrorKind::OutOfMemory => Cause::OutOfMemory,
            libbpf_rs::ErrorKind::TooBig => Cause::NoSuchQueue,
            _ => Cause::Other,
        };
        Self { interface: None, step, cause, before: None, source: io::Error::other(format!("{error:#}")) }
    }

    pub(super) fn occupied(mut self, id: Option<u32>, name: Option<String>) -> Self {
        self.cause = Cause::Occupied { id, name };
        self
    }

    pub(super) fn after(mut self, before: Self) -> Self {
        self.before = Some(Box::new(before));
        self
    }

    /// The same error, naming the interface for which the program was meant.
    #[must_use]
    pub fn on(mut self, interface: &str) -> Self {
        self.interface = Some(interface.into());
        self
    }

    /// What was being done.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// What stood in the way.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whether generic mode may still work: it will not if rights are missing or the place is taken.
    pub(super) fn is_of_the_driver(&self) -> bool {
        !matches!(self.cause, Cause::NotPermitted | Cause::Occupied { .. } | Cause::Gone)
    }

    /// What stood in the way, and what usually helps, for an interface of this name.
    fn cause_and_cure(&self, name: &str) -> String {
        match (&self.cause, self.step) {
            (Cause::NotPermitted, _) => format!(
                "this process has not the rights (CAP_BPF and CAP_NET_ADMIN): run it as root, or grant all that a port \
                 takes with `setcap {CAPABILITIES}+ep` on the program file"
            ),
            (Cause::Occupied { id, name: program }, _) => format!(
                "another XDP program is attached to it{}: end the process that holds it by a BPF link (`bpftool link` \
                 shows those there are); `ip link set dev {name} xdp off` takes off only what was attached without one",
                match (id, program) {
                    (Some(id), Some(program)) => format!(" (id {id}, `{program}`)"),
                    (Some(id), None) => format!(" (id {id})"),
                    _ => String::new(),
                }
            ),
            (Cause::Refused | Cause::Unsupported, Step::Load) => "the kernel does not know what it needs: Linux 5.18 \
                or newer is needed for XDP over several buffers; the kernel's words are in the log at level debug"
                .into(),
            (Cause::Refused, Step::Insert(_)) | (Cause::Unsupported, Step::Insert(_)) => "the socket has no receive \
                ring, no fill ring or no memory registered yet: set them up before this step"
                .into(),
            (Cause::Refused, _) => format!(
                "the driver does not take it as the interface is set up, most often because its MTU is too large or \
                 LRO is on: try `ip link set dev {name} mtu 1500` and `ethtool -K {name} lro off`; `dmesg` often has \
                 the driver's own words"
            ),
            (Cause::MtuTooLarge, _) => format!(
                "its MTU, or that of its veth peer, is larger than the driver takes with XDP: lower it with `ip link \
                 set dev {name} mtu 1500`"
            ),
            (Cause::Unsupported, Step::Attach(Mode::Native)) => format!(
                "its driver has no native XDP, or not with the offloads that are on: use generic mode, or turn off \
                 what stands in the way (`ethtool -K {name} lro off`)"
            ),
            (Cause::Unsupported, _) => "the kernel has no XDP links for it: Linux 5.9 or newer is needed".into(),
            (Cause::OutOfMemory, _) => format!(
                "the driver found too little memory or too few spare transmit queues (several want one for each CPU): \
                 use fewer queues with `ethtool -L {name} combined N`, or free memory"
            ),
            (Cause::TooFewQueues, _) => format!(
                "it has too few queues: a veth wants at least as many receive queues as its peer has transmit queues, \
                 and some drivers spare ones for XDP: see `ethtool -l {name}` and change them with `ethtool -L {name}`"
            ),
            (Cause::NoSuchQueue, Step::Insert(queue) | Step::Remove(queue)) => format!(
                "the program was loaded for fewer queues than {}: load it again with the present number of queues",
                u64::from(queue) + 1
            ),
            (Cause::Gone, Step::Attach(_)) => {
                "there is no such interface, or not any more: `ip link` lists those there are".into()
            }
            (Cause::NoSuchQueue | Cause::Gone | Cause::Other, _) => {
                "the kernel gave a reason that is not foreseen here: `dmesg` may say more".into()
            }
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(interface) = &self.interface {
            write!(out, "{interface}: ")?;
        }
        match self.step {
            Step::Load => out.write_str("the XDP program could not be loaded"),
            Step::Attach(mode) => write!(out, "the XDP program could not be attached in {mode} mode"),
            Step::Insert(queue) => {
                write!(out, "the socket of queue {queue} could not be given to the XDP program")
            }
            Step::Remove(queue) => {
                write!(out, "the socket of queue {queue} could not be taken from the XDP program")
            }
        }?;
        let name = self.interface.as_deref().unwrap_or("INTERFACE");
        write!(out, ", because {} ({})", self.cause_and_cure(name), self.source)?;
        match &self.before {
            Some(before) => write!(out, "; before that, {before}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
