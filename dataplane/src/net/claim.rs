//! Probing for our addresses, announcing and defending them (RFC 5227 for IPv4, RFC 4862 §5.4 for IPv6).
//!
//! An address is used from the first moment, before its probe could have been answered, as in RFC 4429: a server that
//! starts answers at once. A conflict is counted and told ([`Conflict`]). If it is the probe that is answered, the address is
//! never announced, so that nobody who knows its owner is led astray (RFC 5227 §2.1.1), though who asks us is still answered:
//! it was the user who gave it to us. One that comes later finds the address defended and not given up.

use super::host::Interface;
use super::message::Message;
use super::path::Address;
use crate::app::PortId;
use crate::worker::Tick;
use std::fmt;
use std::time::Duration;

/// How long a probe waits for somebody to object (RFC 4861 §10, `RETRANS_TIMER`; RFC 5227 §1.1 has 1 to 2 s).
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// RFC 5227 §1.1: `ANNOUNCE_NUM` and `ANNOUNCE_INTERVAL`.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// RFC 5227 §1.1: `DEFEND_INTERVAL`: the address is defended at most so often.
const DEFEND_EVERY: Duration = Duration::from_secs(10);

/// Somebody else uses an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// On the link of this port.
    pub port: PortId,
    /// The address.
    pub address: Address,
    /// Who uses it.
    pub mac: [u8; 6],
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.mac;
        write!(f, "{} is used by {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x} too", self.address)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Say which group we listen to.
    Report,
    /// Ask whether anybody has it.
    Probe,
    /// Say that it is ours, so many times.
    Announce(u8),
    /// All is said.
    Rest,
    /// The probe was answered: nothing is said.
    Yielded,
}

/// What has been said about one address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    step: Step,
    due: Tick,
    defended: Option<Tick>,
    /// A listener report is asked for.
    report: bool,
}

impl Claim {
    /// Of an address that is to be announced, or of one that another worker sees to.
    pub(super) fn new(announces: bool) -> Self {
        let step = if announces { Step::Report } else { Step::Rest };
        Self { step, due: Tick::default(), defended: None, report: false }
    }

    /// What is to be said about `own` now, if anything.
    pub(super) fn due(&mut self, now: Tick, interface: &Interface, own: Address) -> Option<Message> {
        if std::mem::take(&mut self.report) {
            return Some(Message::report(interface, own));
        }
        if now < self.due {
            return None;
        }
        match self.step {
            Step::Report => {
                self.step = Step::Probe;
                if own.is_v4() {
                    self.due(now, interface, own)
                } else {
                    Some(Message::report(interface, own))
                }
            }
            Step::Probe => {
                (self.step, self.due) = (Step::Announce(ANNOUNCEMENTS), Tick(now.0 + PROBE_WAIT));
                Some(Message::probe(interface, own))
            }
            Step::Announce(left) => {
                self.step = if left > 1 { Step::Announce(left - 1) } else { Step::Rest };
                self.due = Tick(now.0 + ANNOUNCE_EVERY);
                Some(Message::announcement(interface, own))
            }
            Step::Rest | Step::Yielded => None,
        }
    }

    /// Whether the address has not been announced yet.
    fn is_probing(&self) -> bool {
        matches!(self.step, Step::Report | Step::Probe | Step::Announce(ANNOUNCEMENTS))
    }

    /// When there will be something to be said.
    pub(super) fn deadline(&self) -> Option<Tick> {
        if self.report {
            return Some(Tick::default());
        }
        (!matches!(self.step, Step::Rest | Step::Yielded)).then_some(self.due)
    }

    /// A router asked who listens (RFC 3810 §5.1).
    pub(super) const fn report(&mut self) {
        self.report = true;
    }

    /// Somebody else uses the address: say once more that it is ours (RFC 5227 §2.4 (b)), if we ever said so.
    pub(super) fn defend(&mut self, now: Tick) {
        if self.is_probing() {
            self.step = Step::Yielded;
        } else if self.step != Step::Yielded
            && self.defended.is_none_or(|last| now.0 >= last.0 + DEFEND_EVERY)
        {
            (self.step, self.due, self.defended) = (Step::Announce(1), now, Some(now));
        }
    }
}
