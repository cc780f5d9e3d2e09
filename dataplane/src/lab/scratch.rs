//! A folder among the temporary ones, gone with its value; those of processes that were killed are swept away by the next.

use rustix::process::{Pid, test_kill_process};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder of this process alone. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `base/KIND-PID`.
    ///
    /// # Errors
    /// With the folder that could not be made.
    pub fn new(base: &Path, kind: &str) -> Result<Self, (PathBuf, io::Error)> {
        sweep(base, kind);
        let folder = base.join(format!("{kind}-{}", std::process::id()));
        // Fails on whatever somebody else has put there.
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(Self(folder)),
            Err(error) => Err((folder, error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// Removes the folders of processes that were killed.
fn sweep(base: &Path, kind: &str) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(kind)?.strip_prefix('-')?.parse().ok());
        let dead = |pid: Pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        if pid.and_then(Pid::from_raw).is_some_and(dead) {
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
}
