//! Named reasons, the counters page, and the books.
//!
//! A worker counts in plain numbers of its own and copies them to a [`Board`] of relaxed atomics at each tick; other
//! threads read the board. Nothing is ever reset: rates are differences of snapshots.

use crate::app::PortId;
use crate::hand_off::Handed;
use drivers::{Caps, QueueCounters};
use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $advice:literal;)+) => {
        /// Why a packet went no further. Each has a stable name, and advice for the person who sees it grow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What to do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)+ }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header.
    Runt = "runt", "something on that link sends broken frames; look at it with tcpdump";
    /// The transmit ring had no room, even after the device was told.
    TransmitRingFull = "transmit-ring-full", "the way out is slower than the way in: more queues, a larger ring, or less traffic";
    /// The port that it should leave by has died.
    PortGone = "port-gone", "the interface was deleted or its queue faulted; the reason is in the log";
    /// Neither this worker nor one that it is linked to has a queue at the port that it should leave by.
    NoQueue = "no-queue", "a defect of the app: it sends to a port that is not there";
    /// The link to the worker that owns a queue at that port had no room.
    HandOffFull = "hand-off-full", "a worker takes over more than its core can send: fewer --cpu, or more queues at that port";
    /// The app gave no answer for it.
    Unhandled = "unhandled", "a defect of the app: it must send, discard or keep each frame";
    /// The app lets no such packets through.
    Filtered = "filtered", "the app's own rule; if it should have passed, look at what the app filters";
    /// The pool had no frame for a packet to be made.
    OutOfFrames = "out-of-frames", "frames are held somewhere; --frames gives more of them";
    /// For another address, VLAN, protocol or program: nothing that this host answers.
    NotOurs = "not-ours", "usually nothing: floods, multicast and neighbours' broadcasts; if it should be ours, compare address and VLAN";
    /// Headers that contradict themselves or the packet's length.
    Malformed = "malformed", "a broken or hostile sender; record it with tap=FILE and look at it";
    /// An IP, TCP, UDP or ICMP checksum that does not fit.
    BadChecksum = "bad-checksum", "bytes are damaged on the way, or a sender's checksum offload is broken (ethtool -K IF tx off there)";
    /// A piece of an IP datagram: this host puts none together.
    Fragment = "fragment", "the way to here has a smaller MTU than the sender believes: let path MTU discovery's ICMP through";
    /// A source address that no host may send from: ours, broadcast, multicast, loopback.
    Martian = "martian", "a spoofing or misconfigured sender, or a loop that brings our own packets back";
    /// A packet in several frames where the host needs it in one.
    InPieces = "in-pieces", "frames are smaller than the packets that arrive: turn LRO and GRO off there, or lower its MTU";
    /// An answer that was held back, since too many like it were asked for.
    RateLimited = "rate-limited", "somebody probes for closed ports or protocols; nothing is owed to them";
}

/// One worker's counters, as other threads see them.
#[derive(Debug)]
pub struct Board {
    queues: Vec<QueueBoard>,
    turns: AtomicU64,
    busy_nanoseconds: AtomicU64,
    allocated: AtomicU64,
    held: AtomicU64,
    delivered: AtomicU64,
    handed: [AtomicU64; 3],
    discards: [AtomicU64; Reason::COUNT],
}

#[derive(Debug)]
struct QueueBoard {
    port: PortId,
    caps: Caps,
    numbers: [AtomicU64; QueueCounters::FIELDS],
    pending: AtomicU64,
}

impl Board {
    pub(crate) fn new(queues: Vec<(PortId, Caps)>) -> Self {
        let queue = |(port, caps)| QueueBoard {
            port,
            caps,
            numbers: [const { AtomicU64::new(0) }; QueueCounters::FIELDS],
            pending: AtomicU64::new(0),
        };
        Self {
            queues: queues.into_iter().map(queue).collect(),
            turns: AtomicU64::new(0),
            busy_nanoseconds: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            held: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            handed: [const { AtomicU64::new(0) }; 3],
            discards: [const { AtomicU64::new(0) }; Reason::COUNT],
        }
    }

    pub(crate) fn publish_queue(&self, index: usize, counters: &QueueCounters, pending: u32) {
        let Some(board) = self.queues.get(index) else { return };
        for (cell, number) in board.numbers.iter().zip(counters.to_array()) {
            cell.store(number, Ordering::Relaxed);
        }
        board.pending.store(pending.into(), Ordering::Relaxed);
    }

    pub(crate) fn publish_worker(
        &self,
        (turns, busy): (u64, Duration),
        allocated: u64,
        held: u64,
        discards: &[u64; Reason::COUNT],
        delivered: u64,
        handed: Handed,
    ) {
        self.turns.store(turns, Ordering::Relaxed);
        let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        self.busy_nanoseconds.store(busy, Ordering::Relaxed);
        self.allocated.store(allocated, Ordering::Relaxed);
        self.held.store(held, Ordering::Relaxed);
        for (cell, number) in self.discards.iter().zip(discards) {
            cell.store(*number, Ordering::Relaxed);
        }
        self.delivered.store(delivered, Ordering::Relaxed);
        for (cell, number) in self.handed.iter().zip([handed.over, handed.taken, handed.taken_bytes]) {
            cell.store(number, Ordering::Relaxed);
        }
    }

    /// The numbers as last published. Each is exact; between two of them a turn may have passed.
    pub fn snapshot(&self) -> Snapshot {
        let queue = |board: &QueueBoard| QueueSnapshot {
            port: board.port,
            caps: board.caps.clone(),
            counters: QueueCounters::from_array(core::array::from_fn(|i| {
                board.numbers[i].load(Ordering::Relaxed)
            })),
            pending: board.pending.load(Ordering::Relaxed),
        };
        let [over, taken, taken_bytes] = core::array::from_fn(|i| self.handed[i].load(Ordering::Relaxed));
        Snapshot {
            queues: self.queues.iter().map(queue).collect(),
            turns: self.turns.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.busy_nanoseconds.load(Ordering::Relaxed)),
            allocated: self.allocated.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            handed: Handed { over, taken, taken_bytes },
            discards: core::array::from_fn(|i| self.discards[i].load(Ordering::Relaxed)),
        }
    }
}

/// One queue pair at one moment.
#[derive(Clone, Debug)]
pub struct QueueSnapshot {
    /// Its port.
    pub port: PortId,
    /// What it can do.
    pub caps: Caps,
    /// What has passed.
    pub counters: QueueCounters,
    /// Transmitted frames whose slots are not home yet.
    pub pending: u64,
}

/// One worker, or several added up, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The queues.
    pub queues: Vec<QueueSnapshot>,
    /// Turns of the loop.
    pub turns: u64,
    /// Time of those turns that moved something. What is left was spent waiting, by whatever way of being idle: how much more a
    /// worker could do is seen here, also when it spins. The kernel's work inside of our system calls is in it.
    pub busy: Duration,
    /// Packets that the app made.
    pub allocated: u64,
    /// Packets that the app keeps, or that wait in the outbox.
    pub held: u64,
    /// What went to other workers and came from them.
    pub handed: Handed,
    /// Packets that the app itself was meant by.
    pub delivered: u64,
    /// Packets discarded, in the order of [`Reason::ALL`].
    pub discards: [u64; Reason::COUNT],
}

impl Snapshot {
    /// Adds another worker's.
    pub fn add(&mut self, other: Self) {
        self.queues.extend(other.queues);
        self.turns += other.turns;
        self.busy += other.busy;
        self.allocated += other.allocated;
        self.held += other.held;
        self.delivered += other.delivered;
        self.handed.over += other.handed.over;
        self.handed.taken += other.handed.taken;
        self.handed.taken_bytes += other.handed.taken_bytes;
        for (sum, more) in self.discards.iter_mut().zip(other.discards) {
            *sum += more;
        }
    }

    /// Reasons that have counted anything.
    pub fn discarded(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().copied().zip(self.discards).filter(|(_, count)| *count > 0)
    }

    /// The sums.
    #[must_use]
    pub fn books(&self) -> Books {
        let sum =
            |number: fn(&QueueCounters) -> u64| self.queues.iter().map(|queue| number(&queue.counters)).sum();
        Books {
            received: sum(|counters| counters.received.packets),
            cut: sum(|counters| counters.segments_cut).saturating_sub(sum(|counters| counters.packets_cut)),
            allocated: self.allocated,
            transmitted: sum(|counters| counters.transmitted.packets),
            unsendable: sum(|counters| counters.unsendable),
            discarded: self.discards.iter().sum(),
            held: self.held,
            delivered: self.delivered,
            handed_over: self.handed.over,
            taken_over: self.handed.taken,
        }
    }
}

/// The sums that must balance, in packets: received + allocated + cut + taken over = transmitted + delivered + unsendable +
/// discarded + held + handed over. Of all workers together: what was handed over and not taken over yet is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Came in.
    pub received: u64,
    /// Were made by the app.
    pub allocated: u64,
    /// Are more by cutting large ones into segments.
    pub cut: u64,
    /// Went to a device.
    pub transmitted: u64,
    /// Were meant for the app itself: a server's own segments.
    pub delivered: u64,
    /// Were refused by a device for good.
    pub unsendable: u64,
    /// Were discarded for a named reason.
    pub discarded: u64,
    /// Are kept by the app, or wait in the outbox.
    pub held: u64,
    /// Went to another worker.
    pub handed_over: u64,
    /// Came from another worker.
    pub taken_over: u64,
}

impl Books {
    /// Whether no packet has vanished.
    #[must_use]
    pub const fn balance(&self) -> bool {
        let came = self.received + self.allocated + self.cut + self.taken_over;
        let kept = self.delivered + self.held;
        came == self.transmitted + kept + self.unsendable + self.discarded + self.handed_over
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.balance() { "=" } else { "≠" };
        write!(f, "received {} + allocated {}", self.received, self.allocated)?;
        // Most sessions cut nothing and hand nothing over.
        if self.cut > 0 {
            write!(f, " + cut {}", self.cut)?;
        }
        let handed = self.handed_over + self.taken_over > 0;
        if handed {
            write!(f, " + taken over {}", self.taken_over)?;
        }
        let Self { transmitted, unsendable, discarded, held, .. } = self;
        write!(f, " {sign} transmitted {transmitted}")?;
        if self.delivered > 0 {
            write!(f, " + delivered {}", self.delivered)?;
        }
        write!(f, " + unsendable {unsendable} + discarded {discarded} + held {held}")?;
        if handed { write!(f, " + handed over {}", self.handed_over) } else { Ok(()) }
    }
}
