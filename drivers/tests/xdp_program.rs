//! The XDP program on a real interface: who attaches it, who may, and that it never outlives its process.
//!
//! ```text
//!   near ═══ far        two ends of a veth in a network namespace that one test has to itself
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use drivers::xdp::{Cause, Filter, Mode, PortProgram, Program, Sink, SinkProgram, Step};
use rustix::thread::UnshareFlags;

/// Runs `story` in a thread with a network namespace of its own, with a veth pair `near`, `far` in it, both
/// up. The namespace goes when the thread and its children do.
fn with_cable(test: &'static str, story: impl FnOnce() + Send + 'static) {
    let told = thread::spawn(move || {
        // SAFETY: only the network namespace is parted with. What makes `unshare` unsafe is a descriptor
        // table that threads no longer share.
        let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        let loaded = unshared.is_ok().then(load);
        if loaded.is_none_or(|loaded| loaded.is_err_and(|error| *error.cause() == Cause::NotPermitted)) {
            // Straight to standard error: the test harness keeps back what the macros print.
            let line = format!("SKIPPED: {test}: needs CAP_NET_ADMIN + CAP_BPF\n");
            io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
        ip("link add near type veth peer name far");
        ip("link set near up");
        ip("link set far up");
        story();
    });
    if let Err(panic) = told.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the namespace of this thread and gives back what it printed.
fn ip(arguments: &str) -> String {
    let said = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(said.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

fn index(name: &str) -> u32 {
    let line = ip(&format!("-o link show dev {name}"));
    line.split(':').next().unwrap().parse().unwrap()
}

/// How `ip` sees the program on an interface.
fn shown(name: &str) -> Option<Mode> {
    let line = ip(&format!("-d link show dev {name}"));
    match (line.contains(" xdpgeneric"), line.contains(" xdp")) {
        (true, _) => Some(Mode::Generic),
        (false, true) => Some(Mode::Native),
        (false, false) => None,
    }
}

fn load() -> Result<Program, drivers::xdp::AttachError> {
    Program::load(&Filter::whole_port(), 1)
}

fn attach(name: &str, mode: Mode) -> PortProgram {
    load().unwrap().attach(index(name), name, mode).unwrap()
}

fn assert_shared_between_threads<T: Send + Sync>(_: &T) {}

#[test]
fn it_is_attached_as_asked_and_detached_once_for_all() {
    with_cable("it_is_attached_as_asked_and_detached_once_for_all", || {
        for mode in [Mode::Native, Mode::Generic] {
            let program = attach("near", mode);
            assert_shared_between_threads(&program);
            assert_eq!((program.mode(), shown("near"), program.is_attached()), (mode, Some(mode), true));
            program.detach().unwrap();
            assert_eq!((shown("near"), program.is_attached()), (None, false));
            program.detach().expect("detaching twice is no error");
            assert_eq!(program.verdicts().unwrap().redirected, 0, "counters stay readable");
        }
        drop(attach("near", Mode::Native));
        assert_eq!(shown("near"), None, "dropping takes it off");
    });
}

#[test]
fn the_best_mode_is_native_or_says_why_not() {
    with_cable("the_best_mode_is_native_or_says_why_not", || {
        let program = load().unwrap().attach_best(index("near"), "near", None).unwrap();
        assert_eq!(program.mode(), Mode::Native);
        assert!(program.native_refusal().is_none());

        // The loopback device has no native XDP.
        let program = load().unwrap().attach_best(index("lo"), "lo", None).unwrap();
        assert_eq!((program.mode(), shown("lo")), (Mode::Generic, Some(Mode::Generic)));
        let why = program.native_refusal().expect("it was tried first");
        assert_eq!((why.cause(), why.step()), (&Cause::Unsupported, Step::Attach(Mode::Native)));
        drop(program);

        let error = load().unwrap().attach_best(index("lo"), "lo", Some(Mode::Native)).unwrap_err();
        assert_eq!(error.cause(), &Cause::Unsupported, "a wish is not replaced: {error}");
        assert_eq!(shown("lo"), None);
    });
}

#[test]
fn a_second_program_is_told_who_is_there() {
    with_cable("a_second_program_is_told_who_is_there", || {
        let first = attach("near", Mode::Native);
        for want in [None, Some(Mode::Native), Some(Mode::Generic)] {
            let error = load().unwrap().attach_best(index("near"), "near", want).unwrap_err();
            assert!(matches!(error.cause(), Cause::Occupied { id: Some(_), .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.starts_with("near: the XDP program could not be attached in "), "{text}");
            assert!(text.contains("another XDP program is attached to it (id "), "{text}");
            assert!(text.contains("`ip link set dev near xdp off`"), "{text}");
        }
        assert!(first.is_attached(), "the first is left alone");
        first.detach().unwrap();
        attach("near", Mode::Native);
    });
}

#[test]
fn refusals_name_the_interface_and_the_cure() {
    with_cable("refusals_name_the_interface_and_the_cure", || {
        let error = load().unwrap().attach(4_000_000, "nowhere", Mode::Native).unwrap_err();
        assert_eq!(error.cause(), &Cause::Gone, "{error}");
        assert!(error.to_string().starts_with("nowhere: "), "{error}");

        // A veth refuses XDP when it has fewer receive queues than its peer has transmit queues.
        ip("link add few numrxqueues 1 numtxqueues 4 type veth peer name many numrxqueues 4 numtxqueues 4");
        ip("link set few up");
        ip("link set many up");
        let error = load().unwrap().attach(index("few"), "few", Mode::Native).unwrap_err();
        assert_eq!(error.cause(), &Cause::TooFewQueues, "{error}");
        assert!(error.to_string().contains("ethtool -L few"), "{error}");

        let program = attach("near", Mode::Native);
        let no_socket = UdpSocket::bind("[::]:0").unwrap();
        let error = program.insert(0, no_socket.as_fd()).unwrap_err();
        assert_eq!((error.step(), error.cause()), (Step::Insert(0), &Cause::Unsupported), "{error}");
        assert!(error.to_string().starts_with("near: the socket of queue 0 could not be given"), "{error}");
        let error = program.insert(1, no_socket.as_fd()).unwrap_err();
        assert_eq!((error.step(), error.cause()), (Step::Insert(1), &Cause::NoSuchQueue), "{error}");
        program.remove(0).expect("removing what is not there is no error");
        let error = program.remove(1).unwrap_err();
        assert_eq!((error.step(), error.cause()), (Step::Remove(1), &Cause::NoSuchQueue), "{error}");
    });
}

#[test]
fn it_goes_with_its_interface() {
    with_cable("it_goes_with_its_interface", || {
        let program = attach("near", Mode::Native);
        ip("link del near");
        assert!(!program.is_attached());
        program.detach().expect("there is nothing left to detach");
    });
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    with_cable("a_killed_process_leaves_nothing_attached", || {
        // A child inherits the network namespace of the thread that starts it.
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "hold", "--ignored", "--nocapture"])
            .env("RINGWAY_TEST_HOLD", "near")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let attached = said.lines().map_while(Result::ok).any(|line| line.contains("attached"));
        assert!(attached, "the child attached its program");
        assert_eq!(shown("near"), Some(Mode::Native));
        child.kill().unwrap();
        child.wait().unwrap();

        settle("the program to go with its process", || shown("near").is_none());
        attach("near", Mode::Native);
    });
}

/// The child of the test above: attaches, says so, and waits to be killed.
#[test]
#[ignore = "is run by a_killed_process_leaves_nothing_attached, in a process of its own"]
fn hold() {
    let Ok(interface) = env::var("RINGWAY_TEST_HOLD") else { return };
    let _program = attach(&interface, Mode::Native);
    println!("attached");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn frames_without_a_socket_reach_the_kernel_and_are_counted() {
    with_cable("frames_without_a_socket_reach_the_kernel_and_are_counted", || {
        let receiver = UdpSocket::bind("[::]:9").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for mode in [Mode::Native, Mode::Generic] {
            let program = attach("far", mode);
            let sent = send(50);
            for _ in 0..sent {
                assert_eq!(receiver.recv(&mut [0; 2000]).expect("the kernel has the datagram"), 1000);
            }
            let verdicts = program.verdicts().unwrap();
            assert!(verdicts.no_socket >= sent, "{verdicts:?}");
            assert_eq!(verdicts.no_socket, verdicts.total(), "{verdicts:?}");
        }
    });
}

#[test]
fn a_sink_counts_packets_and_bytes() {
    with_cable("a_sink_counts_packets_and_bytes", || {
        for (sink, mode) in
            [(Sink::Drop, Mode::Native), (Sink::Pass, Mode::Native), (Sink::Drop, Mode::Generic)]
        {
            let program = SinkProgram::attach(index("far"), "far", sink, Some(mode)).unwrap();
            assert_eq!((program.mode(), shown("far")), (mode, Some(mode)));
            let sent = send(50);
            // 14 Ethernet + 40 IPv6 + 8 UDP + 1000 bytes each. The kernel adds a few small packets of its
            // own.
            settle("the sink to count", || program.traffic().unwrap().bytes >= sent * 1062);
            let traffic = program.traffic().unwrap();
            assert!(traffic.packets >= sent && traffic.bytes <= traffic.packets * 1062, "{traffic:?}");
            program.detach().unwrap();
            assert_eq!(shown("far"), None);
        }
    });
}

/// Sends datagrams of 1000 bytes to all nodes out of `near`: multicast needs no neighbour to answer.
fn send(count: u64) -> u64 {
    let to = SocketAddrV6::new("ff02::1".parse().unwrap(), 9, 0, index("near"));
    let socket = UdpSocket::bind("[::]:0").unwrap();
    // The link-local address is tentative for a moment after the cable comes up.
    settle("an address", || {
        ip("-6 addr show dev near").contains("fe80")
            && !ip("-6 addr show dev near tentative").contains("fe80")
    });
    for _ in 0..count {
        assert_eq!(socket.send_to(&[7; 1000], to).unwrap(), 1000);
    }
    count
}

fn settle(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
