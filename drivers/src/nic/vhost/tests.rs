//! A port against back ends of our own, which say what they like.

use super::{VhostPlan, VhostPort};
use ringbuf::{Arena, ArenaPlan, Pool};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const GET_VRING_BASE: u32 = 11;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-vhost-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn plan(path: &Path, options: &str) -> VhostPlan {
    let spec = format!("vhost-user:{}{options}", path.display());
    VhostPlan::from_spec(&spec.parse().expect("a port")).expect("a plan")
}

fn pool() -> Pool {
    let plan = ArenaPlan { frames: 64, frame_size: 2048, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::shared(&plan).expect("small"))
}

/// What `doing` returns, which must not take longer than that.
fn within<T: Send + 'static>(seconds: u64, doing: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waits) = channel();
    let _detached = std::thread::spawn(move || done.send(doing()));
    waits.recv_timeout(Duration::from_secs(seconds)).expect("it ends in time")
}

/// The other end of the socket: knows version 1 of virtio, and nothing beyond.
struct BackEnd {
    stream: UnixStream,
    /// The memory that it was handed.
    memory: Vec<OwnedFd>,
}

impl BackEnd {
    fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        Self { stream, memory: Vec::new() }
    }

    /// Hears one message and answers it; `None` when the front end has hung up.
    fn hear(&mut self) -> Option<u32> {
        let mut head = [0; 12];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut files = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut head)];
        let got = recvmsg(&self.stream, parts, &mut files, RecvFlags::WAITALL).ok()?.bytes;
        for message in files.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.memory.extend(files);
            }
        }
        if got < head.len() {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut body = vec![0; word(8) as usize];
        self.stream.read_exact(&mut body).ok()?;
        match word(0) {
            GET_FEATURES => self.answer(GET_FEATURES, &(1u64 << 32).to_ne_bytes()),
            GET_VRING_BASE => self.answer(GET_VRING_BASE, &body),
            _ => {}
        }
        Some(word(0))
    }

    /// Hears all up to the first of these.
    fn hear_to(&mut self, last: u32) -> bool {
        while let Some(request) = self.hear() {
            if request == last {
                return true;
            }
        }
        false
    }

    fn answer(&self, request: u32, body: &[u8]) {
        // Version 1, a reply.
        let head = [request, 1 | 4, u32::try_from(body.len()).expect("short")];
        let message: Vec<u8> =
            head.iter().flat_map(|word| word.to_ne_bytes()).chain(body.iter().copied()).collect();
        // Whoever has hung up hears nothing.
        let _ = (&self.stream).write_all(&message);
    }

    /// Takes the rings.
    fn take_rings(&mut self) {
        // Before them it was asked once already what it can do.
        assert!(self.hear_to(SET_MEM_TABLE) && self.hear_to(GET_FEATURES), "the rings are handed over");
    }

    /// Goes on answering until the front end hangs up; what it has heard.
    fn stay(mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.hear()).collect()
    }
}

/// Whatever lies at the path but a socket that nobody listens at stays there.
#[test]
fn only_an_abandoned_socket_is_removed() {
    let folder = Folder::new("remove");
    let path = folder.socket();
    std::fs::write(&path, "dear").expect("writes");
    let error = VhostPort::open(plan(&path, ",server=on,wait=0")).expect_err("a file").to_string();
    assert!(
        error.contains("something else at this path") && error.contains("name a path where nothing is"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "dear");
    std::fs::remove_file(&path).expect("ours");

    let listener = UnixListener::bind(&path).expect("binds");
    let error = VhostPort::open(plan(&path, ",server=on,wait=0")).expect_err("in use").to_string();
    assert!(error.contains("a process listens there"), "{error}");
    drop(listener);
    assert!(path.exists(), "nobody listens, and the socket is there");
    let error = VhostPort::open(plan(&path, ",server=on,wait=0")).expect_err("nobody").to_string();
    assert!(error.contains("nobody connects to it"), "{error}");
}

/// A port that does not open leaves no socket.
#[test]
fn a_port_that_fails_takes_its_socket_along() {
    let folder = Folder::new("along");
    let path = folder.socket();
    VhostPort::open(plan(&path, ",server=on,wait=0")).expect_err("nobody comes");
    assert!(!path.exists(), "the socket has stayed");
}

/// A back end that accepts and says nothing: the opening ends in time, in words.
#[test]
fn a_silent_back_end_is_not_waited_for() {
    let folder = Folder::new("silent");
    let path = folder.socket();
    let _listener = UnixListener::bind(&path).expect("binds");
    let begin = Instant::now();
    let error = within(10, move || VhostPort::open(plan(&path, ",wait=1")).expect_err("silence").to_string());
    assert!(error.contains("no answer"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(4), "as long as was asked for: {:?}", begin.elapsed());
}

/// A back end that falls silent over the rings, or with them, does not keep the port from ending.
#[test]
fn a_back_end_that_falls_silent_does_not_keep_us() {
    for has_rings in [false, true] {
        let folder = Folder::new(&format!("falls{has_rings}"));
        let path = folder.socket();
        let listener = UnixListener::bind(&path).expect("binds");
        let back = std::thread::spawn(move || {
            let mut back = BackEnd::of(listener.accept().expect("a front end").0);
            assert!(back.hear_to(GET_FEATURES));
            if has_rings {
                back.take_rings();
            }
            // Open as long as the thread is not joined.
            back
        });
        within(20, move || {
            let port = VhostPort::open(plan(&path, "")).expect("opens");
            let pool = pool();
            let queue = port.open_queue(&pool, 0).expect("opens");
            let _ = back.join().map(|back| {
                drop((queue, port));
                drop(back);
            });
        });
    }
}

/// A back end can write the memory; it cannot take it away from under us.
#[test]
fn a_back_end_cannot_cut_the_memory_off() {
    let folder = Folder::new("cut");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).expect("binds");
    let back = std::thread::spawn(move || {
        let mut back = BackEnd::of(listener.accept().expect("a front end").0);
        back.take_rings();
        let files = std::mem::take(&mut back.memory);
        let cut = files.iter().take(2).map(|file| rustix::fs::ftruncate(file, 0)).collect::<Vec<_>>();
        let grown = files.iter().take(2).map(|file| rustix::fs::ftruncate(file, 1 << 30)).collect::<Vec<_>>();
        back.stay();
        (cut, grown)
    });
    let port = VhostPort::open(plan(&path, "")).expect("opens");
    let pool = pool();
    let queue = port.open_queue(&pool, 0).expect("opens");
    port.wait_ready().expect("it takes the rings");
    std::thread::sleep(Duration::from_millis(100));
    // Not touched before the back end says what came of it: it would be our end.
    let queue = std::mem::ManuallyDrop::new(queue);
    drop(port);
    let refused = vec![Err(rustix::io::Errno::PERM); 2];
    assert_eq!(back.join().expect("a back end"), (refused.clone(), refused));
    drop(std::mem::ManuallyDrop::into_inner(queue));
}

/// Something said unasked is not the end of a back end: it may copy still, and keeps the rings.
#[test]
fn what_is_said_unasked_does_not_end_it() {
    let folder = Folder::new("unasked");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).expect("binds");
    let back = std::thread::spawn(move || {
        let mut back = BackEnd::of(listener.accept().expect("a front end").0);
        back.take_rings();
        (&back.stream).write_all(b"?").expect("a front end");
        let heard = back.stay();
        listener.set_nonblocking(true).expect("a socket");
        (heard, listener.accept().is_ok())
    });
    let port = VhostPort::open(plan(&path, "")).expect("opens");
    let pool = pool();
    let queue = port.open_queue(&pool, 0).expect("opens");
    port.wait_ready().expect("it takes the rings");
    std::thread::sleep(Duration::from_millis(300));
    drop((queue, port));
    let (heard, came_again) = back.join().expect("a back end");
    assert_eq!(heard, [GET_VRING_BASE; 2], "the rings are taken back, and in order");
    assert!(!came_again, "nobody connects while it lives");
}

/// A back end that does not take the rings: that is said, as an error of the opening.
#[test]
fn refused_rings_are_an_error() {
    let folder = Folder::new("refused");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).expect("binds");
    let back = std::thread::spawn(move || {
        let mut back = BackEnd::of(listener.accept().expect("a front end").0);
        assert!(back.hear_to(SET_MEM_TABLE), "the memory is handed over");
        listener
    });
    let port = VhostPort::open(plan(&path, "")).expect("opens");
    let pool = pool();
    let _queue = port.open_queue(&pool, 0).expect("opens");
    let error = port.wait_ready().expect_err("refused").to_string();
    assert!(error.contains("handing the rings over to the back end"), "{error}");
    drop(back.join().expect("a back end"));
}

/// One that took them, and refuses them when it comes back, is tried ever more seldom.
#[test]
fn who_refuses_again_and_again_is_asked_more_seldom() {
    let folder = Folder::new("again");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).expect("binds");
    let back = std::thread::spawn(move || {
        BackEnd::of(listener.accept().expect("a front end").0).take_rings();
        // Read by nobody, the queue does not begin anew before the test tends it.
        let mut times = 0;
        let begin = Instant::now();
        listener.set_nonblocking(true).expect("a socket");
        while begin.elapsed() < Duration::from_secs(2) {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("a socket");
                    let _ = BackEnd::of(stream).hear_to(SET_MEM_TABLE);
                    times += 1;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        times
    });
    let port = VhostPort::open(plan(&path, "")).expect("opens");
    let pool = pool();
    let mut queue = port.open_queue(&pool, 0).expect("opens");
    port.wait_ready().expect("it takes the rings");
    while !back.is_finished() {
        queue.tend();
        std::thread::sleep(Duration::from_millis(1));
    }
    let times = back.join().expect("a back end");
    assert!((2..=6).contains(&times), "0, 100, 300, 700, 1500 ms: {times}");
}
