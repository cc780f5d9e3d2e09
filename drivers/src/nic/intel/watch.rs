//! Whether a card still reports: one that an IOMMU keeps from memory says so nowhere, and falls silent.
//!
//! ```text
//!   transmit   lent, and no DD for a long time            receive   its head has gone on, and no DD where ours is
//! ```
//!
//! Looked at where the link is: once in a thousand turns, or when somebody has slept. Time alone is not enough, since a process that
//! was stopped for a minute finds a minute gone: so many looks must have seen the same too.

use std::time::{Duration, Instant};

/// The kernel gives its drivers as long (`watchdog_timeo` of e1000e and igb): pause frames may hold a card up for a while.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

const LOOKS: u32 = 32;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    place: (u32, u32),
    since: Instant,
    looks: u32,
}

impl Watch {
    /// Whether the card owed a report all the time, and none came. `place` is how far both rings are; `owes` whether something is
    /// due now.
    pub(super) fn is_silent(&mut self, owes: bool, place: (u32, u32), now: Instant) -> bool {
        let Some(seen) = self.seen.as_mut().filter(|seen| owes && seen.place == place) else {
            self.seen = owes.then_some(Seen { place, since: now, looks: 0 });
            return false;
        };
        seen.looks += 1;
        seen.looks >= LOOKS && now.saturating_duration_since(seen.since) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_long_and_was_looked_at() {
        let (mut watch, begin) = (Watch::default(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        for look in 0..60 {
            assert!(!watch.is_silent(true, (1, 1), after(look * 100)) || look >= 50, "look {look}");
        }
        assert!(watch.is_silent(true, (1, 1), after(6000)));
        // One ring goes on: it is well.
        assert!(!watch.is_silent(true, (1, 2), after(6100)));
        assert!(!watch.is_silent(true, (1, 2), after(60_000)), "stopped meanwhile: seen twice only");
        // Nothing is owed: an idle card may be silent for ever.
        assert!(!watch.is_silent(false, (1, 2), after(61_000)));
        for look in 0..60 {
            assert!(!watch.is_silent(true, (1, 2), after(61_000 + look)), "all in a moment");
        }
    }
}
