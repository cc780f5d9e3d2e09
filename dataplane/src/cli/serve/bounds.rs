//! What `ringway serve` takes from its clients.

use crate::cli::forward::seconds;
use clap::Args;
use dataplane::serve::http::{FIELDS_MAX, HEAD_BYTES_MAX, Limits};
use std::time::Duration;

/// What clients may do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What clients may do")]
pub(super) struct Bounds {
    /// Bytes of a request's head; a longer one is answered 431.
    #[arg(long, value_name = "BYTES", default_value_t = 8192,
        value_parser = clap::value_parser!(u32).range(64..=HEAD_BYTES_MAX as i64))]
    head_bytes: u32,
    /// Fields in a request's head; more are answered 431.
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=FIELDS_MAX as i64))]
    fields: u32,
    /// Bytes of a request's target (its path and query); a longer one is answered 414.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=HEAD_BYTES_MAX as i64))]
    target_bytes: u32,
    /// Bytes of a request's body, which is read and thrown away; after a longer one the connection is closed.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    body_bytes: u64,
    /// Requests on one connection, which is closed after the last; 0 for any number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    requests: u32,
    /// Connections at once from one address; more are answered 429.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    per_peer: u32,
    /// Seconds from the first byte of a head to its last; then 408.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    head_timeout: Duration,
    /// Seconds after which a connection without a request is closed.
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    idle_timeout: Duration,
    /// Seconds in which a client takes no byte of a response; then it is reset.
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    stall_timeout: Duration,
    /// Bytes a second that a client takes of a response at least, over each --stall-timeout; one that takes fewer is
    /// reset. 0 for any.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    least_rate: u64,
    /// Seconds of silence after which TCP asks whether a client is still there; after four questions without an answer, a
    /// quarter of this apart, it is not. 0 for never. Shorter than --idle-timeout it also finds those that vanished.
    #[arg(long, value_name = "S", default_value = "120", value_parser = seconds)]
    keepalive: Duration,
}

impl Bounds {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            head_bytes: self.head_bytes as usize,
            fields: self.fields as usize,
            target_bytes: self.target_bytes as usize,
            body_bytes: self.body_bytes,
            requests: self.requests,
            head_time: self.head_timeout,
            idle_time: self.idle_timeout,
            stall_time: self.stall_timeout,
            read_rate: self.least_rate,
            connections_per_peer: self.per_peer,
        }
    }

    /// After how much silence TCP asks.
    pub(super) fn keepalive(&self) -> Option<Duration> {
        Some(self.keepalive).filter(|silence| !silence.is_zero())
    }
}
