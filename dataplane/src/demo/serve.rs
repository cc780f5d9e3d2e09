//! Act two: a small site and a large file from `ringway serve` to clients of the kernel's TCP at the left host, driver by driver.

use super::books::{Fallen, Lost, Sockets, put_together};
use super::measured::{Measured, Row, Served};
use super::site::{Page, Site};
use super::{DemoError, DemoPlan};
use crate::lab::fetch::Client;
use crate::lab::process::Process;
use crate::lab::{Lab, Outcome, Side};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The server's address: in the left host's network, and nobody's that the kernel knows.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PORT: u16 = 8080;

/// MiB of memory for content: the large file and all others at once.
const CONTENT: &str = "96";

/// What clients ask for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Site,
    File,
}

impl Wish {
    const ALL: [Self; 2] = [Self::Site, Self::File];

    const fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::File => "file",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Site => "serving a small site to four clients",
            Self::File => "serving a file of 64 MiB to one client",
        }
    }

    const fn clients(self) -> usize {
        match self {
            Self::Site => 4,
            Self::File => 1,
        }
    }
}

/// How many steps the act has.
pub(super) fn steps(plan: &DemoPlan) -> u32 {
    u32::try_from(plan.drivers.len() * Wish::ALL.len()).unwrap_or(u32::MAX)
}

/// A server of its own for each row, as with forwarders.
pub(super) fn act(
    lab: &Lab,
    plan: &DemoPlan,
    next: &mut dyn FnMut(String),
    stop: &AtomicBool,
) -> Result<Vec<Row>, DemoError> {
    let (site, mut rows) = (Site::write(), Vec::new());
    for driver in &plan.drivers {
        for wish in Wish::ALL {
            next(format!("{driver}: {}", wish.words()));
            let measured = match &site {
                Ok(site) => measure(lab, plan, driver, site, wish, stop),
                Err(why) => Err(why.clone().into()),
            };
            if stop.load(Ordering::Relaxed) {
                return Err(DemoError::Stopped);
            }
            rows.push(Row::of(driver, wish.name(), measured));
        }
    }
    Ok(rows)
}

fn measure(
    lab: &Lab,
    plan: &DemoPlan,
    driver: &str,
    site: &Site,
    wish: Wish,
    stop: &AtomicBool,
) -> Outcome<Measured> {
    let before = Fallen::read(lab)?;
    let args = [
        ["--port", &format!("{driver}:{}", Side::Left.port())],
        ["--address", &format!("{ADDRESS}/24")],
        ["--listen", &PORT.to_string()],
        ["--root", &site.folder().display().to_string()],
        ["--content", CONTENT],
        // Past the page cache a file that was just written would wait for its disk.
        ["--content-kind", "snapshot"],
    ];
    let args: Vec<String> =
        ["serve"].into_iter().chain(args.into_iter().flatten()).map(str::to_owned).collect();
    let (server, _) = Process::ringway(lab.middle(), &plan.program, &args, None, stop)?;
    let eaten = eat(lab, site, wish, plan.time / 2, stop);
    // Also when clients failed: what the server says of it is the better sentence.
    let last = server.finish()?;
    let (sockets, requests) = eaten?.into_sockets();
    let fallen = Fallen::read(lab)?.since(before);
    let time = sockets.time;
    let mut measured = put_together(Lost::SentAgain, sockets, fallen, &last);
    measured.served = Some(served(requests, time, &last));
    Ok(measured)
}

/// What clients asked for and got.
#[derive(Debug, Default)]
struct Eaten {
    requests: u64,
    /// Answers that were not what the file is.
    wrong: u64,
    wanted: u64,
    arrived: u64,
    time: Duration,
    /// The large file's hash, as written and as last received.
    hashes: Option<[u64; 2]>,
}

impl Eaten {
    fn take(&mut self, page: &Page, client: &mut Client<'_>) -> Outcome<u64> {
        let got = client.get(&page.path)?;
        self.requests += 1;
        self.wrong += u64::from((got.status, got.bytes, got.hash) != (200, page.bytes, page.hash));
        self.wanted += page.bytes;
        self.arrived += got.bytes;
        Ok(got.hash)
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.wrong += other.wrong;
        self.wanted += other.wanted;
        self.arrived += other.arrived;
        self.hashes = other.hashes.or(self.hashes);
    }

    fn into_sockets(self) -> (Sockets, u64) {
        let sockets = Sockets {
            unit: "bytes",
            sent: self.wanted,
            arrived: self.arrived,
            time: self.time,
            hash_ok: self.wrong == 0 && self.requests > 0,
            hashes: self.hashes.map(|both| both.map(|hash| format!("{hash:016x}"))),
        };
        (sockets, self.requests)
    }
}

/// All clients at once, each over a connection of its own, for `time`; each file at least once.
fn eat(lab: &Lab, site: &Site, wish: Wish, time: Duration, stop: &AtomicBool) -> Outcome<Eaten> {
    let limit = time + Duration::from_secs(10);
    let server = SocketAddr::from((ADDRESS, PORT));
    let clients = (0..wish.clients()).map(|_| Client::connect(lab.host(Side::Left), server, limit, stop));
    let clients = clients.collect::<Outcome<Vec<_>>>()?;
    let begin = Instant::now();
    let one = |mut client: Client<'_>| -> Outcome<Eaten> {
        let mut eaten = Eaten::default();
        loop {
            match wish {
                Wish::Site => {
                    for page in &site.pages {
                        eaten.take(page, &mut client)?;
                    }
                }
                Wish::File => {
                    let hash = eaten.take(&site.large, &mut client)?;
                    eaten.hashes = Some([site.large.hash, hash]);
                }
            }
            if begin.elapsed() >= time || eaten.wrong > 0 {
                return Ok(eaten);
            }
        }
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || one(client))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Outcome<Eaten>>| thread.join();
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut all = Eaten { time: begin.elapsed(), ..Eaten::default() };
    for part in parts {
        all.add(&part.map_err(|_| "a client panicked")??);
    }
    Ok(all)
}

/// The server's last words.
#[expect(clippy::cast_precision_loss, reason = "rates are rounded anyway")]
fn served(requests: u64, time: Duration, last: &Value) -> Served {
    let number = |name: &str| last["serve"][name].as_u64().unwrap_or(0);
    let ports = last["ports"].as_array().into_iter().flatten();
    let queues = ports.flat_map(|port| port["queues"].as_array().into_iter().flatten());
    Served {
        requests,
        requests_per_second: requests as f64 / time.as_secs_f64().max(1e-9),
        copied_bytes: number("copied_bytes"),
        gathered_bytes: number("gathered_bytes"),
        flattened_bytes: queues.filter_map(|queue| queue["flattened_bytes"].as_u64()).sum(),
        loaded_bytes: number("shared_bytes") + number("snapshot_bytes") + number("direct_bytes"),
        sent_again: number("retransmits_fast") + number("retransmits_timeout"),
    }
}
