//! Sequence numbers, and time as the connections keep it.

use crate::worker::Tick;
use std::time::Duration;

/// A sequence number: compared modulo 2^32 (RFC 9293 section 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// So many bytes on.
    #[inline]
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// So many bytes back.
    #[inline]
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// The distance from `earlier`, negative if this one is before it.
    #[inline]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// The distance from `earlier`, which is known not to be after this one.
    #[inline]
    pub const fn bytes_since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this one is before `other`.
    #[inline]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// Whether this one is after `other`.
    #[inline]
    pub const fn after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// The later of two.
    #[inline]
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

/// Microseconds since the worker began.
pub(crate) type Micros = u64;

/// No deadline.
pub(crate) const NEVER: Micros = Micros::MAX;

/// Time in units of 2^14 microseconds, about 16 ms: for what is only compared with seconds, in half the space. It wraps
/// after two years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coarse(u32);

impl Coarse {
    const BITS: u32 = 14;

    #[inline]
    pub(crate) const fn new(at: Micros) -> Self {
        Self(low(at >> Self::BITS))
    }

    /// Microseconds from then until now, 16 ms too many at most.
    #[inline]
    pub(crate) const fn elapsed(self, now: Micros) -> Micros {
        (Self::new(now).0.wrapping_sub(self.0) as Micros) << Self::BITS
    }
}

/// A tick in whole microseconds, rounded down.
#[inline]
pub(crate) fn micros(now: Tick) -> Micros {
    now.0.as_secs() * 1_000_000 + Micros::from(now.0.subsec_micros())
}

/// A span in whole microseconds, at most 2^32 - 1 (71 minutes).
pub(crate) fn span(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Microseconds as a tick.
pub(crate) const fn tick(at: Micros) -> Tick {
    Tick(Duration::from_micros(at))
}

/// The low half: what of a stream offset a sequence number shows, and what of the time a timestamp shows.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub(crate) const fn low(value: u64) -> u32 {
    value as u32
}

/// As much as fits.
#[inline]
pub(crate) fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A length as a `u32`: nothing here is as long as 4 GiB.
#[inline]
pub(crate) fn length(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let near_the_end = Seq(u32::MAX - 10);
        let beyond = near_the_end.plus(20);
        assert_eq!(beyond, Seq(9));
        assert!(near_the_end.before(beyond) && beyond.after(near_the_end));
        assert_eq!(beyond.since(near_the_end), 20);
        assert_eq!(near_the_end.since(beyond), -20);
        assert_eq!(near_the_end.max(beyond), beyond);
        assert_eq!(beyond.minus(20), near_the_end);
    }

    #[test]
    fn ticks_and_micros_agree() {
        let at = Tick(Duration::new(7, 123_456_789));
        assert_eq!(micros(at), 7_123_456);
        assert_eq!(tick(7_123_456), Tick(Duration::from_micros(7_123_456)));
        assert_eq!(span(Duration::from_secs(10_000)), u32::MAX);
    }
}
