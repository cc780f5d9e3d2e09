//! Cards of a made-up bus, as the report tells of them.

use super::super::card::{self, Card, Held};
use super::super::interface::Verdict;
use super::super::*;
use super::{Recorded, codes, cure};
use drivers::pci::{Root, Survey};
use std::os::unix::fs::symlink;
use std::path::Path;

const E1000E: [&str; 3] = ["0x8086", "0x10d3", "0x020000"];
const STRANGER: [&str; 3] = ["0x14e4", "0x16d8", "0x020000"];

/// A bus in a folder that goes with it.
struct Bus(Recorded);

impl Bus {
    fn new(name: &str) -> Self {
        Self(Recorded::tree(name, &[("proc/meminfo", "HugePages_Free: 5\n"), ("dev/vfio/vfio", "")]))
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let (path, to) = (self.0.0.join(path), self.0.0.join(to));
        std::fs::create_dir_all(&to).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        symlink(to, path).unwrap();
    }

    fn doors(self, names: &[&str]) -> Self {
        for name in names {
            std::fs::create_dir_all(self.0.0.join("sys/bus/pci/drivers").join(name)).unwrap();
        }
        self
    }

    fn card(self, address: &str, [vendor, device, class]: [&str; 3], driver: &str, group: &str) -> Self {
        let folder = format!("sys/bus/pci/devices/{address}");
        for (name, text) in [("vendor", vendor), ("device", device), ("class", class), ("revision", "0x0")] {
            self.file(&format!("{folder}/{name}"), text);
        }
        if !driver.is_empty() {
            self.link(&format!("{folder}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        }
        if !group.is_empty() {
            self.link(&format!("{folder}/iommu_group"), &format!("sys/kernel/iommu_groups/{group}"));
            self.file(&format!("sys/kernel/iommu_groups/{group}/type"), "DMA\n");
            self.link(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"), &folder);
        }
        self
    }

    fn interface(self, address: &str, name: &str) -> Self {
        std::fs::create_dir_all(self.0.0.join(format!("sys/bus/pci/devices/{address}/net/{name}"))).unwrap();
        self
    }

    fn root(&self) -> Root {
        root(&self.0.0)
    }

    fn cards(&self) -> Vec<Card> {
        Survey::network_cards(&self.root()).iter().map(Card::of).collect()
    }

    fn of_machine(&self) -> Vec<Problem> {
        card::of_machine(&Survey::network_cards(&self.root()))
    }
}

fn root(path: &Path) -> Root {
    Root::recorded(path, |name| (name == "eth9").then_some("is up"))
}

const BOTH: [&str; 2] = ["vfio-pci", "uio_pci_generic"];
const FIRST: &str = "0000:03:00.0";

#[test]
fn a_card_that_could_be_taken_at_once_has_no_problems() {
    let bus = Bus::new("ready").doors(&BOTH).card(FIRST, E1000E, "e1000e", "7").interface(FIRST, "eth1");
    let [card] = &bus.cards()[..] else { panic!("one card") };
    assert_eq!(codes(&card.problems), [], "that uio: is no way behind an IOMMU is nobody's concern");
    assert_eq!((card.known, card.driver.as_deref(), card.held), (Some("82574L"), Some("e1000e"), Held::No));
    assert_eq!((card.vfio.verdict, card.uio.verdict), (Verdict::Yes, Verdict::No));
    assert!(card.uio.reason.as_deref().unwrap().contains("an IOMMU stands between"));
    assert_eq!(card.ready().as_deref(), Some("vfio:0000:03:00.0"));
    assert_eq!(bus.of_machine(), []);
}

#[test]
fn what_the_machine_lacks_is_told_once() {
    let bus = Bus::new("bare").card(FIRST, E1000E, "e1000e", "").card("0000:04:00.0", E1000E, "e1000e", "");
    let bus = bus.interface(FIRST, "eth1").interface("0000:04:00.0", "eth2");
    let of_machine = bus.of_machine();
    use Severity::Note;
    assert_eq!(codes(&of_machine), [(Note, "vfio_module_missing"), (Note, "uio_module_missing")]);
    assert!(cure(&of_machine, "vfio_module_missing").starts_with("modprobe vfio-pci"));
    for card in bus.cards() {
        assert_eq!(codes(&card.problems), [(Note, "no_iommu_group")]);
        assert!(cure(&card.problems, "no_iommu_group").contains("intel_iommu=on"));
        assert_eq!(card.ready(), None);
    }
    bus.file("proc/meminfo", "HugePages_Free: 0\n");
    assert_eq!(bus.of_machine().last().map(|problem| problem.code), Some("no_huge_pages_for_uio"));
}

/// A card that we have no driver for is told of, and asks for nothing.
#[test]
fn a_stranger_is_left_alone() {
    let bus = Bus::new("stranger").card(FIRST, STRANGER, "bnxt_en", "").interface(FIRST, "eth9");
    let [card] = &bus.cards()[..] else { panic!("one card") };
    assert_eq!((codes(&card.problems), bus.of_machine()), (Vec::new(), Vec::new()));
    assert_eq!((card.known, card.vfio.verdict), (None, Verdict::No));
    let rows = card.rows();
    assert!(rows.iter().any(|(key, _, fact)| *key == "known" && fact.contains("none of ours")));
    assert!(!rows.iter().any(|(key, ..)| *key == "vfio"));
}

#[test]
fn a_shared_group_and_an_interface_in_use_are_in_the_way() {
    let bus = Bus::new("shared").doors(&BOTH).card(FIRST, E1000E, "e1000e", "7").interface(FIRST, "eth9");
    let bus = bus.card("0000:03:00.1", ["0x8086", "0x2922", "0x010601"], "ahci", "7");
    let [card] = &bus.cards()[..] else { panic!("one network card") };
    use Severity::{Note, Warning};
    assert_eq!(codes(&card.problems), [(Note, "interface_in_use"), (Warning, "iommu_group_shared")]);
    assert_eq!(card.in_use.as_deref(), Some("its interface eth9 is up"));
    assert!(cure(&card.problems, "interface_in_use").contains("force=on"));
    assert_eq!(card.shares_group_with[0].address, "0000:03:00.1");
    assert!(card.shares_group_with[0].in_the_way);
    assert!(card.rows().iter().any(|(_, _, fact)| fact == "7, with 0000:03:00.1 (ahci)"));
}

#[test]
fn a_card_without_an_interface_is_found_again() {
    let bus = Bus::new("lost").doors(&BOTH);
    let bus = bus.card(FIRST, E1000E, "vfio-pci", "7").card("0000:04:00.0", E1000E, "vfio-pci", "8");
    let bus = bus.card("0000:05:00.0", E1000E, "", "9");
    bus.file("run/ringway/pci/0000:03:00.0", "driver e1000e\ndriver_override \nend\n");
    let cards = bus.cards();
    use Severity::{Note, Warning};
    assert_eq!(codes(&cards[0].problems), [(Warning, "left_behind")]);
    assert_eq!(cards[0].held, Held::LeftBehind);
    assert!(cards[0].problems[0].message.ends_with("it belongs to e1000e"));
    assert_eq!(codes(&cards[1].problems), [(Note, "at_a_door")]);
    assert!(cure(&cards[1].problems, "at_a_door").contains("drivers/vfio-pci/unbind"));
    assert_eq!(codes(&cards[2].problems), [(Note, "no_driver")]);
    assert!(cards.iter().all(|card| card.ready().is_some()), "all could be opened");

    let open = Bus::new("open").doors(&BOTH).card(FIRST, E1000E, "uio_pci_generic", "");
    open.file("sys/bus/pci/devices/0000:03:00.0/uio/uio0/name", "");
    open.link("proc/4711/fd/5", "dev/uio0");
    let [card] = &open.cards()[..] else { panic!("one card") };
    assert_eq!((card.held, card.ready()), (Held::ByOther, None));
    assert_eq!(codes(&card.problems)[0], (Note, "held_by_another"));
    assert!(card.problems[0].message.contains("process 4711 has /dev/uio0 open"));
}

/// A card's part of the text, and of the JSON.
#[test]
fn cards_are_written_as_text_and_as_json() {
    let bus = Bus::new("written").doors(&BOTH).card(FIRST, E1000E, "e1000e", "7").interface(FIRST, "eth9");
    let mut report = Report {
        version: "0",
        machine: super::server("written-machine", &[]),
        interfaces: Vec::new(),
        cards: bus.cards(),
        problems: Vec::new(),
        count: Count::default(),
    };
    report.count = report.counted();
    let text = report.to_text(Colour::Never);
    let (_, part) = text.split_once("0000:03:00.0  PCI 8086:10d3\n").unwrap();
    assert!(
        part.starts_with("  driven by       e1000e · interface eth9\n    note: its interface eth9 is up\n"),
        "{text}"
    );
    assert!(part.contains("\n  vfio:           with force=on alone: its interface eth9 is up\n"), "{text}");
    assert!(text.contains("  PCI cards       no IOMMU in force · vfio-pci unknown"), "{text}");
    assert!(text.contains("0 errors, 0 warnings, 1 note\n"), "{text}");
    assert!(!text.contains("driven without the kernel"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    let card = &json["cards"][0];
    assert_eq!((&card["address"], &card["known"]), (&FIRST.into(), &"82574L".into()));
    assert_eq!((&card["held"], &card["vfio"]["verdict"]), (&"no".into(), &"yes".into()));
    assert_eq!((&card["iommu_group"], &card["interfaces"][0]), (&"7".into(), &"eth9".into()));
    assert_eq!(json["machine"]["pci"]["modules"][0]["state"], "unknown");
}
