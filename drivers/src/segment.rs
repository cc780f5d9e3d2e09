//! Cutting a large TCP or UDP packet into segments, as a device with segmentation offload would.
//!
//! ```text
//!   | headers | payload . . . . . . . . . . . . . . |         one packet, in one frame or many
//!   | headers | first | headers | second | .. | headers | rest |       each of `segment_bytes`, the last of what is left
//! ```
//!
//! What differs from segment to segment is what `tcp_gso_segment`, `inet_gso_segment` and `__udp_gso_segment` of the
//! kernel change (`net/ipv4/{tcp_offload,af_inet,udp_offload}.c`): lengths, the IPv4 identification (one more each), the
//! sequence number, FIN and PSH (on the last alone, RFC 9293 §3.1), CWR (on the first alone, RFC 3168 §6.1.2), checksums.

use crate::checksum::{self, Headers};
use ringbuf::{BURST, Burst, Frame, HEADROOM, Offload, Pool, Segmentation};

/// Bytes of headers at most: Ethernet, two tags, IP and TCP with all their options, and some extension headers.
const HEADER_BYTES: usize = 512;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// One packet on the way of being cut.
#[derive(Debug)]
pub(crate) struct Cut {
    headers: Headers,
    header_bytes: usize,
    segment_bytes: usize,
    /// Payload in all.
    payload: usize,
    /// Segments written so far.
    written: usize,
    /// Where the payload of the next begins: in which frame of the packet, and where in it.
    place: (usize, usize),
    /// Whether the checksum is to be left out: UDP over IPv4 may have none.
    bare: bool,
}

impl Cut {
    /// The packet at the front of `burst`, or `None` when it cannot be cut: its note and its bytes disagree, its end
    /// is not there, or it is no TCP or UDP.
    pub(crate) fn of(burst: &Burst<'_>) -> Option<Self> {
        let first = burst.peek(0)?;
        let offload = first.offload()?;
        let headers = checksum::headers(first)?;
        let transport = match (offload.segmentation, headers.protocol) {
            (Segmentation::None | Segmentation::Udp, TCP) | (Segmentation::None, _) => return None,
            (Segmentation::Udp, UDP) => 8,
            (_, TCP) => usize::from(first.get(headers.transport + 12)? >> 4) * 4,
            _ => return None,
        };
        let header_bytes = headers.transport + transport;
        let undone = offload.checksum_offset != 0;
        // A note about another checksum, that of a tunnel's inside say, is about another packet.
        let elsewhere = undone && usize::from(offload.checksum_start) != headers.transport;
        let misshapen = headers.protocol == TCP && transport < 20;
        if elsewhere || misshapen || header_bytes > HEADER_BYTES.min(first.len().into()) {
            return None;
        }
        let payload = usize::from(headers.length).checked_sub(transport)?;
        let frames = (0..burst.packet_frames()).filter_map(|i| burst.peek(i));
        let bytes: usize = frames.map(|frame| usize::from(frame.len())).sum();
        let segment_bytes = usize::from(offload.segment_bytes);
        if segment_bytes == 0 || header_bytes + payload > bytes {
            return None;
        }
        let field = headers.transport + 6;
        let bare = headers.protocol == UDP && !undone && first[field..field + 2] == [0, 0];
        let place = (0, header_bytes);
        Some(Self { headers, header_bytes, segment_bytes, payload, written: 0, place, bare })
    }

    /// Segments in all.
    pub(crate) fn segments(&self) -> usize {
        self.payload.div_ceil(self.segment_bytes).max(1)
    }

    /// Segments still to be written.
    pub(crate) fn left(&self) -> usize {
        self.segments() - self.written
    }

    /// Bytes of the longest segment.
    pub(crate) fn longest(&self) -> usize {
        self.header_bytes + self.segment_bytes.min(self.payload)
    }

    /// Frames of `pool` that a segment of so many bytes takes.
    pub(crate) fn frames(pool: &Pool, bytes: usize) -> usize {
        let first = usize::from(pool.frame_size() - HEADROOM.min(pool.frame_size() / 2));
        1 + bytes.saturating_sub(first).div_ceil(pool.frame_size().into())
    }

    /// Writes the next segment of the packet at the front of `from` to the back of `to`; returns its bytes, or `None`
    /// when there is none, or no room, or the pool lacks frames: nothing has changed then.
    pub(crate) fn write<'p>(
        &mut self,
        from: &Burst<'p>,
        pool: &'p Pool,
        to: &mut Burst<'p>,
    ) -> Option<usize> {
        let index = self.written;
        let share = self.segment_bytes.min(self.payload - (index * self.segment_bytes).min(self.payload));
        let bytes = self.header_bytes + share;
        let frames = Self::frames(pool, bytes);
        if self.left() == 0 || frames > to.room().min(pool.free() as usize) {
            return None;
        }
        let mut frame = pool.alloc()?;
        let header = from.peek(0)?.get(..self.header_bytes)?;
        frame.extend(header).ok()?;
        self.patch(&mut frame, index, share);
        let mut left = share;
        while left > 0 {
            if frame.tailroom() == 0 {
                let mut next = pool.alloc()?;
                next.restart(0);
                frame.set_continues(true);
                drop(to.push(core::mem::replace(&mut frame, next)));
            }
            let piece = from.peek(self.place.0)?.get(self.place.1..)?;
            let piece = &piece[..piece.len().min(left).min(frame.tailroom().into())];
            if piece.is_empty() {
                self.place = (self.place.0 + 1, 0);
                continue;
            }
            frame.extend(piece).ok()?;
            left -= piece.len();
            self.place.1 += piece.len();
        }
        drop(to.push(frame));
        self.written += 1;
        Some(bytes)
    }

    /// Makes the headers those of segment `index`, with `share` bytes of payload.
    fn patch(&self, frame: &mut Frame<'_>, index: usize, share: usize) {
        let Headers { network, transport, protocol, .. } = self.headers;
        let length = low16(self.header_bytes - transport + share);
        let ip = &mut frame[network..transport];
        if ip[0] >> 4 == 4 {
            put(ip, 2, low16(transport - network) + length);
            let id = u16::from_be_bytes([ip[4], ip[5]]);
            put(ip, 4, id.wrapping_add(low16(index)));
            ip[10..12].fill(0);
            let sum = !checksum::fold(checksum::sum(ip));
            ip[10..12].copy_from_slice(&sum.to_ne_bytes());
        } else {
            put(ip, 4, low16(transport - network - 40) + length);
        }
        let header = &mut frame[transport..];
        let field = if protocol == TCP {
            let sent = u32::try_from(index * self.segment_bytes).unwrap_or_default();
            let number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]).wrapping_add(sent);
            header[4..8].copy_from_slice(&number.to_be_bytes());
            if index + 1 < self.segments() {
                header[13] &= !(FIN | PSH);
            }
            if index > 0 {
                header[13] &= !CWR;
            }
            16
        } else {
            put(header, 4, length);
            6
        };
        if self.bare {
            return;
        }
        // Begun, not done: whoever sends it completes it, as for any packet.
        let pseudo = checksum::fold(self.headers.pseudo(length));
        let place = usize::from(field);
        header[place..place + 2].copy_from_slice(&pseudo.to_ne_bytes());
        let start = low16(transport);
        frame.set_offload(Some(Offload {
            checksum_start: start,
            checksum_offset: field,
            ..Offload::default()
        }));
    }
}

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where the first packet lies in a burst that is still to be cut, and is of a kind that somebody must cut here.
#[inline]
pub(crate) fn uncut_at(burst: &Burst<'_>, ours: impl Fn(Segmentation) -> bool) -> Option<usize> {
    debug_assert!(burst.len() <= BURST);
    let uncut = |frame: &Frame<'_>| {
        frame.offload().is_some_and(|offload| offload.segment_bytes != 0 && ours(offload.segmentation))
    };
    burst.as_slice().iter().position(uncut)
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "parts of an IP packet, which has at most 2^16 bytes")]
const fn low16(value: usize) -> u16 {
    value as u16
}
