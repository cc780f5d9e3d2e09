//! Where a device has its registers, as its capabilities say (VIRTIO 1.2 §4.1.4).
//!
//! ```text
//!   configuration space                          a BAR
//!   ┌ capability 9: common ─ bar, offset, length ──► common │ status, features, one queue at a time
//!   ├ capability 9: notify ─ .., multiplier ───────► notify │ doorbells: a queue's own number × multiplier
//!   ├ capability 9: ISR ───────────────────────────► ISR    │ why the line was raised; gone when read
//!   └ capability 9: device ────────────────────────► device │ address, link, queue pairs, MTU
//! ```
//!
//! The first of each kind counts (§4.1.4.1). What lies outside of its BAR or is not aligned is refused: these are numbers
//! that the device names.

use crate::error::OpenError;
use crate::pci::{Function, Registers};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `PCI_CAP_ID_VNDR` (§4.1.4).
const VENDOR: u8 = 9;
/// Bytes of `struct virtio_pci_cap`, and of the one for notifications.
const CAPABILITY: u8 = 16;
const CAPABILITY_NOTIFY: u8 = 20;
/// `cfg_type` (§4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
/// Bytes of `struct virtio_pci_common_cfg` up to what every device has (§4.1.4.3).
const COMMON_BYTES: u32 = 56;

/// The registers of a device.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    pub(super) common: Registers,
    pub(super) notify: Registers,
    /// How far apart doorbells are (§4.1.4.4).
    pub(super) multiplier: u32,
    pub(super) isr: Registers,
    /// Whatever the device type has; some have none.
    pub(super) device: Option<Registers>,
}

/// One capability, as it stands in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: u32,
    bytes: u32,
    multiplier: u32,
}

impl Place {
    fn of(first: [u8; 16], multiplier: [u8; 4]) -> Self {
        let [_, _, _, _, bar, _, _, _, a, b, c, d, e, f, g, h] = first;
        Self {
            bar,
            offset: u32::from_le_bytes([a, b, c, d]),
            bytes: u32::from_le_bytes([e, f, g, h]),
            multiplier: u32::from_le_bytes(multiplier),
        }
    }
}

impl Regions {
    /// Walks the list, and maps what it names.
    pub(super) fn find(function: &Arc<Function>) -> Result<Self, OpenError> {
        let refused = |why: String| OpenError::refused(function.name(), STEP, why);
        let places = places(function)?;
        let mut bars = BTreeMap::new();
        let mut map = |kind: u8, name: &str, least: u32, align: u32| {
            let Some(place) = places.get(&kind) else { return Ok(None) };
            if place.bytes < least || !place.offset.is_multiple_of(align) {
                return Err(refused(format!(
                    "its {name} registers are {} bytes at {:#x}: {least} at least are needed, at a multiple of {align}",
                    place.bytes, place.offset
                )));
            }
            let bar = match bars.get(&place.bar) {
                Some(bar) => bar,
                None => bars.entry(place.bar).or_insert(function.bar(place.bar)?),
            };
            let outside = || refused(format!("its {name} registers lie outside of its BAR {}", place.bar));
            let fits = usize::try_from(place.offset).ok().zip(usize::try_from(place.bytes).ok());
            let part = fits.and_then(|(offset, bytes)| bar.part(offset, bytes));
            part.map(Some).ok_or_else(outside)
        };
        let absent = |name: &str| refused(format!("it names no {name} registers"));
        // §4.1.4: what each must be aligned to.
        let common = map(COMMON, "common", COMMON_BYTES, 4)?.ok_or_else(|| absent("common"))?;
        let notify = map(NOTIFY, "notify", 2, 2)?.ok_or_else(|| absent("notify"))?;
        let isr = map(ISR, "ISR", 1, 1)?.ok_or_else(|| absent("ISR"))?;
        let device = map(DEVICE, "device", 0, 4)?;
        let multiplier = places.get(&NOTIFY).map_or(0, |place| place.multiplier);
        // §4.1.4.4.1: an even power of two, or none.
        if multiplier % 2 != 0 {
            return Err(refused(format!("its doorbells are {multiplier} bytes apart, which is odd")));
        }
        Ok(Self { common, notify, multiplier, isr, device })
    }
}

const STEP: &str = "looking for its registers";

/// The first capability of each kind.
fn places(function: &Arc<Function>) -> Result<BTreeMap<u8, Place>, OpenError> {
    let failed = |source| function.failed(STEP, source);
    let mut places = BTreeMap::new();
    for capability in function.capabilities().map_err(failed)? {
        if capability.id != VENDOR {
            continue;
        }
        let [_, _, bytes, kind] = function.config(capability.offset).map_err(failed)?;
        let least = if kind == NOTIFY { CAPABILITY_NOTIFY } else { CAPABILITY };
        if !(COMMON..=DEVICE).contains(&kind) || places.contains_key(&kind) {
            continue;
        }
        if bytes < least || usize::from(capability.offset) + usize::from(bytes) > 256 {
            let why = format!("its capability at {:#x} is one of {bytes} bytes", capability.offset);
            return Err(OpenError::refused(function.name(), STEP, why));
        }
        let first = function.config(capability.offset).map_err(failed)?;
        let multiplier = match kind {
            NOTIFY => function.config(capability.offset + u16::from(CAPABILITY)).map_err(failed)?,
            _ => [0; 4],
        };
        let place = Place::of(first, multiplier);
        // §4.1.4.1: other numbers are reserved, and such a capability is none.
        if place.bar <= 5 {
            places.insert(kind, place);
        }
    }
    if places.is_empty() {
        let why = "it names no registers of version 1, so it speaks legacy virtio alone, as before 2016";
        return Err(OpenError::refused(function.name(), STEP, why)
            .hint("QEMU: disable-modern=off; else use the kernel's driver, by af-xdp: or packet:"));
    }
    Ok(places)
}
