//! Compiles the BPF programs and writes the Rust skeletons that carry them.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, io};

use libbpf_cargo::SkeletonBuilder;

/// Source and skeleton.
const PROGRAMS: [(&str, &str); 2] =
    [("bpf/port.bpf.c", "port.skel.rs"), ("bpf/copies.bpf.c", "copies.skel.rs")];

fn main() -> ExitCode {
    for (source, _) in PROGRAMS {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("drivers/bpf could not be compiled to BPF.\n{why}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let headers = system_headers(&clang).map_err(|error| {
        format!(
            "`{}` did not run: {error}. clang is needed to compile for the BPF target: on Debian and \
             Ubuntu it is in the package `clang` (`apt-get install clang`). To use another name or path, set CLANG.",
            clang.display()
        )
    })?;
    if !headers.iter().any(|directory| directory.join("linux/bpf.h").exists()) {
        return Err(format!(
            "linux/bpf.h is in none of the directories where `{}` looks for headers ({headers:?}). On Debian and Ubuntu \
             it is in the package `linux-libc-dev` (`apt-get install linux-libc-dev`).",
            clang.display()
        ));
    }
    let mut arguments: Vec<OsString> = ["-Wall", "-Wextra", "-Werror"].map(OsString::from).into();
    for directory in headers {
        arguments.extend(["-idirafter".into(), directory.into_os_string()]);
    }
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts; run this through cargo")?;
    for (source, skeleton) in PROGRAMS {
        SkeletonBuilder::new()
            .source(source)
            .clang(&clang)
            .clang_args(arguments.clone())
            .build_and_generate(Path::new(&out).join(skeleton))
            .map_err(|error| format!("{source}: {error:#}"))?;
    }
    Ok(())
}

/// The directories in which the compiler looks for system headers on this machine.
///
/// For the BPF target clang leaves out the directory of the machine's own architecture, where Debian and
/// Ubuntu keep `asm/types.h` (`/usr/include/x86_64-linux-gnu`, `/usr/include/aarch64-linux-gnu`, ..). It
/// knows that directory, so it is asked, as the kernel's own BPF Makefiles do (`get_sys_includes` in
/// tools/testing/selftests/bpf/Makefile).
fn system_headers(clang: &OsString) -> io::Result<Vec<std::path::PathBuf>> {
    let said = Command::new(clang).args(["-E", "-v", "-x", "c", "-"]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&said.stderr);
    Ok(said
        .lines()
        .skip_while(|line| !line.starts_with("#include <...>"))
        .skip(1)
        .take_while(|line| !line.starts_with("End of search list"))
        .map(|line| line.trim().into())
        .collect())
}
