//! The eventfds of one queue pair, and its view of the connection.

use super::supervisor::Shared;
use crate::error::Fault;
use crate::nic::virtio::{Change, Direction, Transport};
use core::sync::atomic::Ordering;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// An eventfd that can be polled here and handed to the back end.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings it. A counter that is full has been rung often enough.
    pub(super) fn ring(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn calm(&self) {
        // Empty or not: it is now.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    /// A copy, as the crate of the protocol takes it.
    pub(super) fn for_peer(&self) -> io::Result<EventFd> {
        let copy = self.0.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is a copy that was made for this and that nobody else has.
        Ok(unsafe { EventFd::from_raw_fd(copy) })
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bells of one queue pair: ours to ring, and the one that the back end rings.
#[derive(Debug)]
pub(super) struct Bells {
    pub(super) receive: Bell,
    pub(super) transmit: Bell,
    pub(super) call: Bell,
}

impl Bells {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { receive: Bell::new()?, transmit: Bell::new()?, call: Bell::new()? })
    }
}

/// What a queue pair knows of its back end.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) shared: Arc<Shared>,
    pub(super) bells: Arc<Bells>,
    /// The generation that the queue has acted on.
    pub(super) seen: u32,
}

impl Transport for Line {
    fn ring(&self, direction: Direction) -> Result<(), Fault> {
        let bell = match direction {
            Direction::Receive => &self.bells.receive,
            Direction::Transmit => &self.bells.transmit,
        };
        bell.ring().map_err(|error| Fault::System {
            call: "write (eventfd)",
            errno: error.raw_os_error().unwrap_or_default(),
        })
    }

    #[inline]
    fn change(&mut self) -> Result<Option<Change>, Fault> {
        // Pairs with the supervisor's release: the back end has let go of the memory, or has been told of it.
        let now = self.shared.generation.load(Ordering::Acquire);
        if now == self.seen {
            return Ok(None);
        }
        self.seen = now;
        Ok(Some(if Shared::is_up(now) { Change::Up } else { Change::Gone }))
    }

    fn settled(&mut self) {
        self.shared.settle();
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bells.call.as_fd())
    }

    fn awake(&self) -> Option<BorrowedFd<'_>> {
        let _ = self.bells.call.ring();
        self.waker()
    }

    fn calm(&mut self) {
        self.bells.call.calm();
    }

    fn close(&mut self) {
        self.shared.close();
    }
}
