//! The report for people: one table, the queues below it, and what it means in plain words.

use super::{Measured, Report, Row};
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
                "  The books of each run balance: received = transmitted + discarded by name. No frame is unaccounted for."
            ),
            bad => writeln!(
                text,
                "  NOT IN ORDER: {bad} run(s) with damaged content or books that do not balance."
            ),
        };
    }

    fn next(&self, text: &mut String, took: Duration) {
        text.push_str("\nTry next\n");
        let line = |text: &mut String, command: &str, what: &str| {
            let _ = writeln!(text, "  {command:<56} {what}");
        };
        line(text, "ringway doctor", "what this machine and its interfaces can do");
        if self.lacking.is_none() {
            line(text, "ringway lab up", "this laboratory, to play with by hand");
        }
        line(
            text,
            "ringway forward --port af-xdp:eth1 --port af-xdp:eth2",
            "two real interfaces (not the one you log in by)",
        );
        let left =
            if self.lacking.is_none() { "; the laboratory is gone, nothing is left behind" } else { "" };
        let _ = writeln!(text, "\nDone in {:.0} s{left}.", took.as_secs_f64());
    }
}

const PICTURE: &str =
    "  left host                         ringway, in user space                         right host
  [ left0 ]======= cable =======[ rw-left ] <----> [ rw-right ]======= cable =======[ right0 ]
  the kernel's TCP and UDP      every frame passes through our own rings             the kernel's TCP and UDP

";

const HEADS: [&str; 8] = ["driver", "traffic", "packets", "Mpps", "Gb/s", "lost", "discarded", "hash"];

fn table(text: &mut String, rows: &[Row]) {
    let cells: Vec<[String; 8]> = rows.iter().map(cells_of).collect();
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.chain([HEADS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 8] = core::array::from_fn(width);
    let mut line = |row: &[String; 8]| {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            let _ = match column {
                0 | 1 | 6 | 7 => write!(line, " {cell:<width$}  "),
                _ => write!(line, " {cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&HEADS.map(str::to_owned));
    line(&widths.map(|width| "-".repeat(width)));
    cells.iter().for_each(line);
}

fn cells_of(row: &Row) -> [String; 8] {
    let words = [row.driver.clone(), row.traffic.to_uppercase().replace("BYTES", "bytes")];
    let [driver, traffic] = words;
    let Some(measured) = &row.measured else {
        let none = || "-".to_owned();
        return [driver, traffic, none(), none(), none(), none(), none(), "FAILED".to_owned()];
    };
    [
        driver,
        traffic,
        grouped(measured.packets),
        format!("{:.3}", measured.mpps),
        format!("{:.2}", measured.gbps),
        grouped(measured.lost),
        discarded(measured),
        if measured.hash_ok { "ok" } else { "DAMAGED" }.to_owned(),
    ]
}

fn discarded(measured: &Measured) -> String {
    if measured.discarded.is_empty() {
        return "0".to_owned();
    }
    let parts: Vec<String> =
        measured.discarded.iter().map(|(reason, count)| format!("{} {reason}", grouped(*count))).collect();
    parts.join(", ")
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
            ok: false,
        };
        let text = report.to_text(Duration::from_secs(2));
        assert!(text.contains("af-xdp, tcp: FAILED: rw-left: no such thing"), "{text}");
        assert!(text.contains("none was opened"), "{text}");
    }
}
