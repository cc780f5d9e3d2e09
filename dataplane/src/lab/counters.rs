//! What the kernel counted at an interface.

use super::{Namespace, Outcome};
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

/// Datagrams that arrived at `namespace` and were dropped because the socket that they were for was full
/// (`RcvbufErrors` and `MemErrors` of `/proc/net/snmp`, RFC 4113 counts them among `udpInErrors`).
///
/// # Errors
/// When the namespace cannot be entered, or the kernel prints what it never printed before.
pub fn full_sockets(namespace: &Namespace) -> Outcome<u64> {
    // `/proc/net` is that of the process's first thread; the namespace is a thread's.
    let page = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = page.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else {
        return Err("/proc/net/snmp says nothing of UDP".into());
    };
    let full = |name: &str| matches!(name, "RcvbufErrors" | "MemErrors");
    let pairs = names.split_whitespace().zip(numbers.split_whitespace());
    Ok(pairs.filter(|(name, _)| full(name)).filter_map(|(_, number)| number.parse::<u64>().ok()).sum())
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
