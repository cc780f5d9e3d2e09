//! What can be said of functions without touching them: who drives each, and what would keep us from it.
//!
//! ```text
//!   sysfs, /proc, notes ── Survey ──► driver, group, interfaces, who has it
//!                             └─────► by each door: the obstacles with which opening would refuse it
//! ```
//!
//! Files are read, and two things are tried for a moment: the lock of a note, and whether `/dev/vfio/N` is busy.

use super::address::{Identity, PciAddress};
use super::function::Way;
use super::holders::holder;
use super::note::{Owner, owner};
use super::obstacle::{
    Module, Neighbour, Obstacle, group, in_use, interfaces, neighbours, of_door, virtual_functions,
};
use super::root::{Root, target};
use std::io;

/// A function as it is now.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Where it is.
    pub address: PciAddress,
    /// What it is.
    pub identity: Identity,
    /// The kernel's driver that has it: its own, or one of the doors.
    pub driver: Option<String>,
    /// Its interfaces, as far as they are to be seen from this network namespace.
    pub interfaces: Vec<String>,
    /// The number of its IOMMU group.
    pub group: Option<String>,
    /// Who else is in that group.
    pub neighbours: Vec<Neighbour>,
    /// Its virtual functions that are switched on.
    pub virtual_functions: u32,
    /// Whether it is itself a virtual function, of that one.
    pub virtual_function_of: Option<String>,
    /// Whose it is by the notes of ringways.
    pub owner: Option<Owner>,
    /// Who has it open through a door, in words.
    pub holder: Option<String>,
    /// By each door.
    pub approaches: Vec<Approach>,
}

/// What taking a function by a door would meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approach {
    /// Which door.
    pub way: Way,
    /// What has to be cured first.
    pub obstacles: Vec<Obstacle>,
    /// What is in the way unless it is taken by force.
    pub in_use: Option<Obstacle>,
}

impl Survey {
    /// Looks at one function.
    ///
    /// # Errors
    /// That there is none.
    pub fn of(root: &Root, address: PciAddress) -> io::Result<Self> {
        let folder = root.function(address);
        let identity = Identity::read(&folder)?;
        let driver = target(&folder.join("driver"));
        let approach = |way: Way| Approach {
            way,
            obstacles: of_door(root, address, way),
            in_use: in_use(root, &folder, driver.as_deref(), way.kernel_driver()),
        };
        Ok(Self {
            address,
            identity,
            interfaces: interfaces(&folder),
            group: group(&folder),
            neighbours: neighbours(&folder),
            virtual_functions: virtual_functions(&folder).unwrap_or(0),
            virtual_function_of: target(&folder.join("physfn")),
            owner: owner(root, address, driver.as_deref()),
            holder: driver.as_deref().and_then(|driver| holder(root, &folder, driver)),
            approaches: Way::ALL.map(approach).into(),
            driver,
        })
    }

    /// Looks at all that say that they are network cards, in the order of their addresses.
    #[must_use]
    pub fn network_cards(root: &Root) -> Vec<Self> {
        let entries = std::fs::read_dir(root.functions()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut addresses: Vec<PciAddress> = names.filter_map(|name| name.parse().ok()).collect();
        addresses.sort();
        // One that goes just now is none.
        let is_card = |address: &PciAddress| {
            Identity::read(&root.function(*address)).is_ok_and(|it| it.is_network_card())
        };
        addresses.into_iter().filter(is_card).filter_map(|address| Self::of(root, address).ok()).collect()
    }
}

/// What of the kernel's doors this machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    /// The units that translate addresses: `dmar0`, `ivhd0`.
    pub iommus: Vec<String>,
    /// How many groups of functions they tell apart.
    pub groups: usize,
    /// The modules of the doors, by name.
    pub modules: Vec<(&'static str, Module)>,
}

impl Doors {
    /// Looks at a machine.
    #[must_use]
    pub fn of(root: &Root) -> Self {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        let modules = ["vfio-pci", "vfio_iommu_type1", "uio_pci_generic"];
        Self {
            iommus: names("sys/class/iommu"),
            groups: names("sys/kernel/iommu_groups").len(),
            modules: modules.map(|name| (name, Module::state(root, name))).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    const CARD: [&str; 3] = ["0x8086", "0x10d3", "0x020000"];
    const ADDRESS: &str = "0000:03:00.0";

    fn survey(scratch: &Scratch) -> Survey {
        Survey::of(&scratch.root(), ADDRESS.parse().expect("good")).expect("it is there")
    }

    fn codes(survey: &Survey, way: Way) -> Vec<&'static str> {
        let approach = survey.approaches.iter().find(|approach| approach.way == way).expect("both");
        approach.obstacles.iter().map(|obstacle| obstacle.code).collect()
    }

    /// A machine with both doors, and huge pages.
    fn ready(name: &str) -> Scratch {
        let scratch = Scratch::new(name);
        for driver in ["vfio-pci", "uio_pci_generic"] {
            scratch.file(&format!("sys/bus/pci/drivers/{driver}/bind"), "");
        }
        scratch.file("dev/vfio/vfio", "");
        scratch.file("proc/meminfo", "MemFree: 7 kB\nHugePages_Total: 64\nHugePages_Free:    3\n");
        scratch
    }

    #[test]
    fn a_card_in_the_kernels_hands() {
        let scratch = ready("kernels");
        scratch.function(ADDRESS, CARD, Some("e1000e"), Some("7"));
        scratch.file("sys/bus/pci/devices/0000:03:00.0/net/eth1/address", "");
        let card = survey(&scratch);
        assert_eq!(card.identity.to_string(), "8086:10d3");
        assert!(card.identity.is_network_card());
        assert_eq!((card.driver.as_deref(), card.group.as_deref()), (Some("e1000e"), Some("7")));
        assert_eq!(card.interfaces, ["eth1"]);
        assert_eq!((card.owner, card.holder, card.neighbours.len()), (None, None, 0));
        assert_eq!(card.approaches[0], Approach { way: Way::Vfio, obstacles: Vec::new(), in_use: None });
        assert_eq!(codes(&survey(&scratch), Way::Uio), ["iommu_in_between"]);
        scratch.file("sys/kernel/iommu_groups/7/type", "identity\n");
        assert!(codes(&survey(&scratch), Way::Uio).is_empty());
    }

    /// Each thing that is lacking is told, not the first alone; opening refuses with the first.
    #[test]
    fn a_machine_without_doors() {
        let scratch = Scratch::new("doors");
        scratch.function(ADDRESS, CARD, Some("e1000e"), None);
        scratch.file("proc/meminfo", "HugePages_Free: 0\n");
        let card = survey(&scratch);
        assert_eq!(codes(&card, Way::Vfio), ["vfio_module_missing", "no_iommu_group"]);
        assert_eq!(codes(&card, Way::Uio), ["uio_module_missing", "no_huge_pages_for_uio"]);
        let told: Vec<_> = card.approaches.iter().flat_map(|approach| &approach.obstacles).collect();
        assert!(told.iter().all(|obstacle| !obstacle.reason.is_empty() && !obstacle.cure.is_empty()));
        assert_eq!(told[0].reason, "the kernel's module vfio-pci is not loaded");
        assert_eq!(told[2].cure, "modprobe uio_pci_generic; with an IOMMU vfio: is the better driver");

        // The kernel's list of modules is there, and does not name them.
        scratch.file("proc/sys/kernel/osrelease", "6.12.1\n");
        scratch.file(
            "lib/modules/6.12.1/modules.dep",
            "kernel/drivers/uio/uio_pci_generic.ko.xz: kernel/uio.ko.xz\n",
        );
        let doors = Doors::of(&scratch.root());
        assert_eq!((doors.iommus.len(), doors.groups), (0, 0));
        let states = [
            ("vfio-pci", Module::Absent),
            ("vfio_iommu_type1", Module::Absent),
            ("uio_pci_generic", Module::Loadable),
        ];
        assert_eq!(doors.modules, states);
        let card = survey(&scratch);
        let [vfio, uio] = &card.approaches[..] else { panic!("both doors") };
        assert_eq!(vfio.obstacles[0].reason, "this kernel has no module vfio-pci");
        assert!(vfio.obstacles[0].cure.contains("CONFIG_VFIO_PCI=m"));
        assert_eq!(uio.obstacles[0].reason, "the kernel's module uio_pci_generic is not loaded");
    }

    #[test]
    fn modules_are_found_wherever_they_are() {
        let scratch = ready("modules");
        let state = |name| Module::state(&scratch.root(), name);
        assert_eq!((state("vfio-pci"), state("vfio_iommu_type1")), (Module::Loaded, Module::Unknown));
        scratch.file("proc/sys/kernel/osrelease", "6.12.1\n");
        scratch.file("lib/modules/6.12.1/modules.dep", "");
        scratch.file("lib/modules/6.12.1/modules.builtin", "kernel/drivers/vfio/vfio_iommu_type1.ko\n");
        assert_eq!((state("vfio_iommu_type1"), state("no-such")), (Module::Loaded, Module::Absent));
        scratch.file("sys/module/no_such/refcnt", "0");
        assert_eq!(state("no-such"), Module::Loaded, "a file's dashes are a module's underscores");
    }

    /// Those with drivers of the kernel's are in the way of a group, bridges are not, nor is what nobody drives.
    #[test]
    fn neighbours_in_a_group_are_named() {
        let scratch = ready("group");
        scratch.function(ADDRESS, CARD, Some("e1000e"), Some("7"));
        scratch.function("0000:02:00.0", ["0x8086", "0x1234", "0x060400"], Some("pcieport"), Some("7"));
        scratch.function("0000:03:00.1", CARD, None, Some("7"));
        scratch.function("0000:03:00.2", CARD, Some("vfio-pci"), Some("7"));
        assert!(codes(&survey(&scratch), Way::Vfio).is_empty());
        scratch.function("0000:03:00.3", ["0x8086", "0x2922", "0x010601"], Some("ahci"), Some("7"));
        let card = survey(&scratch);
        let names: Vec<String> = card.neighbours.iter().map(Neighbour::to_string).collect();
        assert_eq!(
            names,
            ["0000:02:00.0 (pcieport)", "0000:03:00.1", "0000:03:00.2 (vfio-pci)", "0000:03:00.3 (ahci)"]
        );
        assert_eq!(codes(&card, Way::Vfio), ["iommu_group_shared"]);
        assert_eq!(
            card.approaches[0].obstacles[0].reason,
            "it shares its IOMMU group with 0000:03:00.3 (ahci)"
        );
    }

    #[test]
    fn what_is_in_use_wants_force() {
        let scratch = ready("use");
        scratch.function(ADDRESS, CARD, Some("e1000e"), Some("7"));
        let in_use = || survey(&scratch).approaches[0].in_use.clone();
        let found = in_use().expect("no interface here");
        assert_eq!(found.code, "interface_elsewhere");
        // Virtio's interfaces are one floor down.
        scratch.file("sys/bus/pci/devices/0000:03:00.0/virtio3/net/up0/address", "");
        let found = in_use().expect("an interface that is up");
        assert_eq!((found.code, found.reason.as_str()), ("interface_in_use", "its interface up0 is up"));
        assert!(found.cure.contains("ip link set up0 down") && found.cure.contains("force=on"));
        scratch.file("sys/bus/pci/devices/0000:03:00.0/sriov_numvfs", "2\n");
        let found = in_use().expect("virtual functions");
        assert_eq!(found.code, "virtual_functions_on");
        assert!(found.reason.contains("2 virtual functions") && found.cure.contains("force=on"));
        assert_eq!(survey(&scratch).virtual_functions, 2);
        scratch.link("sys/bus/pci/devices/0000:03:00.0/driver", "sys/bus/pci/drivers/vfio-pci");
        let card = survey(&scratch);
        assert_eq!(card.approaches[0].in_use, None, "vfio-pci keeps it");
        assert_eq!(card.approaches[1].in_use.as_ref().map(|one| one.code), Some("virtual_functions_on"));
    }

    #[test]
    fn whose_it_is() {
        let scratch = ready("whose");
        scratch.function(ADDRESS, CARD, Some("uio_pci_generic"), None);
        scratch.file("run/ringway/pci/0000:03:00.0", "driver igb\ndriver_override \nend\n");
        assert_eq!(survey(&scratch).owner, Some(Owner::Nobody { former: Some("igb".to_owned()) }));
        assert_eq!(survey(&scratch).holder, None);
        scratch.file("sys/bus/pci/devices/0000:03:00.0/uio/uio0/name", "");
        scratch.file("dev/uio0", "");
        scratch.link("proc/4711/fd/5", "dev/uio0");
        assert_eq!(survey(&scratch).holder.as_deref(), Some("process 4711 has /dev/uio0 open"));
        scratch.link("sys/bus/pci/devices/0000:03:00.0/driver", "sys/bus/pci/drivers/igb");
        assert_eq!(survey(&scratch).owner, None, "the kernel's driver has it again");
    }

    #[test]
    fn only_network_cards_are_counted_among_them() {
        let scratch = ready("class");
        assert!(Survey::network_cards(&scratch.root()).is_empty(), "no bus at all");
        scratch.function("0000:04:00.0", CARD, Some("e1000e"), None);
        scratch.function("0000:00:1f.2", ["0x8086", "0x2922", "0x010601"], Some("ahci"), None);
        scratch.function(ADDRESS, ["0x1af4", "0x1041", "0x020000"], Some("virtio-pci"), None);
        scratch.function("0000:03:10.0", ["0x8086", "0x10ca", "0x020000"], None, None);
        scratch.link("sys/bus/pci/devices/0000:03:10.0/physfn", "sys/bus/pci/devices/0000:03:00.0");
        let cards = Survey::network_cards(&scratch.root());
        let addresses: Vec<String> = cards.iter().map(|card| card.address.to_string()).collect();
        assert_eq!(addresses, ["0000:03:00.0", "0000:03:10.0", "0000:04:00.0"]);
        assert_eq!(cards[1].virtual_function_of.as_deref(), Some("0000:03:00.0"));
        assert!(Survey::of(&scratch.root(), "ffff:00:00.0".parse().expect("good")).is_err());
    }
}
