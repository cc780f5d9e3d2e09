//! Bytes that the CPU copies inside the kernel for a process: BPF programs at the kernel's copy routines (`bpf/copies.bpf.c`).

use super::ObserveError;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;

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

use skeleton::{CopiesSkelBuilder, OpenCopiesSkel};

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
    links: Vec<Link>,
    sums: MapHandle,
    present: [bool; HOOKS.len()],
}

impl fmt::Debug for CopyLedger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CopyLedger").field("programs", &self.links.len()).finish_non_exhaustive()
    }
}

impl CopyLedger {
    /// Counts for these processes from now on, and what interrupts copy on `cpu` while it has nothing else to run.
    ///
    /// # Errors
    /// [`ObserveError`]: rights, a policy that forbids BPF programs which trace, or a kernel without a description of its types.
    pub fn attach(processes: &[u32], cpu: u32) -> Result<Self, ObserveError> {
        crate::xdp::log_through_tracing();
        let kernel =
            Btf::from_vmlinux().map_err(|error| refused("reading the kernel's types (BTF)", &error))?;
        let mut storage = MaybeUninit::uninit();
        let open = CopiesSkelBuilder::default().open(&mut storage);
        let mut open = open.map_err(|error| refused("opening the programs", &error))?;
        let present = HOOKS.map(|routine| kernel.type_by_name::<Func<'_>>(routine).is_some());
        if present == [false; HOOKS.len()] {
            let error = io::Error::from(io::ErrorKind::NotFound);
            return Err(ObserveError::new(
                WHAT,
                "looking for its copy routines",
                error,
                "this kernel has none of the names",
            ));
        }
        choose(&mut open, present);
        let constants = open.maps.rodata_data.as_deref_mut().expect("the object has read-only data");
        constants.idle_cpu = cpu;
        let mut loaded = open.load().map_err(|error| refused("loading the programs", &error))?;
        for process in processes {
            let made = loaded.maps.watched.update(&process.to_ne_bytes(), &[1], MapFlags::ANY);
            made.map_err(|error| refused("naming the process", &error))?;
        }
        let sums =
            MapHandle::try_from(&loaded.maps.sums).map_err(|error| refused("opening the sums", &error))?;
        let links = attach_each(&mut loaded, present)?;
        Ok(Self { links, sums, present })
    }

    /// What each routine copied so far.
    ///
    /// # Errors
    /// [`ObserveError`] when the kernel does not let the sums be read.
    pub fn read(&self) -> Result<Vec<CopySum>, ObserveError> {
        let mut found = Vec::new();
        for (index, routine) in (0_u32..).zip(HOOKS).filter(|(index, _)| self.present[*index as usize]) {
            let [calls, bytes] = crate::xdp::percpu_sums(&self.sums, index)
                .map_err(|error| ObserveError::new(WHAT, "reading the sums", error, ""))?;
            found.push(CopySum { routine, calls, bytes });
        }
        Ok(found)
    }
}

const WHAT: &str = "copies inside the kernel (BPF fentry)";

fn refused(step: &'static str, error: &libbpf_rs::Error) -> ObserveError {
    use libbpf_rs::ErrorKind;
    let cure = match error.kind() {
        ErrorKind::PermissionDenied => {
            "run it as root, or with CAP_BPF and CAP_PERFMON; if it is root, the kernel's policy (lockdown, a container) forbids \
             programs that trace, and a machine or guest of one's own allows them"
        }
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

/// Leaves out the programs for routines that this kernel has not.
fn choose(open: &mut OpenCopiesSkel<'_>, present: [bool; HOOKS.len()]) {
    let progs = &mut open.progs;
    let each = [
        &mut progs.to_iter,
        &mut progs.from_iter,
        &mut progs.from_iter_nocache,
        &mut progs.csum_from_iter,
        &mut progs.copy_ubufs,
        &mut progs.store_bits,
        &mut progs.copy_bits,
        &mut progs.copy_csum_bits,
    ];
    for (program, present) in each.into_iter().zip(present) {
        program.set_autoload(present);
    }
}

fn attach_each(
    loaded: &mut skeleton::CopiesSkel<'_>,
    present: [bool; HOOKS.len()],
) -> Result<Vec<Link>, ObserveError> {
    let progs = &mut loaded.progs;
    let each = [
        &mut progs.to_iter,
        &mut progs.from_iter,
        &mut progs.from_iter_nocache,
        &mut progs.csum_from_iter,
        &mut progs.copy_ubufs,
        &mut progs.store_bits,
        &mut progs.copy_bits,
        &mut progs.copy_csum_bits,
    ];
    let wanted = each.into_iter().zip(present).filter(|(_, present)| *present);
    wanted
        .map(|(program, _)| program.attach().map_err(|error| refused("attaching the programs", &error)))
        .collect()
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
        let hooks: Vec<&str> =
            sections.iter().filter_map(|section| section.split_once('/')).map(|(_, at)| at).collect();
        assert_eq!(hooks, HOOKS, "{sections:?}");
        assert!(
            sections.iter().all(|section| section.starts_with("fentry/") || section.starts_with("fexit/"))
        );
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
        let ledger = match CopyLedger::attach(&[std::process::id()], u32::MAX) {
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
