//! What a job finds in its guest.

use super::boot::{CONTROL, DONE};
use super::machine::{self, ASK};
use super::{Guest, kernel};
use crate::{Outcome, TestLab};
use dataplane::lab::{LabPlan, Side};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest from within. There is one processor's worth of root, and nothing that could be broken for anybody else.
#[derive(Debug)]
pub struct Inside {
    cables: usize,
    control: BufReader<File>,
}

impl Inside {
    pub(super) fn new(guest: &Guest) -> Outcome<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        // Answers must not be echoed back as if we had said them.
        let mut modes = tcgetattr(&control)?;
        modes.make_raw();
        tcsetattr(&control, OptionalActions::Now, &modes)?;
        Ok(Self { cables: guest.cables.len(), control: BufReader::new(control) })
    }

    pub(super) fn done(&self) {
        std::fs::write(DONE, "").expect("a file system in memory");
    }

    /// The PCI address of the near NIC of a cable.
    #[must_use]
    pub fn near_pci(&self, cable: usize) -> String {
        machine::pci(cable, 0)
    }

    /// The PCI address of the far NIC of a cable.
    #[must_use]
    pub fn far_pci(&self, cable: usize) -> String {
        machine::pci(cable, 1)
    }

    /// The interface of the near NIC of a cable, in this namespace.
    ///
    /// # Errors
    /// When the kernel has no driver on it.
    pub fn near(&self, cable: usize) -> Outcome<String> {
        interface(&machine::mac(cable, 0))
    }

    /// The interface of the far NIC of a cable, in this namespace.
    ///
    /// # Errors
    /// When the kernel has no driver on it.
    pub fn far(&self, cable: usize) -> Outcome<String> {
        interface(&machine::mac(cable, 1))
    }

    /// Loads a module that the guest was described with ([`Guest::module`]), and what it needs.
    ///
    /// # Errors
    /// The module, and what the kernel says.
    pub fn load(&self, module: &str) -> Outcome<()> {
        kernel::load(module)
    }

    /// Takes the kernel's driver off a PCI device.
    ///
    /// # Errors
    /// What sysfs says.
    pub fn release(&self, pci: &str) -> Outcome<()> {
        let driver = PathBuf::from(format!("/sys/bus/pci/devices/{pci}/driver/unbind"));
        if driver.exists() { write(&driver, pci) } else { Ok(()) }
    }

    /// Has `driver` take a PCI device, whatever drives it now: `vfio-pci`, `uio_pci_generic`. Its module is loaded first.
    ///
    /// # Errors
    /// What sysfs says, or that the driver did not take it.
    pub fn bind(&self, pci: &str, driver: &str) -> Outcome<()> {
        self.load(driver)?;
        self.release(pci)?;
        let device = PathBuf::from(format!("/sys/bus/pci/devices/{pci}"));
        write(&device.join("driver_override"), driver)?;
        write(Path::new("/sys/bus/pci/drivers_probe"), pci)?;
        let bound =
            std::fs::read_link(device.join("driver")).map_err(|error| format!("{pci}: {driver}: {error}"))?;
        if bound.file_name().is_some_and(|name| name == driver) {
            return Ok(());
        }
        Err(format!("{pci} is driven by {} rather than {driver}", bound.display()).into())
    }

    /// Pulls a device out, as a hand would: it is gone before its driver hears of it.
    ///
    /// # Errors
    /// What QEMU says.
    pub fn pull_out(&mut self, cable: usize) -> Outcome<String> {
        self.qmp(&format!("{{\"execute\":\"device_del\",\"arguments\":{{\"id\":\"nic{}\"}}}}", cable * 2))
    }

    /// Cuts or joins the link of the near NIC of a cable: its carrier goes or comes.
    ///
    /// # Errors
    /// What QEMU says.
    pub fn link(&mut self, cable: usize, up: bool) -> Outcome<String> {
        let name = cable * 2;
        self.qmp(&format!(
            "{{\"execute\":\"set_link\",\"arguments\":{{\"name\":\"nic{name}\",\"up\":{up}}}}}"
        ))
    }

    /// A command of QEMU's monitor, carried out by the test outside; returns the answer.
    ///
    /// # Errors
    /// When the answer is an error.
    pub fn qmp(&mut self, json: &str) -> Outcome<String> {
        writeln!(self.control.get_mut(), "{ASK}{json}")?;
        let mut answer = String::new();
        self.control.read_line(&mut answer)?;
        if answer.contains("\"error\"") {
            return Err(format!("{json}: {}", answer.trim()).into());
        }
        Ok(answer.trim().to_owned())
    }

    /// The laboratory that all tests know, its cables replaced by NICs: `rw-left` and `rw-right` are the near ends of cables
    /// 0 and 1 (the first alone, when there is but one), the hosts have the far ones.
    ///
    /// # Errors
    /// The command that failed.
    pub fn lab(&self, change: impl FnOnce(&mut LabPlan)) -> Outcome<TestLab> {
        let lab = self.hosts(change)?;
        let middle = lab.middle().name().ok_or("the middle is a namespace of its own")?.to_owned();
        for (cable, side) in Side::BOTH.into_iter().enumerate().take(self.cables) {
            let (port, mtu, near) = (side.port(), lab.plan().mtu, self.near(cable)?);
            run("ip", &format!("link set {near} netns {middle} name {port} mtu {mtu}"))?;
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6");
            lab.middle().run(|| std::fs::write(ipv6, "1"))??;
            run("ip", &format!("-n {middle} link set {port} arp off up"))?;
        }
        Ok(lab)
    }

    /// The same, but only the hosts have their NICs: the near ends stay where they are, for whoever takes them from the kernel.
    ///
    /// # Errors
    /// The command that failed.
    pub fn hosts(&self, change: impl FnOnce(&mut LabPlan)) -> Outcome<TestLab> {
        let lab = TestLab::with(change)?;
        let middle = lab.middle().name().ok_or("the middle is a namespace of its own")?.to_owned();
        for (cable, side) in Side::BOTH.into_iter().enumerate().take(self.cables) {
            let end = side.interface();
            let host = lab.host(side).name().ok_or("a host is a namespace of its own")?.to_owned();
            run("ip", &format!("-n {middle} link del {}", side.port()))?;
            let (mtu, far) = (lab.plan().mtu, self.far(cable)?);
            run("ip", &format!("link set {far} netns {host} name {end} mtu {mtu}"))?;
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{end}/accept_dad");
            lab.host(side).run(|| std::fs::write(ipv6, "0"))??;
            run("ip", &format!("-n {host} addr add {}/24 dev {end}", side.ipv4()))?;
            run("ip", &format!("-n {host} addr add {}/64 dev {end} nodad", side.ipv6()))?;
            run("ip", &format!("-n {host} link set {end} up"))?;
        }
        Ok(lab)
    }

    /// The kernel's driver of a PCI device, if it has one.
    #[must_use]
    pub fn driver(&self, pci: &str) -> Option<String> {
        let link = std::fs::read_link(format!("/sys/bus/pci/devices/{pci}/driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }
}

/// The interface with a MAC address.
fn interface(mac: &str) -> Outcome<String> {
    for entry in std::fs::read_dir("/sys/class/net")?.flatten() {
        let address = std::fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if address.trim() == mac {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Err(format!("no interface with the address {mac}").into())
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text).map_err(|error| format!("{text} to {}: {error}", path.display()).into())
}

/// A command with its words; what it printed is the error.
pub(super) fn run(program: &str, args: &str) -> Outcome<()> {
    let output = Command::new(program).args(args.split_whitespace()).env("PATH", "/bin").output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{program} {args}`: {}", String::from_utf8_lossy(&output.stderr)).into())
}
