//! What the queues ask of a card, and the registers that both cards have.

use super::offload::{Cut, Left};
use crate::pci::Registers;
use core::fmt::Debug;
use ringbuf::{Frame, Offload};
use std::time::{Duration, Instant};

/// A descriptor: two words, little-endian in memory.
pub(super) type Descriptor = [u64; 2];

/// What a card says of a buffer that it has filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) len: u16,
    /// The last of its packet.
    pub(super) ends: bool,
    /// The packet is damaged.
    pub(super) damaged: bool,
}

/// Where the rings of a queue are for the card, and how long each is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingPlaces {
    pub(super) receive: u64,
    pub(super) transmit: u64,
    pub(super) ring: u16,
    /// Bytes of a receive buffer.
    pub(super) buffer: Buffer,
}

/// Sizes of receive buffers that both cards have, in a slot of 4096 behind the headroom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffer {
    /// 2048 bytes: a packet is in one.
    Kib2,
    /// 3072 bytes: a long packet is in several.
    Kib3,
}

impl Buffer {
    pub(super) const fn bytes(self) -> u16 {
        match self {
            Self::Kib2 => 2048,
            Self::Kib3 => 3072,
        }
    }
}

/// How interrupts come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// A message of a queue's own (MSI-X).
    Message,
    /// A line or one message (MSI), shared by all causes.
    Shared,
}

/// A card, as its queues need it. What both cards have at the same place is in this file; what differs is asked for here.
pub(super) trait Card: Debug + Clone + Send + Sync + 'static {
    /// The card's name in reports.
    const NAME: &'static str;
    /// The most queue pairs.
    const QUEUES: u32;

    /// Bytes of the longest buffer that it sends.
    const BUFFER_BYTES: u32;

    /// Its registers.
    fn registers(&self) -> &Registers;
    /// Where the registers of a queue's receive ring begin: see [`ring`].
    fn receive_ring(queue: u32) -> usize;
    /// Where those of its transmit ring begin.
    fn transmit_ring(queue: u32) -> usize;

    /// Readies the card after a reset, before any queue.
    fn prepare(&self, setting: &Setting);
    /// Has a queue begin. Its rings are empty, and the card knows where they are.
    fn start(&self, queue: u32, buffer: Buffer);
    /// Has a queue end: when this returns `true`, the card fetches no descriptor of it and moves no data for it.
    #[must_use]
    fn stop(&self, queue: u32) -> bool;

    /// What has a queue interrupt when something is received.
    fn cause(queue: u32, signal: Signal) -> Cause;

    /// Packets lost by a queue for want of buffers since this was last asked.
    fn missed(&self, queue: u32) -> u64;

    /// What a filled descriptor says; `None` while the card has it.
    fn filled(word: u64) -> Option<Filled>;
    /// What the second words of all descriptors of a packet have in common. `bytes` are those of all its buffers, or those
    /// behind its headers when it is to be cut.
    fn data(bytes: u32, left: Left) -> u64;
    /// The descriptor that says how a packet's checksum is to be completed; `None` when the card cannot.
    fn context(first: &Frame<'_>, offload: &Offload) -> Option<Descriptor>;
    /// The descriptor that says how a packet is to be cut.
    fn cut(cut: &Cut) -> Descriptor;
}

/// What has a queue interrupt: bits, and the registers that take them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    pub(super) bits: u32,
    /// Interrupts on, off, and one now.
    pub(super) on: usize,
    pub(super) off: usize,
    pub(super) now: usize,
}

impl Cause {
    /// One of the causes that both cards have (82574 §10.2.4; ICR, ICS, IMS, IMC of the 82576).
    pub(super) const fn of_line(bits: u32) -> Self {
        Self { bits, on: register::IMS, off: register::IMC, now: register::ICS }
    }
}

/// Lets a queue interrupt when something is received.
pub(super) fn arm<C: Card>(card: &C, queue: u32, signal: Signal) {
    let cause = C::cause(queue, signal);
    card.registers().write(cause.on, cause.bits);
}

/// No more interrupts of a queue.
pub(super) fn disarm<C: Card>(card: &C, queue: u32, signal: Signal) {
    let cause = C::cause(queue, signal);
    card.registers().write(cause.off, cause.bits);
    if signal == Signal::Shared {
        // Takes the line down; and a message comes only for a cause that was not there before.
        let _: u32 = card.registers().read(register::ICR);
    }
}

/// Interrupts now, as if something had been received.
pub(super) fn poke<C: Card>(card: &C, queue: u32, signal: Signal) {
    let cause = C::cause(queue, signal);
    card.registers().write(cause.now, cause.bits);
}

/// Has a queue begin: its rings are where `places` says, and empty.
pub(super) fn start<C: Card>(card: &C, queue: u32, places: &RingPlaces) {
    let registers = card.registers();
    let rings = [(C::receive_ring(queue), places.receive), (C::transmit_ring(queue), places.transmit)];
    for (first, address) in rings {
        let [lower, upper] = halves(address);
        registers.write(first + ring::LOW, lower);
        registers.write(first + ring::HIGH, upper);
        registers.write(first + ring::BYTES, u32::from(places.ring) * 16);
        registers.write(first + ring::HEAD, 0u32);
        registers.write(first + ring::TAIL, 0u32);
    }
    card.start(queue, places.buffer);
}

/// Packets that a card itself has counted as lost (82574 §10.2.7, 82576 §8.19), by the counters that the kernel's drivers take for
/// the errors of an interface too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// For want of buffers.
    pub(super) missed: u64,
    /// Damaged on the wire, or too long. Those that are too short are left out: QEMU's emulations pad them, hand them on, and
    /// count them (RUC).
    pub(super) damaged: u64,
    /// Not sent, because others spoke too often or too late: on a wire for one at a time.
    pub(super) collided: u64,
}

impl Losses {
    /// Adds what a queue has lost since this was last asked: the card's counters begin anew then.
    pub(super) fn ask<C: Card>(&mut self, card: &C, queue: u32) {
        use register::{ALGNERRC, CEXTERR, CRCERRS, ECOL, LATECOL, ROC, RXERRC};
        self.missed += card.missed(queue);
        // What came to no queue is the first one's to tell.
        if queue == 0 {
            let sum =
                |kinds: &[usize]| kinds.iter().map(|kind| counted(card.registers(), *kind)).sum::<u64>();
            self.damaged += sum(&[CRCERRS, ALGNERRC, RXERRC, CEXTERR, ROC]);
            self.collided += sum(&[ECOL, LATECOL]);
        }
    }
}

/// A counter that is gone when it is read.
pub(super) fn counted(registers: &Registers, register: usize) -> u64 {
    let count: u32 = registers.read(register);
    if count == ABSENT { 0 } else { count.into() }
}

/// The lower and the upper half of an address.
#[expect(clippy::cast_possible_truncation, reason = "halves are meant")]
const fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

/// What a packet's descriptors say of what is left to the card, `cut` being its own bit for cutting (TSE).
pub(super) const fn options(left: Left, cut: u64) -> u64 {
    match left {
        Left::Nothing => 0,
        Left::Checksum => transmit::INSERT_CHECKSUM,
        Left::Cut { ipv4: false } => cut | transmit::INSERT_CHECKSUM,
        Left::Cut { ipv4: true } => cut | transmit::INSERT_CHECKSUM | transmit::INSERT_IP_CHECKSUM,
    }
}

/// The second word of a transmit descriptor, as far as both cards have it alike (82574 and 82576 §7.2).
pub(super) mod transmit {
    /// The last of its packet; the check sequence is the card's to insert; to be reported; not of the legacy kind.
    pub(crate) const EOP: u64 = 1 << 24;
    pub(crate) const INSERT_CHECK_SEQUENCE: u64 = 1 << 25;
    pub(crate) const REPORT: u64 = 1 << 27;
    pub(crate) const EXTENDED: u64 = 1 << 29;
    /// The card's report: DD.
    pub(crate) const DONE: u64 = 1 << 32;
    /// IXSM and TXSM: the checksum of IPv4, and that of TCP or UDP, are the card's to insert.
    pub(crate) const INSERT_IP_CHECKSUM: u64 = 1 << 40;
    pub(crate) const INSERT_CHECKSUM: u64 = 1 << 41;
}

/// How a card is to be set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// Queue pairs.
    pub(super) queues: u32,
    /// Bytes of the longest packet, with its Ethernet header, a tag, and without the check sequence.
    pub(super) packet_bytes: u32,
    /// Take what is for others too.
    pub(super) promiscuous: bool,
    /// How interrupts come.
    pub(super) signal: Signal,
}

/// Registers at the same place in both (82574 §10.2, Table 77; the register summary of the 82576).
pub(super) mod register {
    pub(crate) const CTRL: usize = 0x0000;
    pub(crate) const STATUS: usize = 0x0008;
    pub(crate) const CTRL_EXT: usize = 0x0018;
    pub(crate) const MDIC: usize = 0x0020;
    pub(crate) const ICR: usize = 0x00c0;
    pub(crate) const ICS: usize = 0x00c8;
    pub(crate) const IMS: usize = 0x00d0;
    pub(crate) const IMC: usize = 0x00d8;
    pub(crate) const RCTL: usize = 0x0100;
    pub(crate) const TCTL: usize = 0x0400;
    /// Counters of packets, gone when read: check sequence, alignment, symbols, missed for want of memory, collisions, carrier
    /// extension, too long.
    pub(crate) const CRCERRS: usize = 0x4000;
    pub(crate) const ALGNERRC: usize = 0x4004;
    pub(crate) const RXERRC: usize = 0x400c;
    pub(crate) const MPC: usize = 0x4010;
    pub(crate) const ECOL: usize = 0x4018;
    pub(crate) const LATECOL: usize = 0x4020;
    pub(crate) const CEXTERR: usize = 0x403c;
    pub(crate) const ROC: usize = 0x40ac;
    /// The multicast table: 128 words.
    pub(crate) const MTA: usize = 0x5200;
    /// The first own address, which the card has read from its memory after the reset.
    pub(crate) const RAL: usize = 0x5400;
    pub(crate) const RAH: usize = 0x5404;
}

/// The registers of a ring, from its first on, in both (82574 §10.2.5.5 to 9 and §10.2.6.4 to 8, 82576 RDBAL and TDBAL and on).
pub(super) mod ring {
    /// Its address, and its bytes.
    pub(crate) const LOW: usize = 0x00;
    pub(crate) const HIGH: usize = 0x04;
    pub(crate) const BYTES: usize = 0x08;
    /// What the card has lies from head to tail.
    pub(crate) const HEAD: usize = 0x10;
    pub(crate) const TAIL: usize = 0x18;
    /// RXDCTL or TXDCTL.
    pub(crate) const CONTROL: usize = 0x28;
}

/// CTRL (82574 §10.2.2.1): set the link up; reset.
const SET_LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
/// STATUS (82574 §10.2.2.2): the link is up; its speed.
const LINK_UP: u32 = 1 << 1;
const SPEED_SHIFT: u32 = 6;
/// CTRL_EXT, its bit DRV_LOAD: a driver is loaded, so that the card's firmware keeps away.
pub(super) const DRIVER_LOADED: u32 = 1 << 28;

/// RCTL (82574 §10.2.5.1).
pub(super) mod rctl {
    pub(crate) const ENABLE: u32 = 1 << 1;
    pub(crate) const UNICAST_PROMISCUOUS: u32 = 1 << 3;
    pub(crate) const MULTICAST_PROMISCUOUS: u32 = 1 << 4;
    pub(crate) const LONG_PACKETS: u32 = 1 << 5;
    pub(crate) const BROADCAST: u32 = 1 << 15;
    pub(crate) const STRIP_CHECK_SEQUENCE: u32 = 1 << 26;
    /// Buffers in units of 1 KiB, where not 0 (82574 alone).
    pub(crate) const FLEXIBLE_BUFFER_SHIFT: u32 = 27;
}

/// TCTL (82574 §10.2.6.1): enable, pad short packets, collision threshold and distance.
pub(super) const TCTL_ENABLE: u32 = 1 << 1;
pub(super) const TCTL: u32 = TCTL_ENABLE | 1 << 3 | 0x0f << 4 | 0x3f << 12;

/// The bits of RCTL that both cards understand alike.
pub(super) const fn receive_control(setting: &Setting) -> u32 {
    let mut control = rctl::ENABLE | rctl::BROADCAST | rctl::STRIP_CHECK_SEQUENCE;
    // Without "long packets" 1522 bytes with the check sequence are the most.
    if setting.packet_bytes > 1518 {
        control |= rctl::LONG_PACKETS;
    }
    if setting.promiscuous {
        control |= rctl::UNICAST_PROMISCUOUS | rctl::MULTICAST_PROMISCUOUS;
    }
    control
}

/// A register of a card that is not there reads as all ones: STATUS has bits that are always zero.
pub(super) const ABSENT: u32 = u32::MAX;

/// Resets a card by its own register: it forgets everything but what its memory says.
///
/// The right to move data was taken from it before, so nothing is under way.
pub(super) fn reset(registers: &Registers) -> Result<(), &'static str> {
    registers.write(register::IMC, u32::MAX);
    registers.write(register::RCTL, 0u32);
    registers.write(register::TCTL, 0u32);
    registers.change(register::CTRL, RESET, RESET);
    let begin = Instant::now();
    // At least a millisecond before any register is touched.
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let control: u32 = registers.read(register::CTRL);
        if control == ABSENT {
            return Err("its registers are all ones: it is not there, or sleeps");
        }
        if control & RESET == 0 {
            break;
        }
        if begin.elapsed() > Duration::from_secs(1) {
            return Err("it does not come back from a reset");
        }
    }
    registers.write(register::IMC, u32::MAX);
    // Cleared by reading.
    let _: u32 = registers.read(register::ICR);
    registers.change(register::CTRL, SET_LINK_UP, SET_LINK_UP);
    registers.change(register::CTRL_EXT, DRIVER_LOADED, DRIVER_LOADED);
    for word in 0..128 {
        registers.write(register::MTA + 4 * word, 0u32);
    }
    Ok(())
}

/// MDIC (82574 §10.2.2.7): data, register, the PHY's address 1, write or read, done, failed.
const PHY: u32 = 1 << 21;
const PHY_WRITE: u32 = 1 << 26;
const PHY_READ: u32 = 2 << 26;
const PHY_DONE: u32 = 1 << 28;
const PHY_FAILED: u32 = 1 << 30;
/// The PHY's register 0 (IEEE 802.3 §22.2.4.1): asleep; agree with the other end; now.
const PHY_CONTROL: u32 = 0;
const PHY_ASLEEP: u32 = 1 << 11;
const PHY_AGREE: u32 = 1 << 12;
const PHY_AGAIN: u32 = 1 << 9;

/// Has the PHY agree on a speed with the other end. The kernel's drivers put it to sleep while an interface is down, and a
/// reset of the card does not wake it.
pub(super) fn wake_phy(registers: &Registers) -> Result<(), &'static str> {
    let command = |word: u32| {
        registers.write(register::MDIC, word | PHY | PHY_CONTROL << 16);
        let mut answer = 0;
        let done = wait(|| {
            answer = registers.read::<u32>(register::MDIC);
            answer & PHY_DONE != 0
        });
        if done && answer & PHY_FAILED == 0 { Ok(answer & 0xffff) } else { Err("its PHY does not answer") }
    };
    let control = command(PHY_READ)?;
    command(PHY_WRITE | (control & !PHY_ASLEEP) | PHY_AGREE | PHY_AGAIN).map(drop)
}

/// Its own address.
pub(super) fn mac(registers: &Registers) -> [u8; 6] {
    let (low, high): (u32, u32) = (registers.read(register::RAL), registers.read(register::RAH));
    let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
    [a, b, c, d, e, f]
}

/// What became of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Up {
        /// Megabits a second.
        speed: u32,
    },
    Down,
    /// The card does not answer.
    Absent,
}

pub(super) fn link(registers: &Registers) -> LinkState {
    let status: u32 = registers.read(register::STATUS);
    match status {
        ABSENT => LinkState::Absent,
        _ if status & LINK_UP == 0 => LinkState::Down,
        _ => LinkState::Up { speed: [10, 100, 1000, 1000][((status >> SPEED_SHIFT) & 3) as usize] },
    }
}

/// Waits until a register says what it should, not long: whether it came to say it.
pub(super) fn wait(mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > Duration::from_millis(100) {
            return false;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}
