//! The neighbour cache: which MAC address an address on the link has (RFC 4861 §5.1 and §7.3; the same for ARP).
//!
//! ```text
//!                 answer                 30 s                 used              no answer to 3 questions
//!   Incomplete ─────────► Reachable ─────────► Stale ─────────────► Probe ──────────────────────┐
//!       │  ▲                  ▲                                       │ answer                   │
//!       │  │ used, after 3 s  └───────────────────────────────────────┘                          ▼
//!       │  └───────────────────────────────────────────────────────────────────────────────── Failed
//!       └── no answer to 3 questions ─────────────────────────────────────────────────────────►──┘
//! ```
//!
//! Only what is dialled gets an entry: nothing that arrives makes one, so that strangers cannot fill the cache.
//! A probe begins with the first use after the entry went stale, without RFC 4861's wait for hints from above.

use super::path::Address;
use crate::worker::Tick;
use std::time::Duration;

/// Entries of one host; the one that was used longest ago makes room.
pub(super) const NEIGHBOURS: usize = 256;
/// RFC 4861 §10: `MAX_MULTICAST_SOLICIT` and `MAX_UNICAST_SOLICIT`.
const QUESTIONS: u8 = 3;
/// RFC 4861 §10: `RETRANS_TIMER`.
const RETRY: Duration = Duration::from_secs(1);
/// RFC 4861 §10: `REACHABLE_TIME`, without its random factor: no two hosts here began at the same moment.
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a failed neighbour is not asked for again.
const FAILED: Duration = Duration::from_secs(3);

/// A neighbour that has been heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: Address,
    /// Where it is.
    pub mac: [u8; 6],
}

/// How a neighbour was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It answered our question: it is there, and hears us.
    Answer {
        /// Whether another address than the known one counts (RFC 4861 §7.2.5).
        replaces: bool,
    },
    /// It spoke.
    Heard {
        /// The same.
        replaces: bool,
    },
}

/// What the cache says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Mac([u8; 6]),
    /// It is being asked for.
    Asked,
    /// It did not answer.
    Failed,
}

/// A question that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Rank of the interface.
    pub(super) interface: usize,
    pub(super) address: Address,
    /// Who is asked; `None` for everybody.
    pub(super) to: Option<[u8; 6]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Known beforehand.
    Static,
    /// Nobody has answered yet.
    Incomplete {
        asked: u8,
    },
    Reachable,
    Stale,
    /// Known, and asked whether it is still there.
    Probe {
        asked: u8,
    },
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    interface: usize,
    address: Address,
    mac: [u8; 6],
    state: State,
    /// When the state ends, or the next question is due.
    until: Tick,
    used: Tick,
}

#[derive(Debug)]
pub(super) struct Neighbours {
    entries: Vec<Entry>,
}

fn after(now: Tick, wait: Duration) -> Tick {
    Tick(now.0 + wait)
}

impl Neighbours {
    pub(super) fn new() -> Self {
        Self { entries: Vec::with_capacity(NEIGHBOURS) }
    }

    /// A neighbour that is never asked for.
    pub(super) fn insert(&mut self, interface: usize, address: Address, mac: [u8; 6]) {
        if let Some(entry) = self.entry(interface, address) {
            (entry.mac, entry.state) = (mac, State::Static);
            return;
        }
        let now = Tick::default();
        self.push(Entry { interface, address, mac, state: State::Static, until: now, used: now });
    }

    fn entry(&mut self, interface: usize, address: Address) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.address == address && entry.interface == interface)
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() < NEIGHBOURS {
            self.entries.push(entry);
            return;
        }
        let victims = self.entries.iter_mut().filter(|entry| entry.state != State::Static);
        if let Some(oldest) = victims.min_by_key(|entry| entry.used) {
            *oldest = entry;
        }
    }

    /// Looks up an address, and asks for it when it is not known.
    pub(super) fn find(&mut self, now: Tick, interface: usize, address: Address) -> Found {
        let Some(entry) = self.entry(interface, address) else {
            let state = State::Incomplete { asked: 0 };
            self.push(Entry { interface, address, mac: [0; 6], state, until: now, used: now });
            return Found::Asked;
        };
        entry.used = now;
        entry.age(now);
        match entry.state {
            State::Static | State::Reachable | State::Probe { .. } => Found::Mac(entry.mac),
            State::Stale => {
                (entry.state, entry.until) = (State::Probe { asked: 0 }, now);
                Found::Mac(entry.mac)
            }
            State::Incomplete { .. } => Found::Asked,
            State::Failed if now < entry.until => Found::Failed,
            State::Failed => {
                (entry.state, entry.until) = (State::Incomplete { asked: 0 }, now);
                Found::Asked
            }
        }
    }

    /// Takes up what was heard of a neighbour; whether anybody wants to know.
    pub(super) fn learn(
        &mut self,
        now: Tick,
        interface: usize,
        heard: Neighbour,
        evidence: Evidence,
    ) -> bool {
        let Some(entry) = self.entry(interface, heard.address) else { return false };
        entry.age(now);
        let unknown = matches!(entry.state, State::Incomplete { .. } | State::Failed);
        let moved = !unknown && entry.mac != heard.mac;
        let (answer, replaces) = match evidence {
            Evidence::Answer { replaces } => (true, replaces),
            Evidence::Heard { replaces } => (false, replaces),
        };
        match entry.state {
            State::Static => return false,
            // RFC 4861 §7.2.5: without the override flag another address is not taken, only doubted.
            State::Reachable if moved && !replaces => entry.state = State::Stale,
            _ if moved && !replaces => {}
            _ if answer => {
                entry.mac = heard.mac;
                (entry.state, entry.until) = (State::Reachable, after(now, REACHABLE));
            }
            _ if unknown || moved => (entry.mac, entry.state) = (heard.mac, State::Stale),
            _ => {}
        }
        true
    }

    /// When there will be a question, or a neighbour be given up.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let asked = |entry: &&Entry| matches!(entry.state, State::Incomplete { .. } | State::Probe { .. });
        self.entries.iter().filter(asked).map(|entry| entry.until).min()
    }

    /// The next question that is due, counted as asked.
    pub(super) fn due(&mut self, now: Tick) -> Option<Question> {
        for entry in &mut self.entries {
            let (asked, to) = match entry.state {
                State::Incomplete { asked } => (asked, None),
                State::Probe { asked } => (asked, Some(entry.mac)),
                _ => continue,
            };
            if now < entry.until {
                continue;
            }
            if asked == QUESTIONS {
                (entry.state, entry.until) = (State::Failed, after(now, FAILED));
                continue;
            }
            entry.state = match to {
                None => State::Incomplete { asked: asked + 1 },
                Some(_) => State::Probe { asked: asked + 1 },
            };
            entry.until = after(now, RETRY);
            return Some(Question { interface: entry.interface, address: entry.address, to });
        }
        None
    }
}

impl Entry {
    fn age(&mut self, now: Tick) {
        if self.state == State::Reachable && now >= self.until {
            self.state = State::Stale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];
    const ANSWER: Evidence = Evidence::Answer { replaces: true };

    fn at(millis: u64) -> Tick {
        Tick(Duration::from_millis(millis))
    }

    fn address(last: u8) -> Address {
        Address::v4([10, 0, 0, last])
    }

    fn heard(mac: [u8; 6]) -> Neighbour {
        Neighbour { address: address(1), mac }
    }

    #[test]
    fn an_unknown_neighbour_is_asked_for_three_times_and_then_given_up_for_a_while() {
        let mut cache = Neighbours::new();
        let question = Question { interface: 0, address: address(1), to: None };
        assert_eq!(cache.find(at(0), 0, address(1)), Found::Asked);
        for second in [0, 1000, 2000] {
            assert_eq!(cache.due(at(second)), Some(question), "{second}");
            assert_eq!(cache.due(at(second + 999)), None);
            assert_eq!(cache.find(at(second + 999), 0, address(1)), Found::Asked);
        }
        assert_eq!(cache.due(at(3000)), None);
        assert_eq!(cache.find(at(5999), 0, address(1)), Found::Failed);
        assert_eq!(cache.find(at(6000), 0, address(1)), Found::Asked, "asked again");
        assert_eq!(cache.due(at(6000)), Some(question));
        assert!(cache.learn(at(6001), 0, heard(MAC), ANSWER));
        assert_eq!(cache.find(at(6002), 0, address(1)), Found::Mac(MAC));
        assert_eq!(cache.find(at(6002), 1, address(1)), Found::Asked, "another interface is another link");
    }

    #[test]
    fn a_stale_neighbour_is_used_and_asked_at_its_own_address() {
        let mut cache = Neighbours::new();
        cache.find(at(0), 0, address(1));
        assert!(cache.learn(at(0), 0, heard(MAC), ANSWER));
        assert_eq!(cache.due(at(40_000)), None, "nobody uses it, so nobody asks");
        assert_eq!(cache.find(at(40_000), 0, address(1)), Found::Mac(MAC));
        let question = Question { interface: 0, address: address(1), to: Some(MAC) };
        for second in [40_000, 41_000, 42_000] {
            assert_eq!(cache.due(at(second)), Some(question));
        }
        assert_eq!(cache.due(at(43_000)), None);
        assert_eq!(cache.find(at(43_000), 0, address(1)), Found::Failed, "it is gone");
    }

    #[test]
    fn what_is_heard_counts_as_its_evidence_is_worth() {
        let heard_only = Evidence::Heard { replaces: true };
        let mut cache = Neighbours::new();
        assert!(!cache.learn(at(0), 0, heard(MAC), ANSWER), "nobody asked: no entry");
        cache.find(at(0), 0, address(1));
        cache.learn(at(0), 0, heard(MAC), ANSWER);
        cache.learn(at(1), 0, heard(OTHER), Evidence::Answer { replaces: false });
        assert_eq!(cache.find(at(2), 0, address(1)), Found::Mac(MAC), "doubted");
        assert!(cache.due(at(2)).is_some(), "and asked");
        cache.learn(at(3), 0, heard(OTHER), heard_only);
        assert_eq!(cache.find(at(3), 0, address(1)), Found::Mac(OTHER), "it moved");
        cache.insert(0, address(1), MAC);
        assert!(!cache.learn(at(4), 0, heard(OTHER), ANSWER));
        assert_eq!(cache.find(at(99_000), 0, address(1)), Found::Mac(MAC), "static is static");
        assert_eq!(cache.due(at(99_000)), None);
    }

    #[test]
    fn a_full_cache_forgets_what_was_used_longest_ago() {
        let mut cache = Neighbours::new();
        cache.insert(0, Address::v4([10, 9, 9, 9]), MAC);
        for n in 0..2 * NEIGHBOURS as u64 {
            let [.., high, low] = n.to_be_bytes();
            cache.find(at(n), 0, Address::v4([10, 1, high, low]));
            assert!(cache.entries.len() <= NEIGHBOURS);
        }
        assert_eq!(cache.find(at(9999), 0, Address::v4([10, 9, 9, 9])), Found::Mac(MAC));
        assert_eq!(cache.entries.capacity(), NEIGHBOURS, "nothing was allocated");
    }
}
