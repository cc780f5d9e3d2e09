//! What the kernel says of a network interface.
//!
//! Every fact is asked of the network namespace of the *calling thread*, by netlink and ioctl. `/sys/class/net` shows the
//! namespace of whoever mounted it, which in a container, in `ip netns exec` or after `setns` is often another one, so it is
//! never read. Only the NUMA node comes from `/sys/bus`, which knows no namespaces; where that is not mounted it is `None`.
//!
//! | fact | from |
//! |---|---|
//! | name, index, MAC, MTU, state, XDP program | rtnetlink `RTM_GETLINK` |
//! | driver, bus address, queues in use | `SIOCETHTOOL` (`ethtool.rs`), else the link kind and the netdev family |
//! | XDP and AF_XDP features, queues held | generic netlink `netdev`, Linux 6.3 (6.8 for queues, 6.14 for who holds them) |
//! | offloads | generic netlink `ethtool`, Linux 5.6 |
//! | addresses, neighbours, routes | rtnetlink, when asked for |
//!
//! Nothing here needs a privilege but [`Link::resolve`].

mod ethtool;
mod kernel;
mod neighbours;
mod netdev;
mod netlink;
mod offloads;
mod rtnl;
mod zero_copy;

#[cfg(test)]
mod tests;

pub use kernel::KernelVersion;
pub use neighbours::{LinkAddress, LinkNeighbour, LinkRoute};
pub use netdev::XdpFeatures;
pub use offloads::Offloads;
pub use rtnl::{AttachMode, AttachedProgram};
pub use zero_copy::ZeroCopy;

use netdev::Netdev;
use offloads::Features;
use rtnl::RawLink;
use std::{fs, io, path::Path};

/// A network interface, as it was when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it in this namespace.
    pub index: u32,
    /// Its name, such as `eth0`.
    pub name: String,
    /// The driver as ethtool names it (`veth`, `mlx5_core`); the link kind where the driver does not say; else empty.
    pub driver: String,
    /// Its Ethernet address; zeros where it has none.
    pub mac: [u8; 6],
    /// Bytes of payload a frame may carry, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether there is a carrier; never while it is down.
    pub running: bool,
    /// Whether this is the loopback interface.
    pub loopback: bool,
    /// Whether it takes frames for any address.
    pub promiscuous: bool,
    /// Receive queues in use.
    pub receive_queues: u32,
    /// Transmit queues in use.
    pub transmit_queues: u32,
    /// Receive queues that the driver could use, where it says.
    pub receive_queue_limit: Option<u32>,
    /// Receive queues that an AF_XDP socket holds at this moment. Empty before Linux 6.14, which first tells.
    pub held_queues: Vec<u32>,
    /// The memory node that the device is nearest to, on machines with more than one.
    pub numa_node: Option<u32>,
    /// The bridge, bond or team that it belongs to.
    pub master: Option<u32>,
    /// The index of the other end (veth) or the lower device (VLAN), when it is in this namespace.
    pub peer: Option<u32>,
    /// The offloads that are on.
    pub offloads: Offloads,
    /// What its driver says that it can do with XDP.
    pub xdp: XdpFeatures,
    /// The XDP program on it.
    pub attached: Option<AttachedProgram>,
}

impl Link {
    /// The interface called `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`LinkError::NoSuch`] with the names that exist, or the kernel's refusal of the question.
    pub fn by_name(name: &str) -> Result<Self, LinkError> {
        let raw = rtnl::by_name(name).map_err(|source| absent_or(name, "reading the link", source))?;
        Ok(Sources::open(name)?.complete(raw))
    }

    /// Every interface of the calling thread's network namespace, by index.
    ///
    /// # Errors
    /// The kernel's refusal of the question.
    pub fn all() -> Result<Vec<Self>, LinkError> {
        let list = rtnl::all().map_err(|source| LinkError::Refused {
            name: "every interface".to_owned(),
            step: "listing the links",
            source,
        })?;
        let sources = Sources::open("every interface")?;
        let mut links: Vec<Self> = list.into_iter().map(|raw| sources.complete(raw)).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Whether AF_XDP can go without a copy here, and if not, why.
    #[must_use]
    pub fn zero_copy(&self) -> ZeroCopy {
        self.zero_copy_on(KernelVersion::running())
    }

    /// The same verdict, were the kernel `kernel`.
    #[must_use]
    pub fn zero_copy_on(&self, kernel: KernelVersion) -> ZeroCopy {
        ZeroCopy::judge(&self.driver, &self.xdp, kernel)
    }

    /// Whether received frames may carry checksums that are still to be finished (veth, virtio, tun, tap).
    #[must_use]
    pub fn partial_checksums(&self) -> bool {
        self.offloads.partial_checksums
    }
}

/// How many receive queues `name` uses now. Cheap (a socket and one ioctl), so it can be asked every second to notice
/// `ethtool -L`.
///
/// # Errors
/// [`LinkError::NoSuch`], also when the interface has gone away since.
pub fn queue_count(name: &str) -> Result<u32, LinkError> {
    match ethtool::channels(name) {
        Ok(channels) if channels.receive > 0 => Ok(channels.receive),
        Err(error) if is_absent(&error) => Err(absent_or(name, "counting the queues", error)),
        _ => Link::by_name(name).map(|link| link.receive_queues),
    }
}

/// Why an interface could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is none of that name here.
    #[error("no interface called '{name}' in this network namespace; {hint}")]
    NoSuch {
        /// What was asked for.
        name: String,
        /// The closest names, or all that there are: a clause.
        hint: String,
    },
    /// The kernel did not answer.
    #[error("{step} of {name} failed: {source}; {}", cure(source))]
    Refused {
        /// The interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn cure(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp or security policy forbids netlink here: loosen it for this program"
        }
        Some(libc::EMFILE | libc::ENFILE) => "too many files are open: raise the limit with `ulimit -n`",
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            "this sandbox or kernel has no netlink: run on Linux itself"
        }
        _ => "try again, and if it lasts look at `dmesg`",
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

fn absent_or(name: &str, step: &'static str, source: io::Error) -> LinkError {
    if !is_absent(&source) {
        return LinkError::Refused { name: name.to_owned(), step, source };
    }
    let mut names: Vec<String> = rtnl::all().unwrap_or_default().into_iter().map(|raw| raw.name).collect();
    names.sort_unstable();
    LinkError::NoSuch { name: name.to_owned(), hint: hint(name, &names) }
}

/// "did you mean": the names at most two edits away, nearest first; failing that, all of them.
fn hint(wanted: &str, names: &[String]) -> String {
    let mut near: Vec<(usize, &str)> = names
        .iter()
        .map(|name| (edits(wanted, name), name.as_str()))
        .filter(|&(distance, _)| distance <= 2 && distance < wanted.len().max(2))
        .collect();
    near.sort_unstable();
    let close: Vec<&str> = near.into_iter().map(|(_, name)| name).collect();
    if !close.is_empty() {
        return format!("did you mean {}?", close.join(" or "));
    }
    if names.is_empty() {
        return "there are none that can be listed".to_owned();
    }
    format!("there are: {}", names.join(", "))
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in right.iter().enumerate() {
            let substitute = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// The generic netlink families, opened once for many links. A family that is missing or silent leaves its facts unknown:
/// that a kernel is old is for the reader to see, not an error of this module.
struct Sources {
    netdev: Option<Netdev>,
    features: Option<Features>,
}

impl Sources {
    fn open(name: &str) -> Result<Self, LinkError> {
        let refused = |step| move |source| LinkError::Refused { name: name.to_owned(), step, source };
        Ok(Self {
            netdev: Netdev::open().map_err(refused("asking for the XDP features"))?,
            features: Features::open().map_err(refused("asking for the offloads"))?,
        })
    }

    fn complete(&self, raw: RawLink) -> Link {
        let info = ethtool::driver_info(&raw.name).unwrap_or_default();
        let driver = [info.driver, raw.kind].into_iter().find(|name| !name.is_empty());
        let driver = driver.unwrap_or_else(|| if raw.loopback { "lo".to_owned() } else { String::new() });
        let netdev = self.netdev.as_ref();
        let xdp = netdev.and_then(|netdev| netdev.features(raw.index).ok()).unwrap_or_default();
        let queues = netdev.and_then(|netdev| netdev.queues(raw.index).ok()).unwrap_or_default();
        let channels = ethtool::channels(&raw.name).unwrap_or_default();
        let offloads = self.features.as_ref().and_then(|features| features.offloads(raw.index).ok());
        let count = |numbers: [u32; 3]| numbers.into_iter().find(|&number| number > 0).unwrap_or(1);
        Link {
            index: raw.index,
            mac: raw.mac,
            mtu: raw.mtu,
            up: raw.up,
            running: raw.running,
            loopback: raw.loopback,
            promiscuous: raw.promiscuous,
            receive_queues: count([channels.receive, queues.receive, raw.receive_queues]),
            transmit_queues: count([channels.transmit, queues.transmit, raw.transmit_queues]),
            receive_queue_limit: Some(channels.receive_limit).filter(|&limit| limit > 0),
            held_queues: queues.held,
            numa_node: numa_node(Path::new("/sys/bus"), &info.bus),
            master: raw.master,
            peer: raw.peer,
            offloads: offloads.unwrap_or_default().of_driver(&driver),
            xdp,
            attached: raw.attached,
            name: raw.name,
            driver,
        }
    }
}

/// The node of the PCI device at `address`. The kernel writes -1 where there is only one node.
fn numa_node(buses: &Path, address: &str) -> Option<u32> {
    if address.is_empty() || address.contains('/') {
        return None;
    }
    let text = fs::read_to_string(buses.join("pci/devices").join(address).join("numa_node")).ok()?;
    text.trim().parse().ok()
}
