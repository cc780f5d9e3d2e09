//! What is answered in the frame.

use super::*;

#[test]
fn echoes_are_answered() {
    let data: Vec<u8> = (0..=255).collect();
    let request = Icmpv4Repr::EchoRequest { ident: 0x1234, seq_no: 7, data: &data };
    let mut host = host();
    let mut bytes = to_us(&icmp4(PEER4, OUR4, &request));
    bytes.extend([0xee; 5]);
    let message = message4(&answered(&mut host, &bytes));
    let reply =
        Icmpv4Repr::parse(&Icmpv4Packet::new_unchecked(&message[..]), &ChecksumCapabilities::default());
    assert_eq!(reply, Ok(Icmpv4Repr::EchoReply { ident: 0x1234, seq_no: 7, data: &data }));

    let request = Icmpv6Repr::EchoRequest { ident: 0x1234, seq_no: 7, data: &data };
    for to in [OUR6, ALL_NODES6] {
        let bytes = to_us(&icmp6(PEER6, to, 64, &request));
        let message = message6(&answered(&mut host, &bytes), PEER6, 64);
        let packet = Icmpv6Packet::new_unchecked(&message[..]);
        let reply = Icmpv6Repr::parse(&OUR6, &PEER6, &packet, &ChecksumCapabilities::default());
        assert_eq!(reply, Ok(Icmpv6Repr::EchoReply { ident: 0x1234, seq_no: 7, data: &data }));
    }
    assert_eq!(host.counters().echoes, 3);
}

#[test]
fn an_echo_loses_its_options() {
    let request = icmp4(PEER4, OUR4, &Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"options" });
    let mut packet = [&request[..20], &[7, 7, 4, 0, 0, 0, 0, 0], &request[20..]].concat();
    (packet[0], packet[3]) = (0x47, packet[3] + 8);
    packet[10..12].fill(0);
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&packet[..28]));
    packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
    let message = message4(&answered(&mut host(), &to_us(&packet)));
    assert_eq!(message[8..], *b"options");

    let request = icmp6(PEER6, OUR6, 64, &Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"options" });
    let mut packet = [&request[..40], &[58, 0, 1, 4, 0, 0, 0, 0], &request[40..]].concat();
    (packet[5], packet[6]) = (packet[5] + 8, 60);
    let message = message6(&answered(&mut host(), &to_us(&packet)), PEER6, 64);
    assert_eq!(message[8..], *b"options");
}
