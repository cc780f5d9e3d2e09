//! The report for people: one table a case, the literature's table, and who wins.

use super::Report;
use super::ledger::Quantity;
use super::plan::{Cache, Case};
use super::summary::{Figure, Row, cases};
use std::fmt::Write;

impl Report {
    /// The whole report.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = self.machine.lines().join("\n") + "\n";
        let _ = writeln!(
            text,
            "{} connections; medians of {} rounds of {} s each, in rotation; {:.0} s in all",
            self.connections, self.rounds, self.run_seconds, self.seconds
        );
        for case in cases(&self.rows) {
            self.case(&mut text, case, &COLUMNS);
        }
        text.push_str(LEGEND);
        if self.rows.iter().any(|row| row.case.cache == Cache::Cold) {
            text.push_str(COLD_LEGEND);
        }
        self.refused(&mut text);
        self.modes(&mut text);
        self.claims(&mut text);
        text.push_str("\nWho wins where, on this machine\n");
        for verdict in &self.verdicts {
            let _ = writeln!(text, "  {verdict}");
        }
        if self.interrupted {
            text.push_str(
                "\nINTERRUPTED: a signal ended it; the figures are of the rounds that were done.\n",
            );
        }
        text
    }

    /// The tables with what matters most, and who wins.
    #[must_use]
    pub fn to_short_text(&self) -> String {
        let mut text = String::new();
        for case in cases(&self.rows) {
            self.case(&mut text, case, &SHORT);
        }
        text.push_str(
            "  copies: m measured, w witnessed by the kernel or the device, d derived from the path\n",
        );
        for verdict in &self.verdicts {
            let _ = writeln!(text, "  {verdict}");
        }
        text
    }

    fn case(&self, text: &mut String, case: Case, columns: &[Column]) {
        let _ = writeln!(text, "\n  {}", case.words());
        let of_case = || self.rows.iter().filter(|row| row.case == case);
        let heads = ["method"].into_iter().chain(columns.iter().map(|column| column.head));
        let mut lines = vec![heads.map(str::to_owned).collect::<Vec<_>>()];
        lines.extend(of_case().filter(|row| row.rounds > 0).map(|row| cells(row, columns)));
        if lines.len() > 1 {
            table(text, &lines);
        }
        for row in of_case() {
            if let Some(why) = &row.unavailable {
                let _ = writeln!(text, "  {}: not available here: {}", row.title(), one_line(why));
            }
            for note in &row.notes {
                let _ = writeln!(text, "  {}: {note}", row.title());
            }
            for why in &row.failures {
                let _ = writeln!(text, "  {}: FAILED in a round: {}", row.title(), one_line(why));
            }
        }
    }

    fn refused(&self, text: &mut String) {
        for instrument in self.instruments.iter().filter(|instrument| !instrument.works) {
            let why = instrument.why.as_deref().unwrap_or_default();
            let _ = writeln!(text, "  not measured: {}", one_line(why));
        }
    }

    /// How each method really ran, once.
    fn modes(&self, text: &mut String) {
        text.push_str("\nHow it ran\n");
        let mut shown = Vec::new();
        for row in &self.rows {
            let (Some(mode), Some(wire)) = (&row.mode, &row.wire) else { continue };
            let state = |on: bool, name: &str| format!("{name} {}", if on { "on" } else { "off" });
            let line = format!(
                "{}; {}, {}, {}, {}",
                mode,
                state(wire.tso, "TSO"),
                state(wire.gso, "GSO"),
                state(wire.scatter_gather, "SG"),
                state(wire.checksum, "checksum offload"),
            );
            match shown.iter_mut().find(|(known, _): &&mut (String, Vec<String>)| *known == line) {
                Some((_, names)) if names.contains(&row.title()) => {}
                Some((_, names)) => names.push(row.title()),
                None => shown.push((line, vec![row.title()])),
            }
        }
        for (line, names) in shown {
            let _ = writeln!(text, "  {}\n    {line}", names.join(", "));
        }
    }

    fn claims(&self, text: &mut String) {
        if self.claims.is_empty() {
            return;
        }
        let case = self.claims.iter().find_map(|claim| claim.case);
        let _ = writeln!(
            text,
            "\nWhat the literature claims, and what was found: {}",
            case.map(|case| case.words()).unwrap_or_default()
        );
        let heads =
            ["claimed of", "method", "switches", "found a 64 KiB", "copies", "CPU copies found", "so"];
        let mut lines = vec![heads.map(str::to_owned).to_vec()];
        lines.extend(self.claims.iter().map(|claim| {
            vec![
                claim.name.to_owned(),
                claim.method.clone(),
                claim.claimed_switches.to_owned(),
                figure(claim.found_switches_per_64_kib, 1.0, 1),
                claim.claimed_copies.to_owned(),
                labelled(claim.found_cpu_copies),
                one_line(&claim.verdict),
            ]
        }));
        table(text, &lines);
    }
}

const LEGEND: &str = "\n  MB is 10^6 bytes of bodies, GB 10^9; +- is half of the distance between the least and the greatest round\n  \
     CPU: of the server, user and system, and ksoftirqd on its core; with a warm cache counts come from a run of their own beside the timed one\n  \
     client softirq: soft interrupts on the client's core, where a veth has the server's end take in requests and acknowledgements\n  \
     copies by the CPU for each byte of a body, the receiver's own excluded: m measured, w witnessed by the kernel or the device,\n  \
     d derived from the path through the kernel's source and the state of the device\n";

const COLD_LEGEND: &str = "  cold: each file can be asked for once, so the one run is timed and counted, which slows it: compare cold rows with each other only\n";

/// A column of the tables.
#[derive(Clone, Copy)]
struct Column {
    head: &'static str,
    quantity: Quantity,
    shown: Shown,
}

/// How a figure is shown.
#[derive(Clone, Copy)]
enum Shown {
    /// Times this, with so many digits.
    Number(f64, usize),
    /// Its spread.
    Spread,
    /// With the letter of its label.
    Labelled,
}

const fn column(head: &'static str, quantity: Quantity, factor: f64, digits: usize) -> Column {
    Column { head, quantity, shown: Shown::Number(factor, digits) }
}

const RATE: Column = column("MB/s", Quantity::BytesPerSecond, 1e-6, 0);
const REQUESTS: Column = column("requests/s", Quantity::RequestsPerSecond, 1.0, 0);
const P99: Column = column("p99 us", Quantity::LatencyP99, 1.0, 0);
const CPU: Column = column("CPU s/GB", Quantity::CpuSecondsPerGb, 1.0, 2);
const CALLS: Column = column("calls/MB", Quantity::SyscallsPerMb, 1.0, 1);
const COPIES: Column =
    Column { head: "copies/byte", quantity: Quantity::CopiesPerByte, shown: Shown::Labelled };

const SHORT: [Column; 6] = [RATE, REQUESTS, P99, CPU, CALLS, COPIES];

const COLUMNS: [Column; 12] = [
    RATE,
    Column { head: "+-%", quantity: Quantity::BytesPerSecond, shown: Shown::Spread },
    REQUESTS,
    column("p50 us", Quantity::LatencyP50, 1.0, 0),
    P99,
    CPU,
    column("client softirq s/GB", Quantity::ClientSoftirqPerGb, 1.0, 2),
    CALLS,
    column("switches/MB", Quantity::ContextSwitchesPerMb, 1.0, 1),
    column("faults/MB", Quantity::FaultsPerMb, 1.0, 1),
    COPIES,
    column("disk/byte", Quantity::DiskPassesPerByte, 1.0, 2),
];

fn cells(row: &Row, columns: &[Column]) -> Vec<String> {
    let shown = |column: &Column| {
        let found = row.figure(column.quantity);
        match column.shown {
            Shown::Number(factor, digits) => figure(found, factor, digits),
            Shown::Spread => found.map_or_else(none, |found| format!("{:.0}", found.spread())),
            Shown::Labelled => labelled(found),
        }
    };
    [row.title()].into_iter().chain(columns.iter().map(shown)).collect()
}

fn none() -> String {
    "-".to_owned()
}

fn figure(figure: Option<Figure>, scale: f64, digits: usize) -> String {
    figure.map_or_else(none, |figure| format!("{:.digits$}", figure.median * scale))
}

fn labelled(figure: Option<Figure>) -> String {
    figure.map_or_else(none, |figure| format!("{:.2} {}", figure.median, figure.label.letter()))
}

/// What a program complained of may have several lines; a row has one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Columns as wide as they must be: words to the left, numbers to the right.
fn table(text: &mut String, lines: &[Vec<String>]) {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let numeric = |column: usize| {
        let mut cells = lines[1..].iter().map(|line| line[column].as_str());
        cells.all(|cell| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()) && cell.len() < 12)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let right: Vec<bool> = (0..columns).map(numeric).collect();
    for (number, line) in lines.iter().enumerate() {
        let mut shown = String::from(" ");
        for ((cell, &width), &right) in line.iter().zip(&widths).zip(&right) {
            let _ = if right { write!(shown, " {cell:>width$} ") } else { write!(shown, " {cell:<width$} ") };
        }
        let _ = writeln!(text, "{}", shown.trim_end());
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "  {}", rule.join("  "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_words_to_the_left() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let mut text = String::new();
        table(&mut text, &[line(["method", "MB/s"]), line(["a", "10"]), line(["bb", "-"])]);
        assert_eq!(text, "  method  MB/s\n  ------  ----\n  a         10\n  bb         -\n");
    }
}
