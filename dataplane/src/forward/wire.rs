//! `wire`: what comes in at one port of a pair leaves at the other, as it is.

use super::ETHERNET_HEADER;
use crate::app::{App, Outbox, PortId};
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{Burst, Frame};

/// Ports 0 and 1 are a cable, 2 and 3 another, and so on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire;

impl<'p> App<'p> for Wire {
    #[inline]
    fn straight(&self, from: PortId) -> Option<(PortId, u16)> {
        Some((PortId(from.0 ^ 1), ETHERNET_HEADER))
    }

    #[inline]
    fn handle(&mut self, _now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        let to = PortId(from.0 ^ 1);
        if has_runt(burst) {
            forward_without_runts(to, burst, out);
        } else {
            out.send_all(to, burst);
        }
    }
}

#[inline]
pub(super) fn has_runt(burst: &Burst<'_>) -> bool {
    let (chunks, rest) = burst.as_slice().as_chunks::<16>();
    let short = |frame: &Frame<'_>| frame.len() < ETHERNET_HEADER;
    // By sixteens, so that the loop's own steps are shared.
    chunks.iter().any(|chunk| chunk.iter().any(short)) || rest.iter().any(short)
}

/// The last frame of a chain may be short; a packet may not.
#[cold]
fn forward_without_runts<'p>(to: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
    while let Some(front) = burst.peek(0) {
        if front.len() < ETHERNET_HEADER {
            out.discard_packet(burst, Reason::Runt);
        } else if out.send_packet(to, burst) == 0 {
            break;
        }
    }
}
