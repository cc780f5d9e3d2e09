//! What of a packet is left to the card: its checksum, and the cutting of a long one into segments.
//!
//! A card that cuts writes the lengths into each segment's headers, and adds them to the checksums: so it wants
//! headers without a length, and a pseudo header's sum without one (what the kernel's `e1000_tso` and `igb_tso` prepare).

use super::card::{Card, Descriptor};
use crate::checksum::{self, Headers};
use crate::queue::Caps;
use ringbuf::{Frame, Offload, Segmentation};

const TCP: u8 = 6;
const TCP_FIELD: u16 = 16;

/// Whether the cards cut such packets. Not UDP; and CWR, which is for the first segment alone, would be repeated in all by
/// the 82574L: the kernel's drivers claim no ECN for either.
pub(super) const fn cuts(kind: Segmentation) -> bool {
    matches!(kind, Segmentation::Tcp4 | Segmentation::Tcp6)
}

/// A TCP packet that the card is to cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    headers: Headers,
    pub(super) ipv4: bool,
    /// Bytes of all headers, which each segment repeats.
    pub(super) header_bytes: u8,
    /// Where the IP and the TCP header begin.
    pub(super) network: u8,
    pub(super) transport: u8,
    /// Payload of each segment.
    pub(super) segment_bytes: u16,
    /// Payload in all.
    pub(super) payload: u32,
}

impl Cut {
    /// A packet of `bytes` bytes that begins with `first`; `None` for what no card cuts: other kinds, and headers that are not all
    /// in the first buffer, or longer than the card's fields for them, or have nothing behind them.
    fn of(first: &Frame<'_>, offload: &Offload, bytes: u32) -> Option<Self> {
        let headers = checksum::headers(first)?;
        let note = (usize::from(offload.checksum_start), offload.checksum_offset);
        if headers.protocol != TCP || !cuts(offload.segmentation) || note != (headers.transport, TCP_FIELD) {
            return None;
        }
        let words = usize::from(first.get(headers.transport + 12)? >> 4);
        let header_bytes = headers.transport + words * 4;
        // The length of an Ethernet header has seven bits in the 82576.
        if words < 5 || header_bytes > first.len().into() || headers.network > 127 {
            return None;
        }
        Some(Self {
            headers,
            ipv4: first.get(headers.network)? >> 4 == 4,
            header_bytes: u8::try_from(header_bytes).ok()?,
            network: u8::try_from(headers.network).ok()?,
            transport: u8::try_from(headers.transport).ok()?,
            segment_bytes: offload.segment_bytes,
            payload: bytes.checked_sub(u32::try_from(header_bytes).ok()?).filter(|payload| *payload > 0)?,
        })
    }

    /// Takes the lengths out of the headers.
    pub(super) fn prepare(&self, first: &mut Frame<'_>) {
        let pseudo = checksum::fold(self.headers.pseudo(0)).to_ne_bytes();
        let (network, sum) = (self.headers.network, self.headers.transport + usize::from(TCP_FIELD));
        // All of it is there: it was parsed.
        if self.ipv4 {
            first[network + 2..network + 4].fill(0);
            first[network + 10..network + 12].fill(0);
        } else {
            first[network + 4..network + 6].fill(0);
        }
        first[sum..sum + 2].copy_from_slice(&pseudo);
    }
}

/// Who sees to what is undone in a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undone {
    /// Nothing is.
    Nothing,
    /// We do, before it goes.
    Ours,
    /// The card completes the checksum, as this context says.
    Checksum(Descriptor),
    /// The card cuts it.
    Cut(Cut),
    /// Nobody can: it is never sent.
    Never,
}

impl Undone {
    /// Of a packet of `bytes` bytes that begins with `first`, the longest that goes uncut being of `longest`.
    #[inline]
    pub(super) fn of<C: Card>(first: &Frame<'_>, bytes: u32, caps: &Caps, longest: u32) -> Self {
        match first.offload() {
            Some(offload) if offload.segment_bytes != 0 => match Cut::of(first, &offload, bytes) {
                Some(cut) if caps.segmentation => Self::Cut(cut),
                _ => Self::Never,
            },
            _ if bytes > longest => Self::Never,
            None | Some(Offload { checksum_offset: 0, .. }) => Self::Nothing,
            Some(offload) => match C::context(first, &offload) {
                Some(context) if caps.checksum => Self::Checksum(context),
                _ => Self::Ours,
            },
        }
    }
}

/// What the card is told of a packet in each of its descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    Nothing,
    /// Its checksum is to be inserted.
    Checksum,
    /// It is to be cut, and each segment given its checksums.
    Cut {
        ipv4: bool,
    },
}
