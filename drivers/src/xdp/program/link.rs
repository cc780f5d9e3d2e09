//! A bpf_link: an XDP program on an interface for as long as this process holds it.
//!
//! libbpf-rs attaches by link too, but passes no flags, and without flags the kernel takes generic mode where
//! the driver has no native XDP, without a word (`dev_xdp_mode` in net/core/dev.c). So the two calls that
//! matter are made here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys;
use libbpf_rs::query::{LinkInfo, LinkTypeInfo};

use super::Mode;

/// An attached program. The kernel detaches it when the last descriptor of the link is closed, so it does not
/// survive this process, however that ends.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Attaches `program` to the interface of this index, in this mode and no other.
    pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<Self> {
        let ifindex = i32::try_from(ifindex).map_err(|_| io::Error::from(rustix::io::Errno::NODEV))?;
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags: match mode {
                Mode::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
                Mode::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
            },
            ..Default::default()
        };
        let program = program.as_raw_fd();
        // SAFETY: `options` says its own size, is zero but for the flags, and outlives the call, which keeps
        // no pointer.
        let fd =
            unsafe { libbpf_sys::bpf_link_create(program, ifindex, libbpf_sys::BPF_XDP, &raw const options) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Takes the program off. When this returns no frame is in it any more. A second call does nothing.
    ///
    /// Closing the descriptor is not enough: a child that another thread is about to start holds a copy until
    /// it runs its own program.
    pub(super) fn detach(&self) -> io::Result<()> {
        // SAFETY: the call takes a number only, of a descriptor that `self` keeps open.
        match unsafe { libbpf_sys::bpf_link_detach(self.fd.as_raw_fd()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        }
    }

    /// Whether the program is still on its interface: not after [`Self::detach`], and not when the interface
    /// is gone.
    pub(super) fn is_attached(&self) -> bool {
        LinkInfo::from_fd(self.fd.as_fd())
            .is_ok_and(|link| matches!(link.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex != 0))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "the XDP program is detached by closing its link only");
        }
    }
}
