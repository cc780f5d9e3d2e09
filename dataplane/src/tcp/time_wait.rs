//! Connections that have ended, remembered for two segment lifetimes without buffers (RFC 9293 section 3.6.1).

use super::seq::{Micros, Seq};
use super::table::{Key, Secret, Table};
use super::timers::NOBODY;

/// What is left of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remains {
    pub(crate) key: Key,
    /// SND.NXT, behind our FIN.
    pub(crate) sent: Seq,
    /// RCV.NXT, behind the peer's FIN.
    pub(crate) next: Seq,
    /// TS.Recent, if timestamps were agreed.
    pub(crate) recent: Option<u32>,
    /// The origin of our timestamps.
    pub(crate) clock: u32,
    /// The window field of our last acknowledgement.
    pub(crate) window: u16,
}

#[derive(Debug)]
struct Entry {
    remains: Remains,
    tag: u32,
    until: Micros,
    older: u32,
    newer: u32,
}

/// The table: a list from the oldest to the newest, as all wait for the same time.
#[derive(Debug)]
pub(crate) struct TimeWait {
    entries: Vec<Entry>,
    free: Vec<u32>,
    table: Table,
    oldest: u32,
    newest: u32,
    most: usize,
}

impl TimeWait {
    pub(crate) fn new(most: u32, secret: Secret) -> Self {
        let most = most.max(1);
        Self {
            entries: Vec::with_capacity(most as usize),
            free: Vec::with_capacity(most as usize),
            table: Table::new(most, secret),
            oldest: NOBODY,
            newest: NOBODY,
            most: most as usize,
        }
    }

    /// Connections that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Remembers a connection until then; true if the oldest had to be forgotten for it.
    pub(crate) fn add(&mut self, remains: Remains, until: Micros) -> bool {
        let full = self.free.is_empty() && self.entries.len() == self.most;
        if full {
            self.remove(self.oldest);
        }
        let tag = self.table.hash(&remains.key);
        let entry = Entry { remains, tag, until, older: NOBODY, newer: NOBODY };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                super::seq::length(self.entries.len() - 1)
            }
        };
        self.table.insert(tag, index);
        self.append(index);
        full
    }

    fn append(&mut self, index: u32) {
        let newest = self.newest;
        self.entries[index as usize].older = newest;
        self.entries[index as usize].newer = NOBODY;
        match self.entries.get_mut(newest as usize) {
            Some(before) => before.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn detach(&mut self, index: u32) {
        let (older, newer) = (self.entries[index as usize].older, self.entries[index as usize].newer);
        match self.entries.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }

    /// Who it is, with its place.
    pub(crate) fn find(&self, key: &Key) -> Option<(u32, &Remains)> {
        if self.oldest == NOBODY {
            return None;
        }
        let tag = self.table.hash(key);
        let index = self.table.find(tag, |index| self.entries[index as usize].remains.key == *key)?;
        Some((index, &self.entries[index as usize].remains))
    }

    /// The peer sent its FIN again: the time starts anew (RFC 9293 section 3.10.7.4, TIME-WAIT).
    pub(crate) fn restart(&mut self, index: u32, until: Micros) {
        self.detach(index);
        self.entries[index as usize].until = until;
        self.append(index);
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, index: u32) {
        self.detach(index);
        self.table.remove(self.entries[index as usize].tag, index);
        self.free.push(index);
    }

    /// Forgets those whose time is over.
    pub(crate) fn expire(&mut self, now: Micros) {
        while self.next_at().is_some_and(|until| until <= now) {
            self.remove(self.oldest);
        }
    }

    /// When the oldest one's time is over.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.entries.get(self.oldest as usize).map(|entry| entry.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;

    fn remains(peer_port: u16) -> Remains {
        let address = Address::v4([10, 0, 0, 1]);
        let key = Key { local: address, peer: address, local_port: 80, peer_port };
        Remains { key, sent: Seq(1), next: Seq(2), recent: None, clock: 0, window: 0 }
    }

    #[test]
    fn oldest_first_and_bounded() {
        let mut waiting = TimeWait::new(3, Secret::derive([0; 16], 0));
        for port in 1..=3 {
            assert!(!waiting.add(remains(port), u64::from(port) * 100));
        }
        assert!(waiting.add(remains(4), 400), "the oldest gives way");
        assert!(waiting.find(&remains(1).key).is_none());
        let (second, _) = waiting.find(&remains(2).key).expect("kept");
        waiting.restart(second, 500);
        assert_eq!(waiting.next_at(), Some(300));
        waiting.expire(400);
        assert_eq!(waiting.len(), 1);
        assert!(waiting.find(&remains(2).key).is_some());
        waiting.expire(500);
        assert_eq!((waiting.len(), waiting.next_at()), (0, None));
        for port in 10..13 {
            assert!(!waiting.add(remains(port), 1000), "places are used again");
        }
    }
}
