//! Work that the driver or the kernel does on frames before we see them, or after we hand them over: the `ethtool`
//! generic netlink family, Linux 5.6 and later (`Documentation/networking/ethtool-netlink.rst`, FEATURES_GET).

use super::netlink::{Attributes, Conversation, Scope, attribute, nest};
use std::io;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// Drivers whose frames come from a host on the same machine, with checksums that nobody has computed yet: the sender
/// left them to a NIC that is not there (`CHECKSUM_PARTIAL`).
const PARTIAL_CHECKSUM_DRIVERS: [&str; 6] = ["veth", "virtio_net", "tun", "tap", "netkit", "lo"];

/// The offloads that are on now. When `known` is false the kernel did not say, and all but `partial_checksums` are false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Whether the kernel answered.
    pub known: bool,
    /// The device verifies checksums on receive.
    pub receive_checksum: bool,
    /// The device fills checksums in on transmit.
    pub transmit_checksum: bool,
    /// The device gathers one frame from several pieces.
    pub scatter_gather: bool,
    /// TCP segmentation by the device: the kernel hands it up to 64 KiB at once.
    pub tso: bool,
    /// The same by the kernel, just before the driver.
    pub gso: bool,
    /// The kernel merges received frames of a flow.
    pub gro: bool,
    /// The device does so in the manner of GRO.
    pub hardware_gro: bool,
    /// The device does so, irreversibly.
    pub lro: bool,
    /// The device takes the VLAN tag out of received frames.
    pub vlan_strip: bool,
    /// The device puts the VLAN tag in on transmit.
    pub vlan_insert: bool,
    /// Received frames may carry checksums that are still to be finished, so whoever forwards them must finish them.
    pub partial_checksums: bool,
}

impl Offloads {
    /// From the names of the features that are on, as `ethtool -k` would list them in the kernel's own spelling
    /// (`net/ethtool/common.c`, `netdev_features_strings`).
    pub(super) fn from_names<'a>(active: impl Iterator<Item = &'a str>) -> Self {
        let mut offloads = Self { known: true, ..Self::default() };
        for name in active {
            match name {
                "rx-checksum" => offloads.receive_checksum = true,
                "tx-checksum-ipv4" | "tx-checksum-ip-generic" | "tx-checksum-ipv6" => {
                    offloads.transmit_checksum = true;
                }
                "tx-scatter-gather" => offloads.scatter_gather = true,
                "tx-tcp-segmentation" | "tx-tcp6-segmentation" => offloads.tso = true,
                "tx-generic-segmentation" => offloads.gso = true,
                "rx-gro" => offloads.gro = true,
                "rx-gro-hw" => offloads.hardware_gro = true,
                "rx-lro" => offloads.lro = true,
                "rx-vlan-hw-parse" => offloads.vlan_strip = true,
                "tx-vlan-hw-insert" => offloads.vlan_insert = true,
                _ => {}
            }
        }
        offloads
    }

    /// The same, with what `driver` is known for.
    pub(super) fn of_driver(self, driver: &str) -> Self {
        Self { partial_checksums: PARTIAL_CHECKSUM_DRIVERS.contains(&driver), ..self }
    }
}

/// The `ethtool` family of the calling thread's namespace.
pub(super) struct Features {
    conversation: Conversation,
    family: u16,
}

impl Features {
    /// `None` when this kernel has no such family.
    pub(super) fn open() -> io::Result<Option<Self>> {
        let conversation = Conversation::generic()?;
        match conversation.family("ethtool") {
            Ok(family) => Ok(Some(Self { conversation, family })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn offloads(&self, index: u32) -> io::Result<Offloads> {
        let device = attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes())?;
        let header = nest(ETHTOOL_A_FEATURES_HEADER, &[device])?;
        let answers =
            self.conversation.ask_family(self.family, ETHTOOL_MSG_FEATURES_GET, Scope::One, &[header])?;
        let names = answers.first().map(active_names).unwrap_or_default();
        Ok(Offloads::from_names(names.iter().map(String::as_str)))
    }
}

/// The verbose bit set of what is on lists only what is on.
fn active_names(answer: &Attributes) -> Vec<String> {
    let bits = answer.nested(ETHTOOL_A_FEATURES_ACTIVE).and_then(|set| set.nested(ETHTOOL_A_BITSET_BITS));
    bits.map_or_else(Vec::new, |bits| {
        bits.each_nested().filter_map(|bit| bit.text(ETHTOOL_A_BITSET_BIT_NAME)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a veth of Linux 6.18 had on.
    const VETH: [&str; 12] = [
        "tx-scatter-gather",
        "tx-checksum-ip-generic",
        "highdma",
        "tx-scatter-gather-fraglist",
        "tx-vlan-hw-insert",
        "rx-vlan-hw-parse",
        "tx-generic-segmentation",
        "tx-lockless",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "rx-checksum",
        "tx-udp-segmentation",
    ];

    #[test]
    fn recorded_names_are_read() {
        let veth = Offloads::from_names(VETH.into_iter()).of_driver("veth");
        let expected = Offloads {
            known: true,
            receive_checksum: true,
            transmit_checksum: true,
            scatter_gather: true,
            tso: true,
            gso: true,
            vlan_strip: true,
            vlan_insert: true,
            partial_checksums: true,
            ..Offloads::default()
        };
        assert_eq!(veth, expected);
        assert!(!Offloads::from_names(VETH.into_iter()).of_driver("ixgbe").partial_checksums);
    }

    #[test]
    fn a_nested_bit_set_is_read() {
        let bit = |name: &[u8]| nest(1, &[attribute(ETHTOOL_A_BITSET_BIT_NAME, name).unwrap()]).unwrap();
        let bits = nest(ETHTOOL_A_BITSET_BITS, &[bit(b"rx-lro\0"), bit(b"rx-gro\0")]).unwrap();
        let message = nest(ETHTOOL_A_FEATURES_ACTIVE, &[bits]).unwrap();
        let names = active_names(&Attributes::after(0, &message).unwrap());
        assert_eq!(names, ["rx-lro", "rx-gro"]);
    }
}
