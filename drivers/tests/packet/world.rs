//! Namespaces, hosts and packets to test with.

use drivers::QueuePair;
use drivers::packet::{PacketPlan, PacketQueue};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body` in a thread with a network namespace of its own, or says that it can't.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    let test = test.to_owned();
    let run = move || {
        if unshare().is_err() {
            println!("SKIPPED: {test}: needs CAP_NET_ADMIN + CAP_NET_RAW");
            return;
        }
        body();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread to a new network namespace in which no interface speaks unasked.
pub(crate) fn unshare() -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "the unsafe one guards file tables, which a network namespace leaves alone"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
    // A kernel without IPv6 is as quiet.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    Ok(())
}

pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth `left` - `right`, both ends here and up.
pub(crate) fn veth(mtu: u32) {
    ip(&format!("link add left mtu {mtu} type veth peer name right mtu {mtu}"));
    ip("link set left up");
    ip("link set right up");
}

pub(crate) fn pool(frames: u32, frame_size: u32) -> Pool {
    let plan = ArenaPlan { frames, frame_size, content_bytes: 0, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("memory"))
}

pub(crate) fn open<'p>(pool: &'p Pool, interface: &str) -> PacketQueue<'p> {
    PacketQueue::open(pool, &PacketPlan::new(interface)).expect("the interface is there and up")
}

pub(crate) fn pair(pool: &Pool) -> (PacketQueue<'_>, PacketQueue<'_>) {
    (open(pool, "left"), open(pool, "right"))
}

/// An Ethernet packet of `bytes` bytes that only `seed` makes.
pub(crate) fn packet(bytes: usize, seed: u8) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5];
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    packet.resize_with(bytes, || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    packet
}

/// Puts a packet into `burst`, in frames of at most `cut` bytes.
pub(crate) fn put<'p>(pool: &'p Pool, burst: &mut Burst<'p>, packet: &[u8], cut: usize) {
    let pieces = packet.chunks(cut).count();
    for (i, piece) in packet.chunks(cut).enumerate() {
        let mut frame = pool.alloc().expect("the pool is large enough");
        frame.extend(piece).expect("cut to fit");
        frame.set_continues(i + 1 < pieces);
        burst.push(frame).expect("the burst has room");
    }
}

/// Takes whole packets out of a burst.
pub(crate) fn packets(burst: &mut Burst<'_>) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for frame in burst.drain() {
        all.last_mut().expect("never empty").extend_from_slice(&frame);
        if !frame.continues() {
            all.push(Vec::new());
        }
    }
    all.pop();
    all
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Sends all of `out`, and receives until `count` packets came or time is up.
pub(crate) fn carry<'p>(
    from: &mut PacketQueue<'p>,
    to: &mut PacketQueue<'p>,
    out: &mut Burst<'p>,
    count: usize,
) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut burst = Burst::new();
    while received.len() < count && Instant::now() < deadline {
        from.transmit(out);
        from.tend();
        to.receive(&mut burst);
        received.append(&mut packets(&mut burst));
        to.tend();
    }
    received
}

pub(crate) fn assert_same(sent: &[Vec<u8>], received: &[Vec<u8>]) {
    let lengths = |all: &[Vec<u8>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(sent), lengths(received));
    assert!(sent == received, "the content differs");
}

pub(crate) fn assert_all_home(pool: &Pool) {
    let census = pool.census();
    assert_eq!(census.free, census.total(), "{census:?}");
}

/// Runs `body` as a host: a thread in its own namespace, with `interface` moved there from here.
pub(crate) fn host(
    interface: &str,
    address: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> thread::JoinHandle<()> {
    let (ready, is_ready) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel();
    let (set_up, is_set_up) = mpsc::channel();
    let name = interface.to_owned();
    let host = thread::spawn(move || {
        unshare().expect("the first one went well");
        ready.send(rustix::thread::gettid()).expect("waited for");
        is_moved.recv().expect("sent below");
        ip(&format!("link set dev {name} up"));
        ip(&format!("addr add {address} dev {name}"));
        set_up.send(()).expect("waited for");
        body();
    });
    let thread = is_ready.recv().expect("sent first").as_raw_nonzero();
    ip(&format!("link set dev {interface} netns {thread}"));
    moved.send(()).expect("waited for");
    is_set_up.recv().expect("sent last");
    host
}

/// Whether a sleeping worker would wake.
pub(crate) fn is_readable(queue: &PacketQueue<'_>) -> bool {
    let fd = queue.waker().expect("a socket");
    let mut asked = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut asked, Some(&now)).expect("poll works") > 0
}
