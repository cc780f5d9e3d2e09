//! The report for people: one table, the queues below it, and what it means in plain words.

use super::{Measured, Report, Row, Served};
use std::fmt::Write;
use std::time::Duration;

impl Report {
    /// The whole report; `took` is how long the demonstration lasted.
    #[must_use]
    pub fn to_text(&self, took: Duration) -> String {
        let mut text = format!("Ringway on Linux {}, {} CPUs\n\n", self.kernel, self.cpus);
        self.picture(&mut text);
        table(&mut text, &self.rows);
        queues(&mut text, &self.rows);
        self.meaning(&mut text);
        self.comparison(&mut text);
        self.next(&mut text, took);
        text
    }

    fn picture(&self, text: &mut String) {
        let Some(lacking) = &self.lacking else {
            text.push_str(PICTURE);
            return;
        };
        let _ =
            writeln!(text, "Real packets need a laboratory of network namespaces, and this process lacks:");
        for part in lacking.why.split("; ") {
            let _ = writeln!(text, "  {part}");
        }
        let _ = writeln!(text, "The cure:");
        for cure in &lacking.cures {
            let _ = writeln!(text, "  {cure}");
        }
        let _ = writeln!(
            text,
            "\nWhat works without: the same loop over the loopback driver.\n\
             IN MEMORY ONLY: no NIC, no kernel; the figures say what the loop costs, not what a wire carries.\n"
        );
    }

    fn meaning(&self, text: &mut String) {
        text.push_str("\nIn words\n");
        for row in &self.rows {
            match &row.measured {
                Some(measured) => meaning_of(text, row, measured),
                None => {
                    let error = row.error.as_deref().unwrap_or("no result");
                    let _ = writeln!(text, "  {}, {}: FAILED: {error}", row.driver, row.traffic);
                }
            }
        }
        explain_tcp(text, &self.rows);
        compare(text, &self.rows);
        explain_copied(text, &self.rows);
        if self.lacking.is_none() && self.rows.iter().flat_map(|row| &row.measured).any(copies) {
            text.push_str(
                "  \"copy\" and \"ring-copy\" are the truth about a veth cable: it has no zero-copy. A NIC whose driver has it\n  \
                 runs \"zero-copy\", and `ringway doctor` says which do.\n",
            );
        }
        let bad = self.rows.iter().filter(|row| row.measured.is_some() && !row.in_order()).count();
        let _ = match bad {
            0 if self.rows.iter().all(|row| row.measured.is_none()) => Ok(()),
            0 => writeln!(
                text,
                "  The books of each run balance: received and made = transmitted + delivered + discarded by name. No frame is unaccounted for."
            ),
            bad => writeln!(
                text,
                "  NOT IN ORDER: {bad} run(s) with damaged content or books that do not balance."
            ),
        };
    }

    fn comparison(&self, text: &mut String) {
        if let Some(why) = &self.comparison_error {
            let _ = writeln!(text, "\nWays to send a file, side by side: FAILED: {why}");
        }
        if let Some(report) = &self.comparison {
            let _ = writeln!(
                text,
                "\nWays to send a file, side by side (one short round; `ringway compare` has them all)"
            );
            text.push_str(&report.to_short_text());
        }
    }

    fn next(&self, text: &mut String, took: Duration) {
        text.push_str("\nTry next\n");
        let line = |text: &mut String, command: &str, what: &str| {
            let _ = writeln!(text, "  {command:<58} {what}");
        };
        if self.lacking.is_none() {
            line(text, "ringway compare --report F.html", "what each way of sending a file costs here");
        }
        line(text, "ringway doctor", "what this machine and its interfaces can do");
        if self.lacking.is_none() {
            line(text, "ringway lab up", "this laboratory, to play with by hand");
        }
        line(
            text,
            "ringway forward --port af-xdp:eth1 --port af-xdp:eth2",
            "two real interfaces (not the one you log in by)",
        );
        line(
            text,
            "ringway serve --port af-xdp:eth1 --address A/24 --root DIR",
            "files, at an address of its own",
        );
        let left =
            if self.lacking.is_none() { "; the laboratory is gone, nothing is left behind" } else { "" };
        let _ = writeln!(text, "\nDone in {:.0} s{left}.", took.as_secs_f64());
    }
}

const PICTURE: &str =
    "  left host                         ringway, in user space                         right host
  [ left0 ]======= cable =======[ rw-left ] <----> [ rw-right ]======= cable =======[ right0 ]
  the kernel's TCP and UDP      act one: every frame passes through our own rings    the kernel's TCP and UDP
  clients of HTTP, kernel TCP   act two: files from http://10.77.0.100:8080/, by TCP of our own
  the same client for each      act three: the same files by the bypass, by sendfile, by read and write

";

const HEADS: [&str; 13] = [
    "driver",
    "traffic",
    "bytes",
    "s",
    "packets",
    "Mpps",
    "Gb/s",
    "requests",
    "lost",
    "discarded",
    "queue",
    "content",
    "hash",
];

/// One row, column by column.
type Cells = [String; HEADS.len()];

fn table(text: &mut String, rows: &[Row]) {
    let cells: Vec<Cells> = rows.iter().map(cells_of).collect();
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.chain([HEADS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; HEADS.len()] = core::array::from_fn(width);
    let mut line = |row: &Cells| {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            let _ = match column {
                0 | 1 | 10.. => write!(line, " {cell:<width$} "),
                _ => write!(line, " {cell:>width$} "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&HEADS.map(str::to_owned));
    line(&widths.map(|width| "-".repeat(width)));
    cells.iter().for_each(line);
}

fn cells_of(row: &Row) -> Cells {
    let traffic = match row.traffic.as_str() {
        "site" => "HTTP, site".to_owned(),
        "file" => "HTTP, 64 MiB".to_owned(),
        other => other.to_uppercase().replace("BYTES", "bytes"),
    };
    let none = || "-".to_owned();
    let Some(measured) = &row.measured else {
        let mut cells: Cells = core::array::from_fn(|_| none());
        (cells[0], cells[1], cells[12]) = (row.driver.clone(), traffic, "FAILED".to_owned());
        return cells;
    };
    let served = measured.served.as_ref();
    [
        row.driver.clone(),
        traffic,
        size(measured.bytes),
        format!("{:.1}", measured.seconds),
        grouped(measured.packets),
        format!("{:.3}", measured.mpps),
        format!("{:.2}", measured.gbps),
        served.map_or_else(none, |served| grouped(served.requests)),
        grouped(measured.lost),
        grouped(measured.discarded.values().sum()),
        measured.queues.first().map_or_else(none, |queue| queue.copying.clone()),
        served.map_or_else(none, content),
        if measured.hash_ok { "ok" } else { "DAMAGED" }.to_owned(),
    ]
}

/// Whether ringway copied the content that it sent.
fn content(served: &Served) -> String {
    match 100.0 * served.gathered_share() {
        share if share < 0.5 => "copied".to_owned(),
        share => format!("{share:.0} % gathered"),
    }
}

/// Each queue once a driver: every run of a driver opens the same ones.
fn queues(text: &mut String, rows: &[Row]) {
    text.push_str("\nHow each queue ran\n");
    let mut shown = Vec::new();
    for row in rows {
        for queue in row.measured.iter().flat_map(|measured| &measured.queues) {
            let line = format!(
                "  {:<9} {:<9} queue {:<3} {:<10} {}",
                row.driver, queue.device, queue.queue, queue.copying, queue.mode
            );
            if !shown.contains(&line) {
                let _ = writeln!(text, "{}", line.trim_end());
                shown.push(line);
            }
        }
    }
    if shown.is_empty() {
        text.push_str("  none was opened\n");
    }
}

fn copies(measured: &Measured) -> bool {
    measured.queues.iter().any(|queue| matches!(queue.copying.as_str(), "copy" | "ring-copy"))
}

fn meaning_of(text: &mut String, row: &Row, measured: &Measured) {
    let Measured { sent, arrived, seconds, .. } = measured;
    let fate = if measured.hash_ok { "unharmed" } else { "DAMAGED" };
    let _ = match measured.unit {
        "bytes" if measured.served.is_some() => meaning_of_served(text, row, measured),
        "bytes" => writeln!(
            text,
            "  {}, TCP: {} arrived in {seconds:.1} s, {fate} (hash {}).{}",
            row.driver,
            size(*arrived),
            measured.hashes.as_ref().map_or("", |[_, arrived]| arrived),
            if measured.lost > 0 { " What was lost on the way was sent again:" } else { "" },
        ),
        "datagrams" => writeln!(
            text,
            "  {}, UDP: of {} datagrams, sent as fast as one thread can, {} arrived ({:.1} %), {fate}.{}",
            row.driver,
            grouped(*sent),
            grouped(*arrived),
            percent(*arrived, *sent),
            if measured.lost > 0 { " The others were lost:" } else { "" },
        ),
        _ => writeln!(
            text,
            "  {}, {}: {} frames made, forwarded and checked, {fate}; the rate is over the {seconds:.1} s inside the loop.",
            row.driver,
            row.traffic,
            grouped(*arrived),
        ),
    };
    for (count, place) in measured.losses.each().into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "    {:>11}  {place}", grouped(count));
    }
    if !measured.discarded.is_empty() {
        let each = measured.discarded.iter().map(|(reason, count)| format!("{} {reason}", grouped(*count)));
        let _ = writeln!(text, "    discarded by ringway: {}", each.collect::<Vec<_>>().join(", "));
    }
}

fn meaning_of_served(text: &mut String, row: &Row, measured: &Measured) -> std::fmt::Result {
    let none = Served::default();
    let served = measured.served.as_ref().unwrap_or(&none);
    let fate = if measured.hash_ok { "each body as it is on the disk" } else { "bodies DAMAGED" };
    let what = if row.traffic == "site" {
        "a site of nine files, four clients"
    } else {
        "a file of 64 MiB, one client"
    };
    let again = match served.sent_again {
        0 => String::new(),
        segments => format!("; {} segments were sent again", grouped(segments)),
    };
    writeln!(
        text,
        "  {}, HTTP: {what}: {} requests ({} a second), {}, {fate}{again}.\n    \
         {} read from files; {} of the bodies gathered from where that lies, {} copied into frames.",
        row.driver,
        grouped(served.requests),
        grouped_rate(served.requests_per_second),
        size(measured.arrived),
        size(served.loaded_bytes),
        size(served.gathered_bytes.saturating_sub(served.flattened_bytes)),
        size(served.copied_bytes + served.flattened_bytes.min(served.gathered_bytes)),
    )
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, rounded for people")]
fn grouped_rate(rate: f64) -> String {
    grouped(rate.round() as u64)
}

/// Whether the packets were larger than any frame of a wire: the sending host left the cutting to whoever comes last.
fn uncut(measured: &Measured) -> bool {
    measured.packets > 0 && measured.bytes / measured.packets > 2000
}

/// Why TCP is faster over one driver than over another that moves more packets: it is asked each time.
fn explain_tcp(text: &mut String, rows: &[Row]) {
    let tcp = || rows.iter().filter(|row| row.traffic == "tcp");
    let average = |uncut_ones: bool| {
        let found = tcp().find_map(|row| {
            let measured = row.measured.as_ref().filter(|measured| uncut(measured) == uncut_ones)?;
            Some((row.driver.as_str(), measured.bytes / measured.packets.max(1)))
        });
        found.filter(|(_, bytes)| *bytes > 0)
    };
    if let (Some((cut, small)), Some((whole, large))) = (average(false), average(true)) {
        let _ = writeln!(
            text,
            "  TCP over {whole} moves packets of {} bytes on average, over {cut} of {small}: an XDP program at the port makes the\n  \
             sending host cut its data to the MTU, as a wire would; without one the uncut pieces of up to 64 KiB (TSO) pass.\n  \
             Compare drivers by the packets of the UDP rows.",
            grouped(large),
        );
    }
}

/// Why content was copied although it lies where a device could read it.
fn explain_copied(text: &mut String, rows: &[Row]) {
    let served = rows.iter().filter_map(|row| Some((row, row.measured.as_ref()?.served.as_ref()?)));
    let on_purpose =
        |served: &Served| served.flattened_bytes == 0 && served.copied_bytes > served.gathered_bytes;
    if let Some((row, _)) = served.into_iter().find(|(_, served)| on_purpose(served)) {
        let _ = writeln!(
            text,
            "  {} sends packets of one MTU, and what one carries was copied on purpose: so little is cheaper to copy than to\n  \
             name to the device in a second descriptor (`ringway serve --copy-below` sets from where on it is gathered).",
            row.driver,
        );
    }
}

/// What the first driver gains over the second, where both carried the same traffic.
fn compare(text: &mut String, rows: &[Row]) {
    let udp: Vec<(&str, &Measured)> = rows
        .iter()
        .filter(|row| row.traffic == "udp")
        .filter_map(|row| Some((row.driver.as_str(), row.measured.as_ref()?)))
        .collect();
    let [(first, fast), (second, slow), ..] = udp[..] else { return };
    if slow.mpps <= 0.0 || first == second {
        return;
    }
    let ratio = fast.mpps / slow.mpps;
    let _ = writeln!(
        text,
        "  {first} carried {ratio:.1} times as many small packets as {second}. Sender, receiver and forwarder share the CPUs of this\n  \
         machine: this is a demonstration that it works, not a benchmark (`make bench` is)."
    );
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / (whole.max(1)) as f64
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn size(bytes: u64) -> String {
    if bytes >= 1_000_000_000 {
        format!("{:.2} GB", bytes as f64 / 1e9)
    } else {
        format!("{:.1} MB", bytes as f64 / 1e6)
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_driver_that_failed_says_why_and_is_not_in_order() {
        let row = Row {
            driver: "af-xdp".into(),
            traffic: "tcp".into(),
            error: Some("rw-left: no such thing".into()),
            measured: None,
        };
        assert!(!row.in_order());
        let report = Report {
            event: "demo",
            kernel: "6.1".into(),
            cpus: 2,
            lacking: None,
            rows: vec![row],
            comparison: None,
            comparison_error: None,
            ok: false,
        };
        let text = report.to_text(Duration::from_secs(2));
        assert!(text.contains("af-xdp, tcp: FAILED: rw-left: no such thing"), "{text}");
        assert!(text.contains("none was opened"), "{text}");
    }
}
