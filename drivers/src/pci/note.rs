//! What is written of a function that was taken: who drove it before. The note is locked while its writer lives.

use super::address::PciAddress;
use super::function::Way;
use super::root::Root;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who drove it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Former {
    /// The kernel's driver; `None` when it had none.
    pub(super) driver: Option<String>,
    /// What `driver_override` said.
    pub(super) wish: Option<String>,
    /// Whether it had the wanted driver already: then it keeps it.
    pub(super) stays: bool,
}

impl Former {
    /// Whether the note of a process that died still holds: nobody has set things right meanwhile.
    pub(super) fn may_return(&self, driver: Option<&str>) -> bool {
        driver.is_none_or(Way::is_door)
    }
}

/// Whose a function is by its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A ringway that lives has it.
    Ringway,
    /// A ringway that died had it, and nobody has given it back yet.
    Nobody {
        /// The kernel's driver that it belongs to; `None` when it had none.
        former: Option<String>,
    },
}

/// Whose a function is, that `driver` has now; `None` when there is no note. Nothing is written, and the lock is tried for a
/// moment only.
pub(super) fn owner(root: &Root, address: PciAddress, driver: Option<&str>) -> Option<Owner> {
    let file = File::open(root.notes().join(address.to_string())).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK) {
        return Some(Owner::Ringway);
    }
    let former = written(&file).filter(|former| former.may_return(driver))?;
    Some(Owner::Nobody { former: former.driver })
}

/// The file that says who drove a function, locked while it is ours.
#[derive(Debug)]
pub(super) struct Note {
    file: File,
    path: PathBuf,
}

impl Note {
    /// `None` when another process has the lock.
    pub(super) fn lock(root: &Root, address: PciAddress) -> io::Result<Option<Self>> {
        let folder = root.notes();
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(address.to_string());
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Whoever had it may have removed it between the two calls: then the lock is on a file without a name.
            if is_named(&file, &path) {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    pub(super) fn read(&self) -> Option<Former> {
        written(&self.file)
    }

    pub(super) fn write(&self, former: &Former) -> io::Result<()> {
        let driver = former.driver.as_deref().unwrap_or_default();
        let wish = former.wish.as_deref().unwrap_or_default();
        self.file.set_len(0)?;
        std::os::unix::fs::FileExt::write_all_at(
            &self.file,
            format!("driver {driver}\ndriver_override {wish}\nend\n").as_bytes(),
            0,
        )
    }

    pub(super) fn remove(&self) {
        // Not there, or not to be removed: then it says nothing that the next one would not see.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // Nothing was noted: the device was refused.
        if self.file.metadata().is_ok_and(|own| own.len() == 0) && is_named(&self.file, &self.path) {
            self.remove();
        }
    }
}

/// What a note says, if all of it was written.
fn written(mut file: &File) -> Option<Former> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().to_owned()).filter(|value| !value.is_empty())
    };
    // The last line says that all was written.
    text.ends_with("end\n").then(|| Former {
        driver: value("driver "),
        wish: value("driver_override "),
        stays: false,
    })
}

/// Whether the file at the path is this one.
fn is_named(file: &File, path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|own| own.ino() == named.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    const ADDRESS: &str = "0000:03:00.0";

    /// What a process that died has written is read by the next; while it lives, nobody else gets the function.
    #[test]
    fn the_former_driver_outlives_its_writer() {
        let scratch = Scratch::new("note");
        let (root, address) = (scratch.root(), ADDRESS.parse().expect("good"));
        let former = Former { driver: Some("e1000e".to_owned()), wish: None, stays: false };
        assert_eq!(owner(&root, address, None), None, "no note");
        let note = Note::lock(&root, address).expect("a folder of ours").expect("free");
        assert_eq!(note.read(), None, "nothing was written yet");
        note.write(&former).expect("writes");
        assert!(Note::lock(&root, address).expect("opens").is_none(), "it is locked");
        assert_eq!(owner(&root, address, Some("vfio-pci")), Some(Owner::Ringway));
        drop(note);
        let abandoned = Some(Owner::Nobody { former: Some("e1000e".to_owned()) });
        assert_eq!(owner(&root, address, Some("vfio-pci")), abandoned);
        assert_eq!(owner(&root, address, None), abandoned, "nobody drives it");
        assert_eq!(owner(&root, address, Some("e1000e")), None, "somebody has set things right");
        let next = Note::lock(&root, address).expect("opens").expect("free again");
        assert_eq!(next.read(), Some(former));
        next.remove();
        drop(next);
        let after = Note::lock(&root, address).expect("opens").expect("free");
        assert_eq!(after.read(), None);
        scratch.file("run/ringway/pci/0000:03:00.0", "driver e10");
        assert_eq!(after.read(), None, "half a file says nothing");
    }

    /// Whoever only looks leaves the note of one who has not written yet.
    #[test]
    fn looking_removes_nothing() {
        let scratch = Scratch::new("look");
        scratch.file("run/ringway/pci/0000:03:00.0", "");
        assert_eq!(owner(&scratch.root(), ADDRESS.parse().expect("good"), None), None);
        assert!(scratch.path("run/ringway/pci/0000:03:00.0").exists());
    }
}
