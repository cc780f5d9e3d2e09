//! One version of one file.

use crate::serve::http::Representation;
use rustix::fs::Stat;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What tells one version of a file from another. Any change of content changes the times, as far as the file
/// system's clock goes; restoring the time of change (`touch -d`, `rsync -t`) still moves `changed`.
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

    /// What HTTP wants to know.
    pub(super) fn representation(&self) -> Representation {
        Representation::new(self.size, self.modified(), self.inode)
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
    pub fn check(&self) -> bool {
        if self.is_gone() {
            return false;
        }
        let same = rustix::fs::fstat(&self.file).is_ok_and(|stat| Version::new(&stat) == self.version);
        if !same {
            self.set_gone();
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
