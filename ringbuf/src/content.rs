//! Content on loan to a thread that fills it.
//!
//! ```text
//!             lend_content                         (the grant goes to a thread that reads a file)
//!   unheld ─────────────────► lent ─────────────────────────────────────────┐
//!    ▲  │                                                                   │
//!    │  └─ page ─► held ─ drop ─┐                take_content               │
//!    └──────────────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! A unit of content is held by pages, or lent to one [`ContentGrant`], or neither: never both. So the thread that
//! has the grant may write, and let a disk write, without a lock and without anybody looking on.

use crate::arena::CONTENT_UNIT;
use crate::page::ContentBusy;
use crate::parcel::Home;
use crate::pool::Pool;
use core::ops::{Deref, DerefMut, Range};
use std::fmt;
use std::sync::Arc;

/// The count of a unit that is lent. Pages never count that far.
pub(crate) const LENT: u32 = u32::MAX;

/// Whole units of content that nobody else can reach, on any thread.
///
/// Give it back with [`Pool::take_content`]. One that is dropped elsewhere leaves its units lent for good: counted in
/// [`Pool::content_lent`], never given to anybody, and not returned to the system before the grant is gone.
///
/// Invariant **grant**: `start .. start + len` are whole units inside the content, and the pool counts each of them as
/// lent until this grant comes back; so no page and no other grant overlaps it.
///
/// ```compile_fail
/// fn is_clone<T: Clone>() {}
/// is_clone::<ringbuf::ContentGrant>();
/// ```
pub struct ContentGrant {
    home: Arc<Home>,
    pool: u32,
    start: usize,
    len: usize,
}

impl Pool {
    /// Lends whole units of content, `range` in bytes from where content begins; `None` if the range is not of whole
    /// units, is empty or outside, or if anybody holds a page or a grant of it.
    #[must_use]
    pub fn lend_content(&self, range: Range<usize>) -> Option<ContentGrant> {
        let (start, len) = (range.start, range.end.checked_sub(range.start)?);
        if len == 0 || start % CONTENT_UNIT != 0 || len % CONTENT_UNIT != 0 || !self.content_is_free(range) {
            return None;
        }
        for unit in &self.units[start / CONTENT_UNIT..(start + len) / CONTENT_UNIT] {
            unit.held.set(LENT);
        }
        Some(ContentGrant { home: Arc::clone(self.home()), pool: self.id(), start, len })
    }

    /// Takes a grant back: pages of it may be had again, with what was written.
    ///
    /// # Errors
    /// The grant itself, when it belongs to another pool.
    pub fn take_content(&self, grant: ContentGrant) -> Result<Range<usize>, ContentGrant> {
        if grant.pool != self.id() {
            return Err(grant);
        }
        let range = grant.range();
        for unit in &self.units[range.start / CONTENT_UNIT..range.end / CONTENT_UNIT] {
            debug_assert_eq!(unit.held.get(), LENT, "*grant*");
            unit.held.set(0);
        }
        Ok(range)
    }

    /// Whether nobody holds a page or a grant of any unit that `range` touches, and all of it exists.
    #[must_use]
    pub fn content_is_free(&self, range: Range<usize>) -> bool {
        let units = self.units.get(range.start / CONTENT_UNIT..range.end.div_ceil(CONTENT_UNIT));
        // Files' own pages are nobody's to write.
        let inside = range.end <= self.arena().content_bytes();
        inside && units.is_some_and(|units| units.iter().all(|unit| unit.held.get() == 0))
    }

    /// Bytes of content that are lent. For reports, not for turns.
    #[must_use]
    pub fn content_lent(&self) -> usize {
        self.units.iter().filter(|unit| unit.held.get() == LENT).count() * CONTENT_UNIT
    }

    /// Writes content that nobody holds, from this thread.
    ///
    /// # Errors
    /// [`ContentBusy`] when a page or a grant of a unit in this range is out, or the range is outside.
    pub fn write_content(&self, start: usize, bytes: &[u8]) -> Result<(), ContentBusy> {
        let end = start.checked_add(bytes.len()).filter(|end| *end <= self.arena().content_bytes());
        let end = end.ok_or(ContentBusy)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let units = start / CONTENT_UNIT * CONTENT_UNIT..end.next_multiple_of(CONTENT_UNIT);
        let mut grant = self.lend_content(units.clone()).ok_or(ContentBusy)?;
        grant[start - units.start..end - units.start].copy_from_slice(bytes);
        // Ours: lent three lines above.
        drop(self.take_content(grant));
        Ok(())
    }
}

impl ContentGrant {
    /// Where it lies in the content, in bytes.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// The first byte, for a device that writes there while somebody keeps this grant.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let arena = self.home.arena();
        // SAFETY: *grant*: the range lies in the content, which lies in the mapping (*layout* of the arena).
        unsafe { arena.base().add(arena.content_start() + self.start) }.as_ptr()
    }

    fn address(&self) -> *const u8 {
        let arena = self.home.arena();
        // SAFETY: as in `as_mut_ptr`.
        unsafe { arena.base().add(arena.content_start() + self.start) }.as_ptr()
    }
}

impl Deref for ContentGrant {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: *grant*: the bytes are inside the mapping, which `home` keeps, and nobody but us writes them; they were
        // zeroed when mapped.
        unsafe { core::slice::from_raw_parts(self.address(), self.len) }
    }
}

impl DerefMut for ContentGrant {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: *grant*: as above, and the borrow of this grant is the only way to them.
        unsafe { core::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

impl fmt::Debug for ContentGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContentGrant").field(&self.range()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaPlan, FileMap};
    use std::os::fd::AsFd;

    fn pool(units: usize) -> Pool {
        let plan =
            ArenaPlan { frames: 2, frame_size: 2048, content_bytes: units * CONTENT_UNIT, huge_pages: false };
        Pool::new(Arena::new(&plan).expect("small"))
    }

    #[test]
    fn what_is_lent_has_no_pages_until_it_is_back() {
        let pool = pool(4);
        let mut grant = pool.lend_content(4096..12288).expect("free");
        assert!(pool.page(4096, 1).is_none() && pool.page(12287, 1).is_none());
        assert!(pool.page(0, 4096).is_some() && pool.page(12288, 1).is_some(), "its neighbours are free");
        assert!(pool.lend_content(8192..12288).is_none(), "lent once");
        assert_eq!(pool.write_content(8192, b"x"), Err(ContentBusy));
        assert_eq!(pool.content_lent(), 8192);

        grant[0] = b'a';
        grant[8191] = b'z';
        assert_eq!(pool.take_content(grant).expect("ours"), 4096..12288);
        assert_eq!(pool.content_lent(), 0);
        assert_eq!(pool.page(4096, 1).expect("back").bytes(), Some(&b"a"[..]));
        assert_eq!(pool.page(12287, 1).expect("back").bytes(), Some(&b"z"[..]));
    }

    #[test]
    fn what_is_held_is_not_lent() {
        let pool = pool(2);
        let page = pool.page(4096, 10).expect("free");
        assert!(pool.lend_content(0..8192).is_none());
        assert!(!pool.content_is_free(0..8192) && pool.content_is_free(0..4096));
        assert!(pool.lend_content(0..4096).is_some());
        drop(page);
        assert!(pool.lend_content(4096..8192).is_some());
    }

    /// Pages hold on to the edge of the content and no further; odd ranges are refused, not rounded.
    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "refused too")]
    fn odd_ranges_are_refused() {
        let pool = pool(2);
        for range in [0..0, 1..4096, 0..4095, 0..12288, 8192..12288, 4096..0, 0..usize::MAX] {
            assert!(pool.lend_content(range.clone()).is_none(), "{range:?}");
        }
        assert_eq!(pool.content_lent(), 0);
    }

    /// A file's pages can be lent to a device, and neither be read nor written by us.
    #[test]
    fn files_pages_are_for_devices_only() {
        let name = std::env::temp_dir().join(format!("ringway-file-page-{}", std::process::id()));
        let file =
            std::fs::File::options().create_new(true).read(true).write(true).open(&name).expect("opens");
        std::fs::remove_file(name).expect("removes");
        file.set_len(6000).expect("grows");
        let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: 4096, huge_pages: false };
        let (arena, places) =
            Arena::with_files(&plan, &[FileMap { file: file.as_fd(), bytes: 6000, page: CONTENT_UNIT }])
                .expect("small");
        assert_eq!(places[0].as_ref().expect("mapped"), &(4096..10096));
        let pool = Pool::new(arena);
        assert!(pool.page(4096, 1).is_none() && pool.page(4000, 200).is_none());
        assert!(pool.file_page(0, 1).is_none() && pool.file_page(12288, 1).is_none());
        assert!(pool.lend_content(4096..8192).is_none() && pool.lend_content(0..8192).is_none());
        assert_eq!(pool.write_content(4096, b"x"), Err(ContentBusy));
        let page = pool.file_page(8192, 1904).expect("inside");
        // The file is cut off: whoever looked now would be killed.
        file.set_len(0).expect("cuts");
        assert!(page.is_file() && page.bytes().is_none() && page.len() == 1904);
        let offset = pool.depart_page(page).expect("ours");
        assert_eq!(offset, (pool.arena().content_start() + 8192) as u64);
        assert!(pool.reclaim_page(offset).is_ok() && pool.reclaim_page(offset).is_err());
    }

    #[test]
    fn another_pool_does_not_take_it() {
        let (ours, theirs) = (pool(1), pool(1));
        let grant = ours.lend_content(0..4096).expect("free");
        let grant = theirs.take_content(grant).expect_err("not theirs");
        assert!(theirs.page(0, 1).is_some() && ours.page(0, 1).is_none());
        assert!(ours.take_content(grant).is_ok());
    }

    /// The thread that fills may outlive the pool: the mapping stays until the grant is gone.
    #[test]
    fn a_grant_outlives_its_pool_and_crosses_threads() {
        let pool = pool(1);
        let mut grant = pool.lend_content(0..4096).expect("free");
        let filler = std::thread::spawn(move || {
            grant.fill(7);
            grant
        });
        drop(pool);
        assert!(filler.join().expect("fills").iter().all(|byte| *byte == 7));
    }
}
