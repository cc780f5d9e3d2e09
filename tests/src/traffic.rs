//! The peers: TCP, UDP and ping of the kernel's own, from one host of a laboratory to the other.
//!
//! Each ends by its deadline. Content is pseudo-random from a seed, so that a byte that was changed, lost or repeated shows.

use crate::Outcome;
use dataplane::lab::{Lab, Side};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pseudo-random bytes: the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Content(u64);

impl Content {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Fills `buffer` with what comes next.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// FNV-1a, 64 bits: enough to tell damage by accident, and no dependency.
#[derive(Clone, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Takes in more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash of all bytes so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// What a TCP transfer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Hash of what was sent.
    pub sent: u64,
    /// Hash of what arrived.
    pub received: u64,
    /// From connecting to the last byte.
    pub took: Duration,
}

impl Transfer {
    /// Whether what arrived is what was sent.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.sent == self.received
    }
}

/// Sends `bytes` bytes of seeded content over one TCP connection from one host to the other.
///
/// # Errors
/// When no connection comes about, it breaks, or the deadline passes; the sentence says how far it came.
pub fn tcp(lab: &Lab, from: Side, bytes: u64, seed: u64, deadline: Duration) -> Outcome<Transfer> {
    tcp_to(lab, from, from.other().ipv4().into(), bytes, seed, deadline)
}

/// As [`tcp`], to an address of the other host's, IPv4 or IPv6.
///
/// # Errors
/// As [`tcp`].
pub fn tcp_to(
    lab: &Lab,
    from: Side,
    address: IpAddr,
    bytes: u64,
    seed: u64,
    deadline: Duration,
) -> Outcome<Transfer> {
    let to = from.other();
    let end = Instant::now() + deadline;
    let listener = lab.host(to).run(|| TcpListener::bind((address, 0)))??;
    let address = listener.local_addr()?;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || receive_all(&listener, end));
        let sent = lab.host(from).run(|| -> Outcome<u64> {
            let stream =
                TcpStream::connect_timeout(&address, left(end)).map_err(|e| format!("connecting: {e}"))?;
            send_all(stream, bytes, seed, end)
        });
        let received = receiver.join().map_err(|_| "the receiver panicked")?;
        let sent = sent?.map_err(|error| format!("tcp from {}: {error}", from.name()))?;
        let (arrived, received) = received.map_err(|error| format!("tcp to {}: {error}", to.name()))?;
        Ok(Transfer { bytes: arrived, sent, received, took: begin.elapsed() })
    })
}

fn send_all(mut stream: TcpStream, bytes: u64, seed: u64, end: Instant) -> Outcome<u64> {
    let (mut content, mut hash, mut buffer) = (Content::new(seed), Hash::default(), vec![0; 64 * 1024]);
    let mut rest = bytes;
    while rest > 0 {
        let part = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        content.fill(&mut buffer[..part]);
        hash.add(&buffer[..part]);
        let mut todo = &buffer[..part];
        while !todo.is_empty() {
            stream.set_write_timeout(Some(left(end)))?;
            let written = stream.write(todo).map_err(|e| format!("{} bytes were not yet sent: {e}", rest))?;
            todo = &todo[written..];
            if Instant::now() > end {
                return Err(format!("deadline passed, {rest} bytes were not yet sent").into());
            }
        }
        rest -= part as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The peer closes when it has all: wait for that, so that no reset overtakes the data.
    stream.set_read_timeout(Some(left(end)))?;
    stream.read(&mut [0; 1]).map_err(|e| format!("all bytes were sent, but not acknowledged: {e}"))?;
    Ok(hash.value())
}

fn receive_all(listener: &TcpListener, end: Instant) -> Outcome<(u64, u64)> {
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(format!("nobody connected: {error}").into()),
        }
    };
    stream.set_nonblocking(false)?;
    let (mut hash, mut buffer, mut arrived) = (Hash::default(), vec![0; 256 * 1024], 0);
    loop {
        stream.set_read_timeout(Some(left(end)))?;
        let read = stream.read(&mut buffer).map_err(|e| format!("{arrived} bytes arrived, then: {e}"))?;
        if read == 0 {
            return Ok((arrived, hash.value()));
        }
        hash.add(&buffer[..read]);
        arrived += read as u64;
        if Instant::now() > end {
            return Err(format!("deadline passed after {arrived} bytes").into());
        }
    }
}

/// A burst of UDP datagrams. Each carries its number and content made from it.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// How many.
    pub datagrams: u32,
    /// Bytes of payload in each, at least 8.
    pub payload: usize,
    /// Datagrams sent back to back before a pause. A number of at most a queue's depth asks a forwarder for no loss.
    pub together: u32,
    /// The pause after that many.
    pub pause: Duration,
}

impl Burst {
    /// Thirty-two at a time with a millisecond between: what anything that works carries without a loss.
    #[must_use]
    pub fn gentle(datagrams: u32, payload: usize) -> Self {
        Self { datagrams, payload, together: 32, pause: Duration::from_millis(1) }
    }

    /// As fast as one thread sends: an overload.
    #[must_use]
    pub fn flood(datagrams: u32, payload: usize) -> Self {
        Self { datagrams, payload, together: datagrams.max(1), pause: Duration::ZERO }
    }
}

/// What became of a [`Burst`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Different datagrams that arrived whole.
    pub distinct: u32,
    /// Datagrams that arrived again.
    pub repeated: u32,
    /// Datagrams whose content is not what was sent.
    pub damaged: u32,
    /// Datagrams that arrived after one with a higher number.
    pub late: u32,
}

/// Sends a burst from one host to the other. Ends when all have arrived, or half a second after the last.
///
/// # Errors
/// When a socket cannot be had, or the payload is too small for the number in it.
pub fn udp(lab: &Lab, from: Side, burst: Burst) -> Outcome<Arrived> {
    if burst.payload < 8 {
        return Err(format!("a payload of {} bytes has no room for a number of 8", burst.payload).into());
    }
    let to = from.other();
    let receiver = lab.host(to).run(|| UdpSocket::bind((to.ipv4(), 0)))??;
    let address = receiver.local_addr()?;
    // What is lost in the receiver's own socket would be blamed on the forwarder.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, 64 << 20)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&receiver, 64 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let all_sent = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(&receiver, burst, &all_sent));
        let sent = lab.host(from).run(|| -> Outcome<()> {
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            sender.connect(address)?;
            let mut datagram = vec![0; burst.payload];
            for number in 0..burst.datagrams {
                write_datagram(number, &mut datagram);
                match sender.send(&datagram) {
                    Ok(_) => {}
                    // A full queue at the sender's own interface is a loss like any other.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                    Err(error) => return Err(format!("udp from {}: {error}", from.name()).into()),
                }
                if (number + 1) % burst.together == 0 && !burst.pause.is_zero() {
                    std::thread::sleep(burst.pause);
                }
            }
            Ok(())
        });
        all_sent.store(true, Ordering::Release);
        let arrived = counting.join().map_err(|_| "the receiver panicked")?;
        sent??;
        arrived
    })
}

fn write_datagram(number: u32, datagram: &mut [u8]) {
    datagram[..8].copy_from_slice(&u64::from(number).to_be_bytes());
    Content::new(number.into()).fill(&mut datagram[8..]);
}

fn count(receiver: &UdpSocket, burst: Burst, all_sent: &AtomicBool) -> Outcome<Arrived> {
    let mut seen = vec![false; burst.datagrams as usize];
    let (mut arrived, mut highest) = (Arrived::default(), 0);
    let (mut datagram, mut expected) = (vec![0; burst.payload + 1], vec![0; burst.payload]);
    let mut last = Instant::now();
    while arrived.distinct < burst.datagrams {
        let length = match receiver.recv(&mut datagram) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if !all_sent.load(Ordering::Acquire) {
                    last = Instant::now();
                } else if last.elapsed() > Duration::from_millis(500) {
                    break;
                }
                continue;
            }
            Err(error) => return Err(format!("receiving: {error}").into()),
        };
        last = Instant::now();
        let number = datagram[..length].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let Some(number) = number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n < burst.datagrams) else {
            arrived.damaged += 1;
            continue;
        };
        write_datagram(number, &mut expected);
        if datagram[..length] != expected[..] {
            arrived.damaged += 1;
        } else if std::mem::replace(&mut seen[number as usize], true) {
            arrived.repeated += 1;
        } else {
            arrived.distinct += 1;
            arrived.late += u32::from(number < highest);
            highest = highest.max(number);
        }
    }
    Ok(arrived)
}

/// Whether the other host answers `count` echo requests within `seconds` (command `ping`, package iputils-ping).
///
/// # Errors
/// What `ping` printed when not all were answered.
pub fn ping(lab: &Lab, from: Side, count: u32, seconds: u32) -> Outcome<()> {
    let (count, seconds) = (count.to_string(), seconds.to_string());
    let to = from.other().ipv4().to_string();
    let mut command = lab.host(from).command("ping");
    let output = command.args(["-n", "-i", "0.01", "-c", &count, "-w", &seconds, &to]).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    // With a count and a deadline, success means that many answers came in time (ping(8)).
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ping from {}: {printed}{}", from.name(), String::from_utf8_lossy(&output.stderr)).into())
}

/// Time that is left; never zero, which sockets take for "no limit".
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
