//! Neighbours: who asks, who is asked, who is in our place.

use super::*;

pub(super) fn arp(operation: ArpOperation, mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: from,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: to,
    };
    let mut bytes = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    let to = if operation == ArpOperation::Request { [0xff; 6] } else { OUR_MAC };
    let mut frame = ethernet(to, mac, &[], 0x0806, &bytes);
    frame.resize(60, 0);
    frame
}

#[test]
fn an_arp_request_becomes_its_answer() {
    let mut host = host();
    for sender in [PEER4, Ipv4Addr::UNSPECIFIED] {
        let answer = answered(&mut host, &arp(ArpOperation::Request, PEER_MAC, sender, OUR4));
        assert_eq!(answer.len(), 42);
        assert_eq!(answer[..14], ethernet(PEER_MAC, OUR_MAC, &[], 0x0806, &[]));
        let repr = ArpRepr::parse(&ArpPacket::new_checked(&answer[14..]).expect("ARP"));
        let expected = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(OUR_MAC),
            source_protocol_addr: OUR4,
            target_hardware_addr: EthernetAddress(PEER_MAC),
            target_protocol_addr: sender,
        };
        assert_eq!(repr, Ok(expected));
    }
    let other = arp(ArpOperation::Request, PEER_MAC, PEER4, [10, 0, 0, 7].into());
    assert_eq!(discarded(&mut host, &other), Reason::NotOurs);
    assert_eq!(host.counters().resolutions, 2);
    let mut shared = Host::new(&HostPlan { shared: true, ..plan() }).expect("a good plan");
    let ours = arp(ArpOperation::Request, PEER_MAC, PEER4, OUR4);
    assert_eq!(discarded(&mut shared, &ours), Reason::NotOurs, "the kernel answers");
}

#[test]
fn a_neighbour_is_asked_for_and_dialled() {
    let mut host = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
    let far: IpAddr = [192, 0, 2, 1].into();
    assert_eq!(host.route(at(0), far), Route::Asked);
    let question = host.poll(at(0)).expect("a question");
    assert_eq!(host.poll(at(0)).map(|message| message.bytes().to_vec()), None);
    assert_eq!(question.port(), PORT);
    let mut expected = arp(ArpOperation::Request, OUR_MAC, OUR4, PEER4);
    expected.truncate(42);
    assert_eq!(question.bytes(), expected);
    let answer = arp(ArpOperation::Reply, PEER_MAC, PEER4, OUR4);
    let neighbour = Neighbour { address: PEER4.into(), mac: PEER_MAC };
    assert_eq!(give(&mut host, &answer).0, Input::Learnt(neighbour));
    let Route::Path(path) = host.route(at(5001), far) else { panic!("known") };
    assert_eq!((path.peer_mac, path.local_mac), (PEER_MAC, OUR_MAC));
    assert_eq!((path.peer, path.local), (far.into(), OUR4.into()));
}

#[test]
fn a_solicitation_becomes_its_answer() {
    let mut host = host();
    let solicit = |lladdr: Option<RawHardwareAddress>| {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: OUR6, lladdr })
    };
    let with = solicit(Some(EthernetAddress(PEER_MAC).into()));
    let table = [
        (to_us(&icmp6(PEER6, OUR6, 255, &solicit(None))), PEER6, "unicast, without a MAC address"),
        (to_us(&icmp6(PEER6, OUR6, 255, &with)), PEER6, "unicast"),
        (
            ethernet(
                [0x33, 0x33, 0xff, 0, 0, 2],
                PEER_MAC,
                &[],
                0x86dd,
                &icmp6(PEER6, OUR_GROUP6, 255, &with),
            ),
            PEER6,
            "to the group",
        ),
        (
            ethernet(
                [0x33, 0x33, 0xff, 0, 0, 2],
                PEER_MAC,
                &[],
                0x86dd,
                &icmp6(NOBODY6, OUR_GROUP6, 255, &solicit(None)),
            ),
            ALL_NODES6,
            "a probe",
        ),
    ];
    for (bytes, to, words) in table {
        let answer = answered(&mut host, &bytes);
        let probe = to == ALL_NODES6;
        assert_eq!(answer[..6], if probe { [0x33, 0x33, 0, 0, 0, 1] } else { PEER_MAC }, "{words}");
        let message = message6(&answer, to, 255);
        let packet = Icmpv6Packet::new_unchecked(&message[..]);
        let mut flags = NdiscNeighborFlags::OVERRIDE;
        flags.set(NdiscNeighborFlags::SOLICITED, !probe);
        let advert = NdiscRepr::NeighborAdvert {
            flags,
            target_addr: OUR6,
            lladdr: Some(EthernetAddress(OUR_MAC).into()),
        };
        assert_eq!(NdiscRepr::parse(&packet), Ok(advert), "{words}");
    }
    assert_eq!(host.counters().conflicts, 1, "the probe");
    let routed = to_us(&icmp6(PEER6, OUR6, 254, &with));
    assert_eq!(discarded(&mut host, &routed), Reason::Malformed, "it came through a router");
}
