//! The next bytes of a connection's stream, from wherever they are, into its socket.

use super::{Conn, Turn};
use crate::serve::answers::{Answers, Found};
use crate::serve::http::Place;
use crate::serve::tree::{Entry, Found as What};
use drivers::kernel::{Job, Look, Step};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, send};
use std::sync::Arc;

/// Sends the next bytes of a connection's stream, from wherever they are.
pub(super) fn push(conn: &Conn, answers: &Answers, turn: &mut Turn<'_>) -> Step {
    let Some(Found { place, source }) = answers.find(&conn.answers, conn.sent) else { return Step::Broken };
    let end = conn.queued;
    let entry = |coding| match source.map(|answer| answer.found()) {
        Some(What::File(forms)) => forms.entry(coding),
        _ => None,
    };
    let (head, coding, start, len) = match place {
        Place::File { coding, start, len } => (&[][..], coding, start, len),
        Place::Bytes(bytes) => {
            // A head goes with the beginning of its body.
            let behind = answers.find(&conn.answers, conn.sent + bytes.len() as u64);
            match behind.map(|found| found.place) {
                Some(Place::File { coding, start, len }) if same(answers, conn, bytes.len() as u64) => {
                    (bytes, coding, start, len)
                }
                _ => return send_bytes(conn, bytes, conn.sent + (bytes.len() as u64) < end),
            }
        }
        Place::End => return Step::Broken,
    };
    let Some(entry) = entry(coding) else { return Step::Gone };
    if entry.is_gone() {
        return Step::Gone;
    }
    let bytes = len.min(turn.quantum.max(1));
    // A body that took its time, or waited behind others, is whole only if the file is still the same before its last bytes are sent;
    // for some engines any body is. What is under way is only asked after: its engine looks.
    let (last, look) = (bytes == len, turn.engine.look());
    let long = conn.long || conn.sent < conn.waited;
    let before = last && !conn.under_way && (long || look == Look::Before);
    if before && !Entry::check(entry) {
        return Step::Gone;
    }
    let check = last && (long || look == Look::Between);
    let more = conn.sent + head.len() as u64 + bytes < end;
    let job = Job { socket: &conn.socket, head, file: entry, offset: start, bytes, more, check };
    turn.engine.push(turn.flow, &job)
}

/// Whether the bytes so far on belong to the same response as those that are sent next.
fn same(answers: &Answers, conn: &Conn, ahead: u64) -> bool {
    let source = |offset| answers.find(&conn.answers, offset).and_then(|found| found.source);
    match (source(conn.sent), source(conn.sent + ahead)) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Sends bytes that are in memory here.
fn send_bytes(conn: &Conn, bytes: &[u8], more: bool) -> Step {
    let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    flags.set(SendFlags::MORE, more);
    match retry_on_intr(|| send(&*conn.socket, bytes, flags)) {
        Ok(sent) => Step::Sent(sent as u64),
        Err(Errno::AGAIN) => Step::Full,
        Err(_) => Step::Broken,
    }
}
