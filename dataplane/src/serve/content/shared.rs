//! Files whose own pages are in the arena: what a device reads is the page cache itself.
//!
//! The kernel lets a device have pages of tmpfs and memfd files only, and only those that are mapped when the arena is
//! registered. So these files are looked for at the start:
//!
//! ```text
//!   Candidates::find(tree) ─► map(plan) ─► the arena, registered with the devices ─► settle() ─► Store
//! ```
//!
//! Nothing is copied, and nothing is kept apart from the file: who writes *into* such a file changes bytes that are on
//! their way. A write is heard of a moment later (inotify), and the connection reset; what was sent in that moment, was. A
//! new version belongs under a new name that is then renamed.

use crate::serve::tree::{Entry, Tree, Version};
use ringbuf::{Arena, ArenaError, ArenaPlan, arena::CONTENT_UNIT};
use rustix::fs::{Dir, FileType, OFlags, Stat, Timespec, Timestamps, fstat, fstatfs, futimens};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// `TMPFS_MAGIC`, `include/uapi/linux/magic.h`.
const TMPFS: i128 = 0x0102_1994;

/// Directories within each other at most.
const DEPTH: usize = 64;

/// Files on tmpfs, open as mapping them asks for.
#[derive(Debug, Default)]
pub struct Candidates {
    files: Vec<(OwnedFd, Stat)>,
    bytes: usize,
}

impl Candidates {
    /// Files below the roots of a tree that are on tmpfs, that we may write to (the kernel pins no others), and that are
    /// together, in whole pages, no more than `most` bytes: what comes first is taken.
    #[must_use]
    pub fn find(tree: &Tree, most: usize) -> Self {
        let mut found = Self::default();
        for root in tree.roots() {
            if fstatfs(root).is_ok_and(|fs| i128::from(fs.f_type) == TMPFS) {
                found.descend(root, most, DEPTH);
            }
        }
        found
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn descend(&mut self, directory: &OwnedFd, most: usize, depth: usize) {
        let open = |name: &[u8], flags| Tree::open_beneath(directory, name, flags).ok();
        let Some(names) = open(b".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(|it| Dir::new(it).ok())
        else {
            return;
        };
        for name in names.flatten() {
            let (name, kind) = (name.file_name().to_bytes(), name.file_type());
            match kind {
                FileType::Directory if name != b"." && name != b".." && depth > 0 => {
                    if let Some(below) = open(name, OFlags::PATH | OFlags::DIRECTORY) {
                        self.descend(&below, most, depth - 1);
                    }
                }
                FileType::RegularFile => {
                    if let Some(file) = open(name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY) {
                        self.take(file, most);
                    }
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, file: OwnedFd, most: usize) {
        let Ok(stat) = fstat(&file) else { return };
        let whole =
            usize::try_from(stat.st_size).ok().and_then(|size| size.checked_next_multiple_of(CONTENT_UNIT));
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if let Some(whole) = whole.filter(|whole| regular && *whole > 0 && *whole <= most - self.bytes) {
            self.bytes += whole;
            self.files.push((file, stat));
        }
    }

    /// Maps an arena with these files behind its content. A file that cannot be mapped is left out.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn map(&self, plan: &ArenaPlan) -> Result<(Arena, SharedFiles), ArenaError> {
        let size = |stat: &Stat| usize::try_from(stat.st_size).unwrap_or(0);
        let files: Vec<_> = self.files.iter().map(|(file, stat)| (file.as_fd(), size(stat))).collect();
        let (arena, places) = Arena::with_files(plan, &files)?;
        let places = places.into_iter().map(|place| place.map(|range| range.start).ok()).collect();
        Ok((arena, SharedFiles { unsettled: places, ..SharedFiles::default() }))
    }

    /// To be called when *every* arena with these files has been registered with its devices: only then do they hold still,
    /// for pinning a page for writing counts as a write. Puts their time of modification back as it was.
    pub fn settle(&self, files: &mut SharedFiles) {
        for ((file, before), place) in self.files.iter().zip(std::mem::take(&mut files.unsettled)) {
            let modified = Timespec { tv_sec: before.st_mtime, tv_nsec: nanos(before.st_mtime_nsec) };
            let accessed = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            // A courtesy: without it the file looks newer than it is.
            let _ = futimens(file, &Timestamps { last_access: accessed, last_modification: modified });
            if let (Some(place), Ok(now)) = (place, fstat(file))
                && now.st_size == before.st_size
            {
                files.bytes += u64::try_from(now.st_size).unwrap_or(0);
                files.places.insert(Version::new(&now), place);
            }
        }
    }
}

/// Where in one arena the files are.
#[derive(Debug, Default)]
pub struct SharedFiles {
    unsettled: Vec<Option<usize>>,
    places: HashMap<Version, usize>,
    bytes: u64,
    /// The entry that was asked for last, and its place.
    last: (u64, Option<usize>),
}

impl SharedFiles {
    /// Where an entry's bytes begin in the content, if they are here.
    #[inline]
    pub(super) fn place(&mut self, entry: &Entry) -> Option<usize> {
        if self.last.0 != entry.id() {
            self.last = (entry.id(), self.places.get(entry.version()).copied());
        }
        self.last.1
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Their bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The type of the field differs between machines.
fn nanos<N: TryInto<i64>>(nanos: N) -> i64 {
    nanos.try_into().unwrap_or(0)
}
