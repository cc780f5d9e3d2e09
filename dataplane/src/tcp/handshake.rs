//! From the first SYN to an open connection (RFC 9293 section 3.5).

use super::congestion::Congestion;
use super::core::{Bits, Core, Digest, Due, MIN_MSS, State};
use super::input::Effects;
use super::isn::Origin;
use super::output::Turn;
use super::segment::{Arrived, Flags, OptionBytes, Options, Timestamps};
use super::seq::{Coarse, Micros};
use super::shared::{Shared, bare};
use super::stack::{Closed, Out, Sent};
use crate::net::Path;

/// RFC 7323 section 2.3: a larger shift is taken for this one.
const MAX_SCALE: u8 = 14;

impl Core {
    /// A connection that we begin; its SYN is to be sent.
    pub(crate) fn dial(
        digest: &Digest,
        now: Micros,
        path: Path,
        local_port: u16,
        peer_port: u16,
        origin: Origin,
    ) -> Self {
        let mut core = Self::new(path, local_port, peer_port, State::SynSent);
        core.begin(now, origin);
        core.bits.set(Bits::DIALLED);
        if digest.config.ecn {
            core.bits.set(Bits::ASK_ECN);
        }
        core.our_scale = digest.scale;
        core
    }

    /// A connection that a peer's SYN begins; a SYN-ACK is to be sent.
    pub(crate) fn accept(
        digest: &Digest,
        now: Micros,
        path: &Path,
        syn: &Arrived<'_>,
        origin: Origin,
    ) -> Self {
        let mut core = Self::new(*path, syn.local_port, syn.peer_port, State::SynReceived);
        core.begin(now, origin);
        core.our_scale = digest.scale;
        core.agree(digest, syn);
        // RFC 3168 section 6.1.1: both bits in the SYN ask for ECN; ECE alone in the SYN-ACK agrees.
        let asks = syn.flags.has(Flags(Flags::ECE.0 | Flags::CWR.0));
        if asks && digest.config.ecn {
            core.bits.set(Bits::ECN);
        }
        core
    }

    /// The SYN-ACK was a cookie: nothing is to be sent, and when it was is not known.
    pub(crate) fn forget_syn(&mut self) {
        self.bits.clear(Bits::SYN);
        self.bits.set(Bits::COOKIE);
    }

    fn begin(&mut self, now: Micros, origin: Origin) {
        self.origin = origin.isn.plus(1);
        self.clock = origin.clock;
        self.bits.set(Bits::SYN);
        (self.heard_at, self.progress_at) = (Coarse::new(now), Coarse::new(now));
    }

    /// What both SYNs agree on.
    pub(crate) fn agree(&mut self, digest: &Digest, syn: &Arrived<'_>) {
        self.next = syn.seq.plus(1);
        self.acked = self.next;
        // RFC 7323 section 2.2: the window of a SYN is not scaled.
        let first_window = digest.config.receive_window.min(0xffff);
        self.edge = self.next.plus(first_window);
        self.agree_options(digest, &syn.options);
        self.window = u32::from(syn.window);
        self.max_window = self.window;
        self.window_seq = syn.seq;
    }

    /// RFC 7323 sections 2.2 and 3.2, RFC 2018 section 2: what both offer is used.
    pub(crate) fn agree_options(&mut self, digest: &Digest, options: &Options) {
        match options.scale {
            Some(scale) => {
                self.peer_scale = scale.min(MAX_SCALE);
                self.bits.set(Bits::SCALE);
            }
            None => (self.peer_scale, self.our_scale) = (0, 0),
        }
        if options.sack_permitted {
            self.bits.set(Bits::SACK);
        }
        if let Some(stamps) = options.timestamps {
            self.bits.set(Bits::TIMESTAMPS);
            self.recent = stamps.value;
        }
        self.mss = effective_mss(digest, &self.path, options);
        self.congestion = Congestion::new(self.mss(), digest.config.initial_window);
    }

    /// A segment in SYN-SENT (RFC 9293 section 3.10.7.3).
    pub(crate) fn answered<'a>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        arrived: &Arrived<'_>,
    ) -> Effects<'a> {
        let mut effects = Effects { ended: true, ..Effects::nothing() };
        let acknowledges = arrived.flags.has(Flags::ACK);
        if acknowledges && arrived.ack != self.origin {
            shared.refuse(&self.path, arrived);
            return effects;
        }
        if arrived.flags.has(Flags::RST) {
            if acknowledges {
                shared.stats.resets_in += 1;
                effects.closed = Some(Closed::Refused);
            }
            return effects;
        }
        if !arrived.flags.has(Flags::SYN) {
            return effects;
        }
        self.agree(&shared.digest, arrived);
        self.heard_at = Coarse::new(now);
        if !acknowledges {
            // Both began at once: now a SYN-ACK (RFC 9293 section 3.5, figure 7).
            self.state = State::SynReceived;
            self.bits.set(Bits::SYN);
            return effects;
        }
        if self.bits.has(Bits::ASK_ECN) && arrived.flags.has(Flags::ECE) && !arrived.flags.has(Flags::CWR) {
            self.bits.set(Bits::ECN);
        }
        self.establish(now, arrived);
        self.ack_now();
        (effects.opened, effects.believed) = (true, true);
        effects
    }

    /// The SYN or the SYN-ACK.
    pub(crate) fn transmit_syn<S>(
        &mut self,
        shared: &mut Shared,
        now: Micros,
        out: &mut impl Out<S>,
        state: &mut S,
    ) -> Turn {
        let answer = self.state == State::SynReceived;
        let mut segment = bare(&self.path, self.local_port, self.peer_port);
        segment.seq = self.origin.minus(1);
        segment.flags = Flags::SYN;
        if answer {
            segment.flags |= Flags::ACK;
            segment.ack = self.next;
        }
        if answer && self.bits.has(Bits::ECN) {
            segment.flags |= Flags::ECE;
        }
        // RFC 3168 section 6.1.1.1: a SYN that asks for ECN may be lost because of that; the next one does not ask.
        if !answer && self.bits.has(Bits::ASK_ECN) && self.backoff == 0 {
            segment.flags |= Flags(Flags::ECE.0 | Flags::CWR.0);
        }
        let window = shared.digest.config.receive_window.min(0xffff);
        segment.window = u16::try_from(window).unwrap_or(u16::MAX);
        segment.options = self.syn_options(shared, now, answer);
        segment.again = self.backoff > 0;
        if out.segment(&segment, state) != Sent::Yes {
            return Turn::Full;
        }
        shared.stats.segments_out += 1;
        self.bits.clear(Bits::SYN);
        self.bits.clear(Bits::ACK_NOW);
        // The SYN is the newest of what was sent, and will be the first that is delivered.
        self.newest.sent = now;
        self.sent_at = Coarse::new(now);
        if self.due == Due::Nothing {
            (self.due, self.due_at) = (Due::Retransmit, now + self.rto(&shared.digest));
        }
        Turn::Done
    }

    /// A SYN offers all; a SYN-ACK what the SYN offered.
    fn syn_options(&self, shared: &Shared, now: Micros, answer: bool) -> OptionBytes {
        let mut options = OptionBytes::new();
        options.mss(shared.digest.announced_mss(&self.path));
        if !answer || self.bits.has(Bits::SACK) {
            options.sack_permitted();
        }
        if !answer || self.bits.has(Bits::TIMESTAMPS) {
            options.timestamps(Timestamps { value: self.timestamp(now), echo: self.recent });
        }
        if !answer || self.bits.has(Bits::SCALE) {
            options.scale(shared.digest.scale);
        }
        options
    }
}

/// RFC 9293 section 3.7.1: the lesser of what the peer announced and what the path takes, less our options; without an
/// announcement 536 bytes over IPv4 and 1220 over IPv6.
pub(crate) fn effective_mss(digest: &Digest, path: &Path, options: &Options) -> u16 {
    let unsaid = if path.is_v4() { 536 } else { 1220 };
    let peer = options.mss.unwrap_or(unsaid).max(MIN_MSS);
    let mss = peer.min(digest.announced_mss(path));
    if options.timestamps.is_some() { mss - 12 } else { mss }
}
