//! What the file side tells HTTP about a file: facts only, made once when the file is looked up.
//!
//! Everything that can be formatted beforehand is: the entity tag, the date and the media type lie ready here, so that
//! a warm request copies them.
//!
//! The path that HTTP hands to the file side is relative and clean: UTF-8 without empty segments, `.`, `..`, NUL,
//! backslash or control characters; `""` is the root; a slash at its end (`docs/`) says that a directory was asked for.

use super::date::Date;
use super::media;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A content coding that a file may lie ready in (RFC 9110 section 8.4.1). Better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// The file itself.
    Identity,
    /// `name.br` (RFC 7932).
    Brotli,
    /// `name.zst` (RFC 8878).
    Zstandard,
    /// `name.gz` (RFC 1952).
    Gzip,
}

impl Coding {
    /// Those that are files of their own beside the file.
    pub const PRECOMPRESSED: [Self; 3] = [Self::Brotli, Self::Zstandard, Self::Gzip];

    /// Its name in `Content-Encoding`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Brotli => "br",
            Self::Zstandard => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What the name of the file beside ends in: `.br`; nothing for the file itself.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Brotli => ".br",
            Self::Zstandard => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// Its place among the precompressed ones.
    pub(crate) const fn place(self) -> Option<usize> {
        match self {
            Self::Identity => None,
            Self::Brotli => Some(0),
            Self::Zstandard => Some(1),
            Self::Gzip => Some(2),
        }
    }
}

/// A strong entity tag with its quotes (RFC 9110 section 8.8.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Etag {
    len: u8,
    text: [u8; 46],
}

impl Etag {
    /// From size, time of change and inode: `"mtime-size-inode"`, the inode as a hash, since its number is nobody's
    /// business. Strong as far as the file system's clock tells two changes apart; a file replaced by `rename` has
    /// another inode.
    #[must_use]
    pub fn new(size: u64, modified: SystemTime, inode: u64) -> Self {
        let nanos = match modified.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_nanos(),
            // Before 1970: a number of its own all the same.
            Err(before) => u128::MAX - before.duration().as_nanos(),
        };
        let (nanos, inode) = (fold(nanos), mix(inode) >> 32);
        let mut text = [0; 46];
        let room = text.len();
        let mut left = &mut text[..];
        // 16 + 16 + 8 digits, two hyphens and two quotes fit.
        let _ = write!(left, "\"{nanos:x}-{size:x}-{inode:x}\"");
        let len = room - left.len();
        Self { len: u8::try_from(len).unwrap_or(46), text }
    }

    /// With its quotes.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(self.text()))
    }
}

/// The low half as it is while the high half is zero: until the year 2554.
#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn fold(number: u128) -> u64 {
    number as u64 ^ mix((number >> 64) as u64)
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014), which maps 0 to 0.
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// One form of a file: itself, or one of the precompressed files beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Representation {
    size: u64,
    modified: Date,
    etag: Etag,
}

impl Representation {
    /// From what `stat` says: bytes, time of the last change with its nanoseconds, inode.
    #[must_use]
    pub fn new(size: u64, modified: SystemTime, inode: u64) -> Self {
        Self { size, modified: Date::new(modified), etag: Etag::new(size, modified, inode) }
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The time of the last change, to the second.
    #[must_use]
    pub const fn modified(&self) -> &Date {
        &self.modified
    }

    /// Its entity tag.
    #[must_use]
    pub const fn etag(&self) -> &Etag {
        &self.etag
    }
}

/// A regular file that can be served, and the precompressed forms that lie beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    media: &'static str,
    identity: Representation,
    variants: [Option<Box<Representation>>; 3],
}

impl Facts {
    /// A file called `name` (the last segment of its path, which says its media type: `index.html`, not `docs/`).
    #[must_use]
    pub fn new(name: &str, identity: Representation) -> Self {
        Self { media: media::of_name(name), identity, variants: [None, None, None] }
    }

    /// Adds a precompressed form. The file side offers one only if it is not older than the file.
    #[must_use]
    pub fn with(mut self, coding: Coding, representation: Representation) -> Self {
        if let Some(place) = coding.place() {
            self.variants[place] = Some(Box::new(representation));
        }
        self
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn media(&self) -> &'static str {
        self.media
    }

    /// One of its forms.
    #[must_use]
    pub fn representation(&self, coding: Coding) -> Option<&Representation> {
        match coding.place() {
            None => Some(&self.identity),
            Some(place) => self.variants[place].as_deref(),
        }
    }

    /// The file itself.
    #[must_use]
    pub const fn identity(&self) -> &Representation {
        &self.identity
    }

    /// Whether the answer depends on `Accept-Encoding`.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.variants.iter().any(Option::is_some)
    }
}

/// The pages of a directory without an index file, rendered when it was looked up: small, so they are memory, not files.
#[derive(Clone, Debug)]
pub struct Listing {
    /// For people.
    pub html: Arc<[u8]>,
    /// For programs that ask for `application/json`.
    pub json: Arc<[u8]>,
}

/// What a path is, as HTTP sees it. The file side makes one from its own kind of answer.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'f> {
    /// A file; for a directory its index file.
    File(&'f Facts),
    /// A directory, asked for without the slash at its end.
    Redirect,
    /// A directory without an index file, and listing is allowed.
    Listing(&'f Listing),
    /// Nothing is there, or a file was asked for with a slash at its end, or the name is longer than names can be.
    NotFound,
    /// It is there, but not for us or not for the client: rights, symlinks, a device, a directory without listing.
    Forbidden,
    /// The file side has no room for it at the moment: too many open files, a full queue of lookups.
    Busy,
    /// Reading it failed.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn tags_tell_files_apart() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 1);
        let mut tags = HashSet::new();
        for size in [0, 1, 4096, u64::MAX] {
            for nanos in [0, 1, 999_999_998] {
                for inode in [0, 1, 2, u64::MAX] {
                    let tag = Etag::new(size, time + Duration::from_nanos(nanos), inode);
                    assert!(tag.text().starts_with(b"\"") && tag.text().ends_with(b"\""), "{tag:?}");
                    assert!(tags.insert(tag.text().to_vec()), "{tag:?}");
                }
            }
        }
        let before = Etag::new(u64::MAX, UNIX_EPOCH - Duration::from_nanos(1), u64::MAX);
        assert!(before.text().ends_with(b"\"") && tags.insert(before.text().to_vec()), "{before:?}");
    }

    #[test]
    fn forms_are_found_by_coding() {
        let form = |size| Representation::new(size, UNIX_EPOCH, 1);
        let facts = Facts::new("a.CSS", form(9));
        assert!(!facts.varies());
        let facts = facts.with(Coding::Gzip, form(4)).with(Coding::Brotli, form(3));
        assert!(facts.varies());
        assert_eq!(facts.media(), "text/css; charset=utf-8");
        assert_eq!(facts.representation(Coding::Identity).map(Representation::size), Some(9));
        assert_eq!(facts.representation(Coding::Gzip).map(Representation::size), Some(4));
        assert_eq!(facts.representation(Coding::Zstandard), None);
    }
}
