//! A body that is stored: from the head of its request to its answer.
//!
//! ```text
//!   head ─► Tree::draft ─► 100 Continue, if asked for ─► body: what came with the head by write, the rest by Receiver
//!        ─► publish: the file has its name ─► the librarian hears of it, so that every worker asks anew ─► 201 or 204
//! ```
//!
//! A chunked body has framing between its pieces, so it is read and written whatever the way. The file is opened, written
//! to and renamed here and now: the disk's time is this thread's, as it is when an engine reads.

use super::{Conn, Turn, Verdict};
use crate::serve::http::{Chunks, Expect, Framing, Parsed, Part, Refusal, Request, Scratch, Storage};
use crate::serve::kernel::page::Tally;
use crate::serve::responder::Said;
use crate::serve::tree::{Denied, Draft, Published, Refresh};
use crate::worker::Tick;
use drivers::kernel::{Got, Receive, Receiver};
use rustix::process::{Resource, getrlimit};

/// What may be uploaded, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadPlan {
    /// How it gets into files.
    pub way: Receive,
    /// The longest body, in bytes.
    pub limit: u64,
}

/// What the uploads of a thread share.
#[derive(Debug)]
pub(in crate::serve::kernel) struct Uploads {
    pub(in crate::serve::kernel) receiver: Receiver,
    limit: u64,
}

impl Uploads {
    pub(in crate::serve::kernel) fn new(receiver: Receiver, limit: u64) -> Self {
        // To write beyond the process's own limit would be its end, by SIGXFSZ.
        let own = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        Self { receiver, limit: limit.min(own) }
    }
}

/// One upload.
#[derive(Debug)]
pub(super) struct Upload {
    /// The head of its request: to be parsed again when it is answered.
    head: Box<[u8]>,
    stage: Stage,
    /// Bytes that are in the file.
    got: u64,
}

#[derive(Debug)]
enum Stage {
    /// So many bytes are still to come.
    Length(Draft, u64),
    Chunked(Draft, Chunks),
    /// The file has its name. Once the librarian has been `asked` anew, and has answered, everybody will see it.
    Published {
        storage: Storage,
        asked: Option<u64>,
    },
}

impl Upload {
    /// Whether its bytes may go from the socket to the file, and how many of them.
    const fn left(&self) -> Option<u64> {
        match self.stage {
            Stage::Length(_, left) if left > 0 => Some(left),
            _ => None,
        }
    }

    /// Takes in bytes that are in memory here: how many belong to it, and whether it is whole.
    fn take(&mut self, bytes: &[u8], uploads: &mut Uploads) -> Result<(usize, bool), u16> {
        let failed = |errno| Denied::of(errno).status();
        match &mut self.stage {
            Stage::Length(draft, left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                uploads.receiver.write(draft.file(), &bytes[..here], self.got).map_err(failed)?;
                self.got += here as u64;
                *left -= here as u64;
                Ok((here, *left == 0))
            }
            Stage::Chunked(draft, chunks) => {
                let mut at = 0;
                loop {
                    match chunks.next(&bytes[at..]).map_err(broken)? {
                        Part::Data { from, to } => {
                            let data = &bytes[at + from..at + to];
                            if self.got + data.len() as u64 > uploads.limit {
                                return Err(413);
                            }
                            uploads.receiver.write(draft.file(), data, self.got).map_err(failed)?;
                            self.got += data.len() as u64;
                            at += to;
                        }
                        Part::More => return Ok((bytes.len(), false)),
                        Part::End(used) => return Ok((at + used, true)),
                    }
                }
            }
            Stage::Published { .. } => Ok((0, true)),
        }
    }
}

/// The status for a chunked body that is none. Framing has a budget, too, of which a body within the limit has no need.
const fn broken(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::BodyTooLarge => 413,
        _ => 400,
    }
}

/// Bytes of a chunked body of `limit` bytes, each in a chunk of its own; and room for extensions and trailers.
const fn chunked_bytes(limit: u64) -> u64 {
    limit.saturating_mul(6).saturating_add(64 << 10)
}

/// Looks at a request, and makes the file that its body goes into; or the status that it is refused with.
fn open(turn: &Turn<'_>, request: &Request<'_>) -> Result<Stage, u16> {
    let Some(uploads) = &turn.uploads else { return Err(405) };
    let (sent, conditions) = (request.sent, &request.conditions);
    // RFC 9110 sections 10.1.1, 14.5 and 8.4: a part, or a coded form, stored as the whole would be a lie.
    let length = match request.framing {
        _ if request.expect == Expect::Unknown => return Err(417),
        _ if sent.partial => return Err(400),
        _ if sent.encoded => return Err(415),
        Framing::Empty if !sent.measured => return Err(411),
        Framing::Length(bytes) if bytes > uploads.limit => return Err(413),
        Framing::Length(bytes) => Some(bytes),
        Framing::Empty => Some(0),
        Framing::Chunked => None,
    };
    let host = turn.responder.host(request.host);
    let draft =
        turn.responder.tree().draft(host, request.path, conditions, length).map_err(Denied::status)?;
    Ok(match length {
        Some(bytes) => Stage::Length(draft, bytes),
        None => Stage::Chunked(draft, Chunks::new(chunked_bytes(uploads.limit))),
    })
}

/// Gives a draft its name.
fn publish(draft: Draft, request: &Request<'_>, turn: &mut Turn<'_>) -> Storage {
    match draft.publish(&request.conditions, &turn.control.order) {
        Ok(Published { created, representation }) => {
            turn.tally.uploads_stored += 1;
            let etag = *representation.etag();
            if created { Storage::Created(etag) } else { Storage::Replaced(etag) }
        }
        Err(denied) => {
            turn.tally.uploads_failed += 1;
            Storage::Refused(denied.status())
        }
    }
}

impl Conn {
    /// Begins an upload, if the request may store something: then nothing is said yet. `follows`: its body has begun to come.
    pub(super) fn begin_upload(
        &mut self,
        turn: &mut Turn<'_>,
        request: &mut Request<'_>,
        head: &[u8],
        follows: bool,
    ) -> Option<Said> {
        // What was asked for before is sent first: it may be of the very file that is to be replaced.
        if self.sent < self.queued {
            return Some(Said::Full);
        }
        match open(turn, request) {
            Err(status) => Some(turn.responder.stored(self.caller(), request, Storage::Refused(status))),
            Ok(stage) => {
                turn.tally.uploads_begun += 1;
                self.upload = Some(Box::new(Upload { head: head.into(), stage, got: 0 }));
                // RFC 9110 section 10.1.1: not needed once the body comes.
                if request.expect == Expect::Continue && !follows {
                    let bytes = turn.responder.invite(self.caller()).unwrap_or(0);
                    self.queue(turn, bytes);
                }
                None
            }
        }
    }

    /// Takes in what has come of a body, and answers when that is all: how many bytes are done with, and whether the next
    /// request can be looked at.
    pub(super) fn take_in(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> (usize, bool) {
        let (Some(upload), Some(uploads)) = (&mut self.upload, &mut turn.uploads) else { return (0, true) };
        match upload.take(bytes, uploads) {
            Err(status) => {
                self.give_up(turn, status);
                (bytes.len(), false)
            }
            Ok((used, false)) => (used, false),
            Ok((used, true)) => (used, self.settle(turn)),
        }
    }

    /// Whether bytes may go from the socket to a file without being looked at.
    pub(super) fn is_drawing(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.left().is_some())
    }

    /// How far an upload is.
    pub(super) fn upload_mark(&self) -> Option<u64> {
        self.upload.as_ref().map(|upload| upload.got)
    }

    /// Moves what the socket has into the file. `Some` when it cannot go on now, or ever.
    pub(super) fn draw(&mut self, turn: &mut Turn<'_>) -> Option<Verdict> {
        let (Some(upload), Some(uploads)) = (&mut self.upload, &mut turn.uploads) else { return None };
        let Stage::Length(draft, left) = &mut upload.stage else { return None };
        if turn.quantum == 0 {
            return Some(self.yields(turn));
        }
        let most = (*left).min(turn.quantum);
        match uploads.receiver.pull(&self.socket, draft.file(), upload.got, most) {
            Got::Bytes(bytes) => {
                upload.got += bytes;
                *left -= bytes.min(*left);
                turn.quantum = turn.quantum.saturating_sub(bytes);
                if *left == 0 {
                    self.read(&[], turn);
                }
                None
            }
            Got::Nothing => {
                self.readable = false;
                None
            }
            Got::Ended => self.heard_all(),
            Got::Broken => Some(Verdict::Close),
            Got::Refused(errno) => {
                self.give_up(turn, Denied::of(errno).status());
                None
            }
        }
    }

    /// The body is whole: gives the file its name, and answers once everybody sees it. Returns whether that is done.
    fn settle(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(mut upload) = self.upload.take() else { return true };
        let mut scratch = std::mem::replace(turn.scratch, Scratch::empty());
        let mut done = true;
        // It was a request before, within the same limits.
        if let Parsed::Request(mut request, _) =
            Request::parse(&upload.head, &mut scratch, &turn.responder.limits)
        {
            // Nothing of its body is still to come.
            request.framing = Framing::Empty;
            request.persistent = request.stays && !self.intake.is_last(&turn.responder.limits);
            let (storage, mut asked) = match upload.stage {
                Stage::Length(draft, _) | Stage::Chunked(draft, _) => (publish(draft, &request, turn), None),
                Stage::Published { storage, asked } => (storage, asked),
            };
            done = matches!(storage, Storage::Refused(_)) || self.is_seen(turn, &request, &mut asked);
            if done {
                let said = turn.responder.stored(self.caller(), &mut request, storage);
                self.note(turn, said);
            }
            upload.stage = Stage::Published { storage, asked };
        } else {
            self.end();
        }
        *turn.scratch = scratch;
        if !done {
            self.upload = Some(upload);
        }
        done
    }

    /// Whether every worker that is asked for the path from now on looks anew. For that the librarian is asked: before he
    /// answers he takes in what inotify has told, and that includes the name that the file has just got.
    fn is_seen(&mut self, turn: &mut Turn<'_>, request: &Request<'_>, asked: &mut Option<u64>) -> bool {
        let (host, path) = (turn.responder.host(request.host), request.path);
        let finder = &mut turn.responder.finder;
        match *asked {
            Some(question) if !finder.is_asking(host, path, question) => return true,
            // Woken for something else.
            Some(_) => {}
            None => match finder.refresh(host, path, self.waiter) {
                Refresh::Asked(question) => *asked = Some(question),
                // A question of before is open: its answer may be of before, too.
                Refresh::Waits => {}
                Refresh::Busy => self.again = true,
            },
        }
        self.pending = true;
        false
    }

    /// Another librarian is asked from now on.
    pub(in crate::serve::kernel) fn ask_again(&mut self) {
        if let Some(upload) = &mut self.upload
            && let Stage::Published { asked, .. } = &mut upload.stage
        {
            *asked = None;
        }
    }

    /// The connection ends before its upload is whole: nothing is left of that.
    pub(in crate::serve::kernel) fn forget_upload(&mut self, tally: &mut Tally) {
        if let Some(upload) = self.upload.take()
            && !matches!(upload.stage, Stage::Published { .. })
        {
            tally.uploads_failed += 1;
        }
    }

    /// Something went wrong while the body came: it is said, and the connection ends, since nobody knows where the next
    /// request would begin.
    #[cold]
    pub(super) fn give_up(&mut self, turn: &mut Turn<'_>, status: u16) {
        let Some(upload) = self.upload.take() else { return };
        turn.tally.uploads_failed += 1;
        let mut scratch = std::mem::replace(turn.scratch, Scratch::empty());
        if let Parsed::Request(mut request, _) =
            Request::parse(&upload.head, &mut scratch, &turn.responder.limits)
        {
            request.persistent = false;
            let said = turn.responder.stored(self.caller(), &mut request, Storage::Refused(status));
            self.note(turn, said);
        }
        *turn.scratch = scratch;
        self.end();
    }

    /// A body that does not move, or moves too slowly, is given up.
    pub(super) fn look_at_upload(&mut self, now: Tick, turn: &mut Turn<'_>) -> Option<Verdict> {
        let got = self.upload_mark().unwrap_or(0);
        let passed = now.0.saturating_sub(self.since.0);
        if got > self.mark && !turn.responder.limits.is_slow_reader(got - self.mark, passed) {
            (self.since, self.mark) = (now, got);
            return None;
        }
        turn.tally.timed_out += 1;
        self.give_up(turn, 408);
        Some(self.turn(turn))
    }
}
