//! Initial sequence numbers and the origin of a connection's timestamps: not to be guessed from outside.

use super::seq::{Micros, Seq, low};
use super::table::{Key, Secret};

/// What a connection starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The initial sequence number.
    pub(crate) isn: Seq,
    /// What is added to the clock of timestamps.
    pub(crate) clock: u32,
}

impl Origin {
    /// For a connection between the same ends as one in TIME-WAIT that had sent all before `sent`: beyond its numbers
    /// (RFC 9293 section 3.6.1, MAY-2). The clock alone does not see to that, as it moves 250 000 a second and a connection
    /// sends more. Linux leaves as large a gap.
    pub(crate) fn after(self, sent: Option<Seq>) -> Self {
        const GAP: u32 = 65_537;
        match sent {
            Some(sent) if !self.isn.after(sent) => Self { isn: sent.plus(GAP), ..self },
            _ => self,
        }
    }
}

/// RFC 6528 section 3: ISN = M + F(localip, localport, remoteip, remoteport, secretkey), M a clock of 4 microseconds.
/// RFC 7323 section 5.4: the timestamp clock of each connection begins somewhere else.
pub(crate) fn origin(secret: &Secret, key: &Key, now: Micros) -> Origin {
    let hash = secret.hash(key, 0);
    Origin { isn: Seq(low(hash)).plus(low(now / 4)), clock: low(hash >> 32) }
}

/// The clock of timestamps: milliseconds (RFC 7323 section 5.4: between 1 ms and 1 s a tick).
#[inline]
pub(crate) const fn timestamp(now: Micros, clock: u32) -> u32 {
    low(now / 1000).wrapping_add(clock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;

    #[test]
    fn rfc_6528_one_space_for_each_connection() {
        let secret = Secret::derive([7; 16], 1);
        let address = Address::v4([10, 0, 0, 1]);
        let key = |peer_port| Key { local: address, peer: address, local_port: 80, peer_port };
        let first = origin(&secret, &key(1), 0);
        // The same pair later: ahead by the clock, so that old segments are outside of the window.
        assert_eq!(origin(&secret, &key(1), 4_000).isn.since(first.isn), 1000);
        assert_eq!(origin(&secret, &key(1), 4_000).clock, first.clock);
        assert_ne!(origin(&secret, &key(2), 0), first);
        assert_ne!(origin(&Secret::derive([8; 16], 1), &key(1), 0), first);
        assert_eq!(timestamp(5_999, 10), 15);
    }
}
