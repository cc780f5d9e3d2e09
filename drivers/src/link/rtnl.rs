//! What rtnetlink says of a link (`include/uapi/linux/if_link.h`).

use super::netlink::{Attributes, Conversation, Scope, attribute};
use std::io;

const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`: family, pad, type, index, flags, change.
const IFINFOMSG: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_PROMISC: u32 = 1 << 8;
const IFF_LOWER_UP: u32 = 1 << 16;

/// Where an XDP program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before an skb is made.
    Native,
    /// In the kernel's generic path, after an skb is made.
    Skb,
    /// On the NIC.
    Hardware,
    /// In several of these at once.
    Several,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number for it: `bpftool prog show id N`.
    pub id: u32,
    /// Where it sits.
    pub mode: AttachMode,
}

/// One link as rtnetlink tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawLink {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) running: bool,
    pub(super) loopback: bool,
    pub(super) promiscuous: bool,
    /// Queues made with the device; those in use may be fewer.
    pub(super) receive_queues: u32,
    pub(super) transmit_queues: u32,
    pub(super) attached: Option<AttachedProgram>,
    pub(super) master: Option<u32>,
    /// The index of the other end, when it is in this namespace.
    pub(super) peer: Option<u32>,
}

/// The link called `name`, or `ENODEV`.
pub(super) fn by_name(name: &str) -> io::Result<RawLink> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let mut body = vec![0; IFINFOMSG];
    body.extend(attribute(IFLA_IFNAME, &text)?);
    let answers = Conversation::route()?.ask(RTM_GETLINK, Scope::One, body)?;
    let link = answers.iter().find_map(|answer| parse(answer));
    link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Every link of this namespace.
pub(super) fn all() -> io::Result<Vec<RawLink>> {
    let answers = Conversation::route()?.ask(RTM_GETLINK, Scope::Dump, vec![0; IFINFOMSG])?;
    Ok(answers.iter().filter_map(|answer| parse(answer)).collect())
}

fn parse(message: &[u8]) -> Option<RawLink> {
    let word = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let (index, flags) = (word(4)?, word(8)?);
    let attributes = Attributes::after(IFINFOMSG, message)?;
    let mac = attributes.bytes(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    // A peer in another namespace has an index that means nothing here.
    let peer = match attributes.bytes(IFLA_LINK_NETNSID) {
        Some(_) => None,
        None => attributes.u32(IFLA_LINK).filter(|&peer| peer != 0 && peer != index),
    };
    Some(RawLink {
        index,
        name: attributes.text(IFLA_IFNAME)?,
        kind: attributes.nested(IFLA_LINKINFO).and_then(|info| info.text(IFLA_INFO_KIND)).unwrap_or_default(),
        mac: mac.unwrap_or_default(),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        up: flags & IFF_UP != 0,
        running: flags & IFF_LOWER_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        promiscuous: flags & IFF_PROMISC != 0 || attributes.u32(IFLA_PROMISCUITY).is_some_and(|n| n > 0),
        receive_queues: attributes.u32(IFLA_NUM_RX_QUEUES).unwrap_or(1),
        transmit_queues: attributes.u32(IFLA_NUM_TX_QUEUES).unwrap_or(1),
        attached: attributes.nested(IFLA_XDP).and_then(|xdp| attached(&xdp)),
        master: attributes.u32(IFLA_MASTER).filter(|&master| master != 0),
        peer,
    })
}

fn attached(xdp: &Attributes) -> Option<AttachedProgram> {
    // XDP_ATTACHED_*: none 0, driver 1, skb 2, hardware 3, several 4.
    let mode = match xdp.u8(IFLA_XDP_ATTACHED)? {
        1 => AttachMode::Native,
        2 => AttachMode::Skb,
        3 => AttachMode::Hardware,
        4 => AttachMode::Several,
        _ => return None,
    };
    // With several, only the numbers of each place are given: the driver's is the one in our way.
    let places = [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID];
    let id = places.into_iter().find_map(|place| xdp.u32(place)).unwrap_or(0);
    Some(AttachedProgram { id, mode })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::nest;
    use super::*;

    fn message(flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 1, 0];
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        attributes.iter().for_each(|attribute| bytes.extend(attribute));
        bytes
    }

    #[test]
    fn a_link_with_a_program_is_read() {
        let xdp = nest(
            IFLA_XDP,
            &[
                attribute(IFLA_XDP_ATTACHED, &[1]).unwrap(),
                attribute(IFLA_XDP_PROG_ID, &101u32.to_ne_bytes()).unwrap(),
            ],
        );
        let bytes = message(
            IFF_UP | IFF_LOWER_UP,
            &[
                attribute(IFLA_IFNAME, b"eth7\0").unwrap(),
                attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]).unwrap(),
                attribute(IFLA_MTU, &9000u32.to_ne_bytes()).unwrap(),
                attribute(IFLA_LINK, &8u32.to_ne_bytes()).unwrap(),
                attribute(IFLA_NUM_RX_QUEUES, &4u32.to_ne_bytes()).unwrap(),
                xdp.unwrap(),
            ],
        );
        let expected = RawLink {
            index: 7,
            name: "eth7".to_owned(),
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 9000,
            up: true,
            running: true,
            receive_queues: 4,
            transmit_queues: 1,
            attached: Some(AttachedProgram { id: 101, mode: AttachMode::Native }),
            peer: Some(8),
            ..RawLink::default()
        };
        assert_eq!(parse(&bytes), Some(expected));
    }

    #[test]
    fn programs_in_two_places_name_the_drivers() {
        let inner = [
            attribute(IFLA_XDP_ATTACHED, &[4]).unwrap(),
            attribute(IFLA_XDP_SKB_PROG_ID, &5u32.to_ne_bytes()).unwrap(),
            attribute(IFLA_XDP_DRV_PROG_ID, &6u32.to_ne_bytes()).unwrap(),
        ];
        let found = attached(&Attributes::after(0, &inner.concat()).unwrap());
        assert_eq!(found, Some(AttachedProgram { id: 6, mode: AttachMode::Several }));
        let none = attribute(IFLA_XDP_ATTACHED, &[0]).unwrap();
        assert_eq!(attached(&Attributes::after(0, &none).unwrap()), None);
    }

    #[test]
    fn a_peer_in_another_namespace_is_not_looked_for_here() {
        let bytes = message(
            0,
            &[
                attribute(IFLA_IFNAME, b"v\0").unwrap(),
                attribute(IFLA_LINK, &8u32.to_ne_bytes()).unwrap(),
                attribute(IFLA_LINK_NETNSID, &0u32.to_ne_bytes()).unwrap(),
            ],
        );
        assert_eq!(parse(&bytes).unwrap().peer, None);
    }

    #[test]
    fn a_message_cut_short_is_no_link() {
        assert_eq!(parse(&[0; 10]), None);
        assert_eq!(parse(&message(0, &[])), None, "a link without a name");
    }
}
