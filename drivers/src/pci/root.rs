//! Where facts about the bus are read from: this machine, or a tree that a test has made.

use super::address::PciAddress;
use crate::link::Link;
use std::path::{Path, PathBuf};

/// A file system with `sys`, `proc`, `dev` and `run`, and whoever knows its interfaces: the kernel, by netlink.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    use_of: fn(&str) -> Option<&'static str>,
}

impl Root {
    /// This machine.
    #[must_use]
    pub fn machine() -> Self {
        Self { path: PathBuf::from("/"), use_of: use_of_link }
    }

    /// A tree that was made or recorded. `use_of` says why an interface is in use, if it is.
    #[must_use]
    pub fn recorded(path: &Path, use_of: fn(&str) -> Option<&'static str>) -> Self {
        Self { path: path.to_owned(), use_of }
    }

    /// Why an interface is in use, if it is.
    pub(super) fn use_of(&self, interface: &str) -> Option<&'static str> {
        (self.use_of)(interface)
    }

    /// A place in the tree, without a slash in front.
    pub(super) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// All functions of the bus.
    pub(super) fn functions(&self) -> PathBuf {
        self.join("sys/bus/pci/devices")
    }

    /// A function's folder.
    pub(super) fn function(&self, address: PciAddress) -> PathBuf {
        self.functions().join(address.to_string())
    }

    /// The folder of one of the kernel's drivers: there when it is loaded.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.join("sys/bus/pci/drivers").join(name)
    }

    /// Where it is written who drove what.
    pub(super) fn notes(&self) -> PathBuf {
        self.join("run/ringway/pci")
    }
}

/// The last part of where a link leads: the name of a driver, the number of a group.
pub(super) fn target(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn use_of_link(name: &str) -> Option<&'static str> {
    let link = match Link::by_name(name) {
        Ok(link) => link,
        // Whoever cannot be asked may be in use.
        Err(_) => return Some("cannot be looked at"),
    };
    if link.up {
        return Some("is up");
    }
    if link.addresses().map_or(true, |addresses| !addresses.is_empty()) {
        return Some("has an address");
    }
    if link.routes().map_or(true, |routes| !routes.is_empty()) {
        return Some("has a route");
    }
    link.master.map(|_| "belongs to a bridge or a bond")
}
