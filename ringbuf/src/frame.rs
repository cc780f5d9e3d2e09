//! A buffer that this thread owns.

use crate::ledger::Slot;
use crate::pool::Pool;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use std::fmt;

/// A buffer that this thread owns; it goes back to its pool when dropped.
///
/// ```text
///   slot:  | headroom … | bytes: head .. head + len | … tailroom |
/// ```
///
/// It goes where its thread goes, as long as its pool is there:
///
/// ```
/// # let pool = ringbuf::Pool::new(ringbuf::Arena::new(&Default::default()).unwrap());
/// let frame = pool.alloc().unwrap();
/// let moved = frame;
/// drop(moved);
/// drop(pool);
/// ```
///
/// It can't be cloned:
///
/// ```compile_fail,E0277
/// # let pool = ringbuf::Pool::new(ringbuf::Arena::new(&Default::default()).unwrap());
/// let frame: ringbuf::Frame<'_> = pool.alloc().unwrap();
/// let moved = ringbuf::Frame::clone(&frame);
/// ```
///
/// nor sent to another thread:
///
/// ```compile_fail,E0277
/// # let pool = ringbuf::Pool::new(ringbuf::Arena::new(&Default::default()).unwrap());
/// let frame = pool.alloc().unwrap();
/// std::thread::scope(|scope| scope.spawn(move || drop(frame)));
/// ```
///
/// nor used once it has been given away:
///
/// ```compile_fail,E0382
/// # let pool = ringbuf::Pool::new(ringbuf::Arena::new(&Default::default()).unwrap());
/// let frame = pool.alloc().unwrap();
/// let parcel = pool.park(frame);
/// drop(frame);
/// ```
///
/// nor outlive its pool, and with it the arena:
///
/// ```compile_fail,E0505
/// # let pool = ringbuf::Pool::new(ringbuf::Arena::new(&Default::default()).unwrap());
/// let frame = pool.alloc().unwrap();
/// drop(pool);
/// drop(frame);
/// ```
///
/// Invariant **bounds**: the first byte lies in a slot of the pool, which is ours by the ledger, and the last in the
/// same one. An empty frame too begins inside of its slot, so that its place always says which.
pub struct Frame<'p> {
    pool: &'p Pool,
    /// Offset of the first byte in the low 40 bits, [`OFFLOAD`] and [`CONTINUES`] above it, the length in the top 16:
    /// one word, as devices want it, so that a burst is handled by the word.
    word: u64,
}

// Sixty-four frames are 1 KiB: a burst stays in sixteen cache lines.
const _: () = assert!(size_of::<Frame<'static>>() == 16);
const _: () = assert!(size_of::<Option<Frame<'static>>>() == 16);

/// The packet goes on in the next frame of the burst.
const CONTINUES: u64 = 1 << 47;
/// The pool holds an [`Offload`] for this frame.
const OFFLOAD: u64 = 1 << 46;
/// There are at most 2^24 slots, of at most 2^15 bytes.
const OFFSET: u64 = (1 << 40) - 1;
const LEN_SHIFT: u32 = 48;
/// All but the length: the offset itself for a plain frame.
const TAG: u64 = (1 << LEN_SHIFT) - 1;

/// There is no room for so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room in the frame")
    }
}

impl std::error::Error for NoRoom {}

/// What the kernel or a device left undone in a packet, or should do on the way out.
///
/// The fields are those of `struct virtio_net_hdr` (VIRTIO 1.2 §5.1.6): a checksum to be completed over everything
/// from `checksum_start`, stored at `checksum_start + checksum_offset`; and the size at which a large packet is to be
/// cut into segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// First byte that the checksum covers, in bytes from the start of the packet.
    pub checksum_start: u16,
    /// Where in that range it is stored; 0 when there is no checksum to complete.
    pub checksum_offset: u16,
    /// Payload bytes of each segment; 0 for none.
    pub segment_bytes: u16,
    /// Bytes of headers that each segment repeats.
    pub header_bytes: u16,
    /// How it is to be cut.
    pub segmentation: Segmentation,
}

/// How a large packet is to be cut into segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv4 with ECN's CWR in the first segment.
    Tcp4Ecn,
    /// TCP over IPv6.
    Tcp6,
    /// TCP over IPv6 with ECN's CWR in the first segment.
    Tcp6Ecn,
    /// UDP, a datagram a segment.
    Udp,
}

impl<'p> Frame<'p> {
    /// A frame in a slot that the ledger gives to this thread: `len` bytes, at most 2^15, from `offset` on, which have
    /// been checked to lie in that slot.
    #[inline]
    pub(crate) const fn at(pool: &'p Pool, offset: u64, len: u64) -> Self {
        debug_assert!(offset <= OFFSET && len <= 1 << 15);
        Self { pool, word: (len << LEN_SHIFT) | offset }
    }

    /// The pool it goes back to.
    #[inline]
    #[must_use]
    pub const fn pool(&self) -> &'p Pool {
        self.pool
    }

    /// Its place in the arena.
    #[inline]
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.pool.slot_at(self.offset())
    }

    /// The offset with the flags on top: the offset itself for a plain frame, and beyond every arena for others.
    #[inline]
    pub(crate) const fn tag(&self) -> u64 {
        self.word & TAG
    }

    /// Offset of its first byte in the arena: how a device finds it.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.word & OFFSET
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the slice it derefs to has is_empty")]
    pub const fn len(&self) -> u16 {
        (self.word >> LEN_SHIFT) as u16
    }

    /// Bytes free in front.
    #[inline]
    #[must_use]
    pub const fn head(&self) -> u16 {
        self.pool.head_at(self.offset())
    }

    /// Takes other bytes of the same slot: `offset` and `len` keep *bounds*.
    #[inline]
    const fn set_span(&mut self, offset: u64, len: u16) {
        debug_assert!(self.pool.slot_at(offset).0 == self.slot().0);
        self.word = (self.word & TAG & !OFFSET) | offset | ((len as u64) << LEN_SHIFT);
    }

    /// Bytes free behind.
    #[inline]
    #[must_use]
    pub const fn tailroom(&self) -> u16 {
        // *bounds* keeps the sum below the frame size.
        self.pool.frame_size() - self.head() - self.len()
    }

    /// Whether the packet goes on in the next frame of the burst.
    #[inline]
    #[must_use]
    pub const fn continues(&self) -> bool {
        self.word & CONTINUES != 0
    }

    /// Whether it is a packet by itself with nothing left undone: the common case.
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.word & (CONTINUES | OFFLOAD) == 0
    }

    /// Says whether the packet goes on in the next frame of the burst.
    #[inline]
    pub const fn set_continues(&mut self, continues: bool) {
        self.word = if continues { self.word | CONTINUES } else { self.word & !CONTINUES };
    }

    /// What was left undone in this packet, if anything; on the packet's first frame.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Option<Offload> {
        (self.word & OFFLOAD != 0).then(|| self.pool.offload_of(self.slot()).get())
    }

    /// Notes what is undone in this packet; `None` when it is complete.
    #[inline]
    pub fn set_offload(&mut self, offload: Option<Offload>) {
        match offload {
            Some(offload) => {
                self.pool.offload_of(self.slot()).set(offload);
                self.word |= OFFLOAD;
            }
            None => self.word &= !OFFLOAD,
        }
    }

    /// Keeps the note on the same bytes when the packet's start moves; drops it when they are cut off.
    #[inline]
    fn shift_offload(&mut self, shift: impl Fn(u16) -> Option<u16>) {
        if let Some(offload) = self.offload() {
            let at = |place: u16, there: bool| if there { shift(place) } else { Some(place) };
            let moved = || {
                let checksum_start = at(offload.checksum_start, offload.checksum_offset > 0)?;
                let header_bytes = at(offload.header_bytes, offload.header_bytes > 0)?;
                Some(Offload { checksum_start, header_bytes, ..offload })
            };
            self.set_offload(moved());
        }
    }

    /// Takes up again what was noted for this slot before a device had it: for a wire that carries frames as they are.
    #[inline]
    pub const fn keep_offload(&mut self) {
        self.word |= OFFLOAD;
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`NoRoom`] when they do not fit; the frame is as before.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let start = usize::from(self.len());
        let added = u16::try_from(bytes.len()).map_err(|_| NoRoom)?;
        self.grow(added)?;
        self[start..].copy_from_slice(bytes);
        Ok(())
    }

    /// Lengthens it by `count` bytes of whatever the slot holds.
    ///
    /// # Errors
    /// [`NoRoom`] when the tailroom is smaller.
    #[inline]
    pub const fn grow(&mut self, count: u16) -> Result<(), NoRoom> {
        if count > self.tailroom() {
            return Err(NoRoom);
        }
        self.set_span(self.offset(), self.len() + count);
        Ok(())
    }

    /// Lengthens it in front by `count` bytes of whatever the slot holds.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller.
    #[inline]
    pub fn grow_front(&mut self, count: u16) -> Result<(), NoRoom> {
        if count > self.head() {
            return Err(NoRoom);
        }
        self.set_span(self.offset() - u64::from(count), self.len() + count);
        self.shift_offload(|start| start.checked_add(count));
        Ok(())
    }

    /// Cuts it to at most `len` bytes.
    #[inline]
    pub const fn truncate(&mut self, len: u16) {
        if len < self.len() {
            self.set_span(self.offset(), len);
        }
    }

    /// Cuts `count` bytes off the front, or all when there are fewer. One that ended with its slot and is empty now
    /// begins at the slot's last byte.
    #[inline]
    pub fn trim_front(&mut self, count: u16) {
        let count = if count < self.len() { count } else { self.len() };
        let head = (self.head() + count).min(self.pool.frame_size() - 1);
        self.set_span(self.offset() - u64::from(self.head()) + u64::from(head), self.len() - count);
        self.shift_offload(|start| start.checked_sub(count));
    }

    /// Empties it and sets its headroom, at most so that a byte is left of the slot.
    #[inline]
    pub fn restart(&mut self, headroom: u16) {
        let head = headroom.min(self.pool.frame_size() - 1);
        self.set_span(self.offset() - u64::from(self.head()) + u64::from(head), 0);
        self.set_offload(None);
    }

    /// Room for `count` bytes that a device reads before the packet (AF_XDP's transmit metadata), as a slice that is
    /// not part of it.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller.
    #[inline]
    pub fn headroom_mut(&mut self, count: u16) -> Result<&mut [u8], NoRoom> {
        let head = self.head().checked_sub(count).ok_or(NoRoom)?;
        Ok(self.slice_mut(head, count))
    }

    /// Gives up ownership without giving the slot back: the ledger entry moves next.
    #[inline]
    pub(crate) fn into_slot(self) -> Slot {
        ManuallyDrop::new(self).slot()
    }

    #[inline]
    fn slice_mut(&mut self, head: u16, len: u16) -> &mut [u8] {
        debug_assert!(head + len <= self.pool.frame_size());
        let start = self.pool.byte_at(self.offset() - u64::from(self.head()) + u64::from(head));
        // SAFETY: the bytes lie in the slot, the ledger says that in this process it is ours alone, and `&mut self` that
        // nobody in this thread looks on; of another process that is *peer* of a shared arena. The mapping was zeroed, so
        // each byte is initialised.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), usize::from(len)) }
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let start = self.pool.byte_at(self.offset());
        // SAFETY: as in `slice_mut`, for reading.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), usize::from(self.len())) }
    }
}

impl DerefMut for Frame<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.slice_mut(self.head(), self.len())
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.pool.put_back(self.slot());
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("slot", &self.slot().0)
            .field("head", &self.head())
            .field("len", &self.len())
            .field("continues", &self.continues())
            .field("offload", &self.offload())
            .finish()
    }
}
