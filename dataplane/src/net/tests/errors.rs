//! ICMP errors: those we send, those we keep to ourselves, and those about our segments.

use super::*;

/// Destination unreachable with this code, about what was sent.
fn unreachable4(answer: &[u8], code: u8, about: &[u8]) {
    let message = message4(answer);
    assert_eq!((message[0], message[1]), (3, code));
    let quoted = about.len().min(576 - 28);
    assert_eq!(message[8..], about[..quoted]);
}

/// An ICMPv6 error of this type, code and 32-bit word, about what was sent.
fn error6(answer: &[u8], kind: u8, code: u8, word: u32, about: &[u8]) {
    let message = message6(answer, PEER6, 64);
    assert_eq!((message[0], message[1]), (kind, code));
    assert_eq!(message[4..8], word.to_be_bytes());
    let quoted = about.len().min(1280 - 48);
    assert_eq!(message[8..], about[..quoted]);
}

#[test]
fn closed_ports_and_unknown_protocols_are_named() {
    let mut host = host();
    for length in [0, 9, 500, 540, 1400] {
        let payload = vec![7; length];
        let packet = udp(PEER4.into(), OUR4.into(), &payload);
        unreachable4(&answered(&mut host, &to_us(&packet)), 3, &packet);
        let packet = udp(PEER6.into(), OUR6.into(), &payload);
        error6(&answered(&mut host, &to_us(&packet)), 1, 4, 0, &packet);
        let packet = ip(PEER4.into(), OUR4.into(), IpProtocol::Unknown(132), 64, &payload);
        unreachable4(&answered(&mut host, &to_us(&packet)), 2, &packet);
        let packet = ip(PEER6.into(), OUR6.into(), IpProtocol::Unknown(132), 64, &payload);
        error6(&answered(&mut host, &to_us(&packet)), 4, 1, 6, &packet);
    }
    assert_eq!(host.counters().errors, 20);
}

/// A frame without a byte of headroom still holds the error, and one without any room is given up.
#[test]
fn an_error_needs_room_somewhere() {
    let pool = pool();
    let packet = udp(PEER4.into(), OUR4.into(), b"payload");
    let mut frame = pool.alloc().expect("four");
    frame.restart(0);
    frame.extend(&to_us(&packet)).expect("fits");
    assert_eq!(host().input(at(0), PORT, &mut frame), Input::Answer);
    unreachable4(&frame, 3, &packet);
    frame.restart(pool.frame_size() - u16::try_from(to_us(&packet).len()).expect("short"));
    frame.extend(&to_us(&packet)).expect("fits");
    assert_eq!(host().input(at(0), PORT, &mut frame), Input::Answer, "headroom");
    unreachable4(&frame, 3, &packet);
}

#[test]
fn a_tagged_error_keeps_its_tag() {
    let mut plan = plan();
    plan.interfaces[0].tags = Tags::One(7);
    let mut host = Host::new(&plan).expect("a good plan");
    let packet = udp(PEER4.into(), OUR4.into(), b"payload");
    let answer = answered(&mut host, &ethernet(OUR_MAC, PEER_MAC, &[(0x8100, 0x6007)], 0x0800, &packet));
    assert_eq!(answer[12..18], [0x81, 0, 0x60, 7, 8, 0]);
    unreachable4(&[&answer[..12], &answer[16..]].concat(), 3, &packet);
}

#[test]
fn a_pointer_says_which_header_is_unknown() {
    // Type, code and pointer of the answer, if there is one.
    type Problem = Option<(u8, u8, u32)>;
    let table: [(&[u8], u8, Problem); 9] = [
        // Something unknown behind options; behind two headers.
        (&[132, 0, 1, 4, 0, 0, 0, 0], 60, Some((4, 1, 40))),
        (&[60, 0, 1, 4, 0, 0, 0, 0, 132, 0, 1, 4, 0, 0, 0, 0], 0, Some((4, 1, 48))),
        (&[60, 9, 0, 0, 0, 0, 0, 0, 132, 0, 1, 4, 0, 0, 0, 0], 44, Some((4, 1, 48))),
        // A routing header with segments left.
        (&[6, 0, 0, 1, 0, 0, 0, 0], 43, Some((4, 0, 42))),
        // Options that are not known: skip, discard, say so, say so.
        (&[132, 0, 0x1e, 4, 0, 0, 0, 0], 60, Some((4, 1, 40))),
        (&[17, 0, 0x5e, 4, 0, 0, 0, 0], 60, None),
        (&[17, 0, 0x9e, 4, 0, 0, 0, 0], 60, Some((4, 2, 42))),
        (&[17, 0, 0, 0xde, 3, 0, 0, 0], 60, Some((4, 2, 43))),
        // Nothing follows.
        (&[59, 0, 1, 4, 0, 0, 0, 0], 60, None),
    ];
    for (headers, first, expected) in table {
        let payload = [headers, &[0; 8]].concat();
        let packet = ip(PEER6.into(), OUR6.into(), IpProtocol::from(first), 64, &payload);
        let (input, answer) = give(&mut host(), &to_us(&packet));
        match expected {
            None => assert_eq!(input, Input::Discard(Reason::NotOurs), "{headers:?}"),
            Some((kind, code, pointer)) => {
                assert_eq!(input, Input::Answer, "{headers:?}");
                error6(&answer, kind, code, pointer, &packet);
            }
        }
    }
}

#[test]
fn some_things_get_no_error() {
    let mut damaged = to_us(&udp(PEER4.into(), OUR4.into(), b"payload"));
    *damaged.last_mut().expect("payload") ^= 1;
    let mut none6 = udp(PEER6.into(), OUR6.into(), b"payload");
    none6[46..48].fill(0);
    let mut long = to_us(&udp(PEER4.into(), OUR4.into(), b"payload"));
    long[39] = 200;
    let everybody = udp(PEER4.into(), [10, 0, 0, 255].into(), b"x");
    let mut to_everybody = to_us(&udp(PEER4.into(), OUR4.into(), b"x"));
    to_everybody[..6].fill(0xff);
    let to_group = udp(PEER6.into(), ALL_NODES6.into(), b"x");
    let unknown_option = |to: Ipv6Addr, kind: u8| {
        let payload = [17, 0, kind, 4, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        to_us(&ip(PEER6.into(), to.into(), IpProtocol::from(60), 64, &payload))
    };
    let nobody = ip(NOBODY6.into(), OUR6.into(), IpProtocol::Udp, 64, &[0; 8]);
    let table = [
        (damaged, Reason::BadChecksum, "a bad checksum"),
        (to_us(&none6), Reason::BadChecksum, "no checksum over IPv6"),
        (long, Reason::Malformed, "a length beyond the packet"),
        (to_us(&everybody), Reason::NotOurs, "broadcast"),
        (to_everybody, Reason::NotOurs, "link-layer broadcast"),
        (to_us(&to_group), Reason::NotOurs, "multicast"),
        (to_us(&nobody), Reason::Martian, "from nobody"),
        (to_us(&udp([127, 0, 0, 1].into(), OUR4.into(), b"x")), Reason::Martian, "from loopback"),
        (unknown_option(ALL_NODES6, 0xde), Reason::Malformed, "an option of a group's packet"),
    ];
    let mut host = host();
    for (bytes, reason, words) in table {
        assert_eq!(discarded(&mut host, &bytes), reason, "{words}");
    }
    assert_eq!(host.counters().errors, 0);
    // But packet-too-big's sibling of RFC 4443 §2.4 (e.3) is said even to a group.
    error6(
        &answered(&mut host, &unknown_option(ALL_NODES6, 0x9e)),
        4,
        2,
        42,
        &unknown_option(ALL_NODES6, 0x9e)[14..],
    );
    let mut unsummed = udp(PEER4.into(), OUR4.into(), b"x");
    unsummed[26..28].fill(0);
    unreachable4(&answered(&mut host, &to_us(&unsummed)), 3, &unsummed);
}

#[test]
fn a_scan_is_not_answered_for_ever() {
    let mut host = host();
    let packet = to_us(&udp(PEER4.into(), OUR4.into(), b"x"));
    let answers = (0..1000).filter(|_| give(&mut host, &packet).0 == Input::Answer).count();
    assert_eq!(answers, 50);
    assert_eq!(discarded(&mut host, &packet), Reason::RateLimited);
    let echo = to_us(&icmp4(PEER4, OUR4, &Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"" }));
    answered(&mut host, &echo);
}

/// The start of one of our segments, as a router quotes it.
fn ours4() -> Vec<u8> {
    tcp(OUR4.into(), PEER4.into(), b"payload")
}

fn ours6() -> Vec<u8> {
    tcp(OUR6.into(), PEER6.into(), b"payload")
}

/// An ICMP message about `quoted` from a router.
fn about4(kind: u8, code: u8, word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], &word.to_be_bytes()[..], quoted].concat();
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&message));
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
    to_us(&ip([192, 0, 2, 1].into(), OUR4.into(), IpProtocol::Icmp, 60, &message))
}

fn about6(kind: u8, code: u8, word: u32, quoted: &[u8]) -> Vec<u8> {
    let router = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);
    let mut message = [&[kind, code, 0, 0], &word.to_be_bytes()[..], quoted].concat();
    Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&router, &OUR6);
    to_us(&ip(router.into(), OUR6.into(), IpProtocol::Icmpv6, 60, &message))
}

fn expected(v4: bool, trouble: Trouble) -> Input {
    let (local, peer): (IpAddr, IpAddr) =
        if v4 { (OUR4.into(), PEER4.into()) } else { (OUR6.into(), PEER6.into()) };
    Input::TcpError(TcpError {
        local: local.into(),
        local_port: 40000,
        peer: peer.into(),
        peer_port: 8080,
        sequence: 0x1234_5678,
        trouble,
    })
}

#[test]
fn errors_about_our_segments_are_handed_on() {
    use Trouble::{Refused, TooBig, Unreachable};
    let mut host = host();
    let short4 = &ours4()[..28];
    for (kind, code, word, trouble) in [
        (3, 4, 1400, TooBig { mtu: 1400 }),
        (3, 4, 0, TooBig { mtu: 68 }),
        (3, 3, 0, Refused),
        (3, 13, 0, Refused),
        (3, 0, 0, Unreachable),
        (3, 1, 0, Unreachable),
        (11, 0, 0, Unreachable),
        (12, 0, 0, Unreachable),
    ] {
        let input = give(&mut host, &about4(kind, code, word, short4)).0;
        // A router that names no MTU gets the plateau below the 47 bytes that were sent, or the least there is.
        assert_eq!(input, expected(true, trouble), "{kind}/{code}");
    }
    let short6 = &ours6()[..48];
    for (kind, code, word, trouble) in [
        (2, 0, 1400, TooBig { mtu: 1400 }),
        (2, 0, 0x0001_0000, TooBig { mtu: 0x0001_0000 }),
        (1, 4, 0, Refused),
        (1, 1, 0, Refused),
        (1, 0, 0, Unreachable),
        (3, 0, 0, Unreachable),
        (4, 1, 6, Refused),
    ] {
        let input = give(&mut host, &about6(kind, code, word, short6)).0;
        assert_eq!(input, expected(false, trouble), "{kind}/{code}");
    }
    assert_eq!(host.counters().tcp_errors, 15);
}

#[test]
fn errors_about_anything_else_are_not() {
    let theirs = tcp(PEER4.into(), OUR4.into(), b"x");
    let mut piece = ours4();
    piece[7] = 9;
    let cut = ours4()[..27].to_vec();
    for quoted in [theirs, piece, cut, udp(OUR4.into(), PEER4.into(), b"x"), vec![0; 28], vec![]] {
        assert_eq!(discarded(&mut host(), &about4(3, 4, 1400, &quoted)), Reason::NotOurs, "{quoted:?}");
    }
    for (kind, code) in [(0, 0), (4, 0), (5, 1), (13, 0), (17, 0)] {
        assert_eq!(discarded(&mut host(), &about4(kind, code, 0, &ours4())), Reason::NotOurs, "{kind}");
    }
    let theirs = tcp(PEER6.into(), OUR6.into(), b"x");
    for quoted in [theirs, ours6()[..47].to_vec(), udp(OUR6.into(), PEER6.into(), b"x"), vec![]] {
        assert_eq!(discarded(&mut host(), &about6(2, 0, 1400, &quoted)), Reason::NotOurs, "{quoted:?}");
    }
    assert_eq!(discarded(&mut host(), &about6(2, 0, 1279, &ours6())), Reason::NotOurs, "below the least MTU");
    // Routers' advertisements and redirects.
    for kind in [134, 137] {
        assert_eq!(discarded(&mut host(), &about6(kind, 0, 0, &[0; 32])), Reason::NotOurs);
    }
    let mut damaged = about4(3, 4, 1400, &ours4());
    damaged[41] ^= 1;
    assert_eq!(discarded(&mut host(), &damaged), Reason::BadChecksum);
}

#[test]
fn a_shared_host_hears_errors_about_its_ports_and_answers_nothing() {
    let shared = |dials| Host::new(&HostPlan { shared: true, dials, ..plan() }).expect("a good plan");
    let about = about4(3, 4, 1400, &ours4());
    assert_eq!(give(&mut shared(40000..40001), &about).0, expected(true, Trouble::TooBig { mtu: 1400 }));
    assert_eq!(discarded(&mut shared(40001..40002), &about), Reason::NotOurs);
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"" };
    let echo6 = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"" };
    for bytes in [
        to_us(&icmp4(PEER4, OUR4, &echo)),
        to_us(&icmp6(PEER6, OUR6, 64, &echo6)),
        to_us(&udp(PEER4.into(), OUR4.into(), b"x")),
        to_us(&udp(PEER6.into(), OUR6.into(), b"x")),
    ] {
        assert_eq!(discarded(&mut shared(1..2), &bytes), Reason::NotOurs);
    }
}
