//! From a path to an open file, one segment at a time.
//!
//! Each segment is opened with `openat2` beneath the directory before it (`RESOLVE_BENEATH`), and the kernel never
//! follows a symbolic link for us (`RESOLVE_NO_SYMLINKS`): links are read here, where the policy is known, and their
//! target is walked like the rest of the path. So no race and no mount of odd links leads out of the root.
//!
//! Every directory in which a name was looked up is in the [`Trail`]: what to watch to know when the answer changes.

use super::Symlinks;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat2, readlinkat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Links followed in one path at most, as the kernel has it (`MAXSYMLINKS`, `include/linux/namei.h`).
const LINKS_MAX: usize = 40;

/// `openat2` with `RESOLVE_BENEATH` gives `EAGAIN` when something was renamed meanwhile (`openat2(2)`).
const TRIES: usize = 8;

/// A name, and the directory in which it was looked up.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: Vec<u8>,
}

/// All that an answer depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    pub(super) steps: Vec<Step>,
    /// Directories whose every name counts: those that are listed.
    pub(super) listed: Vec<Arc<OwnedFd>>,
    /// Whether something was met that can change without a word to whoever watches directories.
    pub(super) unsure: bool,
}

impl Trail {
    /// A file with a second name may be written to by that; one on another machine, or behind a file system in user
    /// space, by others.
    pub(super) fn note_file(&mut self, file: &OwnedFd, stat: &Stat) {
        /// `include/uapi/linux/magic.h`, `fs/smb/client/smb2glob.h`: NFS, SMB, CIFS, 9p, Ceph, AFS, FUSE.
        const REMOTE: [u32; 7] =
            [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x6573_5546];
        // The type of the field differs between machines; the numbers have 32 bits.
        let remote = fstatfs(file)
            .is_ok_and(|fs| REMOTE.iter().any(|magic| i128::from(fs.f_type) == i128::from(*magic)));
        self.unsure |= remote || stat.st_nlink > 1;
    }
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nowhere {
    NotFound,
    Forbidden,
    Busy,
    Failed,
}

impl Nowhere {
    pub(super) fn of(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL => Self::NotFound,
            Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::XDEV => Self::Forbidden,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Self::Busy,
            error => {
                tracing::warn!("looking up a path: {error}");
                Self::Failed
            }
        }
    }
}

/// Where a path has led.
#[derive(Debug)]
pub(super) struct Place {
    /// Names the object without opening it (`O_PATH`).
    object: Arc<OwnedFd>,
    pub(super) stat: Stat,
    /// The directory that it was found in and its name there; none for the root.
    found: Option<Step>,
}

impl Place {
    /// The object, named without being opened.
    pub(super) const fn object(&self) -> &Arc<OwnedFd> {
        &self.object
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading: a regular file or a directory, nothing else, since opening a device can do things.
    pub(super) fn open(&self) -> Result<(OwnedFd, Stat), Nowhere> {
        let directory = match self.kind() {
            FileType::RegularFile => OFlags::empty(),
            FileType::Directory => OFlags::DIRECTORY,
            _ => return Err(Nowhere::Forbidden),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | directory;
        let (parent, name) = match &self.found {
            Some(step) => (&step.directory, &step.name[..]),
            None => (&self.object, &b"."[..]),
        };
        let file = open_beneath(parent, name, flags).map_err(Nowhere::of)?;
        let stat = fstat(&file).map_err(Nowhere::of)?;
        // Between the look and this, somebody may have put something else there.
        let same = (stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino);
        if same { Ok((file, stat)) } else { Err(Nowhere::Busy) }
    }
}

/// Opens one name in a directory, without ever following a link.
pub(super) fn open_beneath(directory: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(directory, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

enum Todo {
    Segment(Vec<u8>),
    /// The link that led here belongs to this user, and so must what it leads to.
    OwnedBy(u32),
}

/// Walks `path`, relative to `root`, and notes on `trail` whatever it depends on.
pub(super) fn walk(
    root: &Arc<OwnedFd>,
    path: &[u8],
    symlinks: Symlinks,
    trail: &mut Trail,
) -> Result<Place, Nowhere> {
    let stat = fstat(root).map_err(Nowhere::of)?;
    let mut stack = vec![Place { object: Arc::clone(root), stat, found: None }];
    let mut todo = VecDeque::new();
    prepend(&mut todo, path);
    let mut links = 0;
    while let Some(next) = todo.pop_front() {
        let Some(here) = stack.last() else { return Err(Nowhere::Forbidden) };
        let name = match next {
            Todo::OwnedBy(owner) if here.stat.st_uid == owner => continue,
            Todo::OwnedBy(_) => return Err(Nowhere::Forbidden),
            Todo::Segment(name) => name,
        };
        if name == b".." {
            // Only links have these; beyond the root there is nothing.
            stack.pop();
            continue;
        }
        if here.kind() != FileType::Directory {
            return Err(Nowhere::NotFound);
        }
        let step = Step { directory: Arc::clone(&here.object), name };
        trail.steps.push(step.clone());
        let object = open_beneath(&step.directory, &step.name, OFlags::PATH | OFlags::NOFOLLOW);
        let object = object.map_err(Nowhere::of)?;
        let stat = fstat(&object).map_err(Nowhere::of)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            stack.push(Place { object: Arc::new(object), stat, found: Some(step) });
            continue;
        }
        links += 1;
        if symlinks == Symlinks::Off || links > LINKS_MAX {
            return Err(Nowhere::Forbidden);
        }
        if symlinks == Symlinks::Owner {
            todo.push_front(Todo::OwnedBy(stat.st_uid));
        }
        // The very link that was just looked at, whatever has become of its name.
        let target = readlinkat(&object, "", Vec::new()).map_err(Nowhere::of)?.into_bytes();
        if target.first() == Some(&b'/') {
            return Err(Nowhere::Forbidden);
        }
        prepend(&mut todo, &target);
    }
    stack.pop().ok_or(Nowhere::Forbidden)
}

/// Puts the segments of a path in front.
fn prepend(todo: &mut VecDeque<Todo>, path: &[u8]) {
    let segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty() && *segment != b".");
    for segment in segments.rev() {
        todo.push_front(Todo::Segment(segment.to_vec()));
    }
}
