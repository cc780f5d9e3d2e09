//! `ringway compare` on kernels that let programs trace: what each method copies is counted at the kernel's own copy routines, and
//! comes out as the path through its source says.
//!
//! ```text
//!   left: ringway load ── left0 ══ veth ══ rw-left ── ringway serve --engine METHOD, whose copies are counted
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::guest::{Guest, Kernel};
use lab::{Outcome, Ringway};
use serde_json::Value;
use std::time::Duration;

/// Copies in the kernel for each byte of a body of 1 MiB, by method and scatter-gather; and what may come on top, beside the heads of
/// requests, answers and packets.
const COPIES: [(&str, bool, f64, f64); 11] = [
    ("read-write", true, 2.0, 0.0),
    ("mmap-write", true, 1.0, 0.0),
    ("sendfile", true, 0.0, 0.0),
    // Not where it is sent: when a packet comes to the device (`skb_copy_bits`), and anew for each that is sent again, as happens in
    // a guest that is short of time.
    ("sendfile", false, 1.0, 0.7),
    ("splice", true, 0.0, 0.0),
    ("vmsplice", true, 0.0, 0.0),
    // The end of a veth is a socket of this machine: what was lent to packets is copied there after all.
    ("zerocopy", true, 1.0, 0.0),
    ("uring", true, 2.0, 0.0),
    ("uring-splice", true, 0.0, 0.0),
    // What a send did not take is sent from the same buffer; only where too few are free is it read again.
    ("uring-zerocopy", true, 2.0, 0.1),
    // From the arena into packets.
    ("bypass", true, 1.0, 0.0),
];

fn compared() -> Outcome<Value> {
    let mut methods: Vec<&str> = COPIES.iter().map(|(method, ..)| *method).collect();
    methods.dedup();
    let words = format!(
        "compare --methods {} --sizes 1m --connections 1 --rounds 1 --seconds 1 --format json",
        methods.join(",")
    );
    let args: Vec<&str> = words.split(' ').collect();
    let ended = Ringway::complete(&Namespace::current()?, &args, Duration::from_secs(200))?;
    assert!(ended.status.success(), "{ended:?}");
    ended.json()
}

fn counted(kernel: Kernel) {
    Guest::new(kernel).limit(Duration::from_secs(240)).run(|_| {
        let report = compared()?;
        let instruments = report["instruments"].as_array().expect("instruments");
        let copies = instruments.iter().find(|one| one["name"] == "copies in the kernel");
        let copies = copies.expect("an instrument for copies");
        println!("{copies}");
        assert_eq!(copies["works"], true, "{copies}");
        // lib/ is compiled without the place for fentry; net/ has it.
        let how = copies["how"].as_str().expect("words");
        assert!(how.starts_with("fentry at ") && how.contains("skb_copy_ubufs"), "{how}");
        assert!(how.contains("; breakpoint at _copy_to_iter, _copy_from_iter"), "{how}");
        let rows = report["rows"].as_array().expect("rows");
        let figure = |method: &str, gather: bool| {
            let is = |row: &&Value| row["method"] == method && row["scatter_gather"] == gather;
            let row = rows.iter().find(is).unwrap_or_else(|| panic!("no {method}, {gather} in {report}"));
            &row["figures"]["kernel_copies_per_byte"]
        };
        for (method, gather, ..) in COPIES {
            println!("{method}, scatter-gather {gather}: {}", figure(method, gather));
        }
        for (method, gather, copies, more) in COPIES {
            let (found, label) = (&figure(method, gather)["median"], &figure(method, gather)["label"]);
            assert_eq!(label, "measured", "{method}");
            let found = found.as_f64().expect("a number");
            let range = copies - 0.05..copies + 0.1 + more;
            assert!(range.contains(&found), "{method}, scatter-gather {gather}: {found}, not {copies}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "tier guest"]
fn the_long_term_kernel_counts_what_each_method_copies() {
    counted(Kernel::V6_12);
}

#[test]
#[ignore = "tier guest"]
fn the_new_kernel_counts_what_each_method_copies() {
    counted(Kernel::V7);
}
