//! The 82576. Sections are of its datasheet, see [the module above](super).
//!
//! ```text
//!   receive, advanced (§7.1.5)
//!     0  address of the buffer                          filled: hash, type
//!     8  0                                              filled: status 20: DD EOP …, errors 12 │ length 16 │ tag 16
//!   transmit, data (advanced transmit data descriptor, §7.2)
//!     0  address of the buffer
//!     8  length 16 │ 0 4 │ type=3 4 │ DCMD: EOP IFCS - RS - DEXT VLE TSE │ status 4, index 4, POPTS: IXSM TXSM │ all bytes 18
//!   transmit, context (advanced transmit context descriptor, §7.2)
//!     0  IP header length 9 │ Ethernet header length 7 │ tag 16 │ 0
//!     8  0 9 │ SNAP, IPv4, type of layer 4: 2 │ … type=2 4 │ DEXT │ index, header of layer 4: 8 │ segment 16
//! ```

use super::card::{self, Buffer, Card, Cause, Descriptor, Filled, Setting, Signal, register, ring, transmit};
use super::offload::{Cut, Left};
use crate::checksum;
use crate::pci::Registers;
use ringbuf::{Frame, Offload};

/// A card, by its registers.
#[derive(Clone, Debug)]
pub(super) struct Igb(pub(super) Registers);

/// The rings of queue 0; those of queue n are `STRIDE * n` behind (RDBAL and on, TDBAL and on).
const RECEIVE: usize = 0xc000;
const TRANSMIT: usize = 0xe000;
const STRIDE: usize = 0x40;
/// Of a receive ring: the shape of its buffers (§8.10.2), and packets lost for want of them (RQDPC).
const SRRCTL: usize = 0x0c;
const RQDPC: usize = 0x30;
/// RXDCTL and TXDCTL: the queue works; write back each descriptor; fetch ahead.
const QUEUE_ENABLE: u32 = 1 << 25;
const THRESHOLDS: u32 = 1 << 16 | 8 << 8 | 16;
/// SRRCTL: buffers in KiB, advanced descriptors with one buffer, drop what finds none: one queue that is not
/// looked after must not stop the others.
const ONE_BUFFER: u32 = 1 << 25;
const DROP: u32 = 1 << 31;
/// The longest packet (RLPML).
const RLPML: usize = 0x5004;
/// Receive side scaling (§7.1.1.7): by the hash of addresses and ports.
const MRQC: usize = 0x5818;
const RETA: usize = 0x5c00;
const RSSRK: usize = 0x5c80;
const RSS: u32 = 2;
/// TCP, UDP and anything else, over IPv4 (bits 16, 22, 17) and IPv6 (21, and 18 with extension headers; 23; 20).
const RSS_FIELDS: u32 = 0b1111_0111 << 16;
/// RXCSUM, its bit PCSD: descriptors hold the hash, and not the fragment's checksum, which shares its place.
const RXCSUM: usize = 0x5000;
const HASH_IN_DESCRIPTOR: u32 = 1 << 13;
/// Interrupts of queues: set, enable, disable, clear by the message, mask by the message, mode, vectors.
const EICS: usize = 0x1520;
const EIMS: usize = 0x1524;
const EIMC: usize = 0x1528;
const EIAC: usize = 0x152c;
const EIAM: usize = 0x1530;
const GPIE: usize = 0x1514;
const IVAR: usize = 0x1700;
/// GPIE: each queue its message; causes masked by their message.
const MESSAGES: u32 = 1 << 31 | 1 << 30 | 1 << 4 | 1;
const IVAR_VALID: u32 = 0x80;
/// A descriptor was written back (ICR, its bit RXDW), for the line.
const RECEIVED: u32 = 1 << 7;

const DONE: u64 = 1;
const ENDS: u64 = 1 << 1;
/// RXE of the write-back format (§7.1.5).
const DAMAGED: u64 = 1 << 31;

const TYPE_DATA: u64 = 3 << 20;
const TYPE_CONTEXT: u64 = 2 << 20;
/// TSE.
const CUT: u64 = 1 << 31;
const BYTES_SHIFT: u32 = 46;
const IPV4: u64 = 1 << 10;
const TCP: u64 = 1 << 11;

impl Igb {
    /// Spreads flows over the queues (§7.1.1.7): a table of 128 entries, and Microsoft's key (§7.1.1.7.3), so that
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
    /// A length has sixteen bits; the kernel's driver hands over half of that (`IGB_MAX_DATA_PER_TXD`).
    const BUFFER_BYTES: u32 = 16_384;

    fn registers(&self) -> &Registers {
        &self.0
    }

    fn receive_ring(queue: u32) -> usize {
        RECEIVE + STRIDE * queue as usize
    }

    fn transmit_ring(queue: u32) -> usize {
        TRANSMIT + STRIDE * queue as usize
    }

    fn prepare(&self, setting: &Setting) {
        self.0.write(EIMC, u32::MAX);
        self.0.write(RLPML, setting.packet_bytes + 4);
        self.spread(setting.queues);
        if setting.signal == Signal::Message {
            self.0.write(GPIE, MESSAGES);
            for queue in 0..setting.queues {
                // Queues n and n + 8 share a register, each with a byte for receiving (IVAR).
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

    fn start(&self, queue: u32, buffer: Buffer) {
        let kib = match buffer {
            Buffer::Kib2 => 2,
            Buffer::Kib3 => 3,
        };
        let receive = Self::receive_ring(queue);
        self.0.write(receive + SRRCTL, kib | ONE_BUFFER | DROP);
        for control in controls(queue) {
            self.0.write(control, QUEUE_ENABLE | THRESHOLDS);
            // The tail only once it says so itself. A queue that does not come on moves nothing, and does no harm.
            let _ = wait_for(&self.0, control, QUEUE_ENABLE);
        }
        self.0.write(receive + ring::TAIL, 0u32);
    }

    fn stop(&self, queue: u32) -> bool {
        let mut stopped = true;
        for control in controls(queue) {
            self.0.change(control, QUEUE_ENABLE, 0);
            stopped &= wait_for(&self.0, control, 0);
        }
        // What was fetched before may still be written for a while.
        std::thread::sleep(std::time::Duration::from_millis(1));
        stopped
    }

    fn cause(queue: u32, signal: Signal) -> Cause {
        match signal {
            Signal::Message => Cause { bits: 1 << queue, on: EIMS, off: EIMC, now: EICS },
            Signal::Shared => Cause::of_line(RECEIVED),
        }
    }

    fn missed(&self, queue: u32) -> u64 {
        let own = card::counted(&self.0, Self::receive_ring(queue) + RQDPC);
        // Those that found the card's own memory full were nobody's yet.
        own + if queue == 0 { card::counted(&self.0, register::MPC) } else { 0 }
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
    fn data(bytes: u32, left: Left) -> u64 {
        let word = TYPE_DATA | transmit::EXTENDED | transmit::INSERT_CHECK_SEQUENCE;
        word | card::options(left, CUT) | u64::from(bytes) << BYTES_SHIFT
    }

    /// The card finds the checksum by the kind of packet: TCP or UDP behind IP headers.
    fn context(first: &Frame<'_>, offload: &Offload) -> Option<Descriptor> {
        let found = checksum::headers(first)?;
        let (tcp, field) = if found.protocol == 6 { (TCP, 16) } else { (0, 6) };
        // A note about another checksum, that of a tunnel's inside say, is not for this card.
        if usize::from(offload.checksum_start) != found.transport || offload.checksum_offset != field {
            return None;
        }
        let network = found.transport - found.network;
        let ipv4 = if first.get(found.network)? >> 4 == 4 { IPV4 } else { 0 };
        (network < 512).then_some([
            network as u64 | (found.network as u64) << 9,
            TYPE_CONTEXT | transmit::EXTENDED | ipv4 | tcp,
        ])
    }

    fn cut(cut: &Cut) -> Descriptor {
        let (network, transport) = (u64::from(cut.network), u64::from(cut.transport));
        let kind = if cut.ipv4 { IPV4 } else { 0 } | TCP;
        let sizes = (u64::from(cut.header_bytes) - transport) << 40 | u64::from(cut.segment_bytes) << 48;
        [(transport - network) | (network << 9), TYPE_CONTEXT | transmit::EXTENDED | kind | sizes]
    }
}

/// RXDCTL and TXDCTL of a queue.
fn controls(queue: u32) -> [usize; 2] {
    [Igb::receive_ring(queue), Igb::transmit_ring(queue)].map(|first| first + ring::CONTROL)
}

/// Waits until a queue is on or off: whether it came to that.
fn wait_for(registers: &Registers, control: usize, state: u32) -> bool {
    card::wait(|| registers.read::<u32>(control) & QUEUE_ENABLE == state)
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
        let word = Igb::data(60, Left::Checksum);
        assert_eq!(word | transmit::EOP | transmit::REPORT | 60, 60 << 46 | 0x0000_0200_2b30_003c);
        assert_eq!(Igb::data(6000, Left::Cut { ipv4: false }), 6000 << 46 | 0x0000_0200_a230_0000);
    }
}
