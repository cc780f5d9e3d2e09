//! What a stack is told at its start.

use std::time::Duration;

/// What the ports can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest IP packet, headers included.
    pub mtu: u16,
    /// Bytes of payload that one [`Segment`](super::Segment) may carry when the device, or the writer, cuts it (TSO);
    /// what is below one segment's payload means that nothing is cut.
    pub largest_segment: u32,
}

/// When to answer a SYN with a cookie instead of keeping a connection (RFC 4987 section 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookies {
    /// Never: a SYN that finds no room is dropped.
    Off,
    /// When the half-open connections are at their limit, or the stack is full.
    UnderPressure,
    /// To each SYN: for tests.
    Always,
}

/// Probing of peers that say nothing (RFC 9293 section 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a peer may say nothing before it is probed.
    pub idle: Duration,
    /// Between two probes.
    pub interval: Duration,
    /// Probes without an answer after which the connection is given up.
    pub probes: u8,
}

/// What a [`Stack`](super::Stack) is told at its start. All memory is reserved then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Connections at once, at most.
    pub max_connections: u32,
    /// Connections that peers began and did not complete, at most.
    pub half_open: u32,
    /// Connections in TIME-WAIT, at most; the oldest gives way.
    pub time_wait: u32,
    /// Answers without a connection (resets, cookies) waiting for the next `transmit`, at most.
    pub replies: u32,
    /// Blocks for what is in flight: a connection that has more in flight than two bursts borrows one.
    pub run_blocks: u32,
    /// Blocks for bytes that came out of order or were not consumed yet.
    pub receive_blocks: u32,
    /// Bytes of each of them.
    pub receive_block_bytes: u32,
    /// Bytes that a peer may send ahead. More than a block is for applications that consume at once.
    pub receive_window: u32,
    /// What the ports can carry.
    pub limits: Limits,
    /// Bytes that a connection may send before it is the next one's turn.
    pub quantum: u32,
    /// Segments of the initial window (RFC 6928: 10).
    pub initial_window: u8,
    /// How long an acknowledgement may wait for company (RFC 9293 section 3.8.6.3: below 500 ms). Linux's least is 40 ms.
    pub delayed_ack: Duration,
    /// The shortest retransmission timeout. RFC 6298 section 2.4 asks for 1 s; 200 ms is what Linux does.
    pub min_rto: Duration,
    /// How long something may stay unacknowledged (RFC 9293 section 3.8.3: R2, at least 100 s).
    pub give_up: Duration,
    /// How often a SYN or a SYN-ACK is sent again. RFC 9293 section 3.8.3 asks for 3 minutes; 5 times is Linux's for
    /// SYN-ACKs: 63 s.
    pub syn_retries: u8,
    /// How long TIME-WAIT lasts: two segment lifetimes (RFC 9293 section 3.6.1). 60 s is what Linux does.
    pub time_wait_for: Duration,
    /// How long to wait for the peer's FIN after ours was acknowledged, when nothing comes. Linux: 60 s.
    pub fin_wait_for: Duration,
    /// Probing of peers that say nothing.
    pub keepalive: Option<Keepalive>,
    /// When to answer with cookies.
    pub cookies: Cookies,
    /// Whether to offer and accept ECN (RFC 3168).
    pub ecn: bool,
    /// Whether to spread a window over its round trip instead of sending it in one go.
    pub pacing: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 16 << 10,
            half_open: 1 << 10,
            time_wait: 16 << 10,
            replies: 256,
            run_blocks: 2 << 10,
            receive_blocks: 512,
            receive_block_bytes: 64 << 10,
            receive_window: 64 << 10,
            limits: Limits { mtu: 1500, largest_segment: 0 },
            quantum: 64 << 10,
            initial_window: 10,
            delayed_ack: Duration::from_millis(40),
            min_rto: Duration::from_millis(200),
            give_up: Duration::from_secs(120),
            syn_retries: 5,
            time_wait_for: Duration::from_secs(60),
            fin_wait_for: Duration::from_secs(60),
            keepalive: None,
            cookies: Cookies::UnderPressure,
            ecn: true,
            pacing: true,
        }
    }
}
