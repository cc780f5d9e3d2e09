//! The thread that holds the socket: it introduces the queues to the back end, hears when that goes, and waits for the
//! next.
//!
//! ```text
//!   wait for all queues ─► hand over memory and rings ─► generation odd: up ─► poll the socket
//!            ▲                                                                     │ hung up
//!            └── connect again ◄── all queues have begun anew ◄── generation even: gone
//! ```

use super::bell::{Bell, Bells};
use super::port::VhostPlan;
use crate::nic::virtio::{Layout, Parts, feature};
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// How long a back end may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the supervisor and the queues share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Odd while a back end has the rings.
    pub(super) generation: AtomicU32,
    state: Mutex<State>,
    news: Condvar,
    alarm: Bell,
}

#[derive(Debug)]
struct State {
    members: Vec<Option<Member>>,
    /// Queues that have begun anew since the back end went.
    settled: usize,
    closing: bool,
    closed: bool,
}

/// What the back end must know of one queue pair.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) arena: Arc<OwnedFd>,
    pub(super) arena_address: u64,
    pub(super) arena_bytes: u64,
    pub(super) layout: Layout,
    pub(super) bells: Arc<Bells>,
}

impl Shared {
    pub(super) fn new(queues: u32) -> io::Result<Arc<Self>> {
        let state =
            State { members: (0..queues).map(|_| None).collect(), settled: 0, closing: false, closed: false };
        Ok(Arc::new(Self {
            generation: AtomicU32::new(0),
            state: Mutex::new(state),
            news: Condvar::new(),
            alarm: Bell::new()?,
        }))
    }

    pub(super) const fn is_up(generation: u32) -> bool {
        generation % 2 == 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue is there.
    pub(super) fn join(&self, queue: u32, member: Member) -> bool {
        let mut state = self.state();
        let closing = state.closing;
        match state.members.get_mut(queue as usize) {
            Some(place) if place.is_none() && !closing => *place = Some(member),
            _ => return false,
        }
        self.news.notify_all();
        true
    }

    /// A queue has begun anew.
    pub(super) fn settle(&self) {
        self.state().settled += 1;
        self.news.notify_all();
    }

    /// Stops the back end, and waits until it has stopped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.news.notify_all();
        // The supervisor may sleep over its socket.
        let _ = self.alarm.ring();
        while !state.closed {
            let waited = self.news.wait_timeout(state, 2 * PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() {
                tracing::warn!("a vhost-user back end did not stop in time");
                break;
            }
        }
    }

    /// Waits until `ready`; `false` when it is time to close.
    fn wait(&self, ready: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state();
        while !state.closing && !ready(&state) {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closing
    }

    fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Waits until a back end has the rings, but no longer than it may take for an answer; whether it has.
    pub(super) fn wait_up(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !Self::is_up(self.generation.load(Ordering::Acquire)) {
            let left = until.saturating_duration_since(Instant::now());
            if state.closing || left.is_zero() {
                return false;
            }
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn turn_over(&self) {
        // Pairs with the queues' acquire.
        self.generation.fetch_add(1, Ordering::Release);
        let state = self.state();
        self.news.notify_all();
        for member in state.members.iter().flatten() {
            // A worker may sleep.
            let _ = member.bells.call.ring();
        }
    }
}

/// How we come to a back end.
#[derive(Debug)]
pub(super) enum Door {
    /// We connect to its socket.
    Knock,
    /// It connects to ours, which goes with us.
    Open(UnixListener, PathBuf),
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Open(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Door {
    pub(super) fn new(plan: &VhostPlan) -> io::Result<Self> {
        if !plan.server {
            return Ok(Self::Knock);
        }
        // Left behind by one that was killed: a socket at which nobody listens. A plain file refuses connections, too.
        if std::fs::symlink_metadata(&plan.path).is_ok_and(|found| found.file_type().is_socket())
            && UnixStream::connect(&plan.path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        {
            let _ = std::fs::remove_file(&plan.path);
        }
        let listener = UnixListener::bind(&plan.path)?;
        let door = Self::Open(listener, plan.path.clone());
        if let Self::Open(listener, _) = &door {
            listener.set_nonblocking(true)?;
        }
        Ok(door)
    }

    /// One attempt.
    pub(super) fn connect(&self, plan: &VhostPlan) -> io::Result<UnixStream> {
        let stream = match self {
            Self::Knock => UnixStream::connect(&plan.path)?,
            Self::Open(listener, _) => listener.accept()?.0,
        };
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

/// Does what waits for a back end, which may take [`PATIENCE`] for it: then its connection is cut, and the wait ends with an
/// error. (A time limit of the socket's own does not do: the vhost crate takes it for a reason to try again.)
fn limited<T>(stream: &UnixStream, work: impl FnOnce() -> T) -> T {
    let (done, rest) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if rest.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// A back end that we have been introduced to.
#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    front: FrontEnd,
    /// What both can do.
    pub(super) features: u64,
    /// Queue pairs that it has.
    pub(super) pairs: u64,
}

/// The crate's front end, which does not print itself.
struct FrontEnd(Frontend);

impl std::fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frontend")
    }
}

impl Peer {
    /// Asks what the back end can do.
    pub(super) fn meet(stream: UnixStream, plan: &VhostPlan) -> Result<Self, vhost::Error> {
        let copy = stream.try_clone().map_err(vhost::Error::IOError)?;
        let front = Frontend::from_stream(copy, u64::from(plan.queues) * 2);
        let (front, features, pairs) = limited(&stream, || Self::agree(front, plan))?;
        Ok(Self { stream, front: FrontEnd(front), features, pairs })
    }

    fn agree(mut front: Frontend, plan: &VhostPlan) -> Result<(Frontend, u64, u64), vhost::Error> {
        front.set_owner()?;
        let offered = front.get_features()?;
        let mut pairs = 1;
        if offered & PROTOCOL_FEATURES != 0 {
            let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
            let both = front.get_protocol_features()? & wanted;
            front.set_protocol_features(both)?;
            if both.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
            if both.contains(VhostUserProtocolFeatures::MQ) {
                // Some count rings, some pairs: enough is what is asked for.
                pairs = front.get_queue_num()?;
            }
        }
        Ok((front, offered & plan.wanted(), pairs))
    }

    /// Hands over memory and rings.
    fn introduce(&mut self, members: &[Option<Member>], plan: &VhostPlan) -> Result<(), vhost::Error> {
        let Self { stream, front, features, .. } = self;
        limited(stream, || Self::hand_over(&mut front.0, *features, members, plan))
    }

    fn hand_over(
        front: &mut Frontend,
        features: u64,
        members: &[Option<Member>],
        plan: &VhostPlan,
    ) -> Result<(), vhost::Error> {
        front.set_features(features)?;
        front.set_mem_table(&regions(members))?;
        let base = if features & feature::PACKED != 0 { 0x8000 } else { 0 };
        for (pair, member) in members.iter().enumerate() {
            let Some(member) = member else { continue };
            let Layout { memory, receive, transmit, .. } = &member.layout;
            for (index, parts, bell) in
                [(2 * pair, receive, &member.bells.receive), (2 * pair + 1, transmit, &member.bells.transmit)]
            {
                front.set_vring_num(index, plan.ring)?;
                // A packed ring begins on its first lap: bit 15.
                front.set_vring_base(index, base)?;
                front.set_vring_addr(index, &addresses(memory.address(), parts, plan.ring))?;
                front.set_vring_call(index, &member.bells.call.for_peer().map_err(vhost::Error::IOError)?)?;
                front.set_vring_kick(index, &bell.for_peer().map_err(vhost::Error::IOError)?)?;
            }
        }
        if features & PROTOCOL_FEATURES != 0 {
            for index in 0..2 * members.len() {
                front.set_vring_enable(index, true)?;
            }
        }
        // net_vhost begins only behind its answer to the last of them: once it answers something else, it has begun.
        front.get_features()?;
        Ok(())
    }

    /// Takes the rings back: when this returns, the back end has let go of them, is gone, or does not answer.
    fn part(self, pairs: usize) {
        let Self { stream, front, .. } = &self;
        limited(stream, || {
            for index in 0..2 * pairs {
                if let Err(error) = front.0.get_vring_base(index) {
                    tracing::debug!("stopping ring {index}: {error}");
                    break;
                }
            }
        });
    }
}

fn addresses(base: u64, parts: &Parts, ring: u16) -> VringConfigData {
    VringConfigData {
        queue_max_size: ring,
        queue_size: ring,
        flags: 0,
        desc_table_addr: base + parts.descriptors as u64,
        used_ring_addr: base + parts.device as u64,
        avail_ring_addr: base + parts.driver as u64,
        log_addr: None,
    }
}

/// Each memory once. What the back end calls a guest's physical address is our own.
fn regions(members: &[Option<Member>]) -> Vec<VhostUserMemoryRegionInfo> {
    let mut regions: Vec<VhostUserMemoryRegionInfo> = Vec::new();
    for member in members.iter().flatten() {
        let memory = &member.layout.memory;
        let rings = (memory.address(), memory.bytes() as u64, memory.file().as_raw_fd());
        let arena = (member.arena_address, member.arena_bytes, member.arena.as_raw_fd());
        for (address, bytes, file) in [arena, rings] {
            if regions.iter().all(|region| region.userspace_addr != address) {
                regions.push(VhostUserMemoryRegionInfo {
                    guest_phys_addr: address,
                    memory_size: bytes,
                    userspace_addr: address,
                    mmap_offset: 0,
                    mmap_handle: file,
                });
            }
        }
    }
    regions
}

/// Everything that the thread does.
pub(super) fn supervise(shared: &Shared, plan: &VhostPlan, door: Door, first: Peer) {
    let features = first.features;
    let mut peer = Some(first);
    let (mut before, mut said) = (false, false);
    while shared.wait(|state| state.members.iter().all(Option::is_some)) {
        let Some(mut now) = peer.take().or_else(|| find(shared, plan, &door, features)) else { break };
        // Copied, so that whoever waits to close need not wait for the back end.
        let members = shared.state().members.clone();
        if let Err(error) = now.introduce(&members, plan) {
            if !core::mem::replace(&mut said, true) {
                tracing::warn!("{}: the back end refused the rings: {error}", plan.path.display());
            }
            pause(shared);
            continue;
        }
        said = false;
        shared.turn_over();
        if core::mem::replace(&mut before, true) {
            tracing::warn!("{}: a back end has the rings again", plan.path.display());
        }
        match watch(shared, &now.stream) {
            Seen::Closing => {
                now.part(plan.queues as usize);
                break;
            }
            // It lives, and may still work on the rings.
            Seen::Words => now.part(plan.queues as usize),
            Seen::Gone => drop(now),
        }
        tracing::warn!("{}: the back end is gone; waiting for the next", plan.path.display());
        shared.state().settled = 0;
        shared.turn_over();
        if !shared.wait(|state| state.settled >= state.members.len()) {
            break;
        }
    }
    drop(door);
    shared.state().closed = true;
    shared.news.notify_all();
}

/// What ended the watch over a back end.
enum Seen {
    /// It is time to close.
    Closing,
    /// The socket is hung up.
    Gone,
    /// It said something, which is never asked of it while it has the rings: nobody knows what it would be an answer to.
    Words,
}

/// Waits until the socket is hung up, or it is time to close.
fn watch(shared: &Shared, stream: &UnixStream) -> Seen {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN | PollFlags::RDHUP),
            PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        if shared.is_closing() {
            return Seen::Closing;
        }
        match fds[0].revents() {
            PollFlags::IN => return Seen::Words,
            none if none.is_empty() => shared.alarm.calm(),
            _ => return Seen::Gone,
        }
    }
}

fn pause(shared: &Shared) {
    let mut fds = [PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN)];
    let _ = poll(&mut fds, Some(&PAUSE));
}

/// The next back end that can do what the first could; `None` when it is time to close.
fn find(shared: &Shared, plan: &VhostPlan, door: &Door, features: u64) -> Option<Peer> {
    let mut said = false;
    while !shared.is_closing() {
        match door.connect(plan).map(|stream| Peer::meet(stream, plan)) {
            Ok(Ok(peer)) if peer.features & features == features && peer.pairs >= plan.queues.into() => {
                return Some(Peer { features, ..peer });
            }
            Ok(Ok(_)) if !said => {
                tracing::warn!("{}: this back end can do less than the one before", plan.path.display());
                said = true;
            }
            Ok(Err(error)) if !said => {
                tracing::warn!("{}: {error}", plan.path.display());
                said = true;
            }
            _ => {}
        }
        pause(shared);
    }
    None
}
