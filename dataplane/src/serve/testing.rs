//! What the tests of the file server share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of a test's own, gone with it.
#[derive(Debug)]
pub(in crate::serve) struct Scratch(PathBuf);

impl Scratch {
    /// In the directory for such things: a disk where that is one.
    pub(in crate::serve) fn new() -> Self {
        Self::beneath(&std::env::temp_dir())
    }

    pub(in crate::serve) fn beneath(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ringway-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("creates a directory");
        Self(path)
    }

    pub(in crate::serve) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and the directories on the way to it.
    pub(in crate::serve) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("beneath")).expect("creates directories");
        std::fs::write(&path, bytes).expect("writes");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in the directory for temporary files.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Bytes that differ from extent to extent and from place to place.
pub(in crate::serve) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Tries until it works, not for ever.
pub(in crate::serve) fn soon<T>(what: &str, mut tries: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(done) = tries() {
            return done;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}
