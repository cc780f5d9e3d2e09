//! What the driver says that it can do with XDP and AF_XDP: the `netdev` generic netlink family, Linux 6.3 and later
//! (`Documentation/netlink/specs/netdev.yaml`, `include/uapi/linux/netdev.h`).

use super::netlink::{Attributes, Conversation, Scope, attribute};
use std::io;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;
const NETDEV_A_DEV_XSK_FEATURES: u16 = 6;

const NETDEV_CMD_QUEUE_GET: u8 = 10;
const NETDEV_A_QUEUE_ID: u16 = 1;
const NETDEV_A_QUEUE_IFINDEX: u16 = 2;
const NETDEV_A_QUEUE_TYPE: u16 = 3;
const NETDEV_A_QUEUE_XSK: u16 = 7;
const NETDEV_QUEUE_TYPE_RX: u32 = 0;

/// What a driver can do with XDP and AF_XDP, in its own words. When `known` is false nothing was said (a kernel before
/// 6.3, or one built without the family) and every other field is false or zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Whether the kernel answered at all.
    pub known: bool,
    /// Native XDP with the verdicts abort, drop, pass and transmit.
    pub basic: bool,
    /// The redirect verdict, which AF_XDP needs.
    pub redirect: bool,
    /// Other devices may redirect to this one. Drivers such as veth say so only while they can at this moment.
    pub ndo_xmit: bool,
    /// AF_XDP sockets without a copy.
    pub zero_copy: bool,
    /// The program can run on the NIC itself.
    pub hardware_offload: bool,
    /// Frames in several buffers reach an `xdp.frags` program.
    pub receive_fragments: bool,
    /// Frames in several buffers can be redirected to this device.
    pub transmit_fragments: bool,
    /// Buffers that one zero-copy AF_XDP frame may span; 1 is no multi-buffer, 0 is no zero-copy.
    pub zero_copy_segments: u32,
    /// Receive time stamps for XDP programs.
    pub receive_timestamp: bool,
    /// The RSS hash for XDP programs.
    pub receive_hash: bool,
    /// The stripped VLAN tag for XDP programs.
    pub receive_vlan_tag: bool,
    /// AF_XDP transmit metadata: time stamps, by the device.
    pub transmit_timestamp: bool,
    /// AF_XDP transmit metadata: checksums, by the device (copy mode has them from the kernel on any device).
    pub transmit_checksum: bool,
    /// AF_XDP transmit metadata: launch time.
    pub transmit_launch_time: bool,
}

impl XdpFeatures {
    /// Reads the flag words of `enum netdev_xdp_act`, `netdev_xdp_rx_metadata` and `netdev_xsk_flags`.
    pub(super) fn from_words(act: u64, segments: u32, metadata: u64, xsk: u64) -> Self {
        let bit = |word: u64, number: u32| word & (1 << number) != 0;
        Self {
            known: true,
            basic: bit(act, 0),
            redirect: bit(act, 1),
            ndo_xmit: bit(act, 2),
            zero_copy: bit(act, 3),
            hardware_offload: bit(act, 4),
            receive_fragments: bit(act, 5),
            transmit_fragments: bit(act, 6),
            zero_copy_segments: segments,
            receive_timestamp: bit(metadata, 0),
            receive_hash: bit(metadata, 1),
            receive_vlan_tag: bit(metadata, 2),
            transmit_timestamp: bit(xsk, 0),
            transmit_checksum: bit(xsk, 1),
            transmit_launch_time: bit(xsk, 2),
        }
    }

    fn from_answer(answer: &Attributes) -> Self {
        Self::from_words(
            answer.u64(NETDEV_A_DEV_XDP_FEATURES).unwrap_or(0),
            answer.u32(NETDEV_A_DEV_XDP_ZC_MAX_SEGS).unwrap_or(0),
            answer.u64(NETDEV_A_DEV_XDP_RX_METADATA_FEATURES).unwrap_or(0),
            answer.u64(NETDEV_A_DEV_XSK_FEATURES).unwrap_or(0),
        )
    }
}

/// The `netdev` family of the calling thread's namespace.
pub(super) struct Netdev {
    conversation: Conversation,
    family: u16,
}

/// A device's queues in use, from the kernel's own count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queues {
    pub(super) receive: u32,
    pub(super) transmit: u32,
    /// Receive queues that an AF_XDP socket holds now (Linux 6.14 tells).
    pub(super) held: Vec<u32>,
}

impl Netdev {
    /// `None` when this kernel has no such family.
    pub(super) fn open() -> io::Result<Option<Self>> {
        let conversation = Conversation::generic()?;
        match conversation.family("netdev") {
            Ok(family) => Ok(Some(Self { conversation, family })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn features(&self, index: u32) -> io::Result<XdpFeatures> {
        let which = [attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes())?];
        let answers = self.conversation.ask_family(self.family, NETDEV_CMD_DEV_GET, Scope::One, &which)?;
        Ok(answers.first().map_or_else(XdpFeatures::default, XdpFeatures::from_answer))
    }

    /// The queues in use; nothing while the interface is down, an error before Linux 6.8.
    pub(super) fn queues(&self, index: u32) -> io::Result<Queues> {
        let which = [attribute(NETDEV_A_QUEUE_IFINDEX, &index.to_ne_bytes())?];
        let answers = self.conversation.ask_family(self.family, NETDEV_CMD_QUEUE_GET, Scope::Dump, &which)?;
        let mut queues = Queues::default();
        for answer in &answers {
            if answer.u32(NETDEV_A_QUEUE_TYPE) == Some(NETDEV_QUEUE_TYPE_RX) {
                queues.receive += 1;
                if answer.bytes(NETDEV_A_QUEUE_XSK).is_some() {
                    queues.held.extend(answer.u32(NETDEV_A_QUEUE_ID));
                }
            } else {
                queues.transmit += 1;
            }
        }
        Ok(queues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from a veth of Linux 6.18 whose peer ran no XDP.
    #[test]
    fn recorded_words_are_read() {
        let veth = XdpFeatures::from_words(0x23, 0, 0x7, 0);
        let expected = XdpFeatures {
            known: true,
            basic: true,
            redirect: true,
            receive_fragments: true,
            receive_timestamp: true,
            receive_hash: true,
            receive_vlan_tag: true,
            ..XdpFeatures::default()
        };
        assert_eq!(veth, expected);
    }

    /// Bit for bit as `include/uapi/linux/netdev.h` numbers them.
    #[test]
    fn each_bit_is_its_own_feature() {
        let all = XdpFeatures::from_words(0x7f, 18, 0x7, 0x7);
        assert!(all.ndo_xmit && all.zero_copy && all.hardware_offload && all.transmit_fragments);
        assert!(all.transmit_timestamp && all.transmit_checksum && all.transmit_launch_time);
        assert_eq!(all.zero_copy_segments, 18);
        assert!(XdpFeatures::from_words(1 << 3, 0, 0, 0).zero_copy);
        assert!(XdpFeatures::from_words(1 << 6, 0, 0, 0).transmit_fragments);
        assert!(XdpFeatures::from_words(0, 0, 0, 1 << 1).transmit_checksum);
    }

    #[test]
    fn nothing_said_is_not_the_same_as_nothing_supported() {
        assert!(!XdpFeatures::default().known);
        assert!(XdpFeatures::from_words(0, 0, 0, 0).known);
    }
}
