//! The ledger of one run: what it cost, figure by figure, each with how it is known.
//!
//! Raw numbers come from the client, from the kernel ([`Counted`]) and from the server itself ([`Witnesses`]); [`Ledger::of`] puts
//! them together. It is arithmetic only, so that hand-computed cases check it.

use super::method::{Method, Sink, Source, Way};
use serde::Serialize;
use std::collections::BTreeMap;

/// How a figure is known. The order is that of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// From the path that the bytes take through the kernel's source, and the state of the device.
    Derived,
    /// The kernel or the device said so afterwards.
    Witnessed,
    /// Counted in this run.
    Measured,
}

impl Label {
    /// One letter, for tables.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Measured => 'm',
            Self::Witnessed => 'w',
            Self::Derived => 'd',
        }
    }

    /// In JSON, and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Witnessed => "witnessed",
            Self::Derived => "derived",
        }
    }
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What is in the ledger. The names in JSON are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Quantity {
            $($(#[$doc])* $name,)+
        }

        impl Quantity {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// In words.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

quantities! {
    /// Of the timed run.
    Requests = "requests",
    /// Of all bodies.
    BodyBytes = "bytes of bodies",
    /// Of the timed run.
    Seconds = "seconds",
    /// Answered in full.
    RequestsPerSecond = "requests a second",
    /// Of bodies.
    BytesPerSecond = "bytes of bodies a second",
    /// Mean.
    LatencyMean = "latency, mean, microseconds",
    /// Half of the requests.
    LatencyP50 = "latency, 50 %, microseconds",
    /// 90 of a hundred.
    LatencyP90 = "latency, 90 %, microseconds",
    /// 99 of a hundred.
    LatencyP99 = "latency, 99 %, microseconds",
    /// 999 of a thousand.
    LatencyP999 = "latency, 99.9 %, microseconds",
    /// The longest.
    LatencyMax = "latency, longest, microseconds",
    /// The server's own code.
    CpuUserSeconds = "CPU seconds of the server, user",
    /// The kernel, for the server, with soft interrupts on top of its system calls.
    CpuSystemSeconds = "CPU seconds of the server, system",
    /// Soft interrupts on its core; most of them are also in `system`.
    CpuSoftirqSeconds = "seconds of soft interrupts on the server's core",
    /// What the kernel left to `ksoftirqd`.
    CpuKsoftirqdSeconds = "CPU seconds of ksoftirqd on the server's core",
    /// User, system and `ksoftirqd`.
    CpuSecondsPerGb = "CPU seconds of the server for a gigabyte",
    /// The same, of one kind.
    CpuUserPerGb = "CPU seconds for a gigabyte, user",
    /// The same, of one kind.
    CpuSystemPerGb = "CPU seconds for a gigabyte, system",
    /// The same, of one kind.
    CpuKsoftirqdPerGb = "CPU seconds for a gigabyte, ksoftirqd",
    /// For what is small.
    CpuMicrosecondsPerRequest = "CPU microseconds of the server for a request",
    /// The client, user and system.
    ClientCpuSeconds = "CPU seconds of the client",
    /// Where a veth has acknowledgements end: what the server's TCP does when one comes in, and sends then, is among it.
    ClientSoftirqSeconds = "seconds of soft interrupts on the client's core",
    /// The same.
    ClientSoftirqPerGb = "seconds of soft interrupts on the client's core for a gigabyte",
    /// By the server.
    SyscallsPerRequest = "system calls for a request",
    /// By the server.
    SyscallsPerMb = "system calls for a megabyte",
    /// Of the server's threads.
    ContextSwitchesPerMb = "context switches for a megabyte",
    /// Of the server.
    MinorFaultsPerMb = "minor page faults for a megabyte",
    /// Of the server.
    MajorFaultsPerMb = "major page faults for a megabyte",
    /// Of the server.
    FaultsPerMb = "page faults for a megabyte",
    /// Of the server's threads.
    MigrationsPerMb = "migrations for a megabyte",
    /// Two for each system call and page fault.
    CrossingsPerRequest = "switches between user and kernel for a request",
    /// Two for each system call and page fault.
    CrossingsPer64Kib = "switches between user and kernel for 64 KiB",
    /// On the server's core.
    InterruptsPerMb = "interrupts for a megabyte",
    /// On the server's core.
    SoftInterruptsPerMb = "soft interrupts for a megabyte",
    /// By ringway's own code.
    UserCopiesPerByte = "copies in user space for a byte",
    /// By the kernel, the receiver's own copy excluded.
    KernelCopiesPerByte = "copies in the kernel for a byte",
    /// Both.
    CopiesPerByte = "copies by the CPU for a byte",
    /// The disk's DMA.
    DiskPassesPerByte = "passes from the disk for a byte",
    /// The NIC's DMA: a veth has none.
    NicPassesPerByte = "passes to a NIC for a byte",
    /// `SO_EE_CODE_ZEROCOPY_COPIED`, `IORING_NOTIF_USAGE_ZC_COPIED`.
    ZeroCopyUndone = "share of zero-copy sends that the kernel copied after all",
}

/// One figure of one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// The number.
    pub value: f64,
    /// How it is known.
    pub label: Label,
}

/// What the kernel counted in a run of its own, in which nothing is timed: `None` where it refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// Requests of that run.
    pub requests: u64,
    /// Bytes of bodies of that run.
    pub body_bytes: u64,
    /// Entries into the kernel.
    pub syscalls: Option<u64>,
    /// Of the server's threads.
    pub context_switches: Option<u64>,
    /// Of the server's threads.
    pub migrations: Option<u64>,
    /// Without a disk.
    pub minor_faults: Option<u64>,
    /// With one.
    pub major_faults: Option<u64>,
    /// On the server's core.
    pub interrupts: Option<u64>,
    /// On the server's core.
    pub soft_interrupts: Option<u64>,
    /// By the kernel's copy routines.
    pub copied_bytes: Option<u64>,
    /// Read from the disk for the server.
    pub disk_bytes: Option<u64>,
}

/// CPU time during the timed run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuSpent {
    /// Of the server.
    pub user: f64,
    /// Of the server.
    pub system: f64,
    /// On its core.
    pub softirq: f64,
    /// Of `ksoftirqd` on its core.
    pub ksoftirqd: f64,
    /// In soft interrupts on the client's core, where that is another.
    pub client_softirq: Option<f64>,
}

/// What the client got in the timed run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timed {
    /// Answered in full.
    pub requests: u64,
    /// Of bodies.
    pub body_bytes: u64,
    /// How long.
    pub seconds: f64,
    /// Microseconds: mean, 50 %, 90 %, 99 %, 99.9 %, longest.
    pub latency: [f64; 6],
    /// Of the client.
    pub client_cpu: f64,
}

/// What the server and its device said at the end, over its whole life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Witnesses {
    /// Bytes of bodies that its clients got from it, in all runs.
    pub served_bytes: u64,
    /// Bytes that ringway's own code copied: into frames, into pieces, into a driver's ring.
    pub copied_bytes: u64,
    /// Bytes read by `O_DIRECT`.
    pub direct_read_bytes: u64,
    /// Zero-copy sends that were begun.
    pub zerocopy_sends: u64,
    /// Of those, how many the kernel has given back.
    pub zerocopy_done: u64,
    /// Of these, how many it copied after all.
    pub zerocopy_copied: u64,
    /// Bytes that an engine sent by copying, since it could not without.
    pub fallback_bytes: u64,
    /// Of the device of a bypass, as `XDP_OPTIONS` and the driver say.
    pub device: Option<DeviceCopies>,
}

/// Who moves the bytes between the arena and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceCopies {
    /// The device.
    ZeroCopy,
    /// The kernel.
    Copy,
    /// The driver in user space.
    RingCopy,
}

impl DeviceCopies {
    /// From the word in ringway's reports.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "zero-copy" => Some(Self::ZeroCopy),
            "copy" => Some(Self::Copy),
            "ring-copy" => Some(Self::RingCopy),
            _ => None,
        }
    }
}

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Ledger(BTreeMap<Quantity, Reading>);

impl Ledger {
    /// Puts a run together.
    #[must_use]
    pub fn of(
        method: &Method,
        size: u64,
        scatter_gather: bool,
        timed: &Timed,
        cpu: Option<&CpuSpent>,
        counted: &Counted,
        witnesses: &Witnesses,
    ) -> Self {
        let mut ledger = Self::default();
        ledger.timed(timed);
        if let Some(cpu) = cpu {
            ledger.cpu(cpu, timed);
        }
        ledger.counted(counted);
        let path = Path { method, size, scatter_gather };
        ledger.copies(path, counted, witnesses);
        ledger
    }

    /// A figure, when it could be had.
    #[must_use]
    pub fn reading(&self, quantity: Quantity) -> Option<Reading> {
        self.0.get(&quantity).copied()
    }

    fn put(&mut self, quantity: Quantity, value: f64, label: Label) {
        // No number comes of a division by nothing, and none is put down.
        if value.is_finite() {
            self.0.insert(quantity, Reading { value, label });
        }
    }

    fn measured(&mut self, quantity: Quantity, value: f64) {
        self.put(quantity, value, Label::Measured);
    }

    fn timed(&mut self, timed: &Timed) {
        use Quantity as Q;
        let latencies =
            [Q::LatencyMean, Q::LatencyP50, Q::LatencyP90, Q::LatencyP99, Q::LatencyP999, Q::LatencyMax];
        self.measured(Q::Requests, float(timed.requests));
        self.measured(Q::BodyBytes, float(timed.body_bytes));
        self.measured(Q::Seconds, timed.seconds);
        self.measured(Q::RequestsPerSecond, float(timed.requests) / timed.seconds);
        self.measured(Q::BytesPerSecond, float(timed.body_bytes) / timed.seconds);
        for (quantity, value) in latencies.into_iter().zip(timed.latency) {
            self.measured(quantity, value);
        }
        self.measured(Q::ClientCpuSeconds, timed.client_cpu);
    }

    fn cpu(&mut self, cpu: &CpuSpent, timed: &Timed) {
        use Quantity as Q;
        let gigabytes = float(timed.body_bytes) / 1e9;
        let all = cpu.user + cpu.system + cpu.ksoftirqd;
        self.measured(Q::CpuUserSeconds, cpu.user);
        self.measured(Q::CpuSystemSeconds, cpu.system);
        self.measured(Q::CpuSoftirqSeconds, cpu.softirq);
        self.measured(Q::CpuKsoftirqdSeconds, cpu.ksoftirqd);
        self.measured(Q::CpuSecondsPerGb, all / gigabytes);
        self.measured(Q::CpuUserPerGb, cpu.user / gigabytes);
        self.measured(Q::CpuSystemPerGb, cpu.system / gigabytes);
        self.measured(Q::CpuKsoftirqdPerGb, cpu.ksoftirqd / gigabytes);
        self.measured(Q::CpuMicrosecondsPerRequest, all * 1e6 / float(timed.requests));
        if let Some(softirq) = cpu.client_softirq {
            self.measured(Q::ClientSoftirqSeconds, softirq);
            self.measured(Q::ClientSoftirqPerGb, softirq / gigabytes);
        }
    }

    fn counted(&mut self, counted: &Counted) {
        use Quantity as Q;
        let (requests, bytes) = (float(counted.requests), float(counted.body_bytes));
        let per_mb = [
            (Q::SyscallsPerMb, counted.syscalls),
            (Q::ContextSwitchesPerMb, counted.context_switches),
            (Q::MigrationsPerMb, counted.migrations),
            (Q::MinorFaultsPerMb, counted.minor_faults),
            (Q::MajorFaultsPerMb, counted.major_faults),
            (Q::InterruptsPerMb, counted.interrupts),
            (Q::SoftInterruptsPerMb, counted.soft_interrupts),
        ];
        for (quantity, count) in per_mb {
            if let Some(count) = count {
                self.measured(quantity, float(count) / (bytes / 1e6));
            }
        }
        if let Some(syscalls) = counted.syscalls {
            self.measured(Q::SyscallsPerRequest, float(syscalls) / requests);
        }
        let faults = counted.minor_faults.zip(counted.major_faults).map(|(minor, major)| minor + major);
        if let Some(faults) = faults {
            self.measured(Q::FaultsPerMb, float(faults) / (bytes / 1e6));
        }
        if let (Some(syscalls), Some(faults)) = (counted.syscalls, faults) {
            // Into the kernel and back.
            let crossings = 2.0 * float(syscalls + faults);
            self.measured(Q::CrossingsPerRequest, crossings / requests);
            self.measured(Q::CrossingsPer64Kib, crossings / (bytes / 65536.0));
        }
        if let Some(disk) = counted.disk_bytes {
            self.measured(Q::DiskPassesPerByte, float(disk) / bytes);
        }
        // What the comparison runs over has no NIC.
        self.put(Q::NicPassesPerByte, 0.0, Label::Derived);
    }

    fn copies(&mut self, path: Path<'_>, counted: &Counted, witnesses: &Witnesses) {
        use Quantity as Q;
        let user = user_copies(path.method, witnesses);
        let measured = counted.copied_bytes.map(|copied| Reading {
            value: float(copied) / float(counted.body_bytes),
            label: Label::Measured,
        });
        let kernel = measured.or_else(|| derived_copies(path, witnesses));
        if let Some(user) = user {
            self.put(Q::UserCopiesPerByte, user.value, user.label);
        }
        if let Some(kernel) = kernel {
            self.put(Q::KernelCopiesPerByte, kernel.value, kernel.label);
        }
        if let (Some(user), Some(kernel)) = (user, kernel) {
            // A sum is known no better than its parts.
            self.put(Q::CopiesPerByte, user.value + kernel.value, user.label.min(kernel.label));
        }
        if let Some(share) = witnesses.copied_sends() {
            self.put(Q::ZeroCopyUndone, share, Label::Witnessed);
        }
    }
}

impl Witnesses {
    /// The part of the zero-copy sends that the kernel copied after all, of those that it has spoken of.
    fn copied_sends(&self) -> Option<f64> {
        (self.zerocopy_done > 0).then(|| float(self.zerocopy_copied) / float(self.zerocopy_done))
    }
}

/// Copies by the server's own code: our bypass counts its own; neither our engines nor nginx copy bodies in user space, which their source says
/// and nobody counts.
fn user_copies(method: &Method, witnesses: &Witnesses) -> Option<Reading> {
    if matches!(method.way, Way::Nginx { .. }) {
        return Some(Reading { value: 0.0, label: Label::Derived });
    }
    let value = float(witnesses.copied_bytes) / float(witnesses.served_bytes);
    let label = if matches!(method.way, Way::Engine) { Label::Derived } else { Label::Measured };
    value.is_finite().then_some(Reading { value, label })
}

/// Copies in the kernel, from the path of the method, the state of the device, and what it said afterwards.
///
/// The client's own copy into its buffer is not among them. `None` when a bypass does not say how its queue ran.
fn derived_copies(path: Path<'_>, witnesses: &Witnesses) -> Option<Reading> {
    let Path { method, size, scatter_gather } = path;
    let source = match method.source {
        Source::InPlace => 0.0,
        // Ringway counts what it reads past the page cache; what it did not came through that.
        Source::Direct { from } if size >= from => match method.way {
            Way::Engine if witnesses.direct_read_bytes < witnesses.served_bytes / 2 => 1.0,
            _ => 0.0,
        },
        Source::Direct { .. } | Source::Read => 1.0,
    };
    let copied_without = if scatter_gather { 0.0 } else { 1.0 };
    let fallback = (float(witnesses.fallback_bytes) / float(witnesses.served_bytes)).min(1.0);
    let (sink, label) = match method.sink {
        Sink::Write => (1.0, Label::Derived),
        // Without a pipe it reads and writes: a copy in and one out.
        Sink::Splice if fallback > 0.0 => {
            (fallback * 2.0 + (1.0 - fallback) * copied_without, Label::Derived)
        }
        Sink::Splice => (copied_without, Label::Derived),
        Sink::ZeroCopy => zero_copy_sink(witnesses, fallback).unwrap_or((copied_without, Label::Derived)),
        Sink::Ring => match witnesses.device? {
            // The driver's copy into its ring is counted among those in user space.
            DeviceCopies::ZeroCopy | DeviceCopies::RingCopy => (0.0, Label::Witnessed),
            DeviceCopies::Copy => (1.0, Label::Witnessed),
        },
    };
    // A path that is derived in part is derived.
    let label = if source > 0.0 { Label::Derived } else { label };
    Some(Reading { value: source + sink, label })
}

/// Copies on the way into the socket where the kernel is asked to make none: what it made all the same, and what was sent by copying.
fn zero_copy_sink(witnesses: &Witnesses, fallback: f64) -> Option<(f64, Label)> {
    let Some(share) = witnesses.copied_sends() else {
        // It has spoken of none: only if all bytes went the other way is anything known.
        return (witnesses.zerocopy_sends == 0 && fallback > 0.0).then_some((fallback, Label::Derived));
    };
    // Sends are of different lengths: only of all of them, or none, is the part of the bytes theirs. And what was begun and not given back
    // nobody has spoken of.
    let all_or_none = share == 0.0 || share >= 1.0;
    let known = all_or_none && fallback == 0.0 && witnesses.zerocopy_done == witnesses.zerocopy_sends;
    let label = if known { Label::Witnessed } else { Label::Derived };
    Some((fallback + (1.0 - fallback) * share, label))
}

/// What the way of the bytes depends on.
#[derive(Clone, Copy)]
struct Path<'m> {
    method: &'m Method,
    size: u64,
    scatter_gather: bool,
}

#[expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(name: &str, scatter_gather: bool, counted: &Counted, witnesses: &Witnesses) -> Ledger {
        let method = Method::named(name).expect("a method");
        let timed = Timed {
            requests: 1000,
            body_bytes: 1 << 30,
            seconds: 2.0,
            latency: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            client_cpu: 0.5,
        };
        let cpu =
            CpuSpent { user: 0.5, system: 1.0, softirq: 0.7, ksoftirqd: 0.25, client_softirq: Some(0.125) };
        Ledger::of(method, 1 << 20, scatter_gather, &timed, Some(&cpu), counted, witnesses)
    }

    fn value(ledger: &Ledger, quantity: Quantity) -> (f64, Label) {
        let reading = ledger.reading(quantity).expect("a figure");
        (reading.value, reading.label)
    }

    /// One `read` and `write` of 1 MiB in pieces of 64 KiB: 32 calls, 64 switches, four for each piece, two bytes copied a byte.
    #[test]
    fn read_and_write_of_a_mebibyte_as_computed_by_hand() {
        let counted = Counted {
            requests: 1,
            body_bytes: 1 << 20,
            syscalls: Some(32),
            minor_faults: Some(0),
            major_faults: Some(0),
            copied_bytes: Some(2 << 20),
            disk_bytes: Some(1 << 20),
            ..Counted::default()
        };
        let ledger = ledger(
            "read-write",
            true,
            &counted,
            &Witnesses { served_bytes: 1 << 20, ..Witnesses::default() },
        );
        assert_eq!(value(&ledger, Quantity::SyscallsPerRequest), (32.0, Label::Measured));
        assert_eq!(value(&ledger, Quantity::CrossingsPerRequest), (64.0, Label::Measured));
        assert_eq!(value(&ledger, Quantity::CrossingsPer64Kib), (4.0, Label::Measured));
        assert_eq!(value(&ledger, Quantity::KernelCopiesPerByte), (2.0, Label::Measured));
        // That no engine copies in user space is what its source says.
        assert_eq!(value(&ledger, Quantity::UserCopiesPerByte), (0.0, Label::Derived));
        assert_eq!(value(&ledger, Quantity::CopiesPerByte), (2.0, Label::Derived));
        assert_eq!(value(&ledger, Quantity::DiskPassesPerByte), (1.0, Label::Measured));
        let (per_mb, _) = value(&ledger, Quantity::SyscallsPerMb);
        assert!((per_mb - 32.0 / 1.048_576).abs() < 1e-9);
    }

    /// Where BPF is refused, the path says it; and the label does.
    #[test]
    fn without_fentry_copies_are_derived_and_labelled_so() {
        let counted = Counted { requests: 1, body_bytes: 1 << 20, ..Counted::default() };
        let served = Witnesses { served_bytes: 1 << 20, direct_read_bytes: 1 << 20, ..Witnesses::default() };
        let copies = |name: &str, gather: bool| {
            value(&ledger(name, gather, &counted, &served), Quantity::KernelCopiesPerByte)
        };
        for (name, with, without) in [
            ("read-write", 2.0, 2.0),
            ("mmap-write", 1.0, 1.0),
            ("sendfile", 0.0, 1.0),
            ("splice", 0.0, 1.0),
            ("direct-aio", 1.0, 1.0),
            ("nginx-sendfile", 0.0, 1.0),
        ] {
            assert_eq!(copies(name, true), (with, Label::Derived), "{name}");
            assert_eq!(copies(name, false), (without, Label::Derived), "{name}");
        }
        // What was to be read past the page cache and was not, came through it.
        let through = ledger("direct-aio", true, &counted, &Witnesses { direct_read_bytes: 0, ..served });
        assert_eq!(value(&through, Quantity::KernelCopiesPerByte), (2.0, Label::Derived));
        let nginx = |size| {
            let path =
                Path { method: Method::named("nginx-aio").expect("a method"), size, scatter_gather: true };
            derived_copies(path, &served).map(|reading| reading.value)
        };
        assert_eq!((nginx(1024), nginx(64 << 10)), (Some(2.0), Some(1.0)));
        let missing = ledger("sendfile", true, &counted, &served);
        assert_eq!(missing.reading(Quantity::SyscallsPerMb), None, "nothing is made up");
    }

    /// The kernel's own word goes before the path.
    #[test]
    fn what_the_kernel_copied_after_all_is_witnessed() {
        let counted = Counted { requests: 1, body_bytes: 1000, ..Counted::default() };
        let undone = Witnesses {
            served_bytes: 1000,
            zerocopy_sends: 10,
            zerocopy_done: 8,
            zerocopy_copied: 6,
            ..Witnesses::default()
        };
        let of = |name: &str, witnesses: &Witnesses, quantity| {
            value(&ledger(name, true, &counted, witnesses), quantity)
        };
        // Six of eight sends are not six of eight bytes; all of them are all.
        assert_eq!(of("zerocopy", &undone, Quantity::KernelCopiesPerByte), (0.75, Label::Derived));
        let all = Witnesses { zerocopy_sends: 8, zerocopy_copied: 8, ..undone };
        assert_eq!(of("zerocopy", &all, Quantity::KernelCopiesPerByte), (1.0, Label::Witnessed));
        // A fifth of the bytes was copied by the engine, of the others none.
        let fallback = Witnesses { zerocopy_sends: 8, zerocopy_copied: 0, fallback_bytes: 200, ..undone };
        assert_eq!(of("zerocopy", &fallback, Quantity::KernelCopiesPerByte), (0.2, Label::Derived));
        assert_eq!(of("uring-zerocopy", &fallback, Quantity::KernelCopiesPerByte), (1.2, Label::Derived));
        let only = Witnesses { zerocopy_sends: 0, zerocopy_done: 0, fallback_bytes: 1000, ..undone };
        assert_eq!(of("zerocopy", &only, Quantity::KernelCopiesPerByte), (1.0, Label::Derived));
        assert_eq!(of("zerocopy", &undone, Quantity::ZeroCopyUndone), (0.75, Label::Witnessed));
        // A quarter had no pipe, and was read and written.
        let pipeless = Witnesses { served_bytes: 1000, fallback_bytes: 250, ..Witnesses::default() };
        assert_eq!(of("splice", &pipeless, Quantity::KernelCopiesPerByte), (0.5, Label::Derived));
        let device =
            |device| Witnesses { served_bytes: 1000, copied_bytes: 1500, device: Some(device), ..undone };
        let copy = device(DeviceCopies::Copy);
        assert_eq!(of("bypass", &copy, Quantity::KernelCopiesPerByte), (1.0, Label::Witnessed));
        assert_eq!(of("bypass", &copy, Quantity::UserCopiesPerByte), (1.5, Label::Measured));
        assert_eq!(of("bypass", &copy, Quantity::CopiesPerByte), (2.5, Label::Witnessed));
        let zero = device(DeviceCopies::ZeroCopy);
        assert_eq!(of("bypass", &zero, Quantity::KernelCopiesPerByte), (0.0, Label::Witnessed));
        let unsaid =
            ledger("bypass", true, &counted, &Witnesses { served_bytes: 1000, ..Witnesses::default() });
        assert_eq!(unsaid.reading(Quantity::CopiesPerByte), None);
    }

    #[test]
    fn cpu_time_is_that_of_the_process_and_of_ksoftirqd() {
        let ledger = ledger("sendfile", true, &Counted::default(), &Witnesses::default());
        let (per_gb, label) = value(&ledger, Quantity::CpuSecondsPerGb);
        assert!((per_gb - 1.75 / 1.073_741_824).abs() < 1e-9);
        assert_eq!(label, Label::Measured);
        assert_eq!(value(&ledger, Quantity::CpuMicrosecondsPerRequest).0, 1750.0);
        // The client's core is nobody's of these.
        assert_eq!(value(&ledger, Quantity::ClientSoftirqSeconds), (0.125, Label::Measured));
        assert!((value(&ledger, Quantity::ClientSoftirqPerGb).0 - 0.125 / 1.073_741_824).abs() < 1e-9);
        // Without a request nothing is divided by nothing.
        assert_eq!(ledger.reading(Quantity::UserCopiesPerByte), None);
        assert_eq!(ledger.reading(Quantity::DiskPassesPerByte), None);
    }

    #[test]
    fn names_in_json_are_words_with_underscores() {
        let json = serde_json::to_value(ledger("sendfile", true, &Counted::default(), &Witnesses::default()));
        let json = json.expect("an object");
        assert_eq!(json["cpu_seconds_per_gb"]["label"], "measured");
        assert_eq!(json["nic_passes_per_byte"]["label"], "derived");
        assert!(json["latency_p999"]["value"].is_number());
    }
}
