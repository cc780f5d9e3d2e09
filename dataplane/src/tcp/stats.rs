//! What is counted. Plain numbers of one worker; published by whoever owns the stack.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of one stack, all since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Stats {
            /// Each counter with its name, in the order of the fields.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }

            /// What each of them means, in the same order.
            pub fn meanings() -> impl Iterator<Item = &'static str> {
                [$(concat!($($doc),+).trim_ascii(),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Segments that came.
    segments_in,
    /// Segments handed out and taken; one that the device cuts counts once.
    segments_out,
    /// Bytes of payload that came in order, for the first time.
    bytes_in,
    /// Bytes of payload handed out, again or not.
    bytes_out,
    /// Segments that were none (see `segment::Malformed`).
    malformed,
    /// Connections opened by peers.
    accepted,
    /// Connections opened by us.
    dialled,
    /// Connections that were established.
    established,
    /// Connections that ended in order.
    finished,
    /// Connections that a peer reset.
    resets_in,
    /// Resets sent.
    resets_out,
    /// Connections given up because nothing was acknowledged, or no keepalive answered.
    timed_out,
    /// Connections reset because their content changed.
    content_gone,
    /// SYNs dropped because there was no room for a connection and cookies were off.
    syn_dropped,
    /// SYNs answered with a cookie (RFC 4987).
    cookies_sent,
    /// Cookies that came back right.
    cookies_accepted,
    /// Acknowledgements to a listening port that were no cookie of ours.
    cookies_bad,
    /// Segments outside of the window (RFC 9293 section 3.10.7.4).
    out_of_window,
    /// Segments older than what came before (PAWS, RFC 7323 section 5).
    paws,
    /// Challenge acknowledgements sent (RFC 5961).
    challenge_acks,
    /// Challenge acknowledgements held back by the limit.
    challenge_limited,
    /// Acknowledgements of what was never sent.
    ack_ahead,
    /// Segments whose bytes were all known.
    duplicates_in,
    /// Segments that came out of order and were kept.
    out_of_order,
    /// Segments or bytes that came out of order and found no room.
    out_of_order_dropped,
    /// In-order bytes that were not consumed and found no room; the peer sends them again.
    unread_dropped,
    /// Segments sent again because they were found lost by RACK or by duplicate acknowledgements.
    retransmits_fast,
    /// Segments sent again after the retransmission timer.
    retransmits_timeout,
    /// Tail loss probes sent (RFC 8985 section 7).
    tail_probes,
    /// Retransmission timers that fired.
    timeouts,
    /// Retransmission timeouts that turned out to be spurious, and were undone.
    timeouts_undone,
    /// Times that fast recovery began.
    recoveries,
    /// Times that the peer echoed a congestion mark and we slowed down (RFC 3168).
    ecn_reductions,
    /// Packets that came with a congestion mark.
    ecn_marked,
    /// Window probes sent (RFC 9293 section 3.8.6.1).
    window_probes,
    /// Keepalive probes sent (RFC 9293 section 3.8.4).
    keepalives,
    /// SACK blocks or duplicates reported that made no sense.
    sack_bad,
    /// Duplicates that the peer reported (RFC 2883).
    dsacks,
    /// Path MTUs that became smaller because of an ICMP message.
    pmtu_lowered,
    /// Path MTUs taken to be smaller because long segments went unanswered, and no ICMP message came (RFC 4821).
    pmtu_black_holes,
    /// ICMP messages about connections or bytes that are not there.
    icmp_ignored,
    /// Times that a peer's segments began to come from another MAC address, and answers to go there.
    peers_moved,
    /// Answers without a connection that found no room in their queue.
    replies_dropped,
    /// Entries of TIME-WAIT dropped early for newer ones.
    time_wait_dropped,
    /// Connections reopened by a SYN in TIME-WAIT (RFC 9293 section 3.6.1).
    time_wait_reused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_name() {
        let stats = Stats { paws: 3, ..Stats::default() };
        assert_eq!(stats.each().find(|(name, _)| *name == "paws"), Some(("paws", 3)));
        assert_eq!(stats.each().map(|(_, value)| value).sum::<u64>(), 3);
        let place = stats.each().position(|(name, _)| name == "finished").expect("a counter");
        assert_eq!(Stats::meanings().nth(place), Some("Connections that ended in order."));
    }
}
