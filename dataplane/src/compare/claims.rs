//! What articles on zero-copy claim of each method, beside what was found here.
//!
//! The claims are those that are told again and again: of a file that goes from disk to wire, how many copies and how many switches
//! between user and kernel each method takes.

use super::ledger::{Label, Quantity};
use super::plan::{Cache, Case};
use super::summary::{Figure, Row, cases};
use serde::Serialize;

/// One row of the literature's table.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// As articles call it.
    pub name: &'static str,
    /// The method here, as rows name it.
    pub method: String,
    /// Switches between user and kernel that are claimed for a piece.
    pub claimed_switches: &'static str,
    /// Copies that are claimed.
    pub claimed_copies: &'static str,
    /// Copies by the CPU among them, where a number is claimed.
    pub claimed_cpu_copies: Option<f64>,
    /// The case in which it was found.
    pub case: Option<Case>,
    /// Switches for 64 KiB.
    pub found_switches_per_64_kib: Option<Figure>,
    /// Switches for a request.
    pub found_switches_per_request: Option<Figure>,
    /// Copies by the CPU for a byte.
    pub found_cpu_copies: Option<Figure>,
    /// Passes from the disk for a byte, with a cold cache.
    pub found_disk_passes: Option<Figure>,
    /// Whether copies are as claimed, and if not, why.
    pub verdict: String,
}

struct Told {
    name: &'static str,
    method: &'static str,
    scatter_gather: bool,
    switches: &'static str,
    copies: &'static str,
    cpu: Option<f64>,
}

const fn told(
    name: &'static str,
    method: &'static str,
    switches: &'static str,
    copies: &'static str,
    cpu: Option<f64>,
) -> Told {
    Told { name, method, scatter_gather: true, switches, copies, cpu }
}

/// One article doubts that the third of these exists: sendfile without any copy by the CPU.
const LITERATURE: [Told; 13] = [
    told("read + write", "read-write", "4", "2 DMA + 2 CPU", Some(2.0)),
    told("mmap + write", "mmap-write", "4", "2 DMA + 1 CPU", Some(1.0)),
    Told { scatter_gather: false, ..told("sendfile", "sendfile", "2", "2 DMA + 1 CPU", Some(1.0)) },
    told("sendfile + SG-DMA", "sendfile", "2", "2 DMA + 0 CPU", Some(0.0)),
    told("splice", "splice", "4 a pipe-full", "2 DMA + 0 CPU", Some(0.0)),
    told("vmsplice", "vmsplice", "not told", "0 CPU", Some(0.0)),
    told("MSG_ZEROCOPY over mmap", "zerocopy", "2 + error queue", "0 CPU", Some(0.0)),
    told("io_uring, fixed buffers", "uring", "about 0 a batch", "0 to 1 CPU", None),
    told("io_uring, splice", "uring-splice", "about 0 a batch", "0 CPU", Some(0.0)),
    told("io_uring, SEND_ZC", "uring-zerocopy", "about 0 a batch", "0 to 1 CPU", None),
    told("AIO + direct I/O", "direct-aio", "about 0 a batch", "no page cache", None),
    told("io_uring + direct I/O", "direct-uring", "about 0 a batch", "no page cache", None),
    told("AF_XDP", "bypass", "0, or 1 a batch", "0 to 1 CPU", None),
];

/// Beside each claim what the rows say: in the case with the largest files, where a switch is for many bytes, and as the
/// device comes.
pub(super) fn found(rows: &[Row]) -> Vec<Claim> {
    let largest = |cache: Cache| {
        cases(rows).into_iter().filter(|case| case.cache == cache).max_by_key(|case| (case.size, case.tso))
    };
    let (warm, cold) = (largest(Cache::Warm), largest(Cache::Cold));
    LITERATURE.iter().filter_map(|told| claim(rows, told, warm.or(cold)?, cold)).collect()
}

fn claim(rows: &[Row], told: &Told, case: Case, cold: Option<Case>) -> Option<Claim> {
    let of = |case: Case| {
        let same = move |row: &&Row| {
            row.case == case && row.method == told.method && row.scatter_gather == told.scatter_gather
        };
        rows.iter().find(same)
    };
    // A method that was not asked for has no row; one that this machine has not is one without figures.
    let row = of(case)?;
    let copies = row.figure(Quantity::CopiesPerByte);
    let disk = cold.and_then(of).and_then(|row| row.figure(Quantity::DiskPassesPerByte));
    Some(Claim {
        name: told.name,
        method: row.title(),
        claimed_switches: told.switches,
        claimed_copies: told.copies,
        claimed_cpu_copies: told.cpu,
        case: Some(case),
        found_switches_per_64_kib: row.figure(Quantity::CrossingsPer64Kib),
        found_switches_per_request: row.figure(Quantity::CrossingsPerRequest),
        found_cpu_copies: copies,
        found_disk_passes: disk,
        verdict: verdict(told, row, copies),
    })
}

/// How far a figure may be from a claim and still be it: headers are copied too.
const CLOSE: f64 = 0.15;

fn verdict(told: &Told, row: &Row, copies: Option<Figure>) -> String {
    if row.unavailable.is_some() {
        return "not available here".to_owned();
    }
    let Some(found) = copies else { return "not measured".to_owned() };
    if let Some(undone) = row.median(Quantity::ZeroCopyUndone).filter(|undone| *undone > CLOSE) {
        return format!(
            "the kernel says that it copied {:.0} % of the zero-copy sends after all: the receiver is on this machine",
            undone * 100.0
        );
    }
    let Some(claimed) = told.cpu else { return format!("found: {}", words(found)) };
    let difference = found.median - claimed;
    if difference.abs() > CLOSE {
        return format!("differs: {}", words(found));
    }
    match found.label {
        Label::Measured => "holds, measured".to_owned(),
        Label::Witnessed => "holds, says the kernel".to_owned(),
        Label::Derived => "holds by the kernel's source; not measured here".to_owned(),
    }
}

fn words(found: Figure) -> String {
    format!("{:.2} copies a byte, {}", found.median, found.label.name())
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::row;
    use super::*;

    fn with(name: &str, copies: f64, label: Label, undone: Option<f64>) -> Row {
        let mut row = row(name, [1.0; 3], 1.0);
        let figure = |value, label| Figure { median: value, least: value, greatest: value, label };
        row.figures.insert(Quantity::CopiesPerByte, figure(copies, label));
        if let Some(undone) = undone {
            row.figures.insert(Quantity::ZeroCopyUndone, figure(undone, Label::Witnessed));
        }
        row
    }

    #[test]
    fn both_rows_of_sendfile_are_told_apart_by_scatter_gather() {
        let gathered = with("sendfile", 0.0, Label::Measured, None);
        let copied = Row { scatter_gather: false, ..with("sendfile", 1.02, Label::Derived, None) };
        let claims = found(&[gathered, copied]);
        let said: Vec<(&str, &str)> =
            claims.iter().map(|claim| (claim.name, claim.verdict.as_str())).collect();
        assert_eq!(
            said,
            [
                ("sendfile", "holds by the kernel's source; not measured here"),
                ("sendfile + SG-DMA", "holds, measured")
            ]
        );
    }

    #[test]
    fn a_copy_after_all_a_difference_and_a_missing_method_are_said() {
        let undone = with("zerocopy", 1.0, Label::Witnessed, Some(1.0));
        let differs = with("splice", 1.0, Label::Measured, None);
        let mut missing = row("vmsplice", [1.0; 3], 1.0);
        missing.unavailable = Some("no such engine".into());
        let claims = found(&[undone, differs, missing]);
        let verdict = |name: &str| {
            let claim = claims.iter().find(|claim| claim.name.starts_with(name)).expect("a claim");
            claim.verdict.clone()
        };
        assert!(verdict("MSG_ZEROCOPY").contains("copied 100 %"), "{claims:?}");
        assert_eq!(verdict("splice"), "differs: 1.00 copies a byte, measured");
        assert_eq!(verdict("vmsplice"), "not available here");
        assert!(found(&[]).is_empty());
    }
}
