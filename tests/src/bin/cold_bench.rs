//! `make bench`, the third part: files larger than memory, past the page cache, beside what `fio` reads from that disk.
//!
//! ```text
//!   readers ── left0 ═══ rw-left [ ringway serve, direct ] ── O_DIRECT ── disk
//!                                                    fio   ── O_DIRECT ── disk
//! ```
//!
//! Both run in a memory cgroup smaller than the tree, take turns, read the same files in the same order, with the same
//! size of block and as many reads at once. *Link* is the same server and client with a file that is in memory: what a
//! faster disk could bring at most.

use dataplane::lab::{Lab, LabPlan, Side};
use lab::Outcome;
use lab::measured::Running;
use serde::Serialize;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// An address that the kernel does not have.
const OURS: &str = "10.77.0.100";
/// Files of the tree, and MiB of each.
const FILES: usize = 16;
const FILE_MIB: usize = 64;
/// MiB of memory for who reads them, and for content in the server.
const MEMORY_MIB: u64 = 256;
const CONTENT_MIB: u32 = 64;
/// Read for the link's own rate: as much as the tree.
const WARM_MIB: usize = 16;

/// Readers, and reads under way at once: as many as the server has for them (`StorePlan`: 32 ahead of each, 48 in all).
const CASES: [(usize, usize); 2] = [(1, 32), (8, 48)];

/// One measurement, in megabytes a second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    readers: usize,
    driver: &'static str,
    fio: f64,
    ringway: f64,
    link: f64,
}

struct Settings {
    rounds: usize,
    json: bool,
}

fn main() -> Outcome<()> {
    let settings = settings()?;
    let (group, limit) = Group::new();
    eprintln!("cold files: {FILES} of {FILE_MIB} MiB; {limit}");
    let tree = Tree::new()?;
    let mut samples = Vec::new();
    for (readers, reads) in CASES {
        for driver in ["af-xdp", "packet"] {
            for round in 0..settings.rounds {
                let fio = fio(&tree, &group, readers, reads)?;
                let (ringway, link) = serve(&tree, &group, driver, readers)?;
                eprintln!(
                    "{readers} readers, {driver}, round {round}: fio {fio:.0}, ringway {ringway:.0}, link {link:.0} MB/s"
                );
                samples.push(Sample { readers, driver, fio, ringway, link });
            }
        }
    }
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&samples)?);
    } else {
        print!("{}", table(&samples, &limit));
    }
    Ok(())
}

fn settings() -> Outcome<Settings> {
    let mut settings = Settings { rounds: 3, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => settings.rounds = args.next().ok_or("--rounds needs a value")?.parse()?,
            // The other parts' own.
            "--seconds" | "--only" | "--case" => drop(args.next()),
            "--json" => settings.json = true,
            _ => return Err(format!("unknown argument {arg}; there are --rounds N, --json").into()),
        }
    }
    Ok(settings)
}

/// A memory cgroup of this run's own; removed with it. Without one, the content of 64 MiB and `O_DIRECT` are the limit.
struct Group {
    folder: Option<PathBuf>,
    /// Where this process was before.
    home: PathBuf,
}

impl Group {
    /// And what it is, in words.
    fn new() -> (Self, String) {
        let name = format!("ringway-cold-{}", std::process::id());
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // Version 2, and version 1 where that has the memory.
        let kinds = [
            ("/sys/fs/cgroup", "0::", "memory.max"),
            ("/sys/fs/cgroup/memory", ":memory:", "memory.limit_in_bytes"),
        ];
        for (root, mark, file) in kinds {
            let home = own
                .lines()
                .find_map(|line| line.split_once(mark))
                .map(|(_, path)| path.trim_start_matches('/'));
            let (folder, Some(home)) = (Path::new(root).join(&name), home) else { continue };
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            // Where the root is no cgroup, or one without this, the folder has no such file.
            let limit = folder.join(file);
            let group = Self { folder: Some(folder), home: Path::new(root).join(home) };
            if limit.exists() && std::fs::write(limit, (MEMORY_MIB << 20).to_string()).is_ok() {
                return (group, format!("fio and the server in a cgroup of {MEMORY_MIB} MiB ({file})"));
            }
        }
        let without =
            format!("no memory cgroup can be made here: content of {CONTENT_MIB} MiB and O_DIRECT alone");
        (Self { folder: None, home: PathBuf::new() }, without)
    }

    /// Starts something in the group: what a process starts is where the process is.
    fn inside<T>(&self, start: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let Some(folder) = &self.folder else { return start() };
        let enter =
            |folder: &Path| std::fs::write(folder.join("cgroup.procs"), std::process::id().to_string());
        enter(folder)?;
        let started = start();
        enter(&self.home)?;
        started
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else { return };
        // What has just ended may be in it for a moment longer.
        for _ in 0..100 {
            if std::fs::remove_dir(folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The files, on the disk for temporary files; gone at the end.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Outcome<Self> {
        let tree = Self(std::env::temp_dir().join(format!("ringway-cold-{}", std::process::id())));
        std::fs::create_dir_all(&tree.0)?;
        for number in 0..FILES {
            tree.write(&format!("{number}.bin"), FILE_MIB)?;
        }
        tree.write("warm.bin", WARM_MIB)?;
        Ok(tree)
    }

    /// Not compressible, no two blocks alike, and on the disk.
    fn write(&self, name: &str, mib: usize) -> Outcome<()> {
        let mut file = std::fs::File::create(self.0.join(name))?;
        let mut state =
            name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, byte| hash.rotate_left(9) ^ u64::from(byte));
        let mut block = Vec::with_capacity(1 << 20);
        for _ in 0..mib {
            block.clear();
            while block.len() < 1 << 20 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                block.extend_from_slice(&state.to_le_bytes());
            }
            file.write_all(&block)?;
        }
        Ok(file.sync_all()?)
    }

    /// The files that one of several readers reads.
    fn share(reader: usize, readers: usize) -> impl Iterator<Item = String> {
        (0..FILES).filter(move |number| number % readers == reader).map(|number| format!("{number}.bin"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a report")]
fn megabytes(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// All files read once: each reader a job with its share of them, and its share of the reads at once.
fn fio(tree: &Tree, group: &Group, readers: usize, reads: usize) -> Outcome<f64> {
    let mut command = Command::new("fio");
    command.args(["--minimal", "--terse-version=3", "--readonly", "--rw=read", "--direct=1", "--bs=128k"]);
    command.args(["--ioengine=io_uring", "--group_reporting", "--file_service_type=sequential"]);
    command.arg(format!("--iodepth={}", reads / readers));
    for reader in 0..readers {
        let paths: Vec<String> =
            Tree::share(reader, readers).map(|name| tree.0.join(name).display().to_string()).collect();
        command.arg(format!("--name=reader{reader}")).arg(format!("--filename={}", paths.join(":")));
    }
    let output = group.inside(|| Ok(command.output()?))?;
    let line = String::from_utf8_lossy(&output.stdout);
    // Terse format 3 (fio(1)): the seventh field is the bandwidth of reads in KiB a second.
    let field = line.lines().last().and_then(|line| line.split(';').nth(6)?.parse::<f64>().ok());
    let words = String::from_utf8_lossy(&output.stderr);
    Ok(field.ok_or_else(|| format!("no rate from fio: {line}{words}"))? * 1024.0 / 1e6)
}

/// The same files through the server, then what the link brings when nothing has to be read.
fn serve(tree: &Tree, group: &Group, driver: &'static str, readers: usize) -> Outcome<(f64, f64)> {
    let lab = Lab::up(&LabPlan { ipv6: false, mtu: 9000, ..LabPlan::private("rwb") })?;
    let program = std::env::current_exe()?.with_file_name("ringway");
    let mut command = lab.middle().command(&program);
    command.args([
        "serve",
        "--port",
        &format!("{driver}:rw-left"),
        "--address",
        &format!("{OURS}/24"),
        "--root",
    ]);
    command.arg(&tree.0).args([
        "--format",
        "json",
        "--content-kind",
        "direct",
        "--content",
        &CONTENT_MIB.to_string(),
    ]);
    let running = group.inside(|| Running::start(command, Some("\"event\":\"ready\""), Stdio::inherit()))?;
    let cold = read_all(&lab, readers, |reader| Tree::share(reader, readers).collect())?;
    let rounds = FILES * FILE_MIB / WARM_MIB / readers;
    read_all(&lab, 1, |_| vec!["warm.bin".to_owned()])?;
    let warm = read_all(&lab, readers, |_| vec!["warm.bin".to_owned(); rounds])?;
    running.stop(PATIENCE)?;
    Ok((cold, warm))
}

/// Each reader gets its files one after another over one connection; megabytes a second of all together.
fn read_all(lab: &Lab, readers: usize, names: impl Fn(usize) -> Vec<String>) -> Outcome<f64> {
    let begin = Instant::now();
    let bytes = std::thread::scope(|scope| -> Outcome<u64> {
        let started: Vec<_> = (0..readers)
            .map(|reader| {
                let names = names(reader);
                scope.spawn(move || {
                    lab.host(Side::Left).run(|| read(&names)).map_err(|error| error.to_string())
                })
            })
            .collect();
        let mut sum = 0;
        for thread in started {
            sum += thread.join().map_err(|_| "a reader panicked")??.map_err(|error| error.to_string())?;
        }
        Ok(sum)
    })?;
    Ok(megabytes(bytes, begin.elapsed()))
}

fn read(names: &[String]) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect((OURS, 8080))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut room, mut sum) = (vec![0; 1 << 20], 0);
    for name in names {
        // In one piece: what `write!` does in three, Nagle's algorithm holds back until the first is acknowledged.
        stream.write_all(format!("GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())?;
        let (mut have, mut left) = (0, None);
        while left != Some(0) {
            let got = stream.read(&mut room[have..])?;
            if got == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(left) = &mut left {
                *left -= got as u64;
                sum += got as u64;
                continue;
            }
            have += got;
            let Some(end) = room[..have].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&room[..end]);
            let length =
                head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<u64>().ok());
            let body = (have - end - 4) as u64;
            left = Some(
                length
                    .filter(|_| head.starts_with("HTTP/1.1 200 "))
                    .ok_or(std::io::ErrorKind::InvalidData)?
                    - body,
            );
            (have, sum) = (0, sum + body);
        }
    }
    Ok(sum)
}

/// Medians, with the least and the greatest.
fn table(samples: &[Sample], limit: &str) -> String {
    let mut text = format!(
        "\nCold files, {limit}; MB/s: median (least .. greatest)\n\n| readers | driver | fio | ringway | x fio | link |\n|---|---|---|---|---|---|\n"
    );
    for (readers, _) in CASES {
        for driver in ["af-xdp", "packet"] {
            let of = |figure: fn(&Sample) -> f64| {
                let mut figures: Vec<f64> = samples
                    .iter()
                    .filter(|s| s.readers == readers && s.driver == driver)
                    .map(figure)
                    .collect();
                figures.sort_by(f64::total_cmp);
                let count = figures.len();
                let median = if count == 0 {
                    f64::NAN
                } else {
                    f64::midpoint(figures[(count - 1) / 2], figures[count / 2])
                };
                (
                    median,
                    figures.first().copied().unwrap_or(f64::NAN),
                    figures.last().copied().unwrap_or(f64::NAN),
                )
            };
            let shown =
                |(median, least, most): (f64, f64, f64)| format!("{median:.0} ({least:.0} .. {most:.0})");
            let (fio, ringway, link) = (of(|s| s.fio), of(|s| s.ringway), of(|s| s.link));
            text += &format!(
                "| {readers} | {driver} | {} | {} | {:.2} | {} |\n",
                shown(fio),
                shown(ringway),
                ringway.0 / fio.0,
                shown(link)
            );
        }
    }
    text
}
