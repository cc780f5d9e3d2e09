//! `mac-swap`: each packet goes back out of the port it came in by, source and destination exchanged.

use super::ETHERNET_HEADER;
use crate::app::{App, Outbox, PortId};
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::Burst;

/// A reflector: the usual peer of a load generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct MacSwap;

impl<'p> App<'p> for MacSwap {
    #[inline]
    fn handle(&mut self, _now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        while let Some(head) = burst.peek_mut(0) {
            if head.len() < ETHERNET_HEADER {
                out.discard_packet(burst, Reason::Runt);
                continue;
            }
            if let Some(addresses) = head.first_chunk_mut::<12>() {
                addresses.rotate_left(6);
            }
            if out.send_packet(from, burst) == 0 {
                break;
            }
        }
    }
}
