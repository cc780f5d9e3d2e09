//! What a worker does with frames.

use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{Burst, Frame, Pool};

/// A port's place on the command line, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u8);

/// Decides where frames go.
///
/// An app is a function of the time and a burst: it owns no queue, reads no clock and makes no system call.
pub trait App<'p> {
    /// Gives each frame of `burst` to the outbox: sent or discarded by name, or kept (and counted in
    /// [`held`](Self::held)). What it leaves in the burst is discarded as [`Reason::Unhandled`].
    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>);

    /// Does what is due, every [`TICK_EVERY`](crate::worker::TICK_EVERY).
    fn tick(&mut self, now: Tick, out: &mut Outbox<'p>) {
        let _ = (now, out);
    }

    /// Packets it keeps.
    fn held(&self) -> u64 {
        0
    }
}

/// No queue of that port.
const NOWHERE: u16 = u16::MAX;

/// Where an app puts what it has decided: one lane a queue, one counter a reason.
#[derive(Debug)]
pub struct Outbox<'p> {
    pool: &'p Pool,
    lanes: Vec<Burst<'p>>,
    /// For each queue that frames came in by, the lane to each port.
    routes: Vec<Vec<u16>>,
    facing: usize,
    discards: [u64; Reason::COUNT],
    allocated: u64,
}

impl<'p> Outbox<'p> {
    /// An outbox for the queues of these ports.
    pub(crate) fn new(pool: &'p Pool, ports: &[PortId]) -> Self {
        let port_count = ports.iter().map(|port| usize::from(port.0) + 1).max().unwrap_or(0);
        let routes = (0..ports.len()).map(|from| routes_from(ports, from, port_count)).collect();
        Self {
            pool,
            lanes: ports.iter().map(|_| Burst::new()).collect(),
            routes,
            facing: 0,
            discards: [0; Reason::COUNT],
            allocated: 0,
        }
    }

    /// The frames that come next came in by this queue.
    #[inline]
    pub(crate) const fn face(&mut self, queue: usize) {
        self.facing = queue;
    }

    #[inline]
    pub(crate) fn lane(&mut self, queue: usize) -> &mut Burst<'p> {
        &mut self.lanes[queue]
    }

    #[inline]
    fn route(&mut self, port: PortId) -> Option<&mut Burst<'p>> {
        let lane = *self.routes.get(self.facing)?.get(usize::from(port.0))?;
        self.lanes.get_mut(usize::from(lane))
    }

    /// Sends a packet of one frame.
    #[inline]
    pub fn send(&mut self, port: PortId, frame: Frame<'p>) {
        let refused = match self.route(port) {
            Some(lane) => lane.push(frame).err().map(|frame| (frame, Reason::TransmitRingFull)),
            None => Some((frame, Reason::NoQueue)),
        };
        if let Some((frame, reason)) = refused {
            self.discard(frame, reason);
        }
    }

    /// Sends all packets of a burst.
    #[inline]
    pub fn send_all(&mut self, port: PortId, burst: &mut Burst<'p>) {
        match self.route(port) {
            Some(lane) if lane.room() >= burst.len() => {
                lane.append(burst);
            }
            Some(_) => while self.send_packet(port, burst) > 0 {},
            None => self.discard_all(burst, Reason::NoQueue),
        }
    }

    /// Sends the packet at the front of a burst, in however many frames; returns how many it had.
    pub fn send_packet(&mut self, port: PortId, burst: &mut Burst<'p>) -> usize {
        let frames = burst.packet_frames();
        let reason = match self.route(port) {
            Some(lane) if lane.room() >= frames => {
                for frame in burst.drain().take(frames) {
                    // There is room for all of them.
                    drop(lane.push(frame));
                }
                return frames;
            }
            Some(_) => Reason::TransmitRingFull,
            None => Reason::NoQueue,
        };
        for frame in burst.drain().take(frames) {
            self.discard(frame, reason);
        }
        frames
    }

    /// Gives a frame back to its pool and counts why; a packet in several frames is counted at its last.
    #[inline]
    pub fn discard(&mut self, frame: Frame<'p>, reason: Reason) {
        self.discards[reason as usize] += u64::from(!frame.continues());
    }

    /// The same for the packet at the front of a burst, in however many frames.
    pub fn discard_packet(&mut self, burst: &mut Burst<'p>, reason: Reason) {
        let frames = burst.packet_frames().max(1);
        for frame in burst.drain().take(frames) {
            self.discard(frame, reason);
        }
    }

    /// The same for all frames of a burst.
    #[inline]
    pub fn discard_all(&mut self, burst: &mut Burst<'p>, reason: Reason) {
        while let Some(frame) = burst.pop() {
            self.discard(frame, reason);
        }
    }

    #[cold]
    pub(crate) fn discard_lane(&mut self, queue: usize, reason: Reason) {
        while let Some(frame) = self.lanes[queue].pop() {
            self.discard(frame, reason);
        }
    }

    /// A fresh frame for a packet of the app's own; `None` when the pool is empty.
    ///
    /// Each must be sent or discarded, or be counted as held: the books say which.
    #[inline]
    pub fn allocate(&mut self) -> Option<Frame<'p>> {
        let frame = self.pool.alloc()?;
        self.allocated += 1;
        Some(frame)
    }

    /// Packets that the app made.
    pub(crate) const fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Packets discarded, by [`Reason`].
    pub(crate) const fn discards(&self) -> &[u64; Reason::COUNT] {
        &self.discards
    }
}

/// The lane to each port for frames that came in by queue `from`: the queue of the same rank at the other port, so
/// that a worker with two queues a port uses both.
fn routes_from(ports: &[PortId], from: usize, port_count: usize) -> Vec<u16> {
    let rank = ports[..from].iter().filter(|port| **port == ports[from]).count();
    (0u8..)
        .take(port_count)
        .map(|port| {
            let lanes: Vec<usize> = (0..ports.len()).filter(|lane| ports[*lane] == PortId(port)).collect();
            let lane = lanes.get(rank % lanes.len().max(1)).copied();
            lane.and_then(|lane| u16::try_from(lane).ok()).unwrap_or(NOWHERE)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_by_the_queue_of_their_own_rank() {
        let ports = [PortId(0), PortId(0), PortId(1), PortId(1), PortId(2)];
        assert_eq!(routes_from(&ports, 1, 4), [1, 3, 4, NOWHERE]);
        assert_eq!(routes_from(&ports, 4, 4), [0, 2, 4, NOWHERE]);
    }
}
