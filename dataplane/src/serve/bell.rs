//! Waking a thread that sleeps, and costing nothing while it doesn't.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An event that another thread can wait for with `poll`.
///
/// The waiting thread says before it sleeps that it will ([`doze`](Self::doze)), looks once more at what it waits for,
/// and then polls [`as_fd`](AsFd::as_fd). The other thread makes its news visible and [rings](Self::ring): a system
/// call only if somebody sleeps.
#[derive(Debug)]
pub struct Bell {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Bell {
    /// A bell that has not rung.
    ///
    /// # Errors
    /// The kernel's, when it has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { event, asleep: AtomicBool::new(false) })
    }

    /// To be called after the news has been made visible.
    pub fn ring(&self) {
        // Between the news and the look at the flag, as `doze` has one between the flag and the look at the news: one
        // of the two threads sees the other's.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // Full is rung, too.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// From here on a ring makes the descriptor readable. Look for news once more before sleeping.
    pub fn doze(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Awake again: the descriptor is quiet.
    pub fn rise(&self) {
        // If the flag is down, somebody has rung, or is about to: an event left over costs one short sleep later.
        if !self.asleep.swap(false, Ordering::Relaxed) {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    fn rung(bell: &Bell, milliseconds: i64) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit)).expect("polls") > 0
    }

    #[test]
    fn only_a_sleeper_is_rung() {
        let bell = Bell::new().expect("a descriptor");
        bell.ring();
        assert!(!rung(&bell, 0), "nobody sleeps: no system call");
        bell.doze();
        bell.ring();
        bell.ring();
        assert!(rung(&bell, 0));
        bell.rise();
        assert!(!rung(&bell, 0), "quiet again");
    }

    /// News never waits for longer than it takes to wake: no ring is lost between the look and the sleep.
    #[test]
    fn no_news_is_slept_through() {
        let (bell, news) = (Arc::new(Bell::new().expect("a descriptor")), Arc::new(AtomicU32::new(0)));
        let ringer = {
            let (bell, news) = (Arc::clone(&bell), Arc::clone(&news));
            std::thread::spawn(move || {
                for round in 1..=2000 {
                    news.store(round, Ordering::Release);
                    bell.ring();
                    while news.load(Ordering::Acquire) == round {
                        std::thread::yield_now();
                    }
                }
            })
        };
        for round in 1..=2000 {
            loop {
                bell.doze();
                if news.load(Ordering::Acquire) == round {
                    break;
                }
                assert!(rung(&bell, 900), "round {round}: slept through it");
                bell.rise();
            }
            bell.rise();
            news.store(0, Ordering::Release);
        }
        ringer.join().expect("rang");
    }
}
