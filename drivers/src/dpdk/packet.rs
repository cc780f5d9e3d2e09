//! Packets out of the ordinary: in several frames, with something left undone, in somebody else's memory, with pages.

use super::ffi::{self, CONTINUES, Foreign, SEGMENT_SHIFT, UNCHECKED, UNCUT, tx};
use super::herd::FRAMES;
use super::queue::DpdkQueue;
use crate::checksum::{self, headers};
use crate::error::Fault;
use crate::rings::{Descriptor, Front, all_of, arrive, front, sendable};
use ringbuf::{BURST, Burst, Frame, HEADROOM, Offload, Packets, Page, Segmentation};

const TCP: u8 = 6;
const TCP_FIELD: u16 = 16;
const UDP_FIELD: u16 = 6;

impl<'p> DpdkQueue<'p> {
    /// The careful half of receiving: from the first that is not plain, and then what lies in others' memory.
    #[cold]
    #[inline(never)]
    pub(super) fn receive_rest(&mut self, burst: &mut Burst<'p>) -> usize {
        let before = burst.len();
        let mut run = Burst::new();
        let room = burst.room().min(BURST);
        let filled = self.raw.receive(&mut self.scratch[..room]);
        for at in 0..filled {
            let descriptor = self.scratch[at];
            match arrive(self.pool, self.herd.loan, descriptor) {
                Ok(mut frame) => {
                    self.herd.lent(-1);
                    if run.is_empty() {
                        self.note(&mut frame, descriptor.options());
                    }
                    frame.set_continues(descriptor.options() & CONTINUES != 0);
                    self.received.add(frame.len(), frame.continues());
                    drop(run.push(frame));
                }
                Err(fault) => {
                    self.latch(fault);
                    break;
                }
            }
            if descriptor.options() & CONTINUES == 0 {
                // There is room: no more was asked for.
                burst.append(&mut run);
            }
        }
        while self.is_well()
            && let Some(foreign) = self.raw.foreign()
        {
            if !self.copy_foreign(foreign, burst) {
                break;
            }
        }
        burst.len() - before
    }

    /// Copies a packet out of somebody else's memory, and counts each byte; `false` when there is no room for it now.
    fn copy_foreign(&mut self, foreign: Foreign, burst: &mut Burst<'p>) -> bool {
        let first = usize::from(self.pool.frame_size() - HEADROOM.min(self.pool.frame_size() / 2));
        let bytes = foreign.bytes as usize;
        let frames = 1 + bytes.saturating_sub(first).div_ceil(self.pool.frame_size().into());
        if frames > BURST || frames > self.pool.arena().frames() as usize {
            self.raw.drop_foreign();
            self.malformed += 1;
            return true;
        }
        if frames > burst.room() || frames > self.pool.free() as usize {
            return false;
        }
        let mut at = 0;
        while at < bytes {
            let Some(mut frame) = self.pool.alloc() else { break };
            if at > 0 {
                frame.restart(0);
            }
            let part = (bytes - at).min(frame.tailroom().into());
            // Cut to the tailroom.
            if frame.grow(u16::try_from(part).unwrap_or(u16::MAX)).is_err() {
                break;
            }
            self.raw.read_foreign(u32::try_from(at).unwrap_or(0), &mut frame);
            if at == 0 {
                self.note(&mut frame, foreign.options);
            }
            at += part;
            frame.set_continues(at < bytes);
            self.received.add(frame.len(), frame.continues());
            drop(burst.push(frame));
        }
        self.copied_bytes += bytes as u64;
        self.raw.drop_foreign();
        true
    }

    /// The careful half of transmitting.
    #[cold]
    #[inline(never)]
    pub(super) fn transmit_rest(&mut self, burst: &mut Burst<'p>) {
        while self.is_well() && self.has_room() {
            let frames = match front(burst, &self.caps, 0) {
                Front::Empty => break,
                Front::Packet(frames) if all_of(self.pool, burst, frames) => frames as usize,
                Front::Packet(_) | Front::Unsendable => {
                    self.refuse(burst);
                    continue;
                }
            };
            let bytes: u32 =
                (0..frames).filter_map(|i| burst.peek(i)).map(|frame| u32::from(frame.len())).sum();
            let wish = burst.peek(0).and_then(Frame::offload);
            let offload = match self.leave(burst.peek(0), wish, bytes) {
                Leave::Nothing => None,
                Leave::Finish => {
                    self.checksums += u64::from(checksum::finish(burst));
                    None
                }
                Leave::Device(offload) => Some(offload),
                Leave::Never => {
                    self.refuse(burst);
                    continue;
                }
            };
            for part in &mut self.scratch[..frames] {
                let Some(frame) = burst.pop() else { break };
                let (offset, len, continues) = (frame.offset(), frame.len(), frame.continues());
                // All are this pool's: it was looked at above.
                if self.pool.depart(frame, self.herd.loan).is_ok() {
                    self.herd.lent(1);
                    self.transmitted.add(len, continues);
                    *part = Descriptor::new(offset, len.into(), 0);
                }
            }
            self.raw.push(&self.scratch[..frames], offload.as_ref());
        }
        self.raw.flush(0);
    }

    fn note(&self, frame: &mut Frame<'p>, options: u32) {
        note(frame, options);
        if self.looks
            && let Some(offload) = checksum::undone(frame)
        {
            frame.set_offload(Some(offload));
        }
    }

    fn refuse(&mut self, burst: &mut Burst<'p>) {
        burst.drop_packet();
        self.unsendable += 1;
    }

    /// Whether one more packet can be laid down, after the device was asked.
    fn has_room(&mut self) -> bool {
        (self.raw.waiting() as usize) < BURST || (self.raw.flush(0) as usize) < BURST
    }

    pub(super) fn gather_inside(&mut self, packets: &mut Packets<'p>) -> usize {
        let waiting = packets.len();
        if self.raw.waiting() > 0 && self.raw.flush(0) > 0 {
            return 0;
        }
        while self.is_well()
            && let Some(packet) = packets.front()
        {
            let (buffers, bytes) = (packet.buffers(), packet.bytes());
            if buffers > BURST || !sendable(&packet, self.pool, 0, &self.caps) {
                self.unsendable += 1;
                drop(packets.pop());
                continue;
            }
            if !self.has_room() || buffers > 1 + self.page_room() {
                break;
            }
            let head = packet.head();
            let offload =
                match self.leave(Some(head), head.offload(), u32::try_from(bytes).unwrap_or(u32::MAX)) {
                    Leave::Nothing => None,
                    Leave::Device(offload) => Some(offload),
                    Leave::Finish if packet.pages().any(Page::is_file) => {
                        self.unsendable += 1;
                        drop(packets.pop());
                        continue;
                    }
                    Leave::Finish => {
                        if let Some((head, pages)) = packets.front_mut() {
                            self.checksums += u64::from(checksum::finish_packet(head, pages));
                        }
                        None
                    }
                    Leave::Never => {
                        self.unsendable += 1;
                        drop(packets.pop());
                        continue;
                    }
                };
            let Some((head, pages)) = packets.pop_parts() else { break };
            let mut parts = [Descriptor::default(); BURST];
            let (offset, len) = (head.offset(), head.len());
            if self.pool.depart(head, self.herd.loan).is_err() {
                continue;
            }
            self.herd.lent(1);
            parts[0] = Descriptor::new(offset, len.into(), 0);
            let mut count = 1;
            for page in pages {
                let len = u32::try_from(page.len()).unwrap_or(0);
                let Ok(offset) = self.pool.depart_page(page) else { continue };
                parts[count] = Descriptor::new(offset, len, 0);
                count += 1;
            }
            self.raw.push(&parts[..count], offload.as_ref());
            self.transmitted.packets += 1;
            self.transmitted.bytes += bytes as u64;
        }
        self.raw.flush(0);
        waiting - packets.len()
    }

    /// Pages that can be laid down, after the device was asked to give back what it has sent.
    fn page_room(&mut self) -> usize {
        let room = self.herd.handle.page_room();
        if room > FRAMES {
            return room as usize;
        }
        self.tidy();
        if let Err(stray) = self.herd.release_pages(self.pool) {
            self.latch(Fault::from(stray));
        }
        self.herd.handle.page_room() as usize
    }

    /// Who sees to what is undone in a packet of so many bytes.
    fn leave(&self, first: Option<&Frame<'p>>, wish: Option<Offload>, bytes: u32) -> Leave {
        let Some((first, wish)) = first.zip(wish) else {
            return if bytes > self.longest { Leave::Never } else { Leave::Nothing };
        };
        let cut = wish.segment_bytes != 0;
        if !cut && bytes > self.longest {
            return Leave::Never;
        }
        match device_offload(first, wish, self.port.completes_ip()) {
            Some(offload) if self.caps.checksum && (!cut || self.caps.segmentation) => Leave::Device(offload),
            _ if cut => Leave::Never,
            _ => Leave::Finish,
        }
    }
}

/// Who sees to what is undone.
enum Leave {
    Nothing,
    /// We do, before it goes.
    Finish,
    Device(ffi::Offload),
    /// Nobody can.
    Never,
}

/// What to tell the device; `None` for what DPDK has no words for: sums elsewhere than in TCP and UDP outside of tunnels.
fn device_offload(packet: &[u8], wish: Offload, completes_ip: bool) -> Option<ffi::Offload> {
    let found = headers(packet)?;
    let tcp = found.protocol == TCP;
    let field = if tcp { TCP_FIELD } else { UDP_FIELD };
    if usize::from(wish.checksum_start) != found.transport || wish.checksum_offset != field {
        return None;
    }
    let l3 = found.transport - found.network;
    let v4 = packet.get(found.network)? >> 4 == 4;
    let mut flags = if v4 { tx::IPV4 } else { tx::IPV6 } | if tcp { tx::TCP } else { 0 };
    let mut l4 = 8;
    if tcp {
        l4 = u16::from(packet.get(found.transport + 12)? >> 4) * 4;
    }
    if wish.segment_bytes != 0 {
        if !tcp || wish.segmentation == Segmentation::Udp {
            return None;
        }
        flags |= tx::CUT | if v4 && completes_ip { tx::IP_CHECKSUM } else { 0 };
    }
    Some(ffi::Offload {
        flags,
        l2: u16::try_from(found.network).ok()?,
        l3: u16::try_from(l3).ok()?,
        l4,
        segment: wish.segment_bytes,
    })
}

/// Notes on a received packet what its sender left undone.
fn note(frame: &mut Frame<'_>, options: u32) {
    if options & (UNCHECKED | UNCUT) == 0 {
        return;
    }
    let Some(found) = headers(frame) else { return };
    let tcp = found.protocol == TCP;
    let Ok(checksum_start) = u16::try_from(found.transport) else { return };
    let mut offload = Offload {
        checksum_start,
        checksum_offset: if tcp { TCP_FIELD } else { UDP_FIELD },
        ..Offload::default()
    };
    if options & UNCUT != 0 && tcp {
        let words = frame.get(found.transport + 12).map_or(5, |byte| byte >> 4);
        offload.segment_bytes = u16::try_from(options >> SEGMENT_SHIFT).unwrap_or(0);
        offload.header_bytes = checksum_start + u16::from(words) * 4;
        let v4 = frame.get(found.network).is_some_and(|byte| byte >> 4 == 4);
        offload.segmentation = if v4 { Segmentation::Tcp4 } else { Segmentation::Tcp6 };
    }
    frame.set_offload(Some(offload));
}
