//! How one queue pair reaches its device, and hears of it.

use super::device::{Bell, Device, Stage};
use crate::error::Fault;
use crate::nic::virtio::{Change, Direction, Transport};
use crate::pci::{DmaArena, DmaRings, Interrupt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Turns between two looks at what costs a read across the bus: whether the device is there and well, and its link up.
const LOOK_EVERY: u32 = 1024;

/// The bells of one queue pair, and its view of the device.
#[derive(Debug)]
pub(super) struct Line<'p> {
    pub(super) device: Arc<Device>,
    pub(super) receive: Bell,
    pub(super) transmit: Bell,
    pub(super) interrupt: Option<Arc<Interrupt>>,
    /// An eventfd that is readable for ever.
    pub(super) awake: OwnedFd,
    pub(super) turns: u32,
    /// The stage that the queue has acted on.
    pub(super) seen: Stage,
    /// What the queue was told of the link.
    pub(super) link: bool,
    // When this goes, the queue has stopped the device; its shadows, and so its slots, come home behind.
    pub(super) _arena: DmaArena<'p>,
    pub(super) _rings: DmaRings,
}

impl Line<'_> {
    /// The queue is told of the next stage.
    #[cold]
    fn go_on(&mut self, now: Stage) -> Option<Change> {
        self.seen = now;
        match now {
            Stage::Waiting | Stage::Stopping => None,
            Stage::Working => Some(Change::Up),
            Stage::Stopped => Some(Change::Gone),
        }
    }

    #[cold]
    fn look(&mut self) -> Result<Option<Change>, Fault> {
        self.turns = 0;
        let looked = self.device.look();
        // Another queue may have begun to stop it meanwhile: then that was what was seen.
        if self.device.stage() != Stage::Working {
            return Ok(None);
        }
        looked?;
        let up = self.device.is_link_up();
        if up == self.link {
            return Ok(None);
        }
        self.link = up;
        Ok(Some(Change::Link { up }))
    }
}

impl Transport for Line<'_> {
    fn ring(&self, direction: Direction) -> Result<(), Fault> {
        match direction {
            Direction::Receive => self.receive.ring(),
            Direction::Transmit => self.transmit.ring(),
        }
        Ok(())
    }

    #[inline]
    fn change(&mut self) -> Result<Option<Change>, Fault> {
        let now = self.device.stage();
        if now != self.seen {
            return Ok(self.go_on(now));
        }
        self.turns += 1;
        if self.turns < LOOK_EVERY || now != Stage::Working {
            return Ok(None);
        }
        self.look()
    }

    fn settled(&mut self) {}

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        self.interrupt.as_ref().map(|interrupt| interrupt.as_fd())
    }

    fn awake(&self) -> Option<BorrowedFd<'_>> {
        Some(self.awake.as_fd())
    }

    fn calm(&mut self) {
        let Some(interrupt) = &self.interrupt else { return };
        if interrupt.is_shared() {
            // Before the kernel lets the next one through.
            self.device.take_line_down();
        }
        // A device that is gone has taken its interrupt along: the look finds that out.
        let _ = interrupt.calm();
        self.turns = LOOK_EVERY;
    }

    fn close(&mut self) {
        self.device.stop();
    }
}
