//! An app panics on one worker: the session ends with an error that names the worker, and nothing is left behind.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use dataplane::ports::Port;
use dataplane::session::{Apps, Each, SessionError, SessionPlan, WorkerEnd, WorkerFacts, session};
use dataplane::{App, Idle, Outbox, PortId, Tick};
use drivers::Caps;
use lab::traffic::ping;
use lab::{TestLab, needs};
use ringbuf::{Burst, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NOBODY: usize = usize::MAX;

/// A cable whose worker panics at the first frame once it is armed.
struct Fragile<'s> {
    worker: usize,
    state: &'s State,
}

struct State {
    /// The workers run.
    ready: AtomicBool,
    armed: AtomicBool,
    /// Who panicked.
    who: AtomicUsize,
    /// Apps that are still there.
    alive: AtomicUsize,
}

impl State {
    const fn new(armed: bool) -> Self {
        let ready = AtomicBool::new(false);
        Self {
            ready,
            armed: AtomicBool::new(armed),
            who: AtomicUsize::new(NOBODY),
            alive: AtomicUsize::new(0),
        }
    }
}

impl<'p> App<'p> for Fragile<'_> {
    fn handle(&mut self, _now: Tick, from: PortId, burst: &mut Burst<'p>, out: &mut Outbox<'p>) {
        if self.state.armed.swap(false, Ordering::Relaxed) {
            self.state.who.store(self.worker, Ordering::Relaxed);
            panic!("provoked at worker {}", self.worker);
        }
        out.send_all(PortId(1 - from.0), burst);
    }
}

impl Drop for Fragile<'_> {
    fn drop(&mut self) {
        self.state.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Make<'s>(&'s State);

impl<'s> Apps for Make<'s> {
    type App<'p> = Fragile<'s>;

    fn app<'p>(&self, worker: usize, _pool: &'p Pool, _queues: &[&Caps]) -> Result<Fragile<'s>, String> {
        self.0.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Fragile { worker, state: self.0 })
    }
}

fn open(specs: &[String]) -> Vec<Port> {
    let port = |(id, spec): (u8, &String)| Port::open(PortId(id), &spec.parse().expect("a port"));
    (0..).zip(specs).map(port).collect::<Result<_, _>>().expect("ports")
}

fn plan(duration: Duration) -> SessionPlan {
    SessionPlan { cpus: vec![0, 1], idle: Idle::Adaptive, duration: Some(duration), ..SessionPlan::default() }
}

/// Runs until somebody panics: both workers have ended by then, and neither took the whole time.
fn fragile_session(ports: &[Port], state: &State) -> Result<Vec<WorkerEnd>, SessionError> {
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let ready = |_: &[WorkerFacts]| {
        state.ready.store(true, Ordering::Relaxed);
        true
    };
    let result = session(ports, &plan(Duration::from_secs(30)), &stop, &Make(state), ready, |_, _| true);
    assert!(begin.elapsed() < Duration::from_secs(15), "the others went on");
    assert!(stop.load(Ordering::Relaxed), "the others were told");
    assert_eq!(state.alive.load(Ordering::Relaxed), 0, "every worker is gone");
    result
}

fn check(error: &SessionError, state: &State) {
    let who = state.who.load(Ordering::Relaxed);
    assert_ne!(who, NOBODY, "{error}");
    let SessionError::Died { worker, why } = error else { panic!("another error: {error}") };
    assert_eq!((*worker, why.as_str()), (who, format!("provoked at worker {who}").as_str()));
    assert!(error.to_string().contains(&format!("worker {who} died")), "{error}");
}

fn two_cpus(test: &str) -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    if !enough {
        lab::needs::skip(test, &["two CPUs".to_owned()]);
    }
    enough
}

/// On real queues, several of them, linked or not: afterwards the ports are free, and a sound session runs over them.
#[test]
fn a_panic_ends_the_session_and_leaves_nothing() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    if !two_cpus("panic::a_panic_ends_the_session_and_leaves_nothing") {
        return;
    }
    for (driver, queues) in [("af-xdp", 2), ("af-xdp", 1), ("packet", 1)] {
        let lab = TestLab::with(|plan| plan.queues = queues).expect("a laboratory");
        let state = State::new(false);
        let specs = Side::BOTH.map(|side| format!("{driver}:{}", side.port()));
        std::thread::scope(|scope| {
            let running =
                scope.spawn(|| lab.middle().run(|| fragile_session(&open(&specs), &state).map(drop)));
            let end = Instant::now() + Duration::from_secs(15);
            while !state.ready.load(Ordering::Relaxed) && !running.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Frames pass before, and so the links between workers have carried some.
            ping(&lab, Side::Left, 2, 10).expect("answers");
            state.armed.store(true, Ordering::Relaxed);
            // Whether it is answered does not matter: a stray frame may have come first, at the other worker.
            let _ = ping(&lab, Side::Left, 1, 1);
            let error =
                running.join().expect("the panic stays inside").expect("entered").expect_err("a panic");
            check(&error, &state);
        });
        for side in Side::BOTH {
            let mut show = lab.middle().command("ip");
            let shown = show.args(["-d", "link", "show", "dev", side.port()]).output().expect("ip");
            let text = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(!text.contains("xdp") && text.contains("promiscuity 0"), "left behind: {text}");
        }
        let again = || {
            let stop = Arc::new(AtomicBool::new(false));
            let (ports, wire) = (open(&specs), Each(dataplane::forward::Wire));
            session(&ports, &plan(Duration::from_millis(300)), &stop, &wire, |_| true, |_, _| true)
        };
        let ends = lab.middle().run(again).expect("entered").expect("the queues are free again");
        for end in ends {
            assert_eq!(end.census.free, end.census.total(), "{driver}, {queues}: {end:?}");
        }
    }
}

/// The same without any rights, between capture files: the worker that reads one dies, the other hears of it.
#[test]
fn a_panic_between_capture_files() {
    if !two_cpus("panic::a_panic_between_capture_files") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ringway-panic-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    // The classic format: a header of 24 bytes, then 16 bytes before each packet (draft-ietf-opsawg-pcap).
    let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1, 0, 0, 60, 60];
    let mut capture: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    capture.extend([2; 60]);
    let specs = ["a", "b"].map(|name| {
        let file = folder.join(name);
        std::fs::write(&file, &capture).expect("a file");
        format!("pcap:{},out={}.out", file.display(), file.display())
    });
    let state = State::new(true);
    let error = fragile_session(&open(&specs), &state).expect_err("a panic");
    std::fs::remove_dir_all(&folder).expect("removed");
    check(&error, &state);
}
