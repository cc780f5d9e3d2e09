//! Packets with pages behind their head.

use super::header::HEADER;
use super::queue::VirtioQueue;
use super::ring::{Access, Buffer, Ring};
use super::transport::Transport;
use crate::checksum;
use crate::queue::Gather;
use crate::rings;
use ringbuf::Packets;

impl<'p, R: Ring, T: Transport> Gather<'p> for VirtioQueue<'p, R, T> {
    /// Pages go straight from the arena, as further descriptors of the packet (§2.7.5.3.1 calls it a list).
    fn gather(&mut self, packets: &mut Packets<'p>) -> usize {
        if self.fault.is_some() || !self.sends {
            return 0;
        }
        let waiting = packets.len();
        while let Some(front) = packets.front() {
            let (buffers, bytes) = (front.buffers(), front.bytes());
            if !rings::sendable(&front, self.pool, HEADER, &self.caps) {
                self.unsendable += 1;
                drop(packets.pop());
                continue;
            }
            if !self.has_room(buffers) {
                break;
            }
            let Some((head, pages)) = packets.front_mut() else { break };
            if self.caps.checksum {
                drop(pages);
            } else {
                self.checksums += u64::from(checksum::finish_packet(head, pages));
            }
            let says = self.head(head, bytes);
            let Some((head, pages)) = packets.pop_parts() else { break };
            if !says {
                self.unsendable += 1;
                continue;
            }
            self.transmitted.packets += 1;
            self.transmitted.bytes += bytes as u64;
            let mut count = 0;
            self.depart(head, &mut count);
            for page in pages {
                let len = u32::try_from(page.len()).unwrap_or(0);
                let Ok(offset) = self.pool.depart_page(page) else { continue };
                let address = self.addresses.of(offset);
                let id = self.sent.claim_page(offset);
                self.scratch[count] = Buffer { id, address, len, access: Access::Reads };
                count += 1;
            }
            self.post_chain(count);
        }
        self.transmit.publish();
        waiting - packets.len()
    }
}
