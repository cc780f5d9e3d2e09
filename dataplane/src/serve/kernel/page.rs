//! What other threads see of a worker's counters.

use crate::serve::http::{Counts, CountsBoard};
use crate::serve::metrics::{Kind, Text};
use drivers::kernel::{Counters, Received};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the server proper: name, kind, meaning. Those of the engine follow; all of them only grow.
const OWN: [(&str, Kind, &str); 15] = [
    ("connections", Kind::Gauge, "Connections that are open now."),
    ("connections_opened", Kind::Counter, "Connections that were accepted."),
    ("connections_closed", Kind::Counter, "Connections that ended, in whatever way."),
    ("requests", Kind::Counter, "Requests that were answered."),
    (
        "requests_repeated",
        Kind::Counter,
        "Of these, those answered unread, as the same bytes were in the same second.",
    ),
    ("response_bytes", Kind::Counter, "Bytes of responses that were queued to be sent, heads included."),
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
    (
        "responses_failed",
        Kind::Counter,
        "Connections reset because the kernel refused to read or send their file; the log says why.",
    ),
    ("sent_bytes", Kind::Counter, "Bytes of responses that became the kernel's, heads included."),
    ("uploads_begun", Kind::Counter, "Bodies that were begun to be stored."),
    ("uploads_stored", Kind::Counter, "Of these, those that have become files."),
    ("uploads_failed", Kind::Counter, "Of these, those of which nothing is left, for whatever reason."),
    ("upload_spliced_bytes", Kind::Counter, "Bytes of bodies that reached files through a pipe."),
    ("upload_copied_bytes", Kind::Counter, "Bytes of bodies that were written out of this process's memory."),
];

/// Room for the counters of an engine.
const ENGINE_MAX: usize = 16;

/// One worker's counters: written by it now and then, read by anybody.
#[derive(Debug, Default)]
pub(super) struct KernelPage {
    own: [AtomicU64; OWN.len()],
    engine: [AtomicU64; ENGINE_MAX],
    http: CountsBoard,
}

/// What a worker counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) requests: u64,
    pub(super) repeated: u64,
    pub(super) queued_bytes: u64,
    pub(super) timed_out: u64,
    pub(super) gone: u64,
    pub(super) failed: u64,
    pub(super) sent_bytes: u64,
    pub(super) uploads_begun: u64,
    pub(super) uploads_stored: u64,
    pub(super) uploads_failed: u64,
}

impl KernelPage {
    /// Makes the counters visible.
    pub(super) fn publish(&self, tally: &Tally, engine: Counters, received: Received, http: &Counts) {
        let own = [
            tally.opened - tally.closed,
            tally.opened,
            tally.closed,
            tally.requests,
            tally.repeated,
            tally.queued_bytes,
            tally.timed_out,
            tally.gone,
            tally.failed,
            tally.sent_bytes,
            tally.uploads_begun,
            tally.uploads_stored,
            tally.uploads_failed,
            received.spliced_bytes,
            received.copied_bytes,
        ];
        for (cell, number) in self.own.iter().zip(own) {
            cell.store(number, Ordering::Relaxed);
        }
        for (cell, (_, number)) in self.engine.iter().zip(engine.each()) {
            cell.store(number, Ordering::Relaxed);
        }
        self.http.publish(http);
    }

    /// Requests by method, answers by status, refusals by name.
    pub(super) fn http(&self) -> Counts {
        self.http.snapshot()
    }
}

/// Names and numbers, of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFigures(Vec<(&'static str, u64)>);

impl KernelFigures {
    pub(super) fn of<'a>(pages: impl IntoIterator<Item = &'a KernelPage>) -> Self {
        let names = OWN.iter().map(|(name, ..)| *name);
        let names = names.chain(Counters::default().each().map(|(name, _)| name).collect::<Vec<_>>());
        let mut sums: Vec<(&'static str, u64)> = names.map(|name| (name, 0)).collect();
        for page in pages {
            for ((_, sum), cell) in sums.iter_mut().zip(page.own.iter().chain(&page.engine)) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        Self(sums)
    }

    /// Names and numbers: the server's first, then the engine's.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// One number; 0 when there is none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(other, _)| *other == name).map_or(0, |(_, number)| *number)
    }

    /// Writes all of them for Prometheus: the engine's begin with `ringway_engine_`.
    pub(super) fn tell(&self, text: &mut Text) {
        let own = OWN.iter().map(|(_, kind, meaning)| ("", *kind, *meaning));
        let engine = std::iter::repeat(("engine_", Kind::Counter, "See the book, chapter `engines`."));
        for ((name, number), (prefix, kind, meaning)) in self.each().zip(own.chain(engine)) {
            let total = if kind == Kind::Counter { "_total" } else { "" };
            let family = format!("ringway_{prefix}{name}{total}");
            text.family(&family, kind, meaning);
            text.sample(&family, &[], number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The book has a row for each, in one chapter or the other.
    #[test]
    fn the_book_has_them_all() {
        let serving = include_str!("../../../../docs/serving.md");
        let engines = include_str!("../../../../docs/engines.md");
        let rows = || serving.lines().chain(engines.lines()).filter(|line| line.starts_with("| "));
        for (name, _) in KernelFigures::of([]).each() {
            assert!(rows().any(|row| row.contains(&format!("`{name}`"))), "no chapter has {name}");
        }
    }

    #[test]
    fn every_counter_has_a_place_and_is_added_up() {
        assert!(Counters::default().each().count() <= ENGINE_MAX);
        let pages = [KernelPage::default(), KernelPage::default()];
        let tally = Tally {
            opened: 5,
            closed: 2,
            requests: 7,
            repeated: 3,
            gone: 1,
            failed: 4,
            sent_bytes: 10,
            ..Tally::default()
        };
        let engine = Counters { operations: 3, ..Counters::default() };
        let received = Received { spliced_bytes: 4, copied_bytes: 5 };
        pages.iter().for_each(|page| page.publish(&tally, engine, received, &Counts::default()));
        let figures = KernelFigures::of(&pages);
        for (name, number) in [
            ("connections", 6),
            ("requests", 14),
            ("requests_repeated", 6),
            ("responses_cut_short", 2),
            ("responses_failed", 8),
            ("sent_bytes", 20),
            ("upload_spliced_bytes", 8),
            ("upload_copied_bytes", 10),
            ("operations", 6),
        ] {
            assert_eq!(figures.get(name), number, "{name}");
        }
    }
}
