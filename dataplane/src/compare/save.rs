//! The page on the disk: whole, or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that will have the page. Made before anything is measured, so that a folder that may not be written to is known then; dropped
/// unsaved, it leaves nothing.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    file: File,
    /// Where it is until it is whole; none for a device or a pipe, which is written to as it is.
    unfinished: Option<PathBuf>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[error("the report {}: {step}: {source}; {cure}", path.display())]
pub struct SaveError {
    path: PathBuf,
    step: &'static str,
    cure: &'static str,
    source: io::Error,
}

impl PageFile {
    /// Makes a file beside `path`.
    ///
    /// # Errors
    /// [`SaveError`] when that cannot be.
    pub fn create(path: &Path) -> Result<Self, SaveError> {
        let step = "creating it";
        let error = |source: io::Error, cure| SaveError { path: path.to_owned(), step, cure, source };
        let cure = "name a file in a folder that is there and may be written to";
        let found = std::fs::metadata(path).ok();
        if found.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(error(io::ErrorKind::IsADirectory.into(), "name a file in it"));
        }
        if found.is_some_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(|source| error(source, cure))?;
            return Ok(Self { path: path.to_owned(), file, unfinished: None });
        }
        let Some(name) = path.file_name() else {
            return Err(error(io::ErrorKind::InvalidInput.into(), "name a file"));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let unfinished = path.with_file_name(hidden);
        let file = File::create(&unfinished).map_err(|source| error(source, cure))?;
        Ok(Self { path: path.to_owned(), file, unfinished: Some(unfinished) })
    }

    /// Writes all of it, and only then gives it its name.
    ///
    /// # Errors
    /// [`SaveError`]: a full disk. What was there under that name before is then still there.
    pub fn save(mut self, page: &str) -> Result<(), SaveError> {
        let written = self.file.write_all(page.as_bytes());
        if let Err(source) = written.and_then(|()| self.flush()) {
            return Err(self.error("writing it", source));
        }
        if let Some(unfinished) = &self.unfinished
            && let Err(source) = std::fs::rename(unfinished, &self.path)
        {
            return Err(self.error("giving it its name", source));
        }
        self.unfinished = None;
        Ok(())
    }

    /// A disk that is full may say so only now; a pipe or a device has nothing to say.
    fn flush(&self) -> io::Result<()> {
        if self.unfinished.is_some() { self.file.sync_all() } else { Ok(()) }
    }

    fn error(&self, step: &'static str, source: io::Error) -> SaveError {
        let cure = "nothing of it is kept; make room, or name another place";
        SaveError { path: self.path.clone(), step, cure, source }
    }
}

impl Drop for PageFile {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // It may be gone with its folder.
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scratch::Scratch;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_page_is_there_whole_or_not_at_all() {
        let scratch = Scratch::new(&std::env::temp_dir(), "ringway-save-test").expect("a folder");
        let path = scratch.path().join("r.html");
        std::fs::write(&path, "before").expect("room");
        drop(PageFile::create(&path).expect("a file"));
        assert_eq!(std::fs::read_to_string(&path).expect("the old page"), "before");
        PageFile::create(&path).expect("a file").save("after").expect("room");
        assert_eq!(std::fs::read_to_string(&path).expect("the new page"), "after");
        assert_eq!(names(scratch.path()), ["r.html"], "nothing is left beside it");
    }

    #[test]
    fn places_that_take_no_page_are_named_with_a_cure() {
        let words = |path: &str| PageFile::create(Path::new(path)).expect_err("no place").to_string();
        assert!(words("/no-such-folder/r.html").contains("the report /no-such-folder/r.html: creating it"));
        assert!(words("/tmp").contains("name a file in it"));
        let full = PageFile::create(Path::new("/dev/full")).expect("a device").save("page");
        let full = full.expect_err("it is full").to_string();
        assert!(full.contains("No space left") && full.contains("nothing of it is kept"), "{full}");
        assert!(Path::new("/dev/full").exists());
    }
}
