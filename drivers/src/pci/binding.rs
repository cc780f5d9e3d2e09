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
use crate::error::OpenError;
use crate::link::Link;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it is written who drove what.
const STATE: &str = "/run/ringway/pci";

/// What is to be taken.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) address: PciAddress,
    /// The kernel's driver that is to have it.
    pub(super) wanted: &'static str,
    /// Also when its interface is in use.
    pub(super) force: bool,
}

/// A function that was taken; given back when this goes.
#[derive(Debug)]
pub(super) struct Binding {
    folder: PathBuf,
    state: State,
    former: Former,
}

/// Who drove it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Former {
    /// The kernel's driver; `None` when it had none.
    driver: Option<String>,
    /// What `driver_override` said.
    wish: Option<String>,
    /// Whether it had the wanted driver already: then it keeps it.
    stays: bool,
}

impl Binding {
    /// Takes the function; `check` is asked before anything changes.
    pub(super) fn take(
        claim: &Claim,
        check: impl FnOnce() -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let name = claim.address.to_string();
        let folder = claim.address.folder();
        let failed = |step: &str, source| OpenError::new(&name, step, source);
        let state = State::lock(&name).map_err(|source| failed("noting that it is ours", source))?;
        let state = state.ok_or_else(|| {
            let error = OpenError::refused(&name, "taking the device", "another ringway has it");
            error.hint("end that one first, or name another device")
        })?;
        check()?;
        let driver = driver_of(&folder);
        let former = match state.read() {
            // Its last owner died: what it wrote is still true, unless somebody else has set things right meanwhile.
            Some(former) if driver.as_deref().is_none_or(is_door) => former,
            _ => {
                let stays = driver.as_deref() == Some(claim.wanted);
                Former { driver: driver.clone(), wish: wish_of(&folder), stays }
            }
        };
        if let Some(why) = held(&folder, driver.as_deref(), claim.wanted) {
            let error = OpenError::refused(&name, "taking the device", why);
            return Err(error.hint("end that process first, or name another device"));
        }
        if !claim.force
            && let Some(why) = in_use(&folder, driver.as_deref(), claim.wanted)
        {
            return Err(
                OpenError::refused(&name, "taking the device from the kernel", why.reason).hint(why.cure)
            );
        }
        let binding = Self { folder, state, former };
        if driver.as_deref() != Some(claim.wanted) {
            binding.state.write(&binding.former).map_err(|source| failed("noting who drives it", source))?;
            // From here on its drop sets right what was begun.
            binding.bind(&name, claim.wanted)?;
        }
        Ok(binding)
    }

    fn bind(&self, name: &str, wanted: &str) -> Result<(), OpenError> {
        let step = format!("having {wanted} take it");
        let failed = |source| OpenError::new(name, &step, source);
        unbind(&self.folder, name).map_err(failed)?;
        write(&self.folder.join("driver_override"), wanted).map_err(failed)?;
        let probed = write(Path::new("/sys/bus/pci/drivers_probe"), name);
        match driver_of(&self.folder) {
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
        match give_back(&self.folder, &self.former) {
            Ok(()) => self.state.remove(),
            // The note stays: the next ringway tries again.
            Err(error) => tracing::error!("{}: giving the device back: {error}", self.folder.display()),
        }
    }
}

/// Whether a driver of the kernel's is a door for programs such as ours.
fn is_door(driver: &str) -> bool {
    [Way::Vfio, Way::Uio].iter().any(|way| way.kernel_driver() == driver)
}

/// Gives back what processes that died have left; says what it did. `except` are not touched: whoever opens these takes them
/// over.
#[must_use]
pub fn restore_abandoned(except: &[PciAddress]) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(STATE) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let addresses = names.filter_map(|name| name.parse::<PciAddress>().ok());
    let mut told = Vec::new();
    for address in addresses.filter(|address| !except.contains(address)) {
        let Ok(Some(state)) = State::lock(&address.to_string()) else { continue };
        let folder = address.folder();
        let driver = driver_of(&folder);
        let Some(former) = state.read().filter(|_| driver.as_deref().is_none_or(is_door)) else {
            state.remove();
            continue;
        };
        let died = format!("{address} was left behind by a ringway that died");
        // Somebody who found it there may have taken it up since.
        if let Some(who) = driver.as_deref().and_then(|driver| holder(&folder, driver)) {
            told.push(format!("{died}; it is not given back, because {who}"));
            continue;
        }
        let to = former.driver.as_deref().unwrap_or("nobody");
        told.push(match give_back(&folder, &former) {
            Ok(()) => {
                state.remove();
                format!("{died}; it is {to}'s again")
            }
            Err(error) => format!("{died}; giving it back: {error}"),
        });
    }
    told
}

/// The driver that had it has it again; if it is still there.
fn give_back(folder: &Path, former: &Former) -> io::Result<()> {
    if former.stays {
        return Ok(());
    }
    give_back_now(folder, former).or_else(|error| {
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

fn give_back_now(folder: &Path, former: &Former) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    unbind(folder, &name)?;
    // A line of its own ends the wish (drivers/pci/pci-sysfs.c, `driver_override_store`).
    write(&folder.join("driver_override"), former.wish.as_deref().unwrap_or("\n"))?;
    let Some(driver) = &former.driver else { return Ok(()) };
    let bound = write(&PathBuf::from(format!("/sys/bus/pci/drivers/{driver}/bind")), &name);
    match driver_of(folder) {
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

fn driver_of(folder: &Path) -> Option<String> {
    let link = std::fs::read_link(folder.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

fn wish_of(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("driver_override")).ok()?;
    Some(text.trim().to_owned()).filter(|wish| !wish.is_empty() && wish != "(null)")
}

/// Why a function is not to be taken without force.
struct InUse {
    reason: String,
    cure: String,
}

/// Who has it open through a door of the kernel's, if it matters: unbinding vfio-pci would wait for him, and two at one
/// `/dev/uioN` would drive one card. Of a group that is opened twice the kernel tells us itself.
fn held(folder: &Path, driver: Option<&str>, wanted: &str) -> Option<String> {
    let driver = driver.filter(|driver| *driver != wanted || *driver == Way::Uio.kernel_driver())?;
    holder(folder, driver)
}

/// Whether somebody would lose an interface that they use.
fn in_use(folder: &Path, driver: Option<&str>, wanted: &str) -> Option<InUse> {
    let unbound = driver.filter(|driver| *driver != wanted);
    if let Some(count) = unbound.and_then(|_| virtual_functions(folder)) {
        return Some(InUse {
            reason: format!("{count} virtual functions of it are switched on, and would go with its driver"),
            cure: format!(
                "switch them off: echo 0 > {}; or take it all the same with force=on",
                folder.join("sriov_numvfs").display()
            ),
        });
    }
    let driver = driver.filter(|driver| !is_door(driver))?;
    let interfaces = interfaces(folder);
    let network = std::fs::read_to_string(folder.join("class")).is_ok_and(|class| class.starts_with("0x02"));
    if interfaces.is_empty() && network {
        return Some(InUse {
            reason: format!(
                "{driver} drives it, but its interface is not to be seen here: another network namespace has it"
            ),
            cure: "move the interface back (ip link set IF netns 1), or take it all the same with force=on"
                .to_owned(),
        });
    }
    interfaces.iter().find_map(|name| {
        let reason = why_used(name)?;
        Some(InUse {
            reason: format!("its interface {name} {reason}"),
            cure: format!(
                "ip addr flush dev {name}; ip link set {name} down. With force=on it is taken all the same: whoever is \
                 logged in over it is cut off"
            ),
        })
    })
}

/// How many virtual functions it has (SR-IOV), if any.
fn virtual_functions(folder: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(folder.join("sriov_numvfs")).ok()?;
    text.trim().parse().ok().filter(|count| *count > 0)
}

/// Its network interfaces; those of virtio are below the device on virtio's own bus.
fn interfaces(folder: &Path) -> Vec<String> {
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

/// Why an interface is in use, if it is.
fn why_used(name: &str) -> Option<&'static str> {
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

/// The file that says who drove a function, locked while it is ours.
#[derive(Debug)]
struct State {
    file: File,
    path: PathBuf,
}

impl State {
    /// `None` when another process has the lock.
    fn lock(name: &str) -> io::Result<Option<Self>> {
        Self::lock_in(Path::new(STATE), name)
    }

    fn lock_in(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(name);
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

    fn read(&self) -> Option<Former> {
        let mut text = String::new();
        (&self.file).read_to_string(&mut text).ok()?;
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

    fn write(&self, former: &Former) -> io::Result<()> {
        let driver = former.driver.as_deref().unwrap_or_default();
        let wish = former.wish.as_deref().unwrap_or_default();
        self.file.set_len(0)?;
        std::os::unix::fs::FileExt::write_all_at(
            &self.file,
            format!("driver {driver}\ndriver_override {wish}\nend\n").as_bytes(),
            0,
        )
    }

    fn remove(&self) {
        // Not there, or not to be removed: then it says nothing that the next one would not see.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Nothing was noted: the device was refused.
        if self.file.metadata().is_ok_and(|own| own.len() == 0) && is_named(&self.file, &self.path) {
            self.remove();
        }
    }
}

/// Whether the file at the path is this one.
fn is_named(file: &File, path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|own| own.ino() == named.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    /// What a process that died has written is read by the next; while it lives, nobody else gets the function.
    #[test]
    fn the_former_driver_outlives_its_writer() {
        let folder = scratch("binding");
        let former = Former { driver: Some("e1000e".to_owned()), wish: None, stays: false };
        let state = State::lock_in(&folder, "0000:03:00.0").expect("a folder of ours").expect("free");
        assert_eq!(state.read(), None, "nothing was written yet");
        state.write(&former).expect("writes");
        assert!(State::lock_in(&folder, "0000:03:00.0").expect("opens").is_none(), "it is locked");
        drop(state);
        let next = State::lock_in(&folder, "0000:03:00.0").expect("opens").expect("free again");
        assert_eq!(next.read(), Some(former));
        next.remove();
        drop(next);
        let after = State::lock_in(&folder, "0000:03:00.0").expect("opens").expect("free");
        assert_eq!(after.read(), None);
        std::fs::write(folder.join("0000:03:00.0"), "driver e10").expect("writes");
        assert_eq!(after.read(), None, "half a file says nothing");
        std::fs::remove_dir_all(&folder).expect("ours");
    }

    /// A refusal leaves nothing; a device that could not be given back stays noted.
    #[test]
    fn a_note_goes_only_when_it_is_settled() {
        let folder = scratch("note");
        drop(State::lock_in(&folder, "0000:03:00.0").expect("a folder of ours").expect("free"));
        assert!(!folder.join("0000:03:00.0").exists(), "nothing was noted");

        // A driver that is not there: giving back fails, since the device is.
        let device = folder.join("device");
        std::fs::create_dir_all(&device).expect("ours");
        std::fs::write(device.join("driver_override"), "").expect("ours");
        let state = State::lock_in(&folder, "0000:03:00.0").expect("opens").expect("free");
        let former = Former { driver: Some("no-such-driver".to_owned()), ..Former::default() };
        state.write(&former).expect("writes");
        drop(Binding { folder: device.clone(), state, former: former.clone() });
        let state = State::lock_in(&folder, "0000:03:00.0").expect("opens").expect("free");
        assert_eq!(state.read(), Some(former.clone()), "the next one can try again");

        std::fs::remove_dir_all(&device).expect("ours");
        drop(Binding { folder: device, state, former });
        assert!(!folder.join("0000:03:00.0").exists(), "it was pulled out");
        std::fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn virtual_functions_keep_their_device() {
        let folder = scratch("sriov");
        std::fs::create_dir_all(&folder).expect("ours");
        std::fs::write(folder.join("sriov_numvfs"), "2\n").expect("ours");
        let why = in_use(&folder, Some("ixgbe"), "vfio-pci").expect("two functions");
        assert!(
            why.reason.contains("2 virtual functions") && why.cure.contains("force=on"),
            "{}",
            why.reason
        );
        std::fs::write(folder.join("sriov_numvfs"), "0\n").expect("ours");
        assert!(in_use(&folder, Some("ixgbe"), "vfio-pci").is_none());
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
