//! One row of the table: what was sent, what arrived, and where the rest went.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// One driver with one kind of traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The driver, as it is named on the command line.
    pub driver: String,
    /// `tcp`, `udp`, `site`, `file`, or the size of the frames.
    pub traffic: String,
    /// Why there is nothing measured, when there is nothing.
    pub error: Option<String>,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Option<Measured>,
}

impl Row {
    /// What came of a run.
    pub(super) fn of(driver: &str, traffic: &str, measured: crate::lab::Outcome<Measured>) -> Self {
        let (measured, error) = match measured {
            Ok(measured) => (Some(measured), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { driver: driver.to_owned(), traffic: traffic.to_owned(), error, measured }
    }

    /// Whether content and books are in order.
    #[must_use]
    pub fn in_order(&self) -> bool {
        let sound = |measured: &Measured| measured.hash_ok && measured.balance && measured.frames_home;
        self.error.is_none() && self.measured.as_ref().is_some_and(sound)
    }
}

/// What one run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The time that the rates are over.
    pub seconds: f64,
    /// Packets that ringway sent: a forwarder both ways, a server to its clients.
    pub packets: u64,
    /// Bytes of them, Ethernet headers included.
    pub bytes: u64,
    /// Millions of packets a second.
    pub mpps: f64,
    /// Thousand millions of bits a second.
    pub gbps: f64,
    /// What `sent` and `arrived` count: `bytes`, `datagrams` or `frames`.
    pub unit: &'static str,
    /// What the sender sent.
    pub sent: u64,
    /// What arrived.
    pub arrived: u64,
    /// Packets lost on the way. TCP sends them again.
    pub lost: u64,
    /// Where.
    pub losses: Losses,
    /// Packets that ringway discarded, by reason.
    pub discarded: BTreeMap<String, u64>,
    /// Whether all that arrived is what was sent: the whole stream with TCP, each datagram with UDP, each file when served.
    pub hash_ok: bool,
    /// The hash of what was sent and of what arrived, where the whole is hashed.
    pub hashes: Option<[String; 2]>,
    /// Ringway's books.
    pub books: Value,
    /// Whether they balance.
    pub balance: bool,
    /// Whether each frame of its memory was home in the end.
    pub frames_home: bool,
    /// How each queue really ran.
    pub queues: Vec<QueueMode>,
    /// What the server says, where files were served.
    pub served: Option<Served>,
}

/// A server's part of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Served {
    /// Requests that the clients made and that were answered in full.
    pub requests: u64,
    /// A second.
    pub requests_per_second: f64,
    /// Bytes of files that ringway copied into frames on purpose, being short pieces.
    pub copied_bytes: u64,
    /// Bytes of files that queues were given as pages, where they lie.
    pub gathered_bytes: u64,
    /// Bytes copied after all, headers too, since the device cannot gather.
    pub flattened_bytes: u64,
    /// Bytes read from files, once each unless the memory was too small.
    pub loaded_bytes: u64,
    /// Segments that TCP sent a second time.
    pub sent_again: u64,
}

impl Served {
    /// Of the content that was sent, the part that ringway did not copy, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "shown in per cent")]
    pub fn gathered_share(&self) -> f64 {
        let all = self.copied_bytes + self.gathered_bytes;
        self.gathered_bytes.saturating_sub(self.flattened_bytes) as f64 / all.max(1) as f64
    }
}

/// Where packets were lost, in the order of their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// On the cable into the forwarder, whose end was full.
    pub cable_in: u64,
    /// At the forwarder's receive ring, which was full.
    pub missed: u64,
    /// In the forwarder, for a reason that it names.
    pub discarded: u64,
    /// In the forwarder: never sendable.
    pub unsendable: u64,
    /// On the cable out of the forwarder, whose end was full.
    pub cable_out: u64,
    /// In the receiving program's own socket, after they were delivered.
    pub receiver_socket: u64,
    /// None of these.
    pub unexplained: u64,
}

impl Losses {
    /// Name, number and words for each.
    #[must_use]
    pub const fn each(&self) -> [(u64, &'static str); 7] {
        [
            (self.cable_in, "on the cable into ringway, whose end was full"),
            (self.missed, "at ringway's receive ring, which was full"),
            (self.discarded, "discarded by ringway, for the reasons in the table"),
            (self.unsendable, "refused by ringway as never sendable"),
            (self.cable_out, "on the cable out of ringway, whose end was full"),
            (
                self.receiver_socket,
                "in the receiving program's own socket buffer, after ringway had delivered them",
            ),
            (self.unexplained, "unexplained"),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.each().iter().map(|(count, _)| count).sum()
    }

    /// Puts what `lost` counts and no place names under unexplained.
    #[must_use]
    pub fn out_of(mut self, lost: u64) -> Self {
        self.unexplained = lost.saturating_sub(self.sum());
        self
    }
}

/// How one queue ran, read back from the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueMode {
    /// The interface.
    pub device: String,
    /// Its queue.
    pub queue: u64,
    /// Who moves the bytes: `zero-copy`, `copy`, `ring-copy`, `in-memory`.
    pub copying: String,
    /// The rest, in words.
    pub mode: String,
}

/// Packets and bits a second, in millions and thousand millions.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "rates are rounded to three digits anyway")]
pub(super) fn rates(packets: u64, bytes: u64, time: Duration) -> (f64, f64) {
    let seconds = time.as_secs_f64().max(1e-9);
    (packets as f64 / seconds / 1e6, bytes as f64 * 8.0 / seconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_place_names_is_unexplained() {
        let losses = Losses { cable_in: 3, receiver_socket: 4, ..Losses::default() };
        assert_eq!(losses.out_of(10).unexplained, 3);
        assert_eq!(losses.out_of(10).sum(), 10);
        assert_eq!(losses.out_of(6).unexplained, 0);
    }
}
