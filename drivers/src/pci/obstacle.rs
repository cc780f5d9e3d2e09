//! What stands in the way of taking a function, and what would change that. One set of rules: opening refuses by them, and
//! `ringway doctor` tells of them.

use super::address::PciAddress;
use super::function::Way;
use super::root::{Root, target};
use crate::error::OpenError;
use std::path::Path;

/// One thing in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable name for programs: `no_iommu_group`.
    pub code: &'static str,
    /// What it is, for people.
    pub reason: String,
    /// What would change that.
    pub cure: String,
}

impl Obstacle {
    fn new(code: &'static str, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), cure: cure.into() }
    }

    /// The error with which opening is refused.
    pub(super) fn refusal(self, name: &str, step: &str) -> OpenError {
        OpenError::refused(name, step, self.reason).hint(self.cure)
    }
}

/// What keeps a function from being driven by a door of the kernel's.
pub(super) fn of_door(root: &Root, address: PciAddress, way: Way) -> Vec<Obstacle> {
    match way {
        Way::Vfio => of_vfio(root, address),
        Way::Uio => of_uio(root, address),
    }
}

fn of_vfio(root: &Root, address: PciAddress) -> Vec<Obstacle> {
    let folder = root.function(address);
    let mut found = Vec::new();
    if !root.driver("vfio-pci").exists() || !root.join("dev/vfio/vfio").exists() {
        found.push(match Module::state(root, "vfio-pci") {
            Module::Absent => absent("vfio_module_missing", "vfio-pci", "CONFIG_VFIO_PCI"),
            _ => Obstacle::new(
                "vfio_module_missing",
                "the kernel's module vfio-pci is not loaded",
                "modprobe vfio-pci; modprobe vfio_iommu_type1",
            ),
        });
    }
    if group(&folder).is_none() {
        found.push(Obstacle::new(
            "no_iommu_group",
            "it is in no IOMMU group: there is no IOMMU, or it is off",
            format!(
                "switch it on in the firmware (VT-d, AMD-Vi) and boot with intel_iommu=on; or do without, see the book's \
                 chapter on bare NICs: uio:{address}"
            ),
        ));
    }
    let in_the_way: Vec<String> = neighbours(&folder)
        .into_iter()
        .filter(Neighbour::is_in_the_way)
        .map(|neighbour| neighbour.to_string())
        .collect();
    if !in_the_way.is_empty() {
        found.push(Obstacle::new(
            "iommu_group_shared",
            format!("it shares its IOMMU group with {}", in_the_way.join(", ")),
            "the IOMMU cannot tell them apart, so all must be given up: unbind those from their drivers, or put the card into \
             another slot",
        ));
    }
    found
}

fn of_uio(root: &Root, address: PciAddress) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if !root.driver("uio_pci_generic").exists() {
        found.push(match Module::state(root, "uio_pci_generic") {
            Module::Absent => absent("uio_module_missing", "uio_pci_generic", "CONFIG_UIO_PCI_GENERIC"),
            _ => Obstacle::new(
                "uio_module_missing",
                "the kernel's module uio_pci_generic is not loaded",
                "modprobe uio_pci_generic; with an IOMMU vfio: is the better driver",
            ),
        });
    }
    // With "identity" the IOMMU lets physical addresses through.
    if let Ok(kind) = std::fs::read_to_string(root.function(address).join("iommu_group/type"))
        && kind.trim() != "identity"
    {
        found.push(Obstacle::new(
            "iommu_in_between",
            "an IOMMU stands between the device and memory, and knows no physical addresses",
            format!("use vfio:{address}, or boot without the IOMMU (intel_iommu=off)"),
        ));
    }
    let memory = std::fs::read_to_string(root.join("proc/meminfo"));
    if memory.is_ok_and(|text| free_huge_pages(&text) == Some(0)) {
        found.push(Obstacle::new(
            "no_huge_pages_for_uio",
            "without an IOMMU a device needs huge pages, and there are no free ones",
            "reserve some: sysctl vm.nr_hugepages=64",
        ));
    }
    found
}

fn absent(code: &'static str, module: &str, option: &str) -> Obstacle {
    Obstacle::new(
        code,
        format!("this kernel has no module {module}"),
        format!("boot a kernel that was built with {option}=m, and: modprobe {module}"),
    )
}

/// `HugePages_Free` of /proc/meminfo.
fn free_huge_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"))?;
    line.trim().parse().ok()
}

/// What is known of a module of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// It is in force.
    Loaded,
    /// `modprobe` finds it.
    Loadable,
    /// This kernel was built without it, or it is not installed.
    Absent,
    /// Its list of modules is not to be seen from here, as in a container.
    Unknown,
}

impl Module {
    /// Looks for a module by the name of its file.
    #[must_use]
    pub fn state(root: &Root, name: &str) -> Self {
        if root.driver(name).exists() || root.join("sys/module").join(name.replace('-', "_")).exists() {
            return Self::Loaded;
        }
        let release = std::fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
        let folder = root.join("lib/modules").join(release.trim());
        // `kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/..`
        let has = |list: &str| {
            let file = format!("/{name}.ko");
            list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&file)))
        };
        let Ok(loadable) = std::fs::read_to_string(folder.join("modules.dep")) else { return Self::Unknown };
        let built_in = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        match (has(&built_in), has(&loadable)) {
            (true, _) => Self::Loaded,
            (false, true) => Self::Loadable,
            (false, false) => Self::Absent,
        }
    }
}

/// The number of a function's IOMMU group.
pub(super) fn group(folder: &Path) -> Option<String> {
    target(&folder.join("iommu_group"))
}

/// Another function of the same IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: String,
    /// The kernel's driver that has it, if one has.
    pub driver: Option<String>,
    /// A bridge between buses.
    pub is_bridge: bool,
}

impl Neighbour {
    /// Whether it keeps the group from being ours. Bridges are no harm, nor is what nobody drives (`vfio_group_viable`).
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        let harmless = |driver: &str| matches!(driver, "vfio-pci" | "pci-stub");
        !self.is_bridge && self.driver.as_deref().is_some_and(|driver| !harmless(driver))
    }
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "{} ({driver})", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// The others of a function's group, in order.
pub(super) fn neighbours(folder: &Path) -> Vec<Neighbour> {
    let own = folder.file_name().unwrap_or_default();
    let entries = std::fs::read_dir(folder.join("iommu_group/devices")).into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.file_name() != own);
    let mut found: Vec<_> = others
        .map(|entry| Neighbour {
            address: entry.file_name().to_string_lossy().into_owned(),
            driver: target(&entry.path().join("driver")),
            is_bridge: std::fs::read_to_string(entry.path().join("class"))
                .is_ok_and(|class| class.starts_with("0x0604")),
        })
        .collect();
    found.sort_by(|left, right| left.address.cmp(&right.address));
    found
}

/// Whether somebody would lose an interface that they use, if the driver `wanted` got the function.
pub(super) fn in_use(root: &Root, folder: &Path, driver: Option<&str>, wanted: &str) -> Option<Obstacle> {
    let unbound = driver.filter(|driver| *driver != wanted);
    if let Some(count) = unbound.and_then(|_| virtual_functions(folder)) {
        return Some(Obstacle::new(
            "virtual_functions_on",
            format!("{count} virtual functions of it are switched on, and would go with its driver"),
            format!(
                "switch them off: echo 0 > {}; or take it all the same with force=on",
                folder.join("sriov_numvfs").display()
            ),
        ));
    }
    let driver = driver.filter(|driver| !Way::is_door(driver))?;
    let interfaces = interfaces(folder);
    let network = std::fs::read_to_string(folder.join("class")).is_ok_and(|class| class.starts_with("0x02"));
    if interfaces.is_empty() && network {
        return Some(Obstacle::new(
            "interface_elsewhere",
            format!(
                "{driver} drives it, but its interface is not to be seen here: another network namespace has it"
            ),
            "move the interface back (ip link set IF netns 1), or take it all the same with force=on",
        ));
    }
    interfaces.iter().find_map(|name| {
        let reason = root.use_of(name)?;
        Some(Obstacle::new(
            "interface_in_use",
            format!("its interface {name} {reason}"),
            format!(
                "ip addr flush dev {name}; ip link set {name} down. With force=on it is taken all the same: whoever is \
                 logged in over it is cut off"
            ),
        ))
    })
}

/// How many virtual functions it has (SR-IOV), if any.
pub(super) fn virtual_functions(folder: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(folder.join("sriov_numvfs")).ok()?;
    text.trim().parse().ok().filter(|count| *count > 0)
}

/// Its network interfaces; those of virtio are below the device on virtio's own bus.
pub(super) fn interfaces(folder: &Path) -> Vec<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder.join("net")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut found = names(folder);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("virtio") {
            found.extend(names(&entry.path()));
        }
    }
    found
}
