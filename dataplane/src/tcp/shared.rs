//! What all connections of a stack use together.

use super::core::{Core, Digest};
use super::isn::{self, Origin};
use super::reassembly::Buffers;
use super::scoreboard::Blocks;
use super::segment::{Arrived, Flags, OptionBytes, Segment, Timestamps};
use super::seq::{Micros, Seq};
use super::stats::Stats;
use super::table::{Key, Secret};
use super::time_wait::TimeWait;
use super::timers::NOBODY;
use crate::net::{Ecn, Path};
use std::collections::VecDeque;

/// Pools, counters, secrets, and answers that belong to no connection.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) digest: Digest,
    pub(crate) stats: Stats,
    pub(crate) blocks: Blocks,
    pub(crate) buffers: Buffers,
    pub(crate) waiting: TimeWait,
    pub(crate) replies: VecDeque<Segment>,
    origins: Secret,
    pub(crate) cookies: Secret,
    /// When the last cookie was sent; zero for never.
    pub(crate) cookie_at: Micros,
    /// The number of the last turn that a connection has had.
    turn: u32,
}

impl Shared {
    pub(crate) fn new(digest: Digest, secret: [u8; 16]) -> Self {
        let config = &digest.config;
        Self {
            digest,
            stats: Stats::default(),
            blocks: Blocks::new(config.run_blocks),
            buffers: Buffers::new(config.receive_blocks, config.receive_block_bytes),
            waiting: TimeWait::new(config.time_wait, Secret::derive(secret, 2)),
            replies: VecDeque::with_capacity(config.replies as usize),
            origins: Secret::derive(secret, 1),
            cookies: Secret::derive(secret, 3),
            cookie_at: 0,
            turn: 0,
        }
    }

    /// The number of a connection's next turn, never zero.
    #[inline]
    pub(crate) fn next_turn(&mut self) -> u32 {
        self.turn = self.turn.checked_add(1).unwrap_or(1);
        self.turn
    }

    pub(crate) fn origin(&self, key: &Key, now: Micros) -> Origin {
        isn::origin(&self.origins, key, now)
    }

    /// Queues an answer that belongs to no connection; when there is no room it is as if the network had lost it.
    pub(crate) fn reply(&mut self, segment: Segment) {
        if self.replies.len() < self.digest.config.replies as usize {
            self.replies.push_back(segment);
        } else {
            self.stats.replies_dropped += 1;
        }
    }

    /// Answers a segment that no connection is there for with a reset (RFC 9293 section 3.10.7.1).
    pub(crate) fn refuse(&mut self, path: &Path, arrived: &Arrived<'_>) {
        if arrived.flags.has(Flags::RST) {
            return;
        }
        let mut segment = bare(path, arrived.local_port, arrived.peer_port);
        if arrived.flags.has(Flags::ACK) {
            (segment.seq, segment.flags) = (arrived.ack, Flags::RST);
        } else {
            segment.ack = arrived.seq.plus(arrived.sequence_length());
            segment.flags = Flags::RST | Flags::ACK;
        }
        self.stats.resets_out += 1;
        self.reply(segment);
    }

    /// Resets a connection of ours (RFC 9293 section 3.10.5).
    pub(crate) fn abort(&mut self, core: &Core, now: Micros) {
        let mut segment = bare(&core.path, core.local_port, core.peer_port);
        (segment.seq, segment.ack) = (core.seq_of(core.board.nxt), core.next);
        segment.flags = Flags::RST | Flags::ACK;
        if core.bits.has(super::core::Bits::TIMESTAMPS) {
            let value = isn::timestamp(now, core.clock);
            segment.options.timestamps(Timestamps { value, echo: core.recent });
        }
        self.stats.resets_out += 1;
        self.reply(segment);
    }

    /// Gives back what a connection has borrowed.
    pub(crate) fn release(&mut self, core: &mut Core) {
        core.board.release(&mut self.blocks);
        if core.buffer != NOBODY {
            self.buffers.give_back(core.buffer);
            core.buffer = NOBODY;
        }
    }
}

/// A segment with nothing in it.
pub(crate) const fn bare(path: &Path, local_port: u16, peer_port: u16) -> Segment {
    Segment {
        path: *path,
        local_port,
        peer_port,
        seq: Seq(0),
        ack: Seq(0),
        flags: Flags::NONE,
        window: 0,
        options: OptionBytes::new(),
        ecn: Ecn::NotCapable,
        payload: 0..0,
        mss: u16::MAX,
        again: false,
        turn: 0,
    }
}
