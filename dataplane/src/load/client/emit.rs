//! Segments to packets: headers, and behind them the bytes of requests.

use super::desk::Line;
use crate::app::Outbox;
use crate::load::run::Run;
use crate::net::{Host, write_headers};
use crate::tcp::{Out, Segment, Sent};
use ringbuf::{Frame, Page};

/// Puts segments into the outbox.
#[derive(Debug)]
pub(super) struct Emitter<'e, 'p> {
    pub(super) run: &'e Run,
    pub(super) host: &'e Host,
    pub(super) outbox: &'e mut Outbox<'p>,
    /// Always empty: requests are copied, which for so few bytes is the cheapest.
    pub(super) pages: &'e mut Vec<Page<'p>>,
    /// Whether anything was put into the outbox.
    pub(super) sent: bool,
}

impl Out<Line> for Emitter<'_, '_> {
    #[inline]
    fn segment(&mut self, segment: &Segment, line: &mut Line) -> Sent {
        let port = segment.path.port;
        if self.outbox.room(port) == 0 {
            return Sent::Full;
        }
        let Some(mut frame) = self.outbox.allocate() else { return Sent::Full };
        if !self.fill(&mut frame, segment, line) {
            drop(frame);
            self.outbox.abandon();
            return Sent::Gone;
        }
        // There is room: it was looked at before.
        drop(self.outbox.send_parts(port, frame, self.pages));
        self.sent = true;
        Sent::Yes
    }
}

impl Emitter<'_, '_> {
    /// Writes a packet into its frame. False if there are no such bytes, or too many of them.
    #[inline]
    fn fill(&self, frame: &mut Frame<'_>, segment: &Segment, line: &Line) -> bool {
        let (mut at, end) = (segment.payload.start, segment.payload.end);
        let patch = segment.patch(usize::try_from(end - at).unwrap_or(usize::MAX));
        let headers = segment.headers(self.host.service_tag(&segment.path), patch);
        if write_headers(frame, &headers).is_err() {
            return false;
        }
        while at < end {
            let Some(bytes) = line.talk.bytes(self.run, at) else { return false };
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(left)];
            if frame.extend(bytes).is_err() {
                return false;
            }
            at += bytes.len() as u64;
        }
        true
    }
}
