//! Each engine between a file and a TCP socket, without a server around it.

mod slow;

use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A file that is gone when it is closed, and says what it is told to say.
#[derive(Debug)]
struct Sample {
    id: u64,
    file: File,
    direct: Option<File>,
    size: u64,
    changed: AtomicBool,
}

impl Sample {
    fn new(content: &[u8]) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringway-sample-{}-{id}", std::process::id()));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
        file.write_all(content).expect("written");
        let direct = {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().read(true).custom_flags(libc::O_DIRECT).open(&path).ok()
        };
        std::fs::remove_file(path).expect("removed");
        Arc::new(Self { id, file, direct, size: content.len() as u64, changed: AtomicBool::new(false) })
    }
}

impl Source for Sample {
    fn id(&self) -> u64 {
        self.id
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn direct(&self) -> Option<BorrowedFd<'_>> {
        self.direct.as_ref().map(AsFd::as_fd)
    }

    fn is_same(&self) -> bool {
        !self.changed.load(Ordering::Relaxed)
    }

    fn is_gone(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }
}

type Boxed = Box<dyn Engine<Sample>>;

/// Engines of few and small buffers; none where this kernel has not what one needs.
fn engines(buffers: u16) -> impl Iterator<Item = (Method, Boxed)> {
    let plan = EnginePlan { chunk: 16 << 10, pipe: 16 << 10, buffers };
    Method::ALL.into_iter().filter_map(move |method| match engine(method, &plan) {
        Ok(engine) => Some((method, engine)),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    })
}

/// A connection over loopback with little room on the way: the socket that sends, and who receives.
fn connection() -> (Rc<OwnedFd>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    sockopt::set_socket_recv_buffer_size(&listener, 8192).expect("set");
    let sender = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    sockopt::set_socket_send_buffer_size(&sender, 8192).expect("set");
    sender.set_nonblocking(true).expect("a flag");
    let (receiver, _) = listener.accept().expect("accepts");
    (Rc::new(sender.into()), receiver)
}

/// Ends a flow, as a server does that resets it.
fn end(engine: &mut Boxed, flow: u32, socket: &OwnedFd) {
    let _ = rustix::net::connect_unspec(socket);
    engine.close(flow, socket);
}

/// What became of a push, as soon as that is known.
fn outcome(engine: &mut Boxed, flow: u32, job: &Job<'_, Sample>) -> Step {
    let (mut woken, begun) = (Vec::new(), Instant::now());
    loop {
        match engine.push(flow, job) {
            Step::Later => {}
            step => return step,
        }
        while !woken.contains(&flow) {
            assert!(begun.elapsed() < Duration::from_secs(10), "never woken: {job:?}");
            engine.poll(&mut woken);
        }
        woken.clear();
    }
}

/// Sends a head and a stretch of a file, however long that takes: so many pushes met a full socket.
fn send_stretch(
    engine: &mut Boxed,
    flow: u32,
    socket: &Rc<OwnedFd>,
    head: &[u8],
    file: &Arc<Sample>,
    (offset, bytes): (u64, u64),
) -> u32 {
    let (mut sent, end, mut full) = (0, head.len() as u64 + bytes, 0);
    while sent < end {
        let head = head.get(usize::try_from(sent).expect("small")..).unwrap_or_default();
        let done = sent.saturating_sub(end - bytes);
        let job =
            Job { socket, head, file, offset: offset + done, bytes: bytes - done, more: false, check: false };
        match outcome(engine, flow, &job) {
            Step::Sent(bytes) => sent += bytes,
            Step::Full => {
                full += 1;
                let limit = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&limit)).expect("polls");
                engine.error(flow, socket);
            }
            step => panic!("{step:?} at {sent}"),
        }
    }
    full
}

/// All that comes, the beginning of it slowly.
fn taken_slowly(receiver: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 5000];
    while let Ok(got @ 1..) = receiver.read(&mut piece) {
        bytes.extend_from_slice(&piece[..got]);
        if bytes.len() < 100_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    bytes
}

fn content(bytes: u32) -> Vec<u8> {
    (0..bytes / 4).flat_map(|word: u32| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

/// Head and stretch arrive as they are, over a socket that takes little at a time, from a place that no page begins at.
#[test]
fn bytes_arrive_intact() {
    let content = content(1 << 20);
    let file = Sample::new(&content);
    for (method, mut engine) in engines(4) {
        let (socket, mut receiver) = connection();
        let thread = std::thread::spawn(move || taken_slowly(&mut receiver));
        let stretch = (4097, 900_001);
        let full = send_stretch(&mut engine, 3, &socket, b"head", &file, stretch)
            + send_stretch(&mut engine, 3, &socket, b"", &file, (0, 1))
            + send_stretch(&mut engine, 3, &socket, b"another", &file, (1 << 19, 1 << 19));
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Write).expect("ends");
        let got = thread.join().expect("no panic");
        let want =
            [b"head", &content[4097..904_098], &content[..1], b"another", &content[1 << 19..]].concat();
        assert!(got == want, "{method}: {} of {} bytes", got.len(), want.len());
        assert!(full > 0, "{method}: the socket was never full");
        end(&mut engine, 3, &socket);
        engine.finish();
    }
}

/// A file that is shorter than it was, a peer that is gone.
#[test]
fn ends_are_told_apart() {
    for (method, mut engine) in engines(4) {
        let file = Sample::new(&content(8192));
        let (socket, receiver) = connection();
        let job = |offset, bytes, check| Job {
            socket: &socket,
            head: &[],
            file: &file,
            offset,
            bytes,
            more: false,
            check,
        };
        assert!(matches!(outcome(&mut engine, 0, &job(0, 100, false)), Step::Sent(1..)), "{method}");
        file.file.set_len(0).expect("cut");
        assert_eq!(outcome(&mut engine, 0, &job(4096, 4096, false)), Step::Gone, "{method}");
        end(&mut engine, 0, &socket);
        drop(receiver);

        let file = Sample::new(&content(8192));
        let (socket, receiver) = connection();
        sockopt::set_socket_linger(&receiver, Some(Duration::ZERO)).expect("set");
        drop(receiver);
        let job = Job {
            socket: &socket,
            head: b"x",
            file: &file,
            offset: 0,
            bytes: 100,
            more: false,
            check: false,
        };
        // The first send may be told what the reset left, the next one is.
        let broken = (0..3).any(|_| outcome(&mut engine, 0, &job) == Step::Broken);
        assert!(broken, "{method}");
        end(&mut engine, 0, &socket);
        engine.finish();
    }
}

/// Methods that read before they send look at the file once more between the two, where a body of long ago ends.
#[test]
fn a_changed_file_is_not_sent_to_its_end() {
    let file = Sample::new(&content(65_536));
    for (method, mut engine) in engines(4) {
        let reads = !matches!(
            method,
            Method::MmapWrite | Method::Sendfile | Method::Splice | Method::Vmsplice | Method::Zerocopy
        );
        let (socket, mut receiver) = connection();
        let job = |bytes, check| Job {
            socket: &socket,
            head: &[],
            file: &file,
            offset: 0,
            bytes,
            more: false,
            check,
        };
        file.changed.store(true, Ordering::Relaxed);
        if reads {
            assert_eq!(outcome(&mut engine, 0, &job(1000, true)), Step::Gone, "{method}");
        }
        // Not the last piece of it: that is looked at when it comes.
        assert!(matches!(outcome(&mut engine, 0, &job(65_536, true)), Step::Sent(1..)), "{method}");
        file.changed.store(false, Ordering::Relaxed);
        end(&mut engine, 0, &socket);
        // What was thrown away is not sent to somebody else.
        let (other, mut reader) = connection();
        assert!(send_stretch(&mut engine, 0, &other, b"", &file, (100, 900)) < 100);
        let mut got = vec![0; 900];
        reader.read_exact(&mut got).expect("bytes");
        assert!(got == content(65_536)[100..1000], "{method}");
        receiver.set_nonblocking(true).expect("a flag");
        let _ = receiver.read(&mut got);
        end(&mut engine, 0, &other);
        engine.finish();
    }
}

/// One buffer and many who wait for it: whoever is woken and gone takes nobody's turn along.
#[test]
fn a_waiter_that_is_gone_holds_up_nobody() {
    let file = Sample::new(&content(65_536));
    let mut waited = 0;
    for (method, mut engine) in engines(1) {
        let connections: Vec<_> = (0..5).map(|_| connection()).collect();
        let job = |flow: usize| Job {
            socket: &connections[flow].0,
            head: &[],
            file: &file,
            offset: 0,
            bytes: 1000,
            more: false,
            check: false,
        };
        let steps: Vec<Step> = (0..5u32).map(|flow| engine.push(flow, &job(flow as usize))).collect();
        if !matches!(method, Method::Uring | Method::DirectAio | Method::DirectUring) {
            continue;
        }
        assert_eq!(steps, [Step::Later; 5], "{method}");
        waited += 1;
        let (mut left, mut woken) = (vec![1u32, 2, 3, 4], Vec::new());
        let mut first = true;
        let begun = Instant::now();
        while !left.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{method}: {left:?} wait for ever");
            engine.poll(&mut woken);
            for flow in woken.drain(..) {
                // The first of those who waited ends as soon as it is woken, and another before.
                if left.contains(&flow) && first {
                    first = false;
                    for gone in [flow, left[left.len() - 1]] {
                        end(&mut engine, gone, &connections[gone as usize].0);
                        left.retain(|other| *other != gone);
                    }
                } else if let Step::Sent(_) = engine.push(flow, &job(flow as usize)) {
                    left.retain(|other| *other != flow);
                }
            }
        }
        (0..5).for_each(|flow: u32| end(&mut engine, flow, &connections[flow as usize].0));
        engine.finish();
    }
    assert!(waited > 0, "no engine of this kernel waits for buffers");
}

/// A client that resets with much under way: each send is done, or its connection's end is what is known of it.
#[test]
fn zero_copy_sends_are_all_accounted_for() {
    let file = Sample::new(&content(1 << 20));
    for (method, mut engine) in engines(8) {
        if !matches!(method, Method::Zerocopy | Method::UringZerocopy) {
            continue;
        }
        for flow in 0..6u32 {
            let (socket, receiver) = connection();
            let job = Job {
                socket: &socket,
                head: b"head",
                file: &file,
                offset: 0,
                bytes: 1 << 20,
                more: true,
                check: false,
            };
            while let Step::Sent(_) = outcome(&mut engine, flow, &job) {}
            match flow % 3 {
                // The peer resets, we do, and nobody does.
                0 => {
                    sockopt::set_socket_linger(&receiver, Some(Duration::ZERO)).expect("set");
                    drop(receiver);
                }
                1 => rustix::net::connect_unspec(&*socket).expect("a reset"),
                _ => rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both).expect("ends"),
            }
            engine.close(flow, &socket);
        }
        engine.finish();
        let counters = engine.counters();
        assert!(counters.zerocopy_sends >= 6, "{method}: {counters:?}");
        let known = counters.zerocopy_done + counters.zerocopy_abandoned;
        assert_eq!(counters.zerocopy_sends, known, "{method}: {counters:?}");
        if method == Method::UringZerocopy {
            assert_eq!(
                counters.zerocopy_abandoned, 0,
                "a buffer comes back, or is never used again: {counters:?}"
            );
        }
    }
}

/// Completions beyond what the ring has room for are waited for in the kernel, and come with the next call even if that submits nothing.
#[test]
fn completions_that_found_no_room_are_not_forgotten() {
    const FLOWS: u32 = 24;
    let file = Sample::new(&content(65_536));
    let plan = EnginePlan { chunk: 4096, pipe: 4096, buffers: 32 };
    for method in [Method::Uring, Method::UringSplice] {
        let engine = match uring::Uring::with_entries(method, &plan, 2) {
            Ok(engine) => engine,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        let mut engine: Boxed = Box::new(engine);
        let connections: Vec<_> = (0..FLOWS).map(|_| connection()).collect();
        let job = |flow: u32| Job {
            socket: &connections[flow as usize].0,
            head: &[],
            file: &file,
            offset: 0,
            bytes: 1000,
            more: false,
            check: false,
        };
        (0..FLOWS).for_each(|flow| assert_eq!(engine.push(flow, &job(flow)), Step::Later, "{method}"));
        let (mut left, mut woken) = ((0..FLOWS).collect::<Vec<u32>>(), Vec::new());
        let begun = Instant::now();
        while !left.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "{method}: {left:?} wait for ever");
            engine.poll(&mut woken);
            for flow in woken.drain(..) {
                match engine.push(flow, &job(flow)) {
                    Step::Sent(1000) => left.retain(|other| *other != flow),
                    step => panic!("{method}: {step:?}"),
                }
            }
        }
        (0..FLOWS).for_each(|flow| end(&mut engine, flow, &connections[flow as usize].0));
        engine.finish();
    }
}

/// What is kept of a file ends with the file: mapped, or in a pipe, it would keep its room on the disk.
#[test]
fn a_file_that_is_gone_is_let_go() {
    for (method, mut engine) in engines(4) {
        let file = Sample::new(&content(65_536));
        let (socket, mut receiver) = connection();
        // Three times, so that what is asked for again is kept, where it is.
        for _ in 0..3 {
            send_stretch(&mut engine, 0, &socket, b"", &file, (0, 1000));
            receiver.read_exact(&mut [0; 1000]).expect("bytes");
        }
        end(&mut engine, 0, &socket);
        engine.finish();
        engine.tidy();
        let keeps = Arc::strong_count(&file) > 1;
        assert_eq!(
            keeps,
            matches!(method, Method::MmapWrite | Method::Vmsplice | Method::Zerocopy),
            "{method}"
        );
        file.changed.store(true, Ordering::Relaxed);
        engine.tidy();
        assert_eq!(Arc::strong_count(&file), 1, "{method} keeps it");
    }
}

/// Which engines want to be asked before a body that goes in one push, and which look themselves.
#[test]
fn engines_say_when_to_look() {
    for (method, engine) in engines(1) {
        let look = match method {
            Method::MmapWrite | Method::Vmsplice | Method::Zerocopy => Look::Before,
            Method::ReadWrite | Method::Sendfile | Method::Splice => Look::Never,
            _ => Look::Between,
        };
        assert_eq!(engine.look(), look, "{method}");
    }
}

#[test]
fn errors_have_a_meaning() {
    for (errno, step) in [
        (Errno::AGAIN, Step::Full),
        (Errno::IO, Step::Failed),
        (Errno::NOBUFS, Step::Failed),
        (Errno::FAULT, Step::Gone),
        (Errno::PIPE, Step::Broken),
        (Errno::CONNRESET, Step::Broken),
    ] {
        assert_eq!(refused(errno), step, "{errno}");
    }
    assert_eq!(piece(u64::MAX, 7), 7);
    for method in Method::ALL {
        assert_eq!(method.name().parse(), Ok(method));
    }
    assert!("teleport".parse::<Method>().expect_err("none").contains("uring-splice"));
}

/// A completion is seen before its bell rings, now and then: that ring is heard when it comes, or the server would spin.
#[test]
fn a_bell_that_rings_late_is_heard() {
    let file = Sample::new(&content(64 << 10));
    let (socket, mut receiver) = connection();
    let Some((_, mut engine)) = engines(4).find(|(method, _)| *method == Method::DirectAio) else { return };
    let mut taken = vec![0; 4096];
    for round in 0..2000u64 {
        send_stretch(&mut engine, 0, &socket, &[], &file, (4096 * (round % 16), 4096));
        receiver.read_exact(&mut taken).expect("read");
        if round % 20 == 0 {
            std::thread::sleep(Duration::from_millis(1));
            engine.poll(&mut Vec::new());
            let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
            let bell = engine.bell().expect("a bell");
            let ringing = poll(&mut [PollFd::from_borrowed_fd(bell, PollFlags::IN)], Some(&nothing));
            assert_eq!(ringing, Ok(0), "round {round}");
        }
    }
}
