//! What the kernel counted at an interface.

use crate::Outcome;
use dataplane::lab::Namespace;
use serde::Deserialize;

/// One direction of an interface (`struct rtnl_link_stats64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Direction {
    /// Frames.
    pub packets: u64,
    /// Bytes, without the frame check sequence.
    pub bytes: u64,
    /// Frames that met an error.
    pub errors: u64,
    /// Frames that the kernel let fall.
    pub dropped: u64,
}

/// Both directions of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// What came in.
    pub rx: Direction,
    /// What went out.
    pub tx: Direction,
}

/// Reads the counters of `interface` inside `namespace`, by `ip -stats -json link show`.
///
/// # Errors
/// When there is no such interface, or `ip` prints what it never printed before.
pub fn counters(namespace: &Namespace, interface: &str) -> Outcome<Counters> {
    #[derive(Deserialize)]
    struct Link {
        stats64: Counters,
    }
    let output =
        namespace.command("ip").args(["-stats", "-json", "link", "show", "dev", interface]).output()?;
    if !output.status.success() {
        return Err(
            format!("counters of {interface}: {}", String::from_utf8_lossy(&output.stderr).trim()).into()
        );
    }
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)?;
    links.first().map(|link| link.stats64).ok_or_else(|| format!("`ip` shows no {interface}").into())
}

impl std::ops::Sub for Counters {
    type Output = Self;

    /// What was counted since `before`. Counters of one interface never go back while it lives.
    fn sub(self, before: Self) -> Self {
        let since = |now: Direction, then: Direction| Direction {
            packets: now.packets.wrapping_sub(then.packets),
            bytes: now.bytes.wrapping_sub(then.bytes),
            errors: now.errors.wrapping_sub(then.errors),
            dropped: now.dropped.wrapping_sub(then.dropped),
        };
        Self { rx: since(self.rx, before.rx), tx: since(self.tx, before.tx) }
    }
}
