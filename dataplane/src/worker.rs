//! The loop. One worker is one thread: its queues, its pool, its app, and nobody else's.

use crate::app::{App, Outbox, PortId};
use crate::hand_off::HandOff;
use crate::stats::{Board, Books, Reason};
use drivers::{Fault, Gather};
use ringbuf::{Burst, Pool};
use std::sync::Arc;
use std::time::Duration;

/// Time since the worker began. The loop is told it, and reads no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub Duration);

/// How often a worker publishes its counters and lets its app do what is due.
pub const TICK_EVERY: Duration = Duration::from_millis(10);

/// A queue pair and the port that it belongs to.
#[derive(Debug)]
pub struct Member<Q> {
    /// Which port.
    pub port: PortId,
    /// One of its queue pairs.
    pub queue: Q,
}

/// One polling thread's queues and app.
#[derive(Debug)]
pub struct Worker<'p, Q, A> {
    members: Vec<Member<Q>>,
    app: A,
    burst: Burst<'p>,
    outbox: Outbox<'p>,
    hand_off: Option<HandOff<'p>>,
    board: Arc<Board>,
    /// Some of the queues may pass packets on without frames.
    passes: bool,
    turns: u64,
    busy: Duration,
    next_tick: Tick,
}

impl<'p, Q: Gather<'p>, A: App<'p>> Worker<'p, Q, A> {
    /// A worker over these queues; one that cannot gather is wrapped in [`Flatten`](drivers::wrap::Flatten). Frames
    /// that the app sends to a port leave by one queue of that port; a worker without a queue at that port discards
    /// them by name, or [hands them over](Self::with_hand_off).
    pub fn new(pool: &'p Pool, members: Vec<Member<Q>>, app: A) -> Self {
        let ports: Vec<PortId> = members.iter().map(|member| member.port).collect();
        let board = Arc::new(Board::new(members.iter().map(|m| (m.port, m.queue.caps().clone())).collect()));
        let outbox = Outbox::new(pool, &ports);
        let (burst, next_tick) = (Burst::new(), Tick::default());
        let passes = members.iter().any(|member| member.queue.passes());
        Self {
            members,
            app,
            burst,
            outbox,
            hand_off: None,
            board,
            passes,
            turns: 0,
            busy: Duration::ZERO,
            next_tick,
        }
    }

    /// The same worker, linked to others: it hands over what must leave by their ports, and takes over what must
    /// leave by its own.
    #[must_use]
    pub fn with_hand_off(mut self, hand_off: HandOff<'p>) -> Self {
        let own = self.members.iter().map(|member| member.port);
        let ports: Vec<PortId> = own.chain(hand_off.ports()).collect();
        self.outbox = Outbox::new(hand_off.pool(), &ports).with_own(self.members.len());
        self.hand_off = Some(hand_off);
        self
    }

    /// One turn of the wheel. All that a worker ever does, it does here, in this order; returns the frames received,
    /// and one more when the app sent of its own accord: zero is an idle turn.
    ///
    /// ```text
    ///   tend ─► receive ─► handle ─► transmit ─► poll ─► (now and then) tick
    /// ```
    // ANCHOR: turn
    #[inline]
    pub fn turn(&mut self, now: Tick) -> usize {
        let mut moved = 0;

        for index in 0..self.members.len() {
            self.members[index].queue.tend();
            if self.passes
                && let Some(passed) = self.pass(index)
            {
                moved += passed;
                continue;
            }
            let Member { port, queue } = &mut self.members[index];
            let received = queue.receive(&mut self.burst);
            if received == 0 {
                continue;
            }
            moved += received;
            self.outbox.face(index);
            self.app.handle(now, *port, &mut self.burst, &mut self.outbox);
            if !self.burst.is_empty() {
                self.unhandled();
            }
            self.flush();
        }
        if self.hand_off.is_some() {
            moved += self.take_over();
        }

        self.outbox.face(0);
        let polled = self.app.poll(now, &mut self.outbox);
        if polled || self.outbox.waiting() > 0 {
            moved += usize::from(polled);
            self.flush();
        }

        self.turns += 1;
        if now >= self.next_tick {
            self.tick(now);
        }
        moved
    }
    // ANCHOR_END: turn

    /// Lets packets go straight from one device to the other, where the app only joins the two; `None` when the next must
    /// come to the app.
    #[inline]
    fn pass(&mut self, index: usize) -> Option<usize> {
        let (to, shortest) = self.app.straight(self.members[index].port)?;
        self.outbox.face(index);
        let [from, to] = self.members.get_disjoint_mut([index, self.outbox.lane_to(to)?]).ok()?;
        from.queue.pass(&mut to.queue, shortest)
    }

    /// Discards what the app left behind.
    #[cold]
    #[inline(never)]
    fn unhandled(&mut self) {
        self.outbox.discard_all(&mut self.burst, Reason::Unhandled);
    }

    /// Hands the outbox to the queues.
    #[inline]
    fn flush(&mut self) {
        let mut late = false;
        for (Member { queue, .. }, lane) in self.members.iter_mut().zip(self.outbox.lanes()) {
            if !lane.is_empty() {
                queue.transmit(lane);
                late |= !lane.is_empty();
            }
        }
        if late {
            self.last_chance();
        }
        if self.outbox.waiting() > 0 {
            self.gather();
        }
        if let Some(hand_off) = &mut self.hand_off {
            hand_off.hand_over(&mut self.outbox, self.members.len());
        }
    }

    /// One more chance for what the queues had no room for, once the devices have been told of what their rings hold.
    /// Late is worse than lost.
    #[cold]
    #[inline(never)]
    fn last_chance(&mut self) {
        for (index, Member { queue, .. }) in self.members.iter_mut().enumerate() {
            if self.outbox.lane(index).is_empty() {
                continue;
            }
            queue.tend();
            queue.transmit(self.outbox.lane(index));
            let reason = if queue.fault().is_some() { Reason::PortGone } else { Reason::TransmitRingFull };
            self.outbox.discard_lane(index, reason);
        }
    }

    /// Sends what other workers handed over. The app is not asked again: theirs has decided.
    fn take_over(&mut self) -> usize {
        let mut moved = 0;
        for link in 0..self.hand_off.as_ref().map_or(0, HandOff::incoming) {
            if let Some(hand_off) = &mut self.hand_off {
                moved += hand_off.take_over(link, &mut self.outbox, self.members.len());
            }
            self.flush();
        }
        if let Some(hand_off) = &mut self.hand_off {
            hand_off.collect();
        }
        moved
    }

    /// Hands the packets with pages to the queues. What does not fit waits for the next turn.
    #[inline(never)]
    fn gather(&mut self) {
        for (index, Member { queue, .. }) in self.members.iter_mut().enumerate() {
            if self.outbox.gather_from(index, |packets| queue.gather(packets)) {
                continue;
            }
            queue.tend();
            if !self.outbox.gather_from(index, |packets| queue.gather(packets)) && queue.fault().is_some() {
                self.outbox.discard_packets(index, Reason::PortGone);
            }
        }
    }

    #[cold]
    fn tick(&mut self, now: Tick) {
        self.app.tick(now, &mut self.outbox);
        self.flush();
        self.publish();
        self.next_tick = Tick(now.0 + TICK_EVERY);
    }

    /// Makes the counters visible on the [`Board`].
    pub fn publish(&self) {
        let mut discards = *self.outbox.discards();
        for (index, member) in self.members.iter().enumerate() {
            let counters = member.queue.counters();
            // A segment is lost inside its queue, but for the same reasons as a packet in front of it.
            discards[Reason::TransmitRingFull as usize] += counters.segments_no_room;
            discards[Reason::OutOfFrames as usize] += counters.segments_no_frame;
            self.board.publish_queue(index, &counters, member.queue.pending());
        }
        self.board.publish_worker(
            (self.turns, self.busy),
            self.outbox.allocated(),
            self.app.held() + self.outbox.waiting() as u64,
            &discards,
            self.outbox.delivered(),
            self.hand_off.as_ref().map(HandOff::handed).unwrap_or_default(),
        );
    }

    /// Wakes and completes what is under way, and sends what was handed over or waits in the outbox, without receiving.
    pub fn tend(&mut self) {
        for member in &mut self.members {
            member.queue.tend();
        }
        if self.hand_off.is_some() {
            self.take_over();
        }
        self.gather();
    }

    /// Notes how long a turn took that moved something: a worker has no clock.
    pub const fn note_busy(&mut self, time: Duration) {
        self.busy = self.busy.saturating_add(time);
    }

    /// Packets that wait for room at a queue.
    pub const fn waiting(&self) -> usize {
        self.outbox.waiting()
    }

    /// When the app wants its next turn at the latest.
    pub fn deadline(&self) -> Option<Tick> {
        self.app.deadline()
    }

    /// Frames transmitted whose slots are not home yet.
    pub fn pending(&self) -> u32 {
        self.members.iter().map(|member| member.queue.pending()).sum()
    }

    /// The first queue that has died, and why.
    pub fn fault(&self) -> Option<(PortId, &Fault)> {
        self.members.iter().find_map(|member| Some((member.port, member.queue.fault()?)))
    }

    /// Whether nothing will ever be received again, nor handed over by others.
    pub fn exhausted(&self) -> bool {
        self.members.iter().all(|member| member.queue.exhausted())
            && self.hand_off.as_ref().is_none_or(HandOff::is_quiet)
    }

    /// The links to other workers, if there are any.
    pub const fn hand_off(&self) -> Option<&HandOff<'p>> {
        self.hand_off.as_ref()
    }

    /// The queues.
    pub fn members(&self) -> &[Member<Q>] {
        &self.members
    }

    /// The queues, for a test that plays tricks on them.
    pub fn members_mut(&mut self) -> &mut [Member<Q>] {
        &mut self.members
    }

    /// The app.
    pub const fn app(&self) -> &A {
        &self.app
    }

    /// The page that shows this worker's counters to other threads.
    pub const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The sums, as of now.
    pub fn books(&self) -> Books {
        self.publish();
        self.board.snapshot().books()
    }
}
