//! The report as one page: nothing is loaded from elsewhere, and it is right in light and in dark, on a phone and on a desk.

use super::Report;
use super::ledger::Quantity;
use super::plan::{Case, size_words};
use super::plot::{Bar, Colour, Range, bars, ranges};
use super::summary::{Figure, Row, cases};
use std::fmt::Write;

impl Report {
    /// The whole page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut page = String::from(HEAD);
        self.header(&mut page);
        for wire in wires(&self.rows) {
            self.plots(&mut page, &wire);
        }
        self.literature(&mut page);
        self.ledgers(&mut page);
        self.fine_print(&mut page);
        page.push_str("</main></body></html>\n");
        page
    }

    fn header(&self, page: &mut String) {
        let lines = self.machine.lines();
        let _ = write!(
            page,
            "<header><p class=brand>ringway compare</p><h1>What each way of sending a file costs</h1><ul class=facts>"
        );
        for line in &lines {
            let _ = write!(page, "<li>{}</li>", escaped(line));
        }
        let _ = write!(
            page,
            "<li>{} connections; medians of {} rounds of {} s each, in rotation</li></ul></header><main>",
            self.connections, self.rounds, self.run_seconds
        );
        if self.interrupted {
            page.push_str(
                "<p class=alarm>Interrupted: a signal ended it; the figures are of the rounds that were done.</p>",
            );
        }
        if self.verdicts.is_empty() {
            return;
        }
        page.push_str("<section><h2>Who wins where, on this machine</h2><ul class=verdicts>");
        for verdict in &self.verdicts {
            let (case, says) = verdict.split_once(": ").unwrap_or(("", verdict));
            let _ = write!(page, "<li><b>{}</b>{}</li>", escaped(case), escaped(says));
        }
        page.push_str("</ul></section>");
    }

    fn plots(&self, page: &mut String, sizes: &[Case]) {
        let Some(first) = sizes.first() else { return };
        // One size leaves room for the plots beside each other.
        let class = if sizes.len() == 1 { "plots one" } else { "plots" };
        let _ = write!(page, "<h2 class=wire>{}</h2><div class=\"{class}\">", escaped(&wire_words(first)));
        let of = |case: &Case| -> Vec<&Row> {
            self.rows.iter().filter(|row| row.case == *case && row.rounds > 0).collect()
        };
        let families: Vec<_> = FAMILIES
            .iter()
            .copied()
            .filter(|(colour, _)| sizes.iter().flat_map(&of).any(|row| Colour::of(row.method) == *colour))
            .collect();
        section(
            page,
            "Throughput",
            "megabytes of bodies a second; more is better; the line is from the least to the greatest round",
            &families,
        );
        each(page, sizes, |case| throughput(&of(case), case));
        section(page, "CPU time", "seconds of the server for a gigabyte; less is better", CPU);
        each(page, sizes, |case| cpu(&of(case), case));
        section(
            page,
            "Latency",
            "of a request, on a logarithmic scale: the large point is 50 %, then 90 %, 99 %, and 99.9 % at the mark",
            &families,
        );
        each(page, sizes, |case| latency(&of(case), case));
        section(
            page,
            "Copies by the CPU",
            "for each byte of a body, the receiver's own excluded; less is better",
            COPIES,
        );
        each(page, sizes, |case| copies(&of(case), case));
        page.push_str("</div>");
    }

    fn literature(&self, page: &mut String) {
        let Some(case) = self.claims.iter().find_map(|claim| claim.case) else { return };
        let _ = write!(
            page,
            "<section><h2>What the literature claims, and what was found</h2><p class=note>Found with {}. Switches are between user and \
             kernel: two for each system call and page fault.</p><div class=scroll><table><thead><tr><th>claimed of<th>method<th>switches \
             claimed<th class=n>found for 64 KiB<th>copies claimed<th class=n>by the CPU, found<th>so</thead><tbody>",
            escaped(&case.words())
        );
        for claim in &self.claims {
            let label = claim.found_cpu_copies.map_or("", |found| found.label.name());
            let _ = write!(
                page,
                "<tr><th>{}<td>{}<td>{}<td class=n>{}<td>{}<td class=n>{} <small>{label}</small><td>{}",
                escaped(claim.name),
                escaped(&claim.method),
                escaped(claim.claimed_switches),
                number(claim.found_switches_per_64_kib),
                escaped(claim.claimed_copies),
                number(claim.found_cpu_copies),
                escaped(&claim.verdict)
            );
        }
        page.push_str("</tbody></table></div></section>");
    }

    fn ledgers(&self, page: &mut String) {
        page.push_str("<section><h2>The ledgers</h2>");
        for case in cases(&self.rows) {
            let _ = write!(
                page,
                "<details><summary>{}</summary><div class=scroll><table><thead><tr><th>method",
                escaped(&case.words())
            );
            for (head, ..) in COLUMNS {
                let _ = write!(page, "<th class=n>{head}");
            }
            page.push_str("</thead><tbody>");
            for row in self.rows.iter().filter(|row| row.case == case) {
                ledger_row(page, row);
            }
            page.push_str("</tbody></table></div></details>");
        }
        page.push_str("</section>");
    }

    fn fine_print(&self, page: &mut String) {
        page.push_str("<section class=fine><h2>How it was measured</h2><ul>");
        let mut line = |text: &str| {
            let _ = write!(page, "<li>{}</li>", escaped(text));
        };
        line(
            "One server at a time, started anew for each run in a fresh laboratory of two network namespaces and a veth cable, always with \
             the same client. All methods take turns, round by round.",
        );
        line(
            "CPU time is that of the server's process, user and system, and of ksoftirqd on its core; client softirq is that of soft \
             interrupts on the client's core, where a veth has the server's end take in requests and acknowledgements. Calls, switches, faults and copies \
             come from a run of their own beside the timed one, since counting slows what is counted.",
        );
        line(
            "Measured: counted in this run. Witnessed: the kernel or the device said so afterwards. Derived: from the path through the \
             kernel's source and the state of the device.",
        );
        for instrument in self.instruments.iter().filter(|instrument| !instrument.works) {
            line(&format!("Not measured here: {}", instrument.why.as_deref().unwrap_or(instrument.name)));
        }
        page.push_str("</ul></section>");
    }
}

/// Sizes over the same wire and cache are shown together.
fn wires(rows: &[Row]) -> Vec<Vec<Case>> {
    let mut found: Vec<Vec<Case>> = Vec::new();
    for case in cases(rows) {
        let same = |group: &&mut Vec<Case>| {
            group.first().is_some_and(|first| Case { size: case.size, ..*first } == case)
        };
        match found.iter_mut().find(same) {
            Some(group) => group.push(case),
            None => found.push(vec![case]),
        }
    }
    found
}

fn wire_words(case: &Case) -> String {
    let words = case.words();
    words.split_once(", ").map_or(words.as_str(), |(_, wire)| wire).to_owned()
}

type Legend = &'static [(Colour, &'static str)];
const FAMILIES: Legend =
    &[(Colour::Bypass, "bypass"), (Colour::Kernel, "the kernel's TCP"), (Colour::Nginx, "nginx")];
const CPU: Legend = &[(Colour::User, "user"), (Colour::System, "system"), (Colour::Softirq, "ksoftirqd")];
const COPIES: Legend = &[(Colour::User, "in user space"), (Colour::System, "in the kernel")];

fn section(page: &mut String, title: &str, note: &str, legend: &[(Colour, &str)]) {
    let _ = write!(page, "<section><h3>{title}</h3><p class=note>{}</p><p class=legend>", escaped(note));
    for (colour, name) in legend {
        let _ = write!(page, "<span style=\"--c:var(--{})\">{}</span>", colour.variable(), escaped(name));
    }
    page.push_str("</p>");
}

fn each(page: &mut String, sizes: &[Case], draw: impl Fn(&Case) -> Option<String>) {
    page.push_str("<div class=grid>");
    for case in sizes {
        if let Some(svg) = draw(case) {
            let _ = write!(page, "<figure><figcaption>{}</figcaption>{svg}</figure>", size_words(case.size));
        }
    }
    page.push_str("</div></section>");
}

/// The rows that have a figure, the least or the greatest first.
fn sorted<'r>(rows: &[&'r Row], quantity: Quantity, greatest_first: bool) -> Vec<(&'r Row, Figure)> {
    let mut found: Vec<(&Row, Figure)> =
        rows.iter().filter_map(|row| Some((*row, row.figure(quantity)?))).collect();
    found.sort_by(|one, other| one.1.median.total_cmp(&other.1.median));
    if greatest_first {
        found.reverse();
    }
    found
}

fn throughput(rows: &[&Row], case: &Case) -> Option<String> {
    let bar = |(row, figure): (&Row, Figure)| Bar {
        name: row.title(),
        parts: vec![(figure.median / 1e6, Colour::of(row.method))],
        spread: Some((figure.least / 1e6, figure.greatest / 1e6)),
        text: digits(figure.median / 1e6),
    };
    let found: Vec<Bar> = sorted(rows, Quantity::BytesPerSecond, true).into_iter().map(bar).collect();
    bars(&format!("Throughput by method, {}", case.words()), &found, "")
}

fn cpu(rows: &[&Row], case: &Case) -> Option<String> {
    let kinds = [
        (Quantity::CpuUserPerGb, Colour::User),
        (Quantity::CpuSystemPerGb, Colour::System),
        (Quantity::CpuKsoftirqdPerGb, Colour::Softirq),
    ];
    let bar = |(row, figure): (&Row, Figure)| Bar {
        name: row.title(),
        parts: kinds.map(|(kind, colour)| (row.median(kind).unwrap_or(0.0), colour)).to_vec(),
        spread: None,
        text: format!("{} s", digits(figure.median)),
    };
    let found: Vec<Bar> = sorted(rows, Quantity::CpuSecondsPerGb, false).into_iter().map(bar).collect();
    bars(&format!("CPU seconds for a gigabyte by method, {}", case.words()), &found, "s")
}

fn latency(rows: &[&Row], case: &Case) -> Option<String> {
    let range = |(row, p50): (&Row, Figure)| -> Option<Range> {
        let at = |quantity| row.median(quantity);
        Some(Range {
            name: row.title(),
            points: [
                p50.median,
                at(Quantity::LatencyP90)?,
                at(Quantity::LatencyP99)?,
                at(Quantity::LatencyP999)?,
            ],
            colour: Colour::of(row.method),
        })
    };
    let found: Vec<Range> = sorted(rows, Quantity::LatencyP50, false).into_iter().filter_map(range).collect();
    ranges(&format!("Latency by method, {}", case.words()), &found)
}

fn copies(rows: &[&Row], case: &Case) -> Option<String> {
    let bar = |(row, figure): (&Row, Figure)| Bar {
        name: row.title(),
        parts: vec![
            (row.median(Quantity::UserCopiesPerByte).unwrap_or(0.0), Colour::User),
            (row.median(Quantity::KernelCopiesPerByte).unwrap_or(0.0), Colour::System),
        ],
        spread: None,
        text: format!("{:.2} {}", figure.median, figure.label.name()),
    };
    let found: Vec<Bar> = sorted(rows, Quantity::CopiesPerByte, false).into_iter().map(bar).collect();
    bars(&format!("Copies for a byte by method, {}", case.words()), &found, "")
}

/// Column, quantity, factor.
const COLUMNS: [(&str, Quantity, f64); 15] = [
    ("MB/s", Quantity::BytesPerSecond, 1e-6),
    ("requests/s", Quantity::RequestsPerSecond, 1.0),
    ("p50 \u{b5}s", Quantity::LatencyP50, 1.0),
    ("p99 \u{b5}s", Quantity::LatencyP99, 1.0),
    ("CPU s/GB", Quantity::CpuSecondsPerGb, 1.0),
    ("client softirq s/GB", Quantity::ClientSoftirqPerGb, 1.0),
    ("CPU \u{b5}s/request", Quantity::CpuMicrosecondsPerRequest, 1.0),
    ("calls/request", Quantity::SyscallsPerRequest, 1.0),
    ("calls/MB", Quantity::SyscallsPerMb, 1.0),
    ("context switches/MB", Quantity::ContextSwitchesPerMb, 1.0),
    ("page faults/MB", Quantity::FaultsPerMb, 1.0),
    ("copies/byte, user", Quantity::UserCopiesPerByte, 1.0),
    ("copies/byte, kernel", Quantity::KernelCopiesPerByte, 1.0),
    ("disk/byte", Quantity::DiskPassesPerByte, 1.0),
    ("zero-copy undone", Quantity::ZeroCopyUndone, 1.0),
];

fn ledger_row(page: &mut String, row: &Row) {
    let _ = write!(page, "<tr><th>{}", escaped(&row.title()));
    if row.rounds == 0 {
        let unavailable = row.unavailable.as_ref().map(|why| format!("not available here: {why}"));
        let why = unavailable.or_else(|| row.failures.first().map(|why| format!("failed: {why}")));
        let why = why.unwrap_or_else(|| "no round was done".to_owned());
        let _ = write!(page, "<td colspan={} class=missing>{}", COLUMNS.len(), escaped(&why));
        return;
    }
    for (_, quantity, factor) in COLUMNS {
        let cell = row.figure(quantity).map_or_else(
            || "\u{2013}".to_owned(),
            |figure| {
                let range =
                    format!("{} to {}", digits(figure.least * factor), digits(figure.greatest * factor));
                let label = figure.label;
                format!(
                    "<span title=\"{range}, {}\">{}</span><small>{}</small>",
                    label.name(),
                    digits(figure.median * factor),
                    label.letter()
                )
            },
        );
        let _ = write!(page, "<td class=n>{cell}");
    }
    if let Some(why) = row.failures.first() {
        let _ = write!(
            page,
            "<tr><td colspan={} class=missing>failed in a round: {}",
            COLUMNS.len() + 1,
            escaped(why)
        );
    }
}

fn number(figure: Option<Figure>) -> String {
    figure.map_or_else(|| "\u{2013}".to_owned(), |figure| digits(figure.median))
}

/// Three digits that mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        ..1e-9 => "0".to_owned(),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// For text and quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

const HEAD: &str = concat!(
    "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>",
    "<meta name=viewport content=\"width=device-width,initial-scale=1\">",
    "<meta name=color-scheme content=\"light dark\"><title>ringway compare</title><style>",
    include_str!("report.css"),
    "</style></head><body>"
);

#[cfg(test)]
mod tests {
    use super::super::summary::tests::row;
    use super::*;

    #[test]
    fn sizes_over_one_wire_are_shown_together() {
        let small = row("sendfile", [1.0; 3], 1.0);
        let large = Row { case: Case { size: 1 << 20, ..small.case }, ..small.clone() };
        let other = Row { case: Case { tso: false, ..small.case }, ..small.clone() };
        let groups = wires(&[small, other, large]);
        let sizes: Vec<Vec<u64>> =
            groups.iter().map(|group| group.iter().map(|case| case.size).collect()).collect();
        assert_eq!(sizes, [vec![1024, 1 << 20], vec![1024]]);
    }

    #[test]
    fn three_digits_are_shown_and_text_is_escaped() {
        let shown = [0.0, 0.123, 9.876, 12.34, 123.4, 5678.9].map(digits);
        assert_eq!(shown, ["0", "0.12", "9.88", "12.3", "123", "5679"]);
        assert_eq!(escaped("<a href=\"x\">'&'"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;");
    }
}
