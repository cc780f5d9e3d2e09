//! A capture file as a device: replays one, records to another.
//!
//! The file is read and cut into packets when the queue is opened, so a turn neither allocates nor waits for the file
//! that is replayed; it has to fit in memory ([`LARGEST_FILE`]). What is transmitted goes through a buffer of 256 KiB
//! to the file named by `out=`; a turn that fills the buffer waits for the operating system to take it.

use crate::error::{Fault, OpenError};
use crate::queue::{Caps, Copying, QueueCounters, QueuePair, Tally};
use crate::rings::{Front, front};
use crate::spec::{PortSpec, SpecError};
use pcap_file::pcap::{PcapHeader, PcapParser};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use ringbuf::{BURST, Burst, HEADROOM, Pool};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of the largest file that is replayed.
pub const LARGEST_FILE: u64 = 1 << 30;

/// The snapshot length that libpcap and Wireshark take for the largest (`MAXIMUM_SNAPLEN`).
const SNAP_LEN: u32 = 262_144;

/// What to replay and where to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcapPlan {
    /// The capture to replay, pcap or pcapng.
    pub file: PathBuf,
    /// The capture to write, pcap with nanoseconds; nothing is recorded when `None`.
    pub out: Option<PathBuf>,
    /// How often the file is replayed, one after the other.
    pub times: u32,
}

impl PcapPlan {
    /// From `pcap:in.pcap,out=out.pcap,loop=3`.
    ///
    /// # Errors
    /// [`SpecError`] naming the option that is unknown or out of range.
    pub fn from_spec(spec: &PortSpec) -> Result<Self, SpecError> {
        spec.only(&["out", "loop"])?;
        let may_be = "a number of times from 1 to 4294967295";
        let times = spec.option::<std::num::NonZeroU32>("loop", may_be)?.map_or(1, std::num::NonZeroU32::get);
        Ok(Self { file: spec.device.clone().into(), out: spec.option("out", "a file name")?, times })
    }
}

/// A queue pair that receives the packets of one capture and writes what it transmits to another.
pub struct PcapQueue<'p> {
    pool: &'p Pool,
    caps: Caps,
    capture: Capture,
    /// The packet to receive next.
    next: usize,
    /// Replays to come, this one included.
    times: u32,
    recorder: Option<Recorder>,
    fault: Option<Fault>,
    received: Tally,
    transmitted: Tally,
    malformed: u64,
    unsendable: u64,
}

impl fmt::Debug for PcapQueue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapQueue")
            .field("caps", &self.caps)
            .field("next", &self.next)
            .field("packets", &self.capture.packets.len())
            .field("times", &self.times)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// A capture in memory.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    /// Where each packet's bytes are.
    packets: Vec<Range<usize>>,
    /// Packets that were captured in part.
    cut: u64,
    /// Why there is no more.
    trouble: Option<String>,
}

struct Recorder {
    path: PathBuf,
    writer: BufWriter<File>,
    /// The bytes of a packet in several frames.
    scratch: Vec<u8>,
}

impl<'p> PcapQueue<'p> {
    /// Reads the capture and creates the file to record to.
    ///
    /// # Errors
    /// [`OpenError`] naming the file, the step and the cure: no such file, no capture, no Ethernet, too large.
    pub fn open(pool: &'p Pool, plan: &PcapPlan) -> Result<Self, OpenError> {
        let device = plan.file.display().to_string();
        let capture = read(&plan.file)?;
        let recorder = match &plan.out {
            None => None,
            Some(out) if same_file(&plan.file, out) => {
                let hint = "name another file with out=: recording there would destroy the capture";
                return Err(OpenError::refused(
                    device,
                    format!("recording to {}", out.display()),
                    "it is the file being replayed",
                )
                .hint(hint));
            }
            Some(out) => Some(Recorder::create(out)?),
        };
        let mode = format!(
            "replay of {} packets{}, {}",
            capture.packets.len(),
            if capture.cut > 0 { format!(" ({} captured in part)", capture.cut) } else { String::new() },
            plan.out
                .as_ref()
                .map_or_else(|| "no recording".to_owned(), |out| format!("recording to {}", out.display()))
        );
        let packet_frames = u32::try_from(BURST).unwrap_or(1);
        let caps = Caps {
            driver: "pcap",
            device,
            queue: 0,
            copying: Copying::DriverCopies,
            mode,
            packet_bytes: SNAP_LEN.min(packet_frames * u32::from(pool.frame_size())),
            buffer_bytes: u32::from(pool.frame_size()),
            packet_frames,
            checksum: false,
            segmentation: false,
        };
        let times = if capture.packets.is_empty() { 0 } else { plan.times };
        let malformed = u64::from(times == 0 && capture.trouble.is_some());
        Ok(Self {
            pool,
            caps,
            capture,
            next: 0,
            times,
            recorder,
            fault: None,
            received: Tally::default(),
            transmitted: Tally::default(),
            malformed,
            unsendable: 0,
        })
    }

    /// What was wrong with the capture, once all that was whole has been replayed.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        if self.malformed > 0 { self.capture.trouble.as_deref() } else { None }
    }

    /// Hands everything recorded so far to the operating system.
    ///
    /// # Errors
    /// What it says: the disk is full, as a rule.
    pub fn flush(&mut self) -> io::Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::flush)
    }

    /// Puts the next packet into the burst; `false` when there is no room or no free frame for it yet.
    fn replay(&mut self, burst: &mut Burst<'p>) -> bool {
        let Some(bytes) =
            self.capture.packets.get(self.next).and_then(|at| self.capture.bytes.get(at.clone()))
        else {
            return false;
        };
        let piece = self.piece();
        let frames = bytes.len().div_ceil(piece);
        if frames > burst.room() || frames > self.pool.free() as usize {
            return false;
        }
        for (i, bytes) in (1..).zip(bytes.chunks(piece)) {
            let Some(mut frame) = self.pool.alloc() else { return false };
            let fits = frame.extend(bytes);
            debug_assert!(fits.is_ok(), "cut to the room of a frame");
            frame.set_continues(i < frames);
            self.received.add(frame.len(), frame.continues());
            // There is room: the frames were counted above.
            drop(burst.push(frame));
        }
        true
    }

    /// Bytes of a packet that go into one frame.
    fn piece(&self) -> usize {
        usize::from(self.pool.frame_size() - HEADROOM.min(self.pool.frame_size() / 2))
    }

    /// Moves on to the next packet, or the next replay.
    fn advance(&mut self) {
        self.next += 1;
        if self.next < self.capture.packets.len() {
            return;
        }
        if self.times == 1 {
            self.malformed += u64::from(self.capture.trouble.is_some());
        }
        self.times -= 1;
        self.next = 0;
    }
}

impl<'p> QueuePair<'p> for PcapQueue<'p> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        while self.times > 0 && self.fault.is_none() {
            let Some(packet) = self.capture.packets.get(self.next) else { break };
            // Longer than any burst, or empty: no packet of a wire that we know.
            let most = BURST * self.piece();
            if packet.is_empty() || packet.len() > most.min(self.caps.packet_bytes as usize) {
                self.malformed += 1;
            } else if !self.replay(burst) {
                break;
            }
            self.advance();
        }
        burst.len() - before
    }

    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        let waiting = burst.len();
        if self.fault.is_some() || waiting == 0 {
            return 0;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        loop {
            match front(burst, &self.caps, 0) {
                Front::Empty => break,
                Front::Unsendable => {
                    burst.drop_packet();
                    self.unsendable += 1;
                }
                Front::Packet(frames) => {
                    let frames = (0..frames as usize).filter_map(|i| burst.peek(i));
                    if let Some(recorder) = &mut self.recorder
                        && let Err(error) = recorder.record(now, frames.clone().map(|frame| &**frame))
                    {
                        let errno = error.raw_os_error().unwrap_or(libc::EIO);
                        self.fault = Some(Fault::System { call: "write to the file of out=", errno });
                        break;
                    }
                    frames.for_each(|frame| self.transmitted.add(frame.len(), frame.continues()));
                    burst.drop_packet();
                }
            }
        }
        waiting - burst.len()
    }

    fn tend(&mut self) {}

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn counters(&self) -> QueueCounters {
        QueueCounters {
            received: self.received,
            transmitted: self.transmitted,
            receive_malformed: self.malformed,
            unsendable: self.unsendable,
            ..QueueCounters::default()
        }
    }

    fn exhausted(&self) -> bool {
        self.times == 0
    }
}

impl Drop for PcapQueue<'_> {
    fn drop(&mut self) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.flush()
        {
            let out = recorder.path.display();
            tracing::error!("{out}: the end of the recording is lost: {error}");
        }
    }
}

impl Recorder {
    fn create(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let failed = |source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::NotFound => "the directory is not there: create it, or name another with out=",
                io::ErrorKind::PermissionDenied => "name a file with out= that this user may write",
                _ => "name a file with out= that can be written",
            };
            OpenError::new(name.clone(), "creating the file to record to", source).hint(hint)
        };
        let file = File::create(path).map_err(failed)?;
        let header = PcapHeader {
            snaplen: SNAP_LEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        header.write_to(&mut writer).map_err(|error| failed(io_error(error)))?;
        // A disk that is full already is found here, not under traffic.
        writer.flush().map_err(failed)?;
        Ok(Self { path: path.to_owned(), writer, scratch: Vec::with_capacity(SNAP_LEN as usize) })
    }

    fn record<'b>(&mut self, now: Duration, pieces: impl Iterator<Item = &'b [u8]>) -> io::Result<()> {
        self.scratch.clear();
        pieces.for_each(|piece| self.scratch.extend_from_slice(piece));
        let len = u32::try_from(self.scratch.len()).map_err(io::Error::other)?;
        // The record header of pcap: seconds, nanoseconds, bytes here, bytes on the wire.
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_nanos(), len, len] {
            self.writer.write_all(&word.to_ne_bytes())?;
        }
        self.writer.write_all(&self.scratch)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Whether two names are one file.
fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Reads a capture and cuts it into packets.
fn read(path: &Path) -> Result<Capture, OpenError> {
    let name = path.display().to_string();
    let failed =
        |source: io::Error, hint: &str| OpenError::new(&*name, "reading the capture", source).hint(hint);
    if name == "-" {
        let why = "standard input cannot be replayed";
        return Err(OpenError::refused(name, "reading the capture", why).hint("write it to a file first"));
    }
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => failed(source, "there is no such file: check the name"),
        io::ErrorKind::PermissionDenied => {
            failed(source, "this user may not read it: change its mode, or run as its owner")
        }
        _ => failed(source, "name a capture file in pcap or pcapng format"),
    })?;
    let about = file.metadata().map_err(|source| failed(source, "name a capture file"))?;
    if !about.is_file() {
        let why = if about.is_dir() { "it is a directory" } else { "it is not an ordinary file" };
        return Err(OpenError::refused(name, "reading the capture", why).hint("name a capture file"));
    }
    if about.len() > LARGEST_FILE {
        let why = format!("it is {} MiB long, more than {} MiB", about.len() >> 20, LARGEST_FILE >> 20);
        let hint = "split it: editcap -c 1000000 in.pcap part.pcap";
        return Err(OpenError::refused(name, "reading the capture", why).hint(hint));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0) + 1);
    file.take(LARGEST_FILE)
        .read_to_end(&mut bytes)
        .map_err(|source| failed(source, "the file cannot be read"))?;
    let parsed = match bytes.get(..4) {
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => parse_ng(&bytes),
        _ => parse(&bytes),
    };
    match parsed {
        Ok(capture) => Ok(Capture { bytes, ..capture }),
        Err(why) => Err(OpenError::refused(name, "reading the capture", why)
            .hint("name a capture of Ethernet packets in pcap or pcapng format")),
    }
}

/// What the parser could not read, in words.
fn trouble(error: &PcapError, at: usize, packets: usize) -> String {
    let what = match error {
        PcapError::IncompleteBuffer => "is cut short".to_owned(),
        other => format!("is damaged ({other})"),
    };
    format!("the capture {what} at byte {at}, behind {packets} whole packets")
}

fn ethernet(link: DataLink) -> Result<(), String> {
    match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("its packets are not Ethernet: link type {other:?} ({})", u32::from(other))),
    }
}

fn no_capture(error: &PcapError) -> String {
    match error {
        PcapError::IncompleteBuffer => "it ends within its header".to_owned(),
        _ => "it is no capture in pcap or pcapng format".to_owned(),
    }
}

fn parse(bytes: &[u8]) -> Result<Capture, String> {
    let (mut rest, parser) = PcapParser::new(bytes).map_err(|error| no_capture(&error))?;
    ethernet(parser.header().datalink)?;
    let mut capture = Capture::default();
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        match parser.next_raw_packet(rest) {
            Ok((after, packet)) => {
                let end = bytes.len() - after.len();
                capture.packets.push(end - packet.data.len()..end);
                capture.cut += u64::from(packet.incl_len < packet.orig_len);
                rest = after;
            }
            Err(error) => {
                capture.trouble = Some(trouble(&error, at, capture.packets.len()));
                break;
            }
        }
    }
    Ok(capture)
}

fn parse_ng(bytes: &[u8]) -> Result<Capture, String> {
    let (mut rest, mut parser) = PcapNgParser::new(bytes).map_err(|error| no_capture(&error))?;
    let mut capture = Capture::default();
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let (after, block) = match parser.next_block(rest) {
            Ok(next) => next,
            Err(error) => {
                capture.trouble = Some(trouble(&error, at, capture.packets.len()));
                break;
            }
        };
        rest = after;
        // Where the data begins (pcapng, Enhanced and Simple Packet Block; the Packet Block is their obsolete elder).
        let (start, len, original) = match block {
            Block::InterfaceDescription(interface) => {
                ethernet(interface.linktype)?;
                continue;
            }
            Block::EnhancedPacket(packet) => (28, packet.data.len(), packet.original_len),
            Block::Packet(packet) => (28, packet.data.len(), packet.original_len),
            Block::SimplePacket(packet) => {
                let limit = parser.interfaces().first().map_or(0, |interface| interface.snaplen);
                let limit = if limit == 0 { u32::MAX } else { limit }.min(packet.original_len);
                let len = packet.data.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
                (12, len, packet.original_len)
            }
            _ => continue,
        };
        capture.packets.push(at + start..at + start + len);
        capture.cut += u64::from(u32::try_from(len).is_ok_and(|len| len < original));
    }
    Ok(capture)
}
