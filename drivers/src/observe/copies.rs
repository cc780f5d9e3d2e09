//! Bytes that the CPU copies inside the kernel for a process: BPF programs at the kernel's copy routines (`bpf/copies.bpf.c`).

use super::{ObserveError, perf};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ProgramMut, ProgramType};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};

#[expect(
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    unreachable_pub,
    reason = "written by libbpf-cargo: the skeleton of bpf/copies.bpf.c"
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/copies.skel.rs"));
}

use skeleton::CopiesSkelBuilder;

/// The kernel's routines, in the order of `enum hook` in the C source.
const HOOKS: [&str; 8] = [
    "_copy_to_iter",
    "_copy_from_iter",
    "_copy_from_iter_nocache",
    "csum_and_copy_from_iter_full",
    "skb_copy_ubufs",
    "skb_store_bits",
    "skb_copy_bits",
    "skb_copy_and_csum_bits",
];

/// Those that a kernel may lack without copying elsewhere: special cases of the others, which came and go with those who call them.
const OPTIONAL: [&str; 2] = ["_copy_from_iter_nocache", "csum_and_copy_from_iter_full"];

/// Two network namespaces that nobody else uses, by their numbers (inodes of `/proc/PID/ns/net`): packets are sent by whatever CPU
/// an acknowledgement comes to, in the name of the process that it disturbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Where those whose copies are counted send.
    pub server: u32,
    /// Where their packets arrive.
    pub client: u32,
}

/// What one routine copied for the processes that are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySum {
    /// The kernel's name of the routine.
    pub routine: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The programs at work. Dropped, they are gone.
pub struct CopyLedger {
    // Before the map that they write.
    programs: Vec<(Hook, Attached)>,
    absent: Vec<&'static str>,
    sums: MapHandle,
}

/// A routine, by its place in [`HOOKS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hook(usize);

impl Hook {
    fn named(routine: &str) -> Option<Self> {
        HOOKS.iter().position(|hook| *hook == routine).map(Self)
    }

    const fn routine(self) -> &'static str {
        HOOKS[self.0]
    }
}

/// By what a program hangs on its routine, the first choice first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Means {
    Fentry,
    Breakpoint,
}

impl Means {
    const BOTH: [Self; 2] = [Self::Fentry, Self::Breakpoint];

    const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Breakpoint => "breakpoint",
        }
    }
}

struct Attached {
    means: Means,
    program: OwnedFd,
    /// One, or one a CPU.
    _links: Vec<Link>,
}

impl fmt::Debug for CopyLedger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("CopyLedger").field(&self.how()).finish()
    }
}

impl CopyLedger {
    /// Counts for these processes from now on; what interrupts copy on `cpu` while it has nothing else to run; and, whoever runs,
    /// packets in the `networks`, if there are any of their own.
    ///
    /// At every one of the routines that the kernel has, or not at all: a ledger that misses one would say too little.
    ///
    /// # Errors
    /// [`ObserveError`]: rights, a policy that forbids BPF programs which trace, or a kernel without a description of its types.
    pub fn attach(processes: &[u32], cpu: u32, networks: Option<Networks>) -> Result<Self, ObserveError> {
        crate::xdp::log_through_tracing();
        let kernel =
            Btf::from_vmlinux().map_err(|error| refused("reading the kernel's types (BTF)", &error))?;
        let present = HOOKS.map(|routine| kernel.type_by_name::<Func<'_>>(routine).is_some());
        let absent: Vec<&str> =
            (0..).zip(present).filter(|(_, there)| !there).map(|(at, _)| HOOKS[at]).collect();
        // Since the first kernels with BTF; one that has not got them copies in places that we do not know.
        if let Some(routine) = absent.iter().find(|routine| !OPTIONAL.contains(routine)) {
            let error = io::Error::new(io::ErrorKind::NotFound, format!("this kernel has no `{routine}`"));
            return Err(ObserveError::new(WHAT, "looking for its copy routines", error, ""));
        }
        let mut storage = MaybeUninit::uninit();
        let open = CopiesSkelBuilder::default().open(&mut storage);
        let mut open = open.map_err(|error| refused("opening the programs", &error))?;
        for mut program in open.open_object_mut().progs_mut() {
            let place = place(program.section());
            program.set_autoload(place.is_some_and(|(hook, _)| present[hook.0]));
            if place.is_some_and(|(_, means)| means == Means::Breakpoint) {
                program.set_prog_type(ProgramType::PerfEvent);
            }
        }
        let constants = open.maps.rodata_data.as_deref_mut().expect("the object has read-only data");
        constants.idle_cpu = cpu;
        let networks = networks.unwrap_or_default();
        (constants.network, constants.far_network) = (networks.server, networks.client);
        let loaded = open.load().map_err(|error| refused("loading the programs", &error))?;
        for process in processes {
            let made = loaded.maps.watched.update(&process.to_ne_bytes(), &[1], MapFlags::ANY);
            made.map_err(|error| refused("naming the process", &error))?;
        }
        let sums =
            MapHandle::try_from(&loaded.maps.sums).map_err(|error| refused("opening the sums", &error))?;
        let there = (0..HOOKS.len()).filter(|at| present[*at]).map(Hook);
        let programs =
            there.map(|hook| Ok((hook, attached(loaded.object(), hook)?))).collect::<Result<_, _>>()?;
        Ok(Self { programs, absent, sums })
    }

    /// By what the programs hang on the routines, in words, and which routines this kernel has not got.
    #[must_use]
    pub fn how(&self) -> String {
        let mut parts = Vec::new();
        for means in Means::BOTH {
            let of_means = self.programs.iter().filter(|(_, attached)| attached.means == means);
            let routines: Vec<&str> = of_means.map(|(hook, _)| hook.routine()).collect();
            if !routines.is_empty() {
                parts.push(format!("{} at {}", means.name(), routines.join(", ")));
            }
        }
        if !self.absent.is_empty() {
            parts.push(format!("this kernel has no {}", self.absent.join(", ")));
        }
        parts.join("; ")
    }

    /// What each routine copied so far.
    ///
    /// # Errors
    /// [`ObserveError`] when the kernel does not let the sums be read, or left out so many runs of the programs that the sums would
    /// say too little.
    pub fn read(&self) -> Result<Vec<CopySum>, ObserveError> {
        let failed = |error| ObserveError::new(WHAT, "reading the sums", error, "");
        let (mut found, mut runs, mut missed) = (Vec::new(), 0, 0);
        for (hook, attached) in &self.programs {
            let [calls, bytes] =
                crate::xdp::percpu_sums(&self.sums, u32::try_from(hook.0).unwrap_or(u32::MAX))
                    .map_err(failed)?;
            found.push(CopySum { routine: hook.routine(), calls, bytes });
            runs += calls;
            missed += attached.missed().map_err(failed)?;
        }
        // Now and then an interrupt meets a program at work; figures are shown with three digits.
        if missed > runs / 1000 + 1 {
            let error = io::Error::other(format!("{missed} runs beside {runs} were left out by the kernel"));
            let cure = "other programs that trace (bpftrace, perf) run on this machine, and must not";
            return Err(ObserveError::new(WHAT, "reading the sums", error, cure));
        }
        Ok(found)
    }
}

impl Attached {
    /// How often the kernel did not run the program, since one was running (`bpf_prog_show_fdinfo` in kernel/bpf/syscall.c).
    fn missed(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
        // Since Linux 5.12; before, programs were not left out.
        Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
    }
}

/// Which routine a program is for, and by what means, as its section says.
fn place(section: &OsStr) -> Option<(Hook, Means)> {
    let (means, routine) = section.to_str()?.split_once('/')?;
    Some((Hook::named(routine)?, Means::BOTH.into_iter().find(|one| one.name() == means)?))
}

/// Hangs a program on a routine, by the first means that the kernel grants.
fn attached(object: &Object, hook: Hook) -> Result<Attached, ObserveError> {
    let mut refusals = Vec::new();
    for means in Means::BOTH {
        let program = object.progs_mut().find(|program| place(program.section()) == Some((hook, means)));
        let program = program.expect("the object has two programs for each routine");
        let links = match means {
            Means::Fentry => program.attach().map(|link| vec![link]),
            Means::Breakpoint => breakpoints(&program, hook),
        };
        match links.and_then(|links| Ok((program.as_fd().try_clone_to_owned()?, links))) {
            Ok((program, links)) => return Ok(Attached { means, program, _links: links }),
            Err(error) => refusals.push((means, error)),
        }
    }
    let words: Vec<String> =
        refusals.iter().map(|(means, error)| format!("{}: {error:#}", means.name())).collect();
    let denied = refusals.iter().any(|(_, error)| error.kind() == libbpf_rs::ErrorKind::PermissionDenied);
    let kind = if denied { io::ErrorKind::PermissionDenied } else { io::ErrorKind::Other };
    let error = io::Error::new(kind, format!("`{}`: {}", hook.routine(), words.join("; ")));
    let cure = "it takes a kernel with CONFIG_FUNCTION_TRACER, and CONFIG_KPROBES for breakpoints in the kernel, of which a processor has \
                few: no debugger may hold them";
    Err(ObserveError::new(WHAT, "attaching a program", error, if denied { RIGHTS } else { cure }))
}

/// A breakpoint at each CPU: the kernel's own threads for io_uring come and go, and so do a server's.
fn breakpoints(program: &ProgramMut<'_>, hook: Hook) -> libbpf_rs::Result<Vec<Link>> {
    let address = address(&std::fs::read_to_string("/proc/kallsyms")?, hook.routine()).ok_or_else(|| {
        io::Error::other(format!(
            "/proc/kallsyms does not say where `{}` is; kernel.kptr_restrict hides it",
            hook.routine()
        ))
    })?;
    let cpus = online(&std::fs::read_to_string("/sys/devices/system/cpu/online")?);
    let at_cpu = |cpu| {
        let event = perf::breakpoint(address, cpu)?;
        let link = program.attach_perf_event(event.as_raw_fd())?;
        // The link closes it.
        let _ = event.into_raw_fd();
        Ok(link)
    };
    cpus.into_iter().map(at_cpu).collect()
}

/// Where a routine begins: `ffffffff81b68df0 T _copy_to_iter`. Zero is what those see who may not know.
fn address(symbols: &str, routine: &str) -> Option<u64> {
    let line = symbols.lines().find(|line| line.split(' ').nth(2) == Some(routine))?;
    let address = u64::from_str_radix(line.split(' ').next()?, 16).ok()?;
    (address != 0).then_some(address)
}

/// `0-2,5`
fn online(list: &str) -> Vec<u32> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

const WHAT: &str = "copies inside the kernel (BPF fentry)";

const RIGHTS: &str = "run it as root, or with CAP_BPF and CAP_PERFMON; if it is root, the kernel's policy (lockdown, a container) forbids \
                      programs that trace, and a machine or guest of one's own allows them";

fn refused(step: &'static str, error: &libbpf_rs::Error) -> ObserveError {
    use libbpf_rs::ErrorKind;
    let cure = match error.kind() {
        ErrorKind::PermissionDenied => RIGHTS,
        ErrorKind::NotFound => "it takes a kernel with CONFIG_DEBUG_INFO_BTF",
        ErrorKind::InvalidInput | ErrorKind::Unsupported => {
            "it takes Linux 5.5 or newer with CONFIG_DEBUG_INFO_BTF and function tracing"
        }
        _ => "",
    };
    ObserveError::new(WHAT, step, io::Error::new(io_kind(error.kind()), format!("{error:#}")), cure)
}

fn io_kind(kind: libbpf_rs::ErrorKind) -> io::ErrorKind {
    match kind {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libbpf_rs::ObjectBuilder;
    use libbpf_rs::skel::OpenSkel;

    /// The list here, the programs and the order in the C source are one: each program hangs at the routine of its name.
    #[test]
    fn each_routine_of_the_list_has_its_program() {
        let mut storage = MaybeUninit::uninit();
        let mut open =
            CopiesSkelBuilder { obj_builder: ObjectBuilder::default() }.open(&mut storage).expect("it opens");
        let object = open.open_object_mut();
        let sections: Vec<String> =
            object.progs_mut().map(|program| program.section().to_string_lossy().into_owned()).collect();
        let places: Vec<_> = sections.iter().map(|section| place(OsStr::new(section))).collect();
        let wanted = (0..HOOKS.len()).flat_map(|at| Means::BOTH.map(|means| Some((Hook(at), means))));
        assert_eq!(places, wanted.collect::<Vec<_>>(), "{sections:?}");
    }

    #[test]
    fn the_kernel_s_lists_are_read() {
        let symbols = "ffffffff81b68de0 T __pfx__copy_to_iter\nffffffff81b68df0 T _copy_to_iter\n0000000000000000 T hidden\n";
        assert_eq!(address(symbols, "_copy_to_iter"), Some(0xffff_ffff_81b6_8df0));
        assert_eq!((address(symbols, "hidden"), address(symbols, "copy_to_iter")), (None, None));
        assert_eq!(online("0-2,5\n"), [0, 1, 2, 5]);
    }

    /// The names are those of this kernel's routines, where it says what it has.
    #[test]
    fn the_running_kernel_has_most_of_the_routines() {
        let Ok(kernel) = Btf::from_vmlinux() else { return };
        let found = HOOKS.iter().filter(|routine| kernel.type_by_name::<Func<'_>>(routine).is_some()).count();
        assert!(found >= 5, "{found} of {}", HOOKS.len());
    }

    /// A write of 1 MiB into a pipe and its read copy two bytes a byte, where tracing is permitted; where not, the refusal says why
    /// and what would help.
    #[test]
    fn a_byte_through_a_pipe_is_copied_twice_or_the_refusal_is_clear() {
        use std::io::{Read, Write};
        let ledger = match CopyLedger::attach(&[std::process::id()], u32::MAX, None) {
            Ok(ledger) => ledger,
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with(WHAT) && text.len() > WHAT.len() + 20, "{text}");
                assert!(!error.is_refusal() || text.contains("CAP_PERFMON"), "{text}");
                eprintln!("SKIPPED: {text}");
                return;
            }
        };
        let sum = || ledger.read().expect("sums").iter().map(|sum| sum.bytes).sum::<u64>();
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let mut piece = vec![7; 64 << 10];
        let before = sum();
        for _ in 0..16 {
            writer.write_all(&piece).expect("a reader");
            reader.read_exact(&mut piece).expect("a writer");
        }
        let copied = sum() - before;
        assert!((2 << 20..(2 << 20) + (1 << 16)).contains(&copied), "{copied}");
    }
}
