//! TCP in, TCP out.

use super::*;
use proptest::prelude::*;

fn path4() -> Path {
    Path {
        port: PORT,
        vlan: None,
        local_mac: OUR_MAC,
        peer_mac: PEER_MAC,
        local: OUR4.into(),
        peer: PEER4.into(),
    }
}

fn path6() -> Path {
    Path { local: OUR6.into(), peer: PEER6.into(), ..path4() }
}

#[test]
fn a_segment_is_found_with_the_way_back() {
    for (bytes, path, start) in [(tcp4(b"GET /"), path4(), 34), (tcp6(b"GET /"), path6(), 54)] {
        let segment = start..bytes.len();
        let padded = [&bytes[..], &[0; 9]].concat();
        let expected = Input::Tcp { path, segment, ecn: Ecn::NotCapable };
        assert_eq!(give(&mut host(), &bytes).0, expected);
        assert_eq!(give(&mut host(), &padded).0, expected, "Ethernet's padding is no part of it");
        assert_eq!(host().input_copied(PORT, &padded, None), expected);
    }
}

#[test]
fn ecn_bits_are_handed_on() {
    let mut four = tcp4(b"x");
    four[15] = 3;
    four[24..26].fill(0);
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&four[14..34]));
    four[24..26].copy_from_slice(&checksum.to_ne_bytes());
    let mut six = tcp6(b"x");
    six[15] = 0x20;
    for (bytes, expected) in [(four, Ecn::Congested), (six, Ecn::Capable0)] {
        let Input::Tcp { ecn, .. } = give(&mut host(), &bytes).0 else { panic!("a segment") };
        assert_eq!(ecn, expected);
    }
}

#[test]
fn a_damaged_segment_is_none() {
    for good in [tcp4(b"some payload of odd length"), tcp6(b"some payload of odd length")] {
        for byte in 14..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 0x10;
            let input = give(&mut host(), &bad).0;
            // Traffic class, flow label and hop limit of IPv6 are under no checksum.
            let covered = good[14] >> 4 == 4 || !matches!(byte, 15..18 | 21);
            assert_eq!(!matches!(input, Input::Tcp { .. }), covered, "byte {byte}: {input:?}");
        }
    }
}

#[test]
fn what_a_peer_left_undone_is_taken_as_it_is() {
    let pool = pool();
    let mut bytes = tcp4(b"payload");
    bytes[50..52].fill(7);
    let mut frame = frame(&pool, &bytes);
    frame.set_offload(Some(ringbuf::Offload {
        checksum_start: 34,
        checksum_offset: 16,
        ..Default::default()
    }));
    assert!(matches!(host().input(at(0), PORT, &mut frame), Input::Tcp { .. }));
    frame.set_offload(None);
    assert_eq!(host().input(at(0), PORT, &mut frame), Input::Discard(Reason::BadChecksum));
}

#[test]
fn what_came_in_several_frames_is_put_together_first() {
    let pool = pool();
    let bytes = tcp4(&[7; 9000]);
    let mut first = frame(&pool, &bytes[..3000]);
    first.set_continues(true);
    assert_eq!(host().input(at(0), PORT, &mut first), Input::Discard(Reason::InPieces));
    let expected = Input::Tcp { path: path4(), segment: 34..bytes.len(), ecn: Ecn::NotCapable };
    assert_eq!(host().input_copied(PORT, &bytes, None), expected);
    let echo = to_us(&icmp4(PEER4, OUR4, &Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &[7; 9000] }));
    assert_eq!(host().input_copied(PORT, &echo, None), Input::Discard(Reason::InPieces));
}

#[test]
fn what_is_not_for_us_is_discarded_by_name() {
    let from4 = |peer: [u8; 4]| to_us(&tcp(IpAddr::from(peer), OUR4.into(), b"x"));
    let from6 = |peer: &str| to_us(&tcp(peer.parse().expect("an address"), OUR6.into(), b"x"));
    let mut elsewhere = tcp4(b"x");
    elsewhere[5] = 9;
    let mut broadcast = tcp4(b"x");
    broadcast[..6].fill(0xff);
    let mut group = tcp4(b"x");
    group[6] |= 1;
    let mut fragment = tcp4(b"x");
    fragment[20] = 0x20;
    fragment[24..26].fill(0);
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&fragment[14..34]));
    fragment[24..26].copy_from_slice(&checksum.to_ne_bytes());
    let mapped = "::ffff:10.0.0.2".parse().expect("an address");
    let table = [
        (elsewhere, Reason::NotOurs, "another MAC address"),
        (broadcast, Reason::NotOurs, "TCP to everybody"),
        (group, Reason::Malformed, "from a group"),
        (fragment, Reason::Fragment, "a piece"),
        (to_us(&tcp(PEER4.into(), [10, 0, 0, 3].into(), b"x")), Reason::NotOurs, "another host"),
        (to_us(&tcp(PEER4.into(), [10, 0, 0, 255].into(), b"x")), Reason::NotOurs, "broadcast"),
        (from4([10, 0, 0, 2]), Reason::Martian, "from ourselves"),
        (from4([10, 0, 0, 255]), Reason::Martian, "from a broadcast address"),
        (from4([0, 0, 0, 0]), Reason::Martian, "from nobody"),
        (from4([127, 0, 0, 1]), Reason::Martian, "from a loopback"),
        (from4([224, 0, 0, 1]), Reason::Martian, "from a group's address"),
        (from4([255; 4]), Reason::Martian, "from everybody"),
        (from6("2001:db8::2"), Reason::Martian, "from ourselves"),
        (from6("::1"), Reason::Martian, "from a loopback"),
        (from6("::"), Reason::Martian, "from nobody"),
        (from6("ff02::1"), Reason::Martian, "from a group's address"),
        (from6("::ffff:10.0.0.1"), Reason::Martian, "from a mapped address"),
        (to_us(&tcp(PEER6.into(), mapped, b"x")), Reason::Martian, "to a mapped address"),
        (tcp4(b"x")[..13].to_vec(), Reason::Runt, "half an Ethernet header"),
        (tcp4(b"x")[..33].to_vec(), Reason::Malformed, "half an IP header"),
        (tcp4(b"x")[..50].to_vec(), Reason::Malformed, "half a TCP header"),
        (tcp6(b"x")[..50].to_vec(), Reason::Malformed, "half an IPv6 header"),
        (ethernet(OUR_MAC, PEER_MAC, &[], 0x88cc, &[0; 50]), Reason::NotOurs, "another protocol"),
    ];
    for (bytes, reason, words) in table {
        assert_eq!(discarded(&mut host(), &bytes), reason, "{words}");
    }
}

#[test]
fn a_shared_host_takes_only_its_ports() {
    let shared = |listens: Vec<u16>, dials| {
        Host::new(&HostPlan { shared: true, listens, dials, ..plan() }).expect("a good plan")
    };
    for (mut host, ours) in [
        (shared(vec![8080], 0..0), true),
        (shared(vec![], 8000..9000), true),
        (shared(vec![22], 1..9), false),
    ] {
        assert_eq!(matches!(give(&mut host, &tcp4(b"x")).0, Input::Tcp { .. }), ours);
        assert_eq!(matches!(give(&mut host, &tcp6(b"x")).0, Input::Tcp { .. }), ours);
    }
}

#[test]
fn options_and_extension_headers_are_skipped() {
    // IPv4: a router alert.
    let plain = tcp(PEER4.into(), OUR4.into(), b"x");
    let mut with_options = [&plain[..20], &[0x94, 4, 0, 0], &plain[20..]].concat();
    with_options[0] = 0x46;
    with_options[3] += 4;
    with_options[10..12].fill(0);
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&with_options[..24]));
    with_options[10..12].copy_from_slice(&checksum.to_ne_bytes());
    let Input::Tcp { segment, .. } = give(&mut host(), &to_us(&with_options)).0 else { panic!("a segment") };
    assert_eq!(segment, 38..59);

    let plain = tcp(PEER6.into(), OUR6.into(), b"x");
    let atomic = [6, 0, 0, 0, 0, 0, 0, 7];
    let table: [(&[u8], u8, Option<Reason>); 9] = [
        (&[6, 0, 1, 4, 0, 0, 0, 0], 0, None),
        (&[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0], 0, None),
        (&[6, 0, 0x1e, 4, 0, 0, 0, 0], 60, None),
        (&[6, 0, 0x5e, 4, 0, 0, 0, 0], 60, Some(Reason::NotOurs)),
        (&[6, 0, 0, 0, 0, 0, 0, 0], 43, None),
        (&atomic, 44, None),
        (&[6, 0, 0, 1, 0, 0, 0, 7], 44, Some(Reason::Fragment)),
        (&[6, 200, 1, 4, 0, 0, 0, 0], 60, Some(Reason::Malformed)),
        (&[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], 60, Some(Reason::Malformed)),
    ];
    for (headers, first, expected) in table {
        let mut packet = [&plain[..40], headers, &plain[40..]].concat();
        packet[5] += u8::try_from(headers.len()).expect("short");
        packet[6] = first;
        let input = give(&mut host(), &to_us(&packet)).0;
        match expected {
            None => assert!(
                matches!(&input, Input::Tcp { segment, .. } if segment.start == 54 + headers.len()),
                "{headers:?}: {input:?}"
            ),
            Some(reason) => assert_eq!(input, Input::Discard(reason), "{headers:?}"),
        }
    }
}

#[test]
fn tags_must_be_ours_and_come_back() {
    const C: u16 = 0x8100;
    const S: u16 = 0x88a8;
    let inner = tcp(PEER4.into(), OUR4.into(), b"x");
    // The tag of the path, if the frame is for us.
    type Tag = Option<Option<u16>>;
    type Sent = &'static [(u16, u16)];
    let table: [(Tags, Sent, Tag); 10] = [
        (Tags::None, &[], Some(None)),
        (Tags::None, &[(C, 0xa000)], Some(Some(0xa000))),
        (Tags::None, &[(C, 7)], None),
        (Tags::One(7), &[], None),
        (Tags::One(7), &[(C, 0x6007)], Some(Some(0x6007))),
        (Tags::One(7), &[(C, 8)], None),
        (Tags::One(7), &[(S, 7), (C, 7)], None),
        (Tags::Two { service: 5, customer: 7 }, &[(S, 5), (C, 0x2007)], Some(Some(0x2007))),
        (Tags::Two { service: 5, customer: 7 }, &[(C, 7)], None),
        (Tags::Two { service: 5, customer: 7 }, &[(S, 7), (C, 5)], None),
    ];
    let pool = pool();
    for (tags, sent, expected) in table {
        let mut plan = plan();
        plan.interfaces[0].tags = tags;
        let mut host = Host::new(&plan).expect("a good plan");
        let bytes = ethernet(OUR_MAC, PEER_MAC, sent, 0x0800, &inner);
        let input = give(&mut host, &bytes).0;
        let Some(expected) = expected else {
            assert_eq!(input, Input::Discard(Reason::NotOurs), "{tags:?} {sent:?}");
            continue;
        };
        let Input::Tcp { path, segment, .. } = input else { panic!("{tags:?} {sent:?}: {input:?}") };
        assert_eq!(path.vlan.map(Vlan::tci), expected);
        assert_eq!(segment.start, 34 + 4 * sent.len());

        let mut reply = pool.alloc().expect("four");
        let headers = Headers { service: host.service_tag(&path), ..headers(&path, &[], 0) };
        assert_eq!(write_headers(&mut reply, &headers), Ok(54 + 4 * sent.len()));
        let priority = expected.unwrap_or(0) & 0xf000;
        let mut tags = sent.to_vec();
        if let [(_, outer), _] = &mut tags[..] {
            *outer |= priority;
        }
        assert_eq!(
            reply[..18 + 4 * sent.len()],
            ethernet(PEER_MAC, OUR_MAC, &tags, 0x0800, &reply[14 + 4 * sent.len()..])[..18 + 4 * sent.len()]
        );
    }
}

fn headers<'a>(path: &'a Path, options: &'a [u8], payload_bytes: usize) -> Headers<'a> {
    Headers {
        path,
        service: None,
        local_port: 8080,
        peer_port: 40000,
        acknowledgement: 0x0102_0304,
        window: 0xabcd,
        options,
        patch: Patch {
            sequence: 0xfedc_ba98,
            flags: 0x18,
            ecn: Ecn::Capable0,
            payload_bytes,
            segment_bytes: 0,
        },
    }
}

/// Those of another segment of the same turn, if there was one before.
fn patches() -> impl Strategy<Value = Option<Patch>> {
    let ecn = (0..4u8).prop_map(Ecn::from_bits);
    let patch = (any::<u32>(), any::<u8>(), ecn, 0..65_000usize, any::<u16>()).prop_map(
        |(sequence, flags, ecn, payload_bytes, segment_bytes)| Patch {
            sequence,
            flags,
            ecn,
            payload_bytes,
            segment_bytes,
        },
    );
    prop::option::of(patch)
}

proptest! {
    /// What is written is what smoltcp reads, checksums included, whether the device finishes them or we.
    #[test]
    fn headers_say_what_they_were_told(v6 in any::<bool>(), sequence in any::<u32>(), acknowledgement in any::<u32>(), ports in any::<[u16; 2]>(), window in any::<u16>(), before in patches(), options in 0usize..=10, payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        let path = if v6 { path6() } else { path4() };
        let options = vec![1; options * 4];
        let [local_port, peer_port] = ports;
        let headers = headers(&path, &options, payload.len());
        let patch = Patch { sequence, ..headers.patch };
        let headers = Headers { acknowledgement, local_port, peer_port, window, patch: before.unwrap_or(patch), ..headers };
        let pool = pool();
        let mut frame = pool.alloc().expect("four");
        // For a segment by itself, and for one that another made the template for.
        let mut template = Template::NONE;
        template.set(&headers).expect("fits");
        let count = template.write(&mut frame, &patch).expect("room");
        prop_assert_eq!(count, 14 + if v6 { 40 } else { 20 } + 20 + options.len());
        prop_assert!(count <= HEADER_BYTES);
        prop_assert_eq!(frame.offload().is_some(), !payload.is_empty());
        frame.extend(&payload).expect("room");
        let mut burst = ringbuf::Burst::new();
        burst.push(frame).expect("room");
        prop_assert_eq!(drivers::checksum::finish(&mut burst), !payload.is_empty());
        let frame = burst.pop().expect("one");

        let ethernet = EthernetFrame::new_checked(&frame[..]).expect("Ethernet");
        prop_assert_eq!((ethernet.dst_addr().0, ethernet.src_addr().0), (PEER_MAC, OUR_MAC));
        let (segment, hops) = if v6 {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).expect("IPv6");
            prop_assert_eq!((ip.src_addr(), ip.dst_addr()), (OUR6, PEER6));
            prop_assert_eq!(ip.traffic_class(), 2);
            prop_assert!(ip.flow_label() > 0);
            prop_assert_eq!(ip.total_len(), ethernet.payload().len());
            (ip.payload(), ip.hop_limit())
        } else {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("IPv4");
            prop_assert!(ip.verify_checksum() && ip.dont_frag());
            prop_assert_eq!((ip.src_addr(), ip.dst_addr()), (OUR4, PEER4));
            prop_assert_eq!(ip.ecn(), 2);
            prop_assert_eq!(usize::from(ip.total_len()), ethernet.payload().len());
            (ip.payload(), ip.hop_limit())
        };
        prop_assert_eq!(hops, 64);
        let tcp = TcpPacket::new_checked(segment).expect("TCP");
        prop_assert!(tcp.verify_checksum(&path.local.ip().into(), &path.peer.ip().into()));
        prop_assert_eq!((tcp.src_port(), tcp.dst_port()), (local_port, peer_port));
        prop_assert_eq!(tcp.seq_number().0.cast_unsigned(), sequence);
        prop_assert_eq!(tcp.ack_number().0.cast_unsigned(), acknowledgement);
        prop_assert!(tcp.psh() && tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst());
        prop_assert_eq!(tcp.window_len(), window);
        prop_assert_eq!(tcp.options(), &options[..]);
        prop_assert_eq!(tcp.payload(), &payload[..]);
    }
}

#[test]
fn a_packet_to_be_cut_says_how() {
    use ringbuf::{Offload, Segmentation};
    let pool = pool();
    for (path, flags, segmentation) in [
        (path4(), 0x10, Segmentation::Tcp4),
        (path4(), 0x90, Segmentation::Tcp4Ecn),
        (path6(), 0x10, Segmentation::Tcp6),
        (path6(), 0x90, Segmentation::Tcp6Ecn),
    ] {
        let start = if path.is_v4() { 34 } else { 54 };
        let mut frame = pool.alloc().expect("four");
        let headers = headers(&path, &[1; 12], 60_000);
        let patch = Patch { flags, segment_bytes: 1448, ..headers.patch };
        let cut = Headers { patch, ..headers };
        assert_eq!(write_headers(&mut frame, &cut), Ok(usize::from(start) + 32));
        let whole = Offload { checksum_start: start, checksum_offset: 16, ..Offload::default() };
        let expected = Offload { segment_bytes: 1448, header_bytes: start + 32, segmentation, ..whole };
        assert_eq!(frame.offload(), Some(expected));
        frame.restart(0);
        let one = Headers { patch: Patch { payload_bytes: 1448, ..patch }, ..headers };
        assert!(write_headers(&mut frame, &one).is_ok());
        assert_eq!(frame.offload(), Some(whole), "one segment is not cut");
    }
}

/// Headers are written with more room than they need; a frame that has just enough gets the same.
#[test]
fn headers_fit_where_there_is_just_room_for_them() {
    let pool = pool();
    for path in [path4(), path6()] {
        let headers = headers(&path, &[1; 12], 100);
        let mut roomy = pool.alloc().expect("four");
        let count = write_headers(&mut roomy, &headers).expect("room");
        let mut tight = pool.alloc().expect("four");
        let whole = tight.tailroom() + tight.head();
        for (room, written) in [(count, true), (count + 1, true), (count - 1, false)] {
            tight.restart(whole - u16::try_from(room).expect("short"));
            assert_eq!(write_headers(&mut tight, &headers).is_ok(), written, "{room} bytes of room");
            assert!(!written || tight[..] == roomy[..] && tight.offload() == roomy.offload());
        }
    }
}

#[test]
fn what_cannot_be_said_is_refused() {
    let pool = pool();
    let mut frame = pool.alloc().expect("four");
    let path = path4();
    let mixed = Path { peer: PEER6.into(), ..path };
    for bad in [
        headers(&path, &[1; 3], 0),
        headers(&path, &[1; 44], 0),
        headers(&path, &[], 65_496),
        headers(&path, &[], 65_516),
        headers(&mixed, &[], 0),
    ] {
        assert!(write_headers(&mut frame, &bad).is_err(), "{bad:?}");
        frame.restart(0);
    }
    assert!(write_headers(&mut frame, &headers(&path, &[], 65_495)).is_ok());
    assert!(write_headers(&mut frame, &headers(&path, &[], 0)).is_err(), "not empty");
}
