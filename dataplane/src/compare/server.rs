//! The servers: each started anew for each run, on the server's CPU, and ended with what it says of itself.

use super::ledger::{DeviceCopies, Witnesses};
use super::method::Way;
use super::plan::{Case, Entry};
use super::run::Trouble;
use super::site::Site;
use crate::lab::process::{Complaint, PATIENCE, Process};
use crate::lab::{Lab, LabError, Side};
use serde_json::Value;
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The kernel's address at `rw-left`, where its engines and nginx listen.
pub(super) const KERNEL: &str = "10.77.0.99:8080";
/// An address that the kernel does not have.
pub(super) const OURS: &str = "10.77.0.100:8080";

const NGINX: &str = "nginx";

/// A server that answers.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
    /// What the ready event said, of ringway.
    ready: Option<Value>,
    has_last_words: bool,
}

impl Server {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`] when its program is missing, or says that this kernel lacks what it needs; else what it complained of.
    pub(super) fn start(
        lab: &Lab,
        program: &Path,
        entry: &Entry,
        case: &Case,
        site: &Site,
        cpu: usize,
        stop: &AtomicBool,
    ) -> Result<Self, Trouble> {
        let root = site.root().display().to_string();
        let ringway = |args: &[&str]| -> Result<(Process, Value), Trouble> {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            Process::ringway(lab.middle(), program, &args, Some(cpu), stop).map_err(trouble)
        };
        match entry.method.way {
            Way::Bypass { driver } => {
                let port = format!("{driver}:{}", Side::Left.port());
                let (host, listen) = OURS.split_once(':').expect("an address and a port");
                let content = content_mib(case.size).to_string();
                let (process, ready) = ringway(&[
                    "serve",
                    "--port",
                    &port,
                    "--address",
                    &format!("{host}/24"),
                    "--listen",
                    listen,
                    "--root",
                    &root,
                    "--content",
                    &content,
                ])?;
                Ok(Self { process, ready: Some(ready), has_last_words: true })
            }
            Way::Engine => {
                let (process, ready) =
                    ringway(&["serve", "--engine", entry.method.name, "--listen", KERNEL, "--root", &root])?;
                Ok(Self { process, ready: Some(ready), has_last_words: true })
            }
            Way::Nginx { directives } => {
                let conf = site.own().join("nginx.conf");
                std::fs::write(&conf, nginx_conf(&site.own(), &site.root(), directives))
                    .map_err(|error| format!("writing {}: {error}", conf.display()))?;
                let nginx =
                    nginx(&std::env::var_os("PATH").unwrap_or_default()).map_err(Trouble::Unavailable)?;
                let mut command = lab.middle().command("setpriv");
                // Should this process be killed without a chance to end it, the kernel tells `timeout`, which hands that on.
                command
                    .args(["--pdeathsig", "TERM", "timeout", "--signal=KILL", "300"])
                    .arg(nginx)
                    .arg("-c")
                    .arg(conf);
                let mut process = Process::start(command, Some(cpu))?;
                wait_until_it_listens(lab, &mut process, stop)?;
                Ok(Self { process, ready: None, has_last_words: false })
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How the device of a bypass runs, in words; the kernel's path otherwise.
    pub(super) fn mode(&self) -> String {
        let queue = self.ready.as_ref().map(|ready| &ready["ports"][0]["queues"][0]);
        match queue.filter(|queue| queue.is_object()) {
            Some(queue) => {
                let text = |name: &str| queue[name].as_str().unwrap_or_default().to_owned();
                format!("{}: {}", text("copying"), text("mode"))
            }
            None => "the kernel's TCP over veth".to_owned(),
        }
    }

    /// Ends it, and returns what it said of itself. `served_bytes` is what its clients got from it.
    ///
    /// # Errors
    /// When it ended otherwise than it should.
    pub(super) fn finish(self, served_bytes: u64) -> Result<Witnesses, String> {
        if !self.has_last_words {
            self.process.end();
            return Ok(Witnesses { served_bytes, ..Witnesses::default() });
        }
        let last = self.process.finish().map_err(|why| format!("the server: {why}"))?;
        Ok(witnesses(&last, served_bytes))
    }
}

/// A server that did not start is a failure, unless it says that this kernel has not got what it needs.
fn trouble(complaint: Complaint) -> Trouble {
    if complaint.is_lacking() {
        Trouble::Unavailable(complaint.words)
    } else {
        Trouble::Failed(format!("the server did not start: {}", complaint.words))
    }
}

/// Room for all files of a case, and for those that are on their way.
fn content_mib(size: u64) -> u64 {
    (size / (1 << 20) * 2).max(256)
}

/// Where nginx is.
///
/// # Errors
/// That it is not installed.
fn nginx(path: &OsStr) -> Result<PathBuf, String> {
    // A user's PATH often lacks the folders of root's commands.
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(path).chain(usual).map(|folder| folder.join(NGINX));
    places.find(|place| place.is_file()).ok_or_else(|| {
        format!("{NGINX} is not installed (sudo apt-get install nginx-light), nor is it in PATH")
    })
}

/// Gives the kernel its address at the port: it answers ARP there from now on.
pub(super) fn give_the_kernel_an_address(lab: &Lab) -> Result<(), LabError> {
    let (host, _) = KERNEL.split_once(':').expect("an address and a port");
    let port = Side::Left.port();
    let middle = lab.middle();
    lab.run_in(middle, "ip link set lo up")?;
    lab.run_in(middle, &format!("ip link set {port} arp on"))?;
    lab.run_in(middle, &format!("ip addr add {host}/24 dev {port}"))
}

/// One worker, and what its manual recommends for static files.
fn nginx_conf(own: &Path, root: &Path, directives: &str) -> String {
    let (own, root) = (own.display(), root.display());
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {own}/{kind};"))
        .join(" ");
    format!(
        "daemon off; master_process off; user root; worker_processes 1; pid {own}/nginx.pid; error_log {own}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; {directives} keepalive_requests 1000000000; {temp}\n\
           server {{ listen {KERNEL} backlog=4096; root {root}; }} }}\n"
    )
}

fn wait_until_it_listens(lab: &Lab, process: &mut Process, stop: &AtomicBool) -> Result<(), String> {
    let server: SocketAddr = KERNEL.parse().expect("an address and a port");
    let end = Instant::now() + PATIENCE;
    let connects = || TcpStream::connect_timeout(&server, Duration::from_millis(200)).is_ok();
    loop {
        process.check()?;
        if lab.host(Side::Left).run(connects).map_err(|error| error.to_string())? {
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            return Err("told to stop".to_owned());
        }
        if Instant::now() > end {
            return Err(format!("it does not listen after {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// From the last event of `ringway serve`.
fn witnesses(last: &Value, served_bytes: u64) -> Witnesses {
    let serve = |name: &str| last["serve"][name].as_u64().unwrap_or(0);
    let ports = last["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let queues = || ports.iter().flat_map(|port| port["queues"].as_array().into_iter().flatten());
    let sum = |name: &str| queues().filter_map(|queue| queue[name].as_u64()).sum::<u64>();
    let device = queues().next().and_then(|queue| DeviceCopies::named(queue["copying"].as_str()?));
    let into_a_ring = if device == Some(DeviceCopies::RingCopy) { sum("transmitted_bytes") } else { 0 };
    Witnesses {
        served_bytes,
        copied_bytes: serve("copied_bytes") + sum("flattened_bytes") + into_a_ring,
        direct_read_bytes: serve("direct_read_bytes"),
        zerocopy_sends: serve("zerocopy_sends"),
        zerocopy_done: serve("zerocopy_done"),
        fallback_bytes: serve("fallback_bytes"),
        zerocopy_copied: serve("zerocopy_copied"),
        device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_method_whose_program_is_missing_says_how_to_get_it() {
        let folder = std::env::temp_dir().join(format!("ringway-nginx-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(NGINX), "").expect("room");
        assert_eq!(nginx(folder.as_os_str()), Ok(folder.join(NGINX)));
        std::fs::remove_dir_all(&folder).expect("ours");
        match nginx(folder.as_os_str()) {
            Ok(found) => assert!(found.starts_with("/usr/sbin") || found.starts_with("/sbin")),
            Err(why) => assert!(why.contains("apt-get install nginx"), "{why}"),
        }
    }

    #[test]
    fn only_what_the_kernel_lacks_is_unavailable() {
        let complaint = |code| Complaint { words: "no".to_owned(), code };
        assert_eq!(trouble(complaint(Some(69))), Trouble::Unavailable("no".to_owned()));
        for code in [None, Some(1), Some(2), Some(101)] {
            assert!(
                matches!(trouble(complaint(code)), Trouble::Failed(why) if why.ends_with("no")),
                "{code:?}"
            );
        }
    }

    #[test]
    fn last_words_of_a_bypass_become_witnesses() {
        let queue = |copying| {
            json!({"serve": {"copied_bytes": 10}, "ports": [{"queues": [
                {"copying": copying, "flattened_bytes": 5, "transmitted_bytes": 100},
                {"copying": copying, "flattened_bytes": 6, "transmitted_bytes": 200},
            ]}]})
        };
        let copy = witnesses(&queue("copy"), 99);
        assert_eq!((copy.copied_bytes, copy.device, copy.served_bytes), (21, Some(DeviceCopies::Copy), 99));
        // The packet driver copies each frame into its ring.
        assert_eq!(witnesses(&queue("ring-copy"), 99).copied_bytes, 321);
        let engine = json!({"serve": {"zerocopy_sends": 4, "zerocopy_copied": 3, "fallback_bytes": 9, "direct_read_bytes": 7}});
        let engine = witnesses(&engine, 1);
        assert_eq!((engine.zerocopy_sends, engine.zerocopy_copied, engine.direct_read_bytes), (4, 3, 7));
        assert_eq!((engine.device, engine.fallback_bytes), (None, 9));
    }
}
