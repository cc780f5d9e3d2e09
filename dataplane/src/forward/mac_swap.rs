//! `mac-swap`: each packet goes back out of the port it came in by, source and destination exchanged.

use super::ETHERNET_HEADER;
use crate::app::{App, Outbox, PortId};
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{Burst, Frame};

/// A reflector: the usual peer of a load generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct MacSwap;

impl<'p> App<'p> for MacSwap {
    #[inline]
    fn handle(&mut self, _now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        let simple = |frame: &Frame<'_>| frame.len() >= ETHERNET_HEADER && !frame.continues();
        if burst.as_slice().iter().all(simple) {
            burst.as_mut_slice().iter_mut().for_each(swap);
            out.send_all(from, burst);
        } else {
            reflect_singly(from, burst, out);
        }
    }
}

#[inline]
fn swap(head: &mut Frame<'_>) {
    if let Some(addresses) = head.first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
}

/// The last frame of a chain may be short; a packet may not.
#[cold]
fn reflect_singly<'p>(to: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
    while let Some(head) = burst.peek_mut(0) {
        if head.len() < ETHERNET_HEADER {
            out.discard_packet(burst, Reason::Runt);
            continue;
        }
        swap(head);
        if out.send_packet(to, burst) == 0 {
            break;
        }
    }
}
