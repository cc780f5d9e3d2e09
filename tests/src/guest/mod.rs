//! The guest laboratory: a kernel of our choice, with real drivers over emulated NICs, in QEMU.
//!
//! ```text
//!   guest (QEMU, TCG)                          hub of QEMU's
//!   rwt-N-mid                                                           rwt-N-left
//!   [ rw-left   0000:01:00.0, the NIC under test ]===[ 0000:02:00.0   left0 ]
//!   [ rw-right  0000:03:00.0                     ]===[ 0000:04:00.0  right0 ]  rwt-N-right
//! ```
//!
//! A test describes its guest and gives it a job. The same test binary is PID 1's only program inside: there the same test
//! runs again, and [`Guest::run`] does the job instead of starting a guest.
//!
//! ```no_run
//! use lab::guest::{Guest, Kernel, Nic};
//!
//! #[test]
//! #[ignore = "tier guest"]
//! fn a_nic_is_there() {
//!     Guest::new(Kernel::V6_12).cable(Nic::Igb).iommu(true).run(|inside| {
//!         println!("{} is at {}", inside.near(0)?, inside.near_pci(0));
//!         Ok(())
//!     });
//! }
//! ```
//!
//! | file | |
//! |---|---|
//! | `kit.rs` | QEMU and kernels: downloaded once, unpacked below `target/guest` |
//! | `kernel.rs` | a kernel's image and modules, decompressed |
//! | `image.rs` | the initial file system: programs with their libraries, modules, in cpio's form |
//! | `machine.rs` | QEMU as a process: command line, console, verdict, time limit |
//! | `inside.rs` | what a job finds in the guest |
//! | `boot.rs` | what PID 1 does, `src/bin/guest_init.rs` |

pub mod boot;
mod image;
mod inside;
mod kernel;
mod kit;
mod machine;

pub use inside::Inside;

use crate::{Outcome, Ringway, needs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The environment variable by which a test knows that it runs in a guest.
pub const INSIDE: &str = "RINGWAY_GUEST";

/// Which kernel: Debian's, the newest of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The long-term one: no zero-copy in the three drivers here.
    V6_12,
    /// A new one: AF_XDP in zero-copy mode in virtio_net and igb.
    V7,
}

/// A NIC that QEMU emulates, by its kernel driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// `virtio_net`, modern only.
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82576: several queues.
    Igb,
}

impl Nic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Virtio, Self::E1000e, Self::Igb];

    /// The driver that has the PCI function while the kernel drives it. Virtio's NICs are on a bus of their own behind it.
    #[must_use]
    pub const fn pci_driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-pci",
            Self::E1000e | Self::Igb => self.driver(),
        }
    }

    /// The kernel's driver for it.
    #[must_use]
    pub const fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio_net",
            Self::E1000e => "e1000e",
            Self::Igb => "igb",
        }
    }
}

/// A guest to be: what it has, and what it should do.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: Kernel,
    cables: Vec<(Nic, Nic)>,
    iommu: bool,
    packed: bool,
    twins: bool,
    tap_queues: u32,
    drivers: bool,
    memory: u32,
    arguments: String,
    modules: Vec<String>,
    programs: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
    limit: Duration,
}

impl Guest {
    /// Two processors, no NIC, no IOMMU.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        let programs = ["sh", "ip", "ethtool", "ping", "sysctl"].map(PathBuf::from).to_vec();
        Self {
            kernel,
            cables: Vec::new(),
            iommu: false,
            packed: false,
            twins: false,
            tap_queues: 0,
            drivers: true,
            memory: 1536,
            arguments: String::new(),
            modules: Vec::new(),
            programs,
            plugins: Vec::new(),
            limit: Duration::from_secs(90),
        }
    }

    /// One more cable: the NIC under test at its near end, and a virtio NIC with the kernel's driver at the far one.
    #[must_use]
    pub fn cable(self, near: Nic) -> Self {
        self.cable_between(near, Nic::Virtio)
    }

    /// One more cable between two NICs.
    #[must_use]
    pub fn cable_between(mut self, near: Nic, far: Nic) -> Self {
        self.cables.push((near, far));
        self
    }

    /// Whether there is an IOMMU (Intel's), and virtio NICs obey it.
    #[must_use]
    pub const fn iommu(mut self, iommu: bool) -> Self {
        self.iommu = iommu;
        self
    }

    /// Whether virtio NICs under test offer packed rings beside split ones.
    #[must_use]
    pub const fn packed(mut self, packed: bool) -> Self {
        self.packed = packed;
        self
    }

    /// Whether each NIC under test has a second function of its kind beside it, without a cable: both are in one IOMMU group, unless
    /// the kernel knows better of this kind (it does of igb).
    #[must_use]
    pub const fn twins(mut self, twins: bool) -> Self {
        self.twins = twins;
        self
    }

    /// Cables of this machine's, two taps and a bridge between, in a namespace that goes with QEMU: they carry large segments
    /// and undone checksums, as QEMU's own hubs do not. The NICs under test have so many queue pairs (virtio alone).
    /// Whoever asks for it must be root.
    #[must_use]
    pub const fn taps(mut self, queues: u32) -> Self {
        self.tap_queues = queues;
        self
    }

    /// Whether the kernel's drivers take the near NICs before the job begins. The far ones always have theirs... unless
    /// both are of the same kind: a module drives all NICs of its kind, see [`Inside::release`].
    #[must_use]
    pub const fn drivers(mut self, drivers: bool) -> Self {
        self.drivers = drivers;
        self
    }

    /// Memory in MiB; 1536 without this.
    #[must_use]
    pub const fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// More words on the kernel's command line, such as `hugepages=64`.
    #[must_use]
    pub fn arguments(mut self, words: &str) -> Self {
        self.arguments.push_str(words);
        self.arguments.push(' ');
        self
    }

    /// A module that the job may load with [`Inside::load`], such as `vfio-pci`. What it depends on comes along.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// A program of this machine that the job runs, by name or path; its libraries come along.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.programs.push(program.into());
        self
    }

    /// A library of this machine that a program looks for by itself, at the same place in the guest; its libraries come along.
    #[must_use]
    pub fn plugin(mut self, library: impl Into<PathBuf>) -> Self {
        self.plugins.push(library.into());
        self
    }

    /// How long all may take before the guest is killed; 90 s without this.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots the guest, does the job inside, and returns when it has ended well. In the guest the
    /// calling test is run again, and comes to this call: it must be made on the test's own thread.
    ///
    /// Where QEMU or the kernel cannot be had, the test is skipped and says so.
    ///
    /// # Panics
    /// When the job fails, by an error or a panic, the guest dies, or the limit passes. What the guest printed is shown.
    pub fn run(self, job: impl FnOnce(&mut Inside) -> Outcome<()>) {
        if std::env::var_os(INSIDE).is_some() {
            let mut inside = Inside::new(&self).expect("a guest of ours");
            job(&mut inside).expect("the job");
            return inside.done();
        }
        // The harness names a test's thread after it.
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main").expect("a thread of the test harness's");
        let kit = match kit::Kit::ready(self.kernel) {
            Ok(kit) => kit,
            Err(why) => return needs::skip(test, &[why.to_string()]),
        };
        if let Err(why) = self.boot(&kit, test) {
            panic!("guest of {test}: {why}");
        }
    }

    fn boot(&self, kit: &kit::Kit, test: &str) -> Outcome<()> {
        let job = std::env::current_exe()?;
        let ringway = Ringway::program()?;
        let mut image = image::Image::new()?;
        image.program(&beside(&job, "guest_init")?, "/init")?;
        image.program(&job, "/bin/job")?;
        image.program(&ringway, "/bin/ringway")?;
        for program in &self.programs {
            let name = program.file_name().ok_or("a program without a name")?.to_string_lossy().into_owned();
            image.program(&image::find(program)?, &format!("/bin/{name}"))?;
        }
        for plugin in &self.plugins {
            image.program(plugin, &plugin.to_string_lossy())?;
        }
        let first = self.first_modules();
        let mut modules: Vec<&str> = first.clone();
        modules.extend(self.cables.iter().flat_map(|(near, far)| [near.driver(), far.driver()]));
        modules.extend(self.modules.iter().map(String::as_str));
        kernel::put_modules(&mut image, kit, &modules)?;
        image.file("/guest/modules/first", first.join("\n").as_bytes(), 0o644);
        image.file("/guest/test", test.as_bytes(), 0o644);
        image.file("/guest/limit", self.limit.as_secs().to_string().as_bytes(), 0o644);
        machine::run(self, kit, &image.finish(), ticks(&job)?)
    }

    /// What PID 1 loads before the job.
    fn first_modules(&self) -> Vec<&'static str> {
        let mut first = vec!["veth"];
        if self.cables.iter().any(|(near, far)| [near, far].contains(&&Nic::Virtio)) {
            first.push("virtio_pci");
        }
        for (near, far) in &self.cables {
            first.extend(self.drivers.then(|| near.driver()));
            first.push(far.driver());
        }
        first.dedup();
        first
    }
}

/// How fast the time stamp counter of this machine counts, in kHz; 0 where it has none.
fn ticks(test: &Path) -> Outcome<u32> {
    static MEASURED: Mutex<Option<u32>> = Mutex::new(None);
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ticks) = *measured {
        return Ok(ticks);
    }
    let output = Command::new(beside(test, "ticks")?).output()?;
    let ticks = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok(*measured.insert(ticks))
}

/// A program that cargo has built beside the running test.
fn beside(test: &Path, name: &str) -> Outcome<PathBuf> {
    let found = test.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!("no `{name}` above {}: `cargo build -p ringway-lab` first", test.display()).into()
    })
}
