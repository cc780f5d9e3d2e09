//! The kernel of another host pings ours, looks for it, scans it, and tries to take its address.
//!
//! ```text
//!   left (the kernel): ping, ip neigh, sockets ── left0 ══ rw-left [ Host: ARP, ND, ICMP ]  10.77.0.2  fd77::2
//! ```
#![forbid(unsafe_code)]

use dataplane::app::{App, Outbox, PortId};
use dataplane::lab::Side;
use dataplane::net::{
    Conflict, Host, HostCounters, HostPlan, Input, InterfacePlan, Prefix, Route, Tags, kernel_neighbours,
};
use dataplane::ports::Port;
use dataplane::run::Idle;
use dataplane::session::{Apps, SessionPlan, session};
use dataplane::stats::Books;
use dataplane::{Board, Reason, Tick};
use drivers::Caps;
use lab::{Outcome, TestLab, needs};
use ringbuf::{Burst, Pool};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const PORT: PortId = PortId(0);
const LIMIT: Duration = Duration::from_secs(10);
/// The other end of the cable, whose addresses nobody has in this laboratory but us.
const OURS: Side = Side::Right;

/// What the test hears of the host.
#[derive(Debug, Default)]
struct Heard {
    counters: HostCounters,
    conflict: Option<Conflict>,
    routes: Vec<Route>,
}

/// A host without TCP.
struct Answers {
    host: Host,
    heard: Arc<Mutex<Heard>>,
}

impl<'p> App<'p> for Answers {
    fn handle(&mut self, now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        while let Some(mut frame) = burst.pop() {
            match self.host.input(now, from, &mut frame) {
                Input::Answer => out.send(from, frame),
                Input::Discard(reason) => out.discard(frame, reason),
                Input::Tcp { .. } => out.discard(frame, Reason::Filtered),
                Input::TcpError(_) | Input::Learnt(_) | Input::Taken => out.deliver(frame),
            }
        }
    }

    fn tick(&mut self, now: Tick, out: &mut Outbox<'p>) {
        let peers: [IpAddr; 2] = [Side::Left.ipv4().into(), Side::Left.ipv6().into()];
        let routes = peers.map(|peer| self.host.route(now, peer));
        while let Some(message) = self.host.poll(now) {
            let Some(mut frame) = out.allocate() else { break };
            frame.extend(message.bytes()).expect("shorter than a frame");
            out.send(message.port(), frame);
        }
        let mut heard = self.heard.lock().expect("no panic");
        heard.counters = self.host.counters();
        heard.conflict = self.host.take_conflict().or(heard.conflict);
        heard.routes = routes.to_vec();
    }
}

struct Each(Arc<Mutex<Heard>>);

impl Apps for Each {
    type App<'p> = Answers;

    fn app(&self, _worker: usize, _pool: &Pool, _queues: &[&Caps]) -> Result<Answers, String> {
        let plan = HostPlan {
            interfaces: vec![InterfacePlan {
                port: PORT,
                mac: Side::Left.port_mac(),
                mtu: 1500,
                tags: Tags::None,
                addresses: vec![
                    Prefix { address: OURS.ipv4().into(), bits: 24 },
                    Prefix { address: OURS.ipv6().into(), bits: 64 },
                ],
            }],
            announces: true,
            ..HostPlan::default()
        };
        let host = Host::new(&plan).map_err(|error| error.to_string())?;
        Ok(Answers { host, heard: Arc::clone(&self.0) })
    }
}

/// Runs `story` against a host behind the left cable; returns its books.
fn beside(lab: &TestLab, driver: &str, story: impl FnOnce(&Mutex<Heard>) + Send) -> Books {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let (stop, ready) = (Arc::new(AtomicBool::new(false)), OnceLock::<Option<Arc<Board>>>::new());
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _inside = lab.middle().enter().expect("inside");
            let spec = format!("{driver}:{}", Side::Left.port()).parse().expect("a port");
            let port = Port::open(PORT, &spec).expect("a port");
            let plan = SessionPlan { idle: Idle::Adaptive, ..SessionPlan::default() };
            let apps = Each(Arc::clone(&heard));
            let is_ready = |facts: &[dataplane::session::WorkerFacts]| {
                ready.set(facts.first().map(|facts| Arc::clone(&facts.board))).is_ok()
            };
            let ends = session(&[port], &plan, &stop, &apps, is_ready, |_, _| true);
            drop(ready.set(None));
            ends.map(|ends| ends.into_iter().next().expect("one worker").last.books())
        });
        // However the story ends, the worker must.
        let _end = Stop(&stop);
        if ready.wait().is_some() {
            story(&heard);
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("no panic").expect("a session")
    })
}

struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn left(lab: &TestLab, program: &str, args: &str) -> Output {
    lab.host(Side::Left).command(program).args(args.split_whitespace()).output().expect("a command")
}

fn ping(lab: &TestLab, address: IpAddr, bytes: u32) {
    let output = left(lab, "ping", &format!("-n -i 0.01 -c 5 -w 10 -s {bytes} {address}"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{address}, {bytes} bytes: {printed}");
    assert!(!printed.contains("wrong data"), "{printed}");
}

/// Tries until it is true.
fn eventually(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) if Instant::now() > end => panic!("{what}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What a connected UDP socket of the kernel's hears of a port that nobody has.
fn knock(lab: &TestLab, address: IpAddr) -> Outcome<ErrorKind> {
    lab.host(Side::Left).run(|| {
        let own: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect((address, 53))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send(b"anybody?")?;
        let answer = socket.recv(&mut [0; 64]);
        Ok(answer.expect_err("nobody sends data").kind())
    })?
}

fn our_addresses() -> [IpAddr; 2] {
    [OURS.ipv4().into(), OURS.ipv6().into()]
}

fn speaks(driver: &str) {
    let lab = TestLab::up().expect("a laboratory");
    let books = beside(&lab, driver, |heard| {
        for address in our_addresses() {
            for bytes in [0, 56, 1400] {
                ping(&lab, address, bytes);
            }
            let neighbours = left(&lab, "ip", &format!("neigh show {address} dev left0"));
            let printed = String::from_utf8_lossy(&neighbours.stdout).into_owned();
            let mac = Side::Left.port_mac().map(|byte| format!("{byte:02x}")).join(":");
            assert!(printed.contains(&mac), "{printed}");
            assert_eq!(knock(&lab, address).expect("a socket"), ErrorKind::ConnectionRefused, "{address}");
        }
        eventually("the kernel is found, and all is counted", || {
            let heard = heard.lock().expect("no panic");
            let found =
                |route: &Route| matches!(route, Route::Path(path) if path.peer_mac == Side::Left.host_mac());
            let HostCounters { echoes, errors, resolutions, conflicts, .. } = heard.counters;
            // Whom we ask first, the kernel need not ask.
            let counted = (echoes, errors, conflicts) == (2 * 3 * 5, 2, 0) && resolutions >= 1;
            if heard.routes.iter().all(found) && heard.routes.len() == 2 && counted {
                Ok(())
            } else {
                Err(format!("{heard:?}"))
            }
        });
    });
    assert!(books.balance() && books.transmitted > 32, "{books}");
}

#[test]
fn the_kernel_finds_pings_and_scans_us_over_af_xdp() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF; tools: "ip", "ping");
    speaks("af-xdp");
}

#[test]
fn the_kernel_finds_pings_and_scans_us_over_packet_sockets() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ping");
    speaks("packet");
}

/// The kernel's own duplicate address detection gives way, and we know who it was.
#[test]
fn the_kernel_does_not_get_our_address() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip");
    let lab = TestLab::up().expect("a laboratory");
    beside(&lab, "packet", |heard| {
        // The laboratory's own addresses are without detection, so it is asked for here.
        let sysctl =
            left(&lab, "sysctl", "-w net.ipv6.conf.left0.accept_dad=1 net.ipv6.conf.left0.dad_transmits=1");
        assert!(sysctl.status.success(), "{sysctl:?}");
        let change = |word: &str| {
            let changed = left(&lab, "ip", &format!("address {word} {}/64 dev left0", OURS.ipv6()));
            assert!(changed.status.success(), "{changed:?}");
        };
        change("add");
        eventually("the kernel gives way", || {
            let shown = left(&lab, "ip", "-6 address show dev left0 dadfailed");
            let printed = String::from_utf8_lossy(&shown.stdout).into_owned();
            if printed.contains(&OURS.ipv6().to_string()) { Ok(()) } else { Err(printed) }
        });
        eventually("we know of it", || {
            let heard = heard.lock().expect("no panic");
            let expected = Conflict { port: PORT, address: OURS.ipv6().into(), mac: Side::Left.host_mac() };
            if heard.conflict == Some(expected) {
                return Ok(());
            }
            let seen = format!("{heard:?}");
            drop(heard);
            // Had it heard our announcement before it asked, it would never have asked: once more.
            change("del");
            change("add");
            std::thread::sleep(Duration::from_millis(1500));
            Err(seen)
        });
    });
}

/// A host that shares the kernel's addresses dials by the kernel's routes, and has the kernel ask for neighbours.
#[test]
fn the_kernels_addresses_routes_and_neighbours_are_shared() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip");
    let lab = TestLab::up().expect("a laboratory");
    let gateway: IpAddr = OURS.ipv4().into();
    let far: IpAddr = [192, 0, 2, 1].into();
    TestLab::run(lab.host(Side::Left), "ip", &format!("route add default via {gateway} dev left0"))
        .expect("a route");
    beside(&lab, "packet", |_| {
        let _inside = lab.host(Side::Left).enter().expect("inside");
        TestLab::run(lab.host(Side::Left), "ip", "neigh flush dev left0").expect("no neighbours");
        let link = drivers::link::Link::by_name("left0").expect("a link");
        let plan = HostPlan::shared(PORT, &link, vec![8080], 0..0).expect("the kernel tells");
        let mut host = Host::new(&plan).expect("what the kernel has, can be");
        let begin = Instant::now();
        link.resolve(gateway).expect("the right to ask");
        eventually("the kernel knows", || {
            for neighbour in kernel_neighbours(&link).expect("the kernel tells") {
                host.learn(Tick(begin.elapsed()), PORT, neighbour, true);
            }
            let route = host.route(Tick(begin.elapsed()), far);
            assert!(host.poll(Tick(begin.elapsed())).is_none(), "the kernel asks, not we");
            match route {
                Route::Path(path) => {
                    assert_eq!(path.peer_mac, Side::Left.port_mac());
                    assert_eq!(path.local_mac, Side::Left.host_mac());
                    assert_eq!((path.local.ip(), path.peer.ip()), (Side::Left.ipv4().into(), far));
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        });
        assert_eq!(host.route(Tick(begin.elapsed()), [127, 0, 0, 1].into()), Route::NoRoute);
    });
}
