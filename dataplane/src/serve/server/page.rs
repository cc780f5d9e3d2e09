//! What other threads see of a server's counters.

use super::FileServer;
use crate::serve::http::{Counts, CountsBoard};
use crate::serve::metrics::{Kind, Text};
use crate::tcp::Stats;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the server proper: name, kind, meaning. Those of TCP follow; all of them only grow.
const OWN: [(&str, Kind, &str); 30] = [
    ("connections", Kind::Gauge, "Connections that are open now."),
    ("connections_opened", Kind::Counter, "Connections whose handshake was done."),
    ("connections_closed", Kind::Counter, "Connections that ended, in whatever way."),
    ("connections_time_wait", Kind::Gauge, "Connections in TIME-WAIT now."),
    ("requests", Kind::Counter, "Requests that were answered."),
    (
        "requests_repeated",
        Kind::Counter,
        "Of these, those answered unread, as the same bytes were in the same second.",
    ),
    ("responses_under_way", Kind::Gauge, "Responses queued and not yet acknowledged to the last byte."),
    ("responses_2xx", Kind::Counter, "Responses with a status from 200 to 299."),
    ("responses_3xx", Kind::Counter, "Responses with a status from 300 to 399."),
    ("responses_4xx", Kind::Counter, "Responses with a status from 400 to 499, refusals included."),
    ("responses_5xx", Kind::Counter, "Responses with a status from 500 to 599, refusals included."),
    ("response_bytes", Kind::Counter, "Bytes of responses that were queued to be sent, heads included."),
    ("requests_refused", Kind::Counter, "What was no request, or against a limit."),
    (
        "clients_timed_out",
        Kind::Counter,
        "Connections ended because nothing came, or nothing was taken, for too long.",
    ),
    (
        "responses_cut_short",
        Kind::Counter,
        "Connections reset because their file changed under them, or was removed.",
    ),
    ("copied_bytes", Kind::Counter, "Bytes of files that were copied into frames."),
    (
        "gathered_bytes",
        Kind::Counter,
        "Bytes of files that were given to the queue as pages; twice when sent again.",
    ),
    ("paths_known", Kind::Gauge, "Paths that workers remember now."),
    ("paths_asked", Kind::Counter, "Lookups that went to the librarian; begins anew at a reload."),
    ("content_hits", Kind::Counter, "Pages of files that were found in memory."),
    ("content_misses", Kind::Counter, "Times that a page of a file was not in memory."),
    ("content_evicted", Kind::Counter, "Extents of files that were thrown out to make room."),
    ("shared_bytes", Kind::Gauge, "Bytes of files whose own pages are in the arenas."),
    ("snapshot_bytes", Kind::Counter, "Bytes of files that were read through the page cache."),
    ("direct_bytes", Kind::Counter, "Bytes of files that were read past the page cache."),
    ("echoes", Kind::Counter, "Pings that were answered."),
    ("resolutions", Kind::Counter, "ARP requests and neighbour solicitations that were answered."),
    ("icmp_handed_on", Kind::Counter, "ICMP errors about another worker's connection, told to all others."),
    ("icmp_taken", Kind::Counter, "ICMP errors that another worker has told of."),
    ("icmp_lost", Kind::Counter, "ICMP errors that another worker had no room to be told of."),
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
        let names = OWN.iter().map(|(name, ..)| *name).chain(tcp.each().map(|(name, _)| name));
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

    /// Writes all of them for Prometheus: what only grows ends in `_total`, and TCP's begin with `ringway_tcp_`.
    pub fn tell(&self, text: &mut Text) {
        let own = OWN.iter().map(|(_, kind, meaning)| ("", *kind, *meaning));
        let tcp = Stats::meanings().map(|meaning| ("tcp_", Kind::Counter, meaning));
        for ((name, number), (prefix, kind, meaning)) in self.each().zip(own.chain(tcp)) {
            let total = if kind == Kind::Counter { "_total" } else { "" };
            let family = format!("ringway_{prefix}{name}{total}");
            text.family(&family, kind, meaning);
            text.sample(&family, &[], number);
        }
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
        let (finder, store) = (self.clerk.responder.finder.counters(), self.store.counters());
        let host = self.host.counters();
        let mut classes = [0; 4];
        for (status, count) in self.clerk.responder.counts.responses() {
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
            talk.repeated,
            self.clerk.responder.answers.borrow().under_way() as u64,
            two,
            three,
            four,
            five,
            talk.queued_bytes,
            self.clerk.responder.counts.refusals().map(|(_, count)| count).sum(),
            talk.timed_out,
            talk.gone,
            self.counters.copied_bytes,
            self.counters.gathered_bytes,
            self.clerk.responder.finder.len() as u64,
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
        self.page.http.publish(&self.clerk.responder.counts);
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

    /// What only grows is a counter, what says how it is now a gauge, and each has a meaning of its own.
    #[test]
    fn prometheus_is_told_what_kind_each_number_is() {
        let page = ServePage::default();
        page.own[0].store(5, Ordering::Relaxed);
        page.tcp[0].store(7, Ordering::Relaxed);
        let mut text = Text::default();
        Figures::of([&page]).tell(&mut text);
        crate::serve::metrics::tests::check(text.as_str());
        for line in [
            "# TYPE ringway_connections gauge\nringway_connections 5\n",
            "# TYPE ringway_responses_under_way gauge\n",
            "# TYPE ringway_requests_total counter\n",
            "# HELP ringway_tcp_segments_in_total Segments that came.\n",
            "# TYPE ringway_tcp_segments_in_total counter\nringway_tcp_segments_in_total 7\n",
        ] {
            assert!(text.as_str().contains(line), "{line}");
        }
        let helps = text.as_str().lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        let helps: Vec<&str> = helps.map(|(_, help)| help).collect();
        assert_eq!(helps.len(), OWN.len() + Stats::meanings().count());
        assert_eq!(helps.iter().collect::<BTreeSet<_>>().len(), helps.len());
    }

    /// The book has a row for each, with its kind.
    #[test]
    fn the_book_has_them_all() {
        let book = include_str!("../../../../docs/serving.md");
        for (name, kind, _) in OWN {
            let row = book.lines().find(|line| line.starts_with("| ") && line.contains(&format!("`{name}`")));
            let row = row.unwrap_or_else(|| panic!("docs/serving.md has no {name}"));
            let now = row.contains(" now");
            assert_eq!(now, kind == Kind::Gauge, "{row}");
        }
        for (name, _) in Stats::default().each() {
            assert!(book.contains(&format!("`{name}`")), "docs/serving.md has no {name}");
        }
    }
}
