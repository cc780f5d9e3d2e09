//! The example that drives a card of its own, in a guest that has one.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use lab::guest::{Guest, INSIDE, Kernel, Nic};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Outside it is where cargo has built it.
fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_06-bare-nic"));
    let inside = Path::new("/bin").join(built.file_name().expect("a program"));
    if std::env::var_os(INSIDE).is_some() { inside } else { built.to_owned() }
}

/// A host's own ARP requests come back to it, and the kernel's driver gets the card back.
#[test]
#[ignore = "tier guest"]
fn bare_nic_reflects_and_is_given_back() {
    let guest = Guest::new(Kernel::V6_12).cable(Nic::E1000e).iommu(true).program(program());
    guest.module("vfio-pci").module("vfio_iommu_type1").run(|inside| {
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        let lab = inside.hosts(|_| {})?;
        let card = inside.near_pci(0);
        let mut example = Command::new(program());
        let example = example.args([&format!("vfio:{card}"), "4"]).stdout(Stdio::piped()).spawn()?;
        let mut ping = lab.host(Side::Left).command("ping");
        // Nobody answers: that each question is reflected is what is wanted.
        let _ = ping.args(["-c", "3", "-W", "1", "10.77.0.99"]).output()?;
        let output = example.wait_with_output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{printed}");
        assert!(output.status.success() && printed.contains("82574L at 1000 Mb/s"), "{printed}");
        let last = printed.lines().last().unwrap_or_default();
        let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(numbers.len() == 2 && numbers[0] > 0 && numbers[0] == numbers[1], "{printed}");
        assert_eq!(inside.driver(&card).as_deref(), Some("e1000e"));
        Ok(())
    });
}
