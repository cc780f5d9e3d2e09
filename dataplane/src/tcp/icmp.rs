//! What the network says about a connection (RFC 1191, RFC 8201, RFC 5927).

use super::conn::{Closed, Service};
use super::core::{Core, MIN_MSS};
use super::seq::{Seq, micros};
use super::shared::Shared;
use super::stack::Stack;
use super::table::Key;
use crate::net::{TcpError, Trouble};
use crate::worker::Tick;

impl<S: Default> Stack<S> {
    /// An ICMP error about one of our segments. It is believed only if the quoted sequence number is in flight
    /// (RFC 5927 section 4.1): whoever is not on the path has to guess it.
    pub fn icmp(&mut self, now: Tick, quoted: &TcpError, service: &mut impl Service<S>) {
        let now = micros(now);
        let key = Key {
            local: quoted.local,
            peer: quoted.peer,
            local_port: quoted.local_port,
            peer_port: quoted.peer_port,
        };
        let Some(index) = self.find(&key) else {
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
        let header = if self.path.is_v4() { 40 } else { 60 };
        let stamps = if self.bits.has(super::core::Bits::TIMESTAMPS) { 12 } else { 0 };
        let mss = u16::try_from(mtu.saturating_sub(header + stamps)).unwrap_or(u16::MAX).max(MIN_MSS);
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
}
