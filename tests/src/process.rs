//! The program under test, as a process.

use crate::Outcome;
use dataplane::lab::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running `ringway` inside a namespace. Dropped while it runs, it is killed.
#[derive(Debug)]
pub struct Ringway {
    child: Child,
    printed: Arc<Printed>,
    readers: Vec<JoinHandle<()>>,
}

/// What it has printed so far, and a bell for those who wait for more.
#[derive(Debug, Default)]
struct Printed {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    stdout: String,
    stderr: String,
}

/// How a process ended and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Standard output, whole.
    pub stdout: String,
    /// Standard error, whole.
    pub stderr: String,
}

impl Ended {
    /// Standard output as one JSON value.
    ///
    /// # Errors
    /// When it is none; the sentence contains what was printed instead.
    pub fn json(&self) -> Outcome<serde_json::Value> {
        serde_json::from_str(&self.stdout).map_err(|error| {
            format!("no JSON ({error}): {:?}; stderr: {:?}", self.stdout, self.stderr).into()
        })
    }

    /// Each line of standard output as one JSON value, as live counters are printed.
    ///
    /// # Errors
    /// When a line is none.
    pub fn json_lines(&self) -> Outcome<Vec<serde_json::Value>> {
        let parse =
            |line: &str| serde_json::from_str(line).map_err(|error| format!("{error}: {line:?}").into());
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }
}

impl Ringway {
    /// Where `cargo build` put the program: beside the folder of the running test, or `RINGWAY_BIN` when that is set.
    ///
    /// # Errors
    /// When it is not built yet, or older than its source: `cargo test` builds the tests, but not the program.
    pub fn program() -> Outcome<PathBuf> {
        if let Some(path) = std::env::var_os("RINGWAY_BIN") {
            return Ok(path.into());
        }
        // target/PROFILE/deps/TEST-HASH, so the program is target/PROFILE/ringway.
        let test = std::env::current_exe()?;
        let mut folders = test.ancestors().skip(1).take(3).map(|folder| folder.join("ringway"));
        let Some(program) = folders.find(|path| path.is_file()) else {
            return Err(
                format!("no `ringway` above {}: `cargo build -p ringway` first", test.display()).into()
            );
        };
        match changed_since(&program)? {
            Some(source) => {
                Err(format!("`ringway` is older than {source}: `cargo build -p ringway` first").into())
            }
            None => Ok(program),
        }
    }

    /// Starts `ringway ARGS` inside `namespace`.
    ///
    /// # Errors
    /// When the program is not built, or cannot be started.
    pub fn start(namespace: &Namespace, args: &[&str]) -> Outcome<Self> {
        Self::start_by(namespace, &[], args)
    }

    /// Starts `WRAPPER... ringway ARGS`, where the wrapper takes limits or rights away and becomes the program.
    ///
    /// # Errors
    /// When the program is not built, or cannot be started.
    pub fn start_by(namespace: &Namespace, wrapper: &[&str], args: &[&str]) -> Outcome<Self> {
        let program = Self::program()?;
        let mut command = match wrapper {
            [] => namespace.command(program),
            [first, rest @ ..] => {
                let mut command = namespace.command(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let printed = Arc::<Printed>::default();
        let stdout = child.stdout.take().expect("asked for a pipe");
        let stderr = child.stderr.take().expect("asked for a pipe");
        let readers = vec![
            collect(stdout, Arc::clone(&printed), |lines| &mut lines.stdout),
            collect(stderr, Arc::clone(&printed), |lines| &mut lines.stderr),
        ];
        Ok(Self { child, printed, readers })
    }

    /// The pid of the program itself (`ip netns exec` becomes it).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// When the kernel does not know it.
    pub fn is_running(&mut self) -> Outcome<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until standard output or standard error contains `text`.
    ///
    /// # Errors
    /// When the program ends or `limit` passes before; the sentence contains all that was printed.
    pub fn ready(&mut self, text: &str, limit: Duration) -> Outcome<()> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait()?;
            if ended.is_some() {
                self.join_readers();
            }
            let lines = self.printed.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.stdout.contains(text) || lines.stderr.contains(text) {
                return Ok(());
            }
            let printed = format!("stdout {:?}, stderr {:?}", lines.stdout, lines.stderr);
            if let Some(status) = ended {
                return Err(format!("ended ({status}) before it said {text:?}: {printed}").into());
            }
            if Instant::now() > end {
                return Err(format!("did not say {text:?} within {limit:?}: {printed}").into());
            }
            // A short wait: the end of the process does not ring the bell.
            let waited = self.printed.more.wait_timeout(lines, Duration::from_millis(20));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Sends SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// When it has been waited for already.
    pub fn interrupt(&self) -> Outcome<()> {
        self.signal(Signal::INT)
    }

    /// Sends SIGTERM, as systemd does.
    ///
    /// # Errors
    /// When it has been waited for already.
    pub fn terminate(&self) -> Outcome<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGHUP: it opens anew what it serves.
    ///
    /// # Errors
    /// When it has been waited for already.
    pub fn hang_up(&self) -> Outcome<()> {
        self.signal(Signal::HUP)
    }

    /// Sends SIGKILL: no code of the program's own runs after that.
    ///
    /// # Errors
    /// When it has been waited for already.
    pub fn kill(&self) -> Outcome<()> {
        self.signal(Signal::KILL)
    }

    /// Waits for the end, whatever it is.
    ///
    /// # Errors
    /// When it does not end within `limit`; it is then killed, and the sentence contains all that it printed.
    pub fn wait(mut self, limit: Duration) -> Outcome<Ended> {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                self.child.kill()?;
                self.child.wait()?;
                self.join_readers();
                let lines = self.printed.lines.lock().unwrap_or_else(PoisonError::into_inner);
                return Err(format!("did not end within {limit:?}: {lines:?}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.join_readers();
        let mut lines = self.printed.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Lines { stdout, stderr } = std::mem::take(&mut *lines);
        Ok(Ended { status, stdout, stderr })
    }

    /// Starts it, waits for its end and returns that: for commands that end by themselves.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`wait`](Self::wait).
    pub fn complete(namespace: &Namespace, args: &[&str], limit: Duration) -> Outcome<Ended> {
        Self::start(namespace, args)?.wait(limit)
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("a pid of no process")?;
        Ok(kill_process(pid, signal)?)
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader that panicked has left what it read before.
            let _ = reader.join();
        }
    }
}

impl Drop for Ringway {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Errors mean that it is gone: that is what was wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.join_readers();
    }
}

/// The first source file that is newer than `program`, from the list that cargo writes beside it (`ringway.d`, in the
/// form of a Makefile: `program: file file ..`, spaces in names escaped).
fn changed_since(program: &Path) -> Outcome<Option<String>> {
    let list = std::fs::read_to_string(program.with_extension("d"))?;
    let built = program.metadata()?.modified()?;
    let names = list.split_once(": ").map_or("", |(_, names)| names).replace("\\ ", "\0");
    let newer = |name: &String| {
        Path::new(name).metadata().and_then(|file| file.modified()).is_ok_and(|at| at > built)
    };
    Ok(names.split_whitespace().map(|name| name.replace('\0', " ")).find(newer))
}

fn collect(
    pipe: impl Read + Send + 'static,
    into: Arc<Printed>,
    which: fn(&mut Lines) -> &mut String,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let mut lines = into.lines.lock().unwrap_or_else(PoisonError::into_inner);
            which(&mut lines).push_str(&String::from_utf8_lossy(&line));
            drop(lines);
            into.more.notify_all();
            line.clear();
        }
    })
}
