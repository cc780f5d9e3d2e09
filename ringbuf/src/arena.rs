//! One mapping for all that a worker's devices may read or write.
//!
//! ```text
//!   base                                  frames × frame_size                 + content      + files
//!   │ slot 0 │ slot 1 │ slot 2 │   …   │ slot n-1 │ content: 4 KiB units of file bytes │ files' own pages │
//! ```
//!
//! A device can send only what lies in memory that was registered with it, so frames and file content share one
//! arena, and the arena is registered with every queue of its worker.

use core::ops::Range;
use core::ptr::NonNull;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The unit in which content is counted, and the smallest page of every machine we run on.
pub const CONTENT_UNIT: usize = 4096;

/// What an arena should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaPlan {
    /// How many frames: 1 to 2²⁴.
    pub frames: u32,
    /// Bytes of one frame: a power of two from 256 to 32768. AF_XDP takes 2048 and 4096.
    pub frame_size: u32,
    /// Bytes for file content behind the frames; rounded up to [`CONTENT_UNIT`].
    pub content_bytes: usize,
    /// Whether to ask for huge pages first. Without any, ordinary pages serve.
    pub huge_pages: bool,
}

impl Default for ArenaPlan {
    fn default() -> Self {
        Self { frames: 8192, frame_size: 2048, content_bytes: 0, huge_pages: true }
    }
}

/// What the arena's memory really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Pages of 2 MiB from the kernel's reserve (`vm.nr_hugepages`).
    HugePages,
    /// Ordinary pages; the kernel was asked to merge them when it can.
    OrdinaryPages,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HugePages => "2 MiB pages",
            Self::OrdinaryPages => "ordinary pages",
        })
    }
}

/// Why there is no arena.
#[derive(Debug)]
pub enum ArenaError {
    /// The plan cannot be built on any machine; says which number is out of which range.
    Plan(&'static str),
    /// The kernel would not map this many bytes.
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(rule) => write!(f, "arena: {rule}"),
            Self::Map { bytes, source } => {
                write!(
                    f,
                    "arena: mapping {} MiB failed: {source} (fewer frames, or more memory, helps)",
                    bytes >> 20
                )
            }
        }
    }
}

impl std::error::Error for ArenaError {}

/// Whoever lends an arena its memory: the memory stays until this is dropped.
pub type Keeper = Box<dyn fmt::Debug + Send + Sync>;

/// One mapping: frames, then content.
///
/// Invariants: **map**: `base` is valid for reads and writes of `bytes` bytes until drop, and zeroed at first;
/// **layout**: slot `i` is `base + (i << shift) .. + frame_size`, content starts behind the last slot.
/// The arena itself reads and writes nothing: [`Pool`](crate::Pool) says who may. **files**: from `files_start` on, in bytes
/// from where content begins, lie pages of files that others may write or cut off: only devices, for which the kernel
/// has pinned them, may read there.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    frames: u32,
    shift: u32,
    content_bytes: usize,
    files_start: usize,
    backing: Backing,
    /// Somebody else's memory; else it is a mapping of our own.
    keeper: Option<Keeper>,
    /// The file behind the mapping, when another process is to map it too.
    shared: Option<OwnedFd>,
}

// SAFETY: an address range without access of its own; the pool and the parcels argue their accesses.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// Where each file is, in bytes from where content begins; or why it is not.
pub type FilePlaces = Vec<io::Result<Range<usize>>>;

/// A file whose own pages are to lie in an arena.
#[derive(Clone, Copy, Debug)]
pub struct FileMap<'f> {
    /// Open for reading *and writing*, since the kernel pins the pages of no others.
    pub file: BorrowedFd<'f>,
    /// Its first so many bytes are mapped.
    pub bytes: usize,
    /// Bytes of one of its pages: [`CONTENT_UNIT`] on tmpfs, those of the huge page on hugetlbfs, 2 MiB at most.
    pub page: usize,
}

impl FileMap<'_> {
    /// Bytes in whole pages; `None` for pages that have no place in an arena.
    fn whole(&self) -> Option<usize> {
        let fits = self.page.is_power_of_two() && (CONTENT_UNIT..=HUGE_PAGE).contains(&self.page);
        if fits { self.bytes.checked_next_multiple_of(self.page) } else { None }
    }
}

const HUGE_PAGE: usize = 2 << 20;
const _: () = assert!(usize::BITS >= 64, "offsets are 64 bits wide");

impl Arena {
    /// Maps an arena.
    ///
    /// # Errors
    /// [`ArenaError`], when the plan breaks its own ranges or the kernel has no memory for it.
    pub fn new(plan: &ArenaPlan) -> Result<Self, ArenaError> {
        Self::mapped(plan, false)
    }

    /// Maps an arena that another process can map too, through [`file`](Self::file): the back end of a vhost-user port.
    ///
    /// **peer**: whoever hands the file on vouches that its receiver writes only to slots that are lent to it. Nothing
    /// enforces that: without an IOMMU in between it can write each byte at any time, also behind a `&[u8]` of a frame,
    /// which Rust's rules forbid. Frames are not copied out before they are looked at, so a peer that breaks the promise
    /// can change a byte between its check and its use. No unsafe code of ours takes an address or a length from a
    /// frame's bytes, and slices check each index; but the compiler may assume that the bytes stand still.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(plan: &ArenaPlan) -> Result<Self, ArenaError> {
        Self::mapped(plan, true)
    }

    fn mapped(plan: &ArenaPlan, share: bool) -> Result<Self, ArenaError> {
        let (bytes, content_bytes) = sizes(plan)?;
        let frame_bytes = bytes - content_bytes;
        let shift = plan.frame_size.trailing_zeros();
        let (base, bytes, backing, shared) = map(bytes, plan.huge_pages, share)?;
        let files_start = bytes - frame_bytes;
        let (frames, keeper) = (plan.frames, None);
        Ok(Self { base, bytes, frames, shift, content_bytes, files_start, backing, keeper, shared })
    }

    /// An arena in memory that somebody else has mapped: a device's library that can only use its own.
    ///
    /// `lend` is asked for so many bytes, and says where they begin and who keeps them.
    ///
    /// # Errors
    /// As [`new`](Self::new); and what `lend` says.
    ///
    /// # Safety
    /// What `lend` gives keeps *map* until the keeper is dropped: zeroed, valid for reads and writes of all bytes, aligned to
    /// [`CONTENT_UNIT`], and read and written by nobody else but devices that this arena's pool lends slots to.
    pub unsafe fn within(
        plan: &ArenaPlan,
        backing: Backing,
        lend: impl FnOnce(usize) -> io::Result<(NonNull<u8>, Keeper)>,
    ) -> Result<Self, ArenaError> {
        let (bytes, content_bytes) = sizes(plan)?;
        let (base, keeper) = lend(bytes).map_err(|source| ArenaError::Map { bytes, source })?;
        let shift = plan.frame_size.trailing_zeros();
        let (frames, keeper, files_start) = (plan.frames, Some(keeper), content_bytes);
        Ok(Self { base, bytes, frames, shift, content_bytes, files_start, backing, keeper, shared: None })
    }

    /// Maps an arena with files' own pages behind the content; says for each file where they are, in bytes from where
    /// content begins, or why they are not there. All of it is to be registered with a device as one.
    ///
    /// The files must be on tmpfs, a memfd or hugetlbfs: of others' pages registration says `EFAULT`. Those of huge pages
    /// belong in front, since up to a page is lost before the first of them.
    ///
    /// # Errors
    /// As [`new`](Self::new); the files count as content.
    pub fn with_files(plan: &ArenaPlan, files: &[FileMap<'_>]) -> Result<(Self, FilePlaces), ArenaError> {
        let (mut files_bytes, mut aligned) = (Some(0usize), CONTENT_UNIT);
        for file in files {
            let Some(whole) = file.whole() else { continue };
            let lost = if file.page > aligned { file.page - CONTENT_UNIT } else { 0 };
            files_bytes = files_bytes.and_then(|sum| sum.checked_add(whole)?.checked_add(lost));
            aligned = file.page;
        }
        let content = plan.content_bytes.checked_next_multiple_of(CONTENT_UNIT);
        let content_bytes = files_bytes.zip(content).and_then(|(a, b)| a.checked_add(b));
        let Some((files_bytes, content_bytes)) = files_bytes.zip(content_bytes) else {
            return Err(ArenaError::Plan("frames and content together must stay below 4 GiB"));
        };
        // Ordinary pages: files' cannot lie among huge ones.
        let mut arena = Self::new(&ArenaPlan { content_bytes, huge_pages: false, ..*plan })?;
        arena.content_bytes -= files_bytes;
        arena.files_start = arena.content_bytes;
        let content = arena.base.as_ptr().addr() + arena.content_start();
        let mut end = arena.files_start;
        let places = files
            .iter()
            .map(|file| {
                let whole = file.whole().filter(|whole| *whole > 0).ok_or(io::ErrorKind::InvalidInput)?;
                // Where it lies in memory counts, not where in the arena.
                let start = (content + end).next_multiple_of(file.page) - content;
                end = start + whole;
                arena.map_file(file.file, &(start..end)).map(|()| start..start + file.bytes)
            })
            .collect();
        Ok((arena, places))
    }

    /// Puts a file's pages in place of fresh memory that nobody has seen yet.
    ///
    /// A mapping that fails in the last moment leaves a gap where there was memory (`vms_abort_munmap_vmas`, mm/vma.c), huge pages that are
    /// not to be had first of all. Whatever another thread maps comes to lie in that gap, and is unmapped with the arena. So
    /// the file is mapped somewhere else before: what is wrong with it shows there.
    fn map_file(&mut self, file: BorrowedFd<'_>, range: &Range<usize>) -> io::Result<()> {
        debug_assert!(range.start >= self.files_start && self.content_start() + range.end <= self.bytes);
        let probe = map_with(range.len(), 0, Some(file))?;
        // SAFETY: *map*: the range lies in the mapping.
        let target = unsafe { self.base.add(self.content_start() + range.start) };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: whole pages of our own mapping are replaced, before there is a pool that could give them out, and
        // *files*: nobody will make a reference to them.
        let mapped =
            unsafe { libc::mmap(target.as_ptr().cast(), range.len(), access, flags, file.as_raw_fd(), 0) };
        let failed = (mapped == libc::MAP_FAILED).then(io::Error::last_os_error);
        // SAFETY: it was mapped above, and nobody has seen it.
        unsafe { libc::munmap(probe.as_ptr().cast(), range.len()) };
        if let Some(error) = failed {
            return Err(self.without(error));
        }
        // Registration pins the pages for writing. A page that is not there yet would be fetched as by a write, and move
        // the file's times; one that is there already, as by a read, is pinned without that (on file systems that write
        // nothing back). Linux 5.14; before that the times move, and whoever cares about them looks.
        // SAFETY: the range was mapped just above; the advice changes no content.
        unsafe { libc::madvise(mapped, range.len(), libc::MADV_POPULATE_READ) };
        Ok(())
    }

    /// There may be a gap now, and a mapping of somebody else's in it: this arena is never unmapped.
    #[cold]
    fn without(&mut self, error: io::Error) -> io::Error {
        self.keeper.get_or_insert_with(|| Box::new(()));
        error
    }

    /// Where it begins.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length of the mapping in bytes: what is registered with a device.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames there are.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes of one frame.
    #[must_use]
    pub const fn frame_size(&self) -> u32 {
        1 << self.shift
    }

    /// Binary logarithm of the frame size.
    #[must_use]
    pub const fn shift(&self) -> u32 {
        self.shift
    }

    /// Where content begins, in bytes from the base.
    #[must_use]
    pub const fn content_start(&self) -> usize {
        ((self.frames as usize) << self.shift).next_multiple_of(CONTENT_UNIT)
    }

    /// Bytes of content, without the files' own pages.
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Where files' own pages are, in bytes from where content begins; empty without any.
    #[must_use]
    pub const fn files(&self) -> Range<usize> {
        self.files_start..self.bytes - self.content_start()
    }

    /// Whether somebody else keeps its memory ([`within`](Self::within)).
    #[must_use]
    pub const fn is_lent(&self) -> bool {
        self.keeper.is_some()
    }

    /// The file behind it, from its first byte on; `None` unless it was made to be [shared](Self::shared).
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.shared.as_ref().map(AsFd::as_fd)
    }

    /// What its memory is.
    #[must_use]
    pub const fn backing(&self) -> Backing {
        self.backing
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        // SAFETY: *map*: this is the whole mapping, and whoever borrows from it is gone by now.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Bytes in all, and of content, of an arena that keeps to its ranges.
fn sizes(plan: &ArenaPlan) -> Result<(usize, usize), ArenaError> {
    if !(1..=1 << 24).contains(&plan.frames) {
        return Err(ArenaError::Plan("the number of frames must lie between 1 and 2^24"));
    }
    if !plan.frame_size.is_power_of_two() || !(256..=32768).contains(&plan.frame_size) {
        return Err(ArenaError::Plan("the frame size must be a power of two from 256 to 32768"));
    }
    let too_large = ArenaError::Plan("frames and content together must stay below 4 GiB");
    let Some(content_bytes) = plan.content_bytes.checked_next_multiple_of(CONTENT_UNIT) else {
        return Err(too_large);
    };
    let shift = plan.frame_size.trailing_zeros();
    let frame_bytes = ((plan.frames as usize) << shift).next_multiple_of(CONTENT_UNIT);
    let bytes = frame_bytes.checked_add(content_bytes).filter(|bytes| u32::try_from(*bytes).is_ok());
    Ok((bytes.ok_or(too_large)?, content_bytes))
}

/// A mapping, its length, what it is made of, and the file behind it.
type Mapping = (NonNull<u8>, usize, Backing, Option<OwnedFd>);

/// Maps `bytes` of zeroed memory, in huge pages when wanted and to be had.
fn map(bytes: usize, huge: bool, share: bool) -> Result<Mapping, ArenaError> {
    let whole = bytes.next_multiple_of(HUGE_PAGE);
    let attempt = |bytes: usize, huge: bool| {
        if !share {
            return map_with(bytes, if huge { libc::MAP_HUGETLB } else { 0 }, None).map(|base| (base, None));
        }
        let file = memory_file(bytes, huge)?;
        map_with(bytes, 0, Some(file.as_fd())).map(|base| (base, Some(file)))
    };
    // A small arena would waste most of a huge page.
    if huge
        && bytes >= HUGE_PAGE / 2
        && let Ok((base, file)) = attempt(whole, true)
    {
        return Ok((base, whole, Backing::HugePages, file));
    }
    // A peer maps whole pages of the file.
    let bytes = if share { bytes.next_multiple_of(CONTENT_UNIT) } else { bytes };
    let (base, file) = attempt(bytes, false).map_err(|source| ArenaError::Map { bytes, source })?;
    if huge {
        // A wish only: without transparent huge pages it changes nothing.
        // SAFETY: the range was mapped just above; the advice changes no content.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    Ok((base, bytes, Backing::OrdinaryPages, file))
}

/// A file in memory, `bytes` long for ever: whoever it is handed to could else cut it off, and the next touch would be
/// our end (SIGBUS).
fn memory_file(bytes: usize, huge: bool) -> io::Result<OwnedFd> {
    let pages = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | pages;
    // SAFETY: the name is a string with its zero.
    let file = unsafe { libc::memfd_create(c"ringway-arena".as_ptr(), flags) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(file) });
    file.set_len(bytes as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a request without a pointer, to a descriptor of our own.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

fn map_with(bytes: usize, extra: libc::c_int, file: Option<BorrowedFd<'_>>) -> io::Result<NonNull<u8>> {
    let (kind, file) = match file {
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
    };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let base = unsafe { libc::mmap(core::ptr::null_mut(), bytes, access, kind | extra, file, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped the null page"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn content_lies_behind_the_frames() {
        let arena =
            Arena::new(&ArenaPlan { frames: 3, frame_size: 2048, content_bytes: 5000, huge_pages: false })
                .expect("8 KiB");
        assert_eq!((arena.content_start(), arena.content_bytes(), arena.bytes()), (8192, 8192, 16384));
        assert_eq!(arena.backing(), Backing::OrdinaryPages);
    }

    /// A file's pages are the file's: what is written to it is there, without a copy.
    #[test]
    fn files_lie_behind_the_content() {
        let memfd = || {
            // SAFETY: the name is a string with its zero.
            let file = unsafe { libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC) };
            assert!(file >= 0);
            // SAFETY: a descriptor that the kernel has just made for us.
            std::fs::File::from(unsafe { std::os::fd::OwnedFd::from_raw_fd(file) })
        };
        let (one, two) = (memfd(), memfd());
        one.set_len(5000).expect("grows");
        two.set_len(100).expect("grows");
        let nothing = std::fs::File::open("/dev/null").expect("opens");
        let plan = ArenaPlan { frames: 3, frame_size: 2048, content_bytes: 5000, huge_pages: true };
        let map = |file, bytes| FileMap { file, bytes, page: CONTENT_UNIT };
        let odd = FileMap { page: 4 << 20, ..map(one.as_fd(), 5000) };
        let files = [
            map(one.as_fd(), 5000),
            map(nothing.as_fd(), 10),
            odd,
            map(one.as_fd(), 0),
            map(two.as_fd(), 100),
        ];
        let (arena, places) = Arena::with_files(&plan, &files).expect("small");
        let places: Vec<_> = places.into_iter().map(Result::ok).collect();
        assert_eq!(places, [Some(8192..13192), None, None, None, Some(20480..20580)]);
        assert_eq!((arena.content_bytes(), arena.files(), arena.bytes()), (8192, 8192..24576, 8192 + 24576));
        let peek = |at: usize| {
            // SAFETY: *layout*: `at` is inside the content or the files behind it.
            let place = unsafe { arena.base().add(arena.content_start() + at) };
            // SAFETY: mapped, and the file is as long; volatile, since the file may change.
            unsafe { place.as_ptr().read_volatile() }
        };
        for byte in [7, 9] {
            one.write_at(&[byte], 4999).expect("writes");
            two.write_at(&[byte + 1], 0).expect("writes");
            assert_eq!((peek(8192 + 4999), peek(20480), peek(16384)), (byte, byte + 1, 0));
        }
    }

    /// Who has the file of a shared arena can neither shorten it nor lift that seal.
    #[test]
    fn a_shared_arena_keeps_its_pages() {
        let plan = ArenaPlan { frames: 4, frame_size: 2048, content_bytes: 0, huge_pages: false };
        let arena = Arena::shared(&plan).expect("small");
        let file = arena.file().expect("a file").try_clone_to_owned().expect("a copy");
        let file = std::fs::File::from(file);
        for bytes in [0, 1 << 30] {
            let error = file.set_len(bytes).expect_err("sealed");
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{bytes}");
        }
        // SAFETY: a descriptor of ours, and no memory is passed.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) }, -1);
    }

    /// Pages of 2 MiB lie where such pages can lie, and small ones behind them.
    #[test]
    fn huge_pages_of_files_are_aligned() {
        // SAFETY: the name is a string with its zero.
        let huge = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
        // SAFETY: as above.
        let small = unsafe { libc::memfd_create(c"small".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(small >= 0);
        if huge < 0 {
            return eprintln!("SKIPPED: no hugetlbfs");
        }
        // SAFETY: descriptors that the kernel has just made for us.
        let [huge, small] =
            [huge, small].map(|file| std::fs::File::from(unsafe { std::os::fd::OwnedFd::from_raw_fd(file) }));
        small.set_len(100).expect("grows");
        huge.set_len(HUGE_PAGE as u64).expect("grows");
        let plan = ArenaPlan { frames: 3, frame_size: 2048, content_bytes: 5000, huge_pages: true };
        let files = [
            FileMap { file: huge.as_fd(), bytes: HUGE_PAGE, page: HUGE_PAGE },
            FileMap { file: small.as_fd(), bytes: 100, page: CONTENT_UNIT },
        ];
        let (arena, places) = Arena::with_files(&plan, &files).expect("small");
        let places: Vec<Option<Range<usize>>> = places.into_iter().map(Result::ok).collect();
        let small = places[1].clone().expect("mapped");
        assert!(small.end <= arena.files().end, "{small:?} in {:?}", arena.files());
        let mut resident = vec![0; arena.bytes() / 4096];
        // SAFETY: a byte for each page; the call says `ENOMEM` where nothing is mapped.
        let whole =
            unsafe { libc::mincore(arena.base().as_ptr().cast(), arena.bytes(), resident.as_mut_ptr()) };
        assert_eq!(whole, 0, "no gap, in which another thread's memory would come to lie");
        // Without a reserve of huge pages the kernel maps none.
        if let Some(huge) = places[0].clone() {
            let address = arena.base().as_ptr().addr() + arena.content_start() + huge.start;
            assert_eq!((address % HUGE_PAGE, huge.len(), huge.end), (0, HUGE_PAGE, small.start));
        }
    }

    #[test]
    fn impossible_plans_are_refused_in_words() {
        for (frames, frame_size, word) in
            [(0, 2048, "number of frames"), (1 << 25, 2048, "2^24"), (8, 3000, "power of two")]
        {
            let plan = ArenaPlan { frames, frame_size, content_bytes: 0, huge_pages: false };
            let words = Arena::new(&plan).expect_err("refused").to_string();
            assert!(words.contains(word), "{words}");
        }
    }

    /// Neither wraps round to a small arena nor panics.
    #[test]
    fn content_larger_than_memory_is_refused() {
        for content_bytes in [usize::MAX, usize::MAX - 4095, 1 << 44] {
            let plan = ArenaPlan { content_bytes, ..ArenaPlan::default() };
            assert!(Arena::new(&plan).expect_err("refused").to_string().contains("below 4 GiB"));
        }
    }

    /// What is written to the file of a shared arena is in it, from the first byte on.
    #[test]
    fn a_shared_arena_is_its_file() {
        let plan = ArenaPlan { frames: 3, frame_size: 2048, content_bytes: 5000, huge_pages: false };
        let arena = Arena::shared(&plan).expect("small");
        let file = std::fs::File::from(arena.file().expect("a file").try_clone_to_owned().expect("a copy"));
        assert_eq!(file.metadata().expect("a file").len(), arena.bytes() as u64);
        file.write_at(&[7], 4097).expect("writes");
        // SAFETY: *map*: inside.
        let place = unsafe { arena.base().add(4097) };
        // SAFETY: mapped; volatile, since the file may change.
        assert_eq!(unsafe { place.as_ptr().read_volatile() }, 7);
        assert!(Arena::new(&plan).expect("small").file().is_none());
    }

    #[test]
    fn without_huge_pages_ordinary_ones_serve() {
        let arena = Arena::new(&ArenaPlan::default()).expect("16 MiB");
        assert!(arena.bytes() >= 16 << 20);
    }
}
