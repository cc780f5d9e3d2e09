//! Whether a device may be given a file's own pages: what the kernel's VFIO says, file system by file system.
//!
//! The answers are in docs/decisions; they are asserted here so that a kernel that answers otherwise is noticed.

use lab::guest::{Guest, INSIDE, Kernel, Nic};
use lab::{Outcome, needs};
use rustix::mount::{MountFlags, mount};
use std::path::PathBuf;
use std::process::Command;

/// What the decision rests on.
const ANSWERS: [&str; 9] = [
    "/ext4 shared, read-only, read: mapped",
    "/ext4 shared, read-only, read and write: Bad address",
    "/ext4 shared, read and write: Bad address",
    "/tmpfs shared, read-only, read: mapped",
    "/tmpfs shared, read and write: mapped",
    "/ext4 after a write: the same page, readers see 'b'",
    "/ext4 after eviction: the same page, readers see 'b'",
    "/ext4 after a direct write: another page, readers see 'c'",
    "/ext4 after truncation and a write: another page, readers see 'd'",
];

/// The experiment's program, compiled outside; in the guest it is there already.
fn compiled() -> Outcome<PathBuf> {
    let folder = std::env::temp_dir().join(format!("ringway-map-file-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("map-file");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/map-file.c");
    if std::env::var_os(INSIDE).is_none() {
        let done = Command::new("gcc").args(["-O1", "-Wall", "-o"]).arg(&program).arg(source).status()?;
        assert!(done.success(), "gcc: {done}");
    }
    Ok(program)
}

fn answers(kernel: Kernel) {
    if std::env::var_os(INSIDE).is_none() {
        needs!(SYS_ADMIN; tools: "gcc", "mkfs.ext4");
    }
    let program = compiled().expect("a program");
    let guest = Guest::new(kernel).cable(Nic::Igb).iommu(true).program(&program).program("mkfs.ext4");
    let modules = ["vfio_iommu_type1", "vfio-pci", "ext4", "crc32c_generic", "brd"];
    modules.into_iter().fold(guest, Guest::module).run(|inside| {
        for module in ["vfio_iommu_type1", "crc32c_generic", "ext4", "brd"] {
            inside.load(module)?;
        }
        let pci = inside.near_pci(0);
        inside.bind(&pci, "vfio-pci")?;
        let group = std::fs::read_link(format!("/sys/bus/pci/devices/{pci}/iommu_group"))?;
        let group =
            format!("/dev/vfio/{}", group.file_name().ok_or("a group has a number")?.to_string_lossy());
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "/dev/ram0"]).output()?;
        assert!(made.status.success(), "{made:?}");
        for (kind, device) in [("ext4", "/dev/ram0"), ("tmpfs", "tmpfs")] {
            std::fs::create_dir_all(format!("/{kind}"))?;
            mount(device, format!("/{kind}"), kind, MountFlags::empty(), None)?;
        }
        let output = Command::new("map-file").args([&group, "/ext4", "/tmpfs"]).output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        println!("{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{output:?}");
        for answer in ANSWERS {
            assert!(told.lines().any(|line| line == answer), "not so: {answer}");
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(program.parent().expect("a folder"));
}

#[test]
#[ignore = "tier guest"]
fn a_file_is_mapped_for_a_device_by_the_long_term_kernel() {
    answers(Kernel::V6_12);
}

#[test]
#[ignore = "tier guest"]
fn a_file_is_mapped_for_a_device_by_the_new_kernel() {
    answers(Kernel::V7);
}
