//! What a client may ask of us, as values.

use std::time::Duration;

/// Limits and times of HTTP. The parser keeps those in bytes and numbers; whoever owns the connections keeps the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head, its empty line included. More is answered 431.
    pub head_bytes: usize,
    /// Fields in a head, at most [`FIELDS_MAX`]. More is answered 431.
    pub fields: usize,
    /// Bytes of the request target. More is answered 414.
    pub target_bytes: usize,
    /// Bytes of a request's body that are read and thrown away so that the connection can go on; framing counts.
    /// A longer body ends the connection after the answer.
    pub body_bytes: u64,
    /// Requests on one connection; after the last it is closed. 0: no limit.
    pub requests: u32,
    /// From the first byte of a head to its last, and for the whole of a body that is thrown away.
    pub head_time: Duration,
    /// Between requests, and before the first.
    pub idle_time: Duration,
    /// How long a response may make no progress at all before the connection is reset; and a body that is stored, before
    /// that is given up (408).
    pub stall_time: Duration,
    /// A client that has taken fewer bytes a second than this, measured over [`stall_time`](Self::stall_time), is a
    /// slow reader, and is reset; one that has sent fewer of a body that is stored is a slow writer. 0: no limit.
    pub read_rate: u64,
    /// Connections of one address at once; more are refused. 0: no limit.
    pub connections_per_peer: u32,
}

/// The most bytes that [`Limits::head_bytes`] and [`Limits::target_bytes`] should ask for: each connection may hold so
/// much twice.
pub const HEAD_BYTES_MAX: usize = 65_536;

/// The most fields that [`Limits::fields`] can ask for.
pub const FIELDS_MAX: usize = 100;

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 8192,
            fields: 64,
            target_bytes: 4096,
            body_bytes: 65_536,
            requests: 0,
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(30),
            read_rate: 0,
            connections_per_peer: 0,
        }
    }
}

/// What a connection waits for from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The first byte of a request.
    Request,
    /// The rest of a head.
    Head,
    /// The rest of a body that is thrown away.
    Body,
    /// The rest of a body that is stored.
    Upload,
    /// That the client takes the response.
    Reader,
}

impl Limits {
    /// How long that may take.
    #[must_use]
    pub const fn time(&self, waiting: Waiting) -> Duration {
        match waiting {
            Waiting::Request => self.idle_time,
            Waiting::Head | Waiting::Body => self.head_time,
            Waiting::Upload | Waiting::Reader => self.stall_time,
        }
    }

    /// Whether a client that has taken, or sent, `bytes` in `time` is too slow. Not judged before
    /// [`stall_time`](Self::stall_time) has passed.
    #[must_use]
    pub fn is_slow_reader(&self, bytes: u64, time: Duration) -> bool {
        self.read_rate > 0
            && time >= self.stall_time
            && u128::from(bytes) * 1000 < u128::from(self.read_rate) * time.as_millis()
    }
}
