//! An arena's frames as DPDK knows them, shared by all DPDK queues of a worker.

use super::ffi::HerdHandle;
use super::mbuf::Mbufs;
use crate::error::{Fault, OpenError};
use crate::xdp::Umem;
use ringbuf::{BURST, Loan, PACKET_PAGES, Pool, Stray};
use std::cell::Cell;
use std::io;
use std::rc::Rc;

/// A burst, as numbers of frames go here.
pub(super) const FRAMES: u32 = 64;
const _: () = assert!(FRAMES as usize == BURST);

/// Frames that rest at least: what a device may ask for at once. Twice a burst, since two devices may ask.
const LEAST: u32 = 2 * FRAMES;

/// Four times as many rest at most; what is beyond goes back to the pool. Far enough apart that a device which frees what it
/// has sent by the ring does not make frames go to and fro.
const MOST: u32 = 4;

/// Frames that rest in a worker's herd, on top of what lies in the devices' rings, for a device that receives packets of so
/// many frames.
pub(super) const fn resting(packet_frames: u32) -> u32 {
    MOST * LEAST * packet_frames
}

/// One loan for all DPDK devices of a worker: a frame that one of them has sent may be the next that one of them fills,
/// without a word to us, as is DPDK's way.
#[derive(Debug)]
pub struct Herd {
    pub(super) handle: HerdHandle,
    pub(super) loan: Loan,
    /// Pages that can be under way at once.
    pages: u32,
    /// Frames that rest at least.
    least: Cell<u32>,
    /// Slots that are out on the loan.
    lent: Cell<i64>,
    /// Slots that lay in devices' rings, to be filled, before the first was sent.
    to_be_filled: Cell<Option<i64>>,
}

impl Herd {
    /// The herd of an arena; made for its first queue.
    pub(super) fn of(umem: &Umem<'_>, device: &str) -> Result<Rc<Self>, OpenError> {
        if let Some(herd) = umem.herd().borrow().upgrade() {
            return Ok(herd);
        }
        let pool = umem.pool();
        let refuse = |why: &str| OpenError::refused(device, "making the arena known to DPDK", why);
        if !pool.arena().is_lent() {
            return Err(refuse("the arena is not in DPDK's memory: it must come from drivers::dpdk::arena"));
        }
        let loan = pool.open_loan().ok_or_else(|| refuse("all 252 loans of the pool are in use"))?;
        let pages = if pool.arena().content_bytes() == 0 { 0 } else { page_mbufs(pool) };
        let handle = HerdHandle::new(pool, pages).ok_or_else(|| {
            OpenError::new(device, "making an mbuf for each frame", io::ErrorKind::OutOfMemory.into())
                .hint("give the first port more memory: memory=MIB; or fewer --frames")
        })?;
        let herd = Rc::new(Self {
            handle,
            loan,
            pages,
            least: Cell::new(LEAST),
            lent: Cell::new(0),
            to_be_filled: Cell::new(None),
        });
        *umem.herd().borrow_mut() = Rc::downgrade(&herd);
        Ok(herd)
    }

    /// The mbufs of the slots.
    #[inline]
    pub(super) fn mbufs(&self, pool: &Pool) -> Mbufs<'_> {
        Mbufs::of(&self.handle, pool)
    }

    /// Lays empty frames down for a device that is about to start, maybe by another thread, and that receives packets of so
    /// many frames.
    pub(super) fn reserve(&self, pool: &Pool, ring: u16, packet_frames: u32) {
        // At most half of the frames rest at any time.
        let least = (LEAST * packet_frames).min(pool.arena().frames() / (2 * MOST));
        self.least.set(self.least.get().max(least));
        self.to_be_filled.set(None);
        for _ in 0..u32::from(ring) + self.least.get() {
            let Some(slot) = pool.lend(self.loan) else { break };
            self.lent(1);
            self.handle.reserve(&[pool.offset(slot)]);
        }
    }

    /// Sees to it that a device finds empty frames, and that the pool has the others.
    #[inline]
    pub(super) fn balance(&self, pool: &Pool) -> Result<(), Fault> {
        let resting = self.handle.gather();
        if self.to_be_filled.get().is_none() {
            self.to_be_filled.set(Some(self.lent.get() - i64::from(resting)));
        }
        let least = self.least.get();
        if resting < least {
            self.lend(pool, 2 * least - resting);
        } else if resting > MOST * least {
            self.reclaim(pool, resting - 2 * least)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn lend(&self, pool: &Pool, count: u32) {
        let mut offsets = [0; BURST];
        let mut left = count as usize;
        while left > 0 {
            let wanted = left.min(BURST);
            let mut lent = 0;
            for offset in &mut offsets[..wanted] {
                let Some(slot) = pool.lend(self.loan) else { break };
                *offset = pool.offset(slot);
                lent += 1;
            }
            self.lent(lent as i64);
            self.handle.offer(&offsets[..lent]);
            if lent < wanted {
                break;
            }
            left -= lent;
        }
    }

    #[inline(never)]
    fn reclaim(&self, pool: &Pool, count: u32) -> Result<(), Fault> {
        let mut offsets = [0; BURST];
        let mut left = count as usize;
        while left > 0 {
            let taken = self.handle.take(&mut offsets[..left.min(BURST)]);
            if taken.is_empty() {
                break;
            }
            for offset in taken {
                let (slot, _) = pool.locate(*offset)?;
                pool.reclaim(slot, self.loan)?;
            }
            left -= taken.len();
            self.lent(-(taken.len() as i64));
        }
        Ok(())
    }

    /// Pages that were sent are counted no more.
    #[inline]
    pub(super) fn release_pages(&self, pool: &Pool) -> Result<(), Stray> {
        if self.pages == 0 || self.handle.page_room() == self.pages {
            return Ok(());
        }
        self.release_some(pool)
    }

    #[inline(never)]
    fn release_some(&self, pool: &Pool) -> Result<(), Stray> {
        let mut offsets = [0; BURST];
        loop {
            let sent = self.handle.pages(&mut offsets);
            sent.iter().try_for_each(|offset| pool.reclaim_page(*offset))?;
            if sent.len() < BURST {
                return Ok(());
            }
        }
    }

    /// So many more are out on the loan, or fewer.
    #[inline]
    pub(super) fn lent(&self, count: i64) {
        self.lent.set(self.lent.get() + count);
    }

    /// Frames that were sent and do not rest yet: a device has them still. A device may leave some of its receive ring empty
    /// for a while, so it is rather fewer than that many.
    pub(super) fn under_way(&self) -> u32 {
        let in_devices = self.lent.get() - i64::from(self.handle.resting());
        let sent = in_devices - self.to_be_filled.get().unwrap_or(in_devices);
        u32::try_from(sent.max(0)).unwrap_or(u32::MAX)
    }

    /// All home: the devices are closed.
    pub(super) fn settle(&self, pool: &Pool) {
        self.handle.flush();
        self.handle.gather();
        // A stray would be a defect, and the books name what is missing then.
        let _ = self.reclaim(pool, u32::MAX);
        let _ = self.release_pages(pool);
        pool.recall(self.loan);
    }
}

/// As many pages as may wait in rings: a device frees them by the ring.
fn page_mbufs(pool: &Pool) -> u32 {
    const EACH: u32 = 17;
    const _: () = assert!(EACH as usize == PACKET_PAGES);
    pool.arena().frames().min(4096) * EACH / 2
}

impl Drop for Herd {
    fn drop(&mut self) {
        self.handle.bury();
    }
}
