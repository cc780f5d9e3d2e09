//! `ringway` as a process between the two hosts: started, listened to, ended, reaped.

use crate::lab::{Lab, Side};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long it may take until its queues are open, and until its books are printed.
const LIMIT: Duration = Duration::from_secs(10);

/// It ends by itself after so many seconds, should this process be killed without a chance to end it. It also ends within a
/// second once nobody reads what it prints.
const AT_MOST: &str = "300";

/// A forwarder or server that runs. Dropped, it is killed by its pid and reaped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// What it prints: one JSON object a line.
    events: Receiver<Value>,
    complaints: Option<JoinHandle<String>>,
}

impl Process {
    /// A forwarder between the two ports of `lab`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(super) fn forwarder(
        lab: &Lab,
        program: &Path,
        driver: &str,
        stop: &AtomicBool,
    ) -> Result<Self, String> {
        let mut args = vec!["forward".to_owned()];
        for side in Side::BOTH {
            args.extend(["--port".to_owned(), format!("{driver}:{}", side.port())]);
        }
        Self::start(lab, program, &args, stop)
    }

    /// Starts `program` in the middle and waits until every queue is open.
    ///
    /// # Errors
    /// What it complained of, or that it took too long.
    pub(super) fn start(
        lab: &Lab,
        program: &Path,
        args: &[String],
        stop: &AtomicBool,
    ) -> Result<Self, String> {
        let mut command = lab.middle().command(program);
        command.args(args).args(["--format", "json", "--duration", AT_MOST]);
        // A process group of its own: Ctrl-C at the terminal is for us, and we end it in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("starting {}: {error}", program.display()))?;
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
        let mut process = Self { child, events, complaints: Some(complaints) };
        process.wait_for("ready", stop)?;
        Ok(process)
    }

    /// Ends it as Ctrl-C does, and returns its last words: books, ports, queues.
    ///
    /// # Errors
    /// When it ended otherwise, with what it complained of.
    pub(super) fn finish(mut self) -> Result<Value, String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that it is gone; the wait tells how.
            let _ = kill_process(pid, Signal::INT);
        }
        let last = self.wait_for("end", &AtomicBool::new(false))?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(last) } else { Err(self.complaint(&format!("it ended with {status}"))) }
    }

    fn wait_for(&mut self, event: &str, stop: &AtomicBool) -> Result<Value, String> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(value) if value["event"] == event => return Ok(value),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.complaint("it ended too early")),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                    return Err("told to stop".to_owned());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                    return Err(self.complaint(&format!("no word of \"{event}\" within {LIMIT:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What it printed to standard error, or `otherwise`. It is ended first, so that there is an end to read to.
    fn complaint(&mut self, otherwise: &str) -> String {
        self.end();
        let text = self.complaints.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let text = text.trim();
        let text = text.strip_prefix("ringway: ").unwrap_or(text);
        if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Errors mean that it is gone: that is what was wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
