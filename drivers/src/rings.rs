//! Descriptor rings in the layout of AF_XDP: what the kernel's sockets and the in-memory wire have in common.
//!
//! Received descriptors become frames here, after the ledger has looked at each, and frames become descriptors.

use crate::error::Fault;
use crate::plain::{Limits, receive_plain, transmit_plain};
use crate::queue::{Caps, Tally};
use crate::runs::{Runs, Taken};
use ringbuf::{Burst, Frame, Front as Chained, Loan, Packets, Page, Pool, SharedConsumer, SharedProducer};

/// `struct xdp_desc` (`include/uapi/linux/if_xdp.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Offset of the first byte in the arena; with unaligned chunks, what to add to it in the top sixteen bits.
    pub(crate) offset: u64,
    /// `len` and behind it `options`, as they lie in memory: one word, since they are looked at together.
    size: u64,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

impl Descriptor {
    /// Bytes and where they begin; [`CONTINUES`] and what the driver adds are `options`.
    #[inline]
    pub(crate) const fn new(offset: u64, len: u32, options: u32) -> Self {
        Self { offset, size: Self::in_memory(((options as u64) << 32) | len as u64) }
    }

    /// The length, with the options above it: longer than any slot when there are some.
    #[inline]
    pub(crate) const fn len_and_options(self) -> u64 {
        Self::in_memory(self.size)
    }

    /// The half of lower address is the lower half on little-endian machines only. Its own inverse.
    #[inline]
    const fn in_memory(size: u64) -> u64 {
        if cfg!(target_endian = "big") { size.rotate_left(32) } else { size }
    }

    /// Bytes.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub(crate) const fn len(self) -> u32 {
        self.len_and_options() as u32
    }

    /// [`CONTINUES`], and what the driver adds.
    #[inline]
    pub(crate) const fn options(self) -> u32 {
        (self.len_and_options() >> 32) as u32
    }
}

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor.
pub(crate) const CONTINUES: u32 = 1;

/// `XSK_UNALIGNED_BUF_OFFSET_SHIFT`.
const ADDRESS_BITS: u32 = 48;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;

/// The receive ring.
#[derive(Debug)]
pub(crate) struct Inbound<'p> {
    pool: &'p Pool,
    loan: Loan,
    ring: SharedConsumer<Descriptor>,
    pub(crate) tally: Tally,
    pub(crate) malformed: u64,
    /// The front of a packet without end was dropped: so is what still comes of it.
    endless: bool,
    /// The other end sends pages of content as they are; they are copied into frames here, as a device's DMA would.
    pages: bool,
}

impl<'p> Inbound<'p> {
    pub(crate) fn new(pool: &'p Pool, loan: Loan, ring: SharedConsumer<Descriptor>) -> Self {
        Self { pool, loan, ring, tally: Tally::default(), malformed: 0, endless: false, pages: false }
    }

    /// The end of a wire in memory, which carries pages too.
    pub(crate) fn with_pages(self) -> Self {
        Self { pages: true, ..self }
    }

    /// Appends whole packets while `burst` has room; `note` sees the first frame of each and its options.
    ///
    /// # Errors
    /// The first thing the other side said that cannot be true, and how many frames came before it: they are in the
    /// burst.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        burst: &mut Burst<'p>,
        mut note: impl FnMut(&mut Frame<'p>, u32),
    ) -> Result<usize, (usize, Fault)> {
        if self.ring.is_idle() {
            return Ok(0);
        }
        let mut batch = self.ring.peek(room(burst));
        let mut received = 0;
        if !self.endless {
            received = receive_plain(self.pool, self.loan, &mut batch, burst, &mut self.tally, &mut note);
        }
        let left = batch.remaining();
        batch.commit();
        if let Some(lie) = self.ring.lie() {
            return Err((received, lie.into()));
        }
        if left > 0 {
            return self.receive_rest(burst, received, &mut note);
        }
        Ok(received)
    }

    /// The careful half of receiving: packets in several frames, and lies.
    #[cold]
    fn receive_rest(
        &mut self,
        burst: &mut Burst<'p>,
        mut received: usize,
        note: &mut impl FnMut(&mut Frame<'p>, u32),
    ) -> Result<usize, (usize, Fault)> {
        let capacity = self.ring.capacity();
        let mut batch = self.ring.peek(room(burst));
        let mut outcome = Ok(());
        while let Some(first) = batch.peek(0) {
            if first.options() & CONTINUES == 0 && !self.endless {
                // A page may have become several frames, so there can be less room than entries.
                if burst.room() == 0 {
                    break;
                }
                batch.advance(1);
                match arrive(self.pool, self.loan, first) {
                    Ok(mut frame) => {
                        note(&mut frame, first.options());
                        self.tally.add(frame.len(), false);
                        received += usize::from(burst.push(frame).is_ok());
                    }
                    Err(fault) => {
                        outcome = Err(fault);
                        break;
                    }
                }
                continue;
            }
            let mut runs = Runs { pool: self.pool, loan: self.loan, capacity, pages: self.pages };
            let taken = if self.endless {
                runs.skip(&mut batch).map(|ended| self.endless = !ended)
            } else {
                match runs.take(&mut batch, burst, &mut self.tally, note) {
                    Ok(Taken::Frames(frames)) => {
                        received += frames;
                        Ok(())
                    }
                    Ok(Taken::Later) => break,
                    Ok(Taken::Dropped { ended }) => {
                        self.malformed += 1;
                        self.endless = !ended;
                        Ok(())
                    }
                    Err(fault) => Err(fault),
                }
            };
            if let Err(fault) = taken {
                outcome = Err(fault);
                break;
            }
        }
        batch.commit();
        if let Some(lie) = self.ring.lie() {
            outcome = outcome.and_then(|()| Err(lie.into()));
        }
        outcome.map(|()| received).map_err(|fault| (received, fault))
    }
}

/// The offset that a descriptor means (`xp_get_handle`, `include/net/xsk_buff_pool.h`): with unaligned chunks the top
/// sixteen bits are to be added to the rest.
#[inline]
const fn address(offset: u64) -> u64 {
    if offset <= ADDRESS { offset } else { (offset & ADDRESS) + (offset >> ADDRESS_BITS) }
}

/// How many more frames fit.
pub(crate) fn room(burst: &Burst<'_>) -> u32 {
    u32::try_from(burst.room()).unwrap_or(0)
}

/// Takes in the frame that a descriptor names.
#[inline]
pub(crate) fn arrive<'p>(pool: &'p Pool, loan: Loan, descriptor: Descriptor) -> Result<Frame<'p>, Fault> {
    let mut frame = pool.arrive_at(address(descriptor.offset), loan, descriptor.len())?;
    if descriptor.options() & CONTINUES != 0 {
        frame.set_continues(true);
    }
    Ok(frame)
}

/// The transmit ring.
#[derive(Debug)]
pub(crate) struct Outbound<'p> {
    pool: &'p Pool,
    loan: Loan,
    ring: SharedProducer<Descriptor>,
    /// Bytes that the device reads in front of each buffer.
    headroom: u16,
    pub(crate) tally: Tally,
    pub(crate) unsendable: u64,
    /// Buffers put on the ring so far.
    pub(crate) buffers: u64,
}

impl<'p> Outbound<'p> {
    pub(crate) fn new(pool: &'p Pool, loan: Loan, ring: SharedProducer<Descriptor>, headroom: u16) -> Self {
        Self { pool, loan, ring, headroom, tally: Tally::default(), unsendable: 0, buffers: 0 }
    }

    /// Takes whole packets from the front of `burst` while the ring has room; returns how many frames.
    ///
    /// `prepare` sees each packet at the front of the burst before it goes, may change it, and names the options of
    /// its first descriptor.
    #[inline]
    pub(crate) fn transmit(
        &mut self,
        burst: &mut Burst<'p>,
        caps: &Caps,
        mut prepare: impl FnMut(&mut Burst<'p>) -> u32,
    ) -> usize {
        let waiting = burst.len();
        let mut grant = self.ring.reserve(u32::try_from(waiting).unwrap_or(0));
        let limits = Limits { headroom: self.headroom, bytes: caps.packet_bytes };
        transmit_plain(self.pool, self.loan, &mut grant, burst, &mut self.tally, limits);
        self.buffers += u64::from(grant.commit());
        if !burst.is_empty() {
            self.transmit_rest(burst, caps, &mut prepare);
        }
        waiting - burst.len()
    }

    /// The careful half of transmitting: what is out of room or out of the ordinary.
    #[cold]
    fn transmit_rest(
        &mut self,
        burst: &mut Burst<'p>,
        caps: &Caps,
        prepare: &mut impl FnMut(&mut Burst<'p>) -> u32,
    ) {
        let mut grant = self.ring.reserve(u32::try_from(burst.len()).unwrap_or(0));
        while !burst.is_empty() {
            let frames = match front(burst, caps, self.headroom) {
                Front::Empty => break,
                Front::Unsendable => {
                    burst.drop_packet();
                    self.unsendable += 1;
                    continue;
                }
                Front::Packet(frames) if frames > grant.room() => break,
                // Looked at as a whole: a packet must not lose a piece on the way.
                Front::Packet(frames) if frames > 1 && !all_of(self.pool, burst, frames) => {
                    burst.drop_packet();
                    self.unsendable += 1;
                    continue;
                }
                Front::Packet(frames) => frames,
            };
            let mut options = prepare(burst);
            for _ in 0..frames {
                let Some(frame) = burst.pop() else { break };
                let (offset, len) = (frame.offset(), frame.len());
                let continues = frame.continues();
                if self.pool.depart(frame, self.loan).is_err() {
                    // Another pool's frame: the device cannot see it. It is home again, and named.
                    self.unsendable += 1;
                    continue;
                }
                self.tally.add(len, continues);
                options |= if continues { CONTINUES } else { 0 };
                let pushed = grant.push(Descriptor::new(offset, u32::from(len), options));
                debug_assert!(pushed.is_ok(), "the room was looked at above");
                options = 0;
            }
        }
        self.buffers += u64::from(grant.commit());
    }

    /// Takes packets of a head and pages while the ring has room; returns how many packets.
    ///
    /// `prepare` sees each packet before it goes, may change it, and names the options of its first descriptor.
    pub(crate) fn gather(
        &mut self,
        packets: &mut Packets<'p>,
        caps: &Caps,
        mut prepare: impl FnMut(&mut Packets<'p>) -> u32,
    ) -> usize {
        let waiting = packets.len();
        // As many as there are heads; those with pages ask for more.
        let mut grant = self.ring.reserve(u32::try_from(waiting).unwrap_or(0));
        while let Some(front) = packets.front() {
            let buffers = u32::try_from(front.buffers()).unwrap_or(u32::MAX);
            if !sendable(&front, self.pool, self.headroom, caps) {
                self.unsendable += 1;
                drop(packets.pop());
                continue;
            }
            if grant.room() < buffers {
                self.buffers += u64::from(grant.commit());
                grant = self.ring.reserve(buffers.saturating_add(u32::try_from(packets.len()).unwrap_or(0)));
                if grant.room() < buffers {
                    break;
                }
            }
            self.tally.packets += 1;
            self.tally.bytes += front.bytes() as u64;
            let options = prepare(packets) | if buffers > 1 { CONTINUES } else { 0 };
            let Some((head, pages)) = packets.pop_parts() else { break };
            let (offset, len) = (head.offset(), u32::from(head.len()));
            if self.pool.depart(head, self.loan).is_err() {
                continue;
            }
            let _ = grant.push(Descriptor::new(offset, len, options));
            let mut left = buffers - 1;
            for page in pages {
                left -= 1;
                let len = u32::try_from(page.len()).unwrap_or(0);
                let Ok(offset) = self.pool.depart_page(page) else { continue };
                let options = if left > 0 { CONTINUES } else { 0 };
                let _ = grant.push(Descriptor::new(offset, len, options));
            }
        }
        self.buffers += u64::from(grant.commit());
        waiting - packets.len()
    }

    /// Descriptors that the other side has not taken yet.
    pub(crate) fn unread(&mut self) -> u32 {
        self.ring.unread()
    }

    /// Descriptors that the ring has room for.
    pub(crate) fn room(&mut self) -> u32 {
        self.ring.capacity() - self.ring.unread()
    }

    /// Puts a descriptor on the ring as it is: how the in-memory wire lies.
    pub(crate) fn push_raw(&mut self, descriptor: Descriptor) -> bool {
        let mut grant = self.ring.reserve(1);
        let pushed = grant.push(descriptor).is_ok();
        grant.commit();
        pushed
    }

    /// Whether the device sleeps.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    /// The fault of a reader that claims the impossible.
    pub(crate) fn lie(&self) -> Option<Fault> {
        self.ring.lie().map(Fault::from)
    }
}

/// Whether a queue with these abilities can ever send a packet of `pool`.
#[inline]
pub(crate) fn sendable(packet: &Chained<'_, '_>, pool: &Pool, headroom: u16, caps: &Caps) -> bool {
    let fit = |len: usize| len.wrapping_sub(1) < caps.buffer_bytes as usize;
    let head = packet.head();
    packet.buffers() <= caps.packet_frames as usize
        && packet.bytes() <= caps.packet_bytes as usize
        && fit(head.len().into())
        && head.head() >= headroom
        && !uncut(head, caps)
        && core::ptr::eq(head.pool(), pool)
        && (caps.takes_file_pages() || !packet.pages().any(Page::is_file))
        && packet.pages().all(|page| fit(page.len()) && core::ptr::eq(page.pool(), pool))
}

/// Whether the frames at the front of `burst` are all of `pool`.
#[cold]
pub(crate) fn all_of(pool: &Pool, burst: &Burst<'_>, frames: u32) -> bool {
    (0..frames as usize).filter_map(|i| burst.peek(i)).all(|frame| core::ptr::eq(frame.pool(), pool))
}

/// What stands at the front of a burst.
pub(crate) enum Front {
    /// Nothing.
    Empty,
    /// A packet in so many frames.
    Packet(u32),
    /// A packet that this queue can never send.
    Unsendable,
}

/// Looks at the packet at the front of `burst`.
#[inline]
pub(crate) fn front(burst: &Burst<'_>, caps: &Caps, headroom: u16) -> Front {
    match burst.peek(0) {
        None => Front::Empty,
        Some(frame) if !frame.continues() => {
            let long = u32::from(frame.len()) > caps.packet_bytes;
            if frame.is_empty() || long || frame.head() < headroom || uncut(frame, caps) {
                Front::Unsendable
            } else {
                Front::Packet(1)
            }
        }
        Some(_) => front_run(burst, caps, headroom),
    }
}

/// Whether a packet is still to be cut into segments, by a queue that cannot.
#[inline]
pub(crate) fn uncut(first: &Frame<'_>, caps: &Caps) -> bool {
    !caps.segmentation && first.offload().is_some_and(|offload| offload.segment_bytes != 0)
}

#[cold]
fn front_run(burst: &Burst<'_>, caps: &Caps, headroom: u16) -> Front {
    let frames = burst.packet_frames();
    let bytes: u32 = (0..frames).filter_map(|i| burst.peek(i)).map(|frame| u32::from(frame.len())).sum();
    let unfit = |frame: &Frame<'_>| frame.is_empty() || frame.head() < headroom;
    let hole = (0..frames).filter_map(|i| burst.peek(i)).any(unfit)
        || burst.peek(0).is_some_and(|frame| uncut(frame, caps));
    match u32::try_from(frames) {
        Ok(count) if count > 0 && count <= caps.packet_frames && bytes <= caps.packet_bytes && !hole => {
            Front::Packet(count)
        }
        // A packet without its end will not get one: whoever fills a burst puts whole packets in.
        _ => Front::Unsendable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbuf::{Arena, ArenaPlan, Stray, ring_pair};

    fn pool() -> Pool {
        let plan = ArenaPlan { frames: 256, frame_size: 2048, content_bytes: 0, huge_pages: false };
        Pool::new(Arena::new(&plan).expect("small"))
    }

    /// Lends slots and puts descriptors of 60 bytes for them on the ring, as many as there are `options`.
    fn deliver(
        pool: &Pool,
        loan: Loan,
        ring: &mut SharedProducer<Descriptor>,
        options: impl IntoIterator<Item = u32>,
    ) {
        for options in options {
            let slot = pool.lend(loan).expect("free");
            let mut grant = ring.reserve(1);
            grant.push(Descriptor::new(pool.offset(slot), 60, options)).expect("room");
            grant.commit();
        }
    }

    /// A packet that never ends is dropped up to its end and counted once, whether it is longer than a burst or than
    /// the ring; what comes behind it arrives.
    #[test]
    fn packets_without_end_are_dropped_whole() {
        for (ring, pieces) in [(256, 70), (128, 64), (16, 40)] {
            let pool = pool();
            let loan = pool.open_loan().expect("a loan");
            let (mut device, ours) = ring_pair(u32::MAX - 9, ring);
            let mut inbound = Inbound::new(&pool, loan, ours);
            let mut burst = Burst::new();
            for _ in 0..pieces {
                if device.unread() == ring {
                    assert_eq!(inbound.receive(&mut burst, |_, _| ()), Ok(0));
                }
                deliver(&pool, loan, &mut device, [CONTINUES]);
            }
            for options in [0, 0, CONTINUES, 0] {
                if device.unread() == ring {
                    assert_eq!(inbound.receive(&mut burst, |_, _| ()), Ok(0));
                }
                deliver(&pool, loan, &mut device, [options]);
            }
            while inbound.receive(&mut burst, |_, _| ()).expect("no lie") > 0 || device.unread() > 0 {}
            let continues: Vec<bool> = burst.drain().map(|frame| frame.continues()).collect();
            assert_eq!((continues, inbound.malformed), (vec![false, true, false], 1), "ring of {ring}");
            assert_eq!((inbound.tally.packets, pool.census().free), (2, 256));
        }
    }

    /// When a lie stands in the middle of a packet, none of its frames reaches the burst.
    #[test]
    fn a_fault_leaves_no_half_packet() {
        let pool = pool();
        let loan = pool.open_loan().expect("a loan");
        let (mut device, ours) = ring_pair(0, 64);
        let mut inbound = Inbound::new(&pool, loan, ours);
        deliver(&pool, loan, &mut device, [0, CONTINUES]);
        let mut grant = device.reserve(1);
        grant.push(Descriptor::new(1 << 40, 60, 0)).expect("room");
        grant.commit();
        let mut burst = Burst::new();
        let stray = Stray::Unknown { offset: 1 << 40 };
        assert_eq!(inbound.receive(&mut burst, |_, _| ()), Err((1, Fault::Stray(stray))));
        assert_eq!((burst.len(), inbound.tally), (1, Tally { packets: 1, bytes: 60 }));
        assert_eq!(pool.census().device, 0);
    }
}
