//! Files whose own pages are in the arena: what a device reads is the page cache itself.
//!
//! For a device that may write to them, as AF_XDP has it, the kernel pins pages of tmpfs, memfd and hugetlbfs files only; for
//! one that may only read, by VFIO, those of ext4 too (`docs/decisions/0015-file-pages-for-a-device.md`). And only what is
//! mapped when the arena is registered. So these files are looked for at the start:
//!
//! ```text
//!   Candidates::find(tree) ─► map(plan) ─► the arena, registered with the devices ─► confirm() ─► Store
//! ```
//!
//! Their times are never set. Mapping and registering leaves them as they were ([`Arena::with_files`]), so that a file
//! whose times have moved between the first look and the last was changed by somebody, and is not taken.
//!
//! Nothing is copied, and nothing is kept apart from the file: who writes *into* such a file changes bytes that are on
//! their way. A write is heard of a moment later (inotify), and the connection reset; what was sent in that moment, was. A
//! new version belongs under a new name that is then renamed.

use crate::serve::tree::{Entry, Tree, Version};
use ringbuf::{Arena, ArenaError, ArenaPlan, FileMap, arena::CONTENT_UNIT};
use rustix::fs::{Dir, FileType, OFlags, fstat, fstatfs};
use rustix::process::{Resource, getrlimit};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// `TMPFS_MAGIC`, `include/uapi/linux/magic.h`.
const TMPFS: i128 = 0x0102_1994;

/// `RAMFS_MAGIC`, in the same place.
const RAMFS: i128 = 0x8584_58f6;

/// `HUGETLBFS_MAGIC`, in the same place.
const HUGETLBFS: i128 = 0x9584_58f6;

/// `EXT4_SUPER_MAGIC`, in the same place: that of ext2 and ext3 too, which the same driver mounts.
const EXT4: i128 = 0xef53;

/// Whose pages are sent as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Nobody's.
    #[default]
    Nothing,
    /// Those of files in memory: any device that reads the arena can have them.
    InMemory,
    /// Those of files on a disk too: for a device that the kernel holds to reading them.
    OnDisk,
}

/// Directories within each other at most.
const DEPTH: usize = 64;

/// Files whose pages the kernel pins, open as mapping them asks for.
#[derive(Debug)]
pub struct Candidates {
    files: Vec<Candidate>,
    bytes: usize,
    most: usize,
    share: Share,
    /// As many may be open at once: a part of what the process may have, since sockets need some too.
    descriptors: usize,
}

#[derive(Debug)]
struct Candidate {
    file: OwnedFd,
    version: Version,
    size: usize,
    page: usize,
}

impl Candidates {
    /// Files below the roots of a tree that are on such file systems, that we may write to (the kernel pins no others),
    /// and that are together, in whole pages, no more than `most` bytes: what comes first is taken. Only roots that are on
    /// such a file system themselves are searched.
    #[must_use]
    pub fn find(tree: &Tree, most: usize, share: Share) -> Self {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let descriptors = limit.map_or(usize::MAX, |limit| limit / 4);
        let mut found = Self { files: Vec::new(), bytes: 0, most, share, descriptors };
        for root in tree.roots() {
            if page_of(root, share).is_some() {
                found.descend(root, DEPTH);
            }
        }
        // Up to a huge page is lost before the first of them.
        found.files.sort_by_key(|file| Reverse(file.page));
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

    fn descend(&mut self, directory: &OwnedFd, depth: usize) {
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
                        self.descend(&below, depth - 1);
                    }
                }
                FileType::RegularFile if self.files.len() < self.descriptors => {
                    if let Some(file) = open(name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY) {
                        self.take(file);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes a file if it is one whose pages can be pinned: another file system may be mounted below the root, and one such
    /// file among the others would make the kernel refuse all.
    fn take(&mut self, file: OwnedFd) {
        let (Ok(stat), Some(page)) = (fstat(&file), page_of(&file, self.share)) else { return };
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size = usize::try_from(stat.st_size).unwrap_or(0);
        let whole = size.checked_next_multiple_of(page);
        let room = self.most - self.bytes;
        if let Some(whole) = whole.filter(|whole| regular && *whole > 0 && *whole <= room) {
            self.bytes += whole;
            self.files.push(Candidate { file, version: Version::new(&stat), size, page });
        }
    }

    /// Maps an arena with these files behind its content. A file that cannot be mapped is left out.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn map(&self, plan: &ArenaPlan) -> Result<(Arena, SharedFiles), ArenaError> {
        let files: Vec<FileMap<'_>> = self
            .files
            .iter()
            .map(|it| FileMap { file: it.file.as_fd(), bytes: it.size, page: it.page })
            .collect();
        let (arena, places) = Arena::with_files(plan, &files)?;
        let places = places.into_iter().map(|place| place.map(|range| range.start).ok()).collect();
        Ok((arena, SharedFiles { unconfirmed: places, ..SharedFiles::default() }))
    }

    /// To be called when an arena with these files has been registered with its devices. A file that is not the version
    /// any more that was found is left out: nobody but its writer knows which of its bytes are new.
    pub fn confirm(&self, files: &mut SharedFiles) {
        let mut moved = 0u32;
        for (candidate, place) in self.files.iter().zip(std::mem::take(&mut files.unconfirmed)) {
            let Some(place) = place else { continue };
            if fstat(&candidate.file).is_ok_and(|now| Version::new(&now) == candidate.version) {
                files.bytes += candidate.size as u64;
                files.places.insert(candidate.version, place);
            } else {
                moved += 1;
            }
        }
        if moved > 0 {
            tracing::warn!(
                files = moved,
                "changed while they were mapped, so they are copied when they are loaded; before Linux 5.14 all are"
            );
        }
    }
}

/// Whether a file has no disk behind it: its file system is one of those whose files are pages in memory and nothing else.
pub(super) fn lies_in_memory(file: impl AsFd) -> bool {
    // The types of this field differ between machines.
    fstatfs(file).is_ok_and(|fs| matches!(i128::from(fs.f_type), TMPFS | RAMFS | HUGETLBFS))
}

/// Bytes of a page of a file, if its file system is one whose pages the kernel pins for a device.
fn page_of(file: &OwnedFd, share: Share) -> Option<usize> {
    let fs = fstatfs(file).ok()?;
    // The types of these fields differ between machines.
    match i128::from(fs.f_type) {
        _ if share == Share::Nothing => None,
        EXT4 if share == Share::OnDisk => Some(CONTENT_UNIT),
        TMPFS => Some(CONTENT_UNIT),
        HUGETLBFS => usize::try_from(fs.f_bsize).ok(),
        _ => None,
    }
}

/// Where in one arena the files are.
#[derive(Debug, Default)]
pub struct SharedFiles {
    unconfirmed: Vec<Option<usize>>,
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
