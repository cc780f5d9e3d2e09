//! A queue pair over a receive and a transmit ring of a card.

use super::card::{self, ABSENT, Buffer, Card, LinkState, Losses, RingPlaces, Signal, ring};
use super::loans::Loans;
use super::offload::{self, Left, Undone};
use super::receive::Receiver;
use super::transmit::Transmitter;
use super::watch::Watch;
use crate::checksum;
use crate::error::{Fault, OpenError};
use crate::pci::{DmaArena, DmaRings, Function, Interrupt};
use crate::queue::{Caps, Copying, Gather, QueueCounters, QueuePair, Tally};
use crate::rings::{self, Front, front};
use ringbuf::{BURST, Burst, Frame, Packets, Pool, Segmentation};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

/// What a queue is to be.
#[derive(Clone, Debug)]
pub(super) struct QueuePlan {
    /// The driver's name on the command line.
    pub(super) driver: &'static str,
    pub(super) queue: u32,
    /// Descriptors of each ring.
    pub(super) ring: u16,
    pub(super) mtu: u16,
    /// What the port says of its link.
    pub(super) speed: u32,
    /// Whether the card completes checksums.
    pub(super) checksums: bool,
}

/// Turns between two looks at what costs a read across the bus: whether the card is there, and its link up.
const LOOK_EVERY: u32 = 1024;

/// The shortest packet that the cards take; they pad it to sixty bytes (82574 §10.2.6.1: "padding works from 17 bytes on").
const SHORTEST: u16 = 17;

/// An IP packet that is still to be cut, behind an Ethernet header with a tag.
const LONGEST_UNCUT: u32 = 65_535 + 18;

#[derive(Debug)]
pub(super) struct IntelQueue<'p, C: Card> {
    pool: &'p Pool,
    card: C,
    function: Arc<Function>,
    signal: Signal,
    interrupt: Option<Arc<Interrupt>>,
    receiver: Receiver<'p, C>,
    transmitter: Transmitter<'p>,
    caps: Caps,
    /// Bytes of the longest packet that goes uncut.
    longest: u32,
    up: bool,
    fault: Option<Fault>,
    turns: u32,
    watch: Watch,
    /// Interrupts are on, for a worker that slept.
    armed: Cell<bool>,
    transmitted: Tally,
    /// Packets that the card had when it stopped.
    lost: u64,
    unsendable: u64,
    checksums: u64,
    link_down: u64,
    losses: Cell<Losses>,
    // In this order: memory goes out of the card's reach before its slots are somebody else's.
    arena: DmaArena<'p>,
    _rings: DmaRings,
    loans: Loans<'p>,
}

impl<'p, C: Card> IntelQueue<'p, C> {
    /// Makes the rings, has the card use them, and fills the first with empty slots.
    pub(super) fn open(
        pool: &'p Pool,
        card: &C,
        function: &Arc<Function>,
        plan: &QueuePlan,
        interrupt: Option<Arc<Interrupt>>,
        signal: Signal,
    ) -> Result<Self, OpenError> {
        let refused = |why: &str| OpenError::refused(function.name(), "setting up the rings", why);
        let buffer = if plan.mtu <= 2048 - 18 { Buffer::Kib2 } else { Buffer::Kib3 };
        let start = ringbuf::HEADROOM;
        if pool.frame_size() < start + buffer.bytes() {
            return Err(refused(
                "slots of 4096 bytes are needed, since the card's buffers come in whole KiB",
            ));
        }
        let loans = pool.open_loan().zip(pool.open_loan());
        let (receive, transmit) =
            loans.ok_or_else(|| refused("the pool has no loans left: fewer queues for each worker"))?;
        let loans = Loans { pool, receive, transmit };
        let bytes = usize::from(plan.ring) * 16;
        let rings = function.rings(2 * bytes)?;
        let arena = function.map_arena(pool)?;
        let words = |offset| rings.memory().words(offset, bytes / 8);
        let bell = |place| card.registers().doorbell(place);
        let receiver = Receiver::new(
            pool,
            loans.receive,
            words(0),
            bell(C::receive_ring(plan.queue) + ring::TAIL),
            buffer,
            start,
        );
        let transmitter = Transmitter::new(
            pool,
            loans.transmit,
            words(bytes),
            bell(C::transmit_ring(plan.queue) + ring::TAIL),
        );
        let places =
            RingPlaces { receive: rings.address(0), transmit: rings.address(bytes), ring: plan.ring, buffer };
        let mut queue = Self {
            pool,
            card: card.clone(),
            function: Arc::clone(function),
            signal,
            interrupt,
            receiver,
            transmitter,
            caps: caps::<C>(plan, function.name()),
            longest: u32::from(plan.mtu) + 18,
            up: true,
            fault: None,
            turns: 0,
            watch: Watch::default(),
            lost: 0,
            armed: Cell::new(false),
            transmitted: Tally::default(),
            unsendable: 0,
            checksums: 0,
            link_down: 0,
            losses: Cell::default(),
            arena,
            _rings: rings,
            loans,
        };
        card::disarm(&queue.card, plan.queue, signal);
        card::start(&queue.card, plan.queue, &places);
        queue.receiver.refill(queue.arena.addresses());
        // What was lost before is nobody's.
        Losses::default().ask(&queue.card, plan.queue);
        Ok(queue)
    }

    #[cold]
    fn latch(&mut self, fault: Fault) {
        // The first fault is the cause of the others.
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.lost = self.transmitter.unreported_packets();
        }
    }

    #[inline]
    fn complete(&mut self) {
        if let Err(fault) = self.transmitter.complete() {
            self.latch(fault);
        }
    }

    /// Whether a packet of so many descriptors fits, once what is done has been taken off.
    #[inline]
    fn has_room(&mut self, descriptors: usize) -> bool {
        if descriptors > self.transmitter.vacant() {
            self.complete();
        }
        descriptors <= self.transmitter.vacant()
    }

    /// Whether the card is there, and ours, and its link up.
    #[cold]
    fn look(&mut self) {
        self.turns = 0;
        match card::link(self.card.registers()) {
            LinkState::Absent => self.latch(Fault::PulledOut),
            _ if self.function.is_wanted_back() => self.latch(Fault::PulledOut),
            LinkState::Up { .. } => {
                self.up = true;
                self.listen();
            }
            LinkState::Down => {
                self.link_down += u64::from(self.up);
                self.up = false;
            }
        }
    }

    /// Whether the card says what it owes to say. One that an IOMMU keeps from memory goes on as if nothing were, but for that.
    #[cold]
    fn listen(&mut self) {
        let head: u32 = self.card.registers().read(C::receive_ring(self.caps.queue) + ring::HEAD);
        let (received, sent) = (self.receiver.position(), self.transmitter.position());
        let filled = self.receiver.is_idle() && self.receiver.slot() != head && head != ABSENT;
        let owes = self.transmitter.lent() > 0 || filled;
        if self.watch.is_silent(owes, (received, sent), Instant::now()) {
            self.latch(Fault::Silent);
        }
    }

    /// No interrupts while we poll.
    #[cold]
    fn rise(&mut self) {
        self.armed.set(false);
        card::disarm(&self.card, self.caps.queue, self.signal);
        let calmed = self.interrupt.as_ref().map_or(Ok(()), |interrupt| interrupt.calm());
        // The card is gone with its interrupt.
        if calmed.is_err() {
            self.latch(Fault::PulledOut);
        }
        self.look();
    }

    #[cold]
    fn refuse(&mut self, burst: &mut Burst<'p>) {
        burst.drop_packet();
        self.unsendable += 1;
    }

    /// Lends the next frame of a packet to the card.
    fn depart(&mut self, frame: Frame<'p>, word: u64, last: bool) {
        let (offset, len) = (frame.offset(), frame.len());
        // Of this pool, as was seen before.
        if self.pool.depart(frame, self.loans.transmit).is_ok() {
            self.transmitter.put(offset, len, self.arena.addresses(), word, last);
        }
    }

    /// Sends the packet at the front of `burst`, which is there in `frames` frames.
    #[inline]
    fn send(&mut self, burst: &mut Burst<'p>, frames: usize) -> Sent {
        // One more, should there be a context to be told.
        if !self.has_room(frames + 1) {
            return Sent::NoRoom;
        }
        let Some(first) = burst.peek(0) else { return Sent::Never };
        let (mut bytes, mut left) = (first.len().into(), Left::Nothing);
        if frames > 1 {
            bytes = (0..frames).filter_map(|i| burst.peek(i)).map(|frame| u32::from(frame.len())).sum();
        }
        if bytes < u32::from(SHORTEST) {
            return Sent::Never;
        }
        if !first.is_plain() || bytes > self.longest {
            match Undone::of::<C>(first, bytes, &self.caps, self.longest) {
                Undone::Nothing => {}
                Undone::Ours => self.checksums += u64::from(checksum::finish(burst)),
                Undone::Never => return Sent::Never,
                Undone::Checksum(context) => {
                    self.transmitter.put_context(context);
                    left = Left::Checksum;
                }
                Undone::Cut(cut) => {
                    let Some(first) = burst.peek_mut(0) else { return Sent::Never };
                    cut.prepare(first);
                    self.transmitter.put_context(C::cut(&cut));
                    (bytes, left) = (cut.payload, Left::Cut { ipv4: cut.ipv4 });
                }
            }
        }
        let word = C::data(bytes, left);
        for left in (0..frames).rev() {
            let Some(frame) = burst.pop() else { break };
            self.transmitted.add(frame.len(), frame.continues());
            self.depart(frame, word, left == 0);
        }
        Sent::Whole
    }

    /// The same for a head and its pages.
    fn send_pages(&mut self, packets: &mut Packets<'p>) -> Sent {
        let Some(front) = packets.front() else { return Sent::Never };
        let (buffers, bytes) = (front.buffers(), u32::try_from(front.bytes()).unwrap_or(u32::MAX));
        if !rings::sendable(&front, self.pool, 0, &self.caps) || bytes < SHORTEST.into() {
            return Sent::Never;
        }
        let undone = Undone::of::<C>(front.head(), bytes, &self.caps, self.longest);
        // What only the card may read, only the card can sum.
        let sealed = matches!(undone, Undone::Ours) && front.pages().any(ringbuf::Page::is_file);
        if sealed || matches!(undone, Undone::Never) {
            return Sent::Never;
        }
        if !self.has_room(buffers + 1) {
            return Sent::NoRoom;
        }
        let left = match undone {
            Undone::Nothing | Undone::Never => Left::Nothing,
            Undone::Ours => {
                let Some((head, pages)) = packets.front_mut() else { return Sent::Never };
                self.checksums += u64::from(checksum::finish_packet(head, pages));
                Left::Nothing
            }
            Undone::Checksum(context) => {
                self.transmitter.put_context(context);
                Left::Checksum
            }
            Undone::Cut(cut) => {
                let Some((head, _)) = packets.front_mut() else { return Sent::Never };
                cut.prepare(head);
                self.transmitter.put_context(C::cut(&cut));
                Left::Cut { ipv4: cut.ipv4 }
            }
        };
        let payload = if let Undone::Cut(cut) = undone { cut.payload } else { bytes };
        let word = C::data(payload, left);
        let Some((head, pages)) = packets.pop_parts() else { return Sent::Never };
        self.transmitted.packets += 1;
        self.transmitted.bytes += u64::from(bytes);
        let mut left = buffers - 1;
        self.depart(head, word, left == 0);
        for page in pages {
            left -= 1;
            let len = u16::try_from(page.len()).unwrap_or(0);
            let Ok(offset) = self.pool.depart_page(page) else { continue };
            self.transmitter.put(offset, len, self.arena.addresses(), word, left == 0);
        }
        Sent::Whole
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Whole,
    /// It waits until there is room.
    NoRoom,
    /// It cannot be sent at all.
    Never,
}

fn caps<C: Card>(plan: &QueuePlan, device: &str) -> Caps {
    let mut mode = format!("{} at {} Mb/s, rings of {}", C::NAME, plan.speed, plan.ring);
    if plan.checksums {
        mode += ", checksums";
    }
    // Such cards have hung when they cut at 10 or 100 Mb/s; Linux (e1000e) and FreeBSD do not let them either.
    let cuts = plan.checksums && plan.speed >= 1000;
    if cuts {
        mode += ", segmentation";
    }
    Caps {
        driver: plan.driver,
        device: device.to_owned(),
        queue: plan.queue,
        copying: Copying::ZeroCopy,
        mode,
        packet_bytes: if cuts { LONGEST_UNCUT } else { u32::from(plan.mtu) + 18 },
        buffer_bytes: C::BUFFER_BYTES,
        packet_frames: u32::from(plan.ring / 2).min(u32::try_from(BURST).unwrap_or(1)),
        checksum: plan.checksums,
        segmentation: cuts,
    }
}

impl<'p, C: Card> QueuePair<'p> for IntelQueue<'p, C> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.caps.segmentation && offload::cuts(kind)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        let before = burst.len();
        if let Err(fault) = self.receiver.receive(burst) {
            self.latch(fault);
        }
        burst.len() - before
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        let waiting = burst.len();
        loop {
            match front(burst, &self.caps, 0) {
                Front::Empty => break,
                Front::Packet(frames) if rings::all_of(self.pool, burst, frames) => {
                    match self.send(burst, frames as usize) {
                        Sent::Whole => {}
                        Sent::NoRoom => break,
                        Sent::Never => self.refuse(burst),
                    }
                }
                Front::Packet(_) | Front::Unsendable => self.refuse(burst),
            }
        }
        self.transmitter.publish();
        waiting - burst.len()
    }

    #[inline]
    fn tend(&mut self) {
        if self.fault.is_some() {
            return;
        }
        if self.armed.get() {
            self.rise();
        }
        self.turns += 1;
        if self.turns >= LOOK_EVERY {
            self.look();
        }
        self.complete();
        self.receiver.refill(self.arena.addresses());
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn counters(&self) -> QueueCounters {
        let mut losses = self.losses.get();
        if self.fault.is_none() {
            losses.ask(&self.card, self.caps.queue);
            self.losses.set(losses);
        }
        QueueCounters {
            received: self.receiver.tally,
            transmitted: self.transmitted,
            receive_missed: losses.missed,
            receive_malformed: self.receiver.malformed + losses.damaged,
            transmit_dropped: self.lost + losses.collided,
            unsendable: self.unsendable,
            link_down: self.link_down,
            checksums_finished: self.checksums,
            ..QueueCounters::default()
        }
    }

    /// Turns interrupts on until the next [`tend`](QueuePair::tend).
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        let interrupt = self.interrupt.as_ref()?;
        self.armed.set(true);
        card::arm(&self.card, self.caps.queue, self.signal);
        // What came before the card heard of it raises none.
        if !self.receiver.is_idle() {
            card::poke(&self.card, self.caps.queue, self.signal);
        }
        Some(interrupt.as_fd())
    }

    fn pending(&self) -> u32 {
        self.transmitter.lent()
    }
}

impl<'p, C: Card> Gather<'p> for IntelQueue<'p, C> {
    /// Pages go straight from the arena, as further descriptors of the packet.
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if self.fault.is_some() || !self.up {
            return 0;
        }
        let waiting = packets.len();
        while !packets.is_empty() {
            match self.send_pages(packets) {
                Sent::Whole => {}
                Sent::NoRoom => break,
                Sent::Never => {
                    self.unsendable += 1;
                    drop(packets.pop());
                }
            }
        }
        self.transmitter.publish();
        waiting - packets.len()
    }
}

impl<C: Card> Drop for IntelQueue<'_, C> {
    fn drop(&mut self) {
        // All ones need not mean that it is gone: it may be deaf for a while, and write still.
        let control: u32 = self.card.registers().read(card::register::CTRL);
        if control == ABSENT || !self.card.stop(self.caps.queue) {
            // It must not write to what others have next: the bus keeps it from that, whatever it does.
            let _ = self.function.set_bus_master(false);
        }
        if control != ABSENT {
            card::disarm(&self.card, self.caps.queue, self.signal);
        }
        self.receiver.forget();
        self.transmitter.forget();
    }
}
