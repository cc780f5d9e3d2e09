//! How much may be in the network: slow start, CUBIC, and the reduction after loss (RFC 5681, 9438, 6937).

use super::cubic::{Cubic, reduced};
use super::seq::{Micros, narrow};

/// What the sender is doing about loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is lost or marked.
    Open,
    /// The peer echoed a mark: the window shrinks as after a loss, but nothing is known to be lost
    /// (RFC 3168 section 6.1.2; Linux's CWR).
    Marked,
    /// Something was found lost (RFC 6675 section 5).
    Recovery,
    /// The retransmission timer fired (RFC 5681 section 3.1).
    Loss,
}

/// What was acknowledged by one segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acked {
    /// Bytes delivered: acknowledged or sacked for the first time.
    pub(crate) delivered: u32,
    /// Bytes acknowledged.
    pub(crate) advanced: u32,
    /// Bytes in the network before it came.
    pub(crate) pipe_before: u32,
    /// Bytes in the network now.
    pub(crate) pipe: u32,
    /// Whether more was found lost.
    pub(crate) lost_more: bool,
}

/// The congestion window of one connection, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    pub(crate) phase: Phase,
    pub(crate) window: u32,
    pub(crate) threshold: u32,
    /// The phase ends when all before this offset is acknowledged.
    pub(crate) recovery_end: u64,
    cubic: Cubic,
    /// Of the phase: in recovery prr_delivered, prr_out and RecoverFS (RFC 6937 section 3), after a timeout the window and
    /// the threshold that it is undone to.
    notes: [u32; 3],
}

const DELIVERED: usize = 0;
const OUT: usize = 1;
const FLIGHT: usize = 2;
const UNDO_WINDOW: usize = 0;
const UNDO_THRESHOLD: usize = 1;

/// More than this is never in flight: half the sequence space would be ambiguous.
const MOST: u32 = 1 << 30;

impl Phase {
    /// Whether nothing is known to be lost.
    #[inline]
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self, Self::Open | Self::Marked)
    }
}

impl Congestion {
    /// The initial window in bytes.
    pub(crate) fn initial(mss: u32, segments: u8) -> u32 {
        let segments = u32::from(segments.max(1));
        (segments * mss).min((2 * mss).max(segments * 1460))
    }

    /// RFC 6928 section 2: at most ten segments, and no more than 14 600 bytes unless two segments are more.
    pub(crate) fn new(mss: u32, initial_segments: u8) -> Self {
        Self {
            phase: Phase::Open,
            window: Self::initial(mss, initial_segments),
            threshold: u32::MAX,
            recovery_end: 0,
            cubic: Cubic::new(),
            notes: [0; 3],
        }
    }

    /// Whether the window doubles each round trip.
    #[inline]
    pub(crate) const fn slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// Bytes that may be sent now, with `pipe` of them in the network.
    #[inline]
    pub(crate) const fn room(&self, pipe: u32) -> u32 {
        self.window.saturating_sub(pipe)
    }

    /// Bytes went out: those of a recovery are counted (RFC 6937 section 3).
    #[inline]
    pub(crate) const fn sent(&mut self, bytes: u32) {
        if matches!(self.phase, Phase::Recovery | Phase::Marked) {
            self.notes[OUT] = self.notes[OUT].saturating_add(bytes);
        }
    }

    /// Something was acknowledged.
    #[inline]
    pub(crate) fn acked(&mut self, now: Micros, acked: Acked, mss: u32, rtt: u32) {
        match self.phase {
            Phase::Recovery | Phase::Marked => self.proportional(acked, mss),
            Phase::Open | Phase::Loss => self.grow(now, acked, mss, rtt),
        }
    }

    fn grow(&mut self, now: Micros, acked: Acked, mss: u32, rtt: u32) {
        let slow_start = self.slow_start();
        // RFC 9438 section 5.8, RFC 7661 section 4.3: a window that was not used does not grow. In slow start half of it is
        // enough, so that the last round's bytes still count.
        let used = if slow_start { acked.pipe_before.saturating_mul(2) } else { acked.pipe_before + 3 * mss };
        if used < self.window || acked.delivered == 0 {
            return;
        }
        let grown = if slow_start {
            // RFC 5681 section 3.1 with RFC 3465 and RFC 9406 section 4.2: by what was acknowledged, whole.
            acked.delivered.min(self.threshold - self.window)
        } else {
            self.cubic.growth(now, self.window, mss, acked.delivered, rtt)
        };
        self.window = self.window.saturating_add(grown).min(MOST);
    }

    /// RFC 6937 section 3, with slow start reduction bound.
    fn proportional(&mut self, acked: Acked, mss: u32) {
        self.notes[DELIVERED] = self.notes[DELIVERED].saturating_add(acked.delivered);
        let [delivered, out, flight] = self.notes;
        let send = if acked.pipe > self.threshold {
            let share = u64::from(delivered) * u64::from(self.threshold);
            narrow(share.div_ceil(u64::from(flight.max(1)))).saturating_sub(out)
        } else {
            // SSRB only while the acknowledgements show progress and no further loss, otherwise the conservative bound.
            let made_up = delivered.saturating_sub(out);
            let limit = if acked.advanced > 0 && !acked.lost_more {
                made_up.max(acked.delivered).saturating_add(mss)
            } else {
                made_up
            };
            (self.threshold - acked.pipe).min(limit)
        };
        // Section 3: the first retransmission of a recovery goes out in any case.
        let first = out == 0 && self.phase == Phase::Recovery;
        let send = if first { send.max(mss) } else { send };
        self.window = acked.pipe.saturating_add(send);
    }

    /// A mark was echoed, nothing was lost: one reduction until `nxt` is acknowledged. `flight` is what was outstanding.
    pub(crate) fn enter_marked(&mut self, nxt: u64, flight: u32, mss: u32) {
        self.reduce(mss);
        self.begin(Phase::Marked, nxt, flight);
    }

    /// Loss was found: the same, unless a mark has done it already (RFC 3168 section 6.1.2: once a round trip).
    pub(crate) fn enter_recovery(&mut self, nxt: u64, flight: u32, mss: u32) {
        if self.phase != Phase::Marked {
            self.reduce(mss);
        }
        self.begin(Phase::Recovery, nxt, flight);
    }

    const fn begin(&mut self, phase: Phase, nxt: u64, flight: u32) {
        self.phase = phase;
        self.recovery_end = nxt;
        self.notes = [0; 3];
        self.notes[FLIGHT] = flight;
    }

    fn reduce(&mut self, mss: u32) {
        self.cubic.reduce(self.window);
        // RFC 9438 section 4.6: at least two segments.
        self.threshold = reduced(self.window).max(2 * mss);
    }

    /// The retransmission timer fired (RFC 5681 section 3.1: one segment; the threshold only the first time).
    pub(crate) fn timeout(&mut self, nxt: u64, mss: u32) {
        if self.phase != Phase::Loss {
            self.notes[UNDO_WINDOW] = self.window;
            self.notes[UNDO_THRESHOLD] = self.threshold;
        }
        if self.phase == Phase::Open {
            self.reduce(mss);
        }
        self.phase = Phase::Loss;
        self.recovery_end = nxt;
        self.window = mss;
    }

    /// All of the phase is acknowledged.
    pub(crate) fn leave(&mut self, mss: u32) {
        if matches!(self.phase, Phase::Recovery | Phase::Marked) {
            // RFC 6937 section 3: at the end the window is the threshold.
            self.window = self.threshold.max(mss);
        }
        self.phase = Phase::Open;
    }

    /// A tail loss probe repaired a loss: reduced like any other (RFC 8985 section 7.4.2), with nothing left to repair.
    pub(crate) fn reduce_once(&mut self, mss: u32) {
        self.reduce(mss);
        self.window = self.threshold;
    }

    /// The reduction was for nothing (RFC 4015).
    pub(crate) fn undo(&mut self) {
        self.window = self.window.max(self.notes[UNDO_WINDOW]);
        self.threshold = self.threshold.max(self.notes[UNDO_THRESHOLD]);
        self.phase = Phase::Open;
        self.cubic.restart();
    }

    /// Nothing was sent for longer than the timeout: at most the initial window is sent at once then
    /// (RFC 5681 section 4.1), and the curve begins anew.
    pub(crate) fn idle(&mut self, initial: u32) {
        if self.window > initial {
            self.threshold = self.threshold.max(narrow(u64::from(self.window) * 3 / 4));
            self.window = initial;
        }
        self.cubic.restart();
    }
}
