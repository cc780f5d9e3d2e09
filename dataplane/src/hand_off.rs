//! Packets on their way to a worker that owns a queue where they must leave.
//!
//! ```text
//!   worker 0   lane ──park──► [ link: bounded, one way ] ──copy──► lane ──► queue   worker 1
//!                slot ◄────────── parcel dropped ◄───────────┘
//! ```
//!
//! A device sends only what lies in the arena that was registered with it, and each worker has an arena of its own. So
//! a packet is copied once, by the worker that takes it over, and the copied bytes are counted. There is one link for
//! each worker and each port that it has no queue at: nobody else puts anything in, so packets keep their order and the
//! frames of one packet stay together.

use crate::app::{Outbox, PortId};
use crate::stats::Reason;
use crossbeam_queue::ArrayQueue;
use ringbuf::{BURST, Burst, Parcel, Pool};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Frames that one link holds at most: what a worker may be behind by while it naps or another thread has its core.
pub const LINK_FRAMES: u32 = 1024;
const _: () = assert!(LINK_FRAMES as usize >= BURST);

/// One way, from one worker to one port of another.
#[derive(Debug)]
struct Link {
    port: PortId,
    parcels: ArrayQueue<Parcel>,
    /// The sender's own queues will never receive anything again.
    quiet: AtomicBool,
    /// Nothing more is put in.
    done: AtomicBool,
    /// Nothing more is taken out.
    closed: AtomicBool,
}

/// The end that puts in. The only one: so there is at least as much room as it saw last.
#[derive(Debug)]
struct Sender(Arc<Link>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// The end that takes out.
#[derive(Debug)]
struct Receiver(Arc<Link>);

impl Receiver {
    /// Whether nothing is in it, nor will be.
    fn is_over(&self, over: &AtomicBool) -> bool {
        // In this order: what was put in before the word is seen after it.
        over.load(Ordering::Acquire) && self.0.parcels.is_empty()
    }
}

impl Drop for Receiver {
    /// The slots of what nobody takes any more go home.
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        while let Some(parcel) = self.0.parcels.pop() {
            drop(parcel);
        }
    }
}

/// Wakes a worker that sleeps, and costs one that does not a load.
#[derive(Debug)]
struct Bell {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { asleep: AtomicBool::new(false), event })
    }

    /// After something was put into a link.
    fn ring(&self) {
        // Pairs with the fence of `lie_down`: either the sleeper sees what was put in, or we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // Cannot fail but for a counter near 2^64.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn get_up(&self) {
        self.asleep.store(false, Ordering::Release);
        // Read whether it was rung or not: a late ring would end every sleep to come.
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

/// One worker's ends of its links, on the way to its thread.
#[derive(Debug)]
pub struct Ends {
    incoming: Vec<(usize, Receiver)>,
    outgoing: Vec<(Sender, Arc<Bell>)>,
    bell: Arc<Bell>,
    frame_size: u16,
}

impl Ends {
    /// Frames that may be on their way from this worker to others.
    #[must_use]
    pub fn frames(&self) -> u32 {
        let links = u32::try_from(self.outgoing.len()).unwrap_or(u32::MAX);
        links.saturating_mul(LINK_FRAMES)
    }
}

/// Links workers so that each can send to every port: `workers` says at which ports each has a queue, `frame_size` how
/// many bytes a slot of every worker's arena has. `None` for a worker without links.
///
/// # Errors
/// That of `eventfd(2)`.
pub fn connect(workers: &[Vec<PortId>], frame_size: u16) -> std::io::Result<Vec<Option<Ends>>> {
    let ends = |_| -> std::io::Result<Ends> {
        let bell = Arc::new(Bell::new()?);
        Ok(Ends { incoming: Vec::new(), outgoing: Vec::new(), bell, frame_size })
    };
    let mut all = (0..workers.len()).map(ends).collect::<Result<Vec<_>, _>>()?;
    let ports: BTreeSet<PortId> = workers.iter().flatten().copied().collect();
    for port in ports {
        let owners: Vec<usize> = (0..workers.len()).filter(|at| workers[*at].contains(&port)).collect();
        for from in (0..workers.len()).filter(|at| !owners.contains(at)) {
            let to = owners[from % owners.len()];
            let link = Arc::new(Link {
                port,
                parcels: ArrayQueue::new(LINK_FRAMES as usize),
                quiet: AtomicBool::new(false),
                done: AtomicBool::new(false),
                closed: AtomicBool::new(false),
            });
            all[to].incoming.push((from, Receiver(Arc::clone(&link))));
            let bell = Arc::clone(&all[to].bell);
            all[from].outgoing.push((Sender(link), bell));
        }
    }
    let linked = |ends: Ends| Some(ends).filter(|e| !e.incoming.is_empty() || !e.outgoing.is_empty());
    Ok(all.into_iter().map(linked).collect())
}

/// What has been handed to other workers and taken over from them. Packets, but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Put into links.
    pub over: u64,
    /// Taken out of links.
    pub taken: u64,
    /// Bytes copied in taking them.
    pub taken_bytes: u64,
}

/// One worker's side of the hand-off.
#[derive(Debug)]
pub struct HandOff<'p> {
    pool: &'p Pool,
    incoming: Vec<Incoming<'p>>,
    outgoing: Vec<(Sender, Arc<Bell>)>,
    bell: Arc<Bell>,
    /// Slots of ours that are in parcels.
    away: u32,
    handed: Handed,
}

#[derive(Debug)]
struct Incoming<'p> {
    from: usize,
    link: Receiver,
    /// Frames of a packet whose end has not been taken yet.
    burst: Burst<'p>,
}

impl<'p> HandOff<'p> {
    /// A worker's ends, and the pool that its frames come from.
    ///
    /// # Panics
    /// When the slots of this pool are not as large as the other workers', and packets might not fit.
    #[must_use]
    pub fn new(pool: &'p Pool, ends: Ends) -> Self {
        assert_eq!(pool.frame_size(), ends.frame_size, "linked workers have slots of one size");
        let Ends { incoming, outgoing, bell, .. } = ends;
        let incoming = incoming.into_iter().map(|(from, link)| Incoming { from, link, burst: Burst::new() });
        Self { pool, incoming: incoming.collect(), outgoing, bell, away: 0, handed: Handed::default() }
    }

    pub(crate) const fn pool(&self) -> &'p Pool {
        self.pool
    }

    /// The ports that this worker reaches through others, a lane of the outbox each.
    pub(crate) fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.outgoing.iter().map(|(sender, _)| sender.0.port)
    }

    /// Links that come in.
    pub(crate) const fn incoming(&self) -> usize {
        self.incoming.len()
    }

    /// What has passed.
    #[must_use]
    pub const fn handed(&self) -> Handed {
        self.handed
    }

    /// Puts what lies in the outbox's lanes from `first` on into the links. What finds no room is discarded.
    pub(crate) fn hand_over(&mut self, out: &mut Outbox<'p>, first: usize) {
        for (index, (sender, bell)) in self.outgoing.iter().enumerate() {
            let lane = out.lane(first + index);
            if lane.is_empty() {
                continue;
            }
            let link = &*sender.0;
            let closed = link.closed.load(Ordering::Acquire);
            let mut room = if closed { 0 } else { link.parcels.capacity() - link.parcels.len() };
            let mut frames = lane.packet_frames();
            while frames > 0 && frames <= room {
                for frame in lane.drain().take(frames) {
                    let ends = !frame.continues();
                    // The frame is this pool's: the outbox takes no other. Without a place, its slot would go home.
                    let Ok(parcel) = self.pool.park(frame) else { continue };
                    let placed = link.parcels.push(parcel);
                    debug_assert!(placed.is_ok(), "nobody else puts anything in");
                    self.away += 1;
                    self.handed.over += u64::from(ends);
                }
                room -= frames;
                frames = lane.packet_frames();
            }
            out.discard_lane(first + index, if closed { Reason::PortGone } else { Reason::HandOffFull });
            bell.ring();
        }
    }

    /// Takes in the slots that came home from other workers.
    pub(crate) fn collect(&mut self) {
        if self.away > 0 {
            self.away -= self.pool.collect();
        }
    }

    /// Copies what one link holds into frames of our own and gives them to the outbox, for one of `members` queues;
    /// returns how many frames. What finds no free frame waits in the link.
    pub(crate) fn take_over(&mut self, link: usize, out: &mut Outbox<'p>, members: usize) -> usize {
        let Some(incoming) = self.incoming.get_mut(link) else { return 0 };
        let Incoming { from, link, burst } = incoming;
        let mut taken = 0;
        while burst.room() > 0 && !link.0.parcels.is_empty() {
            let Some(mut frame) = self.pool.alloc() else { break };
            let Some(parcel) = link.0.parcels.pop() else { break };
            frame.restart(parcel.head());
            let fits = frame.extend(&parcel);
            debug_assert!(fits.is_ok(), "slots are of one size");
            frame.set_offload(parcel.offload());
            frame.set_continues(parcel.continues());
            self.handed.taken += u64::from(!parcel.continues());
            self.handed.taken_bytes += parcel.len() as u64;
            drop(burst.push(frame));
            taken += 1;
        }
        // What comes from one worker always leaves by one queue: so a flow stays in order.
        out.face(*from % members.max(1));
        while out.send_packet(link.0.port, burst) > 0 {}
        taken
    }

    /// Whether the other workers' queues are exhausted too, and nothing is on its way here. Says that ours are.
    pub(crate) fn is_quiet(&self) -> bool {
        for (sender, _) in &self.outgoing {
            sender.0.quiet.store(true, Ordering::Release);
        }
        self.incoming.iter().all(|incoming| {
            let link = &incoming.link;
            link.is_over(&link.0.quiet) || link.is_over(&link.0.done)
        })
    }

    /// Says that nothing more will be handed over.
    pub(crate) fn finish(&self) {
        for (sender, _) in &self.outgoing {
            sender.0.done.store(true, Ordering::Release);
        }
    }

    /// Whether all is taken over, from others and by them, and no slot of ours is away.
    pub(crate) fn is_settled(&self) -> bool {
        self.away == 0 && self.incoming.iter().all(|incoming| incoming.link.is_over(&incoming.link.0.done))
    }

    /// Before the worker sleeps: whether it may. If so it is to [get up](Self::get_up) afterwards.
    pub(crate) fn lie_down(&self) -> bool {
        self.bell.lie_down();
        let may = self.incoming.iter().all(|incoming| incoming.link.0.parcels.is_empty());
        if !may {
            self.get_up();
        }
        may
    }

    pub(crate) fn get_up(&self) {
        self.bell.get_up();
    }

    /// What becomes readable when something is handed over to a worker that sleeps.
    pub(crate) fn waker(&self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbuf::{Arena, ArenaPlan};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn rung(hand_off: &HandOff<'_>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(hand_off.waker(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).expect("poll") > 0
    }

    fn hand_over<'p>(side: &mut HandOff<'p>, out: &mut Outbox<'p>) {
        out.face(0);
        out.send(PortId(1), side.pool.alloc().expect("a frame"));
        side.hand_over(out, 1);
    }

    /// A worker that lacks a port is linked to one that has it, the others spread.
    #[test]
    fn links_go_where_the_queues_are() {
        let [a, b] = [PortId(0), PortId(1)];
        let count =
            |ends: &Option<Ends>| ends.as_ref().map(|ends| (ends.incoming.len(), ends.outgoing.len()));
        let links = |workers: &[Vec<PortId>]| -> Vec<_> {
            connect(workers, 2048).expect("eventfd").iter().map(count).collect()
        };
        assert_eq!(links(&[vec![a, b], vec![a, b]]), [None, None]);
        assert_eq!(links(&[vec![a], vec![b]]), [Some((1, 1)), Some((1, 1))]);
        assert_eq!(links(&[vec![a, b], vec![b], vec![b]]), [Some((2, 0)), Some((0, 1)), Some((0, 1))]);
        assert_eq!(
            links(&[vec![a, b], vec![a, b], vec![b], vec![b]]),
            [1, 1, 0, 0].map(|n| Some((n, 1 - n)))
        );
    }

    /// Rung only when asleep, and a sleep does not begin while something waits.
    #[test]
    fn a_sleeper_is_woken() {
        let plan = ArenaPlan { frames: 16, frame_size: 2048, huge_pages: false, ..ArenaPlan::default() };
        let pools = [0, 1].map(|_| Pool::new(Arena::new(&plan).expect("memory")));
        let ends = connect(&[vec![PortId(0)], vec![PortId(1)]], 2048).expect("eventfd");
        let mut sides = pools.iter().zip(ends).map(|(pool, ends)| HandOff::new(pool, ends.expect("linked")));
        let (mut left, mut right) = (sides.next().expect("left"), sides.next().expect("right"));
        drop(sides);
        let mut out = Outbox::new(&pools[0], &[PortId(0), PortId(1)]);
        let mut taken = Outbox::new(&pools[1], &[PortId(1), PortId(0)]);
        // Awake: no bell.
        hand_over(&mut left, &mut out);
        assert!(!rung(&right));
        // It may not sleep yet, and does not.
        assert!(!right.lie_down() && !rung(&right));
        assert_eq!(right.take_over(0, &mut taken, 1), 1);
        assert!(right.lie_down() && !rung(&right));
        hand_over(&mut left, &mut out);
        assert!(rung(&right));
        right.get_up();
        assert!(!rung(&right));
        assert_eq!((left.handed().over, right.handed().taken), (2, 1));
        left.collect();
        assert_eq!(left.away, 1);
        left.finish();
        assert!(!right.is_settled());
        assert_eq!(right.take_over(0, &mut taken, 1), 1);
        left.collect();
        assert!(right.is_settled() && !left.is_settled() && left.away == 0);
    }
}
