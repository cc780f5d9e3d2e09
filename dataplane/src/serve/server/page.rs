//! What other threads see of a server's counters.

use super::FileServer;
use crate::serve::http::{Counts, CountsBoard};
use crate::tcp::Stats;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the server proper; those of TCP follow.
const OWN: [&str; 29] = [
    "connections",
    "connections_opened",
    "connections_closed",
    "connections_time_wait",
    "requests",
    "responses_under_way",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
    "response_bytes",
    "requests_refused",
    "clients_timed_out",
    "responses_cut_short",
    "copied_bytes",
    "gathered_bytes",
    "paths_known",
    "paths_asked",
    "content_hits",
    "content_misses",
    "content_evicted",
    "shared_bytes",
    "snapshot_bytes",
    "direct_bytes",
    "echoes",
    "resolutions",
    "icmp_handed_on",
    "icmp_taken",
    "icmp_lost",
];

/// Room for the counters of TCP.
const TCP_MAX: usize = 64;

/// One worker's counters: written by it at each tick, read by anybody.
#[derive(Debug)]
pub struct ServePage {
    own: [AtomicU64; OWN.len()],
    tcp: [AtomicU64; TCP_MAX],
    http: CountsBoard,
}

impl Default for ServePage {
    fn default() -> Self {
        Self {
            own: [const { AtomicU64::new(0) }; OWN.len()],
            tcp: [const { AtomicU64::new(0) }; TCP_MAX],
            http: CountsBoard::default(),
        }
    }
}

impl ServePage {
    /// Requests by method, answers by status, refusals by name.
    #[must_use]
    pub fn http(&self) -> Counts {
        self.http.snapshot()
    }
}

/// Names and numbers, of one worker or of several added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures(Vec<(&'static str, u64)>);

impl Figures {
    /// All workers' numbers added up.
    #[must_use]
    pub fn of<'a>(pages: impl IntoIterator<Item = &'a ServePage>) -> Self {
        let tcp = Stats::default();
        let names = OWN.iter().copied().chain(tcp.each().map(|(name, _)| name));
        let names: Vec<&'static str> = names.collect();
        let mut sums = vec![0; names.len()];
        for page in pages {
            for (sum, cell) in sums.iter_mut().zip(page.own.iter().chain(&page.tcp)) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        Self(names.into_iter().zip(sums).collect())
    }

    /// Names and numbers; those of the server first, then those of TCP.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// One number; 0 when there is none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(other, _)| *other == name).map_or(0, |(_, number)| *number)
    }
}

impl FileServer<'_> {
    /// Makes the counters visible.
    pub(super) fn publish(&self) {
        let talk = &self.clerk.counters;
        let (finder, store) = (self.clerk.finder.counters(), self.store.counters());
        let host = self.host.counters();
        let mut classes = [0; 4];
        for (status, count) in self.clerk.counts.responses() {
            // 2xx to 5xx; there are no others.
            if let Some(sum) = classes.get_mut(usize::from(status / 100).wrapping_sub(2)) {
                *sum += count;
            }
        }
        let [two, three, four, five] = classes;
        let own: [u64; OWN.len()] = [
            self.stack.connections() as u64,
            talk.opened,
            talk.closed,
            self.stack.waiting() as u64,
            talk.requests,
            self.clerk.answers.borrow().under_way() as u64,
            two,
            three,
            four,
            five,
            talk.queued_bytes,
            self.clerk.counts.refusals().map(|(_, count)| count).sum(),
            talk.timed_out,
            talk.gone,
            self.counters.copied_bytes,
            self.counters.gathered_bytes,
            self.clerk.finder.len() as u64,
            finder.asked,
            store.hits,
            store.misses,
            store.evicted,
            store.shared.read_bytes,
            store.snapshot.read_bytes,
            store.direct.read_bytes,
            host.echoes,
            host.resolutions,
            self.post.counters.handed_on,
            self.post.counters.taken,
            self.post.counters.lost,
        ];
        for (cell, number) in self.page.own.iter().zip(own) {
            cell.store(number, Ordering::Relaxed);
        }
        self.page.http.publish(&self.clerk.counts);
        for (cell, (_, number)) in self.page.tcp.iter().zip(self.stack.stats().each()) {
            cell.store(number, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_counters_have_one_name_and_all_have_room() {
        let page = ServePage::default();
        let figures = Figures::of([&page]);
        let names: Vec<&str> = figures.each().map(|(name, _)| name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        assert_eq!(names.len(), OWN.len() + Stats::default().each().count());
        assert!(names.len() <= OWN.len() + TCP_MAX);
    }
}
