//! The 82574L. Sections are of its datasheet, see [the module above](super).
//!
//! ```text
//!   receive, legacy form (§7.1.3)
//!     0  address of the buffer
//!     8  length │ checksum │ status: DD EOP … │ errors │ tag              16 + 16 + 8 + 8 + 16 bits
//!   transmit, data (TCP/IP data descriptor, §7.2)
//!     0  address of the buffer
//!     8  length 20 │ type=1 4 │ DCMD: EOP IFCS TSE RS - DEXT VLE IDE │ status 4, 4 │ POPTS: IXSM TXSM │ tag
//!   transmit, context (TCP/IP context descriptor, §7.2)
//!     0  IPCSS │ IPCSO │ IPCSE 16 │ TUCSS │ TUCSO │ TUCSE 16              where the checksums start, lie and end
//!     8  length 20 │ type=0 4 │ TUCMD: TCP IP TSE RS - DEXT - IDE │ status 8 │ header length │ segment 16
//! ```

use super::card::{
    self, Buffer, Card, Cause, Descriptor, Filled, Setting, Signal, rctl, register, ring, transmit,
};
use super::offload::{Cut, Left};
use crate::pci::Registers;
use ringbuf::{Frame, Offload};

/// A card, by its registers.
#[derive(Clone, Debug)]
pub(super) struct E1000e(pub(super) Registers);

/// Receive ring 0 (§10.2.5.5 and on) and transmit ring 0 (§10.2.6.4 and on).
const RECEIVE: usize = 0x2800;
const TRANSMIT: usize = 0x3800;
/// RXDCTL and TXDCTL: thresholds in descriptors, not cache lines (§10.2.5.11, §10.2.6.10); bit 22 of TXDCTL must
/// be set (rev. 3.4).
const GRANULARITY: u32 = 1 << 24;
const COUNT_DESCRIPTORS: u32 = 1 << 22;
/// A descriptor is written back as soon as it is done, and 31 are fetched ahead.
const WRITE_BACK: u32 = 1 << 16;
const PREFETCH: u32 = 31;
/// Which causes go to which message (§10.2.4.9): receive queue 0 to message 0.
const IVAR: usize = 0x00e4;
const IVAR_RECEIVE: u32 = 1 << 3;
/// Causes that a message clears (EIAC).
const EIAC: usize = 0x00dc;
/// Causes (ICR, §10.2.4.1): receive queue 0 for messages; the receive timer and overrun for the line.
const RECEIVE_QUEUE: u32 = 1 << 20;
const RECEIVED: u32 = 1 << 7 | 1 << 6 | 1 << 4;
/// Legacy descriptors, no header split (RFCTL).
const RFCTL: usize = 0x5008;

const DONE: u64 = 1;
const ENDS: u64 = 1 << 1;
/// CRC, symbol, carrier extension and data errors (§7.1.3.4).
const DAMAGED: u64 = 0x97;

const TYPE_DATA: u64 = 1 << 20;
/// TSE, in data and context.
const CUT: u64 = 1 << 26;
/// TUCMD of a context.
const TCP: u64 = 1 << 24;
const IPV4: u64 = 1 << 25;

impl Card for E1000e {
    const NAME: &'static str = "82574L";
    const QUEUES: u32 = 1;
    /// A buffer must fit the card's own memory for sending together with a packet, whatever the MTU: the kernel's driver
    /// stays below that too (`tx_fifo_limit`).
    const BUFFER_BYTES: u32 = 8192;

    fn registers(&self) -> &Registers {
        &self.0
    }

    fn receive_ring(_queue: u32) -> usize {
        RECEIVE
    }

    fn transmit_ring(_queue: u32) -> usize {
        TRANSMIT
    }

    fn prepare(&self, setting: &Setting) {
        self.0.write(RFCTL, 0u32);
        if setting.signal == Signal::Message {
            self.0.write(IVAR, IVAR_RECEIVE);
            self.0.write(EIAC, RECEIVE_QUEUE);
        }
        // Enabled when the queue starts.
        self.0.write(register::RCTL, card::receive_control(setting) & !rctl::ENABLE);
        self.0.write(register::TCTL, card::TCTL & !card::TCTL_ENABLE);
    }

    fn start(&self, _queue: u32, buffer: Buffer) {
        let registers = &self.0;
        registers.write(RECEIVE + ring::CONTROL, GRANULARITY | WRITE_BACK | PREFETCH);
        registers.write(TRANSMIT + ring::CONTROL, GRANULARITY | COUNT_DESCRIPTORS | WRITE_BACK | PREFETCH);
        let flexible = match buffer {
            Buffer::Kib2 => 0,
            Buffer::Kib3 => 3 << rctl::FLEXIBLE_BUFFER_SHIFT,
        };
        registers.change(register::TCTL, card::TCTL_ENABLE, card::TCTL_ENABLE);
        let mask = rctl::ENABLE | 0xf << rctl::FLEXIBLE_BUFFER_SHIFT;
        registers.change(register::RCTL, mask, rctl::ENABLE | flexible);
    }

    fn stop(&self, _queue: u32) -> bool {
        self.0.change(register::RCTL, rctl::ENABLE, 0);
        self.0.change(register::TCTL, card::TCTL_ENABLE, 0);
        // Reading has the writes reach the card; what was under way ends within a packet's time (§10.2.5.1).
        let status: u32 = self.0.read(register::STATUS);
        std::thread::sleep(std::time::Duration::from_millis(1));
        status != card::ABSENT
    }

    fn cause(_queue: u32, signal: Signal) -> Cause {
        Cause::of_line(match signal {
            Signal::Message => RECEIVE_QUEUE,
            Signal::Shared => RECEIVED,
        })
    }

    fn missed(&self, _queue: u32) -> u64 {
        card::counted(&self.0, register::MPC)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the field has sixteen bits")]
    fn filled(word: u64) -> Option<Filled> {
        let status = word >> 32;
        if status & DONE == 0 {
            return None;
        }
        let damaged = (word >> 40) & DAMAGED != 0;
        Some(Filled { len: word as u16, ends: status & ENDS != 0, damaged })
    }

    #[inline]
    fn data(_bytes: u32, left: Left) -> u64 {
        TYPE_DATA | transmit::EXTENDED | transmit::INSERT_CHECK_SEQUENCE | card::options(left, CUT)
    }

    /// The card sums from TUCSS to the packet's end and stores at TUCSO, whatever is there: any checksum of this kind will do.
    fn context(first: &Frame<'_>, offload: &Offload) -> Option<Descriptor> {
        let start = u8::try_from(offload.checksum_start).ok()?;
        let place = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset);
        // It is a peer's word where the sum belongs, and the card would write it there.
        if place + 2 > first.len().into() {
            return None;
        }
        let place = u8::try_from(place).ok()?;
        Some([u64::from(start) << 32 | u64::from(place) << 40, transmit::EXTENDED])
    }

    fn cut(cut: &Cut) -> Descriptor {
        let (network, transport) = (u64::from(cut.network), u64::from(cut.transport));
        // IPv6 has no checksum, and so no end of what it covers.
        let ip = if cut.ipv4 { ((network + 10) << 8) | ((transport - 1) << 16) } else { 0 };
        let kind = if cut.ipv4 { IPV4 } else { 0 } | TCP | CUT;
        let sizes = u64::from(cut.header_bytes) << 40 | u64::from(cut.segment_bytes) << 48;
        [
            network | ip | (transport << 32) | ((transport + 16) << 40),
            u64::from(cut.payload) | transmit::EXTENDED | kind | sizes,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit as the datasheet draws them.
    #[test]
    fn descriptors_are_as_the_datasheet_draws_them() {
        assert_eq!(E1000e::filled(0x0000_0000_1234_0040), None);
        let filled = Filled { len: 64, ends: true, damaged: false };
        assert_eq!(E1000e::filled(0x0000_0003_1234_0040), Some(filled));
        assert_eq!(E1000e::filled(0x0000_0103_1234_0040), Some(Filled { damaged: true, ..filled }));
        // A wrong checksum inside is the receiver's business.
        assert_eq!(E1000e::filled(0x0000_6003_1234_0040), Some(filled));
        let word = E1000e::data(60, Left::Checksum);
        assert_eq!(word | transmit::EOP | transmit::REPORT | 60, 0x0000_0200_2b10_003c);
        assert_eq!(E1000e::data(60, Left::Cut { ipv4: true }), 0x0000_0300_2610_0000);
    }
}
