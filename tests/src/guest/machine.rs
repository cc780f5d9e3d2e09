//! QEMU as a process.

use super::kit::Kit;
use super::{Guest, Nic, kernel};
use crate::Outcome;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The verdict lines.
pub(super) const PASSED: &str = "ringway-guest: passed";
pub(super) const FAILED: &str = "ringway-guest: failed:";

/// A line from the guest that asks for a command of QEMU's monitor: what follows is JSON of QMP.
pub(super) const ASK: &str = "ringway-guest: qmp ";

/// How much longer than the guest's own limit, which begins when it has booted, we wait for its end: on a busy machine a boot
/// takes ten times as long as on a quiet one.
const GRACE: Duration = Duration::from_secs(60);

/// The kernel's command line (Documentation/admin-guide/kernel-parameters.txt). On a busy host it may wait for its timer in vain
/// for as long as it looks whether there is one, and panic: hence `no_timer_check`. A second of a boot's four is spent on
/// testing ciphers, and the jitter of a processor that is no real one: nobody here needs either.
const WORDS: &str = "console=ttyS0 loglevel=5 panic=-1 net.ifnames=0 mitigations=off tsc=reliable no_timer_check \
                     cryptomgr.notests initcall_blacklist=jent_mod_init";

/// The MAC address of a NIC: `end` 0 is the near one of its cable.
pub(super) fn mac(cable: usize, end: usize) -> String {
    format!("02:52:57:00:{end:02x}:{cable:02x}")
}

/// The PCI address of a NIC: each is alone behind a root port, and firmware numbers their buses in order.
pub(super) fn pci(cable: usize, end: usize) -> String {
    format!("0000:{:02x}:00.0", cable * 2 + end + 1)
}

/// What QEMU says when it ends by a race of its own (its issue 1921): one processor of the guest's runs by a map of memory that
/// another has changed, as happens whenever a card is reset or handed over.
const RACE: &str = "iotlb_to_section: Assertion";

/// Boots, waits for the verdict, and ends. Once more, should QEMU itself have failed.
pub(super) fn run(guest: &Guest, kit: &Kit, image: &[u8], ticks: u32) -> Outcome<()> {
    let (verdict, errors) = boot(guest, kit, image, ticks)?;
    if verdict.is_ok() || !errors.contains(RACE) {
        return verdict;
    }
    println!("QEMU has ended by a race of its own: once more");
    boot(guest, kit, image, ticks)?.0
}

/// The verdict, and what QEMU said.
fn boot(guest: &Guest, kit: &Kit, image: &[u8], ticks: u32) -> Outcome<(Outcome<()>, String)> {
    let files = Files::new()?;
    std::fs::write(files.path("image"), image)?;
    let begin = Instant::now();
    let mut qemu = command(guest, kit, &files, ticks)?;
    let mut qemu = qemu.spawn().map_err(|error| format!("starting QEMU: {error}"))?;
    let console = qemu.stdout.take().ok_or("asked for a pipe")?;
    let errors = qemu.stderr.take().ok_or("asked for a pipe")?;
    let mut qemu = Machine(qemu);
    let console = std::thread::spawn(move || read_all(console));
    let errors = std::thread::spawn(move || read_all(errors));
    let verdict = attend(&mut qemu, &files, guest.limit + GRACE);
    drop(qemu);
    let console = console.join().unwrap_or_default();
    let errors = errors.join().unwrap_or_default();
    // A cable between two NICs of the guest is what we want.
    let told = |line: &&str| !line.contains("is not connected to host network");
    let errors: String = errors.lines().filter(told).flat_map(|line| [line, "\n"]).collect();
    // Shown by the test harness only when the test fails, or on request.
    println!("--- console of the guest, {:.1} s\n{console}{errors}---", begin.elapsed().as_secs_f64());
    Ok((verdict, errors))
}

/// Reads the control line until the verdict; carries out what the guest asks for.
fn attend(qemu: &mut Machine, files: &Files, limit: Duration) -> Outcome<()> {
    let end = Instant::now() + limit;
    let control = connect(qemu, &files.path("control"), end)?;
    let mut monitor = None;
    let (send, receive) = channel();
    let mut reply = control.try_clone()?;
    std::thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        let line = match receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(format!("no verdict within {limit:?}").into()),
            Err(RecvTimeoutError::Disconnected) => return Err("it ended without a verdict".into()),
        };
        let line = line.trim();
        if line == PASSED {
            return Ok(());
        } else if let Some(why) = line.strip_prefix(FAILED) {
            return Err(why.trim().to_owned().into());
        } else if let Some(command) = line.strip_prefix(ASK) {
            let monitor = match &mut monitor {
                Some(monitor) => monitor,
                none => none.insert(Monitor::connect(qemu, &files.path("monitor"), end)?),
            };
            let answer = monitor.ask(command)?;
            writeln!(reply, "{answer}")?;
        }
    }
}

/// QEMU's monitor: one JSON a line (QMP).
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(qemu: &mut Machine, path: &Path, end: Instant) -> Outcome<Self> {
        let stream = connect(qemu, path, end)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.0.read_line(&mut String::new())?;
        monitor.ask("{\"execute\":\"qmp_capabilities\"}")?;
        Ok(monitor)
    }

    fn ask(&mut self, command: &str) -> Outcome<String> {
        writeln!(self.0.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err("QEMU's monitor is gone".into());
            }
            // Events come in between.
            if line.starts_with("{\"return\"") || line.starts_with("{\"error\"") {
                return Ok(line.trim().to_owned());
            }
        }
    }
}

/// QEMU makes its sockets some time after it has begun.
fn connect(qemu: &mut Machine, path: &Path, end: Instant) -> Outcome<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(format!("{}: {error}", path.display()).into()),
            Err(_) => {}
        }
        if let Some(status) = qemu.0.try_wait()? {
            return Err(format!("QEMU ended at once ({status})").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn command(guest: &Guest, kit: &Kit, files: &Files, ticks: u32) -> Outcome<Command> {
    let usr = kit.qemu.join("usr");
    // The guest's own timer is the second net: QEMU goes with the thread that started it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if guest.tap_queues > 0 {
        command.args(["unshare", "--net", "sh", "-ec", &bridges(guest), "sh"]);
    }
    command.arg("env").arg(format!("LD_LIBRARY_PATH={0}/lib/x86_64-linux-gnu:{0}/lib", usr.display()));
    command.arg(usr.join("bin/qemu-system-x86_64"));
    command.arg("-L").arg(usr.join("share/qemu")).arg("-L").arg(usr.join("share/seabios"));
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // Never KVM by the presence of /dev/kvm: it may be there and not work, and QEMU does not fall back then.
    command.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2"]);
    command.args(["-m", &guest.memory.to_string()]);
    command.arg("-kernel").arg(kernel::vmlinux(kit)?).arg("-initrd").arg(files.path("image"));
    let mut words = format!("{WORDS} ");
    if ticks > 0 {
        // It would count the counter against the PC's timer, whose emulation stands still while others have the processor: of 94
        // boots on a busy host, 5 took it for 7 to 20 times slower than it is. A minute of theirs is seconds then: limits pass,
        // and timers are seconds late.
        let _ = write!(words, "tsc_early_khz={ticks} ");
    }
    if guest.iommu {
        words.push_str("intel_iommu=on ");
        // With eim the processors' own interrupt controllers are reached by MSR (x2APIC), and not by addresses in memory: by the
        // same race as in `RACE` a write to them is lost at times, a timer never set, and the processor sleeps for ever.
        command.args(["-device", "intel-iommu,intremap=on,eim=on,caching-mode=on"]);
    }
    command.args(["-append", (words + &guest.arguments).trim()]);
    let socket = |name: &str| format!("{},server=on,wait=off", files.path(name).display());
    command.args(["-serial", "stdio", "-qmp", &format!("unix:{}", socket("monitor"))]);
    command.args(["-chardev", &format!("socket,id=control,path={}", socket("control"))]);
    command.args(["-serial", "chardev:control"]);
    for (number, (near, far)) in guest.cables.iter().enumerate() {
        for (end, nic) in [near, far].into_iter().enumerate() {
            nic_arguments(&mut command, *nic, (number, end), guest);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// What a shell does before it becomes QEMU: two taps for each cable, and a bridge between, which learns nothing: it would take
/// addresses that come back exchanged for those of hosts that have moved.
fn bridges(guest: &Guest) -> String {
    let mut script = String::new();
    for cable in 0..guest.cables.len() {
        let _ = write!(script, "ip link add br{cable} type bridge ageing_time 0; ip link set br{cable} up; ");
        for end in 0..2 {
            let tap = cable * 2 + end;
            let several = if end == 0 && guest.tap_queues > 1 { "multi_queue" } else { "" };
            let _ = write!(script, "ip tuntap add tap{tap} mode tap vnet_hdr {several}; ");
            let _ = write!(script, "ip link set tap{tap} mtu 9000 master br{cable} up; ");
        }
    }
    script + "exec \"$@\""
}

/// A NIC behind a root port of its own (an IOMMU group of its own), with its end in the cable's hub.
fn nic_arguments(command: &mut Command, nic: Nic, (cable, end): (usize, usize), guest: &Guest) {
    let number = cable * 2 + end;
    let queues = if end == 0 { guest.tap_queues } else { guest.tap_queues.min(1) };
    command.arg("-netdev").arg(match queues {
        0 => format!("hubport,id=hub{number},hubid={cable}"),
        1 => format!("tap,id=hub{number},ifname=tap{number},script=no,downscript=no"),
        _ => format!("tap,id=hub{number},ifname=tap{number},script=no,downscript=no,queues={queues}"),
    });
    let slot = 0x10 + number;
    command.args([
        "-device",
        &format!("pcie-root-port,id=port{number},chassis={number},slot={number},addr={slot:#x}"),
    ]);
    let model = match nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000e => "e1000e",
        Nic::Igb => "igb",
    };
    let mac = mac(cable, end);
    let mut device = format!("{model},id=nic{number},netdev=hub{number},bus=port{number},mac={mac},romfile=");
    if nic == Nic::Virtio {
        let word = |on| if on { "on" } else { "off" };
        let _ = write!(device, ",disable-legacy=on,iommu_platform={}", word(guest.iommu));
        // At the far end too, the kernel's 6.12 behind an IOMMU got nothing; why was not looked into.
        let _ = write!(device, ",packed={}", word(guest.packed && end == 0));
        if queues > 1 {
            // A message for each ring, for the configuration, and for commands.
            let _ = write!(device, ",mq=on,vectors={}", 2 * queues + 2);
        }
    }
    if guest.twins && end == 0 {
        device.push_str(",addr=0.0,multifunction=on");
        let twin =
            format!("{model},id=twin{number},bus=port{number},addr=0.1,mac={},romfile=", mac_of_twin(cable));
        command.args(["-device", &twin]);
    }
    command.args(["-device", &device]);
}

fn mac_of_twin(cable: usize) -> String {
    format!("02:52:57:00:02:{cable:02x}")
}

/// Files of one guest, gone with it.
struct Files(PathBuf);

impl Files {
    fn new() -> Outcome<Self> {
        let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
        let folder = std::env::temp_dir().join(format!("ringway-guest-{}-{thread}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running QEMU, which does not outlive this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // After the verdict it powers off by itself; what it still prints is worth a moment.
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is what there is to show.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).replace('\r', "")
}
