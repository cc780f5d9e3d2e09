//! Programs as processes in a laboratory: started, perhaps on one CPU, listened to, ended, reaped.

use super::Namespace;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long it may take until a program is ready, and until its last words.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Ringway ends by itself after so many seconds, should this process be killed without a chance to end it. It also ends within a
/// second once nobody reads what it prints.
const AT_MOST: &str = "300";

/// Where a `ringway` that we start is told whose child it is.
const PARENT: &str = "RINGWAY_DIES_WITH";

/// In a `ringway` that another one has started: asks the kernel to kill us as soon as that one is gone, also when it was
/// killed and could end nothing. To be called first.
///
/// # Errors
/// That it is gone already.
pub fn end_with_parent() -> Result<(), String> {
    let told = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let Some(parent) = told else { return Ok(()) };
    // Where that is refused (seccomp), its --duration ends it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(format!("process {parent}, which started this one, is gone"))
    }
}

/// The exit code of `ringway serve` where the kernel lacks what was asked for (`EX_UNAVAILABLE` of `sysexits.h`).
pub const LACKING: u8 = 69;

/// Why `ringway` did not become ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Complaint {
    /// What it complained of.
    pub words: String,
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
}

impl Complaint {
    /// Whether it said that the kernel lacks what it was asked for.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        self.code == Some(LACKING.into())
    }
}

impl From<Complaint> for String {
    fn from(complaint: Complaint) -> Self {
        complaint.words
    }
}

/// A program that runs. Dropped, it is killed by its pid and reaped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it prints: one JSON object a line; other lines are nobody's.
    events: Receiver<Value>,
    complaints: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts `ringway` (`program`) inside `namespace`, on one CPU if there is a wish, and waits until it is ready; returns that
    /// event too.
    ///
    /// # Errors
    /// What it complained of, with its exit code, or that it took too long.
    pub fn ringway(
        namespace: &Namespace,
        program: &Path,
        args: &[String],
        cpu: Option<usize>,
        stop: &AtomicBool,
    ) -> Result<(Self, Value), Complaint> {
        let mut command = namespace.command(program);
        command.args(args).args(["--format", "json", "--duration", AT_MOST]);
        let mut process = Self::start(command, cpu).map_err(|words| Complaint { words, code: None })?;
        match process.wait_for("ready", PATIENCE, stop) {
            Ok(ready) => Ok((process, ready)),
            Err(words) => {
                let status = process.child.try_wait().ok().flatten();
                Err(Complaint { words, code: status.and_then(|status| status.code()) })
            }
        }
    }

    /// Starts any program. The calling thread must live as long as it: the kernel takes the end of the *thread* that has
    /// started it for that of its parent ([`end_with_parent`], `setpriv --pdeathsig`).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, cpu: Option<usize>) -> Result<Self, String> {
        command.env(PARENT, std::process::id().to_string());
        // A process group of its own: Ctrl-C at the terminal is for us, and we end it in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = match cpu {
            Some(cpu) => spawn_on(&mut command, cpu),
            None => command.spawn(),
        };
        let program = || command.get_program().to_string_lossy().into_owned();
        let mut child = spawned.map_err(|error| format!("starting {}: {error}", program()))?;
        let (sender, events) = channel();
        let stdout = child.stdout.take().expect("asked for a pipe");
        let mut stderr = child.stderr.take().expect("asked for a pipe");
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for event in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            // Whatever could be read before an error is what there is to say.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Ok(Self { child, events, complaints: Some(complaints) })
    }

    /// Its pid, which is also that of the program itself: `ip netns exec` becomes it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as Ctrl-C does, and returns its last words: books, ports, queues.
    ///
    /// # Errors
    /// When it ended otherwise, with what it complained of.
    pub fn finish(self) -> Result<Value, String> {
        self.interrupt();
        self.last_words(PATIENCE, &AtomicBool::new(false))
    }

    /// Waits for its `end`, and until it is gone.
    ///
    /// # Errors
    /// When it ended otherwise, with what it complained of, or took too long.
    pub fn last_words(mut self, limit: Duration, stop: &AtomicBool) -> Result<Value, String> {
        let last = self.wait_for("end", limit, stop)?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(last) } else { Err(self.complaint(&format!("it ended with {status}"))) }
    }

    /// Ends a program that has no last words; kills it when it takes too long.
    pub fn end(mut self) {
        self.interrupt();
        let end = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it runs; otherwise what it complained of.
    ///
    /// # Errors
    /// That it has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.complaint(&format!("it ended with {status}"))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until it has printed `event`.
    ///
    /// # Errors
    /// What it complained of, that it took too long, or that this process is told to stop.
    pub fn wait_for(&mut self, event: &str, limit: Duration, stop: &AtomicBool) -> Result<Value, String> {
        let end = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(value) if value["event"] == event => return Ok(value),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.child.wait().map_or(String::new(), |status| format!(" ({status})"));
                    return Err(self.complaint(&format!("it ended too early{ended}")));
                }
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                    return Err("told to stop".to_owned());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    return Err(self.complaint(&format!("no word of \"{event}\" within {limit:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// As Ctrl-C does.
    fn interrupt(&self) {
        // An error means that it is gone; the wait tells how.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
    }

    /// What it printed to standard error, or `otherwise`. It is ended first, so that there is an end to read to.
    fn complaint(&mut self, otherwise: &str) -> String {
        self.kill();
        let text = self.complaints.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        // What follows an empty line is how a command line is to be used.
        let text = text.trim().split("\n\n").next().unwrap_or_default();
        let text = text.strip_prefix("ringway: ").or_else(|| text.strip_prefix("error: ")).unwrap_or(text);
        if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
    }

    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Errors mean that it is gone: that is what was wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child inherits the CPUs of the thread that starts it: so this one goes there for a moment. (Not another thread: with the
/// end of that the child would be killed.)
fn spawn_on(command: &mut Command, cpu: usize) -> io::Result<Child> {
    let before = sched_getaffinity(None)?;
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    let spawned = command.spawn();
    if let Err(error) = sched_setaffinity(None, &before) {
        tracing::warn!("back to all CPUs: {error}");
    }
    spawned
}
