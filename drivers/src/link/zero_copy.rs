//! Whether AF_XDP can go without a copy on an interface, and if not, why: a sentence for the operator.

use super::{KernelVersion, XdpFeatures};

/// Drivers with AF_XDP zero-copy in mainline Linux, by the name that ethtool reports, and the release that brought it.
const ZERO_COPY_SINCE: [(&str, KernelVersion); 12] = [
    ("i40e", KernelVersion::new(4, 20)),
    ("ixgbe", KernelVersion::new(4, 20)),
    ("mlx5_core", KernelVersion::new(5, 3)),
    ("ice", KernelVersion::new(5, 5)),
    ("st_gmac", KernelVersion::new(5, 13)), // stmmac
    ("igc", KernelVersion::new(5, 14)),
    ("nfp", KernelVersion::new(5, 18)),
    ("fsl_dpaa2_eth", KernelVersion::new(6, 2)),
    ("gve", KernelVersion::new(6, 4)),
    ("virtio_net", KernelVersion::new(6, 11)),
    ("igb", KernelVersion::new(6, 14)),
    ("idpf", KernelVersion::new(6, 18)),
];

/// Interfaces that are software: there is no DMA into which a frame could go uncopied.
const SOFTWARE: [&str; 14] = [
    "veth",
    "tun",
    "tap",
    "bridge",
    "bond",
    "bonding",
    "team",
    "dummy",
    "lo",
    "ifb",
    "macvlan",
    "802.1Q VLAN Support",
    "netkit",
    "vxlan",
];

/// The verdict on zero-copy. The reason is a clause without a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// The driver says that it can. The truth is read back from `XDP_OPTIONS` after the bind.
    Yes,
    /// It cannot, and why.
    No(String),
    /// Nobody said, and what is known.
    Unknown(String),
}

impl ZeroCopy {
    /// The verdict from what is known of the driver and the kernel.
    pub(super) fn judge(driver: &str, xdp: &XdpFeatures, kernel: KernelVersion) -> Self {
        if xdp.known && xdp.zero_copy {
            return Self::Yes;
        }
        if SOFTWARE.contains(&driver) {
            return Self::No(format!(
                "{driver} is a software interface: the kernel copies each frame, no DMA is there to save"
            ));
        }
        let since = ZERO_COPY_SINCE.iter().find(|(known, _)| *known == driver).map(|&(_, since)| since);
        match since {
            Some(since) if kernel < since => {
                Self::No(format!("{driver} has zero-copy from Linux {since}; this is {kernel}"))
            }
            Some(since) if !xdp.known => Self::Unknown(format!(
                "{driver} has zero-copy from Linux {since}, and this kernel ({kernel}, before 6.3) cannot be asked"
            )),
            Some(since) => Self::No(format!(
                "{driver} has zero-copy from Linux {since}, but does not offer it as it is set up now (firmware, queue \
                 layout, or a driver from outside the kernel tree)"
            )),
            None if !xdp.known => Self::Unknown(format!(
                "{} is not among the drivers known to have it, and this kernel ({kernel}) cannot be asked",
                named(driver)
            )),
            None => Self::No(format!("{} does not offer it in Linux {kernel}", named(driver))),
        }
    }
}

fn named(driver: &str) -> &str {
    if driver.is_empty() { "its driver" } else { driver }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAN: XdpFeatures = XdpFeatures { known: true, zero_copy: true, ..NOTHING };
    const CANNOT: XdpFeatures = XdpFeatures { known: true, ..NOTHING };
    const NOTHING: XdpFeatures = XdpFeatures {
        known: false,
        basic: false,
        redirect: false,
        ndo_xmit: false,
        zero_copy: false,
        hardware_offload: false,
        receive_fragments: false,
        transmit_fragments: false,
        zero_copy_segments: 0,
        receive_timestamp: false,
        receive_hash: false,
        receive_vlan_tag: false,
        transmit_timestamp: false,
        transmit_checksum: false,
        transmit_launch_time: false,
    };

    #[test]
    fn each_verdict_has_its_reason() {
        let (old, middle, new) =
            (KernelVersion::new(5, 10), KernelVersion::new(6, 1), KernelVersion::new(6, 18));
        assert_eq!(ZeroCopy::judge("igb", &CAN, new), ZeroCopy::Yes);
        assert_eq!(
            ZeroCopy::judge("igb", &NOTHING, middle),
            ZeroCopy::No("igb has zero-copy from Linux 6.14; this is 6.1".to_owned())
        );
        assert!(
            matches!(ZeroCopy::judge("veth", &CANNOT, new), ZeroCopy::No(why) if why.contains("software"))
        );
        assert!(
            matches!(ZeroCopy::judge("i40e", &NOTHING, old), ZeroCopy::Unknown(why) if why.contains("4.20"))
        );
        assert!(
            matches!(ZeroCopy::judge("ice", &CANNOT, new), ZeroCopy::No(why) if why.contains("set up now"))
        );
        assert!(matches!(ZeroCopy::judge("r8169", &CANNOT, new), ZeroCopy::No(why) if why.contains("r8169")));
        assert!(matches!(ZeroCopy::judge("r8169", &NOTHING, old), ZeroCopy::Unknown(_)));
    }

    /// A distribution that carried the feature back is believed over the release number.
    #[test]
    fn the_driver_is_believed_over_the_table() {
        assert_eq!(ZeroCopy::judge("igb", &CAN, KernelVersion::new(5, 14)), ZeroCopy::Yes);
    }
}
