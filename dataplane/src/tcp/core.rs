//! What is kept of one connection, and the small questions asked of it.

use super::config::Config;
use super::congestion::Congestion;
use super::rtt::Rtt;
use super::scoreboard::{Board, Newest};
use super::segment::Block;
use super::seq::{Coarse, Micros, NEVER, Seq, low, narrow};
use super::timers::{Links, NOBODY};
use crate::net::Path;

/// The states of RFC 9293 section 3.3.2. LISTEN is a bit of the stack, CLOSED is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// We sent a SYN.
    SynSent,
    /// Both SYNs were seen, ours is not acknowledged.
    SynReceived,
    /// Open.
    Established,
    /// Our FIN was sent.
    FinWait1,
    /// Our FIN was acknowledged.
    FinWait2,
    /// The peer's FIN came.
    CloseWait,
    /// Both FINs were sent, ours is not acknowledged.
    Closing,
    /// The peer's FIN came first, then ours was sent.
    LastAck,
    /// Both FINs are acknowledged, and the application has not consumed all bytes yet. As soon as it has, the connection
    /// moves to a table without buffers.
    TimeWait,
}

impl State {
    /// Whether both SYNs are acknowledged.
    #[inline]
    pub(crate) const fn synchronised(self) -> bool {
        !matches!(self, Self::SynSent | Self::SynReceived)
    }

    /// Whether the peer may still send data.
    #[inline]
    pub(crate) const fn receiving(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

/// What the retransmission timer stands for: only one of these is running (RFC 8985 section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Retransmission (RFC 6298), of a SYN too.
    Retransmit,
    /// Tail loss probe (RFC 8985 section 7).
    Probe,
    /// Reordering (RFC 8985 section 6.2).
    Reorder,
    /// Window probe (RFC 9293 section 3.8.6.1).
    Persist,
    /// FIN-WAIT-2 without a word from the peer.
    FinWait,
}

/// Yes-or-no facts of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(u32);

impl Bits {
    /// The application will queue no more: a FIN follows the last byte.
    pub(crate) const FINISH: u32 = 1;
    /// An acknowledgement is to be sent in this turn.
    pub(crate) const ACK_NOW: u32 = 1 << 1;
    /// SACK was agreed.
    pub(crate) const SACK: u32 = 1 << 2;
    /// Timestamps were agreed.
    pub(crate) const TIMESTAMPS: u32 = 1 << 3;
    /// ECN was agreed.
    pub(crate) const ECN: u32 = 1 << 4;
    /// A mark came, and the peer has not said that it slowed down.
    pub(crate) const ECHO: u32 = 1 << 5;
    /// The peer is to be told that we slowed down.
    pub(crate) const CWR: u32 = 1 << 6;
    /// Its content is not there yet.
    pub(crate) const PARKED: u32 = 1 << 8;
    /// A tail loss probe is to be sent.
    pub(crate) const TAIL_PROBE: u32 = 1 << 9;
    /// The tail loss probe was old bytes.
    pub(crate) const PROBE_AGAIN: u32 = 1 << 10;
    /// The application wants a reset.
    pub(crate) const RESET: u32 = 1 << 11;
    /// The application wants unread bytes to be offered again.
    pub(crate) const MORE: u32 = 1 << 12;
    /// Segments were seen to overtake each other.
    pub(crate) const REORDERED: u32 = 1 << 13;
    /// The peer's FIN came, before what precedes it.
    pub(crate) const FIN_HELD: u32 = 1 << 14;
    /// A window or keepalive probe is to be sent.
    pub(crate) const PROBE: u32 = 1 << 15;
    /// A SYN or SYN-ACK is to be sent.
    pub(crate) const SYN: u32 = 1 << 16;
    /// We began the connection.
    pub(crate) const DIALLED: u32 = 1 << 17;
    /// The last timeout may turn out to be spurious.
    pub(crate) const MAY_UNDO: u32 = 1 << 18;
    /// The recovery was begun by a timeout: retransmissions are counted there.
    pub(crate) const TIMED_OUT: u32 = 1 << 19;
    /// A duplicate is to be reported (RFC 2883).
    pub(crate) const DSACK: u32 = 1 << 20;
    /// ECN is asked for by our SYN.
    pub(crate) const ASK_ECN: u32 = 1 << 21;
    /// Window scaling was agreed.
    pub(crate) const SCALE: u32 = 1 << 22;
    /// A tail loss probe is out.
    pub(crate) const PROBE_OUT: u32 = 1 << 23;
    /// A challenge was sent once.
    pub(crate) const CHALLENGED: u32 = 1 << 24;
    /// The place is in use.
    pub(crate) const LIVE: u32 = 1 << 25;
    /// The place is in the list of those with something to send; it stays in it when the connection is gone.
    pub(crate) const READY: u32 = 1 << 26;
    /// The last segment came from another MAC address than those before ([`super::moves`]).
    pub(crate) const MOVED: u32 = 1 << 27;
    /// It came from a cookie.
    pub(crate) const COOKIE: u32 = 1 << 7;

    #[inline]
    pub(crate) const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    #[inline]
    pub(crate) const fn set(&mut self, bit: u32) {
        self.0 |= bit;
    }

    #[inline]
    pub(crate) const fn clear(&mut self, bit: u32) {
        self.0 &= !bit;
    }

    /// Whether it was set; it is not any more.
    #[inline]
    pub(crate) const fn take(&mut self, bit: u32) -> bool {
        let had = self.has(bit);
        self.clear(bit);
        had
    }
}

/// One connection, without the application's part.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) path: Path,
    pub(crate) local_port: u16,
    pub(crate) peer_port: u16,
    pub(crate) state: State,
    pub(crate) due: Due,
    pub(crate) bits: Bits,
    pub(crate) links: Links,

    /// The sequence number of the stream's first byte: ISS + 1.
    pub(crate) origin: Seq,
    /// What is in flight.
    pub(crate) board: Board,
    /// The stream's length so far.
    pub(crate) queued: u64,
    /// SND.WND, scaled, and the segment that it is from (SND.WL1; SND.WL2 is never after SND.UNA, which is compared
    /// before).
    pub(crate) window: u32,
    pub(crate) window_seq: Seq,
    /// The largest window that the peer ever offered.
    pub(crate) max_window: u32,
    /// Bytes of payload of a full segment, options deducted.
    pub(crate) mss: u16,
    pub(crate) peer_scale: u8,
    pub(crate) our_scale: u8,

    pub(crate) congestion: Congestion,
    pub(crate) rtt: Rtt,
    /// Doublings of the timeout; also counts SYNs sent again.
    pub(crate) backoff: u8,
    pub(crate) dup_acks: u8,
    /// Duplicate acknowledgements owed to a peer that counts them.
    pub(crate) acks_owed: u8,
    /// RACK.reo_wnd_mult and reo_wnd_persist (RFC 8985 section 6.2, step 4).
    pub(crate) reorder_quarters: u8,
    pub(crate) reorder_persist: u8,
    pub(crate) keepalives: u8,
    /// Segments since the last acknowledgement.
    pub(crate) unacked: u8,
    /// RACK.xmit_ts and RACK.end_seq.
    pub(crate) newest: Newest,
    /// RACK.rtt.
    pub(crate) newest_rtt: u32,
    /// RACK.fack: the highest offset delivered.
    pub(crate) highest: Seq,
    /// Until where the reordering window is not widened again.
    pub(crate) dsack_round: Seq,
    /// TLP.end_seq, with [`Bits::PROBE_OUT`].
    pub(crate) probe_end: Seq,
    /// The timestamp of the first retransmission of a timeout.
    pub(crate) undo_stamp: u32,

    pub(crate) due_at: Micros,
    pub(crate) ack_at: Micros,
    pub(crate) app_at: Micros,
    pub(crate) pace_at: Micros,
    /// When the peer was last heard.
    pub(crate) heard_at: Coarse,
    /// Since when the oldest byte in flight waits.
    pub(crate) progress_at: Coarse,
    /// When something was last sent.
    pub(crate) sent_at: Coarse,

    /// RCV.NXT.
    pub(crate) next: Seq,
    /// The right edge of the window that the peer was told.
    pub(crate) edge: Seq,
    /// The last acknowledgement number sent.
    pub(crate) acked: Seq,
    /// Where the peer's FIN is, with [`Bits::FIN_HELD`].
    pub(crate) fin: Seq,
    /// The block of unread and out-of-order bytes.
    pub(crate) buffer: u32,
    /// The largest payload that came, at most.
    pub(crate) largest_in: u16,
    /// What to report as a duplicate.
    pub(crate) dsack: Block,
    /// TS.Recent.
    pub(crate) recent: u32,
    /// The origin of our timestamps.
    pub(crate) clock: u32,
    /// When the last challenge was sent.
    pub(crate) challenged_at: Coarse,
}

impl Core {
    pub(crate) fn new(path: Path, local_port: u16, peer_port: u16, state: State) -> Self {
        Self {
            path,
            local_port,
            peer_port,
            state,
            due: Due::Nothing,
            bits: Bits(Bits::LIVE),
            links: Links::new(),
            origin: Seq(0),
            board: Board::new(),
            queued: 0,
            window: 0,
            window_seq: Seq(0),
            max_window: 0,
            mss: 536,
            peer_scale: 0,
            our_scale: 0,
            congestion: Congestion::new(536, 10),
            rtt: Rtt::new(),
            backoff: 0,
            dup_acks: 0,
            acks_owed: 0,
            reorder_quarters: 1,
            reorder_persist: 0,
            keepalives: 0,
            unacked: 0,
            newest: Newest::default(),
            newest_rtt: 0,
            highest: Seq(0),
            dsack_round: Seq(0),
            probe_end: Seq(0),
            undo_stamp: 0,
            due_at: NEVER,
            ack_at: NEVER,
            app_at: NEVER,
            pace_at: 0,
            heard_at: Coarse::new(0),
            progress_at: Coarse::new(0),
            sent_at: Coarse::new(0),
            next: Seq(0),
            edge: Seq(0),
            acked: Seq(0),
            fin: Seq(0),
            buffer: NOBODY,
            largest_in: 0,
            dsack: Block::default(),
            recent: 0,
            clock: 0,
            challenged_at: Coarse::new(0),
        }
    }

    /// Whether the timer that is running means that the peer has not answered.
    pub(crate) const fn is_unanswered(&self) -> bool {
        matches!(self.due, Due::Retransmit | Due::Persist)
    }

    /// The sequence number of a stream offset.
    #[inline]
    pub(crate) const fn seq_of(&self, offset: u64) -> Seq {
        self.origin.plus(low(offset))
    }

    /// Full-sized payload.
    #[inline]
    pub(crate) fn mss(&self) -> u32 {
        u32::from(self.mss)
    }

    /// The offset after all that is to be sent, FIN included.
    #[inline]
    pub(crate) fn send_end(&self) -> u64 {
        self.queued + u64::from(self.bits.has(Bits::FINISH))
    }

    /// Whether our FIN was sent.
    #[inline]
    pub(crate) const fn fin_sent(&self) -> bool {
        self.board.nxt > self.queued
    }

    /// Whether our FIN was acknowledged.
    #[inline]
    pub(crate) const fn fin_acked(&self) -> bool {
        self.board.una > self.queued
    }

    /// Bytes that should be in the network. Without SACK each duplicate acknowledgement stands for a segment that
    /// arrived (RFC 5681 section 3.2, RFC 3042).
    #[inline]
    pub(crate) fn pipe(&self) -> u32 {
        let pipe = self.board.pipe();
        if self.bits.has(Bits::SACK) || self.dup_acks == 0 {
            return pipe;
        }
        pipe.saturating_sub(u32::from(self.dup_acks) * self.mss())
    }

    /// Bytes of the peer's window that are not used.
    #[inline]
    pub(crate) fn window_left(&self) -> u32 {
        narrow((self.board.una + u64::from(self.window)).saturating_sub(self.board.nxt))
    }

    /// Whether segments with data, or retransmissions of them, may be sent in this state.
    #[inline]
    pub(crate) const fn may_send_data(&self) -> bool {
        self.state.synchronised() && !matches!(self.state, State::FinWait2 | State::TimeWait)
    }

    /// The number of new bytes that may be sent now; a FIN alone is one.
    ///
    /// RFC 9293 section 3.8.6.2.1, avoiding the silly window: a segment that is not full goes only if it is the last of
    /// what is queued, or half of the largest window seen. There is no Nagle: what is queued is meant to be sent.
    #[inline]
    pub(crate) fn allowance(&self) -> u32 {
        if !self.may_send_data() {
            return 0;
        }
        let room = self.congestion.room(self.pipe());
        let left = narrow(self.queued.saturating_sub(self.board.nxt));
        let window = self.window_left();
        if left == 0 {
            // A FIN has a sequence number, so it has to be in the window too (RFC 9293 section 3.4).
            return u32::from(self.board.nxt < self.send_end() && room > 0 && window > 0);
        }
        let bytes = left.min(room).min(window);
        let whole = bytes >= self.mss() || bytes == left;
        let half = window < self.mss() && bytes == window && bytes >= self.max_window / 2;
        if whole || half { bytes } else { 0 }
    }

    /// Whether there is something to be sent now.
    #[inline]
    pub(crate) fn has_work(&self, now: Micros) -> bool {
        const NOW: u32 = Bits::ACK_NOW | Bits::PROBE | Bits::SYN;
        self.bits.has(NOW)
            || self.acks_owed > 0
            || (self.pace_at <= now || self.bits.has(Bits::TAIL_PROBE)) && self.has_data_work()
    }

    /// The same, of what needs content.
    #[inline]
    pub(crate) fn has_data_work(&self) -> bool {
        if self.bits.has(Bits::PARKED) {
            return false;
        }
        if self.bits.has(Bits::TAIL_PROBE) && self.board.lost() == 0 && self.may_send_data() {
            return true;
        }
        if self.board.lost() == 0 {
            return self.allowance() > 0;
        }
        self.may_send_data() && self.congestion.room(self.pipe()) >= self.mss().min(self.board.lost())
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn earliest(&self, now: Micros, config: &Digest) -> Micros {
        let mut at = self.due_at.min(self.ack_at).min(self.app_at);
        if self.pace_at > now && self.has_data_work() {
            at = at.min(self.pace_at);
        }
        at.min(self.keepalive_at(now, config))
    }

    /// When the next keepalive is due, or the connection to be given up.
    #[inline]
    pub(crate) fn keepalive_at(&self, now: Micros, config: &Digest) -> Micros {
        if config.keep_idle == 0 || !self.state.synchronised() {
            return NEVER;
        }
        let patience = config.keep_idle + u64::from(self.keepalives) * config.keep_interval;
        now + patience.saturating_sub(self.heard_at.elapsed(now))
    }

    /// RTO now.
    #[inline]
    pub(crate) fn rto(&self, config: &Digest) -> Micros {
        Micros::from(self.rtt.rto(config.min_rto, self.backoff))
    }
}

/// The configuration as the connections want it: in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest {
    pub(crate) config: Config,
    pub(crate) min_rto: u32,
    pub(crate) delayed_ack: Micros,
    pub(crate) give_up: Micros,
    pub(crate) fin_wait: Micros,
    pub(crate) time_wait: Micros,
    /// Zero for no keepalive.
    pub(crate) keep_idle: Micros,
    pub(crate) keep_interval: Micros,
    pub(crate) keep_probes: u8,
    /// The shift of our window (RFC 7323 section 2.3).
    pub(crate) scale: u8,
}

impl Digest {
    pub(crate) fn new(config: Config) -> Self {
        let micros =
            |duration: std::time::Duration| Micros::try_from(duration.as_micros()).unwrap_or(NEVER / 4);
        let keep = config.keepalive;
        // The smallest shift by which the window fits into 16 bits, at most 14 (RFC 7323 section 2.3).
        let scale = (0..14).find(|&shift| config.receive_window >> shift <= 0xffff).unwrap_or(14);
        Self {
            config,
            min_rto: super::seq::span(config.min_rto),
            delayed_ack: micros(config.delayed_ack),
            give_up: micros(config.give_up),
            fin_wait: micros(config.fin_wait_for),
            time_wait: micros(config.time_wait_for),
            keep_idle: keep.map_or(0, |keep| micros(keep.idle).max(1)),
            keep_interval: keep.map_or(0, |keep| micros(keep.interval)),
            keep_probes: keep.map_or(0, |keep| keep.probes),
            scale,
        }
    }

    /// The MSS that we announce on a path: what fits into the MTU behind headers without options (RFC 6691 section 2).
    pub(crate) fn announced_mss(&self, path: &Path) -> u16 {
        self.config.limits.mtu.saturating_sub(if path.is_v4() { 40 } else { 60 }).max(MIN_MSS)
    }
}

/// Below this a peer's MSS is not believed: it would make us send mostly headers. Linux's least is 48 with options.
pub(crate) const MIN_MSS: u16 = 48;
