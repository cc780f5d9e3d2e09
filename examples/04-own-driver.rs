//! A driver of one's own: a port whose cable is a UDP socket, a frame in each datagram. Try: cargo run --bin 04-own-driver
#![forbid(unsafe_code)]

use dataplane::{PortId, Tick, Worker, forward::MacSwap, worker::Member};
use drivers::{Caps, Copying, QueueCounters, QueuePair, checksum, wrap::Flatten};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::net::UdpSocket;

// ANCHOR: driver
struct Tunnel<'p> {
    pool: &'p Pool,
    socket: UdpSocket,
    caps: Caps,
    counters: QueueCounters,
}

impl<'p> QueuePair<'p> for Tunnel<'p> {
    fn receive(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        while burst.room() > 0 {
            let Some(mut frame) = self.pool.alloc() else { break };
            frame.grow(frame.tailroom()).expect("as much as there is");
            // An error is "nothing now": a UDP socket does not die. A device that can, latches a fault.
            let Ok(bytes) = self.socket.recv(&mut frame) else { break };
            if bytes == usize::from(frame.len()) {
                self.counters.receive_malformed += 1; // to the brim: the rest may be cut off
                continue;
            }
            frame.truncate(u16::try_from(bytes).expect("a frame is shorter than 2^16"));
            self.counters.received.add(frame.len(), false);
            burst.push(frame).expect("there is room");
        }
        burst.len() - before
    }

    fn transmit(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        while let Some(first) = burst.peek(0) {
            if first.continues() || first.is_empty() || u32::from(first.len()) > self.caps.packet_bytes {
                self.counters.unsendable += 1; // never: left in front it would block those behind it
                burst.drop_packet();
                continue;
            }
            self.counters.checksums_finished += u64::from(checksum::finish(burst));
            let Some(frame) = burst.peek(0).filter(|frame| self.socket.send(frame).is_ok()) else { break };
            self.counters.transmitted.add(frame.len(), false);
            burst.drop_packet();
        }
        before - burst.len()
    }

    fn tend(&mut self) {}

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}
// ANCHOR_END: driver

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::new(Arena::new(&ArenaPlan { frames: 64, ..ArenaPlan::default() })?);
    let (socket, peer) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    socket.set_nonblocking(true)?;
    socket.connect(peer.local_addr()?)?;
    peer.connect(socket.local_addr()?)?;
    let caps = Caps::basic("tunnel", "127.0.0.1", Copying::KernelCopies, pool.frame_size());
    let queue = Flatten::new(Tunnel { pool: &pool, socket, caps, counters: QueueCounters::default() }, &pool);
    let mut worker = Worker::new(&pool, vec![Member { port: PortId(0), queue }], MacSwap);

    peer.send(b"\x02to-me\x02from!\x88\xb5hello")?;
    worker.turn(Tick::default());
    let mut answer = [0; 64];
    let bytes = peer.recv(&mut answer)?;
    println!("{}\n{}", answer[..bytes].escape_ascii(), worker.books());
    Ok(())
}
