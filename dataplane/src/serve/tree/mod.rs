//! Which file a path is.
//!
//! ```text
//!   worker (poll thread)                         librarian (one thread for all workers)
//!   Finder::find ── known ──► Arc<Answer>        Tree::look_up: openat2, fstat, index, variants
//!        │                                            ▲      │
//!        └── not known, or stale ── question ─────────┘      └─ answer, watched by inotify ─► stale
//! ```
//!
//! [`Tree::look_up`] may block and is for threads that may. A worker has a [`Finder`]: it answers from memory, without
//! a system call and without a lock, or says that the librarian has been asked.

mod answer;
mod draft;
mod entry;
mod finder;
mod librarian;
mod listing;
mod resolve;
mod watch;

pub use answer::{Answer, Forms, Found};
pub use draft::{Denied, Draft, Published};
pub use entry::{Entry, Version};
pub use finder::{Finder, FinderCounters, Lookup, Refresh};
pub use librarian::{Desk, Librarian, LibrarianCounters};

use crate::serve::http::Coding;
use resolve::{Nowhere, Place, Trail, walk};
use rustix::fs::{FileType, Mode, OFlags, open};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest path that is looked up, in bytes; Linux knows none longer (`PATH_MAX`).
pub const PATH_MAX: usize = 4095;

/// What to do about symbolic links inside of a root. None ever leads out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// They are not followed.
    #[default]
    Off,
    /// Followed, if link and target belong to the same user.
    Owner,
    /// Followed.
    On,
}

/// One virtual host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Its names, as in the `Host` field, without a port.
    pub names: Vec<String>,
    /// The directory with its files.
    pub root: PathBuf,
}

/// What a tree should be.
#[derive(Clone, Debug)]
pub struct TreePlan {
    /// The hosts; the first also answers to every name that is nobody's.
    pub hosts: Vec<HostPlan>,
    /// What to do about symbolic links.
    pub symlinks: Symlinks,
    /// Names that stand for their directory, best first.
    pub index: Vec<String>,
    /// Whether directories without an index file are listed.
    pub listing: bool,
    /// Whether `name.br`, `name.zst` and `name.gz` are looked for beside `name`.
    pub precompressed: bool,
}

impl TreePlan {
    /// One root for every name; no links, `index.html`, no listings, precompressed files taken.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            hosts: vec![HostPlan { names: Vec::new(), root: root.into() }],
            symlinks: Symlinks::Off,
            index: vec!["index.html".to_owned()],
            listing: false,
            precompressed: true,
        }
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub enum TreeError {
    /// The plan names no host.
    NoHost,
    /// A root cannot be opened.
    Root {
        /// Which.
        root: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no `openat2` (it came with Linux 5.6, and seccomp filters older than that refuse it).
    NoOpenat2,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("no directory to serve was named"),
            Self::Root { root, source } => {
                write!(f, "opening the folder {}: {source}\n  {}", root.display(), cure(source))
            }
            Self::NoOpenat2 => f.write_str(
                "this kernel has no openat2, without which paths cannot be kept inside of the root \
                 (Linux 5.6 has it; in a container, its seccomp filter must allow it)",
            ),
        }
    }
}

impl std::error::Error for TreeError {}

/// What to do about a folder that cannot be opened.
fn cure(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::PermissionDenied => {
            "whoever serves must be able to enter it and each folder above it: chmod o+x, or run as its owner"
        }
        io::ErrorKind::NotADirectory => {
            "give --root and --host folders; a file in one is asked for by its name"
        }
        _ => {
            "give --root and --host folders that are there; one that does not begin with / is below the working folder"
        }
    }
}

/// One of a tree's hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostId(u16);

impl HostId {
    pub(super) const fn place(self) -> usize {
        self.0 as usize
    }
}

/// The files of all hosts; shared by all threads, and never changed.
#[derive(Debug)]
pub struct Tree {
    hosts: Vec<Host>,
    symlinks: Symlinks,
    index: Vec<String>,
    listing: bool,
    precompressed: bool,
}

#[derive(Debug)]
struct Host {
    names: Vec<String>,
    root: Arc<OwnedFd>,
}

impl Tree {
    /// Opens the roots. What stands at their path later makes no difference: they are held open.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open(plan: TreePlan) -> Result<Self, TreeError> {
        if plan.hosts.is_empty() {
            return Err(TreeError::NoHost);
        }
        let hosts: Result<Vec<Host>, TreeError> = plan.hosts.into_iter().map(open_host).collect();
        Ok(Self {
            hosts: hosts?,
            symlinks: plan.symlinks,
            index: plan.index,
            listing: plan.listing,
            precompressed: plan.precompressed,
        })
    }

    /// The host of this name, whatever its case; the first one if it is nobody's.
    #[must_use]
    pub fn host(&self, name: &str) -> HostId {
        let place =
            self.hosts.iter().position(|host| host.names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        HostId(place.and_then(|place| u16::try_from(place).ok()).unwrap_or(0))
    }

    /// The roots of all hosts.
    pub(in crate::serve) fn roots(&self) -> impl Iterator<Item = &OwnedFd> {
        self.hosts.iter().map(|host| &*host.root)
    }

    /// Opens one name in a directory, without following a link.
    pub(in crate::serve) fn open_beneath(
        directory: &OwnedFd,
        name: &[u8],
        flags: OFlags,
    ) -> io::Result<OwnedFd> {
        Ok(resolve::open_beneath(directory, name, flags)?)
    }

    /// How many hosts there are.
    #[must_use]
    pub const fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// What `path` is. It is relative and decoded (`docs/a.html`; empty for the root); a slash at its end asks for a
    /// directory. May wait for a disk: not for the poll thread.
    #[must_use]
    pub fn look_up(&self, host: HostId, path: &str) -> Found {
        self.trace(host, path, &mut Trail::default())
    }

    /// The same, and on what it depends.
    fn trace(&self, host: HostId, path: &str, trail: &mut Trail) -> Found {
        match self.find(host, path, trail) {
            Ok(found) => found,
            Err(Nowhere::NotFound) => Found::NotFound,
            Err(Nowhere::Forbidden) => Found::Forbidden,
            Err(Nowhere::Busy) => Found::Busy,
            Err(Nowhere::Failed) => Found::Failed,
        }
    }

    fn find(&self, host: HostId, path: &str, trail: &mut Trail) -> Result<Found, Nowhere> {
        if is_odd(path) {
            return Err(Nowhere::NotFound);
        }
        let host = self.hosts.get(host.place()).ok_or(Nowhere::NotFound)?;
        let place = walk(&host.root, path.as_bytes(), self.symlinks, trail)?;
        let wants_directory = path.is_empty() || path.ends_with('/');
        match place.kind() {
            FileType::Directory if !wants_directory => Ok(Found::Redirect),
            FileType::Directory => self.directory(host, path, &place, trail),
            _ if wants_directory => Err(Nowhere::NotFound),
            _ => self.file(host, path, &place, trail),
        }
    }

    fn directory(&self, host: &Host, path: &str, place: &Place, trail: &mut Trail) -> Result<Found, Nowhere> {
        for index in &self.index {
            let path = format!("{path}{index}");
            match walk(&host.root, path.as_bytes(), self.symlinks, trail) {
                Ok(place) if place.kind() == FileType::RegularFile => {
                    return self.file(host, &path, &place, trail);
                }
                Ok(_) | Err(Nowhere::NotFound) => {}
                Err(nowhere) => return Err(nowhere),
            }
        }
        if !self.listing {
            return Err(Nowhere::Forbidden);
        }
        let (directory, _) = place.open()?;
        let directory = Arc::new(directory);
        let follow = |name: &str| {
            let path = format!("{path}{name}");
            walk(&host.root, path.as_bytes(), self.symlinks, &mut Trail::default())
                .ok()
                .map(|place| place.stat)
        };
        let listing = listing::read(&directory, path, follow)?;
        trail.listed.push(directory);
        Ok(Found::Listing(listing))
    }

    fn file(&self, host: &Host, path: &str, place: &Place, trail: &mut Trail) -> Result<Found, Nowhere> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let (file, stat) = place.open()?;
        trail.note_file(&file, &stat);
        let mut forms = Forms::new(Entry::new(name, file, &stat));
        for coding in Coding::PRECOMPRESSED.into_iter().filter(|_| self.precompressed) {
            let path = format!("{path}{}", coding.suffix());
            if let Some(entry) = self.beside(host, &path, forms.plain(), trail)? {
                forms = forms.add(coding, entry);
            }
        }
        Ok(Found::File(forms))
    }

    /// A precompressed form of a file, if it is one: regular, not empty, and not older than the file. For want of descriptors
    /// there is no answer at all, rather than one without its forms that is believed for a minute.
    fn beside(
        &self,
        host: &Host,
        path: &str,
        plain: &Entry,
        trail: &mut Trail,
    ) -> Result<Option<Entry>, Nowhere> {
        let found = walk(&host.root, path.as_bytes(), self.symlinks, trail).and_then(|place| {
            if place.kind() == FileType::RegularFile { place.open() } else { Err(Nowhere::NotFound) }
        });
        let (file, stat) = match found {
            Ok(opened) => opened,
            Err(Nowhere::Busy) => return Err(Nowhere::Busy),
            Err(_) => return Ok(None),
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        trail.note_file(&file, &stat);
        let entry = Entry::new(name, file, &stat);
        Ok((entry.size() > 0 && entry.modified() >= plain.modified()).then_some(entry))
    }
}

fn open_host(plan: HostPlan) -> Result<Host, TreeError> {
    let HostPlan { names, root } = plan;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = match open(&root, flags, Mode::empty()) {
        Ok(file) => file,
        Err(source) => return Err(TreeError::Root { root, source: source.into() }),
    };
    match resolve::open_beneath(&file, b".", OFlags::PATH) {
        Err(Errno::NOSYS) => Err(TreeError::NoOpenat2),
        Err(source) => Err(TreeError::Root { root, source: source.into() }),
        Ok(_) => Ok(Host { names, root: Arc::new(file) }),
    }
}

/// Whether nothing can be called so; HTTP has refused most of it before.
fn is_odd(path: &str) -> bool {
    let strange = |part| part == ".." || draft::is_draft(part);
    path.len() > PATH_MAX || path.starts_with('/') || path.contains('\0') || path.split('/').any(strange)
}

#[cfg(test)]
mod tests;
