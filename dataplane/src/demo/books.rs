//! What one run came to: sockets, kernel and ringway, each by its own count.

use super::measured::{Losses, Measured, QueueMode, rates};
use crate::lab::counters::{counters, full_sockets};
use crate::lab::{Lab, Outcome, Side};
use serde_json::Value;
use std::time::Duration;

/// What the sockets saw.
pub(super) struct Sockets {
    pub(super) unit: &'static str,
    pub(super) sent: u64,
    pub(super) arrived: u64,
    /// The time of the sending.
    pub(super) time: Duration,
    pub(super) hash_ok: bool,
    pub(super) hashes: Option<[String; 2]>,
}

/// What becomes of a packet that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The transport sends it again.
    SentAgain,
    /// It is missing in the end.
    Missing,
}

/// What the kernel let fall so far, in the places where a packet can be lost outside of ringway.
#[derive(Clone, Copy)]
pub(super) struct Fallen {
    /// By the hosts' ends of the cables, because ringway's end was full.
    cable_in: u64,
    /// By ringway's ends, because a host's was.
    cable_out: u64,
    /// By the receiving socket.
    socket: u64,
}

impl Fallen {
    pub(super) fn read(lab: &Lab) -> Outcome<Self> {
        let (mut cable_in, mut cable_out) = (0, 0);
        for side in Side::BOTH {
            cable_in += counters(lab.host(side), side.interface())?.tx.dropped;
            cable_out += counters(lab.middle(), side.port())?.tx.dropped;
        }
        Ok(Self { cable_in, cable_out, socket: full_sockets(lab.host(Side::Right))? })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cable_in: self.cable_in.saturating_sub(before.cable_in),
            cable_out: self.cable_out.saturating_sub(before.cable_out),
            socket: self.socket.saturating_sub(before.socket),
        }
    }
}

/// Puts together what was counted; `last` is ringway's last event.
pub(super) fn put_together(lost: Lost, sockets: Sockets, fallen: Fallen, last: &Value) -> Measured {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let ports = last["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let queues = || ports.iter().flat_map(|port| port["queues"].as_array().into_iter().flatten());
    let sum = |name: &str| queues().map(|queue| number(&queue[name])).sum::<u64>();
    let books = last["books"].clone();
    let found = Losses {
        cable_in: fallen.cable_in,
        missed: sum("receive_missed") + sum("receive_malformed"),
        // What was for nobody here is no loss.
        discarded: number(&books["discarded"]).saturating_sub(number(&last["discarded"]["not-ours"])),
        unsendable: number(&books["unsendable"]),
        // The driver is told of most of what the cable drops: the larger count contains the other.
        cable_out: fallen.cable_out.max(sum("transmit_dropped")),
        receiver_socket: fallen.socket,
        unexplained: 0,
    };
    let losses = match lost {
        Lost::SentAgain => found,
        Lost::Missing => found.out_of(sockets.sent.saturating_sub(sockets.arrived)),
    };
    let lost = match lost {
        Lost::SentAgain => losses.sum(),
        Lost::Missing => sockets.sent.saturating_sub(sockets.arrived),
    };
    let (packets, bytes) = (sum("transmitted_packets"), sum("transmitted_bytes"));
    let (mpps, gbps) = rates(packets, bytes, sockets.time);
    let discarded = last["discarded"].as_object().into_iter().flatten();
    Measured {
        seconds: sockets.time.as_secs_f64(),
        packets,
        bytes,
        mpps,
        gbps,
        unit: sockets.unit,
        sent: sockets.sent,
        arrived: sockets.arrived,
        lost,
        losses,
        discarded: discarded.map(|(reason, count)| (reason.clone(), number(count))).collect(),
        hash_ok: sockets.hash_ok,
        hashes: sockets.hashes,
        balance: last["balance"] == true,
        frames_home: last["frames"]["total"] == last["frames"]["home"],
        books,
        queues: ports.iter().flat_map(modes).collect(),
        served: None,
    }
}

fn modes(port: &Value) -> Vec<QueueMode> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let queues = port["queues"].as_array().into_iter().flatten();
    queues
        .map(|queue| QueueMode {
            device: text(&port["device"]),
            queue: queue["queue"].as_u64().unwrap_or(0),
            copying: text(&queue["copying"]),
            mode: text(&queue["mode"]),
        })
        .collect()
}
