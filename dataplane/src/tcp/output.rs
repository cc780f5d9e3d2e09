//! What one connection sends in its turn: first what was lost, then new bytes, then an acknowledgement alone.

use super::congestion::Congestion;
use super::core::{Bits, Core, Due, State};
use super::segment::{Block, Flags, MAX_SACKS, Segment, Timestamps};
use super::seq::{Coarse, Micros, NEVER, Seq, low, narrow};
use super::shared::{Shared, bare};
use super::stack::{Out, Sent};
use super::timers::NOBODY;
use crate::net::Ecn;

/// How a connection's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has nothing more to send for now.
    Done,
    /// Its quantum is used up.
    More,
    /// The other side takes no more.
    Full,
    /// Its content has changed.
    Gone,
}

impl Core {
    /// Sends what may be sent.
    pub(crate) fn transmit<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Turn {
        if self.bits.has(Bits::SYN) {
            return self.transmit_syn(shared, now, out, state);
        }
        if self.state == State::SynSent {
            return Turn::Done;
        }
        self.renew_edge(shared);
        let mut segment = self.template(now);
        segment.turn = shared.next_turn();
        if !self.bits.has(Bits::SACK)
            && self.acks_owed > 1
            && !self.transmit_duplicates(shared, &segment, out, state)
        {
            return Turn::Full;
        }
        let mut turn = Turn::Done;
        if !self.bits.has(Bits::PARKED) && self.may_send_data() {
            turn = self.transmit_data(shared, now, &mut segment, out, state);
        }
        if turn == Turn::Gone || turn == Turn::Full {
            return turn;
        }
        if !self.transmit_control(shared, now, &mut segment, out, state) {
            return Turn::Full;
        }
        turn
    }

    /// What all segments of this turn have in common.
    #[inline]
    fn template(&self, now: Micros) -> Segment {
        let mut segment = bare(&self.path, self.local_port, self.peer_port);
        segment.ack = self.next;
        segment.flags = Flags::ACK;
        if self.bits.has(Bits::ECHO) {
            segment.flags |= Flags::ECE;
        }
        let window = self.edge.bytes_since(self.next) >> self.our_scale;
        segment.window = u16::try_from(window).unwrap_or(u16::MAX);
        if self.bits.has(Bits::TIMESTAMPS) {
            segment.options.timestamps(Timestamps { value: self.timestamp(now), echo: self.recent });
        }
        segment.mss = self.mss;
        segment
    }

    fn transmit_data<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Turn {
        let mut left = self.turn_bytes(shared, now);
        let start = left;
        let before = (self.board.nxt, self.board.outstanding());
        let turn = loop {
            if self.pace_at > now && !self.bits.has(Bits::TAIL_PROBE) {
                break Turn::Done;
            }
            if left == 0 {
                break Turn::More;
            }
            let sent = if self.board.lost() > 0 {
                self.transmit_lost(shared, now, segment, out, state)
            } else if self.bits.has(Bits::TAIL_PROBE) {
                self.transmit_tail_probe(shared, now, segment, out, state)
            } else {
                self.transmit_new(shared, now, &mut left, segment, out, state)
            };
            match sent {
                Step::Sent(bytes) => {
                    left = left.saturating_sub(bytes);
                    // A small response is one segment: nothing is asked again then.
                    if self.has_sent_all() {
                        break Turn::Done;
                    }
                }
                Step::Nothing => break Turn::Done,
                Step::Blocked(Sent::NotYet) => {
                    self.bits.set(Bits::PARKED);
                    break Turn::Done;
                }
                Step::Blocked(Sent::Gone) => return Turn::Gone,
                Step::Blocked(Sent::Full | Sent::Yes) => break Turn::Full,
            }
        };
        if left < start {
            self.after_sending(shared, now, start - left, before);
        }
        turn
    }

    /// Whether nothing is left of what is queued, nor of what was lost.
    #[inline]
    fn has_sent_all(&self) -> bool {
        self.board.nxt == self.send_end() && self.board.lost() == 0 && !self.bits.has(Bits::TAIL_PROBE)
    }

    /// Bytes that may go in this turn.
    fn turn_bytes(&mut self, shared: &Shared, now: Micros) -> u32 {
        let config = &shared.digest.config;
        if self.board.outstanding() == 0 && self.sent_at.elapsed(now) > self.rto(&shared.digest) {
            self.congestion.idle(Congestion::initial(self.mss(), config.initial_window));
        }
        let quantum = config.quantum.max(self.mss());
        self.pace_per_ms(shared).map_or(quantum, |per_ms| per_ms.max(2 * self.mss()).min(quantum))
    }

    /// Bytes a millisecond, if this connection is paced: twice the window a round trip in slow start, a fifth more than
    /// it later, as Linux does. Shorter round trips than a millisecond aren't worth a timer, nor is the first window.
    fn pace_per_ms(&self, shared: &Shared) -> Option<u32> {
        let config = &shared.digest.config;
        let first = u64::from(config.initial_window) * u64::from(self.mss());
        let rtt = u64::from(self.rtt.smoothed());
        if !config.pacing || rtt < 1_000 || self.board.nxt < first {
            return None;
        }
        let window = u64::from(self.congestion.window);
        let rate = if self.congestion.slow_start() { window * 2 } else { window * 6 / 5 };
        Some(narrow(rate * 1000 / rtt).max(1))
    }

    /// Bytes were sent: the timers and the pace.
    fn after_sending(&mut self, shared: &Shared, now: Micros, bytes: u32, (nxt, outstanding): (u64, u32)) {
        if outstanding == 0 {
            self.progress_at = Coarse::new(now);
        }
        self.sent_at = Coarse::new(now);
        if let Some(per_ms) = self.pace_per_ms(shared) {
            self.pace_at = self.pace_at.max(now) + u64::from(bytes) * 1000 / u64::from(per_ms);
        }
        // RFC 6298 section 5.1: the timer is started if it doesn't run. RFC 8985 section 7.2: new bytes move the probe.
        let moved = self.board.nxt > nxt && self.due == Due::Probe;
        if moved || matches!(self.due, Due::Nothing | Due::Persist | Due::FinWait) {
            self.rearm(shared, now);
        }
    }

    /// Sends lost bytes again.
    fn transmit_lost<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Step {
        let room = self.congestion.room(self.pipe());
        if room < self.mss().min(self.board.lost()) {
            return Step::Nothing;
        }
        let most = self.largest(shared, room);
        let Some((start, end)) = self.board.next_lost(&mut shared.blocks, most) else { return Step::Nothing };
        // Sent again by what the peer's window is now, even if it has shrunk (RFC 9293 section 3.8.6).
        let fin = end > self.queued;
        self.fill(segment, start, end - u64::from(fin), fin, true);
        let sent = out.segment(segment, state);
        if sent != Sent::Yes {
            return Step::Blocked(sent);
        }
        let together = self.together();
        self.board.sent_again(&mut shared.blocks, start..end, now, together);
        if self.bits.has(Bits::TIMED_OUT) {
            shared.stats.retransmits_timeout += 1;
        } else {
            shared.stats.retransmits_fast += 1;
        }
        self.went_out(shared, segment);
        Step::Sent(narrow(end - start))
    }

    /// Sends new bytes, and the FIN behind the last; of those that are `left` it takes off all whole segments but one.
    #[inline]
    fn transmit_new<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        left: &mut u32,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Step {
        let mut allowance = self.allowance();
        if allowance == 0 {
            return Step::Nothing;
        }
        // Each byte that goes is one less of those that are queued, and of the room in either window: as long as another
        // segment is whole, what may go need not be asked anew.
        let mut most = self.largest(shared, *left);
        if allowance >= 2 * most && *left > most {
            while allowance >= 2 * most && *left > most {
                match self.send_new(shared, now, most, segment, out, state) {
                    Step::Sent(bytes) => (allowance, *left) = (allowance - bytes, *left - bytes),
                    step => return step,
                }
            }
            most = self.largest(shared, *left);
        }
        self.send_new(shared, now, allowance.min(most), segment, out, state)
    }

    #[inline]
    fn send_new<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        bytes: u32,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Step {
        let start = self.board.nxt;
        let queued = self.queued - start;
        let mut bytes = bytes.min(narrow(queued));
        if u64::from(bytes) < queued && bytes > self.mss() {
            // Whole segments, as long as more follows.
            bytes -= bytes % self.mss();
        }
        let end = start + u64::from(bytes);
        let fin = self.bits.has(Bits::FINISH) && end == self.queued && self.window_left() > bytes;
        self.fill(segment, start, end, fin, false);
        let sent = out.segment(segment, state);
        if sent != Sent::Yes {
            return Step::Blocked(sent);
        }
        let taken = bytes + u32::from(fin);
        let together = self.together();
        self.board.sent(&mut shared.blocks, now, taken, together);
        if fin {
            self.state = if self.state == State::CloseWait { State::LastAck } else { State::FinWait1 };
        }
        self.went_out(shared, segment);
        Step::Sent(taken)
    }

    /// RFC 8985 section 7.3: a segment of new bytes, or the last one again.
    fn transmit_tail_probe<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Step {
        let nxt = self.board.nxt;
        let fresh = self.mss().min(self.window_left()).min(narrow(self.queued.saturating_sub(nxt)));
        let step = if self.board.outstanding() == 0 {
            self.bits.clear(Bits::TAIL_PROBE);
            return Step::Sent(0);
        } else if fresh > 0 {
            self.bits.clear(Bits::PROBE_AGAIN);
            self.send_new(shared, now, fresh, segment, out, state)
        } else {
            let start = self.board.una.max(nxt - u64::from(self.mss().min(narrow(nxt))));
            let fin = self.fin_sent();
            self.fill(segment, start, nxt - u64::from(fin), fin, true);
            match out.segment(segment, state) {
                Sent::Yes => {}
                sent => return Step::Blocked(sent),
            }
            self.board.tail_sent_again(&mut shared.blocks, start, now);
            self.bits.set(Bits::PROBE_AGAIN);
            self.went_out(shared, segment);
            Step::Sent(narrow(nxt - start))
        };
        if let Step::Sent(_) = step {
            shared.stats.tail_probes += 1;
            self.bits.clear(Bits::TAIL_PROBE);
            self.probe_end = Seq(low(self.board.nxt));
            self.bits.set(Bits::PROBE_OUT);
        }
        step
    }

    /// How old the first byte of a run may be: so that a window is about 32 runs.
    #[inline]
    const fn together(&self) -> u32 {
        self.rtt.smoothed() / 32
    }

    /// The most payload of one segment: what is left, in whole segments, up to what the device cuts.
    #[inline]
    fn largest(&self, shared: &Shared, left: u32) -> u32 {
        let mss = self.mss();
        let most = shared.digest.config.limits.largest_segment.min(left);
        if most < 2 * mss { mss } else { most - most % mss }
    }

    /// Makes the template a segment with these bytes.
    #[inline]
    fn fill(&self, segment: &mut Segment, start: u64, end: u64, fin: bool, again: bool) {
        segment.seq = self.seq_of(start);
        segment.payload = start..end;
        segment.again = again;
        let mut flags = segment.flags.without(Flags(Flags::PSH.0 | Flags::FIN.0 | Flags::CWR.0));
        if end == self.queued && end > start {
            flags |= Flags::PSH;
        }
        if fin {
            flags |= Flags::FIN;
        }
        segment.ecn = Ecn::NotCapable;
        if self.bits.has(Bits::ECN) && !again && end > start {
            // RFC 3168 section 6.1.5: never on a retransmission; section 6.1.2: CWR on the first new bytes.
            segment.ecn = Ecn::Capable0;
            if self.bits.has(Bits::CWR) {
                flags |= Flags::CWR;
            }
        }
        segment.flags = flags;
    }

    /// A segment with bytes was taken; it acknowledges too.
    #[inline]
    fn went_out(&mut self, shared: &mut Shared, segment: &Segment) {
        let bytes = segment.payload_len();
        shared.stats.segments_out += 1;
        shared.stats.bytes_out += u64::from(bytes);
        self.congestion.sent(bytes);
        if segment.flags.has(Flags::CWR) {
            self.bits.clear(Bits::CWR);
        }
        // Ranges and duplicates are only told by an acknowledgement alone.
        if self.buffer == NOBODY && !self.bits.has(Bits::DSACK) {
            self.has_acknowledged();
        }
    }

    #[inline]
    fn has_acknowledged(&mut self) {
        self.acked = self.next;
        self.ack_at = NEVER;
        (self.unacked, self.acks_owed) = (0, 0);
        self.bits.clear(Bits::ACK_NOW);
    }

    /// Acknowledgement and probes; false if there was no room for them.
    fn transmit_control<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        segment: &mut Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> bool {
        let probe = self.bits.has(Bits::PROBE);
        if !probe && !self.bits.has(Bits::ACK_NOW) && self.acks_owed == 0 {
            return true;
        }
        segment.flags = segment.flags.without(Flags(Flags::PSH.0 | Flags::FIN.0 | Flags::CWR.0));
        segment.ecn = Ecn::NotCapable;
        segment.again = false;
        segment.payload = self.board.nxt..self.board.nxt;
        segment.seq = self.seq_of(self.board.nxt);
        if probe {
            if self.may_override() {
                // RFC 9293 section 3.8.6.2.1: after a while even a little is sent.
                let bytes = self.window_left();
                self.bits.clear(Bits::PROBE);
                match self.send_new(shared, now, bytes, segment, out, state) {
                    Step::Blocked(Sent::Full) => return false,
                    Step::Blocked(Sent::NotYet) => self.bits.set(Bits::PARKED),
                    _ => self.after_sending(shared, now, bytes, (self.board.nxt, 0)),
                }
                // What it did not acknowledge still has to be.
                return self.transmit_control(shared, now, segment, out, state);
            }
            // The number before the window: whoever gets it has to answer (RFC 9293 section 3.10.7.4), and it needs no
            // content. Linux probes likewise.
            segment.seq = self.seq_of(self.board.una).minus(1);
        }
        if !probe || self.buffer != NOBODY {
            self.name_ranges(shared, segment);
        }
        if out.segment(segment, state) != Sent::Yes {
            return false;
        }
        shared.stats.segments_out += 1;
        self.bits.clear(Bits::PROBE);
        self.bits.clear(Bits::DSACK);
        self.has_acknowledged();
        true
    }

    /// Whether the window has room for less than a segment, and nothing is on the way that would open it.
    fn may_override(&self) -> bool {
        self.board.outstanding() == 0
            && self.window_left() > 0
            && self.board.nxt < self.queued
            && self.may_send_data()
            && !self.bits.has(Bits::PARKED)
    }

    /// RFC 2018 section 4, RFC 2883 section 4: a duplicate first, then what is kept.
    fn name_ranges(&self, shared: &Shared, segment: &mut Segment) {
        if !self.bits.has(Bits::SACK) {
            return;
        }
        let mut blocks = [Block::default(); MAX_SACKS];
        let mut count = 0;
        if self.bits.has(Bits::DSACK) {
            blocks[0] = self.dsack;
            count = 1;
        }
        if self.buffer != NOBODY {
            count += shared.buffers.ranges(self.buffer, &mut blocks[count..]);
        }
        segment.options.sacks(&blocks[..count]);
        segment.turn = 0;
    }

    /// For a peer without SACK each segment out of order is one duplicate acknowledgement (RFC 5681 section 4.2); the
    /// last of them is sent as any other.
    fn transmit_duplicates<S>(
        &mut self,
        shared: &mut Shared,
        template: &Segment,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> bool {
        let mut segment = template.clone();
        segment.seq = self.seq_of(self.board.nxt);
        while self.acks_owed > 1 {
            if out.segment(&segment, state) != Sent::Yes {
                return false;
            }
            shared.stats.segments_out += 1;
            self.acks_owed -= 1;
        }
        true
    }
}

/// One segment of a turn.
enum Step {
    /// So many bytes went.
    Sent(u32),
    /// Nothing may go.
    Nothing,
    /// It was not taken.
    Blocked(Sent),
}
