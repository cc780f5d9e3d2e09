//! The two servers as processes on CPU 0, and the tree that both serve.

use crate::{Outcome, run};
use dataplane::lab::Lab;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel's address at `rw-left`, where nginx listens.
const KERNEL: &str = "10.77.0.99";
/// An address that the kernel does not have.
const OURS: &str = "10.77.0.100";

/// A folder with the files, and nginx's own; gone at the end.
pub(crate) struct Site(PathBuf);

impl Site {
    pub(crate) fn new() -> Outcome<Self> {
        let site = Self(std::env::temp_dir().join(format!("ringway-serve-bench-{}", std::process::id())));
        std::fs::create_dir_all(site.www())?;
        let content = |bytes: usize| (0..251).cycle().take(bytes).collect::<Vec<u8>>();
        let files =
            [("128", 128), ("512", 512), ("900", 900), ("1k", 1 << 10), ("4k", 4 << 10), ("1m", 1 << 20)];
        for (name, bytes) in files {
            std::fs::write(site.www().join(format!("{name}.bin")), content(bytes))?;
        }
        std::fs::write(site.0.join("nginx.conf"), site.nginx_conf())?;
        Ok(site)
    }

    fn www(&self) -> PathBuf {
        self.0.join("www")
    }

    /// One worker, and what its own manual recommends for static files.
    fn nginx_conf(&self) -> String {
        let folder = self.0.display();
        format!(
            "daemon off; master_process off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
               open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;\n\
               client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
               uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
               server {{ listen {KERNEL}:80 backlog=4096; root {folder}/www; }} }}\n"
        )
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Nginx,
    Spin,
    Adaptive,
    Gather,
    Copy,
    Packet,
}

impl Server {
    pub(crate) const ALL: &'static [Self] =
        &[Self::Nginx, Self::Spin, Self::Adaptive, Self::Gather, Self::Copy, Self::Packet];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx, sendfile",
            Self::Spin => "ringway, af-xdp, spin",
            Self::Adaptive => "ringway, af-xdp, adaptive",
            Self::Gather => "ringway, af-xdp, gather all",
            Self::Copy => "ringway, af-xdp, copy all",
            Self::Packet => "ringway, packet, adaptive",
        }
    }

    pub(crate) fn address(self) -> String {
        match self {
            Self::Nginx => KERNEL.to_owned(),
            _ => format!("{OURS}:8080"),
        }
    }

    fn ringway(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Nginx => None,
            Self::Spin => Some(("af-xdp:rw-left", &["--idle", "spin"])),
            Self::Adaptive => Some(("af-xdp:rw-left", &["--idle", "adaptive"])),
            Self::Gather => Some(("af-xdp:rw-left", &["--idle", "spin", "--copy-below", "1"])),
            Self::Copy => Some(("af-xdp:rw-left", &["--idle", "spin", "--copy-below", "65536"])),
            Self::Packet => Some(("packet:rw-left", &["--idle", "adaptive"])),
        }
    }

    /// Starts it on CPU 0, in a session of its own: the scheduler shares out by session.
    pub(crate) fn start(self, lab: &Lab, site: &Site) -> Outcome<Running> {
        let mut command = lab.middle().command("setsid");
        command.args(["taskset", "-c", "0"]);
        let Some((port, arguments)) = self.ringway() else {
            run(
                lab.middle(),
                &format!(
                    "ip link set lo up; ip link set rw-left arp on; ip addr add {KERNEL}/24 dev rw-left"
                ),
            )?;
            command.args(["nginx", "-c"]).arg(site.0.join("nginx.conf"));
            let running = Running::start(command, None)?;
            let mut probe = lab.middle().command("curl");
            probe.args([
                "-sm2",
                "-o",
                "/dev/null",
                "--retry",
                "20",
                "--retry-connrefused",
                "--retry-delay",
                "1",
            ]);
            if !probe.arg(format!("http://{KERNEL}/1k.bin")).status()?.success() {
                return Err("nginx does not answer".into());
            }
            return Ok(running);
        };
        let program = std::env::current_exe()?.with_file_name("ringway");
        command.arg(program).args(["serve", "--port", port, "--address", &format!("{OURS}/24"), "--root"]);
        command.arg(site.www()).args(["--format", "json"]).args(arguments);
        Running::start(command, Some("\"event\":\"ready\""))
    }
}

/// A server at work.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    fn start(mut command: Command, ready: Option<&str>) -> Outcome<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        while let Some(ready) = ready {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(format!("ended before it was ready: {}", child.wait()?).into());
            }
            if line.contains(ready) {
                break;
            }
        }
        // Somebody must go on reading, or it stops when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Ok(Self { child })
    }

    /// CPU seconds of the process so far, user and system.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        cpu_seconds(self.child.id())
    }

    /// Ends it as its user would.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > Duration::from_secs(15) {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Busy time and all time of one CPU, in the kernel's ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    pub(crate) busy: f64,
    pub(crate) all: f64,
}

/// Of CPU 0 and CPU 1.
pub(crate) fn cpu_times() -> Outcome<Vec<CpuTime>> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let cpus = stat.lines().filter(|line| line.starts_with("cpu0 ") || line.starts_with("cpu1 "));
    Ok(cpus
        .map(|line| {
            let ticks: Vec<f64> =
                line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
            let idle = ticks.get(3).unwrap_or(&0.0) + ticks.get(4).unwrap_or(&0.0);
            let all: f64 = ticks.iter().take(8).sum();
            CpuTime { busy: all - idle, all }
        })
        .collect())
}

/// CPU seconds so far of the kernel thread that does CPU 0's network work when there is much of it. The rest of that
/// work is done, and counted, where a process sends.
pub(crate) fn kernel_seconds() -> Outcome<f64> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == "ksoftirqd/0") {
            return cpu_seconds(pid);
        }
    }
    // In a container without sight of the kernel's threads.
    Ok(0.0)
}

/// CPU seconds of a process so far, user and system.
fn cpu_seconds(pid: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}
