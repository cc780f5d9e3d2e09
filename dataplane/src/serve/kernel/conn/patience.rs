//! How long a connection is waited for, and what becomes of it then.

use super::{Conn, Turn, Verdict};
use crate::serve::http::{Refusal, Waiting};
use crate::worker::Tick;

impl Conn {
    /// Notes what it waits for now, and since when.
    pub(super) fn watch(&mut self, turn: &Turn<'_>) {
        let waiting = if self.sent < self.queued || self.pending {
            Waiting::Reader
        } else if self.upload.is_some() {
            Waiting::Upload
        } else {
            self.intake.waiting(!self.inbox.is_empty())
        };
        // The time for a head, or a body, runs from its first byte, however slowly the others come: that is of one request, and when
        // that is answered it is the next one's that is waited for. The time for a reader runs from when he last moved: `look` sees
        // to it.
        let answered = self.intake.requests();
        let next = answered != self.answered && waiting != Waiting::Reader;
        if waiting != self.waiting || waiting == Waiting::Request || next {
            let mark = self.upload_mark().filter(|_| waiting == Waiting::Upload).unwrap_or(self.sent);
            (self.waiting, self.since, self.mark, self.answered) = (waiting, turn.now, mark, answered);
        }
    }

    /// What is to become of a connection for which nothing has happened for a while.
    pub(in crate::serve::kernel) fn look(&mut self, now: Tick, turn: &mut Turn<'_>) -> Option<Verdict> {
        let passed = now.0.saturating_sub(self.since.0);
        let limits = &turn.responder.limits;
        if passed < limits.time(self.waiting) {
            return None;
        }
        match self.waiting {
            Waiting::Reader if self.sent > self.mark && !self.shut => {
                if limits.is_slow_reader(self.sent - self.mark, passed) {
                    turn.tally.timed_out += 1;
                    return Some(Verdict::Reset);
                }
                (self.since, self.mark) = (now, self.sent);
                None
            }
            Waiting::Upload => self.look_at_upload(now, turn),
            // RFC 9110 section 15.5.9: who has begun a head is told.
            Waiting::Head => {
                turn.tally.timed_out += 1;
                let asked = std::mem::take(&mut self.inbox);
                self.refuse(turn, Refusal::Timeout, &asked);
                Some(self.turn(turn))
            }
            Waiting::Request if !self.shut => {
                turn.tally.timed_out += 1;
                self.end();
                Some(self.turn(turn))
            }
            _ => {
                turn.tally.timed_out += u64::from(!self.shut);
                Some(Verdict::Reset)
            }
        }
    }
}
