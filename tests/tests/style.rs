//! The tree held to its own rules: where unsafe code may be, why each dependency is here, how long a file may grow.
#![forbid(unsafe_code)]

use lab::source::{code_only, has_word, rust_files, top};
use std::collections::BTreeSet;

fn read(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// First cells of the table rows of `docs/unsafe.md`: `| `file` | why | invariants |`.
fn listed_as_unsafe() -> BTreeSet<String> {
    let page = read("docs/unsafe.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "docs/unsafe.md: a row has file, why and invariants: {row}");
        assert!(
            cells[1].len() > 10 && cells[2].len() > 3,
            "docs/unsafe.md: say why, and name the invariants: {row}"
        );
        cells[0].trim_matches('`').to_owned()
    })
    .collect()
}

/// Unsafe code is where `docs/unsafe.md` says, and nowhere else; and the page lists no file without any.
#[test]
fn unsafe_code_is_where_the_inventory_says() {
    let found: BTreeSet<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| has_word(&code_only(text), "unsafe"))
        .map(|(path, _)| path)
        .collect();
    let listed = listed_as_unsafe();
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(unlisted.is_empty(), "unsafe code, but no row in docs/unsafe.md: {unlisted:?}");
    assert!(stale.is_empty(), "a row in docs/unsafe.md, but no unsafe code: {stale:?}");
}

/// The crates that need no unsafe code say so to the compiler, in each root file.
#[test]
fn crates_without_unsafe_code_forbid_it() {
    let bare: Vec<String> = rust_files()
        .into_iter()
        .filter(|(path, _)| {
            let crate_of = path.split('/').next().unwrap_or_default();
            let root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
            matches!(crate_of, "dataplane" | "examples" | "tests") && root
        })
        .filter(|(_, text)| !code_only(text).contains("#![forbid(unsafe_code)]"))
        .map(|(path, _)| path)
        .collect();
    assert!(bare.is_empty(), "`#![forbid(unsafe_code)]` is missing in {bare:?}");
}

/// Each dependency from outside the tree has its reason beside it.
#[test]
fn each_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("[workspace.dependencies]").expect("the one list of dependencies");
    let list = rest.split("\n[").next().expect("split gives at least one part");
    let lines = list.lines().filter(|line| line.contains('=') && !line.trim_start().starts_with('#'));
    let outside: Vec<&str> = lines.filter(|line| !line.contains("path =")).collect();
    assert!(outside.len() > 5, "the list was not understood: {outside:?}");
    let bare: Vec<&&str> = outside
        .iter()
        .filter(|line| line.split_once('#').is_none_or(|(_, why)| why.trim().len() < 8))
        .collect();
    assert!(bare.is_empty(), "dependencies without a reason: {bare:#?}");
}

/// Every package takes its dependencies from that one list.
#[test]
fn packages_take_dependencies_from_the_one_list() {
    for package in ["ringbuf", "drivers", "dataplane", "examples", "tests"] {
        let manifest = read(&format!("{package}/Cargo.toml"));
        let own: Vec<&str> = manifest
            .split("\n[")
            .filter(|section| section.split(']').next().is_some_and(|name| name.ends_with("dependencies")))
            .flat_map(|section| section.lines().skip(1))
            .filter(|line| line.contains('=') && !line.starts_with('#') && !line.contains("workspace = true"))
            .collect();
        assert!(own.is_empty(), "{package}/Cargo.toml has versions of its own: {own:?}");
    }
}

/// A file that grows too long for one head is split.
#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<String> = rust_files()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(path, lines)| {
            // examples/NN-name.rs; their tests are as long as any.
            let example = path.starts_with("examples/") && path.matches('/').count() == 1;
            *lines > if example { 80 } else { 700 }
        })
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "too long (700 lines; examples 80): {long:#?}");
}

/// No code that was left for later, and no test that is switched off without a reason beside it.
#[test]
fn nothing_is_left_for_later() {
    let unwanted = ["todo!", "unimplemented!", "dbg!", "#[ignore]"];
    let found: Vec<String> = rust_files()
        .into_iter()
        .flat_map(|(path, text)| {
            let code = code_only(&text);
            let lines = code.lines().enumerate();
            let hits = lines.filter(|(_, line)| unwanted.iter().any(|word| line.contains(word)));
            hits.map(|(number, _)| format!("{path}:{}", number + 1)).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "left for later: {found:#?}");
}
