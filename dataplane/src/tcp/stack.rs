//! The connections of one worker.

use super::config::Config;
pub(crate) use super::conn::{Closed, Out, Sent};
use super::conn::{Conn, ConnId, Service};
use super::core::{Bits, Core, Digest, Due, State};
use super::input::{Effects, Fresh};
use super::moves::Moves;
use super::output::Turn;
use super::segment::Arrived;
use super::seq::{Micros, length, micros, tick};
use super::shared::Shared;
use super::stats::Stats;
use super::table::{Key, Secret, Table};
use super::time_wait::Remains;
use super::timers::{Links, Members, NOBODY, Wheel};
use crate::net::{Ecn, Path};
use crate::worker::Tick;

/// A place for a connection.
#[derive(Debug)]
pub(crate) struct Slot<S> {
    pub(crate) core: Core,
    pub(crate) state: S,
    generation: u32,
    /// The next one in the list of those with something to send, or of free ones.
    next: u32,
}

#[derive(Debug)]
pub(crate) struct Slots<S>(Vec<Slot<S>>);

impl<S> Members for Slots<S> {
    #[inline]
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.0[index as usize].core.links
    }
}

impl<S> Slots<S> {
    #[cfg(test)]
    pub(crate) fn first(&self) -> Option<&Slot<S>> {
        self.0.first()
    }

    #[inline]
    pub(crate) fn at(&mut self, index: u32) -> &mut Slot<S> {
        &mut self.0[index as usize]
    }
}

/// Answers without a connection that go before what connections have to send.
const REPLIES_FIRST: usize = 16;

/// The connections of one worker, with `S` kept for the application in each.
///
/// Nothing here reads a clock or draws a number: time is an argument, and the secret was. A turn is
/// [`receive`](Self::receive) for each segment that came, [`tick`](Self::tick), [`transmit`](Self::transmit).
#[derive(Debug)]
pub struct Stack<S> {
    pub(crate) slots: Slots<S>,
    pub(crate) shared: Shared,
    table: Table,
    wheel: Wheel,
    moves: Moves,
    /// A bit for each port.
    listening: Box<[u64; 1024]>,
    free: Vec<u32>,
    ready_first: u32,
    ready_last: u32,
    pub(crate) half_open: u32,
    /// What [`Out::segment`] gets with a segment of no connection.
    spare: S,
}

impl<S: Default> Stack<S> {
    /// A stack without connections. `secret` must be random, and nobody else's: sequence numbers, cookies and the hash
    /// of the connections are keyed with it.
    pub fn new(config: Config, secret: [u8; 16]) -> Self {
        let most = config.max_connections.max(1);
        let config = Config { max_connections: most, ..config };
        Self {
            slots: Slots(Vec::with_capacity(most as usize)),
            shared: Shared::new(Digest::new(config), secret),
            table: Table::new(most, Secret::derive(secret, 0)),
            wheel: Wheel::new(),
            moves: Moves::new(),
            listening: Box::new([0; 1024]),
            free: Vec::with_capacity(most as usize),
            ready_first: NOBODY,
            ready_last: NOBODY,
            half_open: 0,
            spare: S::default(),
        }
    }

    /// Accepts connections to a port.
    pub fn listen(&mut self, port: u16) {
        self.listening[usize::from(port) / 64] |= 1 << (port % 64);
    }

    /// Accepts no new connections to a port; those that are there stay.
    pub fn unlisten(&mut self, port: u16) {
        self.listening[usize::from(port) / 64] &= !(1 << (port % 64));
    }

    pub(crate) fn is_listening(&self, port: u16) -> bool {
        self.listening[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    /// Begins a connection. `None` if the stack is full, or both ends are in use.
    pub fn dial(&mut self, now: Tick, path: Path, local_port: u16, peer_port: u16) -> Option<ConnId> {
        let now = micros(now);
        let key = Key::new(&path, local_port, peer_port);
        if self.find(&key).is_some() {
            return None;
        }
        let mut before = None;
        if let Some((place, remains)) = self.shared.waiting.find(&key) {
            // RFC 6191 section 2: a later timestamp tells old segments from new ones, and our clock has moved on.
            before = Some(remains.sent);
            self.shared.waiting.remove(place);
        }
        let origin = self.shared.origin(&key, now).after(before);
        let core = Core::dial(&self.shared.digest, now, path, local_port, peer_port, origin);
        let index = self.add(core)?;
        self.shared.stats.dialled += 1;
        self.half_open += 1;
        self.make_ready(index);
        Some(self.id(index))
    }

    /// A segment that came: its bytes from the first of the TCP header to the last of the payload. The IP header and
    /// the checksum must have been verified.
    pub fn receive(
        &mut self,
        now: Tick,
        path: &Path,
        ecn: Ecn,
        segment: &[u8],
        service: &mut impl Service<S>,
    ) {
        let now = micros(now);
        self.shared.stats.segments_in += 1;
        let Ok(arrived) = Arrived::parse(segment) else {
            self.shared.stats.malformed += 1;
            return;
        };
        let key = Key::new(path, arrived.local_port, arrived.peer_port);
        let Some(index) = self.find(&key) else {
            self.receive_stray(now, (path, ecn), &key, &arrived, service);
            return;
        };
        self.deliver(index, now, (path, ecn), &arrived, service);
    }

    /// A segment for the connection at `index`.
    pub(crate) fn deliver(
        &mut self,
        index: u32,
        now: Micros,
        (path, ecn): (&Path, Ecn),
        arrived: &Arrived<'_>,
        service: &mut impl Service<S>,
    ) {
        let slot = self.slots.at(index);
        let effects = if slot.core.state == State::SynSent {
            slot.core.answered(&mut self.shared, now, arrived)
        } else {
            slot.core.arrive(&mut self.shared, now, ecn, arrived)
        };
        if effects.believed {
            self.follow(index, path.peer_mac);
        }
        if effects.opened {
            self.half_open -= 1;
            self.shared.stats.established += 1;
            self.with_conn(index, now, |conn| service.opened(conn));
        }
        if effects.acked {
            self.with_conn(index, now, |conn| {
                let upto = conn.acked();
                service.acked(conn, upto);
            });
        }
        if let Some(why) = effects.closed {
            if why != Closed::Finished {
                self.end(index, now, why, service);
                return;
            }
            self.slots.at(index).core.wait_for_reader(&self.shared, now);
        }
        if !effects.ended {
            self.hand_over(index, now, &effects, service);
            self.take_fin(index, now, service);
        }
        self.settle(index, now, service);
    }

    /// A segment that only the peer could send came from this MAC address: answers go there from now on.
    #[inline]
    fn follow(&mut self, index: u32, mac: [u8; 6]) {
        let core = &mut self.slots.at(index).core;
        if core.path.peer_mac == mac {
            // A second segment from there.
            core.bits.clear(Bits::MOVED);
            return;
        }
        self.moves.note(index, std::mem::replace(&mut core.path.peer_mac, mac));
        core.bits.set(Bits::MOVED);
        self.shared.stats.peers_moved += 1;
    }

    /// Gives the application the bytes that came in order.
    #[inline]
    fn hand_over(&mut self, index: u32, now: Micros, effects: &Effects<'_>, service: &mut impl Service<S>) {
        match effects.fresh {
            Fresh::Nothing => {}
            Fresh::Kept => self.offer(index, now, service),
            Fresh::Direct(bytes) => {
                let mut consumed = 0;
                self.with_conn(index, now, |conn| consumed = service.data(conn, bytes));
                let rest = &bytes[consumed.min(bytes.len())..];
                self.shared.stats.bytes_in += bytes.len() as u64;
                if !rest.is_empty() {
                    self.keep_rest(index, rest);
                }
            }
        }
    }

    /// Keeps bytes that were not consumed; without room for them they count as never received.
    fn keep_rest(&mut self, index: u32, rest: &[u8]) {
        let core = &mut self.slots.at(index).core;
        let next = core.next.minus(length(rest.len()));
        let block = self.shared.buffers.borrow();
        let kept = block.map_or(0, |block| self.shared.buffers.keep(block, next, 0, rest).0);
        core.buffer = block.unwrap_or(NOBODY);
        core.next = next.plus(kept);
        if (kept as usize) < rest.len() {
            self.shared.stats.unread_dropped += 1;
            self.shared.stats.bytes_in -= rest.len() as u64 - u64::from(kept);
        }
    }

    /// Offers the unread bytes.
    fn offer(&mut self, index: u32, now: Micros, service: &mut impl Service<S>) {
        let slot = &mut self.slots.0[index as usize];
        let block = slot.core.buffer;
        if block == NOBODY {
            return;
        }
        let id = ConnId { index, generation: slot.generation };
        let unread = self.shared.buffers.unread(block);
        if !unread.is_empty() {
            let mut conn = Conn { id, core: &mut slot.core, state: &mut slot.state, now };
            let consumed = length(service.data(&mut conn, unread));
            self.shared.buffers.consume(block, consumed);
        }
        if self.shared.buffers.is_empty(block) {
            self.shared.buffers.give_back(block);
            slot.core.buffer = NOBODY;
        }
    }

    /// The peer's FIN, if all before it is there.
    fn take_fin(&mut self, index: u32, now: Micros, service: &mut impl Service<S>) {
        if !self.slots.at(index).core.take_fin(&self.shared, now) {
            return;
        }
        self.with_conn(index, now, |conn| service.half_closed(conn));
    }

    /// After anything happened to a connection: what the application asked for, the list of senders, the timer.
    pub(crate) fn settle(&mut self, index: u32, now: Micros, service: &mut impl Service<S>) {
        if self.slots.at(index).core.bits.take(Bits::MORE) {
            self.offer(index, now, service);
        }
        let slot = self.slots.at(index);
        if slot.core.bits.has(Bits::RESET) {
            self.abort(index, now, Closed::Aborted, service);
            return;
        }
        if slot.core.is_over() {
            self.end(index, now, Closed::Finished, service);
            return;
        }
        let open_window = slot.core.buffer == NOBODY;
        if open_window && slot.core.state.receiving() {
            slot.core.tell_opened_window(&self.shared);
        }
        if slot.core.has_work(now) {
            self.make_ready(index);
        } else {
            slot.core.persist_if_blocked(&self.shared, now);
        }
        self.arm(index, now);
    }

    fn arm(&mut self, index: u32, now: Micros) {
        let at = self.slots.at(index).core.earliest(now, &self.shared.digest);
        self.wheel.arm(&mut self.slots, index, at);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Tick, service: &mut impl Service<S>) {
        let now = micros(now);
        while let Some(index) = self.wheel.take(&mut self.slots, now) {
            self.fire(index, now, service);
        }
        self.shared.waiting.expire(now);
    }

    fn fire(&mut self, index: u32, now: Micros, service: &mut impl Service<S>) {
        let core = &mut self.slots.at(index).core;
        if core.due_at <= now {
            let (fin_wait, silent) = (core.due == Due::FinWait, core.is_unanswered());
            if !core.on_due(&mut self.shared, now) {
                let why = if fin_wait { Closed::Finished } else { Closed::TimedOut };
                self.abort(index, now, why, service);
                return;
            }
            if silent && core.bits.has(Bits::MOVED) {
                self.moves.doubt(index, &mut core.path.peer_mac);
            }
        }
        let core = &mut self.slots.at(index).core;
        if core.ack_at <= now {
            core.ack_at = super::seq::NEVER;
            core.ack_now();
        }
        if core.keepalive_at(now, &self.shared.digest) <= now && !self.keep_alive(index, now, service) {
            return;
        }
        let core = &mut self.slots.at(index).core;
        if core.app_at <= now {
            core.app_at = super::seq::NEVER;
            self.with_conn(index, now, |conn| service.timer(conn));
        }
        self.settle(index, now, service);
    }

    /// RFC 9293 section 3.8.4: a probe, or the end when none was answered.
    fn keep_alive(&mut self, index: u32, now: Micros, service: &mut impl Service<S>) -> bool {
        let core = &mut self.slots.at(index).core;
        if core.keepalives >= self.shared.digest.keep_probes {
            self.abort(index, now, Closed::TimedOut, service);
            return false;
        }
        core.keepalives += 1;
        if core.board.outstanding() == 0 {
            self.shared.stats.keepalives += 1;
            core.bits.set(Bits::PROBE);
        }
        true
    }

    /// When [`tick`](Self::tick) has something to do, at the latest. `None` if nothing is going to happen by itself.
    pub fn next_deadline(&self) -> Option<Tick> {
        let wheel = self.wheel.next_at();
        let waiting = self.shared.waiting.next_at();
        [wheel, waiting].into_iter().flatten().min().map(tick)
    }

    /// Whether [`transmit`](Self::transmit) has something to send.
    pub fn has_work(&self) -> bool {
        self.ready_first != NOBODY || !self.shared.replies.is_empty()
    }

    /// Sends what may be sent, a quantum for each connection in turn, until `out` is full or nothing is left.
    pub fn transmit(&mut self, now: Tick, out: &mut impl Out<S>, service: &mut impl Service<S>) {
        let now = micros(now);
        // Some of them first, for a handshake waits for them; not all, or a flood of SYNs would take every place that
        // connections have.
        if !self.transmit_replies(out, REPLIES_FIRST) {
            return;
        }
        while let Some(index) = self.next_ready() {
            let slot = self.slots.at(index);
            let before = self.shared.stats.segments_out;
            match slot.core.transmit(&mut self.shared, now, out, &mut slot.state) {
                Turn::Done => {
                    debug_assert!(!slot.core.has_work(now), "done, but not: {:?}", slot.core);
                    slot.core.persist_if_blocked(&self.shared, now);
                    self.arm(index, now);
                }
                Turn::More => {
                    self.arm(index, now);
                    self.make_ready(index);
                }
                Turn::Full => {
                    self.arm(index, now);
                    // Who got something out waits for the others, or a narrow wire would always be the first one's.
                    if self.shared.stats.segments_out == before {
                        self.ready_again(index);
                    } else {
                        self.make_ready(index);
                    }
                    return;
                }
                Turn::Gone => {
                    self.shared.stats.content_gone += 1;
                    self.abort(index, now, Closed::Gone, service);
                }
            }
        }
        self.transmit_replies(out, usize::MAX);
    }

    /// Sends at most so much of what belongs to no connection; false if there was no room for it.
    fn transmit_replies(&mut self, out: &mut impl Out<S>, most: usize) -> bool {
        for _ in 0..most {
            let Some(reply) = self.shared.replies.front() else { break };
            if out.segment(reply, &mut self.spare) == Sent::Full {
                return false;
            }
            self.shared.stats.segments_out += 1;
            self.shared.replies.pop_front();
        }
        true
    }

    /// Content has come for a connection that was told [`Sent::NotYet`], or its application wants to be offered what it
    /// did not consume. Nothing happens if the connection is gone.
    pub fn resume(&mut self, now: Tick, id: ConnId, service: &mut impl Service<S>) {
        self.with(now, id, service, |conn, _| {
            conn.core.bits.clear(Bits::PARKED);
            conn.core.bits.set(Bits::MORE);
        });
    }

    /// Does something with a connection from outside of its calls. `None` if it is gone.
    pub fn with<T, V: Service<S>>(
        &mut self,
        now: Tick,
        id: ConnId,
        service: &mut V,
        what: impl FnOnce(&mut Conn<'_, S>, &mut V) -> T,
    ) -> Option<T> {
        let now = micros(now);
        let slot = self.slots.0.get_mut(id.index as usize)?;
        if !slot.core.bits.has(Bits::LIVE) || slot.generation != id.generation {
            return None;
        }
        let mut conn = Conn { id, core: &mut slot.core, state: &mut slot.state, now };
        let result = what(&mut conn, service);
        self.settle(id.index, now, service);
        Some(result)
    }

    /// The names of all connections. Allocates: not for turns.
    pub fn ids(&self) -> Vec<ConnId> {
        let live = |(index, slot): (usize, &Slot<S>)| {
            slot.core
                .bits
                .has(Bits::LIVE)
                .then_some(ConnId { index: u32::try_from(index).ok()?, generation: slot.generation })
        };
        self.slots.0.iter().enumerate().filter_map(live).collect()
    }

    /// The counters.
    pub const fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Connections that are there, half-open ones included, those in TIME-WAIT not.
    pub fn connections(&self) -> usize {
        self.slots.0.len() - self.free.len()
    }

    /// Connections in TIME-WAIT.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.len()
    }

    /// Blocks that connections hold: of runs in flight, and of bytes received.
    pub fn blocks_in_use(&self) -> (usize, usize) {
        (self.shared.blocks.held(), self.shared.buffers.in_use())
    }

    #[inline]
    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.table.find(self.table.hash(key), |index| {
            let core = &self.slots.0[index as usize].core;
            core.local_port == key.local_port
                && core.peer_port == key.peer_port
                && core.path.peer == key.peer
                && core.path.local == key.local
        })
    }

    fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots.0[index as usize].generation }
    }

    #[inline]
    pub(crate) fn with_conn(&mut self, index: u32, now: Micros, what: impl FnOnce(&mut Conn<'_, S>)) {
        let slot = self.slots.at(index);
        let id = ConnId { index, generation: slot.generation };
        what(&mut Conn { id, core: &mut slot.core, state: &mut slot.state, now });
    }

    /// Whether there is no place for another connection.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.0.len() == self.shared.digest.config.max_connections as usize
    }

    /// Puts a connection into a place.
    pub(crate) fn add(&mut self, mut core: Core) -> Option<u32> {
        let tag = self.table.hash(&Key::new(&core.path, core.local_port, core.peer_port));
        let index = if let Some(index) = self.free.pop() {
            let slot = self.slots.at(index);
            if slot.core.bits.has(Bits::READY) {
                core.bits.set(Bits::READY);
            }
            (slot.core, slot.state) = (core, S::default());
            index
        } else {
            if self.is_full() {
                return None;
            }
            let state = S::default();
            self.slots.0.push(Slot { core, state, generation: 0, next: NOBODY });
            length(self.slots.0.len() - 1)
        };
        self.table.insert(tag, index);
        Some(index)
    }

    /// The connection ends with a reset to the peer.
    fn abort(&mut self, index: u32, now: Micros, why: Closed, service: &mut impl Service<S>) {
        let core = &self.slots.0[index as usize].core;
        // RFC 9293 section 3.10.5: a SYN that was not answered is just forgotten. So is one of a peer that never answered
        // our SYN-ACK: its address may be somebody else's, who would get a reset for each lie about him.
        let silent = why == Closed::TimedOut && !core.state.synchronised();
        if core.state != State::SynSent && !silent {
            self.shared.abort(core, now);
        }
        self.end(index, now, why, service);
    }

    /// The connection is gone: the application is told, its place is free.
    pub(crate) fn end(&mut self, index: u32, now: Micros, why: Closed, service: &mut impl Service<S>) {
        let stats = &mut self.shared.stats;
        match why {
            Closed::Finished => stats.finished += 1,
            Closed::TimedOut => stats.timed_out += 1,
            _ => {}
        }
        let core = &self.slots.0[index as usize].core;
        if !core.state.synchronised() {
            self.half_open -= 1;
        }
        if why == Closed::Finished && core.state == State::TimeWait {
            self.remember(index, now);
        }
        self.with_conn(index, now, |conn| service.closed(conn, why));
        self.wheel.unlink(&mut self.slots, index);
        let slot = self.slots.at(index);
        self.shared.release(&mut slot.core);
        slot.state = S::default();
        slot.core.bits.clear(Bits::LIVE);
        slot.generation = slot.generation.wrapping_add(1);
        let tag = self.table.hash(&Key::new(&slot.core.path, slot.core.local_port, slot.core.peer_port));
        self.table.remove(tag, index);
        self.free.push(index);
    }

    /// Into TIME-WAIT.
    fn remember(&mut self, index: u32, now: Micros) {
        let core = &self.slots.0[index as usize].core;
        let window = core.edge.bytes_since(core.next) >> core.our_scale;
        let remains = Remains {
            key: Key::new(&core.path, core.local_port, core.peer_port),
            sent: core.seq_of(core.board.nxt),
            next: core.next,
            recent: core.bits.has(Bits::TIMESTAMPS).then_some(core.recent),
            clock: core.clock,
            window: u16::try_from(window).unwrap_or(u16::MAX),
        };
        self.shared.acknowledge_last(&core.path, &remains, now);
        if self.shared.waiting.add(remains, now + self.shared.digest.time_wait) {
            self.shared.stats.time_wait_dropped += 1;
        }
    }

    /// Puts a connection at the end of the list of those with something to send.
    #[inline]
    pub(crate) fn make_ready(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if slot.core.bits.has(Bits::READY) {
            return;
        }
        slot.core.bits.set(Bits::READY);
        slot.next = NOBODY;
        if self.ready_last == NOBODY {
            self.ready_first = index;
        } else {
            let last = self.ready_last;
            self.slots.at(last).next = index;
        }
        self.ready_last = index;
    }

    /// Puts a connection back to the front.
    fn ready_again(&mut self, index: u32) {
        let first = self.ready_first;
        let slot = self.slots.at(index);
        slot.core.bits.set(Bits::READY);
        slot.next = first;
        self.ready_first = index;
        if first == NOBODY {
            self.ready_last = index;
        }
    }

    /// Takes the first one with something to send off the list.
    #[inline]
    fn next_ready(&mut self) -> Option<u32> {
        loop {
            let index = self.ready_first;
            if index == NOBODY {
                return None;
            }
            let slot = self.slots.at(index);
            slot.core.bits.clear(Bits::READY);
            let (next, live) = (slot.next, slot.core.bits.has(Bits::LIVE));
            self.ready_first = next;
            if next == NOBODY {
                self.ready_last = NOBODY;
            }
            if live {
                return Some(index);
            }
        }
    }
}
