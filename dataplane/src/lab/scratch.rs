//! A folder among the temporary ones, gone with its value; those of processes that were killed are swept away by the next,
//! which finds them wherever they are by notes in `/run`.

use rustix::process::{Pid, geteuid, test_kill_process};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where it is noted which folders there are. Only root may write there, and only root's notes are believed.
const NOTES: &str = "/run/ringway/folders";

/// A folder of this process alone. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Says where it is, to whom removes it should this process be killed.
    note: Option<PathBuf>,
}

impl Scratch {
    /// Makes `base/KIND-PID`.
    ///
    /// # Errors
    /// With the folder that could not be made.
    pub fn new(base: &Path, kind: &str) -> Result<Self, (PathBuf, io::Error)> {
        sweep(base, kind);
        sweep_noted(Path::new(NOTES));
        let folder = base.join(format!("{kind}-{}", std::process::id()));
        // Fails on whatever somebody else has put there.
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                let note = note(Path::new(NOTES), &folder).inspect_err(|error| {
                    tracing::debug!("{NOTES}: {error}; only the next in this folder finds it")
                });
                Ok(Self { folder, note: note.ok() })
            }
            Err(error) => Err((folder, error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!("{} could not be removed: {error}", self.folder.display());
            return;
        }
        if let Some(note) = self.note.take() {
            forget(&note);
        }
    }
}

/// Notes where a folder is, under its own name.
fn note(notes: &Path, folder: &Path) -> io::Result<PathBuf> {
    let name = folder.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = std::fs::canonicalize(folder)?;
    DirBuilder::new().recursive(true).mode(0o755).create(notes)?;
    let note = notes.join(name);
    std::fs::write(&note, folder.as_os_str().as_bytes())?;
    Ok(note)
}

fn forget(note: &Path) {
    // Errors mean that somebody else has swept, or that others still have notes there.
    let _ = std::fs::remove_file(note);
    for folder in note.ancestors().skip(1).take(2) {
        let _ = std::fs::remove_dir(folder);
    }
}

/// Removes the folders of processes that were killed, wherever they are; returns which.
pub fn sweep_everywhere() -> Vec<String> {
    sweep_noted(Path::new(NOTES))
}

fn sweep_noted(notes: &Path) -> Vec<String> {
    let ours = notes.metadata().is_ok_and(|it| it.uid() == geteuid().as_raw() && it.mode() & 0o022 == 0);
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(notes).into_iter().flatten().flatten().filter(|_| ours) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.rsplit_once('-')?.1.parse().ok());
        if !pid.and_then(Pid::from_raw).is_some_and(is_dead) {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        let folder = PathBuf::from(OsString::from_vec(bytes));
        // What bears the name of the note is what was noted.
        if folder.is_absolute()
            && folder.file_name() == Some(&name)
            && std::fs::remove_dir_all(&folder).is_ok()
        {
            removed.push(folder.display().to_string());
        }
        forget(&entry.path());
    }
    removed
}

fn is_dead(pid: Pid) -> bool {
    test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// Removes the folders of processes that were killed.
fn sweep(base: &Path, kind: &str) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(kind)?.strip_prefix('-')?.parse().ok());
        if pid.and_then(Pid::from_raw).is_some_and(is_dead) {
            // Another user's is not ours to remove, and is refused.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_dead_process_is_swept_and_one_of_a_living_is_not() {
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let dead = child.id();
        child.wait().expect("its end");
        let base = std::env::temp_dir();
        let of = |pid: u32| base.join(format!("ringway-scratch-test-{pid}"));
        let init = of(1);
        std::fs::create_dir(of(dead)).expect("a folder");
        std::fs::create_dir_all(&init).expect("a folder");
        let scratch = Scratch::new(&base, "ringway-scratch-test").expect("a folder");
        assert!(!of(dead).exists() && init.exists());
        assert_eq!(scratch.path(), of(std::process::id()));
        let taken = Scratch::new(&base, "ringway-scratch-test").expect_err("it is there").0;
        assert_eq!(taken, of(std::process::id()));
        drop(scratch);
        assert!(!taken.exists());
        std::fs::remove_dir(init).expect("ours");
    }

    /// Wherever it was: the note says so. What a note says of another folder than its own is not believed.
    #[test]
    fn a_note_finds_the_folder_of_a_dead_process_and_only_that() {
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let dead = child.id();
        child.wait().expect("its end");
        let base = std::env::temp_dir().join(format!("ringway-note-test-{}", std::process::id()));
        let (notes, place, other) =
            (base.join("run/notes"), base.join(format!("x-{dead}")), base.join("other"));
        for folder in [&place, &other] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        note(&notes, &place).expect("a note");
        std::fs::write(notes.join(format!("y-{dead}")), other.as_os_str().as_bytes()).expect("a lie");
        let living = base.join(format!("z-{}", std::process::id()));
        std::fs::create_dir(&living).expect("a folder");
        let kept = note(&notes, &living).expect("a note");
        let removed = sweep_noted(&notes);
        assert_eq!(
            removed,
            [std::fs::canonicalize(&base).expect("there").join(format!("x-{dead}")).display().to_string()]
        );
        assert!(!place.exists() && other.exists() && living.exists() && kept.exists());
        forget(&kept);
        assert!(!base.join("run").exists(), "nothing is left of the notes");
        std::fs::remove_dir_all(base).expect("ours");
    }
}
