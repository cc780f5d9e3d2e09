//! A segment for a connection that is there (RFC 9293 section 3.10.7.4, in its order).

use super::core::{Bits, Core, State};
use super::isn::timestamp;
use super::segment::{Arrived, Block, Flags};
use super::seq::{Coarse, Micros, NEVER, Seq, length};
use super::shared::Shared;
use super::stack::Closed;
use super::timers::NOBODY;
use crate::net::Ecn;

/// In-order bytes that a segment brought.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fresh<'a> {
    /// None.
    Nothing,
    /// They are in the segment; RCV.NXT is behind them already.
    Direct(&'a [u8]),
    /// They are in the connection's block, behind what was unread before.
    Kept,
}

/// What the application has to be told, in this order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effects<'a> {
    pub(crate) opened: bool,
    /// Bytes of the stream were acknowledged.
    pub(crate) acked: bool,
    pub(crate) fresh: Fresh<'a>,
    /// The segment is answered; whatever else it says is not looked at.
    pub(crate) ended: bool,
    /// Both its numbers are such as only the peer, or who can see its segments, knows.
    pub(crate) believed: bool,
    pub(crate) closed: Option<Closed>,
}

impl Effects<'_> {
    pub(crate) const fn nothing() -> Self {
        Self {
            opened: false,
            acked: false,
            fresh: Fresh::Nothing,
            ended: false,
            believed: false,
            closed: None,
        }
    }

    const fn ended() -> Self {
        Self { ended: true, ..Self::nothing() }
    }

    const fn closed(why: Closed) -> Self {
        Self { closed: Some(why), ..Self::ended() }
    }
}

impl Core {
    /// A segment for this connection, which is not in SYN-SENT.
    pub(crate) fn arrive<'a>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        ecn: Ecn,
        arrived: &Arrived<'a>,
    ) -> Effects<'a> {
        if self.state == State::SynReceived && self.is_answer_to_both(arrived) {
            self.establish(now, arrived);
            self.heard_at = Coarse::new(now);
            self.ack_now();
            return Effects { opened: true, believed: true, ..Effects::ended() };
        }
        let near = self.is_near(shared, arrived);
        let Some((seq, payload)) = self.acceptable(shared, now, arrived) else { return Effects::ended() };
        if arrived.flags.has(Flags::RST) {
            return self.reset(shared, now, arrived);
        }
        if arrived.flags.has(Flags::SYN) {
            // RFC 5961 section 4: whatever its number, it is not believed.
            self.challenge(shared, now);
            return Effects::ended();
        }
        if !arrived.flags.has(Flags::ACK) {
            return Effects::ended();
        }
        let mut effects = Effects::nothing();
        if self.state == State::SynReceived {
            if arrived.ack != self.origin {
                // RFC 9293: not acceptable, answered with a reset of its own; the connection waits on.
                shared.refuse(&self.path, arrived);
                return Effects::ended();
            }
            self.establish(now, arrived);
            effects.opened = true;
        }
        match self.acknowledged(shared, now, arrived) {
            Some(acked) => effects.acked = acked,
            None => return Effects { ended: true, ..effects },
        }
        // Only now, or who guesses a sequence number alone could have all older timestamps refused (RFC 5961 section 5).
        self.remember_timestamp(now, arrived);
        self.heard_at = Coarse::new(now);
        self.keepalives = 0;
        effects.believed = near;
        effects.closed = self.after_fin_acked(shared, now);
        if effects.closed.is_some() {
            return effects;
        }
        self.note_ecn(shared, ecn, arrived);
        effects.fresh = self.take_in(shared, now, arrived, seq, payload);
        effects
    }

    /// Whether its number is not much older than what came: a segment that was sent again is believed, too, since a peer
    /// whose router is gone gets no acknowledgement and has nothing new to say.
    fn is_near(&self, shared: &Shared, arrived: &Arrived<'_>) -> bool {
        let window = shared.digest.config.receive_window.cast_signed().saturating_abs();
        arrived.seq.since(self.next) >= -window
    }

    /// Both ends dialled, and this is the peer's SYN-ACK (RFC 9293 section 3.5, figure 7). By its number it is old, and each
    /// end would answer the other's with its own for ever; so it opens the connection, as an acknowledgement alone does.
    fn is_answer_to_both(&self, arrived: &Arrived<'_>) -> bool {
        arrived.flags.has(Flags(Flags::SYN.0 | Flags::ACK.0))
            && !arrived.flags.any(Flags(Flags::RST.0 | Flags::FIN.0))
            && self.bits.has(Bits::DIALLED)
            && arrived.seq.plus(1) == self.next
            && arrived.ack == self.origin
    }

    /// Checks first to last: timestamps, sequence numbers. Returns what of the payload is in the window and not known.
    fn acceptable<'a>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'a>,
    ) -> Option<(Seq, &'a [u8])> {
        let reset = arrived.flags.has(Flags::RST);
        // RFC 7323 section 5.3, R1: older than what came is not acceptable, except for resets (section 5.2).
        if self.bits.has(Bits::TIMESTAMPS) && !reset && self.is_old(now, arrived) {
            shared.stats.paws += 1;
            self.challenge(shared, now);
            return None;
        }
        let window = self.edge.bytes_since(self.next);
        let ahead = arrived.seq.since(self.next);
        let len = arrived.sequence_length();
        // RFC 9293 section 3.10.7.4, the four cases: the first or the last number is in the window. An empty segment at
        // RCV.NXT is, whatever the window.
        let first_in = ahead >= 0 && (ahead.unsigned_abs() < window || ahead == 0 && len == 0);
        let last_in = len > 0 && {
            let last = arrived.seq.plus(len - 1).since(self.next);
            last >= 0 && last.unsigned_abs() < window
        };
        let spanning = ahead < 0 && len > 0 && arrived.seq.plus(len).after(self.edge);
        if !(first_in || last_in || spanning || window == 0 && self.is_probed(shared, arrived)) {
            return self.not_acceptable(shared, now, arrived, ahead);
        }
        let (mut seq, mut payload) = (arrived.seq, arrived.payload);
        if ahead < 0 {
            let known = (ahead.unsigned_abs() as usize).min(payload.len());
            if known > 0 && self.bits.has(Bits::SACK) {
                self.report_duplicate(Block { start: seq, end: seq.plus(length(known)) });
            }
            (seq, payload) = (seq.plus(length(known)), &payload[known..]);
        }
        let room = self.edge.since(seq).max(0).unsigned_abs() as usize;
        Some((seq, &payload[..payload.len().min(room)]))
    }

    /// Whether it begins at the edge of the window, which is shut. Its acknowledgement or reset is taken then, if not its
    /// bytes; and whoever probes a window is answered each time (RFC 9293 section 3.8.6.1): no answer to that gets another.
    #[cold]
    fn is_probed(&mut self, shared: &mut Shared, arrived: &Arrived<'_>) -> bool {
        let probed = arrived.seq == self.next && arrived.sequence_length() > 0;
        if probed && !arrived.flags.any(Flags(Flags::SYN.0 | Flags::RST.0)) {
            shared.stats.out_of_window += 1;
            self.ack_now();
        }
        probed
    }

    /// Answered with an acknowledgement, unless it is a reset (RFC 9293 section 3.10.7.4).
    fn not_acceptable<'a>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'a>,
        ahead: i32,
    ) -> Option<(Seq, &'a [u8])> {
        if arrived.flags.has(Flags::RST) {
            shared.stats.out_of_window += 1;
            return None;
        }
        let (len, bytes) = (arrived.sequence_length(), length(arrived.payload.len()));
        let known = ahead < 0 && len > 0 && !arrived.seq.plus(len).after(self.next);
        if known && !arrived.flags.has(Flags::SYN) {
            // All of it is known: a retransmission whose acknowledgement was lost. Answered at once, and not limited,
            // as the peer waits for it.
            shared.stats.duplicates_in += 1;
            if self.bits.has(Bits::SACK) && bytes > 0 {
                self.report_duplicate(Block { start: arrived.seq, end: arrived.seq.plus(bytes) });
            }
            self.heard_at = Coarse::new(now);
            self.ack_now();
            // The acknowledgement that it carries is as good as any (RFC 9293 section 3.10.7.4 would drop it), unless it is
            // so old that anybody may have guessed its number.
            if arrived.flags.has(Flags::ACK) && self.state.synchronised() && self.is_near(shared, arrived) {
                return Some((self.next, &[]));
            }
            return None;
        }
        shared.stats.out_of_window += 1;
        if self.state == State::SynReceived && arrived.flags.has(Flags::SYN) {
            // The peer's SYN again: our SYN-ACK was lost.
            self.bits.set(Bits::SYN);
        } else {
            // A keepalive or a window probe is one of these, so an answer is due; RFC 5961 section 7 limits it.
            self.heard_at = Coarse::new(now);
            self.challenge(shared, now);
        }
        None
    }

    /// RFC 7323 section 5.3, R1; section 5.5: after 24 days without a segment TS.Recent is not to be trusted.
    fn is_old(&self, now: Micros, arrived: &Arrived<'_>) -> bool {
        const TRUSTED: Micros = 24 * 24 * 3600 * 1_000_000;
        let Some(stamps) = arrived.options.timestamps else { return false };
        stamps.value.wrapping_sub(self.recent).cast_signed() < 0 && self.heard_at.elapsed(now) < TRUSTED
    }

    /// RFC 7323 section 4.3: TS.Recent is from the segment that spans the last acknowledgement sent.
    fn remember_timestamp(&mut self, now: Micros, arrived: &Arrived<'_>) {
        if let Some(stamps) = arrived.options.timestamps
            && !arrived.seq.after(self.acked)
            && !self.is_old(now, arrived)
        {
            self.recent = stamps.value;
        }
    }

    /// RFC 5961 section 3.2: only the very next number resets; another in the window is answered by a challenge.
    fn reset<'a>(&mut self, shared: &mut Shared, now: Micros, arrived: &Arrived<'_>) -> Effects<'a> {
        if arrived.seq != self.next {
            self.challenge(shared, now);
            return Effects::ended();
        }
        shared.stats.resets_in += 1;
        if self.is_done() {
            // Only the application is not done reading. The peer has forgotten the connection, and answers a late
            // segment of ours: no reason to lose bytes that it sent in order (RFC 1337).
            return Effects::ended();
        }
        Effects::closed(Closed::Reset)
    }

    /// An acknowledgement that costs an attacker's victim little: at most one in half a second and connection
    /// (RFC 5961 section 7; not one limit for all connections, which would tell one peer about another, CVE-2016-5696).
    pub(crate) fn challenge(&mut self, shared: &mut Shared, now: Micros) {
        const EVERY: Micros = 500_000;
        if self.bits.has(Bits::CHALLENGED) && self.challenged_at.elapsed(now) < EVERY {
            shared.stats.challenge_limited += 1;
            return;
        }
        self.challenged_at = Coarse::new(now);
        self.bits.set(Bits::CHALLENGED);
        shared.stats.challenge_acks += 1;
        self.ack_now();
    }

    /// The handshake is done.
    pub(crate) fn establish(&mut self, now: Micros, arrived: &Arrived<'_>) {
        self.state = State::Established;
        let scale = if arrived.flags.has(Flags::SYN) { 0 } else { self.peer_scale };
        self.window = u32::from(arrived.window) << scale;
        self.max_window = self.window;
        self.window_seq = arrived.seq;
        (self.due, self.due_at) = (super::core::Due::Nothing, NEVER);
        self.bits.clear(Bits::SYN);
        self.progress_at = Coarse::new(now);
        if self.bits.has(Bits::COOKIE) {
            // Nobody remembers when the SYN-ACK was sent.
        } else if self.backoff == 0 {
            // Sent once: the handshake is a round trip like any other (RFC 6298 section 3).
            self.rtt.sample(now, super::seq::narrow(now.saturating_sub(self.newest.sent)));
        } else {
            // RFC 5681 section 3.1: the SYN was lost, so one segment to begin with; RFC 6298 section 5.7: and 3 s for it.
            self.congestion.window = self.mss();
            self.rtt.fall_back();
        }
        self.backoff = 0;
    }

    /// What the acknowledgement of our FIN changes (RFC 9293 section 3.10.7.4, fifth).
    fn after_fin_acked(&mut self, shared: &Shared, now: Micros) -> Option<Closed> {
        if !self.fin_acked() {
            return None;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.rearm(shared, now);
            }
            State::Closing | State::LastAck => return Some(Closed::Finished),
            _ => {}
        }
        None
    }

    /// RFC 3168 section 6.1.3: a mark is echoed until the peer says that it slowed down.
    fn note_ecn(&mut self, shared: &mut Shared, ecn: Ecn, arrived: &Arrived<'_>) {
        if !self.bits.has(Bits::ECN) {
            return;
        }
        if arrived.flags.has(Flags::CWR) {
            self.bits.clear(Bits::ECHO);
        }
        if ecn == Ecn::Congested {
            shared.stats.ecn_marked += 1;
            if !self.bits.has(Bits::ECHO) {
                self.bits.set(Bits::ECHO);
                self.ack_now();
            }
        }
    }

    /// Text and FIN (RFC 9293 section 3.10.7.4, seventh and eighth): what is in the window and new.
    fn take_in<'a>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'a>,
        seq: Seq,
        payload: &'a [u8],
    ) -> Fresh<'a> {
        if !self.state.receiving() {
            return Fresh::Nothing;
        }
        let end = seq.plus(length(payload.len()));
        if arrived.flags.has(Flags::FIN) && end == arrived.seq.plus(length(arrived.payload.len())) {
            self.bits.set(Bits::FIN_HELD);
            self.fin = end;
            if payload.is_empty() && end != self.next {
                // Out of order like any other (RFC 5681 section 4.2), though there is no range to be named for it.
                self.ack_now();
                self.acks_owed = self.acks_owed.saturating_add(1);
            }
        }
        if payload.is_empty() {
            return Fresh::Nothing;
        }
        self.largest_in = self.largest_in.max(u16::try_from(payload.len()).unwrap_or(u16::MAX));
        if seq == self.next {
            return self.take_in_order(shared, now, payload);
        }
        self.take_out_of_order(shared, seq, payload);
        Fresh::Nothing
    }

    fn take_in_order<'a>(&mut self, shared: &mut Shared, now: Micros, payload: &'a [u8]) -> Fresh<'a> {
        self.note_arrival(shared, now, payload.len());
        if self.buffer == NOBODY {
            self.next = self.next.plus(length(payload.len()));
            return Fresh::Direct(payload);
        }
        let (advance, whole) = shared.buffers.keep(self.buffer, self.next, 0, payload);
        self.next = self.next.plus(advance);
        shared.stats.bytes_in += u64::from(advance);
        if advance as usize > payload.len() {
            // RFC 5681 section 4.2: a gap was filled, so at once.
            self.ack_now();
        }
        if !whole {
            shared.stats.unread_dropped += 1;
            self.ack_now();
        }
        Fresh::Kept
    }

    /// RFC 9293 section 3.8.6.3, RFC 5681 section 4.2: every second full segment at once, others soon.
    fn note_arrival(&mut self, shared: &Shared, now: Micros, bytes: usize) {
        let full = usize::from(self.largest_in.min(shared.digest.announced_mss(&self.path)));
        let segments = if bytes > full { 2 } else { 1 };
        self.unacked = self.unacked.saturating_add(segments);
        if self.unacked >= 2 || shared.digest.delayed_ack == 0 {
            self.ack_now();
        } else if self.ack_at == NEVER {
            self.ack_at = now + shared.digest.delayed_ack;
        }
    }

    /// RFC 5681 section 4.2: out of order is acknowledged at once; what fits is kept.
    fn take_out_of_order(&mut self, shared: &mut Shared, seq: Seq, payload: &[u8]) {
        self.ack_now();
        self.acks_owed = self.acks_owed.saturating_add(1);
        let range = Block { start: seq, end: seq.plus(length(payload.len())) };
        if self.buffer == NOBODY {
            let Some(block) = shared.buffers.borrow() else {
                shared.stats.out_of_order_dropped += 1;
                return;
            };
            self.buffer = block;
        } else if shared.buffers.has(self.buffer, range) {
            shared.stats.duplicates_in += 1;
            self.report_duplicate(range);
            return;
        }
        let ahead = seq.bytes_since(self.next);
        let (_, whole) = shared.buffers.keep(self.buffer, self.next, ahead, payload);
        if whole {
            shared.stats.out_of_order += 1;
        } else {
            shared.stats.out_of_order_dropped += 1;
        }
    }

    fn report_duplicate(&mut self, range: Block) {
        // RFC 2883 section 4: the duplicate is the first block of the next acknowledgement.
        self.dsack = range;
        self.bits.set(Bits::DSACK);
        self.ack_now();
    }

    pub(crate) fn ack_now(&mut self) {
        self.bits.set(Bits::ACK_NOW);
    }

    /// Both directions are done: until all is consumed the connection stays, but not for ever.
    pub(crate) fn wait_for_reader(&mut self, shared: &Shared, now: Micros) {
        if self.state == State::Closing {
            self.state = State::TimeWait;
        }
        self.rearm(shared, now);
    }

    /// Whether both directions are done.
    const fn is_done(&self) -> bool {
        matches!(self.state, State::TimeWait) || matches!(self.state, State::LastAck) && self.fin_acked()
    }

    /// Whether both directions are done, and all is consumed.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_done() && self.buffer == NOBODY
    }

    /// The peer's FIN, once all before it is there; true if it is that now.
    pub(crate) fn take_fin(&mut self, shared: &Shared, now: Micros) -> bool {
        if !self.bits.has(Bits::FIN_HELD) || self.next != self.fin || !self.state.receiving() {
            return false;
        }
        self.bits.clear(Bits::FIN_HELD);
        self.next = self.next.plus(1);
        self.edge = self.edge.max(self.next);
        self.ack_now();
        self.state = match self.state {
            State::FinWait1 => State::Closing,
            State::FinWait2 => State::TimeWait,
            _ => State::CloseWait,
        };
        if self.state == State::TimeWait {
            self.rearm(shared, now);
        }
        true
    }

    /// The window to be told: what can be kept or consumed, and never less than was told (RFC 9293 section 3.8.6).
    /// The edge moves only by a segment or half of the window (section 3.8.6.2.2), so that no silly windows are told.
    #[inline]
    pub(crate) fn renew_edge(&mut self, shared: &Shared) {
        let most = shared.digest.config.receive_window;
        let free = if self.buffer == NOBODY {
            most
        } else {
            most.min(shared.buffers.size().saturating_sub(shared.buffers.unread_len(self.buffer)))
        };
        let edge = self.next.plus(free);
        let least = u32::from(shared.digest.config.limits.mtu).min(most / 2).cast_signed();
        if edge.since(self.edge) >= least {
            self.edge = edge;
        }
    }

    /// The application has read: the peer may have to be told that there is room again.
    pub(crate) fn tell_opened_window(&mut self, shared: &Shared) {
        let told = self.edge;
        self.renew_edge(shared);
        let mss = u32::from(shared.digest.config.limits.mtu);
        // RFC 9293 section 3.8.6.2.2: told by itself only if it was nearly shut; otherwise with the next acknowledgement.
        if self.edge != told && told.bytes_since(self.next) < mss {
            self.ack_now();
        }
        if self.edge != told && !self.bits.has(Bits::ACK_NOW) {
            self.edge = told;
        }
    }

    /// The clock of this connection's timestamps.
    #[inline]
    pub(crate) const fn timestamp(&self, now: Micros) -> u32 {
        timestamp(now, self.clock)
    }
}
