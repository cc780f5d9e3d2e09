//! What usually helps when a device does not open, by what DPDK says of it.

use super::ffi::Facts;
use super::plan::DpdkPlan;
use std::io;

pub(super) const MEMORY_HINT: &str = "it may lack memory: give the first port more, memory=MIB, or reserve more huge pages, sysctl \
                           vm.nr_hugepages=N; or a smaller ring=";

const RIGHTS_HINT: &str = "this takes root, or CAP_NET_ADMIN and CAP_NET_RAW; and /dev/net/tun for a tap";

const USE_HINT: &str = "the device is in use: end the program that has it, or name another";

/// What a virtual device's driver says without the right to what it stands on (DPDK 22.11, `drivers/net`).
const NO_RIGHT: [&str; 4] = [
    "Could not open AF_PACKET socket",
    "Unable to create TAP interface",
    "ermission",
    "Failed to create umem",
];

/// What holds of any driver and step.
fn general(words: &str) -> Option<&'static str> {
    if words.contains("busy") {
        Some(USE_HINT)
    } else if NO_RIGHT.iter().any(|said| words.contains(said)) {
        Some(RIGHTS_HINT)
    } else {
        None
    }
}

/// For the set-up of a queue.
pub(super) fn queue_hint(plan: &DpdkPlan, error: &io::Error) -> String {
    match general(&error.to_string()) {
        Some(hint) => hint.to_owned(),
        None if plan.is_pci() => MEMORY_HINT.to_owned(),
        None => "frames of this MTU may not fit a buffer: this driver cannot chain when it receives; a smaller mtu= may help"
            .to_owned(),
    }
}

/// For the configuration.
pub(super) fn mtu_hint(plan: &DpdkPlan, facts: &Facts) -> String {
    match plan.mtu {
        Some(mtu) if mtu > facts.max_mtu && facts.max_mtu > 0 => {
            format!("an MTU of {} is the most that it can", facts.max_mtu)
        }
        Some(mtu) if u32::from(mtu) > facts.max_packet && facts.max_packet > 0 => {
            format!(
                "frames of {} bytes are the longest that it takes, header included: a smaller mtu=",
                facts.max_packet
            )
        }
        Some(_) => "leave mtu= away".to_owned(),
        None => "RINGWAY_LOG=drivers=debug shows all that DPDK says".to_owned(),
    }
}

/// For a device that is not there.
pub(super) fn probing_hint(plan: &DpdkPlan, error: &io::Error) -> String {
    let device = plan.device.as_str();
    if let Some(hint) = general(&error.to_string()) {
        return hint.to_owned();
    }
    if plan.is_pci() && error.to_string().contains("Expecting 'PA' IOVA mode") {
        return format!(
            "it is bound to a driver without an IOMMU, and reads memory by where it really lies: that takes huge pages, sysctl \
             vm.nr_hugepages=N for the port's memory=MIB; or, where the machine has an IOMMU, dpdk-devbind.py -b vfio-pci {device}"
        );
    }
    if plan.is_pci() {
        return format!(
            "is it bound to vfio-pci? dpdk-devbind.py --status shows it, and dpdk-devbind.py -b vfio-pci {device} binds it; \
             the chapter \"DPDK\" of the book has the rest"
        );
    }
    let words = error.to_string();
    let driver = plan.driver();
    if error.kind() == io::ErrorKind::AlreadyExists {
        "another port has this name: give it another number".to_owned()
    } else if !driver.starts_with("net_") {
        "virtual devices begin with net_, as net_tap0; a NIC is named by its PCI address, as 0000:03:00.0"
            .to_owned()
    } else if words.contains("failed to parse device") {
        format!(
            "there is no driver {driver}: on Debian it may be in the package librte-{}, with DPDK's number behind it, and \
             all of them are in librte-meta-net",
            driver.replace('_', "-")
        )
    } else if driver == "net_virtio_user" && plan.argument("server") == Some("1") {
        "this side listens, and waited for its peer, as net_vhost with client=1: nobody came until it was told to end".to_owned()
    } else if driver == "net_virtio_user" {
        "is the vhost side there, and its socket? start it first, or let this side wait for it: server=1"
            .to_owned()
    } else {
        format!(
            "the driver is there, so look at what {device} is told: {}; https://doc.dpdk.org/guides/nics/ names its words",
            if plan.arguments.is_empty() { "nothing".to_owned() } else { plan.device_string() }
        )
    }
}
