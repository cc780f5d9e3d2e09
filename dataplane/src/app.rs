//! What a worker does with frames.

use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{BURST, Burst, Frame, Packet, Packets, Page, Pool};
use std::os::fd::BorrowedFd;

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

    /// Where each packet that comes in at a port goes as it is, if it has so many bytes at least. Where the two ports'
    /// devices can agree on it, such packets do not come to [`handle`](Self::handle) at all, and become no frames
    /// ([`QueuePair::pass`](drivers::QueuePair::pass)).
    fn straight(&self, from: PortId) -> Option<(PortId, u16)> {
        let _ = from;
        None
    }

    /// Sends what the app sends of its own accord, once a turn after all queues were received from. Returns whether it
    /// put anything into the outbox: only then is that sent at once, and the turn counts as a busy one.
    fn poll(&mut self, now: Tick, out: &mut Outbox<'p>) -> bool {
        let _ = (now, out);
        false
    }

    /// When it wants its next [`poll`](Self::poll) at the latest: an idle worker rests no further than that, and not at
    /// all when it has passed. `None`: whenever something comes.
    fn deadline(&self) -> Option<Tick> {
        None
    }

    /// Its worker is about to sleep. From here on, what other threads have for this app makes [`waker`](Self::waker)
    /// readable. `false`: there is something already, so don't sleep. [`get_up`](Self::get_up) follows in any case.
    fn lie_down(&self) -> bool {
        true
    }

    /// What becomes readable when another thread has something for this app; `None` when no thread ever has.
    fn waker(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Its worker is awake again.
    fn get_up(&self) {}

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

/// Where an app puts what it has decided: two lanes a queue, one counter a reason.
///
/// A lane of frames is emptied at once: what the queue has no room for is discarded, by name. A lane of packets with
/// pages keeps what does not fit for the next turn, for an app that would rather wait than lose, and says how much it
/// has [room](Self::room) for. Between the two lanes of a queue there is no order.
#[derive(Debug)]
pub struct Outbox<'p> {
    pool: &'p Pool,
    lanes: Vec<Burst<'p>>,
    packet_lanes: Vec<Packets<'p>>,
    /// Packets in all of `packet_lanes`.
    waiting: usize,
    /// For each queue that frames came in by, the lane to each port.
    routes: Vec<Vec<u16>>,
    facing: usize,
    discards: [u64; Reason::COUNT],
    delivered: u64,
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
            packet_lanes: ports.iter().map(|_| Packets::new()).collect(),
            waiting: 0,
            routes,
            facing: 0,
            discards: [0; Reason::COUNT],
            delivered: 0,
            allocated: 0,
        }
    }

    /// Only so many lanes are queues; those behind lead to other workers, and take frames alone: a page belongs to this
    /// worker's arena.
    pub(crate) fn with_own(mut self, queues: usize) -> Self {
        self.packet_lanes.truncate(queues);
        self
    }

    /// The frames that come next came in by this queue.
    #[inline]
    pub(crate) const fn face(&mut self, queue: usize) {
        self.facing = queue;
    }

    /// The lanes of frames, a queue each.
    #[inline]
    pub(crate) fn lanes(&mut self) -> &mut [Burst<'p>] {
        &mut self.lanes
    }

    #[inline]
    pub(crate) fn lane(&mut self, queue: usize) -> &mut Burst<'p> {
        &mut self.lanes[queue]
    }

    #[inline]
    pub(crate) fn lane_to(&self, port: PortId) -> Option<usize> {
        Some(usize::from(*self.routes.get(self.facing)?.get(usize::from(port.0))?))
    }

    #[inline]
    fn route(&mut self, port: PortId) -> Option<&mut Burst<'p>> {
        let lane = self.lane_to(port)?;
        self.lanes.get_mut(lane)
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

    /// Sends a head frame and the pages behind it. It may wait in the outbox for several turns: until it is sent, the
    /// books count it as held.
    ///
    /// # Errors
    /// The packet itself, when there is no [room](Self::room): never any at a port that is reached through another worker.
    #[expect(
        clippy::result_large_err,
        reason = "the packet goes back to its owner by move, not by allocation"
    )]
    pub fn send_gathered(&mut self, port: PortId, packet: Packet<'p>) -> Result<(), Packet<'p>> {
        match self.lane_to(port).and_then(|lane| self.packet_lanes.get_mut(lane)) {
            Some(lane) => lane.push(packet)?,
            None => return Err(packet),
        }
        self.waiting += 1;
        Ok(())
    }

    /// The same for a packet in parts: `pages` are those behind the head, in order, and it is empty afterwards.
    ///
    /// # Errors
    /// The head, when there is no [room](Self::room), or more pages than a packet can have; the pages are still there.
    #[inline]
    pub fn send_parts(
        &mut self,
        port: PortId,
        head: Frame<'p>,
        pages: &mut Vec<Page<'p>>,
    ) -> Result<(), Frame<'p>> {
        match self.lane_to(port).and_then(|lane| self.packet_lanes.get_mut(lane)) {
            Some(lane) => lane.push_parts(head, pages)?,
            None => return Err(head),
        }
        self.waiting += 1;
        Ok(())
    }

    /// Packets that [`send_gathered`](Self::send_gathered) takes for this port now; none when the worker has no queue
    /// there.
    #[inline]
    #[must_use]
    pub fn room(&self, port: PortId) -> usize {
        let lane = self.lane_to(port).and_then(|lane| self.packet_lanes.get(lane));
        lane.map_or(0, |lane| BURST - lane.len())
    }

    /// Packets that wait to be gathered, for all queues.
    #[inline]
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lets `gather` take packets from the front of a queue's lane; returns whether none is left.
    pub(crate) fn gather_from(
        &mut self,
        queue: usize,
        gather: impl FnOnce(&mut Packets<'p>) -> usize,
    ) -> bool {
        let lane = &mut self.packet_lanes[queue];
        let before = lane.len();
        if before > 0 {
            gather(lane);
            self.waiting -= before - lane.len();
        }
        lane.is_empty()
    }

    /// Discards the packets that wait for a queue.
    #[cold]
    pub(crate) fn discard_packets(&mut self, queue: usize, reason: Reason) {
        while let Some(packet) = self.packet_lanes[queue].pop() {
            self.waiting -= 1;
            self.discards[reason as usize] += 1;
            drop(packet);
        }
    }

    /// Gives a frame back to its pool that has reached its end here: the app itself was meant, and has what it brought.
    #[inline]
    pub fn deliver(&mut self, frame: Frame<'p>) {
        self.delivered += u64::from(!frame.continues());
    }

    /// Packets that the app was meant by.
    pub(crate) const fn delivered(&self) -> u64 {
        self.delivered
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

    /// Another frame for a packet that was begun with [`allocate`](Self::allocate): it counts as part of that.
    pub fn another(&mut self) -> Option<Frame<'p>> {
        self.pool.alloc()
    }

    /// A packet that was begun with [`allocate`](Self::allocate) is not to be: the app has dropped its frames.
    #[inline]
    pub const fn abandon(&mut self) {
        self.allocated -= 1;
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

    /// A packet with pages cannot go to another worker: it comes back at once, and does not wait for ever.
    #[test]
    fn packets_with_pages_stay_with_their_worker() {
        let plan = ringbuf::ArenaPlan { frames: 4, frame_size: 2048, ..ringbuf::ArenaPlan::default() };
        let pool = Pool::new(ringbuf::Arena::new(&plan).expect("memory"));
        let mut out = Outbox::new(&pool, &[PortId(0), PortId(1)]).with_own(1);
        let packet = || Packet::new(pool.alloc().expect("a frame"));
        assert_eq!((out.room(PortId(0)), out.room(PortId(1))), (BURST, 0));
        assert!(out.send_gathered(PortId(0), packet()).is_ok());
        assert!(out.send_gathered(PortId(1), packet()).is_err());
        assert_eq!(out.waiting(), 1);
        out.send(PortId(1), pool.alloc().expect("a frame"));
        assert_eq!(out.lane(1).len(), 1);
    }
}
