//! Act one: the kernel's own TCP and UDP from the left host to the right one, through `ringway forward`, driver by driver.

use super::forwarder::Forwarder;
use super::measured::{Losses, Measured, QueueMode, Row, rates};
use super::{DemoError, DemoPlan};
use crate::lab::counters::{counters, full_sockets};
use crate::lab::traffic::{tcp_for, udp_for};
use crate::lab::{Lab, Outcome, Side};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    Tcp,
    Udp,
}

impl Traffic {
    const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Tcp => "a TCP transfer",
            Self::Udp => "a burst of small UDP datagrams",
        }
    }
}

/// Bytes of UDP payload: with its headers the shortest frame that Ethernet has, 60 bytes without the check sequence.
const PAYLOAD: usize = 18;

/// How many steps the act has.
pub(super) fn steps(plan: &DemoPlan) -> u32 {
    u32::try_from(plan.drivers.len() * Traffic::ALL.len()).unwrap_or(u32::MAX)
}

/// A forwarder of its own for each row: its books are then those of that traffic alone.
pub(super) fn act(
    lab: &Lab,
    plan: &DemoPlan,
    next: &mut dyn FnMut(String),
    stop: &AtomicBool,
) -> Result<Vec<Row>, DemoError> {
    let mut rows = Vec::new();
    for driver in &plan.drivers {
        for traffic in Traffic::ALL {
            next(format!("{driver}: {}", traffic.words()));
            let measured = measure(lab, plan, driver, traffic, stop);
            if stop.load(Ordering::Relaxed) {
                return Err(DemoError::Stopped);
            }
            let (measured, error) = match measured {
                Ok(measured) => (Some(measured), None),
                Err(error) => (None, Some(error.to_string())),
            };
            rows.push(Row { driver: driver.clone(), traffic: traffic.name().to_owned(), error, measured });
        }
    }
    Ok(rows)
}

/// What the sockets saw.
struct Sockets {
    unit: &'static str,
    sent: u64,
    arrived: u64,
    /// The time of the sending.
    time: Duration,
    hash_ok: bool,
    hashes: Option<[String; 2]>,
}

fn measure(
    lab: &Lab,
    plan: &DemoPlan,
    driver: &str,
    traffic: Traffic,
    stop: &AtomicBool,
) -> Outcome<Measured> {
    let before = Fallen::read(lab)?;
    let forwarder = Forwarder::start(lab, &plan.program, driver, stop)?;
    let sockets = match traffic {
        Traffic::Tcp => tcp(lab, plan.time, stop),
        Traffic::Udp => udp(lab, plan.time, stop),
    };
    // Also when the traffic failed: what the forwarder says of it is the better sentence.
    let last = forwarder.finish()?;
    let sockets = sockets?;
    let fallen = Fallen::read(lab)?.since(before);
    Ok(put_together(traffic, sockets, fallen, &last))
}

fn tcp(lab: &Lab, time: Duration, stop: &AtomicBool) -> Outcome<Sockets> {
    let transfer = tcp_for(lab, Side::Left, time, 0x52_57, stop)?;
    Ok(Sockets {
        unit: "bytes",
        sent: transfer.sent_bytes,
        arrived: transfer.bytes,
        time: transfer.took,
        hash_ok: transfer.intact() && transfer.bytes > 0,
        hashes: Some([transfer.sent, transfer.received].map(|hash| format!("{hash:016x}"))),
    })
}

fn udp(lab: &Lab, time: Duration, stop: &AtomicBool) -> Outcome<Sockets> {
    let flood = udp_for(lab, Side::Left, PAYLOAD, time, stop)?;
    Ok(Sockets {
        unit: "datagrams",
        sent: flood.sent.into(),
        arrived: flood.arrived.distinct.into(),
        time: flood.took,
        // Each datagram is compared with what its number says it must be.
        hash_ok: flood.arrived.damaged == 0 && flood.arrived.repeated == 0 && flood.arrived.distinct > 0,
        hashes: None,
    })
}

/// What the kernel let fall so far, in the places where a packet can be lost outside the forwarder.
#[derive(Clone, Copy)]
struct Fallen {
    /// By the hosts' ends of the cables, because the forwarder's end was full.
    cable_in: u64,
    /// By the forwarder's ends, because a host's was.
    cable_out: u64,
    /// By the receiving socket.
    socket: u64,
}

impl Fallen {
    fn read(lab: &Lab) -> Outcome<Self> {
        let (mut cable_in, mut cable_out) = (0, 0);
        for side in Side::BOTH {
            cable_in += counters(lab.host(side), side.interface())?.tx.dropped;
            cable_out += counters(lab.middle(), side.port())?.tx.dropped;
        }
        Ok(Self { cable_in, cable_out, socket: full_sockets(lab.host(Side::Right))? })
    }

    fn since(self, before: Self) -> Self {
        Self {
            cable_in: self.cable_in.saturating_sub(before.cable_in),
            cable_out: self.cable_out.saturating_sub(before.cable_out),
            socket: self.socket.saturating_sub(before.socket),
        }
    }
}

/// Sockets, kernel and forwarder, each by its own count.
fn put_together(traffic: Traffic, sockets: Sockets, fallen: Fallen, last: &Value) -> Measured {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let ports = last["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let queues = || ports.iter().flat_map(|port| port["queues"].as_array().into_iter().flatten());
    let sum = |name: &str| queues().map(|queue| number(&queue[name])).sum::<u64>();
    let books = last["books"].clone();
    let found = Losses {
        cable_in: fallen.cable_in,
        missed: sum("receive_missed") + sum("receive_malformed"),
        discarded: number(&books["discarded"]),
        unsendable: number(&books["unsendable"]),
        // The driver is told of most of what the cable drops: the larger count contains the other.
        cable_out: fallen.cable_out.max(sum("transmit_dropped")),
        receiver_socket: fallen.socket,
        unexplained: 0,
    };
    let losses = match traffic {
        Traffic::Tcp => found,
        Traffic::Udp => found.out_of(sockets.sent.saturating_sub(sockets.arrived)),
    };
    let lost = match traffic {
        Traffic::Tcp => losses.sum(),
        Traffic::Udp => sockets.sent.saturating_sub(sockets.arrived),
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
