//! A file in the making: what is uploaded, as long as it has no name.
//!
//! ```text
//!   Tree::draft ─► Draft: a file without a name (O_TMPFILE) in the folder where it is to be
//!                    │ publish
//!                    ├─ nothing is there     ─► linkat          Published { created: true }
//!                    ├─ a file is there      ─► linkat, rename  Published { created: false }
//!                    └─ dropped, or killed   ─► nothing is left, by the kernel's own hand
//! ```
//!
//! A reader finds the old file or the new one, whole. Where a file system has no files without a name, it has a hidden one
//! that no path leads to ([`is_draft`]), and it is removed when the draft is dropped; after a `SIGKILL` it is still there.

use super::entry::Version;
use super::resolve::{Nowhere, Trail, open_beneath, walk};
use super::{HostId, Tree, is_odd};
use crate::serve::http::{Conditions, Representation, may_store};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, fstatvfs, linkat, openat2,
    renameat, renameat_with, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What hidden names begin with.
const HIDDEN: &str = ".ringway-draft-";

/// Looks at a name that changes all the time.
const TRIES: usize = 8;

/// Whether a name is that of a draft, which no path leads to.
pub(super) fn is_draft(name: &str) -> bool {
    name.starts_with(HIDDEN)
}

/// Why something is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The folder that it is to be in is not there.
    NoFolder,
    /// The path is a folder's.
    IsFolder,
    /// No right to; a link, a device, or a file system that is mounted to be read.
    Forbidden,
    /// The name is longer than the file system has them.
    NameTooLong,
    /// A condition of the request does not hold.
    Condition,
    /// The disk is full, or the quota.
    NoSpace,
    /// Longer than the file system, or the limit of the process, has files.
    TooLarge,
    /// No descriptor or memory is left, or the name changed all the time: try again.
    Busy,
    /// The kernel said something else, which is in the log.
    Failed,
}

impl Denied {
    /// What the kernel's refusal means.
    #[must_use]
    pub fn of(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::NoFolder,
            Errno::ISDIR => Self::IsFolder,
            Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP | Errno::XDEV => Self::Forbidden,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::FBIG => Self::TooLarge,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Self::Busy,
            error => {
                tracing::warn!("storing an upload: {error}");
                Self::Failed
            }
        }
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoFolder | Self::IsFolder => 409,
            Self::Forbidden => 403,
            Self::NameTooLong => 414,
            Self::Condition => 412,
            Self::NoSpace => 507,
            Self::TooLarge => 413,
            Self::Busy => 503,
            Self::Failed => 500,
        }
    }
}

impl From<Nowhere> for Denied {
    fn from(nowhere: Nowhere) -> Self {
        match nowhere {
            Nowhere::NotFound => Self::NoFolder,
            Nowhere::Forbidden => Self::Forbidden,
            Nowhere::Busy => Self::Busy,
            Nowhere::Failed => Self::Failed,
        }
    }
}

/// A file in the making.
#[derive(Debug)]
pub struct Draft {
    folder: Arc<OwnedFd>,
    name: Box<str>,
    file: OwnedFd,
    /// Its hidden name, where it must have one.
    hidden: Option<String>,
}

/// A draft that has got its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whether nothing was there before.
    pub created: bool,
    /// What HTTP wants to know of it.
    pub representation: Representation,
}

impl Tree {
    /// Begins a file that is to be at `path`, if `conditions` allow it; of `bytes` bytes, if that is known. Opens a file: not
    /// for the poll thread of a port.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn draft(
        &self,
        host: HostId,
        path: &str,
        conditions: &Conditions<'_>,
        bytes: Option<u64>,
    ) -> Result<Draft, Denied> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(Denied::IsFolder);
        }
        if is_odd(path) {
            return Err(Denied::Forbidden);
        }
        let host = self.hosts.get(host.place()).ok_or(Denied::Forbidden)?;
        let place = walk(&host.root, folder.as_bytes(), self.symlinks, &mut Trail::default())?;
        if place.kind() != FileType::Directory {
            return Err(Denied::NoFolder);
        }
        let folder = Arc::clone(place.object());
        allowed(&folder, name, conditions)?;
        let draft = Draft::open(folder, name, false)?;
        if bytes.is_some_and(|bytes| !fits(&draft.file, bytes)) {
            return Err(Denied::NoSpace);
        }
        Ok(draft)
    }
}

/// Whether a file system has so many bytes left, as far as it says: one without a size of its own says 0 of all.
fn fits(file: &OwnedFd, bytes: u64) -> bool {
    let Ok(space) = fstatvfs(file) else { return true };
    space.f_blocks == 0 || bytes.div_ceil(space.f_frsize.max(1)) <= space.f_bfree
}

/// What stands at a name, if that may be replaced.
fn current(folder: &OwnedFd, name: &str) -> Result<Option<Stat>, Denied> {
    let object = match open_beneath(folder, name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(object) => object,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(Denied::of(error)),
    };
    let stat = fstat(&object).map_err(Denied::of)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(stat)),
        FileType::Directory => Err(Denied::IsFolder),
        // A link is not written through, nor replaced; a device is none of ours.
        _ => Err(Denied::Forbidden),
    }
}

/// The same, if the conditions of the request hold for it.
fn allowed(folder: &OwnedFd, name: &str, conditions: &Conditions<'_>) -> Result<Option<Stat>, Denied> {
    let stat = current(folder, name)?;
    let file = stat.as_ref().map(|stat| Version::new(stat).representation());
    if may_store(conditions, file.as_ref()) { Ok(stat) } else { Err(Denied::Condition) }
}

impl Draft {
    /// A file that is nowhere yet; `named`: with a hidden name in any case.
    fn open(folder: Arc<OwnedFd>, name: &str, named: bool) -> Result<Self, Denied> {
        let open = |name: &str, flags: OFlags| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | flags;
            // Less the umask, as any program makes files.
            let mode = Mode::from_raw_mode(0o666);
            retry_on_intr(|| openat2(&folder, name, flags, mode, resolve))
        };
        let nameless = if named { Err(Errno::OPNOTSUPP) } else { open(".", OFlags::TMPFILE) };
        let (file, hidden) = match nameless {
            Ok(file) => (file, None),
            // As a file system says that it has no such files (`open(2)`); FUSE says ENOSYS.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS) => {
                let hidden = hidden_name();
                let file = open(&hidden, OFlags::CREATE | OFlags::EXCL).map_err(Denied::of)?;
                (file, Some(hidden))
            }
            Err(error) => return Err(Denied::of(error)),
        };
        Ok(Self { folder, name: name.into(), file, hidden })
    }

    /// The file, to be written to.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives it its name, if `conditions` still allow that. `order` sees to it that no other upload does the same between the
    /// look and the deed.
    ///
    /// # Errors
    /// [`Denied`]; nothing is left of it then.
    pub fn publish(mut self, conditions: &Conditions<'_>, order: &Mutex<()>) -> Result<Published, Denied> {
        let one_at_a_time = order.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            let created = allowed(&self.folder, &self.name, conditions)?.is_none();
            let done = if created { self.appear() } else { self.replace() };
            match done {
                Ok(()) => {
                    self.hidden = None;
                    drop(one_at_a_time);
                    let stat = fstat(&self.file).map_err(Denied::of)?;
                    return Ok(Published { created, representation: Version::new(&stat).representation() });
                }
                // Another program was quicker.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Denied::of(error)),
            }
        }
        Err(Denied::Busy)
    }

    /// Takes a name that nobody has.
    fn appear(&self) -> Result<(), Errno> {
        let Some(hidden) = &self.hidden else { return self.link(&self.name) };
        match renameat_with(&self.folder, hidden, &self.folder, &*self.name, RenameFlags::NOREPLACE) {
            // A file system that cannot promise it.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.folder, hidden, &self.folder, &*self.name),
            other => other,
        }
    }

    /// Takes the name of another file.
    fn replace(&self) -> Result<(), Errno> {
        if let Some(hidden) = &self.hidden {
            return renameat(&self.folder, hidden, &self.folder, &*self.name);
        }
        // A link replaces nothing, so it has a hidden name for a moment.
        let hidden = hidden_name();
        self.link(&hidden)?;
        let renamed = renameat(&self.folder, &hidden, &self.folder, &*self.name);
        if renamed.is_err() {
            let _ = unlinkat(&self.folder, &hidden, AtFlags::empty());
        }
        renamed
    }

    /// A name for the file that has none. By way of `/proc`, since any other wants a capability before Linux 6.10.
    fn link(&self, name: &str) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(CWD, path, &self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = unlinkat(&self.folder, hidden, AtFlags::empty());
        }
    }
}

/// A name that no other draft has, of this process or another.
fn hidden_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let moment = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
    format!("{HIDDEN}{process}-{number}-{moment:x}")
}

#[cfg(test)]
mod tests {
    use super::super::{Symlinks, TreePlan};
    use super::*;
    use crate::serve::testing::Scratch;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn store(draft: Draft, content: &[u8], conditions: &Conditions<'_>) -> Result<Published, Denied> {
        rustix::io::write(draft.file(), content).expect("writes");
        draft.publish(conditions, &Mutex::new(()))
    }

    fn names(scratch: &Scratch) -> Vec<String> {
        let entries = fs::read_dir(scratch.path()).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("a name").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// With a name and without: a draft is nowhere, then everywhere; what it replaces is whole until then; dropped, it was
    /// never there.
    #[test]
    fn a_draft_is_nowhere_until_it_is_published() {
        let none = Conditions::default();
        for named in [false, true] {
            let scratch = Scratch::new();
            let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
            let folder = Arc::clone(&tree.hosts[0].root);
            let draft = || Draft::open(Arc::clone(&folder), "a", named).expect("a draft");
            drop(draft());
            assert!(names(&scratch).is_empty(), "{:?}", names(&scratch));
            let new = store(draft(), b"one", &none).expect("stored");
            assert_eq!((new.created, new.representation.size()), (true, 3));
            let second = draft();
            rustix::io::write(second.file(), b"half").expect("writes");
            assert_eq!(fs::read(scratch.path().join("a")).expect("a file"), b"one");
            let other = store(second, b" and whole", &none).expect("stored");
            assert_eq!((other.created, other.representation.size()), (false, 14));
            assert_eq!(fs::read(scratch.path().join("a")).expect("a file"), b"half and whole");
            assert_eq!(names(&scratch), ["a"]);
            let super::super::Found::File(forms) = tree.look_up(HostId::default(), "a") else {
                panic!("a file")
            };
            assert_eq!(forms.plain().representation(), other.representation, "one tag for PUT and GET");
        }
    }

    /// Made meanwhile by another program, or by another upload: conditions are looked at again at the end.
    #[test]
    fn conditions_hold_at_the_end() {
        let only_new = Conditions { if_none_match: Some(b"*"), ..Conditions::default() };
        let any = Conditions { if_match: Some(b"*"), ..Conditions::default() };
        for named in [false, true] {
            let scratch = Scratch::new();
            let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
            let folder = Arc::clone(&tree.hosts[0].root);
            let draft = || Draft::open(Arc::clone(&folder), "a", named).expect("a draft");
            assert_eq!(store(draft(), b"1", &any), Err(Denied::Condition));
            let (first, second) = (draft(), draft());
            let first = store(first, b"1", &only_new).expect("stored");
            assert_eq!(store(second, b"2", &only_new), Err(Denied::Condition));
            let tag = first.representation.etag().text().to_vec();
            let same = Conditions { if_match: Some(&tag), ..Conditions::default() };
            store(draft(), b"3", &same).expect("stored");
            assert_eq!(store(draft(), b"4", &same), Err(Denied::Condition), "it is another by now");
            assert_eq!(fs::read(scratch.path().join("a")).expect("a file"), b"3");
            assert_eq!(names(&scratch), ["a"]);
        }
    }

    #[test]
    fn what_cannot_be_a_file_is_told_apart() {
        let scratch = Scratch::new();
        for name in ["file", "folder/x"] {
            scratch.write(name, b"1");
        }
        symlink("file", scratch.path().join("link")).expect("a link");
        symlink("folder", scratch.path().join("way")).expect("a link");
        symlink("/tmp", scratch.path().join("out")).expect("a link");
        let mut plan = TreePlan::new(scratch.path());
        let tree = Tree::open(plan.clone()).expect("opens");
        let long = "n".repeat(300);
        let draft = |tree: &Tree, path: &str, bytes| {
            tree.draft(HostId::default(), path, &Conditions::default(), bytes).map(drop)
        };
        for (path, want) in [
            ("", Denied::IsFolder),
            ("folder", Denied::IsFolder),
            ("folder/", Denied::IsFolder),
            ("none/x", Denied::NoFolder),
            ("file/x", Denied::NoFolder),
            ("link", Denied::Forbidden),
            ("way/x", Denied::Forbidden),
            ("out/x", Denied::Forbidden),
            ("../x", Denied::Forbidden),
            (".ringway-draft-1", Denied::Forbidden),
            (".ringway-draft-1/file", Denied::Forbidden),
            (&long, Denied::NameTooLong),
        ] {
            assert_eq!(draft(&tree, path, None), Err(want), "{path}");
        }
        assert_eq!(draft(&tree, "x", Some(u64::MAX)), Err(Denied::NoSpace));
        assert_eq!(draft(&tree, "x", Some(1)), Ok(()));
        plan.symlinks = Symlinks::On;
        let tree = Tree::open(plan).expect("opens");
        assert_eq!(draft(&tree, "way/x", None), Ok(()));
        for path in ["link", "out/x"] {
            assert_eq!(draft(&tree, path, None), Err(Denied::Forbidden), "{path}");
        }
    }

    /// The folder is removed, or the name becomes a folder, while the body comes.
    #[test]
    fn the_folder_may_go_and_the_name_may_change() {
        let scratch = Scratch::new();
        scratch.write("folder/x", b"1");
        let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
        let draft =
            |path| tree.draft(HostId::default(), path, &Conditions::default(), None).expect("a draft");
        let (gone, taken) = (draft("folder/new"), draft("name"));
        fs::remove_dir_all(scratch.path().join("folder")).expect("removes");
        fs::create_dir(scratch.path().join("name")).expect("makes");
        assert_eq!(store(gone, b"1", &Conditions::default()), Err(Denied::NoFolder));
        assert_eq!(store(taken, b"1", &Conditions::default()), Err(Denied::IsFolder));
        assert_eq!(names(&scratch), ["name"]);
    }

    #[test]
    fn errors_have_a_status() {
        for (error, status) in [
            (Errno::NOSPC, 507),
            (Errno::DQUOT, 507),
            (Errno::FBIG, 413),
            (Errno::ROFS, 403),
            (Errno::ACCESS, 403),
            (Errno::MFILE, 503),
            (Errno::IO, 500),
            (Errno::ISDIR, 409),
        ] {
            assert_eq!(Denied::of(error).status(), status, "{error}");
        }
    }
}
