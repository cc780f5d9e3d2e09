//! When the next request is due.

use super::plan::Mode;
use crate::worker::Tick;
use std::time::Duration;

/// The schedule of one thread: at a constant rate the times are fixed beforehand, so that a slow answer delays no later
/// one. What comes late by that is measured from when it should have been sent: nothing is omitted because it had to
/// wait ("coordinated omission").
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// `None` in a closed loop.
    every: Option<f64>,
    /// When the first request is due, in seconds.
    first: f64,
    /// Requests that were sent.
    sent: u64,
}

impl Pace {
    /// The schedule of thread `rank` of so many: their requests alternate.
    #[expect(clippy::cast_precision_loss, reason = "there are no 2^52 threads")]
    pub(super) fn new(mode: Mode, rank: usize, threads: usize) -> Self {
        match mode {
            Mode::Closed => Self { every: None, first: 0.0, sent: 0 },
            Mode::Rate(rate) => {
                Self { every: Some(threads as f64 / rate), first: rank as f64 / rate, sent: 0 }
            }
        }
    }

    /// When the next request is due; `None` in a closed loop, where it always is.
    #[inline]
    pub(super) fn next_at(&self) -> Option<Tick> {
        self.at(self.sent)
    }

    /// When request number `number` is due.
    #[expect(
        clippy::cast_precision_loss,
        reason = "after 2^52 requests a schedule may be off by one of them"
    )]
    fn at(&self, number: u64) -> Option<Tick> {
        // From the number, not from the one before: errors of rounding do not add up.
        let at = self.first + number as f64 * self.every?;
        Some(Tick(Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX)))
    }

    /// Takes all that is overdue: calls `each` with a time and how many requests were due about then. There may be very
    /// many, and a few thousand times tell as much.
    pub(super) fn take_overdue(&mut self, now: Tick, mut each: impl FnMut(Tick, u64)) {
        const TIMES: u64 = 4096;
        let Some(every) = self.every else { return };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, as it should"
        )]
        let mut due = ((now.0.as_secs_f64() - self.first) / every).floor().max(-1.0) as u64;
        // Rounding may have gone one way or the other.
        while self.at(due).is_some_and(|at| at <= now) {
            due += 1;
        }
        let step = (due.saturating_sub(self.sent)).div_ceil(TIMES).max(1);
        while self.sent < due {
            let many = step.min(due - self.sent);
            if let Some(at) = self.at(self.sent + many / 2) {
                each(at, many);
            }
            self.sent += many;
        }
    }

    /// Takes the next request from the schedule, if it is due: when it should have been sent.
    #[inline]
    pub(super) fn take(&mut self, now: Tick) -> Option<Tick> {
        let at = self.next_at().unwrap_or(now);
        if at > now {
            return None;
        }
        self.sent += 1;
        Some(at)
    }

    /// Whether times are fixed beforehand.
    pub(super) const fn is_fixed(&self) -> bool {
        self.every.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Tick {
        Tick(Duration::from_micros(micros))
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        let mut pace = Pace::new(Mode::Closed, 0, 1);
        assert_eq!((pace.take(at(5)), pace.take(at(5)), pace.next_at()), (Some(at(5)), Some(at(5)), None));
    }

    #[test]
    fn times_are_fixed_whenever_they_are_taken() {
        let mut pace = Pace::new(Mode::Rate(1000.0), 1, 2);
        assert_eq!((pace.take(at(999)), pace.next_at()), (None, Some(at(1000))));
        assert_eq!(pace.take(at(1000)), Some(at(1000)));
        assert_eq!(pace.take(at(1000)), None);
        // Nobody looked for a while: all that is overdue is taken with its own time.
        let late: Vec<Tick> = std::iter::from_fn(|| pace.take(at(8000))).collect();
        assert_eq!(late, [at(3000), at(5000), at(7000)]);
    }

    #[test]
    fn what_is_overdue_is_taken_together() {
        for (rate, until) in [(1000.0, 8000), (1000.0, 8001), (3.0, 900_000_000), (7e6, 10_000_000), (0.1, 5)]
        {
            let (mut one, mut all) = (Pace::new(Mode::Rate(rate), 0, 1), Pace::new(Mode::Rate(rate), 0, 1));
            let (mut many, mut times) = (0, 0);
            all.take_overdue(at(until), |due, count| {
                assert!(due <= at(until) && count > 0);
                (many, times) = (many + count, times + 1);
            });
            if many < 100_000 {
                assert_eq!(many, std::iter::from_fn(|| one.take(at(until))).count() as u64, "{rate} {until}");
            }
            assert!(times <= 4096 && all.next_at() > Some(at(until)), "{rate} {until}: {many}");
        }
    }

    #[test]
    fn errors_do_not_add_up() {
        let mut pace = Pace::new(Mode::Rate(3.0), 0, 1);
        let last = std::iter::from_fn(|| pace.take(at(1_000_000_000))).last();
        let (off, want) = (last.expect("requests").0, Duration::from_secs(1000));
        assert_eq!(pace.sent, 3001);
        assert!(off.abs_diff(want) < Duration::from_nanos(10), "{off:?}");
    }
}
