//! The rings that a packet socket shares with us (TPACKET_V2, `Documentation/networking/packet_mmap.rst`), and the
//! system calls on such a socket that no safe crate wraps. All unsafe code of this driver.
//!
//! ```text
//!   map │ receive: slot 0 │ slot 1 │ … │ slot n-1 │ transmit: slot 0 │ … │ slot n-1 │
//!   received slot    │ tpacket2_hdr │ sockaddr_ll … │ virtio_net_hdr │ packet, from tp_mac │
//!   slot to be sent  │ tpacket2_hdr │ virtio_net_hdr │ packet │
//! ```
//!
//! Invariants:
//! * **map**: the mapping is both rings of `slots` × [`SLOT`] bytes, zeroed when new, and stays until the last ring is
//!   dropped;
//! * **turn**: a status word is only ever touched as an atomic. The rest of a slot is touched only by whom the status
//!   names: the kernel hands a slot over by its store, which our acquire load pairs with, and we by a release store.
//!   The kernel looks for slots to send only inside our own `send` on this socket;
//! * **plain**: all that we read there is integers, so a lying kernel writes nonsense but never an invalid value. No
//!   reference to the shared bytes is made; they are copied in and out.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};
use ringbuf::Cursor;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;

/// Bytes of a slot: a packet of 1514 bytes with its headers fits, and two rings of 1024 stay at 4 MiB.
pub(super) const SLOT: usize = 2048;
/// `struct virtio_net_hdr` in front of each packet.
pub(super) const VNET: usize = 10;
/// Where the kernel looks for the bytes to send: `TPACKET2_HDRLEN - sizeof(struct sockaddr_ll)`.
const SEND_AT: usize = libc::TPACKET2_HDRLEN - size_of::<libc::sockaddr_ll>();
/// Bytes of the longest packet that goes through the transmit ring.
pub(super) const SENDABLE: usize = SLOT - SEND_AT - VNET;

const _: () = assert!(size_of::<libc::tpacket2_hdr>() == 32 && SEND_AT == 32);

/// The mapping.
#[derive(Debug)]
struct Map {
    base: NonNull<u8>,
    bytes: usize,
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: *map*: mapped by `map_rings`, and the last ring that points into it is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Maps the two rings of `slots` slots each that the socket `fd` was given.
pub(super) fn map_rings(fd: BorrowedFd<'_>, slots: u32) -> io::Result<(ReceiveRing, TransmitRing)> {
    map(fd.as_raw_fd(), libc::MAP_SHARED, slots)
}

fn map(fd: i32, flags: i32, slots: u32) -> io::Result<(ReceiveRing, TransmitRing)> {
    let ring_bytes = slots as usize * SLOT;
    let (bytes, access) = (2 * ring_bytes, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at a place of the kernel's choice disturbs no memory that there is.
    let base = unsafe { libc::mmap(null_mut(), bytes, access, flags, fd, 0) };
    let base =
        NonNull::new(base).filter(|_| base != libc::MAP_FAILED).ok_or_else(io::Error::last_os_error)?;
    let base: NonNull<u8> = base.cast();
    let keeper = Rc::new(Map { base, bytes });
    // SAFETY: the second ring begins in the middle of the mapping.
    let second = unsafe { base.add(ring_bytes) };
    let receive = Slots { base, count: slots, _keeper: Rc::clone(&keeper) };
    let transmit = Slots { base: second, count: slots, _keeper: keeper };
    Ok((
        ReceiveRing { slots: receive, cursor: Cursor::at(0, slots) },
        TransmitRing { slots: transmit, cursor: Cursor::at(0, slots) },
    ))
}

/// The slots of one ring.
#[derive(Debug)]
struct Slots {
    base: NonNull<u8>,
    count: u32,
    _keeper: Rc<Map>,
}

impl Slots {
    /// The first byte of a slot.
    fn at(&self, slot: usize) -> NonNull<u8> {
        assert!(slot < self.count as usize, "a cursor's slot is below its capacity");
        // SAFETY: *map*: the slot lies in the ring.
        unsafe { self.base.add(slot * SLOT) }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        let word: NonNull<AtomicU32> = self.at(slot).cast();
        // SAFETY: *map* and *turn*: `tp_status` is the first word, aligned since slots are, and always atomic.
        unsafe { word.as_ref() }
    }
}

/// The ring that the kernel fills.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    slots: Slots,
    /// Only its head is used: the status words say what is filled.
    cursor: Cursor,
}

impl ReceiveRing {
    /// The oldest packet, if there is one. It stays until [`Received::release`].
    #[inline]
    pub(super) fn front(&mut self) -> Option<Received<'_>> {
        let slot = self.cursor.slot(self.cursor.head());
        // Acquire: the kernel wrote the packet before this word.
        let status = self.slots.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let start = self.slots.at(slot);
        // SAFETY: *turn*: the slot is ours until the status is cleared; *plain*; a slot begins aligned to its size.
        let header = unsafe { start.cast::<libc::tpacket2_hdr>().read() };
        Some(Received { ring: self, start, slot, status, header })
    }
}

/// A packet that lies in the ring.
#[derive(Debug)]
pub(super) struct Received<'r> {
    ring: &'r mut ReceiveRing,
    start: NonNull<u8>,
    slot: usize,
    status: u32,
    header: libc::tpacket2_hdr,
}

impl Received<'_> {
    /// Bytes of the packet as it was on the wire, without a tag that the kernel took off.
    pub(super) const fn packet_bytes(&self) -> usize {
        self.header.tp_len as usize
    }

    /// Bytes of it that lie in the slot; `None` when they cannot, whatever the kernel says.
    #[inline]
    pub(super) fn bytes_here(&self) -> Option<usize> {
        let (from, bytes) = (usize::from(self.header.tp_mac), self.header.tp_snaplen as usize);
        let inside = from >= size_of::<libc::tpacket2_hdr>() + VNET && bytes <= SLOT.checked_sub(from)?;
        inside.then_some(bytes)
    }

    /// Whether the whole packet waits in the socket's queue, since it is longer than a slot.
    pub(super) const fn is_queued(&self) -> bool {
        self.status & libc::TP_STATUS_COPY != 0
    }

    /// The VLAN tag that the kernel took off: protocol and control information.
    #[inline]
    pub(super) const fn vlan(&self) -> Option<[u16; 2]> {
        if self.status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let named = self.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        Some([if named { self.header.tp_vlan_tpid } else { 0x8100 }, self.header.tp_vlan_tci])
    }

    /// The header that says what is undone in the packet.
    #[inline]
    pub(super) fn vnet(&self) -> [u8; VNET] {
        let mut header = [0; VNET];
        if self.bytes_here().is_some() {
            self.copy_from(usize::from(self.header.tp_mac) - VNET, &mut header);
        }
        header
    }

    /// Copies the bytes of the packet from `at` on.
    ///
    /// # Panics
    /// If fewer lie in the slot: see [`bytes_here`](Self::bytes_here).
    #[inline]
    pub(super) fn copy(&self, at: usize, into: &mut [u8]) {
        let inside = self.bytes_here().is_some_and(|bytes| at + into.len() <= bytes);
        assert!(inside, "callers copy what bytes_here promised");
        self.copy_from(usize::from(self.header.tp_mac) + at, into);
    }

    fn copy_from(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= SLOT, "bytes_here was looked at");
        // SAFETY: the offset lies in the slot, by the line above.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: the range lies in the slot, which is ours by *turn*; `into` is a frame's memory, never the ring's.
        unsafe { from.as_ptr().copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
    }

    /// Gives the slot back to the kernel.
    #[inline]
    pub(super) fn release(self) {
        // Release: our reads come before the kernel's next write.
        self.ring.slots.status(self.slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        // The cursor counts what it is told: one in, one out, so the head walks on.
        self.ring.cursor.fill(1);
        self.ring.cursor.drain(1);
    }
}

/// The ring that the kernel sends from.
#[derive(Debug)]
pub(super) struct TransmitRing {
    slots: Slots,
    /// Filled: what the kernel has not begun to send, as of the last [`settle`](Self::settle).
    cursor: Cursor,
}

impl TransmitRing {
    /// The next slot to write, if the kernel is done with it.
    #[inline]
    pub(super) fn vacant(&mut self) -> Option<Vacant<'_>> {
        if self.cursor.vacant() == 0 {
            return None;
        }
        let slot = self.cursor.slot(self.cursor.tail());
        // Acquire: the kernel's last look at the packet before comes before our write. Above the low bits are
        // the marks of timestamps.
        let status = self.slots.status(slot).load(Ordering::Acquire);
        let used = libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_SENDING | libc::TP_STATUS_WRONG_FORMAT;
        if status & used != 0 {
            return None;
        }
        let start = self.slots.at(slot);
        Some(Vacant { ring: self, start, slot, bytes: 0 })
    }

    /// Slots that the kernel has not begun to send.
    #[inline]
    pub(super) const fn pending(&self) -> u32 {
        self.cursor.filled()
    }

    /// Looks at how far the kernel has come; returns the slots that it took since the last time.
    pub(super) fn settle(&mut self) -> u32 {
        let before = self.cursor.filled();
        while self.cursor.filled() > 0 {
            let slot = self.cursor.slot(self.cursor.head());
            let status = self.slots.status(slot).load(Ordering::Acquire);
            if status & libc::TP_STATUS_SEND_REQUEST != 0 {
                break;
            }
            self.cursor.drain(1);
        }
        before - self.cursor.filled()
    }

    /// Spoils the oldest packet that the kernel has not taken, so that the next `send` drops it: with `PACKET_LOSS` a
    /// slot of no length is skipped. Returns whether there was one.
    pub(super) fn spoil(&mut self) -> bool {
        self.settle();
        if self.cursor.filled() == 0 {
            return false;
        }
        let slot = self.cursor.slot(self.cursor.head());
        set_length(self.slots.at(slot), 0);
        true
    }
}

/// Writes `tp_len` and `tp_snaplen` of a slot that the kernel isn't looking at.
fn set_length(start: NonNull<u8>, bytes: u32) {
    let header: NonNull<[u32; 3]> = start.cast();
    // SAFETY: *map*: the second and third word of a slot are inside it.
    let lengths: NonNull<[u32; 2]> = unsafe { header.cast::<u32>().add(1) }.cast();
    // SAFETY: *turn*: the slot is vacant, or to be sent outside of any `send`; aligned as a word is.
    unsafe { lengths.write([bytes; 2]) };
}

/// A slot to be written. Dropped without [`publish`](Self::publish), it stays vacant.
#[derive(Debug)]
#[must_use = "an unpublished packet is not sent"]
pub(super) struct Vacant<'r> {
    ring: &'r mut TransmitRing,
    start: NonNull<u8>,
    slot: usize,
    bytes: usize,
}

impl Vacant<'_> {
    /// Appends bytes: first [`VNET`] of them for the header, then the packet's.
    ///
    /// # Panics
    /// If they do not fit: [`SENDABLE`] bytes do.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) {
        assert!(self.bytes + bytes.len() <= VNET + SENDABLE, "callers looked at SENDABLE");
        // SAFETY: the offset lies in the slot, by the line above.
        let to = unsafe { self.start.add(SEND_AT + self.bytes) };
        // SAFETY: the range lies in the slot, which is ours by *turn*; `bytes` is never the ring's memory.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.bytes += bytes.len();
    }

    /// Makes it the kernel's, which looks at the next `send`.
    #[inline]
    pub(super) fn publish(self) {
        set_length(self.start, u32::try_from(self.bytes).expect("below SLOT"));
        self.ring.cursor.fill(1);
        // Release: the packet is written before the kernel sees the word.
        self.ring.slots.status(self.slot).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
    }
}

/// `setsockopt(SOL_PACKET)` of an option that is one or more 32-bit words.
pub(super) fn set_option(fd: BorrowedFd<'_>, option: i32, words: &[u32]) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of_val(words)).expect("a few words");
    // SAFETY: the kernel reads `bytes` bytes of `words` and keeps no pointer.
    let outcome =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, words.as_ptr().cast(), bytes) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `PACKET_STATISTICS`: packets that met a full ring since the last call.
pub(super) fn take_missed(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0u32; 2];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&words)).expect("two words");
    let (fd, into) = (fd.as_raw_fd(), words.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `bytes` bytes, which `words` has: `struct tpacket_stats`.
    let outcome =
        unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, into, &raw mut bytes) };
    if outcome == 0 { Ok(words[1]) } else { Err(io::Error::last_os_error()) }
}

/// What an `ioctl` of `netdevice(7)` answers about an interface: the 16 bytes of the request's union in front.
pub(super) fn ask_interface(fd: BorrowedFd<'_>, request: libc::Ioctl, name: &str) -> io::Result<[u8; 16]> {
    let mut question = [0u8; size_of::<libc::ifreq>()];
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    question[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: these requests read and write one `struct ifreq`, which is as long as `question`.
    let outcome = unsafe { libc::ioctl(fd.as_raw_fd(), request, question.as_mut_ptr()) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(*question[libc::IFNAMSIZ..].first_chunk().expect("the union has 24 bytes"))
}

/// `AF_PACKET`.
const FAMILY: u16 = 17;
const _: () = assert!(libc::AF_PACKET == 17);
const ADDRESS_BYTES: libc::socklen_t = 20;
const _: () = assert!(size_of::<libc::sockaddr_ll>() == ADDRESS_BYTES as usize);

const fn address(protocol: u16, index: i32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: FAMILY,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Binds to the interface; `protocol` 0 receives nothing.
pub(super) fn bind(fd: BorrowedFd<'_>, protocol: u16, index: i32) -> io::Result<()> {
    let address = address(protocol, index);
    // SAFETY: the kernel reads so many bytes of `address`, all of them initialised.
    let outcome = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the interface that the socket is bound to still exists in this namespace: once it is unregistered,
/// `packet_notifier` (`net/packet/af_packet.c`) sets the socket's index to -1.
pub(super) fn is_bound(socket: impl AsFd) -> bool {
    let mut address = address(0, 0);
    let mut bytes = ADDRESS_BYTES;
    let (fd, into) = (socket.as_fd().as_raw_fd(), (&raw mut address).cast());
    // SAFETY: the kernel writes at most `bytes` bytes, which `address` has; any bits are a `sockaddr_ll`.
    let outcome = unsafe { libc::getsockname(fd, into, &raw mut bytes) };
    outcome == 0 && address.sll_ifindex > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rings without a socket: the test plays the kernel.
    fn rings(slots: u32) -> (ReceiveRing, TransmitRing) {
        map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, slots).expect("a few pages")
    }

    fn write(slots: &Slots, slot: usize, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= SLOT);
        // SAFETY: inside the slot, by the line above.
        let to = unsafe { slots.at(slot).add(offset) };
        // SAFETY: likewise, and the slot is the kernel's, whom we play.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn deliver(ring: &ReceiveRing, slot: usize, packet: &[u8], mac: u16, snaplen: u32) {
        write(&ring.slots, slot, 4, &u32::try_from(packet.len()).expect("short").to_ne_bytes());
        write(&ring.slots, slot, 8, &snaplen.to_ne_bytes());
        write(&ring.slots, slot, 12, &mac.to_ne_bytes());
        if usize::from(mac) + packet.len() <= SLOT {
            write(&ring.slots, slot, mac.into(), packet);
        }
        ring.slots.status(slot).store(libc::TP_STATUS_USER, Ordering::Release);
    }

    #[test]
    fn packets_come_in_order_round_the_ring() {
        let (mut ring, _) = rings(4);
        for round in 0u8..11 {
            assert!(ring.front().is_none());
            deliver(&ring, usize::from(round % 4), &[round; 60], 80, 60);
            let received = ring.front().expect("delivered");
            let mut bytes = [0; 60];
            received.copy(0, &mut bytes);
            assert_eq!((received.bytes_here(), bytes), (Some(60), [round; 60]));
            received.release();
        }
    }

    #[test]
    fn a_lying_kernel_is_not_believed() {
        let (mut ring, _) = rings(4);
        for (slot, (mac, snaplen)) in
            [(80, 1969), (2049, 0), (20, 60), (65535, u32::MAX)].into_iter().enumerate()
        {
            deliver(&ring, slot, &[1; 60], mac, snaplen);
            let received = ring.front().expect("delivered");
            assert_eq!(received.bytes_here(), None, "{mac} {snaplen}");
            assert_eq!(received.vnet(), [0; VNET]);
            received.release();
        }
    }

    #[test]
    fn slots_are_sent_once_and_reused_when_free() {
        let (_, mut ring) = rings(2);
        for content in [1u8, 2] {
            let mut slot = ring.vacant().expect("two");
            slot.append(&[0; VNET]);
            slot.append(&[content; SENDABLE]);
            slot.publish();
        }
        assert!(ring.vacant().is_none());
        assert_eq!((ring.pending(), ring.settle()), (2, 0));
        // The kernel takes the first, and is still sending it.
        ring.slots.status(0).store(libc::TP_STATUS_SENDING, Ordering::Release);
        assert_eq!((ring.settle(), ring.pending()), (1, 1));
        assert!(ring.vacant().is_none());
        ring.slots.status(0).store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        drop(ring.vacant().expect("sent"));
        assert!(ring.spoil());
        ring.slots.status(1).store(libc::TP_STATUS_AVAILABLE, Ordering::Release);
        assert!(!ring.spoil());
        assert_eq!(ring.pending(), 0);
    }
}
