//! One host against packets that smoltcp builds and reads, raw bytes, and garbage.
//!
//! ```text
//!   peer 02:..:01  10.0.0.1  2001:db8::1 ──── host 02:..:02  10.0.0.2/24  2001:db8::2/64  (mac 02:..:02)
//! ```

mod answers;
mod errors;
mod garbage;
mod segments;
mod speaks;

use super::*;
use crate::app::PortId;
use crate::stats::Reason;
use crate::worker::Tick;
use ringbuf::{Arena, ArenaPlan, Frame, Pool};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const PORT: PortId = PortId(0);
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NOBODY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// The group that OUR6 is solicited by.
const OUR_GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2);
const ALL_NODES6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn pool() -> Pool {
    let plan = ArenaPlan { frames: 4, frame_size: 4096, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

fn at(millis: u64) -> Tick {
    Tick(Duration::from_millis(millis))
}

fn plan() -> HostPlan {
    HostPlan {
        interfaces: vec![InterfacePlan {
            port: PORT,
            mac: OUR_MAC,
            mtu: 1500,
            tags: Tags::None,
            addresses: vec![
                Prefix { address: OUR4.into(), bits: 24 },
                Prefix { address: OUR6.into(), bits: 64 },
            ],
        }],
        routes: vec![
            Hop {
                network: Prefix { address: [0, 0, 0, 0].into(), bits: 0 },
                gateway: Some(PEER4.into()),
                port: PORT,
            },
            Hop {
                network: Prefix { address: [10, 9, 0, 0].into(), bits: 16 },
                gateway: Some([10, 0, 0, 9].into()),
                port: PORT,
            },
        ],
        announces: true,
        ..HostPlan::default()
    }
}

fn host() -> Host {
    Host::new(&plan()).expect("a good plan")
}

fn frame<'p>(pool: &'p Pool, bytes: &[u8]) -> Frame<'p> {
    let mut frame = pool.alloc().expect("four");
    frame.extend(bytes).expect("fits");
    frame
}

/// What `host` makes of `bytes`, and the frame afterwards.
fn give(host: &mut Host, bytes: &[u8]) -> (Input, Vec<u8>) {
    let pool = pool();
    let mut frame = frame(&pool, bytes);
    let input = host.input(at(5000), PORT, &mut frame);
    assert!(input != Input::Answer || frame.offload().is_none(), "an answer is complete");
    (input, frame.to_vec())
}

fn discarded(host: &mut Host, bytes: &[u8]) -> Reason {
    match give(host, bytes) {
        (Input::Discard(reason), _) => reason,
        (other, _) => panic!("not discarded: {other:?}"),
    }
}

fn answered(host: &mut Host, bytes: &[u8]) -> Vec<u8> {
    match give(host, bytes) {
        (Input::Answer, answer) => answer,
        (other, _) => panic!("not answered: {other:?}"),
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    for (kind, tci) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IP packet as smoltcp writes it.
fn ip(from: IpAddr, to: IpAddr, protocol: IpProtocol, hops: u8, payload: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(from.into(), to.into(), protocol, payload.len(), hops);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut bytes[..repr.header_len()], &ChecksumCapabilities::default());
    bytes[repr.header_len()..].copy_from_slice(payload);
    bytes
}

fn to_us(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    ethernet(OUR_MAC, PEER_MAC, &[], ethertype, packet)
}

fn segment(payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 40000,
        dst_port: 8080,
        control: TcpControl::Psh,
        seq_number: TcpSeqNumber(0x1234_5678),
        ack_number: Some(TcpSeqNumber(0x0bcd_ef01)),
        window_len: 502,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    }
}

fn tcp(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let repr = segment(payload);
    let mut bytes = vec![0; repr.buffer_len()];
    let mut packet = TcpPacket::new_unchecked(&mut bytes);
    repr.emit(&mut packet, &from.into(), &to.into(), &ChecksumCapabilities::default());
    ip(from, to, IpProtocol::Tcp, 64, &bytes)
}

fn tcp4(payload: &[u8]) -> Vec<u8> {
    to_us(&tcp(PEER4.into(), OUR4.into(), payload))
}

fn tcp6(payload: &[u8]) -> Vec<u8> {
    to_us(&tcp(PEER6.into(), OUR6.into(), payload))
}

fn udp(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: 5000, dst_port: 53 };
    let mut bytes = vec![0; 8 + payload.len()];
    let mut packet = UdpPacket::new_unchecked(&mut bytes);
    let caps = ChecksumCapabilities::default();
    repr.emit(
        &mut packet,
        &from.into(),
        &to.into(),
        payload.len(),
        |room| room.copy_from_slice(payload),
        &caps,
    );
    ip(from, to, IpProtocol::Udp, 64, &bytes)
}

fn icmp4(from: Ipv4Addr, to: Ipv4Addr, repr: &Icmpv4Repr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    ip(from.into(), to.into(), IpProtocol::Icmp, 64, &bytes)
}

fn icmp6(from: Ipv6Addr, to: Ipv6Addr, hops: u8, repr: &Icmpv6Repr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; repr.buffer_len()];
    let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[..]);
    repr.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    ip(from.into(), to.into(), IpProtocol::Icmpv6, hops, &bytes)
}

/// The ICMPv4 message of a frame to the peer, checked on the way.
fn message4(frame: &[u8]) -> Vec<u8> {
    let ethernet = EthernetFrame::new_checked(frame).expect("Ethernet");
    assert_eq!((ethernet.dst_addr().0, ethernet.src_addr().0), (PEER_MAC, OUR_MAC));
    let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("IPv4");
    assert!(ip.verify_checksum());
    assert_eq!((ip.src_addr(), ip.dst_addr(), ip.hop_limit()), (OUR4, PEER4, 64));
    assert_eq!(ip.total_len() as usize, ethernet.payload().len(), "no padding is sent back");
    let message = Icmpv4Packet::new_checked(ip.payload()).expect("ICMP");
    assert!(message.verify_checksum());
    ip.payload().to_vec()
}

/// The same for ICMPv6.
fn message6(frame: &[u8], to: Ipv6Addr, hops: u8) -> Vec<u8> {
    let ethernet = EthernetFrame::new_checked(frame).expect("Ethernet");
    assert_eq!(ethernet.src_addr().0, OUR_MAC);
    let ip = Ipv6Packet::new_checked(ethernet.payload()).expect("IPv6");
    assert_eq!((ip.src_addr(), ip.dst_addr(), ip.hop_limit()), (OUR6, to, hops));
    assert_eq!(ip.total_len(), ethernet.payload().len(), "no padding is sent back");
    let message = Icmpv6Packet::new_checked(ip.payload()).expect("ICMPv6");
    assert!(message.verify_checksum(&OUR6, &to));
    ip.payload().to_vec()
}
