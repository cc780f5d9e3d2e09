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

#[test]
fn an_advertisement_teaches_who_was_asked_for() {
    let mut host = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
    assert_eq!(host.route(at(0), PEER6.into()), Route::Asked);
    let question = host.poll(at(0)).expect("a question");
    assert_eq!(question.bytes()[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let message = message6(question.bytes(), group, 255);
    let solicit =
        NdiscRepr::NeighborSolicit { target_addr: PEER6, lladdr: Some(EthernetAddress(OUR_MAC).into()) };
    assert_eq!(NdiscRepr::parse(&Icmpv6Packet::new_unchecked(&message[..])), Ok(solicit));

    let advert = |flags, hops| {
        let repr = NdiscRepr::NeighborAdvert {
            flags,
            target_addr: PEER6,
            lladdr: Some(EthernetAddress(PEER_MAC).into()),
        };
        to_us(&icmp6(PEER6, OUR6, hops, &Icmpv6Repr::Ndisc(repr)))
    };
    assert_eq!(discarded(&mut host, &advert(NdiscNeighborFlags::SOLICITED, 64)), Reason::Malformed);
    let neighbour = Neighbour { address: PEER6.into(), mac: PEER_MAC };
    assert_eq!(give(&mut host, &advert(NdiscNeighborFlags::SOLICITED, 255)).0, Input::Learnt(neighbour));
    let Route::Path(path) = host.route(at(5001), PEER6.into()) else { panic!("known") };
    assert_eq!((path.peer_mac, path.peer, path.local), (PEER_MAC, PEER6.into(), OUR6.into()));

    // Stale after half a minute: used, and asked at its own address.
    assert!(matches!(host.route(at(40_000), PEER6.into()), Route::Path(_)));
    let question = host.poll(at(40_000)).expect("a question");
    assert_eq!(question.bytes()[..6], PEER_MAC);
    message6(question.bytes(), PEER6, 255);
}

#[test]
fn another_worker_s_answer_is_handed_on_and_taken_up() {
    let mut asks = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
    let mut hears = host();
    assert_eq!(asks.route(at(0), PEER4.into()), Route::Asked);
    let answer = arp(ArpOperation::Reply, PEER_MAC, PEER4, OUR4);
    let Input::Learnt(neighbour) = give(&mut hears, &answer).0 else { panic!("an answer") };
    asks.learn(at(1), PORT, neighbour, false);
    assert!(matches!(asks.route(at(2), PEER4.into()), Route::Path(path) if path.peer_mac == PEER_MAC));
}

/// From its first moment a host reports its group, probes, and after a second says twice what it has.
#[test]
fn addresses_are_probed_for_and_announced() {
    let mut host = host();
    let mut said = Vec::new();
    let mut millis = 0;
    // Woken only when it says.
    while let Some(deadline) = host.deadline() {
        millis = millis.max(u64::try_from(deadline.0.as_millis()).expect("soon"));
        while let Some(message) = host.poll(at(millis)) {
            said.push((millis, message.bytes().to_vec()));
        }
    }
    let arp = |from: Ipv4Addr| {
        let mut bytes = arp(ArpOperation::Request, OUR_MAC, from, OUR4);
        bytes.truncate(42);
        bytes
    };
    let nothing = Ipv4Addr::UNSPECIFIED;
    let (sixes, fours): (Vec<_>, Vec<_>) = said.into_iter().partition(|(_, bytes)| bytes[12] == 0x86);
    assert_eq!(fours, [(0, arp(nothing)), (1000, arp(OUR4)), (3000, arp(OUR4))]);
    let times: Vec<u64> = sixes.iter().map(|(millis, _)| *millis).collect();
    assert_eq!(times, [0, 0, 1000, 3000]);

    let report = Ipv6Packet::new_checked(&sixes[0].1[14..]).expect("IPv6");
    assert_eq!(
        (report.src_addr(), report.hop_limit(), report.next_header()),
        (NOBODY6, 1, IpProtocol::HopByHop)
    );
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let message = Icmpv6Packet::new_checked(&report.payload()[8..]).expect("ICMPv6");
    assert!(message.verify_checksum(&NOBODY6, &routers));
    let record = [143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
    assert_eq!([&report.payload()[8..10], &[0, 0], &report.payload()[12..20]].concat(), record);
    assert_eq!(report.payload()[20..36], OUR_GROUP6.octets());

    let probe = Ipv6Packet::new_checked(&sixes[1].1[14..]).expect("IPv6");
    assert_eq!((probe.src_addr(), probe.dst_addr(), probe.hop_limit()), (NOBODY6, OUR_GROUP6, 255));
    let message = Icmpv6Packet::new_checked(probe.payload()).expect("ICMPv6");
    assert!(message.verify_checksum(&NOBODY6, &OUR_GROUP6));
    let solicit = NdiscRepr::NeighborSolicit { target_addr: OUR6, lladdr: None };
    assert_eq!(NdiscRepr::parse(&message), Ok(solicit));

    let message = message6(&sixes[2].1, ALL_NODES6, 255);
    let advert = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: OUR6,
        lladdr: Some(EthernetAddress(OUR_MAC).into()),
    };
    assert_eq!(NdiscRepr::parse(&Icmpv6Packet::new_unchecked(&message[..])), Ok(advert));
    assert_eq!(sixes[2].1, sixes[3].1);

    for quiet in [HostPlan { shared: true, ..plan() }, HostPlan { announces: false, ..plan() }] {
        assert!(Host::new(&quiet).expect("a good plan").poll(at(0)).is_none());
    }
}

#[test]
fn messages_are_tagged() {
    let mut plan = plan();
    plan.interfaces[0].tags = Tags::Two { service: 5, customer: 7 };
    let mut host = Host::new(&plan).expect("a good plan");
    let mut lengths = Vec::new();
    while let Some(message) = host.poll(at(0)) {
        assert_eq!(message.bytes()[12..20], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]);
        lengths.push(message.bytes().len());
    }
    assert_eq!(lengths, [50, 98, 86], "probe; report and probe");
}

/// Who uses our address is told that it is ours, once in ten seconds, and the user is told who.
#[test]
fn a_conflict_is_noticed_and_the_address_defended() {
    let intruder = [2, 0, 0, 0, 0, 9];
    let gratuitous = arp(ArpOperation::Request, intruder, OUR4, OUR4);
    let reply = arp(ArpOperation::Reply, intruder, OUR4, PEER4);
    let advert = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: OUR6,
        lladdr: Some(EthernetAddress(intruder).into()),
    };
    let advert = ethernet(
        [0x33, 0x33, 0, 0, 0, 1],
        intruder,
        &[],
        0x86dd,
        &icmp6(OUR6, ALL_NODES6, 255, &Icmpv6Repr::Ndisc(advert)),
    );
    let asks =
        NdiscRepr::NeighborSolicit { target_addr: PEER6, lladdr: Some(EthernetAddress(intruder).into()) };
    let asks = ethernet(
        [0x33, 0x33, 0xff, 0, 0, 1],
        intruder,
        &[],
        0x86dd,
        &icmp6(OUR6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1), 255, &Icmpv6Repr::Ndisc(asks)),
    );
    for (bytes, address) in
        [(gratuitous, IpAddr::from(OUR4)), (reply, OUR4.into()), (advert, OUR6.into()), (asks, OUR6.into())]
    {
        let mut host = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
        let pool = pool();
        let mut defended = 0;
        for second in 0..20 {
            let mut frame = frame(&pool, &bytes);
            let input = host.input(at(second * 1000), PORT, &mut frame);
            assert_eq!(input, Input::Taken);
            while host.poll(at(second * 1000)).is_some() {
                defended += 1;
            }
        }
        assert_eq!((host.counters().conflicts, defended), (20, 2), "{address}");
        let conflict = Conflict { port: PORT, address: address.into(), mac: intruder };
        assert_eq!(host.take_conflict(), Some(conflict));
        assert_eq!(host.take_conflict(), None);
    }
    // Our own frames, come round in a loop, are no conflict.
    let mut host = host();
    assert_eq!(discarded(&mut host, &arp(ArpOperation::Request, OUR_MAC, OUR4, OUR4)), Reason::NotOurs);
    assert_eq!(host.counters().conflicts, 0);
}

/// Who has the address already answers the probe, and is not robbed of it by an announcement.
#[test]
fn an_address_whose_probe_is_answered_is_not_announced() {
    let intruder = [2, 0, 0, 0, 0, 9];
    let no_address = Ipv4Addr::UNSPECIFIED;
    let answers = [
        arp(ArpOperation::Reply, intruder, OUR4, no_address),
        // Another host that probes for it at the same time.
        arp(ArpOperation::Request, intruder, OUR4, OUR4),
    ];
    for answer in answers {
        let mut host = Host::new(&plan()).expect("a good plan");
        let pool = pool();
        let said = |host: &mut Host, ms: u64| {
            std::iter::from_fn(|| host.poll(at(ms)))
                .filter(|message| message.bytes()[12..14] == [8, 6])
                .count()
        };
        assert_eq!(said(&mut host, 0), 1, "the probe");
        let mut frame = frame(&pool, &answer);
        assert_eq!(host.input(at(10), PORT, &mut frame), Input::Taken);
        assert_eq!([1000, 3000, 20_000].map(|ms| said(&mut host, ms)), [0; 3]);
        let conflict = host.take_conflict().expect("a conflict").to_string();
        assert_eq!(conflict, format!("{OUR4} is used by 02:00:00:00:00:09 too"));
        // Once more, later: there is nothing to be defended.
        let mut frame = self::frame(&pool, &answer);
        assert_eq!(host.input(at(30_000), PORT, &mut frame), Input::Taken);
        assert_eq!(said(&mut host, 30_000), 0);
    }
}

#[test]
fn a_listener_query_is_reported_to() {
    let mut host = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let mut query = vec![0; 28];
    (query[0], query[24]) = (130, 2);
    Icmpv6Packet::new_unchecked(&mut query[..]).fill_checksum(&router, &ALL_NODES6);
    let payload = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &query].concat();
    let packet = ip(router.into(), ALL_NODES6.into(), IpProtocol::HopByHop, 1, &payload);
    let bytes = ethernet([0x33, 0x33, 0, 0, 0, 1], PEER_MAC, &[], 0x86dd, &packet);
    assert_eq!(give(&mut host, &bytes).0, Input::Taken);
    assert!(host.deadline() <= Some(at(5000)));
    assert_eq!(host.poll(at(5000)).map(|report| report.bytes().len()), Some(90));
    assert!(host.poll(at(5000)).is_none());
}

#[test]
fn the_longest_prefix_leads() {
    let next = |peer: &str| {
        let mut host = Host::new(&HostPlan { announces: false, ..plan() }).expect("a good plan");
        match host.route(at(0), peer.parse().expect("an address")) {
            Route::Asked => {
                let question = host.poll(at(0)).expect("a question");
                let v4 = question.bytes()[12] == 8;
                let target = if v4 { &question.bytes()[38..42] } else { &question.bytes()[62..78] };
                target.to_vec()
            }
            Route::NoRoute => vec![],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next("10.0.0.77"), [10, 0, 0, 77], "on the link");
    assert_eq!(next("192.0.2.1"), [10, 0, 0, 1], "by the default route");
    assert_eq!(next("10.9.1.1"), [10, 0, 0, 9], "by the narrower route");
    assert_eq!(next("2001:db8::77")[15], 0x77, "on the link");
    for nowhere in ["2001:db9::1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "ff02::1", "::1"] {
        assert!(next(nowhere).is_empty(), "{nowhere}");
    }
}

#[test]
fn neighbours_known_beforehand_are_not_asked_for() {
    let neighbours = vec![(PORT, PEER4.into(), PEER_MAC)];
    let mut host = Host::new(&HostPlan { neighbours, shared: true, ..plan() }).expect("a good plan");
    let Route::Path(path) = host.route(at(0), [192, 0, 2, 1].into()) else { panic!("known") };
    assert_eq!(path.peer_mac, PEER_MAC);
    assert_eq!(host.route(at(0), [10, 0, 0, 5].into()), Route::Asked);
    assert!(host.poll(at(0)).is_none(), "the kernel asks");
    let learnt = Neighbour { address: Address::v4([10, 0, 0, 5]), mac: PEER_MAC };
    host.learn(at(1), PORT, learnt, true);
    assert!(matches!(host.route(at(900_000), [10, 0, 0, 5].into()), Route::Path(_)));
}

#[test]
fn a_plan_that_cannot_be_is_refused() {
    type Change = fn(&mut HostPlan);
    let table: [(Change, PlanError); 10] = [
        (|plan| plan.interfaces.push(plan.interfaces[0].clone()), PlanError::PortTwice(0)),
        (|plan| plan.interfaces[0].mac = [0; 6], PlanError::NotAMac([0; 6])),
        (|plan| plan.interfaces[0].mac[0] = 1, PlanError::NotAMac([1, 0, 0, 0, 0, 2])),
        (|plan| plan.interfaces[0].tags = Tags::One(4095), PlanError::NoSuchVlan(4095)),
        (|plan| plan.interfaces[0].tags = Tags::Two { service: 0, customer: 1 }, PlanError::NoSuchVlan(0)),
        (|plan| plan.interfaces[0].addresses[0].bits = 33, PlanError::TooManyBits(OUR4.into(), 33)),
        (
            |plan| plan.interfaces[0].addresses[0].address = [10, 0, 0, 255].into(),
            PlanError::NotAHost([10, 0, 0, 255].into()),
        ),
        (
            |plan| plan.interfaces[0].addresses[1].address = ALL_NODES6.into(),
            PlanError::NotAHost(ALL_NODES6.into()),
        ),
        (
            |plan| plan.routes[0].gateway = Some([10, 0, 1, 1].into()),
            PlanError::GatewayBeyond([10, 0, 1, 1].into()),
        ),
        (|plan| plan.routes[0].port = PortId(3), PlanError::NoSuchPort(3)),
    ];
    for (change, expected) in table {
        let mut plan = plan();
        change(&mut plan);
        assert_eq!(Host::new(&plan).err(), Some(expected));
    }
}
