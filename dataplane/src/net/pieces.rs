//! A packet that came in several frames, put together.

use super::host::{Host, Input};
use super::path::{Ecn, Path};
use crate::app::{Outbox, PortId};
use crate::stats::Reason;
use ringbuf::{Burst, Frame, Offload};

/// Bytes of the longest packet: its IP length has 16 bits, and there is room for Ethernet's header and tags.
const LONGEST: usize = u16::MAX as usize + 32;

/// Room for the longest packet, and the frames that one came in.
#[derive(Debug)]
pub struct Pieces<'p> {
    bytes: Vec<u8>,
    frames: Burst<'p>,
    undone: Option<Offload>,
}

impl<'p> Pieces<'p> {
    /// Room, with no packet in it.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(LONGEST), frames: Burst::new(), undone: None }
    }

    /// Takes a packet's first frame, and the others from the front of the burst. The packet before must be settled.
    pub fn gather(&mut self, first: Frame<'p>, burst: &mut Burst<'p>) {
        self.undone = first.offload();
        self.bytes.clear();
        let mut next = Some(first);
        while let Some(frame) = next {
            // The room is as long as the longest packet: nothing is allocated, and what is longer is no packet.
            let room = self.bytes.capacity() - self.bytes.len();
            self.bytes
                .extend_from_slice(&frame[..frame.len().min(u16::try_from(room).unwrap_or(u16::MAX)).into()]);
            next = if frame.continues() { burst.pop() } else { None };
            // A packet has no more frames than a burst: it came in one.
            drop(self.frames.push(frame));
        }
    }

    /// The TCP segment in the packet, and the way back; or why there is none for us.
    ///
    /// # Errors
    /// The reason for which the frames are discarded.
    pub fn segment(&self, host: &Host, from: PortId) -> Result<(Path, Ecn, &[u8]), Reason> {
        match host.input_copied(from, &self.bytes, self.undone) {
            Input::Tcp { path, segment, ecn } => Ok((path, ecn, self.bytes.get(segment).unwrap_or_default())),
            Input::Discard(reason) => Err(reason),
            _ => Err(Reason::InPieces),
        }
    }

    /// The packet has been dealt with: its frames are delivered, or discarded for a reason.
    pub fn settle(&mut self, out: &mut Outbox<'p>, reason: Option<Reason>) {
        for frame in self.frames.drain() {
            match reason {
                Some(reason) => out.discard(frame, reason),
                None => out.deliver(frame),
            }
        }
    }
}

impl Default for Pieces<'_> {
    fn default() -> Self {
        Self::new()
    }
}
