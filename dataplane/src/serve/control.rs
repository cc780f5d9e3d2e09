//! What workers are told from outside: how near the end is, and which edition of the site is served.

use super::site::Site;
use super::tree::Finder;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all workers of a server, which look at each tick.
#[derive(Debug)]
pub(in crate::serve) struct Control {
    /// As [`Stage`] has it.
    stage: AtomicU8,
    /// How often the site was exchanged.
    pub(in crate::serve) edition: AtomicU64,
    pub(in crate::serve) site: Mutex<Arc<Site>>,
    /// Sites that were served before.
    pub(in crate::serve) retired: Mutex<Vec<Retired>>,
    /// Held while an upload gets its name.
    pub(in crate::serve) order: Mutex<()>,
}

/// A site that was served before, and a worker's finder over it. Kept for a while: its librarian watches the files of
/// transfers that are still under way.
pub(in crate::serve) type Retired = (Arc<Site>, Finder);

/// As many of them are kept.
const RETIRED: usize = 64;

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Far.
    Serving,
    /// No new connections; those that there are end after their responses.
    Draining,
    /// What is left is reset.
    Resetting,
}

impl Control {
    pub(in crate::serve) fn new(site: Site) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Serving as u8),
            edition: AtomicU64::new(0),
            site: Mutex::new(Arc::new(site)),
            retired: Mutex::default(),
            order: Mutex::default(),
        }
    }

    pub(in crate::serve) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            _ => Stage::Resetting,
        }
    }

    /// Brings the end nearer.
    pub(in crate::serve) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// What is served now. May wait for who exchanges it: not for a turn.
    pub(in crate::serve) fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another site from now on.
    pub(in crate::serve) fn exchange(&self, site: Site) {
        *self.site.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Lets go of sites that were served long before. Waits for their threads: not for a worker.
    pub(in crate::serve) fn sweep(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let many = retired.len().saturating_sub(RETIRED);
        let old: Vec<Retired> = retired.drain(..many).collect();
        drop(retired);
        drop(old);
    }
}
