//! The lies of the [fake](super::fake), and the capabilities of which some of them are.

use super::fake::{APART, BAR_BYTES};

/// What the capabilities or the registers say that is not so, or cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// No registers of version 1.
    Legacy,
    /// No common registers.
    NoCommon,
    /// No doorbells.
    NoNotify,
    /// Registers beyond the end of the BAR.
    Outside,
    /// Registers whose end is no number of 32 bits.
    Overflow,
    /// Registers at an odd place.
    Odd,
    /// Too few registers.
    Few,
    /// A capability that is too short for what it is.
    ShortCapability,
    /// A capability that goes over the end of configuration space.
    LateCapability,
    /// A BAR that is not there.
    NoBar,
    /// Doorbells that are an odd number of bytes apart.
    OddDoorbells,
    /// A doorbell beyond the others.
    FarDoorbell,
    /// No configuration of the device type.
    NoConfiguration,
    /// It does not take its own features.
    Stubborn,
    /// It never comes back from a reset.
    Endless,
    /// All registers are ones.
    Absent,
    /// It has no queues.
    NoQueues,
    /// Its rings have no descriptors.
    NoRing,
    /// It has queue pairs, but none.
    NoPairs,
    /// Its address is a group's.
    Group,
    /// Its configuration changes all the time.
    Restless,
    /// It does not answer commands.
    Silent,
    /// It answers them with no.
    Refusing,
    /// It answers one that it was not given.
    Confused,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Legacy,
        Self::NoCommon,
        Self::NoNotify,
        Self::Outside,
        Self::Overflow,
        Self::Odd,
        Self::Few,
        Self::ShortCapability,
        Self::LateCapability,
        Self::NoBar,
        Self::OddDoorbells,
        Self::FarDoorbell,
        Self::NoConfiguration,
        Self::Stubborn,
        Self::Endless,
        Self::Absent,
        Self::NoQueues,
        Self::NoRing,
        Self::NoPairs,
        Self::Group,
        Self::Restless,
        Self::Silent,
        Self::Refusing,
        Self::Confused,
    ];
}

/// Configuration space as QEMU has it: a list of capabilities from 0x40 on.
pub(super) fn configuration(lie: Option<Lie>) -> [u8; 256] {
    let mut config = [0; 256];
    let lies = |which| lie == Some(which);
    // Status: there is a list, which begins here.
    (config[6], config[0x34]) = (1 << 4, 0x40);
    let mut at = 0x40;
    let outside = u32::try_from(BAR_BYTES).unwrap_or(0) - 16;
    for (kind, offset, bytes) in [(1u8, 0u32, 56u32), (3, 0x1000, 16), (4, 0x2000, 64), (2, 0x3000, 0x1000)] {
        let offset = match kind {
            1 if lies(Lie::Outside) => outside,
            1 if lies(Lie::Overflow) => u32::MAX - 3,
            1 if lies(Lie::Odd) => 2,
            _ => offset,
        };
        let bytes = if kind == 1 && lies(Lie::Few) { 36 } else { bytes };
        let missing = kind == 1 && lies(Lie::NoCommon)
            || kind == 2 && lies(Lie::NoNotify)
            || kind == 4 && lies(Lie::NoConfiguration);
        let id = if lies(Lie::Legacy) || missing { 5 } else { 9 };
        let len = if kind == 2 { 20 } else { 16 };
        let said = if kind == 2 && lies(Lie::ShortCapability) { 16 } else { len };
        let said = if kind == 2 && lies(Lie::LateCapability) { 255 } else { said };
        let bar = if kind == 1 && lies(Lie::NoBar) { 5 } else { 4 };
        let next = if kind == 2 { 0 } else { at + len };
        config[at..at + 8].copy_from_slice(&[id, byte(next), byte(said), kind, bar, 0, 0, 0]);
        config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
        config[at + 12..at + 16].copy_from_slice(&bytes.to_le_bytes());
        if kind == 2 {
            let apart = if lies(Lie::OddDoorbells) { 3 } else { APART };
            config[at + 16] = byte(apart);
        }
        at += len;
    }
    config
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
