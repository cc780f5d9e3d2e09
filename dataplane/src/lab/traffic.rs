//! The peers: TCP, UDP and ping of the kernel's own, from one host of a laboratory to the other.
//!
//! Each ends by its deadline. Content is pseudo-random from a seed, so that a byte that was changed, lost or repeated shows.

use super::{Lab, Outcome, Side};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
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

/// FNV-1a over words of 8 bytes, folded: enough to tell damage by accident, several times as fast as byte by byte, and
/// no dependency. How the bytes are cut into calls of [`add`](Self::add) makes no difference.
#[derive(Clone, Debug)]
pub struct Hash {
    state: u64,
    /// Bytes that do not fill a word yet, and how many.
    rest: [u8; 8],
    held: usize,
}

impl Default for Hash {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, rest: [0; 8], held: 0 }
    }
}

impl Hash {
    /// Takes in more bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        if self.held > 0 {
            let (first, others) = bytes.split_at(bytes.len().min(8 - self.held));
            self.rest[self.held..][..first.len()].copy_from_slice(first);
            self.held += first.len();
            bytes = others;
            if self.held < 8 {
                return;
            }
            self.state = mixed(self.state, u64::from_le_bytes(self.rest));
            self.held = 0;
        }
        let (words, rest) = bytes.as_chunks();
        self.state = words.iter().fold(self.state, |state, word| mixed(state, u64::from_le_bytes(*word)));
        self.rest[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    /// The hash of all bytes so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.rest[..self.held].iter().fold(self.state, |state, byte| mixed(state, u64::from(*byte) + 1))
    }
}

fn mixed(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(0x0100_0000_01b3);
    // Products carry upwards only; folding lets high bits of a word reach the low ones.
    product ^ (product >> 32)
}

/// What a TCP transfer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that were sent.
    pub sent_bytes: u64,
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
    let end = End { at: Instant::now() + deadline, stop: None };
    transfer(lab, from, address, Amount { bytes, until: None }, seed, end)
}

/// Sends seeded content over one TCP connection for `time`, then ends it and waits until all has arrived.
///
/// # Errors
/// As [`tcp`], with a deadline of five seconds more than `time`; also when `stop` is set meanwhile.
pub fn tcp_for(lab: &Lab, from: Side, time: Duration, seed: u64, stop: &AtomicBool) -> Outcome<Transfer> {
    let now = Instant::now();
    let end = End { at: now + time + Duration::from_secs(5), stop: Some(stop) };
    let amount = Amount { bytes: u64::MAX, until: Some(now + time) };
    transfer(lab, from, from.other().ipv4().into(), amount, seed, end)
}

/// How much to send: so many bytes, or as many as there is time for.
#[derive(Clone, Copy)]
struct Amount {
    bytes: u64,
    until: Option<Instant>,
}

fn transfer(
    lab: &Lab,
    from: Side,
    address: IpAddr,
    amount: Amount,
    seed: u64,
    end: End<'_>,
) -> Outcome<Transfer> {
    let to = from.other();
    let listener = lab.host(to).run(|| TcpListener::bind((address, 0)))??;
    let address = listener.local_addr()?;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || receive_all(&listener, end));
        let sent = lab.host(from).run(|| -> Outcome<(u64, u64)> {
            let stream =
                TcpStream::connect_timeout(&address, end.left()).map_err(|e| format!("connecting: {e}"))?;
            send_all(stream, amount, seed, end)
        });
        let received = receiver.join().map_err(|_| "the receiver panicked")?;
        let (sent_bytes, sent) = sent?.map_err(|error| format!("tcp from {}: {error}", from.name()))?;
        let (arrived, received) = received.map_err(|error| format!("tcp to {}: {error}", to.name()))?;
        Ok(Transfer { sent_bytes, bytes: arrived, sent, received, took: begin.elapsed() })
    })
}

/// Returns how many bytes, and their hash.
fn send_all(mut stream: TcpStream, amount: Amount, seed: u64, end: End<'_>) -> Outcome<(u64, u64)> {
    let (mut content, mut hash, mut buffer) = (Content::new(seed), Hash::default(), vec![0; 64 * 1024]);
    let mut rest = amount.bytes;
    stream.set_write_timeout(Some(LOOK_EVERY))?;
    while rest > 0 && amount.until.is_none_or(|until| Instant::now() < until) {
        let part = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        content.fill(&mut buffer[..part]);
        hash.add(&buffer[..part]);
        let mut todo = &buffer[..part];
        while !todo.is_empty() {
            match stream.write(todo) {
                Ok(written) => todo = &todo[written..],
                Err(error) if waits(&error) => {}
                Err(error) => return Err(format!("{rest} bytes were not yet sent: {error}").into()),
            }
            end.check().map_err(|why| format!("{why}, {rest} bytes were not yet sent"))?;
        }
        rest -= part as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The peer closes when it has all: wait for that, so that no reset overtakes the data.
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    loop {
        match stream.read(&mut [0; 1]) {
            Ok(_) => return Ok((amount.bytes - rest, hash.value())),
            Err(error) if waits(&error) => {
                end.check().map_err(|why| format!("all bytes were sent, but not acknowledged: {why}"))?;
            }
            Err(error) => {
                return Err(format!("all bytes were sent, but not acknowledged: {error}").into());
            }
        }
    }
}

/// Returns how many bytes, and their hash.
fn receive_all(listener: &TcpListener, end: End<'_>) -> Outcome<(u64, u64)> {
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock && end.check().is_ok() => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(format!("nobody connected: {error}").into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    let (mut hash, mut buffer, mut arrived) = (Hash::default(), vec![0; 256 * 1024], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((arrived, hash.value())),
            Ok(read) => {
                hash.add(&buffer[..read]);
                arrived += read as u64;
            }
            Err(error) if waits(&error) => {}
            Err(error) => return Err(format!("{arrived} bytes arrived, then: {error}").into()),
        }
        end.check().map_err(|why| format!("{why} after {arrived} bytes"))?;
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
    let never = AtomicBool::new(false);
    Ok(datagrams(lab, from, burst, None, &never)?.arrived)
}

/// What became of datagrams that were sent as fast as one thread sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// Datagrams that the sender's socket took.
    pub sent: u32,
    /// How long it took to send them.
    pub took: Duration,
    /// What became of them.
    pub arrived: Arrived,
}

/// Sends datagrams from one host to the other as fast as one thread sends, for `time` or until `stop` is set.
///
/// # Errors
/// As [`udp`].
pub fn udp_for(lab: &Lab, from: Side, payload: usize, time: Duration, stop: &AtomicBool) -> Outcome<Flood> {
    datagrams(lab, from, Burst::flood(u32::MAX, payload), Some(Instant::now() + time), stop)
}

fn datagrams(
    lab: &Lab,
    from: Side,
    burst: Burst,
    until: Option<Instant>,
    stop: &AtomicBool,
) -> Outcome<Flood> {
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
        let counting = scope.spawn(|| count(&receiver, burst, &all_sent, stop));
        let sent = lab.host(from).run(|| send_datagrams(address, burst, until, stop));
        all_sent.store(true, Ordering::Release);
        let arrived = counting.join().map_err(|_| "the receiver panicked")?;
        let (sent, took) = sent?.map_err(|error| format!("udp from {}: {error}", from.name()))?;
        Ok(Flood { sent, took, arrived: arrived? })
    })
}

/// Returns how many the socket took, and how long that took.
fn send_datagrams(
    to: SocketAddr,
    burst: Burst,
    until: Option<Instant>,
    stop: &AtomicBool,
) -> Outcome<(u32, Duration)> {
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.connect(to)?;
    let (mut datagram, mut sent, begin) = (vec![0; burst.payload], 0, Instant::now());
    for number in 0..burst.datagrams {
        if stop.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        write_datagram(number, &mut datagram);
        match sender.send(&datagram) {
            Ok(_) => sent += 1,
            // A full queue at the sender's own interface is a loss like any other.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
            Err(error) => return Err(error.into()),
        }
        if (number + 1) % burst.together == 0 && !burst.pause.is_zero() {
            std::thread::sleep(burst.pause);
        }
    }
    Ok((sent, begin.elapsed()))
}

fn write_datagram(number: u32, datagram: &mut [u8]) {
    datagram[..8].copy_from_slice(&u64::from(number).to_be_bytes());
    Content::new(number.into()).fill(&mut datagram[8..]);
}

fn count(receiver: &UdpSocket, burst: Burst, all_sent: &AtomicBool, stop: &AtomicBool) -> Outcome<Arrived> {
    let mut seen = Vec::new();
    let (mut arrived, mut highest) = (Arrived::default(), 0);
    let (mut datagram, mut expected) = (vec![0; burst.payload + 1], vec![0; burst.payload]);
    let mut last = Instant::now();
    while arrived.distinct < burst.datagrams && !stop.load(Ordering::Relaxed) {
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
        if seen.len() <= number as usize {
            seen.resize((number as usize + 1).next_power_of_two(), false);
        }
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

/// How often whoever waits looks at the clock and at the word to stop.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Nothing has happened within [`LOOK_EVERY`].
pub(super) fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) at: Instant,
    pub(super) stop: Option<&'a AtomicBool>,
}

impl End<'_> {
    /// # Errors
    /// Why it is time to give up, when it is.
    pub(super) fn check(self) -> Result<(), &'static str> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err("told to stop");
        }
        if Instant::now() > self.at { Err("deadline passed") } else { Ok(()) }
    }

    /// Time that is left; never zero, which sockets take for "no limit".
    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_does_not_see_how_bytes_are_cut_but_sees_each_of_them() {
        let mut bytes = vec![0; 1003];
        Content::new(3).fill(&mut bytes);
        let whole = {
            let mut hash = Hash::default();
            hash.add(&bytes);
            hash.value()
        };
        for step in [1, 3, 8, 13, 500] {
            let mut hash = Hash::default();
            bytes.chunks(step).for_each(|part| hash.add(part));
            assert_eq!(hash.value(), whole, "in parts of {step}");
        }
        for at in [0, 7, 8, 999, 1000, 1002] {
            let mut hash = Hash::default();
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x80;
            hash.add(&damaged);
            assert_ne!(hash.value(), whole, "byte {at}");
        }
        let mut longer = Hash::default();
        longer.add(&bytes);
        longer.add(&[0]);
        assert_ne!(longer.value(), whole);
    }
}
