//! A turn allocates nothing: not over memory, not through a wrapper, not over a real socket.
//!
//! Each thread counts its own allocations, so that tests beside each other do not disturb.
#![deny(unsafe_code)]

mod counting;

use dataplane::forward::{MacSwap, Wire};
use dataplane::hand_off::{HandOff, connect};
use dataplane::lab::Side;
use dataplane::serve::Waiter;
use dataplane::serve::bell::Bell;
use dataplane::serve::content::{Piece, Store, StorePlan};
use dataplane::serve::tree::{Finder, Found, HostId, Librarian, Lookup, Tree, TreePlan};
use dataplane::worker::{Member, TICK_EVERY};
use dataplane::{App, PortId, Tick, Worker};
use drivers::loopback::{Loopback, LoopbackPlan, pair};
use drivers::wrap::{Flatten, Metered};
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use drivers::{Gather, QueuePair};
use lab::{TestLab, needs};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and no turns either.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Ticks come as often among these turns as among those of a real second.
const TURN: Duration = Duration::from_micros(50);
const TURNS: u32 = 10_000;
const _: () = assert!(TURN.as_nanos() * (TURNS as u128) > 10 * TICK_EVERY.as_nanos());

fn pool(frames: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size: 2048, ..ArenaPlan::default() };
    Pool::new(Arena::new(&plan).expect("memory"))
}

/// What an allocation here would show: that the counter counts.
#[test]
fn an_allocation_is_counted() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(allocations() - before, 1);
}

/// A request that is parsed and answered, a second passing now and then: nothing, but for several ranges at once.
#[test]
fn a_warm_request_allocates_nothing() {
    use dataplane::serve::http::{
        Clock, Coding, Counts, Facts, HEAD_MAX, Intake, Limits, Listing, Next, Policy, PolicyPlan,
        Representation, Resource, Scratch, respond,
    };
    let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let (limits, mut head, mut intake) = (Limits::default(), [0; HEAD_MAX], Intake::default());
    let (mut scratch, mut clock, mut counts) = (Scratch::new(&limits), Clock::new(start), Counts::default());
    let plan = PolicyPlan {
        cache: vec![("*.css".into(), "max-age=60".into())],
        pages: vec![(404, "text/plain".into(), b"gone".to_vec())],
        ..PolicyPlan::default()
    };
    let policy = Policy::new(&plan).expect("good");
    let form = |inode| Representation::new(1000 - inode, start, inode);
    let facts = Facts::new("a.css", form(1)).with(Coding::Gzip, form(2));
    let listing = Listing { html: b"<p>".as_slice().into(), json: b"[]".as_slice().into() };
    let resources = [
        Resource::File(&facts),
        Resource::Listing(&listing),
        Resource::Redirect,
        Resource::NotFound,
        Resource::Busy,
    ];
    let requests = [
        "GET /a.css HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip, br;q=0.5\r\nUser-Agent: x\r\n\r\n",
        "GET /%61.css HTTP/1.1\r\nHost: a\r\nRange: bytes=5-10\r\nIf-Range: \"x\"\r\n\r\n",
        "GET /b/./a.css HTTP/1.1\r\nHost: a\r\nRange: bytes=5000-\r\n\r\n",
        "HEAD /a.css HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\nIf-None-Match: *\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nContent-Length: 2\r\n\r\nxy",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let before = allocations();
    let mut bytes = 0;
    for turn in 0..TURNS {
        let date = *clock.at(start + TURN * turn * 1000);
        let raw = requests[turn as usize % requests.len()].as_bytes();
        let (used, next) = intake.next(raw, &mut scratch, &limits);
        let Next::Request(request, len) = next else { panic!("a request") };
        let resource = resources[turn as usize % resources.len()];
        let response = respond(&request, resource, &policy, &date, &mut head);
        intake.answered(&request, &response, &limits);
        counts.answered(request.method, &response);
        bytes += response.total_len();
        let (rest, _) = intake.next(&raw[used + len..], &mut scratch, &limits);
        assert_eq!(used + len + rest, raw.len());
    }
    assert_eq!(allocations() - before, 0, "allocations in {TURNS} requests");
    assert!(bytes > 100 * u64::from(TURNS), "{bytes} bytes");
}

/// A request that is logged, while there is room for it and when there is none: every record is written or counted.
#[test]
fn a_logged_request_allocates_nothing() {
    use dataplane::serve::http::{
        Date, HEAD_MAX, Limits, Parsed, Policy, Request, Resource, Scratch, respond,
    };
    use dataplane::serve::log::{Format, Log, LogPlan, Record};
    let path = std::env::temp_dir().join(format!("ringway-no-alloc-{}.log", std::process::id()));
    let plan = LogPlan { path: Some(path.clone()), format: Format::Json, capacity: 64 };
    let log = Log::open(&plan).expect("a log");
    let queue = log.queue();
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n", "y".repeat(3000));
    let (limits, mut head) = (Limits::default(), [0; HEAD_MAX]);
    let (mut scratch, policy, now) = (Scratch::new(&limits), Policy::default(), std::time::SystemTime::now());
    let (date, peer) = (Date::new(now), "10.0.0.1".parse().expect("an address"));
    let before = allocations();
    for _ in 0..TURNS {
        let Parsed::Request(request, _) = Request::parse(long.as_bytes(), &mut scratch, &limits) else {
            panic!("a request")
        };
        let response = respond(&request, Resource::NotFound, &policy, &date, &mut head);
        queue.push(Record::new(peer, &request, &response, now));
    }
    assert_eq!(allocations() - before, 0, "allocations in {TURNS} requests");
    drop(log);
    let counts = queue.counts();
    assert_eq!(counts.written + counts.dropped, u64::from(TURNS), "{counts:?}");
    assert!(counts.written >= 64 && counts.dropped > 0, "{counts:?}");
    std::fs::remove_file(&path).expect("removed");
}

/// Turns with a burst of 32 in each, and now and then a chain and a runt; `wrapped` puts the port into a wrapper.
fn turns_over_memory<'p, Q: Gather<'p>>(
    pool: &'p Pool,
    app: impl App<'p>,
    wrapped: impl Fn(Loopback<'p>) -> Q,
) {
    let plan = LoopbackPlan { ring: 256, start: u32::MAX - 1000 };
    let (mut near, left) = pair(pool, &plan).expect("loans");
    let (mut far, right) = pair(pool, &plan).expect("loans");
    let members = vec![
        Member { port: PortId(0), queue: wrapped(left) },
        Member { port: PortId(1), queue: wrapped(right) },
    ];
    let mut worker = Worker::new(pool, members, app);
    let (mut burst, mut back) = (Burst::new(), Burst::new());
    let (mut before, mut moved) = (0, 0);
    for turn in 0..TURNS + 100 {
        if turn == 100 {
            before = allocations();
        }
        for i in 0..32 {
            let Some(mut frame) = pool.alloc() else { break };
            frame.extend(&[i; 60]).expect("room");
            frame.set_continues(turn % 16 == 0 && i % 8 == 0);
            frame.truncate(if turn % 64 == 1 && i == 5 { 13 } else { 60 });
            drop(burst.push(frame));
        }
        near.transmit(&mut burst);
        burst.clear();
        moved += worker.turn(Tick(TURN * turn));
        for end in [&mut near, &mut far] {
            end.receive(&mut back);
            back.clear();
        }
    }
    let during = allocations() - before;
    assert!(moved as u64 > u64::from(TURNS) * 31, "{moved} frames");
    assert_eq!(during, 0, "allocations in {TURNS} turns of {moved} frames");
    assert!(worker.books().balance());
}

/// `wire` over memory.
#[test]
fn wire_allocates_nothing() {
    turns_over_memory(&pool(1024), Wire, |queue| queue);
}

/// `mac-swap` over memory.
#[test]
fn mac_swap_allocates_nothing() {
    turns_over_memory(&pool(1024), MacSwap, |queue| queue);
}

/// Behind the one indirect call of the program's own queues.
#[test]
fn a_boxed_queue_allocates_nothing() {
    turns_over_memory(&pool(1024), Wire, |queue| -> dataplane::ports::AnyQueue<'_> { Box::new(queue) });
}

/// Through the wrappers that measure and flatten.
#[test]
fn wrappers_allocate_nothing() {
    let pool = pool(1024);
    turns_over_memory(&pool, Wire, |queue| Metered::new(Flatten::new(queue, &pool)));
}

/// From one worker to another: both ends of a hand-off, in one thread here.
#[test]
fn a_hand_off_allocates_nothing() {
    let pools = [pool(2048), pool(2048)];
    let ends = connect(&[vec![PortId(0)], vec![PortId(1)]], 2048).expect("eventfd");
    let mut sides = pools.iter().zip(ends).zip(0..).map(|((pool, ends), port)| {
        let (outside, queue) = pair(pool, &LoopbackPlan::default()).expect("loans");
        let worker = Worker::new(pool, vec![Member { port: PortId(port), queue }], Wire);
        (outside, worker.with_hand_off(HandOff::new(pool, ends.expect("linked"))))
    });
    let ((mut near, mut left), (mut far, mut right)) = sides.next().zip(sides.next()).expect("two");
    let (mut burst, mut back, mut before, mut arrived) = (Burst::new(), Burst::new(), 0, 0);
    for turn in 0..TURNS + 100 {
        if turn == 100 {
            before = allocations();
        }
        for i in 0..32 {
            let mut frame = pools[0].alloc().expect("a frame");
            frame.extend(&[i; 60]).expect("room");
            drop(burst.push(frame));
        }
        near.transmit(&mut burst);
        left.turn(Tick(TURN * turn));
        right.turn(Tick(TURN * turn));
        near.tend();
        arrived += far.receive(&mut back);
        back.clear();
        far.tend();
    }
    let during = allocations() - before;
    assert_eq!(arrived, 32 * (TURNS as usize + 100));
    assert_eq!(during, 0, "allocations in {TURNS} turns");
}

/// A reflector on a real AF_XDP socket, with a sender at the other end of the cable.
#[test]
fn af_xdp_allocates_nothing() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let (pool, peers) = (pool(2048), pool(2048));
    let (umem, peer_umem) = (Umem::new(&pool), Umem::new(&peers));
    let port = |name: &str| XdpPort::open(XdpPlan { ring: 256, ..XdpPlan::new(name) }).expect("a port");
    let queue = {
        let _inside = lab.middle().enter().expect("inside");
        XdpQueue::open(&umem, &port(Side::Left.port()), 0).expect("a queue")
    };
    let mut sender = {
        let _inside = lab.host(Side::Left).enter().expect("inside");
        XdpQueue::open(&peer_umem, &port(Side::Left.interface()), 0).expect("a queue")
    };
    let mut worker = Worker::new(&pool, vec![Member { port: PortId(0), queue }], MacSwap);
    let (mut burst, mut back) = (Burst::new(), Burst::new());
    let (mut before, mut moved, end) = (0, 0, Instant::now() + Duration::from_secs(20));
    for turn in 0..TURNS + 100 {
        if turn == 100 {
            before = allocations();
        }
        if turn % 8 == 0 {
            for i in 0..16 {
                let Some(mut frame) = peers.alloc() else { break };
                frame.extend(&[i; 60]).expect("room");
                drop(burst.push(frame));
            }
            sender.transmit(&mut burst);
            burst.clear();
        }
        sender.tend();
        sender.receive(&mut back);
        back.clear();
        moved += worker.turn(Tick(TURN * turn));
        assert!(Instant::now() < end, "{turn} turns in 20 s");
    }
    let during = allocations() - before;
    assert!(moved > 1000, "{moved} frames");
    assert_eq!(during, 0, "allocations in {TURNS} turns of {moved} frames");
    assert!(worker.books().balance());
}

/// A file of a site, by one worker: looked up, and its bytes as pages.
struct Site<'p> {
    finder: Finder,
    store: Store<'p>,
    host: HostId,
    woken: Vec<Waiter>,
}

impl Site<'_> {
    /// One request for everything there is at `path`: bytes, or none if it must be waited for.
    fn request(&mut self, now: Tick, path: &str) -> Option<u64> {
        self.finder.poll(now, &mut self.woken);
        self.store.poll(now, &mut self.woken);
        self.woken.clear();
        let Lookup::Known(answer) = self.finder.find(now, self.host, path, Waiter(1)) else { return None };
        let Found::File(forms) = answer.found() else { panic!("{path}: {answer:?}") };
        let entry = forms.plain();
        let mut offset = 0;
        while offset < entry.size() {
            let Piece::Page(page) = self.store.page(entry, offset, 1448, Waiter(1)) else { return None };
            offset += page.len() as u64;
        }
        Some(offset)
    }
}

/// Looks up and takes apart files that are in memory: without an allocation, and without any system call, for the
/// thread has forsworn them (`SECCOMP_MODE_STRICT` ends a thread at the first one but `read`, `write` and `exit`).
#[test]
fn a_warm_file_takes_no_allocation_and_no_system_call() {
    let root = std::env::temp_dir().join(format!("ringway-warm-{}", std::process::id()));
    std::fs::create_dir(&root).expect("a directory");
    let paths = ["small", "large", "page.html"];
    for (path, bytes) in paths.into_iter().zip([100, 600_000, 5000]) {
        std::fs::write(root.join(path), vec![7; bytes]).expect("writes");
    }
    let librarian =
        Librarian::start(Arc::new(Tree::open(TreePlan::new(&root)).expect("opens"))).expect("starts");
    let (bell, desk) = {
        let bell = Arc::new(Bell::new().expect("a descriptor"));
        (Arc::clone(&bell), librarian.desk(8, bell))
    };
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    let (mut never, _open) = std::io::pipe().expect("a pipe");
    // Never joined: a thread without system calls cannot end in an orderly way.
    std::thread::spawn(move || {
        let plan = ArenaPlan { frames: 8, content_bytes: 1 << 20, ..ArenaPlan::default() };
        let pool = Pool::new(Arena::new(&plan).expect("memory"));
        let mut site = Site {
            finder: Finder::new(desk, 1, 64),
            store: Store::new(&pool, StorePlan::default(), bell).expect("starts"),
            host: HostId::default(),
            woken: Vec::with_capacity(8),
        };
        let mut moved = 0;
        for path in paths {
            while site.request(Tick::default(), path).is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while site.store.reading() > 0 {
            site.store.poll(Tick::default(), &mut Vec::new());
        }
        let before = allocations();
        if rustix::thread::set_secure_computing_mode(rustix::thread::SecureComputingMode::Strict).is_err() {
            to.write_all(b"?").expect("writes");
            return;
        }
        for turn in 0..TURNS {
            moved += site.request(Tick(TURN * turn), paths[turn as usize % 3]).unwrap_or(0);
        }
        let good = allocations() == before && moved > 100 * u64::from(TURNS);
        let _ = to.write_all(if good { b"+" } else { b"-" });
        let _ = never.read(&mut [0]);
    });
    let ready = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&from, rustix::event::PollFlags::IN)],
        Some(&rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 }),
    );
    drop(std::fs::remove_dir_all(&root));
    assert_eq!(ready, Ok(1), "the thread was ended at a system call");
    let mut word = [0];
    from.read_exact(&mut word).expect("a word");
    match &word {
        b"?" => eprintln!("SKIPPED: this kernel has no strict seccomp mode"),
        word => assert_eq!(word, b"+", "an allocation, or a file that went missing"),
    }
}
