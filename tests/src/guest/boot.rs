//! What PID 1 of a guest does: file systems, modules, the job, the verdict, the end.

use super::machine::{FAILED, PASSED};
use super::{INSIDE, kernel};
use crate::Outcome;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The job leaves this file when it has come to its end: a test that was never found passes too.
pub(super) const DONE: &str = "/run/done";

/// Where the verdict goes: a line of its own, into which the kernel's messages cannot fall.
pub(super) const CONTROL: &str = "/dev/ttyS1";

/// All that PID 1 does. It does not return: the machine ends with it.
pub fn main() -> ! {
    let verdict = match prepare().and_then(|()| work()) {
        Ok(()) => PASSED.to_owned(),
        Err(error) => format!("{FAILED} {}", error.to_string().replace('\n', "; ")),
    };
    println!("{verdict}");
    let told = OpenOptions::new().write(true).open(CONTROL).and_then(|mut line| writeln!(line, "{verdict}"));
    if let Err(error) = told {
        eprintln!("{CONTROL}: {error}");
    }
    loop {
        // Refused only without the right, which PID 1 has.
        let _ = reboot(RebootCommand::PowerOff);
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn prepare() -> Outcome<()> {
    let mounts = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/dev/shm"),
        ("devpts", "/dev/pts"),
        ("bpf", "/sys/fs/bpf"),
        ("tracefs", "/sys/kernel/tracing"),
        ("hugetlbfs", "/dev/hugepages"),
    ];
    for (kind, at) in mounts {
        if at.starts_with("/dev/") {
            std::fs::create_dir_all(at)?;
        }
        mount(kind, at, kind, MountFlags::empty(), None)
            .map_err(|error| format!("mounting {at}: {error}"))?;
    }
    // A job that hangs, and a host that has died, leave no machine behind.
    let limit: u64 = std::fs::read_to_string("/guest/limit")?.trim().parse()?;
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        eprintln!("the guest's own time limit of {limit} s has passed");
        let _ = reboot(RebootCommand::PowerOff);
    });
    super::inside::run("ip", "link set lo up")?;
    for name in std::fs::read_to_string("/guest/modules/first")?.lines() {
        kernel::load(name)?;
    }
    Ok(())
}

/// The same test binary as outside, and only the one test.
fn work() -> Outcome<()> {
    let test = std::fs::read_to_string("/guest/test")?;
    let mut job = Command::new("/bin/job");
    job.args([test.as_str(), "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    job.env_clear()
        .env(INSIDE, "1")
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("RINGWAY_BIN", "/bin/ringway");
    job.env("RUST_BACKTRACE", "1").stdin(File::open("/dev/null")?);
    let status = job.status().map_err(|error| format!("starting the job: {error}"))?;
    match (status.code(), Path::new(DONE).exists()) {
        (Some(0), true) => Ok(()),
        (Some(0), false) => {
            Err(format!("no test {test:?} in the job, or it never came to the guest's work").into())
        }
        (Some(code), _) => Err(format!("the job ended with {code}").into()),
        (None, _) => Err(format!("the job was killed by signal {:?}", status.signal()).into()),
    }
}
