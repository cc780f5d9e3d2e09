//! One version of one file.

use crate::serve::http::Representation;
use rustix::fs::Stat;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What tells one version of a file from another. Any change of content changes the times, as far as the file
/// system's clock goes; restoring the time of change (`touch -d`, `rsync -t`) still moves `changed`. So do rights and names, which
/// [`Entry::check`] knows how to tell from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    device: u64,
    inode: u64,
    size: u64,
    /// `st_mtim`: seconds and nanoseconds.
    modified: (i64, u32),
    /// `st_ctim`.
    changed: (i64, u32),
}

impl Version {
    /// From what `fstat` says.
    #[must_use]
    pub fn new(stat: &Stat) -> Self {
        // The types of these fields differ between machines.
        let nanos = |nanos| u32::try_from(nanos).unwrap_or(0);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
        }
    }

    fn modified(&self) -> SystemTime {
        let (seconds, nanos) = self.modified;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        base.and_then(|base| base.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
    }

    /// Whether the other is this one but for `st_ctim`.
    fn has_the_bytes_of(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } == *other
    }

    /// What HTTP wants to know.
    pub(super) fn representation(&self) -> Representation {
        Representation::new(self.size, self.modified(), self.inode)
    }
}

/// What moves `st_ctim` without a change of content: rights, owners, and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    changed: (i64, u32),
    mode: u32,
    user: u32,
    group: u32,
    names: u64,
}

impl Rights {
    #[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between machines")]
    fn new(stat: &Stat) -> Self {
        let changed = Version::new(stat).changed;
        let names = stat.st_nlink as u64;
        Self { changed, mode: stat.st_mode, user: stat.st_uid, group: stat.st_gid, names }
    }

    /// Whether something besides the time is another: then the time says nothing of the content.
    fn differ_from(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } != *other
    }
}

/// A regular file, open, as it was when it was looked up. Never another version of it: a changed file gets an entry of
/// its own, and this one, once it is [gone](Self::is_gone), stays gone.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    name: Box<str>,
    file: OwnedFd,
    version: Version,
    /// Names that it had when it was looked up: with one less, it may be another file's that was asked for.
    names: u64,
    /// As they were seen last.
    rights: Mutex<Rights>,
    gone: AtomicBool,
    direct: OnceLock<Option<OwnedFd>>,
}

impl Entry {
    /// An entry for an open file, whose name is `name` (the last segment of its path).
    #[must_use]
    pub fn new(name: &str, file: OwnedFd, stat: &Stat) -> Self {
        /// Never given twice, so that nothing kept under a number can be taken for another version's.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            file,
            version: Version::new(stat),
            names: Rights::new(stat).names,
            rights: Mutex::new(Rights::new(stat)),
            gone: AtomicBool::new(false),
            direct: OnceLock::new(),
        }
    }

    /// Its number: no other entry of this process has it.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The last segment of its path.
    #[must_use]
    pub const fn name(&self) -> &str {
        &self.name
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.version.size
    }

    /// When it was last changed.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        self.version.modified()
    }

    /// What HTTP wants to know.
    #[must_use]
    pub fn representation(&self) -> Representation {
        self.version.representation()
    }

    /// Which version it is.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Asks the kernel whether the file is still this version; once it was not, it never is again. A system call: not
    /// for the poll thread.
    ///
    /// `st_ctim` alone moves by `chmod`, `chown` and hard links, too, which are no reason to end a transfer: it may differ where one
    /// of these differs from what was seen last. That leaves one gap: a write whose `st_mtim` was set back *and* a change of
    /// rights, both since the last look, of a file whose writes inotify does not tell of.
    pub fn check(&self) -> bool {
        if self.is_gone() {
            return false;
        }
        let same = self.has_its_bytes();
        if !same {
            self.set_gone();
        }
        same
    }

    /// Notes that rights or names have changed, so that what moves `st_ctim` next is not taken for that.
    pub(super) fn note_rights(&self) {
        if !self.is_gone() {
            self.has_its_bytes();
        }
    }

    /// Whether an entry that was made later is of the same version of the same file, as far as is known without a look.
    pub(super) fn is_also(&self, later: &Self) -> bool {
        let rights = self.rights.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Version { changed: rights.changed, ..self.version };
        !self.is_gone() && self.name == later.name && seen == later.version
    }

    fn has_its_bytes(&self) -> bool {
        let stat = || rustix::fs::fstat(&self.file).ok();
        // Nothing at all has happened, as a rule: then no lock is taken.
        let Some(first) = stat() else { return false };
        if Version::new(&first) == self.version {
            return true;
        }
        let mut seen = self.rights.lock().unwrap_or_else(PoisonError::into_inner);
        if Version::new(&first) == (Version { changed: seen.changed, ..self.version }) {
            return true;
        }
        // Once more under the lock, so that nobody goes back to what was before.
        let Some(now) = stat() else { return false };
        let rights = Rights::new(&now);
        let same = Version::new(&now).has_the_bytes_of(&self.version)
            && rights.names >= self.names
            && rights.differ_from(&seen);
        if same {
            *seen = rights;
        }
        same
    }

    /// Whether the file is known to have changed since: nothing more must be read of it for this entry.
    #[inline]
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Notes that the file has changed.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// The same file opened for reads that bypass the page cache; `None` where the file system refuses that. The first
    /// call opens it.
    pub fn direct(&self, open: impl FnOnce(BorrowedFd<'_>) -> Option<OwnedFd>) -> Option<BorrowedFd<'_>> {
        self.direct.get_or_init(|| open(self.file.as_fd())).as_ref().map(AsFd::as_fd)
    }

    /// The descriptor of [`direct`](Self::direct), if it was opened.
    pub(in crate::serve) fn opened_direct(&self) -> Option<BorrowedFd<'_>> {
        self.direct.get()?.as_ref().map(AsFd::as_fd)
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
