//! What a queue pair can do, by what both sides have agreed on.

use super::feature;
use super::ring::Ring;
use super::transport::VirtioPlan;
use crate::queue::Caps;
use ringbuf::BURST;

pub(super) fn caps<R: Ring>(plan: &VirtioPlan) -> Caps {
    let all = |bits: u64| plan.features & bits == bits;
    let segmentation = all(feature::CHECKSUM | feature::TSO4 | feature::TSO6);
    let mut mode = format!("{} of {}", R::NAME, plan.ring);
    if all(feature::MERGEABLE) {
        mode += ", mergeable buffers";
    }
    if all(feature::INDIRECT) {
        mode += ", tables";
    }
    if all(feature::CHECKSUM) {
        mode += ", checksums";
    }
    if segmentation {
        mode += ", segmentation";
    }
    Caps {
        driver: plan.driver,
        device: plan.device.clone(),
        queue: plan.queue,
        copying: plan.copying,
        mode,
        packet_bytes: if segmentation { 65_535 + 18 } else { plan.mtu + 18 },
        buffer_bytes: 65_535,
        packet_frames: u32::from(plan.ring).min(u32::try_from(BURST).unwrap_or(1)),
        checksum: all(feature::CHECKSUM),
        segmentation,
    }
}
