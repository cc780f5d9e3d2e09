//! A segment as it comes and as it goes: header, options, payload (RFC 9293 section 3.1, RFC 7323, RFC 2018).

use super::seq::Seq;
use crate::net::{Ecn, Headers, Patch, Path, Vlan};
use std::fmt;
use std::ops::{BitOr, BitOrAssign, Range};

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// The most bytes of options that a header has room for.
pub const MAX_OPTIONS: usize = 40;

/// The most SACK blocks that fit into one header (RFC 2018 section 3).
pub const MAX_SACKS: usize = 4;

/// The control bits of a header.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// The sequence number is the initial one.
    pub const SYN: Self = Self(0x02);
    /// The connection is gone.
    pub const RST: Self = Self(0x04);
    /// To be given to the application now.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is meant.
    pub const ACK: Self = Self(0x10);
    /// ECN echo (RFC 3168 section 6.1).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168 section 6.1).
    pub const CWR: Self = Self(0x80);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a bit of `other` is set.
    #[inline]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of `other` cleared.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["F", "S", "R", "P", ".", "U", "E", "W"];
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 >> bit & 1 == 1 {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// A range of sequence numbers, end excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The first.
    pub start: Seq,
    /// One past the last.
    pub end: Seq,
}

/// The two values of the timestamps option (RFC 7323 section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: what it echoes.
    pub echo: u32,
}

/// The options that we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size (only in a SYN).
    pub mss: Option<u16>,
    /// Window scale (only in a SYN), not yet limited to 14.
    pub scale: Option<u8>,
    /// SACK permitted (only in a SYN).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    pub(crate) sacks: [Block; MAX_SACKS],
    pub(crate) sack_count: u8,
}

impl Options {
    /// The SACK blocks, in the order of the header.
    #[inline]
    pub fn sacks(&self) -> &[Block] {
        &self.sacks[..usize::from(self.sack_count)]
    }
}

/// A segment that came.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// The peer's port.
    pub peer_port: u16,
    /// Ours.
    pub local_port: u16,
    /// Of the first byte of the payload, or of the SYN.
    pub seq: Seq,
    /// What the peer expects next; meant only with [`Flags::ACK`].
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// The window field, not yet scaled.
    pub window: u16,
    /// The options.
    pub options: Options,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

/// Where a segment stops being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its header.
    Short,
    /// A data offset below five words.
    Offset,
    /// A port is zero.
    Port,
    /// An option reaches beyond the header, or has an impossible length (RFC 9293 section 3.1: MUST-7).
    Option,
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl<'a> Arrived<'a> {
    /// Reads a segment from its header's first byte. The checksum must have been verified.
    ///
    /// # Errors
    ///
    /// What is wrong with it, when it is no segment.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Short);
        }
        let header = usize::from(bytes[12] >> 4) * 4;
        if header < HEADER {
            return Err(Malformed::Offset);
        }
        if bytes.len() < header {
            return Err(Malformed::Short);
        }
        let (peer_port, local_port) = (be16(bytes, 0), be16(bytes, 2));
        if peer_port == 0 || local_port == 0 {
            return Err(Malformed::Port);
        }
        let flags = Flags(bytes[13]);
        Ok(Self {
            peer_port,
            local_port,
            seq: Seq(be32(bytes, 4)),
            ack: Seq(be32(bytes, 8)),
            flags,
            window: be16(bytes, 14),
            options: parse_options(&bytes[HEADER..header], flags)?,
            payload: &bytes[header..],
        })
    }

    /// Sequence numbers that it takes: payload, SYN and FIN (RFC 9293 section 3.4: SEG.LEN).
    #[inline]
    pub fn sequence_length(&self) -> u32 {
        let control = u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN));
        super::seq::length(self.payload.len()) + control
    }
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

#[inline]
fn parse_options(bytes: &[u8], flags: Flags) -> Result<Options, Malformed> {
    let mut options = Options::default();
    // RFC 7323 appendix A: what nearly every segment of a connection with timestamps carries, and nothing else.
    if bytes.len() == 12 && bytes.starts_with(&[NOP, NOP, TIMESTAMPS, 10]) {
        options.timestamps = Some(Timestamps { value: be32(bytes, 4), echo: be32(bytes, 8) });
        return Ok(options);
    }
    parse_each_option(bytes, flags.has(Flags::SYN), &mut options)?;
    Ok(options)
}

fn parse_each_option(mut bytes: &[u8], syn: bool, options: &mut Options) -> Result<(), Malformed> {
    while let [kind, rest @ ..] = bytes {
        match *kind {
            END => break,
            NOP => {
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let length = usize::from(*rest.first().ok_or(Malformed::Option)?);
        if length < 2 || length > bytes.len() {
            return Err(Malformed::Option);
        }
        let (option, after) = bytes.split_at(length);
        match (*kind, length) {
            // RFC 9293 section 3.2: MSS, scale and SACK-permitted are only sent in SYNs; elsewhere they are ignored.
            (MSS, 4) if syn => options.mss = Some(be16(option, 2)),
            (SCALE, 3) if syn => options.scale = Some(option[2]),
            (SACK_PERMITTED, 2) if syn => options.sack_permitted = true,
            (TIMESTAMPS, 10) => {
                options.timestamps = Some(Timestamps { value: be32(option, 2), echo: be32(option, 6) });
            }
            (SACK, length) if !syn && length >= 10 && (length - 2) % 8 == 0 => {
                for (place, block) in options.sacks.iter_mut().zip(option[2..].chunks_exact(8)) {
                    *place = Block { start: Seq(be32(block, 0)), end: Seq(be32(block, 4)) };
                    options.sack_count += 1;
                }
            }
            // RFC 9293 section 3.1 (MUST-6): an option that is not known is skipped by its length.
            _ => {}
        }
        bytes = after;
    }
    Ok(())
}

/// The options of a segment that goes, as bytes, padded to whole words.
#[derive(Clone, Copy)]
pub struct OptionBytes {
    bytes: [u8; MAX_OPTIONS],
    length: u8,
}

impl OptionBytes {
    /// None.
    pub const fn new() -> Self {
        Self { bytes: [NOP; MAX_OPTIONS], length: 0 }
    }

    /// What goes behind the header.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Bytes of options, a multiple of four.
    #[inline]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends whole words; what does not fit is left out.
    #[inline]
    fn push(&mut self, words: &[u8]) {
        let start = usize::from(self.length);
        if let Some(place) = self.bytes.get_mut(start..start + words.len()) {
            place.copy_from_slice(words);
            #[expect(clippy::cast_possible_truncation, reason = "at most 40")]
            let length = (start + words.len()) as u8;
            self.length = length;
        }
    }

    /// Maximum segment size (RFC 9293 section 3.2).
    pub fn mss(&mut self, mss: u16) {
        let [high, low] = mss.to_be_bytes();
        self.push(&[MSS, 4, high, low]);
    }

    /// Window scale (RFC 7323 section 2.2).
    pub fn scale(&mut self, shift: u8) {
        self.push(&[NOP, SCALE, 3, shift]);
    }

    /// SACK permitted (RFC 2018 section 2).
    pub fn sack_permitted(&mut self) {
        self.push(&[NOP, NOP, SACK_PERMITTED, 2]);
    }

    /// Timestamps, laid out as RFC 7323 appendix A advises.
    #[inline]
    pub fn timestamps(&mut self, timestamps: Timestamps) {
        let mut words = [NOP, NOP, TIMESTAMPS, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        words[4..8].copy_from_slice(&timestamps.value.to_be_bytes());
        words[8..12].copy_from_slice(&timestamps.echo.to_be_bytes());
        self.push(&words);
    }

    /// As many of these SACK blocks as fit (RFC 2018 section 3).
    pub fn sacks(&mut self, blocks: &[Block]) {
        let room = (MAX_OPTIONS - self.len()).saturating_sub(4) / 8;
        let count = blocks.len().min(room).min(MAX_SACKS);
        if count == 0 {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 34")]
        self.push(&[NOP, NOP, SACK, (2 + 8 * count) as u8]);
        for block in &blocks[..count] {
            let mut words = [0; 8];
            words[..4].copy_from_slice(&block.start.0.to_be_bytes());
            words[4..].copy_from_slice(&block.end.0.to_be_bytes());
            self.push(&words);
        }
    }
}

impl Default for OptionBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OptionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_bytes()).finish()
    }
}

/// A segment that goes: what the writer of headers needs, and which bytes of the stream it carries.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Between whom.
    pub path: Path,
    /// Our port.
    pub local_port: u16,
    /// The peer's.
    pub peer_port: u16,
    /// Of the payload's first byte, or of the SYN or FIN if there is none.
    pub seq: Seq,
    /// What we expect next; zero without [`Flags::ACK`].
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// The window field, scaled already.
    pub window: u16,
    /// Options, padded.
    pub options: OptionBytes,
    /// What the IP header says of ECN.
    pub ecn: Ecn,
    /// Which bytes of the stream it carries; empty for all that is only control.
    pub payload: Range<u64>,
    /// If the payload is longer than this, it is to be cut into segments of this many bytes (by the device or by
    /// software): all but the last are of this size. FIN and PSH then belong to the last one only, CWR to the first.
    pub mss: u16,
    /// Whether some of the payload was sent before.
    pub again: bool,
    /// Which turn of its connection it is of, so that headers need to be put together once a turn: all segments of a turn
    /// have the same path, ports, acknowledgement number, window and options. Zero for one by itself.
    pub turn: u32,
}

impl Segment {
    /// What its headers have for themselves, with so many bytes of payload.
    #[inline]
    pub(crate) const fn patch(&self, payload_bytes: usize) -> Patch {
        Patch {
            sequence: self.seq.0,
            flags: self.flags.0,
            ecn: self.ecn,
            payload_bytes,
            segment_bytes: self.mss,
        }
    }

    /// Its headers, behind the outer tag of an interface with two.
    #[inline]
    pub(crate) fn headers(&self, service: Option<Vlan>, patch: Patch) -> Headers<'_> {
        Headers {
            path: &self.path,
            service,
            local_port: self.local_port,
            peer_port: self.peer_port,
            acknowledgement: self.ack.0,
            window: self.window,
            options: self.options.as_bytes(),
            patch,
        }
    }

    /// Bytes of payload.
    #[inline]
    pub fn payload_len(&self) -> u32 {
        super::seq::narrow(self.payload.end - self.payload.start)
    }

    /// Bytes of the header with its options.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER + self.options.len()
    }

    /// Writes the TCP header and its options, with `checksum` as it is given, to the front of `place`; returns its
    /// length, or `None` if `place` is too short.
    #[inline]
    pub fn write_header(&self, place: &mut [u8], checksum: u16) -> Option<usize> {
        let length = self.header_len();
        let header = place.get_mut(..length)?;
        header[0..2].copy_from_slice(&self.local_port.to_be_bytes());
        header[2..4].copy_from_slice(&self.peer_port.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "at most 15 words")]
        let words = (length / 4) as u8;
        header[12] = words << 4;
        header[13] = self.flags.0;
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
        header[18..20].copy_from_slice(&[0, 0]);
        header[HEADER..].copy_from_slice(self.options.as_bytes());
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these options, padded with zeros.
    fn with_options(flags: Flags, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&[0, 80, 1, 0]);
        bytes.extend_from_slice(options);
        bytes.resize(bytes.len().div_ceil(4) * 4, 0);
        bytes[12] = u8::try_from(bytes.len() / 4).expect("short") << 4;
        bytes[13] = flags.0;
        bytes
    }

    fn options_of(flags: Flags, options: &[u8]) -> Result<Options, Malformed> {
        let bytes = with_options(flags, options);
        Arrived::parse(&bytes).map(|segment| segment.options)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut options = OptionBytes::new();
        options.mss(1460);
        options.sack_permitted();
        options.timestamps(Timestamps { value: 7, echo: 9 });
        options.scale(8);
        assert_eq!(options.len(), 24);
        let read = options_of(Flags::SYN, options.as_bytes()).expect("well formed");
        assert_eq!((read.mss, read.scale, read.sack_permitted), (Some(1460), Some(8), true));
        assert_eq!(read.timestamps, Some(Timestamps { value: 7, echo: 9 }));

        let blocks = [1, 2, 3, 4].map(|n| Block { start: Seq(n * 10), end: Seq(n * 10 + 5) });
        let mut options = OptionBytes::new();
        options.timestamps(Timestamps { value: 1, echo: 2 });
        options.sacks(&blocks);
        let read = options_of(Flags::ACK, options.as_bytes()).expect("well formed");
        assert_eq!(read.sacks(), &blocks[..3], "with timestamps there is room for three");
        let mut options = OptionBytes::new();
        options.sacks(&blocks);
        assert_eq!(options_of(Flags::ACK, options.as_bytes()).expect("well formed").sacks(), &blocks);
    }

    #[test]
    fn options_of_a_syn_are_ignored_elsewhere() {
        let read =
            options_of(Flags::ACK, &[MSS, 4, 5, 180, SCALE, 3, 7, SACK_PERMITTED, 2]).expect("well formed");
        assert_eq!((read.mss, read.scale, read.sack_permitted), (None, None, false));
    }

    #[test]
    fn unknown_options_are_skipped_and_bad_lengths_refused() {
        let read = options_of(Flags::SYN, &[254, 4, 1, 2, NOP, MSS, 4, 2, 24]).expect("skipped");
        assert_eq!(read.mss, Some(536));
        let read = options_of(Flags::SYN, &[END, MSS, 4, 2, 24]).expect("ended");
        assert_eq!(read.mss, None);
        assert_eq!(options_of(Flags::SYN, &[MSS, 0]), Err(Malformed::Option));
        assert_eq!(options_of(Flags::SYN, &[MSS, 1]), Err(Malformed::Option));
        assert_eq!(options_of(Flags::SYN, &[NOP, NOP, NOP, MSS]), Err(Malformed::Option));
        assert_eq!(options_of(Flags::SYN, &[MSS, 40, 1, 1]), Err(Malformed::Option));
        assert_eq!(options_of(Flags::ACK, &[SACK, 9, 0, 0, 0, 0, 0, 0, 0]).expect("ignored").sacks(), &[]);
    }

    #[test]
    fn a_header_is_within_its_segment() {
        let whole = with_options(Flags::ACK, &[]);
        assert!(Arrived::parse(&whole).is_ok());
        assert_eq!(Arrived::parse(&whole[..19]).err(), Some(Malformed::Short));
        let mut bad = whole.clone();
        bad[12] = 4 << 4;
        assert_eq!(Arrived::parse(&bad).err(), Some(Malformed::Offset));
        bad[12] = 6 << 4;
        assert_eq!(Arrived::parse(&bad).err(), Some(Malformed::Short));
        let mut bad = whole;
        bad[0..2].copy_from_slice(&[0, 0]);
        assert_eq!(Arrived::parse(&bad).err(), Some(Malformed::Port));
    }
}
