//! The 82576. Sections are of its datasheet.
//!
//! ```text
//!   receive, advanced (§7.1.5)
//!     0  address of the buffer                          filled: hash, type
//!     8  0                                              filled: status 20: DD EOP …, errors 12 │ length 16 │ tag 16
//!   transmit, data (§7.2.2.3)
//!     0  address of the buffer
//!     8  length 16 │ 0 4 │ type=3 4 │ DCMD: EOP IFCS - RS - DEXT VLE TSE │ status 4, index 4, POPTS: IXSM TXSM │ all bytes 18
//!   transmit, context (§7.2.2.2)
//!     0  IP header length 9 │ Ethernet header length 7 │ tag 16 │ 0
//!     8  0 9 │ SNAP, IPv4, type of layer 4: 2 │ … type=2 4 │ DEXT │ index, header of layer 4: 8 │ segment 16
//! ```

use super::card::{self, Buffer, Card, Descriptor, Filled, Outgoing, RingPlaces, Setting, Signal, register};
use super::e1000e::halves;
use crate::pci::Registers;
use ringbuf::{Frame, Offload};

/// A card, by its registers.
#[derive(Clone, Debug)]
pub(super) struct Igb(pub(super) Registers);

/// The rings of queue 0; those of queue n are `STRIDE * n` behind (§8.10.5 and on, §8.12.10 and on).
const STRIDE: usize = 0x40;
const RDBAL: usize = 0xc000;
const RDBAH: usize = 0xc004;
const RDLEN: usize = 0xc008;
const SRRCTL: usize = 0xc00c;
const RDH: usize = 0xc010;
const RDT: usize = 0xc018;
const RXDCTL: usize = 0xc028;
/// Packets that a queue lost for want of buffers (§8.19).
const RQDPC: usize = 0xc030;
const TDBAL: usize = 0xe000;
const TDBAH: usize = 0xe004;
const TDLEN: usize = 0xe008;
const TDH: usize = 0xe010;
const TDT: usize = 0xe018;
const TXDCTL: usize = 0xe028;
/// RXDCTL and TXDCTL (§8.10.9, §8.12.15): the queue works; write back each descriptor; fetch ahead.
const QUEUE_ENABLE: u32 = 1 << 25;
const THRESHOLDS: u32 = 1 << 16 | 8 << 8 | 16;
/// SRRCTL (§8.10.2): buffers in KiB, advanced descriptors with one buffer, drop what finds none: one queue that is not
/// looked after must not stop the others.
const ONE_BUFFER: u32 = 1 << 25;
const DROP: u32 = 1 << 31;
/// The longest packet (§8.10.4).
const RLPML: usize = 0x5004;
/// Receive side scaling (§8.10.16 to 19): by the hash of addresses and ports.
const MRQC: usize = 0x5818;
const RETA: usize = 0x5c00;
const RSSRK: usize = 0x5c80;
const RSS: u32 = 2;
/// TCP, UDP and anything else, over IPv4 and IPv6 (bits 16, 22, 17, 18, 23, 20).
const RSS_FIELDS: u32 = 0b1101_0111 << 16;
/// RXCSUM (§8.10.13): descriptors hold the hash, and not the fragment's checksum, which shares its place.
const RXCSUM: usize = 0x5000;
const HASH_IN_DESCRIPTOR: u32 = 1 << 13;
/// Interrupts of queues (§8.8): set, enable, disable, clear by the message, mask by the message, mode, vectors.
const EICS: usize = 0x1520;
const EIMS: usize = 0x1524;
const EIMC: usize = 0x1528;
const EIAC: usize = 0x152c;
const EIAM: usize = 0x1530;
const GPIE: usize = 0x1514;
const IVAR: usize = 0x1700;
/// Each queue its message; causes masked by their message (§8.8.14).
const MESSAGES: u32 = 1 << 31 | 1 << 30 | 1 << 4 | 1;
const IVAR_VALID: u32 = 0x80;
/// A descriptor was written back (§8.8.8), for the line.
const RECEIVED: u32 = 1 << 7;

const DONE: u64 = 1;
const ENDS: u64 = 1 << 1;
/// RXE (§7.1.5.2).
const DAMAGED: u64 = 1 << 31;

const TYPE_DATA: u64 = 3 << 20;
const TYPE_CONTEXT: u64 = 2 << 20;
const EOP: u64 = 1 << 24;
const INSERT_CHECK_SEQUENCE: u64 = 1 << 25;
const REPORT: u64 = 1 << 27;
const EXTENDED: u64 = 1 << 29;
const SENT: u64 = 1 << 32;
const INSERT_CHECKSUM: u64 = 2 << 40;
const BYTES_SHIFT: u32 = 46;
const IPV4: u64 = 1 << 10;
const TCP: u64 = 1 << 11;

impl Igb {
    const fn of(register: usize, queue: u32) -> usize {
        register + STRIDE * queue as usize
    }

    /// Spreads flows over the queues (§7.1.1.7): a table of 128 entries, and Microsoft's key of the specification, so that
    /// a flow finds the queue that others compute for it.
    fn spread(&self, queues: u32) {
        const KEY: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        if queues == 1 {
            self.0.write(MRQC, 0u32);
            return;
        }
        for (place, word) in KEY.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
            self.0.write(RSSRK + 4 * place, word);
        }
        for place in 0..32u32 {
            let entry = |n: u32| ((4 * place + n) % queues) << (8 * n);
            self.0.write(RETA + 4 * place as usize, entry(0) | entry(1) | entry(2) | entry(3));
        }
        self.0.change(RXCSUM, HASH_IN_DESCRIPTOR, HASH_IN_DESCRIPTOR);
        self.0.write(MRQC, RSS | RSS_FIELDS);
    }
}

impl Card for Igb {
    const NAME: &'static str = "82576";
    const QUEUES: u32 = 16;

    fn registers(&self) -> &Registers {
        &self.0
    }

    fn receive_tail(queue: u32) -> usize {
        Self::of(RDT, queue)
    }

    fn transmit_tail(queue: u32) -> usize {
        Self::of(TDT, queue)
    }

    fn prepare(&self, setting: &Setting) {
        self.0.write(EIMC, u32::MAX);
        self.0.write(RLPML, setting.packet_bytes + 4);
        self.spread(setting.queues);
        if setting.signal == Signal::Message {
            self.0.write(GPIE, MESSAGES);
            for queue in 0..setting.queues {
                // Queues n and n + 8 share a register, each with a byte for receiving (§8.8.15).
                let (place, shift) = (IVAR + 4 * (queue as usize % 8), 16 * (queue / 8));
                self.0.change(place, 0xff << shift, (IVAR_VALID | queue) << shift);
            }
            let all = (1u32 << setting.queues) - 1;
            self.0.write(EIAC, all);
            self.0.write(EIAM, all);
        }
        self.0.write(register::RCTL, card::receive_control(setting));
        self.0.write(register::TCTL, card::TCTL);
    }

    fn start(&self, queue: u32, places: &RingPlaces) {
        let registers = &self.0;
        let at = |register| Self::of(register, queue);
        let bytes = u32::from(places.ring) * 16;
        for (low, high, address) in [(RDBAL, RDBAH, places.receive), (TDBAL, TDBAH, places.transmit)] {
            let [lower, upper] = halves(address);
            registers.write(at(low), lower);
            registers.write(at(high), upper);
        }
        registers.write(at(RDLEN), bytes);
        registers.write(at(TDLEN), bytes);
        let kib = match places.buffer {
            Buffer::Kib2 => 2,
            Buffer::Kib3 => 3,
        };
        registers.write(at(SRRCTL), kib | ONE_BUFFER | DROP);
        for position in [RDH, TDH, TDT] {
            registers.write(at(position), 0u32);
        }
        for control in [RXDCTL, TXDCTL] {
            registers.write(at(control), QUEUE_ENABLE | THRESHOLDS);
            // §4.5.9: the tail only once it says so itself. A queue that does not come on moves nothing, and does no harm.
            let _ = wait_for(registers, at(control), QUEUE_ENABLE);
        }
        registers.write(at(RDT), 0u32);
    }

    fn stop(&self, queue: u32) -> bool {
        let mut stopped = true;
        for control in [RXDCTL, TXDCTL] {
            let place = Self::of(control, queue);
            self.0.change(place, QUEUE_ENABLE, 0);
            stopped &= wait_for(&self.0, place, 0);
        }
        // §4.5.9: what was fetched before may still be written for a while.
        std::thread::sleep(std::time::Duration::from_millis(1));
        stopped
    }

    fn arm(&self, queue: u32, signal: Signal) {
        match signal {
            Signal::Message => self.0.write(EIMS, 1u32 << queue),
            Signal::Line => self.0.write(register::IMS, RECEIVED),
        }
    }

    fn disarm(&self, queue: u32, signal: Signal) {
        match signal {
            Signal::Message => self.0.write(EIMC, 1u32 << queue),
            Signal::Line => {
                self.0.write(register::IMC, u32::MAX);
                // Takes the line down.
                let _: u32 = self.0.read(register::ICR);
            }
        }
    }

    fn poke(&self, queue: u32, signal: Signal) {
        match signal {
            Signal::Message => self.0.write(EICS, 1u32 << queue),
            Signal::Line => self.0.write(register::ICS, RECEIVED),
        }
    }

    fn missed(&self, queue: u32) -> u64 {
        let read = |register| {
            let missed: u32 = self.0.read(register);
            if missed == card::ABSENT { 0 } else { u64::from(missed) }
        };
        // Those that found the card's own memory full were nobody's yet.
        read(Self::of(RQDPC, queue)) + if queue == 0 { read(register::MPC) } else { 0 }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the field has sixteen bits")]
    fn filled(word: u64) -> Option<Filled> {
        if word & DONE == 0 {
            return None;
        }
        Some(Filled { len: (word >> 32) as u16, ends: word & ENDS != 0, damaged: word & DAMAGED != 0 })
    }

    #[inline]
    fn piece(address: u64, len: u16, packet: Outgoing) -> Descriptor {
        let checksum = if packet.checksum { INSERT_CHECKSUM } else { 0 };
        let word = u64::from(len) | TYPE_DATA | EXTENDED | INSERT_CHECK_SEQUENCE | checksum;
        [address, word | u64::from(packet.bytes) << BYTES_SHIFT]
    }

    #[inline]
    fn last([address, word]: Descriptor) -> Descriptor {
        [address, word | EOP]
    }

    #[inline]
    fn reported([address, word]: Descriptor) -> Descriptor {
        [address, word | REPORT]
    }

    #[inline]
    fn is_done(word: u64) -> bool {
        word & SENT != 0
    }

    /// The card finds the checksum by the kind of packet: TCP or UDP right behind one IP header.
    fn context(first: &Frame<'_>, offload: &Offload) -> Option<Descriptor> {
        let layout = Layout::of(first)?;
        let start = usize::from(offload.checksum_start);
        let tcp = match offload.checksum_offset {
            16 => true,
            6 => false,
            _ => return None,
        };
        let network =
            u64::try_from(start.checked_sub(layout.network)?).ok().filter(|len| (20..512).contains(len))?;
        if layout.tcp != tcp {
            return None;
        }
        let kind = if layout.ipv4 { IPV4 } else { 0 } | if tcp { TCP } else { 0 };
        Some([network | (layout.network as u64) << 9, TYPE_CONTEXT | EXTENDED | kind])
    }
}

/// Waits until a queue is on or off, as far as the card still answers: whether it came to that.
fn wait_for(registers: &Registers, control: usize, state: u32) -> bool {
    card::wait(|| {
        let now: u32 = registers.read(control);
        now == card::ABSENT || now & QUEUE_ENABLE == state
    })
}

/// What the headers of a packet are.
struct Layout {
    /// Where the IP header begins.
    network: usize,
    ipv4: bool,
    tcp: bool,
}

impl Layout {
    /// Of IP right behind Ethernet, or behind one tag.
    fn of(packet: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let (network, kind) = match word(12)? {
            0x8100 => (18, word(16)?),
            kind => (14, kind),
        };
        let protocol = |at: usize| packet.get(network + at).copied();
        let (ipv4, protocol) = match kind {
            0x0800 => (true, protocol(9)?),
            0x86dd => (false, protocol(6)?),
            _ => return None,
        };
        matches!(protocol, 6 | 17).then_some(Self { network, ipv4, tcp: protocol == 6 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit as the datasheet draws them.
    #[test]
    fn descriptors_are_as_the_datasheet_draws_them() {
        assert_eq!(Igb::filled(0x0000_0040_0000_0002), None);
        let filled = Filled { len: 64, ends: true, damaged: false };
        assert_eq!(Igb::filled(0x0000_0040_0000_0003), Some(filled));
        assert_eq!(Igb::filled(0x0000_0040_8000_0003), Some(Filled { damaged: true, ..filled }));
        let packet = Outgoing { bytes: 60, checksum: true };
        let piece = Igb::reported(Igb::last(Igb::piece(0x1000, 60, packet)));
        assert_eq!(piece, [0x1000, 60 << 46 | 0x0000_0200_2b30_003c]);
        assert!(!Igb::is_done(piece[1]) && Igb::is_done(piece[1] | 1 << 32));
    }

    #[test]
    fn headers_are_found_where_the_card_looks_for_them() {
        let mut packet = [0u8; 60];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[23] = 6;
        let layout = Layout::of(&packet).expect("TCP over IPv4");
        assert!(layout.ipv4 && layout.tcp && layout.network == 14);
        packet[12..14].copy_from_slice(&[0x81, 0]);
        packet[16..18].copy_from_slice(&[0x86, 0xdd]);
        packet[24] = 17;
        let layout = Layout::of(&packet).expect("UDP over IPv6, tagged");
        assert!(!layout.ipv4 && !layout.tcp && layout.network == 18);
        packet[24] = 58;
        assert!(Layout::of(&packet).is_none(), "the card knows no ICMP");
        assert!(Layout::of(&packet[..13]).is_none());
    }
}
