//! Packets with pages behind their head.

use super::header::HEADER;
use super::queue::VirtioQueue;
use super::ring::{Access, Buffer, Ring};
use super::table::{self, LONGEST, SHORTEST};
use super::transport::Transport;
use crate::checksum;
use crate::queue::Gather;
use crate::rings;
use ringbuf::{Frame, Packets, Page};

impl<'p, R: Ring, T: Transport> Gather<'p> for VirtioQueue<'p, R, T> {
    /// Pages go straight from the arena, as further descriptors of the packet (§2.7.5 calls it a chain).
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
            let table = self.tables.is_some() && (SHORTEST..=LONGEST).contains(&buffers);
            if !self.has_room(if table { 1 } else { buffers }) {
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
            if table {
                self.post_table(head, pages, buffers);
                continue;
            }
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

impl<'p, R: Ring, T: Transport> VirtioQueue<'p, R, T> {
    /// Posts a packet by a table; there is room, and the header is in front of the head.
    fn post_table(&mut self, head: Frame<'p>, pages: impl Iterator<Item = Page<'p>>, buffers: usize) {
        let Some(tables) = &self.tables else { return };
        let (offset, len) = (head.offset() - u64::from(HEADER), u32::from(head.len() + HEADER));
        let id = self.sent.claim_frame(head);
        let (table, address) = tables.of(id);
        let mut places = table.iter().take(buffers).zip(0u16..);
        let last = |index: u16| usize::from(index) + 1 == buffers;
        if let Some((place, index)) = places.next() {
            table::put::<R>(place, self.addresses.of(offset), len, index, last(index));
        }
        let mut listed = 0;
        for ((page, (place, index)), note) in pages.zip(places).zip(self.sent.list(id)) {
            let len = u32::try_from(page.len()).unwrap_or(0);
            // Of this pool, as was seen before.
            let Ok(offset) = self.pool.depart_page(page) else { break };
            (*note, listed) = (offset, index);
            table::put::<R>(place, self.addresses.of(offset), len, index, last(index));
        }
        self.sent.listed(id, listed);
        self.transmit.post_table(id, address, u32::try_from(16 * buffers).unwrap_or(0));
        self.posted = true;
    }
}
