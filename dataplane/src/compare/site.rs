//! The files that are served: one of each size to ask for again and again, or many to ask for once.

use super::plan::{Cache, ComparePlan};
use crate::lab::scratch::Scratch;
use crate::lab::traffic::Content;
use rustix::fs::{Advice, fadvise, fdatasync};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of all files of one size that are asked for once, and how many there are at least and at most.
const COLD_BYTES: u64 = 256 << 20;
const COLD_FILES: std::ops::RangeInclusive<u64> = 4..=2048;

/// Filesystems whose files nothing can take out of memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// A folder of files, and room for a server's own. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Site {
    scratch: Scratch,
}

impl Site {
    /// Writes all files that the plan needs, and has the disk keep them.
    ///
    /// # Errors
    /// When the disk is full or may not be written; says where.
    pub(super) fn write(plan: &ComparePlan) -> Result<Self, String> {
        if plan.cache.contains(&Cache::Cold) {
            let kind = filesystem(&plan.folder);
            if IN_MEMORY.contains(&kind.as_str()) {
                return Err(format!(
                    "a cold cache needs files on a disk, and {} is on {kind}, whose files are always in memory; --dir names a folder on a disk",
                    plan.folder.display()
                ));
            }
        }
        let failed = |folder: &Path, error: io::Error| {
            format!("writing the files to serve to {}: {error}; --dir names another folder", folder.display())
        };
        let scratch = Scratch::new(&plan.folder, "ringway-compare")
            .map_err(|(folder, error)| failed(&folder, error))?;
        let site = Self { scratch };
        site.fill(plan).map_err(|error| failed(site.scratch.path(), error))?;
        Ok(site)
    }

    fn fill(&self, plan: &ComparePlan) -> io::Result<()> {
        std::fs::create_dir(self.root())?;
        std::fs::create_dir(self.own())?;
        let mut content = Content::new(0x434f_4d50);
        for &size in &plan.sizes {
            for &cache in &plan.cache {
                for path in paths(size, cache) {
                    put(&self.root().join(&path[1..]), size, &mut content)?;
                }
            }
        }
        Ok(())
    }

    /// What servers are given.
    pub(super) fn root(&self) -> PathBuf {
        self.scratch.path().join("www")
    }

    /// For files of a server's own.
    pub(super) fn own(&self) -> PathBuf {
        self.scratch.path().join("server")
    }

    /// Takes the files of one size out of the page cache, by `posix_fadvise(DONTNEED)`: only these, and no others of the machine. What
    /// was really read from the disk is counted in each run.
    pub(super) fn evict(&self, size: u64) -> io::Result<()> {
        for path in paths(size, Cache::Cold) {
            let file = File::open(self.root().join(&path[1..]))?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }
}

/// What to ask for, in turn.
pub(super) fn paths(size: u64, cache: Cache) -> Vec<String> {
    match cache {
        Cache::Warm => vec![format!("/{size}.bin")],
        Cache::Cold => {
            let count = (COLD_BYTES / size.max(1)).clamp(*COLD_FILES.start(), *COLD_FILES.end());
            (0..count).map(|number| format!("/{size}-{number}.bin")).collect()
        }
    }
}

fn put(path: &Path, size: u64, content: &mut Content) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut buffer = vec![0; usize::try_from(size.min(1 << 20)).unwrap_or(1 << 20)];
    let mut rest = size;
    while rest > 0 {
        let part = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        content.fill(&mut buffer[..part]);
        file.write_all(&buffer[..part])?;
        rest -= part as u64;
    }
    // Pages that are not on the disk yet cannot leave the cache.
    Ok(fdatasync(&file)?)
}

/// What kind of filesystem a folder is on.
#[must_use]
pub(super) fn filesystem(folder: &Path) -> String {
    // include/uapi/linux/magic.h
    let known = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0x794c_7630, "overlayfs"),
        (0x6969, "nfs"),
        (0x2fc1_2fc1, "zfs"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "fuse"),
        (0xf2f5_2010, "f2fs"),
    ];
    let magic = rustix::fs::statfs(folder).map(|found| found.f_type.cast_unsigned() & 0xffff_ffff);
    let name =
        |magic: u64| known.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned());
    magic.map_or_else(|_| "unknown".to_owned(), |magic| name(magic).unwrap_or_else(|| format!("0x{magic:x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_files_are_many_and_bounded() {
        assert_eq!(paths(1024, Cache::Cold).len(), 2048);
        assert_eq!(paths(1 << 20, Cache::Cold).len(), 256);
        assert_eq!(paths(1 << 30, Cache::Cold).len(), 4);
        assert_eq!(paths(1 << 30, Cache::Warm), ["/1073741824.bin"]);
    }
}
