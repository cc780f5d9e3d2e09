//! What is in a directory.

use super::Symlinks;
use super::resolve::Nowhere;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names listed at most: a page of more is no use to anybody, and its making would hold up other lookups.
const ITEMS_MAX: usize = 10_000;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The name.
    pub name: Box<str>,
    /// Whether it is a directory; everything else is a regular file.
    pub is_directory: bool,
    /// Bytes; 0 for directories.
    pub size: u64,
    /// When it was last changed.
    pub modified: SystemTime,
}

/// What is in a directory: directories first, each part by name. Hidden names are left out, and so is what cannot be
/// served: devices, links unless they are followed, names that are not UTF-8.
#[derive(Clone, Debug)]
pub struct Items {
    /// The names.
    pub items: Arc<[Item]>,
    /// Whether there are more than are listed.
    pub cut: bool,
}

pub(super) fn read(directory: &OwnedFd, symlinks: Symlinks) -> Result<Items, Nowhere> {
    let mut items = Vec::new();
    let mut cut = false;
    for name in Dir::read_from(directory).map_err(Nowhere::of)? {
        let name = name.map_err(Nowhere::of)?;
        let Ok(name) = name.file_name().to_str() else { continue };
        if name.starts_with('.') {
            continue;
        }
        if items.len() == ITEMS_MAX {
            cut = true;
            break;
        }
        items.extend(item(directory, name, symlinks));
    }
    items.sort_by(|a, b| b.is_directory.cmp(&a.is_directory).then_with(|| a.name.cmp(&b.name)));
    Ok(Items { items: items.into(), cut })
}

/// A link is listed as what it leads to, for its looks only: following it is the walk's business.
fn item(directory: &OwnedFd, name: &str, symlinks: Symlinks) -> Option<Item> {
    let mut stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && symlinks != Symlinks::Off {
        stat = statat(directory, name, AtFlags::empty()).ok()?;
    }
    let is_directory = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => false,
        FileType::Directory => true,
        _ => return None,
    };
    let size = if is_directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) };
    Some(Item { name: name.into(), is_directory, size, modified: modified(&stat) })
}

fn modified(stat: &Stat) -> SystemTime {
    let since = u64::try_from(stat.st_mtime).map(Duration::from_secs).unwrap_or_default();
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}
