//! The initial file system of a guest, made here: cpio's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).

use crate::Outcome;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An image that grows.
#[derive(Debug)]
pub(super) struct Image {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    inode: u32,
}

impl Image {
    /// The folders that every guest has, and a console for PID 1's first words.
    pub(super) fn new() -> Outcome<Self> {
        let mut image = Self { bytes: Vec::new(), names: BTreeSet::new(), inode: 0 };
        for folder in ["dev", "proc", "sys", "tmp", "run", "root", "etc"] {
            image.folder(&format!("/{folder}"));
        }
        // A character device, 5:1: without it PID 1 starts with no standard output (`console_on_rootfs`, init/main.c).
        image.entry("dev/console", 0o020_600, &[], (5, 1));
        image.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
        Ok(image)
    }

    /// A file, and the folders above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8], mode: u32) {
        if let Some(folder) = Path::new(path).parent() {
            self.folder(&folder.to_string_lossy());
        }
        self.entry(path.trim_start_matches('/'), FILE | mode, content, (0, 0));
    }

    /// A program of this machine, at `path` in the guest, with the libraries that it asks for.
    pub(super) fn program(&mut self, from: &Path, path: &str) -> Outcome<()> {
        self.file(path, &stripped(from)?, 0o755);
        for library in libraries(from)? {
            let name = library.to_string_lossy().into_owned();
            if !self.names.contains(name.trim_start_matches('/')) {
                self.file(&name, &std::fs::read(&library)?, 0o755);
            }
        }
        Ok(())
    }

    /// The whole of it, closed.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn folder(&mut self, path: &str) {
        let mut above = PathBuf::new();
        for part in Path::new(path.trim_start_matches('/')).components() {
            above.push(part);
            self.entry(&above.to_string_lossy(), FOLDER, &[], (0, 0));
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], (major, minor): (u32, u32)) {
        if name.is_empty() || !self.names.insert(name.to_owned()) {
            return;
        }
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("a file below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A program of this machine by name, where root's commands are too.
pub(super) fn find(program: &Path) -> Outcome<PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program));
    places
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no `{}` on this machine", program.display()).into())
}

/// A program without its debugging information, which would be most of the image; as it is where `strip` is missing.
fn stripped(program: &Path) -> Outcome<Vec<u8>> {
    let out = std::env::temp_dir().join(format!(
        "ringway-strip-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let done = Command::new("strip").arg("--strip-debug").arg("-o").arg(&out).arg(program).output();
    let bytes = std::fs::read(if done.is_ok_and(|done| done.status.success()) { &out } else { program });
    let _ = std::fs::remove_file(&out);
    Ok(bytes?)
}

/// The libraries of a program and its interpreter, as its own loader finds them.
fn libraries(program: &Path) -> Outcome<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(missing) = printed.lines().find(|line| line.contains("not found")) {
        return Err(format!("{} lacks a library: {}", program.display(), missing.trim()).into());
    }
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)" or "/lib64/ld-linux-x86-64.so.2 (0x..)".
    let words = printed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_cpio_writes_it() {
        let mut image = Image { bytes: Vec::new(), names: BTreeSet::new(), inode: 0 };
        image.file("/ab/c", b"hello", 0o644);
        let text = String::from_utf8(image.finish()).expect("all of it is text here");
        let folder = "0707010000000100041ed0000000000000000000000020000000000000000\
                      00000000000000000000000000000000000000030000000";
        assert!(text.starts_with(&folder[..14]), "{text}");
        assert_eq!(text.len() % 4, 0);
        // 110 bytes of header, the name with its end, padded to four (buffer-format.rst).
        assert_eq!(&text[110..113], "ab\0");
        assert_eq!(text.find("070701").unwrap_or(1), 0);
        assert!(text.contains("hello\0\0\0"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn the_loader_of_a_program_is_among_its_libraries() {
        // Not /proc/self/exe: for ldd that is ldd.
        let program = std::env::current_exe().expect("this test");
        let libraries = libraries(&program).expect("ldd");
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("ld-linux")), "{libraries:?}");
    }
}
