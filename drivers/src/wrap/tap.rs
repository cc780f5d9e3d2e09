//! Writes what passes to a capture file.

use crate::error::Fault;
use crate::queue::{Caps, Gather, QueueCounters, QueuePair};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use ringbuf::{Burst, Frame, Packets, Page, Segmentation, arena::CONTENT_UNIT};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the worker.
    Received,
    /// From the worker to the device.
    Transmitted,
}

/// Looks at the first bytes of a packet and says whether to write it.
type Filter = Box<dyn FnMut(Direction, &[u8]) -> bool>;

/// How a tap writes.
#[derive(Default)]
pub struct TapPlan {
    /// Bytes of each packet to write at most; all of them when `None`.
    pub snap_len: Option<u32>,
    /// Which packets to write; all of them when `None`. It sees what would be written.
    pub filter: Option<Filter>,
}

impl fmt::Debug for TapPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapPlan")
            .field("snap_len", &self.snap_len)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

/// Packets that a tap saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounts {
    /// Received and written.
    pub received: u64,
    /// Transmitted and written.
    pub transmitted: u64,
    /// Not wanted by the filter.
    pub filtered: u64,
    /// Not written because the file had failed.
    pub unwritten: u64,
}

/// A queue pair that writes each packet that passes to a capture, pcapng with nanoseconds and directions.
///
/// Written is what the queue inside handed over or took; a packet it took only to drop it (unsendable) is not. A
/// failing file stops the tap, never the traffic: see [`error`](Self::error). The time is asked of `clock` once a
/// burst, as time since 1970. Writing costs a copy and a small allocation a packet: for looking, not for measuring.
pub struct Tap<Q, W: Write, C> {
    inner: Q,
    clock: C,
    plan: TapPlan,
    writer: PcapNgWriter<W>,
    counts: TapCounts,
    error: Option<String>,
    /// Packets about to be transmitted, and their bytes one behind the other.
    staged: Vec<Staged>,
    bytes: Vec<u8>,
}

/// A packet kept until it is known whether the queue takes it.
#[derive(Clone, Copy, Debug)]
struct Staged {
    /// Frames, or 1 for a packet that is gathered.
    units: usize,
    original: u32,
    captured: usize,
    sendable: bool,
}

impl<Q: fmt::Debug, W: Write, C> fmt::Debug for Tap<Q, W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("inner", &self.inner)
            .field("counts", &self.counts)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<'p, Q: QueuePair<'p>, W: Write, C: FnMut() -> Duration> Tap<Q, W, C> {
    /// Wraps a queue pair and writes the capture's header.
    ///
    /// # Errors
    /// What `writer` says.
    pub fn new(inner: Q, writer: W, plan: TapPlan, clock: C) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(writer).map_err(io_error)?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: plan.snap_len.unwrap_or(0),
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(inner.caps().device.clone())),
                // Negative powers of ten: nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        writer.write_pcapng_block(interface).map_err(io_error)?;
        Ok(Self {
            inner,
            clock,
            plan,
            writer,
            counts: TapCounts::default(),
            error: None,
            staged: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Packets seen so far.
    #[must_use]
    pub const fn counts(&self) -> TapCounts {
        self.counts
    }

    /// Why the tap has stopped writing, if it has.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The queue pair inside.
    #[must_use]
    pub const fn inner(&self) -> &Q {
        &self.inner
    }

    /// The same, to be changed.
    pub const fn inner_mut(&mut self) -> &mut Q {
        &mut self.inner
    }

    /// Hands everything written so far to the operating system; a failure is latched too.
    ///
    /// # Errors
    /// What the writer says.
    pub fn flush(&mut self) -> io::Result<()> {
        let flushed = self.writer.get_mut().flush();
        if let Err(error) = &flushed {
            self.error.get_or_insert_with(|| format!("the capture could not be flushed: {error}"));
        }
        flushed
    }

    /// Takes the tap off and gives back the queue pair and the writer, not flushed.
    pub fn into_parts(self) -> (Q, W) {
        (self.inner, self.writer.into_inner())
    }

    /// Keeps the packet in these pieces until it is known whether it passed.
    fn stage<'b>(&mut self, units: usize, sendable: bool, pieces: impl Iterator<Item = &'b [u8]>) {
        let snap = self.plan.snap_len.map_or(usize::MAX, |snap| snap as usize);
        let (mut original, mut captured) = (0, 0);
        for piece in pieces {
            original += piece.len();
            let kept = &piece[..piece.len().min(snap - captured)];
            captured += kept.len();
            self.bytes.extend_from_slice(kept);
        }
        let original = u32::try_from(original).unwrap_or(u32::MAX);
        self.staged.push(Staged { units, original, captured, sendable });
    }

    /// Keeps the packets of a burst, from the frame `from` on.
    fn stage_burst(&mut self, burst: &Burst<'p>, from: usize) {
        self.staged.clear();
        self.bytes.clear();
        let mut at = from;
        while burst.peek(at).is_some() {
            let more = (at..burst.len()).filter_map(|i| burst.peek(i));
            let before_last = more.take_while(|frame| frame.continues()).count();
            // A packet without its end never passes.
            let whole = at + before_last < burst.len();
            let frames = before_last + usize::from(whole);
            let caps = self.inner.caps();
            let pieces = || (at..at + frames).filter_map(|i| burst.peek(i));
            let bytes: usize = pieces().map(|frame| usize::from(frame.len())).sum();
            let sendable = whole
                && frames <= caps.packet_frames as usize
                && bytes <= caps.packet_bytes as usize
                && !pieces().any(|frame| frame.is_empty());
            self.stage(frames, sendable, pieces().map(|frame: &Frame<'p>| &**frame));
            at += frames;
        }
    }

    /// Writes the first of the staged packets: as many as `units` frames or packets make up.
    fn write(&mut self, direction: Direction, units: usize) {
        if units == 0 {
            return;
        }
        let now = (self.clock)();
        let (mut start, mut passed) = (0, 0);
        for i in 0..self.staged.len() {
            let Some(&packet) = self.staged.get(i) else { break };
            passed += packet.units;
            if passed > units {
                break;
            }
            let end = start + packet.captured;
            if packet.sendable || direction == Direction::Received {
                self.write_packet(direction, now, packet.original, start..end);
            }
            start = end;
        }
    }

    fn write_packet(
        &mut self,
        direction: Direction,
        now: Duration,
        original_len: u32,
        range: std::ops::Range<usize>,
    ) {
        let data = &self.bytes[range];
        if self.plan.filter.as_mut().is_some_and(|wanted| !wanted(direction, data)) {
            self.counts.filtered += 1;
            return;
        }
        if self.error.is_some() {
            self.counts.unwritten += 1;
            return;
        }
        // Bits 0-1 of the flags: 1 inbound, 2 outbound (pcapng, Enhanced Packet Block Flags Word).
        let (flags, count) = match direction {
            Direction::Received => (1, &mut self.counts.received),
            Direction::Transmitted => (2, &mut self.counts.transmitted),
        };
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: now,
            original_len,
            data: Cow::Borrowed(data),
            options: vec![EnhancedPacketOption::Flags(flags)],
        };
        match self.writer.write_pcapng_block(block) {
            Ok(_) => *count += 1,
            Err(error) => {
                self.counts.unwritten += 1;
                self.error = Some(format!("the capture could not be written: {}", io_error(error)));
            }
        }
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

impl<'p, Q: QueuePair<'p>, W: Write, C: FnMut() -> Duration> QueuePair<'p> for Tap<Q, W, C> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn cuts(&self, kind: Segmentation) -> bool {
        self.inner.cuts(kind)
    }

    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        let received = self.inner.receive(burst);
        if received > 0 {
            self.stage_burst(burst, before);
            self.write(Direction::Received, received);
        }
        received
    }

    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        self.stage_burst(burst, 0);
        let taken = self.inner.transmit(burst);
        self.write(Direction::Transmitted, taken);
        taken
    }

    fn tend(&mut self) {
        self.inner.tend();
    }

    fn fault(&self) -> Option<&Fault> {
        self.inner.fault()
    }

    fn counters(&self) -> QueueCounters {
        self.inner.counters()
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        self.inner.waker()
    }

    fn pending(&self) -> u32 {
        self.inner.pending()
    }

    fn exhausted(&self) -> bool {
        self.inner.exhausted()
    }
}

impl<'p, Q: Gather<'p>, W: Write, C: FnMut() -> Duration> Gather<'p> for Tap<Q, W, C> {
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        self.staged.clear();
        self.bytes.clear();
        let mut waiting = Packets::new();
        while let Some(packet) = packets.pop() {
            let caps = self.inner.caps();
            let sendable = packet.buffers() <= caps.packet_frames as usize
                && packet.bytes() <= caps.packet_bytes as usize
                && !packet.head().is_empty()
                && !packet.pages().any(|page| page.is_empty());
            let head: &[u8] = packet.head();
            self.stage(1, sendable, std::iter::once(head).chain(packet.pages().map(visible)));
            // As many fit as came out.
            drop(waiting.push(packet));
        }
        let taken = self.inner.gather(&mut waiting);
        *packets = waiting;
        self.write(Direction::Transmitted, taken);
        taken
    }
}

/// What a capture shows of a page: zeros for a file's own, which only a device may read.
fn visible<'a>(page: &'a Page<'_>) -> &'a [u8] {
    static HIDDEN: [u8; CONTENT_UNIT] = [0; CONTENT_UNIT];
    page.bytes().unwrap_or(&HIDDEN[..page.len()])
}
