//! The two servers as processes on CPU 0, and the tree that both serve.

use crate::run;
use dataplane::lab::Lab;
use lab::Outcome;
use lab::measured::{Running, cpu_seconds};
use std::path::PathBuf;
use std::process::Stdio;

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
        // Should the benchmark be interrupted, it is told.
        command.args(["taskset", "-c", "0", "setpriv", "--pdeathsig", "TERM"]);
        let Some((port, arguments)) = self.ringway() else {
            run(
                lab.middle(),
                &format!(
                    "ip link set lo up; ip link set rw-left arp on; ip addr add {KERNEL}/24 dev rw-left"
                ),
            )?;
            command.args(["nginx", "-c"]).arg(site.0.join("nginx.conf"));
            let running = Running::start(command, None, Stdio::inherit())?;
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
        Running::start(command, Some("\"event\":\"ready\""), Stdio::inherit())
    }
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
