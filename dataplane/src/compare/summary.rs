//! Medians and spread of several rounds, and which method wins where.

use super::Gathered;
use super::ledger::{Label, Quantity, Reading, Witnesses};
use super::plan::{Cache, Case, size_words};
use super::run::{Sample, Wire};
use serde::Serialize;
use std::collections::BTreeMap;

/// A clock tick, in seconds (`USER_HZ` of each architecture that Linux has today), and how many of them make a figure.
const TICK: f64 = 0.01;
const LEAST_TICKS: f64 = 20.0;

/// The part of the bytes that a disk must have been asked for, if a cold row is to be called so.
const MOSTLY: f64 = 0.9;

/// One figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The one in the middle; of an even number half way between two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// How it is known; that of the round which knew it worst.
    pub label: Label,
}

impl Figure {
    fn of(readings: &[Reading]) -> Option<Self> {
        let mut values: Vec<f64> = readings.iter().map(|reading| reading.value).collect();
        values.sort_by(f64::total_cmp);
        let label = readings.iter().map(|reading| reading.label).min()?;
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: middle, least, greatest, label })
    }

    /// Half of the distance between the least and the greatest, in per cent of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.greatest - self.least) / 2.0 / self.median * 100.0 }
    }
}

/// One method in one case, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub method: &'static str,
    /// What it is, in words.
    pub words: &'static str,
    /// Whether the device was to gather.
    pub scatter_gather: bool,
    /// Files and wire.
    #[serde(flatten)]
    pub case: Case,
    /// Rounds that were measured.
    pub rounds: usize,
    /// Why this machine has not got the method, if it has not.
    pub unavailable: Option<String>,
    /// What went wrong in rounds that are not among those.
    pub failures: Vec<String>,
    /// How the device ran.
    pub mode: Option<String>,
    /// The offloads as the kernel said they were.
    pub wire: Option<Wire>,
    /// What the server and its device said at the end of the last round.
    pub witnesses: Option<Witnesses>,
    /// What to bear in mind with its figures.
    pub notes: Vec<String>,
    /// The ledger.
    pub figures: BTreeMap<Quantity, Figure>,
}

impl Row {
    pub(super) fn of(gathered: &Gathered) -> Self {
        let samples = &gathered.samples;
        let mut figures = BTreeMap::new();
        for &quantity in Quantity::ALL {
            let readings: Vec<Reading> =
                samples.iter().filter_map(|sample| sample.ledger.reading(quantity)).collect();
            if let Some(figure) = Figure::of(&readings) {
                figures.insert(quantity, figure);
            }
        }
        let last: Option<&Sample> = samples.last();
        let notes =
            lukewarm(gathered.case.cache, figures.get(&Quantity::DiskPassesPerByte)).into_iter().collect();
        Self {
            method: gathered.entry.method.name,
            words: gathered.entry.method.words,
            scatter_gather: gathered.entry.scatter_gather,
            case: gathered.case,
            rounds: samples.len(),
            unavailable: gathered.unavailable.clone(),
            failures: gathered.failures.clone(),
            mode: last.map(|sample| sample.mode.clone()),
            wire: last.map(|sample| sample.wire),
            witnesses: last.map(|sample| sample.witnesses),
            notes,
            figures,
        }
    }

    /// A figure, when there is one.
    #[must_use]
    pub fn figure(&self, quantity: Quantity) -> Option<Figure> {
        self.figures.get(&quantity).copied()
    }

    /// Its median.
    #[must_use]
    pub fn median(&self, quantity: Quantity) -> Option<f64> {
        self.figure(quantity).map(|figure| figure.median)
    }

    /// For tables.
    #[must_use]
    pub fn title(&self) -> String {
        if self.scatter_gather { self.method.to_owned() } else { format!("{}, SG off", self.method) }
    }
}

impl Case {
    /// `1 MiB, MTU 1500, TSO on, warm cache`
    #[must_use]
    pub fn words(&self) -> String {
        let tso = if self.tso { "on" } else { "off" };
        format!("{}, MTU {}, TSO {tso}, {} cache", size_words(self.size), self.mtu, self.cache.name())
    }
}

/// What of a cold row came out of memory all the same.
fn lukewarm(cache: Cache, disk: Option<&Figure>) -> Option<String> {
    let passes = disk.filter(|_| cache == Cache::Cold)?.median;
    (passes < MOSTLY).then(|| {
        format!("not cold: the disk was asked for {passes:.2} of each byte only; the rest was in memory, or is below another cache")
    })
}

/// The rows of a case that a figure does not tell apart from the best: their best round reaches its worst.
fn not_told_apart(
    best: Figure,
    others: &[(&Row, Figure)],
    reaches: impl Fn(&Figure, &Figure) -> bool,
) -> Option<String> {
    let close: Vec<String> =
        others.iter().filter(|(_, figure)| reaches(figure, &best)).map(|(row, _)| row.title()).collect();
    (!close.is_empty()).then(|| format!(" (not told apart from {})", close.join(", ")))
}

/// The cases of the rows, in their order.
pub(super) fn cases(rows: &[Row]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for row in rows {
        if !cases.contains(&row.case) {
            cases.push(row.case);
        }
    }
    cases
}

/// One sentence a case: who carried most, and who took least CPU for it.
pub(super) fn verdicts(rows: &[Row]) -> Vec<String> {
    cases(rows).iter().filter_map(|case| verdict(rows, case)).collect()
}

fn verdict(rows: &[Row], case: &Case) -> Option<String> {
    let mut best = ranked(rows, case, Quantity::BytesPerSecond);
    best.reverse();
    let (first, fastest) = *best.first()?;
    let mut text = format!("{}: {} carries most, {}", case.words(), first.title(), rate(first, fastest));
    let close = not_told_apart(fastest, &best[1..], |other, best| other.greatest >= best.least);
    if let Some(close) = close {
        text += &close;
    } else if let Some((second, figure)) = best.get(1) {
        text += &format!(", {:.2} times {}", fastest.median / figure.median, second.title());
    }
    let least = ranked(rows, case, Quantity::CpuSecondsPerGb);
    if let Some((row, figure)) = least.first() {
        // Clock ticks are all that /proc tells of CPU time: of few of them one more or less is a large part.
        if cpu_seconds(row) < LEAST_TICKS * TICK {
            text += &format!(
                "; who takes least CPU is not told: {} took less than {LEAST_TICKS:.0} clock ticks of it in a round (--seconds gives more)",
                row.title()
            );
        } else {
            text += &format!("; {} takes least CPU, {:.2} s for a gigabyte", row.title(), figure.median);
            let close = not_told_apart(*figure, &least[1..], |other, best| other.least <= best.greatest);
            text += &close.unwrap_or_default();
        }
    }
    Some(text + ".")
}

/// CPU time of the server in a round, in the middle of all rounds.
fn cpu_seconds(row: &Row) -> f64 {
    [Quantity::CpuUserSeconds, Quantity::CpuSystemSeconds, Quantity::CpuKsoftirqdSeconds]
        .into_iter()
        .filter_map(|quantity| row.median(quantity))
        .sum()
}

fn rate(row: &Row, bytes: Figure) -> String {
    let requests = row.median(Quantity::RequestsPerSecond).unwrap_or(0.0);
    format!("{:.0} MB/s in {requests:.0} requests a second", bytes.median / 1e6)
}

/// The rows of a case that have a figure, the least first.
fn ranked<'r>(rows: &'r [Row], case: &Case, quantity: Quantity) -> Vec<(&'r Row, Figure)> {
    let of_case = rows.iter().filter(|row| row.case == *case);
    let mut found: Vec<(&Row, Figure)> =
        of_case.filter_map(|row| Some((row, row.figure(quantity)?))).collect();
    found.sort_by(|one, other| one.1.median.total_cmp(&other.1.median));
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::method::Method;
    use super::*;

    fn readings(values: &[f64]) -> Vec<Reading> {
        values.iter().map(|&value| Reading { value, label: Label::Measured }).collect()
    }

    #[test]
    fn medians_and_spread() {
        let odd = Figure::of(&readings(&[3.0, 1.0, 2.0])).expect("three");
        assert_eq!((odd.median, odd.least, odd.greatest), (2.0, 1.0, 3.0));
        assert_eq!(odd.spread(), 50.0);
        assert_eq!(Figure::of(&readings(&[1.0, 2.0])).expect("two").median, 1.5);
        assert_eq!(Figure::of(&[]), None);
        let mut mixed = readings(&[1.0, 1.0]);
        mixed[1].label = Label::Derived;
        assert_eq!(Figure::of(&mixed).expect("two").label, Label::Derived);
    }

    /// A row with these figures of throughput and CPU.
    pub(in super::super) fn row(name: &str, bytes: [f64; 3], cpu: f64) -> Row {
        let method = Method::named(name).expect("a method");
        let figure =
            |[least, median, greatest]: [f64; 3]| Figure { median, least, greatest, label: Label::Measured };
        let figures = BTreeMap::from([
            (Quantity::BytesPerSecond, figure(bytes)),
            (Quantity::RequestsPerSecond, figure(bytes.map(|bytes| bytes / 1024.0))),
            (Quantity::CpuSecondsPerGb, figure([cpu; 3])),
            (Quantity::CpuSystemSeconds, figure([1.0; 3])),
        ]);
        Row {
            method: method.name,
            words: method.words,
            scatter_gather: true,
            case: Case { size: 1024, mtu: 1500, tso: true, cache: Cache::Warm },
            rounds: 3,
            unavailable: None,
            failures: Vec::new(),
            mode: None,
            wire: None,
            witnesses: None,
            notes: Vec::new(),
            figures,
        }
    }

    #[test]
    fn the_verdict_names_the_first_and_does_not_tell_apart_what_overlaps() {
        let far = [row("sendfile", [9e8, 1e9, 1.1e9], 0.5), row("bypass", [1.9e9, 2e9, 2.1e9], 0.7)];
        let text = verdicts(&far).join("\n");
        assert!(
            text.contains("bypass carries most, 2000 MB/s") && text.contains("2.00 times sendfile"),
            "{text}"
        );
        assert!(text.contains("sendfile takes least CPU, 0.50 s"), "{text}");
        let near = [row("sendfile", [9e8, 1e9, 2e9], 0.5), row("bypass", [1.9e9, 2e9, 2.1e9], 0.7)];
        let text = verdicts(&near).join("\n");
        assert!(text.contains("not told apart from sendfile"), "{text}");
        assert!(verdicts(&[]).is_empty());
    }

    /// The same holds for CPU time, and of a few clock ticks nothing is said.
    #[test]
    fn the_least_cpu_is_told_apart_or_not_told() {
        let mut rows = [row("sendfile", [9e8, 1e9, 1.1e9], 0.5), row("bypass", [1.9e9, 2e9, 2.1e9], 0.52)];
        let mut spread = |least, greatest| {
            let figure = rows[0].figures.get_mut(&Quantity::CpuSecondsPerGb).expect("a figure");
            (figure.least, figure.greatest) = (least, greatest);
            verdicts(&rows).join("\n")
        };
        let text = spread(0.45, 0.55);
        assert!(
            text.contains("sendfile takes least CPU, 0.50 s for a gigabyte (not told apart from bypass)"),
            "{text}"
        );
        let text = spread(0.49, 0.51);
        assert!(text.ends_with("sendfile takes least CPU, 0.50 s for a gigabyte."), "{text}");
        rows[0].figures.get_mut(&Quantity::CpuSystemSeconds).expect("a figure").median = 0.19;
        let text = verdicts(&rows).join("\n");
        assert!(text.contains("least CPU is not told") && !text.contains("takes least CPU,"), "{text}");
    }

    #[test]
    fn a_cold_row_whose_bytes_were_in_memory_says_so() {
        let disk = |median| Figure { median, least: median, greatest: median, label: Label::Measured };
        assert!(
            lukewarm(Cache::Cold, Some(&disk(0.3))).is_some_and(|note| note.contains("0.30 of each byte"))
        );
        assert_eq!(lukewarm(Cache::Cold, Some(&disk(1.0))), None);
        assert_eq!(lukewarm(Cache::Warm, Some(&disk(0.0))), None);
        assert_eq!(lukewarm(Cache::Cold, None), None, "not known");
    }
}
