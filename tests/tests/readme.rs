//! The commands of README.md, as they are printed there: each does something, in a laboratory whose ports have its names.
//!
//! ```text
//!   left ══ eth1 [ the commands ] eth2 ══ right
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::{Ringway, TestLab, needs};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

/// The lines of all blocks of shell, without what is said of them.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => found.push(line.split(" #").next().unwrap_or_default().trim().to_owned()),
            _ => {}
        }
    }
    found.retain(|line| !line.is_empty());
    found
}

#[test]
fn every_command_of_the_readme_runs() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF; tools: "ip", "ethtool");
    let home =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of tests is inside of another");
    let readme = std::fs::read_to_string(home.join("README.md")).expect("README.md");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    for (side, name) in Side::BOTH.into_iter().zip(["eth1", "eth2"]) {
        lab.ip(&format!("link set {} down", side.port())).expect("down");
        lab.ip(&format!("link set {} name {name} up", side.port())).expect("renamed");
    }
    let program = Ringway::program().expect("the program");
    let run = |args: &[&str]| -> Output {
        lab.middle().command(&program).args(args).current_dir(home).output().expect("an end")
    };
    let makefile = std::fs::read_to_string(home.join("Makefile")).expect("Makefile");
    let (mut installed, mut ran) = (false, BTreeSet::new());
    for line in commands(&readme) {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "sudo").collect();
        match words[..] {
            ["make", target] => {
                assert!(makefile.contains(&format!("\n{target}: ")), "{line}: no such target")
            }
            ["bash", script, "build"] => assert!(home.join(script).is_file(), "{line}: no such script"),
            ["cargo", "build", "--release", "--bin", name] => assert_eq!(name, "ringway", "{line}"),
            ["install", from, to] => {
                assert_eq!((from, to), ("target/release/ringway", "/usr/local/bin/"), "{line}");
                installed = true;
            }
            ["ringway", command, ..] => {
                assert!(installed, "{line}: nobody has it in PATH yet");
                let mut args = words[1..].to_vec();
                if let Some(at) = args.iter().position(|word| *word == "--duration") {
                    args.drain(at..at + 2);
                }
                if command != "doctor" {
                    args.extend(["--duration", "0.3"]);
                }
                let output = run(&args);
                assert!(output.stderr.is_empty(), "{line}: {output:?}");
                // The doctor's is 1 where the machine lacks something, which is no fault of the command.
                assert!(output.status.success() || command == "doctor", "{line}: {output:?}");
                assert!(output.stdout.len() > 100, "{line}: {output:?}");
                ran.insert(command.to_owned());
            }
            _ => panic!("{line}: this test does not know what it is to do"),
        }
    }
    assert_eq!(ran, ["doctor", "forward", "serve"].map(str::to_owned).into(), "commands of the README");
}
