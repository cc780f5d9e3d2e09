//! What a lookup has found.

use super::entry::Entry;
use crate::serve::http::{Coding, Facts, Listing, Resource};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A file, and the precompressed forms of it that lie beside it.
#[derive(Clone, Debug)]
pub struct Forms {
    facts: Facts,
    plain: Arc<Entry>,
    /// In the order of [`Coding::PRECOMPRESSED`].
    beside: [Option<Arc<Entry>>; 3],
}

impl Forms {
    pub(super) fn new(plain: Entry) -> Self {
        let facts = Facts::new(plain.name(), plain.representation());
        Self { facts, plain: Arc::new(plain), beside: [None, None, None] }
    }

    /// Adds a precompressed form.
    pub(super) fn add(mut self, coding: Coding, entry: Entry) -> Self {
        if let Some(place) = Coding::PRECOMPRESSED.iter().position(|known| *known == coding) {
            self.facts = self.facts.with(coding, entry.representation());
            self.beside[place] = Some(Arc::new(entry));
        }
        self
    }

    /// What HTTP wants to know.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The file itself.
    #[must_use]
    pub const fn plain(&self) -> &Arc<Entry> {
        &self.plain
    }

    /// The form of this coding.
    #[must_use]
    pub fn entry(&self, coding: Coding) -> Option<&Arc<Entry>> {
        match Coding::PRECOMPRESSED.iter().position(|known| *known == coding) {
            None => Some(&self.plain),
            Some(place) => self.beside[place].as_ref(),
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        std::iter::once(&self.plain).chain(self.beside.iter().flatten())
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Arc<Entry>> {
        std::iter::once(&mut self.plain).chain(self.beside.iter_mut().flatten())
    }
}

/// What a path is.
#[derive(Clone, Debug)]
pub enum Found {
    /// A file; for a directory, its index file.
    File(Forms),
    /// A directory, asked for without the slash at its end.
    Redirect,
    /// A directory without an index file, and listing is allowed.
    Listing(Listing),
    /// Nothing is there, or a file was asked for as a directory.
    NotFound,
    /// It is there, but not for us or not to be shown: rights, a link against the policy, a device, a directory without
    /// an index.
    Forbidden,
    /// No descriptor or memory was left for it, or it changed under the lookup: try again.
    Busy,
    /// Reading it failed; the log says how.
    Failed,
}

impl Found {
    /// Whether a file of it is known to have changed: it must be looked up anew.
    #[inline]
    fn is_gone(&self) -> bool {
        matches!(self, Self::File(forms) if forms.entries().any(|entry| entry.is_gone()))
    }

    /// The same, as HTTP sees it.
    #[must_use]
    pub const fn resource(&self) -> Resource<'_> {
        match self {
            Self::File(forms) => Resource::File(forms.facts()),
            Self::Redirect => Resource::Redirect,
            Self::Listing(listing) => Resource::Listing(listing),
            Self::NotFound => Resource::NotFound,
            Self::Forbidden => Resource::Forbidden,
            Self::Busy => Resource::Busy,
            Self::Failed => Resource::Failed,
        }
    }

    /// Takes over the entries of `old` that are the same version of the same file, so that what is known under their
    /// numbers stays of use.
    pub(super) fn keep_entries_of(&mut self, old: &Self) {
        let (Self::File(new), Self::File(old)) = (self, old) else { return };
        for entry in new.entries_mut() {
            if let Some(old) = old.entries().find(|old| old.is_also(entry)) {
                *entry = Arc::clone(old);
            }
        }
    }
}

/// What was found, and whether that may have changed.
#[derive(Debug)]
pub struct Answer {
    found: Found,
    stale: AtomicBool,
    watched: bool,
}

impl Answer {
    /// An answer; `watched` if every change of it will be noticed.
    #[must_use]
    pub const fn new(found: Found, watched: bool) -> Self {
        Self { found, stale: AtomicBool::new(false), watched }
    }

    /// What was found.
    #[inline]
    #[must_use]
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// Whether something has changed that this answer depends on: ask again. A change that inotify does not tell of, but
    /// the loader has seen, is one.
    #[inline]
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) || self.found.is_gone()
    }

    /// Notes that something has changed.
    pub fn set_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Notes that rights, times or other names of what it depends on have changed: the bytes are what they were.
    pub(super) fn rights_changed(&self) {
        if let Found::File(forms) = &self.found {
            forms.entries().for_each(|entry| entry.note_rights());
        }
        self.set_stale();
    }

    /// Notes that the name `name`, on which it depends, was written to, or means something else by now: whoever sends one
    /// of its files that has lost its name or changed must not go on.
    ///
    /// Of a file that was written to under its own name no question is asked: two changes within one tick of the kernel's
    /// clock have one time.
    pub(super) fn changed(&self, name: &[u8], written: bool) {
        if let Found::File(forms) = &self.found {
            for entry in forms.entries() {
                if written && entry.name().as_bytes() == name {
                    entry.set_gone();
                } else {
                    // By a link, the name is not the entry's; and what was just looked up is not what was removed before.
                    entry.check();
                }
            }
        }
        self.set_stale();
    }

    /// Notes that anything may have changed.
    pub(super) fn doubt(&self) {
        self.changed(b"", false);
    }

    /// For how long it may be given without asking again. A watched file needs no such limit, except that a write
    /// through a mapping or on another machine tells nobody.
    #[must_use]
    pub const fn good_for(&self) -> Duration {
        match self.found {
            Found::Busy | Found::Failed => Duration::from_millis(100),
            Found::File(_) | Found::Redirect | Found::Listing(_) if self.watched => Duration::from_secs(60),
            _ => Duration::from_secs(1),
        }
    }
}
