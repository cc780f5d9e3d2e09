//! What guests need of Debian: QEMU and kernels, downloaded once and unpacked. Nothing is installed.
//!
//! `apt-get` runs with a configuration of its own: other archives beside the machine's, its lists and packages below
//! `target/guest`. It only answers and downloads; `dpkg-deb` unpacks.

use super::Kernel;
use crate::{Outcome, needs};
use rustix::fs::{FlockOperation, flock};
use std::cmp::Ordering;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Debian's archives. QEMU 7.2 of bookworm has no igb, 10.0 of its backports has; trixie's backports have kernels 7.x.
const SOURCES: [&str; 4] = [
    "http://deb.debian.org/debian bookworm main",
    "http://deb.debian.org/debian bookworm-backports main",
    "http://deb.debian.org/debian-security bookworm-security main",
    "http://deb.debian.org/debian trixie-backports main",
];

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What is there now.
#[derive(Debug)]
pub(super) struct Kit {
    /// The root of the unpacked QEMU.
    pub(super) qemu: PathBuf,
    /// The root of the unpacked kernel.
    pub(super) kernel: PathBuf,
}

impl Kit {
    /// Finds it in the cache, or fills the cache. One process does, the others wait.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) fn ready(kernel: Kernel) -> Outcome<Self> {
        let missing = needs::missing(&[], &["xz", "zstd", "ldd"]);
        if !missing.is_empty() {
            return Err(missing.join(", ").into());
        }
        let cache = cache()?;
        std::fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let kit = Self { qemu: cache.join("qemu"), kernel: cache.join(kernel.folder()) };
        if !kit.qemu.exists() {
            let apt = Apt::ready(&cache)?;
            unpack(&apt.qemu()?, &kit.qemu)?;
        }
        if !kit.kernel.exists() {
            let apt = Apt::ready(&cache)?;
            unpack(&apt.kernel(kernel)?, &kit.kernel)?;
        }
        Ok(kit)
    }
}

impl Kernel {
    const fn folder(self) -> &'static str {
        match self {
            Self::V6_12 => "linux-6.12",
            Self::V7 => "linux-7",
        }
    }

    /// The package with the image, by how its name begins, first choice first; and the one with the modules, if they are
    /// apart.
    const fn packages(self) -> (&'static [&'static str], Option<&'static str>) {
        match self {
            Self::V6_12 => (&["linux-image-6.12."], None),
            Self::V7 => (&["linux-binary-7.2.", "linux-binary-7."], Some("linux-modules-")),
        }
    }
}

/// `target/guest`, above the running test.
fn cache() -> Outcome<PathBuf> {
    if let Some(folder) = std::env::var_os("RINGWAY_GUEST_KIT") {
        return Ok(folder.into());
    }
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).ok_or("the test is not below a target folder")?;
    Ok(target.join("guest"))
}

/// apt with a configuration of our own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn ready(cache: &Path) -> Outcome<Self> {
        let missing = needs::missing(&[], &["apt-get", "apt-cache", "dpkg-deb"]);
        if !missing.is_empty() {
            return Err(format!("{}, to download QEMU and a kernel", missing.join(", ")).into());
        }
        if !Path::new(KEYS).exists() {
            return Err(
                format!("{KEYS}, to trust what is downloaded (package debian-archive-keyring)").into()
            );
        }
        let folder = cache.join("apt");
        std::fs::create_dir_all(folder.join("lists/partial"))?;
        std::fs::create_dir_all(folder.join("archives/partial"))?;
        let sources = SOURCES.map(|source| format!("deb [arch=amd64 signed-by={KEYS}] {source}\n")).concat();
        std::fs::write(folder.join("sources.list"), sources)?;
        let at = folder.display();
        let settings = format!(
            "Dir::State::Lists \"{at}/lists\";\nDir::Cache \"{at}\";\nDir::Etc::SourceList \"{at}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\nDebug::NoLocking \"1\";\n"
        );
        std::fs::write(folder.join("apt.conf"), settings)?;
        let apt = Self { folder };
        eprintln!("guest: reading Debian's lists of packages, once");
        apt.told("apt-get", &["update", "-q"])?;
        Ok(apt)
    }

    /// QEMU and those of its libraries that this machine lacks.
    fn qemu(&self) -> Outcome<Vec<PathBuf>> {
        let plan = self.told(
            "apt-get",
            &[
                "install",
                "-s",
                "-q",
                "--no-install-recommends",
                "-t",
                "bookworm-backports",
                "qemu-system-x86",
            ],
        )?;
        // "Inst qemu-system-x86 [old] (1:10.0.2+ds-2 Debian Backports:.. [amd64])"
        let wanted = plan.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        });
        let wanted: Vec<String> = wanted.collect();
        if !wanted.iter().any(|package| package.starts_with("qemu-system-x86=")) {
            return Err("qemu-system-x86 installed or installable: apt offers none".into());
        }
        self.download(&wanted)
    }

    /// The newest kernel of a line: its packages are all of one version.
    fn kernel(&self, kernel: Kernel) -> Outcome<Vec<PathBuf>> {
        let (image, rest) = kernel.packages();
        let found = image.iter().map(|prefix| self.newest(prefix)).find_map(Result::transpose);
        let image = found.ok_or_else(|| format!("a package {}*: apt offers none", image[0]))??;
        let mut wanted = vec![image.clone()];
        wanted.extend(rest.map(|kind| format!("{kind}{}-amd64", version_of(&image))));
        self.download(&wanted)
    }

    fn newest(&self, prefix: &str) -> Outcome<Option<String>> {
        let names = self.told("apt-cache", &["pkgnames", prefix])?;
        let odd = ["-cloud", "-rt", "-unsigned"];
        let plain = |name: &&str| name.ends_with("-amd64") && !odd.iter().any(|kind| name.contains(kind));
        let newest = names.lines().filter(plain).max_by(|a, b| compare(version_of(a), version_of(b)));
        Ok(newest.map(str::to_owned))
    }

    fn download(&self, packages: &[String]) -> Outcome<Vec<PathBuf>> {
        eprintln!("guest: downloading {}", packages.join(" "));
        let into = self.folder.join("archives");
        for old in std::fs::read_dir(&into)?.flatten() {
            let _ = std::fs::remove_file(old.path());
        }
        // Its progress is for whoever waits: 30 to 170 MB.
        let status = self.command("apt-get").arg("download").args(packages).current_dir(&into).status()?;
        if !status.success() {
            return Err(
                format!("packages of Debian's: `apt-get download {}` failed", packages.join(" ")).into()
            );
        }
        let files = std::fs::read_dir(&into)?.flatten().map(|entry| entry.path());
        Ok(files.filter(|path| path.extension().is_some_and(|ext| ext == "deb")).collect())
    }

    fn told(&self, program: &str, args: &[&str]) -> Outcome<String> {
        let output = self.command(program).args(args).output()?;
        succeeded(&format!("{program} {}", args.join(" ")), output)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

/// Unpacks packages into a folder, which appears only when it is whole.
fn unpack(packages: &[PathBuf], into: &Path) -> Outcome<()> {
    let unfinished = into.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    for package in packages {
        let output = Command::new("dpkg-deb").arg("-x").arg(package).arg(&unfinished).output()?;
        succeeded(&format!("dpkg-deb -x {}", package.display()), output)?;
        std::fs::remove_file(package)?;
    }
    Ok(std::fs::rename(&unfinished, into)?)
}

pub(super) fn succeeded(what: &str, output: Output) -> Outcome<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("what `{what}` gives, which failed: {printed}").into())
}

/// `7.2.12+deb13` of `linux-binary-7.2.12+deb13-amd64`.
fn version_of(package: &str) -> &str {
    package.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches("-amd64")
}

/// Runs of digits by their value, the rest byte by byte: enough for one line of kernels.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_is_newer_than_the_ninth() {
        assert_eq!(version_of("linux-binary-7.2.12+deb13-amd64"), "7.2.12+deb13");
        assert_eq!(compare("7.2.12+deb13", "7.2.9+deb13"), Ordering::Greater);
        assert_eq!(compare("6.12.90+deb12", "6.12.90+deb12.1"), Ordering::Less);
    }
}
