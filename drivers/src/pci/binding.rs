//! Taking a function from the kernel's driver, and giving it back.
//!
//! ```text
//!   e1000e ──unbind──► nobody ──driver_override, probe──► vfio-pci      while we have it
//!   e1000e ◄──bind──── nobody ◄──unbind, override as before── vfio-pci  when we end, however that is
//! ```
//!
//! Who drove it before is written to `/run/ringway/pci/ADDRESS` before anything changes, and the file is locked while
//! we have the function. A file without a lock is that of a process that died: the next one gives its function back,
//! or takes it over together with the word on whom it belongs to. The folder is emptied by a reboot, as are bindings.

use super::address::PciAddress;
use super::function::Way;
use super::holders::holder;
use super::note::{Former, Note};
use super::obstacle::{in_use, of_door};
use super::root::{Root, target};
use crate::error::OpenError;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is to be taken.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) address: PciAddress,
    /// By which door.
    pub(super) way: Way,
    /// Also when its interface is in use.
    pub(super) force: bool,
}

/// A function that was taken; given back when this goes.
#[derive(Debug)]
pub(super) struct Binding {
    root: Root,
    folder: PathBuf,
    note: Note,
    former: Former,
}

impl Binding {
    /// Takes the function, if nothing is in the way of it.
    pub(super) fn take(root: &Root, claim: &Claim) -> Result<Self, OpenError> {
        let (name, wanted) = (claim.address.to_string(), claim.way.kernel_driver());
        let folder = root.function(claim.address);
        let failed = |step: &str, source| OpenError::new(&name, step, source);
        let note =
            Note::lock(root, claim.address).map_err(|source| failed("noting that it is ours", source))?;
        let note = note.ok_or_else(|| {
            let error = OpenError::refused(&name, "taking the device", "another ringway has it");
            error.hint("end that one first, or name another device")
        })?;
        if let Some(obstacle) = of_door(root, claim.address, claim.way).into_iter().next() {
            return Err(obstacle.refusal(&name, claim.way.step()));
        }
        let driver = target(&folder.join("driver"));
        let former = match note.read() {
            // Its last owner died: what it wrote is still true, unless somebody else has set things right meanwhile.
            Some(former) if former.may_return(driver.as_deref()) => former,
            _ => {
                let stays = driver.as_deref() == Some(wanted);
                Former { driver: driver.clone(), wish: wish_of(&folder), stays }
            }
        };
        if let Some(why) = held(root, &folder, driver.as_deref(), wanted) {
            let error = OpenError::refused(&name, "taking the device", why);
            return Err(error.hint("end that process first, or name another device"));
        }
        if !claim.force
            && let Some(obstacle) = in_use(root, &folder, driver.as_deref(), wanted)
        {
            return Err(obstacle.refusal(&name, "taking the device from the kernel"));
        }
        let binding = Self { root: root.clone(), folder, note, former };
        if driver.as_deref() != Some(wanted) {
            binding.note.write(&binding.former).map_err(|source| failed("noting who drives it", source))?;
            // From here on its drop sets right what was begun.
            binding.bind(&name, wanted)?;
        }
        Ok(binding)
    }

    fn bind(&self, name: &str, wanted: &str) -> Result<(), OpenError> {
        let step = format!("having {wanted} take it");
        let failed = |source| OpenError::new(name, &step, source);
        unbind(&self.folder, name).map_err(failed)?;
        write(&self.folder.join("driver_override"), wanted).map_err(failed)?;
        let probed = write(&self.root.join("sys/bus/pci/drivers_probe"), name);
        match target(&self.folder.join("driver")) {
            Some(driver) if driver == wanted => Ok(()),
            _ => {
                let why = probed.err().unwrap_or_else(|| io::Error::other("it did not"));
                Err(failed(why)
                    .hint("dmesg says why: uio_pci_generic wants an interrupt line, vfio-pci an IOMMU"))
            }
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        match give_back(&self.root, &self.folder, &self.former) {
            Ok(()) => self.note.remove(),
            // The note stays: the next ringway tries again.
            Err(error) => tracing::error!("{}: giving the device back: {error}", self.folder.display()),
        }
    }
}

/// Gives back what processes that died have left; says what it did. `except` are not touched: whoever opens these takes them
/// over.
#[must_use]
pub fn restore_abandoned(root: &Root, except: &[PciAddress]) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.notes()) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let addresses = names.filter_map(|name| name.parse::<PciAddress>().ok());
    let mut told = Vec::new();
    for address in addresses.filter(|address| !except.contains(address)) {
        let Ok(Some(note)) = Note::lock(root, address) else { continue };
        let folder = root.function(address);
        let driver = target(&folder.join("driver"));
        let Some(former) = note.read().filter(|former| former.may_return(driver.as_deref())) else {
            note.remove();
            continue;
        };
        let died = format!("{address} was left behind by a ringway that died");
        // Somebody who found it there may have taken it up since.
        if let Some(who) = driver.as_deref().and_then(|driver| holder(root, &folder, driver)) {
            told.push(format!("{died}; it is not given back, because {who}"));
            continue;
        }
        let to = former.driver.as_deref().unwrap_or("nobody");
        told.push(match give_back(root, &folder, &former) {
            Ok(()) => {
                note.remove();
                format!("{died}; it is {to}'s again")
            }
            Err(error) => format!("{died}; giving it back: {error}"),
        });
    }
    told
}

/// The driver that had it has it again; if it is still there.
fn give_back(root: &Root, folder: &Path, former: &Former) -> io::Result<()> {
    if former.stays {
        return Ok(());
    }
    give_back_now(root, folder, former).or_else(|error| {
        // Who pulls it out has waited for us, and goes on just now.
        let begin = std::time::Instant::now();
        while folder.exists() {
            if begin.elapsed().as_millis() > 500 {
                return Err(error);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    })
}

fn give_back_now(root: &Root, folder: &Path, former: &Former) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    unbind(folder, &name)?;
    // A line of its own ends the wish (drivers/pci/pci-sysfs.c, `driver_override_store`).
    write(&folder.join("driver_override"), former.wish.as_deref().unwrap_or("\n"))?;
    let Some(driver) = &former.driver else { return Ok(()) };
    let bound = write(&root.driver(driver).join("bind"), &name);
    match target(&folder.join("driver")) {
        Some(now) if now == *driver => Ok(()),
        _ => Err(bound.err().unwrap_or_else(|| io::Error::other(format!("{driver} did not take it")))),
    }
}

fn unbind(folder: &Path, name: &str) -> io::Result<()> {
    match write(&folder.join("driver/unbind"), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Never made anew: where sysfs has no such file, there is none.
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn wish_of(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("driver_override")).ok()?;
    Some(text.trim().to_owned()).filter(|wish| !wish.is_empty() && wish != "(null)")
}

/// Who has it open through a door of the kernel's, if it matters: unbinding vfio-pci would wait for him, and two at one
/// `/dev/uioN` would drive one card. Of a group that is opened twice the kernel tells us itself.
fn held(root: &Root, folder: &Path, driver: Option<&str>, wanted: &str) -> Option<String> {
    let driver = driver.filter(|driver| *driver != wanted || *driver == Way::Uio.kernel_driver())?;
    holder(root, folder, driver)
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    /// A refusal leaves nothing; a device that could not be given back stays noted.
    #[test]
    fn a_note_goes_only_when_it_is_settled() {
        let scratch = Scratch::new("settled");
        let (root, address) = (scratch.root(), "0000:03:00.0".parse().expect("good"));
        let written = scratch.path("run/ringway/pci/0000:03:00.0");
        drop(Note::lock(&root, address).expect("a folder of ours").expect("free"));
        assert!(!written.exists(), "nothing was noted");

        // A driver that is not there: giving back fails, since the device is.
        scratch.file("sys/bus/pci/devices/0000:03:00.0/driver_override", "");
        let folder = root.function(address);
        let note = Note::lock(&root, address).expect("opens").expect("free");
        let former = Former { driver: Some("no-such-driver".to_owned()), ..Former::default() };
        note.write(&former).expect("writes");
        drop(Binding { root: root.clone(), folder: folder.clone(), note, former: former.clone() });
        let note = Note::lock(&root, address).expect("opens").expect("free");
        assert_eq!(note.read(), Some(former.clone()), "the next one can try again");

        std::fs::remove_dir_all(&folder).expect("ours");
        drop(Binding { root, folder, note, former });
        assert!(!written.exists(), "it was pulled out");
    }
}
