//! One thread: one epoll, and its connections in turn. No call blocks but the one that waits for events.

use super::conn::{Conn, Turn, Uploads, Verdict};
use super::page::{KernelPage, Tally};
use super::start::{KernelError, KernelPlan};
use crate::serve::bell::Bell;
use crate::serve::control::{Control, Retired};
use crate::serve::http::Scratch;
use crate::serve::log::LogQueue;
use crate::serve::responder::Responder;
use crate::serve::site::{LOOKUPS, Site};
use crate::serve::tree::Entry;
use crate::serve::{Stage, Waiter};
use crate::worker::Tick;
use drivers::kernel::{Engine, Received, Receiver, engine};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Bytes that are read at once.
const ROOM: usize = 32 << 10;
/// Events that are taken from the kernel at once.
const EVENTS: usize = 256;
/// Connections that are accepted in a row.
const ACCEPTS: usize = 64;
/// How long it sleeps at most: as soon it hears what it is told.
const TICK: Duration = Duration::from_millis(50);
/// How often connections are looked at for which nothing happens.
const SWEEP: Duration = Duration::from_secs(1);
/// How long no connection is accepted when there is no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log that say so.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What an event is about, where it is no connection.
const LISTENER: u64 = u64::MAX;
const LIBRARIAN: u64 = u64::MAX - 1;
const ENGINE: u64 = u64::MAX - 2;

/// One thread of a server.
pub(super) struct Worker {
    epoll: OwnedFd,
    listener: Option<OwnedFd>,
    engine: Box<dyn Engine<Entry>>,
    responder: Responder,
    scratch: Scratch,
    bell: Arc<Bell>,
    uploads: Option<Uploads>,
    room: Box<[u8]>,
    conns: Vec<Option<Conn>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
    most: usize,
    quantum: u64,
    tally: Tally,
    control: Arc<Control>,
    site: Arc<Site>,
    edition: u64,
    retired: Vec<Retired>,
    stage: Stage,
    page: Arc<KernelPage>,
    begun: Instant,
    born: SystemTime,
    /// No descriptor was left: until then nothing is accepted.
    pause: Option<Tick>,
    /// It was said that there was none, and is not said again until then.
    said: Tick,
}

impl Worker {
    pub(super) fn new(
        plan: &KernelPlan,
        listener: OwnedFd,
        control: &Arc<Control>,
        page: Arc<KernelPage>,
        log: Option<LogQueue>,
        workers: usize,
    ) -> Result<Self, KernelError> {
        let error = |errno: Errno| KernelError::System(errno.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(error)?;
        let bell = Arc::new(Bell::new()?);
        let engine = engine::<Entry>(plan.method, &plan.engine)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).map_err(error)?;
        epoll::add(&epoll, bell.as_fd(), EventData::new_u64(LIBRARIAN), EventFlags::IN).map_err(error)?;
        if let Some(bell) = engine.bell() {
            epoll::add(&epoll, bell, EventData::new_u64(ENGINE), EventFlags::IN).map_err(error)?;
        }
        let receiver = plan.upload.map(|upload| Receiver::new(upload.way, &plan.engine)).transpose()?;
        let uploads = plan.upload.zip(receiver).map(|(plan, receiver)| Uploads::new(receiver, plan.limit));
        let edition = control.edition.load(Ordering::Acquire);
        let site = control.site();
        let responder = Responder::new(&site, &bell, &plan.limits, log, workers, plan.connections);
        Ok(Self {
            epoll,
            listener: Some(listener),
            engine,
            scratch: responder.scratch(),
            responder,
            bell,
            uploads,
            room: vec![0; ROOM.max(2 * plan.limits.head_bytes)].into(),
            conns: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            most: plan.connections as usize,
            quantum: plan.quantum.max(1),
            tally: Tally::default(),
            control: Arc::clone(control),
            site,
            edition,
            retired: Vec::new(),
            stage: Stage::Serving,
            page,
            begun: Instant::now(),
            born: SystemTime::now(),
            pause: None,
            said: Tick(Duration::ZERO),
        })
    }

    /// Serves until it is told to end, and all connections have.
    pub(super) fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut woken = Vec::new();
        let mut waiters = Vec::with_capacity(LOOKUPS);
        let (mut next_tick, mut next_sweep) = (Tick::default(), Tick(SWEEP));
        loop {
            self.wait(&mut events);
            let now = Tick(self.begun.elapsed());
            for event in events.drain(..) {
                self.take(now, event.data.u64(), event.flags);
            }
            self.responder.finder.poll(now, &mut waiters);
            for waiter in waiters.drain(..) {
                self.wake(waiter);
            }
            for _ in 0..self.ready.len() {
                let Some(flow) = self.ready.pop_front() else { break };
                self.serve(now, flow);
            }
            self.engine.poll(&mut woken);
            for flow in woken.drain(..) {
                self.push_ready(flow);
            }
            if now >= next_tick {
                next_tick = Tick(now.0 + TICK);
                self.tick(now);
                if self.stage == Stage::Resetting {
                    return;
                }
            }
            if now >= next_sweep {
                next_sweep = Tick(now.0 + SWEEP);
                self.sweep(now);
            }
        }
    }

    /// Waits for events, unless there is something to do.
    fn wait(&self, events: &mut Vec<epoll::Event>) {
        let sleeps = self.ready.is_empty();
        if sleeps {
            self.bell.doze();
        }
        let rests = sleeps && !self.responder.finder.has_news();
        let limit = Timespec { tv_sec: 0, tv_nsec: if rests { i64::from(TICK.subsec_nanos()) } else { 0 } };
        // Interrupted is as good as nothing.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&limit));
        if sleeps {
            self.bell.rise();
        }
    }

    /// Takes in one event.
    fn take(&mut self, now: Tick, data: u64, flags: EventFlags) {
        match data {
            LISTENER => self.accept(now),
            LIBRARIAN | ENGINE => {}
            _ => {
                let Ok(flow) = u32::try_from(data) else { return };
                let Some(Some(conn)) = self.conns.get_mut(flow as usize) else { return };
                conn.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
                conn.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
                if flags.intersects(EventFlags::OUT | EventFlags::HUP) {
                    conn.became_writable();
                }
                if flags.contains(EventFlags::ERR) {
                    if self.engine.error(flow, &conn.socket) {
                        // Room for more zero-copy sends.
                        conn.became_writable();
                    } else {
                        // A read or write says what it is.
                        conn.readable = true;
                        conn.became_writable();
                    }
                }
                self.push_ready(flow);
            }
        }
    }

    fn push_ready(&mut self, flow: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(flow as usize)
            && !std::mem::replace(&mut conn.ready, true)
        {
            self.ready.push_back(flow);
        }
    }

    /// The librarian has an answer for one who waits.
    fn wake(&mut self, waiter: Waiter) {
        let Ok(flow) = u32::try_from(waiter.0 & u64::from(u32::MAX)) else { return };
        if let Some(Some(conn)) = self.conns.get_mut(flow as usize)
            && conn.waiter == waiter
        {
            conn.awake();
            self.push_ready(flow);
        }
    }

    fn accept(&mut self, now: Tick) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (socket, peer) = match acceptfrom_with(listener, flags) {
                Ok(accepted) => accepted,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // It stays in the kernel's queue, which would wake us for ever.
                    if now >= self.said {
                        tracing::warn!(
                            "no descriptor for another connection: raise ulimit -n, or lower --connections"
                        );
                        self.said = Tick(now.0 + SAY_AGAIN);
                    }
                    let _ = epoll::delete(&self.epoll, listener);
                    self.pause = Some(Tick(now.0 + PAUSE));
                    return;
                }
                Err(_) => return,
            };
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
            let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
            self.admit(now, socket, peer);
        }
    }

    /// A new connection gets a place.
    fn admit(&mut self, now: Tick, socket: OwnedFd, peer: IpAddr) {
        // With none left it is closed at once.
        let used = self.conns.len() - self.free.len();
        if used >= self.most {
            return;
        }
        let flow = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            u32::try_from(self.conns.len() - 1).unwrap_or(u32::MAX)
        });
        let place = flow as usize;
        let waiter = Waiter(u64::from(self.generations[place]) << 32 | u64::from(flow));
        // Edges, both ways at once: one call for the life of a connection.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if epoll::add(&self.epoll, &socket, EventData::new_u64(flow.into()), flags).is_err() {
            self.free.push(flow);
            return;
        }
        self.tally.opened += 1;
        let conn = Conn::new(socket, peer, waiter, now);
        self.conns[place] = Some(conn);
        if !self.responder.peers.enter(peer) {
            // Not counted, so not to be counted out. Who is told so has a place until he has read it: not one of the last.
            if used < self.most / 2 {
                self.turn_away(now, flow);
            } else {
                self.close(flow, true);
            }
            return;
        }
        if let Some(Some(conn)) = self.conns.get_mut(place) {
            conn.counted = true;
        }
        self.push_ready(flow);
    }

    /// One connection too many of a peer: it is told so.
    #[cold]
    fn turn_away(&mut self, now: Tick, flow: u32) {
        self.with(now, flow, |conn, turn| {
            conn.turn_away(turn);
            conn.turn(turn)
        });
    }

    /// Lets a connection have its turn.
    fn serve(&mut self, now: Tick, flow: u32) {
        self.with(now, flow, |conn, turn| {
            conn.ready = false;
            conn.turn(turn)
        });
    }

    /// Does something with a connection, and then what it says.
    fn with(&mut self, now: Tick, flow: u32, act: impl FnOnce(&mut Conn, &mut Turn<'_>) -> Verdict) {
        let Some(Some(conn)) = self.conns.get_mut(flow as usize) else { return };
        let mut turn = Turn {
            now,
            responder: &mut self.responder,
            scratch: &mut self.scratch,
            engine: &mut *self.engine,
            uploads: self.uploads.as_mut(),
            control: &self.control,
            room: &mut self.room,
            tally: &mut self.tally,
            flow,
            quantum: self.quantum,
        };
        match act(conn, &mut turn) {
            Verdict::Rests => {}
            Verdict::Yields => self.push_ready(flow),
            Verdict::Close => self.close(flow, false),
            Verdict::Reset => self.close(flow, true),
        }
    }

    fn close(&mut self, flow: u32, reset: bool) {
        let Some(mut conn) = self.conns.get_mut(flow as usize).and_then(Option::take) else { return };
        if reset {
            conn.reset();
        } else {
            // Whoever still works with it hears of its end.
            let _ = rustix::net::shutdown(&*conn.socket, rustix::net::Shutdown::Both);
        }
        self.engine.close(flow, &conn.socket);
        let _ = epoll::delete(&self.epoll, &*conn.socket);
        conn.forget(&mut self.responder.answers.borrow_mut());
        conn.forget_upload(&mut self.tally);
        if conn.counted {
            self.responder.peers.leave(conn.peer);
        }
        let generation = &mut self.generations[flow as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(flow);
        self.tally.closed += 1;
    }

    /// Does what is due every so often.
    fn tick(&mut self, now: Tick) {
        self.responder.at(self.born + now.0);
        self.heed();
        self.engine.tidy();
        if self.pause.is_some_and(|until| now >= until) {
            self.pause = None;
            if let Some(listener) = &self.listener {
                let data = EventData::new_u64(LISTENER);
                let _ = epoll::add(&self.epoll, listener, data, EventFlags::IN);
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let received =
            self.uploads.as_ref().map_or_else(Received::default, |uploads| uploads.receiver.received());
        self.page.publish(&self.tally, self.engine.counters(), received, &self.responder.counts);
    }

    /// Does what was said from outside.
    fn heed(&mut self) {
        let stage = self.control.stage();
        if stage > self.stage {
            self.stage = stage;
            self.responder.draining = true;
            self.listener = None;
            for flow in self.flows() {
                if stage == Stage::Resetting {
                    self.close(flow, true);
                } else if let Some(Some(conn)) = self.conns.get_mut(flow as usize)
                    && conn.is_idle()
                {
                    conn.end();
                    self.push_ready(flow);
                }
            }
        }
        if self.control.edition.load(Ordering::Acquire) != self.edition {
            self.take_up();
        }
        if !self.retired.is_empty()
            && let Ok(mut retired) = self.control.retired.try_lock()
        {
            retired.append(&mut self.retired);
        }
    }

    /// Goes over to another edition of the site.
    #[cold]
    fn take_up(&mut self) {
        let Ok(site) = self.control.site.try_lock() else { return };
        self.edition = self.control.edition.load(Ordering::Acquire);
        let old = std::mem::replace(&mut self.site, Arc::clone(&site));
        drop(site);
        let finder = self.responder.take_up(&self.site, &self.bell);
        self.retired.push((old, finder));
        // Who waits for the old librarian asks the new one.
        for flow in self.flows() {
            if let Some(Some(conn)) = self.conns.get_mut(flow as usize) {
                conn.awake();
                conn.ask_again();
                self.push_ready(flow);
            }
        }
    }

    /// Looks at connections for which nothing happens.
    fn sweep(&mut self, now: Tick) {
        for flow in 0..u32::try_from(self.conns.len()).unwrap_or(u32::MAX) {
            self.with(now, flow, |conn, turn| conn.look(now, turn).unwrap_or(Verdict::Rests));
        }
    }

    fn flows(&self) -> Vec<u32> {
        let used =
            |(place, conn): (usize, &Option<Conn>)| conn.as_ref().and_then(|_| u32::try_from(place).ok());
        self.conns.iter().enumerate().filter_map(used).collect()
    }
}

impl Drop for Worker {
    /// The engine ends after its sockets have.
    fn drop(&mut self) {
        for flow in self.flows() {
            self.close(flow, true);
        }
        self.engine.finish();
        self.publish();
    }
}
