//! The client over the kernel's sockets: one thread, one epoll, no call that blocks.

use super::caller::{Caller, Heard, Lost, Talk};
use super::run::{Hopeless, Run};
use crate::worker::Tick;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// From so many bytes on, content that nobody wants to see is thrown away by the kernel (`MSG_TRUNC`, tcp(7)) instead
/// of being copied here. At 1 MiB that saves 30 % of the CPU time (`docs/measuring.md`); where between a few KiB and
/// that the gain begins was not measured.
const UNSEEN_FROM: u64 = 16 << 10;

/// Reads of one connection in a row.
const READS: usize = 8;

/// Events that are taken from the kernel at once.
const EVENTS: usize = 256;

/// How long a thread sleeps at most: as soon it hears that the end has come.
const LOOK: Duration = Duration::from_millis(10);

/// How often connections are looked at for answers that take too long.
const SWEEP: Duration = Duration::from_millis(10);

/// How long to wait before a connection is tried again that failed: doubled with each failure.
const RETRY: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// How long to wait after so many failures in a row.
pub(super) fn pause_after(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_MOST)
}

/// The threads of a run over the kernel's sockets.
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts a thread on each of these CPUs, or one wherever the kernel puts it; the run has as many threads.
    ///
    /// # Errors
    /// When the kernel has no thread or descriptor left. The run is stopped then.
    pub fn start(run: &Arc<Run>, cpus: &[usize]) -> io::Result<Self> {
        raise_descriptors();
        let begin = Instant::now();
        let mut threads = Self(Vec::new());
        for thread in 0..run.threads {
            let mut sockets = Sockets::new(run, thread, begin).inspect_err(|_| run.stop())?;
            let (done, cpu) = (Done(Arc::clone(run)), cpus.get(thread).copied());
            let work = move || {
                let _done = done;
                if let Some(cpu) = cpu
                    && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
                {
                    tracing::warn!("no thread may run on CPU {cpu}");
                }
                // A request that is due in 50 microseconds is to go then, and not when it suits the kernel's timers.
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                sockets.work();
            };
            let started = std::thread::Builder::new().name(format!("load-{thread}")).spawn(work);
            threads.0.push(started.inspect_err(|_| run.stop())?);
        }
        Ok(threads)
    }

    /// Waits for their end.
    ///
    /// # Errors
    /// When one of them panicked.
    pub fn join(self) -> Result<(), String> {
        let died = self.0.into_iter().filter_map(|thread| thread.join().err()).count();
        if died == 0 { Ok(()) } else { Err(format!("{died} threads of the load died; this is a defect")) }
    }
}

/// Says that a thread has nothing more to do, whatever way it ended.
struct Done(Arc<Run>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// A descriptor a connection: as many as this user may have.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("raising the limit of open files: {error}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not open; to be opened then.
    Resting(Tick),
    /// The handshake is under way, since then.
    Opening(Tick),
    Open,
}

/// One connection, or the place for it.
#[derive(Debug)]
struct Seat {
    socket: Option<OwnedFd>,
    stage: Stage,
    talk: Talk,
    /// Bytes of requests that the kernel has taken.
    written: u64,
    /// The kernel is to say when it takes more.
    blocked: bool,
    /// It is among those that wait for a request.
    free: bool,
    /// Failures in a row.
    failures: u32,
}

/// One thread's connections.
#[derive(Debug)]
struct Sockets {
    caller: Caller,
    epoll: OwnedFd,
    seats: Vec<Seat>,
    /// Seats that have room for a request, when none was due.
    free: VecDeque<usize>,
    /// Seats that are to be opened again at once.
    reopen: Vec<usize>,
    buffer: Vec<u8>,
    /// Several requests on their way out together.
    out: Vec<u8>,
    begin: Instant,
    next_sweep: Tick,
}

/// Why a connection is not any more.
enum End {
    Lost(Lost),
    NotOpened(Errno),
}

impl Sockets {
    fn new(run: &Arc<Run>, thread: usize, begin: Instant) -> io::Result<Self> {
        let seat = |_| Seat {
            socket: None,
            stage: Stage::Resting(Tick::default()),
            talk: Talk::new(run),
            written: 0,
            blocked: false,
            free: false,
            failures: 0,
        };
        let seats: Vec<Seat> = (0..run.share(run.plan.connections, thread).max(1)).map(seat).collect();
        Ok(Self {
            caller: Caller::new(run, thread),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            free: VecDeque::with_capacity(seats.len()),
            reopen: Vec::with_capacity(seats.len()),
            seats,
            buffer: vec![0; READ_BYTES],
            out: Vec::with_capacity(4 << 10),
            begin,
            next_sweep: Tick::default(),
        })
    }

    fn now(&self) -> Tick {
        Tick(self.begin.elapsed())
    }

    fn work(&mut self) {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        loop {
            let now = self.now();
            if self.caller.advance(now) {
                break;
            }
            if now >= self.next_sweep {
                self.sweep(now);
            }
            while let Some(at) = self.reopen.pop() {
                self.open(at, now);
            }
            self.send_due(now);
            let count = match self.wait(now, &mut events) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    self.caller.despair(|server| Hopeless::Kernel(server, format!("epoll: {error}")));
                    continue;
                }
            };
            for event in &events[..count] {
                let (seat, flags) = (event.data.u64(), event.flags);
                self.event(usize::try_from(seat).unwrap_or(usize::MAX), flags);
            }
        }
        let now = self.now();
        self.caller.end(now);
        for seat in &self.seats {
            self.caller.cut_off(&seat.talk);
        }
        self.caller.hand_in();
    }

    /// Waits for something to happen, or to be done.
    fn wait(&self, now: Tick, events: &mut [epoll::Event]) -> Result<usize, Errno> {
        let due = if self.free.is_empty() { None } else { self.caller.next_at() };
        let look = self.caller.look_at();
        let soon = due.map_or(look, |due| due.min(look));
        let time = soon.0.saturating_sub(now.0).min(LOOK);
        let mut timeout = Timespec::try_from(time).unwrap_or_default();
        if due.is_some() && !time.is_zero() {
            // epoll_wait(2) counts in milliseconds, ppoll(2) in nanoseconds.
            poll(
                &mut [PollFd::from_borrowed_fd(rustix::fd::AsFd::as_fd(&self.epoll), PollFlags::IN)],
                Some(&timeout),
            )?;
            timeout = Timespec::default();
        }
        epoll::wait(&self.epoll, events, Some(&timeout))
    }

    /// Opens what has rested, and gives up on what takes too long.
    #[cold]
    fn sweep(&mut self, now: Tick) {
        self.next_sweep = Tick(now.0 + SWEEP);
        let timeout = self.caller.run().plan.timeout;
        let late = |since: Tick| now.0.saturating_sub(since.0) >= timeout;
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            match seat.stage {
                Stage::Resting(until) if until <= now => self.open(at, now),
                Stage::Opening(since) if late(since) => self.end(at, now, &End::NotOpened(Errno::TIMEDOUT)),
                Stage::Open if seat.talk.waits_since().is_some_and(late) => {
                    self.end(at, now, &End::Lost(Lost::Slow));
                }
                _ => {}
            }
        }
    }

    fn open(&mut self, at: usize, now: Tick) {
        if !matches!(self.seats[at].stage, Stage::Resting(_)) {
            return;
        }
        let opened = connect(self.caller.run().plan.server).and_then(|socket| {
            let (data, flags) = (EventData::new_u64(at as u64), EventFlags::IN | EventFlags::OUT);
            epoll::add(&self.epoll, &socket, data, flags)?;
            Ok(socket)
        });
        let seat = &mut self.seats[at];
        seat.stage = Stage::Opening(now);
        match opened {
            Ok(socket) => seat.socket = Some(socket),
            Err(error) => self.end(at, now, &End::NotOpened(error)),
        }
    }

    /// A connection has ended, or never was.
    #[cold]
    fn end(&mut self, at: usize, now: Tick, how: &End) {
        let seat = &mut self.seats[at];
        // Closed, it leaves the epoll by itself.
        seat.socket = None;
        let served = seat.talk.is_answered();
        seat.failures = if served { 0 } else { seat.failures + 1 };
        seat.stage = Stage::Resting(Tick(now.0 + pause_after(seat.failures)));
        (seat.written, seat.blocked) = (0, false);
        if served {
            // Nothing is wrong with a server that closes: it is no pause that it wants.
            self.reopen.push(at);
        }
        match *how {
            End::Lost(how) => self.caller.lost(now, &mut seat.talk, how),
            End::NotOpened(error) => self.caller.not_connected(|server| match error {
                Errno::CONNREFUSED => Hopeless::Refused(server),
                Errno::TIMEDOUT => Hopeless::Silent(server),
                other => Hopeless::Kernel(server, io::Error::from(other).to_string()),
            }),
        }
    }

    /// Something has happened to a connection.
    #[inline]
    fn event(&mut self, at: usize, flags: EventFlags) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        let Some(socket) = &seat.socket else { return };
        if let Stage::Opening(_) = seat.stage {
            let answer = sockopt::socket_error(socket).unwrap_or_else(Err);
            let now = self.now();
            match answer {
                Ok(()) => self.opened(at, now),
                Err(error) => self.end(at, now, &End::NotOpened(error)),
            }
            return;
        }
        if flags.contains(EventFlags::OUT) && seat.blocked {
            let now = self.now();
            if let Err(error) = self.write(at) {
                self.end(at, now, &End::Lost(error));
                return;
            }
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            match self.read(at) {
                Ok(now) => self.say(at, now),
                Err(how) => {
                    let now = self.now();
                    self.end(at, now, &End::Lost(how));
                }
            }
        }
    }

    fn opened(&mut self, at: usize, now: Tick) {
        let seat = &mut self.seats[at];
        seat.stage = Stage::Open;
        self.caller.connected();
        if let Err(error) = self.listen_for(at, EventFlags::IN) {
            self.caller.despair(|server| Hopeless::Kernel(server, format!("epoll: {error}")));
        }
        self.say(at, now);
    }

    fn listen_for(&self, at: usize, flags: EventFlags) -> Result<(), Errno> {
        let Some(socket) = &self.seats[at].socket else { return Ok(()) };
        epoll::modify(&self.epoll, socket, EventData::new_u64(at as u64), flags)
    }

    /// Reads what there is, not for ever; returns when that was.
    #[inline]
    fn read(&mut self, at: usize) -> Result<Tick, Lost> {
        let seat = &mut self.seats[at];
        let Some(socket) = &seat.socket else { return Err(Lost::Reset) };
        let mut now = Tick(self.begin.elapsed());
        for _ in 0..READS {
            let unseen = seat.talk.unseen();
            let (most, flags) = if unseen >= UNSEEN_FROM {
                (usize::try_from(unseen).unwrap_or(usize::MAX).min(READ_BYTES), RecvFlags::TRUNC)
            } else {
                (READ_BYTES, RecvFlags::empty())
            };
            let buffer = &mut self.buffer[..most];
            let read = match rustix::net::recv(socket, &mut *buffer, flags) {
                Ok((_, 0)) => return Err(Lost::Closed),
                Ok((_, read)) => read,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return Err(Lost::Reset),
            };
            now = Tick(self.begin.elapsed());
            if flags == RecvFlags::TRUNC {
                self.caller.hear_unseen(now, &mut seat.talk, read as u64);
            } else if self.caller.hear(now, &mut seat.talk, &buffer[..read]) == Heard::Over {
                return Err(Lost::Over);
            }
            // Less than there was room for: there is no more.
            if read < most {
                break;
            }
        }
        Ok(now)
    }

    /// Sends what is due over a connection that has room for it.
    #[inline]
    fn say(&mut self, at: usize, now: Tick) {
        let Self { caller, seats, out, .. } = self;
        let seat = &mut seats[at];
        let Some(socket) = &seat.socket else { return };
        let mut sent = 0;
        if caller.run().plan.pipeline == 1 {
            let Some(request) = caller.ask(now, &mut seat.talk) else { return self.set_free(at) };
            sent = send(socket, request);
        } else {
            out.clear();
            while let Some(request) = caller.ask(now, &mut seat.talk) {
                out.extend_from_slice(request);
            }
            if !out.is_empty() && !seat.blocked {
                sent = send(socket, out);
            }
        }
        seat.written += sent as u64;
        if seat.written < seat.talk.end() && !seat.blocked {
            self.block(at);
        }
        if self.caller.run().plan.pipeline > 1 {
            self.set_free(at);
        }
    }

    /// What the kernel did not take waits until it does.
    #[cold]
    fn block(&mut self, at: usize) {
        self.seats[at].blocked = true;
        // Without it, the answer never comes, and the connection ends with the timeout.
        let _ = self.listen_for(at, EventFlags::IN | EventFlags::OUT);
    }

    /// The kernel takes more.
    #[cold]
    fn write(&mut self, at: usize) -> Result<(), Lost> {
        let seat = &mut self.seats[at];
        let Some(socket) = &seat.socket else { return Err(Lost::Reset) };
        while let Some(bytes) = seat.talk.bytes(self.caller.run(), seat.written) {
            match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => seat.written += sent as u64,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(_) => return Err(Lost::Reset),
            }
        }
        seat.blocked = false;
        self.listen_for(at, EventFlags::IN).map_err(|_| Lost::Reset)
    }

    /// A connection has room for a request, but none is due.
    #[inline]
    fn set_free(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        if !seat.free && self.caller.has_room(&seat.talk) && self.caller.next_at().is_some() {
            seat.free = true;
            self.free.push_back(at);
        }
    }

    /// Sends what has become due, over connections that wait for it.
    #[inline]
    fn send_due(&mut self, now: Tick) {
        while self.caller.next_at().is_some_and(|due| due <= now) {
            let Some(at) = self.free.pop_front() else { return };
            let seat = &mut self.seats[at];
            seat.free = false;
            if seat.stage == Stage::Open {
                self.say(at, now);
            }
        }
    }
}

/// As much of `bytes` as the kernel takes. An error shows when the answer is read.
#[inline]
fn send(socket: &OwnedFd, bytes: &[u8]) -> usize {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Begins a handshake.
fn connect(server: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let ms = Duration::from_millis;
        assert_eq!(
            [1, 2, 3, 7, 8, 100].map(pause_after),
            [ms(10), ms(20), ms(40), ms(640), ms(1000), ms(1000)]
        );
    }
}
