//! What becomes of a card that ringway drives: killed processes, links that go, cards that are pulled out, and requests that
//! must be refused, each with the cure.
//!
//! ```text
//!   left: TCP, ping ── left0 ══ 0000:01:00.0 [ forward ] 0000:03:00.0 ══ right0 ── right: TCP, ping
//! ```

use dataplane::lab::{Namespace, Side};
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::traffic::{ping, tcp};
use lab::{Forwarder, Outcome, Ringway, TestLab, needs};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn here() -> Outcome<Namespace> {
    Ok(Namespace::current()?)
}

fn forward(ports: &[String; 2], args: &[&str]) -> Outcome<Forwarder> {
    let mut all = vec!["--port", &ports[0], "--port", &ports[1]];
    all.extend(args);
    Forwarder::start(&here()?, &all)
}

fn ports(inside: &Inside, driver: &str, options: &str) -> [String; 2] {
    [0, 1].map(|cable| format!("{driver}:{}{options}", inside.near_pci(cable)))
}

/// What `ringway forward` says when it refuses these ports.
fn refusal(ports: &[&str]) -> Outcome<String> {
    let mut args = vec!["forward"];
    args.extend(ports.iter().flat_map(|port| ["--port", port]));
    let ended = Ringway::complete(&here()?, &args, LIMIT)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    println!("{}", ended.stderr.trim_end());
    Ok(ended.stderr)
}

fn refused(ports: &[&str], words: &[&str]) -> Outcome<()> {
    let said = refusal(ports)?;
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
    Ok(())
}

fn ip(args: &str) -> Outcome<()> {
    let output = Command::new("ip").args(args.split_whitespace()).output()?;
    assert!(output.status.success(), "ip {args}: {output:?}");
    Ok(())
}

fn drivers(inside: &Inside) -> [Option<String>; 2] {
    [0, 1].map(|cable| inside.driver(&inside.near_pci(cable)))
}

fn both(driver: &str) -> [Option<String>; 2] {
    [(); 2].map(|()| Some(driver.to_owned()))
}

/// What a program would hold that drives a card: `/dev/vfio/N`, `/dev/uioN`.
fn door_of(inside: &Inside, driver: &str) -> Outcome<String> {
    let folder = std::path::PathBuf::from(format!("/sys/bus/pci/devices/{}", inside.near_pci(0)));
    if driver == "vfio" {
        let group = std::fs::read_link(folder.join("iommu_group"))?;
        return Ok(format!("/dev/vfio/{}", group.file_name().unwrap_or_default().to_string_lossy()));
    }
    let entry = std::fs::read_dir(folder.join("uio"))?.next().ok_or("no uio device")??;
    Ok(format!("/dev/{}", entry.file_name().to_string_lossy()))
}

/// A process that was killed cannot give its cards back; the next start does: of ports that take them over, and of any
/// other command.
fn killed(inside: &Inside, driver: &str, door: &str, kernels: &str) -> Outcome<()> {
    let ports = ports(inside, driver, "");
    for next in ["forward", "load", "doctor"] {
        let mut forwarder = forward(&ports, &[])?;
        assert_eq!(drivers(inside), both(door));
        if driver == "uio" {
            let config = format!("/sys/bus/pci/devices/{}/config", inside.near_pci(0));
            let mut command = [0; 2];
            std::fs::File::open(config)?.read_exact_at(&mut command, 4)?;
            assert_eq!(command[1] & 4, 0, "its interrupt is allowed before anybody sleeps");
        }
        forwarder.process().kill()?;
        drop(forwarder);
        assert_eq!(drivers(inside), both(door), "nobody has given them back yet");
        for cable in 0..2 {
            let config =
                std::fs::File::open(format!("/sys/bus/pci/devices/{}/config", inside.near_pci(cable)))?;
            let mut command = [0; 2];
            config.read_exact_at(&mut command, 4)?;
            assert_eq!(command[0] & 4, 0, "a card that nobody looks after moves no data");
        }
        match next {
            "forward" => drop(forward(&ports, &[])?.finish()?),
            "load" => {
                let args =
                    ["load", "--port", "packet:none", "--address", "192.0.2.2/24", "http://192.0.2.1/"];
                let ended = Ringway::complete(&here()?, &args, LIMIT)?;
                assert!(ended.stderr.contains("was left behind by a ringway that died"), "{ended:?}");
            }
            _ => {
                let other = std::fs::File::open(door_of(inside, driver)?)?;
                let ended = Ringway::complete(&here()?, &["doctor", "lo"], LIMIT)?;
                assert!(ended.stderr.contains("it is not given back, because"), "{ended:?}");
                assert_eq!(drivers(inside)[0].as_deref(), Some(door), "not under another's hands");
                drop(other);
                let ended = Ringway::complete(&here()?, &["doctor", "lo"], LIMIT)?;
                assert!(ended.stderr.contains("was left behind by a ringway that died"), "{ended:?}");
            }
        }
        assert_eq!(drivers(inside), both(kernels), "after {next}");
    }
    assert_eq!(std::fs::read_dir("/run/ringway/pci")?.count(), 0);
    Ok(())
}

/// An interface that somebody uses is not taken away, unless by force.
fn used(inside: &Inside, driver: &str) -> Outcome<()> {
    let (name, pci) = (inside.near(0)?, inside.near_pci(0));
    let port = format!("{driver}:{pci}");
    ip(&format!("link set {name} up"))?;
    refused(&[&port, "packet:lo"], &[&pci, &name, "is up", "force=on"])?;
    ip(&format!("link set {name} down"))?;
    ip(&format!("addr add 10.9.9.9/24 dev {name}"))?;
    refused(&[&port, "packet:lo"], &[&name, "has an address", "ip addr flush dev"])?;
    let forced = ports(inside, driver, ",force=on");
    forward(&forced, &[])?.finish()?;
    // The kernel's driver made a new interface, without an address.
    let again = ports(inside, driver, "");
    let mut first = forward(&again, &[])?;
    refused(&[&port, "packet:lo"], &[&pci, "another ringway has it"])?;
    assert!(first.process().is_running()?);
    first.finish()?;
    Ok(())
}

/// The carrier goes and comes, and frames flow as before.
fn link_goes_and_comes(inside: &mut Inside, lab: &TestLab, driver: &str) -> Outcome<()> {
    let forwarder = forward(&ports(inside, driver, ""), &[])?;
    ping(lab, Side::Left, 2, 10)?;
    inside.link(1, false)?;
    assert!(ping(lab, Side::Left, 2, 1).is_err(), "answers over a link that is cut");
    inside.link(1, true)?;
    ping(lab, Side::Left, 2, 20)?;
    ping(lab, Side::Right, 2, 20)?;
    let report = forwarder.finish()?;
    assert!(report.port(1, "link_down") > 0, "{}", report.end);
    Ok(())
}

/// A card that is taken away in the middle is the fault that is told; the books balance, and the other card is given back.
fn pulled(inside: &mut Inside, lab: &TestLab, driver: &str, kernels: &str, by: Removal) -> Outcome<()> {
    let (lost, kept) = (inside.near_pci(1), inside.near_pci(0));
    let forwarder = forward(&ports(inside, driver, ""), &[])?;
    ping(lab, Side::Left, 2, 10)?;
    let begin = Instant::now();
    match by {
        // It waits until we have let go.
        Removal::Asked => std::fs::write(format!("/sys/bus/pci/devices/{lost}/remove"), "1")?,
        Removal::PulledOut => drop(inside.pull_out(1)?),
    }
    let report = forwarder.report()?;
    println!("{driver}: gone after {:?}", begin.elapsed());
    assert_eq!((report.end["ended"].as_str(), report.code), (Some("fault"), Some(1)), "{}", report.end);
    let fault = report.end["fault"].as_str().unwrap_or_default();
    assert!(fault.contains(&lost) && fault.contains("pulled out"), "{fault}");
    assert!(!report.stderr.contains("ERROR"), "{}", report.stderr);
    assert_eq!(inside.driver(&kept).as_deref(), Some(kernels));
    Ok(())
}

#[derive(Clone, Copy)]
enum Removal {
    Asked,
    PulledOut,
}

fn guest(nic: Nic, iommu: bool) -> Guest {
    let guest = Guest::new(Kernel::V6_12).cable(nic).cable(nic).iommu(iommu).limit(Duration::from_secs(120));
    let modules = ["vfio-pci", "vfio_iommu_type1", "uio_pci_generic"];
    modules.into_iter().fold(guest, Guest::module)
}

#[test]
#[ignore = "tier guest"]
fn a_card_behind_an_iommu_comes_back_and_takes_long_packets() {
    guest(Nic::E1000e, true).run(|inside| {
        let lab = inside.hosts(|_| {})?;
        let port = format!("vfio:{}", inside.near_pci(0));
        refused(&[&port, "packet:lo"], &["vfio-pci is not loaded", "modprobe vfio-pci"])?;
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        inside.load("uio_pci_generic")?;
        let uio = format!("uio:{}", inside.near_pci(0));
        refused(&[&uio, "packet:lo"], &["an IOMMU stands between", "use vfio:0000:01:00.0"])?;
        killed(inside, "vfio", "vfio-pci", "e1000e")?;
        used(inside, "vfio")?;
        link_goes_and_comes(inside, &lab, "vfio")?;
        // Another program has its group.
        inside.bind(&inside.near_pci(0), "vfio-pci")?;
        let group = std::fs::read_link(format!("/sys/bus/pci/devices/{}/iommu_group", inside.near_pci(0)))?;
        let group = format!("/dev/vfio/{}", group.file_name().unwrap_or_default().to_string_lossy());
        let other = std::fs::File::open(&group)?;
        refused(&[&port, "packet:lo"], &["another process has the device"])?;
        drop(other);
        let [left, right] = ports(inside, "vfio", "");
        forward(&[left, right], &[])?.finish()?;
        let stays = [Some("vfio-pci".to_owned()), Some("e1000e".to_owned())];
        assert_eq!(drivers(inside), stays, "what was bound before stays bound");
        inside.release(&inside.near_pci(0))?;
        std::fs::write(format!("/sys/bus/pci/devices/{}/driver_override", inside.near_pci(0)), "\n")?;
        std::fs::write("/sys/bus/pci/drivers_probe", inside.near_pci(0))?;
        wide(inside, &lab, "vfio", false)?;
        pulled(inside, &lab, "vfio", "e1000e", Removal::Asked)
    });
}

#[test]
#[ignore = "tier guest"]
fn a_card_without_an_iommu_comes_back() {
    guest(Nic::Igb, false).run(|inside| {
        let lab = inside.hosts(|_| {})?;
        let port = format!("uio:{}", inside.near_pci(0));
        refused(&[&port, "packet:lo"], &["uio_pci_generic is not loaded", "modprobe uio_pci_generic"])?;
        inside.load("vfio-pci")?;
        inside.load("uio_pci_generic")?;
        let vfio = format!("vfio:{}", inside.near_pci(0));
        refused(&[&vfio, "packet:lo"], &["no IOMMU group", "intel_iommu=on", "uio:0000:01:00.0"])?;
        refused(&[&port, "packet:lo"], &["huge pages", "sysctl vm.nr_hugepages"])?;
        std::fs::write("/proc/sys/vm/nr_hugepages", "1")?;
        refused(&[&port, "packet:lo"], &["huge pages", "sysctl vm.nr_hugepages"])?;
        assert_eq!(drivers(inside), both("igb"), "what was refused was given back");
        std::fs::write("/proc/sys/vm/nr_hugepages", "64")?;
        refused(&["uio:0000:00:00.0", "packet:lo"], &["0000:00:00.0", "8086:10d3", "af-xdp: or packet:"])?;
        killed(inside, "uio", "uio_pci_generic", "igb")?;
        used(inside, "uio")?;
        // Another program drives it by the same door.
        inside.bind(&inside.near_pci(0), "uio_pci_generic")?;
        let other = std::fs::File::open(door_of(inside, "uio")?)?;
        refused(&[&port, "packet:lo"], &["has /dev/uio", "end that process"])?;
        drop(other);
        assert_eq!(std::fs::read_dir("/run/ringway/pci")?.count(), 0, "a refusal leaves nothing");
        inside.release(&inside.near_pci(0))?;
        std::fs::write(format!("/sys/bus/pci/devices/{}/driver_override", inside.near_pci(0)), "\n")?;
        std::fs::write("/sys/bus/pci/drivers_probe", inside.near_pci(0))?;
        link_goes_and_comes(inside, &lab, "uio")?;
        pulled(inside, &lab, "uio", "igb", Removal::Asked)
    });
}

/// Long packets, in several buffers; and several queues, each with a worker of its own.
fn wide(inside: &Inside, lab: &TestLab, driver: &str, queues: bool) -> Outcome<()> {
    for side in Side::BOTH {
        TestLab::run(lab.host(side), "ip", &format!("link set {} mtu 9000", side.interface()))?;
    }
    let (options, args): (_, &[&str]) =
        if queues { (",mtu=9000,queues=2", &["--cpu", "0,1"]) } else { (",mtu=9000", &[]) };
    let forwarder = forward(&ports(inside, driver, options), args)?;
    let transfers = || -> Outcome<()> {
        for (round, from) in (0..4).flat_map(|round| Side::BOTH.map(|side| (round, side))) {
            let transfer = tcp(lab, from, 1 << 20, round, LIMIT)?;
            assert!(transfer.intact(), "{transfer:?}");
        }
        Ok(())
    };
    let outcome = transfers();
    let report = forwarder.finish()?;
    println!("{}", report.end);
    outcome?;
    for port in 0..2 {
        let (bytes, packets) = (report.port(port, "received_bytes"), report.port(port, "received_packets"));
        assert!(bytes / packets > 3000, "{bytes} bytes in {packets} packets: none were long");
        for received in report.queues(port, "received_packets").iter().filter(|_| queues) {
            assert!(*received > 0, "a queue got nothing: {}", report.end);
        }
    }
    Ok(())
}

#[test]
#[ignore = "tier guest"]
fn long_packets_and_two_queues_on_the_82576() {
    guest(Nic::Igb, true).run(|inside| {
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        let lab = inside.hosts(|_| {})?;
        wide(inside, &lab, "vfio", true)?;
        pulled(inside, &lab, "vfio", "igb", Removal::PulledOut)
    });
}

#[test]
#[ignore = "tier guest"]
fn a_virtio_card_comes_back() {
    guest(Nic::Virtio, true).run(|inside| {
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        let lab = inside.hosts(|_| {})?;
        killed(inside, "vfio", "vfio-pci", "virtio-pci")?;
        used(inside, "vfio")?;
        link_goes_and_comes(inside, &lab, "vfio")?;
        pulled(inside, &lab, "vfio", "virtio-pci", Removal::PulledOut)
    });
}

#[test]
#[ignore = "tier guest"]
fn long_packets_and_two_queues_on_virtio() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip");
    guest(Nic::Virtio, true).taps(2).run(|inside| {
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        let lab = inside.hosts(|_| {})?;
        wide(inside, &lab, "vfio", true)?;
        pulled(inside, &lab, "vfio", "virtio-pci", Removal::Asked)
    });
}
