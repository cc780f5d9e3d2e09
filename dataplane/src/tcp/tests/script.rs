//! A small language for stories about single segments, in the manner of packetdrill.
//!
//! ```text
//! +.1   < . 1:1001 ack 1 win 257 <sack 3:4>     a segment comes, a tenth of a second after the line before
//! +.2   > P. 1:1001 ack 1                       a segment goes, at that time (to 1 ms, or within `tolerance`)
//!       ! queue 3000                            the application does something
//! +1    ! nothing                               nothing goes until then
//! ```
//!
//! Numbers count from each side's initial sequence number. What an expected segment does not mention is not compared. An
//! echo of `~500` is of what our clock showed 500 ms before our last segment.

use super::super::segment::{Arrived, Block, HEADER, OptionBytes, Timestamps};
use super::super::{Closed, Config, Conn, ConnId, Flags, Out, Segment, Sent, Seq, Service, Stack};
use super::link::path;
use crate::net::{Address, Ecn, Path};
use crate::worker::Tick;
use std::collections::VecDeque;
use std::time::Duration;

/// The peer's initial sequence number: the stream wraps soon.
const PEER: u32 = u32::MAX - 500;

#[derive(Debug, Default)]
struct Ears {
    last: Option<ConnId>,
    events: Vec<String>,
    /// Bytes are consumed as they come.
    deaf: bool,
    received: u64,
}

impl Service<()> for Ears {
    fn opened(&mut self, conn: &mut Conn<'_, ()>) {
        self.last = Some(conn.id());
        self.events.push("opened".into());
    }

    fn data(&mut self, _: &mut Conn<'_, ()>, bytes: &[u8]) -> usize {
        if self.deaf {
            return 0;
        }
        self.received += bytes.len() as u64;
        bytes.len()
    }

    fn acked(&mut self, _: &mut Conn<'_, ()>, upto: u64) {
        self.events.push(format!("acked {upto}"));
    }

    fn half_closed(&mut self, _: &mut Conn<'_, ()>) {
        self.events.push("half_closed".into());
    }

    fn closed(&mut self, _: &mut Conn<'_, ()>, why: Closed) {
        self.events.push(format!("closed {why:?}"));
    }

    fn timer(&mut self, _: &mut Conn<'_, ()>) {
        self.events.push("timer".into());
    }
}

#[derive(Debug, Default)]
struct Tape {
    gone: Vec<(Ecn, Vec<u8>)>,
    /// The answer to segments with payload, instead of taking them.
    refusing: Option<Sent>,
    /// Where the last segment went to.
    peer_mac: [u8; 6],
}

impl Out<()> for Tape {
    fn segment(&mut self, segment: &Segment, _: &mut ()) -> Sent {
        if let Some(answer) = self.refusing.filter(|_| !segment.payload.is_empty()) {
            return answer;
        }
        self.peer_mac = segment.path.peer_mac;
        let mut bytes = vec![0; segment.header_len()];
        segment.write_header(&mut bytes, 0).expect("room");
        bytes.resize(
            bytes.len() + usize::try_from(segment.payload.end - segment.payload.start).expect("short"),
            0,
        );
        self.gone.push((segment.ecn, bytes));
        Sent::Yes
    }
}

/// One side of a story: our stack; the script is the other.
pub(super) struct Script {
    stack: Stack<()>,
    ears: Ears,
    path: Path,
    ours: Option<Seq>,
    /// The timestamp of our last segment.
    stamp: u32,
    now: Duration,
    gone: VecDeque<(Duration, Ecn, Vec<u8>)>,
    /// How late or early an expected segment may be.
    pub(super) tolerance: Duration,
    refusing: Option<Sent>,
    /// The MAC address that the last segment went to.
    pub(super) went_to: [u8; 6],
}

/// A configuration in which only what a story is about happens.
pub(super) fn plain() -> Config {
    Config {
        max_connections: 4,
        half_open: 2,
        time_wait: 4,
        run_blocks: 4,
        receive_blocks: 2,
        pacing: false,
        ecn: false,
        limits: super::super::Limits { mtu: 1040, largest_segment: 0 },
        ..Config::default()
    }
}

impl Script {
    pub(super) fn new(config: Config) -> Self {
        let mut stack = Stack::new(config, [3; 16]);
        stack.listen(80);
        Self {
            stack,
            ears: Ears::default(),
            path: path(1, 2),
            ours: None,
            stamp: 0,
            now: Duration::from_secs(10),
            gone: VecDeque::new(),
            tolerance: Duration::from_millis(1),
            refusing: None,
            went_to: [0; 6],
        }
    }

    /// Over IPv6.
    pub(super) fn over_v6(mut self) -> Self {
        self.path.local = Address::v6([0x20; 16]);
        self.path.peer = Address::v6([0x21; 16]);
        self
    }

    /// A story with the usual configuration.
    pub(super) fn play(story: &str) -> Self {
        let mut script = Self::new(plain());
        script.run(story);
        script
    }

    pub(super) fn run(&mut self, story: &str) {
        for (number, line) in story.lines().enumerate() {
            let line = line.split("//").next().unwrap_or("").trim();
            if !line.is_empty() {
                self.line(line, &format!("line {}: {line}", number + 1));
            }
        }
        self.flush();
        assert!(self.gone.is_empty(), "at the end: {}", self.show());
    }

    pub(super) fn stat(&self, name: &str) -> u64 {
        self.stack.stats().each().find(|(other, _)| *other == name).expect("a counter").1
    }

    pub(super) fn events(&self) -> String {
        self.ears.events.join(", ")
    }

    pub(super) const fn stack(&self) -> &Stack<()> {
        &self.stack
    }

    fn show(&self) -> String {
        let shown: Vec<String> = self.gone.iter().map(|(at, _, bytes)| self.render(*at, bytes)).collect();
        shown.join("; ")
    }

    fn render(&self, at: Duration, bytes: &[u8]) -> String {
        let a = Arrived::parse(bytes).expect("ours");
        let start = a.seq.0.wrapping_sub(self.ours.unwrap_or(a.seq).0);
        let end = start.wrapping_add(u32::try_from(a.payload.len()).expect("short"));
        let ack = a.ack.0.wrapping_sub(PEER);
        format!("{at:?} {:?} {start}:{end} ack {ack} win {} {:?}", a.flags, a.window, a.options)
    }

    fn line(&mut self, line: &str, named: &str) {
        let (delay, rest) = match line.strip_prefix('+') {
            Some(timed) => {
                let (delay, rest) = timed.split_once(char::is_whitespace).expect(named);
                let delay = if delay.starts_with('.') { format!("0{delay}") } else { delay.to_string() };
                (Duration::from_secs_f64(delay.parse().expect(named)), rest.trim())
            }
            None => (Duration::ZERO, line),
        };
        let (what, rest) = rest.split_at(1);
        match what {
            "<" => {
                self.until(self.now + delay);
                self.inject(rest.trim(), named);
            }
            ">" => self.expect(delay, rest.trim(), named),
            "!" => {
                self.until(self.now + delay);
                self.command(rest.trim(), named);
            }
            _ => panic!("{named}"),
        }
    }

    fn flush(&mut self) {
        let mut tape = Tape { gone: Vec::new(), refusing: self.refusing, peer_mac: self.went_to };
        self.stack.transmit(Tick(self.now), &mut tape, &mut self.ears);
        self.went_to = tape.peer_mac;
        for (ecn, bytes) in tape.gone {
            let segment = Arrived::parse(&bytes).expect("ours");
            if segment.flags.has(Flags::SYN) {
                self.ours = Some(segment.seq);
            }
            self.stamp = segment.options.timestamps.map_or(self.stamp, |stamps| stamps.value);
            self.gone.push_back((self.now, ecn, bytes));
        }
    }

    fn until(&mut self, end: Duration) {
        self.flush();
        while let Some(at) = self.stack.next_deadline().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.stack.tick(Tick(self.now), &mut self.ears);
            self.flush();
        }
        self.now = end;
    }

    fn inject(&mut self, text: &str, named: &str) {
        let wanted = Wanted::parse(text, named);
        let mut options = OptionBytes::new();
        if let Some(mss) = wanted.mss {
            options.mss(mss);
        }
        if wanted.sack_permitted {
            options.sack_permitted();
        }
        if let Some((value, echo)) = wanted.stamps {
            let echo = wanted.earlier.map_or_else(|| echo.unwrap_or(0), |ms| self.stamp.wrapping_sub(ms));
            options.timestamps(Timestamps { value: value.unwrap_or(0), echo });
        }
        if let Some(scale) = wanted.scale {
            options.scale(scale);
        }
        let ours = self.ours.unwrap_or(Seq(0));
        let block = |(start, end)| Block { start: ours.plus(start), end: ours.plus(end) };
        let sacks: Vec<Block> = wanted.sacks.iter().copied().map(block).collect();
        options.sacks(&sacks);
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&[0x0f, 0xa0, 0, 80]);
        bytes[4..8].copy_from_slice(&PEER.wrapping_add(wanted.start).to_be_bytes());
        bytes[8..12].copy_from_slice(&wanted.ack.map_or(0, |ack| ours.plus(ack).0).to_be_bytes());
        bytes[12] = u8::try_from((HEADER + options.len()) / 4).expect("short") << 4;
        bytes[13] = wanted.flags.0;
        bytes[14..16].copy_from_slice(&wanted.window.unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(options.as_bytes());
        bytes.resize(bytes.len() + (wanted.end - wanted.start) as usize, b'x');
        let path = self.path;
        self.stack.receive(Tick(self.now), &path, wanted.ecn, &bytes, &mut self.ears);
    }

    fn expect(&mut self, delay: Duration, text: &str, named: &str) {
        let due = self.now + delay;
        self.flush();
        if self.gone.is_empty() {
            let latest = due + self.tolerance;
            while self.gone.is_empty() {
                let Some(at) = self.stack.next_deadline().filter(|at| at.0 <= latest) else { break };
                self.until(at.0.max(self.now));
                self.stack.tick(Tick(self.now), &mut self.ears);
                self.flush();
            }
        }
        let (at, ecn, bytes) = self.gone.pop_front().unwrap_or_else(|| panic!("nothing goes; {named}"));
        let found = format!("{}; {named}", self.render(at, &bytes));
        assert!(
            at + self.tolerance >= due && at <= due + self.tolerance,
            "{:?} off: {found}",
            at.abs_diff(due)
        );
        self.now = self.now.max(due);
        let wanted = Wanted::parse(text, named);
        let segment = Arrived::parse(&bytes).expect("ours");
        let ours = self.ours.unwrap_or(Seq(0));
        let start = segment.seq.0.wrapping_sub(ours.0);
        assert_eq!(segment.flags, wanted.flags, "{found}");
        assert_eq!(start, wanted.start, "{found}");
        assert_eq!(segment.payload.len(), (wanted.end - wanted.start) as usize, "{found}");
        assert!(wanted.ack.is_none_or(|ack| segment.ack.0.wrapping_sub(PEER) == ack), "{found}");
        assert!(wanted.window.is_none_or(|window| segment.window == window), "{found}");
        assert_eq!(ecn, wanted.ecn, "{found}");
        wanted.compare_options(&segment, &found);
    }

    fn command(&mut self, text: &str, named: &str) {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let now = Tick(self.now);
        match verb {
            "nothing" => {
                self.flush();
                assert!(self.gone.is_empty(), "{}; {named}", self.show());
                return;
            }
            "dial" => {
                let id = self.stack.dial(now, self.path, 80, 4000);
                self.ears.last = Some(id.expect(named));
                return;
            }
            "deaf" => {
                self.ears.deaf = true;
                return;
            }
            "move" => {
                self.path.peer_mac[5] = rest.parse().expect(named);
                return;
            }
            "park" => {
                self.refusing = Some(Sent::NotYet);
                return;
            }
            "gone" => {
                self.refusing = Some(Sent::Gone);
                return;
            }
            _ => {}
        }
        let id = self.ears.last.expect(named);
        match verb {
            "hear" => {
                self.ears.deaf = false;
                self.stack.resume(now, id, &mut self.ears);
            }
            "resume" => {
                self.refusing = None;
                self.stack.resume(now, id, &mut self.ears);
            }
            _ => {
                let done = self.stack.with(now, id, &mut self.ears, |conn, _| match verb {
                    "queue" => conn.queue(rest.parse().expect(named)),
                    "finish" => conn.finish(),
                    "acknowledge" => conn.acknowledge(),
                    "close" => {
                        conn.queue(rest.parse().expect(named));
                        conn.finish();
                    }
                    "reset" => conn.reset(),
                    _ => panic!("{named}"),
                });
                done.unwrap_or_else(|| panic!("no connection; {named}"));
            }
        }
    }

    /// An ICMP error about the segment with this number.
    pub(super) fn icmp(&mut self, seq: u32, trouble: crate::net::Trouble) {
        self.flush();
        let quoted = crate::net::TcpError {
            local: self.path.local,
            peer: self.path.peer,
            local_port: 80,
            peer_port: 4000,
            sequence: self.ours.unwrap_or(Seq(0)).plus(seq).0,
            trouble,
        };
        self.stack.icmp(Tick(self.now), &quoted, &mut self.ears);
    }
}

/// A segment as it is written.
struct Wanted {
    flags: Flags,
    start: u32,
    end: u32,
    ack: Option<u32>,
    window: Option<u16>,
    ecn: Ecn,
    mss: Option<u16>,
    scale: Option<u8>,
    sack_permitted: bool,
    stamps: Option<(Option<u32>, Option<u32>)>,
    /// The echo, in milliseconds before our last segment.
    earlier: Option<u32>,
    sacks: Vec<(u32, u32)>,
    /// No options at all.
    bare: bool,
}

fn range(text: &str, named: &str) -> (u32, u32) {
    let (start, end) = text.split_once(':').unwrap_or((text, text));
    (start.parse().expect(named), end.parse().expect(named))
}

impl Wanted {
    fn parse(text: &str, named: &str) -> Self {
        let (plain, options) = text.split_once('<').unwrap_or((text, ""));
        let mut words = plain.split_whitespace();
        let letters = words.next().expect(named);
        let mut flags = Flags::NONE;
        for letter in letters.chars() {
            let bit = "FSRP.UEW".find(letter).expect(named);
            flags |= Flags(1 << bit);
        }
        let (start, end) = range(words.next().expect(named), named);
        let mut wanted = Self {
            flags,
            start,
            end,
            ack: None,
            window: None,
            ecn: Ecn::NotCapable,
            mss: None,
            scale: None,
            sack_permitted: false,
            stamps: None,
            earlier: None,
            sacks: Vec::new(),
            bare: options.starts_with('>'),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect(named);
            match word {
                "ack" => wanted.ack = Some(value().parse().expect(named)),
                "win" => wanted.window = Some(value().parse().expect(named)),
                "ce" => wanted.ecn = Ecn::Congested,
                "ect" => wanted.ecn = Ecn::Capable0,
                _ => panic!("{named}"),
            }
        }
        for option in options.trim_end_matches('>').split(',').map(str::trim).filter(|o| !o.is_empty()) {
            wanted.option(option, named);
        }
        wanted
    }

    fn option(&mut self, option: &str, named: &str) {
        let mut words = option.split_whitespace();
        let name = words.next().expect(named);
        let mut number = || words.next().expect(named).parse::<u32>().ok();
        match name {
            "mss" => self.mss = number().map(|mss| u16::try_from(mss).expect(named)),
            "ws" => self.scale = number().map(|scale| u8::try_from(scale).expect(named)),
            "sackOK" => self.sack_permitted = true,
            "TS" => {
                let value = number();
                let echo = words.next().expect(named);
                self.stamps = Some((value, echo.parse().ok()));
                self.earlier = echo.strip_prefix('~').map(|ms| ms.parse().expect(named));
            }
            "sack" => self.sacks = words.map(|word| range(word, named)).collect(),
            _ => panic!("{named}"),
        }
    }

    fn compare_options(&self, segment: &Arrived<'_>, found: &str) {
        let options = &segment.options;
        assert!(self.mss.is_none() || options.mss == self.mss, "{found}");
        assert!(self.scale.is_none() || options.scale == self.scale, "{found}");
        assert!(!self.sack_permitted || options.sack_permitted, "{found}");
        if let Some((_, echo)) = self.stamps {
            let stamps = options.timestamps.unwrap_or_else(|| panic!("{found}"));
            assert!(echo.is_none_or(|echo| stamps.echo == echo), "{found}");
        }
        let relative = |block: &Block| (block.start.0.wrapping_sub(PEER), block.end.0.wrapping_sub(PEER));
        let sacks: Vec<(u32, u32)> = options.sacks().iter().map(relative).collect();
        assert_eq!(sacks, self.sacks, "{found}");
        if self.bare {
            assert!(
                options.timestamps.is_none() && !options.sack_permitted && options.scale.is_none(),
                "{found}"
            );
        }
    }
}
