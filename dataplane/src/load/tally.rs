//! What a run counts: requests, bytes, what went wrong, and how long answers took.

use crate::worker::Tick;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A server that is silent for no longer may be about to answer: the kernel's first retransmission takes a second (RFC 6298, 2.1).
const HICCUP: Duration = Duration::from_secs(1);

/// What went wrong with a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Mishap {
    /// The answer was none of 2xx or 3xx.
    Status,
    /// A connection could not be opened.
    Connect,
    /// A connection ended before the answer began.
    Reset,
    /// No answer came in time.
    Timeout,
    /// A body ended before its length.
    Length,
    /// A body was another one.
    Hash,
    /// What came was no answer.
    Protocol,
}

impl Mishap {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Status, Self::Connect, Self::Reset, Self::Timeout, Self::Length, Self::Hash, Self::Protocol];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Length => "length",
            Self::Hash => "hash",
            Self::Protocol => "protocol",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Status => "answers with a status that is none of 2xx and 3xx",
            Self::Connect => "connections that could not be opened",
            Self::Reset => "connections that ended before an answer began",
            Self::Timeout => "requests without an answer in time",
            Self::Length => "bodies that ended before their length",
            Self::Hash => "bodies with another hash",
            Self::Protocol => "answers that are no HTTP",
        }
    }
}

/// The longest time that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(1000);

/// Times, counted in nanoseconds with three digits.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl fmt::Debug for Latency {
    /// Not ten thousand counters, most of them zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Latency").field(&self.count()).field(&self.summary()).finish()
    }
}

impl Default for Latency {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(1, longest, 3).expect("constant bounds that are in order"))
    }
}

impl Latency {
    #[inline]
    pub(super) fn record(&mut self, time: Duration) {
        // Longer ones count as the longest.
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn record_many(&mut self, time: Duration, many: u64) {
        self.0.saturating_record_n(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1), many);
    }

    fn add(&mut self, other: &Self) {
        // All have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many times were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that so many of a hundred are not longer than.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    /// The figures that are printed.
    #[must_use]
    pub fn summary(&self) -> Summary {
        if self.0.is_empty() {
            return Summary::default();
        }
        let percentile = |percent| micros(self.0.value_at_percentile(percent));
        Summary {
            min: micros(self.0.min()),
            mean: self.0.mean() / 1e3,
            stddev: self.0.stdev() / 1e3,
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            max: micros(self.0.max()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the histogram has three digits, a float fifteen")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are what they are")]
pub struct Summary {
    pub min: f64,
    pub mean: f64,
    pub stddev: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What one thread or worker has counted, or all of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Responses that came whole.
    pub requests: u64,
    /// Bytes of their bodies, and of those under way.
    pub body_bytes: u64,
    /// Bytes that came, heads and all.
    pub received_bytes: u64,
    /// What went wrong, by [`Mishap`].
    pub errors: [u64; Mishap::ALL.len()],
    /// Connections that were opened.
    pub connected: u64,
    /// From when a request should have been sent to the end of its answer.
    pub latency: Latency,
    /// From when it was sent: less, when it had to wait for a connection. Empty in a closed loop, where it is the same.
    pub service: Latency,
    /// At a constant rate: requests whose time had come, and that no connection was free for until the end.
    pub unsent: u64,
    /// Requests without an answer at the end.
    pub unanswered: u64,
    /// How long the oldest of these had waited since it was sent.
    pub oldest_unanswered: Duration,
    /// When a byte of an answer came last.
    pub heard: Option<Tick>,
    /// When the counting began and ended.
    pub counted: Option<(Tick, Tick)>,
}

impl Tally {
    #[inline]
    pub(super) fn count(&mut self, mishap: Mishap) {
        self.errors[mishap as usize] += 1;
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.body_bytes += other.body_bytes;
        self.received_bytes += other.received_bytes;
        for (sum, number) in self.errors.iter_mut().zip(other.errors) {
            *sum += number;
        }
        self.connected += other.connected;
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.unsent += other.unsent;
        self.unanswered += other.unanswered;
        self.oldest_unanswered = self.oldest_unanswered.max(other.oldest_unanswered);
        self.heard = self.heard.max(other.heard);
        self.counted = match (self.counted, other.counted) {
            (Some((begin, end)), Some((from, to))) => Some((begin.min(from), end.max(to))),
            (ours, theirs) => ours.or(theirs),
        };
    }

    /// Everything that went wrong.
    #[must_use]
    pub fn mishaps(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// How long nobody had answered anything when the counting ended.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let Some((begin, end)) = self.counted else { return Duration::ZERO };
        end.0.saturating_sub(self.heard.map_or(begin, |heard| heard.max(begin)).0)
    }

    /// Whether requests waited, and no byte of an answer came in the last half of what was counted: a server that died
    /// without a word, or stands still. Its percentiles are those of the answers that came before. Less than a second is not
    /// held against anybody.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.unanswered > 0 && self.silence() > (self.time() / 2).max(HICCUP)
    }

    /// How long was counted.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.counted.map_or(Duration::ZERO, |(begin, end)| end.0.saturating_sub(begin.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_three_digits() {
        let mut latency = Latency::default();
        assert_eq!(latency.summary(), Summary::default());
        for time in 1..=1000 {
            latency.record(Duration::from_micros(time));
        }
        let summary = latency.summary();
        // One of a thousand is a thousandth, too.
        let near = |found: f64, want: f64| (found - want).abs() <= want / 500.0;
        for (found, want) in [
            (summary.min, 1.0),
            (summary.mean, 500.5),
            (summary.stddev, 288.67),
            (summary.p50, 500.0),
            (summary.p90, 900.0),
            (summary.p99, 990.0),
            (summary.p999, 999.0),
            (summary.max, 1000.0),
        ] {
            assert!(near(found, want), "{found} is not {want}: {summary:?}");
        }
        latency.record(Duration::MAX);
        assert!(latency.summary().max >= 999e6, "{:?}", latency.summary());
    }

    #[test]
    fn tallies_add_up() {
        let one = |from: u64, to: u64| {
            let mut tally = Tally { requests: 1, unsent: 2, ..Tally::default() };
            tally.count(Mishap::Hash);
            tally.latency.record(Duration::from_micros(to));
            tally.counted = Some((Tick(Duration::from_secs(from)), Tick(Duration::from_secs(to))));
            tally.heard = Some(Tick(Duration::from_secs(from)));
            tally
        };
        let mut sum = Tally::default();
        sum.add(&one(1, 5));
        sum.add(&one(2, 7));
        assert_eq!((sum.requests, sum.unsent, sum.mishaps(), sum.latency.count()), (2, 4, 2, 2));
        assert_eq!((sum.errors[Mishap::Hash as usize], sum.time()), (2, Duration::from_secs(6)));
        // Heard last at 2, counted from 1 to 7: deserted once somebody waits.
        assert_eq!((sum.silence(), sum.is_deserted()), (Duration::from_secs(5), false));
        sum.add(&Tally { unanswered: 1, oldest_unanswered: Duration::from_secs(4), ..Tally::default() });
        assert!(sum.is_deserted() && sum.oldest_unanswered == Duration::from_secs(4));
        sum.add(&Tally { heard: Some(Tick(Duration::from_secs(4))), ..Tally::default() });
        assert!(!sum.is_deserted(), "half of the time is not more than half");
        let short = (Tick(Duration::ZERO), Tick(Duration::from_millis(900)));
        let hiccup = Tally { unanswered: 1, counted: Some(short), ..Tally::default() };
        assert!(!hiccup.is_deserted(), "{:?} is no time", hiccup.silence());
    }
}
