//! `shim/ringway_dpdk.h`, declaration by declaration.
#![expect(missing_docs, reason = "each function is explained where it is written, in shim/*.c")]

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_void};

/// Packets of a burst.
pub const BURST: usize = 64;

/// The packet goes on in the next descriptor.
pub const CONTINUES: u32 = 1;
/// The transport checksum is still to be completed.
pub const UNCHECKED: u32 = 2;
/// The packet is still to be cut into segments, of `options >> SEGMENT_SHIFT` bytes.
pub const UNCUT: u32 = 4;
/// See [`UNCUT`].
pub const SEGMENT_SHIFT: u32 = 16;

/// Bits of [`Offload::flags`].
pub mod tx {
    /// IPv4.
    pub const IPV4: u32 = 1;
    /// IPv6.
    pub const IPV6: u32 = 2;
    /// The checksum is TCP's, else UDP's.
    pub const TCP: u32 = 4;
    /// To be cut into segments.
    pub const CUT: u32 = 8;
    /// The IPv4 header's checksum too.
    pub const IP_CHECKSUM: u32 = 16;
}

/// Bits of [`Facts::can`].
pub mod can {
    /// Sends packets in several buffers.
    pub const CHAIN: u32 = 1;
    /// Completes checksums of TCP and UDP.
    pub const CHECKSUM: u32 = 2;
    /// Those of IPv4 headers.
    pub const IP_CHECKSUM: u32 = 4;
    /// Cuts TCP into segments.
    pub const CUT: u32 = 8;
    /// Receives packets into several buffers.
    pub const SCATTER: u32 = 16;
}

/// Where a buffer is: as `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    /// Of its first byte in the arena.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// [`CONTINUES`] and the like.
    pub options: u32,
}

/// What is left to the device in a packet that is sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Of [`tx`].
    pub flags: u32,
    /// Bytes of the Ethernet header, tags included.
    pub l2: u16,
    /// Of the IP header.
    pub l3: u16,
    /// Of the transport header.
    pub l4: u16,
    /// Payload of each segment.
    pub segment: u16,
}

/// What a device says of itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Flow types that it can spread over queues.
    pub rss: u64,
    /// Of [`can`].
    pub can: u32,
    /// Bytes of the longest frame that it receives; 0 when it does not say.
    pub max_packet: u32,
    /// Its number in DPDK.
    pub port: u16,
    /// Queue pairs at most.
    pub max_queues: u16,
    /// Bytes of an IP packet now.
    pub mtu: u16,
    /// At most.
    pub max_mtu: u16,
    /// Descriptors that it would like; 0 when it does not say.
    pub rx_ring: u16,
    /// The same for sending.
    pub tx_ring: u16,
    /// Buffers of a packet that is sent; 0 when it does not say.
    pub max_segments: u16,
    /// Its address.
    pub mac: [u8; 6],
    /// Its driver, with a zero behind.
    pub driver: [c_char; 32],
}

/// What a device lost, all queues together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// For want of room in the ring, or of an empty buffer.
    pub missed: u64,
    /// Damaged.
    pub malformed: u64,
    /// Taken and not sent.
    pub dropped: u64,
}

/// A number of four bytes that lies between two of their places.
#[repr(C, packed(2))]
#[derive(Clone, Copy, Debug)]
pub struct Pair(pub u32);

/// The first line of an `rte_mbuf`, as far as a frame needs it; `shim/queue.c` does not compile where a field lies elsewhere.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Mbuf {
    /// Where its buffer begins.
    pub buf_addr: Cell<*mut u8>,
    _iova: u64,
    /// Where the bytes begin in there.
    pub data_off: Cell<u16>,
    /// How many hold it, and how many segments its packet has: see [`ALONE`].
    pub holders_and_segments: Cell<Pair>,
    _port: u16,
    /// What is known of it, or asked for.
    pub ol_flags: Cell<u64>,
    _packet_type: u32,
    /// Bytes of the packet.
    pub pkt_len: Cell<u32>,
    /// Of this segment.
    pub data_len: Cell<u16>,
    _rest: [u16; 43],
}

const _: () = assert!(size_of::<Mbuf>() == 128);

/// One holder, one segment.
pub const ALONE: u32 = 0x0001_0001;

/// Flags of a received mbuf that is more than a frame.
pub const NOT_PLAIN: u64 = 1 << 62 | 1 << 61 | 1 << 16 | 1 << 3;

/// One arena's frames as DPDK knows them.
#[repr(C)]
#[derive(Debug)]
pub struct Herd {
    _opaque: [u8; 0],
}

/// One queue pair.
#[repr(C)]
#[derive(Debug)]
pub struct Queue {
    _opaque: [u8; 0],
}

/// Hears what DPDK logs: the level, and text that is not ended by a zero.
pub type Log = extern "C" fn(level: u32, text: *const c_char, bytes: usize);

// The names and types are those of the header; what each asks of its caller stands in `shim/*.c`.
unsafe extern "C" {
    pub fn rwd_init(argc: c_int, argv: *mut *mut c_char, log: Log) -> c_int;
    pub fn rwd_version() -> *const c_char;
    pub fn rwd_memory(bytes: usize) -> *mut c_void;
    pub fn rwd_memory_free(memory: *mut c_void);
    pub fn rwd_device_open(device: *const c_char, facts: *mut Facts) -> c_int;
    pub fn rwd_device_configure(port: u16, queues: u16, used: u32, rss: u64, mtu: u16) -> c_int;
    pub fn rwd_device_mtu(port: u16, mtu: u16) -> c_int;
    pub fn rwd_device_rings(port: u16, rx: *mut u16, tx: *mut u16) -> c_int;
    pub fn rwd_device_queue(port: u16, queue: u16, rx: u16, tx: u16, herd: *mut Herd, copies: bool) -> c_int;
    pub fn rwd_device_start(port: u16, promiscuous: bool) -> c_int;
    pub fn rwd_device_name(n: u32, name: *mut [c_char; 64]) -> bool;
    pub fn rwd_device_close(port: u16);
    pub fn rwd_device_up(port: u16) -> bool;
    pub fn rwd_device_removed(port: u16) -> bool;
    pub fn rwd_device_statistics(port: u16, statistics: *mut Statistics) -> c_int;
    pub fn rwd_herd_new(base: *mut c_void, bytes: usize, frames: u32, shift: u32, pages: u32) -> *mut Herd;
    pub fn rwd_herd_free(herd: *mut Herd);
    pub fn rwd_herd_copies(herd: *mut Herd, mbufs: u32, room: u16) -> c_int;
    pub fn rwd_herd_frames(herd: *const Herd) -> *mut Mbuf;
    pub fn rwd_herd_resting(herd: *const Herd) -> u32;
    pub fn rwd_herd_leave(herd: *mut Herd);
    pub fn rwd_herd_flush(herd: *mut Herd);
    pub fn rwd_herd_gather(herd: *mut Herd) -> u32;
    pub fn rwd_herd_offer(herd: *mut Herd, offsets: *const u64, count: u32);
    pub fn rwd_herd_reserve(herd: *mut Herd, offsets: *const u64, count: u32);
    pub fn rwd_herd_take(herd: *mut Herd, offsets: *mut u64, count: u32) -> u32;
    pub fn rwd_herd_pages(herd: *mut Herd, offsets: *mut u64, count: u32) -> u32;
    pub fn rwd_herd_page_room(herd: *const Herd) -> u32;
    pub fn rwd_queue_new(herd: *mut Herd, port: u16, queue: u16) -> *mut Queue;
    pub fn rwd_queue_free(queue: *mut Queue);
    pub fn rwd_poll(queue: *mut Queue, room: u32, first: *mut *const *mut Mbuf) -> u32;
    pub fn rwd_took(queue: *mut Queue, count: u32);
    pub fn rwd_receive(queue: *mut Queue, out: *mut Descriptor, room: u32) -> u32;
    pub fn rwd_foreign(queue: *const Queue, options: *mut u32) -> u32;
    pub fn rwd_foreign_read(queue: *const Queue, from: u32, to: *mut u8, bytes: u32);
    pub fn rwd_foreign_drop(queue: *mut Queue);
    pub fn rwd_malformed(queue: *const Queue) -> u64;
    pub fn rwd_refused(queue: *const Queue) -> u64;
    pub fn rwd_pass(from: *mut Queue, to: *mut Queue, shortest: u32, longest: u32, bytes: *mut u64) -> u32;
    pub fn rwd_left(queue: *const Queue) -> u32;
    pub fn rwd_waiting(queue: *const Queue) -> u32;
    pub fn rwd_places(queue: *mut Queue) -> *mut *const Mbuf;
    pub fn rwd_widen(herd: *const Herd, mbuf: *const Mbuf, offset: u64);
    pub fn rwd_push(queue: *mut Queue, parts: *const Descriptor, count: u32, offload: *const Offload);
    pub fn rwd_flush(queue: *mut Queue, more: u32) -> u32;
    pub fn rwd_tidy(queue: *mut Queue);
    pub fn rwd_sends(queue: *const Queue, ring: u16) -> bool;
}
