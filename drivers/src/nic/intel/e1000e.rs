//! The 82574L. Sections are of its datasheet.
//!
//! ```text
//!   receive, legacy form (§7.1.3)
//!     0  address of the buffer
//!     8  length │ checksum │ status: DD EOP … │ errors │ tag              16 + 16 + 8 + 8 + 16 bits
//!   transmit, data (§7.2.5)
//!     0  address of the buffer
//!     8  length 20 │ type=1 4 │ DCMD: EOP IFCS TSE RS - DEXT VLE IDE │ status 4, 4 │ POPTS: IXSM TXSM │ tag
//!   transmit, context (§7.2.4)
//!     0  IPCSS │ IPCSO │ IPCSE 16 │ TUCSS │ TUCSO │ TUCSE 16              where the checksums start, lie and end
//!     8  length 20 │ type=0 4 │ TUCMD: TCP IP TSE RS - DEXT - IDE │ status 8 │ header length │ segment 16
//! ```

use super::card::{
    self, Buffer, Card, Descriptor, Filled, Outgoing, RingPlaces, Setting, Signal, rctl, register,
};
use crate::pci::Registers;
use ringbuf::{Frame, Offload};

/// A card, by its registers.
#[derive(Clone, Debug)]
pub(super) struct E1000e(pub(super) Registers);

/// Receive ring 0 (§10.2.5.5 and on) and transmit ring 0 (§10.2.6.4 and on): base, length, head, tail, control.
const RDBAL: usize = 0x2800;
const RDBAH: usize = 0x2804;
const RDLEN: usize = 0x2808;
const RDH: usize = 0x2810;
const RDT: usize = 0x2818;
const RXDCTL: usize = 0x2828;
const TDBAL: usize = 0x3800;
const TDBAH: usize = 0x3804;
const TDLEN: usize = 0x3808;
const TDH: usize = 0x3810;
const TDT: usize = 0x3818;
const TXDCTL: usize = 0x3828;
/// Thresholds in descriptors, not cache lines (§10.2.5.11, §10.2.6.9); bit 22 of TXDCTL must be set.
const GRANULARITY: u32 = 1 << 24;
const COUNT_DESCRIPTORS: u32 = 1 << 22;
/// A descriptor is written back as soon as it is done, and 31 are fetched ahead.
const WRITE_BACK: u32 = 1 << 16;
const PREFETCH: u32 = 31;
/// Which causes go to which message (§10.2.4.9): receive queue 0 to message 0.
const IVAR: usize = 0x00e4;
const IVAR_RECEIVE: u32 = 1 << 3;
/// Causes that a message clears (§10.2.4.8).
const EIAC: usize = 0x00dc;
/// Causes (§10.2.4.1): receive queue 0 for messages; the receive timer and overrun for the line.
const RECEIVE_QUEUE: u32 = 1 << 20;
const RECEIVED: u32 = 1 << 7 | 1 << 6 | 1 << 4;
/// Legacy descriptors, no header split (§10.2.5.16).
const RFCTL: usize = 0x5008;

const DONE: u64 = 1;
const ENDS: u64 = 1 << 1;
/// CRC, symbol, carrier extension and data errors (§7.1.3.4).
const DAMAGED: u64 = 0x97;

const TYPE_DATA: u64 = 1 << 20;
const EOP: u64 = 1 << 24;
const INSERT_CHECK_SEQUENCE: u64 = 1 << 25;
const REPORT: u64 = 1 << 27;
const EXTENDED: u64 = 1 << 29;
const SENT: u64 = 1 << 32;
const INSERT_CHECKSUM: u64 = 1 << 41;

impl E1000e {
    fn cause(signal: Signal) -> u32 {
        match signal {
            Signal::Message => RECEIVE_QUEUE,
            Signal::Line => RECEIVED,
        }
    }
}

impl Card for E1000e {
    const NAME: &'static str = "82574L";
    const QUEUES: u32 = 1;

    fn registers(&self) -> &Registers {
        &self.0
    }

    fn receive_tail(_queue: u32) -> usize {
        RDT
    }

    fn transmit_tail(_queue: u32) -> usize {
        TDT
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

    fn start(&self, _queue: u32, places: &RingPlaces) {
        let registers = &self.0;
        let bytes = u32::from(places.ring) * 16;
        for (low, high, address) in [(RDBAL, RDBAH, places.receive), (TDBAL, TDBAH, places.transmit)] {
            let [lower, upper] = halves(address);
            registers.write(low, lower);
            registers.write(high, upper);
        }
        registers.write(RDLEN, bytes);
        registers.write(TDLEN, bytes);
        for position in [RDH, RDT, TDH, TDT] {
            registers.write(position, 0u32);
        }
        registers.write(RXDCTL, GRANULARITY | WRITE_BACK | PREFETCH);
        registers.write(TXDCTL, GRANULARITY | COUNT_DESCRIPTORS | WRITE_BACK | PREFETCH);
        let flexible = match places.buffer {
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
        let _: u32 = self.0.read(register::STATUS);
        std::thread::sleep(std::time::Duration::from_millis(1));
        true
    }

    fn arm(&self, _queue: u32, signal: Signal) {
        self.0.write(register::IMS, Self::cause(signal));
    }

    fn disarm(&self, _queue: u32, signal: Signal) {
        self.0.write(register::IMC, u32::MAX);
        if signal == Signal::Line {
            // Takes the line down.
            let _: u32 = self.0.read(register::ICR);
        }
    }

    fn poke(&self, _queue: u32, signal: Signal) {
        self.0.write(register::ICS, Self::cause(signal));
    }

    fn missed(&self, _queue: u32) -> u64 {
        let missed: u32 = self.0.read(register::MPC);
        if missed == card::ABSENT { 0 } else { missed.into() }
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
    fn piece(address: u64, len: u16, packet: Outgoing) -> Descriptor {
        let checksum = if packet.checksum { INSERT_CHECKSUM } else { 0 };
        [address, u64::from(len) | TYPE_DATA | EXTENDED | INSERT_CHECK_SEQUENCE | checksum]
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

    /// The card sums from TUCSS to the packet's end and stores at TUCSO, whatever is there: any checksum of this kind will do.
    fn context(_first: &Frame<'_>, offload: &Offload) -> Option<Descriptor> {
        let start = u8::try_from(offload.checksum_start).ok()?;
        let place = u8::try_from(offload.checksum_start + offload.checksum_offset).ok()?;
        Some([u64::from(start) << 32 | u64::from(place) << 40, EXTENDED])
    }
}

/// The lower and the upper half of an address.
#[expect(clippy::cast_possible_truncation, reason = "halves are meant")]
pub(super) const fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
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
        let packet = Outgoing { bytes: 60, checksum: true };
        let piece = E1000e::reported(E1000e::last(E1000e::piece(0x1000, 60, packet)));
        assert_eq!(piece, [0x1000, 0x0000_0200_2b10_003c]);
        assert!(!E1000e::is_done(piece[1]) && E1000e::is_done(piece[1] | 1 << 32));
        assert_eq!(halves(0x1_8000_0002), [0x8000_0002, 1]);
    }
}
