//! A made-up machine for tests: a folder with `sys`, `proc`, `dev` and `run`, which goes with its test.

use super::root::Root;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-pci-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder of ours");
        Self(path)
    }

    /// Interfaces whose name begins with "up" are up, the others are unused.
    pub(super) fn root(&self) -> Root {
        Root::recorded(&self.0, |name| name.starts_with("up").then_some("is up"))
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(super) fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("ours");
        std::fs::write(path, text).expect("ours");
    }

    /// A link at `path` that leads to the folder or file `to` of this tree, which is made if it is not there.
    pub(super) fn link(&self, path: &str, to: &str) {
        let (path, to) = (self.path(path), self.path(to));
        if !to.exists() {
            std::fs::create_dir_all(&to).expect("ours");
        }
        std::fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("ours");
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(to, path).expect("ours");
    }

    /// A function: `identity` is vendor, device and class; behind it a driver and a group, where it has them.
    pub(super) fn function(
        &self,
        address: &str,
        [vendor, device, class]: [&str; 3],
        driver: Option<&str>,
        group: Option<&str>,
    ) {
        let folder = format!("sys/bus/pci/devices/{address}");
        for (file, text) in [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("revision", "0x01"),
            ("driver_override", "(null)"),
        ] {
            self.file(&format!("{folder}/{file}"), &format!("{text}\n"));
        }
        if let Some(driver) = driver {
            self.link(&format!("{folder}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            self.link(&format!("{folder}/iommu_group"), &format!("sys/kernel/iommu_groups/{group}"));
            self.file(&format!("sys/kernel/iommu_groups/{group}/type"), "DMA\n");
            self.link(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"), &folder);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}
