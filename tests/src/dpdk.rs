//! DPDK devices of the test's own process, and sockets between them and a program under test.

use crate::Outcome;
use drivers::dpdk::{DpdkPlan, DpdkPort, DpdkQueue, arena};
use drivers::xdp::Umem;
use ringbuf::{ArenaPlan, Pool};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number that no other device or socket of this process has.
pub fn number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A path for a vhost-user socket; what is there is removed in the end.
#[derive(Debug)]
pub struct Socket(PathBuf);

impl Socket {
    /// A path where nothing is yet.
    #[must_use]
    pub fn new() -> Self {
        let name = format!("ringway-vhost-{}-{}", std::process::id(), number());
        Self(std::env::temp_dir().join(name))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until somebody listens there.
    ///
    /// # Errors
    /// When nobody does.
    pub fn wait(&self) -> Outcome<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.0.exists() {
            if Instant::now() > until {
                return Err(format!("nobody made {}", self.0.display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What a port calls the side that listens, `net_vhost`, as device of this number.
    #[must_use]
    pub fn vhost(&self, number: u32) -> String {
        format!("dpdk:net_vhost{number},iface={}", self.0.display())
    }

    /// The side that connects, and lends its memory.
    #[must_use]
    pub fn virtio_user(&self, number: u32) -> String {
        format!("dpdk:net_virtio_user{number},path={}", self.0.display())
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens a port as it is typed.
///
/// # Errors
/// As the command line has them.
pub fn port(text: &str) -> Outcome<Arc<DpdkPort>> {
    Ok(DpdkPort::open(&DpdkPlan::from_spec(&text.parse()?)?)?)
}

/// A pool in DPDK's memory, for ports that are open already: frames of 4096 bytes, and so many bytes of content.
///
/// # Errors
/// When there is too little memory.
pub fn pool(frames: u32, content_bytes: usize) -> Outcome<Pool> {
    let plan = ArenaPlan { frames, frame_size: 4096, content_bytes, huge_pages: false };
    Ok(Pool::new(arena(&plan)?))
}

/// The one queue of a port.
///
/// # Errors
/// When the device does not start.
pub fn queue<'p>(umem: &Rc<Umem<'p>>, port: &Arc<DpdkPort>) -> Outcome<DpdkQueue<'p>> {
    Ok(DpdkQueue::open(umem, port, 0)?)
}

/// Files of processes that are gone, which DPDK makes unless it is told not to. Its folder is there for a moment while a
/// process begins, and others' may just do so.
#[must_use]
pub fn traces() -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let found = traces_now();
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn traces_now() -> Vec<String> {
    let list = |folder: &str| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path().display().to_string()).collect()
    };
    // Of a process that is gone: one that lives may be somebody else's.
    let left = |path: &String| {
        let pid = path.rsplit_once("ringway-").and_then(|(_, pid)| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    ["/var/run/dpdk", "/dev/hugepages"].map(list).concat().into_iter().filter(left).collect()
}
