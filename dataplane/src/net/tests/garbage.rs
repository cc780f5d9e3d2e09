//! Nothing that arrives makes the host panic, and no answer is larger than what a minimal link takes.

use super::*;
use proptest::prelude::*;

fn good() -> Vec<Vec<u8>> {
    let echo4 = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"abcdefg" };
    let echo6 = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"abcdefg" };
    let solicit = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: OUR6,
        lladdr: Some(EthernetAddress(PEER_MAC).into()),
    });
    let extended = {
        let plain = tcp(PEER6.into(), OUR6.into(), b"x");
        let mut packet =
            [&plain[..40], &[6, 1, 1, 4, 0, 0, 0, 0, 0x1e, 6, 0, 0, 0, 0, 0, 0], &plain[40..]].concat();
        (packet[5], packet[6]) = (packet[5] + 16, 0);
        packet
    };
    vec![
        tcp4(b"payload"),
        tcp6(b"payload"),
        to_us(&icmp4(PEER4, OUR4, &echo4)),
        to_us(&icmp6(PEER6, OUR6, 64, &echo6)),
        to_us(&icmp6(PEER6, OUR6, 255, &solicit)),
        to_us(&udp(PEER4.into(), OUR4.into(), b"payload")),
        to_us(&udp(PEER6.into(), OUR6.into(), b"payload")),
        to_us(&extended),
        speaks::arp(ArpOperation::Request, PEER_MAC, PEER4, OUR4),
    ]
}

/// Makes the sums right again, so that what is behind them is reached.
fn mend(bytes: &mut [u8]) {
    use drivers::checksum::{fold, sum};
    if bytes.len() < 54 || bytes[12..14] != [8, 0] {
        return;
    }
    let length = usize::from(bytes[14] & 0xf) * 4;
    if length >= 20 && 14 + length + 8 <= bytes.len() {
        bytes[24..26].fill(0);
        let checksum = !fold(sum(&bytes[14..14 + length]));
        bytes[24..26].copy_from_slice(&checksum.to_ne_bytes());
        let icmp = 14 + length;
        if bytes[23] == 1 {
            bytes[icmp + 2..icmp + 4].fill(0);
            let checksum = !fold(sum(&bytes[icmp..]));
            bytes[icmp + 2..icmp + 4].copy_from_slice(&checksum.to_ne_bytes());
        }
    }
}

fn survives(bytes: &[u8]) {
    let (input, frame) = give(&mut host(), bytes);
    match host().input_copied(PORT, bytes, None) {
        copied @ Input::Tcp { .. } => assert_eq!(copied, input),
        Input::Discard(_) => {}
        other => panic!("{other:?}"),
    }
    match input {
        Input::Tcp { segment, .. } => {
            assert!(segment.end <= bytes.len() && segment.len() >= 20, "{segment:?}");
            assert_eq!(frame, bytes, "a segment is left as it is");
        }
        Input::Answer => {
            assert!(frame.len() <= bytes.len().max(14 + 40 + 32) + 48, "no amplification");
            assert_eq!(frame[6..12], OUR_MAC);
        }
        Input::Discard(_) | Input::TcpError(_) | Input::Learnt(_) | Input::Taken => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_good_addresses(ethertype in prop::sample::select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8]), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&ethernet(OUR_MAC, PEER_MAC, &[], ethertype, &bytes));
    }

    #[test]
    fn good_frames_with_some_bytes_wrong(which in 0usize..9, wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<Option<prop::sample::Index>>(), right_sums in any::<bool>()) {
        let mut bytes = good().swap_remove(which);
        for (place, value) in wrong {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if right_sums {
            mend(&mut bytes);
        }
        survives(&bytes);
    }
}

#[test]
fn every_prefix_of_a_good_frame() {
    for bytes in good() {
        for length in 0..=bytes.len() {
            survives(&bytes[..length]);
        }
    }
}
