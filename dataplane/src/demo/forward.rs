//! Act one: the kernel's own TCP and UDP from the left host to the right one, through `ringway forward`, driver by driver.

use super::books::{Fallen, Lost, Sockets, put_together};
use super::measured::{Measured, Row};
use super::{DemoError, DemoPlan};
use crate::lab::process::Process;
use crate::lab::traffic::{tcp_for, udp_for};
use crate::lab::{Lab, Outcome, Side};
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
            rows.push(Row::of(driver, traffic.name(), measured));
        }
    }
    Ok(rows)
}

fn measure(
    lab: &Lab,
    plan: &DemoPlan,
    driver: &str,
    traffic: Traffic,
    stop: &AtomicBool,
) -> Outcome<Measured> {
    let before = Fallen::read(lab)?;
    let forwarder = forwarder(lab, plan, driver, stop)?;
    let sockets = match traffic {
        Traffic::Tcp => tcp(lab, plan.time, stop),
        Traffic::Udp => udp(lab, plan.time, stop),
    };
    // Also when the traffic failed: what the forwarder says of it is the better sentence.
    let last = forwarder.finish()?;
    let sockets = sockets?;
    let fallen = Fallen::read(lab)?.since(before);
    let lost = match traffic {
        Traffic::Tcp => Lost::SentAgain,
        Traffic::Udp => Lost::Missing,
    };
    Ok(put_together(lost, sockets, fallen, &last))
}

fn forwarder(lab: &Lab, plan: &DemoPlan, driver: &str, stop: &AtomicBool) -> Result<Process, String> {
    let ports = Side::BOTH.map(|side| format!("{driver}:{}", side.port()));
    let args = ["forward", "--port", &ports[0], "--port", &ports[1]].map(str::to_owned);
    Ok(Process::ringway(lab.middle(), &plan.program, &args, None, stop)?.0)
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
