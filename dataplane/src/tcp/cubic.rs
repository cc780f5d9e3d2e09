//! CUBIC (RFC 9438) in whole numbers: bytes, microseconds, and the cube in milliseconds.

use super::seq::{Micros, narrow};

/// Section 4.6: beta_cubic = 0.7.
#[inline]
pub(crate) const fn reduced(window: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "seven tenths of a u32")]
    let reduced = (window as u64 * 7 / 10) as u32;
    reduced
}

/// The window's curve since the last reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cubic {
    /// When the epoch began; zero if it has not.
    epoch: Micros,
    /// W_max: the window before the last reduction, in bytes.
    w_max: u32,
    /// W_est: what Reno would have (section 4.3), in bytes.
    w_est: u32,
    /// cwnd_prior: the window at the last reduction, in bytes.
    prior: u32,
    /// K: from the epoch's begin to W_max, in milliseconds.
    k: u32,
    /// What of W_est's growth is below a byte, in 1/2^16.
    fraction: u32,
}

/// Beyond so many milliseconds from K the curve is a wall: the clamp on the target is far below.
const FAR: i64 = 60_000;

/// No more than this is acknowledged at once: what is in flight is below half the sequence space, and 64 bits are enough.
const MOST: u32 = 1 << 30;

impl Cubic {
    pub(crate) const fn new() -> Self {
        Self { epoch: 0, w_max: 0, w_est: 0, prior: 0, k: 0, fraction: 0 }
    }

    /// The window was reduced from `window` because of loss or a mark.
    pub(crate) fn reduce(&mut self, window: u32) {
        // Section 4.7, fast convergence: below the last maximum, somebody else needs room.
        self.w_max = if window < self.w_max { narrow(u64::from(window) * 17 / 20) } else { window };
        self.prior = window;
        self.epoch = 0;
    }

    /// Starts again from where the window is, as after idling (section 4.8 and RFC 9438's application-limited rule).
    pub(crate) fn restart(&mut self) {
        self.epoch = 0;
    }

    fn begin(&mut self, now: Micros, window: u32, mss: u32) {
        self.epoch = now.max(1);
        self.w_est = window;
        self.fraction = 0;
        if window < self.w_max {
            // Section 4.2: K = cbrt((W_max - cwnd_epoch) / C) with C = 0.4 segments per cubic second.
            let segments_e9 = u64::from(self.w_max - window) * 2_500_000_000 / u64::from(mss.max(1));
            self.k = cube_root(segments_e9);
        } else {
            (self.k, self.w_max) = (0, window);
        }
    }

    /// How many bytes the window grows in congestion avoidance when `acked` bytes are acknowledged.
    pub(crate) fn growth(&mut self, now: Micros, window: u32, mss: u32, acked: u32, rtt: u32) -> u32 {
        if self.epoch == 0 {
            self.begin(now, window, mss);
        }
        let (window64, acked) = (u64::from(window.max(1)), u64::from(acked.min(MOST)));
        // Section 4.2: the target is the curve a round trip ahead, between the window and half as much again.
        let curve = self.curve(now + u64::from(rtt), mss);
        let target = curve.clamp(window64, window64 + window64 / 2);
        let cubic = (target - window64) * acked / window64;
        // Section 4.3: W_est += alpha * acked / cwnd segments; alpha = 3 (1 - 0.7) / (1 + 0.7) = 9/17, and 1 once
        // W_est is back at the window of the last reduction.
        let (num, den) = if self.w_est >= self.prior { (1, 1) } else { (9, 17) };
        let grown = acked * (u64::from(mss) * num * 65_536 / den) / window64 + u64::from(self.fraction);
        self.fraction = narrow(grown & 0xffff);
        self.w_est = self.w_est.saturating_add(narrow(grown >> 16));
        let reno = u64::from(self.w_est.saturating_sub(window));
        // Reno-friendly region: where CUBIC would be slower than Reno, the estimate is the window.
        if curve < u64::from(self.w_est) { narrow(reno.min(acked)) } else { narrow(cubic) }
    }

    /// W_cubic at a time, in bytes.
    fn curve(&self, at: Micros, mss: u32) -> u64 {
        let elapsed = i64::try_from((at - self.epoch.min(at)) / 1000).unwrap_or(FAR);
        let from_k = (elapsed - i64::from(self.k)).clamp(-FAR, FAR);
        // C (t - K)^3 segments: 0.4 * ms^3 / 10^9. At most 60 000^3 * 65 535 * 4: needs more than 64 bits.
        let bytes = i128::from(from_k).pow(3) * i128::from(mss) * 4 / 10_000_000_000;
        u64::try_from((i128::from(self.w_max) + bytes).max(0)).unwrap_or(u64::MAX)
    }
}

/// The whole part of the cube root.
fn cube_root(value: u64) -> u32 {
    let mut root = 0u64;
    for bit in (0..21).rev() {
        let next = root | 1 << bit;
        if next * next * next <= value {
            root = next;
        }
    }
    narrow(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1448;

    #[test]
    fn cube_roots() {
        for root in [1, 2, 9, 100, 1290, 2_097_151] {
            let cube = u64::from(root).pow(3);
            assert_eq!(cube_root(cube), root);
            assert_eq!(cube_root(cube + 1), root);
        }
    }

    /// The window over `seconds`, when all of it is acknowledged each round trip.
    fn run(cubic: &mut Cubic, mut window: u32, rtt_ms: u64, seconds: u64) -> u32 {
        for round in 0..seconds * 1000 / rtt_ms {
            let now = 1_000_000 + round * rtt_ms * 1000;
            for _ in 0..window / MSS {
                window += cubic.growth(now, window, MSS, MSS, narrow(rtt_ms * 1000));
            }
        }
        window
    }

    #[test]
    fn section_4_2_the_window_is_back_at_its_maximum_after_k() {
        let before = 1000 * MSS;
        let mut cubic = Cubic::new();
        cubic.reduce(before);
        let window = reduced(before);
        // K = cbrt(300 / 0.4) = 9.08 s: concave up to there, convex behind.
        let at_k = run(&mut cubic, window, 100, 9);
        assert_eq!(cubic.k, 9085);
        assert!(at_k.abs_diff(before) < before / 50, "{} of {}", at_k / MSS, before / MSS);
        let mut again = Cubic::new();
        again.reduce(before);
        let half_way = run(&mut again, window, 100, 4);
        assert!(half_way > window + (before - window) / 2, "concave: {}", half_way / MSS);
        let mut longer = Cubic::new();
        longer.reduce(before);
        // 5 s behind K: 0.4 * 5^3 = 50 segments above.
        let behind = run(&mut longer, window, 100, 14);
        assert!(behind.abs_diff(before + 47 * MSS) < 6 * MSS, "convex: {}", behind / MSS);
    }

    #[test]
    fn section_4_3_never_slower_than_reno() {
        // With a short round trip and a small window the curve is nearly flat, and Reno's line is above it.
        let mut cubic = Cubic::new();
        cubic.reduce(20 * MSS);
        let window = run(&mut cubic, 14 * MSS, 10, 1);
        // Reno: 9/17 of a segment a round trip up to 20 segments (12 round trips), then one: about 88 more.
        assert!(window > 95 * MSS, "{}", window / MSS);
    }

    #[test]
    fn section_4_7_fast_convergence() {
        let mut cubic = Cubic::new();
        cubic.reduce(100 * MSS);
        cubic.reduce(60 * MSS);
        assert_eq!(cubic.w_max, 51 * MSS);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut cubic = Cubic::new();
        cubic.reduce(u32::MAX);
        cubic.growth(1, 1, 65_535, u32::MAX, u32::MAX);
        cubic.growth(u64::MAX / 2, u32::MAX, 1, u32::MAX, u32::MAX);
    }
}
