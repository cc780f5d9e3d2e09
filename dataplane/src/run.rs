//! A worker on its thread: the clock, what to do when there is nothing to do, and when to stop.

use crate::app::{App, PortId};
use crate::hand_off::HandOff;
use crate::worker::{TICK_EVERY, Tick, Worker};
use drivers::{Fault, Gather};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a worker does after a turn that moved nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Turns at once. For a core of one's own that may burn.
    Spin,
    /// Lets whoever waits for the core run first. For a core shared with the device's own kernel threads.
    Yield,
    /// Sleeps at once until a frame comes. For a core shared with the device's own kernel threads, by a worker of
    /// real-time priority: it then runs whenever there is work and they run whenever there is none, and nothing that
    /// they receive is thrown away.
    Wait,
    /// Naps 50 microseconds; and after [`SLEEP_AFTER`] without a frame sleeps until one comes.
    #[default]
    Adaptive,
}

/// How long [`Idle::Adaptive`] keeps polling after the last frame.
pub const SLEEP_AFTER: Duration = Duration::from_millis(2);

/// How long it sleeps at most: counters stay this fresh, and a stop is seen this soon.
const SLEEP_LIMIT: Duration = Duration::from_millis(100);

/// How long it sleeps at most while sent frames are not home: short for the frames, long enough to cost little when a
/// link is down and they cannot leave.
const UNSENT_LIMIT: Duration = Duration::from_millis(1);

/// How long it naps when a queue cannot wake it.
const NAP: Duration = Duration::from_micros(500);

/// How long sent frames may take to come home at the end.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// How long, at the end, a linked worker waits for the others: each hears the word within [`SLEEP_LIMIT`].
const HAND_OFF_LIMIT: Duration = Duration::from_secs(2);

/// Why a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its time was up.
    TimeUp,
    /// Nothing more will ever come: all capture files are at their end.
    Exhausted,
    /// A queue of this port has died.
    Faulted(PortId, Fault),
}

/// Turns the worker until it is told to stop, its time is up, or a queue dies. Then waits, not long, for sent frames
/// to come home and packets in the outbox to leave, and publishes the last numbers. A worker that is linked to others
/// stops them too: what is on its way between them would be lost otherwise.
pub fn run<'p, Q: Gather<'p>, A: App<'p>>(
    worker: &mut Worker<'p, Q, A>,
    idle: Idle,
    duration: Option<Duration>,
    stop: &AtomicBool,
) -> Ended {
    // A nap of 50 microseconds is to last 50, not the 100 that the kernel's default slack may make of it.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!("timer slack: {error}");
    }
    let begin = Instant::now();
    let (mut last_frame, mut next_look) = (Duration::ZERO, Duration::ZERO);
    let mut now = begin.elapsed();
    let ended = loop {
        let busy = worker.turn(Tick(now)) > 0;
        if busy {
            last_frame = now;
            // The end of this turn is the beginning of the next: the clock is read once a turn.
            let after = begin.elapsed();
            worker.note_busy(after - now);
            now = after;
            // A worker that is never idle must still hear the word, but not ask for it at every turn.
            if now < next_look {
                continue;
            }
        }
        next_look = now + TICK_EVERY;
        if let Some(ended) = reason_to_end(worker, now, duration, stop) {
            break ended;
        }
        if busy {
            continue;
        }
        match idle {
            Idle::Spin => core::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            // As if it had been quiet for long.
            Idle::Wait => rest(worker, now, SLEEP_AFTER, duration),
            Idle::Adaptive => rest(worker, now, now - last_frame, duration),
        }
        now = begin.elapsed();
    };
    settle(worker, stop);
    drain(worker);
    worker.publish();
    ended
}

/// How long [`Idle::Adaptive`] naps after an empty turn: long enough for a batch to gather, short enough for a ring of
/// 2048 not to fill at any rate of one core.
///
/// Why not a yield: where a kernel thread that fills our rings shares the core, a yield gives it a whole time slice, in
/// which it overruns the ring; from then on there is no empty turn any more, and each slice of its work is half lost. A
/// nap ends when we say, and the scheduler favours who has slept: the two take turns in small batches.
/// `docs/decisions/0006-idle.md` has the measurements.
const TURN_TAKING: Duration = Duration::from_micros(50);

/// Naps, or sleeps when nothing has come for long; never beyond the end or what the app waits for.
fn rest<'p, Q: Gather<'p>, A: App<'p>>(
    worker: &Worker<'p, Q, A>,
    now: Duration,
    quiet: Duration,
    end: Option<Duration>,
) {
    // A packet that waits for room in a ring goes out as soon as there is some: the worker stays awake for it.
    let asleep = quiet >= SLEEP_AFTER && worker.waiting() == 0;
    let most = match worker.pending() {
        _ if !asleep => TURN_TAKING,
        0 => SLEEP_LIMIT,
        // What still waits to be sent must be looked after, or it would crawl out ten times a second.
        _ => UNSENT_LIMIT,
    };
    let most = time_left(most, now, [end, worker.deadline().map(|Tick(at)| at)]);
    if most.is_zero() {
        return;
    }
    if asleep { sleep(worker, most) } else { std::thread::sleep(most) }
}

/// At most `most`, and no further than any of these moments.
fn time_left(most: Duration, now: Duration, moments: [Option<Duration>; 2]) -> Duration {
    moments.into_iter().flatten().fold(most, |most, moment| most.min(moment.saturating_sub(now)))
}

fn reason_to_end<'p, Q: Gather<'p>, A: App<'p>>(
    worker: &Worker<'p, Q, A>,
    now: Duration,
    duration: Option<Duration>,
    stop: &AtomicBool,
) -> Option<Ended> {
    if let Some((port, fault)) = worker.fault() {
        return Some(Ended::Faulted(port, fault.clone()));
    }
    if stop.load(Ordering::Relaxed) {
        return Some(Ended::Stopped);
    }
    if duration.is_some_and(|limit| now >= limit) {
        return Some(Ended::TimeUp);
    }
    worker.exhausted().then_some(Ended::Exhausted)
}

/// What wakes this worker; nothing where a queue of its has no waker: it must be looked after.
fn wakers<'w, 'p, Q: Gather<'p>, A: App<'p>>(worker: &'w Worker<'p, Q, A>) -> Option<Vec<PollFd<'w>>> {
    let queues = worker.members().iter().map(|member| member.queue.waker());
    let others = [worker.hand_off().map(HandOff::waker), worker.app().waker()];
    let watched = queues.chain(others.into_iter().flatten().map(Some));
    watched.map(|waker| Some(PollFd::from_borrowed_fd(waker?, PollFlags::IN))).collect()
}

/// Sleeps until a frame comes, or `limit` has passed. A poll may also wake for less: that costs one empty turn.
#[cold]
fn sleep<'p, Q: Gather<'p>, A: App<'p>>(worker: &Worker<'p, Q, A>, limit: Duration) {
    let Some(mut fds) = wakers(worker) else {
        std::thread::sleep(NAP.min(limit));
        return;
    };
    let links = worker.hand_off();
    if links.is_some_and(|links| !links.lie_down()) {
        return;
    }
    if worker.app().lie_down() {
        let timeout = Timespec::try_from(limit).unwrap_or_default();
        // Interrupted or not, the next turn looks for itself.
        let _ = poll(&mut fds, Some(&timeout));
    }
    worker.app().get_up();
    if let Some(links) = links {
        links.get_up();
    }
}

/// Takes over what other workers still hand over, and waits until they have taken what is theirs.
fn settle<'p, Q: Gather<'p>, A: App<'p>>(worker: &mut Worker<'p, Q, A>, stop: &AtomicBool) {
    let Some(links) = worker.hand_off() else { return };
    links.finish();
    stop.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    while worker.hand_off().is_some_and(|links| !links.is_settled()) && begin.elapsed() < HAND_OFF_LIMIT {
        worker.tend();
        std::thread::sleep(TURN_TAKING);
    }
}

fn drain<'p, Q: Gather<'p>, A: App<'p>>(worker: &mut Worker<'p, Q, A>) {
    let begin = Instant::now();
    while (worker.pending() > 0 || worker.waiting() > 0)
        && worker.fault().is_none()
        && begin.elapsed() < DRAIN_LIMIT
    {
        worker.tend();
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rest_reaches_beyond_what_is_due() {
        let ms = Duration::from_millis;
        assert_eq!(time_left(ms(100), ms(5), [None, None]), ms(100));
        assert_eq!(time_left(ms(100), ms(5), [Some(ms(65)), None]), ms(60));
        assert_eq!(time_left(ms(100), ms(5), [Some(ms(65)), Some(ms(8))]), ms(3));
        assert_eq!(time_left(ms(1), ms(5), [Some(ms(65)), Some(ms(8))]), ms(1));
        assert_eq!(time_left(ms(100), ms(5), [None, Some(ms(4))]), Duration::ZERO);
    }
}
