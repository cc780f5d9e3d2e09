//! Where libdpdk is missing, or older than what is called of it, the build says what is missing and how it is had: the build script
//! itself, as cargo left it beside this test.
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The script that was built with the feature: it alone has the name of the library in it.
fn script() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let folder = test.ancestors().nth(2).expect("target/debug").join("build");
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let scripts = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("ringway-dpdk-sys-"))
        .map(|entry| entry.path().join("build-script-build"))
        .filter(|path| path.is_file());
    let modified = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    let with = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(11).any(|window| window == b"libdpdk-dev")
    };
    scripts.filter(with).max_by_key(modified).expect("a build script with the feature `link`")
}

/// Runs it where pkg-config looks in this folder alone.
fn build(folder: &Path) -> Output {
    let mut command = Command::new(script());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.env("PKG_CONFIG_LIBDIR", folder).env_remove("PKG_CONFIG_PATH");
    command.env("TARGET", &target).env("HOST", &target).env("OUT_DIR", std::env::temp_dir());
    command.output().expect("a program")
}

/// It fails with these words.
fn fails(output: &Output, words: &[&str]) {
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let cure = ["`libdpdk-dev`", "`make dpdk`", "apt-get install", "build without `--features dpdk`"];
    for word in words.iter().chain(&cure) {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

#[test]
fn a_missing_library_is_named() {
    fails(&build(Path::new("/nonexistent")), &["needs libdpdk 22.11 or newer", "does not find it"]);
}

#[test]
fn an_old_library_is_named() {
    let folder = std::env::temp_dir().join(format!("ringway-old-dpdk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let description = "Name: DPDK\nDescription: an old one\nVersion: 21.11.0\n";
    std::fs::write(folder.join("libdpdk.pc"), description).expect("a file");
    let output = build(&folder);
    std::fs::remove_dir_all(&folder).expect("ours");
    fails(&output, &["needs libdpdk 22.11 or newer", "only finds version 21.11.0"]);
}
