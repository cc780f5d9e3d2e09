//! Segments to packets: headers, and behind them the bytes that a response's plan names.
//!
//! ```text
//!   Segment { payload: 5000..6448 } ─► answers.find(5000) ─┬─ Bytes ─► copied behind the headers
//!                                                          └─ File  ─► long: pages behind the frame, no copy
//!                                                                      short: copied from pages, counted
//! ```

use super::talk::Talk;
use crate::app::Outbox;
use crate::net::{Host, Patch, Template};
use crate::serve::Waiter;
use crate::serve::answers::{Answers, Found};
use crate::serve::content::{Piece, Store};
use crate::serve::http::{Coding, Place};
use crate::serve::tree::{self, Entry};
use crate::tcp::{Out, Segment, Sent};
use ringbuf::{Burst, Frame, PACKET_PAGES, Page};
use std::cell::RefCell;
use std::sync::Arc;

/// How file bytes left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmitCounters {
    /// Bytes of files copied into frames by this program.
    pub copied_bytes: u64,
    /// Bytes of files handed to the queue as pages.
    pub gathered_bytes: u64,
}

/// Puts segments into the outbox.
#[derive(Debug)]
pub(super) struct Emitter<'e, 'p> {
    pub(super) answers: &'e RefCell<Answers>,
    pub(super) store: &'e mut Store<'p>,
    pub(super) host: &'e Host,
    pub(super) outbox: &'e mut Outbox<'p>,
    /// Shorter pieces of files are copied.
    pub(super) copy_below: usize,
    /// The pages of the packet in the making; empty between packets, and never longer than a packet's.
    pub(super) pages: &'e mut Vec<Page<'p>>,
    pub(super) counters: &'e mut EmitCounters,
    /// The headers of the connection's turn with this number.
    pub(super) template: &'e mut Template,
    pub(super) turn: u32,
    /// Whether anything was put into the outbox.
    pub(super) sent: bool,
}

/// Why a packet could not be filled.
enum Stop {
    /// No frame is free.
    Full,
    /// Content is on its way.
    NotYet,
    /// Content has changed.
    Gone,
    /// The frame is too small for what must be copied, or the packet for its pages.
    Large,
}

impl Out<Talk> for Emitter<'_, '_> {
    fn segment(&mut self, segment: &Segment, talk: &mut Talk) -> Sent {
        if self.outbox.room(segment.path.port) == 0 {
            return Sent::Full;
        }
        let sent = match self.packet(segment, talk) {
            Ok(()) => Sent::Yes,
            Err(Stop::Full) => Sent::Full,
            Err(Stop::NotYet) => Sent::NotYet,
            Err(Stop::Gone | Stop::Large) => Sent::Gone,
        };
        self.sent |= sent == Sent::Yes;
        sent
    }
}

impl<'p> Emitter<'_, 'p> {
    /// Makes one packet of a segment and puts it into the outbox.
    #[inline]
    fn packet(&mut self, segment: &Segment, talk: &Talk) -> Result<(), Stop> {
        let mut frame = self.outbox.allocate().ok_or(Stop::Full)?;
        let bytes = usize::try_from(segment.payload.end - segment.payload.start).unwrap_or(usize::MAX);
        let patch = segment.patch(bytes);
        if segment.turn != self.turn || segment.turn == 0 {
            self.begin(segment, patch);
        }
        let written = self.template.write(&mut frame, &patch);
        debug_assert!(written.is_ok(), "every frame holds the headers: {segment:?}");
        let filled = match written {
            Ok(_) if bytes == 0 => Ok(()),
            Ok(_) => self.fill(&mut frame, segment, talk),
            Err(_) => Err(Stop::Gone),
        };
        match (filled, written) {
            (Ok(()), _) => {
                // There is room: it was looked at before.
                drop(self.outbox.send_parts(segment.path.port, frame, self.pages));
                Ok(())
            }
            (Err(Stop::Large), Ok(headers)) => {
                self.pages.clear();
                self.chain(frame, headers, segment, talk)
            }
            (Err(stop), _) => {
                self.pages.clear();
                drop(frame);
                self.outbox.abandon();
                Err(stop)
            }
        }
    }

    /// Makes the headers of this segment the template for those that follow in its turn.
    #[inline]
    fn begin(&mut self, segment: &Segment, patch: Patch) {
        let headers = segment.headers(self.host.service_tag(&segment.path), patch);
        let set = self.template.set(&headers);
        debug_assert!(set.is_ok(), "our own addresses and options: {headers:?}");
        self.turn = segment.turn;
    }

    /// Puts the payload behind the headers.
    #[inline]
    fn fill(&mut self, frame: &mut Frame<'p>, segment: &Segment, talk: &Talk) -> Result<(), Stop> {
        let answers = self.answers.borrow();
        let (mut at, end) = (segment.payload.start, segment.payload.end);
        while at < end {
            let found = answers.find(&talk.answers, at).ok_or(Stop::Gone)?;
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            at += match found.place {
                Place::Bytes(bytes) => {
                    let bytes = &bytes[..bytes.len().min(left)];
                    frame.extend(bytes).map_err(|_| Stop::Large)?;
                    bytes.len() as u64
                }
                Place::File { coding, start, len } => {
                    let entry = entry_of(&found, coding)?;
                    let stretch = usize::try_from(len).unwrap_or(usize::MAX).min(left);
                    let (at, waiter) = (Stretch { entry, start, len: stretch }, talk.waiter());
                    // Nothing can follow pages but pages.
                    let long = stretch >= self.copy_below || stretch > frame.tailroom().into();
                    if stretch == left && long {
                        self.gather(&at, waiter)?;
                    } else {
                        self.copy(frame, &at, waiter)?;
                    }
                    stretch as u64
                }
                Place::End => return Err(Stop::Gone),
            };
        }
        Ok(())
    }

    /// Puts a stretch of a file behind the frame, as pages.
    #[inline]
    fn gather(&mut self, at: &Stretch<'_>, waiter: Waiter) -> Result<(), Stop> {
        let mut done = 0;
        while done < at.len {
            let (from, left) = (at.start + done as u64, at.len - done);
            let page = taken(self.store.page(at.entry, from, left, waiter))?;
            done += page.len();
            if self.pages.len() == PACKET_PAGES {
                return Err(Stop::Large);
            }
            self.pages.push(page);
        }
        self.counters.gathered_bytes += done as u64;
        Ok(())
    }

    /// Copies a stretch of a file into the frame.
    #[inline]
    fn copy(&mut self, frame: &mut Frame<'p>, at: &Stretch<'_>, waiter: Waiter) -> Result<(), Stop> {
        let mut done = 0;
        while done < at.len {
            let (from, left) = (at.start + done as u64, at.len - done);
            let page = taken(self.store.readable_page(at.entry, from, left, waiter))?;
            frame.extend(page.bytes().ok_or(Stop::Gone)?).map_err(|_| Stop::Large)?;
            done += page.len();
        }
        self.counters.copied_bytes += done as u64;
        Ok(())
    }

    /// The rare packet that holds the end of a file and the beginning of the next response, and is larger than a frame:
    /// all of it is copied, into as many frames as it takes.
    #[cold]
    fn chain(
        &mut self,
        mut head: Frame<'p>,
        headers: usize,
        segment: &Segment,
        talk: &Talk,
    ) -> Result<(), Stop> {
        head.truncate(u16::try_from(headers).unwrap_or(0));
        let mut chain = Burst::new();
        let filled = self.fill_chain(&mut chain, head, segment, talk);
        if filled.is_err() {
            drop(chain);
            self.outbox.abandon();
            return filled;
        }
        // What finds no room is discarded by name; it will be sent again.
        self.outbox.send_packet(segment.path.port, &mut chain);
        Ok(())
    }

    fn fill_chain(
        &mut self,
        chain: &mut Burst<'p>,
        mut frame: Frame<'p>,
        segment: &Segment,
        talk: &Talk,
    ) -> Result<(), Stop> {
        let answers = self.answers.borrow();
        let (mut at, end) = (segment.payload.start, segment.payload.end);
        while at < end {
            if frame.tailroom() == 0 {
                let next = self.outbox.another().ok_or(Stop::Full)?;
                frame.set_continues(true);
                chain.push(std::mem::replace(&mut frame, next)).map_err(|_| Stop::Gone)?;
            }
            let found = answers.find(&talk.answers, at).ok_or(Stop::Gone)?;
            let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(frame.tailroom().into());
            at += match found.place {
                Place::Bytes(bytes) => {
                    let bytes = &bytes[..bytes.len().min(room)];
                    frame.extend(bytes).map_err(|_| Stop::Gone)?;
                    bytes.len() as u64
                }
                Place::File { coding, start, len } => {
                    let entry = entry_of(&found, coding)?;
                    let len = usize::try_from(len).unwrap_or(usize::MAX).min(room);
                    self.copy(&mut frame, &Stretch { entry, start, len }, talk.waiter())?;
                    len as u64
                }
                Place::End => return Err(Stop::Gone),
            };
        }
        chain.push(frame).map_err(|_| Stop::Gone)
    }
}

#[inline]
fn taken(piece: Piece<'_>) -> Result<Page<'_>, Stop> {
    match piece {
        Piece::Page(page) => Ok(page),
        Piece::Later => Err(Stop::NotYet),
        Piece::Gone => Err(Stop::Gone),
    }
}

/// The file that a stretch is of.
#[inline]
fn entry_of<'a>(found: &Found<'a>, coding: Coding) -> Result<&'a Arc<Entry>, Stop> {
    match found.source.map(|answer| answer.found()) {
        Some(tree::Found::File(forms)) => forms.entry(coding).ok_or(Stop::Gone),
        _ => Err(Stop::Gone),
    }
}

/// A stretch of a file.
struct Stretch<'f> {
    entry: &'f Arc<Entry>,
    start: u64,
    len: usize,
}
