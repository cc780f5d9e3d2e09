//! How many connections each address has, for [`Limits::connections_per_peer`](super::Limits::connections_per_peer).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Connections by peer. One per worker: since a flow's queue is chosen by its hash, an address spreads over workers,
/// so give each its share of the limit.
#[derive(Debug)]
pub struct Peers {
    counts: HashMap<IpAddr, u32>,
    most: u32,
}

impl Peers {
    /// At most `most` of each (0: no limit), room for `connections` in all. While there are no more, nothing allocates.
    #[must_use]
    pub fn new(most: u32, connections: usize) -> Self {
        let room = if most == 0 { 0 } else { connections };
        Self { counts: HashMap::with_capacity(room), most }
    }

    /// Counts a new connection; `false` if it is one too many, and then it is not counted.
    #[must_use]
    pub fn enter(&mut self, peer: IpAddr) -> bool {
        if self.most == 0 {
            return true;
        }
        let count = self.counts.entry(site(peer)).or_insert(0);
        let fits = *count < self.most;
        *count += u32::from(fits);
        fits
    }

    /// Counts a connection that has gone. One that was not counted must not be reported.
    pub fn leave(&mut self, peer: IpAddr) {
        let peer = site(peer);
        match self.counts.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(self.counts.remove(&peer)),
            None => {}
        }
    }
}

/// Who a peer is: an IPv4 address, or the network of an IPv6 host, which has 2^64 addresses to call from (RFC 4291
/// section 2.5.4).
fn site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_share() {
        let peer = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (a, b) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let mut peers = Peers::new(2, 10);
        assert!(peers.enter(a) && peers.enter(a) && !peers.enter(a));
        assert!(peers.enter(b));
        assert!(!peers.enter(peer("::ffff:10.0.0.1")), "the same address in another dress");
        peers.leave(a);
        assert!(peers.enter(a) && !peers.enter(a));
        peers.leave(b);
        assert_eq!(peers.counts.len(), 1);
        assert!(peers.enter(peer("2001:db8::1")) && peers.enter(peer("2001:db8::2")));
        assert!(!peers.enter(peer("2001:db8::3")), "one network, one peer");
        assert!(peers.enter(peer("2001:db8:0:1::3")));
        let mut free = Peers::new(0, 10);
        assert!((0..100).all(|_| free.enter(a)));
        free.leave(a);
    }
}
