//! Acknowledgements, and what they and the timers say about loss (RFC 5681, 6298, 6582, 6675, 8985).

use super::congestion::{Acked, Phase};
use super::core::{Bits, Core, Due, State};
use super::scoreboard::{Newest, Piece};
use super::segment::{Arrived, Flags};
use super::seq::{Coarse, Micros, NEVER, Seq, low, narrow};
use super::shared::Shared;

/// What the pieces of one acknowledgement add up to.
#[derive(Debug)]
struct Delivery {
    bytes: u32,
    newest: Newest,
    /// When the last byte that was sent only once was sent.
    measured: Option<Micros>,
    /// The highest offset delivered so far.
    highest: Seq,
    reordered: bool,
    now: Micros,
    least_rtt: u32,
}

impl Delivery {
    fn take(&mut self, piece: &Piece) {
        if piece.sacked {
            return;
        }
        self.bytes += piece.bytes();
        // RFC 8985 section 6.2, step 3: below what was delivered before, and sent only once.
        let end = Seq(low(piece.end));
        if end.after(self.highest) {
            self.highest = end;
        } else if !piece.again {
            self.reordered = true;
        }
        if !piece.again {
            self.measured = self.measured.max(Some(piece.sent));
        } else if narrow(self.now - piece.sent) < self.least_rtt {
            // Step 2: delivered sooner than possible after it was sent again: it is the first one that arrived.
            return;
        }
        if (piece.sent, piece.end) > (self.newest.sent, self.newest.end) {
            self.newest = Newest { sent: piece.sent, end: piece.end };
        }
    }
}

impl Core {
    /// The acknowledgement of a segment; `None` if the segment is to be dropped, otherwise whether bytes of the stream
    /// were acknowledged.
    pub(crate) fn acknowledged(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'_>,
    ) -> Option<bool> {
        let ahead = arrived.ack.since(self.seq_of(self.board.una));
        if ahead < 0 {
            // RFC 5961 section 5.2: older than the largest window ever is no honest acknowledgement.
            if ahead.unsigned_abs() > self.max_window.max(1) {
                self.challenge(shared, now);
                return None;
            }
            return Some(false);
        }
        if ahead.unsigned_abs() > self.board.outstanding() {
            shared.stats.ack_ahead += 1;
            self.challenge(shared, now);
            return None;
        }
        let window_moved = self.update_window(arrived);
        if self.board.outstanding() == 0 {
            if window_moved {
                // The peer lives: what doubled while its window was shut says nothing about the network.
                self.backoff = 0;
                self.rearm(shared, now);
            }
            return Some(false);
        }
        Some(self.on_progress(shared, now, arrived, ahead.unsigned_abs(), window_moved))
    }

    /// RFC 9293 section 3.10.7.4: the window is from the newest segment. So is that of an acknowledgement which advances,
    /// whatever its number: it may come with a retransmission, and the old window would be counted from the new
    /// SND.UNA. Linux does likewise (`tcp_may_update_window`). Returns whether it changed.
    fn update_window(&mut self, arrived: &Arrived<'_>) -> bool {
        if arrived.seq.before(self.window_seq) && arrived.ack == self.seq_of(self.board.una) {
            return false;
        }
        let window = u32::from(arrived.window) << self.peer_scale;
        let moved = window != self.window;
        self.window = window;
        self.max_window = self.max_window.max(window);
        self.window_seq = self.window_seq.max(arrived.seq);
        moved
    }

    fn on_progress(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'_>,
        advanced: u32,
        window_moved: bool,
    ) -> bool {
        let pipe_before = self.pipe();
        let una_before = self.board.una;
        let mut delivery = Delivery {
            bytes: 0,
            newest: self.newest,
            measured: None,
            highest: self.highest,
            reordered: false,
            now,
            least_rtt: self.rtt.min(),
        };
        if advanced > 0 {
            let upto = self.board.una + u64::from(advanced);
            self.board.acknowledge(&mut shared.blocks, upto, |piece| delivery.take(piece));
        }
        let dsack = self.read_sacks(shared, arrived, &mut delivery);
        if advanced == 0 && self.is_duplicate(arrived, window_moved) {
            self.dup_acks = self.dup_acks.saturating_add(1);
            delivery.bytes += if self.bits.has(Bits::SACK) { 0 } else { self.mss() };
        }
        self.measure(now, arrived, &delivery, advanced);
        if advanced > 0 {
            (self.backoff, self.progress_at) = (0, Coarse::new(now));
            self.undo_if_spurious(shared, arrived);
        }
        self.end_probe(dsack);
        let lost_before = self.board.lost();
        self.end_phase();
        self.look_for_loss(shared, now, &delivery, advanced);
        self.react_to_mark(shared, arrived);
        if advanced > 0 {
            self.forget_dup_acks(advanced);
        }
        let acked = Acked {
            delivered: delivery.bytes,
            advanced,
            pipe_before,
            pipe: self.pipe(),
            lost_more: self.board.lost() > lost_before,
        };
        self.congestion.acked(now, acked, self.mss(), self.rtt.smoothed());
        if (advanced > 0 || delivery.bytes > 0 && self.bits.has(Bits::SACK) || window_moved)
            && self.due != Due::Reorder
        {
            self.rearm(shared, now);
        }
        self.board.una.min(self.queued) > una_before
    }

    /// RFC 5681 section 2: nothing new, nothing in it, and something is outstanding.
    fn is_duplicate(&self, arrived: &Arrived<'_>, window_moved: bool) -> bool {
        arrived.payload.is_empty()
            && !arrived.flags.any(Flags(Flags::SYN.0 | Flags::FIN.0))
            && !window_moved
            && arrived.ack == self.seq_of(self.board.una)
            && self.board.outstanding() > 0
    }

    fn forget_dup_acks(&mut self, advanced: u32) {
        if self.bits.has(Bits::SACK) || self.congestion.phase.is_whole() {
            self.dup_acks = 0;
            return;
        }
        // RFC 6582 section 3.2, step 3: a partial acknowledgement deflates by what it acknowledges, but for one segment.
        let segments = advanced.div_ceil(self.mss()).saturating_sub(1);
        self.dup_acks = self.dup_acks.saturating_sub(u8::try_from(segments).unwrap_or(u8::MAX));
    }

    /// RFC 2018 section 5; RFC 2883 section 4.2: a first block that is acknowledged, or within the second, is a
    /// duplicate. Returns that one.
    fn read_sacks(
        &mut self,
        shared: &mut Shared,
        arrived: &Arrived<'_>,
        delivery: &mut Delivery,
    ) -> Option<u64> {
        if !self.bits.has(Bits::SACK) {
            return None;
        }
        let blocks = arrived.options.sacks();
        let mut duplicate = None;
        for (index, block) in blocks.iter().enumerate() {
            let (start, end) = (self.offset_near(block.start), self.offset_near(block.end));
            let (Some(start), Some(end)) = (start, end) else {
                shared.stats.sack_bad += 1;
                continue;
            };
            let within_second = blocks
                .get(1)
                .is_some_and(|second| !block.start.before(second.start) && !block.end.after(second.end));
            if index == 0 && start < end && (end <= self.board.una || within_second) {
                shared.stats.dsacks += 1;
                duplicate = Some(end);
            } else if start >= end || end > self.board.nxt || end <= self.board.una {
                shared.stats.sack_bad += 1;
            } else {
                self.board.sack(&mut shared.blocks, start, end, |piece| delivery.take(piece));
            }
        }
        if duplicate.is_some() {
            self.widen_reordering();
        }
        duplicate
    }

    /// The stream offset of a sequence number near the oldest unacknowledged byte.
    fn offset_near(&self, seq: Seq) -> Option<u64> {
        let distance = i64::from(seq.since(self.seq_of(self.board.una)));
        self.board.una.checked_add_signed(distance)
    }

    /// RFC 8985 section 6.2, step 4: a duplicate means that the window for reordering was too short.
    fn widen_reordering(&mut self) {
        const PERSIST: u8 = 16;
        if !Seq(low(self.board.una)).before(self.dsack_round) {
            self.reorder_quarters = self.reorder_quarters.saturating_add(1);
            self.reorder_persist = PERSIST;
            self.dsack_round = Seq(low(self.board.nxt));
        }
    }

    /// RFC 6298 section 3, RFC 7323 section 4: from bytes that were sent once, or from an echoed timestamp.
    fn measure(&mut self, now: Micros, arrived: &Arrived<'_>, delivery: &Delivery, advanced: u32) {
        if let Some(sent) = delivery.measured {
            self.rtt.sample(now, narrow(now - sent));
        } else if advanced > 0
            && self.bits.has(Bits::TIMESTAMPS)
            && let Some(stamps) = arrived.options.timestamps
            && stamps.echo != 0
        {
            let ms = self.timestamp(now).wrapping_sub(stamps.echo);
            if ms < 60_000 {
                self.rtt.sample(now, (ms * 1000).max(500));
            }
        }
        if delivery.newest != self.newest {
            self.newest = delivery.newest;
            self.newest_rtt = narrow(now - self.newest.sent);
        }
        self.highest = delivery.highest;
        if delivery.reordered {
            self.bits.set(Bits::REORDERED);
        }
    }

    /// RFC 4015, RFC 3522: the acknowledgement echoes a timestamp from before the retransmission, so the timeout was
    /// for nothing.
    fn undo_if_spurious(&mut self, shared: &mut Shared, arrived: &Arrived<'_>) {
        if !self.bits.take(Bits::MAY_UNDO) || self.congestion.phase != Phase::Loss {
            return;
        }
        let early = |echo: u32| echo.wrapping_sub(self.undo_stamp).cast_signed() < 0;
        if arrived.options.timestamps.is_some_and(|stamps| early(stamps.echo)) {
            shared.stats.timeouts_undone += 1;
            self.board.forget_lost(&mut shared.blocks);
            self.congestion.undo();
        }
    }

    /// RFC 8985 section 7.4.2: whether a tail loss probe repaired something.
    fn end_probe(&mut self, dsack: Option<u64>) {
        if !self.bits.has(Bits::PROBE_OUT) || Seq(low(self.board.una)).before(self.probe_end) {
            return;
        }
        self.bits.clear(Bits::PROBE_OUT);
        let repaired = self.bits.take(Bits::PROBE_AGAIN)
            && dsack.is_none_or(|end| Seq(low(end)).before(self.probe_end))
            && self.congestion.phase == Phase::Open;
        if repaired {
            let mss = self.mss();
            self.congestion.reduce_once(mss);
            self.bits.set(Bits::CWR);
        }
    }

    fn end_phase(&mut self) {
        if self.congestion.phase == Phase::Open || self.board.una < self.congestion.recovery_end {
            return;
        }
        let mss = self.mss();
        self.congestion.leave(mss);
        self.dup_acks = 0;
        self.bits.clear(Bits::TIMED_OUT);
        if self.reorder_persist > 0 {
            self.reorder_persist -= 1;
            if self.reorder_persist == 0 {
                self.reorder_quarters = 1;
            }
        }
    }

    fn look_for_loss(&mut self, shared: &mut Shared, now: Micros, delivery: &Delivery, advanced: u32) {
        if self.bits.has(Bits::SACK) {
            if delivery.bytes > 0 {
                self.detect(shared, now);
            }
            return;
        }
        let una = self.board.una;
        let first = una + u64::from(self.mss().min(self.board.outstanding()));
        match self.congestion.phase {
            // RFC 5681 section 3.2: the third duplicate; RFC 6582 section 3.2, step 2: not of an old recovery.
            // A mark is only obeyed when no recovery is pending, so there is no old one in it.
            phase @ (Phase::Open | Phase::Marked)
                if self.dup_acks >= 3
                    && (una >= self.congestion.recovery_end || phase == Phase::Marked)
                    && self.board.outstanding() > 0 =>
            {
                self.board.mark_lost(&mut shared.blocks, first);
                self.begin_recovery(shared);
            }
            // Step 3: a partial acknowledgement says that the next one is lost too.
            Phase::Recovery if advanced > 0 && una < self.congestion.recovery_end => {
                self.board.mark_lost(&mut shared.blocks, first);
            }
            _ => {}
        }
    }

    /// RFC 8985 section 6.2, step 5.
    pub(crate) fn detect(&mut self, shared: &mut Shared, now: Micros) {
        if self.due == Due::Reorder {
            (self.due, self.due_at) = (Due::Nothing, NEVER);
        }
        let lost_before = self.board.lost();
        let wait = self.newest_rtt.saturating_add(self.reordering_window());
        let again = self.board.detect_lost(&mut shared.blocks, self.newest, wait, now);
        if self.board.lost() > lost_before && self.congestion.phase.is_whole() {
            self.begin_recovery(shared);
        }
        if let Some(at) = again {
            (self.due, self.due_at) = (Due::Reorder, at);
        } else if self.due == Due::Nothing {
            self.rearm(shared, now);
        }
    }

    /// RFC 8985 section 6.2, step 4: none while nothing was seen to be reordered and loss is likely; else quarters of
    /// the least round trip.
    fn reordering_window(&self) -> u32 {
        const DUP_THRESH: u32 = 3;
        if !self.bits.has(Bits::REORDERED)
            && (!self.congestion.phase.is_whole() || self.board.sacked() >= DUP_THRESH * self.mss())
        {
            return 0;
        }
        let least = if self.rtt.min() == u32::MAX { self.rtt.smoothed() } else { self.rtt.min() };
        (least / 4).saturating_mul(u32::from(self.reorder_quarters)).min(self.rtt.smoothed())
    }

    fn begin_recovery(&mut self, shared: &mut Shared) {
        shared.stats.recoveries += 1;
        let (nxt, mss) = (self.board.nxt, self.mss());
        if self.congestion.phase != Phase::Marked {
            // RFC 3168 section 6.1.2: the next new segment says that the window was reduced.
            self.bits.set(Bits::CWR);
        }
        self.congestion.enter_recovery(nxt, self.board.outstanding(), mss);
        self.bits.clear(Bits::TIMED_OUT);
        // What is known to be lost needs no probe.
        self.bits.clear(Bits::TAIL_PROBE);
    }

    /// RFC 3168 section 6.1.2: an echoed mark is a loss without a loss, once a round trip.
    fn react_to_mark(&mut self, shared: &mut Shared, arrived: &Arrived<'_>) {
        if !self.bits.has(Bits::ECN)
            || !arrived.flags.has(Flags::ECE)
            || self.congestion.phase != Phase::Open
            || self.board.una < self.congestion.recovery_end
        {
            return;
        }
        shared.stats.ecn_reductions += 1;
        let (nxt, mss) = (self.board.nxt, self.mss());
        self.congestion.enter_marked(nxt, self.board.outstanding(), mss);
        self.bits.set(Bits::CWR);
    }

    /// Chooses what the retransmission timer stands for now, and until when it runs.
    pub(crate) fn rearm(&mut self, shared: &Shared, now: Micros) {
        let config = &shared.digest;
        (self.due, self.due_at) = if self.board.outstanding() > 0 {
            let rto = now + self.rto(config);
            match self.probe_timeout(config.delayed_ack) {
                Some(pto) if now + pto < rto => (Due::Probe, now + pto),
                _ => (Due::Retransmit, rto),
            }
        } else if matches!(self.state, State::FinWait2 | State::TimeWait | State::LastAck) {
            (Due::FinWait, now + config.fin_wait)
        } else if self.is_blocked() {
            // Nothing comes back by itself: ask (RFC 9293 section 3.8.6.1: the first after RTO, then doubling).
            (Due::Persist, now + self.rto(config))
        } else {
            (Due::Nothing, NEVER)
        };
    }

    /// Whether there is something to send which only the peer's window holds back.
    fn is_blocked(&self) -> bool {
        self.board.nxt < self.send_end()
            && self.may_send_data()
            && !self.bits.has(Bits::PARKED)
            && self.allowance() == 0
            && self.window_left() < self.mss()
    }

    /// Starts the persist timer, if only the peer's window holds something back and no timer runs.
    #[inline]
    pub(crate) fn persist_if_blocked(&mut self, shared: &Shared, now: Micros) {
        if self.due == Due::Nothing && self.board.nxt < self.send_end() {
            self.rearm(shared, now);
        }
    }

    /// RFC 8985 section 7.2: PTO, if a tail loss probe is allowed now.
    fn probe_timeout(&self, delayed_ack: Micros) -> Option<Micros> {
        let allowed = self.bits.has(Bits::SACK)
            && self.state.synchronised()
            && self.congestion.phase.is_whole()
            && self.board.sacked() == 0
            && !self.bits.has(Bits::PROBE_OUT)
            && self.backoff == 0
            && self.rtt.known();
        if !allowed {
            return None;
        }
        let mut pto = Micros::from(self.rtt.smoothed()) * 2;
        if self.board.outstanding() <= self.mss() {
            // One segment: the peer's acknowledgement may be delayed. Section 7.2: max_ack_delay, unknown; RFC 9293 allows
            // up to 500 ms, Linux takes 200 ms at most; ours is what we would do ourselves, and as much again.
            pto += delayed_ack * 2;
        }
        // Nothing below the grain of the timers, and of the peer's.
        Some(pto.max(2_000))
    }

    /// The retransmission timer fired as what it stands for; false if the connection is to be given up.
    pub(crate) fn on_due(&mut self, shared: &mut Shared, now: Micros) -> bool {
        let due = std::mem::replace(&mut self.due, Due::Nothing);
        self.due_at = NEVER;
        match due {
            Due::Nothing => {}
            Due::FinWait => {
                // The peer may still be sending.
                let silent = self.heard_at.elapsed(now);
                if silent >= shared.digest.fin_wait {
                    return false;
                }
                (self.due, self.due_at) = (Due::FinWait, now + shared.digest.fin_wait - silent);
            }
            Due::Reorder => self.detect(shared, now),
            Due::Probe => {
                // Section 7.3; the retransmission timer runs from here.
                self.bits.set(Bits::TAIL_PROBE);
                (self.due, self.due_at) = (Due::Retransmit, now + self.rto(&shared.digest));
            }
            Due::Persist => {
                if self.heard_at.elapsed(now) > shared.digest.give_up {
                    return false;
                }
                shared.stats.window_probes += 1;
                self.bits.set(Bits::PROBE);
                self.backoff = self.backoff.saturating_add(1);
                (self.due, self.due_at) = (Due::Persist, now + self.rto(&shared.digest));
            }
            Due::Retransmit => return self.on_timeout(shared, now),
        }
        true
    }

    /// RFC 6298 section 5.4 to 5.7.
    fn on_timeout(&mut self, shared: &mut Shared, now: Micros) -> bool {
        self.backoff = self.backoff.saturating_add(1);
        if !self.state.synchronised() {
            if self.backoff > shared.digest.config.syn_retries {
                return false;
            }
            shared.stats.timeouts += 1;
            self.bits.set(Bits::SYN);
            (self.due, self.due_at) = (Due::Retransmit, now + self.rto(&shared.digest));
            return true;
        }
        if self.window == 0 {
            // A shut window is no loss: the peer is asked, and given up only when it says nothing at all.
            shared.stats.window_probes += 1;
            self.bits.set(Bits::PROBE);
            (self.due, self.due_at) = (Due::Retransmit, now + self.rto(&shared.digest));
            return self.heard_at.elapsed(now) <= shared.digest.give_up;
        }
        if self.progress_at.elapsed(now) > shared.digest.give_up {
            return false;
        }
        shared.stats.timeouts += 1;
        if self.congestion.phase != Phase::Loss {
            self.bits.set(Bits::MAY_UNDO);
            self.undo_stamp = self.timestamp(now);
        }
        if self.board.reneged(&mut shared.blocks) {
            self.board.forget_sacks(&mut shared.blocks);
        }
        self.suspect_black_hole(shared);
        self.mark_after_timeout(shared, now);
        let (nxt, mss) = (self.board.nxt, self.mss());
        self.congestion.timeout(nxt, mss);
        self.bits.set(Bits::TIMED_OUT);
        self.bits.set(Bits::CWR);
        self.bits.clear(Bits::TAIL_PROBE);
        self.dup_acks = 0;
        self.bits.clear(Bits::PROBE_OUT);
        (self.due, self.due_at) = (Due::Retransmit, now + self.rto(&shared.digest));
        true
    }

    /// RFC 8985 section 6.3: the first segment, and what was sent so long ago. Without SACK all of it
    /// (RFC 5681 section 3.1).
    fn mark_after_timeout(&mut self, shared: &mut Shared, now: Micros) {
        if !self.bits.has(Bits::SACK) {
            self.board.mark_lost(&mut shared.blocks, self.board.nxt);
            return;
        }
        let first = self.board.una + u64::from(self.mss().min(self.board.outstanding()));
        self.board.mark_lost(&mut shared.blocks, first);
        let wait = self.newest_rtt.max(self.rtt.smoothed()).saturating_add(self.reordering_window());
        let all = Newest { sent: Micros::MAX, end: u64::MAX };
        self.board.detect_lost(&mut shared.blocks, all, wait, now);
    }
}
