//! Which connection a segment is for: a hash table with open addressing, keyed so that peers cannot aim at one bucket.

use crate::net::{Address, Path};
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) local: Address,
    pub(crate) peer: Address,
    pub(crate) local_port: u16,
    pub(crate) peer_port: u16,
}

impl Key {
    #[inline]
    pub(crate) const fn new(path: &Path, local_port: u16, peer_port: u16) -> Self {
        Self { local: path.local, peer: path.peer, local_port, peer_port }
    }
}

/// The keys of the hashes: of the demultiplexer, of initial sequence numbers, of cookies.
#[derive(Clone, Copy)]
pub(crate) struct Secret {
    key: [u8; 16],
}

impl Secret {
    /// Of the worker's secret, for one use; each use has its own key.
    pub(crate) fn derive(secret: [u8; 16], name: u8) -> Self {
        let mut key = [0; 16];
        for (half, place) in key.chunks_exact_mut(8).enumerate() {
            let mut hasher = SipHasher13::new_with_key(&secret);
            hasher.write(&[name, u8::from(half == 1)]);
            place.copy_from_slice(&hasher.finish().to_ne_bytes());
        }
        Self { key }
    }

    /// Of both ends. SipHash-1-3: short, and not to be predicted without the key.
    #[inline]
    fn ends(&self, key: &Key) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        if let (Some(local), Some(peer)) = (key.local.to_v4(), key.peer.to_v4()) {
            // As a number: whole words need no copy.
            hasher
                .write_u64(u64::from(u32::from_ne_bytes(local)) << 32 | u64::from(u32::from_ne_bytes(peer)));
        } else {
            hasher.write(key.local.bytes());
            hasher.write(key.peer.bytes());
        }
        hasher.write_u32(u32::from(key.local_port) << 16 | u32::from(key.peer_port));
        hasher
    }

    /// The hash of both ends and a number.
    #[inline]
    pub(crate) fn hash(&self, key: &Key, number: u64) -> u64 {
        let mut hasher = self.ends(key);
        hasher.write_u64(number);
        hasher.finish()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

const FREE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The low half of the hash, compared before the key is looked at.
    tag: u32,
    /// Where the connection is, or [`FREE`].
    index: u32,
}

/// From both ends to an index. Twice as many places as entries at most, so that probes stay short.
#[derive(Debug)]
pub(crate) struct Table {
    secret: Secret,
    entries: Box<[Entry]>,
    mask: usize,
}

impl Table {
    /// For at most `most` entries.
    pub(crate) fn new(most: u32, secret: Secret) -> Self {
        let places = (most.max(8) as usize * 2).next_power_of_two();
        let entries = vec![Entry { tag: 0, index: FREE }; places].into_boxed_slice();
        Self { secret, entries, mask: places - 1 }
    }

    /// What [`find`](Self::find), [`insert`](Self::insert) and [`remove`](Self::remove) want of a key.
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u32 {
        super::seq::low(self.secret.ends(key).finish())
    }

    /// The index that `same` recognises, among those whose hash fits.
    #[inline]
    pub(crate) fn find(&self, tag: u32, same: impl Fn(u32) -> bool) -> Option<u32> {
        let mut place = tag as usize & self.mask;
        loop {
            let entry = self.entries[place];
            if entry.index == FREE {
                return None;
            }
            if entry.tag == tag && same(entry.index) {
                return Some(entry.index);
            }
            place = (place + 1) & self.mask;
        }
    }

    /// Adds an index that is not in it yet.
    pub(crate) fn insert(&mut self, tag: u32, index: u32) {
        let mut place = tag as usize & self.mask;
        while self.entries[place].index != FREE {
            place = (place + 1) & self.mask;
        }
        self.entries[place] = Entry { tag, index };
    }

    /// Takes an index out, and moves those behind it up, so that no probe ends early.
    pub(crate) fn remove(&mut self, tag: u32, index: u32) {
        let mut hole = tag as usize & self.mask;
        while self.entries[hole].index != index {
            if self.entries[hole].index == FREE {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut next = (hole + 1) & self.mask;
        while self.entries[next].index != FREE {
            let home = self.entries[next].tag as usize & self.mask;
            // The entry may move up only if its home is not between the hole and where it is.
            if next.wrapping_sub(home) & self.mask >= next.wrapping_sub(hole) & self.mask {
                self.entries[hole] = self.entries[next];
                hole = next;
            }
            next = (next + 1) & self.mask;
        }
        self.entries[hole].index = FREE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(n: u16) -> Key {
        let [high, low] = n.to_be_bytes();
        let peer = Address::v4([10, 0, high, low]);
        Key { local: Address::v4([10, 1, 0, 1]), peer, local_port: 80, peer_port: n }
    }

    #[test]
    fn it_does_what_a_map_does() {
        // Tags of four values only, so that probes run into each other and around the end.
        let mut table = Table::new(64, Secret::derive([1; 16], 0));
        let mut model: HashMap<u32, u32> = HashMap::new();
        let mut random = 1u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let index = random >> 8 & 63;
            let tag = 126 + index % 4;
            if let Some(tag) = model.remove(&index) {
                table.remove(tag, index);
            } else {
                table.insert(tag, index);
                model.insert(index, tag);
            }
            for index in 0..64 {
                let found = table.find(126 + index % 4, |i| i == index);
                assert_eq!(found.is_some(), model.contains_key(&index));
            }
        }
    }

    #[test]
    fn the_hash_depends_on_key_and_secret() {
        let (a, b) = (Secret::derive([1; 16], 0), Secret::derive([1; 16], 1));
        assert_ne!(a.hash(&key(1), 0), b.hash(&key(1), 0));
        assert_ne!(a.hash(&key(1), 0), a.hash(&key(2), 0));
        assert_ne!(a.hash(&key(1), 0), a.hash(&key(1), 1));
        assert_eq!(a.hash(&key(1), 0), a.hash(&key(1), 0));
    }
}
