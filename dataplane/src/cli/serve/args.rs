//! What the user may say.

use super::bounds::Bounds;
use crate::cli::Format;
use crate::cli::compare::bytes;
use crate::cli::forward::{IdleWord, seconds};
use crate::cli::port;
use crate::cli::print::Live;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use dataplane::net::Prefix;
use drivers::PortSpec;
use drivers::kernel::{Method, Receive};
use drivers::spec::NumberList;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The two ways, and what each cannot do without: clap would make one line of them, of what happened to be typed.
const USAGE: &str =
    "ringway serve --port <P> --address <A/LEN> --root <DIR> [OPTIONS]      over Ringway's own TCP
       ringway serve --engine <METHOD> --root <DIR> [OPTIONS]                 over the kernel's sockets";

/// Serve files over Ringway's own TCP; or, with --engine, over the kernel's.
///
/// Over a --port, files go straight from memory that the device reads. The address may be one that the kernel does not have: then ARP, neighbour discovery and ping are answered here too.
/// Or it may be the interface's own: then only TCP to the one port is taken (af-xdp), and SSH and everything else
/// reach the kernel as before.
#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub(crate) struct ServeArgs {
    /// Where to serve: af-xdp:eth0, packet:eth0, or eth0 for the best driver that works there.
    #[arg(long, value_name = "P", value_parser = port)]
    port: Option<PortSpec>,
    /// Serve over the kernel's sockets instead, and get files into them by this method.
    #[arg(long, value_name = "METHOD", value_parser = engine(), conflicts_with_all = [
        "port", "addresses", "gateway", "vlan", "content_kind", "content", "copy_below", "idle", "frames"])]
    pub(super) engine: Option<Method>,
    /// The server's address and the length of its network's prefix, as 10.0.0.2/24; give it again for IPv6.
    #[arg(long = "address", value_name = "A/LEN", value_parser = address)]
    pub(super) addresses: Vec<Prefix>,
    /// The router to other networks. Answers need none: they go back the way the request came.
    #[arg(long, value_name = "G")]
    pub(super) gateway: Option<IpAddr>,
    /// The VLAN that the address is in: every frame bears this tag (802.1Q), both ways.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(super) vlan: Option<u16>,
    /// The TCP port to listen on; with --engine also the address, as `127.0.0.1:8080` or `[::]:8080` (a port alone is that of
    /// all IPv4 addresses).
    #[arg(long, value_name = "[ADDR:]PORT", default_value = "8080")]
    pub(super) listen: Listen,
    /// The folder to serve.
    #[arg(long, value_name = "DIR")]
    pub(super) root: PathBuf,
    /// A virtual host and its folder, as www.example.org=/srv/www; may be given again.
    #[arg(long = "host", value_name = "NAME=DIR", value_parser = host)]
    pub(super) hosts: Vec<(String, PathBuf)>,
    /// Symbolic links: never followed, followed within the root, or only where link and target have one owner.
    #[arg(long, value_enum, default_value_t)]
    pub(super) symlinks: SymlinkWord,
    /// Whether a folder without an index file is listed.
    #[arg(long, value_enum, default_value_t)]
    pub(super) listing: ListingWord,
    /// Cache-Control by file name (or path, if there is a slash), as *.css=max-age=3600; `*` is all; may be given again.
    #[arg(long = "cache-control", value_name = "PATTERN=VALUE", value_parser = pair)]
    pub(super) cache_control: Vec<(String, String)>,
    /// A page for an error, as 404=/srv/errors/404.html; may be given again.
    #[arg(long = "error-page", value_name = "STATUS=FILE", value_parser = error_page)]
    pub(super) error_pages: Vec<(u16, PathBuf)>,
    /// Where requests are logged: a file, or - for standard output. SIGHUP opens it anew.
    #[arg(long, value_name = "FILE")]
    pub(super) access_log: Option<PathBuf>,
    /// How requests are logged.
    #[arg(long, value_enum, default_value_t)]
    pub(super) log_format: LogWord,
    /// Counters for Prometheus, on a socket of the kernel's, as 127.0.0.1:9090.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) metrics: Option<SocketAddr>,
    /// How file content gets into memory that the device reads.
    #[arg(long, value_enum, default_value_t)]
    pub(super) content_kind: KindWord,
    /// Memory for file content, in MiB, of each worker; 1 to 1048576, and no more than the machine has.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=CONTENT_MAX))]
    pub(super) content: u32,
    /// Connections at once, of each worker.
    #[arg(long, value_name = "N", default_value_t = 16384)]
    pub(super) connections: u32,
    /// Seconds that connections get to end, when the server is told to.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub(super) drain: Duration,
    /// File content in a packet is copied below so many bytes, and gathered by the device from there on.
    #[arg(long, value_name = "BYTES")]
    pub(super) copy_below: Option<u32>,
    /// One worker on each of these CPUs, as in 0-3,7; without it one worker anywhere.
    #[arg(long, value_name = "LIST")]
    pub(super) cpu: Option<NumberList>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// What a worker does when no frame comes.
    #[arg(long, value_enum, default_value_t)]
    pub(super) idle: IdleWord,
    /// With --engine: bytes of a read or write, where a method has a buffer.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, requires = "engine",
        value_parser = clap::value_parser!(u32).range(4096..=16 << 20))]
    pub(super) chunk: u32,
    /// With --engine: bytes of a pipe, where a method has one.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, requires = "engine",
        value_parser = clap::value_parser!(u32).range(4096..=64 << 20))]
    pub(super) pipe: u32,
    /// With --engine: bytes that one connection sends before others have their turn.
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20, requires = "engine",
        value_parser = clap::value_parser!(u32).range(4096..))]
    pub(super) quantum: u32,
    /// With --engine: lets PUT store files below the root. How a body gets from its socket into the file may be said: by
    /// splice, which is what happens otherwise, or by read-write. Whoever reaches the server may write: mind --listen.
    #[arg(long, value_name = "WAY", num_args = 0..=1, default_missing_value = Receive::Splice.name(), value_parser = upload())]
    pub(super) upload: Option<Receive>,
    /// The longest body that is stored, as 500m or 2g; a longer one is answered 413.
    #[arg(long, value_name = "SIZE", default_value = "1g", requires = "upload", value_parser = bytes)]
    pub(super) upload_limit: u64,
    /// Frames of each worker's arena.
    #[arg(long, value_name = "N")]
    pub(super) frames: Option<u32>,
    /// How to print what happens: a table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) live: Live,
    #[command(flatten)]
    pub(super) bounds: Bounds,
}

impl ServeArgs {
    /// What clap cannot see.
    ///
    /// # Errors
    /// Words for a user who has left something out, or wants two things that do not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.engine.is_none() && (self.port.is_none() || self.addresses.is_empty()) {
            let missing = match (&self.port, self.addresses.is_empty()) {
                (Some(_), _) => "--port wants an address to serve at: --address 10.0.0.2/24",
                (None, false) => "--address wants a port to serve at: --port eth0",
                (None, true) => "it is not said over what to serve",
            };
            return Err(format!(
                "{missing}\n  over Ringway's own TCP, as root: --port P --address A/LEN\n  \
                 over the kernel's sockets, as anybody: --engine sendfile --listen 8080\n\nUsage: {USAGE}"
            ));
        }
        if self.format == Format::Json && self.access_log.as_ref().is_some_and(|log| log.as_os_str() == "-") {
            return Err("--access-log - and --format json would both write to standard output, and a program that reads \
                        one could not tell it from the other: give the log a file, as --access-log access.log"
                .to_owned());
        }
        Ok(())
    }

    /// The port, where there is no engine.
    pub(super) fn port(&self) -> &PortSpec {
        self.port.as_ref().expect("check demands a port or an engine")
    }
}

/// MiB of content: the kernel keeps a list of the pages of an AF_XDP arena in one allocation, which ends at 2 GiB
/// (`xdp_umem_pin_pages` by `kvcalloc`), 8 bytes a page: 1 TiB.
const CONTENT_MAX: i64 = 1 << 20;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Port(u16),
    At(SocketAddr),
}

impl Listen {
    /// The TCP port.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Port(port) => port,
            Self::At(address) => address.port(),
        }
    }

    /// As an address of the kernel's.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Port(port) => (Ipv4Addr::UNSPECIFIED, port).into(),
            Self::At(address) => address,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            Ok(0) => Err("port 0 is none; with --engine, ADDR:0 takes any that is free".to_owned()),
            Ok(port) => Ok(Self::Port(port)),
            Err(_) => text.parse().map(Self::At).map_err(|_| {
                "neither a port (1 to 65535) nor an address with one, as 127.0.0.1:8080".to_owned()
            }),
        }
    }
}

/// Methods by name, as clap wants them.
fn engine() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name)).try_map(|name| name.parse::<Method>())
}

/// Ways of uploads by name.
fn upload() -> impl TypedValueParser<Value = Receive> {
    PossibleValuesParser::new(Receive::ALL.map(Receive::name)).try_map(|name| name.parse::<Receive>())
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum SymlinkWord {
    /// Not followed.
    #[default]
    Off,
    /// Followed, if link and target belong to the same user.
    Owner,
    /// Followed, within the root.
    On,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ListingWord {
    /// 403.
    #[default]
    Off,
    /// As HTML, or JSON for who asks for that.
    On,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum LogWord {
    /// As Apache and nginx do.
    #[default]
    Combined,
    /// One object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum KindWord {
    /// Large files direct, others by snapshot.
    #[default]
    Auto,
    /// Files of tmpfs and hugetlbfs, and over a vfio: port of ext4, from their own pages, where the device can: nothing is
    /// copied, not even when loaded.
    /// Only for files that are replaced, never written to in place: a write shows in responses that are under way.
    Shared,
    /// Read through the page cache into our memory: one copy when loaded, none per request.
    Snapshot,
    /// Read past the page cache: the disk's DMA writes what the device's DMA reads.
    Direct,
}

pub(crate) fn address(text: &str) -> Result<Prefix, String> {
    let (address, bits) =
        text.split_once('/').ok_or("the length of the prefix is missing, as in 10.0.0.2/24")?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = bits.parse().ok().filter(|length| *length <= most);
    let bits =
        length.ok_or_else(|| format!("{bits:?} is no length of a prefix: give one from 0 to {most}"))?;
    Ok(Prefix { address, bits })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("a = is missing")?;
    Ok((left.to_owned(), right.to_owned()))
}

fn host(text: &str) -> Result<(String, PathBuf), String> {
    pair(text).map(|(name, folder)| (name, folder.into()))
}

fn error_page(text: &str) -> Result<(u16, PathBuf), String> {
    let (status, file) = pair(text)?;
    let status = status.parse().map_err(|_| format!("{status:?} is no status"))?;
    Ok((status, file.into()))
}
