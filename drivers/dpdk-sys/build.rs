//! Finds libdpdk by pkg-config and compiles the shim against it; without the feature `link` there is nothing to do.

use std::process::ExitCode;

#[cfg(not(feature = "link"))]
fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    ExitCode::SUCCESS
}

#[cfg(feature = "link")]
fn main() -> ExitCode {
    match link::build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "link")]
mod link {
    use std::path::Path;
    use std::process::Command;

    /// The first with everything that the shim calls; Debian 12 has it.
    const OLDEST: &str = "22.11";

    const SHIM: [&str; 3] = ["shim/device.c", "shim/herd.c", "shim/queue.c"];

    pub(super) fn build() -> Result<(), String> {
        println!("cargo:rerun-if-changed=shim");
        let found = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk").map_err(|error| {
            let finds = match version() {
                Some(version) => format!("only finds version {version}"),
                None => "does not find it".to_owned(),
            };
            format!(
                "The feature `dpdk` needs libdpdk {OLDEST} or newer, and pkg-config {finds}.\n\
                 On Debian and Ubuntu it is in the package `libdpdk-dev`: `make dpdk` installs it, or \
                 `apt-get install libdpdk-dev pkg-config`. Elsewhere set PKG_CONFIG_PATH.\n\
                 Without DPDK: build without `--features dpdk`.\n\n{error}"
            )
        })?;
        let mut shim = cc::Build::new();
        shim.includes(&found.include_paths).flag_if_supported("-Wno-deprecated-declarations");
        // The processor that the library was built for, and the header of its configuration: pkg-config's other flags.
        let mut flags = other_flags().into_iter();
        while let Some(flag) = flags.next() {
            if flag == "-include" {
                shim.flag(&flag).flag(flags.next().unwrap_or_default());
            } else {
                shim.flag(&flag);
            }
        }
        // Bursts are inlined into the shim: unoptimised, they would cost more than what they measure.
        shim.opt_level(3).debug(true).force_frame_pointer(false).files(SHIM.iter().map(Path::new));
        shim.try_compile("ringway_dpdk").map_err(|error| format!("compiling drivers/dpdk-sys/shim: {error}"))
    }

    fn other_flags() -> Vec<String> {
        ask("--cflags-only-other").split_whitespace().map(str::to_owned).collect()
    }

    /// Of the library that is there, whichever that is.
    fn version() -> Option<String> {
        Some(ask("--modversion").trim().to_owned()).filter(|version| !version.is_empty())
    }

    fn ask(question: &str) -> String {
        let tool = std::env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
        let printed = Command::new(tool).args([question, "libdpdk"]).output();
        printed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}
