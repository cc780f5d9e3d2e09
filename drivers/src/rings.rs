//! Descriptor rings in the layout of AF_XDP: what the kernel's sockets and the in-memory wire have in common.
//!
//! Received descriptors become frames here, after the ledger has looked at each, and frames become descriptors.

use crate::error::Fault;
use crate::queue::{Caps, Tally};
use ringbuf::{Batch, Burst, Frame, Loan, Packet, Packets, Pool, SharedConsumer, SharedProducer};

/// `struct xdp_desc` (`include/uapi/linux/if_xdp.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Offset of the first byte in the arena; with unaligned chunks, what to add to it in the top sixteen bits.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// [`CONTINUES`], and what the driver adds.
    pub(crate) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

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
}

impl<'p> Inbound<'p> {
    pub(crate) fn new(pool: &'p Pool, loan: Loan, ring: SharedConsumer<Descriptor>) -> Self {
        Self { pool, loan, ring, tally: Tally::default(), malformed: 0 }
    }

    /// Appends whole packets while `burst` has room; `note` sees the first frame of each and its options.
    ///
    /// # Errors
    /// The first thing the other side said that cannot be true. What came before it is in the burst.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        burst: &mut Burst<'p>,
        mut note: impl FnMut(&mut Frame<'p>, u32),
    ) -> Result<usize, Fault> {
        let mut batch = self.ring.peek(room(burst));
        let mut received = 0;
        let mut outcome = Ok(());
        while let Some(first) = batch.peek(0) {
            if first.options & CONTINUES == 0 {
                batch.advance(1);
                match arrive(self.pool, self.loan, first) {
                    Ok(mut frame) => {
                        note(&mut frame, first.options);
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
            match take_run(self.pool, self.loan, &mut batch, burst, &mut self.tally, &mut note) {
                Ok(0) => break,
                Ok(frames) => received += frames,
                Err(RunError::TooLong) => self.malformed += 1,
                Err(RunError::Fault(fault)) => {
                    outcome = Err(fault);
                    break;
                }
            }
        }
        batch.commit();
        if let Some(lie) = self.ring.lie() {
            outcome = outcome.and_then(|()| Err(lie.into()));
        }
        outcome.map(|()| received)
    }
}

fn room(burst: &Burst<'_>) -> u32 {
    u32::try_from(burst.room()).unwrap_or(0)
}

#[inline]
fn arrive<'p>(pool: &'p Pool, loan: Loan, descriptor: Descriptor) -> Result<Frame<'p>, Fault> {
    // `xp_get_handle` (`include/net/xsk_buff_pool.h`); with aligned chunks the top bits are zero.
    let offset = (descriptor.offset & ADDRESS).wrapping_add(descriptor.offset >> ADDRESS_BITS);
    let (slot, head) = pool.locate(offset)?;
    let mut frame = pool.arrive(slot, loan, head, descriptor.len)?;
    if descriptor.options & CONTINUES != 0 {
        frame.set_continues(true);
    }
    Ok(frame)
}

enum RunError {
    TooLong,
    Fault(Fault),
}

/// Takes the packet in several descriptors at the front of `batch`: 0 when its end is not there yet.
#[cold]
fn take_run<'p>(
    pool: &'p Pool,
    loan: Loan,
    batch: &mut Batch<'_, Descriptor>,
    burst: &mut Burst<'p>,
    tally: &mut Tally,
    note: &mut impl FnMut(&mut Frame<'p>, u32),
) -> Result<usize, RunError> {
    let mut frames = 1;
    loop {
        match batch.peek(frames) {
            Some(descriptor) if descriptor.options & CONTINUES != 0 => frames += 1,
            Some(_) => break,
            // The rest may still come, or wait for an emptier burst; but no packet fills a whole burst.
            None if !burst.is_empty() || (frames as usize) < ringbuf::BURST => return Ok(0),
            None => {
                drop_run(pool, loan, batch, frames).map_err(RunError::Fault)?;
                return Err(RunError::TooLong);
            }
        }
    }
    for i in 0..=frames {
        let Some(descriptor) = batch.next() else { break };
        let mut frame = arrive(pool, loan, descriptor).map_err(RunError::Fault)?;
        if i == 0 {
            note(&mut frame, descriptor.options);
        }
        tally.add(frame.len(), frame.continues());
        // There is room: the batch was cut to it.
        drop(burst.push(frame));
    }
    Ok(frames as usize + 1)
}

fn drop_run(pool: &Pool, loan: Loan, batch: &mut Batch<'_, Descriptor>, frames: u32) -> Result<(), Fault> {
    for descriptor in batch.take(frames as usize) {
        drop(arrive(pool, loan, descriptor)?);
    }
    Ok(())
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
        loop {
            let frames = match front(burst, caps, self.headroom) {
                Front::Empty => break,
                Front::Unsendable => {
                    drop_packet(burst);
                    self.unsendable += 1;
                    continue;
                }
                Front::Packet(frames) if frames > grant.room() => break,
                Front::Packet(frames) => frames,
            };
            let mut options = prepare(burst);
            for _ in 0..frames {
                let Some(frame) = burst.pop() else { break };
                let (offset, len) = (frame.offset(), frame.len());
                let continues = frame.continues();
                if self.pool.depart(frame, self.loan).is_err() {
                    // Another pool's frame: the device cannot see it. It is home again; the packet is named below.
                    self.unsendable += 1;
                    continue;
                }
                self.tally.add(len, continues);
                options |= if continues { CONTINUES } else { 0 };
                let pushed = grant.push(Descriptor { offset, len: u32::from(len), options });
                debug_assert!(pushed.is_ok(), "the room was looked at above");
                options = 0;
            }
        }
        self.buffers += u64::from(grant.commit());
        waiting - burst.len()
    }

    /// Takes packets of a head and pages while the ring has room; returns how many packets.
    pub(crate) fn gather(
        &mut self,
        packets: &mut Packets<'p>,
        caps: &Caps,
        mut prepare: impl FnMut(&mut Packet<'p>) -> u32,
    ) -> usize {
        let mut taken = 0;
        while let Some(front) = packets.front() {
            let buffers = u32::try_from(front.buffers()).unwrap_or(u32::MAX);
            let fits = buffers <= caps.packet_frames && front.bytes() <= caps.packet_bytes as usize;
            let unfit = |len: usize| len == 0 || len > caps.buffer_bytes as usize;
            let empty = unfit(front.head().len().into())
                || front.head().head() < self.headroom
                || front.pages().any(|page| unfit(page.len()));
            let mut grant = self.ring.reserve(buffers);
            if fits && !empty && grant.room() < buffers {
                break;
            }
            let Some(mut packet) = packets.pop() else { break };
            taken += 1;
            if !fits || empty || !core::ptr::eq(packet.head().pool(), self.pool) {
                self.unsendable += 1;
                continue;
            }
            self.tally.packets += 1;
            self.tally.bytes += packet.bytes() as u64;
            let options = prepare(&mut packet) | if buffers > 1 { CONTINUES } else { 0 };
            let (head, pages) = packet.into_parts();
            let (offset, len) = (head.offset(), u32::from(head.len()));
            if self.pool.depart(head, self.loan).is_err() {
                continue;
            }
            let _ = grant.push(Descriptor { offset, len, options });
            let mut left = buffers - 1;
            for page in pages {
                left -= 1;
                let len = u32::try_from(page.len()).unwrap_or(0);
                let Ok(offset) = self.pool.depart_page(page) else { continue };
                let options = if left > 0 { CONTINUES } else { 0 };
                let _ = grant.push(Descriptor { offset, len, options });
            }
            self.buffers += u64::from(grant.commit());
        }
        taken
    }

    /// Descriptors that the other side has not taken yet.
    pub(crate) fn unread(&mut self) -> u32 {
        self.ring.unread()
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
            if frame.is_empty() || u32::from(frame.len()) > caps.packet_bytes || frame.head() < headroom {
                Front::Unsendable
            } else {
                Front::Packet(1)
            }
        }
        Some(_) => front_run(burst, caps, headroom),
    }
}

#[cold]
fn front_run(burst: &Burst<'_>, caps: &Caps, headroom: u16) -> Front {
    let frames = burst.packet_frames();
    let bytes: u32 = (0..frames).filter_map(|i| burst.peek(i)).map(|frame| u32::from(frame.len())).sum();
    let unfit = |frame: &Frame<'_>| frame.is_empty() || frame.head() < headroom;
    let hole = (0..frames).filter_map(|i| burst.peek(i)).any(unfit);
    match u32::try_from(frames) {
        Ok(count) if count > 0 && count <= caps.packet_frames && bytes <= caps.packet_bytes && !hole => {
            Front::Packet(count)
        }
        // A packet without its end will not get one: whoever fills a burst puts whole packets in.
        _ => Front::Unsendable,
    }
}

/// Gives the packet at the front back to its pool; returns how many frames it had.
pub(crate) fn drop_packet(burst: &mut Burst<'_>) -> usize {
    let mut dropped = 0;
    while let Some(frame) = burst.pop() {
        dropped += 1;
        if !frame.continues() {
            break;
        }
    }
    dropped
}
