//! The file server as an app: frames in, TCP, HTTP, files, packets out.
//!
//! ```text
//!   frame ─► Host ─► Stack ─► Clerk: request ─► Finder: which file ─► response, queued as a plan
//!                      │
//!   packet ◄─ Emitter ◄┘ segments, by stream offset ─► Answers: which bytes ─► Store: pages of the arena
//! ```
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the app |
//! | `clerk.rs` | what is said over a connection |
//! | `emit.rs` | segments to packets |
//! | `talk.rs` | HTTP's part of a connection |
//! | `post.rs` | what the network says, to the worker that it is for |
//! | `start.rs` | from the plan to one app a worker |

mod clerk;
mod emit;
mod page;
mod post;
mod start;
mod talk;

pub use clerk::TalkCounters;
pub use emit::EmitCounters;
pub use page::{Figures, ServePage};
pub use start::{ServeError, ServePlan, Servers};

use crate::app::{App, Outbox, PortId};
use crate::net::{Host, Input, Pieces, Template};
use crate::serve::Stage;
use crate::serve::Waiter;
use crate::serve::bell::Bell;
use crate::serve::content::Store;
use crate::serve::control::{Control, Retired};
use crate::serve::site::Site;
use crate::stats::Reason;
use crate::tcp::Stack;
use crate::worker::Tick;
use clerk::Clerk;
use emit::Emitter;
use post::Post;
use ringbuf::{Burst, Frame, Page};

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use talk::{Talk, connection};

/// Serves files, on one worker.
#[derive(Debug)]
pub struct FileServer<'p> {
    host: Host,
    stack: Stack<Talk>,
    clerk: Clerk,
    store: Store<'p>,
    bell: Arc<Bell>,
    /// Shorter pieces of files are copied into frames.
    copy_below: usize,
    /// Room for the pages of one packet.
    pages: Vec<Page<'p>>,
    counters: EmitCounters,
    /// Room for the headers that a connection's segments have in common.
    template: Template,
    woken: Vec<Waiter>,
    control: Arc<Control>,
    /// What is served now, and which edition of it that is.
    site: Arc<Site>,
    edition: u64,
    /// What was served before, on its way to whoever has the time to let go of it.
    retired: Vec<Retired>,
    /// When an address conflict was last told.
    complained: Option<Tick>,
    /// Room for a packet that came in several frames.
    pieces: Pieces<'p>,
    stage: Stage,
    listen: u16,
    page: Arc<ServePage>,
    post: Post,
    /// The wall clock at the worker's beginning.
    born: SystemTime,
}

/// An address conflict is told once in so long, however often it is heard of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

impl<'p> App<'p> for FileServer<'p> {
    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        burst.warm();
        while let Some(mut frame) = burst.pop() {
            if frame.continues() {
                self.handle_pieces(now, from, frame, burst, out);
                continue;
            }
            match self.host.input(now, from, &mut frame) {
                Input::Tcp { path, segment, ecn } => {
                    let segment = frame.get(segment).unwrap_or_default();
                    self.stack.receive(now, &path, ecn, segment, &mut self.clerk);
                    out.deliver(frame);
                }
                Input::Answer => out.send(from, frame),
                Input::TcpError(error) => {
                    if self.post.has_others() && !self.stack.knows(&error) {
                        self.post.hand_on(error);
                    } else {
                        self.stack.icmp(now, &error, &mut self.clerk);
                    }
                    out.deliver(frame);
                }
                Input::Learnt(_) | Input::Taken => out.deliver(frame),
                Input::Discard(reason) => out.discard(frame, reason),
            }
        }
    }

    fn poll(&mut self, now: Tick, out: &mut Outbox<'p>) -> bool {
        self.store.poll(now, &mut self.woken);
        self.clerk.responder.finder.poll(now, &mut self.woken);
        while let Some(error) = self.post.next() {
            if self.stack.knows(&error) {
                self.post.counters.taken += 1;
                self.stack.icmp(now, &error, &mut self.clerk);
            }
        }
        for waiter in self.woken.drain(..) {
            self.stack.resume(now, connection(waiter), &mut self.clerk);
        }
        if self.stack.next_deadline().is_some_and(|due| due <= now) {
            self.stack.tick(now, &mut self.clerk);
        }
        if !self.stack.has_work() {
            return false;
        }
        let Self { host, stack, clerk, store, pages, counters, copy_below, template, .. } = self;
        // The clerk hears of what ends meanwhile, and the emitter reads what the clerk has queued.
        let answers = Rc::clone(&clerk.responder.answers);
        let mut emitter = Emitter {
            answers: &answers,
            store,
            host,
            outbox: out,
            copy_below: *copy_below,
            pages,
            counters,
            template,
            turn: 0,
            sent: false,
        };
        stack.transmit(now, &mut emitter, clerk);
        emitter.sent
    }

    fn deadline(&self) -> Option<Tick> {
        [self.stack.next_deadline(), self.store.deadline()].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Tick, out: &mut Outbox<'p>) {
        self.clerk.responder.at(self.born + now.0);
        while let Some(message) = self.host.poll(now) {
            let Some(mut frame) = out.allocate() else { break };
            if frame.extend(message.bytes()).is_ok() {
                out.send(message.port(), frame);
            } else {
                out.discard(frame, Reason::Unhandled);
            }
        }
        if let Some(conflict) = self.host.take_conflict()
            && self.complained.is_none_or(|at| now.0 - at.0 >= COMPLAIN_EVERY)
        {
            self.complained = Some(now);
            tracing::warn!("{conflict}: give an address that nobody has, or take it from there");
        }
        self.heed(now);
        self.publish();
    }

    fn lie_down(&self) -> bool {
        self.bell.doze();
        !(self.clerk.responder.finder.has_news() || self.store.has_news() || self.post.has_news())
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn get_up(&self) {
        self.bell.rise();
    }
}

impl<'p> FileServer<'p> {
    /// A packet in several frames, as jumbo frames and peers on this machine send: put together first.
    #[cold]
    fn handle_pieces(
        &mut self,
        now: Tick,
        from: PortId,
        first: Frame<'p>,
        burst: &mut Burst<'p>,
        out: &mut Outbox<'p>,
    ) {
        self.pieces.gather(first, burst);
        let reason = match self.pieces.segment(&self.host, from) {
            Ok((path, ecn, segment)) => {
                self.stack.receive(now, &path, ecn, segment, &mut self.clerk);
                None
            }
            Err(reason) => Some(reason),
        };
        self.pieces.settle(out, reason);
    }

    /// Does what was said from outside.
    fn heed(&mut self, now: Tick) {
        let stage = self.control.stage();
        if stage > self.stage {
            self.stage = stage;
            self.clerk.responder.draining = true;
            self.stack.unlisten(self.listen);
            for id in self.stack.ids() {
                self.stack.with(now, id, &mut self.clerk, |conn, clerk| match stage {
                    Stage::Resetting => conn.reset(),
                    _ => clerk.end_if_idle(conn),
                });
            }
        }
        if self.control.edition.load(Ordering::Acquire) != self.edition {
            self.take_up(now);
        }
        // Letting go of a site closes files and waits for a thread: somebody else's work.
        if !self.retired.is_empty()
            && let Ok(mut retired) = self.control.retired.try_lock()
        {
            retired.append(&mut self.retired);
        }
    }

    /// Goes over to another edition of the site. Never waits: what is being exchanged just now is taken up next time.
    #[cold]
    fn take_up(&mut self, now: Tick) {
        let Ok(site) = self.control.site.try_lock() else { return };
        self.edition = self.control.edition.load(Ordering::Acquire);
        let old = std::mem::replace(&mut self.site, Arc::clone(&site));
        drop(site);
        let finder = self.clerk.responder.take_up(&self.site, &self.bell);
        self.retired.push((old, finder));
        // Who waits for the old librarian asks the new one.
        for id in self.stack.ids() {
            self.stack.resume(now, id, &mut self.clerk);
        }
    }
}
