//! The book agrees with the tree: each chapter that is listed exists and the other way round, and each piece of source that a
//! chapter includes by anchor is there.
#![forbid(unsafe_code)]

use lab::source::top;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn pages(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "book") {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path);
        }
    }
    found
}

#[test]
fn the_table_of_contents_lists_each_chapter() {
    let docs = top().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).expect("docs/SUMMARY.md");
    let links = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let listed: BTreeSet<PathBuf> = links.map(|link| docs.join(link)).collect();
    let mut found = pages(&docs);
    found.remove(&docs.join("SUMMARY.md"));
    assert_eq!(listed, found, "left: listed in docs/SUMMARY.md, right: found in docs/");
}

/// `{{#include path:anchor}}`, relative to the page; the file has `ANCHOR: anchor` and `ANCHOR_END: anchor`.
#[test]
fn each_included_piece_of_source_exists() {
    for page in pages(&top().join("docs")) {
        let text = std::fs::read_to_string(&page).expect("a readable page");
        for include in text.split("{{#").skip(1).filter(|rest| rest.contains("include ")) {
            let target = include
                .split("}}")
                .next()
                .and_then(|part| part.split_whitespace().nth(1))
                .unwrap_or_default();
            let (path, anchor) = target.split_once(':').unwrap_or((target, ""));
            let path = page.parent().expect("a page lies in a folder").join(path);
            let source = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{} includes {}: {error}", page.display(), path.display()));
            let marked = |mark: &str| {
                source.lines().any(|line| line.trim_end().ends_with(&format!("{mark}: {anchor}")))
            };
            let whole = anchor.is_empty() || anchor.starts_with(|c: char| c.is_ascii_digit());
            assert!(
                whole || (marked("ANCHOR") && marked("ANCHOR_END")),
                "{} includes {target}, but there is no such anchor",
                page.display()
            );
        }
    }
}
