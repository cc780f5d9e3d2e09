//! What ringway says of network cards before it takes them, and what comes of a card that cannot reach memory.
//!
//! ```text
//!   0000:01:00.0 ══ far        the NIC under test, and beside it, where wanted,
//!   0000:01:00.1               its twin: a function of the same device, in the same IOMMU group
//! ```

use dataplane::lab::Namespace;
use drivers::nic::{NicPlan, NicPort};
use drivers::pci::Way;
use drivers::{Fault, QueuePair};
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::{Forwarder, Outcome, Ringway};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// `ringway doctor`, as JSON.
fn doctor(names: &[&str]) -> Outcome<Value> {
    let args = [&["doctor", "--format", "json"], names].concat();
    let ended = Ringway::complete(&Namespace::current()?, &args, LIMIT)?;
    serde_json::from_str(&ended.stdout).map_err(|error| format!("{error}: {ended:?}").into())
}

/// What it says of one card.
fn card(address: &str) -> Outcome<Value> {
    let report = doctor(&[])?;
    let cards = report["cards"].as_array().ok_or("no cards")?;
    let card = cards.iter().find(|card| card["address"] == address).cloned();
    card.ok_or_else(|| format!("nothing of {address}: {report}").into())
}

fn codes(of: &Value) -> Vec<&str> {
    of["problems"].as_array().into_iter().flatten().filter_map(|problem| problem["code"].as_str()).collect()
}

fn problem<'v>(of: &'v Value, code: &str) -> &'v Value {
    let mut all = of["problems"].as_array().into_iter().flatten();
    all.find(|problem| problem["code"] == code).unwrap_or_else(|| panic!("no {code} in {of}"))
}

/// What `ringway forward` says when it refuses a port.
fn refusal(port: &str) -> Outcome<String> {
    let args = ["forward", "--port", port, "--port", "packet:lo"];
    let ended = Ringway::complete(&Namespace::current()?, &args, LIMIT)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    println!("{}", ended.stderr.trim_end());
    Ok(ended.stderr)
}

/// Opening refuses in the doctor's words, cure and all.
fn refused_as_told(port: &str, told: &Value) -> Outcome<()> {
    let said = refusal(port)?;
    for part in ["message", "cure"] {
        let words = told[part].as_str().unwrap_or_default();
        assert!(!words.is_empty() && said.contains(words), "no {words:?} in {said:?}");
    }
    Ok(())
}

fn ip(args: &str) -> Outcome<()> {
    let output = Command::new("ip").args(args.split_whitespace()).output()?;
    assert!(output.status.success(), "ip {args}: {output:?}");
    Ok(())
}

fn group(address: &str) -> Outcome<String> {
    let link = std::fs::read_link(format!("/sys/bus/pci/devices/{address}/iommu_group"))?;
    Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn guest(nic: Nic, iommu: bool) -> Guest {
    let guest = Guest::new(Kernel::V6_12).cable(nic).cable(nic).iommu(iommu).limit(Duration::from_secs(120));
    let modules = ["vfio-pci", "vfio_iommu_type1", "uio_pci_generic"];
    modules.into_iter().fold(guest, Guest::module)
}

/// Behind an IOMMU, with a twin in each card's group: told, refused, and taken once the twins are given up.
#[test]
#[ignore = "tier guest"]
fn a_card_that_shares_its_group_is_refused() {
    guest(Nic::E1000e, true).twins(true).run(|inside| {
        let near = inside.near_pci(0);
        let twins = [0, 1].map(|cable| inside.near_pci(cable).replace("00.0", "00.1"));
        let report = doctor(&[])?;
        assert_eq!(report["machine"]["pci"]["iommus"][0], "dmar0", "{report}");
        assert_eq!(problem(&report["machine"], "vfio_module_missing")["about"], "pci");
        let told = card(&near)?;
        assert_eq!((&told["id"], &told["known"]), (&"8086:10d3".into(), &"82574L".into()));
        assert_eq!((&told["driver"], &told["held"]), (&"e1000e".into(), &"no".into()));
        assert_eq!(told["interfaces"][0], inside.near(0)?);
        assert_eq!(told["iommu_group"], group(&near)?);
        let shared = &told["shares_group_with"][0];
        assert_eq!((&shared["address"], &shared["in_the_way"]), (&twins[0].clone().into(), &true.into()));
        inside.load("vfio-pci")?;
        inside.load("vfio_iommu_type1")?;
        let told = card(&near)?;
        assert_eq!((codes(&told), &told["vfio"]["verdict"]), (vec!["iommu_group_shared"], &"no".into()));
        let obstacle = problem(&told, "iommu_group_shared");
        assert_eq!(obstacle["message"], format!("it shares its IOMMU group with {} (e1000e)", twins[0]));
        refused_as_told(&format!("vfio:{near}"), obstacle)?;
        assert_eq!(inside.driver(&near).as_deref(), Some("e1000e"), "what was refused was left alone");

        // Only what asked for by an interface, or by address.
        let by_name = doctor(&[&inside.near(0)?])?;
        assert_eq!((by_name["cards"].as_array().map(Vec::len), &by_name["cards"][0]), (Some(1), &told));
        let bridge = doctor(&["0000:00:00.0"])?;
        assert_eq!(
            (&bridge["cards"][0]["known"], &bridge["interfaces"]),
            (&Value::Null, &Vec::<Value>::new().into())
        );

        for twin in &twins {
            inside.release(twin)?;
        }
        let told = card(&near)?;
        assert_eq!((codes(&told), &told["vfio"]["verdict"]), (Vec::new(), &"yes".into()));
        assert_eq!(
            codes(&card(&twins[0])?),
            ["no_driver", "iommu_group_shared"],
            "the other one is the kernel's"
        );
        let ports = [0, 1].map(|cable| format!("vfio:{}", inside.near_pci(cable)));
        let forwarder =
            Forwarder::start(&Namespace::current()?, &["--port", &ports[0], "--port", &ports[1]])?;
        let told = card(&near)?;
        assert_eq!(
            (&told["held"], &told["vfio"]["reason"]),
            (&"by_ringway".into(), &"another ringway has it".into())
        );
        assert!(codes(&told).is_empty(), "{told}");
        forwarder.finish()?;
        states(inside)
    });
}

/// Each state that a card may be in is told as it is.
fn states(inside: &Inside) -> Outcome<()> {
    let (near, name) = (inside.near_pci(0), inside.near(0)?);
    ip(&format!("link set {name} up"))?;
    let told = card(&near)?;
    assert_eq!((codes(&told), &told["vfio"]["verdict"]), (vec!["interface_in_use"], &"yes".into()));
    assert_eq!(told["in_use"], format!("its interface {name} is up"));
    refused_as_told(&format!("vfio:{near}"), problem(&told, "interface_in_use"))?;
    ip(&format!("link set {name} down"))?;

    // A ringway dies; while somebody has the group open, its card is not given back, but told of.
    let ports = [0, 1].map(|cable| format!("vfio:{}", inside.near_pci(cable)));
    let mut forwarder =
        Forwarder::start(&Namespace::current()?, &["--port", &ports[0], "--port", &ports[1]])?;
    forwarder.process().kill()?;
    drop(forwarder);
    let door = format!("/dev/vfio/{}", group(&near)?);
    let other = std::fs::File::open(&door)?;
    let told = card(&near)?;
    assert_eq!((&told["held"], &told["driver"]), (&"left_behind".into(), &"vfio-pci".into()));
    assert_eq!(told["holder"], format!("a process has {door} open"));
    let lost = problem(&told, "left_behind");
    assert!(lost["message"].as_str().is_some_and(|words| words.ends_with("belongs to e1000e")), "{lost}");
    drop(other);
    let told = card(&near)?;
    assert_eq!((codes(&told), &told["driver"]), (Vec::new(), &"e1000e".into()), "given back by the doctor");

    inside.bind(&near, "vfio-pci")?;
    let told = card(&near)?;
    assert_eq!((codes(&told), &told["vfio"]["verdict"]), (vec!["at_a_door"], &"yes".into()));
    let other = std::fs::File::open(&door)?;
    let told = card(&near)?;
    assert_eq!((codes(&told), &told["held"]), (vec!["held_by_another"], &"by_other".into()));
    assert!(refusal(&format!("vfio:{near}"))?.contains("another process has the device"));
    drop(other);
    // The cure, as it is typed.
    let told = card(&near)?;
    let cure = problem(&told, "at_a_door")["cure"].as_str().unwrap_or_default().replace("| sudo tee ", "> ");
    let (_, script) = cure.split_once(": ").ok_or("no commands in the cure")?;
    let done = Command::new("sh").args(["-ec", script]).output()?;
    assert_eq!(inside.driver(&near).as_deref(), Some("e1000e"), "{script}: {done:?}");
    Ok(())
}

/// Without an IOMMU: what lacks is told once for the machine; virtual functions keep their card; and a card that is pulled out is a
/// fault over UIO too.
#[test]
#[ignore = "tier guest"]
fn cards_without_an_iommu_are_told_of() {
    guest(Nic::Igb, false).run(|inside| {
        let near = inside.near_pci(0);
        let report = doctor(&[])?;
        assert_eq!(
            (&report["machine"]["pci"]["iommus"], &report["machine"]["pci"]["iommu_groups"]),
            (&Vec::<Value>::new().into(), &0.into())
        );
        let machine = codes(&report["machine"]);
        for code in ["vfio_module_missing", "uio_module_missing", "no_huge_pages_for_uio"] {
            assert_eq!(machine.iter().filter(|one| **one == code).count(), 1, "{machine:?}");
        }
        refused_as_told(&format!("uio:{near}"), problem(&report["machine"], "uio_module_missing"))?;
        inside.load("uio_pci_generic")?;
        inside.load("vfio-pci")?;
        let report = doctor(&[])?;
        refused_as_told(&format!("uio:{near}"), problem(&report["machine"], "no_huge_pages_for_uio"))?;
        let told = card(&near)?;
        assert_eq!((&told["known"], &told["iommu_group"]), (&"82576".into(), &Value::Null));
        refused_as_told(&format!("vfio:{near}"), problem(&told, "no_iommu_group"))?;
        std::fs::write("/proc/sys/vm/nr_hugepages", "64")?;
        let told = card(&near)?;
        assert_eq!((&told["uio"]["verdict"], &told["vfio"]["verdict"]), (&"yes".into(), &"no".into()));

        let switch = format!("/sys/bus/pci/devices/{near}/sriov_numvfs");
        std::fs::write(&switch, "2")?;
        let told = card(&near)?;
        assert_eq!(told["virtual_functions"], 2);
        refused_as_told(&format!("uio:{near}"), problem(&told, "virtual_functions_on"))?;
        let report = doctor(&[])?;
        let cards = report["cards"].as_array().ok_or("no cards")?;
        let functions: Vec<&Value> =
            cards.iter().filter(|card| card["virtual_function_of"] == near).collect();
        assert_eq!(functions.len(), 2, "{report}");
        assert!(functions.iter().all(|function| function["known"].is_null()), "{functions:?}");
        std::fs::write(&switch, "0")?;

        let ports = [0, 1].map(|cable| format!("uio:{}", inside.near_pci(cable)));
        let forwarder =
            Forwarder::start(&Namespace::current()?, &["--port", &ports[0], "--port", &ports[1]])?;
        let lost = inside.near_pci(1);
        inside.pull_out(1)?;
        let report = forwarder.report()?;
        assert_eq!((report.end["ended"].as_str(), report.code), (Some("fault"), Some(1)), "{}", report.end);
        let fault = report.end["fault"].as_str().unwrap_or_default();
        assert!(fault.contains(&lost) && fault.contains("pulled out"), "{fault}");
        assert_eq!(inside.driver(&near).as_deref(), Some("igb"));
        assert!(codes(&card(&near)?).iter().all(|code| *code == "no_iommu_group"));
        Ok(())
    });
}

/// Lines of the kernel's log that tell of DMA that was refused.
fn refused_accesses() -> Outcome<usize> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    // One record a read; the flag (O_NONBLOCK) has the end of the log be an error.
    let mut log = std::fs::OpenOptions::new().read(true).custom_flags(0o4000).open("/dev/kmsg")?;
    let (mut record, mut found) = ([0; 8192], 0);
    while let Ok(len) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..len]);
        found += usize::from(text.contains("DMAR") && text.contains("fault"));
    }
    Ok(found)
}

/// What is sent in a round: broadcasts, which nobody answers.
fn post<'p>(pool: &'p Pool, burst: &mut Burst<'p>) {
    while burst.len() < 8 {
        let Some(mut frame) = pool.alloc() else { return };
        if frame.extend(&[0xff; 6]).and_then(|()| frame.extend(&[2; 54])).is_err()
            || burst.push(frame).is_err()
        {
            return;
        }
    }
}

/// Drives a card, takes its memory away, and says how that ended: the fault, the packets sent, those of them that were lost.
fn without_memory(inside: &Inside, cable: usize) -> Outcome<(Fault, u64, u64)> {
    let address = inside.near_pci(cable);
    let before = inside.driver(&address);
    // While the other end is down, QEMU keeps what virtio sends.
    ip(&format!("link set {} up", inside.far(cable)?))?;
    let (pci, plan) = NicPlan::from_spec(&format!("vfio:{address}").parse()?, Way::Vfio)?;
    let port = NicPort::open(&pci, &plan)?;
    let plan = ArenaPlan { frames: 1024, frame_size: port.slot_bytes().into(), ..ArenaPlan::default() };
    let pool = Pool::new(Arena::new(&plan)?);
    let frames = pool.census().free;
    let mut queue = port.open_queue(&pool, 0)?;
    let (mut burst, begin) = (Burst::new(), Instant::now());
    // It works: what it sends is reported.
    while queue.counters().transmitted.packets < 100 || queue.pending() > 0 {
        if queue.counters().transmitted.packets < 100 {
            post(&pool, &mut burst);
        }
        queue.transmit(&mut burst);
        burst.clear();
        queue.receive(&mut burst);
        burst.clear();
        queue.tend();
        assert!(queue.fault().is_none() && begin.elapsed() < LIMIT, "{:?}", queue.fault());
    }
    let quiet = refused_accesses()?;
    port.withdraw_memory()?;
    let begin = Instant::now();
    while queue.fault().is_none() && begin.elapsed() < LIMIT {
        post(&pool, &mut burst);
        queue.transmit(&mut burst);
        burst.clear();
        queue.receive(&mut burst);
        burst.clear();
        queue.tend();
    }
    println!(
        "{address}: {:?} after {:?}: {:?}",
        queue.fault().map(Fault::to_string),
        begin.elapsed(),
        queue.counters()
    );
    let fault = queue.fault().cloned().ok_or("no fault")?;
    assert!(refused_accesses()? > quiet, "the IOMMU has refused nothing: the test is worth nothing");
    let counters = queue.counters();
    drop(queue);
    assert_eq!(pool.census().free, frames, "every slot is home");
    drop(port);
    assert_eq!(inside.driver(&address), before, "its driver has it again");
    // And it works for the kernel.
    ip(&format!("link set {} up", inside.near(cable)?))?;
    Ok((fault, counters.transmitted.packets, counters.transmit_dropped))
}

/// A card whose memory is taken away reaches for it, is refused by the IOMMU, and cannot say so: what its driver can see is that it
/// says nothing more. That is a fault, which names the IOMMU; what the card had is counted, and comes home.
fn is_a_fault(inside: &Inside, nics: &[Nic], want: &Fault) -> Outcome<()> {
    inside.load("vfio-pci")?;
    inside.load("vfio_iommu_type1")?;
    for (cable, nic) in nics.iter().enumerate() {
        let (fault, sent, lost) = without_memory(inside, cable)?;
        assert_eq!(fault, *want, "{nic:?}");
        assert!(fault.to_string().contains("dmesg: DMAR"), "{fault}");
        assert!(lost > 0 && lost < sent, "{nic:?}: {lost} of {sent}");
    }
    Ok(())
}

fn cables(nics: &[Nic]) -> Guest {
    let guest = Guest::new(Kernel::V6_12).iommu(true).limit(Duration::from_secs(120));
    let guest = guest.module("vfio-pci").module("vfio_iommu_type1");
    nics.iter().fold(guest, |guest, nic| guest.cable(*nic))
}

#[test]
#[ignore = "tier guest"]
fn a_card_that_cannot_reach_memory_is_a_fault() {
    const NICS: [Nic; 2] = [Nic::E1000e, Nic::Igb];
    cables(&NICS).run(|inside| is_a_fault(inside, &NICS, &Fault::Silent));
}

/// Virtio devices find that they cannot read their rings, and say so.
#[test]
#[ignore = "tier guest"]
fn a_virtio_card_that_cannot_reach_memory_is_a_fault() {
    const NICS: [Nic; 1] = [Nic::Virtio];
    cables(&NICS).run(|inside| is_a_fault(inside, &NICS, &Fault::NeedsReset));
}
