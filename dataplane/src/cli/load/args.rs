//! What `ringway load` is told, and what that asks for.

use crate::cli::forward::{IdleWord, seconds};
use crate::cli::print::Live;
use crate::cli::serve::address;
use crate::cli::{Format, misunderstood, port};
use clap::Args;
use dataplane::load::{BodyHash, LoadPlan, Mode, PlanError, Questions, Verify};
use dataplane::net::Prefix;
use drivers::PortSpec;
use drivers::spec::NumberList;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Ask an HTTP/1.1 server for as much as it can give, and time its answers.
///
/// Without --rate each connection asks again as soon as it is answered: that finds how much the server can do. With
/// --rate requests are due at times that are fixed beforehand, and latency is measured from those: that finds how long
/// people wait. Lengths of bodies are always verified; their content with --hash.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// What to ask for, as http://10.0.0.2:8080/file; several addresses of one server are asked for in turn.
    #[arg(value_name = "URL", required = true)]
    pub(super) urls: Vec<String>,
    /// Ask over Ringway's own TCP by this port, as af-xdp:eth0 or packet:eth0, instead of the kernel's sockets.
    #[arg(long, value_name = "P", requires = "addresses", value_parser = port)]
    pub(super) port: Option<PortSpec>,
    /// The address to ask from and the length of its network's prefix, as 10.0.0.3/24: one of its own, which the kernel
    /// does not have. All TCP to it is ours, and ARP, neighbour discovery and ping are answered here.
    #[arg(long = "address", value_name = "A/LEN", requires = "port", value_parser = address)]
    pub(super) addresses: Vec<Prefix>,
    /// The router to other networks.
    #[arg(long, value_name = "G", requires = "port")]
    pub(super) gateway: Option<IpAddr>,
    /// A file with further paths of the server to ask for in turn, one a line.
    #[arg(long, value_name = "FILE")]
    pub(super) paths: Option<PathBuf>,
    /// A field of each request, as 'Accept-Encoding: gzip'; may be given again.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(super) headers: Vec<String>,
    /// Connections, all threads or workers together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) connections: u32,
    /// Requests that a connection may have under way.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) pipeline: u32,
    /// So many requests a second in all, at times that do not wait for answers.
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Stop after so many seconds, the warming-up not counted; 10, unless there are --requests.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// Stop after so many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) requests: Option<u64>,
    /// Do not count the first so many seconds.
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    pub(super) warmup: Duration,
    /// Seconds that an answer, or opening a connection, may take.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(super) timeout: Duration,
    /// Compare the SHA-256 of each body with the first one's of its path.
    #[arg(long)]
    pub(super) hash: bool,
    /// Compare the SHA-256 of each body with this, as sha256sum prints it.
    #[arg(long, value_name = "HEX", value_parser = hash)]
    pub(super) expect: Option<BodyHash>,
    /// One thread or worker on each of these CPUs, as in 0-3,7; without it one anywhere.
    #[arg(long, value_name = "LIST")]
    pub(super) cpu: Option<NumberList>,
    /// What a worker does when no frame comes.
    #[arg(long, value_enum, default_value_t, requires = "port")]
    pub(super) idle: IdleWord,
    /// Frames of each worker's arena.
    #[arg(long, value_name = "N", requires = "port")]
    pub(super) frames: Option<u32>,
    /// KiB that the server may send ahead, over each connection of our own TCP; without it as many as fit into the port's
    /// rings when all connections are sent so much at once, 256 at most.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=65536), requires = "port")]
    pub(super) receive_window: Option<u32>,
    /// How to print what happens: a table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) live: Live,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("give a number from 0.001 to 100000000".to_owned()),
    }
}

fn hash(text: &str) -> Result<BodyHash, String> {
    let mut hash = BodyHash::default();
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits {
        Some(digits) if digits.len() == 2 * hash.len() => {
            for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(hash)
        }
        _ => Err("a SHA-256 has 64 hexadecimal digits, as sha256sum prints it".to_owned()),
    }
}

impl LoadArgs {
    pub(super) fn questions(&self) -> Result<Questions, Box<dyn std::error::Error>> {
        let mut paths = Vec::new();
        if let Some(file) = &self.paths {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("reading the paths from {}: {error}", file.display()))?;
            paths.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if paths.is_empty() {
                return Err(format!("{} has no path in it; give one a line", file.display()).into());
            }
        }
        Questions::new(&self.urls, &paths, &self.headers).map_err(|error| match error {
            // A line of a file: the command line was understood.
            PlanError::Path(_) => error.into(),
            _ => misunderstood(error),
        })
    }

    pub(super) fn plan(&self, questions: Questions, server: SocketAddr) -> LoadPlan {
        let default = if self.requests.is_some() { None } else { Some(Duration::from_secs(10)) };
        LoadPlan {
            server,
            requests: questions.requests,
            paths: questions.paths,
            connections: self.connections as usize,
            pipeline: self.pipeline as usize,
            mode: self.rate.map_or(Mode::Closed, Mode::Rate),
            warmup: self.warmup,
            duration: self.duration.or(default),
            limit: self.requests,
            timeout: self.timeout,
            verify: match self.expect {
                Some(hash) => Verify::Hash(hash),
                None if self.hash => Verify::First,
                None => Verify::Lengths,
            },
        }
    }

    pub(super) fn cpus(&self) -> Vec<usize> {
        self.cpu.iter().flat_map(|list| &list.0).map(|cpu| *cpu as usize).collect()
    }
}

/// Each thread or worker has a connection at least.
pub(super) fn check_threads(args: &LoadArgs, threads: usize) -> Result<(), Box<dyn std::error::Error>> {
    if threads > args.connections as usize {
        return Err(misunderstood(format_args!(
            "{} connections are too few for {threads} threads; give more --connections, or name fewer CPUs",
            args.connections
        )));
    }
    Ok(())
}

pub(super) fn check_cpus(cpus: &[usize]) -> Result<(), String> {
    let available: Vec<usize> =
        core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect();
    match cpus.iter().find(|cpu| !available.contains(cpu)) {
        Some(cpu) => Err(format!("there is no CPU {cpu} to run on; this process may use {available:?}")),
        None => Ok(()),
    }
}
