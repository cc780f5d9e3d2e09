//! AF_PACKET: the kernel-socket fallback, with mapped rings. Works wherever `CAP_NET_RAW` does.
//!
//! ```text
//!   receive:  kernel ─copy─► ring slot ─copy─► frame           longer than a slot: kernel ─recvmsg─► chain of frames
//!   transmit: frame  ─copy─► ring slot ─send─► kernel          longer, or to be cut: flush the ring, then sendmsg
//! ```
//!
//! The interface stays the kernel's: it sees every received frame too, and answers those to its own addresses. Give a
//! port that is to be ours no addresses.
//!
//! * **Exact**: each packet travels with its `virtio_net_hdr`, so partial checksums and packets of 64 KiB that the
//!   kernel has not cut yet (TSO, GRO) pass as they are. VLAN tags, which the kernel takes off every received frame,
//!   are put back. What the header cannot say (uncut packets in a tunnel, SCTP) the kernel drops, as missed.
//! * **In order**: long packets leave through a second socket, after the ring was flushed; the kernel queues both alike.
//! * **Never jammed**: what the kernel would refuse is refused and counted here first. A packet at the head of the ring
//!   that the device drops again and again is given up after [`PATIENCE`] tries.
//! * **No `PACKET_QDISC_BYPASS`**: with it the kernel drops each large packet that the device can't cut itself
//!   (`__dev_direct_xmit`, `net/core/dev.c`), and tcpdump goes blind; on a veth it saved nothing measurable.
//!
//! A link without carrier drops what it is given and says nothing, as a cable that is pulled does; only one that was
//! set down is seen, in [`QueueCounters::link_down`].

mod open;
mod ring;
pub(crate) mod vnet;

pub use open::PacketPlan;

use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Copying, Gather, QueueCounters, QueuePair};
use crate::rings::{Front, front};
use open::Sockets;
use ring::{Received, SENDABLE, VNET};
use ringbuf::{BURST, Burst, Frame, Front as Chained, HEADROOM, PACKET_PAGES, Packets, Page, Pool};
use rustix::io::Errno;
use rustix::net::{SendFlags, netdevice, send, sockopt};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of a VLAN tag, and where it stands.
const TAG: usize = 4;
const TAG_AT: usize = 12;
/// The longest IP packet, its Ethernet header and two tags.
const PACKET_BYTES: u32 = 65_535 + 14 + 8;
/// How often in a row the device may drop the packet at the head before it is given up. A full queue of a slow device
/// looks the same (`ENOBUFS`); what is lost then is what any forwarder loses at a full queue.
pub const PATIENCE: u32 = 256;
/// Idle turns between two looks at the link.
const GLANCE: u32 = 256;
/// The same while it is down.
const GLANCE_DOWN: u32 = 16;

/// One packet socket with its rings.
#[derive(Debug)]
pub struct PacketQueue<'p> {
    pool: &'p Pool,
    sockets: Sockets,
    caps: Caps,
    counters: QueueCounters,
    fault: Option<Fault>,
    /// Lost at a full ring: the kernel forgets when asked.
    missed: Cell<u64>,
    mtu: Cell<u32>,
    down: bool,
    /// Refusals in a row of the packet at the head.
    refusals: u32,
    /// Turns since the last frame arrived.
    idle: u32,
}

/// What became of the packet at the front of a ring or burst.
enum Outcome {
    /// It is gone from there.
    Done,
    /// It stays, and so do those behind it.
    Wait,
}

impl<'p> PacketQueue<'p> {
    /// Opens one socket of a port, with `pool`'s frames to copy into.
    ///
    /// # Errors
    /// [`OpenError`] naming the interface, the step, the cause and the cure.
    pub fn open(pool: &'p Pool, plan: &PacketPlan) -> Result<Self, OpenError> {
        let sockets = open::open(plan)?;
        let mtu = Cell::new(sockets.link.mtu);
        let (counters, missed) = (QueueCounters::default(), Cell::new(0));
        let caps = caps(plan);
        Ok(Self {
            pool,
            sockets,
            caps,
            counters,
            fault: None,
            missed,
            mtu,
            down: false,
            refusals: 0,
            idle: 0,
        })
    }

    /// Takes the packet at the front of the receive ring.
    #[inline]
    fn receive_front(&mut self, burst: &mut Burst<'p>) -> Option<Outcome> {
        let received = self.sockets.inbound.front()?;
        let bytes = received.packet_bytes();
        let simple =
            !received.is_queued() && received.vlan().is_none() && received.bytes_here() == Some(bytes);
        let header = received.vnet();
        if !simple || header[..2] != [0; 2] || !(ETHERNET..=first_room(self.pool)).contains(&bytes) {
            return Some(self.receive_slowly(burst));
        }
        let Some(mut frame) = self.pool.alloc() else { return Some(Outcome::Wait) };
        let len = u16::try_from(bytes).expect("it fits a frame");
        frame.grow(len).expect("first_room was looked at");
        received.copy(0, &mut frame);
        received.release();
        self.counters.received.add(len, false);
        drop(burst.push(frame));
        Some(Outcome::Done)
    }

    /// The same for a packet that is tagged, unfinished, in several frames, or damaged.
    #[cold]
    fn receive_slowly(&mut self, burst: &mut Burst<'p>) -> Outcome {
        let Some(received) = self.sockets.inbound.front() else { return Outcome::Wait };
        match take(self.pool, self.sockets.ring.as_fd(), &received, burst) {
            Ok(bytes) => {
                self.counters.received.packets += 1;
                self.counters.received.bytes += bytes as u64;
            }
            Err(Trouble::Wait) => return Outcome::Wait,
            Err(Trouble::Malformed) => self.counters.receive_malformed += 1,
            Err(Trouble::Socket(errno)) => {
                self.refused("recvmsg", errno);
                return Outcome::Wait;
            }
        }
        received.release();
        Outcome::Done
    }

    /// Sends the packet in `frames` frames at the front of `burst`.
    #[inline]
    fn send_front(&mut self, burst: &mut Burst<'p>, frames: usize) -> Outcome {
        let bytes = bytes_of(burst, frames);
        let Some(first) = burst.peek(0) else { return Outcome::Wait };
        let limit = self.mtu.get() as usize + ETHERNET + TAG * tags(first);
        let header = vnet::header(first.offload(), bytes, limit).ok().filter(|_| bytes >= ETHERNET);
        let Some(header) = header else {
            self.counters.unsendable += 1;
            burst.drop_packet();
            return Outcome::Done;
        };
        if bytes > SENDABLE || vnet::is_segmented(header) {
            return self.send_large(burst, frames, header);
        }
        let Some(mut slot) = self.sockets.outbound.vacant() else { return Outcome::Wait };
        slot.append(&vnet::contiguous(header, bytes));
        for _ in 0..frames {
            let Some(frame) = burst.pop() else { break };
            slot.append(&frame);
            self.counters.transmitted.add(frame.len(), frame.continues());
        }
        slot.publish();
        Outcome::Done
    }

    /// Sends a packet in frames past the ring.
    #[cold]
    fn send_large(&mut self, burst: &mut Burst<'p>, frames: usize, header: [u8; VNET]) -> Outcome {
        let mut slices = [IoSlice::new(&[]); BURST + 1];
        slices[0] = IoSlice::new(&header);
        for (slice, frame) in slices[1..].iter_mut().zip((0..frames).filter_map(|i| burst.peek(i))) {
            *slice = IoSlice::new(frame);
        }
        let outcome = self.write(&slices[..=frames], bytes_of(burst, frames));
        if let Outcome::Done = outcome {
            burst.drop_packet();
        }
        outcome
    }

    /// Sends a head and its pages: straight from where they lie when the packet goes past the ring.
    fn send_gathered(&mut self, packet: &Chained<'_, 'p>) -> Outcome {
        let (head, bytes) = (packet.head(), packet.bytes());
        let limit = self.mtu.get() as usize + ETHERNET + TAG * tags(head);
        // A file's own page is not for us to read.
        let readable = !packet.pages().any(Page::is_file);
        let whole = readable && !head.continues() && (ETHERNET..=PACKET_BYTES as usize).contains(&bytes);
        let header = vnet::header(head.offload(), bytes, limit).ok().filter(|_| whole);
        let Some(header) = header else {
            self.counters.unsendable += 1;
            return Outcome::Done;
        };
        if bytes > SENDABLE || vnet::is_segmented(header) {
            let mut slices = [IoSlice::new(&[]); PACKET_PAGES + 2];
            (slices[0], slices[1]) = (IoSlice::new(&header), IoSlice::new(head));
            for (slice, page) in slices[2..].iter_mut().zip(packet.pages()) {
                *slice = IoSlice::new(page.bytes().unwrap_or_default());
            }
            return self.write(&slices[..=packet.buffers()], bytes);
        }
        let Some(mut slot) = self.sockets.outbound.vacant() else { return Outcome::Wait };
        slot.append(&vnet::contiguous(header, bytes));
        slot.append(head);
        for page in packet.pages() {
            slot.append(page.bytes().unwrap_or_default());
        }
        slot.publish();
        self.counters.transmitted.packets += 1;
        self.counters.transmitted.bytes += bytes as u64;
        Outcome::Done
    }

    /// Writes a packet of so many bytes past the ring, when the ring is empty.
    fn write(&mut self, slices: &[IoSlice<'_>], bytes: usize) -> Outcome {
        self.kick();
        if self.down || self.fault.is_some() || self.sockets.outbound.pending() > 0 {
            return Outcome::Wait;
        }
        self.counters.wakeups += 1;
        let sent = rustix::io::writev(&self.sockets.large, slices);
        match sent {
            Ok(_) => {
                self.refusals = 0;
                self.counters.transmitted.packets += 1;
                self.counters.transmitted.bytes += bytes as u64;
            }
            Err(Errno::INVAL | Errno::MSGSIZE) => self.counters.unsendable += 1,
            Err(errno) => {
                self.refused("sendmsg", errno);
                if self.refusals <= PATIENCE {
                    return Outcome::Wait;
                }
                self.refusals = 0;
                self.counters.transmit_dropped += 1;
            }
        }
        Outcome::Done
    }

    /// Asks the kernel to send what lies in the ring.
    fn kick(&mut self) {
        if self.sockets.outbound.pending() == 0 {
            return;
        }
        self.counters.wakeups += 1;
        let sent = send(&self.sockets.ring, &[], SendFlags::DONTWAIT);
        if self.sockets.outbound.settle() > 0 {
            self.refusals = 0;
        }
        let Err(errno) = sent else { return };
        self.refused("sendto", errno);
        if self.refusals > PATIENCE {
            self.refusals = 0;
            self.counters.transmit_dropped += u64::from(self.sockets.outbound.spoil());
        }
    }

    /// Weighs what the kernel said: patience, a link that is down, or the end.
    #[cold]
    fn refused(&mut self, call: &'static str, errno: Errno) {
        match errno {
            Errno::AGAIN | Errno::INTR => {}
            // Dropped by the device or its queue; what we sent is kept, to be sent again.
            Errno::NOBUFS | Errno::NOMEM => self.refusals += 1,
            Errno::NETDOWN | Errno::NXIO | Errno::NODEV => self.look_at_link(),
            other => self.fault = Some(Fault::System { call, errno: other.raw_os_error() }),
        }
    }

    /// Tells a link that is down from one that is gone.
    #[cold]
    fn look_at_link(&mut self) {
        if !ring::is_bound(&self.sockets.ring) {
            self.fault = Some(Fault::Gone);
            return;
        }
        // The error that goes with it stays at the socket, and wakes who polls, until it is read.
        let _ = sockopt::socket_error(&self.sockets.ring);
        self.down = !self.refresh();
        self.counters.link_down += u64::from(self.down);
    }

    /// Learns the MTU anew; returns whether the link is up. The interface may have another name by now.
    fn refresh(&self) -> bool {
        let fd = self.sockets.ring.as_fd();
        let Ok(name) = netdevice::index_to_name_inlined(fd, self.sockets.index) else { return false };
        let Ok(link) = open::link(fd, name.as_str()) else { return false };
        self.mtu.set(link.mtu);
        link.up
    }
}

impl<'p> QueuePair<'p> for PacketQueue<'p> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        while self.fault.is_none() && burst.room() > 0 {
            let Some(Outcome::Done) = self.receive_front(burst) else { break };
        }
        if burst.len() > before {
            self.idle = 0;
        }
        burst.len() - before
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        let waiting = burst.len();
        while self.fault.is_none() {
            match front(burst, &self.caps, 0) {
                Front::Empty => break,
                Front::Unsendable => {
                    self.counters.unsendable += 1;
                    burst.drop_packet();
                }
                Front::Packet(frames) => {
                    let Outcome::Done = self.send_front(burst, frames as usize) else { break };
                }
            }
        }
        waiting - burst.len()
    }

    #[inline]
    fn tend(&mut self) {
        if self.fault.is_some() {
            return;
        }
        self.idle = self.idle.wrapping_add(1);
        if self.down {
            if self.idle.is_multiple_of(GLANCE_DOWN) {
                self.look_at_link();
            }
            if self.down {
                return;
            }
        }
        self.kick();
        // How an end that sends nothing learns of a link that was set down or deleted.
        if self.idle.is_multiple_of(GLANCE)
            && let Ok(Err(errno)) = sockopt::socket_error(&self.sockets.ring)
        {
            self.refused("SO_ERROR", errno);
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn counters(&self) -> QueueCounters {
        if let Ok(missed) = ring::take_missed(self.sockets.ring.as_fd()) {
            self.missed.set(self.missed.get() + u64::from(missed));
        }
        self.refresh();
        QueueCounters { receive_missed: self.missed.get(), ..self.counters }
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sockets.ring.as_fd())
    }
}

impl<'p> Gather<'p> for PacketQueue<'p> {
    /// No copy but those that each packet has here: pages go into the ring as frames do, or are read by the kernel.
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        let waiting = packets.len();
        while self.fault.is_none()
            && let Some(front) = packets.front()
        {
            let Outcome::Done = self.send_gathered(&front) else { break };
            drop(packets.pop());
        }
        waiting - packets.len()
    }
}

fn caps(plan: &PacketPlan) -> Caps {
    let mut mode = "TPACKET_V2 rings, vnet header".to_owned();
    if plan.queues > 1 {
        mode += &format!(", fanout by flow {}/{}", plan.queue, plan.queues);
    }
    if plan.promiscuous {
        mode += ", promiscuous";
    }
    Caps {
        driver: "packet",
        device: plan.interface.clone(),
        queue: plan.queue,
        copying: Copying::DriverCopies,
        mode,
        packet_bytes: PACKET_BYTES,
        // A frame is at most 32 KiB long.
        buffer_bytes: 1 << 15,
        packet_frames: u32::try_from(BURST).expect("64"),
        checksum: true,
        segmentation: true,
    }
}

/// Why a received packet was not taken.
enum Trouble {
    /// For want of room or frames.
    Wait,
    /// It can't be taken at all.
    Malformed,
    Socket(Errno),
}

/// Copies a packet into frames at the back of `burst`; returns its bytes.
fn take<'p>(
    pool: &'p Pool,
    fd: BorrowedFd<'_>,
    received: &Received<'_>,
    burst: &mut Burst<'p>,
) -> Result<usize, Trouble> {
    let (bytes, tag) = (received.packet_bytes(), received.vlan());
    let total = bytes + tag.map_or(0, |_| TAG);
    let frames = 1 + total.saturating_sub(first_room(pool)).div_ceil(pool.frame_size().into());
    let whole = received.is_queued() || received.bytes_here() == Some(bytes);
    let possible = frames <= BURST && frames <= pool.arena().frames() as usize;
    if !whole || !possible || bytes < ETHERNET || total > PACKET_BYTES as usize {
        if received.is_queued() {
            // The copy in the socket's queue goes with it.
            let _ = rustix::io::readv(fd, &mut [IoSliceMut::new(&mut [0; VNET])]);
        }
        return Err(Trouble::Malformed);
    }
    if frames > burst.room() || frames > pool.free() as usize {
        return Err(Trouble::Wait);
    }
    let mut chain = chain(pool, total, frames);
    let mut header = received.vnet();
    let mut pieces: [IoSliceMut<'_>; BURST + 3] = core::array::from_fn(|_| IoSliceMut::new(&mut []));
    pieces[0] = IoSliceMut::new(&mut header);
    let last = spread(&mut chain, tag, &mut pieces[1..]);
    if received.is_queued() {
        match rustix::io::readv(fd, &mut pieces[..=last]) {
            Ok(read) if read == VNET + bytes => {}
            Ok(_) | Err(Errno::AGAIN) => return Err(Trouble::Malformed),
            Err(errno) => return Err(Trouble::Socket(errno)),
        }
    } else {
        let mut at = 0;
        for piece in &mut pieces[1..=last] {
            received.copy(at, piece);
            at += piece.len();
        }
    }
    let first = chain[0].as_mut().ok_or(Trouble::Malformed)?;
    let tag_bytes = if tag.is_some() { 4 } else { 0 };
    let offload = vnet::offload(header, first, tag_bytes).map_err(|_| Trouble::Malformed)?;
    first.set_offload(offload);
    for frame in chain.into_iter().flatten() {
        drop(burst.push(frame));
    }
    Ok(total)
}

/// Frames for `total` bytes, their content still to be written. The pool has `frames` of them.
fn chain<'p>(pool: &'p Pool, total: usize, frames: usize) -> [Option<Frame<'p>>; BURST] {
    let mut left = total;
    core::array::from_fn(|i| {
        if i >= frames {
            return None;
        }
        let mut frame = pool.alloc()?;
        if i > 0 {
            frame.restart(0);
        }
        let bytes = u16::try_from(left).unwrap_or(u16::MAX).min(frame.tailroom());
        frame.grow(bytes).expect("cut to the tailroom");
        left -= usize::from(bytes);
        frame.set_continues(left > 0);
        Some(frame)
    })
}

/// Names the bytes of a chain that are to be read, in order, leaving out the tag, which is written; returns how many
/// pieces there are.
fn spread<'f>(
    chain: &'f mut [Option<Frame<'_>>],
    tag: Option<[u16; 2]>,
    pieces: &mut [IoSliceMut<'f>],
) -> usize {
    let mut count = 0;
    let mut tag = tag;
    for frame in chain.iter_mut().flatten() {
        let mut bytes: &mut [u8] = frame;
        if let Some([protocol, control]) = tag.take() {
            let (addresses, rest) = bytes.split_at_mut(TAG_AT);
            let (place, rest) = rest.split_at_mut(TAG);
            place[..2].copy_from_slice(&protocol.to_be_bytes());
            place[2..].copy_from_slice(&control.to_be_bytes());
            pieces[count] = IoSliceMut::new(addresses);
            count += 1;
            bytes = rest;
        }
        pieces[count] = IoSliceMut::new(bytes);
        count += 1;
    }
    count
}

/// Bytes that fit the first frame of a packet.
fn first_room(pool: &Pool) -> usize {
    usize::from(pool.frame_size() - HEADROOM.min(pool.frame_size() / 2))
}

#[inline]
fn bytes_of(burst: &Burst<'_>, frames: usize) -> usize {
    (0..frames).filter_map(|i| burst.peek(i)).map(|frame| usize::from(frame.len())).sum()
}

/// VLAN tags in front of a packet, two at most: they come on top of the MTU.
#[inline]
fn tags(packet: &[u8]) -> usize {
    let is_tag = |at: usize| matches!(packet.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    match (is_tag(TAG_AT), is_tag(TAG_AT + TAG)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}
