//! The control queue: one command at a time, answered before the next (VIRTIO 1.2 §5.1.6.5).
//!
//! ```text
//!   descriptor 0, read by the device: class, command, what with       descriptor 1, written by it: 0 for yes
//! ```

use super::device::Bell;
use crate::error::OpenError;
use crate::nic::memory::Words;
use crate::nic::virtio::packed::Packed;
use crate::nic::virtio::ring::{Access, Buffer, Parts, Ring};
use crate::nic::virtio::split::Split;
use crate::pci::DmaRings;
use core::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Descriptors of its ring: a command has two.
pub(super) const RING: u16 = 4;

/// `VIRTIO_NET_OK`, and what no device answers.
const YES: u8 = 0;
const NO_ANSWER: u8 = 0xff;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `VIRTIO_NET_CTRL_RX_PROMISC` (§5.1.6.5.1).
    Promiscuous(bool),
    /// `VIRTIO_NET_CTRL_RX_ALLMULTI` (§5.1.6.5.1).
    AllMulticast(bool),
    /// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET` (§5.1.6.5.5).
    Pairs(u16),
}

impl Command {
    /// Its bytes, as a number in memory's order, and how many.
    const fn bytes(self) -> ([u8; 8], u32) {
        match self {
            Self::Promiscuous(on) => ([0, 0, on as u8, 0, 0, 0, 0, 0], 3),
            Self::AllMulticast(on) => ([0, 1, on as u8, 0, 0, 0, 0, 0], 3),
            Self::Pairs(count) => {
                let [low, high] = count.to_le_bytes();
                ([4, 0, low, high, 0, 0, 0, 0], 4)
            }
        }
    }

    /// What it is for, in words.
    const fn name(self) -> &'static str {
        match self {
            Self::Promiscuous(_) => "telling the device whether it takes what is for others",
            Self::AllMulticast(_) => "telling the device which groups it takes",
            Self::Pairs(_) => "telling the device how many queue pairs it uses",
        }
    }
}

/// The queue, and the two buffers of a command.
#[derive(Debug)]
pub(super) struct Control {
    ring: ControlRing,
    bell: Bell,
    buffers: Words<AtomicU64>,
    /// Where the device finds them.
    address: u64,
    patience: Duration,
    device: String,
    _rings: DmaRings,
}

#[derive(Debug)]
enum ControlRing {
    Split(Split),
    Packed(Packed),
}

impl Control {
    /// Where its ring lies, and its buffers behind, in memory of its own; and how many bytes it takes.
    pub(super) fn layout(packed: bool) -> (Parts, usize) {
        let parts = if packed { Packed::parts(0, RING) } else { Split::parts(0, RING) };
        (parts, parts.bytes + 16)
    }

    pub(super) fn new(rings: DmaRings, packed: bool, bell: Bell, device: &str, patience: Duration) -> Self {
        let (parts, _) = Self::layout(packed);
        let memory = rings.memory();
        let ring = if packed {
            let ring = Packed::new(memory, parts, RING);
            ring.set_interrupts(false);
            ControlRing::Packed(ring)
        } else {
            let ring = Split::new(memory, parts, RING);
            ring.set_interrupts(false);
            ControlRing::Split(ring)
        };
        let buffers = memory.words(parts.bytes, 2);
        let address = rings.address(parts.bytes);
        Self { ring, bell, buffers, address, patience, device: device.to_owned(), _rings: rings }
    }

    /// Gives a command and waits for the answer.
    pub(super) fn command(&mut self, command: Command) -> Result<(), OpenError> {
        let refused = |why: &str| OpenError::refused(&self.device, command.name(), why);
        let (bytes, len) = command.bytes();
        self.buffers[0].store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        self.buffers[1].store(u64::from_ne_bytes([NO_ANSWER; 8]), Ordering::Relaxed);
        let chain = [
            Buffer { id: 0, address: self.address, len, access: Access::Reads },
            Buffer { id: 1, address: self.address + 8, len: 1, access: Access::Writes },
        ];
        let answered = match &mut self.ring {
            ControlRing::Split(ring) => ask(ring, &chain, &self.bell, self.patience),
            ControlRing::Packed(ring) => ask(ring, &chain, &self.bell, self.patience),
        };
        if !answered {
            return Err(refused("it does not answer on its control queue"));
        }
        match self.buffers[1].load(Ordering::Relaxed).to_ne_bytes() {
            [YES, ..] => Ok(()),
            [no, ..] => Err(refused(&format!("it answers {no} and not 0"))),
        }
    }
}

/// Whether the device gave the chain back.
fn ask<R: Ring>(ring: &mut R, chain: &[Buffer; 2], bell: &Bell, patience: Duration) -> bool {
    ring.post_chain(chain);
    ring.publish();
    bell.ring();
    let begin = Instant::now();
    loop {
        match ring.next(2) {
            Ok(Some((0, _))) => {
                ring.advance(1, 2);
                return true;
            }
            Ok(None) if begin.elapsed() < patience => std::thread::sleep(Duration::from_micros(20)),
            // A position or a descriptor that cannot be is no answer either.
            _ => return false,
        }
    }
}
