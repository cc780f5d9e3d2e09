//! The round trip's estimate and the retransmission timeout (RFC 6298).

use super::seq::{Coarse, Micros};

/// RFC 6298 section 2.1: until a round trip has been measured.
pub(crate) const INITIAL_RTO: u32 = 1_000_000;
/// RFC 6298 section 5.7: after a SYN had to be sent again, until a round trip has been measured.
const FALLBACK_RTO: u32 = 3_000_000;
/// RFC 6298 section 2.5: an upper limit is allowed, at least 60 s.
const MAX_RTO: u32 = 60_000_000;
/// RFC 8985 section 6.2, step 1: the least round trip is of a recent span.
const MIN_WINDOW: Micros = 300_000_000;

/// Smoothed round trip and its deviation, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    /// Eight times SRTT, or zero before the first measurement.
    smoothed8: u32,
    /// Four times RTTVAR; before the first measurement the timeout, if it is not the usual one.
    variation4: u32,
    /// The least of the last five minutes.
    min: u32,
    min_at: Coarse,
}

impl Rtt {
    pub(crate) const fn new() -> Self {
        Self { smoothed8: 0, variation4: 0, min: u32::MAX, min_at: Coarse::new(0) }
    }

    /// A measurement of a segment that was sent once (Karn's algorithm, RFC 6298 section 3).
    pub(crate) fn sample(&mut self, now: Micros, rtt: u32) {
        let rtt = rtt.clamp(1, MAX_RTO);
        if rtt <= self.min || self.min_at.elapsed(now) > MIN_WINDOW {
            (self.min, self.min_at) = (rtt, Coarse::new(now));
        }
        if self.smoothed8 == 0 {
            // Section 2.2: SRTT = R, RTTVAR = R / 2.
            (self.smoothed8, self.variation4) = (rtt * 8, rtt * 2);
        } else {
            // Section 2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R|, then SRTT = 7/8 SRTT + 1/8 R.
            let deviation = self.smoothed().abs_diff(rtt);
            self.variation4 = self.variation4 - self.variation4 / 4 + deviation;
            self.smoothed8 = self.smoothed8 - self.smoothed8 / 8 + rtt;
        }
    }

    /// The SYN had to be sent again, so that nothing was measured (section 5.7).
    pub(crate) const fn fall_back(&mut self) {
        if !self.known() {
            self.variation4 = FALLBACK_RTO;
        }
    }

    /// Whether a round trip has been measured.
    #[inline]
    pub(crate) const fn known(&self) -> bool {
        self.smoothed8 != 0
    }

    /// SRTT; zero before the first measurement.
    #[inline]
    pub(crate) const fn smoothed(&self) -> u32 {
        self.smoothed8 / 8
    }

    /// The least round trip; the largest number before the first measurement.
    #[inline]
    pub(crate) const fn min(&self) -> u32 {
        self.min
    }

    /// RTO, after `backoff` doublings (section 5.5).
    #[inline]
    pub(crate) fn rto(&self, least: u32, backoff: u8) -> u32 {
        // Section 2.3: SRTT + max(G, 4 RTTVAR); the clock is finer than anything here.
        let rto = if self.known() {
            self.smoothed() + self.variation4.max(1)
        } else {
            self.variation4.max(INITIAL_RTO)
        };
        let rto = u64::from(rto.max(least)) << backoff.min(16);
        super::seq::narrow(rto).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6298_section_2() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.rto(200_000, 0), INITIAL_RTO);
        rtt.sample(0, 100_000);
        assert_eq!((rtt.smoothed(), rtt.rto(200_000, 0)), (100_000, 300_000));
        rtt.sample(0, 180_000);
        // RTTVAR = 3/4 50 + 1/4 80 = 57.5 ms; SRTT = 7/8 100 + 1/8 180 = 110 ms.
        assert_eq!((rtt.smoothed(), rtt.rto(200_000, 0)), (110_000, 340_000));
        assert_eq!(rtt.rto(200_000, 2), 1_360_000);
        assert_eq!(rtt.rto(200_000, 60), MAX_RTO);
    }

    #[test]
    fn the_least_is_forgotten_after_a_while() {
        let mut rtt = Rtt::new();
        rtt.sample(0, 50);
        rtt.sample(1_000, 400);
        assert_eq!(rtt.min(), 50);
        rtt.sample(2 * MIN_WINDOW, 400);
        assert_eq!(rtt.min(), 400);
        assert_eq!(rtt.rto(200_000, 0), 200_000);
    }
}
