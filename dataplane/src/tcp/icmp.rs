//! What the network says about a connection (RFC 1191, RFC 8201, RFC 5927).

use super::conn::{Closed, Service};
use super::core::{Bits, Core, MIN_MSS};
use super::seq::{Seq, micros};
use super::shared::Shared;
use super::stack::Stack;
use super::table::Key;
use crate::net::{TcpError, Trouble};
use crate::worker::Tick;

impl Key {
    const fn quoted(quoted: &TcpError) -> Self {
        Self {
            local: quoted.local,
            peer: quoted.peer,
            local_port: quoted.local_port,
            peer_port: quoted.peer_port,
        }
    }
}

impl<S: Default> Stack<S> {
    /// Whether the connection that an ICMP error is about is here. The router that sends it has another address than the
    /// peer, so a device with several queues may give it to another worker than the peer's segments.
    #[must_use]
    pub fn knows(&self, quoted: &TcpError) -> bool {
        self.find(&Key::quoted(quoted)).is_some()
    }

    /// An ICMP error about one of our segments. It is believed only if the quoted sequence number is in flight
    /// (RFC 5927 section 4.1): whoever is not on the path has to guess it.
    pub fn icmp(&mut self, now: Tick, quoted: &TcpError, service: &mut impl Service<S>) {
        let now = micros(now);
        let Some(index) = self.find(&Key::quoted(quoted)) else {
            self.shared.stats.icmp_ignored += 1;
            return;
        };
        let core = &mut self.slots.at(index).core;
        if !core.is_in_flight(Seq(quoted.sequence)) {
            self.shared.stats.icmp_ignored += 1;
            return;
        }
        match quoted.trouble {
            Trouble::TooBig { mtu } => {
                core.lower_mtu(&mut self.shared, mtu);
                self.settle(index, now, service);
            }
            // RFC 5927 section 5.2: an established connection is not given up for it.
            Trouble::Refused if !core.state.synchronised() => {
                self.end(index, now, Closed::Unreachable, service);
            }
            Trouble::Refused | Trouble::Unreachable => self.shared.stats.icmp_ignored += 1,
        }
    }
}

impl Core {
    fn is_in_flight(&self, seq: Seq) -> bool {
        if !self.state.synchronised() {
            return seq == self.origin.minus(1);
        }
        let ahead = seq.since(self.seq_of(self.board.una));
        ahead >= 0 && ahead.unsigned_abs() < self.board.outstanding()
    }

    /// RFC 1191 section 6.4, RFC 8201 section 5.4: smaller segments from now on, and what was sent is sent again in them,
    /// without slowing down: it was not lost to congestion. The MTU grows again with the next connection.
    fn lower_mtu(&mut self, shared: &mut Shared, mtu: u32) {
        let mss = self.mss_for(mtu);
        if mss >= self.mss {
            shared.stats.icmp_ignored += 1;
            return;
        }
        shared.stats.pmtu_lowered += 1;
        self.mss = mss;
        if self.state.synchronised() {
            self.board.mark_lost(&mut shared.blocks, self.board.nxt);
        }
    }

    /// Full-sized payload on a path with this MTU.
    fn mss_for(&self, mtu: u32) -> u16 {
        let header = if self.path.is_v4() { 40 } else { 60 };
        let stamps = if self.bits.has(Bits::TIMESTAMPS) { 12 } else { 0 };
        u16::try_from(mtu.saturating_sub(header + stamps)).unwrap_or(u16::MAX).max(MIN_MSS)
    }

    /// The retransmission timer fired. When what is sent again and again is long and nobody says anything, perhaps a
    /// router drops it for its length and its word does not reach us: then shorter segments (RFC 4821 section 7.7, RFC
    /// 8899 section 4.3). Third time as in Linux (`tcp_retries1`); a step lower with each further one. As after ICMP, the
    /// segments stay short until the next connection.
    pub(crate) fn suspect_black_hole(&mut self, shared: &mut Shared) {
        const PATIENCE: u8 = 3;
        /// Ethernet; what every IPv6 link takes (RFC 8200 section 5), and nearly every tunnel; what every IPv4 host takes
        /// (RFC 791 section 3.1).
        const STEPS: [u32; 3] = [1500, 1280, 576];
        if self.backoff < PATIENCE || self.bits.has(Bits::PARKED) {
            return;
        }
        let steps = if self.path.is_v4() { &STEPS[..] } else { &STEPS[..2] };
        let sent = self.mss().min(self.board.outstanding());
        let lower = steps.iter().map(|mtu| self.mss_for(*mtu)).find(|mss| u32::from(*mss) < sent);
        if let Some(mss) = lower {
            shared.stats.pmtu_black_holes += 1;
            self.mss = mss;
        }
    }
}
