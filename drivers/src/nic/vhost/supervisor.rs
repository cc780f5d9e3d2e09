//! The thread that holds the socket: it introduces the queues to the back end, hears when that goes, and waits for the
//! next.
//!
//! ```text
//!   wait for all queues ─► hand over memory and rings ─► generation odd: up ─► poll the socket
//!            ▲                                                                     │ hung up
//!            └── connect again ◄── all queues have begun anew ◄── generation even: gone
//! ```

use super::bell::{Bell, Bells};
use super::door::Door;
use super::port::VhostPlan;
use super::talk::within;
use crate::nic::virtio::{Layout, Parts, feature};
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// How long a back end may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

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
    members: Vec<Option<Arc<Member>>>,
    /// Queues that have begun anew since the back end went.
    settled: usize,
    closing: bool,
    closed: bool,
    /// Why the first back end has not taken the rings: nothing will pass.
    refused: Option<io::Error>,
}

/// What the back end must know of one queue pair.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) arena: OwnedFd,
    pub(super) arena_address: u64,
    pub(super) arena_bytes: u64,
    pub(super) layout: Layout,
    pub(super) bells: Arc<Bells>,
}

impl Shared {
    pub(super) fn new(queues: u32) -> io::Result<Arc<Self>> {
        let members = (0..queues).map(|_| None).collect();
        let state = State { members, settled: 0, closing: false, closed: false, refused: None };
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
            Some(place) if place.is_none() && !closing => *place = Some(Arc::new(member)),
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

    /// The queues, once all are there. Copies, since nobody waits for us while we talk with a back end.
    fn members(&self) -> Vec<Arc<Member>> {
        self.state().members.iter().flatten().cloned().collect()
    }

    fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Waits until a back end has the rings, but no longer than it may take for an answer; whether it has, or had.
    ///
    /// # Errors
    /// Why the first has refused them.
    pub(super) fn wait_up(&self) -> io::Result<bool> {
        // A second more, for what it is told when the back end gave none.
        let until = Instant::now() + PATIENCE + Duration::from_secs(1);
        let mut state = self.state();
        while self.generation.load(Ordering::Acquire) == 0 {
            if let Some(error) = state.refused.take() {
                return Err(error);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closing || left.is_zero() {
                return Ok(false);
            }
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
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
    ///
    /// # Errors
    /// What went wrong; `TimedOut` when the answers do not come by `limit`.
    pub(super) fn meet(stream: UnixStream, plan: &VhostPlan, limit: Duration) -> io::Result<Self> {
        let mut front = Frontend::from_stream(stream.try_clone()?, u64::from(plan.queues) * 2);
        let (features, pairs) = within(limit, &stream, || Self::ask(&mut front, plan))?;
        Ok(Self { stream, front: FrontEnd(front), features, pairs })
    }

    /// Its features, and its queue pairs.
    fn ask(front: &mut Frontend, plan: &VhostPlan) -> Result<(u64, u64), vhost::Error> {
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
        Ok((offered & plan.wanted(), pairs))
    }

    /// Hands over memory and rings.
    fn introduce(&mut self, members: &[Arc<Member>], plan: &VhostPlan) -> io::Result<()> {
        let Self { stream, front: FrontEnd(front), features, .. } = self;
        within(PATIENCE, stream, || Self::hand_over(front, *features, members, plan))
    }

    fn hand_over(
        front: &mut Frontend,
        features: u64,
        members: &[Arc<Member>],
        plan: &VhostPlan,
    ) -> Result<(), vhost::Error> {
        front.set_features(features)?;
        front.set_mem_table(&regions(members))?;
        let base = if features & feature::PACKED != 0 { 0x8000 } else { 0 };
        for (pair, member) in members.iter().enumerate() {
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

    /// Takes the rings back: when this returns, the back end has let go of them, or is gone.
    /// It may also have fallen silent: then it keeps them, and nobody looks at what it does to the memory any more.
    fn part(self, plan: &VhostPlan) {
        let front = &self.front.0;
        let mut rings = 0..2 * plan.queues as usize;
        let stopped =
            within(PATIENCE, &self.stream, || rings.try_for_each(|i| front.get_vring_base(i).map(drop)));
        match stopped {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!("{}: taking the rings back: {error}", plan.path.display());
            }
            Err(error) => tracing::debug!("{}: taking the rings back: {error}", plan.path.display()),
            Ok(()) => {}
        }
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
fn regions(members: &[Arc<Member>]) -> Vec<VhostUserMemoryRegionInfo> {
    let mut regions: Vec<VhostUserMemoryRegionInfo> = Vec::new();
    for member in members {
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
    let mut before = false;
    let mut refusals = 0u32;
    while shared.wait(|state| state.members.iter().all(Option::is_some)) {
        let Some(mut now) = peer.take().or_else(|| find(shared, plan, &door, features)) else { break };
        let introduced = now.introduce(&shared.members(), plan);
        if let Err(error) = introduced {
            if !before {
                shared.state().refused = Some(error);
                break;
            }
            if refusals == 0 {
                tracing::warn!("{}: the back end refused the rings: {error}", plan.path.display());
            }
            drop(now);
            pause(shared, PAUSE * (1 << refusals));
            refusals = (refusals + 1).min(5);
            continue;
        }
        refusals = 0;
        shared.turn_over();
        if core::mem::replace(&mut before, true) {
            tracing::warn!("{}: a back end has the rings again", plan.path.display());
        }
        let gone = watch(shared, plan, &now.stream);
        if !gone {
            now.part(plan);
            break;
        }
        drop(now);
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

/// Waits until the back end has closed the socket (`true`) or it is time to close.
///
/// Nothing is ever said here unasked. Whoever says something all the same is alive, as is one that has closed only his half:
/// he may copy still, and keeps the rings. One that has closed all of it while he goes on copying is not found out.
fn watch(shared: &Shared, plan: &VhostPlan, stream: &UnixStream) -> bool {
    let mut listened_for = PollFlags::IN;
    let mut said = false;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(stream.as_fd(), listened_for),
            PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        let events = fds[0].revents();
        if shared.is_closing() {
            return false;
        }
        if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            return true;
        }
        if events.contains(PollFlags::IN) {
            match (&mut &*stream).read(&mut [0; 4096]) {
                // His half is closed: that shows for ever.
                Ok(0) => listened_for = PollFlags::empty(),
                Ok(_) => {
                    if !core::mem::replace(&mut said, true) {
                        tracing::warn!("{}: the back end says what nobody asked for", plan.path.display());
                    }
                    pause(shared, PAUSE);
                }
                Err(_) => {}
            }
        }
    }
}

fn pause(shared: &Shared, time: Duration) {
    let mut fds = [PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN)];
    // It is below a minute.
    let _ = poll(&mut fds, Timespec::try_from(time).ok().as_ref());
}

/// The next back end that can do what the first could; `None` when it is time to close.
fn find(shared: &Shared, plan: &VhostPlan, door: &Door, features: u64) -> Option<Peer> {
    let mut said = false;
    while !shared.is_closing() {
        match door.connect(plan).map(|stream| Peer::meet(stream, plan, PATIENCE)) {
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
        pause(shared, PAUSE);
    }
    None
}
