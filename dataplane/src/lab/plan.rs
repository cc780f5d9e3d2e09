//! What a laboratory shall be: plain data, checked before anything is touched.

use super::LabError;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

/// One of the two hosts, and the port of the forwarder that its cable leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 10.77.0.1
    Left,
    /// 10.77.0.2
    Right,
}

impl Side {
    /// Left, then right.
    pub const BOTH: [Self; 2] = [Self::Left, Self::Right];

    /// `left` or `right`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// The interface inside the host: `left0` or `right0`.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Left => "left0",
            Self::Right => "right0",
        }
    }

    /// The interface at the middle, which a forwarder drives: `rw-left` or `rw-right`.
    #[must_use]
    pub fn port(self) -> &'static str {
        match self {
            Self::Left => "rw-left",
            Self::Right => "rw-right",
        }
    }

    /// The host's IPv4 address, in 10.77.0.0/24.
    #[must_use]
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number())
    }

    /// The host's IPv6 address, in fd77::/64.
    #[must_use]
    pub fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number().into())
    }

    /// The MAC address of the host's interface: locally administered, the same in every laboratory.
    #[must_use]
    pub fn host_mac(self) -> [u8; 6] {
        [0x02, 0x52, 0x57, 0, 0, self.number()]
    }

    /// The MAC address of the port at the middle.
    #[must_use]
    pub fn port_mac(self) -> [u8; 6] {
        [0x02, 0x52, 0x57, 0, 1, self.number()]
    }

    /// The other host.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
        }
    }
}

/// Where the two ports of the middle are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// In the namespace of the caller, so that `ringway forward --port af-xdp:rw-left ..` works from the user's shell.
    Caller,
    /// In a namespace of its own: nothing of the machine's own network is touched.
    Own,
}

/// What to build. `LabPlan::default()` is the laboratory of `ringway lab up`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabPlan {
    /// Begins the names of the namespaces: `NAME-left`, `NAME-right`, `NAME-mid`. Letters, digits and dashes.
    pub name: String,
    /// Where the ports are.
    pub middle: Middle,
    /// Receive and transmit queues at each of the four interfaces, 1 to 64.
    pub queues: u32,
    /// MTU in bytes at each of the four interfaces, 68 to 65535. Above about 3500 an XDP program must know fragments.
    pub mtu: u32,
    /// Whether the hosts get IPv6 addresses too. Without, a quiet laboratory carries not one frame of its own accord.
    /// Below an MTU of 1280 there are none in any case (RFC 8200 section 5).
    pub ipv6: bool,
}

impl Default for LabPlan {
    fn default() -> Self {
        Self { name: "ringway".into(), middle: Middle::Caller, queues: 1, mtu: 1500, ipv6: true }
    }
}

/// Numbers the private laboratories of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl LabPlan {
    /// A laboratory that nobody else can meet: its name is `KIND-PID-NUMBER`, its middle a namespace of its own.
    ///
    /// `kind` is `rw` and perhaps one letter, by custom `rwd` for a demonstration and `rwt` for a test. The pid in the name
    /// is how [`sweep`](super::sweep) knows that the process is gone and the laboratory may be removed.
    #[must_use]
    pub fn private(kind: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{number}", std::process::id());
        Self { name, middle: Middle::Own, ..Self::default() }
    }

    /// The namespace of a host.
    pub(super) fn host_namespace(&self, side: Side) -> String {
        format!("{}-{}", self.name, side.name())
    }

    /// The namespace of the middle, when it has its own.
    pub(super) fn middle_namespace(&self) -> String {
        format!("{}-mid", self.name)
    }

    pub(super) fn check(&self) -> Result<(), LabError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(LabError::Plan(format!(
                "its name {:?} must be 1 to 64 letters, digits and dashes",
                self.name
            )));
        }
        if !(1..=64).contains(&self.queues) {
            return Err(LabError::Plan(format!(
                "{} queues were asked for, it can have 1 to 64",
                self.queues
            )));
        }
        if !(68..=65535).contains(&self.mtu) {
            return Err(LabError::Plan(format!(
                "an MTU of {} was asked for, it can be 68 to 65535",
                self.mtu
            )));
        }
        Ok(())
    }
}

/// The pid in the name of a namespace of a private laboratory; none for every other name.
pub(super) fn pid_of_private(namespace: &str) -> Option<u32> {
    let mut parts = namespace.split('-');
    let kind = parts.next()?;
    let pid = parts.next()?.parse().ok()?;
    let _number: u32 = parts.next()?.parse().ok()?;
    let role = parts.next()?;
    let ours = kind.starts_with("rw") && kind.len() <= 3 && matches!(role, "left" | "right" | "mid");
    (ours && parts.next().is_none()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_differ_and_carry_the_pid() {
        let (one, two) = (LabPlan::private("rwt"), LabPlan::private("rwt"));
        assert_ne!(one.name, two.name);
        assert_eq!(pid_of_private(&one.host_namespace(Side::Left)), Some(std::process::id()));
        assert_eq!(pid_of_private(&two.middle_namespace()), Some(std::process::id()));
    }

    #[test]
    fn names_of_others_are_never_taken_for_ours() {
        for name in [
            "ringway-left",
            "rwt-12-left",
            "rwt-x-0-left",
            "rwt-12-0-top",
            "rwt-12-0-left-x",
            "vpn-12-0-left",
            "",
        ] {
            assert_eq!(pid_of_private(name), None, "{name}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |plan: LabPlan| plan.check().expect_err("nonsense").to_string();
        assert!(refused(LabPlan { queues: 0, ..LabPlan::default() }).contains("0 queues"));
        assert!(refused(LabPlan { queues: 65, ..LabPlan::default() }).contains("1 to 64"));
        assert!(refused(LabPlan { mtu: 67, ..LabPlan::default() }).contains("MTU of 67"));
        assert!(refused(LabPlan { mtu: 65536, ..LabPlan::default() }).contains("68 to 65535"));
        assert!(refused(LabPlan { name: "a b".into(), ..LabPlan::default() }).contains("a b"));
        assert!(refused(LabPlan { name: "../x".into(), ..LabPlan::default() }).contains("letters"));
        assert!(LabPlan::default().check().is_ok());
    }
}
