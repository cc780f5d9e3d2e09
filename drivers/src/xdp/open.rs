//! Opening one queue: which modes are tried, in which order, and what a refusal means.

use super::port::XdpPort;
use super::queue::{Bound, Loans, Manner, XdpQueue};
use super::socket::{METADATA_BYTES, Registration, Socket};
use super::umem::{Sharing, Umem};
use crate::error::OpenError;
use crate::link::Link;
use crate::queue::{Caps, Copying};
use ringbuf::Loan;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A queue is given free some time after its last socket was closed. So long we wait for it.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What may wait in the socket in copy mode, in bytes: the transmit ring, full of large packets, and more.
const SEND_BUFFER: i32 = 64 << 20;

/// Frames of one packet at most in copy mode: a head and `MAX_SKB_FRAGS` (`xsk_build_skb`, `net/xdp/xsk.c`).
const COPY_FRAMES: u32 = 18;

/// What the socket buys with each attempt, best first.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    zero_copy: bool,
    multi_buffer: bool,
    metadata: bool,
}

impl<'p> XdpQueue<'p> {
    /// Binds one queue of a port, and sends its frames here from now on.
    ///
    /// # Errors
    /// [`OpenError`]: the queue is held by another program, a mode was demanded that the device lacks, rights or memory
    /// are missing.
    pub fn open(umem: &Rc<Umem<'p>>, port: &Arc<XdpPort>, queue: u32) -> Result<Self, OpenError> {
        check_namespace(port)?;
        let pool = umem.pool();
        // Once for all attempts: a pool has 252 loans in its life.
        let loans = pool.open_loan().zip(pool.open_loan()).ok_or_else(|| {
            let step = format!("opening queue {queue}");
            OpenError::refused(&port.plan.interface, step, "a worker opens at most 126 queues in its life")
        })?;
        let mut refusal = None;
        for attempt in attempts(port, pool.frame_size()) {
            match bind(umem, port, queue, attempt, loans) {
                Ok(bound) => return finish(umem, port, queue, attempt, bound),
                // Only a lack of the feature is cured by asking for less.
                Err(error)
                    if matches!(error.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
                {
                    tracing::debug!("{error}; with {attempt:?}");
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            OpenError::refused(
                &port.plan.interface,
                format!("opening queue {queue}"),
                "no mode was left to try",
            )
        }))
    }
}

/// A number of an interface means another one in another namespace, and the socket is made in this thread's.
fn check_namespace(port: &XdpPort) -> Result<(), OpenError> {
    let name = &port.plan.interface;
    match Link::by_name(name) {
        Ok(link) if link.index == port.link.index && link.mac == port.link.mac => Ok(()),
        _ => Err(OpenError::refused(name, "opening a queue", "this thread does not see the interface of the port")
            .hint("open ports and queues in the same network namespace; or the interface was deleted in the meantime")),
    }
}

/// In zero-copy mode without multi-buffer a frame that is longer than a slot has room for is lost, or comes cut in two
/// that look whole: then it is not tried.
fn attempts(port: &XdpPort, slot: u16) -> Vec<Attempt> {
    let zero_copy: &[bool] = match port.plan.zero_copy {
        Some(true) => &[true],
        None if port.may_zero_copy() => &[true, false],
        _ => &[false],
    };
    let mut attempts = Vec::new();
    for zero_copy in zero_copy.iter().copied() {
        for (multi_buffer, metadata) in [(true, true), (true, false), (false, false)] {
            if !zero_copy || multi_buffer || port.fits_zero_copy(slot) {
                attempts.push(Attempt { zero_copy, multi_buffer, metadata });
            }
        }
    }
    attempts
}

fn bind<'p>(
    umem: &Rc<Umem<'p>>,
    port: &Arc<XdpPort>,
    queue: u32,
    attempt: Attempt,
    loans: (Loan, Loan),
) -> Result<Bound<'p>, OpenError> {
    let registration = Registration { unaligned: is_unaligned(umem, port), metadata: attempt.metadata };
    let sharing = Sharing { zero_copy: attempt.zero_copy, multi_buffer: attempt.multi_buffer, registration };
    let mut refusal = None;
    for sharer in umem.sharers(sharing).iter().map(Some).chain([None]) {
        match bind_as(umem, port, queue, (sharing, sharer), loans) {
            Ok(bound) => {
                umem.joined(sharing, &bound.socket);
                return Ok(bound);
            }
            // Bad file: the other socket has lost its interface. Another one, or a registration of our own, will do.
            Err(error) if sharer.is_some() && error.source.raw_os_error() != Some(libc::EBUSY) => {
                tracing::debug!("{error}; sharing the arena of another queue");
            }
            Err(error) => refusal = Some(error),
        }
        if refusal.is_some() {
            break;
        }
    }
    Err(refusal.unwrap_or_else(|| OpenError::refused(&port.plan.interface, "binding", "nothing was tried")))
}

/// Content may begin anywhere, so an arena that has some wants chunks that may too.
fn is_unaligned(umem: &Umem<'_>, port: &XdpPort) -> bool {
    port.plan.unaligned || umem.pool().arena().content_bytes() > 0
}

/// Makes a socket and its rings, fills the fill ring, and binds: with an arena registered here, or as a sharer.
fn bind_as<'p>(
    umem: &Rc<Umem<'p>>,
    port: &Arc<XdpPort>,
    queue: u32,
    (sharing, sharer): (Sharing, Option<&Rc<Socket>>),
    (receive, transmit): (Loan, Loan),
) -> Result<Bound<'p>, OpenError> {
    let (plan, pool) = (&port.plan, umem.pool());
    // Recalled here when the attempt fails: no device has the slots yet.
    let loans = Loans { pool, receive, transmit, zero_copy: false };
    let socket = Socket::new(&plan.interface, queue)?;
    if sharer.is_none() {
        socket.register(pool.arena(), sharing.registration)?;
    }
    let mut rings = socket.rings(plan.ring)?;
    // Before the bind: several drivers look at the fill ring only then, and misbehave when it is empty.
    let mut grant = rings.fill.reserve(plan.ring);
    while grant.room() > 0
        && let Some(slot) = pool.lend(loans.receive)
    {
        let _ = grant.push(pool.offset(slot));
    }
    grant.commit();
    socket.raise_limits(plan.ring, SEND_BUFFER);
    if let Some(micros) = plan.busy_poll {
        socket.prefer_busy_poll(i32::try_from(micros).unwrap_or(i32::MAX), 64)?;
    }
    let flags = match sharer {
        // The mode is that of the socket whose registration is shared.
        Some(_) => libc::XDP_SHARED_UMEM,
        None => mode_flags(sharing),
    };
    let share = sharer.map(|sharer| sharer.as_fd().as_raw_fd());
    bind_patiently(&socket, port.link.index, flags, share)
        .map_err(|source| refused(port, pool.frame_size(), queue, sharing, source))?;
    let headroom = if sharing.registration.metadata { METADATA_BYTES } else { 0 };
    Ok(Bound { socket: Rc::new(socket), rings, loans, headroom })
}

fn mode_flags(sharing: Sharing) -> u16 {
    libc::XDP_USE_NEED_WAKEUP
        | if sharing.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY }
        | if sharing.multi_buffer { libc::XDP_USE_SG } else { 0 }
}

/// Closing a socket gives its queue free only some time later, so a busy queue may be ours in a moment.
fn bind_patiently(socket: &Socket, ifindex: u32, flags: u16, share: Option<i32>) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match socket.bind(ifindex, flags, share) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && begin.elapsed() < BUSY_LIMIT => {
                std::thread::sleep(BUSY_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn refused(port: &XdpPort, slot: u16, queue: u32, sharing: Sharing, source: io::Error) -> OpenError {
    let name = &port.plan.interface;
    let errno = source.raw_os_error();
    let error = OpenError::new(name, format!("binding the AF_XDP socket to queue {queue}"), source);
    match errno {
        Some(libc::EBUSY) => error.hint(format!(
            "another program holds this queue: stop it (ss -apn --xdp shows it), or take other queues: af-xdp:{name},queues=.."
        )),
        // Zero-copy alone is there, but was not tried.
        Some(libc::EINVAL | libc::EOPNOTSUPP) if sharing.zero_copy && !port.fits_zero_copy(slot) => error.hint(format!(
            "frames of {} bytes do not fit one slot, and the driver ({}) cannot spread one over several in zero-copy mode: \
             lower the MTU (ip link set {name} mtu 1500), or leave mode=zero-copy out",
            port.frame_bytes(),
            port.link.driver
        )),
        Some(libc::EOPNOTSUPP) if sharing.zero_copy => error.hint(format!(
            "the driver ({}) has no zero-copy on this kernel; leave mode=zero-copy out to take what there is",
            port.link.driver
        )),
        Some(libc::EINVAL) => error.hint(format!(
            "the queue may be gone (ethtool -l {name} shows how many there are), or this kernel may lack a mode; \
             ringway doctor {name} says which"
        )),
        Some(libc::ENETDOWN) => error.hint(format!("the interface went down; bring it up: ip link set {name} up")),
        Some(libc::ENODEV) => error.hint("the interface was deleted in the meantime"),
        Some(libc::EPERM | libc::EACCES) => error.hint("run as root, or give the program CAP_NET_RAW"),
        Some(libc::ENOMEM | libc::ENOBUFS) => error.hint("the kernel has no memory for it: fewer queues, or a smaller ring=.."),
        Some(libc::ENOSPC) => error.hint(format!("the driver has no spare ring for XDP: use fewer queues, ethtool -L {name} combined N")),
        _ => error,
    }
}

/// Reads the truth back, and lets the program send this queue's frames to the socket.
fn finish<'p>(
    umem: &Rc<Umem<'p>>,
    port: &Arc<XdpPort>,
    queue: u32,
    attempt: Attempt,
    mut bound: Bound<'p>,
) -> Result<XdpQueue<'p>, OpenError> {
    let name = &port.plan.interface;
    let zero_copy = bound
        .socket
        .is_zero_copy()
        .map_err(|source| OpenError::new(name, format!("reading the mode of queue {queue}"), source))?;
    bound.loans.zero_copy = zero_copy;
    // In copy mode the kernel completes a checksum itself if the device can't; with zero-copy only the device can.
    let works = if zero_copy { port.link.xdp.transmit_checksum } else { port.kernel_adds_checksums() };
    let metadata = attempt.metadata && works;
    let manner = Manner {
        busy_poll: port.plan.busy_poll.is_some(),
        metadata,
        partial_checksums: port.link.partial_checksums(),
    };
    let frame_size = u32::from(umem.pool().frame_size());
    let caps = Caps {
        driver: "af-xdp",
        device: name.clone(),
        queue,
        copying: if zero_copy { Copying::ZeroCopy } else { Copying::KernelCopies },
        mode: mode_words(port, attempt, is_unaligned(umem, port), metadata),
        packet_bytes: port.frame_bytes(),
        buffer_bytes: frame_size - u32::from(bound.headroom),
        packet_frames: match (attempt.multi_buffer, zero_copy) {
            (false, _) => 1,
            (true, false) => COPY_FRAMES,
            (true, true) => port.link.xdp.zero_copy_segments.clamp(1, COPY_FRAMES),
        },
        checksum: metadata,
        segmentation: false,
    };
    port.open_queue(queue, bound.socket.as_fd())?;
    Ok(XdpQueue::new(umem, port, bound, caps, manner))
}

fn mode_words(port: &XdpPort, attempt: Attempt, unaligned: bool, metadata: bool) -> String {
    let mut words = vec![port.program.mode().to_string(), "need-wakeup".to_owned()];
    if attempt.multi_buffer {
        words.push("multi-buffer".to_owned());
    }
    if unaligned {
        words.push("unaligned".to_owned());
    }
    if metadata {
        words.push("tx-checksum".to_owned());
    }
    if let Some(micros) = port.plan.busy_poll {
        words.push(format!("busy-poll {micros} µs"));
    }
    words.join(", ")
}
