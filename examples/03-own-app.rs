//! An app of one's own: a host that answers ARP and ping, in the very frames that asked.
//!
//!     sudo target/debug/ringway lab up
//!     sudo target/debug/03-own-app af-xdp:rw-left 10.77.0.9 60 &
//!     sudo target/debug/ringway lab exec left -- ping 10.77.0.9
#![forbid(unsafe_code)]

use dataplane::ports::Port;
use dataplane::session::{Each, SessionPlan, session};
use dataplane::{App, Outbox, PortId, Reason, Tick};
use ringbuf::Burst;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

// ANCHOR: app
#[derive(Clone, Copy)]
struct Host {
    mac: [u8; 6],
    address: [u8; 4],
}

impl<'p> App<'p> for Host {
    fn handle(&mut self, _now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        // A packet may have several frames; the headers are in its first.
        while let Some(head) = burst.peek_mut(0) {
            if self.answer(head) {
                out.send_packet(from, burst);
            } else {
                out.discard_packet(burst, Reason::Filtered);
            }
        }
    }
}
// ANCHOR_END: app

impl Host {
    /// Turns a question for us into its answer, where it stands.
    fn answer(&self, frame: &mut [u8]) -> bool {
        if frame.len() < 42 {
            return false;
        }
        let is_ours = |at: usize| frame[at..at + 4] == self.address;
        match (frame[12], frame[13]) {
            // ARP (RFC 826): operation at 20; MAC and IPv4 address of the asker at 22, of the one asked for at 32.
            (8, 6) if frame[20..22] == [0, 1] && is_ours(38) => {
                frame.copy_within(22..32, 32);
                frame[21] = 2;
                frame[22..28].copy_from_slice(&self.mac);
                frame[28..32].copy_from_slice(&self.address);
            }
            // Echo (RFC 792): type 8 asks, 0 answers; the checksum grows by what the type lost (RFC 1624).
            (8, 0) if frame[14] == 0x45 && frame[23] == 1 && frame[34] == 8 && is_ours(30) => {
                frame[26..34].rotate_left(4);
                frame[34] = 0;
                let (sum, carry) = u16::from_be_bytes([frame[36], frame[37]]).overflowing_add(0x0800);
                frame[36..38].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
            }
            _ => return false,
        }
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&self.mac);
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, address, seconds] = args.as_slice() else { return Err("usage: PORT ADDRESS SECONDS".into()) };
    let port = Port::open(PortId(0), &port.parse()?)?;
    let host = Host { mac: [2, 0, 0, 0, 0, 9], address: address.parse::<Ipv4Addr>()?.octets() };
    let duration = Some(Duration::from_secs(seconds.parse()?));
    let plan = SessionPlan { duration, ..SessionPlan::default() };
    let ends = session(&[port], &plan, &Arc::default(), &Each(host), |_opened| true, |_, _| true)?;
    ends.iter().for_each(|end| println!("{}", end.last.books()));
    Ok(())
}
