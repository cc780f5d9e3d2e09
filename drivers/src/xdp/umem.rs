//! The arena as the kernel knows it, shared by all AF_XDP queues of a worker.

use super::socket::{Registration, Socket};
use ringbuf::Pool;
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::{Rc, Weak};

/// One arena, and the sockets under which it is registered.
///
/// A socket that shares another's registration also shares its mode (`xp_assign_dev_shared`, `net/xdp/xsk_buff_pool.c`),
/// so there is one group for each mode in use: with one driver for all ports, one. The memory is the same for all.
#[derive(Debug)]
pub struct Umem<'p> {
    pool: &'p Pool,
    groups: RefCell<Vec<Group>>,
    /// The same arena as DPDK knows it, while a queue of its is open.
    #[cfg(feature = "dpdk")]
    herd: RefCell<Weak<crate::dpdk::Herd>>,
}

/// What all sockets of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sharing {
    pub(super) zero_copy: bool,
    pub(super) multi_buffer: bool,
    pub(super) registration: Registration,
}

#[derive(Debug)]
struct Group {
    sharing: Sharing,
    sockets: Vec<Weak<Socket>>,
}

impl<'p> Umem<'p> {
    /// No socket yet.
    #[must_use]
    pub fn new(pool: &'p Pool) -> Rc<Self> {
        Rc::new(Self {
            pool,
            groups: RefCell::new(Vec::new()),
            #[cfg(feature = "dpdk")]
            herd: RefCell::default(),
        })
    }

    /// The pool over the arena.
    #[must_use]
    pub const fn pool(&self) -> &'p Pool {
        self.pool
    }

    /// Where DPDK's herd of this arena is kept.
    #[cfg(feature = "dpdk")]
    pub(crate) const fn herd(&self) -> &RefCell<Weak<crate::dpdk::Herd>> {
        &self.herd
    }

    /// How many registrations there are: 1 unless ports run in different modes.
    #[must_use]
    pub fn registrations(&self) -> usize {
        self.groups.borrow().iter().filter(|group| group.sockets.iter().any(|s| s.strong_count() > 0)).count()
    }

    /// Live sockets whose registration one of this mode can share. A socket whose interface is gone is no longer
    /// bound, and binding by it fails: so there may be several to try.
    pub(super) fn sharers(&self, wish: Sharing) -> Vec<Rc<Socket>> {
        let groups = self.groups.borrow();
        let group = groups.iter().filter(|group| group.sharing == wish);
        group.flat_map(|group| group.sockets.iter().filter_map(Weak::upgrade)).collect()
    }

    /// Notes a socket that has been bound.
    pub(super) fn joined(&self, sharing: Sharing, socket: &Rc<Socket>) {
        let mut groups = self.groups.borrow_mut();
        let weak = Rc::downgrade(socket);
        match groups.iter_mut().find(|group| group.sharing == sharing) {
            Some(group) => group.sockets.push(weak),
            None => groups.push(Group { sharing, sockets: vec![weak] }),
        }
        tracing::debug!(socket = socket.as_fd().as_raw_fd(), ?sharing, "bound");
    }
}

impl Drop for Umem<'_> {
    fn drop(&mut self) {
        // Every queue holds the umem, so every socket is closed by now and no device reads a page.
        self.pool.recall_pages();
    }
}
