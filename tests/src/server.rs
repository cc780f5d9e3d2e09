//! `ringway serve` as a test sees it: a tree of files, a server at a port of the middle, clients at the hosts.

use crate::forwarder::Report;
use crate::process::Ringway;
use crate::{Outcome, TestLab};
use dataplane::lab::{Namespace, Side};
use drivers::QueuePair;
use drivers::packet::{PacketPlan, PacketQueue};
use ringbuf::{Arena, ArenaPlan, BURST, Burst, Pool};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long opening may take: content is read first, and test machines are slow.
const OPENING: Duration = Duration::from_secs(20);

/// How long ending may take: connections are drained.
const ENDING: Duration = Duration::from_secs(30);

/// The server's IPv4 address, which no kernel has.
pub const SERVER: &str = "10.77.0.100";

/// The server's IPv6 address.
pub const SERVER6: &str = "fd77::100";

/// The TCP port that it listens on.
pub const PORT: u16 = 8080;

/// A folder of a test's own, gone when the test ends.
#[derive(Debug)]
pub struct Tree(PathBuf);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Tree {
    /// An empty one, on disk.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Outcome<Self> {
        Self::below(&std::env::temp_dir())
    }

    /// An empty one in memory (tmpfs).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn in_memory() -> Outcome<Self> {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(folder: &Path) -> Outcome<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("ringway-tree-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file of `bytes` pseudo-random bytes, the same for the same name; returns them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: usize) -> Outcome<Vec<u8>> {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut state = seed | 1;
        let mut content = Vec::with_capacity(bytes + 8);
        while content.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes());
        }
        content.truncate(bytes);
        self.write(name, &content)?;
        Ok(content)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Outcome<()> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, content)?)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that is ready for clients. Dropped while it runs, it is killed.
#[derive(Debug)]
pub struct Server(Ringway);

impl Server {
    /// Starts `ringway serve` at the left port of a laboratory, by `driver`, with `args` behind what every test needs;
    /// waits until it is ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the sentence contains all that it printed.
    pub fn start(lab: &TestLab, driver: &str, tree: &Tree, args: &[&str]) -> Outcome<Self> {
        let port = format!("{driver}:{}", Side::Left.port());
        let (v4, v6) = (format!("{SERVER}/24"), format!("{SERVER6}/64"));
        let root = tree.path().to_string_lossy().into_owned();
        let mut all = vec!["--port", &port, "--address", &v4, "--address", &v6, "--root", &root];
        all.extend(args);
        Self::with(lab.middle(), &all)
    }

    /// Starts `ringway serve ARGS` inside a namespace and waits until it is ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with(namespace: &Namespace, args: &[&str]) -> Outcome<Self> {
        let mut server = Self::begin(namespace, args)?;
        server.0.ready("\"event\":\"ready\"", OPENING)?;
        Ok(server)
    }

    /// Starts it, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(namespace: &Namespace, args: &[&str]) -> Outcome<Self> {
        Ok(Self(Ringway::start(namespace, &[&["serve", "--format", "json"], args].concat())?))
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Ringway {
        &mut self.0
    }

    /// Interrupts it, waits for its end, and returns its report once the books have been looked at.
    ///
    /// # Errors
    /// When it does not end, does not end well, or its books are not in order.
    pub fn finish(self) -> Outcome<Report> {
        self.0.interrupt()?;
        let report = self.report()?;
        if report.code != Some(0) {
            return Err(format!("ended with {:?}: {report:?}", report.code).into());
        }
        Ok(report)
    }

    /// Waits for its end, whatever its exit code, and returns its report once the books have been looked at.
    ///
    /// # Errors
    /// When it does not end, or its books are not in order.
    pub fn report(self) -> Outcome<Report> {
        Report::of(&self.0.wait(ENDING)?)
    }
}

/// What `curl ARGS` answered at the left host, whatever its exit code.
///
/// # Errors
/// When it could not be started.
pub fn curl(lab: &TestLab, args: &[&str]) -> Outcome<Output> {
    let mut command = lab.host(Side::Left).command("curl");
    Ok(command
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
        .args(args)
        .output()?)
}

/// A response as a client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The head, lines as they came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Takes bytes apart that hold one head and all of one body.
    ///
    /// # Errors
    /// When they begin with no head.
    pub fn parse(bytes: &[u8]) -> Outcome<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no head")?;
        let head = String::from_utf8(bytes[..end].to_vec())?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {head:?}"))?;
        Ok(Self { status, head, body: bytes[end + 4..].to_vec() })
    }

    /// A field of the head.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// The response to `curl ARGS` at the left host.
///
/// # Errors
/// When curl is not content; the sentence has its exit code and its words.
pub fn fetch(lab: &TestLab, args: &[&str]) -> Outcome<Reply> {
    let mut all = vec!["--include"];
    all.extend(args);
    let output = curl(lab, &all)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("curl {args:?}: {}: {words}", output.status).into());
    }
    Reply::parse(&output.stdout)
}

/// The address of a path at the server, over IPv6.
#[must_use]
pub fn url6(path: &str) -> String {
    format!("http://[{SERVER6}]:{PORT}{path}")
}

/// The address of a path at the server.
#[must_use]
pub fn url(path: &str) -> String {
    format!("http://{SERVER}:{PORT}{path}")
}

/// One's complement sum of 16-bit words (RFC 1071), each part of an even length but the last.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let number = |word: &[u8]| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| (*low).into());
    let mut sum: u32 = words.map(number).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

/// A TCP segment of at least 20 bytes as a frame from the left host to the server, with right checksums and any sender.
#[must_use]
pub fn frame_to_server(from: [u8; 4], mut tcp: Vec<u8>) -> Vec<u8> {
    let to = SERVER.parse::<Ipv4Addr>().unwrap_or(Ipv4Addr::LOCALHOST).octets();
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let [high, low] = length(tcp.len());
    tcp[16..18].fill(0);
    let sum = checksum(&[&from, &to, &[0, 6, high, low], &tcp]);
    tcp[16..18].copy_from_slice(&sum);
    let [high, low] = length(20 + tcp.len());
    let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend(from);
    ip.extend(to);
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let addresses = [Side::Left.port_mac(), Side::Left.host_mac()].concat();
    [addresses, vec![8, 0], ip, tcp].concat()
}

/// Sends frames from the left host by a packet socket, as fast as that goes, until there is none; how many.
///
/// # Errors
/// When there is no such socket, or a frame is too long.
pub fn send_frames(lab: &TestLab, mut next: impl FnMut() -> Option<Vec<u8>> + Send) -> Outcome<u64> {
    lab.host(Side::Left).run(|| {
        let plan = ArenaPlan { frames: 4096, frame_size: 2048, ..ArenaPlan::default() };
        let pool = Pool::new(Arena::new(&plan)?);
        let mut queue = PacketQueue::open(&pool, &PacketPlan::new(Side::Left.interface()))?;
        let (mut burst, mut sent, mut more) = (Burst::new(), 0, true);
        while more || !burst.is_empty() {
            while more && burst.len() < BURST {
                let Some(mut frame) = pool.alloc() else { break };
                let Some(bytes) = next() else {
                    more = false;
                    break;
                };
                frame.extend(&bytes).map_err(|_| "a frame is too long")?;
                burst.push(frame).map_err(|_| "a burst is full")?;
            }
            sent += queue.transmit(&mut burst) as u64;
            queue.tend();
            // What comes is for the kernel; our copy of it is in the way.
            queue.receive(&mut Burst::new());
        }
        Ok(sent)
    })?
}
