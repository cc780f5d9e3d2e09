//! Guests boot, have what was asked for, and tell the truth about their end.

use lab::Outcome;
use lab::guest::{Guest, Inside, Kernel, Nic};
use std::time::{Duration, Instant};

/// Three kinds of NICs, each where it is said to be, driven by the kernel.
fn nics_are_where_they_are_said_to_be(inside: &Inside, version: &str) -> Outcome<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    assert!(release.starts_with(version), "{release}");
    for (cable, nic) in Nic::ALL.into_iter().enumerate() {
        let device = format!("/sys/class/net/{}/device", inside.near(cable)?);
        let driver = std::fs::read_link(format!("{device}/driver"))?;
        assert!(driver.ends_with(nic.driver()), "{driver:?}");
        // A virtio NIC's device is one of the virtio bus, below the PCI device.
        let pci = std::fs::canonicalize(&device)?;
        assert!(pci.to_string_lossy().contains(&inside.near_pci(cable)), "{pci:?}");
        assert!(!inside.far(cable)?.is_empty());
    }
    Ok(())
}

/// Seconds into the day by the PC's clock, which QEMU keeps by the host's.
fn time_of_day(inside: &mut Inside) -> Outcome<u64> {
    let answer = inside
        .qmp("{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"/machine\",\"property\":\"rtc-time\"}}")?;
    let time: serde_json::Value = serde_json::from_str(&answer)?;
    let field = |name: &str| time["return"][name].as_u64().ok_or_else(|| format!("no {name}: {answer}"));
    Ok(field("tm_hour")? * 3600 + field("tm_min")? * 60 + field("tm_sec")?)
}

/// A second of the guest's is a second.
fn it_keeps_time(inside: &mut Inside) -> Outcome<()> {
    let (before, begin) = (time_of_day(inside)?, Instant::now());
    while begin.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let passed = (time_of_day(inside)? + 86_400 - before) % 86_400;
    // Asking takes a moment on a busy machine. The kernel's own measurement was wrong by ten times where it was wrong.
    assert!((3..=8).contains(&passed), "4 s of the guest's were {passed} s");
    Ok(())
}

#[test]
#[ignore = "tier guest"]
fn the_long_term_kernel_boots() {
    let guest = Nic::ALL.into_iter().fold(Guest::new(Kernel::V6_12), Guest::cable);
    guest.run(|inside| {
        nics_are_where_they_are_said_to_be(inside, "6.12.")?;
        it_keeps_time(inside)
    });
}

#[test]
#[ignore = "tier guest"]
fn the_new_kernel_boots_with_an_iommu() {
    let guest = Nic::ALL.into_iter().fold(Guest::new(Kernel::V7).iommu(true), Guest::cable);
    guest.module("vfio-pci").module("vfio_iommu_type1").run(|inside| {
        nics_are_where_they_are_said_to_be(inside, "7.")?;
        it_keeps_time(inside)?;
        inside.load("vfio_iommu_type1")?;
        for cable in 0..Nic::ALL.len() {
            let pci = inside.near_pci(cable);
            inside.bind(&pci, "vfio-pci")?;
            let group = std::fs::read_dir(format!("/sys/bus/pci/devices/{pci}/iommu_group/devices"))?;
            assert_eq!(group.count(), 1, "{pci} shares its group");
        }
        let groups = std::fs::read_dir("/dev/vfio")?.count();
        assert_eq!(groups, Nic::ALL.len() + 1, "a file for each group, and the container");
        Ok(())
    });
}

#[test]
#[ignore = "tier guest"]
#[should_panic(expected = "guest of a_failing_job_fails_its_test: the job ended with 101")]
fn a_failing_job_fails_its_test() {
    Guest::new(Kernel::V6_12).run(|_| Err("as asked".into()));
}

#[test]
#[ignore = "tier guest"]
#[should_panic(expected = "it ended without a verdict")]
fn a_guest_that_hangs_is_ended() {
    let guest = Guest::new(Kernel::V6_12).limit(std::time::Duration::from_secs(4));
    guest.run(|_| {
        loop {
            std::thread::park();
        }
    });
}
