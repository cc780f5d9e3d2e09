//! The hot halves of receiving and transmitting: from mbuf to frame and back in one step, without a descriptor in between.
//!
//! As in `plain.rs`, each loop is a leaf function over slices and numbers, compiled for the usual sizes of slots. What is out
//! of the ordinary ends it, and goes the careful way (`packet.rs`).
//!
//! Invariants: **alive** and **owner** of `ffi.rs`; **each**: the herd has one mbuf for each slot, in their order, so the one of
//! a slot of the arena is there.

use super::ffi::HerdHandle;
use core::ptr::NonNull;
use dpdk_sys as sys;
use ringbuf::{Burst, Frame, Loan, Pool};
use sys::{ALONE, Mbuf, NOT_PLAIN, Pair};

/// An mbuf that the device has handed over.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Received(NonNull<Mbuf>);

impl Received {
    /// Its bytes as an address and how many; `None` when there is more to it than a frame with nothing undone.
    #[inline]
    fn plain(&self) -> Option<(u64, u64)> {
        // SAFETY: *alive* and *owner*: DPDK handed over an mbuf, and it is nobody else's until it is given back.
        let mbuf = unsafe { self.0.as_ref() };
        let Pair(holders_and_segments) = mbuf.holders_and_segments.get();
        if holders_and_segments != ALONE || mbuf.ol_flags.get() & NOT_PLAIN != 0 {
            return None;
        }
        let start = mbuf.buf_addr.get().addr() as u64 + u64::from(mbuf.data_off.get());
        Some((start, mbuf.data_len.get().into()))
    }
}

/// A place for a packet that is laid down for the device.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Place(*const Mbuf);

/// The mbufs of an arena's slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mbufs<'h> {
    herd: &'h HerdHandle,
    first: NonNull<Mbuf>,
    base: u64,
}

impl<'h> Mbufs<'h> {
    pub(super) fn of(herd: &'h HerdHandle, pool: &Pool) -> Self {
        Self { herd, first: herd.frames(), base: pool.arena().base().addr().get() as u64 }
    }

    /// Lets the mbuf of a slot carry the bytes there.
    #[inline]
    fn carry<const SHIFT: u32>(&self, shift: u32, offset: u64, len: u16) -> Place {
        let slot = offset >> if SHIFT == 0 { shift } else { SHIFT };
        #[expect(clippy::cast_possible_truncation, reason = "slots are fewer than 2^24")]
        // SAFETY: *each*: the gate has looked the slot up.
        let place = unsafe { self.first.add(slot as usize) };
        // SAFETY: *alive*, and *owner*: the slot was a frame of this thread's until now.
        let mbuf = unsafe { place.as_ref() };
        let mut into = (self.base + offset).wrapping_sub(mbuf.buf_addr.get().addr() as u64);
        if into > u64::from(u16::MAX) {
            into = self.widen(mbuf, offset);
        }
        #[expect(clippy::cast_possible_truncation, reason = "compared above; a slot is shorter")]
        mbuf.data_off.set(into as u16);
        mbuf.ol_flags.set(0);
        mbuf.pkt_len.set(len.into());
        mbuf.data_len.set(len);
        Place(place.as_ptr())
    }

    /// In front of the buffer's first byte: the buffer is the whole slot from now on. Returns where in it the bytes begin.
    #[cold]
    #[inline(never)]
    fn widen(&self, mbuf: &Mbuf, offset: u64) -> u64 {
        self.herd.widen(mbuf, offset);
        self.base + offset - mbuf.buf_addr.get().addr() as u64
    }
}

/// Takes plain packets off the front until something else comes; returns how many, and their bytes.
#[inline]
pub(super) fn arrive<'p>(
    pool: &'p Pool,
    loan: Loan,
    received: &[Received],
    burst: &mut Burst<'p>,
    note: impl Fn(&mut Frame<'p>),
) -> (u32, u64) {
    match pool.frame_size() {
        2048 => arrive_plain::<11>(pool, loan, received, burst, note),
        4096 => arrive_plain::<12>(pool, loan, received, burst, note),
        _ => arrive_plain::<0>(pool, loan, received, burst, note),
    }
}

#[inline(never)]
fn arrive_plain<'p, const SHIFT: u32>(
    pool: &'p Pool,
    loan: Loan,
    received: &[Received],
    burst: &mut Burst<'p>,
    note: impl Fn(&mut Frame<'p>),
) -> (u32, u64) {
    let mut gate = pool.gate::<SHIFT>(loan);
    let base = pool.arena().base().addr().get() as u64;
    let taken = burst.fill_from(received, |mbuf| {
        let (start, len) = mbuf.plain()?;
        // What lies in front of the arena, or behind it, is beyond every slot; as is another herd's memory.
        let offset = start.wrapping_sub(base);
        let mut frame = gate.arrive(offset, len)?;
        fetch(start);
        note(&mut frame);
        Some(frame)
    });
    (taken, gate.bytes())
}

/// Whoever sent a frame wrote it on another core, or by DMA: it is asked for before it is looked at.
#[inline]
fn fetch(address: u64) {
    #[cfg(target_arch = "x86_64")]
    if let Ok(address) = usize::try_from(address) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; nothing is read that a program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::without_provenance(address)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Lays packets of one frame down for the device until something else comes; returns how many, and their bytes.
#[inline]
pub(super) fn depart<'p>(
    pool: &'p Pool,
    loan: Loan,
    mbufs: Mbufs<'_>,
    burst: &mut Burst<'p>,
    places: &mut [Place],
    longest: u32,
) -> (u32, u64) {
    match pool.frame_size() {
        2048 => depart_plain::<11>(pool, loan, mbufs, burst, places, longest),
        4096 => depart_plain::<12>(pool, loan, mbufs, burst, places, longest),
        _ => depart_plain::<0>(pool, loan, mbufs, burst, places, longest),
    }
}

#[inline(never)]
fn depart_plain<'p, const SHIFT: u32>(
    pool: &'p Pool,
    loan: Loan,
    mbufs: Mbufs<'_>,
    burst: &mut Burst<'p>,
    places: &mut [Place],
    longest: u32,
) -> (u32, u64) {
    let gate = pool.gate::<SHIFT>(loan);
    let shift = pool.arena().shift();
    let mut bytes = 0;
    // A length of zero wraps to the largest number: one comparison finds both ends.
    let fit = |frame: &Frame<'_>| u32::from(frame.len()).wrapping_sub(1) < longest;
    let put = burst.depart_into(&gate, places, fit, |offset, len| {
        bytes += u64::from(len);
        mbufs.carry::<SHIFT>(shift, offset, len)
    });
    (put, bytes)
}
