//! Who has a function open through one of the kernel's doors: a virtual machine, DPDK, another ringway.

use super::root::{Root, target};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

/// Who has it open, in words; `None` when nobody is seen to. Whoever lacks the right to look sees nobody.
pub(super) fn holder(root: &Root, folder: &Path, driver: &str) -> Option<String> {
    match driver {
        "vfio-pci" => {
            let group = target(&folder.join("iommu_group"))?;
            is_busy(&root.join("dev/vfio").join(&group))
                .then(|| format!("a process has /dev/vfio/{group} open"))
        }
        "uio_pci_generic" => {
            let entry = std::fs::read_dir(folder.join("uio")).ok()?.flatten().next()?;
            let name = entry.file_name().into_string().ok()?;
            process_with(root, &name).map(|process| format!("process {process} has /dev/{name} open"))
        }
        _ => None,
    }
}

/// A group is opened once at a time (`vfio_group_fops_open` in drivers/vfio/group.c).
fn is_busy(node: &Path) -> bool {
    let opened = OpenOptions::new().read(true).write(true).open(node);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
}

/// A process that has a file of this name open: UIO lets any number in.
fn process_with(root: &Root, name: &str) -> Option<u32> {
    let numbers = std::fs::read_dir(root.join("proc")).ok()?.flatten();
    numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|process: &u32| {
        let files = std::fs::read_dir(root.join(format!("proc/{process}/fd"))).into_iter().flatten();
        files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| target.ends_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_is_found() {
        let name = format!("uio-test-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let file = std::fs::File::create(&path).expect("a file");
        assert_eq!(process_with(&Root::machine(), &name), Some(std::process::id()));
        drop(file);
        assert_eq!(process_with(&Root::machine(), &name), None);
        std::fs::remove_file(&path).expect("ours");
    }
}
